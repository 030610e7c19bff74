"""How fast a GPU trains, what it needs of memory, and where the time of a step goes."""

import gc
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
from pydantic import JsonValue
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setting import Finding, Setting
from benchmarks.speed.training_step import GOALS_ON_AN_H200
from chartray.training.loop import Loop
from chartray.training.prefetch import Batch, Prefetcher

_STEPS_TRACED = 6
_KERNELS_SHOWN = 24


def memory(where: Setting) -> Iterator[Finding]:
    """Most memory of the README's recipe, ViT-Small with 1,024 images a step, whole and in parts."""
    compiled = not where.quick
    for parts, recompute, compile_it in (
        (1, True, False),
        (1, False, False),
        (2, True, False),
        (4, True, False),
        (4, False, False),
        (1, True, compiled),
        (1, False, compiled),
    ):
        given: dict[str, JsonValue] = {
            "encoder.name": "vit_small",
            "train.batch_size": where.size(1_024, 8),
            "train.accumulate": parts,
            "train.recompute": recompute,
            "train.compile": compile_it,
        }
        how = f"{'' if recompute else 'not '}recomputed, {'compiled' if compile_it else 'as written'}"
        name = f"ViT-Small, 1,024 images in {parts} part{'s' * (parts > 1)}, {how}"
        try:
            peak, rate = _peak_and_rate(where, given)
        except torch.OutOfMemoryError:
            yield Finding(f"{name}: peak GiB", "out of memory", "told")
            continue
        yield Finding(f"{name}: peak GiB", peak, "told")
        yield Finding(f"{name}: images/s", rate, "told")


def speed(where: Setting) -> Iterator[Finding]:
    """Images a second of the whole loop, compiled, at 512 images a step; and a trace of where the time goes."""
    for encoder in ("vit_tiny", "vit_small"):
        yield from _rates(where, encoder, 512, traced=True)


def speed_by_batch(where: Setting) -> Iterator[Finding]:
    """The same at other numbers of images a step."""
    for encoder, images in (("vit_tiny", 1_024), ("vit_tiny", 128), ("vit_small", 1_024), ("vit_tiny", 256)):
        yield from _rates(where, encoder, images)


def _told(name: str, traced: profile, wall: float) -> Iterator[Finding]:
    kernels: dict[str, list[float]] = defaultdict(list)
    spans = []
    for event in traced.events() or ():  # type: ignore[no-untyped-call]  # torch's profiler has no types
        if str(event.device_type).endswith("CUDA"):
            kernels[event.name].append(event.time_range.elapsed_us())
            spans.append((event.time_range.start, event.time_range.end))
    if not spans:
        yield Finding(f"{name}: traced", "no kernel of a GPU", "told")
        return
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    busy, until = 0.0, first
    for start, end in sorted(spans):
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    yield Finding(f"{name}: ms a step, traced", wall * 1e3 / _STEPS_TRACED, "told")
    yield Finding(f"{name}: share of the time in which the device is idle", 1 - busy / (last - first), "told")
    yield Finding(f"{name}: kernels a step", len(spans) / _STEPS_TRACED, "told")
    total = sum(sum(each) for each in kernels.values())
    for kernel, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))[:_KERNELS_SHOWN]:
        share, ms, calls = sum(times) / total, sum(times) / _STEPS_TRACED / 1e3, len(times) / _STEPS_TRACED
        said = f"{share:6.1%} {ms:7.3f} ms, {calls:.0f} a step"
        yield Finding(f"  {kernel[:110]}", said, "told")


def _rates(where: Setting, encoder: str, images: int, *, traced: bool = False) -> Iterator[Finding]:
    name, goal = f"{encoder}, {images} images a step", GOALS_ON_AN_H200[encoder]
    images = where.size(images, 8)
    given: dict[str, JsonValue] = {
        "encoder.name": encoder,
        "train.batch_size": images,
        "train.compile": not where.quick,
    }
    began = time.perf_counter()
    loop = where.loop(given)
    try:
        with loop.batches(0, 1_000) as batches:
            _run(loop, batches, 1)
            first = time.perf_counter() - began
            _run(loop, batches, where.size(4, 1))
            steps = where.size(max(5, 15_000 // images), 2)
            waited, began = batches.waited, time.perf_counter()
            _run(loop, batches, steps)
            seconds = time.perf_counter() - began
            waited = batches.waited - waited
            rate = steps * images / seconds
            alone = steps * images / _seconds_of_learning(loop, next(batches), steps)
            yield Finding(
                f"{name}: images/s, end to end", rate, f"goal {goal:.0f}", None if where.quick else rate >= goal
            )
            yield Finding(f"{name}: images/s, step alone", alone, "told")
            share = waited / seconds
            yield Finding(f"{name}: share waiting for images", share, "< 0.03", share < 0.03)
            yield Finding(f"{name}: seconds to the end of the first step", first, "told")
            if traced:
                yield from _trace(where, name, loop, batches)
    except torch.OutOfMemoryError:
        yield Finding(f"{name}: images/s", "out of memory", "told")
    finally:
        _forget(loop)


def _trace(where: Setting, name: str, loop: Loop, batches: Prefetcher) -> Iterator[Finding]:
    """Share of the time in which the device is idle, and the kernels that take most time."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * where.on_gpu
    began = time.perf_counter()
    with profile(activities=activities) as traced:
        _run(loop, batches, _STEPS_TRACED)
    yield from _told(name, traced, time.perf_counter() - began)


def _seconds_of_learning(loop: Loop, batch: Batch, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        loop.learn(batch)
    return time.perf_counter() - began


def _run(loop: Loop, batches: Prefetcher, steps: int) -> None:
    """Steps as `Loop.run` takes them; each reads its numbers, and so waits for the device."""
    for _ in range(steps):
        batch = next(batches)
        losses, numbers = loop.learn(batch, batches)
        loop.measure_health(batch.step + 1, losses, numbers)


def _peak_and_rate(where: Setting, given: dict[str, JsonValue]) -> tuple[float, float]:
    """GiB that torch held at most, views of the next step included; and images a second."""
    loop = where.loop(given)
    if where.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        with loop.batches(0, 100) as batches:
            _run(loop, batches, 2)
            began = time.perf_counter()
            _run(loop, batches, where.size(3, 1))
            seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() / 2**30 if where.on_gpu else float("nan")
        return peak, where.size(3, 1) * loop.config.train.batch_size / seconds
    finally:
        _forget(loop)


def _forget(loop: Loop) -> None:
    """Gives the memory of a run back, so that the next one's is its own."""
    for parameter in loop.networks.parameters():
        parameter.grad = None
    loop.optimizer.state.clear()
    loop.networks.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
