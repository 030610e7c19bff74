"""One pretraining step, model only: views are there already. Ours as `pretrain` runs it, against lightly's."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.machine import matrix_product_peak
from benchmarks.speed.measuring import Measured, Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.reference import reference_step
from benchmarks.speed.simulated_store import make_films
from chartray.config import pretrain as knobs
from chartray.config.pretrain import Config
from chartray.memory import give_back_freed_memory
from chartray.networks import encoder as vit
from chartray.pixels.store import Store
from chartray.pixels.views import cut_views
from chartray.training.loader import ImageLoader
from chartray.training.loop import Loop
from chartray.training.prefetch import Batch
from chartray.training.pretrain import assemble
from chartray.training.runtime import uses_bf16
from chartray.training.training_data import load_training_data

TARGETS = {"cpu": 3.2, "cuda": 8.0}
# Images a second on an H200, views and reading included.
GOALS_ON_AN_H200 = {"vit_tiny": 12_000.0, "vit_small": 4_500.0}
# Images a step on a GPU of 80 GB: on a CPU each takes 80 and 130 MB of memory.
_FILMS_ON_A_GPU = {"vit_tiny": 512, "vit_small": 256}
_STEPS_A_ROUND = {"cpu": 1, "cuda": 10}
_FILMS_COUNTED = 4


class Sizes(NamedTuple):
    """What both ways train: a ViT by its short name, images a step, pixels of whole and focal views, where and how."""

    encoder: str
    films: int
    size: int
    focal_size: int
    store_size: int
    patients: int
    device: str

    def config(self, *, films: int | None = None, compiled: bool = True) -> Config:
        """The recipe `msn` at these sizes, with demographic-norm; the online probe is left out."""
        return knobs.load(
            "msn",
            None,
            {
                "encoder.name": self.encoder,
                "views.size": self.size,
                "views.focal_size": self.focal_size,
                "train.batch_size": films or self.films,
                "train.steps": 10_000,
                "train.device": self.device,
                "train.compile": "auto" if compiled else False,
                "health.every": 1_000_000,
                "health.probe_films": 16,
            },
        )


def sizes_of(name: str, options: Options) -> Sizes:
    """The sizes of `...vit_tiny` or `...vit_small`: the recipe's views, a 448 px store, a batch that fits."""
    encoder = name.split(".")[1]
    if options.quick:
        return Sizes(encoder, 4, 64, 32, 64, 30, options.device)
    on_gpu = options.device == "cuda"
    films = options.batch_size or (_FILMS_ON_A_GPU[encoder] if on_gpu else 64)
    return Sizes(encoder, films, 224, 96, 448, max(150, films), options.device)


def measure(name: str, options: Options) -> Row:
    """Images a second of an optimizer step on views that are there, in bf16 where `pretrain` would use it."""
    sizes = sizes_of(name, options)
    store = make_films(options.scratch, sizes.store_size, sizes.patients).store
    ways = [
        partial(prepare_ours, sizes, store, options.scratch / "run"),
        partial(prepare_reference, sizes, store),
    ]
    if sizes.device == "cpu":  # where ours is plain too
        ways.append(partial(prepare_reference, sizes, store, fused_attention=False))
    ours, reference, *plain = side_by_side(ways, options.repeats)
    with_plain_attention: dict[str, float | str] = {}
    if plain:
        with_plain_attention["reference_with_plain_attention"] = plain[0].median
        with_plain_attention["ratio_to_it"] = ours.median / plain[0].median
    return Row(
        name=name,
        unit="images/s",
        better="higher",
        ours=ours,
        reference=reference,
        target=TARGETS[options.device],
        details=with_plain_attention | work_done(sizes, store, options.scratch, ours, reference),
    )


def prepare_ours(sizes: Sizes, store: Path, out: Path, films: int | None = None, compiled: bool = True) -> "Rounds":
    """`Loop.learn` of a run on the images of its first step."""
    loop = assemble(store, out, sizes.config(films=films, compiled=compiled))
    assert isinstance(loop, Loop)
    loop.networks.train()
    batch = first_batch(Store.open(store), loop.config, loop.runtime.device)

    def step() -> float:
        loop.learn(batch)  # reads its loss, and so waits for the device
        return 0.0

    return Rounds(step, loop.config.train.batch_size, _STEPS_A_ROUND[sizes.device])


