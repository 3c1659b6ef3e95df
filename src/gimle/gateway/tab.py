"""What a call owes while it is under way: its limits, its budgets, its turn, and its entries in the ledger.

    Till.open      a tab for a call: who pays, at which prices, and how much its attempts may use
    Tab.begin      the limits of its tenant, key and model; refused at once where they are reached
    Slip.admit     one attempt: budgets reserve the most that it may cost, and it takes its turn
    Slip.begin     its request goes out: the ledger knows of it before the provider does
    Slip.settle    it has ended, one way or another: entered, paid, and its place free

Every path of an attempt ends in `settle`, of which only the first call counts.
"""

import time
from collections.abc import Callable

from gimle.foundation.errors import GimleError
from gimle.foundation.outbound import Incoming
from gimle.gateway import spending
from gimle.gateway.budgets import Payer
from gimle.gateway.dues import AttemptDues, CallDues, Dues
from gimle.gateway.expectation import Lengths
from gimle.gateway.facts import Account, End
from gimle.gateway.ledger import Entry, Ledger
from gimle.gateway.neutral import MOST_TOKENS, Usage
from gimle.gateway.queueing import BULK, PRIORITIES
from gimle.gateway.quotas import Quotas
from gimle.gateway.rates import Price, money
from gimle.gateway.slices import NOTHING, Hold
from gimle.gateway.spending import Claim
from gimle.selection.types import Model

Pricing = Callable[[Model, float], Price | None]

# In tokens, where neither the caller nor the provider has set a limit.
_LONGEST_ANSWER = 4096
_MOST_MODELS = 4096
# Of UTF-8 a token has more than these, in nearly any language and by nearly any tokenizer.
_LEAST_BYTES = 2


class Till:
    """Opens the tabs of this process. Without `dues` and `quotas` nothing is limited, as in a gateway on its own."""

    def __init__(self, ledger: Ledger, dues: Dues | None = None, quotas: Quotas | None = None) -> None:
        self.ledger = ledger
        self.dues = dues
        self._quotas = quotas
        self._lengths: dict[str, Lengths] = {}

    def open(
        self,
        account: Account,
        pricing: Pricing,
        tokens: int,
        output: int | None = None,
        *,
        priority: str = "default",
        started: float | None = None,
    ) -> "Tab":
        """A tab for a call of so many tokens, whose answer has at most `output`; None: as many as its model writes.

        `started` is when it came, on the clock of `time.perf_counter`; None: now.
        """
        level = PRIORITIES.get(priority, PRIORITIES["default"])
        return Tab(self, account, pricing, (tokens, output), level, started or time.perf_counter())

    async def vectors(self, tenant: str, count: int, seconds: float) -> Hold:
        """Take so many vectors from a tenant's quota of the day; `settle` it with how many were made.

        Raises `QuotaExceeded` or `DatabaseUnavailable`.
        """
        return NOTHING if self._quotas is None else await self._quotas.embeddings(tenant, count, seconds)

    def lengths(self, model: Model) -> Lengths:
        """How long a model's answers are."""
        known = self._lengths.get(model.id)
        if known is None:
            if len(self._lengths) >= _MOST_MODELS:
                self._lengths.clear()
            known = self._lengths[model.id] = Lengths()
        return known


