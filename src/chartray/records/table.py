"""A hospital's own table and its mapping file -> cohort; a cell that the mapping does not foresee is missing."""

import string
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.cells import label_cells, variable_cells
from chartray.records.cohort import (
    Cohort,
    Step,
    assemble,
    hashed_split,
    refuse_shared_patients,
)
from chartray.records.database import connect, connect_database
from chartray.records.doubts import undecided, unread
from chartray.records.labels import blank_column
from chartray.records.mapping import Mapping, read_mapping
from chartray.records.missing import count_unreadable, shown
from chartray.records.reading import first_line, header, listed, nearest, need_folder, no_secret, read_cells
from chartray.records.values import by_cell, moment
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, SPLITS, CohortMetadata, LabelSource

_SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "validate", "val": "validate", "validation": "validate"}
_PARQUET = (".parquet", ".pq")
_IDS = ("image_id", "patient_id", "study_id", "taken_at", "split")


def table_cohort(file: Path | str, mapping: Path, images: Path) -> Cohort:
    """One row a film of `file`: a csv, a Parquet file, or `URL#table` of a database, read as `mapping` says.

    `images` is the folder that paths are relative to; films may be absent from it. Cells outside a variable's
    levels, range or lists are missing and counted, by value where it may be told. Raises InputError for a column
    that the table lacks.
    """
    plan = read_mapping(mapping)
    root = need_folder(images, "the films")
    name = str(file)
    rows, flow = _identified(_open(name, _columns(plan), mapping), plan, name)
    missing: dict[str, dict[str, int]] = {}
    columns: dict[str, Any] = {"image_id": rows[plan.image_id], "patient_id": rows[plan.patient_id]}
    columns["study_id"] = rows[plan.study_id] if plan.study_id else pa.nulls(rows.num_rows, pa.string())
    columns["taken_at"] = _times(rows, plan.taken_at, missing)
    columns["path"] = _paths(rows, plan, root)
    columns["split"] = rows["_split"]
    for key, entry in plan.ehr.items():
        columns[EHR_PREFIX + key], missing[key] = variable_cells(rows, entry)
    for key, label in plan.labels.items():
        read = label_cells(rows, label)
        missing[LABEL_PREFIX + key] = read.missing
        columns |= {LABEL_PREFIX + key: read.values} | blank_column(key, read.values, read.blank)
    metadata = CohortMetadata(
        source=plan.name or Path(no_secret(name).partition("#")[2] or name).stem,
        variables={key: entry.described() for key, entry in plan.ehr.items()},
        labels={key: LabelSource(columns=label.columns, blank=label.blank) for key, label in plan.labels.items()},
        image_root=str(root),
    )
    cautions = unread(rows, plan, missing)
    return Cohort(assemble(columns, metadata), flow + undecided(rows, plan), {}, missing, cautions=cautions)


def _columns(plan: Mapping) -> dict[str, str]:
    """Each column of the table that is needed, and where the mapping names it."""
    needed = {column: key for key in _IDS if (column := getattr(plan, key)) is not None}
    for name in _template_columns(plan):
        needed.setdefault(name, "path")
    for section, entries in (("ehr", plan.ehr), ("labels", plan.labels)):
        for key, entry in entries.items():
            for column in entry.columns:
                needed.setdefault(column, f"{section}.{key}")
    return needed


def _template_columns(plan: Mapping) -> list[str]:
    """Columns of the path: the one it names, or those between the braces of its template (ids by their own name)."""
    if "{" not in plan.path:
        return [plan.path]
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(plan.path) if name is not None]
    except ValueError as error:
        raise InputError(f"expected a path template such as {{image_id}}.jpg, found {plan.path!r}: {error}") from None
    return [getattr(plan, name, None) or name if name in _IDS else name for name in names]


def _open(name: str, needed: dict[str, str], mapping: Path) -> pa.Table:
    """The needed columns as trimmed text, null where blank, in file order."""
    if "://" in name:
        table = _database_table(name)
    else:
        file = Path(name)
        if not file.is_file():
            raise InputError(f"expected a csv or Parquet table at {file}, found none; check the path")
        if file.suffix not in _PARQUET:
            _refuse_absent(needed, header(file), name, mapping)
            return _trimmed(read_cells(file, list(needed)))
        try:
            table = connect().read_parquet(str(file))
        except duckdb.Error as error:
            raise InputError(f"expected a Parquet table in {file}, found {first_line(error)}") from None
    _refuse_absent(needed, list(table.columns), name, mapping)
    return _trimmed(table.select(**{column: table[column].cast("string") for column in needed}).to_pyarrow())


