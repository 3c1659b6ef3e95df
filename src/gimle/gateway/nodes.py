"""What Gimle nodes tell each other of their models. Pure.

    GET /api/v1/selection/node?nonce=<the asker's>   {"statement": "<JSON>", "signature": "<HMAC-SHA256 of it, hex>"}

Both hold a secret that never travels. The key of the call says who asks; the signature says that the one who answers is
the node that was meant, that nobody has changed its words, and by the nonce that they are of now.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.rates import NANO
from gimle.selection.types import DataPolicy, Hardware, Kind, Model, ModelSpec


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a node serves, and all that it knows of it. Prices in nano-dollars a million tokens."""

    id: str
    kind: Kind = "chat"
    context_window: int | None = None
    max_output: int | None = None
    capabilities: tuple[str, ...] = ()
    dimensions: int | None = None
    parameters: int | None = None
    hardware: Hardware | None = None
    hardware_quality: float | None = None
    input_nano: int | None = None
    output_nano: int | None = None
    region: str | None = None
    place: tuple[float, float] | None = None
    tags: tuple[str, ...] = ()
    data_policy: DataPolicy | None = None


class Statement(msgspec.Struct, frozen=True):
    """What a node says when it is asked with a nonce."""

    nonce: str
    models: tuple[Offered, ...]


class Signed(msgspec.Struct, frozen=True):
    """A statement as it travels: its JSON as text, byte for byte what was signed."""

    statement: str
    signature: str


def told(models: Iterable[Model], nonce: str, secret: str) -> Signed:
    """What is said of models that can serve. The engines inside Gimle are left out, since every node has them."""
    able = [model for model in models if model.dialect is not None and model.unavailable is None]
    offered = tuple(msgspec.convert(model, Offered, from_attributes=True) for model in able)
    statement = msgspec.json.encode(Statement(nonce, offered)).decode()
    return Signed(statement, _signature(statement, secret))


def heard(body: bytes, nonce: str, secret: str, provider: str) -> list[ModelSpec]:
    """The models that a node offers, to be used through it as `provider`. Raises `UpstreamError`.

    What is local there is not so here.
    """
    try:
        signed = msgspec.json.decode(body, type=Signed)
        if not hmac.compare_digest(_signature(signed.statement, secret).encode(), signed.signature.encode()):
            raise UpstreamError(f"What {provider} says of its models is not signed with the secret that we share.")
        statement = msgspec.json.decode(signed.statement, type=Statement)
    except (msgspec.MsgspecError, RecursionError):
        raise UpstreamError(f"{provider} did not list its models as a Gimle node does.") from None
    if statement.nonce != nonce:
        raise UpstreamError(f"{provider} has repeated what it said before.")
    found: Sequence[ModelSpec | None] = [_spec(one, provider) for one in statement.models]
    return list({(spec.name, spec.kind): spec for spec in found if spec is not None}.values())


def _signature(statement: str, secret: str) -> str:
    return hmac.new(secret.encode(), b"gimle node 1\n" + statement.encode(), hashlib.sha256).hexdigest()


def _spec(one: Offered, provider: str) -> ModelSpec | None:
    fields = msgspec.to_builtins(one)
    for name in ("id", "input_nano", "output_nano"):
        del fields[name]
    fields |= {"provider": provider, "name": one.id}
    for name, nano in (("input_usd", one.input_nano), ("output_usd", one.output_nano)):
        fields[name] = None if nano is None else str(Decimal(nano) / NANO)
    if one.data_policy == "local":
        fields["data_policy"] = None
    if one.kind == "embedding" and one.dimensions is None:
        return None
    try:
        return msgspec.convert(fields, ModelSpec)
    except msgspec.ValidationError:
        return None
