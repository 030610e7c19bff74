"""What several devices are worth: pretraining in one process and in as many as there are devices, as users start it."""

import json
import os
import statistics
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.speed.measuring import NotHere, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.starting import make_store
from chartray.cores import available_cores

GOAL = 0.9
_STORE_SIZE = 448


def measure(name: str, options: Options) -> Row:
    """Images a second of N processes over N times those of one, images of each alike (weak scaling); 1 is perfect.

    One process a GPU; on a CPU one thread a process, with the cores that there are. Raises NotHere where there is only
    one of them.
    """
    devices = _devices(options.device)
    if devices < 2:
        raise NotHere(f"expected several {'GPUs' if options.device == 'cuda' else 'cores'} for {name}, found one")
    on_gpu = options.device == "cuda"
    films = options.batch_size or (4 if options.quick else 512 if on_gpu else 16)
    steps = 4 if options.quick else 60 if on_gpu else 16
    store = make_store(options.scratch, devices * films, _STORE_SIZE)
    way = partial(Efficiency, store, options.scratch / "runs", name.split(".")[1], films, steps, devices, options)
    (ours,) = side_by_side([way], 1 if options.quick else options.repeats)
    details = {**ours.notes, "processes": float(devices), "films_a_process": float(films)}
    return Row(name, "of N times one", "higher", ours, None, GOAL, "value", details)


class Efficiency:
    """Each round starts one process, then `devices`; notes images a second of both."""

    def __init__(
        self, store: Path, runs: Path, encoder: str, films: int, steps: int, devices: int, options: Options
    ) -> None:
        self.notes: dict[str, float] = {}
        self._runs, self._number, self._devices = runs, count(), devices
        self._command = ["pretrain", str(store), "--ehr", "none", "--encoder.name", encoder]
        self._command += ["--train.device", options.device, "--train.steps", str(steps), "--train.compile", "false"]
        self._command += ["--health.every", "1000000", "--health.probe_films", "16"]
        self._films, self._steps, self._threads = films, steps, options.device == "cpu"

    def __call__(self) -> float:
        alone, together = (self._films_a_second(processes) for processes in (1, self._devices))
        self.notes = {"films_per_second_alone": alone, "films_per_second_together": together}
        return together / (self._devices * alone)

    def _films_a_second(self, processes: int) -> float:
        """The median of the second half of the steps, as metrics.jsonl has them."""
        out = self._runs / f"run-{next(self._number)}"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*start, "-m", "chartray", *self._command, "--out", str(out)]
        command += ["--train.batch_size", str(processes * self._films)]
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if self._threads else {})
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pretraining in {processes} processes ended with {done.returncode}: {done.stderr}")
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return statistics.median([float(json.loads(line)["films_per_second"]) for line in lines[self._steps // 2 :]])


def _devices(device: str) -> int:
    if device == "cpu":
        return available_cores()
    import torch

    return torch.cuda.device_count()
