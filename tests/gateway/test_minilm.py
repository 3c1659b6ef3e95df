"""The installed MiniLM: unit vectors, order kept, meaning told apart, and close to the published float32 model."""

import numpy as np
import pytest

from gimle.foundation import config
from gimle.gateway import minilm, weights
from gimle.gateway.minilm import Encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    folder = weights.locate(config.load())
    if folder is None:
        pytest.skip("the weights are not installed: run `gimle setup`")
    return Encoder.load(folder, threads=1)


def test_vectors_have_length_one_in_the_order_of_the_texts(encoder: Encoder) -> None:
    texts = ["A long sentence about the history of the town hall and its roof. " * n for n in (9, 1, 5)] + ["Tax."] * 7
    vectors = encoder.encode(texts)
    assert vectors.shape == (10, minilm.DIMENSIONS)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        # int8 rounds by the batch: the same text alone is almost the same vector.
        assert float(encoder.encode([text])[0] @ vector) > 0.98


def test_like_is_nearer_than_unlike(encoder: Encoder) -> None:
    question, near, far = encoder.encode(["How do I get my money back?", "Refunds are paid.", "Bees dance."])
    assert question @ near > question @ far + 0.2


def test_no_texts_and_empty_texts(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    assert np.isfinite(encoder.encode(["", "\x00"])).all()


def test_what_lies_beyond_the_window_is_not_seen(encoder: Encoder) -> None:
    seen = "word " * 300
    first, second = encoder.encode([seen, seen + "elephant"])
    assert np.allclose(first, second, atol=1e-6)
    assert encoder.count(seen) == 302
