"""Two ways of doing one thing, side by side: each in a process of its own, in turns, so that noise meets both."""

import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from chartray.errors import InputError

Once = Callable[[], float]
Prepare = Callable[[], Once]


class NotHere(InputError):
    """What this machine has not got to be measured on: left out where everything is asked for."""


class Measured(NamedTuple):
    """One way, measured some times: median, lowest and highest value, and the most memory its process or a child held.

    notes: what its `once` counted beside the value, in its attribute `notes`.
    """

    median: float
    low: float
    high: float
    repeats: int
    peak_gib: float | None = None
    device_peak_gib: float | None = None
    notes: Mapping[str, float] = MappingProxyType({})


class Row(NamedTuple):
    """A line of the table. `better` says which way is up; `target` is of the ratio, or of our own value.

    details: what else was counted, each name with its unit ("gflop_per_image").
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    ours: Measured
    reference: Measured | None
    target: float | None
    target_of: Literal["ratio", "value"] = "ratio"
    details: Mapping[str, float | str] = MappingProxyType({})

    @property
    def ratio(self) -> float | None:
        """How many times better ours is: above 1 is better, whichever way the unit goes."""
        if self.reference is None:
            return None
        if self.better == "higher":
            return self.ours.median / self.reference.median
        return self.reference.median / self.ours.median

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        if self.target_of == "ratio":
            return self.ratio is not None and self.ratio >= self.target
        return self.ours.median >= self.target if self.better == "higher" else self.ours.median <= self.target


def summary(
    values: Sequence[float], *, peak_gib: float | None = None, device_peak_gib: float | None = None
) -> Measured:
    """Median and spread of some values.

    >>> summary([3.0, 1.0, 2.0])[:4]
    (2.0, 1.0, 3.0, 3)
    """
    return Measured(statistics.median(values), min(values), max(values), len(values))


def side_by_side(ways: Sequence[Prepare], repeats: int) -> list[Measured]:
    """Measures each of `ways` in a fresh process of its own, one round of each after another, `repeats` times.

    A way is a function at a module's top level (or a partial of one) that prepares and returns `once`, which does the
    work one time and returns its value (seconds, or images a second). The first round of each is not counted, so that
    what is compiled, cached or allocated once is not measured; time to the first step is measured for itself.
    Raises RuntimeError with the traceback of a way that failed.
    """
    workers = [_Worker(way) for way in ways]
    try:
        for worker in workers:
            worker.round()
        rounds = [[worker.round() for worker in workers] for _ in range(repeats)]
        ends = [worker.end() for worker in workers]
    finally:
        for worker in workers:
            worker.stop()
    return [
        summary([values[way] for values in rounds])._replace(peak_gib=peak, device_peak_gib=device_peak, notes=notes)
        for way, (peak, device_peak, notes) in enumerate(ends)
    ]


def seconds_of(work: Callable[[], Any]) -> Once:
    """`work` as a way measured in seconds by the clock."""

    def once() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return once


class _Worker:
    """A process that has prepared one way and runs a round when asked."""

    def __init__(self, prepare: Prepare) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare), daemon=False)
        self._process.start()
        theirs.close()

    def round(self) -> float:
        return float(self._ask("round"))

    def end(self) -> tuple[float, float | None, Mapping[str, float]]:
        peak, device_peak, notes = self._ask("end")
        return peak, device_peak, notes

    def stop(self) -> None:
        self._ours.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, what: str) -> Any:
        self._ours.send(what)
        try:
            answer, trouble = self._ours.recv()
        except EOFError:
            self._process.join(timeout=30)
            raise RuntimeError(f"a measuring process ended with exit code {self._process.exitcode}") from None
        if trouble:
            raise RuntimeError(trouble)
        return answer


def _serve(asked: Connection, prepare: Prepare) -> None:
    # What it prints of its own would tear the table; what goes wrong is sent back whole.
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    once: Once | None = None
    while True:
        try:
            what = asked.recv()
        except EOFError:
            return
        try:
            if what == "end":
                answer: Any = (*_peaks(), dict(getattr(once, "notes", {})))
            else:
                once = once or prepare()
                answer = once()
                _give_back()
            asked.send((answer, None))
        except Exception:
            asked.send((None, traceback.format_exc()))


def _give_back() -> None:
    """Hands a GPU's memory that nothing uses back to it: the other ways need it for their rounds."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _peaks() -> tuple[float, float | None]:
    """Most memory that this process or a child of it held, whichever is larger, and the device's, in GiB.

    Not their sum: Linux counts a child that only starts a compiler at the size of its parent.
    """
    each = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    device = None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        device = torch.cuda.max_memory_allocated() / 2**30
    return max(each) / 2**20, device
