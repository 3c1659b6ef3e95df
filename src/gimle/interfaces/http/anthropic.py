"""Anthropic's surface: messages, and how many tokens they are."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from gimle.foundation import ids
from gimle.interfaces.http import grounded
from gimle.interfaces.http.attached import attached
from gimle.interfaces.http.exchange import Exchange
from gimle.interfaces.http.grounded import Tree
from gimle.interfaces.http.surface import Route, Shape, Surface
from gimle.knowledge.answer import AnswerEvent, ClaimReady, Done
from gimle.knowledge.types import Answer
from gimle.selection.types import Model
from gimle.trust.types import Principal

# The vendor's word for a moment that is not known.
_EPOCH = "1970-01-01T00:00:00Z"


class Messages(Surface):
    """Messages, from a model or from the documents of a collection."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (
            Route("POST", "/v1/messages", self.create),
            Route("POST", "/v1/messages/count_tokens", self.count),
        )

    async def create(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Answer a conversation."""
        call, ours = await self.call(exchange, "anthropic")
        exchange.attend()
        if ours.collection is None:
            await self.relay(exchange, principal, call)
        else:
            await self.answer(exchange, principal, call, ours, Shape(message, events))

    async def count(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """How many tokens a request has: by the vendor's own count where its model is asked for, else by ours."""
        call, _ours = await self.call(exchange, "anthropic")
        exchange.attend()
        tokens = await self.gateway.count_call(principal, await attached(self.files, principal, call))
        await exchange.reply(200, msgspec.json.encode({"input_tokens": tokens}))


# -- answers from the documents


def message(answer: Answer) -> bytes:
    """The answer as a whole message; `gimle` in it has the citations."""
    content = [{"type": "text", "text": answer.text}]
    end = {"stop_reason": "end_turn", "stop_sequence": None, "gimle": grounded.ours(answer)}
    return msgspec.json.encode({**_opening(answer.model), "content": content, **end, "usage": _usage(answer)})


async def events(told: AsyncGenerator[AnswerEvent, None], model: str) -> AsyncGenerator[bytes, None]:
    """The answer as Anthropic's stream. The citations stand where the message ends, in `delta.gimle`."""
    block = {"type": "text", "text": ""}
    yield _event("message_start", message=_opening(model))
    yield _event("content_block_start", index=0, content_block=block)
    said = ""
    async with aclosing(told):
        async for event in told:
            match event:
                case ClaimReady(text=text):
                    said += text
                    yield _delta(text)
                case Done(answer=answer):
                    # A claim that did not hold was said already, so nothing is taken back here.
                    if answer.text.startswith(said) and answer.text != said:
                        yield _delta(answer.text.removeprefix(said))
                    yield _event("content_block_stop", index=0)
                    end = {"stop_reason": "end_turn", "stop_sequence": None, "gimle": grounded.ours(answer)}
                    yield _event("message_delta", delta=end, usage=_usage(answer))
                    yield _event("message_stop")


def _opening(model: str) -> Tree:
    usage = {"input_tokens": 0, "output_tokens": 0}
    shell: Tree = {"id": ids.new("msg"), "type": "message", "role": "assistant", "model": model, "content": []}
    return {**shell, "stop_reason": None, "stop_sequence": None, "usage": usage}


def _delta(text: str) -> bytes:
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def _event(type_: str, **said: object) -> bytes:
    return b"event: " + type_.encode() + b"\ndata: " + msgspec.json.encode({"type": type_, **said}) + b"\n\n"


def _usage(answer: Answer) -> dict[str, int]:
    return {"input_tokens": answer.usage.prompt, "output_tokens": answer.usage.completion}


# -- models


def models(listed: Sequence[Model]) -> bytes:
    """The models, all on one page."""
    data = [as_anthropic(model) for model in listed]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return msgspec.json.encode({"data": data, "has_more": False, **ends})


def as_anthropic(model: Model) -> dict[str, str | int]:
    """A model as Anthropic lists them."""
    known: dict[str, str | int] = {"type": "model", "id": model.id, "display_name": model.id, "created_at": _EPOCH}
    known |= {"lifecycle": "active", "max_input_tokens": model.context_window}
    return known if model.max_output is None else {**known, "max_tokens": model.max_output}
