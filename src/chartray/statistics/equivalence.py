"""Is a difference too small to matter? Two one-sided tests against a margin (Schuirmann 1987)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError

# With fewer test patients it is shown too often (docs/statistics.md): there is no such test.
FEWEST_PATIENTS = 50


def equivalence(value: ArrayLike, error: ArrayLike, freedom: ArrayLike, margin: float) -> NDArray[np.float64]:
    """p of "the true difference is not within -margin and margin"; at most .05 shows that it is no larger.

    The larger p of two one-sided t tests, of D <= -margin and of D >= margin; both are at most .05 where the 90 %
    interval lies within the margins. All arrays have one shape; NaN gives NaN.

    Args:
        value: differences.
        error: their standard errors.
        freedom: their degrees of freedom.
        margin: the largest difference that does not matter, above 0.

    Raises:
        InputError: a margin that is not above 0.
    """
    if not margin > 0:
        raise InputError(f"expected a margin above 0, found {margin:g}")
    from scipy.stats import t  # a second to import: only a comparison pays for it

    distance = margin - np.abs(np.asarray(value, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(t.sf(distance / np.asarray(error, dtype=np.float64), freedom))
