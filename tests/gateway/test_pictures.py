"""Pictures on their way from callers of each dialect to providers that take bytes only, and to those in our network."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.calls import ANNA, QUICK, opened, parsed, provider, read, replied, streamed
from tests.gateway.geminis import RECORDED
from tests.gateway.images import gif, jpeg, png, webp

from gimle.foundation.errors import (
    ConfigError,
    GimleError,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    Unsayable,
    UrlNotAllowed,
    UrlNotFetched,
)
from gimle.gateway import pictures as watched
from gimle.gateway.gateway import Gateway
from gimle.gateway.pictures import place
from gimle.gateway.types import ChatCall
from gimle.testing import Behaviour, Upstream

GEMINI = "google/gemini-2.5-flash"
FIELDS = {
    "openai": "messages[0].content[1].image_url",
    "anthropic": "messages[0].content[1].source",
    "responses": "input[0].content[1].image_url",
}
DIALECTS = sorted(FIELDS)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    """Where the pictures lie."""
    async with Upstream(picture(png())) as server:
        yield server


@pytest.fixture
async def google(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    upstream.usual = Behaviour(body=json.dumps(RECORDED["reply"]).encode())
    return upstream


@pytest.fixture
async def gateway(google: Upstream, server: Upstream, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with seeing(tmp_path, server, {"google": {"base_url": google.url}}) as gateway:
        yield gateway


def seeing(
    folder: Path, server: Upstream, providers: dict[str, Any], **settings: Any
) -> AbstractAsyncContextManager[Gateway]:
    """A gateway that may fetch from the server of pictures, though it stands on this machine."""
    allow = (server.url.split("/")[2],)
    return opened(folder, providers, msgspec.structs.replace(QUICK, fetch_allow=allow, **settings))


def picture(body: bytes, **facts: Any) -> Behaviour:
    return Behaviour(body=body, headers={"content-type": "application/octet-stream"}, **facts)


def call(dialect: str, *urls: str, model: str = GEMINI, **fields: Any) -> ChatCall:
    """A request of this dialect with words and pictures; a picture is a URL or a data URL."""
    kind = "input_text" if dialect == "responses" else "text"
    turn = {
        "role": "user",
        "content": [{"type": kind, "text": "What is this?"}, *(_part(dialect, url) for url in urls)],
    }
    body: dict[str, Any] = {"model": model, "input" if dialect == "responses" else "messages": [turn], **fields}
    if dialect == "anthropic":
        body["max_tokens"] = 9
    return parsed(json.dumps(body).encode(), model, stream=fields.get("stream", False), dialect=dialect)


def _part(dialect: str, url: str) -> dict[str, Any]:
    if dialect == "openai":
        return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
    if dialect == "responses":
        return {"type": "input_image", "image_url": url}
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def inline(body: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64encode(body).decode()}"


def shown(asked: Any) -> list[tuple[str, bytes]]:
    """The pictures that Gemini was told of."""
    parts = [part for turn in asked["contents"] for part in turn["parts"]]
    blobs = [part["inlineData"] for part in parts if "inlineData" in part]
    return [(blob["mimeType"], b64decode(blob["data"])) for blob in blobs]


# -- to a provider that takes bytes only


@each_dialect
async def test_a_url_becomes_the_picture(dialect: str, gateway: Gateway, google: Upstream, server: Upstream) -> None:
    server.plan.extend([picture(png()), picture(jpeg())])
    urls = [f"{server.url}/one.gif", f"{server.url}/two?key=1"]
    answer = replied(await gateway.chat(ANNA, call(dialect, *urls)))
    assert answer.status == 200
    assert sorted(shown(google.received[0].json)) == [("image/jpeg", jpeg()), ("image/png", png())]
    assert sorted(asked.path for asked in server.received) == ["/v1/one.gif", "/v1/two?key=1"]
    assert not any("secret" in value for asked in server.received for value in asked.headers.values())


@each_dialect
async def test_a_picture_in_base64_goes_along(dialect: str, gateway: Gateway, google: Upstream) -> None:
    await gateway.chat(ANNA, call(dialect, inline(webp(), "image/webp"), inline(gif(), "image/gif")))
    assert shown(google.received[0].json) == [("image/webp", webp()), ("image/gif", gif())]


@each_dialect
async def test_a_picture_goes_along_as_what_it_is(dialect: str, gateway: Gateway, google: Upstream) -> None:
    await gateway.chat(ANNA, call(dialect, inline(jpeg(), "image/png"), inline(gif(), "image/jpg")))
    assert shown(google.received[0].json) == [("image/jpeg", jpeg()), ("image/gif", gif())]


async def test_a_picture_that_is_named_twice_is_fetched_once(
    gateway: Gateway, google: Upstream, server: Upstream
) -> None:
    await gateway.chat(ANNA, call("openai", server.url, server.url))
    assert shown(google.received[0].json) == [("image/png", png())] * 2
    assert len(server.received) == 1


async def test_a_picture_is_fetched_once_for_all_targets(google: Upstream, server: Upstream, tmp_path: Path) -> None:
    models = [{"name": "mock"}]
    own = {"base_url": google.url, "dialect": "gemini", "models": models}
    async with seeing(tmp_path, server, {"first": own, "second": own}) as gateway:
        google.plan.append(Behaviour(status=503))
        answer = replied(await gateway.chat(ANNA, call("openai", server.url, model="mock")))
    assert answer.attempts == 2
    assert [shown(asked.json) for asked in google.received] == [[("image/png", png())]] * 2
    assert len(server.received) == 1


async def test_pictures_are_fetched_a_few_at_a_time(gateway: Gateway, google: Upstream, server: Upstream) -> None:
    server.usual = picture(png(), head_delay=0.05)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, server.open_streams)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        await gateway.chat(ANNA, call("openai", *(f"{server.url}/{number}" for number in range(10))))
        watching.cancel()
    assert len(shown(google.received[0].json)) == 10
    assert 2 <= most <= 4


async def test_a_picture_that_a_tool_gave_back(gateway: Gateway, google: Upstream, server: Upstream) -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [_part("anthropic", server.url)]}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
        {"role": "user", "content": [result]},
    ]
    body = json.dumps({"model": GEMINI, "max_tokens": 9, "messages": messages})
    await gateway.chat(ANNA, parsed(body.encode(), GEMINI, dialect="anthropic"))
    assert shown(google.received[0].json) == [("image/png", png())]
    server.usual = Behaviour(status=404)
    with pytest.raises(UrlNotFetched) as wrong:
        await gateway.chat(ANNA, parsed(body.encode(), GEMINI, dialect="anthropic"))
    assert wrong.value.field == "messages[2].content[0].content[0].source"


async def test_what_only_the_provider_understands_is_left_to_it(gateway: Gateway, google: Upstream) -> None:
    urls = ["gs://bucket/bee.png", f"{google.url}/files/abc"]
    await gateway.chat(ANNA, call("openai", *urls))
    parts = google.received[0].json["contents"][0]["parts"]
    assert [part["fileData"]["fileUri"] for part in parts[1:]] == urls


# -- what is refused, and how the caller is told


@each_dialect
@pytest.mark.parametrize(
    "url,error",
    [
        ("http://127.0.0.1/a.png", UrlNotAllowed),
        ("http://169.254.169.254/latest/", UrlNotAllowed),
        ("https://[::1]/a.png", UrlNotAllowed),
        ("http://files.example:21/a.png", UrlNotAllowed),
        ("HERE", UrlNotFetched),
    ],
)
async def test_a_url_that_gives_nothing(
    dialect: str, url: str, error: type[Exception], gateway: Gateway, google: Upstream, server: Upstream
) -> None:
    server.usual = Behaviour(status=404)
    url = url.replace("HERE", server.url)
    with pytest.raises(error) as wrong:
        await gateway.chat(ANNA, call(dialect, url))
    assert getattr(wrong.value, "field", None) == FIELDS[dialect]
    assert not google.received


@each_dialect
@pytest.mark.parametrize(
    "body,error",
    [
        (b"<html>Not found</html>", InvalidImage),
        (b"", InvalidImage),
        (b"%PDF-1.7", InvalidImage),
        (png(0, 5), InvalidImage),
        (png(10_000, 10_000), ImageTooLarge),
        (webp(2**24, 2**24, b"VP8X"), ImageTooLarge),
        (png() + b"\0" * 1_000_000, ImageTooLarge),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{value[:8]}{len(value)}",
)
async def test_what_is_no_picture_to_send(
    dialect: str, body: bytes, error: type[Exception], google: Upstream, server: Upstream, tmp_path: Path
) -> None:
    server.usual = picture(body)
    limits = {"image_mb": 1, "image_megapixels": 50}
    async with seeing(tmp_path, server, {"google": {"base_url": google.url}}, **limits) as gateway:
        for url in (server.url, inline(body)):
            with pytest.raises(error) as wrong:
                await gateway.chat(ANNA, call(dialect, url))
            assert getattr(wrong.value, "field", None) == FIELDS[dialect]
    assert not google.received


async def test_a_picture_whose_header_is_long(gateway: Gateway, google: Upstream) -> None:
    body = jpeg(before=b"\xff\xc0" * 100_000)
    await gateway.chat(ANNA, call("openai", inline(body, "image/jpeg")))
    assert shown(google.received[0].json) == [("image/jpeg", body)]


async def test_the_second_picture_is_the_one_that_is_named(gateway: Gateway, server: Upstream) -> None:
    server.plan.append(picture(png()))
    with pytest.raises(InvalidImage) as wrong:
        await gateway.chat(ANNA, call("openai", server.url, inline(b"nothing")))
    assert wrong.value.field == "messages[0].content[2].image_url"


async def test_a_server_of_pictures_that_is_slow(google: Upstream, server: Upstream, tmp_path: Path) -> None:
    server.usual = picture(png(), head_delay=30)
    async with seeing(tmp_path, server, {"google": {"base_url": google.url}}, fetch_seconds=0.1) as gateway:
        with pytest.raises(UrlNotFetched):
            await gateway.chat(ANNA, call("openai", server.url))
    await asyncio.wait_for(server.left.wait(), 5)


async def test_more_pictures_than_a_request_may_name(gateway: Gateway, server: Upstream) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        await gateway.chat(ANNA, call("openai", *(f"{server.url}/{number}" for number in range(65))))
    assert wrong.value.field == "messages[0].content[65].image_url"
    assert not server.received


async def test_more_bytes_than_a_request_may_have(
    gateway: Gateway, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "_MOST_BYTES", 3 * len(png()))
    with pytest.raises(ImageTooLarge, match="together"):
        await gateway.chat(ANNA, call("openai", *(f"{server.url}/{number}" for number in range(5))))


async def test_without_fetching_the_next_target_is_asked(google: Upstream, server: Upstream, tmp_path: Path) -> None:
    other = {"base_url": google.url, "models": [{"name": "mock"}]}
    providers = {"first": {**other, "dialect": "gemini"}, "second": other}
    async with seeing(tmp_path, server, providers, fetch_images=False) as gateway:
        with pytest.raises(Unsayable, match="base64|bytes") as wrong:
            await gateway.chat(ANNA, call("openai", server.url, model="first/mock"))
        google.usual = None
        answer = replied(await gateway.chat(ANNA, call("openai", server.url, model="mock")))
    assert wrong.value.field == FIELDS["openai"]
    assert (answer.provider, len(server.received)) == ("second", 0)


async def test_a_list_that_is_not_valid_stops_the_start(server: Upstream, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        async with opened(tmp_path, {}, msgspec.structs.replace(QUICK, fetch_allow=("10.0.0.1/8",))):
            pass


async def test_who_leaves_takes_the_fetching_along(gateway: Gateway, google: Upstream, server: Upstream) -> None:
    server.usual = picture(png(), head_delay=30)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(gateway.chat(ANNA, call("openai", server.url, f"{server.url}/2")))
        while server.open_streams < 2:
            await asyncio.sleep(0.001)
        asking.cancel()
        async with asyncio.timeout(5):
            while server.open_streams:
                await asyncio.sleep(0.001)
    assert asking.cancelled()
    assert not google.received


# -- to a provider that takes URLs, and to one in our own network


@each_dialect
async def test_who_takes_urls_is_given_them(dialect: str, upstream: Upstream, server: Upstream, tmp_path: Path) -> None:
    async with seeing(tmp_path, server, {"mock": provider(upstream)}) as gateway:
        await gateway.chat(ANNA, call(dialect, server.url, model="mock/mock"))
    (_, part) = upstream.received[0].json["messages"][0]["content"]
    assert part["image_url"]["url"] == server.url
    assert not server.received


async def test_who_is_told_not_to_take_urls_is_given_bytes(
    upstream: Upstream, server: Upstream, tmp_path: Path
) -> None:
    async with seeing(tmp_path, server, {"mock": {**provider(upstream), "image_urls": False}}) as gateway:
        await gateway.chat(ANNA, call("openai", server.url, model="mock/mock"))
    (_, part) = upstream.received[0].json["messages"][0]["content"]
    assert part["image_url"]["url"] == inline(png())


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_in_our_network_never_follows_a_callers_url(
    stream: bool, upstream: Upstream, server: Upstream, tmp_path: Path
) -> None:
    """It would reach what the caller can't. All else of the request passes as it came."""
    async with seeing(tmp_path, server, {"mock": {**provider(upstream), "local": True}}) as gateway:
        asked = call("openai", server.url, inline(gif()), model="mock/mock", seed=7, mirostat=2, stream=stream)
        answer = await gateway.chat(ANNA, asked)
        if stream:
            assert b"[DONE]" in await read(streamed(answer))
        for url in ("http://127.0.0.1:1/a.png", "data:image/png,x", "file:///etc/passwd", "http://localhost/"):
            with pytest.raises(UrlNotAllowed):
                await gateway.chat(ANNA, call("openai", url, model="mock/mock"))
    (told,) = [asked.json for asked in upstream.received]
    assert [part["image_url"]["url"] for part in told["messages"][0]["content"][1:]] == [inline(png()), inline(gif())]
    assert (told["model"], told["seed"], told["mirostat"]) == ("mock", 7, 2)


