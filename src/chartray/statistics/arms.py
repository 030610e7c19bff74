"""The difference of two arms that were pretrained with several seeds: interval and test from Student's t.

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
`_factors`. Error rates, coverage and power are simulated by benchmarks/evidence/seeds.py and shown in
docs/statistics.md.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.holm import holm
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]
Metric = Literal["auroc", "average_precision"]

# P is at least this share of B: with few patients B - I is 0 or less by chance.
_SMALLEST_SHARE = 0.1


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
    spread = _draw_variance(a, b, pair_seeds=pair_seeds) if a.values.shape[1] > 1 else None
    variance = patient + (seeds if residuals else 0) + (0 if spread is None else spread.within)
    of_freedom = [each.freedom for each in residuals]
    if spread is not None:
        parts, of_freedom = [*parts, spread.total], [*of_freedom, a.values.shape[1] - 1.0]
    if parts:
        factors = (
            None if spread is None else np.append(_factors(_column(of_freedom[:-1])), _alone(_column(of_freedom[-1:])))
        )
        freedom = satterthwaite(patient, freedom, SeedVariance(np.stack(parts), _column(of_freedom)), factors)
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


class _Draws(NamedTuple):
    """Variance of the difference over draws: all of it, and without the part that seeds of an arm have in it."""

    total: Floats
    within: Floats


def _draw_variance(a: MeasuredArm, b: MeasuredArm, *, pair_seeds: bool) -> _Draws:
    draws = a.values.shape[1]
    total = (a.values.mean(axis=0) - b.values.mean(axis=0)).var(axis=0, ddof=1) / draws
    twice = np.zeros_like(total)
    if _seeds_vary(a, b):
        for each in [a.values - b.values] if pair_seeds else [one.values for one in (a, b) if not one.fixed]:
            twice += (_centred(each) ** 2).sum(axis=(0, 1)) / _freedom(each) / (len(each) * draws)
    return _Draws(total, np.maximum(total - twice, 0))


def satterthwaite(patient: Floats, freedom: Floats, parts: SeedVariance, factors: Floats | None = None) -> Floats:
    """Degrees of freedom of P + S, (C + 1,); without variance those of the patients. `factors` (J,) are c."""
    counted = (_factors(parts.freedom) if factors is None else factors[:, None]) * parts.parts
    terms = patient**2 / freedom + (counted**2 / parts.freedom).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(terms > 0, (patient + counted.sum(axis=0)) ** 2 / terms, freedom)


def _column(freedom: Sequence[float]) -> Floats:
    return np.array(freedom, dtype=np.float64)[:, None]


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


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson's correlation over paired seeds, (C + 1,); NaN for one seed or equal values."""
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0)))
