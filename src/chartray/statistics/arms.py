"""The difference of two arms that were pretrained with several seeds: interval and test from Student's t.

Each arm is the mean of a metric over its seeds. The variance of the difference D of two arms has two parts:

    var(D) = P + S
    P = B - I         patients: B is the bootstrap variance by patient of D, which holds the seeds fixed; I is the part
                      of B in which seeds of an arm differ, since S contains it too
    S = s_a^2 / K_a + s_b^2 / K_b                     seeds, of two arms (Welch)
    S = s^2 (1 / K_a + 1 / K_b)                       s^2 pooled over all arms of the study
    S = s^2 / K                                       of differences by seed, where the study pairs its seeds

s^2 is the variance of the metric over seeds on these patients. Satterthwaite's degrees of freedom are

    (P + sum c_j S_j)^2 / (P^2 / n + sum (c_j S_j)^2 / f_j),    f = K - 1 (pooled: their sum), n = patients - 1

Without the factors c > 1 they would be too many where S is small by chance: `_factors`. Error rates, coverage and power
are simulated by benchmarks/evidence/seeds.py and shown in docs/statistics.md.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.hierarchical_bootstrap import interaction_variance
from chartray.statistics.holm import holm
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]
Metric = Literal["auroc", "average_precision"]


class ArmDifference(NamedTuple):
    """Arm a minus arm b, each (C + 1,): the C labels, then their macro mean.

    `low` and `high` are value -+ t sqrt(patient_se^2 + seed_se^2), within [-1, 1]. `p_holm` is Holm's p over the
    labels; the macro is a family of one. `seed_correlation` is that of the values of paired seeds, else NaN. All are
    NaN for a label with fewer than `metrics.MINIMUM_PATIENTS` positive or negative patients; it is in neither the macro
    nor Holm's family. If an arm has one seed, `seed_se` is NaN and interval and p hold for these encoders alone:
    another seed may differ.
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


class SeedVariance(NamedTuple):
    """S (C + 1,), its parts (J, C + 1) and their degrees of freedom (J, 1)."""

    parts: Floats
    freedom: Floats

    @property
    def variance(self) -> Floats:
        return np.asarray(self.parts.sum(axis=0))


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
) -> ArmDifference:
    """Compares two arms on the same images, by label and in the macro mean.

    Args:
        scores_a: one (N, C) array per seed, larger means more likely.
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

    Raises:
        InputError: shapes that do not fit, a NaN score where truth is known, a metric, level or number of resamples out
            of range, or paired seeds of arms with different numbers of seeds.
    """
    if metric not in ("auroc", "average_precision"):
        raise InputError(f'expected the metric "auroc" or "average_precision", found "{metric}"')
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}")
    if resamples < 2:
        raise InputError(f"expected at least 2 resamples, found {resamples}")
    arms = [[np.asarray(one, dtype=np.float64) for one in arm] for arm in (scores_a, scores_b, *other_arms)]
    _refuse_unusable(arms, np.asarray(truth, dtype=np.float64), pair_seeds)
    counted = metrics.eligible(truth, patients)
    known = np.where(counted, np.asarray(truth, dtype=np.float64), np.nan)
    values = [np.array([_values(known, one, metric, counted) for one in arm]) for arm in arms]  # (K, C + 1) each
    sampled = metrics.sample(known, patients, resamples=resamples, seed=seed, macro=counted)
    drawn = [np.array([_drawn(known, one, metric, sampled) for one in arm]) for arm in arms[:2]]  # (K, R, C + 1)
    value = values[0].mean(axis=0) - values[1].mean(axis=0)
    patient = (drawn[0].mean(axis=0) - drawn[1].mean(axis=0)).var(axis=0, ddof=1)
    # The numbers of patients and of resamples limit how well the patients' part is known.
    people = max(len(np.unique(np.asarray(patients))) - 1, 1)
    freedom = np.where(np.isnan(value), np.nan, 1 / (1 / people + 1 / (resamples - 1)))
    seeds = _seeds(values, pair_seeds)
    if seeds is not None:
        pairs = [drawn[0] - drawn[1]] if pair_seeds else drawn
        patient = np.maximum(patient - sum(interaction_variance(each) / len(each) for each in pairs), 0)
        freedom = satterthwaite(patient, freedom, seeds)
    variance = patient + (0 if seeds is None else seeds.variance)
    p, half = _student(value, np.sqrt(variance), freedom, level)
    return ArmDifference(
        value=value,
        low=np.maximum(value - half, -1),
        high=np.minimum(value + half, 1),
        p=p,
        p_holm=np.append(holm(p[:-1]), p[-1]),
        degrees_of_freedom=freedom,
        patient_se=np.sqrt(patient),
        seed_se=np.full_like(value, np.nan) if seeds is None else np.sqrt(seeds.variance),
        seed_correlation=_correlation(values[0], values[1]) if pair_seeds else np.full_like(value, np.nan),
    )


