"""Does the disease probe work equally well in all subgroups? AUROC, calibration, missed findings, and their gaps.

auroc                of a label among the subgroup's images; suppressed under 10 patients with or without the finding
calibration          mean score - observed rate in the subgroup (calibration in the large): above 0 the probe overstates
false_negative_rate  share of the subgroup's positive images below the threshold, which was chosen on all validation
                     images for a specificity of 0.9; where it is 0 or 1 the interval is exact (`clopper_pearson`), and
                     so is that of a gap of subgroups that are all 0 or all 1: `interval` is bootstrap or exact
gap                  of one of these, the largest subgroup minus the smallest. A gap is a maximum, so it is positive
                     even for a fair probe. `expected` is its mean where patients swap subgroups at random,
                     `expected_high` the 95th percentile of that and `p` the share of such gaps as large. The interval
                     is the resamples' upper percentile, mirrored at the value (noise makes gaps larger, and resampling
                     does so once more); it begins at 0 where `p` shows no gap (coverage: benchmarks/LOG.md)
macro                the mean over the labels that all subgroups with a value have; labels share the resamples
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import Resampling, first_resamples
from chartray.audit.attributes import Attribute, subgroup_codes
from chartray.evaluation.rows import NO_THRESHOLD
from chartray.evaluation.scoring import EvaluationSet
from chartray.results.schema import MACRO, SubgroupRow
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
NO_LABEL = "every label is suppressed in this subgroup"
ONE_GROUP = "fewer than two subgroups with a value"
HOLDS_FIXED = "the encoder, the probe and its threshold are held fixed; the scored patients vary"


class Diagnosis(NamedTuple):
    """Disease on one evaluation split: scores (N, C), and the probe's thresholds (C,) chosen on validation."""

    test: EvaluationSet
    scores: Floats
    thresholds: Floats


class _Values(NamedTuple):
    """A metric by subgroup (G,), resampled by patient (R, G), and with subgroups swapped at random (SWAPS, G)."""

    value: Floats
    resampled: Floats
    at_random: Floats


class _Sorted(NamedTuple):
    """One label's images by rising score: `order`, truth, and where each run of equal scores starts and ends."""

    order: Integers
    positive: NDArray[np.bool_]
    starts: Integers
    stops: Integers


def subgroup_rows(
    arm: AuditArm, diagnosis: Diagnosis, attribute: Attribute, resampling: Resampling
) -> list[SubgroupRow]:
    """A row a subgroup, label and metric, and a `gap` row a label and metric; label `macro` is the mean over the labels
    that all subgroups with a value have.
    """
    test = diagnosis.test
    if not test.labels:  # a store that shares no label with the probe
        return []
    codes, patients = subgroup_codes(attribute, test.image_set), test.image_set.patients
    names = attribute.subgroups
    base = SubgroupRow(
        arm=arm.arm,
        run=arm.run,
        dataset=test.dataset,
        attribute=attribute.name,
        split=test.image_set.split,
        resamples=resampling.resamples,
        seed=resampling.seed,
        level_of_interval=resampling.level,
        holds_fixed=HOLDS_FIXED,
        label=MACRO,
        metric=AUROC,
        specificity=SPECIFICITY,
    )
    shown, known, having = _shown(diagnosis, codes, len(names))  # metric -> (C, G); patients known, with it (C, G)
    sampled = first_resamples(patients, resampling)
    swapped = _swapped(codes, patients, resampling.seed)
    rows: list[SubgroupRow] = []
    gathered: dict[str, list[_Values]] = {metric: [] for metric in METRICS}
    for index, label in enumerate(test.labels):
        found = _of_label(diagnosis, index, codes, swapped, len(names), sampled)
        for metric in METRICS:
            mask = shown[metric][index]
            values = _Values(*(np.where(mask, each, np.nan) for each in found[metric]))
            gathered[metric].append(values)
            of_metric = base.replaced(label=label, metric=metric)
            for group, row in enumerate(_value_rows(of_metric, names, values, having[[index]])):
                reason = None if mask[group] else _reason(metric, known[index, group], diagnosis.thresholds[index])
                rows.append(_with_counts(row, test.image_set.truth[:, index], codes == group, patients, reason))
            rows.append(_gap_row(of_metric, names, values, having[[index]]))
    sizes = np.array([len(np.unique(patients[codes == group])) for group in range(len(names))])
    for metric in METRICS:
        # Labels that every subgroup with a value has: else subgroups would differ by the labels that are averaged.
        stacked = [np.stack(each) for each in zip(*gathered[metric], strict=True)]
        some = ~np.isnan(stacked[0]).all(axis=0)
        whole = ~np.isnan(stacked[0][:, some]).any(axis=1) if some.any() else np.zeros(len(stacked[0]), dtype=bool)
        if not whole.any():
            continue
        values = _Values(*(each[whole].mean(axis=0) for each in stacked))
        counted = tuple(label for label, here in zip(test.labels, whole, strict=True) if here)
        of_metric = base.replaced(metric=metric, labels=counted)
        for group, row in enumerate(_value_rows(of_metric, names, values, having[whole])):
            few = sizes[group] < metrics.MINIMUM_PATIENTS
            reason = None if some[group] else SUPPRESSED if few else NO_LABEL
            rows.append(row.replaced(n=int((codes == group).sum()), n_patients=int(sizes[group]), reason=reason))
        rows.append(_gap_row(of_metric, names, values, having[whole]))
    return rows


