"""Two real processes of a run: what runs out in one of them is divided in both, and what each does is done once."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from chartray.collective import all_sum, leave, process_rank, tried
from chartray.errors import InputError
from chartray.pixels.store import Store
from chartray.training import run_folder
from chartray.training.build import build
from chartray.training.online_probe import OnlineProbe
from chartray.training.pretrain import assemble
from chartray.training.runtime import launch
from tests.test_division import WIDE, compile_kernels, in_small_pages, only
from tests.test_pretrain import small
from tests.test_srun import step_of_two, two_tasks

ROOT = Path(__file__).parent.parent


def two(function: str, number: int, *given: Path | str) -> list[Any]:
    """What `function` of this module says in each of two processes, as JSON in its last line."""
    code = f"import sys, json, tests.test_two_processes as t; print(json.dumps(t.{function}(*sys.argv[1:])))"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    codes, said = two_tasks([sys.executable, "-c", code, *map(str, given)], step_of_two(number) | {"PYTHONPATH": path})
    assert codes == [0, 0], said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of a process's memory that the allocator keeps to")
def test_two_processes_agree_on_parts_and_share_the_online_probe(small_store: Path, tmp_path: Path) -> None:
    """One runs out of memory: both compute in more parts, and the gradient is that of the step which had it all."""
    first, second = two("what_each_does", 11, small_store, tmp_path)
    assert first["before"] == second["before"] == 1
    assert first["after"] == second["after"] > 1
    assert run_folder.read_manifest(tmp_path / "limited").accumulate == first["after"]
    for name in ("loss", "gradient_norm"):
        assert first["limited"][name] == pytest.approx(first["free"][name], rel=1e-4)
        assert first["limited"][name] == second["limited"][name]
    assert first["refused"] == second["refused"]
    assert "train.accumulate to divide the 48 images of each of 2 processes, found 32" in first["refused"]

    # 128 training images are two chunks, 48 validation images one.
    assert (first["embedded"], second["embedded"]) == (64 + 48, 64)
    alone = probed(Store.open(small_store), lambda images: None)
    assert first["probe"] == second["probe"] == alone
    assert alone.keys() == {"health.effective_rank", "health.spread", "health.knn_auroc"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads in /proc")
def test_no_thread_of_gloos_outlives_the_group() -> None:
    """One that freed a tensor while Python ended aborted a finished run now and then."""
    for each in two("threads_of_gloo", 12):
        assert each["before"]
        assert each["after"] == []


def threads_of_gloo() -> dict[str, Any]:
    """Names of gloo's threads after a sum that was tried, before and after the process leaves the others."""

    def names() -> list[str]:
        found = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        return [name for name in found if "gloo" in name]

    launch(small().train)
    tried(lambda: all_sum(torch.ones(1)), last=True)
    before = names()
    leave()
    return {"before": before, "after": names()}


def what_each_does(store: str, out: str) -> dict[str, Any]:
    """A step with all the memory that it wants, and one for which the second has 0.6 of it; the probe."""
    found: dict[str, Any] = {}
    for run in ("free", "limited"):
        loop = in_small_pages(Path(store), Path(out, run), small(train__batch_size=96, **WIDE))
        batch = next(loop.batches(0, 1))
        loop.networks.train()
        compile_kernels(loop, batch)
        assert loop.division.planned is not None
        found["before"] = loop.division.parts
        room = (loop.division.planned - 2**27) * 3 // 5
        with only(room) if run == "limited" and process_rank() == 1 else nullcontext():
            found[run] = loop.learn(batch)[1]
    found["after"] = loop.division.parts
    with pytest.raises(InputError) as refused:
        assemble(Path(store), Path(out, "refused"), small(train__batch_size=96, train__accumulate=32))
    embedded: list[int] = []
    found["probe"] = probed(Store.open(Path(store)), embedded.append)
    return found | {"refused": str(refused.value), "embedded": sum(embedded)}


def probed(store: Store, saw: Callable[[int], None]) -> dict[str, float]:
    """The online probe's numbers of networks before their first step; `saw` is told the images that are embedded."""
    config = small(health__probe_films=128)
    runtime = launch(config.train)
    built = build(store, config, runtime)
    probe = OnlineProbe(built.data, config, runtime.device, runtime.autocast)
    built.networks.target_encoder.patch_embed.register_forward_hook(lambda module, given, made: saw(len(made)))
    return probe.measure(built.networks)
