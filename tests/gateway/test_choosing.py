"""What selection is told of a chat, and what an answer shows: words, sizes, schemas, streams."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import UpstreamError
from gimle.gateway import schemas
from gimle.gateway.choosing import beginning, coarse, last_words
from gimle.gateway.neutral import Added, Ask, Began, Delta, Finished, Image, Refusal, Role, Text, Turn
from gimle.gateway.signals import Ear


@given(st.integers(0, 10**12))
def test_sizes_are_rounded_up_by_an_eighth_at_most(number: int) -> None:
    assert number <= coarse(number) <= number + number // 8
    assert coarse(coarse(number)) == coarse(number)
    assert -coarse(-number) <= number


def test_the_last_words_are_the_users() -> None:
    def turn(role: Role, text: str) -> Turn:
        return Turn(role=role, parts=(Text(text=text),))

    turns = (turn("system", "Be brief."), turn("user", "One?"), turn("assistant", "Two."), turn("user", "Three?"))
    assert last_words(Ask(turns=turns)) == ("Three?", 3)
    assert last_words(Ask(turns=(Turn(role="user", parts=(Image(url="https://x/y.png"),)),))) == ("", 1)
    assert last_words(Ask(turns=())) == ("", 0)


def test_a_conversation_begins_the_same_in_each_turn() -> None:
    def turn(role: Role, text: str) -> Turn:
        return Turn(role=role, parts=(Text(text=text),))

    turns = (turn("system", "Be brief."), turn("user", "One?"), turn("assistant", "Two."), turn("user", "Three?"))
    assert beginning(Ask(turns=turns)) == beginning(Ask(turns=turns[:2])) == "Be brief.\nOne?"
    assert beginning(Ask(turns=turns[:1])) == "Be brief."
    assert beginning(Ask(turns=())) == ""


ADDRESS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Berlin", "Bonn"]},
        "number": {"type": "integer"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "more": {"anyOf": [{"type": "null"}, {"type": "object"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"line": {"type": ["string", "null"]}},
}


@pytest.mark.parametrize(
    "value,fits",
    [
        ({"city": "Berlin", "number": 3, "lines": ["a", None], "more": None}, True),
        ({"city": "Berlin", "number": 3.0, "more": {}}, True),
        ({"city": "Rome"}, False),
        ({}, False),
        ([], False),
        ({"city": "Bonn", "number": "3"}, False),
        ({"city": "Bonn", "number": True}, False),
        ({"city": "Bonn", "lines": [3]}, False),
        ({"city": "Bonn", "more": 3}, False),
        ({"city": "Bonn", "street": "x"}, False),
    ],
)
def test_a_value_fits_its_schema_or_not(value: object, fits: bool) -> None:
    assert schemas.fits(value, ADDRESS) is fits


def test_what_a_schema_says_in_unknown_words_holds_nothing_against_a_value() -> None:
    for odd in ({}, True, {"type": "date"}, {"$ref": "#/nowhere"}, {"$ref": "#"}, {"allOf": [{"minimum": 3}]}, "x"):
        assert schemas.fits({"a": [1]}, odd)
    assert not schemas.fits(3, False)
    assert not schemas.fits(3, {"allOf": [{"const": 4}]})


def _reading(deltas: dict[str, Sequence[Delta]]) -> Ear:
    return Ear(lambda data: deltas[json.loads(data)])


def _event(name: str) -> bytes:
    return b"data: " + json.dumps(name).encode() + b"\n\n"


def test_a_stream_is_heard_to_its_end_in_whatever_pieces_it_comes() -> None:
    ear = _reading(
        {
            "begin": [Began(part=Text(text=""), at=0), Added(text="Be", at=0)],
            "more": [Added(text="es", at=0), Added(text="thought", at=1), Added(text="!", at=0, choice=1)],
            "end": [Finished(finish="stop"), Finished(finish="length", choice=1)],
        }
    )
    for byte in b": a comment\n\n" + _event("begin") + _event("more"):
        ear.note(bytes([byte]))
    early = ear.reply
    ear.note(_event("end"))
    assert early is None
    assert ear.reply is not None
    assert (ear.reply.choices[0].text, ear.reply.choices[0].finish) == ("Bees", "stop")


def test_a_refusal_in_a_stream_is_heard() -> None:
    ear = _reading({"no": [Began(part=Refusal(text=""), at=0), Finished(finish="stop")]})
    ear.note(_event("no"))
    assert ear.reply is not None
    assert any(isinstance(part, Refusal) for part in ear.reply.choices[0].parts)


def test_what_cannot_be_read_is_not_heard_and_stops_nobody() -> None:
    def read(_: bytes) -> Sequence[Delta]:
        raise UpstreamError("No event.")

    ear = Ear(read)
    for _ in range(2):
        ear.note(_event("x"))
    assert ear.reply is None
