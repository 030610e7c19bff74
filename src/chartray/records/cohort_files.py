"""The two files of a cohort: the table with its SHA-256, and its flow, which holds the SHA-256 of its table.

Each is replaced whole. The new flow waits under a temporary name until the new table is in place. If the command is
killed between the two, the next one that reads or writes the cohort renames or removes the waiting flow.
"""

import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from chartray.errors import InputError
from chartray.flow import CohortFlow
from chartray.outputs import json_file, parquet_file
from chartray.outputs.json_file import parsed, parsed_record, read_json, verified
from chartray.outputs.parquet_file import read_table
from chartray.outputs.replacing import replaced_file, reserved, settle, sync, sync_names
from chartray.outputs.seal import sha256

# In the flow: the SHA-256 of its table.
_OF = "cohort_sha256"


def flow_file(cohort: Path) -> Path:
    """The path of a cohort's flow."""
    return cohort.with_name(f"{cohort.stem}.flow.json")


def write_cohort_files(table: pa.Table, flow: CohortFlow, out: Path) -> None:
    """Writes the table and its flow; if killed at any moment, both are the earlier ones or both are the new ones.

    Raises InputError if another command is writing there, OutputError if they cannot be written.
    """
    with reserved(out):
        _adopt(out)
        with replaced_file(out) as partial:
            parquet_file.write_sealed(table, partial, write_statistics=False)
            json_file.write_sealed({**flow.content(), _OF: sha256(partial)}, _waiting(out))
            sync(_waiting(out))
        _adopt(out)


def read_cohort_table(cohort: Path, columns: list[str] | None = None) -> pa.Table:
    """The verified table of a cohort; raises InputError if it does not exist, is not Parquet, is damaged or edited."""
    settle_cohort(cohort)
    return read_table(cohort, "a cohort", columns)


def read_flow(cohort: Path) -> CohortFlow | None:
    """A cohort's flow; None if there is none, or (with a line on stderr) if it was changed or is of
    another cohort.

    Raises InputError for a file that cannot be read.
    """
    settle_cohort(cohort)
    file = flow_file(cohort)
    if not file.exists():
        return None
    try:
        text = file.read_bytes().decode(errors="replace")
    except OSError as error:  # the flow may be intact, and a store without it would differ
        raise InputError(f"expected to read {file}, found: {error.strerror}; run the same command again") from None
    try:
        content = verified(parsed(text, str(file), "the flow of a cohort"), file, "the flow of a cohort")
        whole = content.pop(_OF, None) == sha256(cohort)
        why = f"expected the flow of {cohort} in {file}, found the flow of another table; keep the two together"
    except InputError as error:
        whole, why = False, str(error)
    if whole:
        return parsed_record(CohortFlow, content, f"the flow of {cohort}", remedy="make the cohort again")
    print(f"chartray: the flow of the cohort is ignored: {why}", file=sys.stderr, flush=True)
    return None


def settle_cohort(cohort: Path) -> None:
    """Completes or removes what a killed command left of a cohort and its flow."""
    settle(cohort)
    # Without write permission, or while another command writes, it is left as it is.
    if _waiting(cohort).exists():
        with suppress(OSError, InputError), reserved(cohort):
            _adopt(cohort)


def _adopt(cohort: Path) -> None:
    """Renames a waiting flow if its table is in place; else removes it."""
    waiting = _waiting(cohort)
    with suppress(InputError, FileNotFoundError):
        if read_json(waiting, "a flow").get(_OF) == sha256(cohort):
            waiting.replace(flow_file(cohort))
            sync_names(cohort.parent)
    waiting.unlink(missing_ok=True)


def _waiting(cohort: Path) -> Path:
    return cohort.with_name(f".{cohort.stem}.flow.json.waiting")
