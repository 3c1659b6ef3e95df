"""The local models as a provider like any other, so that the walk of a call takes them for one.

Each model has a server of its own, whose port is known only while it runs. So its address is a name in a domain that
exists nowhere but in this process, where `foundation.outbound` has the server started that a name stands for.
"""

from gimle.gateway.local.host import LOCAL, Host
from gimle.gateway.local.types import Installed
from gimle.gateway.types import Provider, ProviderModel

DOMAIN = "local.gimle"


def address(model: str) -> str:
    """The base address of one model."""
    return f"http://{model}.{DOMAIN}/v1"


def provider(host: Host) -> Provider | None:
    """All models of this machine; None when there are none."""
    models = tuple(_model(kept.installed, host) for kept in host.store.all().values())
    if not models:
        return None
    return Provider(
        name=LOCAL,
        base_url=f"http://{DOMAIN}/v1",
        dialect="openai",
        local=True,
        continues_assistant=True,
        first_token_seconds=host.first_token_seconds,
        models=models,
    )


def _model(installed: Installed, host: Host) -> ProviderModel:
    facts = installed.facts
    able = (("json_schema", True), ("tools", facts.tools), ("vision", installed.projector is not None))
    capabilities = tuple(name for name, can in able if can) if installed.engine == "llamacpp" else ()
    context = min(facts.context, host.context)
    return ProviderModel(
        name=installed.name,
        kind=facts.kind,
        context_window=context,
        max_output=context if facts.kind == "chat" else None,
        capabilities=capabilities if facts.kind == "chat" else (),
        dimensions=facts.dimensions,
        parameters=facts.parameters,
    )
