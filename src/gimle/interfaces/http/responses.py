"""OpenAI's responses: answers that Gimle keeps itself, so that a conversation may go on with any provider.

A provider is sent the whole conversation each time, and asked to keep nothing.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gimle.app import App
from gimle.foundation import ids
from gimle.foundation.errors import GimleError, InvalidRequest
from gimle.gateway import recording
from gimle.gateway.recording import Recording
from gimle.gateway.responses import Kept
from gimle.gateway.types import ChatCall, ChatReply, ChatStream
from gimle.interfaces.http import problems
from gimle.interfaces.http.attached import attached
from gimle.interfaces.http.exchange import EVENT_STREAM, JSON, Exchange, Headers
from gimle.interfaces.http.surface import Fields, Route, Surface, dropped, field, remark, served, unheeded
from gimle.trust.types import Principal

DIALECT = "responses"
_PATH = "/v1/responses"
_ONE = _PATH + "/{response_id}"

_TEXT = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)
_NAMES = msgspec.json.Decoder(list[str] | None)
_NO = msgspec.Raw(b"false")
_NOTHING = (b"false", b"null", b"{}")
_SEALED = "reasoning.encrypted_content"
# What a response repeats of its request. A provider of this dialect does so itself.
_REPEATED = (
    *("instructions", "metadata", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "temperature"),
    *("top_p", "top_logprobs", "text", "reasoning", "truncation", "user", "safety_identifier", "prompt_cache_key"),
)
_LONGEST_PAGE = 100


class Asked(msgspec.Struct, frozen=True):
    """A request for a response that is about to be served."""

    id: str
    tenant: str
    previous: str | None
    items: bytes
    store: bool
    repeated: Mapping[str, Any]


class Answers(Surface):
    """Responses."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self._kept = app.responses

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (
            Route("POST", _PATH, self.create),
            Route("GET", _ONE, self.show),
            Route("DELETE", _ONE, self.delete),
            Route("GET", _ONE + "/input_items", self.input_items),
            Route("POST", _ONE + "/cancel", self.cancel),
        )

    async def create(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Answer, on top of an earlier response where one is named."""
        call, ours = await self.call(exchange, DIALECT)
        if ours.collection is not None:
            raise InvalidRequest(
                "Responses come from a model, not from documents.",
                field="gimle.collection",
                hint="POST /v1/chat/completions answers from a collection.",
            )
        exchange.attend()
        asked, call = await self._prepared(principal, call)
        reply = await self.gateway.chat(principal, await attached(self.files, principal, call))
        hints = unheeded(call.cache, reply.told) + reply.dropped
        headers = served(exchange, reply) + dropped(hints)
        recorded = Recording(self._patch(principal, asked, reply.provider))
        if isinstance(reply, ChatStream):
            await self._stream(exchange, reply, [EVENT_STREAM, *headers], asked, recorded)
        else:
            await self._whole(exchange, reply, [JSON, *headers], asked, recorded)

    async def show(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """A response that was kept."""
        if _query(exchange).get("stream", "false").lower() == "true":
            raise InvalidRequest("A kept response does not stream.", field="stream", hint="Leave `stream` out.")
        kept = await self._kept.find(principal.tenant, id_)
        await exchange.reply(200, kept.reply)

    async def delete(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """Forget a response."""
        await self._kept.delete(principal.tenant, id_)
        await exchange.reply(200, msgspec.json.encode({"id": id_, "object": "response", "deleted": True}))

    async def cancel(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """Only what runs in the background can be cancelled, and nothing does."""
        await self._kept.find(principal.tenant, id_)
        raise InvalidRequest(
            f"The response {id_} does not run in the background, so it can't be cancelled.", field="response_id"
        )

    async def input_items(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """A page of the items from which a response was made, the last first."""
        await self._kept.find(principal.tenant, id_)
        *before, last = await self._kept.lineage(principal.tenant, id_)
        items = [item for kept in before for item in [*_own_items(kept), *recording.output_of(kept.reply)]]
        page = _page(recording.listed([*items, *_own_items(last)], id_), _query(exchange))
        await exchange.reply(200, msgspec.json.encode(page))

    # -- before the call

    async def _prepared(self, principal: Principal, call: ChatCall) -> tuple[Asked, ChatCall]:
        """The request as a provider gets it, and what is kept of it. Raises `PreviousResponseNotFound`."""
        body = dict(call.body)
        for name, reason in _NOT_SERVED.items():
            if bytes(body.pop(name, _NO)) not in _NOTHING:
                raise InvalidRequest(reason, field=name)
        previous = field(body, "previous_response_id", _TEXT)
        items = _items(body)
        if previous is not None:
            del body["previous_response_id"]
            earlier = await self._earlier(principal, previous)
            body["input"] = msgspec.Raw(msgspec.json.encode([*earlier, *items]))
        store = field(body, "store", _FLAG)
        body["store"] = _NO
        _seal(body)
        asked = Asked(
            id=ids.new("resp"),
            tenant=principal.tenant,
            previous=previous,
            items=msgspec.json.encode(items),
            store=store is not False,
            repeated={name: call.body[name] for name in _REPEATED if name in call.body},
        )
        return asked, msgspec.structs.replace(call, body=body)

    async def _earlier(self, principal: Principal, previous: str) -> list[Any]:
        """All that was said before, as items."""
        said: list[Any] = []
        for kept in await self._kept.chain(principal.tenant, previous):
            said += recording.items_of(msgspec.Raw(kept.items))
            output = (recording.again(item, kept.provider) for item in recording.output_of(kept.reply))
            said += [item for item in output if item is not None]
        return said

    def _patch(self, principal: Principal, asked: Asked, provider: str) -> dict[str, Any]:
        """Where what the caller sees differs from what the provider says."""
        same = any(
            one.name == provider and one.dialect == DIALECT for one in self.gateway.catalog.list(principal.tenant)
        )
        patch = {"id": asked.id, "previous_response_id": asked.previous, "store": asked.store}
        return patch if same else {**asked.repeated, **patch}

    # -- the answer

    async def _whole(
        self, exchange: Exchange, reply: ChatReply, headers: Headers, asked: Asked, recorded: Recording
    ) -> None:
        if reply.status != 200:
            # The provider's own words about the caller's fault.
            await exchange.reply(reply.status, reply.body, headers)
            return
        body = recorded.whole(reply.body)
        self._keep(asked, reply.provider, body)
        await exchange.reply(200, body, headers)

    async def _stream(
        self, exchange: Exchange, reply: ChatStream, headers: Headers, asked: Asked, recorded: Recording
    ) -> None:
        """The events as they come. What has come is kept when the stream ends, however that is."""
        left: bytes | None = None
        kept = False
        try:
            await exchange.begin(200, headers)
            if said := remark(reply.notice):
                await exchange.write(said)
            async for piece in reply:
                told = recorded.feed(piece)
                if recorded.reply is not None and not kept:
                    # Before the caller has its end, so that nobody who builds on it comes too early.
                    self._keep(asked, reply.provider, recorded.reply)
                    kept = True
                await exchange.write(told)
            await exchange.write(b"", more=False)
        except GimleError as error:
            failed = problems.as_openai(problems.of_error(error))
            left = recorded.stopped("failed", {"code": "server_error", "message": failed["message"]})
            await exchange.write(recorded.failure(failed), more=False)
        finally:
            if recorded.begun and not kept:
                self._keep(asked, reply.provider, left or recorded.stopped("cancelled"))
            await reply.close()

    def _keep(self, asked: Asked, provider: str, reply: bytes) -> None:
        if asked.store:
            self._kept.keep(
                asked.tenant, Kept(asked.id, asked.previous, provider=provider, items=asked.items, reply=reply)
            )


_NOT_SERVED = {
    "background": "Responses are not made in the background here.",
    "conversation": "Conversations are not kept here: build on a response by `previous_response_id`.",
}


def _items(body: Fields) -> list[msgspec.Raw]:
    try:
        return recording.items_of(body.get("input"))
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("`input` is a text or a list of items.", field="input") from None


def _seal(body: Fields) -> None:
    """Ask for thoughts in a form in which they can be sent again, where the request is for thoughts."""
    if bytes(body.get("reasoning", _NO)) not in _NOTHING:
        include = field(body, "include", _NAMES) or []
        if _SEALED not in include:
            body["include"] = msgspec.Raw(msgspec.json.encode([*include, _SEALED]))


def _own_items(kept: Kept) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = msgspec.json.decode(kept.items)
    return items


def _query(exchange: Exchange) -> dict[str, str]:
    query = parse_qs(exchange.head.target.partition(b"?")[2].decode("latin-1"))
    return {name: values[-1] for name, values in query.items()}


def _page(items: list[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """A page of a list, as OpenAI pages. Raises `InvalidRequest` for what is no page."""
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= _LONGEST_PAGE:
        raise InvalidRequest(f"`limit` is 1 to {_LONGEST_PAGE}.", field="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("`order` is asc or desc.", field="order")
    ordered = items if order == "asc" else items[::-1]
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise InvalidRequest("There is no such item to go on after.", field="after")
        start = places[0] + 1
    data = ordered[start : start + int(limit)]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = start + len(data) < len(ordered)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}
