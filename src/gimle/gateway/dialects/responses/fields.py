"""What all parts of this dialect share: its name, checked pieces of a request, and small parts of the format."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from gimle.gateway.neutral import Extra, Json, Logprob
from gimle.gateway.wire import invalid

NAME = "responses"

T = TypeVar("T")


def checked(given: object, kind: type[T], where: str) -> T:
    """A decoded piece of a request as `kind`. Raises `InvalidRequest`, which names the place in it."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as wrong:
        raise invalid(wrong, where) from None


def rest(given: Mapping[str, Any], *known: str) -> Json:
    """The fields of an object that the neutral form has no place for."""
    return {name: value for name, value in given.items() if name not in known}


def own(extra: Extra) -> Json:
    """What this dialect has kept for itself of a part or a request."""
    return extra.get(NAME, {})


def kept(fields: Json) -> Extra:
    """Fields of this dialect as the extra of a part; nothing where there are none."""
    return {NAME: fields} if fields else {}


# -- log probabilities


class Rival(msgspec.Struct, frozen=True):
    """A token and its log probability."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, with the likeliest at its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[Rival, ...] | None = None


def read_logprobs(told: Sequence[TokenLogprob] | None) -> tuple[Logprob, ...] | None:
    """Log probabilities in the neutral form; None where none were told."""
    if not told:
        return None
    return tuple(
        Logprob(
            token=one.token,
            logprob=one.logprob,
            bytes=one.bytes,
            rivals=tuple(
                Logprob(token=rival.token, logprob=rival.logprob, bytes=rival.bytes) for rival in one.top_logprobs or ()
            ),
        )
        for one in told
    )


def write_logprobs(logprobs: Sequence[Logprob] | None) -> list[Json]:
    """Log probabilities as this format writes them."""
    return [{**_logprob(one), "top_logprobs": [_logprob(rival) for rival in one.rivals]} for one in logprobs or ()]


def _logprob(one: Logprob) -> Json:
    known = one.token.encode("utf-8", "surrogatepass") if one.bytes is None else one.bytes
    return {"token": one.token, "logprob": one.logprob, "bytes": list(known)}


# -- data that stands in a URL


def data_url(data: str, media_type: str) -> str:
    """Base64 data as a URL."""
    return f"data:{media_type};base64,{data}"


def split_data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 data of a URL that holds them; None for any other."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return head[len("data:") : -len(";base64")].partition(";")[0], data
