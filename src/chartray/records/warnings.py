"""Warnings about a cohort: printed when it is made, written into its flow, and repeated by `check`."""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.records.mapping import Mapping as TableMapping
from chartray.records.mapping_entries import Cells, LabelMapping, VariableMapping
from chartray.records.missing import ABSENT, UNREADABLE
from chartray.records.parsing import by_cell, number
from chartray.records.table_values import NO_OFFSET, OUTSIDE
from chartray.schema import LABEL_PREFIX

# Ends the flow's note on a variable whose mapping does not say when it is known; `check` searches for it.
UNDECIDED = "say known_at_film: true or false in the mapping"
# If more than this share of the filled cells cannot be read, the column is in another format.
_NEARLY_ALL = 0.9
_DATE = "dates with the year first, such as 2023-01-07 01:20, or taken_at_format in the mapping"
_DAYS = "a number of days from the image, such as -2 for two days before it"
_TRUTHS = "1 or 0, yes or no, true or false, y or n, t or f, or lists of true and false cells in the mapping"
_INSIDE = "days inside window_days, where 0 is the day of the image and -2 two days before it"


class DataWarning(NamedTuple):
    """`what` is wrong with the variable, label or column `of`, how many `images` are affected, and the `remedy`."""

    of: str
    what: str
    images: int
    remedy: str


def unknown_labels(missing: Mapping[str, Mapping[str, int]]) -> list[DataWarning]:
    """One warning for each label with cells that could not be read; those images are unknown for it."""
    warnings = []
    for name, cells in missing.items():
        images = unusable(cells)
        if name.startswith(LABEL_PREFIX) and images:
            plural = "" if images == 1 else "s"
            what = f"unreadable label in {images} image{plural}, left out of training and scoring for this label"
            remedy = "say in the mapping which cells mean true, false or uncertain"
            warnings.append(DataWarning(name.removeprefix(LABEL_PREFIX), what, images, remedy))
    return warnings


def unusable(cells: Mapping[str, int]) -> int:
    """How many filled cells gave no value."""
    return sum(count for cell, count in cells.items() if cell != ABSENT)


def undecided(rows: pa.Table, plan: TableMapping) -> dict[str, str]:
    """Flow step -> note, for each variable whose mapping does not say whether it is known when the image is taken."""
    steps = {}
    for key, entry in plan.ehr.items():
        if note := _day_only(rows, entry) or _taken_as_known(entry):
            steps[f"{key} ({'interval' if entry.kind == 'interval' else 'when known'})"] = f"{note}; {UNDECIDED}"
    return steps


def _day_only(rows: pa.Table, mapping: VariableMapping) -> str | None:
    """A note on an interval in whole days without `known_at_film`; None for every other variable.

    Day 0 is inside it, but a stay that begins on the day of the image may begin hours after the image.
    """
    if mapping.kind != "interval" or mapping.known_at_film is not None:
        return None
    starts, ends = (by_cell(rows[column], number, pa.float64()) for column in (mapping.starts, mapping.ends))
    if pc.any(pc.not_equal(starts, pc.floor(starts))).as_py():
        return None
    first_day = pc.sum(pc.and_(pc.equal(starts, 0.0), pc.greater_equal(ends, 0.0))).as_py() or 0
    if not first_day:
        return None
    return f"offsets are whole days: {first_day} images are on the first day, which may have begun after the image"


def _taken_as_known(mapping: VariableMapping) -> str | None:
    """A note on an undated fact of the stay, or one with `present_means`: it may be an outcome."""
    dated = mapping.kind == "interval" or mapping.days_from_film is not None or mapping.known_at_film is not None
    if dated or not (mapping.group == "stay" or mapping.present_means is not None):
        return None
    return "assumed known when the image was taken, so pretraining may use it"


def unread(
    rows: pa.Table, times: pa.Array | None, plan: TableMapping, missing: Mapping[str, Mapping[str, int]]
) -> list[DataWarning]:
    """A warning for each time, variable and label of which (nearly) no filled cell could be read.

    `times` are the cells of `taken_at`, None without such a key. `missing` holds variables by name and labels by cohort
    column, as `Cohort.missing` does.
    """
    found: list[DataWarning] = []
    if times is not None:
        lost = missing["taken_at"].get(UNREADABLE, 0)
        formats = " or ".join(plan.taken_at_format)
        form = f"dates in the format of taken_at_format, {formats}" if formats else _DATE
        found += _lost("taken_at", int(pc.count(times).as_py()), lost, form)
    for key, entry in plan.ehr.items():
        found += _of_variable(key, rows, entry, missing[key])
    for key, label in plan.labels.items():
        found += _lost(key, _filled(rows, label), unusable(missing[LABEL_PREFIX + key]), _form(label))
    return found


def _of_variable(
    name: str, rows: pa.Table, mapping: VariableMapping, missing: Mapping[str, int]
) -> Iterator[DataWarning]:
    undated = missing.get(OUTSIDE, 0) + missing.get(NO_OFFSET, 0)
    filled, lost = _filled(rows, mapping), unusable(missing) - undated
    yield from _lost(name, filled, lost, _form(mapping))
    if mapping.days_from_film is not None:
        cells = rows[mapping.days_from_film]
        days, read = (int(pc.count(column).as_py()) for column in (cells, by_cell(cells, number, pa.float64())))
        yield from _lost(f"{name} (days_from_film)", days, days - read, _DAYS)
        yield from _lost(f"{name} (window_days)", filled - lost, missing.get(OUTSIDE, 0), _INSIDE)


def _lost(of: str, filled: int, lost: int, form: str) -> Iterator[DataWarning]:
    if filled and lost > _NEARLY_ALL * filled:
        share = "none" if lost == filled else f"only {filled - lost}"
        yield DataWarning(of, f"{share} of {filled} filled cells could be used", lost, f"expected {form}")


def _filled(rows: pa.Table, mapping: Cells) -> int:
    """The rows in which at least one of its columns is filled."""
    filled = [pc.is_valid(rows[name]) for name in (mapping.column, mapping.starts, mapping.ends) if name]
    return int(pc.sum(reduce(pc.or_, filled)).as_py() or 0)


def _form(mapping: Cells) -> str:
    """How its cells should be written."""
    if mapping.interval:
        return _DAYS
    if isinstance(mapping, LabelMapping) and not mapping.means_something:
        return "1, 0, -1 (uncertain), yes, no or blank, or lists of true, false and uncertain cells in the mapping"
    if not isinstance(mapping, VariableMapping) or mapping.kind == "boolean":
        return _TRUTHS if mapping.read_by_spelling else "the cells listed in the mapping, spelled as in the table"
    if mapping.kind == "categorical":
        return "the levels of the mapping, spelled as in the table, or levels: {cell: level}"
    assert mapping.range is not None
    low, high = mapping.range
    numbers = f"numbers from {low:g} to {high:g}, such as {(low + high) / 2:g}"
    if mapping.unit == "years":
        return f"{numbers}, or ages as in DICOM, such as 045Y"
    ages = "" if mapping.unit else " (for ages as in DICOM, such as 045Y, give unit: years in the mapping)"
    return numbers + ages
