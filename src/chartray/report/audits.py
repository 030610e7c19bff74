"""What the report reads of audits: what an embedding tells of patients, gaps between groups, and the leak gate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chartray.errors import InputError
from chartray.evaluation.results import AUDIT_FILE, AUDIT_ROWS_FILE, LEAKS_FILE, open_results, understood
from chartray.report.arms import SOURCES, Arm, arm_of
from chartray.report.inputs import Results, Run
from chartray.report.rows import number


class Reading(NamedTuple):
    """How well an attribute is read from an arm; `level` is "" for the macro over levels and for numeric attributes."""

    arm: Arm
    dataset: str
    attribute: str
    level: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    n_patients: int | None
    reason: str


class ReadingDifference(NamedTuple):
    """How much better `a` reads an attribute than `b`, paired by patient, and over how many seeds.

    `corrected_over`: of how many attributes p_holm is corrected for; 0 where the audit does not say.
    """

    a: Arm
    b: Arm
    dataset: str
    attribute: str
    level: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    verdict: str
    claim: str
    seeds: int = 1
    corrected_over: int = 0


class Group(NamedTuple):
    """A metric of one label in one group of patients.

    Of metric "gap" it is the largest group minus the smallest in the metric `of`; `ends` are these two, and by chance
    alone (patients swapping groups) the gap stays under `expected_high` in 95 of 100 cases.
    """

    arm: Arm
    dataset: str
    attribute: str
    group: str
    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    n_patients: int | None
    reason: str
    of: str = ""
    ends: tuple[str, ...] = ()
    expected_high: float | None = None


class Removed(NamedTuple):
    """What is left of a label's AUROC once `directions` of the attribute are taken out of the embedding.

    How well the attribute is read before and after, by a linear probe and by neighbours.
    """

    arm: Arm
    dataset: str
    attribute: str
    label: str
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    directions: int | None
    attribute_before: float | None
    attribute_after: float | None
    neighbours_before: float | None
    neighbours_after: float | None


class Leak(NamedTuple):
    """What two places share; `shared` is 0 where they share nothing, None where it was not counted."""

    kind: str
    between: tuple[str, ...]
    shared: int | None
    note: str


@dataclass(frozen=True)
class Audit:
    """The folder of an audit; `leaks` is None where the leak gate was not run."""

    folder: Path
    manifest: dict[str, Any]
    readings: list[Reading]
    differences: list[ReadingDifference]
    groups: list[Group]
    removed: list[Removed]
    leaks: list[Leak] | None

    @property
    def datasets(self) -> list[str]:
        """The data sets that were audited."""
        parts = (self.readings, self.differences, self.groups, self.removed)
        return list(dict.fromkeys([*(row.dataset for rows in parts for row in rows), *self._stores]))

    @property
    def _stores(self) -> list[str]:
        return [str(one["dataset"]) for one in self.manifest.get("stores") or [] if "dataset" in one]

    @property
    def arms(self) -> set[Arm]:
        """Every arm that was audited."""
        pairs = {side for one in self.differences for side in (one.a, one.b)}
        return pairs | {one.arm for rows in (self.readings, self.groups, self.removed) for one in rows}


class KnownArms:
    """The arms of a report by the name of their run, so that an audit's rows are told by the same names."""

    def __init__(self, runs: Sequence[Run], results: Sequence[Results]) -> None:
        self.runs: dict[str, Arm] = {}
        self.every: set[Arm] = {run.arm for run in runs}
        for run in runs:
            self.runs.setdefault(run.folder.name, run.arm)
        for score in (score for one in results for score in one.scores):
            self.every.add(score.arm)
            if score.arm.kind != "source":
                self.runs[score.run] = score.arm

    def of(self, row: Mapping[str, Any], side: str = "") -> Arm:
        """The arm that a row names, of a pair its `side` a or b: that of its run, else of its chart and control."""

        def get(name: str) -> Any:
            return row.get(f"{name}_{side}", row.get(name)) if side else row.get(name)

        chart, control = str(get("chart") or "none"), str(get("control") or "none")
        base = self.runs.get(str(row.get(side or "run", "")))
        if control in SOURCES:
            return self._floor(chart, control, base)
        if base is not None and (base.chart, base.control) == (chart, control):
            return base
        alike = [arm for arm in self.every if (arm.chart, arm.control) == (chart, control)]
        if len(alike) == 1:
            return alike[0]
        return arm_of(
            chart, control, get("chart_use"), objective=get("objective"), settings=str(get("settings_hash") or "")
        )

    def _floor(self, chart: str, control: str, base: Arm | None) -> Arm:
        same = [arm for arm in self.every if arm.control == control]
        same = [arm for arm in same if control in ("untrained", "pixels") or arm.chart == chart]
        if control == "image+chart" and base is not None:
            same = [arm for arm in same if arm.on in ("", base.title)]
        return same[0] if len(same) == 1 else arm_of(chart, control, base=base)


