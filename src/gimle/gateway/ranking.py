"""How rerankers are asked and answer: in Cohere's form, which Jina, vLLM, llama-server and others took over. Pure."""

import math
from collections.abc import Sequence

import msgspec

from gimle.foundation.errors import UpstreamError
from gimle.gateway.neutral import Json, Usage
from gimle.gateway.types import Ranked
from gimle.gateway.wire import MALFORMED, NULL, Count, lenient, no_answer


class _Result(msgspec.Struct, frozen=True):
    index: int
    relevance_score: float


class _Billed(msgspec.Struct, frozen=True):
    input_tokens: Count | None = None


class _Meta(msgspec.Struct, frozen=True):
    billed_units: _Billed | None = None
    tokens: _Billed | None = None


class _Used(msgspec.Struct, frozen=True):
    prompt_tokens: Count | None = None
    total_tokens: Count | None = None


class _Ranking(msgspec.Struct, frozen=True):
    results: list[_Result]
    meta: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL


_META = msgspec.json.Decoder(_Meta | None, strict=False)
_USED = msgspec.json.Decoder(_Used | None, strict=False)
_RANKING = msgspec.json.Decoder(_Ranking)


def write(model: str, query: str, documents: Sequence[str], top: int | None) -> bytes:
    """A request to order documents, the best `top` of them where that is given."""
    body: Json = {"model": model, "query": query, "documents": documents}
    return msgspec.json.encode(body if top is None else {**body, "top_n": top})


def read(body: bytes, count: int) -> tuple[tuple[Ranked, ...], Usage | None]:
    """The order of `count` documents, best first, and the tokens if they are told. Raises `UpstreamError`."""
    try:
        ranking = _RANKING.decode(body)
    except MALFORMED as wrong:
        raise no_answer(body, "a ranking", wrong) from None
    places = {result.index for result in ranking.results}
    if len(places) < len(ranking.results) or not places <= set(range(count)):
        raise UpstreamError(f"The provider's ranking names documents that are not among the {count} sent.")
    # llama-server tells what its model wrote down last, which is not yet a share.
    raw = any(not 0 <= result.relevance_score <= 1 for result in ranking.results)
    share = _share if raw else float
    ranked = (Ranked(result.index, share(result.relevance_score)) for result in ranking.results)
    return tuple(sorted(ranked, key=lambda one: (-one.score, one.index))), _usage(ranking)


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))


def _usage(ranking: _Ranking) -> Usage | None:
    told = []
    if (usage := lenient(ranking.usage, _USED)) is not None:
        told += [usage.prompt_tokens, usage.total_tokens]
    if (meta := lenient(ranking.meta, _META)) is not None:
        told += [part.input_tokens for part in (meta.tokens, meta.billed_units) if part is not None]
    tokens = next((count for count in told if count is not None), None)
    return None if tokens is None else Usage(uncached=max(0, tokens))
