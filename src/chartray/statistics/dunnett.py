"""Many arms against one control: Dunnett's correction, step by step (Dunnett and Tamhane 1991).

Differences from one control are correlated, since they share it, so less has to be corrected than Holm's procedure
does, which holds for any dependence.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.holm import holm

Floats = NDArray[np.float64]
# 2 to this power are the points of the integral, whose error is about .0003. It counts below _SMALL, where Holm's p is
# hardly larger.
_POINTS, _SMALL = 16, 0.01


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
    known = [int(each) for each in np.argsort(raw, kind="stable") if np.isfinite(raw[each])]
    found = raw.copy()
    if len(known) < 2:
        return found
    bound = holm(raw)[known] if steps else np.minimum(raw[known] * len(known), 1)
    inside = _largest(raw[known], joint[np.ix_(known, known)], degrees[known].max(), steps=steps)
    corrected = np.where(bound <= _SMALL, bound, np.clip(inside, raw[known], bound))
    found[known] = np.maximum.accumulate(corrected)
    return found


def _largest(p: Floats, correlation: Floats, freedom: float, *, steps: bool) -> Floats:
    """For each of the rising `p` the probability that the largest of its |t| and the later ones (without `steps`: of
    all) is at least its own.
    """
    from scipy.special import chdtri, ndtri  # a second to import: only a comparison pays for it
    from scipy.stats import qmc, t

    shift = np.random.default_rng(0).random(len(p) + 1)
    points = np.clip((qmc.Sobol(len(p) + 1, scramble=False).random_base2(_POINTS) + shift) % 1, 1e-12, 1 - 1e-12)
    limits = t.isf(p / 2, freedom) * np.sqrt(chdtri(freedom, points[:, -1:]) / freedom)
    values = np.abs(ndtri(points[:, :-1]) @ np.linalg.cholesky(_positive(correlation)).T)
    largest = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1] if steps else values.max(axis=1, keepdims=True)
    return np.asarray((largest >= limits).mean(axis=0))


def _positive(correlation: Floats) -> Floats:
    """The nearest correlations that can be: estimates from several comparisons need not fit together."""
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    if values.size and values.min() >= 1e-9:
        return correlation
    fixed = (vectors * np.maximum(values, 1e-9)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    return np.asarray(fixed / np.outer(scale, scale))
