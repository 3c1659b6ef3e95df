"""Reads what a GGUF file says of itself, without its weights. Pure but for the reading.

The format: "GGUF", a version, how many tensors and how many facts; then the facts, each a name, a type and a value;
then the tensors' names, shapes, types and offsets. What is broken raises `ConfigError`, before any engine sees it.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from gimle.foundation.errors import ConfigError
from gimle.gateway.local.types import Facts
from gimle.selection.types import Kind

Value = int | float | bool | str | None

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_TEXT = 16 << 20
_MOST = 1 << 24
# What stands in `general.file_type`.
_QUANTISATIONS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 24: "IQ1_S", 30: "IQ4_XS",
    31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 40: "Q1_0",
}  # fmt: skip
# Architectures whose models read a text and give one vector.
_ENCODERS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "gemma-embedding")
_RANKS = 4
_HALF = 2  # bytes of a number in the cache


def read(path: Path) -> Facts:
    """The facts of a model. Raises `ConfigError` for a file that is none, or is cut off."""
    try:
        with path.open("rb") as file:
            return _facts(_Reader(file, path).metadata())
    except (OSError, struct.error, UnicodeDecodeError, _BrokenError) as wrong:
        raise ConfigError(
            f"{path.name} is not a sound GGUF file: {wrong}.", field="model", hint="Remove it and pull it anew."
        ) from None


class _BrokenError(Exception):
    """The file does not keep to its format."""


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._size = path.stat().st_size

    def metadata(self) -> dict[str, Value]:
        """All facts but lists, of which the length is kept. The tensors must lie within the file."""
        if self._take(4) != b"GGUF":
            raise _BrokenError("it does not begin with GGUF")
        version, tensors, count = self._one("I"), self._one("Q"), self._one("Q")
        if version not in (2, 3) or tensors > _MOST or count > _MOST:
            raise _BrokenError(f"version {version} with {tensors} tensors and {count} facts")
        found: dict[str, Value] = {}
        for _ in range(count):
            name = self._text()
            found[name] = self._value(self._one("I"))
        found["parameters"] = self._tensors(tensors, int(found.get("general.alignment") or 32))
        return found

    def _tensors(self, count: int, alignment: int) -> int:
        """How many weights there are in all. Raises `_BrokenError` where one begins beyond the end of the file."""
        weights = last = 0
        for _ in range(count):
            self._text()
            size = 1
            for _ in range(self._one("I")):
                size *= self._one("Q")
            self._one("I")
            last = max(last, self._one("Q"))
            weights += size
        if -(-self._file.tell() // alignment) * alignment + last >= self._size:
            raise _BrokenError("it is cut off")
        return weights

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._length()
        if kind not in _SCALARS:
            raise _BrokenError(f"a fact has the type {kind}")
        value: int | float | bool = struct.unpack("<" + _SCALARS[kind], self._take(struct.calcsize(_SCALARS[kind])))[0]
        return value

    def _length(self) -> int:
        """Pass over a list; how long it is."""
        kind, count = self._one("I"), self._one("Q")
        if count > _MOST or kind == _ARRAY:
            raise _BrokenError("a list is too long")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self._one("Q"))
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise _BrokenError(f"a list has the type {kind}")
        return count

    def _text(self) -> str:
        length = self._one("Q")
        if length > _LONGEST_TEXT:
            raise _BrokenError("a text is too long")
        return self._take(length).decode("utf-8", "replace")

    def _one(self, form: str) -> int:
        value: int = struct.unpack("<" + form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, count: int) -> bytes:
        taken = self._file.read(count)
        if len(taken) < count:
            raise _BrokenError("it is cut off")
        return taken

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise _BrokenError("it is cut off")
        self._file.seek(count, 1)


def _facts(said: dict[str, Value]) -> Facts:
    architecture = str(said.get("general.architecture") or "")
    if not architecture:
        raise _BrokenError("it names no architecture")

    def number(name: str, otherwise: int = 0) -> int:
        value = said.get(f"{architecture}.{name}")
        return int(value) if isinstance(value, int | float) else otherwise

    template = said.get("tokenizer.chat_template")
    kind = _kind(architecture, number("pooling_type"), template=bool(template))
    width, heads = number("embedding_length"), max(1, number("attention.head_count", 1))
    key, value = number("attention.key_length", width // heads), number("attention.value_length", width // heads)
    kept = number("block_count") * number("attention.head_count_kv", heads) * (key + value) * _HALF
    quantised = said.get("general.file_type")
    return Facts(
        architecture=architecture,
        kind=kind,
        context=number("context_length", 2048),
        dimensions=width if kind == "embedding" else None,
        parameters=int(said["parameters"] or 0) or None,
        quantisation=_QUANTISATIONS.get(quantised, "") if isinstance(quantised, int) else "",
        cache=kept if kind == "chat" else 0,
        tools=isinstance(template, str) and "tools" in template,
        template=bool(template),
    )


def _kind(architecture: str, pooling: int, *, template: bool) -> Kind:
    if pooling == _RANKS:
        return "rerank"
    if architecture in _ENCODERS or (pooling and not template):
        return "embedding"
    return "chat"
