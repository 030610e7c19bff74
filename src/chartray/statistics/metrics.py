"""AUROC, average precision, and their intervals by patient: numpy only, exact with ties.

One sort of a label's scores serves every resample: a resample is a vector of integer counts, how often each
patient was drawn, and both metrics are sums over the distinct scores that hold a positive film.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.patient_bootstrap import PatientBootstrap, patient_codes, resample_patients

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A label with fewer positive or negative patients gets no interval and stays out of the macro mean (issue's rule).
MINIMUM_PATIENTS = 10
# Numbers in one gathered block: small enough to stay in a core's cache, large enough to hide numpy's call.
_BLOCK_NUMBERS = 1 << 18


class Intervals(NamedTuple):
    """Percentile intervals, each (C,); NaN where a label has one class."""

    auroc_low: Floats
    auroc_high: Floats
    average_precision_low: Floats
    average_precision_high: Floats


class Resamples(NamedTuple):
    """R resamples of the patients: per label (R, C), NaN columns for one class; macro (R,), NaN if no label counts.

    `redrawn` (C,) and `macro_redrawn` count the draws passed over because a class was missing in them. Two sets of
    scores of the same films resampled with the same seed are paired: entry r of both saw the same patients.
    """

    auroc: Floats
    average_precision: Floats
    macro_auroc: Floats
    macro_average_precision: Floats
    redrawn: Integers
    macro_redrawn: int

    def intervals(self, level: float = 0.95) -> Intervals:
        """The percentile intervals of each label."""
        return Intervals(*percentiles(self.auroc, level), *percentiles(self.average_precision, level))


class PairedDifference(NamedTuple):
    """a minus b: its value, percentile interval and two-sided bootstrap p; each (C,), or () for the macro."""

    value: Floats
    low: Floats
    high: Floats
    p: Floats


class PairedDifferences(NamedTuple):
    """What `paired_bootstrap` returns."""

    auroc: PairedDifference
    average_precision: PairedDifference
    macro_auroc: PairedDifference
    macro_average_precision: PairedDifference


class _Steps(NamedTuple):
    """One label's films sorted by falling score and cut at each distinct score that holds a positive film.

    `patients` (n,) of the sorted films, `positives` (m,) of the positive ones among them; per cut g of G: how many
    films and positives come before the cut's score, and how many up to and including it.
    """

    patients: Integers
    positives: Integers
    films_before: Integers
    films_upto: Integers
    positives_before: Integers
    positives_upto: Integers


def auroc(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Area under the ROC curve of each label; ties count half (the Mann-Whitney statistic).

    Args:
        truth: (N, C) of 1, 0 and NaN, which is ignored.
        score: (N, C), larger means more likely; NaN is refused where the truth is known.

    Returns:
        (C,) in [0, 1]; NaN where a label has one class.

    Raises:
        InputError: shapes differ, truth holds another value, a needed score is NaN.
    """
    found: Floats = _point(truth, score)[0]
    return found


