"""Every caller before every provider: nothing is lost that the other side can say, and nothing goes silently."""

import json

import pytest
from tests.conformance.matrix import CALLERS, PROVIDERS, REQUESTS, Asked, call, dialect, lane, laid_over

from gimle.foundation.errors import Unsayable
from gimle.gateway.lanes import Call

ASKED = [(name, caller) for name, asked in REQUESTS.items() for caller in asked.callers]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("name", "caller"), ASKED)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_request_is_said_in_the_providers_words(name: str, caller: str, provider: str, stream: bool) -> None:
    asked = REQUESTS[name]
    model, pair = asked.model(provider), asked.pair(caller, provider)
    opened = Call(call(caller, asked.callers[caller], stream=stream), dialect(caller))
    way = lane(opened, provider, model)
    if pair.refused is not None:
        with pytest.raises(Unsayable) as refused:
            way.request()
        assert opened.named(refused.value.field or "") == pair.refused
        return
    written = way.request()
    sent = json.loads(written.body)
    expected = theirs(asked, caller, provider)
    if provider != "gemini":
        expected |= {"model": model, **({"stream": True} if stream else {})}
    if provider == "openai" and stream:
        expected["stream_options"] = {"include_usage": True}
    assert sent == expected
    assert sorted(written.dropped) == sorted(pair.dropped)
    assert written.path == path(provider, model, stream)


def theirs(asked: Asked, caller: str, provider: str) -> dict[str, object]:
    """What the provider must be sent: the caller's own words where both speak one dialect."""
    if caller == provider:
        return {name: json.loads(bytes(raw)) for name, raw in asked.callers[caller].items()}
    return laid_over(asked.providers[provider], asked.pair(caller, provider).fields)


def path(provider: str, model: str, stream: bool) -> str:
    if provider == "gemini":
        return f"/models/{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
    return {"openai": "/chat/completions", "anthropic": "/messages", "responses": "/responses"}[provider]


def test_every_caller_meets_every_provider() -> None:
    assert {caller for _, caller in ASKED} == set(CALLERS)
    for asked in REQUESTS.values():
        assert set(asked.providers) == set(PROVIDERS)
