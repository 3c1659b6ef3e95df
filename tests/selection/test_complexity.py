"""How hard a prompt looks, in English and German, and what follows for the weights."""

import pytest

from gimle.selection import complexity, policies
from gimle.selection.factors import COST, QUALITY, SIZE, WEIGHTS
from gimle.selection.types import Complexity

EASY = [
    "Hello!", "What is the capital of France?", "Translate 'good morning' into Spanish.", "Thanks, that helps.",
    "Hallo, wie geht es dir?", "Übersetze bitte 'Guten Morgen' ins Englische.", "Wann ist der Kurs am Montag?",
    "Nenne mir drei Obstsorten.", "Is the office open on Sunday?",
]  # fmt: skip
HARD = [
    "Prove that the sum of two odd integers is even, then explain step by step why the proof fails for reals, "
    "and compare it with the derivative of x^2 = 4.",
    "```python\ndef f(x):\n    return x\n```\nRefactor this, analyse the trade-offs, explain why it is slow, "
    "and write unit tests. It must run exactly once.",
    "Beweise, dass die Gleichung x^2 = 2 keine rationale Lösung hat, erläutere den Beweis Schritt für Schritt und "
    "vergleiche ihn mit der Ableitung von x^3; begründe jede Annahme.",
    "Analysiere diesen SQL-Entwurf:\n```\nSELECT a FROM b;\n```\nBewerte die Folgen, vergleiche zwei Strategien und "
    "begründe, warum die Abfrage langsam ist.",
]


@pytest.mark.parametrize("text", EASY)
def test_easy(text: str) -> None:
    assert complexity.classify(text, len(text) // 4).level == "easy"


@pytest.mark.parametrize("text", HARD)
def test_hard(text: str) -> None:
    found = complexity.classify(text, len(text) // 4)
    assert found.level == "hard", found


def test_each_sign_is_told_and_they_sum_up_to_the_score() -> None:
    found = complexity.classify("Why does 2 + 2 = 4? Explain.", 5000, turns=9)
    assert set(found.signs) == {"length", "maths", "reasoning", "turns"}
    assert found.score == pytest.approx(sum(found.signs.values()), abs=0.01)
    assert complexity.classify("", 0).score == 0.0


@pytest.mark.parametrize(
    "text,language",
    [
        ("How do we get to the station, and what is the price?", "en"),
        ("Wie kommen wir zum Bahnhof und was ist der Preis?", "de"),
        ("Comment aller à la gare?", "und"),
        ("", "und"),
    ],
)
def test_the_language(text: str, language: str) -> None:
    assert complexity.classify(text, 10).language == language


def test_weights_move_to_price_for_easy_prompts_and_to_size_for_hard_ones() -> None:
    usual = policies.named("efficient")
    easy = policies.effective(usual, "easy", judged=False).weights
    hard = policies.effective(usual, "hard", judged=False).weights
    assert easy[SIZE] == 0.0
    assert easy[COST] > WEIGHTS[COST]
    assert hard[COST] == 0.0
    assert hard[SIZE] > WEIGHTS[SIZE]
    for weights in (easy, hard, policies.effective(usual, None, judged=True).weights):
        assert sum(weights) == pytest.approx(1.0)
    assert policies.effective(usual, None, judged=True).weights[QUALITY] == pytest.approx(0.5)
    assert policies.effective(policies.named("cheapest"), "hard", judged=False).weights == WEIGHTS


def test_a_very_long_prompt_costs_no_more_time_than_its_beginning() -> None:
    found = complexity.classify("why " * 2_000_000, 2_000_000)
    assert isinstance(found, Complexity)
