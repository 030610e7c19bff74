"""The DuckDB database in which small tables are put together, and a hospital's own: all that needs Ibis.

Importing Ibis and its backend takes a second, so what can do without does (mimic.py, of csv files).
"""

from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from chartray.errors import InputError
from chartray.records.reading import first_line, no_secret

ROW = "row"


def connect() -> ibis.BaseBackend:
    """An empty DuckDB database in memory, where a cohort is put together."""
    return ibis.duckdb.connect()


def offered(cells: pa.Table, connection: ibis.BaseBackend) -> ibis.Table:
    """`cells` as a table of the database, without a copy, and `row`, their 1-based order."""
    name = ibis.util.gen_name("cells")
    rows = pa.array(np.arange(1, cells.num_rows + 1))
    connection.con.register(name, cells.append_column(ROW, rows))
    return connection.table(name)


def fetch(table: ibis.Table, connection: ibis.BaseBackend) -> pa.Table:
    """Runs an expression over temporary tables.

    Not through `to_pyarrow`, which imports pandas for it: half a second.
    """
    return connection.con.sql(connection.compile(table)).to_arrow_table()


def first_row(table: ibis.Table, connection: ibis.BaseBackend) -> int | None:
    """The first data row of `table`, None where it has none."""
    row: int | None = fetch(table.aggregate(first=table[ROW].min()), connection)["first"][0].as_py()
    return row


def connect_database(url: str) -> Any:
    """Connects to a database by URL through Ibis; raises InputError with the reason where it cannot."""
    try:
        return ibis.connect(url)
    except ImportError as error:
        raise InputError(
            f"expected Ibis's driver for {no_secret(url)}, found none installed: {first_line(error)}"
        ) from None
    except Exception as error:  # each backend has its own
        raise InputError(
            f"expected a database at {no_secret(url)}, found {type(error).__name__}: cannot connect"
        ) from None
