"""Linear probes: one logistic regression per label, its penalty chosen on other patients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.logistic import solve, two_classes
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# From a penalty that a few thousand images do not feel to one under which their probe is the difference of the class
# means. The weak end matters where features vary along few directions: the view of simulated images was read with an
# AUROC of 0.82 at 1, and 0.90 at 1e-4, below which nothing changed (docs/statistics.md).
STRENGTHS = tuple(10.0**exponent for exponent in (*range(-4, 0), *np.arange(0, 6.5, 0.5)))
FOLDS = 5
# How a strength was chosen, in order of preference.
VALIDATION, CROSS_VALIDATION, OTHER_LABELS = "validation", "cross-validation", "other labels"
ALL_LABELS, NOTHING = "cross-validation of all labels together", "nothing"


class Probe(NamedTuple):
    """One chosen probe per label: weight (C, D) on standardised features, bias (C,), mean and scale (D,).

    `strength` (C,) is the chosen penalty. It is NaN where the training images hold one class of the label: such a
    probe has no weights and gives all images one score. `validation_auroc` (C,) is the AUROC that the choice was made
    by, NaN if it was not made by the label itself; `chosen_by` (C,) names the way.
    """

    weight: Floats
    bias: Floats
    mean: Floats
    scale: Floats
    strength: Floats
    validation_auroc: Floats
    chosen_by: tuple[str, ...] = ()

    def scores(self, features: ArrayLike) -> Floats:
        """Probability of each label, features (N, D) -> (N, C)."""
        return _sigmoid(self.logits(features))

    def logits(self, features: ArrayLike) -> Floats:
        """Log odds of each label, features (N, D) -> (N, C)."""
        standardised = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        found: Floats = standardised @ self.weight.T + self.bias
        return found


def fit_probe(
    features: ArrayLike,
    truth: ArrayLike,
    validation_features: ArrayLike,
    validation_truth: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
    patients: ArrayLike | None = None,
    validation_patients: ArrayLike | None = None,
    device: str = "cpu",
    told: Callable[[str, Sequence[int]], object] = lambda *_: None,
) -> Probe:
    """The probe of each label at the strength with the highest AUROC on other patients; of equals the strongest.

    The first of these ways that applies chooses the strength of a label:

    1. Validation images, if they hold both classes; where patients are given, 10 patients of each class.
    2. Cross-validation by patient in the training images, if patients are given and each class has one per fold.
    3. The highest mean AUROC of the labels that chose by 1 or 2.
    4. If there are none, the highest mean cross-validated AUROC of all labels with two patients of each class.
    5. The middle of the list.

    Args:
        features: (N, D) of the training images.
        truth: (N, C) of 1, 0 and NaN, which is left out for that label.
        validation_features: (M, D) of the validation images.
        validation_truth: (M, C).
        strengths: candidates, each > 0.
        patients: (N,) of the training images; give both this and `validation_patients`, or neither.
        validation_patients: (M,).
        device: that torch solves on.
        told: is told what is done next, and for which labels (columns of `truth`).

    Raises:
        InputError: no images, shapes that do not fit, features or truth out of range.
    """
    if (patients is None) != (validation_patients is None):
        raise InputError("expected the patients of training and validation images or of neither, found those of one")
    x, known = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    checked = np.asarray(validation_truth, dtype=np.float64)
    weight, bias, mean, scale = solve(
        x, known, strengths, device=device, told=partial(told, "fit")
    )  # (C, S, D), (C, S)
    standardised = (np.asarray(validation_features, dtype=np.float64) - mean) / scale
    found = _aurocs(checked, _logits(standardised, weight, bias))  # (C, S)
    by = np.where(np.isnan(found).any(axis=1), OTHER_LABELS, VALIDATION).astype(object)
    fitted = two_classes(known)
    if patients is not None and validation_patients is not None:
        names = np.asarray(patients)
        by[~eligible(checked, validation_patients)] = OTHER_LABELS
        found[by == OTHER_LABELS] = np.nan
        crossed = (by == OTHER_LABELS) & eligible(known, names, 2)
        if crossed.any():
            told("cross-validate", np.flatnonzero(crossed).tolist())
            held_out = patient_folds(known[:, crossed], names)
            found[crossed] = cross_validated(x, known[:, crossed], held_out, strengths, device=device)
        by[crossed & eligible(known, names, FOLDS)] = CROSS_VALIDATION
    able = by != OTHER_LABELS
    if not able.any():
        by[:] = NOTHING if np.isnan(found[:, 0]).all() else ALL_LABELS
    chosen = _choose(found, able, strengths)
    rows = np.arange(len(weight))
    return Probe(
        weight=weight[rows, chosen],
        bias=bias[rows, chosen],
        mean=mean,
        scale=scale,
        strength=np.where(fitted, np.asarray(strengths)[chosen], np.nan),
        validation_auroc=np.where(able, found[rows, chosen], np.nan),
        chosen_by=tuple(by.tolist()),
    )


def patient_folds(truth: ArrayLike, patients: ArrayLike) -> Integers:
    """(N,) in 0..FOLDS - 1: a patient is in one fold; positives of each label are spread evenly, the rarest first.

    truth (N, C) of 1, 0 and NaN; patients (N,).
    """
    values = np.asarray(truth, dtype=np.float64)
    names, codes = np.unique(np.asarray(patients), return_inverse=True)
    has = np.zeros((len(names), values.shape[1] + 1), dtype=bool)
    np.logical_or.at(has[:, :-1], codes, values == 1)
    has[:, -1] = True  # patients without a positive are dealt last
    rarest_first = np.append(np.argsort(has[:, :-1].sum(axis=0), kind="stable"), values.shape[1])
    stratum = has[:, rarest_first].argmax(axis=1)
    # The order of names may mean something (admission, say), so patients are dealt in random order.
    order = np.lexsort((np.random.default_rng(0).permutation(len(names)), stratum))
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[order] = np.arange(len(names)) % FOLDS
    return dealt[codes]


def cross_validated(
    features: ArrayLike, truth: ArrayLike, held_out: Integers, strengths: Sequence[float], *, device: str = "cpu"
) -> Floats:
    """AUROC (C, S) of held-out images, each fold scored by probes of the others; all folds are solved together.

    Images are ranked within their fold only: scores of two folds come from two probes with different intercepts. The
    AUROCs of folds are weighted by their pairs of a positive and a negative image. NaN where there is no pair.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    folds, labels = np.unique(held_out), y.shape[1]
    # Truth of the held-out images is set unknown, so that each fold and label is one more problem.
    learnt = np.concatenate([np.where((held_out == fold)[:, None], np.nan, y) for fold in folds], axis=1)
    weight, bias, mean, scale = solve(x, learnt, strengths, device=device)  # (folds * C, S, D), (folds * C, S)
    standardised = (x - mean) / scale
    won, pairs = np.zeros((labels, len(strengths))), np.zeros((labels, 1))
    for index, fold in enumerate(folds):
        here, these = held_out == fold, slice(index * labels, (index + 1) * labels)
        found = _aurocs(y[here], _logits(standardised[here], weight[these], bias[these]))
        both = (y[here] == 1).sum(axis=0) * (y[here] == 0).sum(axis=0)
        won += np.where(both[:, None] > 0, both[:, None] * np.nan_to_num(found), 0.0)
        pairs += both[:, None]
    with np.errstate(invalid="ignore"):
        return np.asarray(won / pairs)


