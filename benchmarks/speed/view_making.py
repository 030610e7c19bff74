"""Making the 12 views of an image on one core: ours from a store, PIL's from a decoded image of 512 px."""

import time
from functools import partial

import numpy as np
import torch

from benchmarks.speed.measuring import Measured, Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.pil_views import PILViews, film_like
from chartray.config import pretrain as knobs
from chartray.memory import keep_freed_memory
from chartray.pixels.resampling import Grey
from chartray.pixels.views import cut_views, plan_views

TARGETS = {"views.256": 6.0, "views.448": 3.0}
_FILM = (512, 624)
_MEAN, _STD = 0.5, 0.25


def measure(name: str, options: Options) -> Row:
    """Milliseconds an image; the reference is PIL in colour, as published, and beside it PIL in grey."""
    # A GPU works on few of them no longer than the host takes to ask for it.
    films = 4 if options.quick else {"cpu": 64, "cuda": 512}[options.device]
    side = int(name.split(".")[1])
    ways = [
        partial(prepare_ours, side, films, options.device),
        partial(prepare_pil, "RGB", films),
        partial(prepare_pil, "L", films),
    ]
    ours, colour, grey = side_by_side(ways, options.repeats)
    return Row(
        name=name,
        unit="ms/image",
        better="lower",
        ours=ours,
        reference=colour,
        target=TARGETS[name] if options.device == "cpu" else None,
        details={"films": films, "pil_grey_ms": grey.median, "ratio_to_pil_grey": grey.median / ours.median}
        | bytes_moved(side, ours),
    )


def bytes_moved(side: int, ours: Measured) -> dict[str, float]:
    """What must be read and written at least: the stored image, and its standardised views in float32."""
    views = knobs.load("msn").views
    written = 4 * (2 * views.size**2 + views.focal_count * views.focal_size**2)
    return {
        "mb_read_per_film": side**2 / 1e6,
        "mb_written_per_film": written / 1e6,
        "gb_per_s": (side**2 + written) / 1e6 / ours.median,
    }


def prepare_ours(side: int, films: int, device: str) -> Once:
    """Views of `films` images of a `side` px store: drawn, cut and standardised, each round another step's."""
    torch.set_num_threads(1)
    keep_freed_memory()
    config = knobs.load("msn").views
    stored = torch.from_numpy(np.asarray(film_like(*_FILM).resize((side, side)))).expand(films, side, side).contiguous()
    stored = stored.to(device)
    sizes, rows = np.tile(np.array(_FILM, float), (films, 1)), np.arange(films)
    steps = iter(range(1_000_000))

    def once() -> float:
        began = time.perf_counter()
        plan = plan_views(rows, sizes, side, config, patch_side=16, seed=0, step=next(steps))
        views = cut_views(stored, plan, config, Grey(_MEAN, _STD))
        if views.target.is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / films * 1e3

    return once


def prepare_pil(mode: str, films: int) -> Once:
    """The same views by PIL, image by image."""
    torch.set_num_threads(1)
    film = film_like(*_FILM).convert(mode)
    make = PILViews(knobs.load("msn").views, _MEAN, _STD)

    def once() -> float:
        began = time.perf_counter()
        for _ in range(films):
            make(film)
        return (time.perf_counter() - began) / films * 1e3

    return once
