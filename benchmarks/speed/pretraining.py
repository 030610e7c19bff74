"""Pretraining end to end: ours from a store, against JPEG files, PIL views in a DataLoader and lightly's networks."""

import math
import shutil
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.speed.measuring import Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.pil_views import PILFilms, PILViews, endless_batches
from benchmarks.speed.reference import reference_step
from benchmarks.speed.simulated_store import make_films
from benchmarks.speed.training_step import TARGETS, Rounds, Sizes, sizes_of, work_done
from chartray.config.pretrain import ViewsConfig
from chartray.cores import available_cores
from chartray.networks import encoder as vit
from chartray.pixels.store import Store
from chartray.training.loop import Loop
from chartray.training.pretrain import assemble
from chartray.training.runtime import uses_bf16
from chartray.training.training_data import load_training_data


def measure(name: str, options: Options) -> Row:
    """Images a second with everything between the disk and the moved target; both as their users would run them."""
    sizes = sizes_of(name, options)
    steps = 1 if options.quick else {"cpu": 3, "cuda": 20}[options.device]
    films = make_films(options.scratch, sizes.store_size, sizes.patients)
    ways = [
        partial(prepare_ours, sizes, films.store, options.scratch / "run", steps),
        partial(prepare_reference, sizes, films.store, films.images, steps),
    ]
    ours, reference = side_by_side(ways, options.repeats)
    stored = sizes.store_size**2 / 1e6
    jpeg = sum(file.stat().st_size for file in films.images.rglob("*.jpg")) / max(len(Store.open(films.store)), 1) / 1e6
    return Row(
        name=name,
        unit="images/s",
        better="higher",
        ours=ours,
        reference=reference,
        target=TARGETS[options.device],
        details={
            "input_share": ours.notes["input_share"],
            "input_share_reference": reference.notes["input_share"],
            "loading_processes_reference": loading_processes(sizes, sizes.config().views),
            "mb_read_per_film": stored,
            "mb_read_per_film_reference": jpeg,
        }
        | work_done(sizes, films.store, options.scratch, ours, reference),
    )


def prepare_ours(sizes: Sizes, store: Path, out: Path, steps: int) -> Once:
    """Steps of a run's own loop: images fetched, views, networks, optimizer, health beside the loss, metrics.

    Waiting counts the loader's thread and, on the processor that also trains, nothing else: views are cut in the step.
    """
    assembled = assemble(store, out, sizes.config())
    assert isinstance(assembled, Loop)
    loop: Loop = assembled
    loop.networks.train()
    batches = loop.batches(0, loop.schedule.steps)

    def one() -> float:
        """Seconds of a step in which it waited for images."""
        before, batch = batches.waited, next(batches)
        losses, numbers = loop.learn(batch, batches)
        loop.measure_health(batch.step + 1, losses, numbers)
        return batches.waited - before

    return Rounds(one, sizes.films, steps)


def prepare_reference(sizes: Sizes, store: Path, images: Path, steps: int) -> Once:
    """The published way on the JPEG files of the same images and charts; as many loading processes as cores."""
    opened, config, device = Store.open(store), sizes.config(), torch.device(sizes.device)
    data = load_training_data(opened, config)
    every = torch.arange(len(data.rows)).numpy()
    charts = torch.from_numpy(data.charts(every, 0 * every).rows)
    paths = opened.cohort.column("path").to_pylist()
    files = [images / paths[row] for row in data.rows]
    views = PILViews(config.views, *data.grey)
    workers = loading_processes(sizes, config.views)
    batches = endless_batches(PILFilms(files, charts, views), sizes.films, workers, pin=device.type == "cuda")
    architecture = vit.architecture(config.encoder, config.views.size)
    step = reference_step(architecture, config, charts.shape[1], device, bf16=uses_bf16(config.train))

    def one() -> float:
        asked = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - asked
        step(*(part.to(device, non_blocking=True) for part in batch))
        return waited

    return Rounds(one, sizes.films, steps)


def loading_processes(sizes: Sizes, views: ViewsConfig) -> int:
    """As many as cores, or as the shared memory (a container's is small) has room for: each keeps two batches ready."""
    batch = sizes.films * (2 * views.size**2 + views.focal_count * views.focal_size**2) * torch.float32.itemsize
    room = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else math.inf
    return int(max(min(available_cores(), room // (3 * batch)), 1))