class Tab:
    """One call's.

    `payer` is who pays, as budgets know people; `fault` is why its last attempt failed; `cost` what it has cost until
    now, None where nobody knows; `cheaper` says that a budget chose another model for it; `choices` is how many answers
    at once it asks for; `at_most` tells how many tokens its prompt can have for a model, where `tokens` says about how
    many; `why` tells why it was this model; `last` is the attempt that ended last, and how, and `over` is told of the
    end.
    """

    fault: GimleError | None = None
    cost: int | None = 0
    cheaper = False
    choices = 1
    why = ""
    last: tuple[Model, End] | None = None
    over: "Callable[[Tab], None] | None" = None
    at_most: Callable[[Model], int] | None = None
    _calls: CallDues | None = None
    _begun = False
    # The attempts that have not ended, and one for the walk itself.
    _open = 1
    _used: int | None = 0
    # How many of its requests are with providers, since when any is, and the seconds before that when one was.
    _out = 0
    _since = _abroad = 0.0

    def __init__(
        self, till: Till, account: Account, pricing: Pricing, sizes: tuple[int, int | None], level: int, started: float
    ) -> None:
        self.till = till
        self.account = account
        self.pricing = pricing
        self.tokens, self.output = sizes
        self.level = level
        self.started = started
        self.payer = Payer(account.tenant, account.key, account.user, account.case)

    @property
    def left(self) -> tuple[tuple[str, str], ...]:
        """The headers that tell how much of the caller's limits is left, and before them why its model was chosen."""
        room = None if self._calls is None else self._calls.room
        limits = () if room is None else room.headers()
        return (("x-gimle-decision", self.why), *limits) if self.why else limits

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        """What the head of its answer tells: limits, and what it has cost where somebody knows."""
        return self.left if self.cost is None else (*self.left, ("x-gimle-cost-usd", money(self.cost)))

    def downgrade(self, target: Model) -> str | None:
        """The cheaper model that a budget wants for bulk traffic by now."""
        if self.level != BULK or self.till.dues is None:
            return None
        cheaper = self.till.dues.downgrade(self.payer, (target.provider, target.name))
        self.cheaper = cheaper is not None
        return cheaper

    @property
    def purse(self) -> int | None:
        """What is left of the caller's budgets in nano-dollars, as far as it is known here; None where he has none."""
        return None if self.till.dues is None else self.till.dues.left(self.payer)

    async def begin(self, target: Model) -> None:
        """Take the call from its caller's limits. Raises `RateLimitedError`."""
        if self.till.dues is not None:
            used = min(self.tokens + (self.output or 0), MOST_TOKENS)
            self._calls = await self.till.dues.begin(self.payer, target.provider, target.name, used)

    def slip(self, target: Model, lane: str) -> "Slip":
        """For an attempt at a target, over a lane."""
        self._open += 1
        return Slip(self, target, lane)

    def sent(self) -> None:
        """It counts from now on, whatever becomes of it."""
        self._begun = True

    def out(self) -> float:
        """A request goes out: the seconds until now in which none was with a provider, which are our own."""
        self._begun = True
        now = time.perf_counter()
        if self._out == 0:
            self._since = now
        self._out += 1
        return self._since - self.started - self._abroad

    def back(self) -> None:
        """A request has ended."""
        self._out -= 1
        if self._out == 0:
            self._abroad += time.perf_counter() - self._since

    def ended(self, cost: int | None, tokens: int | None) -> None:
        """An attempt has ended."""
        self.cost = None if cost is None or self.cost is None else self.cost + cost
        self._used = None if tokens is None or self._used is None else self._used + tokens
        self.close()

    def close(self) -> None:
        """The walk is over, or an attempt: with the last of them the call has ended."""
        self._open -= 1
        if self._open == 0 and self._calls is not None:
            self._calls.end(self._used, sent=self._begun)
        if self._open == 0 and self.over is not None:
            self.over(self)


