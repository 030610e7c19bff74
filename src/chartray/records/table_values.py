"""Text cells of a hospital's own table -> values, as its mapping defines; other cells are missing and counted."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.records.identifiers import placeholders_among
from chartray.records.mapping_entries import Cells, LabelMapping, VariableMapping
from chartray.records.missing import count_missing
from chartray.records.parsing import by_cell, formatted_moment, joined_moment, number, truth, years

OUTSIDE = "(outside window_days)"
NO_OFFSET = "(no days_from_film)"
_TYPES = {"numeric": pa.float64(), "categorical": pa.string(), "boolean": pa.bool_(), "interval": pa.bool_()}


def variable_cells(rows: pa.Table, mapping: VariableMapping) -> tuple[pa.Array, dict[str, int]]:
    """A chart variable's values, null if missing, and counts of its unusable cells by value."""
    if mapping.kind == "interval":
        return interval_cells(rows, mapping)
    cells = rows[mapping.column].combine_chunks()
    values = by_cell(cells, _reader(mapping), _TYPES[mapping.kind])
    if mapping.days_from_film is not None:
        offsets = by_cell(rows[mapping.days_from_film], number, pa.float64())
        low, high = (limit if limit is not None else math.inf * sign for limit, sign in _limits(mapping))
        inside = pc.and_(pc.greater_equal(offsets, low), pc.less_equal(offsets, high))
        why = pc.if_else(pc.is_valid(offsets), OUTSIDE, NO_OFFSET)
        lost = pc.and_(pc.is_valid(values), pc.invert(pc.fill_null(inside, False)))
        cells = pc.if_else(lost, why, cells)
        values = pc.if_else(lost, pa.scalar(None, values.type), values)
    blank = mapping.of_blank
    if blank is not None:
        values = pc.if_else(pc.is_null(cells), pa.scalar(blank), values)
    return values, count_missing(cells, values)


class LabelCells(NamedTuple):
    """A label's `values` (1, 0, -1 or null), counts of its unusable cells by value, and which cells are `blank`."""

    values: pa.Array
    missing: dict[str, int]
    blank: pa.Array


def label_cells(rows: pa.Table, mapping: LabelMapping) -> LabelCells:
    """A label as its mapping defines it; a blank cell is unknown unless the mapping gives it a meaning."""
    if mapping.kind == "interval":
        values, missing = interval_cells(rows, mapping)
        blank = pc.and_(*(pc.is_null(rows[column].combine_chunks()) for column in (mapping.starts, mapping.ends)))
        return LabelCells(values.cast(pa.int8()).cast(pa.float64()), missing, blank)
    cells = rows[mapping.column].combine_chunks()
    blank = pc.is_null(cells)
    listed = mapping.means_something
    read = by_cell(cells, _label_reader(mapping) if listed else _plain_label, pa.float64())
    meant = {"negative": 0.0, "positive": 1.0, "uncertain": -1.0}.get(mapping.blank)
    values = read if meant is None else pc.if_else(blank, pa.scalar(meant), read)
    if mapping.unknown_cells:  # said to mean nothing, so that they are not unreadable
        nothing = by_cell(
            cells, lambda cell: _among(_items(cell, mapping.separator), mapping.unknown_cells), pa.bool_()
        )
        cells = pc.if_else(nothing.fill_null(False), pa.scalar(None, pa.string()), cells)
    return LabelCells(values, count_missing(cells, values), blank)


def interval_cells(rows: pa.Table, mapping: Cells) -> tuple[pa.Array, dict[str, int]]:
    """Whether the image (day 0) is between two offsets, inclusive; one known offset can be enough for false."""
    texts = [rows[column].combine_chunks() for column in (mapping.starts, mapping.ends)]
    starts, ends = (by_cell(text, number, pa.float64()) for text in texts)
    backwards = pc.fill_null(pc.greater(starts, ends), False)
    inside = pc.and_kleene(pc.less_equal(starts, 0.0), pc.greater_equal(ends, 0.0))
    values = pc.if_else(backwards, pa.scalar(None, pa.bool_()), inside)
    absent = pc.and_(pc.is_null(texts[0]), pc.is_null(texts[1]))
    if mapping.absent_means is not None:
        values = pc.if_else(absent, pa.scalar(mapping.absent_means), values)
    shown = [pc.fill_null(text, "") for text in texts]
    cells = pc.if_else(absent, pa.scalar(None, pa.string()), pc.binary_join_element_wise(*shown, ".."))
    return values, count_missing(cells, values)


