"""Tables as they lie on disk -> temporary tables of trimmed text, read once; what is missing is named."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import duckdb
import ibis

from chartray.errors import InputError

ROW = "row"


def connect() -> ibis.BaseBackend:
    """An empty DuckDB database in memory, where a cohort is put together."""
    return ibis.duckdb.connect()


def nearest(word: str, words: Sequence[str]) -> str:
    """`, did you mean 'x'?`, or nothing where no name is close."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for an error message, shortened.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def find_csv(folder: Path, stem: str) -> Path | None:
    """`stem`.csv or `stem`.csv.gz in `folder`; the unpacked one where both lie there."""
    return next((file for suffix in (".csv", ".csv.gz") if (file := folder / f"{stem}{suffix}").is_file()), None)


def need_csv(folder: Path, stem: str) -> Path:
    """As `find_csv`; raises InputError where there is neither, naming what the folder holds."""
    file = find_csv(folder, stem)
    if file is None:
        raise InputError(f"expected {stem}.csv or {stem}.csv.gz in {folder}, found {folder_content(folder)}")
    return file


def folder_content(folder: Path) -> str:
    """What a folder holds, for an error message."""
    if not folder.is_dir():
        return "no such folder"
    return listed(sorted(entry.name for entry in folder.iterdir()))


def need_folder(folder: Path, what: str) -> Path:
    """The absolute path of an existing folder; raises InputError otherwise."""
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing"
        raise InputError(f"expected a folder with {what} at {folder}, found {kind}; check the path")
    return folder.resolve()


def header(file: Path, connection: ibis.BaseBackend) -> list[str]:
    """The column names of a csv file, gzip or not."""
    return list(_scan(file, connection).columns)


def read_csv(
    file: Path, connection: ibis.BaseBackend, needed: Sequence[str], optional: Sequence[str] = ()
) -> ibis.Table:
    """The `needed` and those `optional` columns that exist, read once into a temporary table.

    Cells are text without spaces around, null where blank; `row` is the 1-based data row in file order.
    Raises InputError for a file that is no csv table or lacks a needed column (the columns found are named).
    """
    table = _scan(file, connection)
    for column in needed:
        if column not in table.columns:
            found = listed(list(table.columns), most=40)
            raise InputError(f"expected a column {column!r} in {file}, found {found}")
    columns = dict.fromkeys([*needed, *(name for name in optional if name in table.columns)])
    cells = {name: table[name].strip().nullif("") for name in columns}
    content = table.select(**cells).mutate(**{ROW: ibis.row_number().cast("int64") + 1})
    try:
        return connection.create_table(ibis.util.gen_name("csv"), content, temp=True)
    except duckdb.Error as error:
        raise InputError(f"expected a csv table in {file}, found {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def refuse_repeated(table: ibis.Table, key: str, file: Path) -> None:
    """Raises InputError if two rows of `table` have one `key`: joined, each would count twice."""
    keyed = table.filter(table[key].notnull())
    repeated = keyed.group_by(key).aggregate(rows=keyed.count(), last=keyed[ROW].max())
    first = repeated.filter(repeated["rows"] > 1).order_by("last").limit(1).to_pyarrow().to_pylist()
    if first:
        raise InputError(f"expected each {key} once in {file}, found one again in data row {first[0]['last']}")


def _scan(file: Path, connection: ibis.BaseBackend) -> ibis.Table:
    try:
        return connection.read_csv(str(file), all_varchar=True, header=True, delim=",", quote='"', escape='"')
    except duckdb.Error as error:
        raise InputError(f"expected a csv table in {file}, found {first_line(error)}") from None
