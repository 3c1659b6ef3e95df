"""`/api/v1/knowledge`: collections, documents, search, ask."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State, UploadFile
from litestar.params import JSONBody, QueryParameter
from litestar.response import Stream

from gimle.foundation.errors import GimleError, InvalidRequest
from gimle.gateway.notices import Notice
from gimle.interfaces.http import grounded, sse
from gimle.interfaces.http.given import After, Caller, IdempotencyKey, InFlight, Limit, Page, PathText, Rooms
from gimle.interfaces.http.problems import not_valid
from gimle.interfaces.http.surface import purpose, told
from gimle.knowledge.answer import AnsweredBy, AnswerEvent, ClaimReady, Done, Drafted, How, PassagesFound
from gimle.knowledge.search import SearchResult
from gimle.knowledge.types import DEFAULT_COLLECTION, Answer, Collection, Document, Turn

_BASE = "/api/v1/knowledge"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Question = Annotated[str, msgspec.Meta(min_length=1, max_length=100_000, description="In plain language.")]
TopK = Annotated[int, msgspec.Meta(ge=1, le=100, description="How many passages at most.")]
InCollection = Annotated[str, QueryParameter(name="collection", max_length=200, description="Name or id.")]


class NewCollection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A collection to create."""

    name: Name


class NewText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document given as text."""

    name: Name
    text: Annotated[str, msgspec.Meta(min_length=1)]
    collection: Name = DEFAULT_COLLECTION
    media_type: str | None = None


class Fault(msgspec.Struct, frozen=True):
    """Why one of several files was refused."""

    code: str
    message: str
    field: str | None
    hint: str | None


class Accepted(msgspec.Struct, frozen=True):
    """One file of an upload: taken in, with the job that ingests it, or refused."""

    name: str
    document: Document | None = None
    job: str | None = None
    error: Fault | None = None


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search. `mode` is for comparing: `hybrid` serves best."""

    query: Question
    collection: Name = DEFAULT_COLLECTION
    top_k: TopK = 6
    mode: Literal["hybrid", "lexical", "dense"] = "hybrid"


class AskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question to the documents of a collection. Without a `model`, the best one at hand answers.

    With `fast`, a stream begins with what the documents' own sentences answer, while the model is still reading.
    """

    question: Question
    collection: Name = DEFAULT_COLLECTION
    top_k: TopK | None = None
    model: str | None = None
    history: list[Turn] = []
    stream: bool = False
    fast: bool = False


@get(f"{_BASE}/collections", summary="List collections", tags=["knowledge"])
async def list_collections(rooms: Rooms, principal: Caller, limit: Limit = 50, after: After = None) -> Page[Collection]:
    """Your collections, by name."""
    return Page(*await rooms.library.collections(principal, limit, after))


@post(f"{_BASE}/collections", summary="Create a collection", tags=["knowledge"])
async def create_collection(rooms: Rooms, principal: Caller, data: JSONBody[NewCollection]) -> Response[Collection]:
    """Create a collection. The collection `default` comes into being with its first document."""
    collection = await rooms.library.create_collection(principal, data.name)
    return Response(collection, status_code=201, headers={"location": f"{_BASE}/collections/{collection.name}"})


@get(f"{_BASE}/collections/{{name:str}}", summary="Show a collection", tags=["knowledge"])
async def show_collection(rooms: Rooms, principal: Caller, name: PathText) -> Collection:
    """One collection, by name or id."""
    return await rooms.library.collection(principal, name)


@delete(f"{_BASE}/collections/{{name:str}}", summary="Delete a collection", tags=["knowledge"])
async def delete_collection(rooms: Rooms, principal: Caller, name: PathText) -> None:
    """Delete a collection with all its documents."""
    await rooms.library.delete_collection(principal, name)


@get(f"{_BASE}/documents", summary="List documents", tags=["knowledge"])
async def list_documents(
    rooms: Rooms,
    principal: Caller,
    collection: InCollection = DEFAULT_COLLECTION,
    limit: Limit = 50,
    after: After = None,
) -> Page[Document]:
    """The documents of a collection, newest versions and those on their way."""
    return Page(*await rooms.library.documents(principal, collection, limit, after))


@post(f"{_BASE}/documents", summary="Upload documents", tags=["knowledge"], status_code=202)
async def upload_documents(
    rooms: Rooms, principal: Caller, request: Request[Any, Any, State], idempotency_key: IdempotencyKey = None
) -> Response[Page[Accepted]]:
    """Take files in, each with a job that ingests it.

    Either `multipart/form-data` with a field `collection` and any number of files, or JSON with `name` and `text`.
    """
    collection, files = await _uploaded(request)
    accepted: list[Accepted] = []
    refused: list[GimleError] = []
    for position, (name, media_type, content) in enumerate(files):
        key = f"{idempotency_key}/{position}" if idempotency_key else None
        try:
            taken = await rooms.library.upload(principal, collection, name, content, media_type, key)
            accepted.append(Accepted(name, taken.document, taken.job))
        except GimleError as error:
            refused.append(error)
            accepted.append(Accepted(name, error=Fault(error.code, error.message, error.field, error.hint)))
    if len(refused) == len(accepted):
        raise refused[0]
    first = next(each.job for each in accepted if each.job)
    return Response(Page(accepted), status_code=202, headers={"location": f"/api/v1/jobs/{first}"})


@get(f"{_BASE}/documents/{{document:str}}", summary="Show a document", tags=["knowledge"])
async def show_document(rooms: Rooms, principal: Caller, document: PathText) -> Document:
    """One document, and how far its ingestion is."""
    return await rooms.library.document(principal, document)


@delete(f"{_BASE}/documents/{{document:str}}", summary="Delete a document", tags=["knowledge"])
async def delete_document(rooms: Rooms, principal: Caller, document: PathText) -> None:
    """Delete a document and all that was made from it."""
    await rooms.library.delete_document(principal, document)


@post(f"{_BASE}/search", summary="Search", tags=["knowledge"], status_code=200)
async def search(rooms: Rooms, principal: Caller, exchange: InFlight, data: JSONBody[SearchRequest]) -> SearchResult:
    """The passages that fit a query best."""
    exchange.attend()
    return await rooms.search.search(principal, data.collection, data.query, data.top_k, data.mode)


@post(f"{_BASE}/ask", summary="Ask", tags=["knowledge"], status_code=200)
async def ask(
    rooms: Rooms, principal: Caller, exchange: InFlight, data: JSONBody[AskRequest]
) -> Response[Answer] | Stream:
    """An answer from the documents, with a citation for every sentence, or an honest "not in the documents".

    With `stream`, or `Accept: text/event-stream`: `progress` events as sentences are ready, then `done` with it all.
    """
    streams = data.stream or exchange.headers.get(b"accept", b"").startswith(b"text/event-stream")
    how = How(
        top_k=data.top_k,
        model=data.model,
        history=data.history,
        fast=data.fast and streams,
        purpose=purpose(exchange),
    )
    events = rooms.answers.stream(principal, data.collection, data.question, how)
    exchange.attend()
    if streams:
        found = await anext(events)
        assert isinstance(found, PassagesFound)
        return sse.stream(_answer_events(found, events), dict(found.told))
    async with aclosing(events):
        by = await grounded.answered_by(events)
        answer = await grounded.last(events)
    headers = {name.decode(): value.decode() for name, value in told(by.told, by.notice)}
    return Response(answer, headers=headers)


async def _answer_events(
    found: PassagesFound, events: AsyncGenerator[AnswerEvent, None]
) -> AsyncGenerator[bytes, None]:
    yield sse.event("progress", {"phase": "searched", "passages": found.passages})
    async with aclosing(events):
        async for event in events:
            match event:
                case AnsweredBy(notice=Notice() as notice):
                    yield sse.event("notice", notice)
                case Drafted(answer=draft):
                    yield sse.event("progress", {"phase": "drafted", "answer": draft})
                case ClaimReady():
                    yield sse.event("progress", {"phase": "answering", "text": event.text, "citation": event.citation})
                case Done(answer=answer):
                    yield sse.event("done", answer)


async def _uploaded(request: Request[Any, Any, State]) -> tuple[str, list[tuple[str, str | None, bytes]]]:
    """The collection and the files (name, media type, content) of an upload. Raises `InvalidRequest`."""
    kind, _ = request.content_type
    if kind == "multipart/form-data":
        return await _from_form(request)
    if kind != "application/json":
        raise InvalidRequest(
            f"An upload is multipart/form-data or application/json, not {kind or 'nothing'!r}.",
            field="content-type",
            hint="curl -F collection=default -F file=@report.pdf",
        )
    try:
        given = msgspec.json.decode(await request.body(), type=NewText)
    except msgspec.MsgspecError as wrong:
        raise not_valid(wrong) from None
    return given.collection, [(given.name, given.media_type or "text/plain", given.text.encode())]


async def _from_form(request: Request[Any, Any, State]) -> tuple[str, list[tuple[str, str | None, bytes]]]:
    collection = DEFAULT_COLLECTION
    files: list[tuple[str, str | None, bytes]] = []
    for field, value in (await request.form()).multi_items():
        if isinstance(value, UploadFile):
            files.append((value.filename, value.content_type or None, await value.read()))
        elif field == "collection":
            collection = str(value)
        else:
            raise InvalidRequest(
                f"There is no form field {field!r}.", field=field, hint="Send `collection`, and files as `file`."
            )
    if not files:
        raise InvalidRequest("The upload holds no file.", field="file", hint="curl -F file=@report.pdf")
    return collection, files


HANDLERS = (
    list_collections,
    create_collection,
    show_collection,
    delete_collection,
    list_documents,
    upload_documents,
    show_document,
    delete_document,
    search,
    ask,
)
