"""The interval of one arm's value on the test patients, by metric; docs/statistics.md has the measured coverage.

All start from the variance over resamples of the patients (`spread`) and Student's t, with the patients of the rarer
class as degrees of freedom, and from how that variance changes with the true value:

    auroc                   score interval: all A with |value - A| <= t sqrt(scale V(A)), V of Hanley and McNeil
                            (Radiology 143, 1982) as Newcombe has it (Statistics in Medicine 25, 2006, method 5),
                            patients as units; scale = variance / V(value), at least 1/2, and 1 at a value of 0 or 1
    average precision       t interval on the logit scale around the value minus its bias over resamples; a variance of
                            at least p (1 - p) / (4 positive patients)
    brier, other means      t interval on the logit scale, with the variance of the resamples' logits if that is larger
    sensitivity and other   Clopper and Pearson's exact interval of the effective number of images,
    shares                  p (1 - p) / variance (Korn and Graubard, Survey Methodology 24, 1998); of a share of 0 or 1,
                            the number of patients
    ece                     percentiles mirrored at the value, from 0 where the value is no sign of miscalibration
    differences of means    t interval
    mean over labels        half the widths of the labels' intervals, added up as correlated errors are (Zou and
                            Donner, Statistics in Medicine 27, 2008), and less of their skew

No interval has width 0 because a sample is perfect: of 12 patients who were all found, the next may still be missed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.statistics.metrics import FEW_POSITIVE_PATIENTS
from chartray.statistics.variance import SeedVariance, interaction_variance, satterthwaite

Floats = NDArray[np.float64]

# What rows say of the method.
SCORE, LOGIT, CORRECTED, STUDENT = "score", "logit", "bias-corrected logit", "t"
EXACT, MIRRORED, OF_LABELS = "exact", "mirrored percentiles", "from the labels' intervals"
# Few positives near the edge give too small a variance by chance; below these no variance is believed.
_SMALLEST_SCALE, _SMALLEST_SHARE = 0.5, 0.25
# The nearest that a value on the logit scale comes to 0 or 1.
_EDGE = 1e-6


class LabelPatients(NamedTuple):
    """How many patients have a positive image of a label and how many a negative one, and how many images these are."""

    positive: int
    negative: int
    positive_images: int
    negative_images: int


class Spread(NamedTuple):
    """Variance of a value, its degrees of freedom, and the bias: the mean of the resamples minus the value.

    `on_logits` is the variance of the logits of the resamples, where it was asked for. It exceeds the one that follows
    from `variance` where the value leans on few images.
    """

    variance: float
    freedom: float
    bias: float
    on_logits: float = 0.0


class Bounds(NamedTuple):
    """Both ends, the method in a word, the value that they lie around, and its standard error.

    `alike`: the error is a bias that other labels share, so that it does not average out over labels.
    """

    low: float
    high: float
    method: str
    centre: float = math.nan
    error: float = math.nan
    alike: bool = False


def interval(
    metric: str, values: Floats, drawn: Floats, patients: LabelPatients, level: float, by_chance: Floats | None = None
) -> Bounds:
    """The interval of one label in one metric.

    Args:
        metric: auroc, average_precision, brier, ece, sensitivity or specificity.
        values: (D,) of each draw of training patients, of which the value is the mean; D = 1 without draws.
        drawn: (D, R) their resamples by patient; NaN is left out.
        patients: of the label.
        level: in (0, 1).
        by_chance: (D, R) for ece, what resamples show of probabilities without calibration error.
    """
    value = float(values.mean())
    positive, negative, *images = patients
    if metric == "ece":
        assert by_chance is not None
        return ece_interval(values, drawn, by_chance, level)
    if metric in ("sensitivity", "specificity"):
        number, of = (positive, images[0]) if metric == "sensitivity" else (negative, images[1])
        found = spread(values, drawn, number)
        made = share_interval(value, found, number, of, level)
    else:
        found = spread(values, drawn, min(positive, negative))
        if metric == "auroc":
            made = auroc_interval(value, found, positive, negative, level)
        else:
            # Precision of a resample can be 1, which has no logit; a Brier score is never 0 in practice.
            edge = _SMALLEST_SHARE / positive if metric == "average_precision" else _EDGE
            logits = spread(_logits(values, edge), _logits(drawn, edge), min(positive, negative))
            found = found._replace(on_logits=logits.variance)
            if metric == "average_precision":
                made = average_precision_interval(value, found, positive, level)
            else:
                made = mean_interval(value, found, min(positive, negative), level)
    centre = value - found.bias if metric == "average_precision" else value
    # Which labels have 10 positive patients is chance, and the same chance raises their precision and Brier score.
    alike = metric in ("average_precision", "brier") and positive < FEW_POSITIVE_PATIENTS
    return made._replace(centre=min(max(centre, made.low), made.high), error=standard_error(values, drawn), alike=alike)


def of_labels(
    labels: Sequence[Bounds], values: Floats, drawn: Floats, level: float, by_chance: Floats | None = None
) -> Bounds:
    """The interval of the mean over labels, from theirs; `values` (D,), `drawn` and `by_chance` (D, R) of the mean.

    Half the labels' widths h_k add up as correlated errors do, to sqrt(sum of r_jk h_j h_k) / C (Zou and Donner). The
    correlation r of two labels is the one that gives the mean its standard error; it is 1 between labels that err
    alike. A mean is less skewed than its labels: the distance of the middle of the intervals from the values is theirs
    times the square of (its half width / theirs), as for a sum of independent errors.
    """
    if len(labels) == 1:
        return labels[0]
    centre, error = float(np.mean([one.centre for one in labels])), standard_error(values, drawn)
    halves = np.array([(one.high - one.low) / 2 for one in labels])
    half = math.sqrt(halves @ _correlations(labels, error) @ halves) / len(labels)
    skew = float(np.mean([(one.high + one.low) / 2 - one.centre for one in labels]))
    narrower = min(half / halves.mean(), 1.0) if halves.any() else 1.0
    middle = centre + skew * narrower**2
    low = 0.0 if by_chance is not None and _is_chance(centre, by_chance, level) else max(middle - half, 0.0)
    return Bounds(low, min(middle + half, 1.0), OF_LABELS, centre, error)


def _correlations(labels: Sequence[Bounds], error: float) -> Floats:
    """(C, C): of how labels err, from the standard error of their mean; all 1 where the labels' own say nothing."""
    own = np.array([one.error for one in labels])
    squares = float((own**2).sum())
    pairs = float(own.sum() ** 2) - squares
    common = min(max(((len(labels) * error) ** 2 - squares) / pairs, 0.0), 1.0) if pairs > 1e-12 * squares else 1.0
    alike = np.array([one.alike for one in labels])
    found = np.where(np.outer(alike, alike), 1.0, common)
    np.fill_diagonal(found, 1.0)
    return found