def _trimmed(cells: pa.Table) -> pa.Table:
    """Without spaces around the cells, and null where nothing is left."""
    texts = [pc.utf8_trim_whitespace(cell.cast(pa.string())) for cell in cells.columns]
    return pa.table(
        {
            name: pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
            for name, text in zip(cells.column_names, texts, strict=True)
        }
    )


def _database_table(name: str) -> ibis.Table:
    url, _, table_name = name.partition("#")
    if not table_name:
        raise InputError(f"expected a table after # in {no_secret(url)}, such as ...#films, found none")
    schema, _, short = table_name.rpartition(".")
    server = connect_database(url)
    try:
        return server.table(short, database=schema or None)
    except Exception:  # each backend has its own error for a table that is not there
        raise InputError(f"expected a table {table_name!r} in {no_secret(url)}, found none") from None


def _refuse_absent(needed: dict[str, str], found: list[str], name: str, mapping: Path) -> None:
    for column, key in needed.items():
        if column not in found:
            raise InputError(
                f"expected a column {column!r} in {no_secret(name)} (as {key} of {mapping} says)"
                f"{nearest(column, found)}; the table has {listed(found, most=60)}"
            )


def _identified(rows: pa.Table, plan: Mapping, name: str) -> tuple[pa.Table, list[Step]]:
    """Rows with ids, path and split (in column `_split`), and the steps that left them."""
    flow = [Step(f"rows of {Path(no_secret(name)).name}", rows.num_rows, rows.num_rows)]
    # Where each row that is left stood in the file, from 1: whoever looks for it there counts the blank ones too.
    places = np.arange(1, rows.num_rows + 1)
    for key, columns in {
        "image_id": [plan.image_id],
        "patient_id": [plan.patient_id],
        "path": _template_columns(plan),
        **({"split": [plan.split]} if plan.split else {}),
    }.items():
        before = rows.num_rows
        for column in columns:
            given = pc.is_valid(rows[column])
            rows, places = rows.filter(given), places[given.to_numpy()]
        if rows.num_rows < before:
            flow.append(Step(f"{key} given", before, rows.num_rows, f"blank in column {', '.join(columns)}"))
    _refuse_repeated(rows[plan.image_id], places, name)
    if plan.split is None:
        shares = {split: plan.split_shares[split] for split in SPLITS}
        drawn = hashed_split(rows[plan.patient_id], shares, flow, "no split column")
        return rows.append_column("_split", drawn), flow
    cells = rows[plan.split].to_pylist()
    other = next((row for row, cell in enumerate(cells) if cell.lower() not in _SPLIT_NAMES), None)
    if other is not None:
        raise InputError(
            f"expected {', '.join(SPLITS)} in column {plan.split!r} of {no_secret(name)}, found {shown(cells[other])} "
            f"in data row {places[other]}"
        )
    rows = rows.append_column("_split", pa.array([_SPLIT_NAMES[cell.lower()] for cell in cells], pa.string()))
    refuse_shared_patients(rows[plan.patient_id], rows["_split"], f"column {plan.split!r} of {no_secret(name)}")
    return rows, flow


def _refuse_repeated(ids: pa.ChunkedArray, places: npt.NDArray[np.int64], name: str) -> None:
    if len(pc.unique(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    for row, value in zip(places.tolist(), ids.to_pylist(), strict=True):
        if value in first:
            raise InputError(
                f"expected each image_id once in {no_secret(name)}, found the one of data row {first[value]} again in "
                f"data row {row} (the row after the header is 1); give every film an id of its own"
            )
        first[value] = row


def _paths(rows: pa.Table, plan: Mapping, root: Path) -> pa.Array:
    if "{" not in plan.path:
        names = rows[plan.path].to_pylist()
    else:
        fields = {key: column for key in _IDS if (column := getattr(plan, key)) is not None}
        fields = {column: column for column in _template_columns(plan)} | fields
        cells = {key: rows[column].to_pylist() for key, column in fields.items()}
        names = [plan.path.format_map(dict(zip(cells, row, strict=True))) for row in zip(*cells.values(), strict=True)]
    return pa.array([str(root / name) for name in names], pa.string())


def _times(rows: pa.Table, column: str | None, missing: dict[str, dict[str, int]]) -> pa.Array:
    if column is None:
        return pa.nulls(rows.num_rows, pa.timestamp("us"))
    times = by_cell(rows[column], moment, pa.timestamp("us"))
    missing["taken_at"] = count_unreadable(rows[column], times)
    return times
