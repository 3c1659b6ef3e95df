"""Settings: one typed tree from flags, environment, TOML file and defaults, in that order, checked before any start.

The only module that reads the environment. A wrong value or an unknown key stops the start with one message that names
the key, where it came from and what would be right.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gimle.foundation.errors import ConfigError
from gimle.foundation.logs import Level

Tree = dict[str, Any]

_PREFIX = "GIMLE_"
# These variables steer the start itself and are no settings.
_NOT_SETTINGS = {"GIMLE_CONFIG", "GIMLE_DATA", "GIMLE_KEY", "GIMLE_URL"}

# Numbers that the rooms can work with. A number with a point has a greatest, so that none is infinite or none at all.
_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Amount = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=1e9)]
_Reference = Annotated[float, msgspec.Meta(gt=0.0, le=1e15)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Latitude = Annotated[float, msgspec.Meta(ge=-90.0, le=90.0)]
_Longitude = Annotated[float, msgspec.Meta(ge=-180.0, le=180.0)]


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Gimle listens, in how many processes, and how much it takes in. With a certificate it speaks TLS only."""

    host: str = "127.0.0.1"
    port: _Port = 8080
    workers: _Positive = 1
    tls_cert: str | None = None
    tls_key: str | None = None
    max_body_mb: _Positive = 32
    max_upload_mb: _Positive = 256


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which PostgreSQL. Without a URL, an embedded one starts in the data directory."""

    url: str | None = None
    pool: _Positive = 10


class JobSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many jobs run at once in a process, and how long a stop waits for them."""

    slots: _Positive = 4
    in_process: bool = True
    drain_seconds: _Amount = 300.0


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models that run on this machine: where their weights and files lie, and what they may take of it.

    `threads` 0 is all cores (a language model leaves one), `slots` 0 as many answers at once as the cores allow, and
    `memory_mb` 0 four fifths of the machine for all language models that one process starts. `context` is what one
    conversation may hold, in tokens. A model that nobody uses for `idle_seconds` is stopped; one that takes longer than
    `start_seconds` to load is given up. `bitnet` is the llama-server of a build of microsoft/BitNet, `hub` a mirror of
    the model hub.
    """

    weights: str | None = None
    models: str | None = None
    threads: _Count = 0
    slots: _Count = 0
    context: _Positive = 4096
    memory_mb: _Count = 0
    idle_seconds: _Seconds = 900.0
    start_seconds: _Seconds = 180.0
    bitnet: str | None = None
    hub: str | None = None


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The time-outs of one model call, in seconds, the model that serves when none is named, what is done about
    faults, and what is taken as a picture. `fallbacks` lists, for a model's name, the models that serve when it can't;
    with `cloud_to_local`, models on your own machines serve after them. After `breaker_failures` in a row a model is
    left alone for `breaker_seconds`, and longer each time. Retries may be `retry_share` of the traffic. `on_cut` says
    whether a stream that broke off is continued by another model where that is possible; `on_disconnect` whether a
    stream whose caller has left is cut off or read to its end, so that its usage is known. After `hedge_after` seconds
    a second target is asked where the first is slow (at most for every twentieth call); 0 waits as long as 95 of 100
    calls take, and without a value it is never done. `fetch_allow` names hosts (`files.example.org`,
    `minio.internal:9000`) and networks (`10.1.0.0/16`) from which pictures may be fetched though they are not on the
    public Internet. `notice_webhook` is an address that is told when another model answers than the one that was asked
    for.
    """

    default_model: str = "auto"
    connect_seconds: _Seconds = 5.0
    first_token_seconds: _Seconds = 60.0
    idle_seconds: _Seconds = 60.0
    total_seconds: _Seconds = 600.0
    fallbacks: dict[str, tuple[str, ...]] = {}
    breaker_failures: _Positive = 5
    breaker_seconds: _Amount = 60.0
    retry_share: _Share = 0.2
    cloud_to_local: bool = True
    notice_webhook: str | None = None
    on_cut: Literal["continue", "error"] = "continue"
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    hedge_after: _Amount | None = None
    fetch_images: bool = True
    fetch_allow: tuple[str, ...] = ()
    fetch_seconds: _Seconds = 10.0
    image_mb: _Positive = 20
    image_megapixels: _Positive = 50


class SelectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is chosen where the caller names none: by which policy, against which references, and what is learnt.

    Size, price (USD for a million tokens), distance and the time to the first token are measured against the four
    references. `place` is the latitude and longitude of this server. Up to `explore` of the calls (0.03 at most) go to
    a model that may be better than is known. `complexity` has easy prompts go to cheap models. With `affinity`, calls
    that begin alike stay together. `shadow` names policies whose choices are logged and not followed. Providers are
    probed every `probe_seconds` (0: never); decisions are kept for `keep_days`. `quality_url` (`https://…`, or
    `grpcs://host:port`) is asked every `quality_seconds` how good the models are, with the key that the variable
    `quality_key_env` holds, if it needs one. Other Gimle nodes are told of the models where `node_secret_file` names a
    file in `<data>/secrets`: its secret, which they hold too, signs what is said.
    """

    policy: str = "efficient"
    largest_parameters: _Reference = 405e9
    highest_price: _Reference = 15.0
    farthest_km: _Reference = 10_000.0
    slowest_ms: _Reference = 1000.0
    place: tuple[_Latitude, _Longitude] | None = None
    explore: _Share = 0.01
    complexity: bool = True
    affinity: bool = False
    shadow: tuple[str, ...] = ()
    probe_seconds: _Amount = 60.0
    keep_days: _Count = 7
    quality_url: str | None = None
    quality_key_env: str | None = None
    quality_seconds: _Seconds = 300.0
    node_secret_file: str | None = None


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of calls whose price nobody knows, and of those that can't be journalled as when the disk is full;
    how large the journal of a process may grow while the database is away; and what keeping a million numbers in
    vectors costs a month, in USD.
    """

    unpriced: Literal["allow", "refuse"] = "allow"
    unwritten: Literal["allow", "refuse"] = "allow"
    journal_mb: _Positive = 256
    storage_usd: _Amount = 0.0


class KnowledgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How documents are cut, how a parser is limited, and how much is given to an answer.

    A model on this machine reads slowly, so it gets no more than `local_tokens` of the documents: their best sentences.
    """

    top_k: _Positive = 6
    chunk_tokens: _Positive = 220
    parse_seconds: _Positive = 120
    parse_memory_mb: _Positive = 2048
    answer_reserve: _Share = 0.2
    local_tokens: _Positive = 800


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tenant may use, unless an allowance says otherwise: requests and tokens each minute, vectors made each
    day, gigabytes of documents. 0: no limit.
    """

    requests_minute: _Count = 100
    tokens_minute: _Count = 0
    embeddings_day: _Count = 100_000
    storage_gb: _Amount = 10.0


class AdmissionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many calls a process has at one model at once, how many more may wait, and after how many seconds a call that
    waits counts as one priority higher.
    """

    at_once: _Positive = 1024
    waiting: _Count = 1000
    ageing_seconds: _Seconds = 10.0


class CacheSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether answers are kept for calls that are the same: of callers who ask for it (`asked`), of all (`on`), or
    never (`off`); for how many seconds, and in how much memory of a process. With `similarity` (0 to 1, 0.95 say)
    calls that mean the same get the same answer: plain texts only.
    """

    mode: Literal["off", "asked", "on"] = "asked"
    ttl_seconds: _Positive = 86_400
    memory_mb: _Count = 64
    similarity: _Share | None = None


class SharedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What several nodes share besides the database. Without a Redis, limits and cached answers are each node's own."""

    redis_url: str | None = None


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and whether as JSON."""

    level: Level = "info"
    json: bool = False


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one process; an immutable snapshot. `providers` has the schema of `gateway/providers/*.toml`."""

    data: Path
    server: Server = Server()
    database: DatabaseSettings = DatabaseSettings()
    jobs: JobSettings = JobSettings()
    engines: EngineSettings = EngineSettings()
    gateway: GatewaySettings = GatewaySettings()
    ledger: LedgerSettings = LedgerSettings()
    limits: LimitSettings = LimitSettings()
    admission: AdmissionSettings = AdmissionSettings()
    cache: CacheSettings = CacheSettings()
    shared: SharedSettings = SharedSettings()
    selection: SelectionSettings = SelectionSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    log: LogSettings = LogSettings()
    providers: dict[str, dict[str, Any]] = {}


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Read the settings.

    `flags` maps dotted keys (`"server.port"`) to values, `None` meaning not given; the keys `"data"` and `"config"` are
    flags too. `environ` defaults to the process's environment, `folder` to the working directory.
    Raises `ConfigError`, which names the key, its source and the fix.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    environ = os.environ if environ is None else environ
    file = _file(given.pop("config", None), environ, folder or Path.cwd())
    sources: list[tuple[str, Tree]] = [
        *([(str(file), _read(file))] if file else []),
        ("environment", _from_environment(environ)),
        ("command line", _from_flags(given)),
    ]
    tree: Tree = {"data": str(data_directory(environ))}
    for _, source in sources:
        _merge(tree, source)
    try:
        settings = msgspec.convert(tree, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as wrong:
        raise _explained(wrong, sources) from None
    return msgspec.structs.replace(settings, data=settings.data.expanduser().absolute())


def written(settings: Settings) -> Tree:
    """The settings as plain values, which `restored` takes in another process of the same server."""
    tree: Tree = msgspec.to_builtins(settings, enc_hook=str)
    return tree


def restored(tree: Tree) -> Settings:
    """Settings that were checked before."""
    return msgspec.convert(tree, Settings, dec_hook=_path)


def data_directory(environ: Mapping[str, str]) -> Path:
    """`GIMLE_DATA`, else `$XDG_DATA_HOME/gimle`; as root `/var/lib/gimle`."""
    if named := environ.get("GIMLE_DATA"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/gimle")
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gimle"


def secret(name: str) -> str | None:
    """The value of an environment variable that holds a secret; `None` when it is unset or empty."""
    return os.environ.get(name) or None


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a child process: what it needs to find its libraries, and none of our secrets."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | extra


def preset(**variables: str) -> None:
    """Set variables of a library that reads its settings from the environment, unless they are set. Before it loads."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def pip_environment() -> dict[str, str]:
    """The environment for `pip`: as ours, with its proxies, mirrors and certificates."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}


def model_hub(mirror: str | None = None) -> str:
    """The address of the hub of models, or of its mirror: as set, else HF_ENDPOINT as for the hub's own programs."""
    return (mirror or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _file(named: object, environ: Mapping[str, str], folder: Path) -> Path | None:
    chosen = named or environ.get("GIMLE_CONFIG")
    if chosen is None:
        usual = folder / "gimle.toml"
        return usual if usual.is_file() else None
    file = Path(str(chosen)).expanduser()
    if not file.is_file():
        raise ConfigError(f"The configuration file {file} does not exist.", field="config")
    return file


def _read(file: Path) -> Tree:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"{file} is not valid TOML: {wrong}.", field=str(file)) from None


def _from_environment(environ: Mapping[str, str]) -> Tree:
    tree: Tree = {}
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
            _set(tree, name.removeprefix(_PREFIX).lower().replace("__", "."), _listed(environ[name]))
    return tree


def _listed(text: str) -> str | list[Any]:
    """A list where the text is one, as in JSON, for the settings that take one; else the text."""
    try:
        return msgspec.json.decode(text, type=list[Any]) if text.startswith("[") else text
    except msgspec.DecodeError:
        return text


def _from_flags(flags: Mapping[str, object]) -> Tree:
    tree: Tree = {}
    for key, value in flags.items():
        _set(tree, key, value)
    return tree


def _set(tree: Tree, dotted: str, value: object) -> None:
    *path, last = dotted.split(".")
    for part in path:
        section: object = tree.setdefault(part, {})
        if not isinstance(section, dict):
            # `GIMLE_SERVER=x` stands where a section belongs; the check of the whole tree says so.
            return
        tree = section
    tree[last] = value


def _merge(into: Tree, tree: Tree) -> None:
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, (str, Path)):
        raise NotImplementedError(kind)
    return Path(value)


def _explained(wrong: msgspec.ValidationError, sources: list[tuple[str, Tree]]) -> ConfigError:
    """msgspec says "Expected `int`, got `str` - at `$.server.port`"; say it in the user's words, with the source."""
    what, _, where = str(wrong).partition(" - at ")
    field = where.strip("`").removeprefix("$").lstrip(".")
    if "unknown field" in what:
        unknown = what.split("`")[1]
        field = f"{field}.{unknown}".lstrip(".")
        what = "There is no such setting"
    source = next((name for name, tree in reversed(sources) if _has(tree, field)), "the configuration")
    return ConfigError(
        f"{field} (from {source}): {what}.", field=field, hint="docs/reference/settings.md lists all settings."
    )


def _has(tree: Tree, dotted: str) -> bool:
    here: object = tree
    for part in dotted.split("."):
        if not isinstance(here, dict) or part not in here:
            return False
        here = here[part]
    return True
