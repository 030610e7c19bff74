"""AUROC, average precision and their intervals by patient: numpy only, exact with ties.

The scores of a label are sorted once for all resamples. A resample is a vector of counts, how often each patient was
drawn; both metrics are sums over the distinct scores that a positive image has.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.cores import available_cores
from chartray.errors import InputError
from chartray.statistics.patient_bootstrap import PatientBootstrap, patient_codes, resample_patients

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A label with fewer positive or negative patients gets no interval and is not in the macro mean.
MINIMUM_PATIENTS = 10
# One with fewer positive patients is marked: its interval holds, but is wide and leans on single patients.
FEW_POSITIVE_PATIENTS = 20
# Numbers in one gathered block: small enough to stay in a core's cache, large enough to hide numpy's call.
_BLOCK_NUMBERS = 1 << 18


class Intervals(NamedTuple):
    """Percentile intervals, each (C,); NaN where a label has one class."""

    auroc_low: Floats
    auroc_high: Floats
    average_precision_low: Floats
    average_precision_high: Floats


class Resamples(NamedTuple):
    """R resamples of the patients: labels (R, C), NaN where a label has one class; macro (R,), NaN without labels.

    `redrawn` (C,) and `macro_redrawn` count the draws that were skipped because they lack a class. Two sets of scores
    of the same images are paired if resampled with the same seed: entry r of both holds the same patients.
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


class _Steps(NamedTuple):
    """The images of one label by falling score, and the G distinct scores that a positive image has.

    `patients` (n,) of the sorted images, `positives` (m,) of the positive ones. For each of the G scores: how many
    images and positives have a higher score, and how many have at least this one.
    """

    patients: Integers
    positives: Integers
    images_before: Integers
    images_upto: Integers
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
    """(C,): which labels have at least `minimum` patients with a positive image and as many with a negative one."""
    positive, negative = patients_per_class(truth, patients)
    return np.asarray((positive >= minimum) & (negative >= minimum))


def patients_per_class(truth: ArrayLike, patients: ArrayLike) -> tuple[Integers, Integers]:
    """(C,), (C,): how many patients have a positive image of each label, and how many a negative one."""
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
    """Percentile intervals of both metrics; patients are drawn with replacement, each with all its images.

    truth and score (N, C) as in `auroc`, patients (N,) of names or numbers, level in (0, 1). A label skips draws that
    lack one of its classes. `resample` gives the resamples themselves and the macro mean.
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
    """Both metrics in R resamples of the patients (see `bootstrap`), and the macro mean in each.

    All labels share one stream of draws. Each uses the first R draws that hold both its classes; the macro uses the
    first R that hold both classes of all its labels. `macro` (C,) bool: labels of the macro mean, default `eligible`.
    """
    return resample_in(truth, score, sample(truth, patients, resamples=resamples, seed=seed, macro=macro))


def sample(
    truth: ArrayLike, patients: ArrayLike, *, resamples: int = 1000, seed: int = 0, macro: ArrayLike | None = None
) -> PatientBootstrap:
    """The draws of patients that all metrics of images with this truth (N, C) share; arguments as `resample`."""
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
    """Both metrics in the draws of `sample`; scores that share them are paired."""
    values, scores = checked(truth, score)

    def one(label: int) -> Floats:
        if not sampled.usable[label]:
            return np.full((2, len(sampled.counts)), np.nan)
        return _resampled(_steps(values[:, label], scores[:, label], sampled.codes), sampled.counts)

    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        area, precision = np.stack(list(pool.map(one, range(values.shape[1]))), axis=-1)  # (draws, C) each
    return Resamples(
        auroc=sampled.of_labels(area),
        average_precision=sampled.of_labels(precision),
        macro_auroc=sampled.of_macro(area),
        macro_average_precision=sampled.of_macro(precision),
        redrawn=sampled.redrawn,
        macro_redrawn=sampled.macro_redrawn,
    )


def difference(value: ArrayLike, resampled: Floats, level: float = 0.95) -> PairedDifference:
    """The interval and p of a difference from its resamples (R, ...).

    p is twice the smaller share of resamples on either side of zero. One is added to its count and to R, so that p is
    never 0 (Davison and Hinkley 1997, 4.2). It is below 1 - level where the interval excludes zero.
    """
    low, high = percentiles(resampled, level)
    count = len(resampled)
    below, above = (resampled <= 0).sum(axis=0), (resampled >= 0).sum(axis=0)
    p = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (count + 1))
    return PairedDifference(np.asarray(value, dtype=np.float64), low, high, np.where(np.isnan(low), np.nan, p))


def percentiles(resampled: Floats, level: float) -> tuple[Floats, Floats]:
    """The ends of the central `level` of resamples (R, ...); NaN where one is NaN."""
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def _point(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Both metrics (2, C) of the images themselves: the resample that holds each of them once."""
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
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1  # images up to each distinct score
    starts = np.append(0, ends[:-1])
    counted = np.append(0, np.cumsum(positive))
    cut = counted[ends] > counted[starts]
    return _Steps(
        patients=codes[order],
        positives=codes[order][positive],
        images_before=starts[cut],
        images_upto=ends[cut],
        positives_before=counted[starts[cut]],
        positives_upto=counted[ends[cut]],
    )


def _resampled(steps: _Steps, draws: NDArray[np.int32]) -> Floats:
    """Both metrics (2, R) in draws (R, patients); NaN in draws that lack a class."""
    found = np.empty((2, len(draws)))
    height = max(1, _BLOCK_NUMBERS // len(steps.patients))
    for start in range(0, len(draws), height):
        block = draws[start : start + height]
        images = np.zeros((len(block), len(steps.patients) + 1), dtype=block.dtype)
        np.cumsum(np.take(block, steps.patients, axis=1), axis=1, dtype=block.dtype, out=images[:, 1:])
        hits = np.zeros((len(block), len(steps.positives) + 1), dtype=block.dtype)
        np.cumsum(np.take(block, steps.positives, axis=1), axis=1, dtype=block.dtype, out=hits[:, 1:])
        hits_before = np.take(hits, steps.positives_before, axis=1).astype(np.float64)  # (r, G)
        hits_upto = np.take(hits, steps.positives_upto, axis=1).astype(np.float64)
        images_before = np.take(images, steps.images_before, axis=1)
        images_upto = np.take(images, steps.images_upto, axis=1).astype(np.float64)
        gained = hits_upto - hits_before
        positives = hits[:, -1].astype(np.float64)
        negatives = images[:, -1] - positives
        # A positive loses to the negatives with a higher score, and half to those with its own.
        misses = (images_upto - hits_upto) + (images_before - hits_before)
        losses = np.einsum("rg,rg->r", gained, misses) / 2
        precision = hits_upto / np.maximum(images_upto, 1)  # 0 / 1 where nothing was drawn yet
        with np.errstate(invalid="ignore", divide="ignore"):
            area = 1 - losses / (positives * negatives)
            precise = np.einsum("rg,rg->r", gained, precision) / positives
        both = (positives > 0) & (negatives > 0)
        found[0, start : start + height] = np.where(both, area, np.nan)
        found[1, start : start + height] = np.where(both, precise, np.nan)
    return found
