"""OpenAI's older completions, both directions: a prompt is continued, without turns and without tools. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec.structs import replace

from gimle.foundation.errors import InvalidRequest, Unsayable, UpstreamError
from gimle.gateway import openai_wire
from gimle.gateway.neutral import (
    Added,
    Ask,
    Began,
    Choice,
    Closed,
    Delta,
    Finish,
    Finished,
    Json,
    Logprob,
    Opened,
    Refusal,
    Reply,
    Text,
    Turn,
    Usage,
    Used,
    Written,
)
from gimle.gateway.openai_wire import DONE, Answer, event, usage_in, whole
from gimle.gateway.types import Chat, ChatCall, Event, Prompt, Provider
from gimle.gateway.wire import BYTES_A_TOKEN, NULL, decoded

NAME = "completions"
PATH = "/completions"
_NAMES = {"turns": "prompt"}
_Positive = Annotated[int, msgspec.Meta(ge=1)]

# -- what a caller sends


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Request(msgspec.Struct, frozen=True):
    prompt: str | list[str | int | list[int]] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: _Positive | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    user: str | None = None
    stream_options: _StreamOptions | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: _Positive | None = None


_FIELDS = {field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Request)}
_KNOWN = frozenset(_FIELDS) | {"model", "stream"}
_ANY = msgspec.json.Decoder()


def inspect(call: ChatCall) -> Prompt:
    """Check the known fields of a request. Raises `InvalidRequest`, which names the field."""
    given = _given(call)
    if given.prompt is None:
        raise InvalidRequest("The request has no prompt.", field="prompt", hint="Send text.")
    options = given.stream_options
    if options is not None and not call.stream:
        raise InvalidRequest("stream_options needs stream: true.", field="stream_options")
    return Prompt(
        max_tokens=given.max_tokens,
        choices=(given.best_of or given.n or 1) * _prompts(given.prompt),
        include_usage=bool(options is not None and options.include_usage),
        tokens=len(call.body["prompt"]) // BYTES_A_TOKEN,
    )


def _prompts(given: str | list[str | int | list[int]]) -> int:
    """How many texts are to be completed: a list of numbers is one."""
    several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    return len(given) if several else 1


def _given(call: ChatCall) -> _Request:
    return _Request(**{name: decoded(call.body[name], _FIELDS[name], name) for name in _FIELDS if name in call.body})


def read_request(call: ChatCall) -> Ask:
    """The prompt as one turn of the user. Raises `Unsayable` for what a chat can't do."""
    given = _given(call)
    _refuse(given)
    unknown = {name: decoded(raw, _ANY, name) for name, raw in call.body.items() if name not in _KNOWN}
    stop = (given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ())
    return Ask(
        turns=(Turn(role="user", parts=(Text(text=_text(given.prompt)),)),),
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        n=given.n,
        stop=stop,
        seed=given.seed,
        logprobs=True if given.logprobs is not None else None,
        top_logprobs=given.logprobs,
        frequency_penalty=given.frequency_penalty,
        presence_penalty=given.presence_penalty,
        user=given.user,
        stream=call.stream,
        show_usage=bool(given.stream_options and given.stream_options.include_usage),
        extra={NAME: unknown} if unknown else {},
    )


def _refuse(given: _Request) -> None:
    refused = {
        "echo": bool(given.echo),
        "suffix": bool(given.suffix),
        "best_of": given.best_of is not None and given.best_of != (given.n or 1),
    }
    for name, wanted in refused.items():
        if wanted:
            raise Unsayable(f"This model is asked as a chat, which has no {name}.", field=name)


def _text(prompt: object) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    raise Unsayable("This model is asked as a chat, which takes one prompt of text.", field="prompt")


# -- what goes to a provider


