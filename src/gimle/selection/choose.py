"""In which order the candidates for a call are tried, and why. Pure: decides order and nothing else."""

from collections.abc import Sequence

from gimle.selection.types import Choice, Model, Need


def order(models: Sequence[Model], need: Need, *, automatic: bool = False) -> Choice:
    """Order the candidates for a call.

    A model that can't serve now is left out. When the caller named the model (`automatic` false), nothing else is held
    against it: what it can't do, its provider will say. With `auto`, models that lack a capability or whose window is
    too small are left out too, and the engines inside Gimle come last, but first for vectors, whose space must not
    change when a provider is added. Else the order is the registry's: the cloud gets no preference over local.
    """
    reasons: dict[str, str] = {}
    able: list[Model] = []
    for model in models:
        against = _against(model, need, automatic)
        reasons[model.id] = against or "can serve"
        if against is None:
            able.append(model)
    if automatic:
        able.sort(key=lambda model: (model.dialect is None) == (need.kind != "embedding"))
    return Choice(tuple(able), reasons)


def _against(model: Model, need: Need, automatic: bool) -> str | None:
    if model.kind != need.kind:
        return f"is not for {need.kind}"
    if model.unavailable is not None:
        return model.unavailable
    if not automatic:
        return None
    lacking = need.capabilities - model.capabilities
    if lacking:
        return f"lacks {', '.join(sorted(lacking))}"
    # An engine inside Gimle counts for itself, and exactly.
    if model.dialect is not None and need.tokens > model.context_window:
        return f"takes {model.context_window} tokens, {need.tokens} are needed"
    return None
