"""`POST /v1/rerank`: documents in the order in which they fit a query, in Cohere's and Jina's form."""

from typing import Annotated, Any

import msgspec

from gimle.foundation import ids
from gimle.foundation.errors import InvalidRequest
from gimle.gateway.cache_keys import control
from gimle.gateway.types import Reranked
from gimle.interfaces.http.exchange import JSON, Exchange
from gimle.interfaces.http.surface import GimleFields, Route, Surface, decoded, dropped, purpose, served, unheeded
from gimle.selection.registry import AUTO
from gimle.trust.types import Principal


class RerankRequest(msgspec.Struct, frozen=True):
    """A request to order documents. A document is a text, or an object whose `text` is compared."""

    query: str
    documents: list[str | dict[str, Any]]
    model: str = AUTO
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool = False
    gimle: GimleFields = GimleFields()


_FIELDS = frozenset(RerankRequest.__struct_fields__)
_REQUEST = msgspec.json.Decoder(RerankRequest)
_ALL = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Rankings(Surface):
    """Rankings."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (Route("POST", "/v1/rerank", self.rank),)

    async def rank(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Order documents."""
        body = await exchange.body()
        asked = decoded(body, _REQUEST)
        cache = control("", asked.gimle.cache)
        unknown = tuple(sorted(decoded(body, _ALL).keys() - _FIELDS))
        texts = [_text(document, at) for at, document in enumerate(asked.documents)]
        exchange.attend()
        what = purpose(exchange, asked.gimle)
        found = await self.gateway.rerank(principal, asked.model, asked.query, texts, asked.top_n, what)
        headers = [*served(exchange, found), *dropped(unheeded(cache, explain=asked.gimle.explain) + unknown)]
        await exchange.reply(200, _written(found, asked), [JSON, *headers])


def _text(document: str | dict[str, Any], at: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(
            f"documents[{at}] holds no text.", field=f"documents[{at}].text", hint='A string, or {"text": "…"}.'
        )
    return text


def _written(found: Reranked, asked: RerankRequest) -> bytes:
    results = []
    for place in found.ranked:
        result: dict[str, Any] = {"index": place.index, "relevance_score": place.score}
        if asked.return_documents:
            document = asked.documents[place.index]
            result["document"] = {"text": document} if isinstance(document, str) else document
        results.append(result)
    meta = {
        "api_version": {"version": "1"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": found.tokens, "output_tokens": 0},
    }
    return msgspec.json.encode(
        {
            "id": ids.new("rerank"),
            "model": f"{found.provider}/{found.model}",
            "results": results,
            "meta": meta,
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }
    )
