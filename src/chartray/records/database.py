"""Tables of a database, through Ibis, and a sentence for what goes wrong; in its own module since Ibis takes a second.

Tried with DuckDB, SQLite and PostgreSQL.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ibis
import pyarrow as pa
from ibis.common.exceptions import IbisError, TableNotFound

from chartray.errors import InputError
from chartray.extras import need_extra
from chartray.records.reading import need_columns
from chartray.wording import listed, no_secret

# Rows that are in memory at once while a table is read in parts: PostgreSQL's driver has each cell as an object.
_ROWS_AT_ONCE = 50_000
# What PostgreSQL says -> what was found, and what to do. Its own text may contain a password, a user or a row.
_SAID = {
    "password authentication failed": ("a refused password", "check user and password"),
    "no password supplied": ("no password", "give it in the URL, in PGPASSWORD or in ~/.pgpass"),
    "no pg_hba.conf entry": ("a server that does not let this user in from here", "ask who runs it"),
    "connection refused": ("no server", "check host and port"),
    "could not translate host name": ("no such host", "check the host"),
    "failed to resolve host": ("no such host", "check the host"),
    "permission denied": ("a user without the right to read it", "ask who runs the database for SELECT (and USAGE)"),
    "statement timeout": ("a query that the server ended", "ask who runs it for a longer statement_timeout"),
    "timeout": ("no answer in time", "check host and port"),
    "terminating connection": ("a connection that the server ended", "run the command again"),
    "server closed the connection": ("a connection that the server ended", "run the command again"),
}


class DatabaseTable(NamedTuple):
    """A table of a database: what Ibis has of it, its name in messages, and its columns."""

    table: Any
    where: str
    columns: list[str]


class Database:
    """A connection; its methods raise InputError with what is missing, never with a password or a row."""

    def __init__(self, url: str) -> None:
        self.name = no_secret(url)
        scheme = url.partition("://")[0]
        if scheme in ("postgres", "postgresql"):
            need_extra("postgres", self.name)
        try:
            with self.errors("a database", self.name):
                self._server = ibis.connect(url)
        except ImportError:
            how = f'pip install "ibis-framework[{scheme}]"'
            raise InputError(f"expected the driver of {self.name}, found it not installed; {how}") from None

    def table(self, name: str, schemas: Sequence[str | None]) -> DatabaseTable:
        """The table in the first of the `schemas` that has it; None: where the database looks by itself."""
        for schema in schemas:
            found = None
            with self.errors(f"the table {name!r}", self.name):
                try:
                    found = self._server.table(name, database=schema)
                except (IbisError, TableNotFound):
                    continue
                except Exception as error:
                    if _says(error) or isinstance(error, ImportError):
                        raise
                    continue  # each backend has its own error for a schema that is not there
            return DatabaseTable(found, f"{name} of {self.name}", list(found.columns))
        places = [f"schema {schema!r}" if schema else "no schema" for schema in schemas]
        raise InputError(
            f"expected a table {name!r} in {self.name}, in {listed(places)}, found none; check base and name"
        )

    def texts(
        self, table: DatabaseTable, columns: Sequence[str], among: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[pa.Table]:
        """The `columns` as text, null if blank, in parts; `among`: column -> the cells whose rows are wanted."""
        need_columns(columns, table.columns, table.where)
        rows = table.table
        for column, cells in (among or {}).items():
            # Compared in the column's own type, so that the database can use its index.
            whole = rows[column].type().is_integer()
            rows = rows.filter(rows[column].isin([int(cell) for cell in cells] if whole else list(cells)))
        rows = rows.select(**{name: rows[name].cast("string").nullif("") for name in columns})
        with self.errors("to read", table.where):
            for part in self._parts(rows):
                yield pa.Table.from_batches([part])

    def _parts(self, rows: Any) -> Iterator[pa.RecordBatch]:
        if self._server.name != "duckdb":
            yield from rows.to_pyarrow_batches(chunk_size=_ROWS_AT_ONCE)
            return
        # Ibis 12 asks DuckDB 2 for `fetch_record_batch`, which its connections no longer have.
        yield from self._server.con.sql(rows.compile()).to_arrow_reader(_ROWS_AT_ONCE)

    def text(self, table: DatabaseTable, columns: Sequence[str]) -> pa.Table:
        """As `texts`, the whole table at once."""
        schema = pa.schema([(name, pa.string()) for name in columns])
        return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in self.texts(table, columns))])

    @contextmanager
    def errors(self, expected: str, where: str) -> Iterator[None]:
        """Turns any error of the database into an InputError: "expected `expected` at `where`, found ..."."""
        try:
            yield
        except (InputError, ImportError):
            raise
        except Exception as error:  # each backend has its own
            found, remedy = _says(error) or (f"no way to it ({type(error).__name__})", "see the database's log")
            at = "" if expected == "to read" else " at"
            raise InputError(f"expected {expected}{at} {where}, found {found}; {remedy}") from None


def _says(error: Exception) -> tuple[str, str] | None:
    """What was found and what to do, if the error is a known one."""
    text = str(error).lower()
    if "database" in text and "does not exist" in text:
        return "no base of this name", "check the end of the URL"
    if "role" in text and "does not exist" in text:
        return "no user of this name", "check the user in the URL"
    return next((said for words, said in _SAID.items() if words in text), None)
