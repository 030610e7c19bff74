"""The lines of the audit's tables: attributes read, differences of arms, subgroups, gaps, attributes removed."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from chartray.audit.attributes import COIN
from chartray.audit.families import readable
from chartray.audit.sentences import without
from chartray.report.summary import plain, signed, verdict_of
from chartray.results.arm import Arm
from chartray.results.audit_rows import SUPPRESSED, AttributeDifference, AttributeProbe, RemovalRow, SubgroupRow
from chartray.results.schema import MACRO
from chartray.results.verdict import after_correction
from chartray.small_counts import counts, nearly
from chartray.wording import p_said, p_value

METRICS = {"auroc": "AUROC", "r2": "R²", "mae": "mean absolute error"}
SUBGROUP_METRICS = {
    "auroc": "AUROC",
    "calibration": "Calibration: mean score minus observed share",
    "false_negative_rate": "False-negative rate",
    "false_positive_rate": "False-positive rate",
    "positive_predictive_value": "Positive predictive value",
}
_THRESHOLDS = {"common": ", common threshold", "own": ", own threshold"}

Row = TypeVar("Row", AttributeProbe, SubgroupRow)


class ProbeLine(NamedTuple):
    """How well one attribute (or one of its levels) is read from every arm."""

    attribute: str
    level: str
    metric: str
    images: str
    cells: tuple[str, ...]


class DifferenceLine(NamedTuple):
    """How much better an attribute is read from one arm than from another."""

    attribute: str
    pair: str
    metric: str
    value: str
    p_holm: str
    verdict: str


class SubgroupLine(NamedTuple):
    """A subgroup's metric for each arm."""

    attribute: str
    group: str
    label: str
    metric: str
    patients: str
    cells: tuple[str, ...]


class GapLine(NamedTuple):
    """The largest subgroup value minus the smallest, of one attribute, label and metric."""

    attribute: str
    label: str
    metric: str
    cells: tuple[str, ...]


class RemovalLine(NamedTuple):
    """AUROC of a label before and after an attribute's directions were removed."""

    arm: str
    attribute: str
    directions: int
    attribute_before: str
    attribute_after: str
    label: str
    before: str
    after: str
    difference: str
    beyond: str


def _cells(rows: Sequence[Row], arms: Sequence[Arm]) -> tuple[str, ...]:
    """What each arm reached: its value with its interval, the values of several runs, or why there is none."""
    found = []
    for arm in arms:
        mine = [row for row in rows if row.arm == arm]
        values = [row.value for row in mine if row.value is not None]
        if len(values) > 1:
            mean = math.fsum(values) / len(values)
            found.append(f"{mean:.3f} ({' · '.join(f'{value:.3f}' for value in values)})")
        elif values:
            only_one = next(row for row in mine if row.value is not None)
            found.append(plain(only_one.value, only_one.ci_low, only_one.ci_high))
        else:
            found.append(next((row.reason for row in mine if row.reason), "–"))
    return tuple(found)


def probe_lines(probes: Sequence[AttributeProbe], arms: Sequence[Arm]) -> list[ProbeLine]:
    """A line for each attribute, level and metric."""
    found = []
    whole = max((row.n for row in probes), default=0)
    for attribute, level, metric in dict.fromkeys((row.attribute, row.level, row.metric) for row in probes):
        rows = [row for row in probes if (row.attribute, row.level, row.metric) == (attribute, level, metric)]
        images = "" if all(row.reason == "too few patients" for row in rows) else nearly(rows[0].n, whole)
        said = [row.replaced(reason=f"not available ({row.reason})") if row.reason else row for row in rows]
        cells = tuple(
            cell + _beside(next((row for row in rows if row.arm == arm), None))
            for arm, cell in zip(arms, _cells(said, arms), strict=True)
        )
        found.append(ProbeLine(attribute, level or "", METRICS.get(metric, metric), images, cells))
    return found


def _beside(row: AttributeProbe | None) -> str:
    """What stands beside a reading: variables taken out of the chart, and what could have been seen if nothing was."""
    if row is None:
        return ""
    said = f";{without(row.without)}" if row.without else ""
    if row.p_holm is not None and row.detectable is not None and row.attribute != COIN and not readable(row):
        said += f"; not shown to be readable, {row.detectable:.3f} would be in 80 % of audits"
    return said


# A subgroup's metric: attribute, subgroup, label, metric, threshold; and how many patients are told of each.
SubgroupKey = tuple[str, str | None, str, str, str | None]
SubgroupSizes = Mapping[SubgroupKey, str]


def subgroup(row: SubgroupRow) -> SubgroupKey:
    """What a row is about, whatever the arm."""
    return row.attribute, row.group, row.label, row.metric, row.threshold


