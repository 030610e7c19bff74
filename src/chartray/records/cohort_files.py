"""The two files of a cohort: the table with its SHA-256, and beside it the flow, which says of which table it is.

Each is replaced whole. The new flow waits under another name until the new table has its own; a command that is killed
between the two leaves it waiting, and the next one that reads or writes the cohort gives it its name, or removes it.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from chartray.errors import InputError
from chartray.outputs import json_file, parquet_file
from chartray.outputs.json_file import parsed, read_json, verified
from chartray.outputs.parquet_file import read_table
from chartray.outputs.replacing import replaced_file, reserved, settle, sync, sync_names
from chartray.outputs.seal import sha256

# In the flow: the SHA-256 of the table that it tells of.
_OF = "cohort_sha256"


def flow_file(cohort: Path) -> Path:
    """Where the flow of a cohort lies."""
    return cohort.with_name(f"{cohort.stem}.flow.json")


def write_cohort_files(table: pa.Table, flow: Mapping[str, Any], out: Path) -> None:
    """Writes the table and its flow; after a kill at any moment both are the earlier ones, or both the new ones.

    Raises InputError where another command writes there, OutputError where the machine cannot write.
    """
    with reserved(out):
        _adopt(out)
        with replaced_file(out) as partial:
            parquet_file.write_sealed(table, partial, write_statistics=False)
            json_file.write_sealed({**flow, _OF: sha256(partial)}, _waiting(out))
            sync(_waiting(out))
        _adopt(out)


def read_cohort_table(cohort: Path, columns: list[str] | None = None) -> pa.Table:
    """The table of a cohort, verified; raises InputError if there is none, it is no Parquet, was damaged or edited."""
    settle_cohort(cohort)
    return read_table(cohort, "a cohort", columns)


def read_flow(cohort: Path) -> dict[str, Any] | None:
    """What the flow beside a cohort says; None where there is none, or it was changed or is another cohort's, which one
    line on standard error says.

    Raises InputError where there is one that cannot be read at all.
    """
    settle_cohort(cohort)
    file = flow_file(cohort)
    if not file.exists():
        return None
    try:
        text = file.read_bytes().decode(errors="replace")
    except OSError as error:  # it may be whole all the same: a store without it would be another one
        raise InputError(f"expected to read {file}, found: {error.strerror}; run the same command again") from None
    try:
        content = verified(parsed(text, str(file), "the flow of a cohort"), file, "the flow of a cohort")
        if content.pop(_OF, None) == sha256(cohort):
            return content
        why = f"expected the flow of {cohort} in {file}, found that of another table; keep the two together"
    except InputError as error:
        why = str(error)
    print(f"chartray: the flow of the cohort is not used: {why}", file=sys.stderr, flush=True)
    return None


def settle_cohort(cohort: Path) -> None:
    """Puts right what a killed command left of a cohort and its flow."""
    settle(cohort)
    # Who may not write here, or comes while another writes, leaves it to them.
    if _waiting(cohort).exists():
        with suppress(OSError, InputError), reserved(cohort):
            _adopt(cohort)


def _adopt(cohort: Path) -> None:
    """Gives the flow that waits its name, if the table that it tells of has come."""
    waiting = _waiting(cohort)
    with suppress(InputError, FileNotFoundError):
        if read_json(waiting, "a flow").get(_OF) == sha256(cohort):
            waiting.replace(flow_file(cohort))
            sync_names(cohort.parent)
    waiting.unlink(missing_ok=True)


def _waiting(cohort: Path) -> Path:
    return cohort.with_name(f".{cohort.stem}.flow.json.waiting")
