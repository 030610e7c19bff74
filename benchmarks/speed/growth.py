"""`chartray bench --growth`: time and memory of every stage at 1, 10 and 100 times the rows, and how fast they grow."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.speed import growth_stages as stages
from benchmarks.speed.growth_stages import Work
from benchmarks.speed.processor import used_seconds
from chartray.errors import InputError

GROWTH_FILE, PLOT_FILE = "growth.json", "growth.svg"
LEAST_ROWS = 100_000
_TIMES = (100, 10, 1)
# Work that is over at once is done again for so long, and its median counts.
_AT_LEAST_SECONDS = 0.3

Result = TypeVar("Result")


class Stage(NamedTuple):
    """A stage of the flow: `prepare` writes what it reads, `begin` opens that and returns the work that is measured.

    `share` and `most` say its largest number of rows: that share of what was asked for, at most so many.
    """

    name: str
    prepare: Callable[[Path, int], None]
    begin: Callable[[Path, int], Work]
    share: float = 1.0
    most: int = 100_000_000

    def rows(self, largest: int) -> list[int]:
        """How many rows it is measured at."""
        own = min(round(largest * self.share), self.most)
        return [max(own // times, 1) for times in _TIMES]


class Growth(NamedTuple):
    """A stage at several `rows`: seconds, processor seconds and MiB that it needed more at its peak, each as long.

    `exponent` of time is the slope of log processor seconds on log rows: 1 is linear, 0 is constant. `bytes_per_row` is
    how much more memory each further row needs, from the smallest to the largest.
    """

    stage: str
    rows: list[int]
    seconds: list[float]
    processor_seconds: list[float]
    peak_mib: list[float]
    exponent: float
    bytes_per_row: float


STAGES = (
    Stage("cohort", stages.write_hospital, stages.cohort),
    Stage("split by patient", stages.write_nothing, stages.split),
    Stage("index of an ingest", stages.write_cohort_of, stages.index),
    Stage("chart fitted", stages.write_cohort_of, stages.chart),
    Stage("store opened", stages.write_store_of, stages.opened, most=1_000_000),
    Stage("64 batches gathered", stages.write_store_of, stages.gathered, most=1_000_000),
    Stage("4 steps of training", stages.write_store_of, stages.trained, share=0.1, most=100_000),
    Stage("probe", stages.write_nothing, stages.probe, share=0.1, most=100_000),
    Stage("bootstrap, 100 resamples", stages.write_nothing, stages.bootstrap, most=1_000_000),
)


def run_growth(out: Path, *, largest: int = 1_000_000, chosen: Sequence[Stage] = STAGES) -> list[Growth]:
    """Measures every stage, each size in a process of its own; writes growth.json and growth.svg in `out`.

    `largest` rows are a hundred times the smallest. Raises InputError for fewer than 100,000, or a file as `out`.
    """
    if largest < LEAST_ROWS:
        raise InputError(f"expected at least {LEAST_ROWS} rows for --growth-rows, found {largest}")
    if out.exists() and not out.is_dir():
        raise InputError(f"expected a folder for --growth, found the file {out}")
    out.mkdir(parents=True, exist_ok=True)
    found: list[Growth] = []
    with tempfile.TemporaryDirectory(prefix="chartray-growth-") as scratch:
        for stage in chosen:
            found.append(_grown(stage, stage.rows(largest), Path(scratch)))
            print(spoken(found[-1]), flush=True)
            (out / GROWTH_FILE).write_text(json.dumps([each._asdict() for each in found], indent=1) + "\n")
    plot(found, out / PLOT_FILE)
    return found


def spoken(growth: Growth) -> str:
    """One stage in a line."""
    sizes = (f"{rows:,} rows {seconds:.3g} s" for rows, seconds in zip(growth.rows, growth.seconds, strict=True))
    return (
        f"{growth.stage}: {', '.join(sizes)}; exponent {growth.exponent:.2f}, "
        f"{growth.bytes_per_row:.0f} bytes of memory a row"
    )


def exponent(rows: Sequence[int], amounts: Sequence[float]) -> float:
    """The slope of log amount on log rows.

    >>> round(exponent([10, 100, 1000], [2.0, 20.0, 200.0]), 6)
    1.0
    """
    return float(np.polyfit(np.log(rows), np.log(np.maximum(amounts, 1e-9)), 1)[0])


def plot(found: Sequence[Growth], file: Path) -> None:
    """Time and memory of every stage against rows, both on log axes; the legend says the exponents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for marker, growth in zip("os^Dv*XPh", found, strict=False):
        label = f"{growth.stage}: {growth.exponent:.2f}"
        left.plot(growth.rows, growth.processor_seconds, marker=marker, label=label)
        label = f"{growth.stage}: {growth.bytes_per_row:.0f} bytes a row"
        right.plot(growth.rows, np.maximum(growth.peak_mib, 0.1), marker=marker, label=label)
    for axes, title, unit in (
        (left, "Time, and its exponent", "processor seconds"),
        (right, "Memory", "MiB at the peak"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel=unit, title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(file, metadata={"Date": None})


def _grown(stage: Stage, rows: Sequence[int], scratch: Path) -> Growth:
    points = []
    for count in rows:
        folder = scratch / str(count)
        folder.mkdir(exist_ok=True)
        _in_a_process(stage.prepare, folder, count)
        points.append(_in_a_process(_point, stage.begin, folder, count))
    seconds, used, peaks = (list(column) for column in zip(*points, strict=True))
    more = (peaks[-1] - peaks[0]) * 2**20 / (rows[-1] - rows[0])
    return Growth(stage.name, list(rows), seconds, used, peaks, exponent(rows, used), more)


def _point(begin: Callable[[Path, int], Work], folder: Path, rows: int) -> tuple[float, float, float]:
    """Seconds, processor seconds and MiB above what was held before (runs in a process of its own)."""
    work = begin(folder, rows)
    held = memory_mib("VmRSS")
    _forget_the_peak()
    times: list[tuple[float, float]] = []
    while sum(seconds for seconds, _ in times) < _AT_LEAST_SECONDS:
        began, used = time.perf_counter(), used_seconds()
        work()
        times.append((time.perf_counter() - began, used_seconds() - used))
        if len(times) == 1:
            peak = memory_mib("VmHWM") - held
    # Short work is below the clock of processor seconds: the sum of all rounds tells.
    return float(np.median([seconds for seconds, _ in times])), sum(used for _, used in times) / len(times), peak


def memory_mib(what: str) -> float:
    """VmRSS, what this process holds now, or VmHWM, the most it has held, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise InputError(f"expected {what} in /proc/self/status, found none; --growth needs Linux")


def _forget_the_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _in_a_process(work: Callable[..., Result], *arguments: Any) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
