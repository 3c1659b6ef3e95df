"""`/api/v1/allowances` over HTTP, and the quota of storage at an upload."""

from collections.abc import AsyncIterator

import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App

ALLOWANCES = "/api/v1/allowances"


@pytest.fixture
async def served(app: App, tenants: tuple[str, str]) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        yield running


async def test_an_allowance_is_set_changed_listed_and_removed(
    served: Served, app: App, tenants: tuple[str, str]
) -> None:
    put = await served.http.put(ALLOWANCES, json={"requests_minute": 5})
    assert put.status_code == 200, put.text
    again = await served.http.put(ALLOWANCES, json={"requests_minute": 7, "storage_bytes": 10})
    assert again.json()["id"] == put.json()["id"]
    key = await served.http.put(ALLOWANCES, json={"scope": "key", "subject": "key_1", "cache_seconds": 0})
    listed = (await served.http.get(ALLOWANCES)).json()["items"]
    assert [each["id"] for each in listed] == [put.json()["id"], key.json()["id"]]
    assert listed[0]["requests_minute"] == 7
    async with serving(app, tenants[1]) as stranger:
        assert (await stranger.http.get(ALLOWANCES)).json()["items"] == []
        assert (await stranger.http.delete(f"{ALLOWANCES}/{put.json()['id']}")).status_code == 404
    refused = await served.http.put(ALLOWANCES, json={"scope": "key"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "subject")
    assert (await served.http.delete(f"{ALLOWANCES}/{put.json()['id']}")).status_code == 204
    assert len((await served.http.get(ALLOWANCES)).json()["items"]) == 1


async def test_an_upload_beyond_the_quota_of_storage_is_refused_with_the_reason(served: Served, app: App) -> None:
    await served.http.put(ALLOWANCES, json={"storage_bytes": 1_000_000})
    await app.allowances.refresh()
    for name, size, status in (("a.txt", 600_000, 202), ("b.txt", 600_000, 429), ("c.txt", 300_000, 202)):
        sent = await served.http.post(
            "/api/v1/knowledge/documents", files={"file": (name, (name * size)[:size].encode(), "text/plain")}
        )
        assert sent.status_code == status, sent.text
        if status == 429:
            error = sent.json()["error"]
            assert error["code"] == "quota_exceeded"
            assert "1 MB of documents" in error["message"]
            assert "Delete documents" in error["hint"]
            assert int(sent.headers["retry-after"]) > 0
