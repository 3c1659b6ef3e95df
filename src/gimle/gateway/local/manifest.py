"""The models that Gimle knows by name: `gateway/engines/models.toml`."""

import difflib
import importlib.resources
import tomllib
from functools import cache

import msgspec

from gimle.foundation.errors import ModelNotFound
from gimle.gateway.local.types import Entry

DEFAULT = "llama-3-8b-instruct"


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[Entry, ...]


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, in the order of preference."""
    text = importlib.resources.files("gimle.gateway.engines").joinpath("models.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _Manifest).models


def entry(name: str) -> Entry:
    """One of them. Raises `ModelNotFound`, whose hint has the nearest names."""
    for each in entries():
        if each.name == name:
            return each
    names = [each.name for each in entries()]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    known = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names)}."
    raise ModelNotFound(
        f"There is no model {name[:64]!r} to pull.",
        field="model",
        hint=f"{known} Any other: hf:OWNER/REPOSITORY/FILE.gguf, or an address.",
    )
