"""The audit's section: leakage, attributes read from the embedding, subgroups, and attributes removed from it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chartray.audit.families import control_failed
from chartray.audit.sentences import control_sentence
from chartray.report.audit_tables import (
    METRICS,
    SUBGROUP_METRICS,
    DifferenceLine,
    GapLine,
    ProbeLine,
    RemovalLine,
    Row,
    SubgroupLine,
    SubgroupSizes,
    difference_line,
    gap_lines,
    probe_lines,
    removal_line,
    short_metric,
    subgroup,
    subgroup_lines,
    subgroup_sizes,
)
from chartray.report.figures import DrawnPanel, Panel, Style, drawn, only, save_grid, slug
from chartray.report.inputs import AuditResults
from chartray.report.plots import Mark, forest_panel, together
from chartray.results.arm import Arm, dataset_name
from chartray.results.audit_rows import SUPPRESSED, AttributeDifference, AttributeProbe, Leak, SubgroupRow
from chartray.results.schema import MACRO
from chartray.results.verdict import why_no_claim
from chartray.schema import SPLITS
from chartray.small_counts import counts

# What is drawn; the rates at each subgroup's own threshold, and those of false alarms, are in the table.
_DRAWN = ("auroc", "calibration", "false_negative_rate")
_KINDS = {
    "patient": "patients",
    "exact film": "exact copies of images",
    "near film": "near copies of images",
    "variable": "chart variables known only after the image",
}


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
    sizes = subgroup_sizes(values)
    shown = [row for row in values if (row.attribute, row.group) not in small]
    return DataSetAudit(
        name=name,
        arms=arms,
        probe_figures=_probe_figures(probes, styles, out, name),
        probes=probe_lines(probes, arms),
        differences=[difference_line(row) for row in differences if row.difference is not None],
        not_measured=_not_measured(differences),
        subgroup_figures=_subgroup_figures(shown, sizes, styles, out, name),
        subgroup_arms=of_subgroups,
        subgroups=subgroup_lines(shown, sizes, of_subgroups),
        gaps=gap_lines([row for row in subgroups if row.metric == "gap"], of_subgroups),
        suppressed=[f"{attribute} {group}" for attribute, group in small],
        removals=[removal_line(row) for row in sorted(removals, key=lambda row: row.label != MACRO)],
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
        if all((row.reason or "").startswith(SUPPRESSED) for row in deciding):
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
            title = f"{METRICS[metric]} of attributes"
            panels.append(forest_panel(title, lines, styles, axis=METRICS[metric], chance=chance))
    return _saved(panels, f"readability-{slug(name)}", styles, {row.arm for row in probes}, out)


def _subgroup_figures(
    groups: Sequence[SubgroupRow], sizes: SubgroupSizes, styles: Mapping[Arm, Style], out: Path, name: str
) -> list[DrawnPanel]:
    """A forest for each attribute and metric, macro over labels where there is one, else of the first label."""
    panels: list[Panel] = []
    groups = [row for row in groups if row.threshold != "own"]
    keys = dict.fromkeys((row.attribute, row.metric) for row in groups if row.metric in _DRAWN)
    for attribute, metric in keys:
        rows = [row for row in groups if (row.attribute, row.metric) == (attribute, metric) and row.value is not None]
        label = MACRO if any(row.label == MACRO for row in rows) else next((row.label for row in rows), MACRO)
        lines = _lines([row for row in rows if row.label == label], lambda row: _group_name(row, sizes))
        # One subgroup alone compares nothing; its value is in the table.
        if len(lines) > 1:
            what = "macro" if label == MACRO else label
            title = f"{attribute}: {short_metric(metric)}, {what}"
            chance = 0.0 if metric == "calibration" else None
            panels.append(forest_panel(title, lines, styles, axis=SUBGROUP_METRICS[metric], chance=chance))
    return _saved(panels, f"groups-{slug(name)}", styles, {row.arm for row in groups}, out)


def _group_name(row: SubgroupRow, sizes: SubgroupSizes) -> str:
    size = sizes.get(subgroup(row))
    return f"{row.group}" + (f" ({size} patients)" if size else "")


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


def _of_arms(differences: Sequence[AttributeDifference]) -> list[AttributeDifference]:
    """Arm against arm: a difference over several seeds replaces those of single encoders, and comes first. Two seeds of
    one arm are not compared.
    """
    several = [row for row in differences if row.seeds > 1]
    told = {(row.arm_a, row.arm_b, row.attribute) for row in several}
    single = [row for row in differences if row.seeds == 1 and row.arm_a != row.arm_b]
    return several + [row for row in single if (row.arm_a, row.arm_b, row.attribute) not in told]


def _not_measured(rows: Sequence[AttributeDifference]) -> str:
    """The attributes that could not be compared, in one sentence; "" where all could."""
    pairs = {(row.arm_a, row.arm_b) for row in rows}
    found: dict[str, set[tuple[Arm, Arm]]] = {}
    for row in rows:
        if row.difference is None:
            name = f"{row.attribute} ({METRICS.get(row.metric, row.metric)})"
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
    count = counts([leak.count])[0] if leak.kind != "variable" else str(leak.count)
    places = " and ".join(map(place_words, leak.between))
    return f"{count} {_KINDS.get(leak.kind, leak.kind)} shared by {places}"