def average_precision(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Step-wise area under the precision-recall curve, sum over scores of (R_k - R_k-1) P_k, as scikit-learn's.

    Arguments, result and errors as `auroc`.
    """
    found: Floats = _point(truth, score)[1]
    return found


def eligible(truth: ArrayLike, patients: ArrayLike, minimum: int = MINIMUM_PATIENTS) -> NDArray[np.bool_]:
    """(C,): which labels have at least `minimum` patients with a positive and with a negative film."""
    positive, negative = patients_per_class(truth, patients)
    return np.asarray((positive >= minimum) & (negative >= minimum))


def patients_per_class(truth: ArrayLike, patients: ArrayLike) -> tuple[Integers, Integers]:
    """(C,), (C,): how many patients have a positive film of each label, and how many a negative one."""
    values = np.asarray(truth, dtype=np.float64)
    codes = patient_codes(patients, len(values))
    counts = [
        [len(np.unique(codes[values[:, label] == value])) for label in range(values.shape[1])] for value in (1, 0)
    ]
    return np.array(counts[0], dtype=np.int64), np.array(counts[1], dtype=np.int64)


def bootstrap(
    truth: ArrayLike,
    score: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Percentile intervals of both metrics, patients drawn with replacement and all their films with them.

    truth and score (N, C) as in `auroc`, patients (N,) of any hashable kind, level in (0, 1). Draws in which a label
    lacks a class are passed over for that label. `resample` gives the resamples themselves, the macro mean and counts.
    """
    return resample(truth, score, patients, resamples=resamples, seed=seed).intervals(level)


def resample(
    truth: ArrayLike,
    score: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    macro: ArrayLike | None = None,
) -> Resamples:
    """Both metrics in `resamples` draws of the patients (see `bootstrap`), and the macro mean inside each draw.

    There is one stream of draws; a label takes the first `resamples` in which both its classes occur, the macro the
    first in which all its labels have both. `macro` (C,) bool: the labels of the macro mean; default `eligible`.
    """
    return resample_in(truth, score, sample(truth, patients, resamples=resamples, seed=seed, macro=macro))


def sample(
    truth: ArrayLike, patients: ArrayLike, *, resamples: int = 1000, seed: int = 0, macro: ArrayLike | None = None
) -> PatientBootstrap:
    """The draws of patients that every metric of films with this truth (N, C) shares; arguments as `resample`'s."""
    values = np.asarray(truth, dtype=np.float64)
    codes = patient_codes(patients, len(values))
    if resamples < 1:
        raise InputError(f"expected at least 1 resample, found {resamples}")
    usable = np.array([len(np.unique(column[~np.isnan(column)])) == 2 for column in values.T], dtype=bool)
    counted = (eligible(values, codes) if macro is None else np.asarray(macro, dtype=bool)) & usable
    if usable.any():
        return PatientBootstrap(
            codes, usable, counted, *resample_patients(values, codes, usable, counted, resamples, seed)
        )
    once = np.ones((1, int(codes.max()) + 1 if len(codes) else 0), dtype=np.int32)
    nowhere = np.zeros((resamples, len(usable)), dtype=np.int64)
    return PatientBootstrap(codes, usable, counted, once, nowhere, np.zeros(resamples, dtype=np.int64))


def resample_in(truth: ArrayLike, score: ArrayLike, sampled: PatientBootstrap) -> Resamples:
    """Both metrics in draws made before: scores that share `sampled` are paired."""
    values, scores = checked(truth, score)

    def one(label: int) -> Floats:
        if not sampled.usable[label]:
            return np.full((2, len(sampled.draws)), np.nan)
        return _resampled(_steps(values[:, label], scores[:, label], sampled.codes), sampled.draws)

    with ThreadPoolExecutor(max_workers=_cores()) as pool:
        area, precision = np.stack(list(pool.map(one, range(values.shape[1]))), axis=-1)  # (draws, C) each
    return Resamples(
        auroc=sampled.of_labels(area),
        average_precision=sampled.of_labels(precision),
        macro_auroc=sampled.of_macro(area),
        macro_average_precision=sampled.of_macro(precision),
        redrawn=sampled.redrawn,
        macro_redrawn=sampled.macro_redrawn,
    )


def paired_bootstrap(
    truth: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    macro: ArrayLike | None = None,
) -> PairedDifferences:
    """Differences a - b of two scores of the same films, per label and macro, the same patients drawn for both."""
    values = np.asarray(truth, dtype=np.float64)
    counted = eligible(values, patients) if macro is None else np.asarray(macro, dtype=bool)
    a = resample(values, score_a, patients, resamples=resamples, seed=seed, macro=counted)
    b = resample(values, score_b, patients, resamples=resamples, seed=seed, macro=counted)
    point = _point(values, score_a) - _point(values, score_b)  # (2, C)
    macro_point = [column[counted].mean() if counted.any() else np.nan for column in point]
    return PairedDifferences(
        difference(point[0], a.auroc - b.auroc, level),
        difference(point[1], a.average_precision - b.average_precision, level),
        difference(macro_point[0], a.macro_auroc - b.macro_auroc, level),
        difference(macro_point[1], a.macro_average_precision - b.macro_average_precision, level),
    )


def difference(value: ArrayLike, resampled: Floats, level: float = 0.95) -> PairedDifference:
    """The interval and p of a difference from its resamples (R, ...).

    p is twice the smaller share of resamples on either side of zero, one added above and below the line so that it is
    never 0 (Davison and Hinkley 1997, 4.2): it falls under 1 - level when the interval leaves zero out.
    """
    low, high = percentiles(resampled, level)
    count = len(resampled)
    below, above = (resampled <= 0).sum(axis=0), (resampled >= 0).sum(axis=0)
    p = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (count + 1))
    return PairedDifference(np.asarray(value, dtype=np.float64), low, high, np.where(np.isnan(low), np.nan, p))