def subgroup_sizes(groups: Sequence[SubgroupRow]) -> SubgroupSizes:
    """The patients of each subgroup as they are told, those that are shown and those that are not.

    One that is small could be had from the others, and from all patients, whom another attribute may divide too.
    """
    patients: dict[SubgroupKey, int] = {}
    for row in groups:
        if row.n_patients is not None:
            patients[subgroup(row)] = row.n_patients
    together: dict[tuple[str, ...], list[SubgroupKey]] = {}
    for key in patients:
        together.setdefault((key[0], *map(str, key[2:])), []).append(key)
    whole: dict[tuple[str, ...], int] = {}
    for about, keys in together.items():
        whole[about[1:]] = max(whole.get(about[1:], 0), sum(patients[key] for key in keys))
    told: dict[SubgroupKey, str] = {}
    for about, keys in together.items():
        sizes = [patients[key] for key in keys]
        told |= zip(keys, counts([*sizes, whole[about[1:]] - sum(sizes)]), strict=False)
    return told


def subgroup_lines(groups: Sequence[SubgroupRow], sizes: SubgroupSizes, arms: Sequence[Arm]) -> list[SubgroupLine]:
    """A line for each value of each subgroup."""
    found = []
    for key in dict.fromkeys(map(subgroup, groups)):
        rows = [row for row in groups if subgroup(row) == key]
        attribute, group, label, metric, threshold = key
        patients = sizes.get(key, "")
        patients = "" if any((row.reason or "").startswith(SUPPRESSED) for row in rows) else patients
        found.append(
            SubgroupLine(attribute, group or "", label, at_threshold(metric, threshold), patients, _cells(rows, arms))
        )
    return found


def gap_lines(gaps: Sequence[SubgroupRow], arms: Sequence[Arm]) -> list[GapLine]:
    """Gaps that have a value, the macro means before the labels."""
    found = []
    gaps = sorted((row for row in gaps if row.value is not None), key=lambda row: row.label != MACRO)
    for key in dict.fromkeys((row.attribute, row.label, row.of, row.threshold) for row in gaps):
        rows = [row for row in gaps if (row.attribute, row.label, row.of, row.threshold) == key]
        cells = []
        for arm in arms:
            one = next((row for row in rows if row.arm == arm), None)
            words = "–" if one is None else plain(one.value, one.ci_low, one.ci_high)
            words += f"; {one.largest} over {one.smallest}" if one is not None and one.largest else ""
            chance = None if one is None else one.expected_high
            words += f"; by chance up to {chance:.3f}" if chance is not None else ""
            words += f"; {p_said(one.p_holm)}" if one is not None and one.p_holm is not None else ""
            cells.append(words)
        found.append(GapLine(key[0], key[1], at_threshold(key[2] or "", key[3]), tuple(cells)))
    return found


def at_threshold(metric: str, threshold: str | None) -> str:
    """A metric, and at which threshold."""
    return short_metric(metric) + _THRESHOLDS.get(threshold or "", "")


def short_metric(metric: str) -> str:
    """A metric of subgroups without its explanation."""
    return SUBGROUP_METRICS.get(metric, metric).partition(":")[0]


def difference_line(row: AttributeDifference) -> DifferenceLine:
    """A line for what one arm reveals more than another."""
    a, b, said = row.arm_a.title, row.arm_b.title, verdict_of(row)
    return DifferenceLine(
        row.attribute,
        f"{a} minus {b}{without(row.without)}" + (f" ({row.seeds} seeds)" if row.seeds > 1 else ""),
        METRICS.get(row.metric, row.metric),
        signed(row.difference, row.ci_low, row.ci_high),
        p_value(row.p_holm),
        after_correction(said.named(a, b) if said else "", row.ci_low, row.ci_high, row.corrected_over, "attribute"),
    )


def removal_line(row: RemovalRow) -> RemovalLine:
    """A line for an attribute that was removed."""
    return RemovalLine(
        row.arm.title,
        row.attribute,
        row.directions,
        _read(row.attribute_before, row.neighbours_before),
        _read(row.attribute_after, row.neighbours_after)
        + ("" if row.attribute_random is None else f"; random {row.attribute_random:.3f}"),
        row.label,
        plain(row.before),
        plain(row.after),
        signed(row.difference, row.ci_low, row.ci_high),
        "–" if row.beyond_random is None else signed(row.beyond_random, row.beyond_low, row.beyond_high),
    )


def _read(probe: float | None, neighbours: float | None) -> str:
    return plain(probe) + ("" if neighbours is None else f" ({neighbours:.3f})")
