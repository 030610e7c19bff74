"""What the next step needs, made ready while the device still works at this one."""

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from chartray.networks.siamese import ChartBatch
from chartray.pixels.views import Views
from chartray.training.films import Batch


class Prepared(NamedTuple):
    """A batch with its views, standardised, and its chart rows, all on the device or queued there."""

    batch: Batch
    views: Views
    chart: ChartBatch


class Ahead(Iterator[Prepared]):
    """The prepared batches of a run, in order; `fetch` makes the next one ready before it is asked for.

    A device works through what is queued. Cutting the views of a step queues some 450 small pieces of work, which takes
    the host milliseconds: called while the device is busy with a gradient, it does not find out.
    """

    def __init__(self, batches: Iterator[Batch], prepare: Callable[[Batch], Prepared]) -> None:
        self._batches, self._prepare = batches, prepare
        self._next: Prepared | None = None
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
            self._next = self._prepare(batch)

    def __next__(self) -> Prepared:
        self.fetch()
        if self._next is None:
            raise StopIteration
        ready, self._next = self._next, None
        return ready


def send(images: Tensor, device: torch.device) -> Tensor:
    """Films (B, S, S) to the device; to a GPU beside the work that is queued there, which would else wait for them."""
    if device.type != "cuda":
        return images.to(device, non_blocking=True)
    copying, computing = _copying(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        sent = images.to(device, non_blocking=True)
    computing.wait_stream(copying)
    # Their memory is the copying stream's: not to be given away before the views are cut.
    sent.record_stream(computing)
    return sent


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
