"""Tables on disk -> cells of text, null if blank; errors name the missing file or column."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from chartray.errors import InputError
from chartray.records.missing import masked, tellable
from chartray.records.parsing import number
from chartray.wording import listed

_TABLES = (".csv", ".gz", ".txt", ".json", ".parquet", ".zip")
_LONGEST = 40
# Of a table that is read in parts.
_PART_BYTES = 4_000_000


def find_csv(folder: Path, stem: str) -> Path | None:
    """`stem`.csv, or else `stem`.csv.gz, in `folder`; None if there is neither."""
    return next((file for suffix in (".csv", ".csv.gz") if (file := folder / f"{stem}{suffix}").is_file()), None)


def need_csv(folder: Path, stem: str) -> Path:
    """As `find_csv`; raises InputError, with the folder's content, if there is neither."""
    file = find_csv(folder, stem)
    if file is None:
        raise InputError(f"expected {stem}.csv or {stem}.csv.gz in {folder}, found {folder_content(folder)}")
    return file


def folder_content(folder: Path) -> str:
    """A folder's content for an error message; names that may contain a patient's id are masked."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(entry.name for entry in folder.iterdir())
    told = (name if name.lower().endswith(_TABLES) or tellable(name) else masked(name) for name in names)
    return listed(list(dict.fromkeys(told)))


def columns_found(names: Sequence[str], most: int) -> str:
    """The names of columns for an error message; a table without a header begins with a patient's cells instead.

    >>> columns_found(["age", "sex"], 40), columns_found(["P0012345", "Doe^Jane"], 40)
    ('age, sex', '2 columns whose names look like cells; is the header missing?')
    """
    if any(number(name) is not None or "^" in name for name in names):
        return f"{len(names)} columns whose names look like cells; is the header missing?"
    return listed([name if name in likely_names(names) else masked(name) for name in names], most)


def need_columns(needed: Iterable[str], found: Sequence[str], where: str) -> None:
    """Raises InputError for the first needed column that the table does not have."""
    for column in needed:
        if column not in found:
            raise InputError(f"expected a column {column!r} in {where}, found {columns_found(found, 40)}")


def likely_names(names: Sequence[str]) -> list[str]:
    """The names that are safe to show: no date, no identifier."""
    return [name for name in names if tellable(name[:_LONGEST])]


def need_folder(folder: Path, what: str) -> Path:
    """The absolute path of an existing folder; raises InputError otherwise."""
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "none"
        raise InputError(f"expected a folder with {what} at {folder}, found {kind}; check the path")
    return folder.resolve()


def header(file: Path) -> list[str]:
    """The column names of a csv or csv.gz file."""
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            names = next(csv.reader(text, delimiter=_delimiter(file)), [])
    except UnicodeDecodeError:
        raise InputError(f"expected a csv table in UTF-8 in {file}, found other bytes; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"expected a csv table in {file}, found {without_cells(error)}") from None
    marks = ";\t|" if _delimiter(file) == "," else ""
    if len(names) == 1 and (other := next((mark for mark in marks if mark in names[0]), None)):
        raise InputError(f"expected columns separated by commas in {file}, found {other!r}; save it with commas")
    return names


def _delimiter(file: Path) -> str:
    """What separates the cells of a table: a tab in `.tsv`, else a comma."""
    return "\t" if file.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def refuse_same_names(columns: Sequence[str], found: Sequence[str], where: str) -> None:
    """Raises InputError if a needed column name occurs twice: it would be ambiguous."""
    for column in columns:
        places = [str(place) for place, name in enumerate(found, start=1) if name == column]
        if len(places) > 1:
            raise InputError(
                f"expected one column {column!r} in {where}, found {len(places)} with this name (columns "
                f"{', '.join(places)}); give each a different name"
            )


def read_cells(
    file: Path,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    repeating: Sequence[str] = (),
    types: Mapping[str, pa.DataType] | None = None,
) -> pa.Table:
    """The `needed` columns and the existing `optional` ones as trimmed text, null if blank, in file order.

    `repeating` columns, with few distinct texts, are dictionary-encoded. Those of `types` are read as numbers or times,
    which is faster, or all as text if one of their cells is not of its type.

    Raises InputError for a file that is not a csv table, and for a missing or repeated column.
    """
    columns = _needed(file, needed, optional)
    texts = dict.fromkeys(columns, pa.string()) | dict.fromkeys(repeating, pa.dictionary(pa.int32(), pa.string()))
    if types:
        try:
            return _read_csv(file, texts | {name: kind for name, kind in types.items() if name in texts})
        except (pa.ArrowException, OSError):
            pass  # a cell of another type: as text, the caller can tell which
    with _csv_errors(file):
        return _read_csv(file, texts)


def read_parts(
    file: Path, needed: Sequence[str], among: Mapping[str, Sequence[str]], optional: Sequence[str] = ()
) -> Iterator[tuple[npt.NDArray[np.int64], pa.Table]]:
    """As `read_cells`, but in parts, so that the table may be larger than the memory, and only some of the rows.

    `among`: column -> the cells whose rows are wanted. Each part has the data rows (from 1) that its rows stand in.
    """
    columns = _needed(file, needed, optional)
    wanted = {column: pa.array(cells, pa.string()) for column, cells in among.items()}
    row = 1
    with _csv_errors(file):
        _, *options = _options(file, dict.fromkeys(columns, pa.string()))
        for part in pacsv.open_csv(file, pacsv.ReadOptions(block_size=_PART_BYTES), *options):
            masks = [pc.is_in(pc.utf8_trim_whitespace(part[column]), cells) for column, cells in wanted.items()]
            places = np.arange(part.num_rows)
            if masks:
                places = np.flatnonzero(reduce(pc.and_, masks).to_numpy(zero_copy_only=False))
            if len(places):
                cells = pa.Table.from_batches([part]).take(pa.array(places))
                yield places + row, pa.table([_trimmed(column) for column in cells.columns], cells.column_names)
            row += part.num_rows


def _needed(file: Path, needed: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The columns to read; raises InputError for a missing or repeated one."""
    found = header(file)
    need_columns(needed, found, str(file))
    columns = list(dict.fromkeys([*needed, *(name for name in optional if name in found)]))
    refuse_same_names(columns, found, str(file))
    return columns


