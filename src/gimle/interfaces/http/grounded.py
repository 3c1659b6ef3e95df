"""A chat that names a collection: OpenAI's shapes around an answer from the documents, with its citations."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from gimle.foundation import ids
from gimle.foundation.errors import InvalidRequest
from gimle.knowledge.answer import AnsweredBy, AnswerEvent, ClaimReady, Done
from gimle.knowledge.types import Answer, Turn

Tree = dict[str, Any]


class Part(msgspec.Struct, frozen=True):
    """One part of a message; only text can be answered from documents."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """As much of a message as we read ourselves."""

    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """The message's words."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream should tell besides its content."""

    include_usage: bool | None = None


def question_of(messages: Sequence[ChatMessage]) -> tuple[str, list[Turn]]:
    """The question, which is the last message, and the turns before it. Raises `InvalidRequest` if nobody asks."""
    last = messages[-1]
    if last.role != "user" or not last.text.strip():
        raise InvalidRequest(
            "With `gimle.collection` the last message is the question: it needs the role user, and text.",
            field=f"messages[{len(messages) - 1}]",
            hint='End `messages` with {"role": "user", "content": "…"}.',
        )
    turns = [Turn("user" if each.role == "user" else "assistant", each.text) for each in messages[:-1] if _spoken(each)]
    return last.text, turns


def _spoken(message: ChatMessage) -> bool:
    return message.role in ("user", "assistant") and bool(message.text)


async def last(events: AsyncGenerator[AnswerEvent, None]) -> Answer:
    """The whole answer, which is what the last event brings."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Done):
                return event.answer
    raise AssertionError("An answer always ends with Done.")


def completion(answer: Answer) -> bytes:
    """The answer as a whole chat completion."""
    message = {"role": "assistant", "content": answer.text, "refusal": None, "gimle": ours(answer)}
    return msgspec.json.encode(
        {
            "id": ids.new("chatcmpl"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": answer.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _usage(answer),
        }
    )


async def answered_by(events: AsyncGenerator[AnswerEvent, None]) -> AnsweredBy:
    """Who answers. After this event come the claims, for `chunks`."""
    async for event in events:
        if isinstance(event, AnsweredBy):
            return event
    raise AssertionError("An answer always says whose it is.")


async def chunks(
    events: AsyncGenerator[AnswerEvent, None], model: str, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answer as OpenAI's stream. The last chunk with content carries `delta.gimle.citations`."""
    frame: Tree = {
        "id": ids.new("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }
    if include_usage:
        frame["usage"] = None
    said = held = ""
    async for event in events:
        match event:
            case ClaimReady(text=text):
                # One claim is held back, because the last one has to carry the citations.
                if held:
                    yield _chunk(frame, {"role": "assistant", "content": held})
                said, held = said + held, text
            case Done(answer=answer):
                last = answer.text.removeprefix(said) if answer.text.startswith(said) else held
                yield _chunk(frame, {"role": "assistant", "content": last, "gimle": ours(answer)})
                yield _chunk(frame, {}, finish_reason="stop")
                if include_usage:
                    yield _data({**frame, "choices": [], "usage": _usage(answer)})
                yield b"data: [DONE]\n\n"


def _chunk(frame: Tree, delta: Tree, finish_reason: str | None = None) -> bytes:
    return _data({**frame, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]})


def _data(tree: Tree) -> bytes:
    return b"data: " + msgspec.json.encode(tree) + b"\n\n"


def ours(answer: Answer) -> Tree:
    """What Gimle tells beside the words of an answer."""
    return {"citations": answer.citations, "answered": answer.answered, "notice": answer.notice}


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.usage.prompt, answer.usage.completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
