"""A response on its way to the caller: given Gimle's own id, and remembered. Pure.

The provider keeps nothing, so the ids that it gives mean nothing to anyone: a response is known by ours. All other
bytes of a stream pass as they are.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

Fields = dict[str, msgspec.Raw]

_OBJECT = msgspec.json.Decoder(Fields)
_TEXT = msgspec.json.Decoder(str)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_BORDER = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
# Inside a text a quote has a backslash before it, so no model can write this.
_TOLD = re.compile(rb'"type":\s*"response\.(?:created|queued|in_progress|completed|incomplete|output_item\.done)"')
_ENDS = ("response.completed", "response.incomplete")
_ITEM_DONE = "response.output_item.done"


class Recording:
    """One response. `patch` holds the fields in which what the caller sees differs from what the provider has said.

    `reply` is the whole response object as the caller got it, once it is complete.
    """

    def __init__(self, patch: Mapping[str, Any]) -> None:
        self.reply: bytes | None = None
        self._patch: Fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in patch.items()}
        self._latest: Fields | None = None
        self._items: list[msgspec.Raw] = []
        self._events = 0

    @property
    def begun(self) -> bool:
        """Whether the caller has been told of a response."""
        return self._latest is not None

    def whole(self, body: bytes) -> bytes:
        """A response object that comes in one piece."""
        self.reply = msgspec.json.encode({**_OBJECT.decode(body), **self._patch})
        return self.reply

    def feed(self, piece: bytes) -> bytes:
        """Some whole events of a stream, as the caller gets them."""
        if _TOLD.search(piece) is None:
            self._events += len(_BORDER.findall(piece))
            return piece
        events, start = [], 0
        for border in _BORDER.finditer(piece):
            events.append(self._event(piece[start : border.end()]))
            start = border.end()
        rest = piece[start:]
        return b"".join([*events, self._event(rest) if rest.strip() else rest])

    def _event(self, raw: bytes) -> bytes:
        data = b"\n".join(line[5:].lstrip() for line in _LINE.split(raw) if line.startswith(b"data:"))
        if not data:
            return raw
        self._events += 1
        if _TOLD.search(data) is None:
            return raw
        fields = _OBJECT.decode(data)
        kind = _TEXT.decode(fields["type"])
        if kind == _ITEM_DONE:
            self._items.append(fields["item"])
            return raw
        if "response" not in fields:
            return raw
        self._latest = {**_OBJECT.decode(fields["response"]), **self._patch}
        response = msgspec.json.encode(self._latest)
        if kind in _ENDS:
            self.reply = response
        return _written(kind, {**fields, "response": msgspec.Raw(response)})

    def stopped(self, status: str, error: Mapping[str, Any] | None = None) -> bytes:
        """The response object as far as it has come, when no more will come."""
        said = {"status": status, "error": error, "output": self._items}
        return msgspec.json.encode({**(self._latest or {}), **self._patch, **said})

    def failure(self, error: Mapping[str, Any]) -> bytes:
        """The last events of a stream that broke. `error` is an error as OpenAI tells it: message, type, param, code.

        The first is the end of a response by the format's own rules, the second makes an SDK raise its typed exception.
        """
        told = {"code": "server_error", "message": error["message"]}
        failed = {"type": "response.failed", "sequence_number": self._events}
        failed["response"] = msgspec.Raw(self.stopped("failed", told))
        broken = {"type": "error", "sequence_number": self._events + 1, **error, "error": error}
        return _written("response.failed", failed) + _written("error", {**broken, "type": "error"})


def _written(kind: str, event: Mapping[str, Any]) -> bytes:
    return b"event: " + kind.encode("ascii") + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


# -- what a conversation consists of


def items_of(given: msgspec.Raw | None) -> list[msgspec.Raw]:
    """What a request adds to a conversation, as items: its `input`, which may be a plain text."""
    if given is None or bytes(given) == b"null":
        return []
    if bytes(given).lstrip()[:1] != b'"':
        return _ITEMS.decode(given)
    text = [{"type": "input_text", "text": _TEXT.decode(given)}]
    return [msgspec.Raw(msgspec.json.encode({"type": "message", "role": "user", "content": text}))]


def output_of(reply: bytes) -> list[dict[str, Any]]:
    """The items that a response has put out."""
    output: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.decode(reply, type=Fields)["output"])
    return output


def again(item: dict[str, Any], provider: str) -> dict[str, Any] | None:
    """An item of an answer as it is sent again in a later request; None for a thought that nobody could read.

    Sealed thoughts are marked with who made them: elsewhere they do not open. Ids are left out where that is allowed:
    some servers give the same ones twice, and others refuse that.
    """
    kind = item.get("type")
    if kind == "reasoning":
        readable = item.get("encrypted_content") or item.get("content")
        return {**item, "gimle": {"provider": provider}} if readable else None
    if kind in ("message", "function_call"):
        return {name: value for name, value in item.items() if name != "id"}
    return item


def listed(items: list[dict[str, Any]], response: str) -> list[dict[str, Any]]:
    """The items of a conversation as they are listed: all with an id, and messages with their content in parts."""
    return [_listed(item, f"{response.removeprefix('resp_')}{number:04}") for number, item in enumerate(items)]


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def _listed(item: dict[str, Any], number: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    shown = {"type": kind, **{name: value for name, value in item.items() if name != "gimle"}}
    shown["id"] = f"{_PREFIXES.get(kind, 'item')}_{number}"
    if kind == "message" and isinstance(item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        shown["content"] = [{"type": part, "text": item["content"]}]
    return shown
