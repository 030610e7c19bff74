"""Is the difference of two arms another one on other data sets? A test of interaction.

D_1 ... D_G are the differences on G data sets, V their covariance. Patients of different data sets are independent;
the seeds are not, since the same encoders are scored on all:

    V = diag(P_1 ... P_G) + sum S_j               S_j (G, G) is the covariance of the seeds, as in `statistics.variance`
    Q = sum w_g (D_g - mean)^2,   w_g = 1 / B_g   mean weighted by w (Cochran's Q), B as in `statistics.variance`
    F = Q / tr(M V),   M = diag(w) - w w' / sum w

Under equal differences F has about tr(M V)^2 / tr(M V M V) degrees of freedom (Box 1954) over Satterthwaite's of
tr(M V). For two data sets this is the t test of D_1 - D_2 with its seeds paired by encoder, F = t^2. Nothing is
inverted, so three seeds suffice for any number of data sets. Error rates are in
docs/statistics.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.statistics.variance import (
    MeasuredArm,
    SeedResiduals,
    SeedVariance,
    patient_variance,
    satterthwaite,
    seed_residuals,
)

Floats = NDArray[np.float64]


class DifferenceInSet(NamedTuple):
    """Two arms on one data set, of one draw of training patients: seeds and labels are the same in all data sets.

    `patients` is their number, `others` the values over seeds (K, L) of further arms.
    """

    a: MeasuredArm
    b: MeasuredArm
    patients: int
    others: Sequence[Floats] = ()


class InteractionTest(NamedTuple):
    """F, its degrees of freedom and p, each (L,); NaN where fewer than two data sets have the label."""

    statistic: Floats
    numerator: Floats
    denominator: Floats
    p: Floats


def interaction(sets: Sequence[DifferenceInSet], *, pair_seeds: bool = False) -> InteractionTest:
    """Tests, label by label, whether a minus b is the same on all `sets` that have the label."""
    values = np.stack([one.a.values.mean(axis=(0, 1)) - one.b.values.mean(axis=(0, 1)) for one in sets])  # (G, L)
    patient, freedom = map(
        np.stack,
        zip(*(patient_variance(one.a, one.b, one.patients, pair_seeds=pair_seeds) for one in sets), strict=True),
    )
    weights = np.stack([(one.a.drawn.mean(axis=(0, 1)) - one.b.drawn.mean(axis=(0, 1))).var(axis=0) for one in sets])
    by_set = [seed_residuals(one.a, one.b, one.others, pair_seeds=pair_seeds) for one in sets]
    seeds = [_across([parts[place] for parts in by_set]) for place in range(min(map(len, by_set)))]
    found = np.full((4, values.shape[1]), np.nan)
    for label in range(values.shape[1]):
        there = np.flatnonzero(~np.isnan(values[:, label]))
        if len(there) > 1:
            parts = [(each.rows[:, there, label], each.freedom, each.weight) for each in seeds]
            found[:, label] = _tested(
                values[there, label], patient[there, label], freedom[there, label], weights[there, label], parts
            )
    return InteractionTest(*found)


def _across(parts: Sequence[SeedResiduals]) -> SeedResiduals:
    """One part of the seed variance on all data sets, rows (n, G, L)."""
    return parts[0]._replace(rows=np.stack([each.rows for each in parts], axis=1))


def _tested(
    value: Floats, patient: Floats, freedom: Floats, resampled: Floats, seeds: Sequence[tuple[Floats, float, float]]
) -> tuple[float, float, float, float]:
    """F, its two degrees of freedom and p, of differences (G,) and seed residuals (n, G)."""
    from scipy.stats import f as fisher  # a second to import: only a comparison pays for it

    # P itself can be 0 by chance. B is so only where all patients are alike.
    largest = float(resampled.max())
    weight = 1 / np.maximum(resampled / largest, 1e-3) if largest > 0 else np.ones_like(resampled)
    contrast = np.diag(weight) - np.outer(weight, weight) / weight.sum()
    covariances = [scale / degrees * rows.T @ rows for rows, degrees, scale in seeds]
    covariance = np.diag(patient) + np.sum(covariances, axis=0)
    trace = float(np.trace(contrast @ covariance))
    if trace <= 0:
        return np.nan, np.nan, np.nan, np.nan
    statistic = float(value @ contrast @ value) / trace
    numerator = trace**2 / float(np.trace(contrast @ covariance @ contrast @ covariance))
    of_patients = np.diag(contrast) * patient
    patients = of_patients.sum()
    known = patients**2 / (of_patients**2 / freedom).sum() if patients > 0 else freedom.min()
    denominator = known
    if seeds:
        each = np.array([[float(np.trace(contrast @ one))] for one in covariances])
        degrees = np.array([[one] for _, one, _ in seeds])
        denominator = satterthwaite(np.array([patients]), np.array([known]), SeedVariance(each, degrees))[0]
    return statistic, numerator, float(denominator), float(fisher.sf(statistic, numerator, denominator))