def _shown(
    diagnosis: Diagnosis, codes: Integers, groups: int
) -> tuple[dict[str, NDArray[np.bool_]], Integers, Integers]:
    """Which cells (C, G) of each metric may be shown; how many patients of each have a known truth, and the finding."""
    truth, patients, least = diagnosis.test.image_set.truth, diagnosis.test.image_set.patients, metrics.MINIMUM_PATIENTS
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
    """(SWAPS, N): subgroups of the images where every patient has those of another patient, drawn at random.

    A patient with more images than the other repeats them, so images of one patient that were together stay together.
    """
    who = patient_codes(patients, len(codes))
    order = np.argsort(who, kind="stable")
    counts = np.bincount(who)
    firsts = np.cumsum(counts) - counts
    place = np.empty(len(codes), dtype=np.int64)
    place[order] = np.arange(len(codes)) - np.repeat(firsts, counts)  # which image of its patient
    generator = np.random.default_rng(seed)
    found = np.empty((SWAPS, len(codes)), dtype=np.int64)
    for swap in range(SWAPS):
        other = generator.permutation(len(counts))[who]
        found[swap] = codes[order[firsts[other] + place % counts[other]]]
    return found


def _of_label(
    diagnosis: Diagnosis, index: int, codes: Integers, swapped: Integers, groups: int, sampled: PatientBootstrap
) -> dict[str, _Values]:
    """Each metric of one label."""
    truth, scores = diagnosis.test.image_set.truth[:, index], diagnosis.scores[:, index]
    inside = codes[:, None] == np.arange(groups)
    within = np.where(inside, truth[:, None], np.nan)  # (N, G)
    repeated = np.repeat(scores[:, None], groups, axis=1)
    areas = metrics.resample_in(within, repeated, _same_draws(sampled, within)).auroc
    sums = _sums(truth, scores, diagnosis.thresholds[index])  # (N, 5)
    weights = np.hstack([sums * inside[:, [group]] for group in range(groups)])  # (N, 5 G)
    drawn = _shares(sampled.totals(weights).reshape(-1, groups, 5))
    value = _shares(weights.sum(axis=0).reshape(1, groups, 5))
    random = _shares(np.stack([(swapped == group).astype(np.float64) @ sums for group in range(groups)], axis=1))
    at_random = np.stack([_areas(_sort(truth, scores), swapped == group) for group in range(groups)], axis=1)
    found = {AUROC: _Values(metrics.auroc(within, repeated), areas, at_random)}
    for metric in (CALIBRATION, MISSES):
        found[metric] = _Values(value[metric][0], drawn[metric], random[metric])
    return found