def read_audit(folder: Path, known: KnownArms) -> Audit:
    """The folder of `chartray audit`; raises InputError where it is none, or was damaged or edited."""
    opened = open_results(
        folder,
        [AUDIT_FILE],
        f"expected an audit ({AUDIT_FILE}) of `chartray audit` in {folder}, found none; check the path",
    )
    parts: dict[str, list[dict[str, Any]]] = {}
    for line, row in enumerate(opened.rows(AUDIT_ROWS_FILE), start=1):
        if "part" not in row:
            where = f"line {line} of {folder / AUDIT_ROWS_FILE}"
            raise InputError(f"expected the field 'part' in {where}, found {', '.join(sorted(row))}")
        parts.setdefault(str(row["part"]), []).append(row)
    with understood(folder):
        return Audit(
            folder,
            opened.manifest,
            [_reading(row, known) for row in parts.get("readability", [])],
            [_difference(row, known) for row in parts.get("difference", [])],
            [_group(row, known) for row in parts.get("group", [])],
            [_removed(row, known) for row in parts.get("removed", [])],
            [_leak(row) for row in opened.rows(LEAKS_FILE)] if LEAKS_FILE in opened.files else None,
        )


def _reading(row: Mapping[str, Any], known: KnownArms) -> Reading:
    return Reading(
        arm=known.of(row),
        dataset=str(row.get("dataset", "")),
        attribute=str(row["attribute"]),
        level=_word(row.get("level")),
        metric=str(row["metric"]),
        value=number(row.get("value")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        n=_count(row.get("n")),
        n_patients=_count(row.get("n_patients")),
        reason=str(row.get("reason") or ""),
    )


def _difference(row: Mapping[str, Any], known: KnownArms) -> ReadingDifference:
    return ReadingDifference(
        a=known.of(row, "a"),
        b=known.of(row, "b"),
        dataset=str(row.get("dataset", "")),
        attribute=str(row["attribute"]),
        level=_word(row.get("level")),
        metric=str(row["metric"]),
        difference=number(row.get("difference")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        p=number(row.get("p")),
        p_holm=number(row.get("p_holm")),
        verdict=str(row.get("verdict") or ""),
        claim=str(row.get("claim") or ""),
        seeds=int(row.get("seeds") or 1),
        corrected_over=int(row.get("corrected_over") or 0),
    )


def _group(row: Mapping[str, Any], known: KnownArms) -> Group:
    return Group(
        arm=known.of(row),
        dataset=str(row.get("dataset", "")),
        attribute=str(row["attribute"]),
        group=_word(row.get("group")),
        label=str(row.get("label") or "macro"),
        metric=str(row["metric"]),
        value=number(row.get("value")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        n=_count(row.get("n")),
        n_patients=_count(row.get("n_patients")),
        reason=str(row.get("reason") or ""),
        of=str(row.get("of") or ""),
        ends=tuple(str(row[end]) for end in ("largest", "smallest") if row.get(end) is not None),
        expected_high=number(row.get("expected_high")),
    )


def _removed(row: Mapping[str, Any], known: KnownArms) -> Removed:
    return Removed(
        arm=known.of(row),
        dataset=str(row.get("dataset", "")),
        attribute=str(row["attribute"]),
        label=str(row.get("label") or "macro"),
        before=number(row.get("before")),
        after=number(row.get("after")),
        difference=number(row.get("difference")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        directions=_count(row.get("directions")),
        attribute_before=number(row.get("attribute_before")),
        attribute_after=number(row.get("attribute_after")),
        neighbours_before=number(row.get("neighbours_before")),
        neighbours_after=number(row.get("neighbours_after")),
    )


def _leak(row: Mapping[str, Any]) -> Leak:
    between: Iterable[Any] = row.get("between") or ()
    return Leak(str(row["kind"]), tuple(map(str, between)), _count(row.get("count")), str(row.get("note") or ""))


def _word(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _count(value: Any) -> int | None:
    return None if value is None or value != value else int(value)
