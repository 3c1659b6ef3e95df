"""`/api/v1/models/local`: a model is fetched with progress, serves, and is removed again."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.gateway.local.fakehub import FakeHub, Trouble, standing
from tests.gateway.local.test_pull import CLOSED, TINY, known
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation.config import Settings

LOCAL = "/api/v1/models/local"
FILE = "hf:org/tiny-gguf/Tiny-Q4_0.gguf"


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with standing() as hub:
        hub.files["org/tiny-gguf"] = {"Tiny-Q4_0.gguf": TINY}
        yield hub


@pytest.fixture
async def house(settings: Settings, hub: FakeHub) -> AsyncIterator[App]:
    engines = msgspec.structs.replace(settings.engines, hub=hub.url)
    async with await App.open(msgspec.structs.replace(settings, engines=engines)) as app:
        yield app


@pytest.fixture
async def served(house: App, tenants: tuple[str, str]) -> AsyncIterator[Served]:
    async with serving(house, tenants[0]) as running:
        yield running


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = [dict(line.split(": ", 1) for line in each.splitlines()) for each in text.split("\n\n") if "event" in each]
    return [(each["event"], json.loads(each["data"])) for each in found]


async def test_a_model_is_fetched_with_progress_and_offered_at_once(served: Served, hub: FakeHub) -> None:
    hub.files["org/tiny-gguf"]["Tiny-Q4_0.gguf"] = TINY + bytes(3_000_000)
    hub.plan.append(Trouble(slow=0.02))
    answer = await served.http.post(LOCAL, json={"model": FILE, "name": "tiny"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *progress, (last, done) = events(answer.text)
    assert len(progress) > 2
    assert all(name == "progress" for name, _ in progress)
    assert all(told["file"] == "Tiny-Q4_0.gguf" and told["total"] == 3_000_256 for _, told in progress)
    assert any(told["rate"] > 0 and told["eta"] is not None for _, told in progress)
    assert (last, done["name"], done["load"]["phase"]) == ("done", "tiny", "stopped")
    health = {part["name"]: part for part in (await served.http.get("/health")).json()["components"]}
    assert health["local models"]["status"] in ("healthy", "degraded")
    listed = (await served.http.get(LOCAL)).json()["items"]
    assert [model["name"] for model in listed] == ["tiny"]
    offered = [model["id"] for model in (await served.http.get("/api/v1/models")).json()["items"]]
    assert "local/tiny" in offered
    assert (await served.http.delete(f"{LOCAL}/tiny")).status_code == 204
    offered = [model["id"] for model in (await served.http.get("/api/v1/models")).json()["items"]]
    assert "local/tiny" not in offered
    assert (await served.http.delete(f"{LOCAL}/tiny")).status_code == 404


async def test_what_fails_on_the_way_ends_the_stream_with_an_error(served: Served, hub: FakeHub) -> None:
    hub.plan.append(Trouble(flip=True))
    answer = await served.http.post(LOCAL, json={"model": FILE})
    name, told = events(answer.text)[-1]
    assert (name, told["error"]["code"]) == ("error", "corrupt_download")
    assert not (await served.http.get(LOCAL)).json()["items"]


async def test_what_is_wrong_before_has_a_status(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, licence=CLOSED)
    refused = await served.http.post(LOCAL, json={"model": "tiny"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (403, "accept_licence")
    assert refused.json()["error"]["code"] == "licence_not_accepted"
    missing = await served.http.post(LOCAL, json={"model": "nothing"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    agreed = await served.http.post(LOCAL, json={"model": "tiny", "accept_licence": True})
    assert events(agreed.text)[-1][1]["sha256"] == hashlib.sha256(TINY).hexdigest()


async def test_it_is_for_administrators(served: Served, house: App, tenants: tuple[str, str]) -> None:
    key = await house.keys.create(tenants[0], "plain")
    await house.ring.refresh()
    plain = {"authorization": f"Bearer {key.token}"}
    for answer in (
        await served.http.get(LOCAL, headers=plain),
        await served.http.post(LOCAL, json={"model": FILE}, headers=plain),
        await served.http.delete(f"{LOCAL}/tiny", headers=plain),
    ):
        assert answer.status_code == 403