def _same_draws(sampled: PatientBootstrap, within: Floats) -> PatientBootstrap:
    """The same draws for every subgroup (N, G) of every label, so that a gap or a mean is of one draw.

    A draw without an image (AUROC: a class) of the subgroup is NaN there, and is left out of the subgroup's interval.
    """
    usable = (within == 1).any(axis=0) & (within == 0).any(axis=0)
    chosen = np.repeat(sampled.chosen_macro[:, None], within.shape[1], axis=1)
    return sampled._replace(usable=usable, counted=np.zeros_like(usable), chosen=chosen)


def _sums(truth: Floats, scores: Floats, threshold: float) -> Floats:
    """(N, 5): known, score, positive, positive with a threshold, missed among those."""
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


def _areas(images: _Sorted, members: NDArray[np.bool_]) -> Floats:
    """AUROC (W,) within each of W sets of images (W, N): the share of pairs in order, ties half (Mann and Whitney)."""
    inside = members[:, images.order]
    negative = np.zeros((len(members), len(images.order) + 1))
    np.cumsum(inside & ~images.positive, axis=1, out=negative[:, 1:])
    hits = inside & images.positive
    below = (negative[:, images.starts] + negative[:, images.stops]) / 2
    pairs = hits.sum(axis=1) * negative[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.einsum("wn,wn->w", hits.astype(np.float64), below) / pairs
    return found


def _value_rows(row: SubgroupRow, names: Sequence[str], values: _Values, positive: Integers) -> list[SubgroupRow]:
    """One row a subgroup; `positive` (L, G) are patients with the finding, of each label of a mean."""
    level = row.level_of_interval
    rows = []
    for group, name in enumerate(names):
        value = float(values.value[group])
        found = row.replaced(group=name, value=value)
        if not np.isnan(value):
            low, high = np.nanquantile(values.resampled[:, group], _tails(level))
            found = found.replaced(ci_low=float(low), ci_high=float(high))
            if row.metric == MISSES:
                ends = clopper_pearson_interval(value, positive[:, group].tolist(), level)
                found = found.replaced(interval=BOOTSTRAP if ends is None else EXACT)
                found = found if ends is None else found.replaced(ci_low=ends[0], ci_high=ends[1])
        rows.append(found)
    return rows


def _gap_row(row: SubgroupRow, names: Sequence[str], values: _Values, positive: Integers) -> SubgroupRow:
    """The largest subgroup minus the smallest, in the metric of `row`."""
    level, usable = row.level_of_interval, np.flatnonzero(~np.isnan(values.value))
    metric, row = row.metric, row.replaced(metric="gap", of=row.metric)
    if len(usable) < 2:
        return row.replaced(reason=ONE_GROUP)
    shown = values.value[usable]
    size = float(np.ptp(shown))
    high = float(np.nanquantile(np.ptp(values.resampled[:, usable], axis=1), _tails(level)[1]))
    low, high = max(0.0, 2 * size - high), max(high, size)
    row = row.replaced(value=size, largest=names[usable[shown.argmax()]], smallest=names[usable[shown.argmin()]])
    chance = np.ptp(values.at_random[:, usable], axis=1)
    chance = chance[~np.isnan(chance)]
    if len(chance):
        p = float(((chance >= size).sum() + 1) / (len(chance) + 1))
        if p >= 1 - level:
            low = 0.0  # with several subgroups the mirrored end leaves 0 out too often
        row = row.replaced(expected=float(chance.mean()), expected_high=float(np.quantile(chance, 0.95)), p=p)
    if metric == MISSES:
        alike = size == 0 and shown[0] in (0.0, 1.0)
        row = row.replaced(interval=EXACT if alike else BOOTSTRAP)
        if alike:  # no subgroup is further from their common value than its own interval, all of these together
            together = 1 - (1 - level) / len(usable)
            high = max(clopper_pearson_width(positive[:, group].tolist(), together) for group in usable)
    return row.replaced(ci_low=low, ci_high=high)


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _with_counts(
    row: SubgroupRow, truth: Floats, inside: NDArray[np.bool_], patients: NDArray[np.str_], reason: str | None
) -> SubgroupRow:
    known = inside & ~np.isnan(truth)
    return row.replaced(
        n=int(known.sum()),
        n_positive=int((truth[known] == 1).sum()),
        n_patients=len(np.unique(patients[known])),
        reason=reason,
    )