def standard_error(values: Floats, drawn: Floats) -> float:
    """That of the resamples and draws, as they are: to compare a mean over labels with its labels."""
    return math.sqrt(spread(values, drawn, drawn.shape[1]).variance)


def spread(values: Floats, drawn: Floats, patients: int) -> Spread:
    """How far a mean over draws of training patients varies: with the test patients, and with the draws.

    Args:
        values: (D,) of each draw.
        drawn: (D, R) their resamples by patient; NaN is left out.
        patients: of the rarer class; the variance over resamples is too small by (patients - 1) / patients.
    """
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if drawn.shape[1] < 2:
        return Spread(0.0, 1.0, 0.0)
    mean, others = drawn.mean(axis=0), max(patients - 1, 1)
    factor = patients / others
    bias, variance = float(mean.mean() - values.mean()), float(mean.var(ddof=1) * factor)
    freedom = 1 / (1 / others + 1 / (drawn.shape[1] - 1))
    if len(values) < 2:
        return Spread(variance, freedom, bias)
    # What patients add to one draw and not to another is in the spread of the draws too.
    variance = max(variance - factor * float(interaction_variance(drawn[:, None, :, None])[0]) / len(drawn), 0.0)
    draws = _of_draws(values)
    together = satterthwaite(np.array([variance]), np.array([freedom]), draws)
    return Spread(variance + float(draws.variance[0]), float(together[0]), bias)


def auroc_interval(value: float, found: Spread, positive: int, negative: int, level: float) -> Bounds:
    """The score interval of an AUROC; `positive` and `negative` count patients."""
    from scipy.optimize import brentq  # a second to import: only an interval pays for it

    edge = 0.5 / (positive * negative)
    shape = _auroc_variance(min(max(value, edge), 1 - edge), positive, negative)
    scale = 1.0 if value in (0.0, 1.0) else max(found.variance / shape, _SMALLEST_SCALE)
    wide = _student(found.freedom, level) ** 2 * scale

    def outside(true: float) -> float:
        return (value - true) ** 2 - wide * _auroc_variance(true, positive, negative)

    inside = min(max(value, 1e-9), 1 - 1e-9)  # an AUROC of 0 or 1 has no variance, and is a root itself
    low = 0.0 if value == 0 else brentq(outside, 0.0, inside)
    return Bounds(low, 1.0 if value == 1 else brentq(outside, inside, 1.0), SCORE)


