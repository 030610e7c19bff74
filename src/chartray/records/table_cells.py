"""A hospital's own table, on disk or in a database -> its needed columns, with their types and as text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.records.reading import (
    columns_found,
    header,
    likely_names,
    read_cells,
    refuse_same_names,
    without_cells,
)
from chartray.wording import nearest, no_secret

if TYPE_CHECKING:
    from chartray.records.database import Database

_PARQUET = (".parquet", ".pq")
_WORKBOOK = (".xlsx", ".xls", ".xlsm", ".ods")


class OpenTable(NamedTuple):
    """A table's name as messages have it, its `columns`, and `read`, which reads some of them in the given order."""

    where: str
    columns: list[str]
    read: Callable[[list[str]], pa.Table]


def open_table(name: str) -> OpenTable:
    """A csv, whose cells are read as text, a Parquet file, or `URL#table` of a database, both with their types.

    Raises InputError for another kind of file, and `read` for cells that cannot be read.
    """
    if "://" in name:
        return _database_table(name)
    file = Path(name)
    if not file.is_file():
        raise InputError(f"expected a csv or Parquet table at {file}, found none; check the path")
    if file.suffix.lower() in _WORKBOOK:
        raise InputError(f"expected a csv or Parquet table, found the workbook {file}; save its sheet as CSV UTF-8")
    if file.suffix.lower() not in _PARQUET:
        return OpenTable(name, header(file), lambda columns: read_cells(file, columns).select(columns))
    with parquet_errors(file):
        parquet = pq.ParquetFile(file)

    def read(columns: list[str]) -> pa.Table:
        with parquet_errors(file):
            return parquet.read(columns=columns).select(columns)

    return OpenTable(name, parquet.schema_arrow.names, read)


@contextmanager
def parquet_errors(file: Path) -> Iterator[None]:
    """Turns what PyArrow says of a Parquet file into an InputError."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"expected a Parquet table in {file}, found {without_cells(error)}") from None


def text_cells(cells: pa.Table, where: str) -> pa.Table:
    """Every column as trimmed text, null if empty or NaN."""
    return pa.table({name: _texts(cells[name], name, where) for name in cells.column_names})


def _texts(column: pa.ChunkedArray, name: str, where: str) -> pa.Array:
    cells = column.combine_chunks()
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_floating(cells.type):
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
    if pa.types.is_duration(cells.type):
        _refuse_type(name, where, cells.type)
    try:
        texts = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        _refuse_type(name, where, cells.type)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _refuse_type(column: str, where: str, kind: object) -> NoReturn:
    raise InputError(
        f"expected text, numbers, booleans or times in column {column!r} of {where}, found cells of type {kind}; "
        "write them as text"
    ) from None


def _read_database(server: "Database", table: Any, columns: list[str], where: str) -> pa.Table:
    kinds = {column: table[column].type() for column in columns}
    for column, kind in kinds.items():
        if kind.is_nested():
            _refuse_type(column, where, kind)
    # Numbers keep their types, since a database may write one as 1e+16; the database converts all else to text. If that
    # fails (SQLite can have text in a column of numbers), everything is converted.
    typed = {column for column, kind in kinds.items() if kind.is_numeric() or kind.is_boolean()}
    with suppress(Exception):
        return _selected(table, columns, typed)
    with server.errors("to read", where):
        return _selected(table, columns, set())
    raise AssertionError("unreachable: the errors of a database are raised")


def _selected(table: Any, needed: Iterable[str], typed: set[str]) -> pa.Table:
    columns = {column: table[column] if column in typed else table[column].cast("string") for column in needed}
    cells: pa.Table = table.select(**columns).to_pyarrow()
    return cells


def _database_table(name: str) -> OpenTable:
    from chartray.records.database import Database  # imports Ibis

    url, _, table_name = name.rpartition("#")
    if not url or "@" in table_name:  # a # of the password
        raise InputError(f"expected the URL of a table such as ...#images, found no # in {no_secret(name)}")
    schema, _, short = table_name.rpartition(".")
    server = Database(url)
    table = server.table(short, [schema or None])
    where = no_secret(name)
    return OpenTable(where, table.columns, lambda columns: _read_database(server, table.table, columns, where))


def refuse_absent(needed: Mapping[str, str], found: Sequence[str], where: str, mapping: Path | None) -> None:
    """Raises InputError for a needed column that is absent or repeated; `needed`: column -> the mapping's key."""
    for column, key in needed.items():
        if column not in found:
            raise InputError(
                f"expected a column {column!r} in {where} ({key} of {mapping})"
                f"{nearest(column, likely_names(found))}; the table has {columns_found(found, 60)}"
            )
    refuse_same_names(list(needed), found, where)
