"""Does the disease probe work equally well in all subgroups? AUROC, calibration, errors at a threshold, and their gaps.

auroc                of a label among the subgroup's images; suppressed under 10 patients with or without the finding
calibration          mean score - observed rate in the subgroup (calibration in the large): above 0 the probe overstates
false_negative_rate, false_positive_rate, positive_predictive_value
                     of images above and below a threshold, which was chosen on validation images for a specificity of
                     0.9: the `common` one on all, the `own` one on those of the subgroup
gap                  of one of these, the largest subgroup minus the smallest. A gap is a maximum, so it is positive
                     even for a fair probe: `p` is that of a studentised permutation of patients
                     (`statistics.permutation`), `expected` and `expected_high` the mean and the 95th percentile of gaps
                     of equal subgroups with these standard errors. The interval is the resamples' upper percentile,
                     mirrored at the value (noise makes gaps larger, and resampling does so once more); it begins at 0
                     where `p` shows no gap (coverage: docs/statistics.md). A gap of subgroups that are all 0 or all 1
                     has an exact one (`clopper_pearson`)
macro                the mean over the labels that all subgroups with a value have; labels share the resamples
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import Resampling, first_resamples
from chartray.audit.attributes import Attribute, subgroup_codes
from chartray.audit.subgroup_metrics import (
    AUROC,
    FALSE_ALARMS,
    METRICS,
    MISSES,
    OWN,
    PRECISION,
    SPECIFICITY,
    Metric,
    SubgroupValues,
    label_values,
    patients_in,
)
from chartray.evaluation.rows import NO_THRESHOLD
from chartray.evaluation.scoring import EvaluationSet
from chartray.results.audit_rows import SUPPRESSED, SubgroupRow
from chartray.results.schema import MACRO
from chartray.statistics import metrics
from chartray.statistics.clopper_pearson import BOOTSTRAP, EXACT, clopper_pearson_width
from chartray.statistics.intervals import (
    Bounds,
    LabelPatients,
    interval,
    of_labels,
    share_interval,
    spread,
    standard_error,
    t_interval,
)
from chartray.statistics.permutation import mean_influence, permuted_groups

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_FEWER = f"fewer than {metrics.MINIMUM_PATIENTS} patients"
FEW_OF = {
    AUROC: f"{_FEWER} with or without the finding: suppressed",
    MISSES: f"{_FEWER} with the finding: suppressed",
    FALSE_ALARMS: f"{_FEWER} without the finding: suppressed",
    PRECISION: f"{_FEWER} above the threshold: suppressed",
}
NO_OWN_THRESHOLD = f"{_FEWER} of the subgroup without the finding in validation: it has no threshold of its own"
NO_LABEL = "every label is suppressed in this subgroup"
ONE_GROUP = "fewer than two subgroups with a value"
HOLDS_FIXED = "the encoder, the probe and its threshold are held fixed; the scored patients vary"


class Diagnosis(NamedTuple):
    """Disease on one evaluation split: scores (N, C), and the probe's thresholds (C,) chosen on validation."""

    test: EvaluationSet
    scores: Floats
    thresholds: Floats


