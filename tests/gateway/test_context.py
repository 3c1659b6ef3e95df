"""What of the passages goes to a model."""

from hypothesis import given
from hypothesis import strategies as st

from gimle.gateway.context import SKIPPED, budget, compress, fit
from gimle.gateway.extract import Passage, Pick


def words(text: str) -> int:
    return len(text.split())


def passage(name: str, count: int, score: float) -> Passage:
    return Passage(id=name, text=" ".join(f"{name}{n}" for n in range(count)), score=score)


def test_the_budget_keeps_the_reserve() -> None:
    assert budget(1000, reserve=0.2) == 800
    assert budget(1000, reserve=0.2, spent=300) == 500
    assert budget(1000, reserve=0.2, spent=3000) == 0


def test_the_best_come_first_and_each_once() -> None:
    given_ = [passage("a", 5, 0.1), passage("b", 5, 0.9), passage("a", 5, 0.5)]
    assert [(one.id, one.score) for one in fit(given_, 100, words)] == [("b", 0.9), ("a", 0.5)]


def test_the_first_that_does_not_fit_is_cut_at_a_word() -> None:
    fitting = fit([passage("a", 40, 0.9), passage("b", 100, 0.5), passage("c", 1, 0.4)], 100, words, overhead=10)
    assert [one.id for one in fitting] == ["a", "b"]
    assert words(fitting[1].text) == 40
    assert passage("b", 100, 0.5).text.startswith(fitting[1].text + " ")


def test_a_rest_that_says_nothing_is_left_out() -> None:
    assert [one.id for one in fit([passage("a", 90, 0.9), passage("b", 90, 0.5)], 100, words, overhead=0)] == ["a"]


def test_nothing_fits_into_nothing() -> None:
    assert fit([passage("a", 3, 1.0)], 0, words) == []
    assert fit([], 100, words) == []


@given(
    st.lists(st.builds(passage, st.sampled_from("abcdef"), st.integers(0, 80), st.floats(0, 1)), max_size=12),
    st.integers(0, 200),
)
def test_the_budget_is_never_passed(passages: list[Passage], tokens: int) -> None:
    fitting = fit(passages, tokens, words, overhead=7)
    assert sum(words(one.text) + 7 for one in fitting) <= tokens
    assert len({one.id for one in fitting}) == len(fitting)
    assert all(any(whole.id == one.id and whole.text.startswith(one.text) for whole in passages) for one in fitting)


def picked(passages: list[Passage], *order: tuple[int, int, int]) -> list[Pick]:
    return [Pick(passage=at, start=start, end=end, score=-n) for n, (at, start, end) in enumerate(order)]


HIVE = Passage(id="hive", text="Bees dance. It tells the way. Hornets hunt. Wasps build nests.", score=0.9)
HONEY = Passage(id="honey", text="Honey is ripe in July. It is spun then.", score=0.5)


def test_what_fits_a_small_budget_is_left_whole() -> None:
    assert compress([HIVE, HONEY], [], 60, words) == [HIVE, HONEY]


def test_the_best_sentences_stay_in_their_order_and_gaps_are_marked() -> None:
    order = picked([HIVE, HONEY], (1, 0, 22), (0, 44, 62), (0, 0, 11), (0, 12, 29), (0, 30, 43))
    kept = compress([HIVE, HONEY], order, 20, words, overhead=1)
    assert [(one.id, one.text) for one in kept] == [
        ("honey", "Honey is ripe in July."),
        ("hive", "Bees dance. […] Wasps build nests."),
    ]
    assert compress([HIVE, HONEY], order, 3, words, overhead=1) == []


@given(st.integers(1, 60), st.permutations(range(6)))
def test_a_small_budget_is_kept(budget_tokens: int, order: list[int]) -> None:
    spans = [(0, 0, 11), (0, 12, 29), (0, 30, 43), (0, 44, 62), (1, 0, 22), (1, 23, 39)]
    picks = picked([HIVE, HONEY], *(spans[at] for at in order))
    kept = compress([HIVE, HONEY], picks, budget_tokens, words, overhead=2)
    assert sum(words(one.text) + 2 for one in kept) <= budget_tokens
    whole = {one.id: one.text for one in (HIVE, HONEY)}
    assert all(part in whole[one.id] for one in kept for part in one.text.split(SKIPPED))
