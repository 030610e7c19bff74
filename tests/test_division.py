"""A step is divided as the memory asks for: counted before it, and again where memory runs out; the result stays."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from chartray.config.pretrain import Config
from chartray.errors import InputError
from chartray.training import division, run_folder, runtime
from chartray.training.division import StepMemory, kept_bytes, parts_that_fit, step_memory
from chartray.training.gradient_cache import of_images
from chartray.training.loop import Loop
from chartray.training.prefetch import Batch
from chartray.training.pretrain import assemble, pretrain
from chartray.training.step import forward, gradient
from chartray.training.training_data import settings_hash
from tests.test_pretrain import losses, small

# Sizes at which what a step keeps is more than what the libraries take.
WIDE = {"views__size": 96, "views__focal_size": 48, "encoder__width": 96, "encoder__depth": 4}
NEEDS = StepMemory(weights=0, fixed=100, image=2, part_image=10)


def test_as_few_parts_as_fit_and_parts_of_one_size_where_there_are_any() -> None:
    for images in (1, 7, 24, 64, 1024):
        for free in range(division_floor(images), 20 * images + 200, max(images // 3, 1)):
            parts = parts_that_fit(NEEDS, images, free)
            assert NEEDS.needed(images, parts) <= free
            if parts > 1 and images % parts == 0 and images & (images - 1) == 0:
                assert NEEDS.needed(images, parts // 2) > free * 0.9
    assert parts_that_fit(NEEDS, 1024, 10**9) == 1


def division_floor(images: int) -> int:
    return int(NEEDS.needed(images, images) / 0.92) + 2


def test_a_batch_that_fits_in_no_parts_is_refused_with_the_bytes_that_are_missing() -> None:
    with pytest.raises(InputError, match=r"step of 64 images, at least .* GiB, found .* GiB free; lower train\.batch"):
        parts_that_fit(NEEDS, 64, 200)


@pytest.mark.parametrize("objective", ["msn", "dino", "mae"])
def test_what_is_planned_is_what_a_batch_keeps(small_store: Path, tmp_path: Path, objective: str) -> None:
    """Planned from one and two images, counted on twenty-four, undivided and in four parts."""
    config = small(objective__name=objective, views__mask_ratio=0.5)
    loop = assemble(small_store, tmp_path / "run", config)
    assert isinstance(loop, Loop)
    batch = next(loop.batches(0, 1))
    two = batch._replace(views=of_images(batch.views, slice(2)), chart=batch.chart.of_images(slice(2)))
    needs = step_memory(loop.networks, two, config, loop.runtime.autocast)
    counted = {
        parts: kept_bytes(
            lambda parts=parts: (
                forward(loop.networks, batch.views, batch.chart, config.objective, loop.runtime.autocast, parts).total
            ),
            loop.networks,
        )
        for parts in (1, 24)
    }
    views = 24 * 2 * division.bytes_of_views(config.views)
    planned = {parts: needs.needed(24, parts) - needs.fixed - views for parts in counted}
    assert planned[1] == pytest.approx(1.1 * counted[1], rel=0.15)
    # Whatever the batch, the prototypes are kept once more: `fixed` has room for them.
    assert 0.95 * counted[24] < planned[24] < counted[24] + 2 * needs.part_image
    assert loop.networks.training
    assert loop.networks.encoder.patch_embed.proj.weight.grad is None


def test_the_plan_follows_the_memory_and_changes_neither_result_nor_settings(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(small_store, tmp_path / "whole", small())
    needs: list[StepMemory] = []

    def noted(*given: Any) -> StepMemory:
        needs.append(step_memory(*given))
        return needs[-1]

    monkeypatch.setattr(division, "step_memory", noted)
    pretrain(small_store, tmp_path / "counted", small(train__steps=1))
    free = int(needs[0].needed(24, 4) / 0.92) + 1
    monkeypatch.setattr(division, "free_bytes", lambda device: free)
    pretrain(small_store, tmp_path / "divided", small())
    whole, divided = (run_folder.read_manifest(tmp_path / run) for run in ("whole", "divided"))
    assert (whole.accumulate, divided.accumulate) == (1, 4)
    assert divided.memory_planned is not None
    assert divided.memory_planned <= free
    assert losses(tmp_path / "divided") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    assert whole.settings_hash == divided.settings_hash == settings_hash(small(train__accumulate=8))


def test_parts_may_change_when_a_run_is_continued_and_must_divide_its_batch(small_store: Path, tmp_path: Path) -> None:
    pretrain(small_store, tmp_path / "run", small())
    (tmp_path / "run" / "encoder").rename(tmp_path / "gone")  # as if killed before the encoder
    manifest = run_folder.read_manifest(tmp_path / "run").model_copy(update={"status": "running"})
    run_folder.write_manifest(tmp_path / "run", manifest)
    pretrain(small_store, tmp_path / "run", small(train__accumulate=3), resume=True)
    assert run_folder.read_manifest(tmp_path / "run").accumulate == 3
    with pytest.raises(InputError, match=r"train\.accumulate to divide train\.batch_size = 24, found 5"):
        small(train__accumulate=5)


def test_a_run_continues_on_another_device_in_its_own_precision_and_says_so(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, auto = tmp_path / "run", {"train__precision": "auto"}
    pretrain(small_store, run, small(**auto))
    (run / "encoder").rename(tmp_path / "gone")
    other = "fp32" if run_folder.read_manifest(run).precision == "bf16" else "bf16"
    manifest = run_folder.read_manifest(run)
    elsewhere = {"status": "running", "precision": other, "device": "Tesla T4", "processes": 2, "accumulate": 12}
    run_folder.write_manifest(run, manifest.model_copy(update=elsewhere))
    capsys.readouterr()
    pretrain(small_store, run, small(**auto), resume=True)
    said = capsys.readouterr().out
    assert f"in {other}" in said
    assert "device Tesla T4 before, now cpu, processes 2 before, now 1; the batches are the same" in said
    now = run_folder.read_manifest(run)
    assert (now.device, now.processes, now.precision, now.accumulate) == ("cpu", 1, other, 1)


@pytest.mark.parametrize(
    ("changed", "processes", "said"),
    [
        ({"train__precision": "bf16"}, 1, r"was started with train\.precision = fp32, found bf16; omit it to resume"),
        ({"train__batch_size": 48}, 1, r"was started with train\.batch_size = 24, found 48"),
        ({}, 5, r"train\.batch_size to be a multiple of the 5 processes, found 24"),
    ],
)
def test_a_run_that_cannot_be_continued_so_is_refused_in_a_sentence(
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    processes: int,
    said: str,
) -> None:
    pretrain(small_store, tmp_path / "run", small(train__steps=1))
    if processes > 1:
        monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(InputError, match=said) as error:
        pretrain(small_store, tmp_path / "run", small(**{"train__steps": 1} | changed), resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is Linux's")
def test_the_peak_of_a_step_is_measured_beside_its_plan(small_store: Path, tmp_path: Path) -> None:
    """In a process of its own: what other tests have left would be used again, and count as nothing."""
    code = "import sys, pathlib, tests.test_division as t; t.trained(*map(pathlib.Path, sys.argv[1:]))"
    child = [sys.executable, "-c", code, str(small_store), str(tmp_path / "run")]
    done = subprocess.run(child, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "a step's peak is" not in done.stdout
    manifest = run_folder.read_manifest(tmp_path / "run")
    assert manifest.memory_planned is not None
    assert manifest.memory_measured is not None
    # The plan has room for libraries that a CPU hardly takes.
    assert manifest.memory_planned - 1.5 * 2**27 < manifest.memory_measured < 1.25 * manifest.memory_planned


def trained(small_store: Path, out: Path) -> None:
    """What that process does."""
    pretrain(small_store, out, small(train__steps=2, train__batch_size=72, **WIDE))


def test_a_peak_far_from_its_plan_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A step keeps what nobody planned."""
    kept, layer = [], torch.nn.Linear(2, 2)
    divided = division.Division(1, 8, planned=2**20)
    for _ in range(4):
        divided.tried(lambda parts: kept.append(torch.ones(2**27)) or parts, layer)
        kept.clear()
    said = capsys.readouterr().out
    assert said.count("GiB beside the weights, and 0.0 GiB were planned; where memory runs out") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of a process's memory that the allocator keeps to")
