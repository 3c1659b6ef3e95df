"""What all surfaces under `/v1` share: routes, the fields that are Gimle's own, a chat's way through the gateway.

Only what Gimle itself needs of a request is decoded and checked here; every other byte goes to the gateway as it came.
"""

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec

from gimle.app import App
from gimle.foundation import telemetry
from gimle.foundation.errors import CollectionNotFound, InvalidRequest
from gimle.gateway.cache_keys import ALL, Control, control
from gimle.gateway.notices import Notice
from gimle.gateway.queueing import PRIORITIES
from gimle.gateway.types import ChatCall, ChatReply, ChatStream, Embedded, Purpose, Reranked
from gimle.interfaces.http import grounded, problems
from gimle.interfaces.http.attached import attached
from gimle.interfaces.http.exchange import EVENT_STREAM, JSON, Exchange, Headers, decode_utf8
from gimle.knowledge.answer import AnswerEvent, How
from gimle.knowledge.types import DEFAULT_COLLECTION, Answer
from gimle.selection.policies import POLICIES
from gimle.selection.registry import AUTO
from gimle.trust.types import Principal

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]
# The last argument is what the path holds at its `{…}`, "" where it has none.
Handler = Callable[[Exchange, Principal, str], Awaitable[None]]


class Route(msgspec.Struct, frozen=True):
    """A path and the method that it takes. A `{name}` in it stands for anything, slashes included."""

    method: str
    path: str
    answer: Handler


class GimleFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The object `gimle` of a request: our own fields, which no provider sees."""

    collection: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    case: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    workflow: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    priority: str | None = None
    policy: str | None = None
    explain: bool | None = None
    cache: bool | str | None = None


class Shape(msgspec.Struct, frozen=True):
    """How a dialect says an answer from the documents: whole, or piece by piece for the model that answers."""

    whole: Callable[[Answer], bytes]
    pieces: Callable[[AsyncGenerator[AnswerEvent, None], str], AsyncGenerator[bytes, None]]


_NOTHING = GimleFields()
_PURPOSES = (b"x-gimle-case", b"x-gimle-workflow", b"x-gimle-priority", b"x-gimle-policy", b"accept-language")
_MOST_NAMES = 20
_FIELDS = msgspec.json.Decoder(Fields)
_TEXT = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)
_OURS = msgspec.json.Decoder(GimleFields | None)
_MESSAGES = msgspec.json.Decoder(Annotated[list[grounded.ChatMessage], msgspec.Meta(min_length=1)])
_NULL = msgspec.Raw(b"null")
# Of the caller's headers, the one which a provider of the same dialect understands.
_PASSED_ON = b"anthropic-beta"


class Surface:
    """A part of `/v1`, with what it works with."""

    def __init__(self, app: App) -> None:
        self.gateway = app.gateway
        self.answers = app.answers
        self.files = app.files
        self.default_model = app.settings.gateway.default_model

    async def call(self, exchange: Exchange, dialect: str) -> tuple[ChatCall, GimleFields]:
        """A chat request of a dialect, and our own fields, which are no longer in it. Raises `InvalidRequest`."""
        fields: Fields = decoded(await exchange.body(), _FIELDS)
        ours = _NOTHING
        if "gimle" in fields:
            ours = field(fields, "gimle", _OURS) or _NOTHING
            del fields["gimle"]
        call = ChatCall(
            body=fields,
            model=field(fields, "model", _TEXT) or self.default_model,
            stream="stream" in fields and bool(field(fields, "stream", _FLAG)),
            dialect=dialect,
            headers=_passed_on(exchange),
            purpose=purpose(exchange, ours, fields.get("user")),
            cache=_cache(exchange, ours),
        )
        return call, ours

    async def relay(self, exchange: Exchange, principal: Principal, call: ChatCall) -> None:
        """Through the gateway to a model, and the answer back. Ends with the caller: who leaves ends the work."""
        reply = await self.gateway.chat(principal, await attached(self.files, principal, call))
        hints = unheeded(call.cache, reply.told) + reply.dropped
        headers = served(exchange, reply) + dropped(hints)
        if isinstance(reply, ChatReply):
            await exchange.reply(reply.status, reply.body, [JSON, *headers])
        else:
            await relayed(exchange, reply, [EVENT_STREAM, *headers])

    async def answer(
        self, exchange: Exchange, principal: Principal, call: ChatCall, ours: GimleFields, shape: Shape
    ) -> None:
        """From the documents of a collection."""
        messages = field(call.body, "messages", _MESSAGES)
        question, history = grounded.question_of(messages)
        collection = ours.collection or DEFAULT_COLLECTION
        model = None if call.model == self.default_model else call.model
        if model is None and call.purpose.policy:
            model = f"{AUTO}:{call.purpose.policy}"
        how = How(top_k=ours.top_k, model=model, history=history, purpose=call.purpose)
        events = self.answers.stream(principal, collection, question, how)
        try:
            async with aclosing(events):
                by = await grounded.answered_by(events)
                headers = [
                    *provenance(by.model, by.provider),
                    *told(by.told, by.notice),
                    *dropped(unheeded(call.cache, explain=ours.explain)),
                ]
                if call.stream:
                    await exchange.begin(200, [EVENT_STREAM, *headers])
                    if said := remark(by.notice):
                        await exchange.write(said)
                    async for piece in shape.pieces(events, by.model):
                        await exchange.write(piece)
                    await exchange.write(b"", more=False)
                else:
                    answer = await grounded.last(events)
                    await exchange.reply(200, shape.whole(answer), [JSON, *headers])
        except InvalidRequest as wrong:
            if wrong.field == "question":
                wrong.field = f"messages[{len(messages) - 1}]"
            raise
        except CollectionNotFound as unknown:
            unknown.field = "gimle.collection"
            raise


def purpose(exchange: Exchange, ours: GimleFields = _NOTHING, user: msgspec.Raw | None = None) -> Purpose:
    """For whom and what a call is made: by our own fields, else by the headers. Raises `InvalidRequest`."""
    headers = exchange.headers
    if ours is _NOTHING and user is None and headers.keys().isdisjoint(_PURPOSES):
        return Purpose(request=exchange.request_id, started=exchange.started)
    priority = _said(ours.priority, headers, b"x-gimle-priority")
    policy = _said(ours.policy, headers, b"x-gimle-policy")
    if priority and priority not in PRIORITIES:
        known = ", ".join(PRIORITIES)
        raise InvalidRequest(
            f"There is no priority {priority[:64]!r}.", field="gimle.priority", hint=f"Known: {known}."
        )
    if policy and policy not in POLICIES:
        known = ", ".join(POLICIES)
        raise InvalidRequest(f"There is no policy {policy[:64]!r}.", field="gimle.policy", hint=f"Known: {known}.")
    return Purpose(
        user=_user(user),
        case=_said(ours.case, headers, b"x-gimle-case"),
        workflow=_said(ours.workflow, headers, b"x-gimle-workflow"),
        priority=priority or "default",
        language="de" if headers.get(b"accept-language", b"").startswith(b"de") else "en",
        request=exchange.request_id,
        started=exchange.started,
        policy=policy,
        explain=bool(ours.explain),
    )


def _cache(exchange: Exchange, ours: GimleFields) -> Control:
    """What the caller says of kept answers. Raises `InvalidRequest`."""
    header = exchange.headers.get(b"cache-control")
    if header is None and ours.cache is None:
        return ALL
    return control((header or b"").decode("latin-1"), ours.cache)


def _said(field: str | None, headers: Mapping[bytes, bytes], name: bytes) -> str:
    if field is not None:
        return field
    given = headers.get(name, b"")
    try:
        return given.decode()
    except UnicodeDecodeError:
        return given.decode("latin-1")


def _user(given: msgspec.Raw | None) -> str:
    # What is no text is the provider's to refuse.
    said = None if given is None else msgspec.json.decode(given)
    return said if isinstance(said, str) else ""


def _passed_on(exchange: Exchange) -> tuple[tuple[str, str], ...]:
    if _PASSED_ON not in exchange.headers:
        return ()
    values = b",".join(value for name, value in exchange.head.headers if name == _PASSED_ON)
    return ((_PASSED_ON.decode(), plain(values).decode()),)


async def relayed(exchange: Exchange, reply: ChatStream, headers: Headers) -> None:
    """The events as they come. Closing the stream ends the upstream's work too, whoever has had enough."""
    if reply.straight is not None:
        reply.straight(exchange.push)
    try:
        await exchange.begin(200, headers)
        if said := remark(reply.notice):
            await exchange.write(said)
        async for piece in reply:
            await exchange.write(piece)
        await exchange.write(b"", more=False)
    finally:
        await reply.close()


