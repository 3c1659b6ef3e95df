"""OpenAI's surface for speech: transcriptions."""

from gimle.gateway.multipart import Form
from gimle.gateway.transcription import transcribe
from gimle.gateway.types import ChatReply
from gimle.interfaces.http.exchange import Exchange
from gimle.interfaces.http.surface import Route, Surface, purpose, relayed, served
from gimle.trust.types import Principal


class Transcriptions(Surface):
    """Speech in a file, written down."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (Route("POST", "/v1/audio/transcriptions", self.transcribe),)

    async def transcribe(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Pass a form to a provider, and what comes back to the caller."""
        kind = exchange.headers.get(b"content-type", b"").decode("latin-1")
        form = Form(await exchange.body(), kind)
        exchange.attend()
        reply = await transcribe(self.gateway, principal, form, purpose(exchange))
        headers = served(exchange, reply)
        if isinstance(reply, ChatReply):
            await exchange.reply(reply.status, reply.body, headers)
        else:
            await relayed(exchange, reply, headers)
