"""Linear probes: one logistic regression per label, its penalty chosen on films of other patients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.logistic import solve, two_classes
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# From hardly any penalty to one under which the probe of a few thousand films is the difference of the class means.
STRENGTHS = tuple(10.0**exponent for exponent in np.arange(0, 6.5, 0.5))
FOLDS = 5
# What a strength was chosen by, in this order of preference.
VALIDATION, CROSS_VALIDATION, OTHER_LABELS = "validation", "cross-validation", "other labels"
ALL_LABELS, NOTHING = "cross-validation of all labels together", "nothing"


class Probe(NamedTuple):
    """One chosen probe per label: weight (C, D) on standardised features, bias (C,), mean and scale (D,).

    `strength` (C,) is the chosen penalty; NaN where the training films hold one class of the label: such a probe has
    no weights and scores every film alike. `validation_auroc` (C,) is what the choice was made on, NaN if on nothing
    of the label's own, and `chosen_by` (C,) says on what.
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
    folds: int = FOLDS,
    device: str = "cpu",
) -> Probe:
    """The probe of each label at the strength with the highest AUROC on other patients' films; the stronger of equals.

    A label with both classes among the validation films chooses on them; where patients are given, only if 10 patients
    of either class are there. Else, where patients are given and the training films hold as many patients of either
    class as there are folds, it chooses by cross-validation by patient inside the training films. A label that can do
    neither takes the strength that is best for the other labels on average; where no label can choose alone, that is
    the mean of all that have two patients of either class, and without any of those the middle of the list.

    Args:
        features: (N, D) of the training films.
        truth: (N, C) of 1, 0 and NaN, which is left out label by label.
        validation_features: (M, D) of the validation films.
        validation_truth: (M, C).
        strengths: candidates, each > 0.
        patients: (N,) of the training films; with `validation_patients`, or neither.
        validation_patients: (M,).
        folds: of the cross-validation.
        device: where torch solves.

    Raises:
        InputError: no films, shapes that do not fit, features or truth out of range.
    """
    if (patients is None) != (validation_patients is None):
        raise InputError("expected the patients of training and validation films or of neither, found those of one")
    x, known = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    checked = np.asarray(validation_truth, dtype=np.float64)
    weight, bias, mean, scale = solve(x, known, strengths, device=device)  # (C, S, D), (C, S)
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
            held_out = patient_folds(known[:, crossed], names, folds)
            found[crossed] = cross_validated(x, known[:, crossed], held_out, strengths, device=device)
        by[crossed & eligible(known, names, folds)] = CROSS_VALIDATION
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


def patient_folds(truth: ArrayLike, patients: ArrayLike, folds: int = FOLDS) -> Integers:
    """(N,) in 0..folds - 1: films of a patient in one fold, each finding dealt evenly, the rarest first.

    truth (N, C) of 1, 0 and NaN; patients (N,).
    """
    values = np.asarray(truth, dtype=np.float64)
    names, codes = np.unique(np.asarray(patients), return_inverse=True)
    has = np.zeros((len(names), values.shape[1] + 1), dtype=bool)
    np.logical_or.at(has[:, :-1], codes, values == 1)
    has[:, -1] = True  # those without a finding are dealt last
    rarest_first = np.append(np.argsort(has[:, :-1].sum(axis=0), kind="stable"), values.shape[1])
    stratum = has[:, rarest_first].argmax(axis=1)
    # Names may stand in an order that means something (of admission, say), so they are dealt in a drawn one.
    order = np.lexsort((np.random.default_rng(0).permutation(len(names)), stratum))
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[order] = np.arange(len(names)) % folds
    return dealt[codes]


def cross_validated(
    features: ArrayLike, truth: ArrayLike, held_out: Integers, strengths: Sequence[float], *, device: str = "cpu"
) -> Floats:
    """AUROC (C, S) of held-out films, each fold's scored by probes of the others; all folds are solved together.

    A film is ranked against the films of its own fold only: scores of two folds come from two probes, whose intercepts
    differ. The folds' AUROCs are weighted by their pairs of a positive and a negative film. NaN where there is no pair.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    folds, labels = np.unique(held_out), y.shape[1]
    # A fold's held-out films are films of unknown truth, so that fold and label are one problem among the others.
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
    """truth (M, C), logits (M, C, S) -> (C, S): `metrics.auroc` of all strengths of a label at once, by mean ranks."""
    found = np.full(logits.shape[1:], np.nan)
    for label in range(truth.shape[1]):
        known = ~np.isnan(truth[:, label])
        positive, each = truth[known, label] == 1, logits[known, label]  # (m,), (m, S)
        pairs = positive.sum() * (~positive).sum()
        if not pairs:
            continue
        order = np.argsort(each, axis=0, kind="stable")
        rising = np.take_along_axis(each, order, axis=0)
        place = np.broadcast_to(np.arange(len(rising))[:, None], rising.shape)
        first, last = np.ones(rising.shape, dtype=bool), np.ones(rising.shape, dtype=bool)
        first[1:] = last[:-1] = rising[1:] != rising[:-1]
        begins = np.maximum.accumulate(np.where(first, place, 0), axis=0)
        ends = np.minimum.accumulate(np.where(last, place, len(rising))[::-1], axis=0)[::-1]
        ranks = ((begins + ends) / 2 + 1) * positive[order]
        count = positive.sum()
        found[label] = (ranks.sum(axis=0) - count * (count + 1) / 2) / pairs
    return found


def _choose(found: Floats, able: NDArray[np.bool_], strengths: Sequence[float]) -> Integers:
    """Which strength each label takes, from its AUROC at each (C, S); those that are not `able` all take one."""
    order = np.argsort(-np.asarray(strengths), kind="stable")  # strongest first, so that it wins among equals
    voting = able if able.any() else ~np.isnan(found[:, 0])
    fallback = order[found[voting].mean(axis=0)[order].argmax()] if voting.any() else order[len(order) // 2]
    best = order[np.where(able[:, None], found, 0.0)[:, order].argmax(axis=1)]
    chosen: Integers = np.where(able, best, fallback)
    return chosen


def _sigmoid(logits: Floats) -> Floats:
    found: Floats = np.exp(-np.logaddexp(0, -logits))
    return found
