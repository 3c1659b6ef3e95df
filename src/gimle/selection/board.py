"""The facts of all models as columns, so that a decision reads those of a hundred models in a few steps.

One board a process. Calls and probes write to it as they end; what other processes have measured is joined from time to
time. A slot is a model's place on the board; it keeps it as long as the process lives.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.selection import facts
from gimle.selection.factors import Column
from gimle.selection.facts import HALF_LIFE, Facts

Slots = npt.NDArray[np.intp]

# What is thought of a model before anything is measured: seconds to the first token (the way there on top, where it is
# known), seconds a token, failures; each as worth so many calls.
FIRST, FIRST_WIDTH = 0.6, 0.35
A_TOKEN = 0.02
_PRIOR_CALLS = 2.0
_UPTIME, _ERRORS, _PRIOR_CHECKS = 0.97, 0.03, 5.0

# Load: calls in flight; the peak fades in so many seconds.
_PEAK_SECONDS = 10.0
_FULL = 0.8
_OVERLOADED = 0.2

# Ejection: after so many failures in a row, or with this share of errors over at least so many calls; for so long, and
# longer each time. Who comes back gets a tenth of its share at first, and all of it after a while.
_STREAK = 5
_ERROR_SHARE, _ENOUGH = 0.5, 10.0
_EJECTED_SECONDS, _LONGEST = 30.0, 300.0
_SLOW_START_SECONDS, _AT_FIRST = 60.0, 0.1

# Checks fade too, more slowly: what was down yesterday gets another chance.
_CHECKS_HALF_LIFE = 6 * HALF_LIFE

# So many columns are written anew for one decision: where more have changed, they wait for the next look.
_AT_ONCE = 16

# Answers are taken in when somebody looks, or so many at a time: each on its own would cost several times as much.
_MOST_NEW = 64

# The rows of the columns.
_AT, _CALLS, _FAILED, _SECONDS_A_TOKEN, _WRITTEN, _PING, _LAST, _UP, _CHECKS, _N, _FIRST = range(11)


class Measured(NamedTuple):
    """Estimates as columns: what was measured, drawn to the prior where it is little or old, and their widths."""

    first: Column
    first_width: Column
    a_token: Column
    uptime: Column
    errors: Column
    doubt: Column


class Load(msgspec.Struct):
    """What a model has to do in this process: calls in flight, the peak of its times, whether it is ejected."""

    flying: int = 0
    peak: float = 0.0
    peak_at: float = 0.0
    ejected_until: float = 0.0
    ejections: int = 0


class Board:
    """The facts of all models that this process has met, by their key."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._own: dict[str, Facts] = {}
        self._dirty: set[str] = set()
        # Whose columns are to be written anew before they are next looked at.
        self._stale: set[str] = set()
        self._whole = np.zeros((11, 0))
        # By size of prompts: how many calls, the mean and the variance of the seconds to the first content.
        self._sized = np.zeros((len(facts.BUCKETS) + 1, 3, 0))
        self._loads: list[Load] = []
        # Answers that are not taken in yet.
        self._new: list[tuple[str, float, int, tuple[float, float], int]] = []
        # Counts what must be seen at once.
        self.version = 0
        self._known: dict[str, Facts] = {}

    def slots(self, keys: Iterable[str]) -> Slots:
        """The places of models on the board; new ones get theirs now."""
        found = [self._slots.setdefault(key, len(self._slots)) for key in keys]
        self._grow()
        return np.array(found, dtype=np.intp)

    @property
    def known(self) -> tuple[str, ...]:
        """The keys of all models on the board."""
        return tuple(self._slots)

    # -- what happens

    def take_off(self, key: str) -> "Flight":
        """A call is sent to a model."""
        self.begun(key)
        return Flight(self, key)

    def begun(self, key: str) -> None:
        """A call has been sent to it."""
        self._loads[self._slot(key)].flying += 1

    def answered(self, key: str, now: float, tokens: int, times: tuple[float, float], output: int) -> None:
        """A call was answered: `times` are the seconds to the first content and to the end."""
        self.ended(key)
        self._new.append((key, now, tokens, times, output))
        if len(self._new) >= _MOST_NEW:
            self._take_in()

    def failed(self, key: str, now: float) -> None:
        """A call failed by the model's or its provider's fault."""
        self._take_in()
        slot = self.ended(key)
        for known in self._facts(key):
            known.failed(now)
        self._told(key)
        self._judge(slot, self._known[key], now)

    def probed(self, key: str, now: float, seconds: float | None) -> None:
        """A probe found it there after so many seconds; None: not there."""
        self._take_in()
        slot = self._slot(key)
        for known in self._facts(key):
            known.probed(now, seconds)
        self._told(key)
        if seconds is None:
            self._judge(slot, self._known[key], now)

    # -- between processes

    def changed(self) -> dict[str, Facts]:
        """What this process has measured of the models that it has heard of since the last time."""
        self._take_in()
        told = {key: self._own[key] for key in self._dirty}
        self._dirty.clear()
        return told

    def tell_again(self, keys: Iterable[str]) -> None:
        """What was measured of these models did not reach the other processes."""
        self._dirty |= set(keys)

    def join(self, others: Mapping[str, Facts]) -> None:
        """Take over what the other processes know of some models, in place of what they told before."""
        self._take_in()
        for key, known in others.items():
            self._known[key] = facts.merged([known, self._own.get(key, facts.new())])
            self._stale.add(key)

    def of(self, key: str) -> Facts:
        """All that is known of one model."""
        self._take_in()
        return self._known.get(key) or facts.new()

    # -- what is thought of it

    def measured(self, slots: Slots, tokens: int, now: float) -> Measured:
        """Estimates for prompts of so many tokens."""
        self._take_in()
        if self._stale:
            self._show([self._stale.pop() for _ in range(min(len(self._stale), _AT_ONCE))])
        whole = self._whole.take(slots, axis=1)
        sized = self._sized[facts.bucket(tokens)].take(slots, axis=1)
        fading = np.exp2((whole[_AT] - now) * (1.0 / HALF_LIFE))
        # Prompts of this size are judged by their own calls, as far as there are any, else by all.
        typical = FIRST + whole[_PING]
        seen = whole[_N] * fading
        typical = (typical * _PRIOR_CALLS + whole[_FIRST] * seen) / (_PRIOR_CALLS + seen)
        n = sized[0] * fading
        worth = _PRIOR_CALLS + n
        first = (typical * _PRIOR_CALLS + sized[1] * n) / worth
        width = np.sqrt((FIRST_WIDTH**2 * _PRIOR_CALLS + sized[2] * n) / worth / (1.0 + n))
        written = whole[_WRITTEN] * fading
        a_token = (A_TOKEN * 200.0 + whole[_SECONDS_A_TOKEN] * written) / (200.0 + written)
        calls = whole[_CALLS] * fading
        errors = (_ERRORS * _PRIOR_CHECKS + whole[_FAILED] * calls) / (_PRIOR_CHECKS + calls)
        remembered = np.exp2((whole[_LAST] - now) * (1.0 / _CHECKS_HALF_LIFE))
        checks = whole[_CHECKS] * remembered
        uptime = (_UPTIME * _PRIOR_CHECKS + whole[_UP] * remembered) / (_PRIOR_CHECKS + checks)
        doubt = 0.3 / np.sqrt(_PRIOR_CHECKS + calls + checks)
        return Measured(first, width, a_token, uptime, errors, doubt)

    def ejected(self, slots: Slots, now: float) -> npt.NDArray[np.bool_]:
        """Which of some models stand apart for their failures: the worst of them, and never more than half of all."""
        until = np.array([self._loads[slot].ejected_until for slot in slots.tolist()])
        out: npt.NDArray[np.bool_] = until > now
        most = len(slots) // 2
        if np.count_nonzero(out) > most:
            # Those who may come back last are the worst.
            kept = np.argsort(-until, kind="stable")[:most]
            out = np.zeros(len(slots), dtype=np.bool_)
            out[kept] = True
        return out

    def share(self, slot: int, capacity: float, now: float) -> float:
        """What part of its traffic a model shall get: less when it is loaded, or back from an ejection."""
        load = self._loads[slot]
        share = _OVERLOADED if load.flying >= _FULL * capacity else 1.0
        since = (now - load.ejected_until) / _SLOW_START_SECONDS
        return share if since >= 1.0 else share * max(since, _AT_FIRST)

    def wait(self, slot: int) -> float:
        """(In flight + 1) × the peak of the seconds to the first content: what a further call will wait, about."""
        self._take_in()
        load = self._loads[slot]
        return (load.flying + 1) * max(load.peak, 1e-3)

    def flying(self, slot: int) -> int:
        """How many calls of this process a model is working on."""
        return self._loads[slot].flying

    def in_flight(self, key: str) -> int:
        """The same, by the model's key."""
        slot = self._slots.get(key)
        return 0 if slot is None else self._loads[slot].flying

    # -- inside

    def _slot(self, key: str) -> int:
        slot = self._slots.get(key)
        return int(self.slots([key])[0]) if slot is None else slot

    def _facts(self, key: str) -> Sequence[Facts]:
        """What this process knows of a model, and what all do: one and the same, until another has told something."""
        own = self._own.get(key)
        if own is None:
            own = self._own[key] = facts.new()
        known = self._known.setdefault(key, own)
        return (own,) if known is own else (own, known)

    def _take_in(self) -> None:
        """Have the answers since the last look count."""
        new, self._new = self._new, []
        for key, now, tokens, (first, total), output in new:
            for known in self._facts(key):
                known.answered(now, tokens, first, total, output)
            load = self._loads[self._slots[key]]
            fading = 2.0 ** max((load.peak_at - now) / _PEAK_SECONDS, -900.0)
            load.peak, load.peak_at = max(first, first + (load.peak - first) * fading), now
            self._told(key)

    def ended(self, key: str) -> int:
        """A call is no longer in flight, however it ended; gives the model's place."""
        slot = self._slot(key)
        self._loads[slot].flying = max(0, self._loads[slot].flying - 1)
        return slot

    def _told(self, key: str) -> None:
        self._dirty.add(key)
        self._stale.add(key)

    def _show(self, keys: Sequence[str]) -> None:
        """Write the columns of some models anew."""
        slots = [self._slot(key) for key in keys]
        whole, sized = zip(*(_column(self._known[key]) for key in keys), strict=True)
        self._whole[:, slots] = np.array(whole).T
        self._sized[:, :, slots] = np.array(sized).reshape(len(keys), -1, 3).transpose(1, 2, 0)

    def _judge(self, slot: int, known: Facts, now: float) -> None:
        """Eject a model that has failed too often."""
        load = self._loads[slot]
        if load.ejected_until > now:
            return
        calls = known.calls * 2.0 ** ((known.at - now) / HALF_LIFE)
        if known.streak >= _STREAK or (calls >= _ENOUGH and known.errors > _ERROR_SHARE * known.calls):
            load.ejections = 1 if now - load.ejected_until > 10 * _LONGEST else load.ejections + 1
            load.ejected_until = now + min(_EJECTED_SECONDS * 2.0 ** (load.ejections - 1), _LONGEST)
            self.version += 1

    def _grow(self) -> None:
        size = self._whole.shape[1]
        self._loads += [Load() for _ in range(len(self._slots) - len(self._loads))]
        missing = len(self._slots) - size
        if missing <= 0:
            return
        # Half as many again, so that a growing board is rarely copied.
        more = max(missing, size // 2, 16)
        self._whole = np.pad(self._whole, ((0, 0), (0, more)))
        self._sized = np.pad(self._sized, ((0, 0), (0, 0), (0, more)))


def _column(known: Facts) -> tuple[list[float], list[float]]:
    """What is known of one model, as the rows have it; and for each size of prompts calls, mean and variance."""
    n = first = 0.0
    sized = [0.0] * (3 * (len(facts.BUCKETS) + 1))
    for size, times in enumerate(known.times):
        if times.n:
            mean = times.first / times.n
            sized[3 * size : 3 * size + 3] = times.n, mean, max(0.0, times.squares / times.n - mean * mean)
            n, first = n + times.n, first + times.first
    whole = [
        known.at,
        known.calls,
        known.errors / known.calls if known.calls else 0.0,
        known.writing / known.tokens if known.tokens else 0.0,
        known.tokens,
        known.ping / known.pings if known.pings else 0.0,
        abs(known.checks[-1]) if known.checks else 0.0,
        known.ups,
        len(known.checks),
        n,
        first / n if n else 0.0,
    ]
    return whole, sized


class Flight:
    """One call on its way to a model, to be told how it ended. The first telling counts, later ones change nothing."""

    __slots__ = ("_board", "_key", "_landed")

    def __init__(self, board: Board, key: str) -> None:
        self._board = board
        self._key = key
        self._landed = False

    def answered(self, now: float, tokens: int, times: tuple[float, float], output: int) -> None:
        """The whole answer has come: `times` are the seconds to its first content and to its end; tokens in and out."""
        if not self._landed:
            self._landed = True
            self._board.answered(self._key, now, tokens, times, output)

    def failed(self, now: float) -> None:
        """It was the model's or its provider's fault."""
        if not self._landed:
            self._landed = True
            self._board.failed(self._key, now)

    def left(self) -> None:
        """It ended by nobody's fault, or by the caller's."""
        if not self._landed:
            self._landed = True
            self._board.ended(self._key)
