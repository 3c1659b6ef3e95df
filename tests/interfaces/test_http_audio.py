"""Transcriptions with OpenAI's own SDK: the form passes with only its model changed, and so does what comes back."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from tests.interfaces.serving import Served, serving

from gimle.app import App
from gimle.foundation.config import Settings
from gimle.foundation.errors import PayloadTooLarge
from gimle.gateway.multipart import Form
from gimle.selection.table import key_of
from gimle.testing import WORDS, Behaviour, Received, Upstream
from gimle.trust.types import Principal

SENTENCE = "".join(WORDS)
SPEECH = ("speech.mp3", b"ID3\x04\x00" + bytes(range(256)) * 40, "audio/mpeg")
PATH = "/v1/audio/transcriptions"
# As in the published reference of streamed transcriptions.
EVENTS = (
    b'data: {"type":"transcript.text.delta","delta":"I","logprobs":[{"token":"I","logprob":-0.0001,"bytes":[73]}]}\n\n',
    b'data: {"type":"transcript.text.delta","delta":" see","logprobs":[]}\n\n',
    b'data: {"type":"transcript.text.done","text":"I see","logprobs":[],"usage":{"input_tokens":14,'
    b'"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}\n\n',
)
STREAMED = {"content-type": "text/event-stream; charset=utf-8"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    import msgspec

    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, max_body_mb=1))


@pytest.fixture
async def served(app: App, tenants: tuple[str, str], upstream: Upstream) -> AsyncIterator[Served]:
    async with serving(app, tenants[0]) as running:
        models = [{"name": "whisper-1", "kind": "transcription"}, {"name": "mock"}]
        provider = {"name": "stand", "base_url": upstream.url, "models": models}
        await running.provide(provider)
        yield running


def form(received: Received) -> Form:
    return Form(received.body, received.headers["content-type"])


async def test_speech_is_written_down(sdk: openai.AsyncOpenAI, served: Served, upstream: Upstream) -> None:
    raw = await sdk.audio.transcriptions.with_raw_response.create(
        model="stand/whisper-1", file=SPEECH, language="de", temperature=0.2, extra_body={"unknown": "kept"}
    )
    assert raw.parse().text == SENTENCE
    assert (raw.headers["x-gimle-provider"], raw.headers["x-gimle-model"]) == ("stand", "whisper-1")
    got = form(upstream.received[-1])
    assert upstream.received[-1].path == PATH
    assert [got.text(name) for name in ("model", "language", "temperature", "unknown")] == [
        "whisper-1", "de", "0.2", "kept",
    ]  # fmt: skip
    file = got.field("file")
    assert file is not None
    assert got.body[file.start : file.end] == SPEECH[1]
    assert served.token not in str(upstream.received[-1].headers)


async def test_another_format_comes_back_as_it_is(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    subtitles = "1\n00:00:00,000 --> 00:00:02,000\nGrüße\n"
    upstream.usual = Behaviour(body=subtitles.encode(), headers={"content-type": "text/plain; charset=utf-8"})
    told = await sdk.audio.transcriptions.with_raw_response.create(
        model="whisper-1", file=SPEECH, response_format="srt"
    )
    assert told.headers["content-type"] == "text/plain; charset=utf-8"
    assert told.text == subtitles


async def test_a_stream_passes(sdk: openai.AsyncOpenAI, served: Served, upstream: Upstream) -> None:
    upstream.usual = Behaviour(events=EVENTS, headers=STREAMED, piece=11)
    stream = await sdk.audio.transcriptions.create(model="stand/whisper-1", file=SPEECH, stream=True)
    told = [event async for event in stream]
    assert [event.type for event in told] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    answer = await served.http.post(PATH, data={"model": "stand/whisper-1", "stream": "true"}, files={"file": SPEECH})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b"".join(EVENTS)


async def test_a_stream_that_is_cut_never_looks_whole(served: Served, upstream: Upstream) -> None:
    for broken in (Behaviour(events=EVENTS, cut_after=2), Behaviour(events=EVENTS[:2])):
        upstream.usual = broken
        answer = await served.http.post(PATH, data={"model": "whisper-1", "stream": "true"}, files={"file": SPEECH})
        last = answer.content.rstrip().rsplit(b"\n\n", 1)[-1]
        assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "server_error"


async def test_the_ledger_knows_how_a_stream_ended(
    served: Served, app: App, upstream: Upstream, tenants: tuple[str, str]
) -> None:
    form: dict[str, Any] = {"data": {"model": "whisper-1", "stream": "true"}, "files": {"file": SPEECH}}
    upstream.plan.append(Behaviour(events=EVENTS, headers=STREAMED))
    assert (await served.http.post(PATH, **form)).content == b"".join(EVENTS)
    upstream.plan.append(Behaviour(events=EVENTS, headers=STREAMED, cut_after=2))
    await served.http.post(PATH, **form)
    upstream.plan.append(Behaviour(events=EVENTS, headers=STREAMED, stall_after=1))
    async with served.http.stream("POST", PATH, **form) as answer:
        await anext(answer.aiter_raw())
    rows: list[tuple[Any, ...]] = []
    query = "select outcome, estimated, uncached, output from call_attempt order by started_at"
    assert app.ledger.posting is not None
    async with asyncio.timeout(20):
        # What is still open has no row yet.
        while len(rows) < 3:
            await app.ledger.posting.post()
            async with app.db.tenant(tenants[0]) as conn:
                rows = [tuple(row.values()) for row in await (await conn.execute(query)).fetchall()]
    # Of those that did not end nobody knows how much they have said: what an answer has at most is entered.
    assert rows == [("done", False, 14, 45), ("broken", True, 0, 4096), ("cancelled", True, 0, 4096)]


@pytest.mark.parametrize(
    "broken",
    [
        Behaviour(events=EVENTS, headers=STREAMED, stall_after=1),
        Behaviour(events=EVENTS, headers=STREAMED, cut_after=1),
    ],
)
async def test_selection_knows_that_a_stream_is_over(
    broken: Behaviour, served: Served, app: App, upstream: Upstream, tenants: tuple[str, str]
) -> None:
    form: dict[str, Any] = {"data": {"model": "stand/whisper-1", "stream": "true"}, "files": {"file": SPEECH}}
    upstream.usual = broken
    (model,) = app.gateway.resolve(Principal(tenants[0], "key_1"), "stand/whisper-1", "transcription")
    async with served.http.stream("POST", PATH, **form) as answer:
        assert await anext(answer.aiter_raw())
    async with asyncio.timeout(5):
        while app.selection.board.in_flight(key_of(model)):
            await asyncio.sleep(0.01)


async def test_a_stream_that_says_nothing_is_given_up(served: Served, upstream: Upstream) -> None:
    upstream.usual = Behaviour(events=EVENTS, headers=STREAMED, stall_after=0)
    model = {"name": "whisper-1", "kind": "transcription"}
    await served.provide({"name": "slow", "base_url": upstream.url, "first_token_seconds": 0.2, "models": [model]})
    answer = await served.http.post(PATH, data={"model": "slow/whisper-1", "stream": "true"}, files={"file": SPEECH})
    assert answer.status_code == 504


async def test_a_provider_may_have_the_model_in_its_path(served: Served, upstream: Upstream) -> None:
    """As Azure's older addresses have it."""
    models = [{"name": "whisper", "kind": "transcription"}]
    way = {"model_path": "/openai/deployments/{model}", "query": {"api-version": "2024-10-21"}}
    await served.provide({"name": "azure", "base_url": upstream.url.removesuffix("/v1"), **way, "models": models})
    await served.http.post(PATH, data={"model": "azure/whisper"}, files={"file": SPEECH})
    asked = "/openai/deployments/whisper/audio/transcriptions?api-version=2024-10-21"
    assert upstream.received[-1].path == asked


