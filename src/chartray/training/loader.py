"""Which images a step trains on, read from the store; grey statistics of the training images."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor

from chartray.config.pretrain import ViewsConfig
from chartray.pixels.store import Store
from chartray.pixels.views import ViewPlan, plan_views
from chartray.randomness import permutation

_ORDER = 7_002  # sets this use of the seed apart
_GREY_SAMPLE = 2_048
_READERS, _IMAGES_A_READER = 8, 16


class ImageBatch(NamedTuple):
    """This process's images of a step, in host memory, and how their views will be cut.

    `rows` (B,) of the store, `places` (B,) among the training images, `epochs` (B,).
    """

    step: int
    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    images: Tensor  # (B, S, S) uint8
    plan: ViewPlan


class ImageLoader:
    """Reads the images of a step and draws their views.

    Process `rank` of `world` gets its share of each batch. `patch_side` is the encoder's, in pixels.
    """

    def __init__(
        self,
        store: Store,
        rows: npt.NDArray[np.int64],
        views: ViewsConfig,
        *,
        patch_side: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        self._store, self._rows = store, rows
        self._views, self._patch_side = views, patch_side
        self._batch_size, self._seed = batch_size, seed
        share = batch_size // world
        self._share = slice(rank * share, (rank + 1) * share)
        self._sizes = image_sizes(store)
        self._pin = pin

    def load(self, step: int) -> ImageBatch:
        """The images of one step and the plan of their views: a pure function of (seed, step) and the store."""
        places, epochs = places_of_step(step, self._batch_size, len(self._rows), self._seed)
        places, epochs = places[self._share], epochs[self._share]
        rows = self._rows[places]
        images = self._read(rows)
        plan = plan_views(
            rows,
            self._sizes[rows],
            images.shape[-1],
            self._views,
            patch_side=self._patch_side,
            seed=self._seed,
            step=step,
        )
        return ImageBatch(step, rows, places, epochs, images, plan)

    def _read(self, rows: npt.NDArray[np.int64]) -> Tensor:
        side = self._store.images.size
        # Gathered into pinned memory: pinning afterwards would copy once more.
        buffer = torch.empty((len(rows), side, side), dtype=torch.uint8, pin_memory=self._pin)
        images = buffer.numpy()

        def read(start: int) -> None:
            part = slice(start, start + _IMAGES_A_READER)
            self._store.images.gather(rows[part], out=images[part])

        # A disk serves several readers as fast as one; what the system has cached, faster.
        with ThreadPoolExecutor(_READERS) as readers:
            list(readers.map(read, range(0, len(rows), _IMAGES_A_READER)))
        return buffer


def places_of_step(
    step: int, batch_size: int, images: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places (B,) among the training images, and their epochs (B,): one endless stream of shuffled passes.

    A pure function of (seed, step): no loader state, and nothing is dropped at the end of a pass.
    """
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs = positions // images
    places = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        places[here] = _order(images, seed, int(epoch))[positions[here] % images]
    return places, epochs


@lru_cache(maxsize=2)  # a batch may straddle two passes
def _order(images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the images in one pass."""
    order = permutation(images, seed, _ORDER, epoch)
    order.flags.writeable = False
    return order


def image_sizes(store: Store) -> npt.NDArray[np.float64]:
    """True height and width of every image of the store, (rows, 2)."""
    sides = [store.cohort.column(name).to_numpy(zero_copy_only=False) for name in ("height", "width")]
    return np.stack(sides, axis=1).astype(np.float64)


def split_rows(store: Store, split: str) -> npt.NDArray[np.int64]:
    """The store rows of one split, ascending."""
    return np.flatnonzero(pc.equal(store.cohort.column("split"), split).to_numpy(zero_copy_only=False)).astype(np.int64)


def grey_statistics(store: Store, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of grey in [0, 1] over up to 2,048 of `rows`, evenly spread."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _GREY_SAMPLE)).astype(np.int64)]
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(chosen), 256):
        counts += np.bincount(store.images.gather(chosen[start : start + 256]).ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    return mean, float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))