def _refuse_unusable(arms: list[list[Floats]], truth: Floats, pair_seeds: bool) -> None:
    titles = ["arm a", "arm b", *(f"other arm {place}" for place in range(1, len(arms) - 1))]
    for title, arm in zip(titles, arms, strict=True):
        if not arm:
            raise InputError(f"expected at least one seed in each arm, found none in {title}")
        for place, one in enumerate(arm, start=1):
            try:
                metrics.checked(truth, one)
            except InputError as error:
                raise InputError(f"{title}, seed {place}: {error}") from error
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


def _seeds(values: list[Floats], pair_seeds: bool) -> SeedVariance | None:
    """The seed variance of the difference of the first two arms, from values (K, C + 1) of all; None for one seed."""
    a, b = values[:2]
    if min(len(a), len(b)) < 2:
        return None
    if pair_seeds:
        # Arms by seeds without replication: the residual is what is left of a value without its arm and its seed.
        paired = np.stack([each for each in values if len(each) == len(a)])  # (A, K, C + 1)
        residual = paired - paired.mean(axis=0) - paired.mean(axis=1, keepdims=True) + paired.mean(axis=(0, 1))
        freedom = (len(paired) - 1) * (len(a) - 1)
        return SeedVariance((residual**2).sum(axis=(0, 1))[None] / freedom * 2 / len(a), np.array([[float(freedom)]]))
    if len(values) > 2:
        freedom = sum(len(each) - 1 for each in values)
        pooled = sum(((each - each.mean(axis=0)) ** 2).sum(axis=0) for each in values) / freedom
        return SeedVariance(np.asarray(pooled)[None] * (1 / len(a) + 1 / len(b)), np.array([[float(freedom)]]))
    parts = np.stack([each.var(axis=0, ddof=1) / len(each) for each in (a, b)])
    return SeedVariance(parts, np.array([[len(a) - 1.0], [len(b) - 1.0]]))


def satterthwaite(patient: Floats, freedom: Floats, seeds: SeedVariance) -> Floats:
    """Degrees of freedom of P + S, (C + 1,); without variance those of the patients."""
    counted = _factors(seeds.freedom) * seeds.parts
    terms = patient**2 / freedom + (counted**2 / seeds.freedom).sum(axis=0)
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
    if len(freedom) == 1:
        return 1 + 8 / freedom**2
    if freedom.min() == 1 and freedom.max() > 1:
        return 1 + 4 / freedom**2
    return np.full_like(freedom, 1 + 0.5 / freedom.min() ** 2)


def _student(value: Floats, error: Floats, freedom: Floats, level: float) -> tuple[Floats, Floats]:
    """Two-sided p and half the width of the interval."""
    from scipy.stats import t as student  # a second to import: only a comparison pays for it

    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.where((value == 0) & (error == 0), 0.0, np.abs(value) / error)
    return np.asarray(2 * student.sf(statistic, freedom)), np.asarray(student.ppf((1 + level) / 2, freedom) * error)


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson's correlation over paired seeds, (C + 1,); NaN for one seed or equal values."""
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0)))
