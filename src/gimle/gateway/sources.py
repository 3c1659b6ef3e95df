"""Where providers come from when no database is asked: the packaged files, the user's files, the settings.

The same schema everywhere, and the same checks; a later source patches an earlier one of the same name field by field,
so that `[providers.openai] base_url = …` keeps the packaged models.
"""

import importlib.resources
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gimle.foundation import config, plugins
from gimle.foundation.config import Settings
from gimle.foundation.errors import ConfigError, InvalidRequest, Unavailable
from gimle.gateway import prices
from gimle.gateway.local import offer
from gimle.gateway.types import Provider

_DIALECTS = "gimle.gateway.dialects"
_RESERVED = ("auto", "local")
_HEADER = re.compile(r"^[A-Za-z0-9-]{1,64}$")
# Gimle or the connection writes these itself.
_OWN_HEADERS = ("host", "content-length", "content-type", "transfer-encoding", "connection", "te", "upgrade", "accept")
# These carry keys, which have a place of their own.
_KEY_HEADERS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie")
_MODEL_PATH = re.compile(r"^(/([A-Za-z0-9_-][A-Za-z0-9._-]*|\{model\}))*$")
_QUERY_NAME = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_SECRET_NAME = re.compile(r"key|token|secret|password|^sig", re.IGNORECASE)
_KEY_VARIABLE = re.compile(r"^(?!GIMLE_)[A-Z][A-Z0-9_]*(KEY|TOKEN)$")
_LONGEST_KEY = 8192
_SHORTEST_SECRET = 32


def configured(settings: Settings, engines: Collection[str]) -> list[Provider]:
    """All providers of files and settings: the user's own first. Raises `ConfigError`, which names the place."""
    found: dict[str, dict[str, Any]] = {}
    for source, name, fields in _sources(settings):
        # The last that speaks of a provider decides its place: what a user has touched is preferred, and switched on.
        named = {} if source == "packaged" else {"enabled": True}
        found[name] = {**found.pop(name, {}), **named, **fields, "name": name, "source": source}
    providers = []
    for name, fields in reversed(found.items()):
        try:
            provider = msgspec.convert(fields, Provider)
            check(provider, engines)
        except (msgspec.ValidationError, InvalidRequest) as wrong:
            field = f".{wrong.field}" if isinstance(wrong, InvalidRequest) else ""
            raise ConfigError(f"providers.{name}{field}: {wrong}", field=f"providers.{name}{field}") from None
        providers.append(provider)
    return providers


def _sources(settings: Settings) -> list[tuple[str, str, dict[str, Any]]]:
    packaged = importlib.resources.files("gimle.gateway.providers")
    read = [
        ("packaged", entry.name.removesuffix(".toml"), tomllib.loads(entry.read_text("utf-8")))
        for entry in sorted(packaged.iterdir(), key=lambda entry: entry.name, reverse=True)
        if entry.name.endswith(".toml")
    ]
    for file in sorted((settings.data / "providers").glob("*.toml"), reverse=True):
        try:
            read.append(("file", file.stem, tomllib.loads(file.read_text("utf-8"))))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
            raise ConfigError(f"{file} is not valid TOML: {wrong}.", field=str(file)) from None
    return read + [("settings", name, fields) for name, fields in reversed(settings.providers.items())]


def check(provider: Provider, engines: Collection[str]) -> None:
    """Refuse what would not work, or not be safe. Raises `InvalidRequest`, which names the field and the fix."""
    if provider.name in _RESERVED or provider.name in engines:
        raise InvalidRequest(f"The name {provider.name!r} is taken by Gimle itself.", field="name")
    if provider.dialect not in plugins.names(_DIALECTS):
        known = ", ".join(plugins.names(_DIALECTS))
        raise InvalidRequest(f"There is no dialect {provider.dialect!r}.", field="dialect", hint=f"Known: {known}.")
    prices.check(provider)
    _check_address(provider.base_url)
    _check_headers(provider.headers)
    _check_key_header(provider.key_header)
    _check_query(provider)
    names = [model.name for model in provider.models]
    if len(set(names)) < len(names):
        raise InvalidRequest("A model is listed twice.", field="models")
    for model in provider.models:
        if model.kind == "embedding" and model.dimensions is None:
            raise InvalidRequest(f"{model.name} needs its dimensions.", field="models", hint="dimensions = 1536")


