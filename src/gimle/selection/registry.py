"""All models that one tenant may name, as an immutable snapshot: a change makes a new one."""

import difflib
from collections.abc import Iterable, Mapping

import msgspec

from gimle.foundation.errors import ModelNotFound
from gimle.selection.policies import DEFAULT, POLICIES
from gimle.selection.types import Kind, Model

AUTO = "auto"
_NEAREST = 3
_SHOWN = 80


class Registry:
    """The models in the order in which they are preferred.

    `open_providers` take names that are not listed (a vendor's newest model); its values are such a model's facts.
    """

    def __init__(self, models: Iterable[Model], open_providers: Mapping[str, Model] | None = None) -> None:
        self.models = tuple(models)
        self._open = dict(open_providers or {})
        # A model may serve for more than one kind, under the same id.
        self._by_id: dict[str, tuple[Model, ...]] = {}
        self._by_name: dict[str, tuple[Model, ...]] = {}
        for model in self.models:
            self._by_id[model.id] = (*self._by_id.get(model.id, ()), model)
            self._by_name[model.name] = (*self._by_name.get(model.name, ()), model)

    def resolve(self, name: str, kind: Kind) -> tuple[Model, ...]:
        """The models that a name stands for: `auto`, a bare name (all its deployments) or `provider/model`.

        Raises `ModelNotFound`, whose hint has the nearest names. Says nothing about whether they can serve now.
        """
        if name == AUTO or name.startswith(AUTO + ":"):
            return self._automatic(name, kind)
        found = self._named(name, kind)
        if not found:
            raise self._missing(name, kind)
        return found

    def _automatic(self, name: str, kind: Kind) -> tuple[Model, ...]:
        if policy_of(name) not in POLICIES:
            raise ModelNotFound(
                f"There is no policy {name.partition(':')[2][:_SHOWN]!r}.",
                field="model",
                hint=f"Use `auto`, or one of {', '.join(f'`auto:{policy}`' for policy in POLICIES)}.",
            )
        return tuple(model for model in self.models if model.kind == kind)

    def _named(self, name: str, kind: Kind) -> tuple[Model, ...]:
        exact = self._by_id.get(name)
        if exact is not None:
            return tuple(model for model in exact if model.kind == kind)[-1:]
        deployments = tuple(model for model in self._by_name.get(name, ()) if model.kind == kind)
        if deployments:
            return deployments
        provider, slash, rest = name.partition("/")
        facts = self._open.get(provider) if slash else None
        return (_unlisted(facts, rest, kind),) if facts is not None and _plain(rest) else ()

    def _missing(self, name: str, kind: Kind) -> ModelNotFound:
        names = [model.id for model in self.models if model.kind == kind]
        names += [model.name for model in self.models if model.kind == kind]
        near = list(dict.fromkeys(difflib.get_close_matches(name[:_SHOWN], names, n=_NEAREST, cutoff=0.5)))
        hint = f"Nearest: {', '.join(near)}." if near else "GET /v1/models lists those that there are."
        other = self._by_id.get(name) or self._by_name.get(name)
        said = f"{name[:_SHOWN]!r} is not a model for {kind}." if other else f"There is no model {name[:_SHOWN]!r}."
        return ModelNotFound(said, field="model", hint=hint)


def policy_of(name: str) -> str | None:
    """The policy that a name asks for: `auto` for the usual one, `auto:cheapest`; None for a model's name."""
    auto, colon, policy = name.partition(":")
    return (policy if colon else DEFAULT) if auto == AUTO else None


def _plain(name: str) -> bool:
    """Whether a name that is passed on unlisted could be a model's: printable, without spaces, not long."""
    return 0 < len(name) <= 200 and name.isprintable() and " " not in name


def _unlisted(facts: Model, name: str, kind: Kind) -> Model:
    price = f"{facts.price}/{name}" if facts.price else None
    return msgspec.structs.replace(facts, name=name, kind=kind, version=name, price=price, listed=False)
