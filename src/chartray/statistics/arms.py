"""The difference of two arms that were pretrained with several seeds: interval and test from Student's t.

Each arm is the mean of a metric over its seeds, and over draws of training patients where probes learn from a fraction
of them. `statistics.variance` has the variance of the difference and its degrees of freedom. Error rates, coverage and
power are simulated by benchmarks/evidence/seeds.py and shown in docs/statistics.md.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.holm import holm
from chartray.statistics.patient_bootstrap import PatientBootstrap
from chartray.statistics.variance import (
    MeasuredArm,
    SeedVariance,
    draw_variance,
    patient_variance,
    satterthwaite,
    seed_residuals,
    student_test,
)

Floats = NDArray[np.float64]
Metric = Literal["auroc", "average_precision"]


class ArmDifference(NamedTuple):
    """Arm a minus arm b, each (C + 1,): the C labels, then their macro mean.

    `low` and `high` are value -+ t sqrt(patient_se^2 + seed_se^2), within [-1, 1]. `p_holm` is Holm's p over the
    labels; the macro is a family of one. `seed_correlation` is that of the values of paired seeds, else NaN. All are
    NaN for a label with fewer than `metrics.MINIMUM_PATIENTS` positive or negative patients; it is in neither the macro
    nor Holm's family. If an arm has one seed, `seed_se` is NaN and interval and p hold for these encoders alone:
    another seed may differ. `draw_se` is NaN for one draw.
    """

    value: Floats
    low: Floats
    high: Floats
    p: Floats
    p_holm: Floats
    degrees_of_freedom: Floats
    patient_se: Floats
    seed_se: Floats
    seed_correlation: Floats
    draw_se: Floats


def difference_of_arms(
    scores_a: Sequence[ArrayLike],
    scores_b: Sequence[ArrayLike],
    truth: ArrayLike,
    patients: ArrayLike,
    *,
    metric: Metric = "auroc",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    other_arms: Sequence[Sequence[ArrayLike]] = (),
    pair_seeds: bool = False,
    fixed_b: bool = False,
) -> ArmDifference:
    """Compares two arms on the same images, by label and in the macro mean.

    Args:
        scores_a: one (N, C) array per seed, larger means more likely; (D, N, C) of D draws of training patients, which
            are the same for both arms.
        scores_b: the same for the other arm; it may have another number of seeds.
        truth: (N, C) of 1, 0 and NaN, which is ignored.
        patients: (N,) names or numbers.
        metric: "auroc" or "average_precision".
        resamples: of the patients.
        level: of the interval, in (0, 1).
        seed: of the resamples.
        other_arms: more arms of the study, like `scores_a`, whose seeds vary as much; the seed variance is pooled over
            all arms with two seeds or more.
        pair_seeds: seed k of one arm belongs to seed k of every other (same initialisation, same order of images). Of
            the other arms, those with as many seeds are pooled.
        fixed_b: no seed enters arm b, such as plain pixels; it has one element.

    Raises:
        InputError: shapes that do not fit, a NaN score where truth is known, a metric, level or number of resamples out
            of range, or paired seeds of arms with different numbers of seeds.
    """
    if metric not in ("auroc", "average_precision"):
        raise InputError(f'expected the metric "auroc" or "average_precision", found "{metric}"')
    if resamples < 2:
        raise InputError(f"expected at least 2 resamples, found {resamples}")
    arms = [[_with_draws(one) for one in arm] for arm in (scores_a, scores_b, *other_arms)]
    _refuse_unusable(arms, np.asarray(truth, dtype=np.float64), pair_seeds, fixed_b)
    counted = metrics.eligible(truth, patients)
    known = np.where(counted, np.asarray(truth, dtype=np.float64), np.nan)
    values = [np.array([[_values(known, draw, metric, counted) for draw in one] for one in arm]) for arm in arms]
    sampled = metrics.sample(known, patients, resamples=resamples, seed=seed, macro=counted)
    a, b = (
        MeasuredArm(its, np.array([[_drawn(known, draw, metric, sampled) for draw in one] for one in arm]), fixed)
        for its, arm, fixed in zip(values[:2], arms[:2], (False, fixed_b), strict=True)
    )
    people = len(np.unique(np.asarray(patients)))
    others = [each.mean(axis=1) for each in values[2:]]
    return difference_of_measured(a, b, patients=people, level=level, others=others, pair_seeds=pair_seeds)


def difference_of_measured(
    a: MeasuredArm,
    b: MeasuredArm,
    *,
    patients: int,
    level: float = 0.95,
    others: Sequence[Floats] = (),
    pair_seeds: bool = False,
    bounded: bool = True,
) -> ArmDifference:
    """`difference_of_arms` of arms whose metric and resamples are known; both were resampled alike.

    `patients` is their number, `others` are the values over seeds (K, L) of further arms. A label that is NaN has no
    difference, and is in no family. `bounded`: the metric is in [0, 1], so that no end is beyond -1 or 1.
    """
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}")
    value = a.values.mean(axis=(0, 1)) - b.values.mean(axis=(0, 1))
    patient, freedom = patient_variance(a, b, patients, pair_seeds=pair_seeds)
    residuals = seed_residuals(a, b, others, pair_seeds=pair_seeds)
    parts = [each.weight / each.freedom * (each.rows**2).sum(axis=0) for each in residuals]
    seeds = np.sum(parts, axis=0) if residuals else np.full_like(value, np.nan)
    spread = draw_variance(a, b, pair_seeds=pair_seeds) if a.values.shape[1] > 1 else None
    variance = patient + (seeds if residuals else 0) + (0 if spread is None else spread.within)
    of_freedom = [each.freedom for each in residuals]
    if spread is not None:
        parts, of_freedom = [*parts, spread.total], [*of_freedom, a.values.shape[1] - 1.0]
    if parts:
        of_all = SeedVariance(np.stack(parts), np.array(of_freedom, dtype=np.float64)[:, None])
        freedom = satterthwaite(patient, freedom, of_all, with_draws=spread is not None)
    p, half = student_test(value, np.sqrt(variance), freedom, level)
    return ArmDifference(
        value=value,
        low=np.maximum(value - half, -1) if bounded else value - half,
        high=np.minimum(value + half, 1) if bounded else value + half,
        p=p,
        p_holm=np.append(holm(p[:-1]), p[-1]),
        degrees_of_freedom=freedom,
        patient_se=np.sqrt(patient),
        seed_se=np.sqrt(seeds),
        seed_correlation=_correlation(a.by_seed, b.by_seed) if pair_seeds else np.full_like(value, np.nan),
        draw_se=np.full_like(value, np.nan) if spread is None else np.sqrt(spread.within),
    )


def _with_draws(scores: ArrayLike) -> Floats:
    found = np.asarray(scores, dtype=np.float64)
    return found if found.ndim == 3 else found[None]


def _refuse_unusable(arms: list[list[Floats]], truth: Floats, pair_seeds: bool, fixed_b: bool) -> None:
    titles = ["arm a", "arm b", *(f"other arm {place}" for place in range(1, len(arms) - 1))]
    for title, arm in zip(titles, arms, strict=True):
        if not arm:
            raise InputError(f"expected at least one seed in each arm, found none in {title}")
        for place, one in enumerate(arm, start=1):
            for draw, scores in enumerate(one, start=1):
                where = f"{title}, seed {place}" + (f", draw {draw}" if len(one) > 1 else "")
                try:
                    metrics.checked(truth, scores)
                except InputError as error:
                    raise InputError(f"{where}: {error}") from error
            if len(one) != len(arms[0][0]):
                raise InputError(
                    f"expected {len(arms[0][0])} draws in each arm, as in the first, found {len(one)} in {title}, "
                    f"seed {place}"
                )
    if fixed_b and len(arms[1]) != 1:
        raise InputError(f"expected one array of arm b, which no seed enters, found {len(arms[1])}")
    if pair_seeds and len(arms[0]) != len(arms[1]):
        raise InputError(
            f"expected as many seeds in arm a as in arm b to pair, found {len(arms[0])} and {len(arms[1])}"
        )


def _values(truth: Floats, scores: Floats, metric: Metric, counted: NDArray[np.bool_]) -> Floats:
    """The metric of each label and its macro mean, (C + 1,)."""
    found = metrics.auroc(truth, scores) if metric == "auroc" else metrics.average_precision(truth, scores)
    return np.append(found, found[counted].mean() if counted.any() else np.nan)


def _drawn(truth: Floats, scores: Floats, metric: Metric, sampled: PatientBootstrap) -> Floats:
    """Resamples of the metric of each label and of its macro mean, (R, C + 1)."""
    found = metrics.resample_in(truth, scores, sampled)
    return np.column_stack((getattr(found, metric), getattr(found, f"macro_{metric}")))


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson's correlation over paired seeds, (C + 1,); NaN for one seed or equal values."""
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0)))
