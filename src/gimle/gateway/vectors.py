"""The vectors of a provider's answer, checked. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from gimle.foundation.errors import UpstreamError
from gimle.gateway.types import Vectors


def told(rows: Sequence[ArrayLike], count: int) -> Vectors:
    """The vectors of `count` texts, float32 (count, dimensions). Raises `UpstreamError` when the rows are not that."""
    if len(rows) != count:
        raise UpstreamError(f"The provider sent {len(rows)} vectors for {count} texts.")
    try:
        with np.errstate(over="ignore"):
            vectors = np.asarray(rows, dtype=np.float32)
    except ValueError as wrong:
        raise UpstreamError(f"The provider's vectors are not as long as each other: {wrong}.") from None
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise UpstreamError("The provider's vectors are empty or not finite.")
    return vectors
