"""What a mapping leaves open or reads wrongly: when a variable is known, and columns whose cells it cannot read."""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chartray.records.cautions import UNDECIDED, Caution, unusable
from chartray.records.cells import NO_OFFSET, OUTSIDE
from chartray.records.cohort import Step
from chartray.records.mapping import Cells, LabelMapping, VariableMapping
from chartray.records.mapping import Mapping as TableMapping
from chartray.records.missing import UNREADABLE
from chartray.records.values import by_cell, number
from chartray.schema import LABEL_PREFIX

# From this share of its filled cells on, what could not be read is no dirt but another way of writing.
_NEARLY_ALL = 0.9
_DATE = "a date with its year first, such as 2023-01-07 01:20, or taken_at_format in the mapping"
_DAYS = "a number of days from the film, such as -2 for two days before it"
_TRUTHS = "1 or 0, yes or no, true or false, y or n, t or f, or the cells that mean true and false in the mapping"
_INSIDE = "days inside window_days, where 0 is the film and -2 two days before it"


def undecided(rows: pa.Table, plan: TableMapping) -> list[Step]:
    """Steps of the flow that say of which variables nobody has decided whether they are known at the film."""
    notes = {key: day_only(rows, entry) or _taken_as_known(entry) for key, entry in plan.ehr.items()}
    kinds = {key: "interval" if plan.ehr[key].kind == "interval" else "when known" for key in notes}
    return [
        Step(f"{key} ({kinds[key]})", rows.num_rows, rows.num_rows, f"{note}; {UNDECIDED}")
        for key, note in notes.items()
        if note is not None
    ]


def day_only(rows: pa.Table, mapping: VariableMapping) -> str | None:
    """What is said of an interval in whole days whose `known_at_film` nobody has decided; None otherwise.

    Day 0 lies inside, but a stay that begins on the day of the film may begin hours after it.
    """
    if mapping.kind != "interval" or mapping.known_at_film is not None:
        return None
    starts, ends = (by_cell(rows[column], number, pa.float64()) for column in (mapping.starts, mapping.ends))
    if pc.any(pc.not_equal(starts, pc.floor(starts))).as_py():
        return None
    first_day = pc.sum(pc.and_(pc.equal(starts, 0.0), pc.greater_equal(ends, 0.0))).as_py() or 0
    if not first_day:
        return None
    return f"known to the day only: {first_day} films on the first day, when it may have begun after the film"


def _taken_as_known(mapping: VariableMapping) -> str | None:
    """Of a fact of the stay, or one that is there or not, which no offset dates: an outcome often looks so."""
    dated = mapping.kind == "interval" or mapping.days_from_film is not None or mapping.known_at_film is not None
    if dated or not (mapping.group == "stay" or mapping.present_means is not None):
        return None
    return "taken as known when the film was taken, so that pretraining may use it, though nobody has said so"


def unread(rows: pa.Table, plan: TableMapping, missing: Mapping[str, Mapping[str, int]]) -> list[Caution]:
    """A caution for each time, variable and label of which (nearly) no filled cell could be used.

    `missing` holds variables by name and labels by their column of the cohort, as the cohort counts them.
    """
    found: list[Caution] = []
    if plan.taken_at is not None:
        lost = missing["taken_at"].get(UNREADABLE, 0)
        found += _lost("taken_at", int(pc.count(rows[plan.taken_at]).as_py()), lost, _dates(plan))
    for key, entry in plan.ehr.items():
        found += _of_variable(key, rows, entry, missing[key])
    for key, label in plan.labels.items():
        found += _lost(key, _filled(rows, label), unusable(missing[LABEL_PREFIX + key]), _form(label))
    return found


def _of_variable(name: str, rows: pa.Table, mapping: VariableMapping, missing: Mapping[str, int]) -> Iterator[Caution]:
    undated = missing.get(OUTSIDE, 0) + missing.get(NO_OFFSET, 0)
    filled, lost = _filled(rows, mapping), unusable(missing) - undated
    yield from _lost(name, filled, lost, _form(mapping))
    if mapping.days_from_film is not None:
        days, read = _counts(rows, mapping.days_from_film, number, pa.float64())
        yield from _lost(f"{name} (days_from_film)", days, days - read, _DAYS)
        yield from _lost(f"{name} (window_days)", filled - lost, missing.get(OUTSIDE, 0), _INSIDE)


def _dates(plan: TableMapping) -> str:
    return f"dates as taken_at_format says, {' or '.join(plan.taken_at_format)}" if plan.taken_at_format else _DATE


def _lost(of: str, filled: int, lost: int, form: str) -> Iterator[Caution]:
    if filled and lost > _NEARLY_ALL * filled:
        share = "none" if lost == filled else f"only {filled - lost}"
        yield Caution(of, f"{share} of {filled} filled cells could be used", lost, f"expected {form}")


def _filled(rows: pa.Table, mapping: Cells) -> int:
    """Rows in which a column of its values is not blank."""
    filled = [pc.is_valid(rows[name]) for name in (mapping.column, mapping.starts, mapping.ends) if name]
    return int(pc.sum(reduce(pc.or_, filled)).as_py() or 0)


def _counts(rows: pa.Table, column: str, value: Any, kind: pa.DataType) -> tuple[int, int]:
    """How many cells are filled, and how many of them `value` reads."""
    return int(pc.count(rows[column]).as_py()), int(pc.count(by_cell(rows[column], value, kind)).as_py())


def _form(mapping: Cells) -> str:
    """How a cell should be written."""
    if mapping.interval:
        return _DAYS
    if isinstance(mapping, LabelMapping) and not mapping.means_something:
        return (
            "1, 0, -1 (uncertain), yes, no or a blank, or lists of cells under true, false and uncertain in the mapping"
        )
    if not isinstance(mapping, VariableMapping) or mapping.kind == "boolean":
        return _TRUTHS if mapping.read_by_spelling else "the cells that the mapping lists as they stand in the table"
    if mapping.kind == "categorical":
        return "the levels of the mapping as they stand in the table, levels: {cell: level}"
    assert mapping.range is not None
    low, high = mapping.range
    numbers = f"numbers from {low:g} to {high:g}, such as {(low + high) / 2:g}"
    if mapping.unit == "years":
        return f"{numbers}, or ages as DICOM writes them, such as 045Y"
    ages = "" if mapping.unit else " (045Y, as DICOM writes ages, is read where the mapping says unit: years)"
    return numbers + ages
