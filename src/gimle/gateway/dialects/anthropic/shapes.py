"""What all of this dialect's modules stand on: decoding that says where, marks of the cache, fields of its own."""

from typing import Any, TypeVar

import msgspec

from gimle.gateway.neutral import Extra, Json
from gimle.gateway.wire import MALFORMED, found

NAME = "anthropic"

T = TypeVar("T")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()


class Misshapen(Exception):
    """Something does not have the shape that it should have; `at` is where, as a path from the top of the document."""

    def __init__(self, what: str, at: str) -> None:
        super().__init__(f"{at}: {what}." if at else f"{what}.")
        self.at = at


def decode(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes, at: str) -> T:
    """The value of some JSON that stands at a path. Raises `Misshapen`, with the path to what is wrong."""
    try:
        return decoder.decode(raw)
    except MALFORMED as wrong:
        raise Misshapen(*found(wrong, at)) from None


def value(raw: msgspec.Raw | bytes, at: str = "") -> Any:
    """Any JSON, decoded. Raises `Misshapen`."""
    return decode(_ANY, raw, at)


def fields(raw: msgspec.Raw | bytes, at: str = "") -> dict[str, msgspec.Raw]:
    """The fields of an object, each as it stands. Raises `Misshapen`."""
    return decode(_FIELDS, raw, at)


def rest(raw: msgspec.Raw | bytes, known: type[msgspec.Struct], at: str) -> Json:
    """The fields that a struct does not know: they go back to who speaks this dialect."""
    kept = {name: value(field, f"{at}.{name}") for name, field in fields(raw, at).items() if name not in _known(known)}
    return {name: field for name, field in kept.items() if field is not None}


def _known(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    return (*struct.__struct_fields__, "type")


def own(kept: Json) -> Extra:
    """Fields that only this dialect knows, as the neutral form keeps them."""
    return {NAME: kept} if kept else {}


def mark(cache_control: Json | None) -> Json | None:
    """A mark of the cache without its type, of which there is one."""
    return None if cache_control is None else {name: kept for name, kept in cache_control.items() if name != "type"}


def marked(cache: Json | None) -> Json:
    """The field in which a mark of the cache is written; nothing where there is none."""
    return {} if cache is None else {"cache_control": {"type": "ephemeral", **cache}}


def present(tree: Json) -> Json:
    """An object without the fields that nobody has given."""
    return {name: field for name, field in tree.items() if field is not None}
