"""What the journal says of an attempt, and the row of the ledger that follows from it; pure."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from gimle.gateway.neutral import Usage

Tokens = tuple[int, int, int, int, int]
NO_TOKENS: Final[Tokens] = (0, 0, 0, 0, 0)
CRASHED = "crashed"
# The attempt never reached the wire: no row.
VOID = "void"
_LONGEST_TEXT = 200


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
    return Account(tenant, key, _plain(user), _plain(case), _plain(workflow), _plain(request))


def _plain(text: str) -> str:
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
    """Written when an attempt has ended: how, after how many seconds, and what it cost."""

    id: bytes
    outcome: str
    seconds: float
    first: float | None
    tokens: Tokens
    exact: bool
    nano: int | None


Record = Intent | Outcome


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


def tokens(usage: Usage) -> Tokens:
    """The classes of a usage, in the order of the ledger."""
    return usage.uncached, usage.cache_read, usage.cache_write, usage.output, usage.reasoning


def fact(intent: Intent, outcome: Outcome | None) -> Fact:
    """The row of an attempt; without an outcome the one of an attempt that was in flight when its process died."""
    if outcome is None:
        outcome = Outcome(intent.id, CRASHED, 0.0, None, intent.expected, False, intent.expected_nano)
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
        outcome.outcome,
        not outcome.exact,
        *outcome.tokens,
        outcome.nano,
        intent.price,
        None if outcome.outcome == CRASHED else outcome.seconds,
        outcome.first,
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
