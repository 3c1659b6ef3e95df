"""What the journal says of an attempt, and the row of the ledger that follows from it; pure."""

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from gimle.gateway.neutral import MOST_TOKENS, Usage
from gimle.gateway.rates import Price

Tokens = tuple[int, int, int, int, int]
NO_TOKENS: Final[Tokens] = (0, 0, 0, 0, 0)
End = Literal["done", "refused", "broken", "cancelled", "overtaken", "drained", "unknown", "unsent"]
"""How an attempt ended: answered whole; refused by its provider with a status; broken off by it, or its time over; left
by the caller; overtaken by another attempt at the same call; ended by the stop of the server; nobody knows, since its
process died; never on the wire, for which there is no row."""
UNKNOWN: Final[End] = "unknown"
UNSENT: Final[End] = "unsent"

_LONGEST_TEXT = 200
# No attempt costs ten million dollars: who says so must not stop the sums.
_MOST_NANO = 10**16


class Account(msgspec.Struct, frozen=True, array_like=True):
    """On whose account a call goes. Made by `account`, which keeps out what PostgreSQL can't hold."""

    tenant: str
    key: str
    user: str = ""
    case: str = ""
    workflow: str = ""
    request: str = ""


def account(tenant: str, key: str, *, user: str = "", case: str = "", workflow: str = "", request: str = "") -> Account:
    """An account; a caller's words are cut at 200 characters, and what is not text in them is replaced."""
    if user or case or workflow:
        user, case, workflow = plain(user), plain(case), plain(workflow)
    return Account(tenant, key, user, case, workflow, plain(request))


def plain(text: str) -> str:
    """Text that PostgreSQL can hold."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_TEXT:
        return text
    return text[:_LONGEST_TEXT].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class Intent(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Written before an attempt is sent: all that is known by then. Times in Unix seconds, money in nano-dollars.

    `expected` and `expected_nano` are what is entered should nothing more be heard of it.
    """

    id: bytes
    started: float
    account: Account
    provider: str
    model: str
    kind: str
    price: str | None
    expected: Tokens
    expected_nano: int | None


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Written when an attempt has ended: how, after how many seconds, and what it cost.

    `first` is when its first content came; `overhead` is our own time before it, the queue's included.
    """

    id: bytes
    outcome: End
    seconds: float | None
    first: float | None
    overhead: float | None
    tokens: Tokens
    exact: bool
    nano: int | None


Record = Intent | Outcome


class Times(NamedTuple):
    """Seconds, as `Outcome` has them."""

    seconds: float | None = None
    first: float | None = None
    overhead: float | None = None


_NO_TIMES: Final = Times()


class Fact(msgspec.Struct, frozen=True):
    """One row of `call_attempt`, but for its tenant. The names are those of the columns."""

    id: str
    started: float
    request: str
    key: str
    user_id: str
    case_id: str
    workflow: str
    provider: str
    model: str
    kind: str
    outcome: str
    estimated: bool
    uncached: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    cost_nano: int | None
    price: str | None
    seconds: float | None
    first_seconds: float | None
    overhead_seconds: float | None


def tokens(usage: Usage) -> Tokens:
    """The classes of a usage, in the order of the ledger."""
    told = (usage.uncached, usage.cache_read, usage.cache_write, usage.output, usage.reasoning)
    if max(told) <= MOST_TOKENS:
        return told
    uncached, cache_read, cache_write, output, reasoning = (min(count, MOST_TOKENS) for count in told)
    return uncached, cache_read, cache_write, output, reasoning


def cost(price: Price | None, usage: Usage) -> int | None:
    """What a usage costs; None where nobody knows the price."""
    return None if price is None else min(price.cost(usage), _MOST_NANO)


def outcome(intent: Intent, end: End, usage: Usage | None, price: Price | None, times: Times = _NO_TIMES) -> Outcome:
    """How an attempt ended and what it cost.

    What its provider told is exact. What nobody told is what was expected, and an estimate costs no more than that.
    A provider who refuses asks for nothing.
    """
    if usage is not None and usage.exact:
        return Outcome(intent.id, end, *times, tokens(usage), True, cost(price, usage))
    if end in ("refused", UNSENT):
        return Outcome(intent.id, end, *times, NO_TOKENS, True, 0)
    if usage is None:
        return Outcome(intent.id, end, *times, intent.expected, False, intent.expected_nano)
    nano = cost(price, usage)
    if nano is not None and intent.expected_nano is not None:
        nano = min(nano, intent.expected_nano)
    return Outcome(intent.id, end, *times, tokens(usage), False, nano)


def fact(intent: Intent, ended: Outcome | None) -> Fact:
    """The row of an attempt; without an outcome the one of an attempt that was in flight when its process died."""
    if ended is None:
        ended = outcome(intent, UNKNOWN, None, None)
    whose = intent.account
    return Fact(
        intent.id.hex(),
        intent.started,
        whose.request,
        whose.key,
        whose.user,
        whose.case,
        whose.workflow,
        intent.provider,
        intent.model,
        intent.kind,
        ended.outcome,
        not ended.exact,
        *ended.tokens,
        ended.nano,
        intent.price,
        ended.seconds,
        ended.first,
        ended.overhead,
    )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)
encode = _encoder.encode


def decoded(records: Iterable[bytes]) -> Iterator[Record]:
    """The records that this version can read; those of another one are left out by whoever counts them."""
    for record in records:
        try:
            yield _decoder.decode(record)
        except msgspec.DecodeError:
            continue
