"""Calibration of probabilities: Brier score, expected calibration error, reliability curve."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.metrics import checked, patients_per_class
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS = 10


class Reliability(NamedTuple):
    """Per label and bin, each (C, BINS): number of images, their mean score, the share that is positive.

    The bins go from low scores to high and hold equally many images. Images of one score share a bin, so ties leave
    some bins fuller and some empty (n 0, the others NaN).
    """

    n: Integers
    score: Floats
    observed: Floats


class Calibrated(NamedTuple):
    """Resamples of the Brier score and the expected calibration error (R, C), and their macro means (R,).

    `by_chance` is the error that resamples show where it is 0: of the deviations of each bin from what all images
    show. `observed` (R, C, BINS): resamples of the share of positives in each bin, NaN in draws without an image of it;
    `patients` (C, BINS) have an image in it.
    """

    brier: Floats
    ece: Floats
    by_chance: Floats
    macro_brier: Floats
    macro_ece: Floats
    macro_by_chance: Floats
    observed: Floats
    patients: Integers


def are_probabilities(truth: ArrayLike, score: ArrayLike) -> NDArray[np.bool_]:
    """(C,): whether all scores of images with known truth are in [0, 1]."""
    values, scores = checked(truth, score)
    inside = (scores >= 0) & (scores <= 1)
    return np.asarray((inside | np.isnan(values)).all(axis=0))


def brier(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Mean of (score - truth)^2 over the images with known truth (G. Brier, Monthly Weather Review 78, 1950).

    truth (N, C) of 1, 0 and NaN, which is ignored; score (N, C) in [0, 1], else InputError. (C,), NaN without images.
    """
    values, scores = _probabilities(truth, score)
    return _mean((scores - values) ** 2, values)


def ece(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Expected calibration error over the bins of `reliability`: sum over bins of n_b / n |observed_b - score_b|.

    Arguments and result as `brier`. Noise alone makes it positive: see `ece_by_chance`.
    """
    values, scores = _probabilities(truth, score)
    members = _bins(values, scores)
    gaps = _per_bin(members, scores - values).sum(axis=0)  # (C, BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.abs(gaps).sum(axis=1) / (~np.isnan(values)).sum(axis=0)
    return found


def ece_by_chance(truth: ArrayLike, score: ArrayLike) -> Floats:
    """Expected calibration error (C,) of perfect probabilities: each image is positive with probability score.

    Images are taken as independent: sum over bins of sqrt(2 / pi x sum of score (1 - score)) / n. Arguments as
    `brier`. An error near this value is no sign of poor calibration.
    """
    values, scores = _probabilities(truth, score)
    variance = _per_bin(_bins(values, scores), scores * (1 - scores)).sum(axis=0)  # (C, BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.sqrt(2 / np.pi * variance).sum(axis=1) / (~np.isnan(values)).sum(axis=0)
    return found


def reliability(truth: ArrayLike, score: ArrayLike) -> Reliability:
    """The reliability curve of each label; arguments as `brier`."""
    values, scores = _probabilities(truth, score)
    members = _bins(values, scores)
    n, score_sum, positive = (_per_bin(members, each).sum(axis=0) for each in (np.ones_like(values), scores, values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Reliability(n.astype(np.int64), score_sum / n, positive / n)


def resample_calibration(truth: ArrayLike, score: ArrayLike, sampled: PatientBootstrap) -> Calibrated:
    """All of them in every resample; the bounds of the bins stay those of all images."""
    values, scores = _probabilities(truth, score)
    labels = values.shape[1]
    known = (~np.isnan(values)).astype(np.float64)
    squares = np.where(known == 1, (scores - values) ** 2, 0)
    members = _bins(values, scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = sampled.totals(np.hstack([known, squares]))
        n = sums[:, :labels]
        briers = sums[:, labels:] / n
        sums_in_bins = [_per_patient_and_bin(members, each, sampled) for each in (known, values, scores)]
        images, positive, scored = (sampled.totals_of(each) for each in sums_in_bins)
        gaps = (scored - positive).reshape(-1, labels, BINS) / n[:, :, None]
        errors = np.abs(gaps).sum(axis=2)
        whole = _per_bin(members, scores - values).sum(axis=0) / known.sum(axis=0)[:, None]  # (C, BINS)
        chance = np.abs(gaps - whole).sum(axis=2) * _widened(values, sampled.codes)
        # Of nearly sure probabilities, few images have an error to resample: what their own variance says counts too.
        seen = np.nansum(chance, axis=0) / (~np.isnan(chance)).sum(axis=0)
        chance *= np.fmax(ece_by_chance(values, scores) / seen, 1)
        observed = positive / images  # (D, C BINS)
    columns = observed.reshape(-1, labels, BINS)
    return Calibrated(
        brier=sampled.of_labels(briers),
        ece=sampled.of_labels(errors),
        by_chance=sampled.of_labels(chance),
        macro_brier=sampled.of_macro(briers),
        macro_ece=sampled.of_macro(errors),
        macro_by_chance=sampled.of_macro(chance),
        observed=np.stack([sampled.of_labels(columns[:, :, each]) for each in range(BINS)], axis=-1),
        patients=(sums_in_bins[0] > 0).sum(axis=0).reshape(labels, BINS),
    )


def _widened(values: Floats, codes: Integers) -> Floats:
    """(C,): resamples of m patients vary by sqrt((m - 1) / m) too little, m of the rarer class."""
    fewest = np.maximum(np.minimum(*patients_per_class(values, codes)), 2)
    return np.asarray(np.sqrt(fewest / (fewest - 1)))


def _probabilities(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    values, scores = checked(truth, score)
    outside = ~np.isnan(values) & ((scores < 0) | (scores > 1))
    if outside.any():
        row, label = np.argwhere(outside)[0]
        raise InputError(
            f"expected probabilities in [0, 1], found {scores[row, label]:g} in row {row}, label {label}; "
            "only probabilities have a calibration"
        )
    return values, scores


def _mean(each: Floats, values: Floats) -> Floats:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(known, each, 0).sum(axis=0) / known.sum(axis=0)
    return found


def _bins(values: Floats, scores: Floats) -> Integers:
    """(N, C): the bin of each image, -1 where truth is unknown."""
    found = np.full(values.shape, -1, dtype=np.int64)
    for label in range(values.shape[1]):
        known = ~np.isnan(values[:, label])
        column = np.sort(scores[known, label])
        if len(column):
            firsts = column[len(column) * np.arange(1, BINS) // BINS]  # the lowest score of each bin but the first
            found[known, label] = np.searchsorted(firsts, scores[known, label], side="right")
    return found


def _per_bin(members: Integers, each: Floats) -> Floats:
    """(N, C, BINS): the value of each image in its own bin, 0 in the others."""
    return np.where(members[:, :, None] == np.arange(BINS), np.nan_to_num(each)[:, :, None], 0.0)


def _per_patient_and_bin(members: Integers, each: Floats, sampled: PatientBootstrap) -> Floats:
    """(patients, C BINS): sums over images of values (N, C) in each bin of each label."""
    patients = sampled.counts.shape[1]
    found = np.empty((patients, members.shape[1], BINS))
    for label, (bins, values) in enumerate(zip(members.T, each.T, strict=True)):
        known = bins >= 0
        cells = sampled.codes[known] * BINS + bins[known]
        found[:, label] = np.bincount(cells, values[known], minlength=patients * BINS).reshape(patients, BINS)
    return found.reshape(patients, -1)
