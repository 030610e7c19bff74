"""The audit's section: the leak gate, what the embedding tells of patients, groups, and attributes taken out."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from chartray.report.arms import Arm
from chartray.report.audits import Audit, Group, Leak, Reading, ReadingDifference, Removed
from chartray.report.figures import Drawn, Panel, Style, drawn, only, save_grid, slug
from chartray.report.plots import Interval, forest_panel, together
from chartray.report.rows import MACRO, shown
from chartray.report.summary import plain, signed
from chartray.report.tables import p_value
from chartray.results.verdict import Verdict, after_correction
from chartray.schema import SPLITS

_METRICS = {"auroc": "AUROC", "r2": "R²", "mae": "mean absolute error"}
_GROUP_METRICS = {
    "auroc": "AUROC",
    "calibration": "Calibration: mean score minus observed share",
    "false_negative_rate": "False-negative rate",
}
_KINDS = {
    "patient": "patients",
    "exact film": "exact copies of films",
    "near film": "near copies of films",
    "variable": "chart variables known only after the film",
}

# How the audit says that so few patients stand behind a row that not even their number is told.
_FEW = "fewer than 10 patients: suppressed"

Row = TypeVar("Row", Reading, Group)


class ReadingRow(NamedTuple):
    """One attribute (or one of its levels) as every arm reads it."""

    attribute: str
    level: str
    metric: str
    films: int | None
    cells: tuple[str, ...]


class DifferenceRow(NamedTuple):
    """How much better one arm reads an attribute than another."""

    attribute: str
    pair: str
    metric: str
    value: str
    p_holm: str
    verdict: str


class GroupRow(NamedTuple):
    """A group's metric for each arm."""

    attribute: str
    group: str
    label: str
    metric: str
    patients: int | None
    cells: tuple[str, ...]


class GapRow(NamedTuple):
    """The largest group minus the smallest of one attribute, label and metric."""

    attribute: str
    label: str
    metric: str
    cells: tuple[str, ...]


class RemovedRow(NamedTuple):
    """AUROC of a label before and after an attribute's directions were taken out."""

    arm: str
    attribute: str
    directions: int | None
    attribute_before: str
    attribute_after: str
    label: str
    before: str
    after: str
    difference: str


class DataSetAudit(NamedTuple):
    """The audit on one data set; lists are empty where a part was not audited. `suppressed` are groups too small."""

    name: str
    arms: list[Arm]
    encoders: list[Arm]
    readability: list[Drawn]
    readings: list[ReadingRow]
    differences: list[DifferenceRow]
    not_measured: str
    groups: list[Drawn]
    group_arms: list[Arm]
    group_rows: list[GroupRow]
    gaps: list[GapRow]
    suppressed: list[str]
    removed: list[RemovedRow]
    no_claim: bool
    slug: str

    @property
    def has_rows(self) -> bool:
        """Whether anything but leaks was looked for here."""
        return bool(
            self.readings or self.differences or self.not_measured or self.group_rows or self.suppressed or self.removed
        )


class AuditSection(NamedTuple):
    """What `audit.html.j2` draws; `shared` are leaks in words, `compared` the places that the leak gate looked at.

    `gate` is false where no leak gate was run; `notes` say what it could not compare.
    """

    gate: bool
    shared: list[str]
    compared: str
    notes: list[str]
    data_sets: list[DataSetAudit]


def audit_section(audits: Sequence[Audit], look: Mapping[Arm, Style], out: Path) -> AuditSection | None:
    """The section of some audits, with figures/readability-DATASET and groups-DATASET; None where there are none."""
    if not audits:
        return None
    names = dict.fromkeys(row for one in audits for row in one.datasets)
    leaks = [leak for one in audits for leak in one.leaks or []]
    return AuditSection(
        gate=any(one.leaks is not None for one in audits),
        shared=list(dict.fromkeys(_leak_words(leak) for leak in leaks if leak.shared != 0)),
        compared=", ".join(map(shown, names)),
        notes=list(dict.fromkeys(str(note) for one in audits for note in one.manifest.get("notes") or [])),
        data_sets=[part for name in names if (part := _data_set(name, audits, look, out)).has_rows],
    )


