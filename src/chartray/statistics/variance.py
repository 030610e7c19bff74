"""The variance of the difference of two arms, its degrees of freedom, and Student's t.

Each arm is the mean of a metric over its seeds, and over draws of training patients where probes learn from a fraction
of them. The variance of the difference D of two arms has three parts:

    var(D) = P + S + T
    P = B - I         patients: B is the bootstrap variance by patient of D, which holds seeds and draws fixed; I is the
                      part of B in which seeds of an arm, or draws, differ, since S and T contain it too; P is at
                      least B / 10
    S = s_a^2 / K_a + s_b^2 / K_b                     seeds, of two arms (Welch)
    S = s^2 (1 / K_a + 1 / K_b)                       s^2 pooled over all arms of the study
    S = s^2 / K                                       of differences by seed, where seeds are paired
    T = d^2 / draws - E                               draws, which both arms share: d^2 is the variance of D over them;
                                                      E is the part of it in which seeds differ, since S contains it too

s^2 is the variance of the metric over seeds on these patients. An arm that no seed enters (plain pixels, the chart
alone) has no part in S. Satterthwaite's degrees of freedom are

    (P + sum c_j S_j)^2 / (P^2 / n + sum (c_j S_j)^2 / f_j),    f = K - 1 (pooled: their sum), n = patients - 1

with T among the S_j, f = draws - 1. Without the factors c > 1 they would be too many where S is small by chance:
`_factors`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# P is at least this share of B: with few patients B - I is 0 or less by chance.
_SMALLEST_SHARE = 0.1


class MeasuredArm(NamedTuple):
    """A metric of one arm, of L labels (and their macro mean, the last).

    `values` (K, D, L) of K seeds and D draws of training patients, `drawn` (K, D, R, L) their resamples by patient.
    `fixed`: no seed enters the arm, so it has one and does not vary over seeds. `alone`: its seeds do not vary as those
    of other arms, such as initialisations of an untrained encoder.
    """

    values: Floats
    drawn: Floats
    fixed: bool = False
    alone: bool = False

    @property
    def by_seed(self) -> Floats:
        """The mean of each seed over draws, (K, L)."""
        return np.asarray(self.values.mean(axis=1))


class SeedResiduals(NamedTuple):
    """One part of S: its sum of squared `rows` (n, L), over its degrees of freedom, times `weight`."""

    rows: Floats
    freedom: float
    weight: float


class SeedVariance(NamedTuple):
    """S (C + 1,), its parts (J, C + 1) and their degrees of freedom (J, 1)."""

    parts: Floats
    freedom: Floats

    @property
    def variance(self) -> Floats:
        return np.asarray(self.parts.sum(axis=0))


def patient_variance(a: MeasuredArm, b: MeasuredArm, patients: int, *, pair_seeds: bool) -> tuple[Floats, Floats]:
    """P and its degrees of freedom, (L,) each: the numbers of patients and of resamples limit how well it is known."""
    resampled = found = (a.drawn.mean(axis=(0, 1)) - b.drawn.mean(axis=(0, 1))).var(axis=0, ddof=1)
    freedom = np.where(np.isnan(found), np.nan, 1 / (1 / max(patients - 1, 1) + 1 / (a.drawn.shape[2] - 1)))
    if a.drawn.shape[1] > 1:
        apart = (a.drawn.mean(axis=0) - b.drawn.mean(axis=0))[:, None]
        found = found - interaction_variance(apart) / a.drawn.shape[1]
    if _seeds_vary(a, b):
        for each in [a.drawn - b.drawn] if pair_seeds else [one.drawn for one in (a, b) if not one.fixed]:
            found = found - interaction_variance(each.mean(axis=1)[:, None]) / len(each)
            if each.shape[1] > 1:
                found = found + interaction_variance(each) / (each.shape[0] * each.shape[1])
    return np.maximum(found, _SMALLEST_SHARE * resampled), freedom


def _seeds_vary(a: MeasuredArm, b: MeasuredArm) -> bool:
    return all(one.fixed or len(one.values) > 1 for one in (a, b)) and not (a.fixed and b.fixed)


def interaction_variance(drawn: Floats) -> Floats:
    """Variance (L,), over members (K, D, R, L) of seeds and draws, of what patients add to one and not to another."""
    apart = _centred(drawn)
    return np.asarray(apart.var(axis=2).sum(axis=(0, 1)) / _freedom(drawn))


def _centred(each: Floats) -> Floats:
    """What is left of (K, D, ...) without the means of its rows and columns; of one row or column without the mean."""
    for axis in (0, 1):
        each = each - each.mean(axis=axis, keepdims=True) if each.shape[axis] > 1 else each
    return each


def _freedom(each: Floats) -> int:
    return int(np.prod([size - 1 for size in each.shape[:2] if size > 1]))


def seed_residuals(
    a: MeasuredArm, b: MeasuredArm, others: Sequence[Floats] = (), *, pair_seeds: bool = False
) -> list[SeedResiduals]:
    """The parts of the seed variance of a minus b; none where an arm has one seed."""
    if not _seeds_vary(a, b):
        return []
    x, y = a.by_seed, b.by_seed
    if pair_seeds and not (a.fixed or b.fixed):
        # Arms by seeds without replication: the residual is what is left of a value without its arm and its seed.
        paired = np.stack([x, y, *(each for each in others if len(each) == len(x))])  # (A, K, L)
        rows = _centred(paired).reshape(-1, x.shape[1])
        return [SeedResiduals(rows, (len(paired) - 1.0) * (len(x) - 1), 2 / len(x))]
    groups = [[one.by_seed] for one in (a, b) if not one.fixed]
    weights = [1 / len(each[0]) for each in groups]
    if others and not b.alone:
        groups, weights = [[*(each for group in groups for each in group), *others]], [sum(weights)]
    elif others:
        groups[0] += others
    return [
        SeedResiduals(
            np.concatenate([each - each.mean(axis=0) for each in group]), sum(len(each) - 1.0 for each in group), weight
        )
        for group, weight in zip(groups, weights, strict=True)
    ]


class DrawVariance(NamedTuple):
    """Variance of the difference over draws: all of it, and without the part that seeds of an arm have in it."""

    total: Floats
    within: Floats


def draw_variance(a: MeasuredArm, b: MeasuredArm, *, pair_seeds: bool) -> DrawVariance:
    """T and E, of arms with two draws or more."""
    draws = a.values.shape[1]
    total = (a.values.mean(axis=0) - b.values.mean(axis=0)).var(axis=0, ddof=1) / draws
    twice = np.zeros_like(total)
    if _seeds_vary(a, b):
        for each in [a.values - b.values] if pair_seeds else [one.values for one in (a, b) if not one.fixed]:
            twice += (_centred(each) ** 2).sum(axis=(0, 1)) / _freedom(each) / (len(each) * draws)
    return DrawVariance(total, np.maximum(total - twice, 0))


def satterthwaite(patient: Floats, freedom: Floats, parts: SeedVariance, *, with_draws: bool = False) -> Floats:
    """Degrees of freedom of P + S, (C + 1,); without variance those of the patients. The last part may be T."""
    seeds = len(parts.freedom) - with_draws
    factors = np.concatenate((_factors(parts.freedom[:seeds]), _alone(parts.freedom[seeds:])))
    counted = factors * parts.parts
    terms = patient**2 / freedom + (counted**2 / parts.freedom).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(terms > 0, (patient + counted.sum(axis=0)) ** 2 / terms, freedom)


def _factors(freedom: Floats) -> Floats:
    """c of each part of S, (J, 1): how much more it counts for the degrees of freedom than for the variance.

    An S that is small by chance gives a small variance and, with c = 1, many degrees of freedom. At .05, normal values
    and the worst ratio of S to a known P, equal arms then differ in .128, .079, .064 of studies if S is one part of 1,
    2, 3 degrees of freedom, in .064 if two arms have two seeds, in .10 if they have 2 and 10. With c as below it is at
    most .062. Where S is one part, or two with the same c, c cancels if P is 0: this is the paired or pooled t test, or
    Welch's.
    """
    if len(freedom) < 2:
        return _alone(freedom)
    if freedom.min() == 1 and freedom.max() > 1:
        return 1 + 4 / freedom**2
    return np.full_like(freedom, 1 + 0.5 / freedom.min() ** 2)


def _alone(freedom: Floats) -> Floats:
    """c of a part that stands alone, as that of draws does beside those of seeds."""
    return np.asarray(1 + 8 / freedom**2)


def student_test(value: Floats, error: Floats, freedom: Floats, level: float) -> tuple[Floats, Floats]:
    """Two-sided p and half the width of the interval."""
    from scipy.stats import t as student  # a second to import: only a comparison pays for it

    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.where((value == 0) & (error == 0), 0.0, np.abs(value) / error)
    return np.asarray(2 * student.sf(statistic, freedom)), np.asarray(student.ppf((1 + level) / 2, freedom) * error)
