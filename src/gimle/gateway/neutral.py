"""What a chat can say, in no vendor's words: the form through which one dialect becomes another.

A dialect reads its requests into an `Ask` and its answers into a `Reply` or `Delta`s, and writes them. What a vendor
has and no other (its own fields, its own kinds of parts) stays under `extra`, by the name of the dialect, and comes
back out where the same dialect writes it. What the other side can't say is refused (`Unsayable`) or, where the vendor
takes it for a hint, left out and told: `Written.dropped`. Both name neutral fields; the caller's dialect knows its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from gimle.foundation.errors import Unsayable

Json = dict[str, Any]
Role = Literal["system", "developer", "user", "assistant", "tool"]
# `refusal`: the model declined. `filter`: the vendor cut it. `pause`: the vendor wants to be called again.
Finish = Literal["stop", "length", "tools", "refusal", "filter", "pause"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# -- parts of a message

Extra = dict[str, Json]


class Text(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Words. `cache` is a mark up to which the vendor shall keep the prompt: {"ttl": "5m"} or {}."""

    text: str
    cache: Json | None = None
    extra: Extra = {}


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """A picture, by `url` or as base64 `data` with its `media_type`. `detail` is auto, low or high."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    cache: Json | None = None
    extra: Extra = {}


class Audio(msgspec.Struct, frozen=True, kw_only=True, tag="audio"):
    """Sound as base64, with its media type (audio/wav, audio/mpeg)."""

    data: str
    media_type: str
    extra: Extra = {}


class File(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """A document, as base64 `data`, plain `text` or `url`; or `id`, a file that the vendor holds already."""

    data: str | None = None
    text: str | None = None
    url: str | None = None
    id: str | None = None
    name: str | None = None
    media_type: str | None = None
    cache: Json | None = None
    extra: Extra = {}


class Thinking(msgspec.Struct, frozen=True, kw_only=True, tag="thinking"):
    """What the model thought. `signature` proves it to the vendor who made it; `sealed` only that vendor can read."""

    text: str = ""
    signature: str | None = None
    sealed: str | None = None
    extra: Extra = {}


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call"):
    """The model calls a tool. `arguments` is the JSON as the model wrote it, perhaps not valid; "" for none."""

    id: str
    name: str
    arguments: str = ""
    signature: str | None = None
    cache: Json | None = None
    extra: Extra = {}


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    """What a tool gave back to the call `id`; `name` is the tool's, where the dialect told it or the call is known."""

    id: str
    parts: "tuple[Text | Image | File, ...]"
    name: str | None = None
    failed: bool = False
    cache: Json | None = None
    extra: Extra = {}


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """The model says that it won't."""

    text: str


class Foreign(msgspec.Struct, frozen=True, kw_only=True, tag="foreign"):
    """A part that only its own dialect knows, as it came (a web search and its result, a code run)."""

    dialect: str
    raw: Json


Part = Text | Image | Audio | File | Thinking | ToolCall | ToolResult | Refusal | Foreign


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Results of tools stand in turns of the role `tool`, whatever the dialect calls that."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    extra: Extra = {}

    @property
    def text(self) -> str:
        """Its words alone, the texts one after the other."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))


# -- a request


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call; `schema` is the JSON schema of its arguments."""

    name: str
    description: str | None = None
    schema: Json | None = None
    strict: bool | None = None
    cache: Json | None = None
    extra: Extra = {}


class ForeignTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the vendor itself runs, as it was declared."""

    dialect: str
    name: str
    raw: Json


class Choose(msgspec.Struct, frozen=True, kw_only=True):
    """Which tool: `auto`, `none`, `any` (one at least), or `one`, which `name` names."""

    mode: Literal["auto", "none", "any", "one"]
    name: str | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the answer: any JSON (`schema` None), or JSON that fits a schema."""

    schema: Json | None = None
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How much to think: by `effort`, or by `budget` in tokens; `show` asks for (a summary of) the thoughts.

    A budget of 0 is the effort `none`, and a negative one leaves it to the model: only Gemini says it so.
    """

    effort: Effort | None = None
    budget: int | None = None
    show: bool | None = None

    @property
    def tokens(self) -> int | None:
        """The budget, where it is a number of tokens."""
        return self.budget if self.budget is not None and self.budget > 0 else None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request. None stands for what the caller did not say. `turns` are in their order, system turns among them.

    `extra` holds, by dialect, the fields that this form does not know; the dialect that wrote them gets them back.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Tool | ForeignTool, ...] = ()
    choose: Choose | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    format: Format | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    user: str | None = None
    service_tier: str | None = None
    metadata: Mapping[str, str] | None = None
    stream: bool = False
    show_usage: bool = False
    extra: Extra = {}


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A request in a provider's dialect: where it goes (below the base URL), the body, and the hints left out.

    `headers` are those of the caller that go along, where both speak one dialect.
    """

    path: str
    body: bytes
    dropped: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