def _data_set(name: str, audits: Sequence[Audit], look: Mapping[Arm, Style], out: Path) -> DataSetAudit:
    readings = [row for one in audits for row in one.readings if row.dataset == name]
    differences = _of_arms([row for one in audits for row in one.differences if row.dataset == name])
    groups = [row for one in audits for row in one.groups if row.dataset == name]
    removed = [row for one in audits for row in one.removed if row.dataset == name]
    arms, of_groups = _arms(readings), _arms(groups)
    values = [row for row in groups if row.metric != "gap"]
    gone = _suppressed(values)
    return DataSetAudit(
        name=name,
        arms=arms,
        encoders=[arm for arm in arms if arm.kind != "source"],
        readability=_readability(readings, look, out, name),
        readings=_reading_rows(readings, arms),
        differences=[_difference_row(row) for row in differences if row.difference is not None],
        not_measured=_not_measured(differences),
        groups=_group_figures([row for row in values if (row.attribute, row.group) not in gone], look, out, name),
        group_arms=of_groups,
        group_rows=_group_rows([row for row in values if (row.attribute, row.group) not in gone], of_groups),
        gaps=_gap_rows([row for row in groups if row.metric == "gap"], of_groups),
        suppressed=[f"{attribute} {group}" for attribute, group in gone],
        removed=[_removed_row(row) for row in sorted(removed, key=lambda row: row.label != MACRO)],
        no_claim=any(row.claim for row in differences),
        slug=slug(name),
    )


