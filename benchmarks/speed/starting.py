"""Time from process start: to the help text, and to the first step of pretraining."""

import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.speed.measuring import Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.processor import Counted, timed, used_seconds
from chartray.pixels.ingest import ingest
from chartray.schema import CohortMetadata, to_metadata

HELP_GOAL_SECONDS, FIRST_STEP_GOAL_SECONDS = 0.8, 20.0
_FILMS, _STORE_SIZE, _BATCH = 256, 448, 64
_LONGEST_SECONDS = 600


def measure(name: str, options: Options) -> Row:
    """`help`: `chartray --help`. `first_step`: `chartray pretrain` with vit_tiny at 224 px, to its first metrics line.

    Neither has a reference: a target in seconds is what there is to meet.
    """
    if name == "help":
        (ours,) = side_by_side([helping], options.repeats)
        return Row(name, "s", "lower", ours, None, HELP_GOAL_SECONDS, "value", ours.notes)
    batch = options.batch_size or (16 if options.quick else _BATCH)
    store = make_store(options.scratch, 2 * batch if options.quick else max(_FILMS, batch), _STORE_SIZE)
    way = partial(first_stepping, store, options.scratch / "runs", batch, options.device)
    (ours,) = side_by_side([way], 1 if options.quick else options.repeats)
    details = {**ours.notes, "batch_size": batch}
    return Row(name, "s", "lower", ours, None, FIRST_STEP_GOAL_SECONDS, "value", details)


def helping() -> Once:
    """One `chartray --help` in a process of its own."""
    return Counted(lambda: timed(lambda: subprocess.run([*command(), "--help"], check=True, stdout=subprocess.DEVNULL)))


def first_stepping(store: Path, runs: Path, batch: int, device: str) -> Once:
    """One `chartray pretrain`, stopped once its first line of metrics is there; seconds until then."""
    # Not above: torch in the measuring process would count as the memory of `--help` and of a cohort.
    from chartray.training.metrics import METRICS_FILE

    number = count()

    def once() -> tuple[float, float]:
        out = runs / f"run-{next(number)}"
        knobs = ["--encoder.name", "vit_tiny", "--ehr", "none", "--train.batch_size", str(batch)]
        # A run of 1,000 steps would compile first, which is what its length repays; a short one begins at once.
        knobs += ["--train.steps", "999", "--train.device", device]
        used, began = used_seconds(), time.perf_counter()
        process = subprocess.Popen(
            [*command(), "pretrain", str(store), "--out", str(out), *knobs],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            seconds = _seconds_until(out / METRICS_FILE, process, began)
        finally:
            process.kill()
            process.communicate()
        return seconds, used_seconds() - used

    return Counted(once)


def _seconds_until(metrics: Path, process: subprocess.Popen[str], began: float) -> float:
    while time.perf_counter() - began < _LONGEST_SECONDS:
        if metrics.is_file() and metrics.stat().st_size > 0:
            return time.perf_counter() - began
        if process.poll() is not None:
            said = process.stderr.read() if process.stderr else ""
            raise RuntimeError(f"pretraining ended with exit code {process.returncode} before its first step: {said}")
        time.sleep(0.005)
    raise RuntimeError(f"pretraining made no step in {_LONGEST_SECONDS} s")


def command() -> list[str]:
    """How this installation's command line is started: as a user does, else as a module."""
    script = Path(sys.executable).with_name("chartray")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "chartray"]


def make_store(folder: Path, films: int, size: int) -> Path:
    """A store of `films` blurred noise pictures of `size` px, all of them for training, one a patient."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for film in range(films):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 24), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(pictures / f"{film}.png", compress_level=1)
    names = [str(film) for film in range(films)]
    columns = {
        "image_id": pa.array(names),
        "patient_id": pa.array(names),
        "study_id": pa.array(names),
        "taken_at": pa.nulls(films, pa.timestamp("us")),
        "path": pa.array([str(pictures / f"{name}.png") for name in names]),
        "split": pa.array(["train"] * films),
    }
    metadata = CohortMetadata(source="drawn", image_root=str(pictures))
    table = pa.table(columns).replace_schema_metadata(to_metadata(metadata))
    pq.write_table(table, folder / "cohort.parquet")
    ingest(folder / "cohort.parquet", folder / "store", size=size)
    return folder / "store"
