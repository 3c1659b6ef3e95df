"""What a browser sees: the landing page, and the API's documentation, served from this machine alone."""

from importlib import resources

from litestar import Response, get

import gimle
from gimle.foundation.errors import NotFound
from gimle.interfaces.http.given import Document, PathText

_SWAGGER = resources.files("swagger_ui_bundle") / "vendor" / "swagger-ui-4.15.5"
_HERE = resources.files(__package__)

_KINDS = {"css": "text/css", "js": "text/javascript", "png": "image/png"}
_SWAGGER_FILES = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "favicon-16x16.png"})
_OWN_FILES = frozenset({"docs.js", "docs.css"})

# Swagger UI styles elements from its scripts; nothing else is allowed, and nothing from elsewhere.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_LANDING_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_A_DAY = "public, max-age=86400"


@get("/", include_in_schema=False)
async def landing() -> Response[bytes]:
    """Say what runs here."""
    page = (_HERE / "landing.html").read_text("utf-8").replace("{{version}}", gimle.__version__)
    return _page(page.encode(), _LANDING_POLICY)


@get("/docs", include_in_schema=False)
async def docs() -> Response[bytes]:
    """Swagger UI."""
    return _page((_HERE / "docs.html").read_bytes(), _DOCS_POLICY)


@get("/docs/{name:str}", include_in_schema=False)
async def docs_file(name: PathText) -> Response[bytes]:
    """A file of Swagger UI. Only the names listed above exist, so no path can lead elsewhere."""
    if name not in _SWAGGER_FILES and name not in _OWN_FILES:
        raise NotFound(f"There is no file {name!r} here.", field="path")
    file = (_SWAGGER if name in _SWAGGER_FILES else _HERE) / name
    return Response(file.read_bytes(), media_type=_KINDS[name.rsplit(".", 1)[1]], headers={"cache-control": _A_DAY})


@get("/openapi.json", include_in_schema=False)
async def openapi_document(api_document: Document) -> Response[bytes]:
    """The OpenAPI document of all routes, the inference ones included."""
    return Response(api_document, media_type="application/json")


def _page(html: bytes, policy: str) -> Response[bytes]:
    headers = {"content-security-policy": policy}
    return Response(html, media_type="text/html", headers=headers)


HANDLERS = (landing, docs, docs_file, openapi_document)
