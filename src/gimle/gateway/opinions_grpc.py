"""`GetQualityMetrics` over gRPC, as `proto/gimle/v1/quality.proto` has it. It needs `pip install 'gimle[grpc]'`.

What holds for HTTP holds here: straight to the host that was named, past any proxy of the environment, since the key
goes along; and the same authorities are believed about its certificate.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError

from gimle.foundation import certificates
from gimle.foundation.errors import ConfigError, UpstreamError, UpstreamTimeout
from gimle.foundation.protos import quality_pb2 as proto

_METHOD = "/gimle.v1.QualityMetrics/GetQualityMetrics"
_LONGEST_DETAIL = 300


async def ask(
    url: str, key: str | None, models: Iterable[str], *, seconds: float, limit: int
) -> list[tuple[str, float]]:
    """What `grpc://host:port`, or with TLS `grpcs://host:port`, says: models with their quality, in `limit` bytes.

    Raises `UpstreamError`, `UpstreamTimeout` after so many seconds, and `ConfigError` for a key that can't be sent.
    """
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError("The key of the source of quality is not plain text.", field="selection.quality_key_env")
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    request = proto.GetQualityMetricsRequest(models=models).SerializeToString()
    async with _channel(url, limit) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        try:
            body = await call(request, timeout=seconds, metadata=metadata)
        except grpc.aio.AioRpcError as failed:
            raise _told(failed) from None
    return _read(body)


def _channel(url: str, limit: int) -> grpc.aio.Channel:
    parts = urlsplit(url)
    # The limit holds for the answer as it came, and again for what it was before it was compressed.
    options = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", limit))
    target = f"dns:///{parts.netloc}"
    if parts.scheme == "grpc":
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(certificates.authorities()), options)


def _told(failed: grpc.aio.AioRpcError) -> UpstreamError:
    if failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UpstreamTimeout("The source of quality did not answer in time.")
    detail = (failed.details() or "")[:_LONGEST_DETAIL]
    return UpstreamError(f"The source of quality answered {failed.code().name} ({detail}).")


def _read(body: bytes) -> list[tuple[str, float]]:
    try:
        told = proto.GetQualityMetricsResponse.FromString(body).metrics
    except DecodeError:
        told = None
    if told is None or not all(one.HasField("quality") for one in told):
        raise UpstreamError("The source of quality did not answer as it should.")
    return [(one.model, one.quality) for one in told]
