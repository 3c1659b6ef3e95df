"""A model from its source to this disk: find out what it is, show its terms, fetch it, check it, put it in place."""

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gimle.foundation import config, download
from gimle.foundation.config import Settings
from gimle.foundation.download import Fetched, Progress, Source
from gimle.foundation.errors import Conflict, InvalidRequest, LicenceNotAccepted, PermanentError
from gimle.foundation.outbound import Outbound
from gimle.gateway.local import gguf, hub, manifest
from gimle.gateway.local.store import RECORD, Store
from gimle.gateway.local.types import File, Installed, Licence

# Takes the name of the file that comes, and how far it is.
Report = Callable[[str, Progress], None]
Digest = Literal["pinned", "hub", "none"]

_TOKEN = "HF_TOKEN"
_NAME = re.compile(r"[^a-z0-9._-]+")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is to be pulled, with all that is known of it before. `digest` says who told the sha256."""

    name: str
    source: str
    model: File
    digest: Digest
    licence: Licence | None = None
    projector: File | None = None
    engine: str = "llamacpp"
    memory: int | None = None


class Pull:
    """Pulls models into a store. `patience` is the download's."""

    def __init__(self, settings: Settings, store: Store, patience: download.Patience | None = None) -> None:
        self._store = store
        self._patience = patience
        self._hub = config.model_hub(settings.engines.hub)
        self._connect_seconds = settings.gateway.connect_seconds

    async def find(
        self, what: str, *, name: str | None = None, sha256: str | None = None, projector: str | None = None
    ) -> Wanted:
        """What a name of the manifest, `hf:OWNER/REPOSITORY/FILE.gguf[@REVISION]` or an address stands for.

        `projector`, in the same words, is the file through which a model sees (llama.cpp calls it mmproj).
        Raises `ModelNotFound`, `InvalidRequest`, also where hub or manifest tell another `sha256`, `PermanentError` for
        a model that is listed and does not work, and what asking the hub raises.
        """
        expected = None if sha256 is None else _digest(sha256)
        wanted = await self._found(what, name)
        if expected is not None:
            wanted = _pinned(wanted, expected)
        if projector is None:
            return wanted
        seeing = await self._found(projector, None)
        return msgspec.structs.replace(wanted, projector=seeing.model)

    async def _found(self, what: str, name: str | None) -> Wanted:
        if (file := hub.named(what)) is not None:
            async with Outbound(self._connect_seconds) as outbound:
                model, licence = await hub.ask(outbound, self._hub, config.secret(_TOKEN), file)
            digest: Digest = "hub" if model.sha256 else "none"
            return Wanted(name=_named(name or file.file), source=what, model=model, digest=digest, licence=licence)
        if "://" in what:
            return _from_address(what, name)
        entry = manifest.entry(what)
        if entry.fault is not None:
            raise PermanentError(
                f"{entry.title} is not offered: {entry.fault}.", hint="`gimle models auto` chooses another."
            )
        return Wanted(
            name=_named(name or entry.name),
            source=what,
            model=entry.model,
            digest="pinned",
            licence=entry.licence,
            projector=entry.projector,
            engine=entry.engine,
            memory=entry.memory,
        )

    def check_terms(self, wanted: Wanted, *, accepted: bool) -> None:
        """Raise `LicenceNotAccepted` where terms must be agreed to and were not."""
        terms = wanted.licence
        if terms is not None and not terms.open and not accepted:
            raise LicenceNotAccepted(
                f"{wanted.name} comes under {terms.name}: {terms.url}. {terms.notice}".strip(),
                field="accept_licence",
                hint="Read the terms, then say that you agree: --accept-licence, or accept_licence in the API.",
            )

    async def run(self, wanted: Wanted, report: Report, *, accepted: bool = False) -> Installed:
        """Have the model installed; one that is there already, with the same digest, is left as it is.

        Raises `LicenceNotAccepted`, `Conflict` for another model of that name, `ConfigError` for a file that is no
        sound model, and what `download.fetch` raises. What broke off is resumed by the next try.
        """
        self.check_terms(wanted, accepted=accepted)
        if (there := self._store.all().get(wanted.name)) is not None:
            if wanted.model.sha256 == there.installed.sha256:
                return there.installed
            raise Conflict(
                f"There is another model {wanted.name!r} already.",
                field="name",
                hint=f"Give it another name, or `gimle models remove {wanted.name}` first.",
            )
        unfinished = self._store.folder / f".{wanted.name}.part"
        async with Outbound(self._connect_seconds) as outbound:
            model, fetched = await self._fetched(outbound, wanted.model, unfinished, report)
            projector = None
            if wanted.projector is not None:
                projector, _ = await self._fetched(outbound, wanted.projector, unfinished, report)
        installed = self._described(wanted, model, fetched, projector)
        (unfinished / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(installed)))
        unfinished.rename(self._store.folder / wanted.name)
        return installed

    async def _fetched(self, outbound: Outbound, file: File, folder: Path, report: Report) -> tuple[Path, Fetched]:
        target = folder / Path(file.file).name
        token = config.secret(_TOKEN) if file.url is None else None
        source = Source(url=hub.address(self._hub, file), token=token, size=file.size, sha256=file.sha256)
        if target.is_file():  # An earlier try came as far as this.
            target.replace(target.with_name(target.name + ".part"))
        told = target.name
        return target, await download.fetch(
            outbound, source, target, lambda progress: report(told, progress), self._patience
        )

    def _described(self, wanted: Wanted, model: Path, fetched: Fetched, projector: Path | None) -> Installed:
        try:
            facts = gguf.read(model)
        except BaseException:
            # As it came, it is of no use, and to resume it would bring the same again.
            shutil.rmtree(model.parent, ignore_errors=True)
            raise
        now = datetime.now(UTC)
        asked = wanted.licence is not None and not wanted.licence.open
        return Installed(
            name=wanted.name,
            file=model.name,
            size=fetched.size,
            sha256=fetched.sha256,
            source=wanted.source,
            revision=wanted.model.revision,
            digest=wanted.digest,
            licence=wanted.licence,
            accepted_at=now if asked else None,
            installed_at=now,
            facts=facts,
            engine=wanted.engine,
            projector=projector.name if projector else None,
            memory=wanted.memory,
        )


