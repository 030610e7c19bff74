"""Hierarchical bootstrap: seeds and draws of training patients vary, as well as the test patients."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def hierarchical_bootstrap(mean: Floats, levels: Sequence[Floats], *, seed: int) -> Floats:
    """Resamples (R, ...) of a mean in which patients vary and the members of each level do.

    Args:
        mean: (R, ...) resamples by patient of the mean over all members, which they hold fixed.
        levels: one a level, (K, R, ...): the same resamples of each of its K members (seeds, or draws of training
            patients). `mean` is their mean, or a sum of such means over levels.
        seed: of the resamples of members; with R, K and the order of the levels it determines them.

    In every resample K of the K members are drawn with replacement, and the deviation of their mean from the mean of
    all K is added. A level of one member adds nothing. Two corrections make this hold for few members:

    - Such deviations have (K - 1) / K of the right variance, and few members estimate that variance poorly. The
      deviation is multiplied by sqrt(K / chi2), with chi2 of K - 1 degrees of freedom drawn for each resample: for
      normal members this is Student's t. Without it, three seeds a side that differ by chance alone are called
      different in one comparison of five.
    - The interaction of patients and members, of variance v, is part of `mean` (v / K) and of the spread of the
      members. It is taken out of `mean`: deviations shrink by sqrt(1 - v / (K var(mean))). Counted twice it would hide
      true differences. Both are measured in benchmarks/evidence/false_positives.py and benchmarks/LOG.md.
    """
    if all(len(level) < 2 for level in levels):
        return mean
    centre = mean.mean(axis=0)
    variance = ((mean - centre) ** 2).mean(axis=0)
    twice, deviation = np.zeros_like(centre), np.zeros_like(mean)
    for place, level in enumerate(levels):
        members = len(level)
        if members < 2:
            continue
        twice += interaction_variance(level) / members
        deviation += _deviations(level.mean(axis=1), len(mean), (seed, place))
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(variance > 0, np.sqrt(np.maximum(0, 1 - twice / variance)), 1.0)
    return np.asarray(centre + kept * (mean - centre) + deviation)


def interaction_variance(level: Floats) -> Floats:
    """Variance over members of what patients add to one and not to another, from resamples (K, R, ...) of each."""
    apart = level - level.mean(axis=0)
    return np.asarray(apart.var(axis=1).sum(axis=0) / (len(level) - 1))


def _deviations(values: Floats, resamples: int, stream: tuple[int, int]) -> Floats:
    """(K, ...) -> (R, ...): the mean of K members drawn with replacement minus their mean, with Student's factor."""
    members = len(values)
    generator = np.random.default_rng((*stream, members))
    weights = generator.multinomial(members, np.full(members, 1 / members), size=resamples) / members  # (R, K)
    factor = np.sqrt(members / generator.chisquare(members - 1, size=resamples))
    return np.asarray(np.tensordot(factor[:, None] * (weights - 1 / members), values, axes=1))
