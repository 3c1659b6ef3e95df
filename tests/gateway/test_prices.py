"""Prices: published and one's own, exact to the nano-dollar, and never 0 where nobody knows."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.errors import InvalidRequest
from gimle.gateway import prices, rates
from gimle.gateway.neutral import Usage
from gimle.gateway.prices import Dated, PriceList, Tariff
from gimle.gateway.rates import Price, Rates
from gimle.gateway.types import Provider, ProviderModel, TokenPrice

counts = st.integers(0, 10_000_000)
usages = st.builds(Usage, uncached=counts, cache_read=counts, cache_write=counts, output=counts, reasoning=counts)
dollars = st.decimals(0, 1000, places=6)


def provider(url: str = "https://api.openai.com/v1", **fields: Any) -> Provider:
    return Provider(name="p", base_url=url, **fields)


def own(**price: Any) -> Provider:
    return provider("https://mine.test/v1", models=(ProviderModel(name="m", price=(TokenPrice(**price),)),))


def price_of(given: Provider, model: str, moment: float = 0.0) -> Price:
    tariff = PriceList(given).of(model)
    assert tariff is not None
    return tariff.at(moment)


# From the vendors' pages, in USD for a million tokens.
PUBLISHED: Mapping[tuple[str, str], tuple[str, str]] = {
    ("https://api.openai.com/v1", "gpt-4o"): ("2.5", "10"),
    ("https://api.openai.com/v1", "gpt-4o-mini"): ("0.15", "0.6"),
    ("https://api.anthropic.com/v1", "claude-3-5-haiku-latest"): ("0.8", "4"),
    ("https://api.openai.com/v1", "text-embedding-3-small"): ("0.02", "0"),
}


@pytest.mark.parametrize("at", PUBLISHED, ids=lambda at: at[1])
def test_published_prices_hold_at_the_vendors_address(at: tuple[str, str]) -> None:
    price = price_of(provider(at[0]), at[1])
    million = rates.MILLION
    for usage, usd in zip((Usage(uncached=million), Usage(output=million)), PUBLISHED[at], strict=True):
        assert price.cost(usage) == rates.nano(Decimal(usd))
    assert price.version.startswith("genai-prices/")


def test_cached_tokens_have_their_own_price() -> None:
    price = price_of(provider("https://api.anthropic.com/v1"), "claude-3-5-haiku-latest")
    assert price.cost(Usage(uncached=1000, cache_read=1000, cache_write=1000)) == 800_000 + 80_000 + 1_000_000


def test_nobody_knows_what_is_on_no_list() -> None:
    assert PriceList(provider()).of("no-such-model") is None
    assert PriceList(provider("https://mine.test/v1")).of("gpt-4o") is None


def test_a_list_may_be_named_where_the_address_does_not_say_it() -> None:
    assert price_of(provider("https://proxy.test/v1", price_ref="openai"), "gpt-4o").cost(Usage(uncached=2)) == 5_000


def test_a_model_may_have_another_name_on_the_list() -> None:
    named = provider("https://proxy.test/v1", models=(ProviderModel(name="mine", price_ref="openai/gpt-4o"),))
    assert price_of(named, "mine").cost(Usage(uncached=2)) == 5_000


def test_what_runs_here_costs_nothing() -> None:
    assert price_of(provider("http://localhost:1/v1", local=True), "anything") == rates.FREE
    assert prices.inside().at(0).cost(Usage(uncached=10**9)) == 0


def test_ones_own_price_wins_and_its_version_shows_a_change() -> None:
    mine = provider(models=(ProviderModel(name="gpt-4o", price=(TokenPrice(input=Decimal(1)),)),))
    assert price_of(mine, "gpt-4o").cost(Usage(uncached=7)) == 7_000
    one, other = price_of(own(input=Decimal(1)), "m"), price_of(own(input=Decimal(2)), "m")
    assert one.version != other.version
    assert one.version.startswith("provider/")


@given(usages, dollars, dollars, dollars, dollars, dollars)
def test_a_cost_is_the_exact_sum_rounded_once(
    usage: Usage, read: Decimal, hit: Decimal, write: Decimal, out: Decimal, thought: Decimal
) -> None:
    price = price_of(own(input=read, cache_read=hit, cache_write=write, output=out, reasoning=thought), "m")
    exact = (
        usage.uncached * read
        + usage.cache_read * hit
        + usage.cache_write * write
        + usage.output * out
        + usage.reasoning * thought
    ) * 1000
    assert price.cost(usage) == int(exact.to_integral_value(ROUND_HALF_EVEN))


@given(usages, st.integers(0, 10**13), st.lists(st.integers(0, 10**13), min_size=5, max_size=5))
def test_a_bound_is_never_below_the_cost(usage: Usage, request: int, amounts: list[int]) -> None:
    steps = (Rates(0, *amounts), Rates(200_000, *reversed(amounts)))
    for price in (Price("x", steps[:1], request), Price("x", steps, request)):
        assert price.bound(usage.input_tokens, usage.output_tokens) >= price.cost(usage)


@given(st.integers(-(10**15), 10**15))
def test_money_is_written_exactly(nano: int) -> None:
    text = rates.money(nano)
    assert int(Decimal(text) * rates.NANO) == nano
    assert len(text.partition(".")[2]) >= 2


def test_money_has_two_decimals_at_least() -> None:
    assert [rates.money(n) for n in (0, 5, 1_500_000_000, -10_000_000)] == ["0.00", "0.000000005", "1.50", "-0.01"]


def test_long_prompts_pay_their_step_for_all_tokens() -> None:
    price = Price("x", (Rates(0, 10**9), Rates(1000, 2 * 10**9)))
    assert [price.cost(Usage(uncached=n)) for n in (1000, 1001)] == [1_000_000, 2_002_000]


def test_prices_change_on_their_day() -> None:
    dated = provider(
        models=(
            ProviderModel(
                name="m",
                price=(TokenPrice(input=Decimal(2), since=date(2026, 6, 1)), TokenPrice(input=Decimal(1))),
            ),
        )
    )
    tariff = PriceList(dated).of("m")
    assert tariff is not None
    days = (datetime(2026, 5, 31, 23, 59, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
    assert [tariff.at(day.timestamp()).cost(Usage(uncached=1)) for day in (*days, days[0])] == [1000, 2000, 1000]


@given(st.lists(st.floats(0, 4 * 86400), min_size=1, max_size=20))
def test_a_remembered_price_is_the_one_that_holds(moments: list[float]) -> None:
    """A discount from 16:30 to 00:30, on top of a price that changes on the second day."""
    day = [Dated(Price("old")), Dated(Price("new"), since=86400.0), Dated(Price("night"), daily=(59_400, 1_800))]
    tariff = Tariff(day)
    for moment in moments:
        second = moment % 86400
        night = second >= 59_400 or second < 1_800
        assert tariff.at(moment).version == ("night" if night else "new" if moment >= 86400 else "old")


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "1000001"])
def test_absurd_prices_are_refused(amount: str) -> None:
    with pytest.raises(InvalidRequest, match="0 or more USD"):
        prices.check(own(input=Decimal(amount)))


def test_an_unknown_list_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no price list"):
        prices.check(provider(price_ref="nobody"))


def test_names_of_callers_do_not_fill_the_memory() -> None:
    listed = PriceList(provider())
    for number in range(3000):
        listed.of(f"gpt-4o-{number}")
    assert len(listed._seen) <= prices._MOST_NAMES
