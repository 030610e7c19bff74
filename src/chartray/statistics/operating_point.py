"""A threshold chosen on some films, and what it does on others: sensitivity and specificity."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.metrics import checked
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]

# 0.9 x 30 negatives is 27 of them, whatever the last bit of the product says.
_ROUNDING = 1e-9


class OperatingPoint(NamedTuple):
    """Shares of the positive films called positive and of the negative ones called negative, each (C,) or (R, C)."""

    sensitivity: Floats
    specificity: Floats


def threshold_at_specificity(truth: ArrayLike, score: ArrayLike, specificity: float = 0.9) -> Floats:
    """The smallest threshold at which at least `specificity` of the negative films are called negative.

    A film is called positive where its score is *above* the threshold, so this is the k-th smallest score of the n
    negative films, k = ceil(specificity x n): no smaller number will do. Choose it on validation films.

    Args:
        truth: (N, C) of 1, 0 and NaN, which is ignored.
        score: (N, C), larger means more likely.
        specificity: in (0, 1].

    Returns:
        (C,); NaN where a label has no negative film.

    Raises:
        InputError: as `metrics.auroc`, or a specificity out of range.
    """
    values, scores = checked(truth, score)
    if not 0 < specificity <= 1:
        raise InputError(f"expected a specificity in (0, 1], found {specificity}")
    found = np.full(values.shape[1], np.nan)
    for label in range(len(found)):
        negative = np.sort(scores[values[:, label] == 0, label])
        if len(negative):
            found[label] = negative[max(1, math.ceil(specificity * len(negative) - _ROUNDING)) - 1]
    return found


def at_threshold(truth: ArrayLike, score: ArrayLike, thresholds: ArrayLike) -> OperatingPoint:
    """Sensitivity and specificity (C,) of calling films positive whose score is above `thresholds` (C,).

    truth and score as in `threshold_at_specificity`; NaN where the threshold is NaN or the class has no film.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    found = _shares(_called(*checked(truth, score), limits).sum(axis=0)[None], limits)
    return OperatingPoint(found.sensitivity[0], found.specificity[0])


def resample_at_threshold(
    truth: ArrayLike, score: ArrayLike, thresholds: ArrayLike, sampled: PatientBootstrap
) -> tuple[OperatingPoint, OperatingPoint]:
    """Both shares in every resample (R, C), and their macro means (R,); the thresholds are held fixed."""
    limits = np.asarray(thresholds, dtype=np.float64)
    found = _shares(sampled.totals(_called(*checked(truth, score), limits)), limits)
    return (
        OperatingPoint(*(sampled.of_labels(each) for each in found)),
        OperatingPoint(*(sampled.of_macro(each) for each in found)),
    )


def _called(values: Floats, scores: Floats, limits: Floats) -> Floats:
    """(N, 4C): of each film and label whether it is positive, that and called so, negative, that and called so."""
    positive, negative, above = values == 1, values == 0, scores > limits
    return np.hstack([positive, positive & above, negative, negative & ~above]).astype(np.float64)


def _shares(totals: Floats, limits: Floats) -> OperatingPoint:
    """(D, 4C) of what `_called` counts -> both shares (D, C)."""
    positive, hits, negative, passes = np.split(totals, 4, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (hits / positive, passes / negative)
    return OperatingPoint(*(np.where(np.isnan(limits), np.nan, each) for each in shares))
