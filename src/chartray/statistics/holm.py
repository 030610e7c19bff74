"""Holm's correction of p values that are read together."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values (C,) of one family, by Holm's step-down procedure: below alpha where he rejects at alpha.

    NaN stays NaN and does not count (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    >>> holm([0.01, np.nan, 0.04, 0.03]).tolist()
    [0.03, nan, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]  # NaN sorts last
    steps = np.arange(len(order), 0, -1)
    adjusted = np.full(values.shape, np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(values[order] * steps, 1.0))
    return adjusted
