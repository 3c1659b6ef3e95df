"""`/v1`: which path belongs to which surface."""

from gimle.app import App
from gimle.foundation.errors import NotFound
from gimle.interfaces.http import problems
from gimle.interfaces.http.anthropic import Messages
from gimle.interfaces.http.audio import Transcriptions
from gimle.interfaces.http.completions import Completions
from gimle.interfaces.http.exchange import Exchange
from gimle.interfaces.http.files import Uploads
from gimle.interfaces.http.openai import Chats, Models, Vectors
from gimle.interfaces.http.rerank import Rankings
from gimle.interfaces.http.responses import Answers
from gimle.interfaces.http.surface import Handler, Route
from gimle.trust.types import Principal

_SURFACES = (Chats, Answers, Completions, Messages, Vectors, Rankings, Transcriptions, Uploads, Models)


class Inference:
    """Answers the paths under `/v1`, which are `routes`."""

    def __init__(self, app: App) -> None:
        self.routes = routes = tuple(route for surface in _SURFACES for route in surface(app).routes())
        self._fixed: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = self._fixed.setdefault(route.path, {})
            methods[route.method] = route
            if route.method == "GET":
                # Its answer is that to GET, of which the exchange sends the head alone.
                methods["HEAD"] = route
        # The longest first, since `/v1/a/{id}/b` is also one of `/v1/a/{id}`.
        self._open = sorted((path for path in self._fixed if "{" in path), key=len, reverse=True)
        self._hint = f"The inference paths are {', '.join(f'{route.method} {route.path}' for route in routes)}."

    def find(self, exchange: Exchange) -> tuple[Handler, str]:
        """Who answers a request, and what its path holds in the place of the route's `{…}`. Raises `NotFound`."""
        path, held = exchange.path, ""
        methods = self._fixed.get(path)
        if methods is None:
            path, held = self._held(path)
            methods = self._fixed.get(path)
        if methods is None:
            raise NotFound(f"There is no path {path}.", field="path", hint=self._hint)
        exchange.route = path
        route = methods.get(exchange.method)
        return (self._refuse, " or ".join(sorted(methods))) if route is None else (route.answer, held)

    async def _refuse(self, exchange: Exchange, _: Principal, takes: str) -> None:
        """To a method that a path does not take."""
        await exchange.fail(problems.of_status(405, f"{exchange.path} takes {takes} only.", hint=self._hint))

    def _held(self, path: str) -> tuple[str, str]:
        """The route's path, and what the request's path holds in the place of its `{…}`."""
        for template in self._open:
            head, _, rest = template.partition("{")
            tail = rest.partition("}")[2]
            held = path[len(head) : len(path) - len(tail)]
            if path.startswith(head) and path.endswith(tail) and held:
                return template, held
        return path, ""
