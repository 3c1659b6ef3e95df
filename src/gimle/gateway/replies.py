"""What goes out for one attempt, and the reply that comes of it."""

from gimle.foundation.outbound import Request
from gimle.gateway.catalog import Access
from gimle.gateway.neutral import Usage
from gimle.gateway.notices import Notice
from gimle.gateway.tab import Tab
from gimle.gateway.types import Attempt, ChatReply, ChatStream, Fault, Headers
from gimle.gateway.upstream import Refusal


def request_of(one: Attempt, access: Access, path: str, body: bytes, headers: Headers = ()) -> Request:
    """A request to the target of an attempt, with its provider's headers and those that go along."""
    url = access.url(path, one.target.name)
    passed = (*access.headers, *headers) if headers else access.headers
    return Request(url=url, headers=passed, body=body, sending=one.slip.begin)


def reply_of(
    one: Attempt,
    status: int,
    body: bytes,
    usage: Usage | None = None,
    seconds: float = 0.0,
    dropped: tuple[str, ...] = (),
) -> ChatReply:
    """A whole answer of an attempt."""
    return ChatReply(
        status=status,
        body=body,
        model=one.target.name,
        provider=one.target.provider,
        attempts=one.number,
        usage=usage,
        upstream_seconds=seconds,
        dropped=dropped,
    )


def passed(one: Attempt, refusal: Refusal, *, same: bool) -> ChatReply | Fault:
    """A refusal that is the caller's fault goes back in the provider's own words, where they are in his dialect."""
    if refusal.fault.passable and same:
        # It tells nothing about the provider's health.
        one.ticket.left()
        one.slip.settle("refused")
        return reply_of(one, refusal.status, refusal.body)
    return refusal.fault


def told(reply: ChatReply | ChatStream, tab: Tab, notice: Notice | None = None) -> ChatReply | ChatStream:
    """An answer that tells of its limits, its cost where that is known already, and of a model that stands in."""
    reply.told += tab.left if isinstance(reply, ChatStream) else tab.told
    reply.notice = notice
    return reply