def average_precision_interval(value: float, found: Spread, positive: int, level: float) -> Bounds:
    """The interval of an average precision around value - bias; `positive` counts patients."""
    if value == 1:
        return share_interval(value, found, positive, positive, level)
    centre = min(max(value - found.bias, _EDGE), 1 - _EDGE)
    least = _SMALLEST_SHARE * centre * (1 - centre) / positive
    return _on_logits(centre, found._replace(variance=max(found.variance, least)), level)._replace(method=CORRECTED)


def mean_interval(value: float, found: Spread, patients: int, level: float) -> Bounds:
    """The interval of a mean of numbers in [0, 1], such as the Brier score; `patients` of the rarer class."""
    if value in (0.0, 1.0):
        return share_interval(value, found, patients, patients, level)
    return _on_logits(value, found, level)


def share_interval(value: float, found: Spread, patients: int, images: int, level: float) -> Bounds:
    """The exact interval of a share of some images of some patients.

    >>> [round(end, 4) for end in share_interval(1.0, Spread(0.0, 11.0, 0.0), 12, 30, 0.95)[:2]]
    [0.7354, 1.0]
    """
    from scipy.special import betaincinv

    number = float(patients)
    if 0 < value < 1 and found.variance > 0:
        narrow = _student(max(patients - 1, 1), level) / _student(found.freedom, level)
        number = min(value * (1 - value) / found.variance, images) * narrow**2
    hits, tail = value * number, (1 - level) / 2
    low = 0.0 if value == 0 else float(betaincinv(hits, number - hits + 1, tail))
    return Bounds(low, 1.0 if value == 1 else float(betaincinv(hits + 1, number - hits, 1 - tail)), EXACT)


def t_interval(value: float, found: Spread, level: float) -> Bounds:
    """The interval of a number without bounds, such as a difference of means."""
    half = _student(found.freedom, level) * math.sqrt(found.variance)
    return Bounds(value - half, value + half, STUDENT)


def ece_interval(values: Floats, drawn: Floats, by_chance: Floats, level: float) -> Bounds:
    """The interval of a calibration error; arguments as `interval`.

    Noise adds to a calibration error, and resampling adds it once more: the percentiles lie above the truth, and often
    above the value. The upper one is kept and mirrored at the value.
    """
    value, tail = float(values.mean()), (1 + level) / 2
    above = max(float(np.nanquantile(drawn.mean(axis=0), tail)) - value, 0.0)
    if len(values) > 1:
        draws = _of_draws(values)
        above = math.hypot(above, _student(len(values) - 1, level) * math.sqrt(draws.variance[0]))
    low = 0.0 if _is_chance(value, by_chance, level) else max(value - above, 0.0)
    return Bounds(low, min(value + above, 1.0), MIRRORED, value, alike=True)


def _is_chance(value: float, by_chance: Floats, level: float) -> bool:
    return bool(value <= np.nanquantile(by_chance.mean(axis=0), (1 + level) / 2))


def _of_draws(values: Floats) -> SeedVariance:
    return SeedVariance(np.array([[values.var(ddof=1) / len(values)]]), np.array([[len(values) - 1.0]]))


def _auroc_variance(true: float, positive: int, negative: int) -> float:
    other = (positive + negative) / 2 - 1
    return true * (1 - true) * (1 + other * ((1 - true) / (2 - true) + true / (1 + true))) / (positive * negative)


def _on_logits(centre: float, found: Spread, level: float) -> Bounds:
    variance = max(found.variance / (centre * (1 - centre)) ** 2, found.on_logits)
    half = _student(found.freedom, level) * math.sqrt(variance)
    middle = math.log(centre / (1 - centre))
    low, high = (1 / (1 + math.exp(-min(max(each, -700), 700))) for each in (middle - half, middle + half))
    return Bounds(low, high, LOGIT)


def _logits(values: Floats, edge: float) -> Floats:
    inside = np.clip(values, edge, 1 - edge)
    return np.asarray(np.log(inside / (1 - inside)))


def _student(freedom: float, level: float) -> float:
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}")
    return float(stdtrit(freedom, (1 + level) / 2))
