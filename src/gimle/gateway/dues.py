"""What a call must have before it may go, and gives back when it has ended: in one place, for the walk.

    begin      the limits of its tenant, key and model    refused at once when they are reached
    attempt    its budgets, and its turn in the lane      once for each attempt, hedges too
    end        what it cost and used                      on every path; a second time changes nothing

On the way of most calls nothing here waits.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from gimle.gateway.admission import Admission, Pass
from gimle.gateway.budgets import Budgets, Payer
from gimle.gateway.lane_limits import LaneLimits
from gimle.gateway.limits import Limit, Limits, Room, Taken, Wait
from gimle.gateway.slices import NOTHING, Account, Hold
from gimle.gateway.spending import Claim

# A hold outlives its attempt by so much at most; then it counts as spent.
_SPARE_SECONDS = 60.0


class AttemptDues:
    """What one attempt holds. `bound` is the most that it may cost in nano-dollars, where a strict budget sets one: to
    be sent to the provider as a limit on the answer (`spending.affordable`).
    """

    __slots__ = ("_hold", "_pass", "bound")

    def __init__(self, hold: Hold, leave: Pass) -> None:
        self._hold = hold
        self._pass = leave
        self.bound = hold.amount

    def end(self, cost: int | None, tokens: int | None) -> None:
        """The attempt has ended. What is None nobody knows: then what was reserved counts.

        For one that never reached the wire, both are 0.
        """
        self._hold.settle(cost)
        self._pass.leave(tokens)


class CallDues:
    """What one call has taken of its caller's limits. `end` it with the tokens of all attempts."""

    __slots__ = ("_limits", "_source", "_taken")

    def __init__(self, source: Limits, limits: Sequence[Limit], taken: Taken) -> None:
        self._source = source
        self._limits = limits
        self._taken = taken

    @property
    def room(self) -> Room | None:
        """How much of the tightest limit is left, for the headers of the answer."""
        return self._source.room(self._limits)

    def end(self, tokens: int | None, *, sent: bool = True) -> None:
        """The call has ended, and has used so many tokens; None: nobody knows, and what was expected counts.

        `sent` is False where no attempt was made: it was answered from the cache, or refused by us.
        """
        if sent:
            self._taken.settle(tokens)
        else:
            self._taken.undo()


class Dues:
    """The dues of all calls of this process. `budgets` says who pays; `lanes` is told what providers say of limits."""

    def __init__(self, budgets: Budgets, limits: Limits, lanes: LaneLimits, admission: Admission) -> None:
        self.budgets = budgets
        self._limits = limits
        self.lanes = lanes
        self._admission = admission

    async def begin(self, payer: Payer, provider: str, model: str, tokens: int) -> CallDues:
        """Take one request and so many tokens of the caller's limits. Raises `RateLimitedError`."""
        limits = self._limits.of(payer.tenant, payer.key, provider, model)
        taken = self._limits.take(limits, tokens)
        if taken is None:
            taken = await self._limits.fetch(limits, tokens)
        if isinstance(taken, Wait):
            raise taken.error()
        return CallDues(self._limits, limits, taken)

    async def attempt(
        self, tenant: str, budgets: Sequence[Account], claim: Claim | None, lane: str, turn: tuple[int, int, float]
    ) -> AttemptDues:
        """Reserve a claim in the budgets, and take a turn in a lane.

        `turn` is the priority's level, the expected tokens and the moment of the loop's clock until which the attempt
        may wait. Without a claim nobody knows the price, and no budget pays. Raises `BudgetExceeded`, `Overloaded` or
        `DatabaseUnavailable`; nothing is held then.
        """
        level, tokens, deadline = turn
        hold = NOTHING if claim is None else await self._reserve(budgets, claim, deadline)
        try:
            way = self._admission.lanes.get(lane) or self._admission.lane(lane, partial(self._gate, lane))
            leave = way.enter(tokens)
            if leave is None:
                leave = await way.wait(tenant, level, tokens, deadline)
        except BaseException:
            hold.settle(0)
            raise
        return AttemptDues(hold, leave)

    def downgrade(self, payer: Payer, target: tuple[str, str]) -> str | None:
        """The cheaper model to which bulk traffic goes by now, where a budget says so."""
        return self.budgets.downgrade(self.budgets.of(payer, *target))

    def left(self, payer: Payer) -> int | None:
        """What is left of the strict budgets of a caller, in nano-dollars, as far as it is known here; None: no end."""
        return self.budgets.left(self.budgets.of(payer))

    async def _reserve(self, budgets: Sequence[Account], claim: Claim, deadline: float) -> Hold:
        seconds = deadline - asyncio.get_running_loop().time() + _SPARE_SECONDS
        return self.budgets.reserve(budgets, claim, seconds) or await self.budgets.acquire(budgets, claim, seconds)

    def _gate(self, lane: str, tokens: int) -> Taken | Wait:
        """What a lane's provider allows."""
        return self._limits.take_exactly(self.lanes.of(lane), tokens)
