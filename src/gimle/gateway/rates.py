"""Money and rates: what an attempt costs, in integers; pure.

Money is integer nano-dollars (10^-9 USD), rounded half to even once an attempt. A rate is nano-dollars for a million
tokens, so that a price of 0.0375 USD for a million is a whole number. What has no price costs None, never 0.
"""

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from gimle.gateway.neutral import Usage

MILLION = 1_000_000
NANO = 1_000_000_000
LOCAL = "local"


class Rates(msgspec.Struct, frozen=True):
    """Nano-dollars for a million tokens of each class, for prompts of more than `above` tokens."""

    above: int = 0
    uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    # The highest of the first three, and of the last two: made from them.
    dearest_read: int = 0
    dearest_written: int = 0

    def __post_init__(self) -> None:
        force = msgspec.structs.force_setattr
        force(self, "dearest_read", max(self.uncached, self.cache_read, self.cache_write))
        force(self, "dearest_written", max(self.output, self.reasoning))


class Price(msgspec.Struct, frozen=True):
    """What a model costs at one moment. The last of `steps` that a prompt reaches is paid for all of its tokens.

    `request` is in nano-dollars for a million requests. `version` says where the price comes from.
    """

    version: str
    steps: tuple[Rates, ...] = (Rates(),)
    request: int = 0

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for an attempt, rounded half to even."""
        rates = self.steps[0] if len(self.steps) == 1 else self._step(usage.input_tokens)
        return rounded(
            usage.uncached * rates.uncached
            + usage.cache_read * rates.cache_read
            + usage.cache_write * rates.cache_write
            + usage.output * rates.output
            + usage.reasoning * rates.reasoning
            + self.request
        )

    def bound(self, input_tokens: int, output_tokens: int) -> int:
        """The most that an attempt of up to so many tokens can cost, in nano-dollars: what a budget reserves."""
        if len(self.steps) == 1:
            rates = self.steps[0]
            read, written = rates.dearest_read, rates.dearest_written
        else:
            reached = [rates for rates in self.steps if rates.above < input_tokens or rates is self.steps[0]]
            read = max(rates.dearest_read for rates in reached)
            written = max(rates.dearest_written for rates in reached)
        return -(-(input_tokens * read + output_tokens * written + self.request) // MILLION)

    def _step(self, tokens: int) -> Rates:
        return next((rates for rates in reversed(self.steps) if tokens > rates.above), self.steps[0])


FREE = Price(LOCAL)


def rounded(micro: int) -> int:
    """Millionths of a nano-dollar as nano-dollars, half to even."""
    whole, rest = divmod(micro, MILLION)
    return whole + (2 * rest > MILLION or (2 * rest == MILLION and whole & 1))


def money(nano: int) -> str:
    """Nano-dollars as a decimal string in USD, exact, with at least two decimals: `"0.00"`, `"1.2345"`."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, rest = divmod(nano, NANO)
    return f"{sign}{whole}.{f'{rest:09d}'.rstrip('0'):0<2}"


def nano(usd: Decimal) -> int:
    """USD as nano-dollars, half to even."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))
