"""The prefetcher: the order of steps, one step read ahead, errors that reach the loop, and no thread left."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from chartray.networks.chart import ChartBatch
from chartray.pixels.views import ViewPlan, Views
from chartray.training.loader import ImageBatch
from chartray.training.prefetch import Batch, Prefetcher

NOTHING = np.zeros(0, dtype=np.int64)


def load(step: int) -> ImageBatch:
    plan: Any = ViewPlan(None, None, None, None, None, None)
    return ImageBatch(step, np.array([step]), NOTHING, NOTHING, torch.full((1, 2, 2), step, dtype=torch.uint8), plan)


def prepare(images: ImageBatch) -> Batch:
    grey = images.images.float()
    return Batch(images.step, images.rows, Views(grey, grey, grey, None, None), ChartBatch(grey, grey))


def prefetcher(loading: Callable[[int], ImageBatch] = load, steps: range = range(3, 8)) -> Prefetcher:
    return Prefetcher(loading, prepare, steps, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("prepared_early", [False, True])
def test_batches_come_in_the_order_of_the_steps(prepared_early: bool) -> None:
    found = []
    with prefetcher() as batches:
        for batch in batches:
            if prepared_early:
                batches.prepare_next()
                batches.prepare_next()  # once is enough
            found.append((batch.step, int(batch.views.target[0, 0, 0])))
    assert found == [(step, step) for step in range(3, 8)]
    with prefetcher(steps=range(0)) as batches:
        assert list(batches) == []


def test_the_next_step_is_read_while_this_one_is_computed() -> None:
    begun: dict[int, threading.Event] = {step: threading.Event() for step in range(3, 8)}

    def noted(step: int) -> ImageBatch:
        begun[step].set()
        return load(step)

    with prefetcher(noted) as batches:
        assert next(batches).step == 3
        assert begun[4].wait(10)  # nobody has asked for it
        assert not begun[5].is_set()
        batches.prepare_next()
        assert begun[5].wait(10)


def test_an_error_of_the_reader_is_raised_for_its_step() -> None:
    def broken(step: int) -> ImageBatch:
        if step == 5:
            raise OSError("step 5")
        return load(step)

    found: list[int] = []

    def loop(prepared_early: bool) -> None:
        with prefetcher(broken) as batches:
            for batch in batches:
                found.append(batch.step)
                if prepared_early:
                    batches.prepare_next()

    for prepared_early in (False, True):
        with pytest.raises(OSError, match="step 5"):
            loop(prepared_early)
    assert found == [3, 4, 3, 4]


def test_a_loop_that_stops_early_waits_for_the_read_in_progress() -> None:
    done = []

    def slow(step: int) -> ImageBatch:
        time.sleep(0.05)
        done.append(step)
        return load(step)

    def loop() -> None:
        with prefetcher(slow) as batches:
            next(batches)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert done in ([3], [3, 4])