def subgroup_rows(
    arm: AuditArm, diagnosis: Diagnosis, attribute: Attribute, resampling: Resampling, own: Floats | None = None
) -> list[SubgroupRow]:
    """A row a subgroup, label and metric, and a `gap` row a label and metric; label `macro` is the mean over the labels
    that all subgroups with a value have.

    `own` (C, G) are thresholds of the subgroups (`own_thresholds`); without them there are no rows of these.
    """
    test = diagnosis.test
    if not test.labels:  # a store that shares no label with the probe
        return []
    codes, names = subgroup_codes(attribute, test.image_set), attribute.subgroups
    wanted = [metric for metric in METRICS if own is not None or metric.threshold != OWN]
    limits = np.full((len(test.labels), len(names)), np.nan) if own is None else own
    base = SubgroupRow(
        arm=arm.arm,
        run=arm.run,
        run_seed=arm.run_seed,
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
    sampled = first_resamples(test.image_set.patients, resampling)
    rows: list[SubgroupRow] = []
    gathered: dict[Metric, list[SubgroupValues]] = {metric: [] for metric in wanted}
    bounds: dict[Metric, list[list[Bounds | None]]] = {metric: [] for metric in wanted}
    for index, label in enumerate(test.labels):
        truth = test.image_set.truth[:, index]
        cut = float(diagnosis.thresholds[index])
        found = label_values(truth, diagnosis.scores[:, index], cut, limits[index], codes, sampled)
        known = patients_in(~np.isnan(truth), codes, sampled.codes, len(names))
        counts = _counts(truth, codes, known)
        classes = np.stack([patients_in(truth == one, codes, sampled.codes, len(names)) for one in (1, 0)], axis=1)
        for metric in wanted:
            mask = found[metric].patients >= metrics.MINIMUM_PATIENTS
            values = _masked(found[metric], mask)
            gathered[metric].append(values)
            bounds[metric].append(_bounds(metric, values, classes, [each["n"] for each in counts], resampling.level))
            of_metric = base.replaced(label=label, metric=metric.name, threshold=metric.threshold)
            cuts = limits[index] if metric.threshold == OWN else np.full(len(names), cut)
            for group, row in enumerate(_value_rows(of_metric, names, values.value, bounds[metric][-1])):
                reason = None if mask[group] else _reason(metric, int(known[group]), float(cuts[group]))
                limit = None if metric.threshold is None else float(cuts[group])
                rows.append(row.replaced(**counts[group], reason=reason, cut=limit))
            rows.append(_gap_row(of_metric, names, codes, test.image_set.patients, values, values.patients[None]))
    sizes = patients_in(codes >= 0, codes, sampled.codes, len(names))
    for metric in wanted:
        # Labels that every subgroup with a value has: else subgroups would differ by the labels that are averaged.
        each = np.stack([values.value for values in gathered[metric]])
        some: NDArray[np.bool_] = np.asarray(~np.isnan(each).all(axis=0))
        whole = np.flatnonzero(~np.isnan(each[:, some]).any(axis=1)) if some.any() else np.zeros(0, dtype=np.int64)
        if not len(whole):
            continue
        members = [gathered[metric][index] for index in whole]
        mean, held = _mean(members), np.stack([one.patients for one in members])
        counted = tuple(test.labels[index] for index in whole)
        of_metric = base.replaced(metric=metric.name, threshold=metric.threshold, labels=counted)
        by_group = zip(*(bounds[metric][index] for index in whole), strict=True)
        ends = [
            of_labels([one for one in its if one], value[None], drawn[None], resampling.level) if any(its) else None
            for value, drawn, its in zip(mean.value, mean.resampled.T, by_group, strict=True)
        ]
        for group, row in enumerate(_value_rows(of_metric, names, mean.value, ends)):
            few = sizes[group] < metrics.MINIMUM_PATIENTS
            reason = None if some[group] else SUPPRESSED if few else NO_LABEL
            rows.append(row.replaced(n=int((codes == group).sum()), n_patients=int(sizes[group]), reason=reason))
        rows.append(_gap_row(of_metric, names, codes, test.image_set.patients, mean, held))
    return rows


def _masked(values: SubgroupValues, mask: NDArray[np.bool_]) -> SubgroupValues:
    value = np.where(mask, values.value, np.nan)
    return values._replace(
        value=value,
        resampled=np.where(mask, values.resampled, np.nan),
        influence=values.influence._replace(value=value),
    )


def _mean(members: Sequence[SubgroupValues]) -> SubgroupValues:
    return SubgroupValues(
        np.mean([one.value for one in members], axis=0),
        np.mean([one.resampled for one in members], axis=0),
        mean_influence([one.influence for one in members]),
        np.min([one.patients for one in members], axis=0),
    )


def _reason(metric: Metric, patients: int, threshold: float) -> str:
    if patients < metrics.MINIMUM_PATIENTS:
        return SUPPRESSED
    if metric.threshold is not None and np.isnan(threshold):
        return NO_OWN_THRESHOLD if metric.threshold == OWN else NO_THRESHOLD
    return FEW_OF[metric.name]


def _counts(truth: Floats, codes: Integers, patients: Integers) -> list[dict[str, int]]:
    """Images of known truth of each subgroup, the positive ones, and patients."""
    known = ~np.isnan(truth)
    return [
        {
            "n": int((known & (codes == group)).sum()),
            "n_positive": int(((truth == 1) & (codes == group)).sum()),
            "n_patients": int(count),
        }
        for group, count in enumerate(patients)
    ]


def _bounds(
    metric: Metric, values: SubgroupValues, classes: Integers, images: Sequence[int], level: float
) -> list[Bounds | None]:
    """The interval of each subgroup; `classes` (G, 2) are patients with and without the finding."""
    found: list[Bounds | None] = []
    for group, value in enumerate(values.value):
        if np.isnan(value):
            found.append(None)
            continue
        drawn, patients = values.resampled[None, :, group], int(values.patients[group])
        if metric.name == AUROC:
            positive, negative = classes[group].tolist()
            found.append(interval(AUROC, value[None], drawn, LabelPatients(positive, negative, 0, 0), level))
            continue
        about = spread(value[None], drawn, patients)
        made = (
            t_interval(float(value), about, level)
            if metric.threshold is None
            else share_interval(float(value), about, patients, images[group], level)
        )
        found.append(made._replace(centre=float(value), error=standard_error(value[None], drawn)))
    return found


def _value_rows(
    row: SubgroupRow, names: Sequence[str], values: Floats, bounds: Sequence[Bounds | None]
) -> list[SubgroupRow]:
    """One row a subgroup."""
    rows = []
    for name, value, ends in zip(names, values.tolist(), bounds, strict=True):
        found = row.replaced(group=name, value=value)
        if ends is not None:
            found = found.replaced(ci_low=ends.low, ci_high=ends.high, interval=ends.method)
        rows.append(found)
    return rows


def _gap_row(
    row: SubgroupRow,
    names: Sequence[str],
    codes: Integers,
    patients: NDArray[np.str_],
    values: SubgroupValues,
    held: Integers,
) -> SubgroupRow:
    """The largest subgroup minus the smallest, in the metric of `row`; `held` (L, G) are the patients that a
    share is over, of each label of a mean.
    """
    level, usable = row.level_of_interval, np.flatnonzero(~np.isnan(values.value))
    row = row.replaced(metric="gap", of=row.metric)
    if len(usable) < 2:
        return row.replaced(reason=ONE_GROUP)
    shown = values.value[usable]
    size = float(np.ptp(shown))
    high = float(np.nanquantile(np.ptp(values.resampled[:, usable], axis=1), _tails(level)[1]))
    low, high = max(0.0, 2 * size - high), max(high, size)
    tested = permuted_groups(values.influence, codes, patients, seed=row.seed)
    if tested.p >= 1 - level:
        low = 0.0  # with several subgroups the mirrored end leaves 0 out too often
    row = row.replaced(
        value=size,
        largest=names[usable[shown.argmax()]],
        smallest=names[usable[shown.argmin()]],
        expected=float(tested.by_chance.mean()),
        expected_high=float(np.quantile(tested.by_chance, 0.95)),
        p=tested.p,
    )
    if row.threshold is not None:
        alike = size == 0 and shown[0] in (0.0, 1.0)
        row = row.replaced(interval=EXACT if alike else BOOTSTRAP)
        if alike:  # no subgroup is further from their common value than its own interval, all of these together
            together = 1 - (1 - level) / len(usable)
            high = max(clopper_pearson_width(held[:, group].tolist(), together) for group in usable)
    return row.replaced(ci_low=low, ci_high=high)


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2
