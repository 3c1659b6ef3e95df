"""Reasoning items: how thoughts of any vendor travel through a format that has one sealed field for them.

OpenAI's own sealed thoughts open nowhere else, so they leave this dialect under its name and id (`_seal`), and only a
provider of this dialect gets them back. Signatures of other vendors travel to the caller inside `encrypted_content`,
which no client looks into, and come back in the same way.
"""

import base64
import binascii

import msgspec

from gimle.gateway.dialects.responses.fields import NAME, checked, kept, own, rest
from gimle.gateway.neutral import Json, Thinking
from gimle.gateway.wire import MALFORMED

_BETWEEN = "\n\n"
_CARRIED = "gimle:"
_SEALED = f"{NAME}:"


class _Words(msgspec.Struct, frozen=True):
    text: str


class _Item(msgspec.Struct, frozen=True):
    """A reasoning item. `encrypted_content` holds what only its maker can read."""

    id: str = ""
    summary: tuple[_Words, ...] = ()
    content: tuple[_Words, ...] | None = None
    encrypted_content: str | None = None

    @property
    def text(self) -> str:
        return _BETWEEN.join(words.text for words in self.summary or self.content or ())


class _Foreign(msgspec.Struct, frozen=True, omit_defaults=True):
    signature: str | None = None
    sealed: str | None = None


_FOREIGN = msgspec.json.Decoder(_Foreign)


# -- as callers send and get them


def read_thought(raw: Json, where: str) -> Thinking:
    """A reasoning item of a caller. Raises `InvalidRequest`."""
    item = checked(raw, _Item, where)
    if (carried := _opened(item.encrypted_content)) is not None:
        return Thinking(text=item.text, signature=carried.signature, sealed=carried.sealed)
    return Thinking(text=item.text, extra={NAME: rest(raw, "type")})


def write_thought(thought: Thinking, id_: str) -> Json:
    """A reasoning item for a caller, with another vendor's signature inside."""
    summary = [{"type": "summary_text", "text": thought.text}] if thought.text else []
    item: Json = {"id": id_, "type": "reasoning", "summary": summary}
    if thought.signature is not None or thought.sealed is not None:
        foreign = msgspec.json.encode(_Foreign(thought.signature, thought.sealed))
        item["encrypted_content"] = _CARRIED + base64.urlsafe_b64encode(foreign).decode("ascii")
    return item


def is_carried(encrypted: object) -> bool:
    """Whether this is another vendor's signature that we have put there, and nothing for a provider of this dialect."""
    return isinstance(encrypted, str) and encrypted.startswith(_CARRIED)


def _opened(encrypted: str | None) -> _Foreign | None:
    if encrypted is None or not is_carried(encrypted):
        return None
    try:
        return _FOREIGN.decode(base64.urlsafe_b64decode(encrypted.removeprefix(_CARRIED)))
    except (*MALFORMED, binascii.Error, ValueError):
        return _Foreign()


# -- as providers send and get them


def told_thought(item: Json) -> Thinking:
    """A reasoning item of a provider. Raises `msgspec.ValidationError`."""
    read = msgspec.convert(item, _Item)
    seal = sealed(item)
    if read.text:
        return Thinking(text=read.text, signature=seal, extra=kept(rest(item, "type", "status")))
    return Thinking(sealed=seal, extra=kept(rest(item, "type", "status")))


def sealed(item: Json) -> str | None:
    """What a provider gets back with a thought, so that it takes it for its own; None where it gave nothing."""
    encrypted = item.get("encrypted_content")
    return f"{_SEALED}{item.get('id') or ''}:{encrypted}" if isinstance(encrypted, str) and encrypted else None


def sent_thought(thought: Thinking) -> Json | None:
    """A thought for a provider; None for one that it could not read, since this vendor has not made or not kept it."""
    mine = own(thought.extra)
    if mine.get("encrypted_content") or mine.get("content"):
        return {"type": "reasoning", **mine}
    seal = thought.signature or thought.sealed or ""
    if not seal.startswith(_SEALED):
        return None
    id_, _, encrypted = seal.removeprefix(_SEALED).partition(":")
    summary = [{"type": "summary_text", "text": thought.text}] if thought.text else []
    item = {"type": "reasoning", "summary": summary, "encrypted_content": encrypted}
    return {**item, "id": id_} if id_ else item
