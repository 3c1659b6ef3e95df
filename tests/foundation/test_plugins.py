import sys
from pathlib import Path

import pytest

from gimle.foundation import plugins
from gimle.foundation.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "sample_plugins"
    package.mkdir()
    (package / "__init__.py").write_text('"""A folder of plugins."""')
    (package / "fine.py").write_text("ANSWER = 42")
    (package / "hungry.py").write_text("import a_library_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("sample_plugins")]:
        monkeypatch.delitem(sys.modules, name)
    return "sample_plugins"


def test_the_folder_is_the_registry(folder: str) -> None:
    assert plugins.names(folder) == ("fine", "hungry")
    assert plugins.load(folder, "fine").ANSWER == 42


def test_a_missing_library_names_the_extra(folder: str) -> None:
    with pytest.raises(ConfigError, match="a_library_nobody_has") as missing:
        plugins.load(folder, "hungry")
    assert missing.value.hint == "pip install 'gimle[hungry]'"


def test_an_unknown_plugin_is_named(folder: str) -> None:
    with pytest.raises(ConfigError, match="'other'"):
        plugins.load(folder, "other")
