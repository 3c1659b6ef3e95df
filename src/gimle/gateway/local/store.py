"""The models on this disk: a folder each, with its files and `model.json`. A folder is there whole or not at all."""

import shutil
from pathlib import Path

import msgspec

from gimle.foundation import logs
from gimle.foundation.config import Settings
from gimle.foundation.errors import ModelNotFound
from gimle.gateway.local.types import Installed, Kept

log = logs.get("engine")

RECORD = "model.json"


class Store:
    """Reads the folder anew when it has changed."""

    def __init__(self, settings: Settings) -> None:
        named = settings.engines.models
        self.folder = Path(named).expanduser() if named else settings.data / "models"
        self._seen: int | None = None
        self._kept: dict[str, Kept] = {}

    def mark(self) -> int | None:
        """A number that changes when a model comes or goes; None while there is no folder."""
        try:
            return self.folder.stat().st_mtime_ns
        except OSError:
            return None

    def all(self) -> dict[str, Kept]:
        """The models by name, sorted."""
        mark = self.mark()
        if mark != self._seen:
            self._seen, self._kept = mark, self._read()
        return self._kept

    def get(self, name: str) -> Kept:
        """One model. Raises `ModelNotFound`."""
        found = self.all().get(name)
        if found is None:
            raise ModelNotFound(
                f"There is no local model {name[:64]!r}.", field="model", hint=f"`gimle models pull {name[:64]}`"
            )
        return found

    def remove(self, name: str) -> Installed:
        """Delete a model. Raises `ModelNotFound`."""
        kept = self.get(name)
        # Moved aside first, so that nobody finds half of it.
        aside = self.folder / f".{name}.removed"
        shutil.rmtree(aside, ignore_errors=True)
        kept.folder.rename(aside)
        shutil.rmtree(aside)
        return kept.installed

    def _read(self) -> dict[str, Kept]:
        found: dict[str, Kept] = {}
        for record in sorted(self.folder.glob(f"[!.]*/{RECORD}")):
            try:
                installed = msgspec.json.decode(record.read_bytes(), type=Installed)
            except (OSError, msgspec.DecodeError) as wrong:
                log.warning("model_not_read", file=str(record), detail=str(wrong))
                continue
            # The folder's name is the model's: a copy under another name is another model.
            found[record.parent.name] = Kept(msgspec.structs.replace(installed, name=record.parent.name), record.parent)
        return found
