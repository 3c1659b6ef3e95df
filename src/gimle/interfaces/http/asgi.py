"""Between an exchange and a framework that speaks ASGI."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gimle.app import App
from gimle.interfaces.http.exchange import ClientGone, Exchange

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


async def run(asgi: Asgi, exchange: Exchange, rooms: App) -> None:
    """Let an application answer. It finds the exchange and the rooms of the house in `scope["state"]`; `route` becomes
    its path's template.
    """
    scope = _scope(exchange, rooms)
    ended = False

    async def receive() -> Message:
        nonlocal ended
        if ended:
            await exchange.over()
            return {"type": "http.disconnect"}
        try:
            piece = await exchange.read()
        except ClientGone:
            return {"type": "http.disconnect"}
        ended = exchange.taken
        return {"type": "http.request", "body": piece, "more_body": not ended}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            await exchange.begin(message["status"], list(message.get("headers", ())))
        else:
            await exchange.write(message.get("body", b""), more=message.get("more_body", False))

    try:
        await asgi(scope, receive, send)
    finally:
        exchange.route = scope.get("path_template") or exchange.route


def _scope(exchange: Exchange, rooms: App) -> Scope:
    head = exchange.head
    path, _, query = head.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1" if head.chunks else "1.0",
        # The answer to HEAD is that to GET, of which the exchange sends the head alone.
        "method": "GET" if head.method == "HEAD" else head.method,
        "scheme": "https" if exchange.line.secure else "http",
        "path": head.path,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": head.headers,
        "client": exchange.line.peer,
        "server": None,
        "state": {"exchange": exchange, "rooms": rooms},
    }
