"""Many arms against one control: Dunnett's correction, step by step (Dunnett and Tamhane 1991).

Differences from one control are correlated, since they share it, so less has to be corrected than Holm's procedure
does, which holds for any dependence.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.holm import holm

Floats = NDArray[np.float64]
# Below this the integral's own error counts, and Holm's p is as small to within a hundredth.
_SMALL = 0.01


def dunnett(p: ArrayLike, correlation: ArrayLike, freedom: ArrayLike, *, steps: bool = True) -> Floats:
    """Two-sided p of m differences from one control, corrected for all of them.

    The corrected p of the largest |t| is the probability that the largest of m correlated |t| reaches it; in the next
    step it is left out, and so on. A corrected p is never above Holm's. With equal `freedom` and the correlation of a
    common variance the first step is Dunnett's test. Where degrees of freedom differ, the largest are taken: this
    corrects for more.

    Args:
        p: (m,) in [0, 1]; a NaN stays NaN and counts for nothing.
        correlation: (m, m) of the differences.
        freedom: (m,) degrees of freedom of each p.
        steps: false for all p by the first step (`scipy.stats.dunnett`).

    Raises:
        InputError: shapes that do not fit.
    """
    raw, joint, degrees = (np.asarray(each, dtype=np.float64) for each in (p, correlation, freedom))
    if joint.shape != (raw.size, raw.size) or degrees.shape != raw.shape:
        raise InputError(
            f"expected ({raw.size}, {raw.size}) correlations and {raw.size} degrees of freedom, found {joint.shape} "
            f"and {degrees.shape}"
        )
    by_holm = holm(raw) if steps else np.minimum(raw * np.isfinite(raw).sum(), 1)
    found, floor = raw.copy(), 0.0
    known = [int(each) for each in np.argsort(raw, kind="stable") if np.isfinite(raw[each])]
    shape = _positive(joint[np.ix_(known, known)])
    for place, which in enumerate(known):
        rest = slice(place if steps else 0, None)
        each = by_holm[which]
        if each > _SMALL and len(known[rest]) > 1:
            largest = degrees[known[rest]].max()
            each = np.clip(_largest(raw[which], shape[rest, rest], largest), raw[which], each)
        floor = max(floor, float(each))
        found[which] = floor
    return found


def _largest(p: float, correlation: Floats, freedom: float) -> float:
    """Probability that the largest of several |t| is at least the one whose own p this is."""
    from scipy.stats import multivariate_t, t  # a second to import: only a comparison pays for it

    limit = np.full(len(correlation), t.isf(p / 2, freedom))
    inside = multivariate_t.cdf(
        limit, shape=correlation, df=freedom, lower_limit=-limit, random_state=np.random.default_rng(0)
    )
    return 1 - float(inside)


def _positive(correlation: Floats) -> Floats:
    """The nearest correlations that can be: estimates from several comparisons need not fit together."""
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    if values.size and values.min() >= 1e-9:
        return correlation
    fixed = (vectors * np.maximum(values, 1e-9)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    return np.asarray(fixed / np.outer(scale, scale))
