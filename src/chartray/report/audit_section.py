"""The audit's section: leakage, attributes read from the embedding, subgroups, and attributes removed from it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from chartray.audit.attributes import COIN
from chartray.audit.families import control_failed, readable
from chartray.audit.sentences import control_sentence, without
from chartray.report.figures import DrawnPanel, Panel, Style, drawn, only, save_grid, slug
from chartray.report.inputs import AuditResults
from chartray.report.plots import Mark, forest_panel, together
from chartray.report.summary import plain, signed, verdict_of
from chartray.report.tables import p_value
from chartray.results.arm import Arm, dataset_name
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, Leak, RemovalRow, SubgroupRow
from chartray.results.schema import MACRO
from chartray.results.verdict import after_correction, why_no_claim
from chartray.schema import SPLITS

_METRICS = {"auroc": "AUROC", "r2": "R²", "mae": "mean absolute error"}
_SUBGROUP_METRICS = {
    "auroc": "AUROC",
    "calibration": "Calibration: mean score minus observed share",
    "false_negative_rate": "False-negative rate",
    "false_positive_rate": "False-positive rate",
    "positive_predictive_value": "Positive predictive value",
}
# What is drawn; the rates at each subgroup's own threshold, and those of false alarms, are in the table.
_DRAWN = ("auroc", "calibration", "false_negative_rate")
_THRESHOLDS = {"common": ", common threshold", "own": ", own threshold"}
_KINDS = {
    "patient": "patients",
    "exact film": "exact copies of images",
    "near film": "near copies of images",
    "variable": "chart variables known only after the image",
}

# How the audit begins its reason for a subgroup so small that not even its size is shown.
_FEW = "fewer than 10 patients: suppressed"

Row = TypeVar("Row", AttributeProbe, SubgroupRow)


class ProbeLine(NamedTuple):
    """How well one attribute (or one of its levels) is read from every arm."""

    attribute: str
    level: str
    metric: str
    images: int | None
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
    patients: int | None
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


class DataSetAudit(NamedTuple):
    """The audit on one data set; lists are empty where a part was not audited. `suppressed` are subgroups too small."""

    name: str
    arms: list[Arm]
    probe_figures: list[DrawnPanel]
    probes: list[ProbeLine]
    differences: list[DifferenceLine]
    not_measured: str
    subgroup_figures: list[DrawnPanel]
    subgroup_arms: list[Arm]
    subgroups: list[SubgroupLine]
    gaps: list[GapLine]
    suppressed: list[str]
    removals: list[RemovalLine]
    no_claim: bool
    control: str
    control_failed: bool
    slug: str

    @property
    def has_rows(self) -> bool:
        """Whether this data set has parts other than leakage."""
        return bool(
            self.probes or self.differences or self.not_measured or self.subgroups or self.suppressed or self.removals
        )


class AuditSection(NamedTuple):
    """What `audit.html.j2` draws; `shared` are leaks in words, `compared` the data sets that were checked.

    `checked` is false where there was no leakage check; `notes` say what it could not compare.
    """

    checked: bool
    shared: list[str]
    compared: str
    notes: list[str]
    data_sets: list[DataSetAudit]


def audit_section(audits: Sequence[AuditResults], styles: Mapping[Arm, Style], out: Path) -> AuditSection | None:
    """The section of some audits, with figures/readability-DATASET and groups-DATASET; None where there are none."""
    if not audits:
        return None
    names = dict.fromkeys(row for one in audits for row in one.datasets)
    leaks = [leak for one in audits for leak in one.leaks or []]
    return AuditSection(
        checked=any(one.leaks is not None for one in audits),
        shared=list(dict.fromkeys(_leak_words(leak) for leak in leaks if leak.count)),
        compared=", ".join(map(dataset_name, names)),
        notes=list(dict.fromkeys(note for one in audits for note in one.manifest.notes)),
        data_sets=[part for name in names if (part := _data_set(name, audits, styles, out)).has_rows],
    )


def _data_set(name: str, audits: Sequence[AuditResults], styles: Mapping[Arm, Style], out: Path) -> DataSetAudit:
    probes = [row for one in audits for row in one.probes if row.dataset == name]
    differences = _of_arms([row for one in audits for row in one.differences if row.dataset == name])
    subgroups = [row for one in audits for row in one.subgroups if row.dataset == name]
    removals = [row for one in audits for row in one.removals if row.dataset == name]
    arms, of_subgroups = _arms(probes), _arms(subgroups)
    tested = [[row for row in (*one.probes, *one.subgroups, *one.removals) if row.dataset == name] for one in audits]
    values = [row for row in subgroups if row.metric != "gap"]
    small = _suppressed(values)
    shown = [row for row in values if (row.attribute, row.group) not in small]
    return DataSetAudit(
        name=name,
        arms=arms,
        probe_figures=_probe_figures(probes, styles, out, name),
        probes=_probe_lines(probes, arms),
        differences=[_difference_line(row) for row in differences if row.difference is not None],
        not_measured=_not_measured(differences),
        subgroup_figures=_subgroup_figures(shown, styles, out, name),
        subgroup_arms=of_subgroups,
        subgroups=_subgroup_lines(shown, of_subgroups),
        gaps=_gap_lines([row for row in subgroups if row.metric == "gap"], of_subgroups),
        suppressed=[f"{attribute} {group}" for attribute, group in small],
        removals=[_removal_line(row) for row in sorted(removals, key=lambda row: row.label != MACRO)],
        no_claim=any(why_no_claim(row.seeds) for row in differences),
        control=" ".join(filter(None, (control_sentence(rows) for rows in tested))),
        control_failed=any(control_failed(rows) for rows in tested),
        slug=slug(name),
    )


def _suppressed(groups: Sequence[SubgroupRow]) -> list[tuple[str, str | None]]:
    """Subgroups (attribute, group) too small to be shown: by their macro row, or by every row where there is none."""
    found = []
    for key in dict.fromkeys((row.attribute, row.group) for row in groups):
        mine = [row for row in groups if (row.attribute, row.group) == key]
        deciding = [row for row in mine if row.label == MACRO] or mine
        if all((row.reason or "").startswith(_FEW) for row in deciding):
            found.append(key)
    return found


def _arms(rows: Iterable[AttributeProbe | SubgroupRow]) -> list[Arm]:
    return sorted({row.arm for row in rows}, key=lambda arm: arm.order)


def _probe_figures(
    probes: Sequence[AttributeProbe], styles: Mapping[Arm, Style], out: Path, name: str
) -> list[DrawnPanel]:
    """A forest for each of AUROC and R²: an attribute a row; levels and errors are in the table."""
    panels = []
    for metric, chance in (("auroc", 0.5), ("r2", 0.0)):
        rows = [row for row in probes if row.metric == metric and not row.level]
        lines = _lines(rows, lambda row: row.attribute)
        if lines:
            title = f"{_METRICS[metric]} of attributes"
            panels.append(forest_panel(title, lines, styles, axis=_METRICS[metric], chance=chance))
    return _saved(panels, f"readability-{slug(name)}", styles, {row.arm for row in probes}, out)


def _subgroup_figures(
    groups: Sequence[SubgroupRow], styles: Mapping[Arm, Style], out: Path, name: str
) -> list[DrawnPanel]:
    """A forest for each attribute and metric, macro over labels where there is one, else of the first label."""
    panels: list[Panel] = []
    groups = [row for row in groups if row.threshold != "own"]
    keys = dict.fromkeys((row.attribute, row.metric) for row in groups if row.metric in _DRAWN)
    for attribute, metric in keys:
        rows = [row for row in groups if (row.attribute, row.metric) == (attribute, metric) and row.value is not None]
        label = MACRO if any(row.label == MACRO for row in rows) else next((row.label for row in rows), MACRO)
        lines = _lines([row for row in rows if row.label == label], _group_name)
        # One subgroup alone compares nothing; its value is in the table.
        if len(lines) > 1:
            what = "macro" if label == MACRO else label
            title = f"{attribute}: {_short(metric)}, {what}"
            chance = 0.0 if metric == "calibration" else None
            panels.append(forest_panel(title, lines, styles, axis=_SUBGROUP_METRICS[metric], chance=chance))
    return _saved(panels, f"groups-{slug(name)}", styles, {row.arm for row in groups}, out)


def _group_name(row: SubgroupRow) -> str:
    return f"{row.group}" + (f" ({row.n_patients:,} patients)" if row.n_patients is not None else "")


def _saved(
    panels: Sequence[Panel], name: str, styles: Mapping[Arm, Style], arms: set[Arm], out: Path
) -> list[DrawnPanel]:
    if panels:
        save_grid(panels, only(styles, arms), out / "figures" / name, columns=2)
    return [drawn(panel, f"{name}-{number}") for number, panel in enumerate(panels)]


def _lines(rows: Sequence[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Mark]]]:
    """Marks by row of a forest and arm, several runs of an arm together; values that are null are left out."""
    found: dict[str, dict[Arm, list[Mark]]] = {}
    for row in rows:
        if row.value is not None:
            low, high = (math.nan, math.nan) if row.ci_low is None or row.ci_high is None else (row.ci_low, row.ci_high)
            mark = Mark(row.arm, row.value, low, high)
            found.setdefault(key(row), {}).setdefault(row.arm, []).append(mark)
    return [
        (name, [together(marks) for _, marks in sorted(by.items(), key=lambda item: item[0].order)])
        for name, by in found.items()
    ]


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


def _probe_lines(probes: Sequence[AttributeProbe], arms: Sequence[Arm]) -> list[ProbeLine]:
    found = []
    for attribute, level, metric in dict.fromkeys((row.attribute, row.level, row.metric) for row in probes):
        rows = [row for row in probes if (row.attribute, row.level, row.metric) == (attribute, level, metric)]
        images = None if all(row.reason == "too few patients" for row in rows) else rows[0].n
        said = [row.replaced(reason=f"not available ({row.reason})") if row.reason else row for row in rows]
        cells = tuple(
            cell + _beside(next((row for row in rows if row.arm == arm), None))
            for arm, cell in zip(arms, _cells(said, arms), strict=True)
        )
        found.append(ProbeLine(attribute, level or "", _METRICS.get(metric, metric), images, cells))
    return found


def _beside(row: AttributeProbe | None) -> str:
    """What stands beside a reading: variables taken out of the chart, and what could have been seen if nothing was."""
    if row is None:
        return ""
    said = f";{without(row.without)}" if row.without else ""
    if row.p_holm is not None and row.detectable is not None and row.attribute != COIN and not readable(row):
        said += f"; not shown to be readable, {row.detectable:.3f} would be in 80 % of audits"
    return said


def _subgroup_lines(groups: Sequence[SubgroupRow], arms: Sequence[Arm]) -> list[SubgroupLine]:
    found = []
    for key in dict.fromkeys((row.attribute, row.group, row.label, row.metric, row.threshold) for row in groups):
        rows = [row for row in groups if (row.attribute, row.group, row.label, row.metric, row.threshold) == key]
        attribute, group, label, metric, threshold = key
        patients = next((row.n_patients for row in rows if row.n_patients is not None), None)
        patients = None if any((row.reason or "").startswith(_FEW) for row in rows) else patients
        found.append(SubgroupLine(attribute, group or "", label, _at(metric, threshold), patients, _cells(rows, arms)))
    return found


def _gap_lines(gaps: Sequence[SubgroupRow], arms: Sequence[Arm]) -> list[GapLine]:
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
            words += f"; p {p_value(one.p_holm)}" if one is not None and one.p_holm is not None else ""
            cells.append(words)
        found.append(GapLine(key[0], key[1], _at(key[2] or "", key[3]), tuple(cells)))
    return found


def _at(metric: str, threshold: str | None) -> str:
    return _short(metric) + _THRESHOLDS.get(threshold or "", "")


def _short(metric: str) -> str:
    return _SUBGROUP_METRICS.get(metric, metric).partition(":")[0]


def _of_arms(differences: Sequence[AttributeDifference]) -> list[AttributeDifference]:
    """Arm against arm: a difference over several seeds replaces those of single encoders, and comes first. Two seeds of
    one arm are not compared.
    """
    several = [row for row in differences if row.seeds > 1]
    told = {(row.arm_a, row.arm_b, row.attribute) for row in several}
    single = [row for row in differences if row.seeds == 1 and row.arm_a != row.arm_b]
    return several + [row for row in single if (row.arm_a, row.arm_b, row.attribute) not in told]


def _difference_line(row: AttributeDifference) -> DifferenceLine:
    a, b, said = row.arm_a.title, row.arm_b.title, verdict_of(row)
    return DifferenceLine(
        row.attribute,
        f"{a} minus {b}{without(row.without)}" + (f" ({row.seeds} seeds)" if row.seeds > 1 else ""),
        _METRICS.get(row.metric, row.metric),
        signed(row.difference, row.ci_low, row.ci_high),
        p_value(row.p_holm),
        after_correction(said.named(a, b) if said else "", row.ci_low, row.ci_high, row.corrected_over, "attribute"),
    )


def _not_measured(rows: Sequence[AttributeDifference]) -> str:
    """The attributes that could not be compared, in one sentence; "" where all could."""
    pairs = {(row.arm_a, row.arm_b) for row in rows}
    found: dict[str, set[tuple[Arm, Arm]]] = {}
    for row in rows:
        if row.difference is None:
            name = f"{row.attribute} ({_METRICS.get(row.metric, row.metric)})"
            found.setdefault(name, set()).add((row.arm_a, row.arm_b))
    if not found:
        return ""
    texts = [
        name
        if among == pairs
        else f"{name} between "
        + ", ".join(
            f"{a.title} and {b.title}" for a, b in sorted(among, key=lambda pair: (pair[0].order, pair[1].order))
        )
        for name, among in found.items()
    ]
    return f"Not measured: {'; '.join(texts)}."


def _removal_line(row: RemovalRow) -> RemovalLine:
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


def place_words(place: str) -> str:
    """A place of the leakage check as a reader calls it.

    >>> place_words("mimic:test"), place_words("pretraining"), place_words("pretraining of real-0")
    ('MIMIC-CXR test', 'pretraining', 'pretraining of real-0')
    """
    dataset, _, split = place.rpartition(":")
    return f"{dataset_name(dataset)} {split}" if dataset and split in SPLITS else place


def _leak_words(leak: Leak) -> str:
    if leak.kind == "variable" and leak.note:
        return leak.note
    count = f"{leak.count:,} "
    places = " and ".join(map(place_words, leak.between))
    return f"{count}{_KINDS.get(leak.kind, leak.kind)} shared by {places}"