def prepare_reference(sizes: Sizes, store: Path, films: int | None = None, fused_attention: bool = True) -> "Rounds":
    """lightly's networks and loss on the same views and charts; attention as timm has it, or plain as ours on a CPU."""
    config = sizes.config(films=films)
    device = torch.device(sizes.device)
    batch = first_batch(Store.open(store), config, device)
    views, chart = batch.views, batch.chart
    theirs = reference_step(
        vit.architecture(config.encoder, config.views.size),
        config,
        chart.rows.shape[1],
        device,
        bf16=uses_bf16(config.train),
        fused_attention=fused_attention,
    )

    def step() -> float:
        theirs(views.target, views.random, views.focal, chart.rows)
        return 0.0

    return Rounds(step, len(batch.rows), _STEPS_A_ROUND[sizes.device])


class Rounds:
    """A way (measuring.py): rounds of `steps` steps of so many images, in images a second.

    A step returns how many seconds it waited for its images; their share of the time is noted. One that is not counted
    comes first: it fetches the memory that was given back after the round before, since the other ways need it.
    """

    def __init__(self, step: Callable[[], float], films: int, steps: int) -> None:
        self.notes = {"input_share": 0.0}
        self.step, self._films, self._steps = step, films, steps
        self._shares: list[float] = []

    def __call__(self) -> float:
        self.step()
        began = time.perf_counter()
        waited = sum(self.step() for _ in range(self._steps))
        seconds = time.perf_counter() - began
        self._shares.append(waited / seconds)
        self.notes["input_share"] = statistics.median_high(self._shares)
        give_back_freed_memory()  # measuring.py gives back a GPU's
        return self._steps * self._films / seconds


def first_batch(store: Store, config: Config, device: torch.device) -> Batch:
    """The images of step 0 of a run, their views and charts."""
    data = load_training_data(store, config)
    side = vit.patch_side(vit.build(vit.architecture(config.encoder, config.views.size), seed=0))
    loaded = ImageLoader(
        store, data.rows, config.views, patch_side=side, batch_size=config.train.batch_size, seed=0
    ).load(0)
    views = cut_views(loaded.images.to(device), loaded.plan, config.views, data.grey)
    return Batch(0, loaded.rows, views, data.chart_batch(loaded, device))


def work_done(sizes: Sizes, store: Path, scratch: Path, ours: Measured, reference: Measured) -> dict[str, float | str]:
    """Operations of an image, counted, and what share of the device's measured matrix-product peak both ways reach."""
    films = min(sizes.films, _FILMS_COUNTED)
    ways: list[Any] = [
        partial(prepare_ours, sizes, store, scratch / "counted", films, False),
        partial(prepare_reference, sizes, store, films),
    ]
    counted = [each.median for each in side_by_side([partial(_operations, way, films) for way in ways], 1)]
    bf16 = uses_bf16(sizes.config().train)
    peak = matrix_product_peak(sizes.device, torch.bfloat16 if bf16 else torch.float32) * 1e3
    return {
        "films_a_step": sizes.films,
        "precision": "bf16" if bf16 else "fp32",
        "gflop_per_film": counted[0],
        "gflop_per_film_reference": counted[1],
        "peak_gflops": peak,
        **({"films_per_second_goal": GOALS_ON_AN_H200[sizes.encoder]} if sizes.device == "cuda" else {}),
        "share_of_peak": ours.median * counted[0] / peak,
        "share_of_peak_reference": reference.median * counted[1] / peak,
    }


def _operations(prepare: Callable[[], "Rounds"], films: int) -> Once:
    """GFLOP of an image in a step, forward and backward, as torch counts its matrix products."""
    step = prepare().step  # one of those that a round has several of

    def counted() -> float:
        with FlopCounterMode(display=False) as counter:
            step()
        return float(counter.get_total_flops()) / films / 1e9

    return counted