async def test_an_engine_is_not_reached_by_another_spelling(
    upstream: Upstream, server: Upstream, tmp_path: Path
) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": [_part("openai", "http://localhost/")]}]})
    spelled = body.replace("image_url", "image\\u005furl").replace("url", "\\u0075rl")
    async with seeing(tmp_path, server, {"mock": {**provider(upstream), "local": True}}) as gateway:
        with pytest.raises(UrlNotAllowed):
            await gateway.chat(ANNA, parsed(spelled.encode(), "mock/mock"))
    assert not upstream.received


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "http://localhost/"}},
        {"type": "audio_url", "audio_url": {"url": "http://localhost/"}},
        {"video_url": "http://localhost/"},
        {"type": "text", "text": "This:", "uuid": "1", "image_url": {"url": "http://localhost/"}},
        {"type": "text", "text": "This:", "uuid": "1", "video_url": {"url": "http://localhost/"}},
    ],
)
async def test_nor_does_it_follow_one_in_a_part_that_only_it_knows(
    part: dict[str, Any], upstream: Upstream, server: Upstream, tmp_path: Path
) -> None:
    """vLLM takes films and sound too, and goes by the field where a part has no type, or a uuid."""
    body = json.dumps({"messages": [{"role": "user", "content": [part]}]})
    async with seeing(tmp_path, server, {"mock": {**provider(upstream), "local": True}}) as gateway:
        with pytest.raises(InvalidRequest):
            await gateway.chat(ANNA, parsed(body.encode(), "mock/mock"))
    assert not upstream.received


