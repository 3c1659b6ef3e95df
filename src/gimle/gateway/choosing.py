"""What selection must know of a chat to choose its model, and what it learns from what came of it.

A call that names one model has nothing to decide: none of this is done for it.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

import msgspec

from gimle.foundation.errors import GimleError, InvalidRequest
from gimle.gateway import counting
from gimle.gateway.lanes import Call
from gimle.gateway.neutral import Ask
from gimle.gateway.queueing import PRIORITIES
from gimle.gateway.routes import Decided
from gimle.gateway.signals import Ear, signal_of
from gimle.gateway.tab import Tab
from gimle.gateway.tokens import estimate
from gimle.gateway.types import ChatReply, ChatStream, Purpose
from gimle.selection.balance import PREFIX
from gimle.selection.quality import SIGNALS, Signal
from gimle.selection.replay import Outcome
from gimle.selection.selection import Asked, Selection
from gimle.selection.types import Need, Priority

# Where the caller sets no limit, an answer is thought to have so many tokens.
_ANSWER = 400
_NOT_HIGH: Mapping[int, Priority] = {PRIORITIES["agents-high"]: "high", PRIORITIES["default"]: "normal"}


def asked(calling: Call, tab: Tab, held: Mapping[str, str]) -> Asked:
    """What selection must know of a chat. `held` are the models that the walk would pass by."""
    prompt, purpose = calling.prompt, calling.call.purpose
    begins, text, turns = _said(calling)
    left = tab.purse
    need = Need(
        capabilities=prompt.capabilities,
        tokens=coarse(prompt.tokens),
        output=_ANSWER if prompt.max_tokens is None else prompt.max_tokens,
        budget_nano=None if left is None else -coarse(-left),
        priority=_NOT_HIGH.get(tab.level, "low"),
    )
    return Asked(need=need, policy=purpose.policy or None, begins=begins, text=text, turns=turns, held=held)


def asked_inside(ask: Ask, capabilities: frozenset[str]) -> Asked:
    """The same for what the rooms above ask."""
    text, turns = last_words(ask)
    tokens = coarse(counting.tokens(ask, estimate))
    need = Need(capabilities=capabilities, tokens=tokens, output=ask.max_tokens or _ANSWER)
    return Asked(need=need, begins=beginning(ask), text=text, turns=turns)


def asked_for(need: Need, purpose: Purpose) -> Asked:
    """The same for a call of which only what it needs and for what counts."""
    return Asked(need=need, policy=purpose.policy or None)


def coarse(number: int) -> int:
    """A number, a little rounded up, so that calls of about one size share a decision. It is an estimate anyway."""
    step = 1 << max(0, number.bit_length() - 4)
    return -(-number // step) * step


def last_words(ask: Ask) -> tuple[str, int]:
    """What the user said last, and how often somebody spoke."""
    turns = [turn for turn in ask.turns if turn.role in ("user", "assistant")]
    return next((turn.text for turn in reversed(turns) if turn.role == "user"), ""), len(turns)


def beginning(ask: Ask) -> str:
    """How a prompt begins, up to the user's first words: the same in each turn of a conversation."""
    first = next((at for at, turn in enumerate(ask.turns) if turn.role == "user"), len(ask.turns))
    return "\n".join(turn.text[:PREFIX] for turn in ask.turns[: first + 1])


def _said(calling: Call) -> tuple[str | None, str | None, int]:
    try:
        return beginning(calling.ask), *last_words(calling.ask)
    except InvalidRequest:
        # A provider of the caller's own dialect may understand what we don't.
        return None, None, 1


class Following:
    """A decision whose call is under way: selection is told how it ended, and how good the answer looks."""

    def __init__(self, selection: Selection, tenant: str, decided: Decided, *, explain: bool = False) -> None:
        self._selection = selection
        self._tenant = tenant
        self._decision = decided.decision
        self._requested = decided.asked.requested
        self._explain = explain
        self._started = time.perf_counter()
        self._signal: Signal | None = None
        self._outcome: Outcome | None = None
        self.id = selection.remember(tenant, decided.asked, decided.decision, whole=explain)
        self.header = decided.decision.header(self.id)

    def over(self, tab: Tab) -> None:
        """The call has ended."""
        if tab.last is None:
            return
        model, end = tab.last
        told = end in ("done", "broken") or (end == "refused" and tab.fault is not None)
        # What its caller has left, or what was his own fault, says nothing.
        seconds = time.perf_counter() - self._started if told else None
        self._outcome = Outcome(model.id, None, tab.cost, seconds, told and end != "done")
        self._tell()

    def hear(self, calling: Call, reply: ChatReply | ChatStream) -> ChatReply | ChatStream:
        """The answer, at which is looked for how good it is, and into which the reasons go if they were asked for."""
        model = f"{reply.provider}/{reply.model}"
        if isinstance(reply, ChatStream):
            reply.through(lambda events: self._heard(calling, events, reply), _nothing)
            return reply
        if reply.status != 200:
            return reply
        with suppress(GimleError):
            # What passes as it came need not be what we can read.
            self._notice(model, signal_of(calling, calling.chat.read_reply(reply.body)))
        if not self._explain:
            return reply
        try:
            body = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
        except msgspec.MsgspecError:
            return reply
        return msgspec.structs.replace(reply, body=msgspec.json.encode({**body, "gimle": self._reasons()}))

    async def _heard(
        self, calling: Call, events: AsyncGenerator[bytes, None], stream: ChatStream
    ) -> AsyncGenerator[bytes, None]:
        ear = Ear(calling.chat.read_events(), words=not calling.prompt.plain)
        if self._explain:
            # A comment is no event: it changes nothing for the caller, and tells who looks.
            yield b": gimle " + msgspec.json.encode(self._reasons()) + b"\n\n"
        async with aclosing(events):
            async for piece in events:
                ear.note(piece)
                yield piece
        with suppress(GimleError):
            if (reply := ear.reply) is not None:
                self._notice(f"{stream.provider}/{stream.model}", signal_of(calling, reply))

    def _reasons(self) -> dict[str, object]:
        return {"decision": self._decision.explain(self.id, self._requested)}

    def _notice(self, model: str, signal: Signal | None) -> None:
        if signal is not None:
            self._selection.noticed(self._tenant, self._decision.order.need.subject, model, signal)
            self._signal = signal
            self._tell()

    def _tell(self) -> None:
        if self._outcome is not None:
            quality = None if self._signal is None else SIGNALS[self._signal].good
            self._selection.records.settle(
                self._tenant, self.id, msgspec.structs.replace(self._outcome, quality=quality)
            )


def _nothing() -> None:
    return
