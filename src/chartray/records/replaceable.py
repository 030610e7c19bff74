"""Checks of where a cohort may be written: it replaces an earlier cohort, never an input file or a store."""

from pathlib import Path

from chartray.errors import InputError
from chartray.outputs.guard import refuse_other_file
from chartray.outputs.json_file import read_object
from chartray.outputs.parquet_file import metadata_of_parquet
from chartray.records.cohort_files import flow_file, settle_cohort
from chartray.schema import METADATA_KEY

# Every flow has these keys; JSON of another program does not.
_FLOW_KEYS = {"source", "steps", "links", "splits", "missing"}


def check_cohort_out(out: Path, inputs: tuple[Path, ...] = ()) -> None:
    """Raises InputError unless `out` and its flow are new or an earlier cohort.

    `inputs` are the files that the cohort is made from; they are never replaced.
    """
    settle_cohort(out)
    if out.is_dir():
        raise InputError(f"expected a file as --out, found the folder {out}; name a file in it")
    for file in inputs:
        if out.exists() and file.exists() and out.samefile(file):
            raise InputError(f"expected a new file as --out, found the input {file}; name another")
    if (out.parent / "store.json").is_file():
        raise InputError(f"expected a file outside any store as --out, found the store {out.parent}; name another")
    refuse_other_file(out, "an earlier cohort", lambda file: METADATA_KEY in metadata_of_parquet(file))
    refuse_other_file(flow_file(out), "an earlier cohort's flow", _is_flow)


def _is_flow(file: Path) -> bool:
    try:
        return read_object(file, "a flow").keys() >= _FLOW_KEYS
    except InputError:
        return False
