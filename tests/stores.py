"""Stores whose rows a test has changed, as if they had been ingested so."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from chartray.outputs.json_file import read_json, write_json
from chartray.outputs.parquet_file import write_table
from chartray.outputs.seal import sha256
from chartray.pixels.store import COHORT_FILE, INDEX_FILE


def index_of(store: Path) -> dict[str, Any]:
    """What store.json says, to be edited."""
    return read_json(store / INDEX_FILE, "an index")


def replace_cohort(store: Path, table: pa.Table) -> None:
    """Gives `store` another cohort of the same images; the content hash stays."""
    write_table(table, store / COHORT_FILE)
    edit_index(store, files=index_of(store)["files"] | {COHORT_FILE: sha256(store / COHORT_FILE)})


def edit_index(store: Path, **values: Any) -> None:
    """Writes other values into store.json, and vouches for them."""
    write_json(store / INDEX_FILE, index_of(store) | values)
