"""`python -m benchmarks.gpu`: what only a GPU can show, in one table and one JSON file (benchmarks/gpu.sh)."""

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.gpu import exactness, speed
from benchmarks.gpu.setting import Finding, Setting, setting
from benchmarks.speed.machine import describe_machine
from chartray.memory import keep_freed_memory

# In this order: what can be wrong first, then what can be slow.
CHECKS: dict[str, Callable[[Setting], Iterator[Finding]]] = {
    "numbers": exactness.numbers,
    "attention": exactness.attention,
    "views": exactness.views,
    "streams": exactness.streams,
    "resuming": exactness.resuming,
    "accumulating": exactness.accumulating,
    "memory": speed.memory,
    "learning": exactness.learning,
    "speed": speed.speed,
    "speed-by-batch": speed.speed_by_batch,
}


def main() -> int:
    """Runs the checks, each until the time is over; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: a rehearsal, in which no speed says anything"
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--seconds", type=float, default=460.0, help="no check begins after this")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    given = parser.parse_args()
    ends = time.perf_counter() + given.seconds
    machine = describe_machine(given.device)
    print(machine.sentence, flush=True)
    said: list[dict[str, object]] = []
    failed = 0
    with tempfile.TemporaryDirectory(prefix="chartray-gpu-") as scratch:
        where = setting(given.device, Path(scratch), quick=given.quick)
        for name in given.only:
            began = time.perf_counter()
            if began > ends:
                print(f"\n{name}: left out, the time is over", flush=True)
                continue
            print(f"\n{name}", flush=True)
            for finding in _caught(CHECKS[name], where):
                failed += finding.holds is False
                said.append({"check": name, **_plain(finding)})
                print(line(finding), flush=True)
                given.out.write_text(json.dumps({"machine": machine._asdict(), "findings": said}, indent=1) + "\n")
            print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
    print(f"\n{failed} of {len(said)} findings do not hold; {given.out} has them all")
    return 1 if failed else 0


def line(finding: Finding) -> str:
    """One line of the table.

    >>> line(Finding("gradient", 1.23e-7, "<= 1e-4", True))
    '  holds   gradient: 1.23e-07 (<= 1e-4)'
    """
    found = finding.found if isinstance(finding.found, str) else f"{finding.found:.4g}"
    mark = {True: "holds", False: "FAILS", None: ""}[finding.holds]
    allowed = f" ({finding.allowed})" if finding.allowed not in ("", "told") else ""
    return f"  {mark:7} {finding.name}: {found}{allowed}"


def _caught(check: Callable[[Setting], Iterator[Finding]], where: Setting) -> Iterator[Finding]:
    """The findings of a check; one that raises fails, and the others still run."""
    try:
        yield from check(where)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        yield Finding("ended by an error", f"{type(error).__name__}: {str(error)[:200]}", holds=False)


def _plain(finding: Finding) -> dict[str, object]:
    found = finding.found
    return finding._asdict() | {"found": found if isinstance(found, str) or math.isfinite(found) else None}


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
