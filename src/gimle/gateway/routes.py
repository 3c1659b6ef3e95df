"""From a name to the models that may answer a call, best first: its deployments, then those that stand in for it.

Who names one model gets it, and nothing is decided. Between the deployments of a bare name, and for `auto`, selection
decides.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from gimle.foundation.config import Settings
from gimle.foundation.errors import ModelNotFound, Unavailable, Unpriced
from gimle.gateway.catalog import Snapshot
from gimle.gateway.inside import Engines
from gimle.gateway.local.host import LOCAL
from gimle.selection import choose
from gimle.selection.decision import Decision
from gimle.selection.policies import NAMED
from gimle.selection.registry import AUTO, policy_of
from gimle.selection.selection import Asked, Selection
from gimle.selection.table import stays
from gimle.selection.types import Kind, Model, Need

_NONE: Mapping[Kind, str] = {
    "chat": "Give a provider's key (OPENAI_API_KEY), or add a provider under /api/v1/llm/providers.",
    "embedding": "Run `gimle setup`, or add a provider that makes vectors.",
    "rerank": "Run `gimle setup`, or give the key of a provider that ranks (COHERE_API_KEY).",
}
_UNPRICED = "nobody knows what it costs"
# So many names and snapshots are remembered.
_MOST = 1024


class Decided(msgspec.Struct, frozen=True):
    """What selection was asked, and what it said."""

    asked: Asked
    decision: Decision


class Chosen(msgspec.Struct, frozen=True):
    """The models to try, best first, all of which can serve now, and how that was decided.

    Where there was nothing to decide, `why` says in short why it is these.
    """

    targets: tuple[Model, ...]
    why: str = ""
    decided: Decided | None = None


class Routes:
    """Names for calls.

    `fallbacks` lists the stand-ins of a name or of a `provider/model`, in their order. With `cloud_to_local`, language
    models on our own machines stand in for those in the cloud when none of these can serve. Where calls without a price
    are refused, a model whose price nobody knows is passed over unless it is named.
    """

    def __init__(self, engines: Engines, settings: Settings) -> None:
        # Without it the registry's order decides.
        self.selection: Selection | None = None
        self._engines = engines
        self._default_model = settings.gateway.default_model
        self._fallbacks = settings.gateway.fallbacks
        self._cloud_to_local = settings.gateway.cloud_to_local
        self._refuses_unpriced = settings.ledger.unpriced == "refuse"
        # A snapshot that is kept here can't give its identity to another one.
        self._kept: dict[int, tuple[Snapshot, dict[tuple[str, Kind], Chosen]]] = {}

    def targets(self, snapshot: Snapshot, name: str, need: Need, tenant: str = "") -> tuple[Model, ...]:
        """The models to try. Raises `ModelNotFound`, `Unavailable` or `Unpriced`."""
        return self.choose(snapshot, name, need, tenant).targets

    def choose(
        self,
        snapshot: Snapshot,
        name: str,
        need: Need,
        tenant: str = "",
        ask: Callable[[], Asked] | None = None,
        *,
        explain: bool = False,
    ) -> Chosen:
        """The models to try, and why.

        `ask` says what selection must know of the call, and is called only where there is something to decide. With
        `explain` it is told of a model too that the caller has named. Raises `ModelNotFound`, `Unavailable`,
        `Unpriced`, or `InvalidRequest` for a wrong policy.
        """
        name = name or (self._default_model if need.kind == "chat" else AUTO)
        kept = None if explain else self._kept.get(id(snapshot))
        if kept is not None and (known := kept[1].get((name, need.kind))) is not None:
            return known
        named = snapshot.registry.resolve(name, need.kind)
        candidates = [self._engines.seen(model) for model in (*named, *self._stand_ins(snapshot, name, named, need))]
        policy = policy_of(name)
        if self._refuses_unpriced:
            kept_open = () if policy is not None else named
            candidates = [model if model in kept_open else _priced(snapshot, model) for model in candidates]
        # The space of vectors must not change from call to call, whatever the policy.
        decides = self.selection is not None and need.kind != "embedding"
        if policy is not None and decides:
            return self._automatic(snapshot, name, tenant, candidates, ask or (lambda: Asked(need=need)))
        choice = choose.order(candidates, need, automatic=policy is not None)
        if not choice.ordered:
            raise _nobody(snapshot, name, need, candidates[0] if candidates else None, choice.reasons)
        able = sum(model in choice.ordered for model in candidates[: len(named)])
        # Of a name that stands for models here and elsewhere, those elsewhere may be forbidden, however few are able.
        shared = able > 1 or len({stays(model) for model in named}) > 1
        if decides and policy is None and (explain or shared):
            asked = replace(ask() if ask else Asked(need=need), requested=name)
            if shared:
                return self._deployments(snapshot, tenant, candidates[: len(named)], choice.ordered, asked)
            return self._explained(tenant or snapshot.tenant, candidates, choice.ordered, asked)
        chosen = Chosen(choice.ordered, f"{'named' if policy is None else 'fixed'}; {choice.ordered[0].id}")
        # What depends on the call, on weights that may come, or on servers that may die, is found anew each time.
        if policy is None and all(model.dialect is not None and model.provider != LOCAL for model in candidates):
            self._keep(snapshot, name, need.kind, chosen)
        return chosen

    def _automatic(
        self, snapshot: Snapshot, name: str, tenant: str, candidates: Sequence[Model], ask: Callable[[], Asked]
    ) -> Chosen:
        """Of all models, by the policy of the name, else by the caller's or the tenant's."""
        asked = replace(ask(), requested=name)
        if name != AUTO:
            asked = replace(asked, policy=policy_of(name))
        decision = self._decide(tenant or snapshot.tenant, candidates, asked)
        if not decision.models and (asked.held or asked.need.budget_nano is not None):
            # Who would serve but for a breaker or a budget is left to the walk, which says why, and when to come again.
            asked = replace(asked, held={}, need=replace(asked.need, budget_nano=None))
            decision = self._decide(tenant or snapshot.tenant, candidates, asked)
        if not decision.models:
            raise _nobody(snapshot, name, asked.need, candidates[0] if candidates else None, decision.reasons())
        return Chosen(decision.models, decided=Decided(asked, decision))

    def _deployments(
        self, snapshot: Snapshot, tenant: str, named: Sequence[Model], ordered: Sequence[Model], asked: Asked
    ) -> Chosen:
        """The deployments of a name, shared among them; whom selection leaves out comes behind, as do stand-ins.

        Where the policy lets nothing leave the house, only those that are in it.
        """
        decision = self._decide(tenant or snapshot.tenant, named, asked)
        first, house = decision.models, decision.order.policy.local
        targets = (*first, *(model for model in ordered if model not in first and (stays(model) or not house)))
        if not targets:
            raise _nobody(snapshot, AUTO, asked.need, None, decision.reasons())
        return Chosen(targets, decided=Decided(asked, decision))

    def _explained(self, tenant: str, candidates: Sequence[Model], ordered: tuple[Model, ...], asked: Asked) -> Chosen:
        asked = replace(asked, policy=NAMED.name)
        return Chosen(ordered, decided=Decided(asked, self._decide(tenant, candidates, asked)))

    def _decide(self, tenant: str, candidates: Sequence[Model], asked: Asked) -> Decision:
        assert self.selection is not None
        return self.selection.decide(tenant, candidates, asked)

    def _stand_ins(self, snapshot: Snapshot, name: str, named: Sequence[Model], need: Need) -> list[Model]:
        chains = [self._fallbacks.get(name, ()), *(self._fallbacks.get(model.id, ()) for model in named)]
        found: dict[str, Model] = {}
        for stand_in in dict.fromkeys(each for chain in chains for each in chain):
            try:
                models = snapshot.registry.resolve(stand_in, need.kind)
            except ModelNotFound:
                # A tenant may lack a provider that others have.
                continue
            found.update((model.id, model) for model in models)
        if self._cloud_to_local and need.kind == "chat" and any(_in_cloud(model) for model in named):
            found.update((model.id, model) for model in snapshot.registry.models if _own_language_model(model))
        return [model for model in found.values() if model not in named]

    def _keep(self, snapshot: Snapshot, name: str, kind: Kind, chosen: Chosen) -> None:
        if len(self._kept) >= _MOST:
            self._kept.clear()
        _, names = self._kept.setdefault(id(snapshot), (snapshot, {}))
        if len(names) >= _MOST:
            names.clear()
        names[name, kind] = chosen


def _priced(snapshot: Snapshot, model: Model) -> Model:
    """A model that can't serve where nobody knows its price."""
    if model.unavailable is not None or snapshot.price(model, time.time()) is not None:
        return model
    return replace(model, unavailable=_UNPRICED)