# -- an answer

# No attempt has more: who says so must not stop the sums.
MOST_TOKENS = 1_000_000_000


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one call, in classes that share none: `input_tokens` and `output_tokens` are sums of them.

    `uncached` were read anew, `cache_read` came from the vendor's cache, `cache_write` went into it; `reasoning` was
    thought, `output` is the rest of what was written. `exact` is False when they were estimated.
    """

    uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    exact: bool = True

    @property
    def input_tokens(self) -> int:
        """All that the model read."""
        return self.uncached + self.cache_read + self.cache_write

    @property
    def output_tokens(self) -> int:
        """All that the model wrote."""
        return self.output + self.reasoning


class Logprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token of the answer with its log probability, and its likeliest rivals."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    rivals: "tuple[Logprob, ...]" = ()


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer among the `n` that were asked for."""

    parts: tuple[Part, ...]
    finish: Finish | None = "stop"
    stop_sequence: str | None = None
    logprobs: tuple[Logprob, ...] | None = None

    @property
    def text(self) -> str:
        """Its words alone."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `created` is in Unix seconds; `model` is what the provider calls it."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    created: int = 0
    extra: Extra = {}


# -- an answer as it comes


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The provider has begun: the first of all deltas."""

    id: str
    model: str
    created: int = 0
    usage: Usage | None = None


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """A part begins, empty but for what is known at once (a tool's id and name). Parts of a choice count from 0, and
    have ended when the next begins, unless their dialect mixes them, as OpenAI does with parallel tool calls.
    """

    part: Text | Thinking | ToolCall | Refusal | Foreign
    at: int
    choice: int = 0


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """More of a part: of its text, or of a tool call's arguments."""

    text: str
    at: int
    choice: int = 0
    logprobs: tuple[Logprob, ...] | None = None


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The signature of a part, which comes when it is whole."""

    signature: str
    at: int
    choice: int = 0


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A choice is complete, and why."""

    finish: Finish
    choice: int = 0
    stop_sequence: str | None = None


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What was used until now: each telling replaces the one before."""

    usage: Usage


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The provider has said that it is done: the last of all deltas. Without it the stream was cut."""


Delta = Opened | Began | Added | Signed | Finished | Used | Closed


def deltas(reply: Reply) -> Sequence[Delta]:
    """A whole answer as if it had come piece by piece."""
    told: list[Delta] = [Opened(id=reply.id, model=reply.model, created=reply.created)]
    for number, choice in enumerate(reply.choices):
        logprobs = choice.logprobs
        for at, part in enumerate(choice.parts):
            for piece in _pieces(part, at, number):
                if logprobs is not None and isinstance(piece, Added) and isinstance(part, Text):
                    piece, logprobs = msgspec.structs.replace(piece, logprobs=logprobs), None
                told.append(piece)
        told.append(Finished(finish=choice.finish or "stop", choice=number, stop_sequence=choice.stop_sequence))
    if reply.usage is not None:
        told.append(Used(usage=reply.usage))
    return [*told, Closed()]


def _pieces(part: Part, at: int, choice: int) -> Sequence[Delta]:
    match part:
        case Text(text=text) | Refusal(text=text):
            shell = msgspec.structs.replace(part, text="")
            return [Began(part=shell, at=at, choice=choice), Added(text=text, at=at, choice=choice)]
        case Thinking(text=text, signature=signature):
            begun = Began(part=msgspec.structs.replace(part, text="", signature=None), at=at, choice=choice)
            said = [Added(text=text, at=at, choice=choice)] if text else []
            return [begun, *said, *([Signed(signature=signature, at=at, choice=choice)] if signature else [])]
        case ToolCall(arguments=arguments):
            begun = Began(part=msgspec.structs.replace(part, arguments=""), at=at, choice=choice)
            return [begun, *([Added(text=arguments, at=at, choice=choice)] if arguments else [])]
        case Foreign():
            return [Began(part=part, at=at, choice=choice)]
        case _:
            raise Unsayable("An answer can't hold such a part.", field="choices")