def time_reader(formats: Sequence[str]) -> Callable[[str], datetime | None]:
    """The function that parses the text of a time, by the mapping's `formats` or else the common ones."""
    return (lambda cell: formatted_moment(cell, formats)) if formats else joined_moment


def _limits(mapping: VariableMapping) -> list[tuple[float | None, int]]:
    return list(zip(mapping.window_days, (-1, 1), strict=True))


def _reader(mapping: VariableMapping) -> Callable[[str], Any]:
    if mapping.kind == "categorical":
        levels = mapping.levels
        return lambda cell: next((level for text, level in levels.items() if _same(cell, text)), None)
    if mapping.kind == "boolean":
        return _boolean_reader(mapping)
    assert mapping.range is not None
    low, high = mapping.range

    read = years if mapping.unit == "years" else number

    def in_range(cell: str) -> float | None:
        value = read(cell)
        return value if value is not None and low <= value <= high else None

    return in_range


def _boolean_reader(mapping: Cells) -> Callable[[str], bool | None]:
    if mapping.present_means is not None:
        # A filled cell means present, but `NULL`, `?` and `no` are ambiguous.
        return lambda cell: None if _says_nothing(cell) else mapping.present_means
    if mapping.read_by_spelling:
        return truth

    def listed(cell: str) -> bool | None:
        items = _items(cell, mapping.separator)
        if _among(items, mapping.true_cells):
            return True
        if _among(items, mapping.false_cells):
            return False
        # A cell that names nothing, such as `[]` or `?`, does not say that the finding is absent.
        named = mapping.others_mean is not None and any(not _placeholder(item) for item in items)
        return mapping.others_mean if named else None

    return listed


def _items(cell: str, separator: str | None) -> list[str]:
    """The findings in a cell; brackets and quotes around a list as Python writes it are left out.

    >>> _items("['pleural effusion', 'nodule']", ","), _items("No finding", None), _items("[]", ",")
    (['pleural effusion', 'nodule'], ['No finding'], [])
    """
    if separator is None:
        return [cell]
    parts = (part.strip().strip("'\"").strip() for part in cell.strip().strip("[](){}").split(separator))
    return [part for part in parts if part]


def _among(items: Sequence[str], texts: Sequence[str]) -> bool:
    return any(_same(item, text) for item in items for text in texts)


def _placeholder(cell: str) -> bool:
    return bool(placeholders_among(pa.array([cell]))[0].as_py())


def _says_nothing(cell: str) -> bool:
    return bool(_placeholder(cell) or (truth(cell) is False and number(cell) is None))


def _label_reader(mapping: LabelMapping) -> Callable[[str], float | None]:
    certain = _boolean_reader(mapping)

    def listed(cell: str) -> float | None:
        items = _items(cell, mapping.separator)
        stated = _among(items, mapping.true_cells)
        if not stated and _among(items, mapping.unknown_cells):
            return None
        if not stated and _among(items, mapping.uncertain_cells):
            return -1.0
        value = certain(cell)
        return None if value is None else float(value)

    return listed


def _plain_label(cell: str) -> float | None:
    """1, 0 or -1, or a boolean in a common spelling."""
    value = number(cell)
    if value in (1.0, 0.0, -1.0):
        return value
    said = truth(cell)
    return None if said is None else float(said)


def _same(cell: str, text: str) -> bool:
    """Whether two texts are equal, also as numbers: a database writes the level 1 as 1.0."""
    return cell == text or (number(cell) is not None and number(cell) == number(text))
