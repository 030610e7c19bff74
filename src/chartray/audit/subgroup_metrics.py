"""The metrics of one label in every subgroup: values, their resamples by patient, and what each patient contributes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.statistics import metrics
from chartray.statistics.operating_point import threshold_at_specificity
from chartray.statistics.patient_bootstrap import PatientBootstrap
from chartray.statistics.permutation import Influence, auroc_influence, share_influence

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

AUROC, CALIBRATION = "auroc", "calibration"
MISSES, FALSE_ALARMS, PRECISION = "false_negative_rate", "false_positive_rate", "positive_predictive_value"
COMMON, OWN = "common", "own"
SPECIFICITY = 0.9


class Metric(NamedTuple):
    """A metric, and the threshold it is taken at: common to all subgroups, the subgroup's own, or none."""

    name: str
    threshold: str | None = None


METRICS = (
    Metric(AUROC),
    Metric(CALIBRATION),
    *(Metric(name, threshold) for threshold in (COMMON, OWN) for name in (MISSES, FALSE_ALARMS, PRECISION)),
)


class SubgroupValues(NamedTuple):
    """A metric by subgroup (G,), resampled by patient (R, G), and what images contribute to it.

    `patients` (G,) are those that the value is over: of an AUROC the fewer of those with and without the finding.
    """

    value: Floats
    resampled: Floats
    influence: Influence
    patients: Integers


def own_thresholds(truth: Floats, scores: Floats, patients: NDArray[np.str_], codes: Integers, groups: int) -> Floats:
    """(C, G): each subgroup's threshold at `SPECIFICITY`, from validation images; truth and scores (N, C), codes (N,).

    NaN where fewer than `metrics.MINIMUM_PATIENTS` patients of the subgroup are without the finding.
    """
    found = np.full((truth.shape[1], groups), np.nan)
    for group in range(groups):
        inside = np.where((codes == group)[:, None], truth, np.nan)
        enough = metrics.patients_per_class(inside, patients)[1] >= metrics.MINIMUM_PATIENTS
        found[enough, group] = threshold_at_specificity(inside, scores, SPECIFICITY)[enough]
    return found


def patients_in(members: NDArray[np.bool_], codes: Integers, patients: Integers, groups: int) -> Integers:
    """(G,): patients with a member (N,) in each subgroup; patients (N,) as numbers."""
    inside = members & (codes >= 0)
    pairs = np.unique(patients[inside] * groups + codes[inside])
    return np.bincount(pairs % groups, minlength=groups)


def label_values(
    truth: Floats,
    scores: Floats,
    common: float,
    own: Floats,
    codes: Integers,
    sampled: PatientBootstrap,
) -> dict[Metric, SubgroupValues]:
    """Every metric of one label.

    Args:
        truth: (N,) of 1, 0 and NaN.
        scores: (N,) of the probe.
        common: its threshold, NaN for none.
        own: (G,) thresholds of the subgroups, NaN for none.
        codes: (N,) subgroups, -1 for none.
        sampled: draws of the patients.
    """
    groups = len(own)
    positive, negative = truth == 1, truth == 0
    area = _areas(truth, scores, codes, groups, sampled)
    each = [patients_in(members, codes, sampled.codes, groups) for members in (positive, negative)]
    found = {Metric(AUROC): SubgroupValues(*area, np.minimum(*each))}
    known = (positive | negative).astype(np.float64)
    shares = {Metric(CALIBRATION): (np.where(known > 0, scores - positive, 0.0), known)}
    for threshold, limits in ((COMMON, np.full(groups, common)), (OWN, own)):
        limit = np.append(limits, np.nan)[codes]  # -1 takes the last
        called, passed = scores > limit, scores <= limit
        pairs = (
            (positive & passed, positive),
            (negative & called, negative),
            (positive & called, called & (known > 0)),
        )
        for name, (hits, among) in zip((MISSES, FALSE_ALARMS, PRECISION), pairs, strict=True):
            decided = among & ~np.isnan(limit)
            shares[Metric(name, threshold)] = ((hits & decided).astype(np.float64), decided.astype(np.float64))
    drawn = _resampled_shares(shares, codes, groups, sampled)
    for metric, (top, bottom) in shares.items():
        influence = share_influence(top, bottom, codes, groups)
        held = patients_in(bottom > 0, codes, sampled.codes, groups)
        found[metric] = SubgroupValues(influence.value, drawn[metric], influence, held)
    return found


def _areas(
    truth: Floats, scores: Floats, codes: Integers, groups: int, sampled: PatientBootstrap
) -> tuple[Floats, Floats, Influence]:
    """AUROC (G,), its resamples (R, G), and what images contribute.

    All subgroups share the draws, so that a gap or a mean is of one draw; a draw without both classes of a subgroup is
    NaN there, and left out of its interval.
    """
    within = np.where(codes[:, None] == np.arange(groups), truth[:, None], np.nan)  # (N, G)
    usable = (within == 1).any(axis=0) & (within == 0).any(axis=0)
    chosen = np.repeat(sampled.chosen_macro[:, None], groups, axis=1)
    same = sampled._replace(usable=usable, counted=np.zeros_like(usable), chosen=chosen)
    drawn = metrics.resample_in(within, np.repeat(scores[:, None], groups, axis=1), same).auroc
    influence = auroc_influence(truth, scores, codes, groups)
    return influence.value, drawn, influence


def _resampled_shares(
    shares: dict[Metric, tuple[Floats, Floats]], codes: Integers, groups: int, sampled: PatientBootstrap
) -> dict[Metric, Floats]:
    """Resamples (R, G) of each share, top and bottom (N,)."""
    sums = np.stack([column for pair in shares.values() for column in pair], axis=1)  # (N, 2 M)
    weights = np.hstack([sums * (codes == group)[:, None] for group in range(groups)])
    totals = sampled.totals(weights).reshape(-1, groups, len(shares), 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = totals[..., 0] / totals[..., 1]
    return {metric: drawn[:, :, place] for place, metric in enumerate(shares)}
