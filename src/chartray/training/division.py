"""Into how many parts a step divides its images: as many as the memory asks for, and more where it runs out.

The gradient is that of the undivided batch (gradient_cache.py), so a run may be divided otherwise on another machine.
"""

import gc
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from chartray import memory
from chartray.collective import all_or_none, largest, tried
from chartray.config.pretrain import Config, ViewsConfig
from chartray.console import status
from chartray.errors import InputError
from chartray.networks import encoder as vit
from chartray.training.compilation import as_written
from chartray.training.gradient_cache import of_images
from chartray.training.loader import ImageLoader
from chartray.training.manifest import RunManifest
from chartray.training.prefetch import Batch, prepared
from chartray.training.processes import is_first_process, processes
from chartray.training.runtime import Runtime
from chartray.training.step import Autocast, Networks, forward
from chartray.training.training_data import TrainingData

Made = TypeVar("Made")
_SHARE = 0.92  # of what is free: the rest is for the gaps between blocks
_LIBRARIES = {"cuda": 512 * 2**20, "cpu": 128 * 2**20}  # workspaces, and the pieces that views are cut in
_PASSING = 0.1  # of what a part keeps: what its gradient needs for a moment beside that, with what is not counted
# A peak that differs from its plan by this factor, and by these bytes, is told.
_MUCH, _WORTH_A_LINE = 1.25, 256 * 2**20
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
        chart = two.chart.of_images(slice(images))
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
    """The parts of this process's images in a step; bytes planned for a step beside the weights, and measured.

    `fixed`: the number stays. `before`: bytes of the plan that are taken before a step: moments, and its own views.
    """

    def __init__(
        self, parts: int, images: int, *, fixed: bool = False, planned: int | None = None, before: int = 0
    ) -> None:
        self.parts, self.images, self.planned, self._fixed, self._before = parts, images, planned, fixed, before
        self.measured: int | None = None
        self._first = True

    def tried(self, compute: Callable[[int], Made], networks: nn.Module) -> Made:
        """`compute(parts)`; where memory runs out in any process, in all of them in twice as many parts, and so on.

        `compute` may change nothing but gradients and the networks' buffers, which are put back. Where the number was
        given, the error is raised.
        """
        while True:
            before = [buffer.clone() for buffer in networks.buffers()]
            device = next(networks.parameters()).device
            # The first step makes the optimizer's moments, and may compile.
            there = None if self._first or self.measured is not None else begin_peak(device)
            made = tried(lambda: compute(self.parts), last=self._fixed or self.parts == self.images)
            if made is not None:
                if not self._first and self.measured is None:
                    self.measured = largest(0 if there is None else peak(device) - there + self._before, device)
                    self._tell_if_unplanned()
                self._first = False
                return made
            # Here, where no error holds what the step had made.
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
        if is_first_process():
            print(
                f"memory ran out: a step's {self.images} images are computed in {parts} parts instead of {self.parts}; "
                "the gradient stays the same",
                flush=True,
            )
        self.parts = parts

    def _tell_if_unplanned(self) -> None:
        """A line where the measured peak differs much from the plan."""
        if not self.planned or not self.measured or not is_first_process():
            return
        low, high = sorted((self.planned, self.measured))
        if high > _MUCH * low and high - low > _WORTH_A_LINE:
            status(
                f"a step's peak is {self.measured / 2**30:.1f} GiB beside the weights, and {self.planned / 2**30:.1f} "
                "GiB were planned; where memory runs out, it is divided further"
            )


def begin_peak(device: torch.device) -> int | None:
    """Begins to measure `peak`; the bytes that are taken now on `device`, None where the system does not say."""
    if device.type != "cuda":
        return memory.begin_peak()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak(device: torch.device) -> int:
    """The most bytes that were taken on `device` since `begin_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak()


def divide(
    networks: Networks,
    data: TrainingData,
    config: Config,
    runtime: Runtime,
    *,
    before: RunManifest | None,
    device: object,
) -> Division:
    """The parts of a step: those of `train.accumulate`, or what the memory of every process asks for.

    A run that is continued on the same device keeps at least the parts that it had: memory may have run out with fewer.
    Raises InputError where no division fits, or where the number given cannot divide a process's images.
    """
    images, given = config.train.batch_size // runtime.world_size, config.train.accumulate
    taken = 2 * sum(value.nbytes for value in networks.trained_parameters().values())
    taken += images * bytes_of_views(config.views)
    if given != "auto":
        if images % given:
            raise InputError(
                f"expected train.accumulate to divide the {images} images of each of {runtime.world_size} processes, "
                f"found {given}; leave it out to have it chosen by the memory"
            )
        return Division(given, images, fixed=True, before=taken)

    def planned() -> tuple[int, int | None]:
        free = free_bytes(runtime.device)
        if free is None:
            return 1, None
        refuse_views_that_do_not_fit(config.views, images, free)
        needs = counted(networks, data, config, runtime)
        parts = parts_that_fit(needs, images, free)
        return parts, needs.needed(images, parts)

    parts, needed = all_or_none(planned, runtime.device)
    if before is not None and before.accumulate is not None and before.device == device:
        parts = max(parts, min(before.accumulate, images))
    parts = largest(parts, runtime.device)
    if parts > 1 and needed is not None and runtime.is_first:
        status(
            f"a step's {images} images are computed in {parts} parts, which need {needed / 2**30:.1f} GiB; the "
            "gradient is that of the whole batch"
        )
    return Division(parts, images, planned=needed, before=taken)


def counted(networks: Networks, data: TrainingData, config: Config, runtime: Runtime) -> StepMemory:
    """What a step of a run needs, counted on two of its images."""
    side = vit.patch_side(networks.encoder)
    loader = ImageLoader(data.store, data.rows, config.views, patch_side=side, batch_size=2, seed=config.seed)
    return step_memory(networks, prepared(loader.load(0), data, config, runtime.device), config, runtime.autocast)
