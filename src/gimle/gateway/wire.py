"""What all wire formats share: what passes for JSON of a shape, and how it is told that something does not. Pure."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from gimle.foundation.errors import InvalidRequest, UpstreamError
from gimle.gateway.neutral import MOST_TOKENS

NULL = msgspec.Raw(b"null")
# What msgspec raises for bytes that are no JSON of the expected shape; the last is for nesting without end.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# What a request is taken to hold as long as nobody has counted its tokens.
BYTES_A_TOKEN = 4

T = TypeVar("T")
_LIST = msgspec.json.Decoder(list[msgspec.Raw])

# -- what a caller sends


def decoded(raw: msgspec.Raw | bytes, decoder: msgspec.json.Decoder[T], name: str) -> T:
    """A field of a request. Raises `InvalidRequest`, which names the place in it."""
    try:
        return decoder.decode(raw)
    except MALFORMED as wrong:
        raise invalid(wrong, name) from None


def invalid(wrong: Exception, name: str) -> InvalidRequest:
    """What msgspec found wrong in a field, with the place of it."""
    what, path = found(wrong, name)
    return InvalidRequest(f"{path}: {what}.", field=path)


def found(wrong: Exception, name: str) -> tuple[str, str]:
    """What msgspec found wrong inside something, and where, as a path that begins with its name."""
    if isinstance(wrong, RecursionError):
        return "It is nested too deeply", name
    what, _, where = str(wrong).partition(" - at ")
    return what, name + where.strip("`").removeprefix("key in ").removeprefix("$")


# -- what a provider answers


def no_answer(body: bytes, what: str, wrong: Exception) -> UpstreamError:
    """The fault of an answer that is not what it should be."""
    said = f"is not {what}: {wrong}" if body.strip() else "is empty"
    return UpstreamError(f"The provider's answer {said}.")


# Tokens, as a provider tells them: who says more has not counted.
Count = Annotated[int, msgspec.Meta(le=MOST_TOKENS)]


def lenient(raw: msgspec.Raw, decoder: msgspec.json.Decoder[T | None]) -> T | None:
    """What a provider tells beside its answer; None where that makes no sense: the answer is good all the same."""
    try:
        return decoder.decode(raw)
    except MALFORMED:
        return None


def models_in(field: str) -> Callable[[bytes], int]:
    """Reads how many models a provider lists, in a dialect that has the list in this field. Raises `UpstreamError`."""
    listed = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def read(body: bytes) -> int:
        try:
            return len(_LIST.decode(listed.decode(body)[field]))
        except (*MALFORMED, KeyError):
            raise UpstreamError("The provider's answer is not a list of models.") from None

    return read
