"""A threshold chosen on validation images; sensitivity and specificity at it on others."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.metrics import checked
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]

# 0.9 x 30 negatives is 27, whatever the last bit of the product.
_ROUNDING = 1e-9


class OperatingPoint(NamedTuple):
    """Share of positive images called positive, and of negative images called negative, each (C,) or (R, C)."""

    sensitivity: Floats
    specificity: Floats


def threshold_at_specificity(truth: ArrayLike, score: ArrayLike, specificity: float = 0.9) -> Floats:
    """The smallest threshold at which at least `specificity` of the negative images are called negative.

    An image is called positive if its score is *above* the threshold. The threshold is therefore the k-th smallest
    score of the n negative images, k = ceil(specificity x n). Choose it on validation images.

    Args:
        truth: (N, C) of 1, 0 and NaN, which is ignored.
        score: (N, C), larger means more likely.
        specificity: in (0, 1].

    Returns:
        (C,); NaN for labels without a negative image.

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
    """Sensitivity and specificity (C,) if images with a score above `thresholds` (C,) are called positive.

    truth and score as in `threshold_at_specificity`; NaN where the threshold is NaN or the class is empty.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    found = _shares(_called(*checked(truth, score), limits).sum(axis=0)[None], limits)
    return OperatingPoint(found.sensitivity[0], found.specificity[0])


def resample_at_threshold(
    truth: ArrayLike, score: ArrayLike, thresholds: ArrayLike, sampled: PatientBootstrap
) -> tuple[OperatingPoint, OperatingPoint]:
    """Both shares in every resample (R, C), and their macro means (R,), at fixed thresholds."""
    limits = np.asarray(thresholds, dtype=np.float64)
    found = _shares(sampled.totals(_called(*checked(truth, score), limits)), limits)
    return (
        OperatingPoint(*(sampled.of_labels(each) for each in found)),
        OperatingPoint(*(sampled.of_macro(each) for each in found)),
    )


def _called(values: Floats, scores: Floats, limits: Floats) -> Floats:
    """(N, 4C), 1 or 0 for each image and label: positive, true positive, negative, true negative."""
    positive, negative, above = values == 1, values == 0, scores > limits
    return np.hstack([positive, positive & above, negative, negative & ~above]).astype(np.float64)


def _shares(totals: Floats, limits: Floats) -> OperatingPoint:
    """Sums (D, 4C) of `_called` -> both shares (D, C)."""
    positive, hits, negative, passes = np.split(totals, 4, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (hits / positive, passes / negative)
    return OperatingPoint(*(np.where(np.isnan(limits), np.nan, each) for each in shares))
