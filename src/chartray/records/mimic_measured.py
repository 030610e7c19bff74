"""MIMIC-IV's laboratory and vital values as of each image, from the files or a database: read in parts, never whole."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.catalogue import Quantity
from chartray.records.linking import NOBODY, ImageTimes, Integers, Times, from_end_of_day
from chartray.records.measurements import AsOfImages, DatedCells, MeasuredValues
from chartray.records.mimic_tables import schemas_of
from chartray.records.mimic_times import moments_of_part
from chartray.records.parsing import by_cell, number
from chartray.records.reading import need_csv, read_parts
from chartray.wording import listed, no_secret


class _Layout(NamedTuple):
    """A table with measured values: its folder, and its columns. `unit` and `stored` may be missing."""

    folder: str
    code: str
    value: str
    at: str
    unit: str | None = None
    stored: str | None = None

    @property
    def columns(self) -> list[str]:
        return [name for name in ("subject_id", *self[1:]) if name is not None]


_LAYOUTS = {
    "labevents": _Layout("hosp", "itemid", "valuenum", "charttime", "valueuom", "storetime"),
    "chartevents": _Layout("icu", "itemid", "valuenum", "charttime", "valueuom", "storetime"),
    # Dates alone, and the unit in the name of the result.
    "omr": _Layout("hosp", "result_name", "result_value", "chartdate"),
}


class _Part(NamedTuple):
    """Some rows as text, where they are, and their data rows (None: of a database)."""

    cells: pa.Table
    where: str
    rows: Integers | None


def measured_of_images(
    where: str, images: ImageTimes, quantities: Mapping[str, Quantity], window_hours: float | None = None
) -> MeasuredValues:
    """The last value of each quantity for each image, inside its window and stored by then.

    `where`: the folder of MIMIC-IV, or the URL of a database. Raises InputError for a missing table or column, and for
    ids and times in another form.
    """
    join = AsOfImages([entry.measurement(name, window_hours) for name, entry in quantities.items()], images)
    for table in dict.fromkeys(entry.table for entry in quantities.values()):
        items = [str(item) for entry in quantities.values() if entry.table == table for item in entry.items]
        layout, rows = _LAYOUTS[table], 0
        read = _from_database if "://" in where else _from_files
        for part in read(where, table, items):
            rows += part.cells.num_rows
            join.add(_dated(part, layout))
        if not rows:
            raise InputError(
                f"expected rows of {layout.code} {listed(items)} in {table} of {no_secret(where)}, found none; "
                "download the table again, or leave these variables out of --measured"
            )
    return join.found()


def _from_files(root: str, table: str, items: Sequence[str]) -> Iterator[_Part]:
    layout = _LAYOUTS[table]
    file = need_csv(Path(root) / layout.folder, table)
    for rows, cells in read_parts(file, layout.columns, {layout.code: items}):
        yield _Part(cells, str(file), rows)


def _from_database(url: str, name: str, items: Sequence[str]) -> Iterator[_Part]:
    from chartray.records.database import Database  # imports Ibis

    server, layout = Database(url), _LAYOUTS[name]
    table = server.table(name, schemas_of(name))
    for cells in server.texts(table, layout.columns, {layout.code: items}):
        yield _Part(cells, table.where, None)


def _dated(part: _Part, layout: _Layout) -> DatedCells:
    """The rows with their patients as numbers and their times; a date alone counts from the end of its day."""
    cells = part.cells
    code = cells[layout.code].combine_chunks()
    if layout.unit is None:
        unit = pc.struct_field(pc.extract_regex(code, r"\((?P<unit>[^)]*)\)"), "unit")
    else:
        unit = cells[layout.unit].combine_chunks()
    at = _times(part, layout.at)
    known = at if layout.stored is None else _times(part, layout.stored)
    value = by_cell(cells[layout.value], number, pa.float64())
    return DatedCells(_patients(part), code, value, unit, at, known)


def _times(part: _Part, column: str) -> Times:
    return from_end_of_day(*moments_of_part(part.cells[column], column, part.where, part.rows))


def _patients(part: _Part) -> Integers:
    texts = part.cells["subject_id"].combine_chunks()
    try:
        found = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        found = by_cell(texts, _whole, pa.int64())
    wrong = np.flatnonzero(pc.and_(pc.is_valid(texts), pc.is_null(found)).to_numpy(zero_copy_only=False))
    if wrong.size:
        row = "" if part.rows is None else f" in data row {part.rows[wrong[0]]}"
        raise InputError(f"expected whole numbers as subject_id of {part.where}, found another form{row}; correct it")
    patients: Integers = found.fill_null(NOBODY).to_numpy(zero_copy_only=False)
    return patients


def _whole(cell: str) -> int | None:
    value = number(cell)
    return int(value) if value is not None and value.is_integer() else None
