"""`/api/v1/models` and `/api/v1/llm/providers`: which models there are, and who serves them."""

from litestar import Response, delete, get, post, put
from litestar.params import JSONBody
from msgspec.structs import asdict

from gimle.foundation.errors import InvalidRequest
from gimle.gateway.types import Provider, ProviderStatus
from gimle.interfaces.http.admin import require_admin
from gimle.interfaces.http.given import Caller, Page, PathText, Rooms
from gimle.selection.types import Model

_PROVIDERS = "/api/v1/llm/providers"


class Offered(Model, frozen=True, kw_only=True):
    """A model with its facts, and under `id` the name by which a call asks for exactly this one."""

    id: str


@get("/api/v1/models", summary="List models", tags=["models"])
async def list_models(rooms: Rooms, principal: Caller) -> Page[Offered]:
    """All models with their facts; those that can't serve now say why in `unavailable`."""
    return Page([Offered(**asdict(model), id=model.id) for model in rooms.gateway.models(principal)])


@get(_PROVIDERS, summary="List providers", tags=["models"])
async def list_providers(rooms: Rooms, principal: Caller) -> Page[Provider]:
    """Who serves models: packaged, from files and settings, and those that were added here. Needs an admin key."""
    require_admin(principal)
    return Page(rooms.gateway.catalog.list(principal.tenant))


@post(_PROVIDERS, summary="Add a provider", tags=["models"])
async def add_provider(rooms: Rooms, principal: Caller, data: JSONBody[Provider]) -> Response[Provider]:
    """Any OpenAI-compatible URL. Its key stays in the server's environment or a file there. Needs an admin key."""
    require_admin(principal)
    provider = await rooms.gateway.catalog.create(principal.tenant, data)
    return Response(provider, status_code=201, headers={"location": f"{_PROVIDERS}/{provider.name}"})


@get(f"{_PROVIDERS}/{{name:str}}", summary="Show a provider", tags=["models"])
async def show_provider(rooms: Rooms, principal: Caller, name: PathText) -> Provider:
    """One provider and its models; never its key. Needs an admin key."""
    require_admin(principal)
    return rooms.gateway.catalog.get(principal.tenant, name)


@put(f"{_PROVIDERS}/{{name:str}}", summary="Change a provider", tags=["models"])
async def change_provider(rooms: Rooms, principal: Caller, name: PathText, data: JSONBody[Provider]) -> Provider:
    """Replace what is known of a provider. Needs an admin key."""
    require_admin(principal)
    if data.name != name:
        raise InvalidRequest(
            f"The body names {data.name!r}, the path {name!r}.", field="name", hint="A name can't change."
        )
    return await rooms.gateway.catalog.update(principal.tenant, name, data)


@get(f"{_PROVIDERS}/{{name:str}}/status", summary="Try a provider", tags=["models"])
async def provider_status(rooms: Rooms, principal: Caller, name: PathText) -> ProviderStatus:
    """Call the provider now, and say whether it answers. Needs an admin key."""
    require_admin(principal)
    return await rooms.gateway.catalog.status(principal.tenant, name)


@delete(f"{_PROVIDERS}/{{name:str}}", summary="Remove a provider", tags=["models"])
async def remove_provider(rooms: Rooms, principal: Caller, name: PathText) -> None:
    """Forget a provider that was added here. Needs an admin key."""
    require_admin(principal)
    await rooms.gateway.catalog.delete(principal.tenant, name)


HANDLERS = (
    list_models,
    list_providers,
    add_provider,
    show_provider,
    change_provider,
    provider_status,
    remove_provider,
)
