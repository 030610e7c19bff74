"""Processes that srun starts, without SLURM: each is given the variables that srun would give it. And their devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chartray.config import pretrain as knobs
from chartray.errors import InputError
from chartray.training import runtime

# What a job allots, which is not what the step has: Fabric alone would refuse each, or start processes of its own.
JOBS = {
    "no --ntasks-per-node": {"SLURM_NTASKS": "2", "SLURM_NNODES": "1"},
    "from an interactive shell": {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "bash"},
    "a step smaller than its job": {"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2"},
}
LAUNCH = """
import torch
from chartray.config import pretrain as config
from chartray.collective import all_sum
from chartray.training.runtime import is_first_process, launch
fabric = launch(config.load("tiny-cpu").train)
fabric.barrier()
print(fabric.world_size, fabric.global_rank, is_first_process(), int(all_sum(torch.tensor(fabric.global_rank + 1.0))))
"""


@pytest.mark.parametrize("job", JOBS)
def test_two_tasks_of_srun_are_one_run_whatever_the_job_has(job: str) -> None:
    step = JOBS[job] | {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": str(list(JOBS).index(job)),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "OMP_NUM_THREADS": "1",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCH],
            env=clean | step | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    said = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert [out.splitlines()[-1] for out, _ in said] == ["2 0 True 3", "2 1 False 3"]


def test_each_process_has_a_gpu_of_all_or_its_own_alone() -> None:
    cuda = [torch.device("cuda", number) for number in range(4)]
    assert runtime._devices(4, gpus=4) == cuda
    assert runtime._devices(2, gpus=4) == cuda[:2]
    assert runtime._devices(4, gpus=1) == [cuda[0]] * 4  # --gpus-per-task=1
    with pytest.raises(InputError, match="a GPU for each of 4 processes on this machine, found 2"):
        runtime._devices(4, gpus=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is found here, so there is nothing to warn of")
def test_a_driver_whose_gpu_torch_cannot_use_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No driver is here: where it would say its version a file is put."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runtime, "_DRIVER", tmp_path / "version")
    train = knobs.load("tiny-cpu").train
    runtime.launch(train)
    assert "warning" not in capsys.readouterr().out
    (tmp_path / "version").write_text("NVRM version: 470")
    runtime.launch(train)
    said = capsys.readouterr().out
    assert "training on CPU" in said
    assert "warning: this machine has an NVIDIA driver, but torch finds no GPU" in said
    runtime.launch(train.model_copy(update={"device": "cpu"}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runtime.launch(train)
    assert "warning" not in capsys.readouterr().out
