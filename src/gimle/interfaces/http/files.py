"""Files to be named in requests, as OpenAI's clients and Anthropic's upload them."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.files import Uploaded
from gimle.gateway.multipart import Form
from gimle.interfaces.http.exchange import Exchange
from gimle.interfaces.http.surface import Route, Surface, plain
from gimle.trust.types import Principal

_PATH = "/v1/files"
_ONE = _PATH + "/{file_id}"
_PAGE, _LONGEST_PAGE = 20, 1000


class Uploads(Surface):
    """Files."""

    def routes(self) -> tuple[Route, ...]:
        """What it answers."""
        return (
            Route("POST", _PATH, self.create),
            Route("GET", _PATH, self.list),
            Route("GET", _ONE, self.show),
            Route("DELETE", _ONE, self.delete),
            Route("GET", _ONE + "/content", self.content),
        )

    async def create(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """Keep a file."""
        form = Form(await exchange.body(), exchange.headers.get(b"content-type", b"").decode("latin-1"))
        field = form.field("file")
        if field is None or field.filename is None:
            raise InvalidRequest("The form has no file.", field="file", hint="curl -F purpose=vision -F file=@bee.jpg")
        purpose = form.text("purpose") or "user_data"
        made = await self.files.create(principal.tenant, field.filename, purpose, form.body[field.start : field.end])
        await exchange.reply(200, msgspec.json.encode(_shown(exchange, made)))

    async def list(self, exchange: Exchange, principal: Principal, _: str) -> None:
        """A page of files."""
        query = parse_qs(exchange.head.target.partition(b"?")[2].decode("latin-1"))
        asked = {name: values[-1] for name, values in query.items()}
        limit, order = asked.get("limit", str(_PAGE)), asked.get("order", "desc")
        if not (limit.isascii() and limit.isdigit() and int(limit[:9]) > 0) or order not in {"asc", "desc"}:
            raise InvalidRequest("`limit` is 1 or more, and `order` is asc or desc.", field="limit")
        most = min(int(limit[:9]), _LONGEST_PAGE)
        after = asked.get("after") or asked.get("after_id") or asked.get("page")
        found = await self.files.list(principal.tenant, most + 1, after, asked.get("purpose"), newest=order == "desc")
        await exchange.reply(200, msgspec.json.encode(_page(exchange, found[:most], more=len(found) > most)))

    async def show(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """One file."""
        await exchange.reply(200, msgspec.json.encode(_shown(exchange, await self.files.find(principal.tenant, id_))))

    async def content(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """The bytes of a file. A browser is told to keep them, not to show them."""
        file, data = await self.files.content(principal.tenant, id_)
        headers = [(b"content-type", plain(file.media_type)), (b"content-disposition", b"attachment")]
        await exchange.reply(200, data, headers)

    async def delete(self, exchange: Exchange, principal: Principal, id_: str) -> None:
        """Forget a file."""
        await self.files.delete(principal.tenant, id_)
        theirs = exchange.dialect == "anthropic"
        gone = {"type": "file_deleted"} if theirs else {"object": "file", "deleted": True}
        await exchange.reply(200, msgspec.json.encode({"id": id_, **gone}))


def _page(exchange: Exchange, files: Sequence[Uploaded], *, more: bool) -> dict[str, Any]:
    first, last = (files[0].id, files[-1].id) if files else (None, None)
    data = [_shown(exchange, file) for file in files]
    # Anthropic's newer clients go on by `next_page`, the older ones and OpenAI's by the last id.
    kind = {"next_page": last if more else None} if exchange.dialect == "anthropic" else {"object": "list"}
    return {**kind, "data": data, "first_id": first, "last_id": last, "has_more": more}


def _shown(exchange: Exchange, file: Uploaded) -> dict[str, Any]:
    """A file as its caller's vendor shows one."""
    made = file.created_at.astimezone(UTC)
    if exchange.dialect == "anthropic":
        facts = {"mime_type": file.media_type, "size_bytes": file.size, "created_at": made, "downloadable": True}
        return {"id": file.id, "type": "file", "filename": file.name, **facts}
    facts = {"bytes": file.size, "created_at": int(made.timestamp()), "filename": file.name, "purpose": file.purpose}
    return {"id": file.id, "object": "file", **facts, "status": "processed", "expires_at": None}
