"""What the generations of Claude take and refuse, as published. Other models behind this format take everything."""

import re

import msgspec

# `claude-opus-4-8`, `claude-sonnet-4-5-20250929`, `claude-opus-4@20250514`, and with a cloud's own prefix.
_NEW = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:-(\d{1,2}))?(?!\d)")
# `claude-3-5-haiku-20241022`.
_OLD = re.compile(r"claude-(\d)(?:-(\d))?-([a-z]+)")

# The fewest tokens that the vendor takes as a budget for thoughts.
_LEAST_BUDGET = 1024


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes.

    `sampling` are temperature, top_p and top_k; `both` is temperature beside top_p. It thinks within a `budget` of
    tokens or `adaptive`ly, takes an `effort`, and may be told not to think (`rests`). `schema` stands for
    answers that hold to a JSON schema, `system_turns` for system messages in the middle of a conversation. A `strict`
    one refuses thoughts beside a forced tool, and with sampling or a budget that do not fit them.
    """

    sampling: bool = True
    both: bool = True
    budget: bool = True
    adaptive: bool = True
    effort: bool = True
    rests: bool = True
    schema: bool = True
    system_turns: bool = False
    strict: bool = False


def traits(model: str) -> Traits:
    """What a model takes, by its name."""
    found = _version(model)
    if found is None:
        return Traits()
    family, version = found
    always_thinks = family in ("fable", "mythos") or (family == "opus" and version >= (5, 5))
    return Traits(
        sampling=version < (4, 7),
        both=version < (4, 1),
        budget=version < (4, 7),
        adaptive=version >= (4, 6),
        effort=version >= ((4, 5) if family == "opus" else (4, 6)),
        rests=not always_thinks,
        schema=version >= (4, 5),
        system_turns=version >= (4, 8) and not (family == "sonnet" and version < (5, 5)),
        strict=version < (4, 8),
    )


def budget_within(budget: int, most: int) -> int | None:
    """A budget for thoughts that the vendor takes in an answer of so many tokens: less than these. None: none fits."""
    budget = max(budget, _LEAST_BUDGET)
    fitting = budget if budget < most else most // 2
    return fitting if fitting >= _LEAST_BUDGET else None


def _version(model: str) -> tuple[str, tuple[int, int]] | None:
    if new := _NEW.search(model):
        return new[1], (int(new[2]), int(new[3] or 0))
    if old := _OLD.search(model):
        return old[3], (int(old[1]), int(old[2] or 0))
    return None
