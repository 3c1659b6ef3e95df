"""What holds for Anthropic's format whatever is said in it."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.calls import parsed
from tests.gateway.claude import CHAT, OTHER, PROVIDER, call, datas, fixture, read, recorded, written_events

from gimle.foundation.errors import InvalidRequest, UpstreamError
from gimle.gateway.dialects.anthropic import DIALECT
from gimle.gateway.neutral import (
    Ask,
    Choice,
    Choose,
    File,
    Format,
    Image,
    Opened,
    Reasoning,
    Reply,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
    Used,
    deltas,
)
from gimle.gateway.streams import Relay, Translation

# Letters, and what has a meaning in JSON, in events or in UTF-8.
LETTERS = 'ab c{}[]"\\\n\r:,1é🐝\u2028'
WORDS = st.sampled_from(
    "type text content source data id name input role messages system error usage message delta index tools thinking "
    "content_block output_config metadata stop_reason input_tokens tool_use image message_start content_block_start "
    "content_block_delta message_delta url base64 signature tool_use_id tool_result cache_control format".split()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(LETTERS, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(WORDS, JSON | WORDS, max_size=6)
SAID = st.text(LETTERS, min_size=1, max_size=12).filter(str.strip)


@st.composite
def broken(draw: st.DrawFn, whole: Any) -> Any:
    """A payload of the vendor's in which one value, somewhere, is another."""
    if isinstance(whole, dict | list) and whole and draw(st.integers(0, 5)):
        keys = list(whole) if isinstance(whole, dict) else list(range(len(whole)))
        at = draw(st.sampled_from(keys))
        copy = dict(whole) if isinstance(whole, dict) else list(whole)
        copy[at] = draw(broken(whole[at]))
        return copy
    return draw(JSON)


def told() -> st.SearchStrategy[bytes]:
    """What a provider might tell: nonsense, and its own words with something wrong in them."""
    events = [json.loads(data) for name in ("tools.sse", "text.sse", "refusal.sse") for data in datas(name)]
    wrong = st.sampled_from([fixture("reply.json"), *events]).flatmap(broken)
    return (TREES | wrong).map(lambda tree: json.dumps(tree).encode())


@given(st.lists(told(), max_size=4))
def test_whatever_a_provider_tells_is_read_or_refused(bodies: list[bytes]) -> None:
    for check in (CHAT.read_usage, CHAT.read_reply, CHAT.read_events(), CHAT.watch()):
        for body in bodies:
            with contextlib.suppress(UpstreamError):
                check(body)
    for body in bodies:
        DIALECT.read_fault(400, {}, body)


@given(TREES | broken(fixture("request.json")))
def test_whatever_a_caller_says_is_read_or_refused(said: Any) -> None:
    tree = said if isinstance(said, dict) else {}
    content = [tree, {"type": "text", **tree}]
    for body in (tree, {"max_tokens": 1, "messages": [{"role": "user", "content": content}], **tree}):
        for check in (CHAT.inspect, CHAT.read_request):
            with contextlib.suppress(InvalidRequest):
                check(call(body))


def _parts() -> st.SearchStrategy[Any]:
    marks: st.SearchStrategy[dict[str, str] | None] = st.none() | st.just({}) | st.just({"ttl": "1h"})
    text = st.builds(Text, text=SAID, cache=marks)
    picture = st.builds(Image, url=st.just("https://x/y.png"), cache=marks)
    bytes_ = st.builds(Image, data=st.just("aGk="), media_type=st.sampled_from(["image/png", "image/gif"]))
    file = st.builds(File, text=SAID, media_type=st.just("text/plain"), name=st.none() | SAID, cache=marks)
    pdf = st.builds(File, data=st.just("aGk="), media_type=st.just("application/pdf"))
    return text | picture | bytes_ | file | pdf


