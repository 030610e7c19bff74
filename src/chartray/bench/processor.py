"""Processor seconds beside seconds by the clock: what the same work costs, whatever else the machine is doing."""

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chartray.bench.measuring import Once


def noted(work: Callable[[], Any], file: Path) -> Once:
    """`work` as a way measured in seconds by the clock; its processor seconds become a line of `file`.

    Children count where they have ended. Each way needs a file of its own.
    """

    def once() -> float:
        began, used = time.perf_counter(), used_seconds()
        work()
        seconds = time.perf_counter() - began
        note(file, used_seconds() - used)
        return seconds

    return once


def used_seconds() -> float:
    """Processor seconds of this process, its threads and its children that have ended, since it began."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def note(file: Path, number: float) -> None:
    """Appends what a round counted; the measuring process and the one that asks share nothing but files."""
    with file.open("a") as stream:
        stream.write(f"{number!r}\n")


def median_note(file: Path) -> float:
    """The median of what the counted rounds noted: all but the first."""
    return statistics.median([float(line) for line in file.read_text().splitlines()][1:])
