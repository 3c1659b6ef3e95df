"""Plugins by place: the folder is the registry, and the file's name is the plugin's name."""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from gimle.foundation.errors import ConfigError


@cache
def names(package: str) -> tuple[str, ...]:
    """The plugins of a folder such as `gimle.knowledge.parsers`, sorted."""
    folder = importlib.import_module(package)
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folder.__path__)))


def load(package: str, name: str) -> ModuleType:
    """Import one plugin. Raises `ConfigError` when it does not exist, or needs a library that is not installed."""
    if name not in names(package):
        raise ConfigError(f"There is no {package.rsplit('.', 1)[-1]} plugin named {name!r}.", field=name)
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as missing:
        if missing.name is not None and missing.name.startswith("gimle"):
            raise
        raise ConfigError(
            f"The plugin {name!r} needs the library {missing.name!r}.", hint=f"pip install 'gimle[{name}]'"
        ) from missing
