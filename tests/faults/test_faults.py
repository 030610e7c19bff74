"""The fault harness (`python -m tests.faults`): a short sample that always runs, and a long one by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.processes import compiled

ROOT = Path(__file__).parents[2]


def harness(out: Path, *options: str) -> None:
    """Runs the harness in a process of its own, which it starts again with the shim in it; all must be expected."""
    command = [sys.executable, "-m", "tests.faults", "--out", str(out / "table.md"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.fixture(autouse=True)
def _compiler(tmp_path: Path) -> None:
    if compiled(tmp_path) is None:
        pytest.skip("needs a C compiler, for the library that disturbs calls of the file system")


def test_a_sample_of_faults_ends_in_the_same_bytes_or_one_sentence(tmp_path: Path) -> None:
    some = ("cohort.*", "ingest.*", "read.cohort", "read.store", "picture.*", "yaml.mapping", "cells.table")
    harness(tmp_path, "--seconds", "20", "--cases", "400", *(word for kind in some for word in ("--only", kind)))


@pytest.mark.slow
def test_many_faults_end_in_the_same_bytes_or_one_sentence(tmp_path: Path) -> None:
    harness(tmp_path, "--seconds", "3600", "--cases", "20000")