def decoded(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as far as we read it. Raises `InvalidRequest` that names the field."""
    decode_utf8(body)
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as wrong:
        raise problems.not_valid(wrong) from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", field="body") from None


def field(fields: Fields, name: str, decoder: msgspec.json.Decoder[T]) -> T:
    """One field of the body. Raises `InvalidRequest` that names it."""
    try:
        return decoder.decode(fields.get(name, _NULL))
    except msgspec.MsgspecError as wrong:
        raise problems.not_valid(wrong, name) from None


def served(exchange: Exchange, reply: ChatReply | ChatStream | Embedded | Reranked) -> Headers:
    """Who served a call and in whose place, what of the time was ours, what it cost, and what is left of the limits."""
    overhead = max(0.0, time.perf_counter() - exchange.started - reply.upstream_seconds)
    telemetry.OVERHEAD_SECONDS.labels(exchange.route).observe(overhead)
    return [
        *provenance(reply.model, reply.provider, reply.attempts),
        (b"x-gimle-overhead-ms", b"%.2f" % (overhead * 1000)),
        *told(reply.told, None if isinstance(reply, Embedded | Reranked) else reply.notice),
    ]


def told(headers: Iterable[tuple[str, str]], notice: Notice | None) -> Headers:
    """What the gateway tells of a call, as headers."""
    written = [(name.encode(), plain(value)) for name, value in headers]
    return written if notice is None else [*written, (b"x-gimle-notice", plain(str(notice)))]


def remark(notice: Notice | None) -> bytes:
    """What stands before the events of a stream where another model answers: a comment, since no vendor has an event
    for that.
    """
    return b"" if notice is None else b": notice " + plain(str(notice)) + b"\n\n"


@lru_cache(maxsize=512)
def provenance(model: str, provider: str, attempts: int = 1) -> tuple[tuple[bytes, bytes], ...]:
    """Who served a call."""
    return (
        (b"x-gimle-model", plain(model)),
        (b"x-gimle-provider", plain(provider)),
        (b"x-gimle-attempts", b"%d" % attempts),
    )


def unheeded(cache: Control, told: Iterable[tuple[str, str]] = (), *, explain: bool | None = None) -> tuple[str, ...]:
    """Our own field `cache`, where the cache was asked for and had no part in the answer that tells this; and `explain`
    where that was asked of what gives no reasons.
    """
    unasked = not cache.asked or any(name == "x-gimle-cache" for name, _ in told)
    return (() if unasked else ("cache",)) + (("explain",) if explain else ())


def dropped(names: tuple[str, ...]) -> Headers:
    """What of a request had no effect: hints for which the provider has no word, and our own fields that have none on
    this path. Silence would be a promise.
    """
    # A long conversation may hold the same hint in each of its turns, and no proxy takes a header without end.
    more = (f"and {len(names) - _MOST_NAMES} more",) if len(names) > _MOST_NAMES else ()
    return [(b"x-gimle-dropped", plain(", ".join(names[:_MOST_NAMES] + more)))] if names else []


def plain(text: str | bytes) -> bytes:
    """A text in a header, where only plain characters may stand."""
    told = text.decode("latin-1") if isinstance(text, bytes) else text
    if told.isascii() and told.isprintable():
        return told.encode("ascii")
    return re.sub(r"[^\x20-\x7e]", "?", told).encode("ascii")
