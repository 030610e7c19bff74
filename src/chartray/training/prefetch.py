"""The batches of a run: read by a thread, cut into views while the device computes, in the order of the steps."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from chartray.config.pretrain import Config
from chartray.networks import encoder as vit
from chartray.networks.chart import ChartBatch
from chartray.pixels.views import Views, cut_views
from chartray.training.loader import ImageBatch, ImageLoader
from chartray.training.runtime import Runtime
from chartray.training.training_data import TrainingData


class Batch(NamedTuple):
    """This process's share of a step: `rows` (B,) of the store, standardised views and charts on the device."""

    step: int
    rows: npt.NDArray[np.int64]
    views: Views
    chart: ChartBatch


class Prefetcher(Iterator[Batch]):
    """The batches of `steps`, in order; as a context it leaves no thread behind.

    A thread reads one step's images (`load`) while the step before is prepared and computed. `prepare` cuts the views
    on the device: some 450 small operations, which take the host milliseconds. Called through `prepare_next` while the
    device works on a gradient, they cost no time. On a GPU they have their own stream.
    """

    def __init__(
        self,
        load: Callable[[int], ImageBatch],
        prepare: Callable[[ImageBatch], Batch],
        steps: Iterable[int],
        device: torch.device,
    ) -> None:
        self._load, self._prepare, self._steps = load, prepare, iter(steps)
        self._thread = ThreadPoolExecutor(1)
        self._read: Future[ImageBatch] | None = None
        self._images: ImageBatch | None = None  # read, and not prepared yet
        self._next: Batch | None = None
        stream: Any = torch.cuda.Stream  # which torch has given no types
        self._stream = stream(device) if device.type == "cuda" else None
        self.waited = 0.0  # seconds that the host has waited for images
        self._read_ahead()

    def prepare_next(self) -> None:
        """Makes the next batch ready, if there is one and it is not ready yet."""
        if self._next is not None:
            return
        if self._images is None and self._read is not None:
            began = time.perf_counter()
            self._images = self._read.result()
            self.waited += time.perf_counter() - began
            self._read_ahead()
        if self._images is not None:
            with self._in_stream():
                self._next = self._prepare(self._images)
            self._images = None

    def __next__(self) -> Batch:
        self.prepare_next()
        if self._next is None:
            raise StopIteration
        batch, self._next = self._next, None
        if self._stream is not None:
            computing = torch.cuda.current_stream(self._stream.device)
            computing.wait_stream(self._stream)
            # Their memory belongs to the other stream: it must not be reused there before this one has read it.
            for tensor in (*batch.views, batch.chart.rows, batch.chart.observed):
                if tensor is not None:
                    tensor.record_stream(computing)
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read = self._images = self._next = None
        self._thread.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        step = next(self._steps, None)
        self._read = None if step is None else self._thread.submit(self._load, step)

    def _in_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def batches_of(
    data: TrainingData, config: Config, networks: nn.Module, runtime: Runtime, steps: Iterable[int]
) -> Prefetcher:
    """This process's share of the batches of `steps`."""
    encoder: Any = networks.encoder
    loader = ImageLoader(
        data.store,
        data.rows,
        config.views,
        patch_side=vit.patch_side(encoder),
        batch_size=config.train.batch_size,
        seed=config.seed,
        rank=runtime.rank,
        world=runtime.world_size,
        pin=runtime.device.type == "cuda",
    )
    return Prefetcher(loader.load, lambda batch: prepared(batch, data, config, runtime.device), steps, runtime.device)


def prepared(batch: ImageBatch, data: TrainingData, config: Config, device: torch.device) -> Batch:
    """The views and charts of a batch, on the device."""
    images = batch.images.to(device, non_blocking=True)
    views = cut_views(images, batch.plan, config.views, data.grey)
    return Batch(batch.step, batch.rows, views, data.chart_batch(batch, device))
