"""The nouns of selection."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

Kind = Literal["chat", "embedding", "rerank", "transcription"]
Hardware = Literal["gpu", "cpu"]
Priority = Literal["high", "normal", "low"]
# What becomes of a prompt, from the strictest: it stays here, it is not kept, it is kept but not learnt from, unknown.
DataPolicy = Literal["local", "no-retention", "no-training", "any"]
Latitude = Annotated[float, msgspec.Meta(ge=-90, le=90)]
Count = Annotated[int, msgspec.Meta(gt=0, le=10**15)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Longitude = Annotated[float, msgspec.Meta(ge=-180, le=180)]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one provider, with the facts by which it is chosen.

    `context_window` and `max_output` are in tokens. `dialect` is None for an engine inside Gimle. `unavailable` says
    why the model can't serve now (a missing key, missing weights); None when it can. `version` tells vectors apart
    that must not be compared with each other. `listed` is False for a name that only the caller knows. `price` is where
    the price list has it (`provider/model`). `continues_assistant`: it goes on with an answer that has begun.

    `input_nano` and `output_nano` are nano-dollars for a million tokens; None where nobody knows. `place` is the
    latitude and longitude of where it runs, `hardware_quality` is from 0.5 to 1, `capacity` the calls that it can take
    at once, `weight` its share under the policy `weighted`. `owner` is the tenant who brought it.
    """

    provider: str
    name: str
    kind: Kind = "chat"
    context_window: int = 8192
    max_output: int | None = None
    local: bool = False
    dialect: str | None = None
    capabilities: frozenset[str] = frozenset()
    dimensions: int | None = None
    languages: tuple[str, ...] = ()
    version: str = ""
    tokenizer: str | None = None
    unavailable: str | None = None
    parameters: int | None = None
    price: str | None = None
    continues_assistant: bool = False
    listed: bool = True
    hardware: Hardware | None = None
    hardware_quality: float | None = None
    input_nano: int | None = None
    output_nano: int | None = None
    region: str | None = None
    place: tuple[Latitude, Longitude] | None = None
    tags: tuple[str, ...] = ()
    data_policy: DataPolicy | None = None
    capacity: int | None = None
    weight: float = 1.0
    owner: str = ""

    @property
    def id(self) -> str:
        """`provider/name`, the name under which callers ask for exactly this one."""
        return f"{self.provider}/{self.name}"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of a model; what is left out stays as its provider lists it. Prices in USD for a million tokens.

    `place` is latitude and longitude, `hardware_quality` from 0.5 to 1, `capacity` the calls that it can take at once,
    `weight` its share under the policy `weighted`. One that is not `enabled` is known and not used.
    """

    provider: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
    kind: Kind = "chat"
    version: Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f]*$")] | None = None
    context_window: Count | None = None
    max_output: Count | None = None
    capabilities: tuple[Label, ...] | None = None
    dimensions: Count | None = None
    languages: tuple[Label, ...] | None = None
    parameters: Count | None = None
    hardware: Hardware | None = None
    hardware_quality: Annotated[float, msgspec.Meta(ge=0.5, le=1)] | None = None
    input_usd: Decimal | None = None
    output_usd: Decimal | None = None
    region: Label | None = None
    place: tuple[Latitude, Longitude] | None = None
    tags: tuple[Label, ...] | None = None
    data_policy: DataPolicy | None = None
    capacity: Count | None = None
    weight: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    enabled: bool = True


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a call asks of its model: the kind, capabilities such as `tools`, and the tokens that must fit.

    `output` is how many tokens the answer is expected to have. Empty `regions`, `tags` and `scope` (ids of models that
    the key may use, `provider/*` for all of a provider) allow everything; `data` is the least strict treatment of the
    prompt that is allowed. `max_nano` is what the call may cost, `budget_nano` what is left of the budget, in
    nano-dollars. `subject` is the class of requests by which quality is judged.
    """

    kind: Kind = "chat"
    capabilities: frozenset[str] = frozenset()
    tokens: int = 0
    output: int = 400
    regions: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    data: DataPolicy = "any"
    scope: tuple[str, ...] = ()
    max_seconds: float | None = None
    max_nano: int | None = None
    budget_nano: int | None = None
    priority: Priority = "normal"
    subject: str = ""


class Complexity(msgspec.Struct, frozen=True):
    """How hard a prompt looks, from 0 to 1, in which language it is, and which signs make up the score."""

    level: Literal["easy", "medium", "hard"]
    score: float
    language: str
    signs: dict[str, float]


class Standing(msgspec.Struct, frozen=True):
    """What policies go by beside the factors.

    A model's place in the registry, its weight under `weighted`, whether what it is sent stays here (`local`), whether
    it is a last resort `inside` Gimle, and whether it stands `apart` for its failures.
    """

    place: int
    weight: float
    local: bool
    inside: bool
    apart: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision found about one model.

    `gates` are the reasons for which it was left out. `factors` are from 0 to 1, `widths` their uncertainty, `score`
    the weighted sum. `propensity` is the chance that it would be tried first. Cost in nano-dollars, None where the
    price is unknown. `standing` is None in the log of older versions.
    """

    model: str
    gates: tuple[str, ...] = ()
    score: float | None = None
    width: float | None = None
    factors: dict[str, float] = {}
    widths: dict[str, float] = {}
    propensity: float = 0.0
    cost_nano: int | None = None
    seconds: float | None = None
    standing: Standing | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision in full: who was chosen, why, and why the others were not, the best first.

    `explored` says that the choice was made to learn, `cached` that the order was taken from a decision shortly before,
    `judged` that enough was said of answers for quality to count, `dry_run` that no call was made.
    """

    id: str
    decided_at: datetime
    policy: str
    requested: str
    chosen: str | None
    weights: dict[str, float]
    verdicts: tuple[Verdict, ...]
    subject: str = ""
    tokens: int = 0
    explored: bool = False
    cached: bool = False
    judged: bool = False
    dry_run: bool = False
    complexity: Complexity | None = None
    shadow: dict[str, str] = {}


class Choice(msgspec.Struct, frozen=True):
    """The models to try, best first, and for each model that was considered (by id) why it stands where it does."""

    ordered: tuple[Model, ...]
    reasons: dict[str, str]
