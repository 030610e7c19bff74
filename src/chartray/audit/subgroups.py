"""Does the disease probe serve all groups of patients alike? AUROC, calibration and misses of each, and the gaps.

auroc                of the label within the group's films; suppressed under 10 patients with or without the finding
calibration          mean score - observed rate in the group (calibration in the large): above 0 the probe overstates
false_negative_rate  share of the group's positive films not called, at the threshold that was chosen on all validation
                     films for a specificity of 0.9; where it is 0 or 1 the interval is exact (`clopper_pearson`), and
                     so is that of a gap of groups that are all 0 or all 1: `interval` is bootstrap or exact
gap                  of one of these, the largest group minus the smallest. A gap is a maximum and so never negative,
                     however fair the probe; `expected` is therefore its mean where patients swap their groups at
                     random, `expected_high` the 95th percentile of that and `p` the share of such gaps as large.
                     Its interval is the resamples' upper percentile, mirrored at the value (noise makes gaps larger,
                     resampling once more); it begins at 0 where `p` shows no gap (coverage: benchmarks/LOG.md)
macro                the mean over the labels that all groups with a value have; all labels share the draws of patients
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.attribute_probes import Place, every_draw
from chartray.audit.attributes import Attribute, level_codes
from chartray.evaluation.rows import MACRO, NO_THRESHOLD
from chartray.statistics import metrics
from chartray.statistics.clopper_pearson import BOOTSTRAP, EXACT, clopper_pearson_interval, clopper_pearson_width
from chartray.statistics.patient_bootstrap import PatientBootstrap, patient_codes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

AUROC, CALIBRATION, MISSES = METRICS = ("auroc", "calibration", "false_negative_rate")
SPECIFICITY = 0.9
SWAPS = 200
SUPPRESSED = f"fewer than {metrics.MINIMUM_PATIENTS} patients: suppressed"
SUPPRESSED_CLASS = f"fewer than {metrics.MINIMUM_PATIENTS} patients with or without the finding: suppressed"
SUPPRESSED_POSITIVE = f"fewer than {metrics.MINIMUM_PATIENTS} patients with the finding: suppressed"
NO_LABEL = "every label is suppressed in this group"
ONE_GROUP = "fewer than two groups with a value"
HOLDS_FIXED = "the encoder, the probe and its threshold are held fixed; the patients of the scored films vary"


class Diagnosis(NamedTuple):
    """Disease on one place: labels, truth and scores (N, C), the probe's thresholds (C,) chosen on validation."""

    place: Place
    labels: list[str]
    truth: Floats
    scores: Floats
    thresholds: Floats


class _Sorted(NamedTuple):
    """One label's films by rising score: `order`, truth, and where each film's run of equal scores starts and ends."""

    order: Integers
    positive: NDArray[np.bool_]
    starts: Integers
    stops: Integers


def group_rows(
    diagnosis: Diagnosis,
    attribute: Attribute,
    common: dict[str, Any],
    *,
    resamples: int,
    seed: int,
    confidence: float,
) -> list[dict[str, Any]]:
    """A row a group, label and metric, and a `gap` row a label and metric; label `macro` is the mean over the labels
    that all groups with a value have.
    """
    if not diagnosis.labels:  # a store that shares no label with the probe
        return []
    codes = level_codes(attribute, diagnosis.place.films)
    patients = diagnosis.place.films.patients
    names = attribute.groups
    base = {"part": "group", "dataset": diagnosis.place.dataset, "attribute": attribute.name} | common
    base |= {"holds_fixed": HOLDS_FIXED, "specificity": SPECIFICITY}
    sizes = np.array([len(np.unique(patients[codes == group])) for group in range(len(names))])
    shown, known, having = _shown(diagnosis, codes, len(names))  # metric -> (C, G); patients known, with it (C, G)
    every = every_draw(patients, resamples, seed)
    swapped = _swapped(codes, patients, seed)
    rows: list[dict[str, Any]] = []
    gathered: dict[str, list[tuple[Floats, Floats, Floats]]] = {metric: [] for metric in METRICS}
    for index, label in enumerate(diagnosis.labels):
        found = _of_label(diagnosis, index, codes, swapped, len(names), every)
        for metric in METRICS:
            value, drawn, at_random = found[metric]
            mask = shown[metric][index]
            value, drawn = np.where(mask, value, np.nan), np.where(mask, drawn, np.nan)
            gathered[metric].append((value, drawn, np.where(mask, at_random, np.nan)))
            rows += _rows(base, label, metric, names, gathered[metric][-1], confidence, having[[index]])
            for row in rows[-len(names) - 1 : -1]:
                group = names.index(row["group"])
                row |= _counts(diagnosis.truth[:, index], codes == group, patients)
                row["reason"] = (
                    None if mask[group] else _reason(metric, known[index, group], diagnosis.thresholds[index])
                )
    for metric in METRICS:
        # Labels that every group has which has any: else groups would differ by which labels they are a mean of.
        stacked = [np.stack(each) for each in zip(*gathered[metric], strict=True)]
        some = ~np.isnan(stacked[0]).all(axis=0)
        whole = ~np.isnan(stacked[0][:, some]).any(axis=1) if some.any() else np.zeros(len(stacked[0]), dtype=bool)
        if whole.any():
            means = tuple(each[whole].mean(axis=0) for each in stacked)
            rows += _rows(base, MACRO, metric, names, (means[0], means[1], means[2]), confidence, having[whole])
            counted = [label for label, here in zip(diagnosis.labels, whole, strict=True) if here]
            for row in rows[-len(names) - 1 :]:
                row["labels"] = counted
                if row["group"] is not None:
                    group = names.index(row["group"])
                    row |= {"n": int((codes == group).sum()), "n_patients": int(sizes[group])}
                    row["reason"] = (
                        None if some[group] else SUPPRESSED if sizes[group] < metrics.MINIMUM_PATIENTS else NO_LABEL
                    )
    return rows


