"""`/api/v1/models` and `/api/v1/llm/providers`: which models there are, and who serves them."""

from typing import Annotated

from litestar import Response, delete, get, post, put
from litestar.params import JSONBody, QueryParameter
from msgspec.structs import asdict

from gimle.gateway.metrics import ProviderMetrics
from gimle.gateway.types import Provider, ProviderCredentials, ProviderStatus
from gimle.interfaces.http.admin import require_admin
from gimle.interfaces.http.given import Caller, Page, PathText, Rooms
from gimle.selection.types import Kind, Model

_PROVIDERS = "/api/v1/llm/providers"


class Offered(Model, frozen=True, kw_only=True):
    """A model with its facts, and under `id` the name by which a call asks for exactly this one."""

    id: str


def _filter(name: str, description: str) -> QueryParameter:
    return QueryParameter(name=name, max_length=200, description=description)


OfProvider = Annotated[str | None, _filter("provider", "Only this provider's.")]
OfKind = Annotated[Kind | None, QueryParameter(name="kind", description="Only those for this.")]
Able = Annotated[str | None, _filter("capability", "Only those that can do this, such as `tools`.")]
Tagged = Annotated[str | None, _filter("tag", "Only those with this tag.")]
Available = Annotated[
    bool | None, QueryParameter(name="available", description="Only those that can serve now, or can't.")
]


@get("/api/v1/models", summary="List models", tags=["models"])
async def list_models(
    rooms: Rooms,
    principal: Caller,
    of_provider: OfProvider = None,
    of_kind: OfKind = None,
    able: Able = None,
    tagged: Tagged = None,
    available: Available = None,
) -> Page[Offered]:
    """All models with their facts, or those that are asked for; who can't serve now says why in `unavailable`."""
    return Page(
        [
            Offered(**asdict(model), id=model.id)
            for model in rooms.gateway.models(principal)
            if of_provider in (None, model.provider)
            and of_kind in (None, model.kind)
            and (able is None or able in model.capabilities)
            and (tagged is None or tagged in model.tags)
            and available in (None, model.unavailable is None)
        ]
    )


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
    return await rooms.gateway.catalog.update(principal.tenant, name, data)


@get(f"{_PROVIDERS}/{{name:str}}/status", summary="Try a provider", tags=["models"])
async def provider_status(rooms: Rooms, principal: Caller, name: PathText) -> ProviderStatus:
    """Call the provider now, and say whether it answers. Needs an admin key."""
    require_admin(principal)
    return await rooms.gateway.catalog.status(principal.tenant, name)


@get(f"{_PROVIDERS}/{{name:str}}/metrics", summary="Count what a provider did", tags=["models"])
async def provider_metrics(rooms: Rooms, principal: Caller, name: PathText) -> ProviderMetrics:
    """Attempts, answers, faults, tokens and times since this node started; of a provider that all tenants share, for
    them all. Needs an admin key.
    """
    require_admin(principal)
    return rooms.gateway.catalog.metrics(principal.tenant, name)


@get(f"{_PROVIDERS}/{{name:str}}/credentials", summary="Show where a provider's key is", tags=["models"])
async def provider_credentials(rooms: Rooms, principal: Caller, name: PathText) -> ProviderCredentials:
    """The variable or the file that holds its key, and whether it is there; never the key. Needs an admin key."""
    require_admin(principal)
    return rooms.gateway.catalog.credentials(principal.tenant, name)


@put(f"{_PROVIDERS}/{{name:str}}/credentials", summary="Move a provider's key", tags=["models"])
async def move_credentials(
    rooms: Rooms, principal: Caller, name: PathText, data: JSONBody[ProviderCredentials]
) -> ProviderCredentials:
    """Read the key of a provider that was added here from another variable or file. Needs an admin key."""
    require_admin(principal)
    return await rooms.gateway.catalog.place_key(principal.tenant, name, data)


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
    provider_metrics,
    provider_credentials,
    move_credentials,
    remove_provider,
)
