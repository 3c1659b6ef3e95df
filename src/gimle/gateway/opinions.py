"""How good models are, as a source outside says: `GetQualityMetrics` over HTTP or gRPC.

    POST <url>   {"models": ["openai/gpt-4o", …]}
    200          {"metrics": [{"model": "openai/gpt-4o", "quality": 0.91}, …]}

A URL `grpc://host:port`, or with TLS `grpcs://host:port`, is asked the same by `opinions_grpc`. Quality is from 0 to 1.
Models that the source does not know are left out, and so are ours that it was not asked for.
"""

import importlib.util
import re
from collections.abc import Collection
from urllib.parse import urlsplit

import msgspec

from gimle.foundation import config
from gimle.foundation.errors import ConfigError, UpstreamError
from gimle.foundation.outbound import Outbound, Request

_SECONDS = 10.0
_MOST_BYTES = 4 * 1024 * 1024
_GRPC = ("grpc", "grpcs")
_ADDRESS = re.compile(r"https?://[^/?#]+([/?#].*)?|grpcs?://([\w.-]+|\[[0-9a-f:.]+\]):[0-9]{1,5}/?", re.IGNORECASE)


class _Metric(msgspec.Struct, frozen=True):
    model: str
    quality: float


class _Metrics(msgspec.Struct, frozen=True):
    metrics: list[_Metric]


def check(url: str) -> None:
    """Raises `ConfigError` unless such a source can be asked from here."""
    if _ADDRESS.fullmatch(url) is None:
        raise ConfigError(
            "selection.quality_url is no address of a source of quality.",
            field="selection.quality_url",
            hint='Write "https://quality.example.org/metrics", or "grpcs://quality.example.org:443" for gRPC.',
        )
    if urlsplit(url).scheme in _GRPC and importlib.util.find_spec("grpc") is None:
        raise ConfigError(
            "selection.quality_url is asked by gRPC, and the library grpcio is not installed.",
            field="selection.quality_url",
            hint="pip install 'gimle[grpc]'",
        )


async def ask(outbound: Outbound, url: str, key: str | None, models: Collection[str]) -> dict[str, float]:
    """The quality of those models that were asked for, by id. Raises `UpstreamError` or `UpstreamTimeout`, and
    `ConfigError` for an address or a key that can't be used.
    """
    by_grpc = urlsplit(url).scheme in _GRPC
    told = await (_by_grpc(url, key, models) if by_grpc else _by_http(outbound, url, key, models))
    return {model: quality for model, quality in told if model in models and 0.0 <= quality <= 1.0}


async def _by_http(outbound: Outbound, url: str, key: str | None, models: Collection[str]) -> list[tuple[str, float]]:
    headers = (("content-type", "application/json"), *((("authorization", f"Bearer {key}"),) if key else ()))
    body = msgspec.json.encode({"models": sorted(models)})
    reply = await outbound.send(Request(url=url, headers=headers, body=body), seconds=_SECONDS, limit=_MOST_BYTES)
    if reply.status != 200:
        raise UpstreamError(f"The source of quality answered {reply.status}.")
    try:
        told = msgspec.json.decode(reply.body, type=_Metrics)
    except (msgspec.MsgspecError, RecursionError):
        raise UpstreamError("The source of quality did not answer as it should.") from None
    return [(one.model, one.quality) for one in told.metrics]


async def _by_grpc(url: str, key: str | None, models: Collection[str]) -> list[tuple[str, float]]:
    # Else it writes to our log in a form of its own, and stops its threads whenever we start a child process.
    config.preset(GRPC_VERBOSITY="NONE", GRPC_ENABLE_FORK_SUPPORT="0")
    # An extra, and 19 MB: loaded by those who use it.
    from gimle.gateway import opinions_grpc

    return await opinions_grpc.ask(url, key, sorted(models), seconds=_SECONDS, limit=_MOST_BYTES)
