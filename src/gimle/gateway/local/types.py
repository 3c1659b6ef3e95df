"""The nouns of local models."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gimle.selection.types import Kind

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9._-]{0,58}[a-z0-9])?$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Phase = Literal["stopped", "starting", "ready", "degraded"]


class Licence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under which terms a model may be used. One that is not `open` must be agreed to; `notice` must be shown then."""

    name: str
    url: str
    open: bool = False
    notice: str = ""


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file to fetch: from a repository of the hub at a revision, or from an address. `size` in bytes.

    Without a digest the hub is asked for it; from an address it is whatever comes.
    """

    file: str
    repository: str | None = None
    revision: str = "main"
    url: str | None = None
    size: int | None = None
    sha256: Sha256 | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the manifest. `memory` is what it needs to run, in bytes; `bits` what a weight takes, roughly.

    `fault` says why it is listed and not offered.
    """

    name: Name
    title: str
    model: File
    licence: Licence
    memory: int
    bits: float
    projector: File | None = None
    engine: str = "llamacpp"
    cores: int = 1
    fault: str | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's file says of itself. `context` in tokens, `cache` in bytes a token."""

    architecture: str
    kind: Kind = "chat"
    context: int = 2048
    dimensions: int | None = None
    parameters: int | None = None
    quantisation: str = ""
    cache: int = 0
    tools: bool = False
    template: bool = False


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this disk, as `model.json` in its folder records it. `digest` says how far its sha256 was known.

    "pinned": it is the manifest's or the caller's; "hub": the hub told it; "none": it was counted afterwards.
    """

    name: Name
    file: str
    size: int
    sha256: Sha256
    source: str
    revision: str
    digest: Literal["pinned", "hub", "none"]
    licence: Licence | None
    accepted_at: datetime | None
    installed_at: datetime
    facts: Facts
    engine: str = "llamacpp"
    projector: str | None = None
    memory: int | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is started with. `context` is that of one slot.

    `key` is asked of whoever calls it, and lies in `key_file`. `copies`: the weights may be held a second time, in an
    order that some processors read faster.
    """

    name: str
    model: str
    kind: Kind
    context: int
    slots: int
    threads: int
    key: str
    key_file: str
    projector: str | None = None
    copies: bool = True
    port: int = 0


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started: its command, what it reads first, and its environment on top of the usual one.

    One that `announces` itself writes `{"ready": "http://…"}` on its standard output. Any other gets a port and is
    asked for its health there.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = {}
    told: bytes = b""
    announces: bool = False


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's server does now. `busy` of its `slots` work, `waiting` calls stand behind them; memory in bytes."""

    name: str
    phase: Phase
    slots: int = 0
    busy: int = 0
    waiting: int = 0
    memory: int = 0
    error: str | None = None


class Kept(msgspec.Struct, frozen=True):
    """A model and the folder in which its files lie."""

    installed: Installed
    folder: Path

    @property
    def model(self) -> Path:
        """Its weights."""
        return self.folder / self.installed.file
