from pathlib import Path
from typing import Annotated, get_args, get_origin

import msgspec
import pytest

from gimle.foundation import config
from gimle.foundation.errors import ConfigError


def _load(tmp_path: Path, toml: str = "", flags: dict[str, object] | None = None, **environ: str) -> config.Settings:
    (tmp_path / "gimle.toml").write_text(toml)
    return config.load(flags, environ, tmp_path)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    toml = "[server]\nport = 1\nhost = 'file'\nmax_body_mb = 5"
    settings = _load(tmp_path, toml, {"server.port": 3}, GIMLE_SERVER__PORT="2", GIMLE_SERVER__HOST="environment")
    assert (settings.server.port, settings.server.host, settings.server.max_body_mb) == (3, "environment", 5)
    assert settings.server.max_upload_mb == config.Server().max_upload_mb


@pytest.mark.parametrize(
    "toml,environ,key,source",
    [
        ("[server]\nport = 'x'", {}, "server.port", "gimle.toml"),
        ("[server]\nprt = 1", {}, "server.prt", "gimle.toml"),
        ("[sever]\nport = 1", {}, "sever", "gimle.toml"),
        ("", {"GIMLE_SERVER__PORT": "many"}, "server.port", "environment"),
        ("", {"GIMLE_SRV__PORT": "1"}, "srv", "environment"),
        ("[log]\nlevel = 'loud'", {}, "log.level", "gimle.toml"),
        ("", {"GIMLE_SERVER": "x", "GIMLE_SERVER__PORT": "1"}, "server", "environment"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(
    tmp_path: Path, toml: str, environ: dict[str, str], key: str, source: str
) -> None:
    with pytest.raises(ConfigError) as wrong:
        _load(tmp_path, toml, None, **environ)
    assert wrong.value.field == key
    assert source in wrong.value.message


@pytest.mark.parametrize(
    "section, key, value, right",
    [
        ("server", "port", "70000", "<= 65535"),
        ("server", "workers", "-2", ">= 1"),
        ("server", "max_body_mb", "-1", ">= 1"),
        ("database", "pool", "0", ">= 1"),
        ("jobs", "slots", "0", ">= 1"),
        ("engines", "idle_seconds", "nan", "> 0.0"),
        ("gateway", "total_seconds", "inf", "<= 1000000000.0"),
        ("gateway", "hedge_after", "-1", ">= 0.0"),
        ("knowledge", "chunk_tokens", "0", ">= 1"),
        ("knowledge", "answer_reserve", "1.5", "<= 1.0"),
        ("cache", "similarity", "7", "<= 1.0"),
    ],
)
def test_a_number_out_of_bounds_is_named_with_its_bound(
    tmp_path: Path, section: str, key: str, value: str, right: str
) -> None:
    for toml, environ in ((f"[{section}]\n{key} = {value}", {}), ("", {f"GIMLE_{section}__{key}".upper(): value})):
        with pytest.raises(ConfigError) as wrong:
            _load(tmp_path, toml, None, **environ)
        assert wrong.value.field == f"{section}.{key}"
        assert right in wrong.value.message
        assert ("environment" if environ else "gimle.toml") in wrong.value.message


def test_every_number_has_bounds() -> None:
    sections = [field.type for field in msgspec.structs.fields(config.Settings)]
    for section in sections:
        if isinstance(section, type) and issubclass(section, msgspec.Struct):
            for field in msgspec.structs.fields(section):
                kinds = {field.type, *get_args(field.type)} if get_origin(field.type) is not Annotated else set()
                assert kinds.isdisjoint({int, float}), f"{section.__name__}.{field.name}"


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        _load(tmp_path, "[server")
    with pytest.raises(ConfigError, match="does not exist"):
        config.load({"config": tmp_path / "no.toml"}, {}, tmp_path)


def test_a_list_in_the_environment_is_written_as_in_the_file(tmp_path: Path) -> None:
    told = '["minio.internal:9000", "10.1.0.0/16"]'
    listed = ("minio.internal:9000", "10.1.0.0/16")
    assert _load(tmp_path, "", None, GIMLE_GATEWAY__FETCH_ALLOW=told).gateway.fetch_allow == listed
    assert _load(tmp_path, f"[gateway]\nfetch_allow = {told}").gateway.fetch_allow == listed
    for wrong in ("10.1.0.0/16", "[10.1.0.0/16]", "[1]", '["a"]\nb = "c"'):
        with pytest.raises(ConfigError):
            _load(tmp_path, "", None, GIMLE_GATEWAY__FETCH_ALLOW=wrong)


def test_the_data_directory_by_flag_environment_and_custom(tmp_path: Path) -> None:
    assert _load(tmp_path, "", {"data": "/a"}, GIMLE_DATA="/b").data == Path("/a")
    assert _load(tmp_path, "", None, GIMLE_DATA="/b").data == Path("/b")
    assert _load(tmp_path, "", None, XDG_DATA_HOME="/x").data.name in {"gimle"}


def test_a_childs_environment_carries_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert "OPENAI_API_KEY" not in config.child_environment()
    assert config.secret("OPENAI_API_KEY") == "sk-1"
    assert config.child_environment(A="b")["A"] == "b"
