"""A source of quality that can fail, the same over HTTP and gRPC, with TLS and without."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from tests.gateway.servers import TLS, serving

from gimle.foundation.protos import quality_pb2 as proto

SCHEMES = ("http", "https", "grpc", "grpcs")
LARGE = 5 * 1024 * 1024
_STATUS = {
    "unavailable": (503, grpc.StatusCode.UNAVAILABLE),
    "unauthenticated": (401, grpc.StatusCode.UNAUTHENTICATED),
    "unheard of": (404, grpc.StatusCode.UNIMPLEMENTED),
}


class Source:
    """What it says, what is wrong with it, and what it has heard. `fault`: one of `_STATUS`, `silent`, `garbled`."""

    def __init__(self) -> None:
        self.url = ""
        self.metrics: list[tuple[str, float | None]] = []
        self.fault: str | None = None
        self.compresses = False
        self.keys: list[str | None] = []
        self.asked: list[list[str]] = []
        self.heard = asyncio.Event()

    async def hear(self, key: str | None, models: list[str]) -> None:
        """Note what was asked; be silent where that is the fault."""
        self.keys.append(key)
        self.asked.append(models)
        self.heard.set()
        if self.fault == "silent":
            await asyncio.Event().wait()


@asynccontextmanager
async def serve(scheme: str) -> AsyncIterator[Source]:
    """A source at a free port, at `scheme://127.0.0.1:port`."""
    source = Source()
    speaking = _http if scheme.startswith("http") else _grpc
    async with speaking(source, secure=scheme.endswith("s")) as address:
        source.url = f"{scheme}://{address}"
        yield source


@asynccontextmanager
async def _http(source: Source, secure: bool) -> AsyncIterator[str]:
    tls = None
    if secure:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(TLS / "server.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:-1]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        await source.hear(headers.get("authorization"), json.loads(body)["models"])
        status, _ = _STATUS.get(source.fault or "", (200, None))
        told = [
            {"model": model} if quality is None else {"model": model, "quality": quality}
            for model, quality in source.metrics
        ]
        said = b"[" * 100_000 if source.fault == "garbled" else json.dumps({"metrics": told}).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(said)) + said)
        await writer.drain()

    async with serving(answer, tls) as url:
        yield url.partition("://")[2]


@asynccontextmanager
async def _grpc(source: Source, secure: bool) -> AsyncIterator[str]:
    async def answer(
        request: proto.GetQualityMetricsRequest,
        context: grpc.aio.ServicerContext[proto.GetQualityMetricsRequest, bytes],
    ) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        await source.hear(str(metadata["authorization"]) if "authorization" in metadata else None, list(request.models))
        _, status = _STATUS.get(source.fault or "", (200, None))
        if status is not None:
            await context.abort(status, f"I am {source.fault}")
        if source.compresses:
            context.set_compression(grpc.Compression.Gzip)
        told = [proto.QualityMetric(model=model, quality=quality) for model, quality in source.metrics]
        said = proto.GetQualityMetricsResponse(metrics=told).SerializeToString()
        return b"\xff" if source.fault == "garbled" else said

    service = proto.DESCRIPTOR.services_by_name["QualityMetrics"]
    (method,) = service.methods
    handler = grpc.unary_unary_rpc_method_handler(answer, proto.GetQualityMetricsRequest.FromString, bytes)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, {method.name: handler}),))
    if secure:
        pem = (TLS / "server.pem").read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