def _nobody(
    snapshot: Snapshot, name: str, need: Need, first: Model | None, reasons: Mapping[str, str]
) -> ModelNotFound | Unavailable | Unpriced:
    if policy_of(name) is not None and _UNPRICED in reasons.values():
        return Unpriced(
            f"Nobody knows what the models for {need.kind} cost that can serve now, and such calls are refused here.",
            field="model",
            hint="Give one a `price` in its provider, or set ledger.unpriced to allow.",
        )
    if policy_of(name) is not None or first is None:
        wanted = f" that can do {' and '.join(sorted(need.capabilities))}" if need.capabilities else ""
        return ModelNotFound(
            f"No model for {need.kind}{wanted} can serve now.", field="model", hint=_NONE.get(need.kind)
        )
    why = f"{first.id} can't serve now: {reasons[first.id]}."
    return Unavailable(why, field="model", hint=_mend(snapshot, first))


def _mend(snapshot: Snapshot, model: Model) -> str:
    """What makes a model serve that can't."""
    if model.dialect is None:
        return "Run `gimle setup`."
    if model.provider == LOCAL:
        return f"`gimle models show {model.name}` tells more; `gimle models pull` brings another."
    if not snapshot.access[model.provider].provider.enabled:
        return f"Name it in gimle.toml: [providers.{model.provider}], and start Gimle again."
    return "Set the key where Gimle runs, and start it again."


def _in_cloud(model: Model) -> bool:
    return not model.local and model.unavailable is None


def _own_language_model(model: Model) -> bool:
    # What is inside Gimle only quotes.
    return model.local and model.kind == "chat" and model.listed and model.dialect is not None
