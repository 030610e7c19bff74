"""The levels above the patients: draws of training patients, seeds of pretraining."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def hierarchical_bootstrap(mean: Floats, groups: Sequence[Floats], *, seed: int) -> Floats:
    """Resamples in which not the patients alone vary, but the members that a mean is over too.

    A hierarchical bootstrap. `mean` (R, ...) are resamples of the mean by patient, which hold the members fixed. Each
    of `groups` is one level above, (K, R, ...): the same resamples for each of its K members (seeds, or draws of
    training patients), over which `mean` is a mean, or a sum of such means. In every resample, K of a group's K members
    are drawn with replacement, and the distance of their mean from the mean of all is added. Two things make few
    members honest:

    - Drawn so, they vary too little, by (K - 1) / K, and that few members say little of their own spread is lost. The
      distance is stretched by sqrt(K / chi2), chi2 of K - 1 degrees of freedom drawn anew in each resample: Student's t
      about the mean where members are normal. Without it three seeds that differ by chance alone "differ" in one
      comparison of five.
    - How patients fare under one member and not another, of variance v, is in `mean` (v / K) and in the spread of the
      members too. It is taken out of `mean`, whose resamples are drawn together by sqrt(1 - v / (K var(mean))): twice
      counted it would hide true differences (both measured: benchmarks/evidence/false_positives.py, benchmarks/LOG.md).

    What is drawn depends on `seed`, R, the K and the order of the groups alone. A group of one member adds nothing.
    """
    if all(len(group) < 2 for group in groups):
        return mean
    centre = mean.mean(axis=0)
    variance = ((mean - centre) ** 2).mean(axis=0)
    twice, away = np.zeros_like(centre), np.zeros_like(mean)
    for place, group in enumerate(groups):
        members = len(group)
        if members < 2:
            continue
        values = group.mean(axis=1)  # (K, ...)
        apart = group - group.mean(axis=0) - (values - values.mean(axis=0))[:, None]
        twice += (apart**2).mean(axis=1).sum(axis=0) / (members - 1) / members
        away += _away(values, len(mean), (seed, place))
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(variance > 0, np.sqrt(np.maximum(0, 1 - twice / variance)), 1.0)
    return np.asarray(centre + kept * (mean - centre) + away)


def _away(values: Floats, resamples: int, stream: tuple[int, int]) -> Floats:
    """(K, ...) -> (R, ...): how far the mean of K members drawn with replacement is from their mean, stretched."""
    members = len(values)
    generator = np.random.default_rng((*stream, members))
    weights = generator.multinomial(members, np.full(members, 1 / members), size=resamples) / members  # (R, K)
    stretch = np.sqrt(members / generator.chisquare(members - 1, size=resamples))
    return np.asarray(np.tensordot(stretch[:, None] * (weights - 1 / members), values, axes=1))