async def test_what_is_wrong_with_a_form_is_said_in_openais_shape(served: Served, upstream: Upstream) -> None:
    speech, words = {"file": SPEECH}, {"file": (None, b"no file")}
    wrong: tuple[tuple[dict[str, str], dict[str, Any], int, str], ...] = (
        ({"model": "whisper-1"}, words, 400, "file"),
        ({}, speech, 400, "model"),
        ({"model": " "}, speech, 400, "model"),
        ({"model": "whisper-1"}, {"file": ("empty.mp3", b"")}, 400, "file"),
        ({"model": "stand/mock"}, speech, 404, "model"),
        ({"model": "nobody/nothing"}, speech, 404, "model"),
        ({"model": "whisper-1"}, {"file": ("big.wav", bytes(2_000_000))}, 413, "body"),
    )
    for data, files, status, param in wrong:
        answer = await served.http.post(PATH, data=data, files=files)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), (data, error)
        assert error["type"] == "invalid_request_error"
    assert error["code"] == PayloadTooLarge.code
    answer = await served.http.post(PATH, json={"model": "whisper-1"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content-type")
    assert upstream.received == []


async def test_the_providers_own_refusal_comes_back(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    error = {"message": "Invalid file format.", "type": "invalid_request_error", "param": "file", "code": None}
    upstream.usual = Behaviour(status=400, body=json.dumps({"error": error}).encode())
    with pytest.raises(openai.BadRequestError, match="Invalid file format") as refused:
        await sdk.audio.transcriptions.create(model="stand/whisper-1", file=SPEECH)
    assert refused.value.param == "file"


async def test_a_fault_of_the_provider_is_met_by_another_try(sdk: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.plan.append(Behaviour(status=503))
    raw = await sdk.audio.transcriptions.with_raw_response.create(model="stand/whisper-1", file=SPEECH)
    assert raw.headers["x-gimle-attempts"] == "2"
    assert form(upstream.received[-1]).body == form(upstream.received[-2]).body
