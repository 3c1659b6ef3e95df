"""Writes `src/gimle/gateway/prices.json` from the library genai-prices (MIT), as the development lock pins it.

    python scripts/prices.py            write it
    python scripts/prices.py --check    exit with 1 if it is out of date

Only what Gimle can count is kept: prices of tokens and of requests. At run time the library is not needed: it would
cost half a second a start, 40 MB a process and eight packages.
"""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import data_snapshot, types

FILE = Path(__file__).parent.parent / "src" / "gimle" / "gateway" / "prices.json"
# The library's name of a price -> the class of tokens that pays it.
CLASSES = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "requests_kcount": "thousand_requests",
}
_CLAUSES = {
    types.ClauseStartsWith: ("starts_with", "starts_with"),
    types.ClauseEndsWith: ("ends_with", "ends_with"),
    types.ClauseContains: ("contains", "contains"),
    types.ClauseRegex: ("regex", "regex"),
    types.ClauseEquals: ("equals", "equals"),
}


def text() -> str:
    """The whole file: one line a model, so that a new version of the library shows as a readable difference."""
    providers = data_snapshot.get_snapshot().providers
    parts = ",\n".join(
        _provider(provider) for provider in providers if any(_tokens(model) for model in provider.models)
    )
    head = json.dumps({"version": f"genai-prices/{version('genai-prices')}", "license": "MIT, Pydantic Services Inc."})
    return f'{head[:-1]}, "providers": [\n{parts}\n]}}\n'


def _provider(provider: types.Provider) -> str:
    facts = {"id": provider.id, "url": provider.api_pattern, "fallback": list(provider.fallback_model_providers or ())}
    models = ",\n".join(json.dumps(_model(model), sort_keys=False) for model in provider.models if _tokens(model))
    return f'{json.dumps(facts)[:-1]}, "models": [\n{models}\n]}}'


def _tokens(model: types.ModelInfo) -> bool:
    """Whether the model is paid by tokens, all of its life: one that makes sound or pictures is not."""
    return all(
        _by_tokens({name for name, value in vars(prices).items() if value is not None}) for _, prices in _dated(model)
    )


def _by_tokens(names: set[str]) -> bool:
    return "input_mtok" in names and ("output_mtok" in names or not any(name.startswith("output") for name in names))


def _model(model: types.ModelInfo) -> dict[str, Any]:
    prices = [{**when, **_rates(rates)} for when, rates in _dated(model)]
    return {"id": model.id, "match": _clause(model.match), "prices": prices}


def _dated(model: types.ModelInfo) -> Iterator[tuple[dict[str, Any], types.ModelPrice]]:
    if isinstance(model.prices, types.ModelPrice):
        yield {}, model.prices
        return
    for conditional in model.prices:
        match conditional.constraint:
            case types.StartDateConstraint(start_date):
                yield {"since": start_date.isoformat()}, conditional.prices
            case types.TimeOfDateConstraint(start, end):
                yield {"daily": [_utc(start), _utc(end)]}, conditional.prices
            case _:
                yield {}, conditional.prices


def _utc(moment: time) -> str:
    if moment.tzinfo is None:
        return moment.isoformat("minutes")
    return datetime.combine(datetime(2000, 1, 2, tzinfo=UTC), moment).astimezone(UTC).time().isoformat("minutes")


def _rates(prices: types.ModelPrice) -> dict[str, Any]:
    given = {CLASSES[name]: value for name, value in vars(prices).items() if name in CLASSES and value is not None}
    return {name: _rate(value) for name, value in given.items()}


def _rate(value: Any) -> Any:
    if isinstance(value, types.TieredPrices):
        return {"first": str(value.base), "above": [[tier.start, str(tier.price)] for tier in value.tiers]}
    return str(value)


def _clause(clause: Any) -> dict[str, Any]:
    match clause:
        case types.ClauseOr(parts):
            return {"any": [_clause(part) for part in parts]}
        case types.ClauseAnd(parts):
            return {"all": [_clause(part) for part in parts]}
    name, attribute = _CLAUSES[type(clause)]
    return {name: vars(clause)[attribute]}


def main() -> int:
    """Write the file, or compare it with what would be written."""
    if sys.argv[1:] == ["--check"]:
        return int(FILE.read_text("utf-8") != text())
    FILE.write_text(text(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
