"""An OMOP CDM 5.4 base as events, from csv or Parquet files or from a database: read in parts.

Codes: `gender/8507` and `birth` of person, `death`, `visit/9201` of visit_occurrence, `visit_detail/32037`, and
`measurement/3016723` (its source value where the concept is 0).
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.records.events import ALWAYS, EventPart
from chartray.records.identifiers import canonical_ids, whole_numbers
from chartray.records.linking import NOBODY, Integers, Times, from_end_of_day
from chartray.records.measurements import DatedCells
from chartray.records.mimic_times import moments_of_part
from chartray.records.parsing import by_cell, number
from chartray.records.reading import find_csv, folder_content, need_columns, read_parts
from chartray.records.table_cells import open_table, parquet_errors, text_cells
from chartray.wording import no_secret

_NEVER = np.datetime64("NaT", "us")


class _Kind(NamedTuple):
    """A kind of event: its table, the column of its code (None: the kind alone), and its times."""

    table: str
    concept: str | None
    times: tuple[str, ...]
    ends: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return ["person_id", *([self.concept] if self.concept else []), *self.times, *self.ends, *self.more]


_VISIT = ("visit_start_datetime", "visit_start_date"), ("visit_end_datetime", "visit_end_date")
_DETAIL = tuple(tuple(name.replace("visit_", "visit_detail_") for name in names) for names in _VISIT)
_KINDS = {
    "gender": _Kind("person", "gender_concept_id", ()),
    "birth": _Kind("person", None, ("birth_datetime",), more=("year_of_birth", "month_of_birth", "day_of_birth")),
    "death": _Kind("death", None, ("death_datetime", "death_date")),
    "visit": _Kind("visit_occurrence", "visit_concept_id", *_VISIT),
    "visit_detail": _Kind("visit_detail", "visit_detail_concept_id", *_DETAIL),
    "measurement": _Kind(
        "measurement",
        "measurement_concept_id",
        ("measurement_datetime", "measurement_date"),
        more=("measurement_source_value", "value_as_number", "unit_concept_id", "unit_source_value"),
    ),
}


class OmopEvents:
    """The events of a base; `stored` is a further column of measurement, `key` the column of person with the id."""

    def __init__(self, place: str, stored: str | None, key: str) -> None:
        self.where, self._place, self._stored, self._key = no_secret(place), place, stored, key

    def patients(self, ids: pa.StringArray) -> Integers:
        parts = list(self._rows("person", list(dict.fromkeys(["person_id", self._key])), []))
        if not any(part.num_rows for part in parts):
            raise InputError(f"expected persons in the table person of {self.where}, found none; check the base")
        persons = pa.concat_tables(parts)
        numbers = _numbers(persons, self.where)
        keys = canonical_ids(persons[self._key], f"column {self._key!r}", self.where)
        place = pc.index_in(ids, value_set=keys.drop_null())
        known = pa.array(numbers[pc.is_valid(keys).to_numpy(zero_copy_only=False)])
        found: Integers = known.take(place).fill_null(NOBODY).to_numpy()
        return found

    def parts(self, patterns: Sequence[str]) -> Iterator[EventPart]:
        """The events of every kind that a pattern names."""
        kinds = [kind for kind in _KINDS if any(fnmatchcase(kind, each.partition("/")[0]) for each in patterns)]
        unknown = next(
            (each for each in patterns if not any(fnmatchcase(k, each.partition("/")[0]) for k in _KINDS)), None
        )
        if unknown is not None:
            raise InputError(f"expected codes that begin with {', '.join(_KINDS)}, found {unknown!r}")
        for name in kinds:
            kind = _KINDS[name]
            stored = [self._stored] if self._stored and name == "measurement" else []
            concepts = [each.partition("/")[2] for each in patterns if each.partition("/")[0] == name]
            for cells in self._rows(kind.table, [*kind.columns, *stored], concepts):
                yield self._events(name, kind, cells, stored)

    def _events(self, name: str, kind: _Kind, cells: pa.Table, stored: list[str]) -> EventPart:
        where, rows = f"{kind.table} of {self.where}", cells.num_rows
        at = self._times(cells, kind.times, where) if kind.times else np.full(rows, ALWAYS)
        if name == "birth":
            at = _births(cells, at)
        known = self._times(cells, stored, where) if stored else at
        ends = self._times(cells, kind.ends, where) if kind.ends else np.full(rows, _NEVER)
        code = pa.array([name] * rows, pa.string())
        if kind.concept is not None:
            concept = cells[kind.concept].combine_chunks()
            if name == "measurement":
                source = cells["measurement_source_value"].combine_chunks()
                concept = pc.if_else(pc.equal(concept, "0"), source, concept)
            code = pc.binary_join_element_wise(code, pc.fill_null(concept, "0"), "/")
        value, unit = pa.nulls(rows, pa.float64()), pa.nulls(rows, pa.string())
        if name == "measurement":
            value = by_cell(cells["value_as_number"], number, pa.float64())
            unit = pc.coalesce(cells["unit_source_value"], cells["unit_concept_id"]).combine_chunks()
        return EventPart(DatedCells(_numbers(cells, where), code, value, unit, at, known), ends)

    def _times(self, cells: pa.Table, columns: Sequence[str], where: str) -> Times:
        """The first of the columns that is filled; a date alone counts from the end of its day."""
        found = np.full(cells.num_rows, _NEVER)
        for column in columns:
            at, date_only = moments_of_part(cells[column], column, where, None)
            found = np.where(np.isnat(found), from_end_of_day(at, date_only), found)
        return found

    def _rows(self, table: str, columns: list[str], concepts: Sequence[str]) -> Iterator[pa.Table]:
        """The columns of a table; times and units are optional, the ids and the concept are not."""
        exact = bool(concepts) and table == "measurement" and all(each.isdigit() for each in concepts)
        among = {"measurement_concept_id": concepts} if exact else {}
        ids = ("person_id", self._key, self._stored)
        needed = [name for name in columns if name in ids or name.endswith("_concept_id")]
        return read_rows(self._place, table, columns, [name for name in needed if name != "unit_concept_id"], among)


def read_rows(
    place: str,
    table: str,
    columns: Sequence[str],
    needed: Sequence[str],
    among: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[pa.Table]:
    """The columns of a table of a base as text, in parts, null where it has none that is not `needed`.

    `among`: cells of a column that rows are wanted of; others may be there too.
    """
    if "://" in place:
        from chartray.records.database import Database  # imports Ibis

        url, _, schema = place.rpartition("#") if "#" in place else (place, "", "")
        server = Database(url)
        found = server.table(table, [schema or None])
        need_columns(needed, found.columns, found.where)
        there = [column for column in columns if column in found.columns]
        for part in server.texts(found, there, among or {}):
            yield _with_all(part, columns)
        return
    root = Path(place)
    parquet = root / f"{table}.parquet"
    file = parquet if parquet.is_file() else find_csv(root, table)
    if file is None:
        found_there = folder_content(root)
        raise InputError(f"expected {table}.csv[.gz] or {table}.parquet of OMOP in {root}, found {found_there}")
    names = open_table(str(file)).columns
    need_columns(needed, names, str(file))
    there = [column for column in columns if column in names]
    if file == parquet:
        with parquet_errors(file), pq.ParquetFile(file) as stream:
            for batch in stream.iter_batches(columns=there):
                yield _with_all(text_cells(pa.Table.from_batches([batch]), str(file)), columns)
        return
    for _, part in read_parts(file, there, among or {}):
        yield _with_all(part, columns)


def _with_all(part: pa.Table, columns: Sequence[str]) -> pa.Table:
    nothing = pa.nulls(part.num_rows, pa.string())
    return pa.table({name: part[name] if name in part.column_names else nothing for name in columns})


def _numbers(cells: pa.Table, where: str) -> Integers:
    found: Integers = whole_numbers(cells["person_id"], "person_id", where).fill_null(NOBODY).to_numpy()
    return found


def _births(cells: pa.Table, at: Times) -> Times:
    """The time of birth, else the middle of what is known of it: of the month, or of the year."""
    year, month, day = (
        by_cell(cells[name], number, pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        for name in ("year_of_birth", "month_of_birth", "day_of_birth")
    )
    found = at.copy()
    for row in np.flatnonzero(np.isnat(at) & ~np.isnan(year)):
        y = int(year[row])
        m, d = (7, 2) if np.isnan(month[row]) else (int(month[row]), 15 if np.isnan(day[row]) else int(day[row]))
        try:
            found[row] = np.datetime64(f"{y:04d}-{m:02d}-{d:02d}", "us")
        except ValueError:
            continue
    return found