class Slip:
    """One attempt's. It puts one request on the wire in most cases, and an entry for each into the ledger."""

    entry: Entry | None = None
    _dues: AttemptDues | None = None
    _cost: int | None = 0
    _used: int | None = 0
    _ended = False
    _strict = False
    _ours = 0.0

    def __init__(self, tab: Tab, target: Model, lane: str) -> None:
        self._tab = tab
        self._target = target
        self._lane = lane
        self._price = tab.pricing(target, time.time())
        # Its tokens: about, until a strict budget has to know them surely.
        self._prompt = tab.tokens
        # In all its choices.
        output = (target.max_output or _LONGEST_ANSWER) if tab.output is None else tab.output
        self._longest = min(tab.choices * output, MOST_TOKENS)
        self._lengths = tab.till.lengths(target)

    async def admit(self, deadline: float) -> None:
        """Reserve in the budgets, and wait for the turn until a moment of the loop's clock.

        Raises `BudgetExceeded`, `Overloaded` or `DatabaseUnavailable`.
        """
        tab, dues = self._tab, self._tab.till.dues
        if dues is None:
            return
        budgets = dues.budgets.of(tab.payer, self._target.provider, self._target.name)
        if budgets and any(account.strict for account in budgets):
            self._strict = True
            self._prompt = self._prompt if tab.at_most is None else tab.at_most(self._target)
        claim = self._claim(self._price) if budgets and self._price is not None else None
        turn = (tab.level, tab.tokens + self._longest, deadline)
        self._dues = await dues.attempt(tab.account.tenant, budgets, claim, self._lane, turn)

    def _claim(self, price: Price) -> Claim | None:
        """What it may cost; None where that is nothing."""
        likely = self._lengths.likely(self._longest)
        claim = spending.claim(price.bound, self._tab.tokens, self._prompt, likely, self._longest)
        return claim if claim.most > 0 else None

    @property
    def most(self) -> int | None:
        """How many tokens an answer may have, where a strict budget has less left than the caller asked for, or where
        nobody else would end it.
        """
        if self._price is None or self._dues is None or self._dues.bound is None:
            return None
        tab, longest = self._tab, self._longest
        most = spending.affordable(self._price.bound, self._prompt, self._dues.bound, longest)
        ends = tab.output is not None or self._target.max_output is not None
        return None if most >= longest and ends else max(1, most // tab.choices)

    def begin(self) -> None:
        """A request is about to be sent. Raises what `Ledger.begin` raises."""
        if self.entry is not None:
            # A kept connection was closed before a byte of an answer, and the request goes out once more.
            self._enter("broken", Usage(exact=False), None)
        tab = self._tab
        expected = Usage(uncached=tab.tokens, output=self._longest, exact=False)
        bound = None if self._dues is None else self._dues.bound
        self.entry = tab.till.ledger.begin(tab.account, self._target, self._price, expected, bound)
        self._ours = tab.out()

    def heard(self, answer: Incoming) -> None:
        """The provider has answered: its headers tell of its limits."""
        dues = self._tab.till.dues
        if dues is not None and dues.lanes.listens(self._lane):
            dues.lanes.heard(self._lane, answer.headers)

    def refused(self, seconds: float) -> None:
        """The provider takes no calls for so many seconds."""
        if self._tab.till.dues is not None:
            self._tab.till.dues.lanes.refused(self._lane, seconds)

    def guess(self, said: int) -> Usage | None:
        """What an answer of so many bytes has used, rather too much than too little.

        None where a strict budget pays: that is never deceived, and thoughts that a provider keeps to itself have no
        bytes.
        """
        if self._strict:
            return None
        return Usage(uncached=self._prompt, output=min(1 + said // _LEAST_BYTES, self._longest), exact=False)

    def settle(self, end: End, usage: Usage | None = None, first: float | None = None, *, last: bool = True) -> None:
        """A request has ended, and with the `last` of them the attempt; see `Entry.settle`."""
        if self._ended:
            return
        self._enter(end, usage, first)
        if last:
            self._ended = True
            if end not in ("overtaken", "unsent"):
                self._tab.last = (self._target, end)
            if self._dues is not None:
                self._dues.end(self._cost, self._used)
            self._tab.ended(self._cost, self._used)

    def _enter(self, end: End, usage: Usage | None, first: float | None) -> None:
        if self.entry is None or self.entry.settled:
            return
        nano = self.entry.settle(end, usage, first=first, overhead=self._ours)
        self._tab.back()
        self._cost = None if nano is None or self._cost is None else self._cost + nano
        if usage is not None and (usage.exact or end == "done"):
            written = usage.output_tokens
            self._used = None if self._used is None else self._used + usage.input_tokens + written
            if usage.exact and end == "done":
                self._lengths.learn(written)
        elif end not in ("refused", "broken"):
            self._used = None