@pytest.mark.parametrize("url", ["HERE", "http://localhost/a.png"])
async def test_nor_does_it_when_it_goes_on_with_anothers_answer(
    url: str, upstream: Upstream, second: Upstream, server: Upstream, tmp_path: Path
) -> None:
    url = url.replace("HERE", server.url)
    upstream.plan.append(Behaviour(cut_after=4))
    inside = {**provider(second), "local": True, "continues_assistant": True}
    async with seeing(tmp_path, server, {"first": provider(upstream), "second": inside}) as gateway:
        stream = streamed(await gateway.chat(ANNA, call("responses", url, model="mock", stream=True)))
        if url == server.url:
            await read(stream)
        else:
            with pytest.raises(GimleError):
                await read(stream)
    asked = [told.json["messages"][0]["content"][1]["image_url"]["url"] for told in second.received]
    assert asked == ([inline(png())] if url == server.url else [])


async def test_nor_does_it_to_count_tokens(upstream: Upstream, server: Upstream, tmp_path: Path) -> None:
    inside = {**provider(upstream), "dialect": "anthropic", "local": True}
    async with seeing(tmp_path, server, {"mock": inside}) as gateway:
        assert await gateway.count_call(ANNA, call("anthropic", server.url, model="mock/mock")) > 1000
        assert not upstream.received
        upstream.usual = Behaviour(body=b'{"input_tokens": 7}')
        assert await gateway.count_call(ANNA, call("anthropic", inline(png()), model="mock/mock")) == 7


# -- where a picture stands


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4), JSON, st.integers(0, 3))
def test_a_picture_has_a_place_in_any_body(body: dict[str, Any], beside: Any, depth: int) -> None:
    told: Any = "https://a.example/bee.png"
    for _ in range(depth):
        told = {"one": beside, "two": [beside, told]}
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in {**body, "messages": told}.items()}
    assert place(raw, "https://a.example/bee.png") == "messages" + ".two[1]" * depth
    assert place(raw, "https://a.example/wasp.png") is None


def test_the_first_place_counts() -> None:
    body = {"a": msgspec.Raw(b'[{"b":"c"},{"url":"x","z":["x"]}]'), "d": msgspec.Raw(b'"x"')}
    assert place(body, "x") == "a[1]"
    assert place(body, "c") == "a[0].b"
    assert place(body, "y") is None