def _suppressed(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Groups (attribute, group) too small to be shown: by their macro row, or by every row where no macro is made."""
    found = []
    for key in dict.fromkeys((row.attribute, row.group) for row in groups):
        mine = [row for row in groups if (row.attribute, row.group) == key]
        judged = [row for row in mine if row.label == MACRO] or mine
        if all(row.reason.startswith(_FEW) for row in judged):
            found.append(key)
    return found


def _arms(rows: Iterable[Reading | Group]) -> list[Arm]:
    return sorted({row.arm for row in rows}, key=lambda arm: arm.order)


def _readability(readings: Sequence[Reading], look: Mapping[Arm, Style], out: Path, name: str) -> list[Drawn]:
    """A forest for each of AUROC and R²: attributes down, arms under each other; levels and errors are in the table."""
    panels = []
    for metric, chance in (("auroc", 0.5), ("r2", 0.0)):
        rows = [row for row in readings if row.metric == metric and not row.level]
        lines = _lines(rows, lambda row: row.attribute)
        if lines:
            title = f"{_METRICS[metric]} of attributes"
            panels.append(forest_panel(title, lines, look, axis=_METRICS[metric], chance=chance))
    return _saved(panels, f"readability-{slug(name)}", look, {row.arm for row in readings}, out)


def _group_figures(groups: Sequence[Group], look: Mapping[Arm, Style], out: Path, name: str) -> list[Drawn]:
    """A forest for each attribute and metric, macro over labels where there is one, else of the first label."""
    panels: list[Panel] = []
    keys = dict.fromkeys((row.attribute, row.metric) for row in groups if row.metric in _GROUP_METRICS)
    for attribute, metric in keys:
        rows = [row for row in groups if (row.attribute, row.metric) == (attribute, metric) and row.value is not None]
        label = MACRO if any(row.label == MACRO for row in rows) else next((row.label for row in rows), MACRO)
        lines = _lines([row for row in rows if row.label == label], _group_name)
        # One group alone compares nothing; its value is in the table.
        if len(lines) > 1:
            what = "macro" if label == MACRO else label
            title = f"{attribute}: {_short(metric)}, {what}"
            chance = 0.0 if metric == "calibration" else None
            panels.append(forest_panel(title, lines, look, axis=_GROUP_METRICS[metric], chance=chance))
    return _saved(panels, f"groups-{slug(name)}", look, {row.arm for row in groups}, out)


def _group_name(row: Group) -> str:
    return row.group + (f" ({row.n_patients:,} patients)" if row.n_patients is not None else "")


def _saved(panels: Sequence[Panel], name: str, look: Mapping[Arm, Style], arms: set[Arm], out: Path) -> list[Drawn]:
    if panels:
        save_grid(panels, only(look, arms), out / "figures" / name, columns=2)
    return [drawn(panel, f"{name}-{number}") for number, panel in enumerate(panels)]


def _lines(rows: Sequence[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Interval]]]:
    """Marks by row of a forest and arm, several runs of an arm together; values that are null are left out."""
    found: dict[str, dict[Arm, list[Interval]]] = {}
    for row in rows:
        if row.value is not None:
            low, high = (math.nan, math.nan) if row.low is None or row.high is None else (row.low, row.high)
            mark = Interval(row.arm, row.value, low, high)
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
            found.append(plain(only_one.value, only_one.low, only_one.high))
        else:
            found.append(next((row.reason for row in mine if row.reason), "–"))
    return tuple(found)


def _reading_rows(readings: Sequence[Reading], arms: Sequence[Arm]) -> list[ReadingRow]:
    found = []
    for attribute, level, metric in dict.fromkeys((row.attribute, row.level, row.metric) for row in readings):
        rows = [row for row in readings if (row.attribute, row.level, row.metric) == (attribute, level, metric)]
        films = next((row.n for row in rows if row.n is not None), None)
        films = None if all(row.reason == "too few patients" for row in rows) else films
        told = [row._replace(reason=f"cannot be told ({row.reason})") if row.reason else row for row in rows]
        found.append(ReadingRow(attribute, level, _METRICS.get(metric, metric), films, _cells(told, arms)))
    return found


def _group_rows(groups: Sequence[Group], arms: Sequence[Arm]) -> list[GroupRow]:
    found = []
    for key in dict.fromkeys((row.attribute, row.group, row.label, row.metric) for row in groups):
        rows = [row for row in groups if (row.attribute, row.group, row.label, row.metric) == key]
        attribute, group, label, metric = key
        patients = next((row.n_patients for row in rows if row.n_patients is not None), None)
        patients = None if any(row.reason.startswith(_FEW) for row in rows) else patients
        found.append(GroupRow(attribute, group, label, _short(metric), patients, _cells(rows, arms)))
    return found


def _gap_rows(gaps: Sequence[Group], arms: Sequence[Arm]) -> list[GapRow]:
    """Gaps that have a value, the macro means before the labels."""
    found = []
    gaps = sorted((row for row in gaps if row.value is not None), key=lambda row: row.label != MACRO)
    for key in dict.fromkeys((row.attribute, row.label, row.of) for row in gaps):
        rows = [row for row in gaps if (row.attribute, row.label, row.of) == key]
        cells = []
        for arm in arms:
            one = next((row for row in rows if row.arm == arm), None)
            words = "–" if one is None else plain(one.value, one.low, one.high)
            words += f"; {' over '.join(one.ends)}" if one is not None and one.ends else ""
            chance = None if one is None else one.expected_high
            words += f"; by chance up to {chance:.3f}" if chance is not None else ""
            cells.append(words)
        found.append(GapRow(key[0], key[1], _short(key[2]), tuple(cells)))
    return found


def _short(metric: str) -> str:
    return _GROUP_METRICS.get(metric, metric).partition(":")[0]


def _of_arms(differences: Sequence[ReadingDifference]) -> list[ReadingDifference]:
    """Arm against arm: a difference over several seeds stands for those of its single encoders, and comes first; two
    seeds of one arm differ by no chart.
    """
    several = [row for row in differences if row.seeds > 1]
    told = {(row.a, row.b, row.attribute) for row in several}
    single = [row for row in differences if row.seeds == 1 and row.a != row.b]
    return several + [row for row in single if (row.a, row.b, row.attribute) not in told]


def _difference_row(row: ReadingDifference) -> DifferenceRow:
    attribute = row.attribute + (f", {row.level}" if row.level else "")
    pair = f"{row.a.title} minus {row.b.title}" + (f" ({row.seeds} seeds)" if row.seeds > 1 else "")
    said = Verdict(row.verdict).named(row.a.title, row.b.title) if row.verdict else ""
    return DifferenceRow(
        attribute,
        pair,
        _METRICS.get(row.metric, row.metric),
        signed(row.difference, row.low, row.high),
        p_value(row.p_holm),
        after_correction(said, row.low, row.high, row.corrected_over, "attribute"),
    )


def _not_measured(rows: Sequence[ReadingDifference]) -> str:
    """The attributes whose reading could not be compared, in one sentence; "" where all could."""
    pairs = {(row.a, row.b) for row in rows}
    found: dict[str, set[tuple[Arm, Arm]]] = {}
    for row in rows:
        if row.difference is None:
            words = row.attribute + (f", {row.level}" if row.level else "")
            found.setdefault(f"{words} ({_METRICS.get(row.metric, row.metric)})", set()).add((row.a, row.b))
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


def _removed_row(row: Removed) -> RemovedRow:
    return RemovedRow(
        row.arm.title,
        row.attribute,
        row.directions,
        _read(row.attribute_before, row.neighbours_before),
        _read(row.attribute_after, row.neighbours_after),
        row.label,
        plain(row.before),
        plain(row.after),
        signed(row.difference, row.low, row.high),
    )


def _read(probe: float | None, neighbours: float | None) -> str:
    return plain(probe) + ("" if neighbours is None else f" ({neighbours:.3f})")


def place_words(place: str) -> str:
    """A place of the leak gate as a reader calls it.

    >>> place_words("mimic:test"), place_words("pretraining"), place_words("pretraining of real-0")
    ('MIMIC-CXR test', 'pretraining', 'pretraining of real-0')
    """
    dataset, _, split = place.rpartition(":")
    return f"{shown(dataset)} {split}" if dataset and split in SPLITS else place


def _leak_words(leak: Leak) -> str:
    if leak.kind == "variable" and leak.note:
        return leak.note
    count = "" if leak.shared is None else f"{leak.shared:,} "
    places = " and ".join(map(place_words, leak.between))
    return f"{count}{_KINDS.get(leak.kind, leak.kind)} shared by {places}"