def _turns() -> st.SearchStrategy[tuple[Turn, ...]]:
    arguments = st.dictionaries(SAID, st.integers(), max_size=3).map(json.dumps)
    thought = st.builds(Thinking, text=SAID, signature=SAID) | st.builds(Thinking, sealed=SAID)
    calls = st.builds(ToolCall, id=st.just("toolu_1"), name=st.just("a"), arguments=arguments)
    result = st.builds(ToolResult, id=st.just("toolu_1"), parts=st.tuples(_parts()), failed=st.booleans())
    user = st.lists(_parts(), min_size=1, max_size=4).map(lambda parts: Turn(role="user", parts=tuple(parts)))
    mine = st.lists(thought | calls | _texts(), min_size=1, max_size=4).map(
        lambda parts: Turn(role="assistant", parts=tuple(parts))
    )
    tool = result.map(lambda part: Turn(role="tool", parts=(part,)))
    system = _texts().map(lambda text: Turn(role="system", parts=(text,)))
    pairs = st.tuples(mine, user | tool).map(list)
    body = st.lists(pairs, max_size=3).map(lambda pairs: [turn for pair in pairs for turn in pair])
    return st.tuples(st.lists(system, max_size=1), user, body).map(lambda all_: (*all_[0], all_[1], *all_[2]))


def _texts() -> st.SearchStrategy[Text]:
    return st.builds(Text, text=SAID)


ASKS = st.builds(
    Ask,
    turns=_turns(),
    tools=st.lists(
        st.builds(
            Tool, name=SAID, description=st.none() | SAID, schema=st.just({"type": "object"}), strict=st.booleans()
        ),
        max_size=2,
    ).map(tuple),
    choose=st.none() | st.builds(Choose, mode=st.sampled_from(["auto", "any", "none"])),
    max_tokens=st.integers(1, 9),
    top_k=st.none() | st.integers(1, 9),
    stop=st.lists(SAID, max_size=2).map(tuple),
    format=st.none() | st.just(Format(schema={"type": "object"})),
    reasoning=st.none() | st.builds(Reasoning, budget=st.integers(1, 9), show=st.none() | st.booleans()),
    user=st.none() | SAID,
    service_tier=st.sampled_from([None, "auto", "default"]),
    show_usage=st.just(True),
)


@given(ASKS)
def test_what_the_form_can_hold_survives(asking: Ask) -> None:
    written = CHAT.write_request(asking, OTHER, PROVIDER)
    assert written.dropped == ()
    assert CHAT.read_request(parsed(written.body, dialect="anthropic")) == asking


def _cut(whole: bytes, at: list[int]) -> Iterator[bytes]:
    borders = sorted({min(border, len(whole)) for border in at})
    for start, end in zip([0, *borders], [*borders, len(whole)], strict=True):
        yield whole[start:end]


@given(st.sampled_from(["text.sse", "tools.sse", "refusal.sse"]), st.lists(st.integers(0, 4000), max_size=40))
def test_a_stream_may_be_cut_anywhere(name: str, at: list[int]) -> None:
    whole = recorded(name)
    relay = Relay(CHAT.watch(), show_usage=True)
    passed = b"".join(relay.feed(piece) for piece in _cut(whole, at))
    assert passed == whole
    translation = Translation(CHAT.read_events(), CHAT.write_events(True))
    written = b"".join(translation.feed(piece) for piece in _cut(whole, at))
    assert relay.over
    assert translation.over
    assert relay.usage == translation.usage
    at_once = Translation(CHAT.read_events(), CHAT.write_events(True))
    assert written == at_once.feed(whole)


@given(st.lists(_texts() | st.builds(Thinking, text=SAID, signature=SAID), min_size=1, max_size=4))
def test_an_answer_is_the_same_in_pieces(parts: list[Any]) -> None:
    reply = Reply(id="a", model="b", choices=(Choice(parts=tuple(parts)),), usage=Usage(uncached=1, output=2))
    assert CHAT.read_reply(CHAT.write_reply(reply)) == reply
    told = [delta for delta in deltas(reply) if not isinstance(delta, Opened | Used)]
    again = read([data.encode() for _, data in written_events(deltas(reply))])
    assert [delta for delta in again if not isinstance(delta, Opened | Used)] == told
