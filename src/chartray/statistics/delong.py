"""DeLong's variance of the AUROC and test of two AUROCs: a check of the bootstrap without resampling."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.metrics import checked
from chartray.statistics.patient_bootstrap import patient_codes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class DeLong(NamedTuple):
    """AUROC, its variance and its normal interval within [0, 1], each (C,).

    NaN where a class has fewer than two images; of clustered images, fewer than two patients.
    """

    auroc: Floats
    variance: Floats
    low: Floats
    high: Floats


class DeLongDifference(NamedTuple):
    """AUROC of a minus that of b, its variance, normal interval and two-sided p, each (C,); NaN as in `DeLong`."""

    difference: Floats
    variance: Floats
    low: Floats
    high: Floats
    p: Floats


def delong(truth: ArrayLike, score: ArrayLike, *, patients: ArrayLike | None = None, level: float = 0.95) -> DeLong:
    """AUROC with DeLong's variance (Biometrics 44, 1988), in O(N log N) by mid-ranks (Sun and Xu, IEEE SPL 21, 2014).

    V_i is the share of images of the other class that image i is ranked correctly against (ties half). With m positive
    and n negative images, var = S(V of positives) / m + S(V of negatives) / n, S the sample variance. Without
    `patients` (N,) images count as independent; with them the variance is that of clustered data (Obuchowski,
    Biometrics 53, 1997). Both are equal if each patient has one image. Other arguments and errors as `metrics.auroc`;
    level in (0, 1).
    """
    values, scores = checked(truth, score)
    codes = _clusters(patients, len(values))
    found = np.array([_of_label(values[:, c], [scores[:, c]], codes) for c in range(values.shape[1])]).reshape(-1, 2)
    low, high = _interval(found[:, 0], found[:, 1], level)
    return DeLong(found[:, 0], found[:, 1], np.maximum(low, 0), np.minimum(high, 1))


def delong_difference(
    truth: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    *,
    patients: ArrayLike | None = None,
    level: float = 0.95,
) -> DeLongDifference:
    """DeLong's paired test of two scores of the same images: z = difference / sqrt(variance of the difference).

    Arguments as `delong`. p is 1 for two scores that rank all images alike.
    """
    values, a = checked(truth, score_a)
    b = checked(truth, score_b)[1]
    codes = _clusters(patients, len(values))
    found = np.array([_of_label(values[:, c], [a[:, c], b[:, c]], codes) for c in range(values.shape[1])])
    difference, variance = found.reshape(-1, 2).T
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(difference == 0, 0.0, np.abs(difference) / np.sqrt(variance))
    p = np.array([2 * NormalDist().cdf(-each) if not np.isnan(each) else np.nan for each in z])
    return DeLongDifference(
        difference, variance, *_interval(difference, variance, level), np.where(np.isnan(variance), np.nan, p)
    )


def _clusters(patients: ArrayLike | None, images: int) -> Integers:
    return np.arange(images, dtype=np.int64) if patients is None else patient_codes(patients, images)


def _of_label(truth: Floats, scores: list[Floats], codes: Integers) -> tuple[float, float]:
    """AUROC of one score, or the difference of two, and its variance.

    u_i = (V_i - AUROC) / (images of its class), subtracted for two scores. p and q are the sums of u over the positive
    and the negative images of a patient; I, J and K count patients with positives, with negatives and with either.
    var = I / (I - 1) sum p^2 + J / (J - 1) sum q^2 + 2 K / (K - 1) sum p q.
    """
    classes = [np.flatnonzero(truth == value) for value in (1, 0)]
    if not all(map(len, classes)):
        return np.nan, np.nan
    values, shares = zip(*(placements(*(score[images] for images in classes)) for score in scores), strict=True)
    value = values[0] - (values[1] if len(values) == 2 else 0)
    sums, counts = np.zeros((2, int(codes.max()) + 1)), []
    for one, images in enumerate(classes):
        share = shares[0][one] - (shares[1][one] if len(shares) == 2 else 0)
        np.add.at(sums[one], codes[images], (share - value) / len(images))
        counts.append(len(np.unique(codes[images])))
    if min(counts) < 2:
        return value, np.nan
    counts.append(len(np.unique(codes[np.concatenate(classes)])))
    positive, negative, both = (count / (count - 1) for count in counts)
    p, q = sums
    return value, max(0.0, float(positive * (p @ p) + negative * (q @ q) + 2 * both * (p @ q)))


def placements(positive: Floats, negative: Floats) -> tuple[float, tuple[Floats, Floats]]:
    """AUROC of two sets of scores, and V (see `delong`) of the positive and of the negative images."""
    from scipy.stats import rankdata  # a second to import: only commands that test pay for it

    together = rankdata(np.concatenate((positive, negative)))
    m, n = len(positive), len(negative)
    of_positive = (together[:m] - rankdata(positive)) / n
    of_negative = 1 - (together[m:] - rankdata(negative)) / m
    return float(of_positive.mean()), (of_positive, of_negative)


def _interval(value: Floats, variance: Floats, level: float) -> tuple[Floats, Floats]:
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}")
    half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(variance)
    return value - half, value + half
