"""Into how many parts a step divides its images: as many as the memory asks for, and more where it runs out.

The gradient is that of the undivided batch (gradient_cache.py), so a run may be divided otherwise on another machine.
"""

import gc
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from chartray import memory
from chartray.collective import process_count
from chartray.config.pretrain import Config, ViewsConfig
from chartray.errors import InputError
from chartray.networks.siamese import ChartBatch
from chartray.training.compilation import as_written
from chartray.training.gradient_cache import of_images
from chartray.training.prefetch import Batch
from chartray.training.runtime import processes
from chartray.training.step import Autocast, Networks, forward

Made = TypeVar("Made")
_SHARE = 0.92  # of what is free: the rest is for the gaps between blocks
_LIBRARIES = {"cuda": 512 * 2**20, "cpu": 128 * 2**20}  # workspaces, and the pieces that views are cut in
_PASSING = 0.1  # of what a part keeps: what its gradient needs for a moment beside that, with what is not counted
_BATCHES = 2  # whose views are there at once: this step's and the next one's


class StepMemory(NamedTuple):
    """Bytes of a step in one process. `weights`: of the networks, which are there already; `fixed`: whatever the batch;
    `image`: of each image, all the step; `part_image`: of each image while its part is computed.
    """

    weights: int
    fixed: int
    image: int
    part_image: int

    def needed(self, images: int, parts: int) -> int:
        """Bytes at the peak of a step of this many images, beside the weights."""
        return self.fixed + images * self.image + -(-images // parts) * self.part_image


def step_memory(networks: Networks, two: Batch, config: Config, autocast: Autocast) -> StepMemory:
    """Counts what a step needs: autograd says what it keeps of one image and of `two`, undivided and in parts."""

    def kept(images: int, parts: int) -> int:
        views = of_images(two.views, slice(images))
        chart = ChartBatch(two.chart.rows[:images], two.chart.observed[:images])
        return kept_bytes(lambda: forward(networks, views, chart, config.objective, autocast, parts), networks)

    training = networks.training
    networks.eval()  # so that no running mean moves
    with as_written():
        undivided, divided = (kept(2, parts) - kept(1, parts) for parts in (1, 2))
    networks.train(training)
    trained = sum(value.nbytes for value in networks.trained_parameters().values())
    weights = sum(value.nbytes for value in (*networks.parameters(), *networks.buffers()))
    return StepMemory(
        weights=weights,
        # Gradients, two moments, and all weights once more in the precision that autocast computes in.
        fixed=3 * trained + weights // 2 + _LIBRARIES["cpu" if two.views.target.device.type == "cpu" else "cuda"],
        image=divided + _BATCHES * bytes_of_views(config.views),
        part_image=round((undivided - divided) * (1 + _PASSING)),
    )


def kept_bytes(forward: Callable[[], object], networks: nn.Module) -> int:
    """Bytes that autograd keeps of `forward()` for the gradient, beside the weights; each storage counts once."""
    weights = {value.untyped_storage()._cdata for value in networks.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = forward()  # held until all is counted: a freed storage's name would be used again
    del made
    return sum(kept.values())


def bytes_of_views(views: ViewsConfig) -> int:
    """Bytes of the views of one image, as they are cut."""
    pixels = 2 * views.size**2 + views.focal_count * views.focal_size**2
    return pixels * torch.float32.itemsize


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still take on `device`; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    here = memory.available()
    return None if here is None else here // processes()[1]


def refuse_views_that_do_not_fit(views: ViewsConfig, images: int, free: int) -> None:
    """Raises InputError where the views of a process's images alone, all cut at once, do not fit into `free` bytes."""
    needed = _BATCHES * images * bytes_of_views(views)
    if needed > free:
        raise InputError(
            f"the {2 + views.focal_count} views of {images} images need {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free; lower train.batch_size or views.focal_count, or use more processes"
        )


def parts_that_fit(needs: StepMemory, images: int, free: int) -> int:
    """The fewest parts whose step fits into `free` bytes; those that divide the images come first.

    Raises InputError if even parts of one image do not fit.
    """
    room = int(free * _SHARE)
    if needs.needed(images, images) > room:
        raise InputError(
            f"expected memory for a step of {images} images, at least {needs.needed(images, images) / 2**30:.1f} GiB, "
            f"found {free / 2**30:.1f} GiB free; lower train.batch_size or views.focal_count, or use more GPUs"
        )
    fewest = next(parts for parts in range(1, images + 1) if needs.needed(images, parts) <= room)
    # Equal parts are compiled once. A batch without a divisor near has parts of two sizes.
    return next((parts for parts in range(fewest, min(2 * fewest, images + 1)) if images % parts == 0), fewest)


class Division:
    """The parts of this process's images in a step, and the bytes planned for it. `fixed`: the number stays."""

    def __init__(self, parts: int, images: int, *, fixed: bool = False, planned: int | None = None) -> None:
        self.parts, self.images, self.planned, self._fixed = parts, images, planned, fixed

    def tried(self, compute: Callable[[int], Made], networks: nn.Module) -> Made:
        """`compute(parts)`; where memory runs out, again in twice as many parts, and so on.

        `compute` may change nothing but gradients and the networks' buffers, which are put back. Several processes
        would wait for the one that computes again: there, and where the number was given, the error is raised.
        """
        while True:
            before = [buffer.clone() for buffer in networks.buffers()]
            try:
                return compute(self.parts)
            except (MemoryError, RuntimeError) as error:
                last = self._fixed or process_count() > 1 or self.parts == self.images
                if last or not memory.ran_out(error):
                    raise
            # Here, where the error no longer holds what the step had made.
            for parameter in networks.parameters():
                parameter.grad = None
            gc.collect()
            torch.cuda.empty_cache()  # without a GPU it does nothing
            for buffer, value in zip(networks.buffers(), before, strict=True):
                buffer.copy_(value)
            self._divide()

    def _divide(self) -> None:
        more = range(min(2 * self.parts, self.images), self.images + 1)
        parts = next((each for each in more if self.images % each == 0 and each < 2 * more.start), more.start)
        print(
            f"memory ran out: a step's {self.images} images are computed in {parts} parts instead of {self.parts}; the "
            "gradient stays the same",
            flush=True,
        )
        self.parts = parts
