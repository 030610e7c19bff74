"""Processor seconds beside seconds by the clock: what the same work costs, whatever else the machine is doing."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any


class Counted:
    """A way whose rounds give their value and their processor seconds; the median of these goes into its notes.

    The first round is not counted there, as it is not in the value (measuring.py).
    """

    def __init__(self, round_once: Callable[[], tuple[float, float]]) -> None:
        self._round_once = round_once
        self._used: list[float] = []

    def __call__(self) -> float:
        value, used = self._round_once()
        self._used.append(used)
        return value

    @property
    def notes(self) -> dict[str, float]:
        """`processor_seconds`, the median of the counted rounds."""
        return {"processor_seconds": statistics.median(self._used[1:] or self._used)}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock that `work` takes, and processor seconds; children count where they have ended."""
    began, used = time.perf_counter(), used_seconds()
    work()
    return time.perf_counter() - began, used_seconds() - used


def used_seconds() -> float:
    """Processor seconds of this process, its threads and its children that have ended, since it began."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)
