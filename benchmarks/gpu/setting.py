"""What every check of a GPU shares: the store, the sizes, a run at its first step, and how a finding is told."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from benchmarks.speed.simulated_store import make_films
from chartray.config import pretrain as knobs
from chartray.networks.chart import ChartBatch
from chartray.pixels.store import Store
from chartray.training.loop import Loop
from chartray.training.prefetch import Batch
from chartray.training.pretrain import assemble

_RUNS = itertools.count()


class Finding(NamedTuple):
    """One line of the table: what was found, the most (or least) that is allowed, and whether it holds (None: told)."""

    name: str
    found: float | str
    allowed: str = ""
    holds: bool | None = None


class Setting(NamedTuple):
    """Where the checks run: a device, a store of simulated radiographs, and whether sizes are small (`quick`)."""

    device: torch.device
    scratch: Path
    store: Path
    quick: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def size(self, full: int, quick: int) -> int:
        """A size of the check, or its small form for a rehearsal."""
        return quick if self.quick else full

    def loop(self, overrides: Mapping[str, JsonValue], *, recipe: str = "msn", device: str | None = None) -> Loop:
        """A run at its first step, networks in training mode: a recipe, with the chart demographic-norm but for MAE."""
        given: dict[str, JsonValue] = {
            "encoder.name": "vit_tiny",
            "train.device": device or self.device.type,
            "train.compile": False,
            "train.accumulate": 1,
            "train.steps": 10_000,
            "train.batch_size": 8,
            "health.probe_films": 16,
        }
        if recipe != "mae":
            given["chart.ehr"] = "demographic-norm"
        if self.quick:
            given |= {"views.size": 64, "views.focal_size": 32, "encoder.depth": 2}
        loop = assemble(self.store, self.new_folder(), knobs.load(recipe, None, given | dict(overrides)))
        assert isinstance(loop, Loop)
        loop.networks.train()
        return loop

    def new_folder(self) -> Path:
        """A run folder that no other check uses."""
        return self.scratch / f"run-{next(_RUNS)}"


def setting(device: str, scratch: Path, *, quick: bool) -> Setting:
    """The checks' simulated hospital: about 1,600 training images of 448 px (quick: some 60 of 64 px)."""
    images = make_films(scratch, 64 if quick else 448, 60 if quick else 1_100)
    return Setting(torch.device(device), scratch, images.store, quick)


def first_batch(loop: Loop, device: torch.device | None = None) -> Batch:
    """The images of a run's first step; views cut on the CPU, then moved, so that all devices see the same numbers."""
    with loop.batches(0, 1) as batches:
        batch = next(batches)
    if device is None:
        return batch

    views, chart = batch.views, batch.chart
    moved = views._replace(
        target=views.target.to(device),
        random=views.random.to(device),
        focal=views.focal.to(device),
        random_keep=None if views.random_keep is None else views.random_keep.to(device),
        focal_keep=None if views.focal_keep is None else views.focal_keep.to(device),
    )
    return batch._replace(views=moved, chart=ChartBatch(chart.rows.to(device), chart.observed.to(device)))


def gradient(loop: Loop) -> Tensor:
    """The gradient of all trained parameters as one vector (float64, in host memory)."""
    parts = [
        (torch.zeros_like(value) if value.grad is None else value.grad).detach().double().flatten().cpu()
        for value in loop.networks.trained_parameters().values()
    ]
    return torch.cat(parts)


def away(found: Tensor, expected: Tensor) -> float:
    """The length of the difference over the length of `expected`."""
    return float((found - expected).norm() / expected.norm())


def store_rows(store: Path, split: str = "train") -> int:
    """The number of images of a split."""
    return int(np.sum(Store.open(store).cohort.column("split").to_numpy(zero_copy_only=False) == split))
