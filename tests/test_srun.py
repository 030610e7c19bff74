"""Processes that srun starts, without SLURM: each is given the variables that srun would give it. And their devices."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chartray.config import pretrain as knobs
from chartray.errors import InputError
from chartray.training import checkpoint, driver, run_folder, runtime
from chartray.training.pretrain import pretrain
from tests.test_pretrain import command, losses, small

# What a job allots, which is not what the step has.
JOBS = {
    "no --ntasks-per-node": {"SLURM_NTASKS": "2", "SLURM_NNODES": "1"},
    "from an interactive shell": {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "bash"},
    "a step smaller than its job": {"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2"},
}
LAUNCH = """
import torch
from chartray.config import pretrain as config
from chartray.collective import all_sum
from chartray.training.processes import is_first_process
from chartray.training.runtime import launch
runtime = launch(config.load("tiny-cpu").train)
torch.distributed.barrier()
print(runtime.world_size, runtime.rank, is_first_process(), int(all_sum(torch.tensor(runtime.rank + 1.0))))
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
    codes, said = two_tasks([sys.executable, "-c", LAUNCH], clean | step)
    assert codes == [0, 0], said
    assert [out.splitlines()[-1] for out, _ in said] == ["2 0 True 3", "2 1 False 3"]


def test_processes_that_cannot_meet_are_refused(tmp_path: Path) -> None:
    """Half of torchrun's variables, as another launcher may leave them; and a port that somebody has."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    launched = [sys.executable, "-c", f"from chartray.cli import run_command\n{LAUNCH}"]
    alone = subprocess.run(launched, env=clean | {"WORLD_SIZE": "2"}, capture_output=True, text=True)
    assert alone.stderr.splitlines()[-1].endswith(
        "expected RANK and LOCAL_RANK and MASTER_ADDR and MASTER_PORT beside WORLD_SIZE=2, as torchrun sets them, "
        "found none; start the run with torchrun or srun, or unset WORLD_SIZE"
    )
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        two = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        met = subprocess.run(launched, env=clean | two, capture_output=True, text=True)
    said = met.stderr.splitlines()[-1]
    assert f"LostProcess: expected the 2 processes of this run to meet at localhost:{port}, found: " in said, met.stderr
    assert "already in use" in said


def test_each_process_has_a_gpu_of_all_or_its_own_alone() -> None:
    cuda = [torch.device("cuda", number) for number in range(4)]
    assert runtime._devices(4, gpus=4) == cuda
    assert runtime._devices(2, gpus=4) == cuda[:2]
    assert runtime._devices(4, gpus=1) == [cuda[0]] * 4  # --gpus-per-task=1
    with pytest.raises(InputError, match="a GPU for each of 4 processes on this machine, found 2"):
        runtime._devices(4, gpus=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is found here")
@pytest.mark.parametrize(
    ("said", "cuda", "sentence"),
    [
        ("470.82.01", "13.2", "found NVIDIA driver 470.82.01, and CUDA 13.2 of this torch needs 580.65 or newer"),
        ("535.104.05", "12.8", "found NVIDIA driver 535.104.05, and torch with CUDA 12.8 sees no GPU"),
        ("535.104.05", None, "found NVIDIA driver 535.104.05 and a torch without CUDA"),
        ("something", "13.2", "found NVIDIA driver of unknown version"),
    ],
)
def test_a_driver_that_torch_cannot_use_is_refused_under_auto(
    said: str, cuda: str | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No driver is here: where it would say its version a file is put, as NVIDIA's kernel module has it."""
    kernel = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {said}  Wed Jun 14 06:38:28 UTC 2023\nGCC version: 12.2"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(driver, "_VERSION", tmp_path / "version")
    monkeypatch.setattr(driver, "_DEVICE", tmp_path / "nvidiactl")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    train = knobs.load("tiny-cpu").train.model_copy(update={"device": "auto"})
    (tmp_path / "version").write_text(kernel)
    runtime.launch(train)  # a container or a job without a GPU sees its host's driver, and no device
    (tmp_path / "nvidiactl").touch()
    with pytest.raises(InputError, match=f"{re.escape(sentence)}.*or choose --train.device cpu"):
        runtime.launch(train)
    runtime.launch(train.model_copy(update={"device": "cpu"}))
    for hidden in ("", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        runtime.launch(train)


@pytest.mark.parametrize(("capability", "bf16"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_chosen_where_the_hardware_has_it(
    capability: tuple[int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 (7.5) emulates it. Only what the device says of itself is put in: torch draws its own conclusion."""
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)  # by emulation
    auto = knobs.load("msn").train.model_copy(update={"device": "auto", "precision": "auto"})
    assert runtime.uses_bf16(auto) is bf16
    assert runtime.uses_bf16(auto.model_copy(update={"precision": "bf16"}))  # as asked


def step_of_two(number: int) -> dict[str, str]:
    """What both tasks of an srun step are given; a port of its own follows from the step's number."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    return clean | {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": str(number),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "OMP_NUM_THREADS": "1",
    }


# The second process draws other weights, as another kind of processor may; it is lost at step 3 if it is told to be.
def two_tasks(command: list[str], environment: dict[str, str]) -> tuple[list[int], list[tuple[str, str]]]:
    """Exit codes, and what was said on both streams, of the two tasks that srun starts."""
    tasks = [
        subprocess.Popen(
            command,
            env=environment | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    said = [task.communicate(timeout=500) for task in tasks]
    return [task.returncode for task in tasks], said


OTHER_WEIGHTS = """
import os, sys, torch
from chartray.training import build as first, pretrain as room
build, second = first.build_networks, os.environ["SLURM_PROCID"] == "1"
def drawn(data, config):
    networks = build(data, config)
    if second:
        with torch.no_grad():
            for value in networks.state_dict().values():
                value.copy_(value + 1)
    return networks
first.build_networks = drawn
run = room.Loop.run
def watched(loop):
    sums = [float(value.double().sum()) for value in loop.networks.state_dict().values()]
    print("first weights", sums, flush=True)
    run(loop)
room.Loop.run = watched
learn = room.Loop.learn
def lost(loop, batch, prefetcher=None):
    if second and batch.step == 3:
        os._exit(9)
    return learn(loop, batch, prefetcher)
room.Loop.learn = lost
from chartray.cli import main
main()
"""


def test_first_weights_are_the_first_process_s_and_a_lost_process_ends_the_other(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left of the run is continued by one process, which trains on the same batches."""
    tokens = command(small_store, tmp_path / "run", train__steps=6, train__checkpoint_every=2)
    tokens[2] = OTHER_WEIGHTS
    codes, said = two_tasks(tokens, step_of_two(7))
    assert codes == [1, 9], said
    first, second = (next(line for line in out.splitlines() if line.startswith("first weights")) for out, _ in said)
    assert first == second
    sentence = "another of the 2 processes of this run has ended or does not answer"
    assert sentence in said[0][1]
    assert "Traceback" not in said[0][1]
    assert f"interrupted: {sentence}" in run_folder.read_manifest(tmp_path / "run").status
    assert [each.name for each in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000002"]
    config = small(train__steps=6, train__checkpoint_every=2)
    pretrain(small_store, tmp_path / "run", config, resume=True)
    assert "processes 2 before, now 1; the batches are the same" in capsys.readouterr().out
    manifest = run_folder.read_manifest(tmp_path / "run")
    assert (manifest.status, manifest.processes) == ("complete", 1)
    pretrain(small_store, tmp_path / "alone", config)
    # First weights are drawn in the first process, as they are in one alone.
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