def test_where_memory_runs_out_the_step_is_computed_again_in_more_parts(small_store: Path, tmp_path: Path) -> None:
    """torch's allocator is refused memory by the system: all but half of what the step was planned to need.

    In a process of its own: what could not be allocated can leave others' tests without oneDNN's kernels.
    """
    code = "import sys, pathlib, tests.test_division as t; t.limited(*map(pathlib.Path, sys.argv[1:]))"
    root = Path(__file__).parent.parent
    child = [sys.executable, "-c", code, str(small_store), str(tmp_path)]
    done = subprocess.run(child, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def limited(small_store: Path, tmp_path: Path) -> None:
    """What that process does: a step with all the memory that it wants, and one without."""
    numbers = {}
    for run in ("free", "limited"):
        loop = in_small_pages(small_store, tmp_path / run, small(**WIDE))
        batch = next(loop.batches(0, 1))
        loop.networks.train()
        needs = loop.division.planned
        assert needs is not None
        assert loop.division.parts == 1
        with only((needs - 2**27) // 2) if run == "limited" else nullcontext():
            numbers[run] = loop.learn(batch)[1]
    assert loop.division.parts > 1
    assert run_folder.read_manifest(tmp_path / "limited").accumulate == loop.division.parts
    for name in ("loss", "gradient_norm"):
        assert numbers["limited"][name] == pytest.approx(numbers["free"][name], rel=1e-4)


def in_small_pages(store: Path, out: Path, config: Config) -> Loop:
    """A run whose heap is not grown at once: `only` fills whatever it holds, pages of 2 MiB that it never touches."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runtime, "prefer_huge_pages", lambda: None)
        loop = assemble(store, out, config)
    assert isinstance(loop, Loop)
    return loop


def compile_kernels(loop: Loop, batch: Batch) -> None:
    """oneDNN compiles code for each size of part, and not into the heap that `only` leaves free: here, before it."""
    parts = 1
    while parts <= loop.division.images:
        gradient(loop.networks, batch, loop.config, loop.runtime.autocast, parts)
        parts *= 2
    gradient(loop.networks, batch, loop.config, loop.runtime.autocast, loop.division.images)
    for parameter in loop.networks.parameters():
        parameter.grad = None


@contextmanager
def only(room: int) -> Iterator[None]:
    """While open, this process gets so many more bytes and no others, not even those that it has freed."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, before[1]))
    filling: list[torch.Tensor] = []
    try:
        with suppress(RuntimeError, MemoryError):
            while True:
                filling.append(torch.empty(2**20, dtype=torch.uint8))
        del filling[-(room // 2**20) :]
        yield
    finally:
        filling.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_running_means_move_once_in_a_step_that_is_computed_twice() -> None:
    norm = torch.nn.BatchNorm1d(3)
    once = torch.nn.BatchNorm1d(3)
    batch, tries = torch.randn(8, 3), []

    def compute(parts: int) -> int:
        norm(batch)
        tries.append(parts)
        if parts < 4:
            raise torch.OutOfMemoryError("out of memory")
        return parts

    divided = division.Division(1, 8)
    divided.tried(compute, norm)
    once(batch)
    assert tries == [1, 2, 4]
    assert divided.parts == 4
    assert torch.equal(norm.running_mean, once.running_mean)
    assert norm.num_batches_tracked == 1
    with pytest.raises(torch.OutOfMemoryError):
        division.Division(2, 8, fixed=True).tried(compute, norm)
