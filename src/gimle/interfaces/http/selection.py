"""`/api/v1/selection` and the registry of models: who would be chosen, who was and why, and how good it was."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from litestar import Response, delete, get, post, put
from litestar.params import JSONBody, QueryParameter

from gimle.app import App
from gimle.foundation.errors import InvalidRequest
from gimle.gateway import rates
from gimle.gateway.nodes import Signed
from gimle.gateway.wire import BYTES_A_TOKEN
from gimle.interfaces.http.admin import require_admin
from gimle.interfaces.http.given import After, Caller, Limit, Page, PathText, Rooms, cut
from gimle.selection import policies
from gimle.selection.facts import BUCKETS, HALF_LIFE
from gimle.selection.registrations import Registration
from gimle.selection.registry import AUTO, policy_of
from gimle.selection.replay import Logged, Report
from gimle.selection.selection import Asked, Feedback, Preferences
from gimle.selection.table import key_of
from gimle.selection.types import DataPolicy, Explanation, Kind, Label, Model, ModelSpec, Need, Priority
from gimle.trust.types import Principal

_SELECTION = "/api/v1/selection"
_REGISTRY = "/api/v1/models/registrations"
_DEAREST = 1_000_000

Tokens = Annotated[int, msgspec.Meta(ge=0, le=100_000_000)]
Labels = Annotated[tuple[Label, ...], msgspec.Meta(max_length=64)]
Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]
OfModel = Annotated[
    str | None, QueryParameter(name="model", max_length=300, description="Only this model, as `provider/name`.")
]
Nonce = Annotated[
    str, QueryParameter(name="nonce", min_length=16, max_length=64, description="Any text that was not used before.")
]


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that might be made. Of the `prompt` only how hard it looks is used; it is not kept. Cost in USD.

    `output` is how many tokens the answer may have. `models` limits the choice, as a key's scope would.
    """

    model: str = AUTO
    kind: Kind = "chat"
    prompt: Annotated[str, msgspec.Meta(max_length=1_000_000)] | None = None
    turns: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    tokens: Tokens | None = None
    output: Tokens = 400
    capabilities: Labels = ()
    policy: str | None = None
    weights: dict[str, float] = {}
    regions: Labels = ()
    tags: Labels = ()
    models: Names = ()
    data: DataPolicy = "any"
    max_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_cost: Decimal | None = None
    priority: Priority = "normal"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured of a model, on all nodes together, for the shortest prompts seen: the seconds to the first
    content, and in `total` to the end.

    `uptime` is over the last hundred checks, calls included; `calls` is how many the figures are worth by now.
    """

    model: str
    kind: Kind
    available: bool
    reason: str | None
    uptime: float | None
    error_rate: float | None
    calls: float
    first_p50: float | None
    first_p90: float | None
    total_p50: float | None
    total_p90: float | None
    tokens_per_second: float | None
    ping_seconds: float | None
    in_flight: int


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy that may become the present one; `worth` is what a perfect answer is worth, in USD."""

    policy: str
    worth: Decimal = Decimal("0.01")


