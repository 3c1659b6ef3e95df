"""Gemini's answers in our form, and ours as Gemini's."""

import hashlib
from typing import Any

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway import faults
from gimle.gateway.dialects.gemini.parts import read_part
from gimle.gateway.dialects.gemini.shapes import ANY, NAME, Content, is_made, unmarked
from gimle.gateway.neutral import (
    Choice,
    Finish,
    Foreign,
    Image,
    Json,
    Logprob,
    Part,
    Refusal,
    Reply,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from gimle.gateway.wire import MALFORMED, NULL, Count, lenient, no_answer

# The model failed, not the caller: another try may do better.
_FAILED = frozenset(
    ("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")
)  # fmt: skip
_WRITTEN: dict[Finish, str] = {
    "stop": "STOP", "tools": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY", "filter": "SAFETY", "pause": "OTHER",
}  # fmt: skip
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Token(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    # Zeros and empty values are left out of Google's JSON.
    log_probability: float = 0.0


class _Rivals(msgspec.Struct, frozen=True):
    candidates: list[_Token] = []


class _Logprobs(msgspec.Struct, frozen=True, rename="camel"):
    chosen_candidates: list[_Token] = []
    top_candidates: list[_Rivals] = []


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    """One answer, or a piece of it."""

    content: Content | None = None
    finish_reason: str | None = None
    index: int = 0
    logprobs_result: _Logprobs | None = None
    finish_message: str | None = None


class _Feedback(msgspec.Struct, frozen=True, rename="camel"):
    block_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    prompt_token_count: Count | None = None
    cached_content_token_count: Count = 0
    candidates_token_count: Count = 0
    thoughts_token_count: Count = 0
    tool_use_prompt_token_count: Count = 0


_USAGE = msgspec.json.Decoder(_Usage | None, strict=False)


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """A whole answer, or one event of a stream."""

    candidates: list[Candidate] = []
    prompt_feedback: _Feedback | None = None
    usage_metadata: msgspec.Raw = NULL
    model_version: str = ""
    response_id: str = ""
    error: Any = None

    @property
    def blocked(self) -> bool:
        """Whether the vendor refused the prompt itself."""
        return self.prompt_feedback is not None and self.prompt_feedback.block_reason is not None

    @property
    def usage(self) -> Usage | None:
        """The tokens, in classes that share none: Gemini counts the cached ones among the prompt's."""
        told = lenient(self.usage_metadata, _USAGE)
        if told is None or told.prompt_token_count is None:
            return None
        cached = max(0, min(told.cached_content_token_count, told.prompt_token_count))
        return Usage(
            uncached=max(0, told.prompt_token_count - cached) + max(0, told.tool_use_prompt_token_count),
            cache_read=cached,
            output=max(0, told.candidates_token_count),
            reasoning=max(0, told.thoughts_token_count),
        )


_ANSWER = msgspec.json.Decoder(Answer)


def read_answer(body: bytes) -> Answer:
    """Raises `UpstreamError` for what is no answer, or tells of an error."""
    try:
        answer = _ANSWER.decode(body)
    except MALFORMED as wrong:
        raise no_answer(body, "one of generateContent", wrong) from None
    if answer.error is not None:
        told = answer.error.get("message") if isinstance(answer.error, dict) else None
        raise faults.reported(str(told or ""))
    return answer


def read_usage(body: bytes) -> Usage | None:
    """Check a whole answer; its usage, if it tells it."""
    answer = read_answer(body)
    for candidate in answer.candidates:
        finish_of(candidate, calls=False)
    if not answer.candidates and not answer.blocked:
        raise UpstreamError("The provider's answer has no candidates.")
    return answer.usage


def read_reply(body: bytes) -> Reply:
    """A whole answer in our form. A prompt that the vendor blocked has an answer without words, cut by the filter."""
    answer = read_answer(body)
    id_ = answer.response_id or hashlib.blake2s(body, digest_size=12).hexdigest()
    choices = tuple(_choice(candidate, id_) for candidate in sorted(answer.candidates, key=lambda one: one.index))
    if not choices:
        if not answer.blocked:
            raise UpstreamError("The provider's answer has no candidates.")
        choices = (Choice(parts=(), finish="filter"),)
    return Reply(id=id_, model=answer.model_version, choices=choices, usage=answer.usage)


def _choice(candidate: Candidate, id_: str) -> Choice:
    parts = read_parts(candidate, id_)
    return Choice(
        parts=parts,
        finish=finish_of(candidate, calls=any(isinstance(part, ToolCall) for part in parts)),
        logprobs=logprobs_of(candidate),
    )


def read_parts(candidate: Candidate, id_: str, first: int = 0) -> tuple[Part, ...]:
    """What an answer says. `first` is the number of its first part, by which calls without an id are told apart."""
    if candidate.content is None:
        return ()
    parts = []
    for n, raw in enumerate(candidate.content.parts, first):
        try:
            part = read_part(raw, id_, candidate.index, n)
            # A picture that the model draws has no word in the other dialects' answers.
            known = isinstance(part, Text | Thinking | ToolCall | Foreign)
            parts.append(part if known else Foreign(dialect=NAME, raw=ANY.decode(raw)))
        except MALFORMED as wrong:
            raise UpstreamError(f"The provider's answer has a malformed part: {wrong}.") from None
    return tuple(parts)


def finish_of(candidate: Candidate, *, calls: bool) -> Finish | None:
    """Why an answer ends. Raises `UpstreamError` where the model itself failed; a reason nobody knows is no success."""
    reason = candidate.finish_reason
    if reason is None:
        return None
    if reason in _FAILED:
        said = f": {candidate.finish_message[: faults.LONGEST]}" if candidate.finish_message else ""
        raise UpstreamError(f"The model's answer failed ({reason}){said}.")
    if reason == "MAX_TOKENS":
        return "length"
    if reason != "STOP":
        return "filter"
    return "tools" if calls else "stop"


def logprobs_of(candidate: Candidate) -> tuple[Logprob, ...] | None:
    """The log probabilities of the tokens, each with its rivals."""
    told = candidate.logprobs_result
    if told is None:
        return None
    rivals = [*told.top_candidates, *[_Rivals()] * (len(told.chosen_candidates) - len(told.top_candidates))]
    return tuple(
        Logprob(
            token=one.token,
            logprob=one.log_probability,
            rivals=tuple(Logprob(token=each.token, logprob=each.log_probability) for each in others.candidates),
        )
        for one, others in zip(told.chosen_candidates, rivals, strict=False)
    )


# -- ours as Gemini's


def write_reply(reply: Reply) -> bytes:
    """A whole GenerateContentResponse."""
    body: Json = {"candidates": [_candidate(choice, at) for at, choice in enumerate(reply.choices)]}
    if reply.usage is not None:
        body["usageMetadata"] = written_usage(reply.usage)
    return msgspec.json.encode(body | {"modelVersion": reply.model, "responseId": reply.id})


def _candidate(choice: Choice, at: int) -> Json:
    ending = written_finish(choice.finish or "stop", [part for part in choice.parts if isinstance(part, ToolCall)])
    parts = [written for part in choice.parts if (written := written_part(part)) is not None]
    body: Json = {"content": {"parts": parts, "role": "model"}, **ending, "index": at}
    if choice.logprobs is not None:
        body["logprobsResult"] = written_logprobs(choice.logprobs)
    return body


def written_finish(finish: Finish, calls: list[ToolCall]) -> Json:
    """Why it ends. A call whose arguments are no JSON object is what Gemini calls malformed."""
    for call in calls:
        if _arguments(call) is None:
            return {"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": f"{call.name}({call.arguments})"}
    return {"finishReason": _WRITTEN[finish]}


def written_part(part: Part) -> Json | None:
    """A part of an answer; None for what can't be said here."""
    match part:
        case Text(text=text, extra=extra):
            return {"text": text, **extra.get(NAME, {})}
        case Refusal(text=text):
            return {"text": text}
        case Thinking(text=text, signature=signature, extra=extra):
            own = unmarked(signature)
            signed = {"thoughtSignature": own} if own is not None else {}
            thought = {"thought": True} if text else {}
            return {"text": text, **thought, **signed, **extra.get(NAME, {})} if text or signed else None
        case ToolCall():
            return _written_call(part)
        case Image(data=str(data), media_type=kind):
            return {"inlineData": {"mimeType": kind or "image/png", "data": data}}
        case Foreign(dialect="gemini", raw=raw):
            return raw
    return None


def _written_call(call: ToolCall) -> Json | None:
    arguments = _arguments(call)
    if arguments is None:
        return None
    named: Json = {} if is_made(call.id) else {"id": call.id}
    signed = {"thoughtSignature": call.signature} if call.signature is not None else {}
    return {"functionCall": {**named, "name": call.name, "args": arguments}, **signed, **call.extra.get(NAME, {})}


def _arguments(call: ToolCall) -> msgspec.Raw | None:
    text = call.arguments or "{}"
    try:
        _OBJECT.decode(text)
    except MALFORMED:
        return None
    return msgspec.Raw(text.encode())


def written_usage(usage: Usage) -> Json:
    """Gemini counts what came from the cache among the prompt's tokens."""
    said: Json = {"promptTokenCount": usage.input_tokens, "candidatesTokenCount": usage.output}
    if usage.cache_read:
        said["cachedContentTokenCount"] = usage.cache_read
    if usage.reasoning:
        said["thoughtsTokenCount"] = usage.reasoning
    return said | {"totalTokenCount": usage.input_tokens + usage.output_tokens}


def written_logprobs(logprobs: tuple[Logprob, ...]) -> Json:
    """The log probabilities as Gemini tells them."""

    def token(one: Logprob) -> Json:
        return {"token": one.token, "logProbability": one.logprob}

    return {
        "topCandidates": [{"candidates": [token(rival) for rival in one.rivals]} for one in logprobs],
        "chosenCandidates": [token(one) for one in logprobs],
    }