def _digest(sha256: str) -> str:
    """A digest as tools write it, as we do. Raises `InvalidRequest` where it is none."""
    plain = sha256.strip().lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise InvalidRequest("This is no sha256.", field="sha256", hint="It has 64 digits, 0-9 and a-f.")
    return plain


def _pinned(wanted: Wanted, sha256: str) -> Wanted:
    """The model, if its file can have this digest. Raises `InvalidRequest` where it is known to have another."""
    told = wanted.model.sha256
    if told not in (None, sha256):
        raise InvalidRequest(
            f"{wanted.source} has another sha256, as it is told: {told}.",
            field="sha256",
            hint="Leave it out to take that one, or name the revision that you mean.",
        )
    return msgspec.structs.replace(wanted, model=msgspec.structs.replace(wanted.model, sha256=sha256), digest="pinned")


def _from_address(address: str, name: str | None) -> Wanted:
    parts = urlsplit(address)
    file = Path(parts.path).name
    if parts.scheme not in ("http", "https") or not parts.hostname or not file.endswith(".gguf"):
        raise InvalidRequest(
            "This is no address of a GGUF file.", field="model", hint="https://example.com/models/NAME.gguf"
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("The address holds a user or a password.", field="model")
    model = File(file=file, url=address, revision="")
    return Wanted(name=_named(name or file), source=address, model=model, digest="none")


def _named(name: str) -> str:
    """A name that can stand in `local/NAME`. Raises `InvalidRequest` where nothing is left of it."""
    short = _NAME.sub("-", Path(name).name.lower().removesuffix(".gguf")).strip("._-")
    while ".." in short:
        short = short.replace("..", ".")
    if not short:
        raise InvalidRequest("This name has no letter and no digit.", field="name")
    return short[:60].strip("._-")