def _logits(standardised: Floats, weight: Floats, bias: Floats) -> Floats:
    """(M, D), (C, S, D), (C, S) -> (M, C, S)."""
    found: Floats = np.einsum("md,csd->mcs", standardised, weight, optimize=True) + bias
    return found


def _aurocs(truth: Floats, logits: Floats) -> Floats:
    """truth (M, C), logits (M, C, S) -> (C, S): `metrics.auroc` for all strengths of a label at once."""
    from scipy.stats import rankdata  # a second to import: only fitting a probe pays for it

    found = np.full(logits.shape[1:], np.nan)
    for label in range(truth.shape[1]):
        known = ~np.isnan(truth[:, label])
        positive, each = truth[known, label] == 1, logits[known, label]  # (m,), (m, S)
        pairs = positive.sum() * (~positive).sum()
        if not pairs:
            continue
        ranks, count = rankdata(each, axis=0)[positive], positive.sum()
        found[label] = (ranks.sum(axis=0) - count * (count + 1) / 2) / pairs
    return found


def _choose(found: Floats, able: NDArray[np.bool_], strengths: Sequence[float]) -> Integers:
    """Index of the strength of each label, from AUROCs (C, S); labels that are not `able` share one."""
    order = np.argsort(-np.asarray(strengths), kind="stable")  # strongest first, so that it wins ties
    voting = able if able.any() else ~np.isnan(found[:, 0])
    fallback = order[found[voting].mean(axis=0)[order].argmax()] if voting.any() else order[len(order) // 2]
    best = order[np.where(able[:, None], found, 0.0)[:, order].argmax(axis=1)]
    chosen: Integers = np.where(able, best, fallback)
    return chosen


def _sigmoid(logits: Floats) -> Floats:
    found: Floats = np.exp(-np.logaddexp(0, -logits))
    return found