def write_request(ask: Ask, model: str, provider: Provider) -> Written:
    """One turn of the user as a prompt. Raises `Unsayable` for a conversation, and for all that needs one."""
    asked = {"tools": ask.tools, "format": ask.format, "reasoning": ask.reasoning}
    for name, wanted in asked.items():
        if wanted:
            raise Unsayable("This model continues a text, and can do no more.", field=name)
    hints = {"top_k": ask.top_k, "verbosity": ask.verbosity, "metadata": ask.metadata, "service_tier": ask.service_tier}
    dropped = [name for name, value in hints.items() if value is not None]
    dropped += [f"extra.{name}" for dialect, fields in ask.extra.items() if dialect != NAME for name in fields]
    fields: Json = {
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "n": ask.n,
        "stop": list(ask.stop) or None,
        "seed": ask.seed,
        "logprobs": (ask.top_logprobs or 0) if ask.logprobs else None,
        "frequency_penalty": ask.frequency_penalty,
        "presence_penalty": ask.presence_penalty,
        "user": ask.user,
        "stream": True if ask.stream else None,
        "stream_options": {"include_usage": True} if ask.stream and provider.stream_usage else None,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    body = {**ask.extra.get(NAME, {}), "model": model, "prompt": _prompt(ask), **known}
    return Written(path=PATH, body=msgspec.json.encode(body), dropped=tuple(dropped))


def _prompt(ask: Ask) -> str:
    if len(ask.turns) != 1 or ask.turns[0].role != "user":
        raise Unsayable("This model continues one text, and knows no conversation.", field="turns")
    for at, part in enumerate(ask.turns[0].parts):
        if not isinstance(part, Text):
            raise Unsayable("This model reads text only.", field=f"turns[0].parts[{at}]")
    return ask.turns[0].text


def shorten(call: ChatCall, most: int, provider: Provider) -> ChatCall:
    """A call with another limit on its answer. The newer name of it is not known here."""
    return replace(call, body={**call.body, "max_tokens": msgspec.Raw(str(most))})


# -- what a provider answers


class _Logprobs(msgspec.Struct, frozen=True):
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str
    index: int = 0
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(Answer, frozen=True):
    """A whole answer, or one event of a stream: the format has the same shape for both."""

    choices: list[_Choice] = []
    id: str = ""
    model: str = ""
    created: int | float = 0
    usage: msgspec.Raw = NULL


_COMPLETION = msgspec.json.Decoder(_Completion)
_FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "filter"}


def read_usage(body: bytes) -> Usage | None:
    """Check an answer that passes as it came; its usage, if it tells it. Raises `UpstreamError`."""
    return usage_in(_whole(body).usage)


def read_reply(body: bytes) -> Reply:
    """An answer. Raises `UpstreamError` when it is malformed or tells of an error."""
    told = _whole(body)
    choices = tuple(
        Choice(
            parts=(Text(text=choice.text),),
            finish=_FINISHES.get(choice.finish_reason or "", "stop"),
            logprobs=_read_logprobs(choice.logprobs),
        )
        for choice in told.choices
    )
    return Reply(id=told.id, model=told.model, created=int(told.created), choices=choices, usage=usage_in(told.usage))


def _whole(body: bytes) -> _Completion:
    told = whole(body, _COMPLETION, "a completion")
    if not told.choices:
        raise UpstreamError("The provider's answer has no choices.")
    return told


def _read_logprobs(told: _Logprobs | None) -> tuple[Logprob, ...] | None:
    if told is None or not told.tokens:
        return None
    values = told.token_logprobs or [None] * len(told.tokens)
    rivals = told.top_logprobs or [None] * len(told.tokens)
    return tuple(
        Logprob(
            token=token,
            logprob=value or 0.0,
            rivals=tuple(Logprob(token=rival, logprob=at) for rival, at in (others or {}).items()),
        )
        for token, value, others in zip(told.tokens, values, rivals, strict=False)
    )


def watch() -> Callable[[bytes], Event]:
    """Begins to look at a stream that passes as it came."""
    return _look


def _look(data: bytes) -> Event:
    if data == DONE:
        return Event(done=True)
    told = event(data, _COMPLETION, "a piece of a completion")
    usage = usage_in(told.usage)
    return Event(
        opened=tuple(choice.index for choice in told.choices),
        closed=tuple(choice.index for choice in told.choices if choice.finish_reason),
        content=sum(len(choice.text.encode()) for choice in told.choices if choice.text),
        usage=usage,
        usage_only=usage is not None and not told.choices,
    )


