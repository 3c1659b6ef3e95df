"""How good models are, as a source outside says: `GetQualityMetrics` over HTTP.

    POST <url>   {"models": ["openai/gpt-4o", …]}
    200          {"metrics": [{"model": "openai/gpt-4o", "quality": 0.91}, …]}

Quality is from 0 to 1. Models that the source does not know are left out, and so are ours that it was not asked for.
"""

from collections.abc import Collection

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.foundation.outbound import Outbound, Request

_SECONDS = 10.0
_MOST_BYTES = 4 * 1024 * 1024


class _Metric(msgspec.Struct, frozen=True):
    model: str
    quality: float


class _Metrics(msgspec.Struct, frozen=True):
    metrics: list[_Metric]


async def ask(outbound: Outbound, url: str, key: str | None, models: Collection[str]) -> dict[str, float]:
    """The quality of models, by id. Raises `UpstreamError` or `UpstreamTimeout`."""
    headers = (("content-type", "application/json"), *((("authorization", f"Bearer {key}"),) if key else ()))
    body = msgspec.json.encode({"models": sorted(models)})
    reply = await outbound.send(Request(url=url, headers=headers, body=body), seconds=_SECONDS, limit=_MOST_BYTES)
    if reply.status != 200:
        raise UpstreamError(f"The source of quality answered {reply.status}.")
    return read(reply.body, models)


def read(body: bytes, models: Collection[str]) -> dict[str, float]:
    """The quality of those models that were asked for. Raises `UpstreamError`."""
    try:
        told = msgspec.json.decode(body, type=_Metrics)
    except (msgspec.MsgspecError, RecursionError):
        raise UpstreamError("The source of quality did not answer as it should.") from None
    return {one.model: one.quality for one in told.metrics if one.model in models and 0.0 <= one.quality <= 1.0}