def _check_address(address: str) -> None:
    hint = "Give the address up to the version, such as https://api.example.com/v1."
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if sound and (parts.hostname or "").endswith(offer.DOMAIN):
        raise InvalidRequest("base_url lies in a domain of Gimle's own.", field="base_url", hint=hint)
    if not sound or not address.isprintable() or " " in address or len(address) > 2000:
        raise InvalidRequest("base_url is not an http or https address.", field="base_url", hint=hint)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidRequest("base_url holds a user, a query or a fragment.", field="base_url", hint=hint)


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER.match(name) or not value.isascii() or not value.isprintable():
            raise InvalidRequest(f"The header {name[:64]!r} is not valid.", field="headers")
        if name.lower() in _KEY_HEADERS:
            raise InvalidRequest(
                f"The header {name} carries a key, and keys are not stored.",
                field="headers",
                hint="Name the key's environment variable in api_key_env, or its file in api_key_file.",
            )
        if name.lower() in _OWN_HEADERS:
            raise InvalidRequest(f"The header {name} is set by Gimle itself.", field="headers")


def _check_key_header(name: str | None) -> None:
    if name is not None and (not _HEADER.match(name) or name.lower() in _OWN_HEADERS):
        raise InvalidRequest(f"The header {name[:64]!r} can't carry a key.", field="key_header", hint='"api-key"')


def _check_query(provider: Provider) -> None:
    if not _MODEL_PATH.match(provider.model_path):
        raise InvalidRequest(
            "model_path is not a path.", field="model_path", hint='Give it as in "/deployments/{model}".'
        )
    for name, value in provider.query.items():
        if not _QUERY_NAME.match(name) or not value.isascii() or not value.isprintable() or len(value) > 200:
            raise InvalidRequest(f"The query {name[:64]!r} is not valid.", field="query")
        if _SECRET_NAME.search(name):
            raise InvalidRequest(
                f"The query {name} carries a key, and keys are not stored.",
                field="query",
                hint="Name the key's environment variable in api_key_env, and its header in key_header.",
            )


def check_remote(provider: Provider, data: Path) -> None:
    """What is asked of a provider that comes over the network on top: its key must be one, and no other secret of ours.

    Who may add providers chooses where a key is sent, so the routes that lead here are for administrators.
    """
    if provider.api_key_env is not None and not _KEY_VARIABLE.match(provider.api_key_env):
        raise InvalidRequest(
            f"The variable {provider.api_key_env[:64]!r} is not one for a provider's key.",
            field="api_key_env",
            hint="Its name ends in KEY or TOKEN and does not begin with GIMLE_.",
        )
    secrets = (data / "secrets").resolve()
    for field, file in (("api_key_file", provider.api_key_file), ("node_secret_file", provider.node_secret_file)):
        if file is not None and not (secrets / file).resolve().is_relative_to(secrets):
            raise InvalidRequest(
                "The file lies outside the folder for secrets.",
                field=field,
                hint=f"Put it into {secrets} and give its name.",
            )


def key_of(provider: Provider, data: Path) -> tuple[str | None, str | None]:
    """The key of a provider, and why it can't be had. Both None: it needs none."""
    if provider.api_key_env is not None:
        key = config.secret(provider.api_key_env)
        return (key, None) if key else (None, f"the environment variable {provider.api_key_env} is not set")
    if provider.api_key_file is None:
        return None, None
    try:
        key = _held(provider.api_key_file, data)
    except (OSError, UnicodeDecodeError) as wrong:
        return None, f"the file of its key can't be read ({type(wrong).__name__})"
    return (key, None) if key else (None, "the file of its key is empty")


def secret_of(name: str, data: Path) -> str:
    """The secret that two nodes share. Raises `Unavailable` without one that is long enough to be one."""
    try:
        secret = _held(name, data)
    except (OSError, UnicodeDecodeError):
        secret = ""
    if len(secret) < _SHORTEST_SECRET:
        raise Unavailable(
            f"The file {name} in the folder for secrets holds no secret of {_SHORTEST_SECRET} characters.",
            field="node_secret_file",
            hint="`openssl rand -hex 32` makes one. Both nodes hold the same.",
        )
    return secret


def _held(name: str, data: Path) -> str:
    with (data / "secrets" / Path(name).expanduser()).open("rb") as opened:
        return opened.read(_LONGEST_KEY).decode("utf-8").strip()
