"""Which films a step trains on, fetched and their views drawn ahead of it; grey statistics of the training films."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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

_ORDER = 7_002
_GREY_SAMPLE = 2_048
_READERS, _FILMS_A_READER = 8, 16


class Batch(NamedTuple):
    """This process's share of a step: `rows` (B,) of the store, their place among the training films, and films."""

    step: int
    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    images: Tensor  # (B, S, S) uint8, host memory
    plan: ViewPlan


def places_of_step(step: int, batch_size: int, films: int, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Places (B,) among `films` training films, and their epochs (B,): one endless stream of shuffled passes.

    A pure function of (seed, step): no loader state, nothing dropped at the end of a pass.
    """
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs = positions // films
    places = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        places[here] = _order(films, seed, int(epoch))[positions[here] % films]
    return places, epochs


@lru_cache(maxsize=2)
def _order(films: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """One pass over the films: worked out once, not at each step (a batch may straddle two)."""
    order = permutation(films, seed, _ORDER, epoch)
    order.flags.writeable = False
    return order


def film_sizes(store: Store) -> npt.NDArray[np.float64]:
    """True height and width of every film of the store, (rows, 2)."""
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


class FilmLoader:
    """Fetches the films of the next step, and draws their views, while this one runs.

    Process `rank` of `world` gets its share of each batch. `patch_side` is the encoder's.
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
        self._mine = slice(rank * share, (rank + 1) * share)
        self._sizes = film_sizes(store)
        self._pin = pin
        self._readers = ThreadPoolExecutor(_READERS)

    def load(self, step: int) -> Batch:
        """The films of one step and what is drawn of them: a pure function of (seed, step), but for the pixels."""
        places, epochs = places_of_step(step, self._batch_size, len(self._rows), self._seed)
        places, epochs = places[self._mine], epochs[self._mine]
        rows = self._rows[places]
        images = self._fetched(rows)
        plan = plan_views(
            rows,
            self._sizes[rows],
            images.shape[-1],
            self._views,
            patch_side=self._patch_side,
            seed=self._seed,
            step=step,
        )
        return Batch(step, rows, places, epochs, images, plan)

    def _fetched(self, rows: npt.NDArray[np.int64]) -> Tensor:
        side = self._store.images.size
        # Gathered where a GPU fetches them from: pinning them afterwards would copy them again.
        fetched = torch.empty((len(rows), side, side), dtype=torch.uint8, pin_memory=self._pin)
        films = fetched.numpy()

        def read(part: slice) -> None:
            self._store.images.gather(rows[part], out=films[part])

        # What is not in the system's cache comes from a disk, which answers many readers as fast as one.
        parts = [slice(start, start + _FILMS_A_READER) for start in range(0, len(rows), _FILMS_A_READER)]
        list(self._readers.map(read, parts))
        return fetched

    def steps(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps [first, last), each fetched one step ahead by a thread."""
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming: Future[Batch] = ahead.submit(self.load, first)
            for step in range(first, last):
                batch = coming.result()
                if step + 1 < last:
                    coming = ahead.submit(self.load, step + 1)
                yield batch