def _shown(
    diagnosis: Diagnosis, codes: Integers, groups: int
) -> tuple[dict[str, NDArray[np.bool_]], Integers, Integers]:
    """Which cells (C, G) of each metric may be shown; how many patients of each have a known truth, and the finding."""
    truth, patients, least = diagnosis.truth, diagnosis.place.films.patients, metrics.MINIMUM_PATIENTS
    positive, negative, known = (np.zeros((truth.shape[1], groups), dtype=np.int64) for _ in range(3))
    for group in range(groups):
        inside = np.where((codes == group)[:, None], truth, np.nan)
        positive[:, group], negative[:, group] = metrics.patients_per_class(inside, patients)
        known[:, group] = metrics.patients_per_class(np.where(np.isnan(inside), np.nan, 1.0), patients)[0]
    called = ~np.isnan(diagnosis.thresholds)[:, None]
    shown = {
        AUROC: (positive >= least) & (negative >= least),
        CALIBRATION: known >= least,
        MISSES: called & (positive >= least),
    }
    return shown, known, positive


def _reason(metric: str, patients: int, threshold: float) -> str:
    if patients < metrics.MINIMUM_PATIENTS:
        return SUPPRESSED
    if metric == MISSES and np.isnan(threshold):
        return NO_THRESHOLD
    return SUPPRESSED_POSITIVE if metric == MISSES else SUPPRESSED_CLASS


def _swapped(codes: Integers, patients: NDArray[np.str_], seed: int) -> Integers:
    """(SWAPS, N): groups of the films where every patient has the groups of another one's films, drawn at random.

    A patient with more films than the other repeats them: films of one patient stay in one group where they were.
    """
    who = patient_codes(patients, len(codes))
    order = np.argsort(who, kind="stable")
    counts = np.bincount(who)
    firsts = np.cumsum(counts) - counts
    place = np.empty(len(codes), dtype=np.int64)
    place[order] = np.arange(len(codes)) - np.repeat(firsts, counts)  # which film of its patient
    generator = np.random.default_rng(seed)
    found = np.empty((SWAPS, len(codes)), dtype=np.int64)
    for swap in range(SWAPS):
        other = generator.permutation(len(counts))[who]
        found[swap] = codes[order[firsts[other] + place % counts[other]]]
    return found


