"""The levels above the patients: seeds of pretraining, draws of training patients."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def over_draws_and_seeds(resampled: Floats, *, seed: int, side: int | None = 0) -> Floats:
    """Resamples of the mean over S seeds of D draws each, patients, draws and seeds drawn: (S, D, R, ...) -> (R, ...).

    A hierarchical bootstrap: entry r of every member saw the same patients, and each resample takes D of the D draws
    and S of the S seeds with replacement. Drawn so, few members vary too little, by (K - 1) / K, and that few say
    little of their own spread is lost: so the drawn mean's distance from the mean of all K is stretched by
    sqrt(K / chi2), chi2 of K - 1 degrees of freedom drawn anew in each resample, which gives Student's t where members
    are normal. Without it three seeds that differ by chance alone "differ" in a quarter of all comparisons
    (bench/LOG.md). Every seed learnt from the same D draws, so the two distances add.

    What is drawn depends on `seed`, `side`, R, S and D alone: arms that share them are paired, arms of another `side`
    have seeds of their own. `side` None holds the seeds fixed.
    """
    mean: Floats = resampled.mean(axis=(0, 1))
    found = mean + _away(resampled.mean(axis=0), (seed, 0))
    if side is not None:
        found = found + _away(resampled.mean(axis=1), (seed, 1 + side))
    return np.asarray(found)


def _away(resampled: Floats, stream: tuple[int, int]) -> Floats:
    """(K, R, ...) -> (R, ...): how far the mean of K members drawn with replacement is from their mean, stretched."""
    members, resamples = resampled.shape[:2]
    mean: Floats = resampled.mean(axis=0)
    if members == 1:
        return np.zeros_like(mean)
    generator = np.random.default_rng((*stream, members))
    weights = generator.multinomial(members, np.full(members, 1 / members), size=resamples) / members  # (R, K)
    stretch = np.sqrt(members / generator.chisquare(members - 1, size=resamples))
    drawn = np.einsum("rk,kr...->r...", weights, resampled)
    return np.asarray(stretch.reshape(-1, *[1] * (mean.ndim - 1)) * (drawn - mean))
