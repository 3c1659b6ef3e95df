"""Who asks which price, and when: the packaged list, and a provider's own prices before it."""

import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.rates import FREE, MILLION, Price, Rates, nano
from gimle.gateway.types import Provider, TokenPrice

# In USD a million tokens: what is above this is a slip of the pen.
_HIGHEST = Decimal(1_000_000)
_MOST_NAMES = 1000


class Dated(msgspec.Struct, frozen=True):
    """A price and when it holds: from a day on, or each day between two times (seconds after midnight), both in UTC."""

    price: Price
    since: float | None = None
    daily: tuple[int, int] | None = None


class Tariff:
    """The prices of one model over time."""

    def __init__(self, prices: Sequence[Dated]) -> None:
        self._prices = tuple(prices)
        self._now = self._prices[0].price
        self._from, self._until = (0.0, 0.0) if len(prices) > 1 else (0.0, float("inf"))

    def at(self, moment: float) -> Price:
        """The price at a moment (Unix seconds): of those that hold, the last."""
        if not self._from <= moment < self._until:
            self._now, self._from, self._until = self._look_up(moment)
        return self._now

    def _look_up(self, moment: float) -> tuple[Price, float, float]:
        midnight = moment // 86400 * 86400
        changes = [midnight, midnight + 86400]
        found = self._prices[0].price
        for dated in self._prices:
            if dated.daily is not None:
                changes += [midnight + second for second in dated.daily]
            if _holds(dated, moment, moment - midnight):
                found = dated.price
        return found, max(t for t in changes if t <= moment), min(t for t in changes if t > moment)


def _holds(dated: Dated, moment: float, second: float) -> bool:
    if dated.daily is not None:
        start, end = dated.daily
        return start <= second < end if start <= end else second >= start or second < end
    return dated.since is None or moment >= dated.since


_FREE = Tariff([Dated(FREE)])


class PriceList:
    """The tariffs of one provider's models, made when its snapshot is made; a look-up is one of a dictionary."""

    def __init__(self, provider: Provider) -> None:
        self._local = provider.local
        self._published = published().named(provider.price_ref, provider.base_url)
        # Kept apart from the names that callers bring, which must not fill the memory.
        self._listed = {
            model.name: _own(model.price) if model.price else self._other(model.price_ref or model.name)
            for model in provider.models
        }
        self._seen: dict[str, Tariff | None] = {}

    def of(self, model: str) -> Tariff | None:
        """The tariff of a model; `None` when nobody knows what it costs."""
        if model in self._listed:
            return self._listed[model]
        if model not in self._seen:
            if len(self._seen) >= _MOST_NAMES:
                self._seen.clear()
            self._seen[model] = self._other(model)
        return self._seen[model]

    def _other(self, model: str) -> Tariff | None:
        if self._local:
            return _FREE
        vendor, _, name = model.partition("/")
        found = published().tariff(self._published, model)
        return published().tariff(vendor, name) if found is None else found


def inside() -> Tariff:
    """The tariff of the engines inside Gimle, which cost nothing."""
    return _FREE


def check(provider: Provider) -> None:
    """Raises `InvalidRequest` for a price below zero, not finite or absurd, or a price list that there isn't."""
    for at, model in enumerate(provider.models):
        for price in model.price:
            amounts = [value for value in msgspec.structs.astuple(price) if isinstance(value, Decimal)]
            if not all(value.is_finite() and 0 <= value <= _HIGHEST for value in amounts):
                raise InvalidRequest("A price is 0 or more USD.", field=f"models[{at}].price")
    if provider.price_ref is not None and provider.price_ref not in published().providers:
        raise InvalidRequest(f"There is no price list {provider.price_ref!r}.", field="price_ref")


def _own(prices: Sequence[TokenPrice]) -> Tariff:
    """A provider's own prices; the version has a hash of the amounts, so that each change of them shows."""
    ordered = sorted(prices, key=lambda price: price.since or date.min)
    return Tariff([Dated(_own_price(price), _epoch(price.since) if price.since else None) for price in ordered])


def _own_price(price: TokenPrice) -> Price:
    rate = {name: nano(value) for name, value in msgspec.structs.asdict(price).items() if isinstance(value, Decimal)}
    digest = hashlib.sha256(msgspec.json.encode(price)).hexdigest()[:12]
    return Price(f"provider/{digest}", (_rates(0, rate),), rate.get("request", 0) * MILLION)