class Import(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider whose own list of models is to be registered."""

    provider: str


@post(f"{_SELECTION}/choose", summary="Choose a model, without a call", tags=["selection"], status_code=200)
async def choose_model(rooms: Rooms, principal: Caller, data: JSONBody[Question]) -> Explanation:
    """Who would be tried for a call like this, in which order, and why the others would not. Nothing is sent."""
    candidates = rooms.gateway.candidates(principal, data.model, data.kind)
    asked = Asked(
        need=_need(data),
        requested=data.model,
        policy=_policy(data, len(candidates)),
        weights=data.weights,
        begins=data.prompt,
        text=data.prompt,
        turns=data.turns,
    )
    decision = rooms.selection.decide(principal.tenant, candidates, asked)
    decided = rooms.selection.remember(principal.tenant, asked, decision, whole=True, dry_run=True)
    return (await rooms.selection.records.find(principal.tenant, decided)).decision


@get(f"{_SELECTION}/decisions", summary="List decisions", tags=["selection"])
async def list_decisions(rooms: Rooms, principal: Caller, limit: Limit = 50, after: After = None) -> Page[Logged]:
    """Decisions and what came of them, the newest first. Needs an admin key."""
    require_admin(principal)
    found = await rooms.selection.records.page(principal.tenant, after, limit + 1)
    return cut(found, limit, lambda one: one.decision.id)


@get(f"{_SELECTION}/decisions/{{id:str}}", summary="Show a decision", tags=["selection"])
async def show_decision(rooms: Rooms, principal: Caller, id: PathText) -> Logged:
    """Who was a candidate, who failed at which gate, each factor of each, and what came of it."""
    return await rooms.selection.records.find(principal.tenant, id)


@post(f"{_SELECTION}/feedback", summary="Judge an answer", tags=["selection"], status_code=204)
async def give_feedback(rooms: Rooms, principal: Caller, data: JSONBody[Feedback]) -> None:
    """Stars from 1 to 5, or a signal (`retried`, `refused`, `schema_invalid`, …): what quality is learnt from."""
    await rooms.selection.judge(principal.tenant, data)


@get(f"{_SELECTION}/preferences", summary="Show by what is chosen", tags=["selection"])
async def show_preferences(rooms: Rooms, principal: Caller) -> Preferences:
    """The policy by which your calls are decided, and the weights that differ from its own."""
    return rooms.selection.preferences(principal.tenant)


@put(f"{_SELECTION}/preferences", summary="Change by what is chosen", tags=["selection"])
async def change_preferences(rooms: Rooms, principal: Caller, data: JSONBody[Preferences]) -> Preferences:
    """Another policy or other weights, on all nodes within a second. Needs an admin key."""
    require_admin(principal)
    return await rooms.selection.prefer(principal.tenant, data)


@post(f"{_SELECTION}/promotions", summary="Follow a policy if it is better", tags=["selection"], status_code=200)
async def promote_policy(rooms: Rooms, principal: Caller, data: JSONBody[Promotion]) -> Report:
    """Judge a policy by the log, and follow it from now on if it is surely better. Needs an admin key."""
    require_admin(principal)
    return await rooms.selection.promote(principal.tenant, data.policy, float(_nano(data.worth, "worth") or 1))


@get(f"{_SELECTION}/health", summary="Show what is measured of models", tags=["selection"])
async def models_health(rooms: Rooms, principal: Caller, of_model: OfModel = None) -> Page[Health]:
    """How fast and how reliable each model is, as this node knows it."""
    models = rooms.gateway.models(principal) if of_model is None else _both(rooms, principal, of_model)
    return Page([_health(rooms, model) for model in models])


@get(f"{_SELECTION}/node", summary="Tell another node of the models", tags=["selection"])
async def tell_node(rooms: Rooms, principal: Caller, nonce: Nonce) -> Signed:
    """What this node serves, signed with the secret that the asking node holds too, for it to be used from there."""
    return rooms.gateway.catalog.statement(principal.tenant, nonce)


@get(_REGISTRY, summary="List registered models", tags=["selection"])
async def list_registered(
    rooms: Rooms, principal: Caller, limit: Limit = 50, after: After = None
) -> Page[Registration]:
    """What was said of models here, beyond what providers tell. `/api/v1/models` lists what comes of it."""
    return cut(await rooms.registrations.list(principal.tenant, after or "", limit + 1), limit, lambda one: one.id)


@post(_REGISTRY, summary="Register a model", tags=["selection"])
async def register_model(rooms: Rooms, principal: Caller, data: JSONBody[ModelSpec]) -> Response[Registration]:
    """Say what is known of a model: one that its provider lists too, or one more. Needs an admin key."""
    require_admin(principal)
    rooms.gateway.catalog.get(principal.tenant, data.provider)
    made = await rooms.registrations.register(principal.tenant, data)
    return Response(made, status_code=201, headers={"location": f"{_REGISTRY}/{made.id}"})


@post(f"{_REGISTRY}/import", summary="Register what a provider lists", tags=["selection"], status_code=200)
async def import_models(rooms: Rooms, principal: Caller, data: JSONBody[Import]) -> Page[Registration]:
    """Ask a provider for its models and register those that are new. Needs an admin key.

    Another Gimle node (`node_secret_file`) must sign what it says; its models are kept as it says from then on.
    """
    require_admin(principal)
    provider = rooms.gateway.catalog.get(principal.tenant, data.provider)
    found = await rooms.gateway.catalog.discover(principal.tenant, provider.name)
    if provider.node_secret_file is not None:
        return Page(await rooms.registrations.follow(principal.tenant, provider.name, found))
    listed = {(model.provider, model.name) for model in rooms.gateway.models(principal)}
    new = [spec for spec in found if (spec.provider, spec.name) not in listed]
    return Page(await rooms.registrations.register_all(principal.tenant, new))


@get(f"{_REGISTRY}/{{id:str}}", summary="Show a registered model", tags=["selection"])
async def show_registered(rooms: Rooms, principal: Caller, id: PathText) -> Registration:
    """One registration."""
    return await rooms.registrations.get(principal.tenant, id)


@put(f"{_REGISTRY}/{{id:str}}", summary="Change a registered model", tags=["selection"])
async def change_registered(rooms: Rooms, principal: Caller, id: PathText, data: JSONBody[ModelSpec]) -> Registration:
    """Replace what is said of a model. Needs an admin key."""
    require_admin(principal)
    return await rooms.registrations.change(principal.tenant, id, data)


@delete(f"{_REGISTRY}/{{id:str}}", summary="Unregister a model", tags=["selection"])
async def unregister_model(rooms: Rooms, principal: Caller, id: PathText) -> None:
    """Forget what was said of a model. Needs an admin key."""
    require_admin(principal)
    await rooms.registrations.forget(principal.tenant, id)


def _policy(asked: Question, candidates: int) -> str | None:
    """By which policy a call like this would be decided: its model's name wins over what else it says."""
    if asked.policy is not None:
        policies.named(asked.policy)
    by_name = policy_of(asked.model)
    if by_name is None and candidates == 1:
        return policies.NAMED.name
    return asked.policy if by_name is None or asked.model == AUTO else by_name


def _need(asked: Question) -> Need:
    tokens = asked.tokens if asked.tokens is not None else len(asked.prompt or "") // BYTES_A_TOKEN
    return Need(
        kind=asked.kind,
        capabilities=frozenset(asked.capabilities),
        tokens=tokens,
        output=asked.output,
        regions=frozenset(asked.regions),
        tags=frozenset(asked.tags),
        scope=asked.models,
        data=asked.data,
        max_seconds=asked.max_seconds,
        max_nano=None if asked.max_cost is None else _nano(asked.max_cost, "max_cost"),
        priority=asked.priority,
    )


def _nano(usd: Decimal, field: str) -> int:
    if not usd.is_finite() or not 0 <= usd <= _DEAREST:
        raise InvalidRequest("An amount is 0 or more USD.", field=field)
    return rates.nano(usd)


def _both(rooms: App, principal: Principal, name: str) -> Sequence[Model]:
    return [model for model in rooms.gateway.models(principal) if name in (model.id, model.name)]


def _health(rooms: App, model: Model) -> Health:
    board, key = rooms.selection.board, key_of(model)
    known = board.of(key)
    fading = 2.0 ** ((known.at - datetime.now(UTC).timestamp()) / HALF_LIFE)
    size = next((tokens for tokens in (*BUCKETS, BUCKETS[-1] + 1) if known.quantile(tokens, 0.5) is not None), 0)
    return Health(
        model=model.id,
        kind=model.kind,
        available=model.unavailable is None,
        reason=model.unavailable,
        uptime=known.uptime(),
        error_rate=round(known.errors / known.calls, 4) if known.calls else None,
        calls=round(known.calls * fading, 2),
        first_p50=known.quantile(size, 0.5),
        first_p90=known.quantile(size, 0.9),
        total_p50=known.quantile(size, 0.5, whole=True),
        total_p90=known.quantile(size, 0.9, whole=True),
        tokens_per_second=round(known.tokens / known.writing, 1) if known.writing else None,
        ping_seconds=round(known.ping / known.pings, 4) if known.pings else None,
        in_flight=board.in_flight(key),
    )


HANDLERS = (
    choose_model,
    list_decisions,
    show_decision,
    give_feedback,
    show_preferences,
    change_preferences,
    promote_policy,
    models_health,
    tell_node,
    list_registered,
    register_model,
    import_models,
    show_registered,
    change_registered,
    unregister_model,
)