def percentiles(resampled: Floats, level: float) -> tuple[Floats, Floats]:
    """The central `level` of resamples (R, ...), NaN where they are NaN."""
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def _point(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Both metrics of the films as they are, (2, C): the resample in which each film counts once."""
    values, scores = checked(truth, score)
    once = np.ones((1, 1), dtype=np.int32)
    everyone = np.zeros(len(values), dtype=np.int64)
    found = np.full((2, values.shape[1]), np.nan)
    for label in range(values.shape[1]):
        known = values[:, label][~np.isnan(values[:, label])]
        if 0 < known.sum() < len(known):
            found[:, label] = _resampled(_steps(values[:, label], scores[:, label], everyone), once)[:, 0]
    return found


def checked(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 (N, C); raises InputError where `auroc` says."""
    values, scores = np.asarray(truth, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if values.ndim != 2 or values.shape != scores.shape:
        raise InputError(f"expected truth and score of one shape (N, C), found {values.shape} and {scores.shape}")
    known = ~np.isnan(values)
    if not np.isin(values[known], (0.0, 1.0)).all():
        raise InputError("expected truth of 1, 0 or NaN, found other values; apply the label policy first")
    if np.isnan(scores[known]).any():
        row, label = np.argwhere(known & np.isnan(scores))[0]
        raise InputError(f"expected a score wherever the truth is known, found NaN in row {row}, label {label}")
    return values, scores


def _steps(truth: Floats, score: Floats, codes: Integers) -> _Steps:
    known = np.flatnonzero(~np.isnan(truth))
    order = known[np.argsort(-score[known], kind="stable")]
    positive = truth[order] == 1
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1  # films up to each distinct score
    starts = np.append(0, ends[:-1])
    counted = np.append(0, np.cumsum(positive))
    cut = counted[ends] > counted[starts]
    return _Steps(
        patients=codes[order],
        positives=codes[order][positive],
        films_before=starts[cut],
        films_upto=ends[cut],
        positives_before=counted[starts[cut]],
        positives_upto=counted[ends[cut]],
    )


def _resampled(steps: _Steps, draws: NDArray[np.int32]) -> Floats:
    """Both metrics (2, R) under patient counts (R, patients); NaN in draws where a class is missing."""
    found = np.empty((2, len(draws)))
    height = max(1, _BLOCK_NUMBERS // len(steps.patients))
    for start in range(0, len(draws), height):
        block = draws[start : start + height]
        films = np.zeros((len(block), len(steps.patients) + 1), dtype=block.dtype)
        np.cumsum(np.take(block, steps.patients, axis=1), axis=1, dtype=block.dtype, out=films[:, 1:])
        hits = np.zeros((len(block), len(steps.positives) + 1), dtype=block.dtype)
        np.cumsum(np.take(block, steps.positives, axis=1), axis=1, dtype=block.dtype, out=hits[:, 1:])
        hits_before = np.take(hits, steps.positives_before, axis=1).astype(np.float64)  # (r, G)
        hits_upto = np.take(hits, steps.positives_upto, axis=1).astype(np.float64)
        films_before = np.take(films, steps.films_before, axis=1)
        films_upto = np.take(films, steps.films_upto, axis=1).astype(np.float64)
        gained = hits_upto - hits_before
        positives = hits[:, -1].astype(np.float64)
        negatives = films[:, -1] - positives
        # A positive of this cut beats the negatives after it and ties with those inside it: half of each.
        misses = (films_upto - hits_upto) + (films_before - hits_before)
        losses = np.einsum("rg,rg->r", gained, misses) / 2
        precision = hits_upto / np.maximum(films_upto, 1)  # 0 / 1 where nothing was drawn yet
        with np.errstate(invalid="ignore", divide="ignore"):
            area = 1 - losses / (positives * negatives)
            precise = np.einsum("rg,rg->r", gained, precision) / positives
        both = (positives > 0) & (negatives > 0)
        found[0, start : start + height] = np.where(both, area, np.nan)
        found[1, start : start + height] = np.where(both, precise, np.nan)
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
