"""The nouns of knowledge, once: every door returns these, rows are read into them, the client reuses them.

Offsets (`start`, `end`) always count characters of the document's *extracted text*, half open, so that
`text[start:end]` is what a chunk or a citation shows. Pages count from 1 and exist only where the format has pages.
"""

from datetime import datetime
from typing import Literal

import msgspec

DocumentStatus = Literal["pending", "ready", "failed"]
Phase = Literal["queued", "parsing", "chunking", "embedding", "indexing", "ready"]
Verdict = Literal["found", "misattributed", "unsupported"]
Role = Literal["user", "assistant"]
BlockKind = Literal["heading", "text", "item", "row", "code"]

DEFAULT_COLLECTION = "default"
# Between the steps of a heading path.
PATH = " > "


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A named set of documents of one tenant. `documents` counts those that serve, `chunks` theirs."""

    id: str
    name: str
    created_at: datetime
    space: str | None = None
    documents: int = 0
    chunks: int = 0


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one uploaded file.

    `is_latest` marks the version that search sees; it moves only when a newer version is ready. `error` is a sentence
    for the person who uploaded the file, set when `status` is "failed". `size` is in bytes, `sha256` that of the bytes.
    """

    id: str
    collection: str
    name: str
    media_type: str
    size: int
    sha256: str
    version: int
    is_latest: bool
    status: DocumentStatus
    created_at: datetime
    phase: Phase = "queued"
    language: str | None = None
    error: str | None = None
    pages: int | None = None
    chunks: int = 0
    job: str | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a document that is searched as one. `heading` is the path of headings, joined by `PATH`.

    `number` is a whole number, unique over the database and rising, for indexes that pack ids into arrays.
    """

    id: str
    number: int
    document: str
    ordinal: int
    text: str
    start: int
    end: int
    page: int | None = None
    heading: str | None = None
    language: str = "und"


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that search has found, with a score in the order of search (higher is better)."""

    chunk: str
    document: str
    document_name: str
    text: str
    score: float
    start: int
    end: int
    page: int | None = None
    heading: str | None = None
    language: str = "und"


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """The place on which a sentence of an answer rests; `quote` is the document's own text from `start` to `end`."""

    n: int
    document: str
    document_name: str
    chunk: str
    quote: str
    start: int
    end: int
    page: int | None = None
    heading: str | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence of an answer and what the check of its quote found; `citation` is the number of its citation."""

    text: str
    verdict: Verdict
    citation: int | None = None


class Turn(msgspec.Struct, frozen=True):
    """One earlier message of a conversation."""

    role: Role
    content: str


class Tokens(msgspec.Struct, frozen=True):
    """What an answer cost its model, in tokens."""

    prompt: int = 0
    completion: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer whose every sentence ends with the number of its citation.

    `answered` is False when the documents do not hold the answer; `text` then says so in the question's language.
    `claims` lists also what was dropped because no document supports it. `notice` tells of a narrower way taken.
    """

    text: str
    citations: tuple[Citation, ...]
    answered: bool
    model: str
    provider: str
    claims: tuple[Claim, ...] = ()
    usage: Tokens = Tokens()
    notice: str | None = None


class Block(msgspec.Struct, frozen=True):
    """A stretch of extracted text that belongs together. A heading has a `level` of 1 to 6, the header of a table 1."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    page: int | None = None


class Parsed(msgspec.Struct, frozen=True):
    """What a parser makes of a file: its text, and the blocks that cover all of it but white space, in order."""

    text: str
    blocks: tuple[Block, ...]
    pages: int | None = None


class Cut(msgspec.Struct, frozen=True):
    """Where a chunker cuts: a stretch of the text, the page it stands on, and the path of headings above it."""

    start: int
    end: int
    page: int | None = None
    heading: str | None = None
