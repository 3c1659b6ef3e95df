"""OpenAI's older completions: a prompt in, its continuation out."""

from gimle.foundation.errors import InvalidRequest
from gimle.interfaces.http.exchange import Exchange
from gimle.interfaces.http.surface import Route, Surface
from gimle.trust.types import Principal


class Completions(Surface):
    """Text completions. Providers of OpenAI's dialect get them as they came, all others as a chat of one turn."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (Route("POST", "/v1/completions", self.complete),)

    async def complete(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Continue a prompt."""
        call, ours = await self.call(exchange, "completions")
        if ours.collection is not None:
            raise InvalidRequest(
                "Completions come from a model, not from documents.",
                field="gimle.collection",
                hint="POST /v1/chat/completions answers from a collection.",
            )
        exchange.attend()
        await self.relay(exchange, principal, call)