def _rates(above: int, rate: Mapping[str, int]) -> Rates:
    """Classes without a price of their own pay as the class that they are part of."""
    read, written = rate.get("input", 0), rate.get("output", 0)
    return Rates(
        above,
        read,
        rate.get("cache_read", read),
        rate.get("cache_write", read),
        written,
        rate.get("reasoning", written),
    )


def _epoch(day: date) -> float:
    return datetime.combine(day, clock.min, UTC).timestamp()


# -- the packaged list


class _Tiers(msgspec.Struct, frozen=True):
    first: Decimal
    above: tuple[tuple[int, Decimal], ...]


class _Published(msgspec.Struct, frozen=True):
    since: date | None = None
    daily: tuple[str, str] | None = None
    input: Decimal | _Tiers | None = None
    cache_read: Decimal | _Tiers | None = None
    cache_write: Decimal | _Tiers | None = None
    output: Decimal | _Tiers | None = None
    reasoning: Decimal | _Tiers | None = None
    thousand_requests: Decimal | None = None


class _Model(msgspec.Struct, frozen=True):
    id: str
    match: dict[str, Any]
    prices: tuple[_Published, ...]


class _Provider(msgspec.Struct, frozen=True):
    id: str
    url: str
    fallback: tuple[str, ...]
    models: tuple[_Model, ...]


class _File(msgspec.Struct, frozen=True):
    version: str
    providers: tuple[_Provider, ...]


class Published:
    """The packaged list: what vendors ask in public, by the address of their API."""

    def __init__(self, file: _File) -> None:
        self._version = file.version
        # Each change of a provider makes all price lists anew.
        self._found: dict[tuple[str | None, str], Tariff | None] = {}
        self.providers = {provider.id: provider for provider in file.providers}

    def named(self, price_ref: str | None, base_url: str) -> str | None:
        """Whose prices hold at an address, or the list that was named for it."""
        if price_ref is not None:
            return price_ref
        return next((one.id for one in self.providers.values() if re.match(one.url, base_url)), None)

    def tariff(self, provider: str | None, name: str) -> Tariff | None:
        """What a vendor asks for a model; `None` when it is not on his list."""
        if (provider, name) not in self._found:
            if len(self._found) >= _MOST_NAMES:
                self._found.clear()
            self._found[provider, name] = self._look_up(provider, name)
        return self._found[provider, name]

    def _look_up(self, provider: str | None, name: str) -> Tariff | None:
        vendor = self.providers.get(provider or "")
        if vendor is None:
            return None
        for one in (vendor, *(self.providers[other] for other in vendor.fallback if other in self.providers)):
            for model in one.models:
                if _matches(model.match, name.lower()):
                    return self._tariff(model)
        return None

    def _tariff(self, model: _Model) -> Tariff:
        return Tariff([self._dated(price) for price in model.prices])

    def _dated(self, price: _Published) -> Dated:
        named = {
            name: value
            for name, value in msgspec.structs.asdict(price).items()
            if isinstance(value, Decimal | _Tiers) and name != "thousand_requests"
        }
        starts = sorted(
            {0, *(start for value in named.values() if isinstance(value, _Tiers) for start, _ in value.above)}
        )
        steps = tuple(
            _rates(start, {name: nano(_reached(value, start)) for name, value in named.items()}) for start in starts
        )
        # A thousand requests in USD are a million in thousandths of it.
        request = nano(price.thousand_requests or Decimal()) * (MILLION // 1000)
        since = _epoch(price.since) if price.since else None
        daily = (_second(price.daily[0]), _second(price.daily[1])) if price.daily else None
        return Dated(Price(self._version, steps, request), since, daily)


@cache
def published() -> Published:
    """The packaged list, read once."""
    text = importlib.resources.files("gimle.gateway").joinpath("prices.json").read_bytes()
    return Published(msgspec.json.decode(text, type=_File))


def _reached(value: Decimal | _Tiers, start: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return next((amount for above, amount in reversed(value.above) if start >= above), value.first)


def _second(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60


def _matches(clause: Mapping[str, Any], name: str) -> bool:
    ((kind, value),) = clause.items()
    match kind:
        case "equals":
            return bool(name == value)
        case "starts_with":
            return name.startswith(value)
        case "ends_with":
            return name.endswith(value)
        case "contains":
            return value in name
        case "regex":
            return re.search(value, name) is not None
        case "any":
            return any(_matches(part, name) for part in value)
        case _:
            return all(_matches(part, name) for part in value)
