"""What the next step needs, made ready while the device still works at this one."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from chartray.networks.siamese import ChartBatch
from chartray.pixels.views import Views
from chartray.training.loader import Batch


class Prepared(NamedTuple):
    """A batch with its views, standardised, and its chart rows, all on the device or queued there."""

    batch: Batch
    views: Views
    chart: ChartBatch


class Ahead(Iterator[Prepared]):
    """The prepared batches of a run, in order; `fetch` makes the next one ready before it is asked for.

    A device works through what is queued. Cutting the views of a step queues some 450 small pieces of work, which takes
    the host milliseconds: called while the device is busy with a gradient, it does not find out. On a GPU they go into
    a queue of their own, so that films are copied and cut beside the gradient, and while the host waits for it.
    """

    def __init__(self, batches: Iterator[Batch], prepare: Callable[[Batch], Prepared], device: torch.device) -> None:
        self._batches, self._prepare = batches, prepare
        self._next: Prepared | None = None
        stream: Any = torch.cuda.Stream  # which torch has given no types
        self._aside = stream(device) if device.type == "cuda" else None
        # Seconds that the host has waited for films.
        self.waited = 0.0

    def fetch(self) -> None:
        """Makes the next batch ready if there is one and it is not."""
        if self._next is not None:
            return
        began = time.perf_counter()
        batch = next(self._batches, None)
        self.waited += time.perf_counter() - began
        if batch is not None:
            with self._queue():
                self._next = self._prepare(batch)

    def __next__(self) -> Prepared:
        self.fetch()
        if self._next is None:
            raise StopIteration
        ready, self._next = self._next, None
        if self._aside is not None:
            computing = torch.cuda.current_stream(self._aside.device)
            computing.wait_stream(self._aside)
            # Their memory is the other queue's: not to be given away there before this one has read it.
            for tensor in (*ready.views, *ready.chart):
                if tensor is not None:
                    tensor.record_stream(computing)
        return ready

    def _queue(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._aside is None else torch.cuda.stream(self._aside)
