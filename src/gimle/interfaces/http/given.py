"""What a Litestar handler may ask for by name, and the shape of lists: the vocabulary of all routes."""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, QueryParameter

from gimle.app import App
from gimle.interfaces.http.exchange import Exchange
from gimle.trust.types import Principal

T = TypeVar("T")

Rooms = NamedDependency[App]
Caller = NamedDependency[Principal]
InFlight = NamedDependency[Exchange]
Document = NamedDependency[bytes]

PathText = FromPath[str]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=200, description="How many items at most.")]
After = Annotated[
    str | None, QueryParameter(name="after", max_length=200, description="The `next` of the page before.")
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="idempotency-key", max_length=200, description="The same key makes the same request happen only once."
    ),
]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list; `next` leads to the page behind it, and is null on the last."""

    items: Sequence[T]
    next: str | None = None


def cut(found: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """A page from `limit + 1` items, of which the last only tells that there are more."""
    if len(found) <= limit:
        return Page(found)
    return Page(found[:limit], cursor(found[limit - 1]))
