"""In which order models are tried."""

from gimle.selection.choose import order
from gimle.selection.types import Model, Need

BUILTIN = Model(provider="builtin", name="extract", context_window=100)
CLOUD = Model(provider="cloud", name="big", dialect="openai", capabilities=frozenset({"tools"}), context_window=1000)
LOCAL = Model(provider="home", name="small", dialect="openai", local=True, context_window=200)
KEYLESS = Model(provider="cloud2", name="big", dialect="openai", unavailable="no key")
ALL = [BUILTIN, KEYLESS, LOCAL, CLOUD]


def ids(models: tuple[Model, ...]) -> list[str]:
    return [model.id for model in models]


def test_auto_takes_what_is_configured_before_the_builtin_one_and_in_the_given_order() -> None:
    assert ids(order(ALL, Need(), automatic=True).ordered) == ["home/small", "cloud/big", "builtin/extract"]


def test_auto_for_vectors_stays_in_the_builtin_space() -> None:
    cloud = Model(provider="cloud", name="vectors", kind="embedding", dialect="openai")
    builtin = Model(provider="builtin", name="minilm", kind="embedding")
    assert ids(order([cloud, builtin], Need(kind="embedding"), automatic=True).ordered)[0] == "builtin/minilm"


def test_auto_leaves_out_what_lacks_a_capability_or_a_window() -> None:
    choice = order(ALL, Need(capabilities=frozenset({"tools"})), automatic=True)
    assert ids(choice.ordered) == ["cloud/big"]
    assert choice.reasons["home/small"] == "lacks tools"
    assert choice.reasons["cloud2/big"] == "no key"
    choice = order(ALL, Need(tokens=500), automatic=True)
    assert ids(choice.ordered) == ["cloud/big", "builtin/extract"]
    assert "500" in choice.reasons["home/small"]


def test_a_model_that_was_named_is_held_to_nothing_but_being_there() -> None:
    assert ids(order([LOCAL], Need(capabilities=frozenset({"tools"}), tokens=5000)).ordered) == ["home/small"]
    assert order([KEYLESS], Need()).ordered == ()


def test_each_candidate_has_a_reason() -> None:
    assert order(ALL, Need(), automatic=True).reasons.keys() == {model.id for model in ALL}
