"""Which calls are the same, and what their callers say about kept answers. Pure.

Two calls are the same when they come from one tenant, go to one revision of one model in one dialect, and say the same,
whatever the order of their fields. The key is an HMAC, so that nobody finds another's answer by guessing.
"""

import hmac
import re
from collections.abc import Collection, Mapping

import msgspec

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.neutral import Ask, Text

# What changes nothing about the answer.
_NO_PART = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "store"}
)
# A response repeats all of its request.
_REPEATING = "responses"
# Above this, a caller wants answers that differ.
_STEADY = 0.5
_LONGEST_WORDS = 2000
_NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*")
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NEGATIONS = frozenset(
    "not no never none nor neither nobody nothing without cannot nicht nichts niemand kein keine keinen keinem keiner "
    "keines nie niemals weder ohne".split()
)
# To write the keys of larger requests would hold up all others.
_LARGEST = 1024 * 1024


class Control(msgspec.Struct, frozen=True):
    """Whether an answer may be read from the cache, how old it may be (seconds), and whether it may be kept.

    `asked` says that the caller wants it to be, where that is not done for all.
    """

    read: bool = True
    write: bool = True
    max_age: float | None = None
    asked: bool = False


ALL = Control()
NOTHING = Control(False, False)


def control(header: str, field: bool | str | None) -> Control:
    """What a caller says: the header `Cache-Control`, and the field `gimle.cache` (true, false, or directives).

    Raises `InvalidRequest` for a field that holds no directives; of the header, what is not known is passed over.
    """
    if field is False:
        return NOTHING
    own = _directives(field) if isinstance(field, str) else []
    for said in own:
        if said not in (("no-store", None), ("no-cache", None)) and not (said[0] == "max-age" and said[1] is not None):
            raise InvalidRequest(
                f"The cache knows no directive {said[0][:40]!r}.",
                field="gimle.cache",
                hint="true, false, or `no-store`, `no-cache`, `max-age=SECONDS`.",
            )
    said_all = [*_directives(header), *own]
    names = {name for name, _ in said_all}
    ages = [seconds for name, seconds in said_all if name == "max-age" and seconds is not None]
    max_age = min(ages, default=None)
    if "no-store" in names:
        return NOTHING
    read = "no-cache" not in names and max_age != 0
    return Control(read, True, max_age, asked=bool(field) or bool(max_age))


def _directives(said: str) -> list[tuple[str, float | None]]:
    """Names, with the seconds of those that have some."""
    found: list[tuple[str, float | None]] = []
    for part in said.lower().split(","):
        name, _, value = part.strip().partition("=")
        value = value.strip().strip('"')
        # More digits than that are no time at all.
        found.append((name.strip(), float(value) if value.isascii() and value.isdigit() and len(value) < 12 else None))
    return found


def canonical(dialect: str, body: Mapping[str, msgspec.Raw]) -> bytes | None:
    """A request's fields in one order, without those that change nothing about the answer.

    None for one that is too large, or that JSON alone can't tell from others.
    """
    if sum(map(len, body.values())) > _LARGEST:
        return None
    left_out = frozenset[str]() if dialect == _REPEATING else _NO_PART
    try:
        fields = {name: msgspec.json.decode(value) for name, value in body.items() if name not in left_out}
        return msgspec.json.encode(fields, order="sorted")
    except (msgspec.MsgspecError, RecursionError):
        return None


def digest(secret: bytes, parts: Collection[bytes | str]) -> bytes:
    """A key of the cache: the parts can't be mistaken for others of another length."""
    written = [part if isinstance(part, bytes) else part.encode() for part in parts]
    return hmac.digest(secret, b"".join(b"%d:%b" % (len(part), part) for part in written), "sha256")


# -- calls that mean the same


class Meaning(msgspec.Struct, frozen=True):
    """What a call asks in words, and what must be the same for two calls to have one answer."""

    words: str
    rest: bytes


def meaning(ask: Ask) -> Meaning | None:
    """The words by which a call may be compared; None where an answer to similar words could be a wrong one.

    Tools, JSON, more than one answer, images and a caller who wants variety are kept out; numbers and negations must be
    the same, because they change an answer's meaning and hardly that of the vector.
    """
    last = ask.turns[-1] if ask.turns else None
    if last is None or last.role != "user" or not all(isinstance(part, Text) for part in last.parts):
        return None
    varied = ask.temperature is not None and ask.temperature > _STEADY
    if varied or ask.tools or ask.format is not None or (ask.n or 1) > 1 or ask.logprobs or ask.seed is not None:
        return None
    words = last.text.strip()
    if not 0 < len(words) <= _LONGEST_WORDS:
        return None
    before = [(turn.role, msgspec.to_builtins(turn)) for turn in ask.turns[:-1]]
    options = [
        ask.max_tokens,
        ask.temperature,
        ask.top_p,
        ask.top_k,
        ask.stop,
        ask.verbosity,
        ask.stream,
        ask.show_usage,
    ]
    reasoning = msgspec.to_builtins(ask.reasoning)
    exact = [_NUMBER.findall(words), [word for word in _WORD.findall(words.lower()) if _negates(word)]]
    return Meaning(words, msgspec.json.encode([before, options, reasoning, exact, ask.extra], order="sorted"))


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word.endswith(("n't", "n’t"))
