"""From a name to a model on the disk, and what stands in the way."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.gateway.local.fakehub import REVISION, FakeHub, Trouble, standing

from gimle.foundation.config import EngineSettings, Settings
from gimle.foundation.download import Patience, Progress
from gimle.foundation.errors import (
    ConfigError,
    Conflict,
    CorruptDownload,
    Forbidden,
    InvalidRequest,
    LicenceNotAccepted,
    ModelNotFound,
    NotFound,
    PermanentError,
    UpstreamError,
)
from gimle.gateway.local import manifest
from gimle.gateway.local.pull import Pull
from gimle.gateway.local.store import Store
from gimle.gateway.local.types import Entry, File, Installed, Licence

QUICK = Patience(tries=2, pause_seconds=0.01, longest_pause_seconds=0.02, idle_seconds=2.0)
# A sound GGUF file with no weights to speak of: one fact, one tensor of four numbers.
TINY = (
    b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + (1).to_bytes(8, "little")
    + (20).to_bytes(8, "little") + b"general.architecture" + (8).to_bytes(4, "little")
    + (5).to_bytes(8, "little") + b"llama"
    + (1).to_bytes(8, "little") + b"w" + (1).to_bytes(4, "little") + (4).to_bytes(8, "little")
    + (0).to_bytes(4, "little") + (0).to_bytes(8, "little")
).ljust(256, b"\0")  # fmt: skip
SHA = hashlib.sha256(TINY).hexdigest()
OPEN = Licence(name="Apache-2.0", url="https://example.com/licence", open=True)
CLOSED = Licence(name="Some Community License", url="https://example.com/terms", notice="Built with it.")


class Puller(NamedTuple):
    hub: FakeHub
    pull: Pull
    store: Store

    async def __call__(self, what: str, *, accepted: bool = False, name: str | None = None) -> Installed:
        wanted = await self.pull.find(what, name=name)
        return await self.pull.run(wanted, lambda file, progress: None, accepted=accepted)


@pytest.fixture
async def puller(tmp_path: Path) -> AsyncIterator[Puller]:
    async with standing() as hub:
        hub.files["org/tiny-gguf"] = {"Tiny-Q4_0.gguf": TINY, "README.md": b"read me"}
        settings = Settings(data=tmp_path, engines=EngineSettings(hub=hub.url + "/"))
        store = Store(settings)
        yield Puller(hub, Pull(settings, store, QUICK), store)


def known(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    """Put one model into the manifest."""
    file = File(repository="org/tiny-gguf", revision=REVISION, file="Tiny-Q4_0.gguf", size=len(TINY), sha256=SHA)
    entry = Entry(name="tiny", title="Tiny", model=file, licence=OPEN, memory=1000, bits=4.0)
    monkeypatch.setattr(manifest, "entries", lambda: (msgspec.structs.replace(entry, **changed),))


async def test_a_model_of_the_manifest_is_pinned(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    installed = await puller("tiny")
    assert (installed.name, installed.sha256, installed.digest) == ("tiny", SHA, "pinned")
    assert (installed.revision, installed.size, installed.accepted_at) == (REVISION, len(TINY), None)
    assert puller.store.get("tiny").model.read_bytes() == TINY
    assert puller.store.get("tiny").installed == installed
    # Nothing but the file was asked for.
    assert [asked.path for asked in puller.hub.asked] == [f"/org/tiny-gguf/resolve/{REVISION}/Tiny-Q4_0.gguf"]
    assert [path.name for path in puller.store.folder.iterdir()] == ["tiny"]


async def test_a_file_of_the_hub_is_pinned_to_what_the_hub_says_now(puller: Puller) -> None:
    installed = await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    assert (installed.name, installed.digest, installed.revision) == ("tiny-q4_0", "hub", REVISION)
    assert installed.licence is not None
    assert installed.licence.open
    assert puller.hub.fetches[0].path == f"/org/tiny-gguf/resolve/{REVISION}/Tiny-Q4_0.gguf"


async def test_an_address_is_taken_as_it_comes(puller: Puller) -> None:
    installed = await puller(f"{puller.hub.url}/org/tiny-gguf/resolve/main/Tiny-Q4_0.gguf", name="Mine")
    assert (installed.name, installed.digest, installed.licence) == ("mine", "none", None)


@pytest.mark.parametrize("given", [SHA.upper(), f"sha256:{SHA}", f" {SHA}\n"])
async def test_a_digest_is_taken_as_tools_write_it(puller: Puller, given: str) -> None:
    for what in (f"{puller.hub.url}/org/tiny-gguf/resolve/main/Tiny-Q4_0.gguf", "hf:org/tiny-gguf/Tiny-Q4_0.gguf"):
        wanted = await puller.pull.find(what, sha256=given)
        assert (wanted.model.sha256, wanted.digest) == (SHA, "pinned")


@pytest.mark.parametrize("given", ["", "abc", SHA[:-1] + "g", "0" * 64])
async def test_a_digest_that_cannot_be_right_is_refused_before_a_byte_comes(
    puller: Puller, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    known(monkeypatch)
    for what in ("tiny", "hf:org/tiny-gguf/Tiny-Q4_0.gguf"):
        with pytest.raises(InvalidRequest) as refused:
            await puller.pull.find(what, sha256=given)
        assert refused.value.field == "sha256"
    assert not puller.hub.fetches


async def test_a_repository_that_was_renamed_is_found_on_the_same_host(puller: Puller) -> None:
    puller.hub.moved = {
        "old/tiny": "/api/models/org/tiny-gguf/revision/main?blobs=true",
        "away/tiny": "http://localhost:9/api/models/org/tiny-gguf/revision/main",
        "round/tiny": "/api/models/round/tiny/revision/main",
    }
    assert (await puller.pull.find("hf:old/tiny/Tiny-Q4_0.gguf")).model.sha256 == SHA
    with pytest.raises(UpstreamError, match="status 307"):
        await puller.pull.find("hf:away/tiny/Tiny-Q4_0.gguf")
    with pytest.raises(UpstreamError, match="in a circle"):
        await puller.pull.find("hf:round/tiny/Tiny-Q4_0.gguf")


async def test_terms_must_be_agreed_to_before_a_byte_comes(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, licence=CLOSED)
    with pytest.raises(LicenceNotAccepted, match="Some Community License: https://example.com/terms. Built with it"):
        await puller("tiny")
    assert not puller.hub.asked
    installed = await puller("tiny", accepted=True)
    assert installed.licence == CLOSED
    assert installed.accepted_at is not None


async def test_terms_that_the_hub_does_not_call_open_must_be_agreed_to(puller: Puller) -> None:
    puller.hub.licence = {"license": "other", "license_name": "gemma", "license_link": "https://example.com/gemma"}
    with pytest.raises(LicenceNotAccepted, match="gemma: https://example.com/gemma"):
        await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")


async def test_a_corrupt_file_is_not_installed(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    puller.hub.plan.append(Trouble(flip=True))
    with pytest.raises(CorruptDownload):
        await puller("tiny")
    assert not puller.store.all()


async def test_what_is_no_model_is_not_installed(puller: Puller) -> None:
    puller.hub.files["org/tiny-gguf"]["Tiny-Q4_0.gguf"] = b"<html>Please log in</html>" * 20
    with pytest.raises(ConfigError, match="not a sound GGUF file"):
        await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    assert not list(puller.store.folder.iterdir())


async def test_what_broke_off_goes_on_with_the_next_try(puller: Puller) -> None:
    puller.hub.plan.extend([Trouble(cut=100), *[Trouble(status=502)] * 3])
    with pytest.raises(Exception, match="status 502"):
        await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    assert not puller.store.all()
    puller.hub.plan.clear()
    await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    assert puller.hub.fetches[-1].headers["range"] == "bytes=100-"


async def test_a_model_that_sees_comes_with_its_second_file(puller: Puller) -> None:
    puller.hub.files["org/tiny-gguf"]["mmproj-Tiny.gguf"] = TINY + b"\0"
    seeing = "hf:org/tiny-gguf/mmproj-Tiny.gguf"
    wanted = await puller.pull.find("hf:org/tiny-gguf/Tiny-Q4_0.gguf", projector=seeing)
    installed = await puller.pull.run(wanted, lambda file, progress: None)
    assert (installed.file, installed.projector) == ("Tiny-Q4_0.gguf", "mmproj-Tiny.gguf")
    folder = puller.store.get("tiny-q4_0").folder
    assert sorted(path.name for path in folder.glob("*.gguf")) == ["Tiny-Q4_0.gguf", "mmproj-Tiny.gguf"]


async def test_the_same_model_is_not_fetched_twice(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    first = await puller("tiny")
    assert await puller("tiny") == first
    assert len(puller.hub.fetches) == 1


async def test_another_model_of_the_name_is_not_replaced(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    await puller("tiny")
    puller.hub.files["org/tiny-gguf"]["Tiny-Q4_0.gguf"] = TINY + b"\0"
    with pytest.raises(Conflict, match="another model 'tiny'"):
        await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf", name="tiny")


async def test_a_model_that_does_not_work_is_refused_with_its_reason(puller: Puller) -> None:
    with pytest.raises(PermanentError, match="perplexity") as caught:
        await puller("bitnet-2b-4t")
    assert "gimle models auto" in str(caught.value.hint)


async def test_what_there_is_not_is_told_with_the_nearest(puller: Puller) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await puller("bonsai-8")
    assert "bonsai-8b" in str(caught.value.hint)
    with pytest.raises(NotFound, match="has no Tiny-Q8_0.gguf") as missing:
        await puller("hf:org/tiny-gguf/Tiny-Q8_0.gguf")
    assert "Tiny-Q4_0.gguf" in str(missing.value.hint)
    with pytest.raises(NotFound, match="has no org/other"):
        await puller("hf:org/other/x.gguf")


async def test_a_private_repository_needs_the_token(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    puller.hub.private = True
    with pytest.raises(Forbidden) as caught:
        await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    assert "HF_TOKEN" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    assert all(asked.headers["authorization"] == "bearer hf_secret" for asked in puller.hub.asked[1:])


async def test_the_token_does_not_go_to_other_addresses(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await puller(f"{puller.hub.url}/org/tiny-gguf/resolve/main/Tiny-Q4_0.gguf")
    assert "authorization" not in puller.hub.fetches[0].headers


@pytest.mark.parametrize(
    "what", ["https://example.com/x.zip", "ftp://example.com/x.gguf", "https://me:pw@e.com/x.gguf"]
)
async def test_addresses_that_lead_nowhere(puller: Puller, what: str) -> None:
    with pytest.raises(InvalidRequest):
        await puller(what)


async def test_a_removed_model_is_gone(puller: Puller) -> None:
    await puller("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    removed = puller.store.remove("tiny-q4_0")
    assert removed.name == "tiny-q4_0"
    assert not list(puller.store.folder.iterdir())
    with pytest.raises(ModelNotFound):
        puller.store.remove("tiny-q4_0")


async def test_progress_names_the_file(puller: Puller) -> None:
    told: list[tuple[str, Progress]] = []
    wanted = await puller.pull.find("hf:org/tiny-gguf/Tiny-Q4_0.gguf")
    await puller.pull.run(wanted, lambda file, progress: told.append((file, progress)))
    assert told[-1][0] == "Tiny-Q4_0.gguf"
    assert told[-1][1].done == told[-1][1].total == len(TINY)
