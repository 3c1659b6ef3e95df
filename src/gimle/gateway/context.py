"""What of the found passages goes to a model: the most relevant first, each once, never more than fits."""

from collections.abc import Callable, Sequence

import msgspec

from gimle.gateway.extract import Passage, Pick

# What stands where sentences were left out.
SKIPPED = " […] "
# The rest of a passage that would be shorter than this says too little to be worth its heading.
_LEAST_TOKENS = 24


def budget(window: int, *, reserve: float = 0.2, spent: int = 0) -> int:
    """The tokens left for passages in a window: without the share kept for the answer, and what is spent already."""
    return max(0, int(window * (1 - reserve)) - spent)


def fit(
    passages: Sequence[Passage], budget_tokens: int, count: Callable[[str], int], *, overhead: int = 12
) -> list[Passage]:
    """The passages that fit into a budget, best first, each id once.

    `count` gives the tokens of a text; `overhead` is what each passage costs beside its text (its heading). The first
    that does not fit whole is cut at the end of a word, so that its text is a beginning of the original, and those
    after it are left out: a worse passage never displaces a part of a better one.
    """
    fitting: list[Passage] = []
    left = budget_tokens
    for passage in _ranked(passages):
        left -= overhead
        cost = count(passage.text)
        if cost > left:
            if left >= _LEAST_TOKENS:
                fitting.append(msgspec.structs.replace(passage, text=_beginning(passage.text, left, count)))
            break
        fitting.append(passage)
        left -= cost
    return [passage for passage in fitting if passage.text]


def compress(
    passages: Sequence[Passage],
    picks: Sequence[Pick],
    budget_tokens: int,
    count: Callable[[str], int],
    *,
    overhead: int = 12,
) -> list[Passage]:
    """The passages with those of their sentences that fit into a small budget, best first.

    `picks` are their sentences, the most promising first. What fits whole is left as it is. Else sentences are taken
    until one no longer fits; a passage of which none was taken is left out.
    """
    if sum(count(passage.text) + overhead for passage in passages) <= budget_tokens:
        return list(passages)
    chosen: dict[int, list[Pick]] = {}
    left = budget_tokens
    for pick in picks:
        cost = count(passages[pick.passage].text[pick.start : pick.end]) + 2
        cost += 0 if pick.passage in chosen else overhead
        if cost > left:
            break
        chosen.setdefault(pick.passage, []).append(pick)
        left -= cost
    # A passage stands where its best sentence does.
    return [msgspec.structs.replace(passages[at], text=_joined(passages[at].text, kept)) for at, kept in chosen.items()]


def _joined(text: str, picks: Sequence[Pick]) -> str:
    """Sentences in their order, with a mark where some between them are missing."""
    said, end = "", 0
    for pick in sorted(picks, key=lambda pick: pick.start):
        between = text[end : pick.start]
        said += (between if not between.strip() else SKIPPED) if said else ""
        said += text[pick.start : pick.end]
        end = pick.end
    return said


def _ranked(passages: Sequence[Passage]) -> list[Passage]:
    best: dict[str, Passage] = {}
    for passage in sorted(passages, key=lambda passage: -passage.score):
        best.setdefault(passage.id, passage)
    return list(best.values())


def _beginning(text: str, limit: int, count: Callable[[str], int]) -> str:
    """The longest beginning of at most `limit` tokens that ends with a word. A word's end is a token's end too."""
    ends = [at for at in range(1, len(text)) if text[at].isspace() and not text[at - 1].isspace()]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[: ends[middle - 1]]) <= limit:
            low = middle
        else:
            high = middle - 1
    return text[: ends[low - 1]] if low else ""
