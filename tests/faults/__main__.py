"""`python -m tests.faults`: runs cases of every kind within a bound, and writes the table of their outcomes."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.faults.processes import began_again_with_shim


def main() -> None:
    """Runs what was asked for; exit code 0 only if every outcome was an expected one."""
    read = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    read.add_argument("--cases", type=int, default=1000, help="cases over all kinds")
    read.add_argument("--seconds", type=float, default=3600, help="no case begins later than that")
    read.add_argument(
        "--out", type=Path, help="the table (Markdown); beside it, .jsonl, each case: given again, it goes on"
    )
    read.add_argument(
        "--only", action="append", default=[], help="kinds, or single cases such as ingest.kill:137; * matches"
    )
    read.add_argument("--without", action="append", default=[], help="kinds to leave out; * matches")
    read.add_argument("--scratch", type=Path, help="a folder for the cases; default: in memory where there is room")
    read.add_argument(
        "--share", default="1/1", help="this process's share of the cases, as 1/2 and 2/2 for two at once"
    )
    options = read.parse_args()
    if options.scratch is None and "FAULTS_SCRATCH" not in os.environ:
        memory = Path("/dev/shm")
        place = (
            memory if memory.is_dir() and os.statvfs(memory).f_bavail * os.statvfs(memory).f_frsize > 2**31 else None
        )
        os.environ["FAULTS_SCRATCH"] = tempfile.mkdtemp(prefix="chartray-faults-", dir=place)
    scratch = options.scratch or Path(os.environ["FAULTS_SCRATCH"])
    scratch.mkdir(parents=True, exist_ok=True)
    began_again_with_shim(scratch)
    from tests.faults.running import run

    code = run(options, scratch)
    sys.stdout.flush()
    # Not through the interpreter's end: what was set aside from its garbage collector would be called a leak.
    os._exit(code)


if __name__ == "__main__":
    main()