def _of_label(
    diagnosis: Diagnosis, index: int, codes: Integers, swapped: Integers, groups: int, every: PatientBootstrap
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Each metric of one label: by group (G,), resampled by patient (R, G), and with groups swapped (SWAPS, G)."""
    truth, scores = diagnosis.truth[:, index], diagnosis.scores[:, index]
    inside = codes[:, None] == np.arange(groups)
    within = np.where(inside, truth[:, None], np.nan)  # (N, G)
    repeated = np.repeat(scores[:, None], groups, axis=1)
    areas = metrics.resample_in(within, repeated, _alike(every, within)).auroc
    sums = _sums(truth, scores, diagnosis.thresholds[index])  # (N, 5)
    weights = np.hstack([sums * inside[:, [group]] for group in range(groups)])  # (N, 5 G)
    drawn = _shares(every.totals(weights).reshape(-1, groups, 5))
    value = _shares(weights.sum(axis=0).reshape(1, groups, 5))
    random = _shares(np.stack([(swapped == group).astype(np.float64) @ sums for group in range(groups)], axis=1))
    at_random = np.stack([_areas(_sort(truth, scores), swapped == group) for group in range(groups)], axis=1)
    found = {AUROC: (metrics.auroc(within, repeated), areas, at_random)}
    for metric in (CALIBRATION, MISSES):
        found[metric] = (value[metric][0], drawn[metric], random[metric])
    return found


def _alike(every: PatientBootstrap, within: Floats) -> PatientBootstrap:
    """The same draws for every group (N, G) of every label, so that their gaps and means are of one draw.

    A draw without a film (AUROC: a class) of the group is NaN there, and left out of the intervals it would enter.
    """
    usable = (within == 1).any(axis=0) & (within == 0).any(axis=0)
    chosen = np.repeat(every.chosen_macro[:, None], within.shape[1], axis=1)
    return every._replace(usable=usable, counted=np.zeros_like(usable), chosen=chosen)


def _sums(truth: Floats, scores: Floats, threshold: float) -> Floats:
    """(N, 5): known, score, positive, positive with a threshold, of those not called."""
    known = ~np.isnan(truth)
    positive = known & (truth == 1)
    able = positive & ~np.isnan(threshold)
    missed = able & ~(scores > threshold)
    return np.column_stack([known, np.where(known, scores, 0), positive, able, missed]).astype(np.float64)


def _shares(sums: Floats) -> dict[str, Floats]:
    known, scored, positive, able, missed = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {CALIBRATION: (scored - positive) / known, MISSES: missed / able}


def _sort(truth: Floats, scores: Floats) -> _Sorted:
    known = np.flatnonzero(~np.isnan(truth))
    order = known[np.argsort(scores[known], kind="stable")]
    ranked = scores[order]
    return _Sorted(
        order, truth[order] == 1, np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")
    )


def _areas(films: _Sorted, members: NDArray[np.bool_]) -> Floats:
    """AUROC (W,) within each of W sets of films (W, N): the share of pairs in order, ties half (Mann and Whitney)."""
    inside = members[:, films.order]
    negative = np.zeros((len(members), len(films.order) + 1))
    np.cumsum(inside & ~films.positive, axis=1, out=negative[:, 1:])
    hits = inside & films.positive
    below = (negative[:, films.starts] + negative[:, films.stops]) / 2
    pairs = hits.sum(axis=1) * negative[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.einsum("wn,wn->w", hits.astype(np.float64), below) / pairs
    return found


def _rows(
    base: dict[str, Any],
    label: str,
    metric: str,
    names: Sequence[str],
    found: tuple[Floats, Floats, Floats],
    confidence: float,
    positive: Integers,
) -> list[dict[str, Any]]:
    """One row a group, then the gap's; `positive` (L, G) are patients with the finding, of each label of a mean."""
    value, drawn, at_random = found
    tail = ((1 - confidence) / 2, (1 + confidence) / 2)
    rows = []
    for group, name in enumerate(names):
        able = not np.isnan(value[group])
        low, high = np.nanquantile(drawn[:, group], tail) if able else (np.nan, np.nan)
        rows.append(
            base
            | {"label": label, "group": name, "metric": metric, "value": float(value[group]) if able else np.nan}
            | {"ci_low": float(low), "ci_high": float(high), "n": 0, "n_patients": 0, "reason": None}
        )
        if metric == MISSES and able:
            ends = clopper_pearson_interval(float(value[group]), positive[:, group].tolist(), confidence)
            rows[-1] |= {"interval": BOOTSTRAP if ends is None else EXACT}
            rows[-1] |= {} if ends is None else {"ci_low": ends[0], "ci_high": ends[1]}
    usable = np.flatnonzero(~np.isnan(value))
    gap = base | {"label": label, "group": None, "metric": "gap", "of": metric, "reason": ONE_GROUP}
    gap |= dict.fromkeys(("value", "ci_low", "ci_high", "expected", "expected_high", "p"), np.nan)
    if len(usable) > 1:
        high = float(np.nanquantile(np.ptp(drawn[:, usable], axis=1), tail[1]))
        chance = np.ptp(at_random[:, usable], axis=1)
        chance = chance[~np.isnan(chance)]
        size = float(np.ptp(value[usable]))
        gap |= {"value": size, "ci_low": max(0.0, 2 * size - high), "ci_high": max(high, size), "reason": None}
        gap |= {"largest": names[usable[value[usable].argmax()]], "smallest": names[usable[value[usable].argmin()]]}
        if len(chance):
            gap |= {"expected": float(chance.mean()), "expected_high": float(np.quantile(chance, 0.95))}
            gap["p"] = float(((chance >= size).sum() + 1) / (len(chance) + 1))
            if gap["p"] >= 1 - confidence:
                gap["ci_low"] = 0.0  # of several groups the mirrored end leaves 0 out too often
        if metric == MISSES:
            alike = size == 0 and value[usable[0]] in (0.0, 1.0)
            gap["interval"] = EXACT if alike else BOOTSTRAP
            if alike:  # no group is further from their common value than its own interval, all of these together
                together = 1 - (1 - confidence) / len(usable)
                gap["ci_high"] = max(clopper_pearson_width(positive[:, group].tolist(), together) for group in usable)
    return [*rows, gap]


def _counts(truth: Floats, inside: NDArray[np.bool_], patients: NDArray[np.str_]) -> dict[str, int]:
    known = inside & ~np.isnan(truth)
    return {
        "n": int(known.sum()),
        "n_positive": int((truth[known] == 1).sum()),
        "n_patients": len(np.unique(patients[known])),
    }