class Reader:
    """Reads one stream: the data of an event in, deltas out. Raises `UpstreamError`."""

    def __init__(self) -> None:
        self._opened = False
        self._begun: set[int] = set()

    def __call__(self, data: bytes) -> Sequence[Delta]:
        """What one event says."""
        if data == DONE:
            return [Closed()]
        return list(self._deltas(event(data, _COMPLETION, "a piece of a completion")))

    def _deltas(self, told: _Completion) -> Iterator[Delta]:
        if not self._opened:
            self._opened = True
            yield Opened(id=told.id, model=told.model, created=int(told.created))
        for choice in told.choices:
            logprobs = _read_logprobs(choice.logprobs)
            if choice.index not in self._begun:
                self._begun.add(choice.index)
                yield Began(part=Text(text=""), at=0, choice=choice.index)
            if choice.text or logprobs:
                yield Added(text=choice.text, at=0, choice=choice.index, logprobs=logprobs)
            if choice.finish_reason:
                yield Finished(finish=_FINISHES.get(choice.finish_reason, "stop"), choice=choice.index)
        if (usage := usage_in(told.usage)) is not None:
            yield Used(usage=usage)


# -- what a caller gets

_REASONS: dict[Finish, str] = {"length": "length", "filter": "content_filter", "refusal": "content_filter"}


def write_reply(reply: Reply) -> bytes:
    """A whole `text_completion`."""
    choices = [_choice(_words(choice), at, choice.finish, choice.logprobs) for at, choice in enumerate(reply.choices)]
    body: Json = {**_head(reply.id, reply.created, reply.model), "choices": choices}
    if reply.usage is not None:
        body["usage"] = _written_usage(reply.usage)
    return msgspec.json.encode(body)


def _words(choice: Choice) -> str:
    return "".join(part.text for part in choice.parts if isinstance(part, Text | Refusal))


def _head(id_: str, created: int, model: str) -> Json:
    return {"id": id_, "object": "text_completion", "created": created, "model": model}


def _choice(
    text: str, at: int, finish: Finish | None, logprobs: tuple[Logprob, ...] | None = None, offset: int = 0
) -> Json:
    reason = None if finish is None else _REASONS.get(finish, "stop")
    told = None if logprobs is None else _written_logprobs(logprobs, offset)
    return {"text": text, "index": at, "logprobs": told, "finish_reason": reason}


def _written_logprobs(logprobs: tuple[Logprob, ...], offset: int) -> Json:
    """Tokens, their probabilities, and where in the text each begins: each kind in a list of its own."""
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.token)
    return {
        "tokens": [one.token for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [{rival.token: rival.logprob for rival in one.rivals} for one in logprobs],
        "text_offset": offsets,
    }


def _written_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
    }


class Writer:
    """Writes one stream: deltas in, the bytes of whole events out. Thoughts have no place in a text."""

    def __init__(self, show_usage: bool) -> None:
        self._show_usage = show_usage
        self._head: Json = _head("", 0, "")
        self._usage: Usage | None = None
        self._texts: set[tuple[int, int]] = set()
        self._offsets: dict[int, int] = {}

    def __call__(self, delta: Delta) -> bytes:
        """The events of one delta; often one, sometimes none."""
        match delta:
            case Opened(id=id_, model=model, created=created):
                self._head = _head(id_, created, model)
            case Began(part=Text() | Refusal(), at=at, choice=choice):
                self._texts.add((choice, at))
            case Added(text=text, at=at, choice=choice, logprobs=logprobs) if (choice, at) in self._texts:
                offset = self._offsets.get(choice, 0)
                self._offsets[choice] = offset + len(text)
                return self._chunk([_choice(text, choice, None, logprobs, offset)])
            case Finished(finish=finish, choice=choice):
                return self._chunk([_choice("", choice, finish)])
            case Used(usage=usage):
                self._usage = usage
            case Closed():
                told = self._show_usage and self._usage is not None
                return (self._chunk([], self._usage) if told else b"") + b"data: [DONE]\n\n"
            case _:
                pass
        return b""

    def _chunk(self, choices: list[Json], usage: Usage | None = None) -> bytes:
        told = {"usage": None if usage is None else _written_usage(usage)} if self._show_usage else {}
        return b"data: " + msgspec.json.encode({**self._head, "choices": choices, **told}) + b"\n\n"


DIALECT = replace(
    openai_wire.DIALECT,
    chat=Chat(
        names=_NAMES,
        inspect=inspect,
        read_request=read_request,
        write_reply=write_reply,
        write_events=Writer,
        path=lambda model, stream: PATH,
        patch=openai_wire.patch,
        shorten=shorten,
        write_request=write_request,
        read_usage=read_usage,
        watch=watch,
        read_reply=read_reply,
        read_events=Reader,
    ),
)