@contextmanager
def _csv_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # Arrow's message contains the row, and so may contain a patient.
        raise InputError(f"expected a csv table in {file}, found {_odd_row(file) or without_cells(error)}") from None


def _odd_row(file: Path) -> str | None:
    """The first row with another length than the header, or without UTF-8, in words that do not quote it."""
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            lines = csv.reader(text, delimiter=_delimiter(file))
            columns, row = len(next(lines, [])), 0
            for row, cells in enumerate(lines, start=1):
                if cells and len(cells) != columns:
                    return f"{len(cells)} cells instead of {columns} in data row {row}"
            if not row:
                return "only a header; download the file again"
    except UnicodeDecodeError:
        return "bytes that are not UTF-8; save it as UTF-8"
    except (OSError, csv.Error):
        pass
    return None


def _read_csv(file: Path, types: dict[str, pa.DataType]) -> pa.Table:
    cells = pacsv.read_csv(file, *_options(file, types))
    return pa.table([_trimmed(column) for column in cells.columns], cells.column_names)


def _options(
    file: Path, types: dict[str, pa.DataType]
) -> tuple[pacsv.ReadOptions, pacsv.ParseOptions, pacsv.ConvertOptions]:
    convert = pacsv.ConvertOptions(
        include_columns=list(types),
        column_types=types,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    parse = pacsv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True)
    return pacsv.ReadOptions(), parse, convert


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without surrounding spaces, null if empty."""
    if pa.types.is_dictionary(column.type):
        if all(text == text.strip() for chunk in column.chunks for text in chunk.dictionary.to_pylist()):
            return column
        return _trimmed(column.cast(pa.string())).dictionary_encode()
    if not pa.types.is_string(column.type):
        return column
    text = pc.utf8_trim_whitespace(column)
    return text if text.equals(column) else pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def without_cells(error: Exception) -> str:
    """The first line of a library's message, without the cells that it quotes.

    >>> without_cells(ValueError("CSV parse error: Row #3: Expected 4 columns, got 5: P1,Doe^Jane,a,b,c"))
    'CSV parse error: Row #3: Expected 4 columns, got 5'
    >>> without_cells(ValueError("conversion error to int64: invalid value 'P1'"))
    'conversion error to int64: invalid value ...'
    """
    line = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", first_line(error))
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", line)


def refuse_repeated(cells: pa.Table, key: str, file: Path) -> None:
    """Raises InputError if two rows have the same `key`: a join would count each twice."""
    encoded = cells[key].combine_chunks().dictionary_encode()
    given = encoded.indices.drop_null().to_numpy()
    if len(encoded.dictionary) == len(given):
        return
    twice = np.flatnonzero(np.bincount(given) > 1)[0]
    second = np.flatnonzero(encoded.indices.fill_null(-1).to_numpy() == twice)[1]
    raise InputError(f"expected each {key} once in {file}, found one repeated in data row {second + 1}")


def refuse_blank(cells: pa.Table, keys: Sequence[str], file: Path) -> None:
    """Raises InputError if a row lacks one of its `keys`."""
    for key in keys:
        if cells[key].null_count:
            row = int(np.flatnonzero(pc.is_null(cells[key]).to_numpy())[0]) + 1
            raise InputError(f"expected {key} in every row of {file}, found none in data row {row}")


def refuse_empty(cells: pa.Table, file: Path) -> None:
    """Raises InputError if the table has no rows, as after an incomplete download."""
    if not cells.num_rows:
        raise InputError(f"expected rows in {file}, found only a header; download the file again")
