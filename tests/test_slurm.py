"""The scripts for SLURM, without SLURM: stand-ins for srun, sbatch and scontrol do what those would do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chartray.commands.training import study
from chartray.errors import InputError
from chartray.training import checkpoint, run_folder
from tests.test_experiment import tiny
from tests.test_pretrain import command, read_text

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "slurm").glob("*.sbatch"))

# Starts the tasks of the step with their variables, hands on SIGUSR1, and ends with the highest exit code.
SRUN = """
import os, signal, subprocess, sys
tokens = sys.argv[1:]
assert tokens.pop(0) == "--kill-on-bad-exit=1"
tasks = int(os.environ["TASKS"])
step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost"}
each = [subprocess.Popen([sys.executable, "-m", *tokens], env=os.environ | step | {
        "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}) for task in range(tasks)]
signal.signal(signal.SIGUSR1, lambda number, frame: [process.send_signal(number) for process in each])
sys.exit(max(process.wait() for process in each))
"""
# Notes what it was given, in the file $NOTES; sbatch answers with a job's id.
NOTED = 'echo "$(basename "$0") $*" >> "$NOTES"\n'
SBATCH = NOTED + 'echo "$(wc -l < "$NOTES");cluster"\n'


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on a machine with these programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "srun": f"#!{sys.executable}\n{SRUN}",
        "sbatch": f"#!/bin/bash\n{SBATCH}",
        "scontrol": f"#!/bin/bash\n{NOTED}",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    return clean | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "TASKS": "2",
        "NOTES": str(tmp_path / "notes"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize("script", SHIPPED, ids=lambda script: script.name)
def test_scripts_are_bash_and_ask_for_a_signal_and_a_requeue(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    for line in ("#SBATCH --signal=USR1@300", "#SBATCH --requeue", "#SBATCH --ntasks-per-node=", "#SBATCH --gpus-per-"):
        assert line in text


@pytest.mark.slow
def test_a_job_whose_time_is_nearly_over_is_saved_queued_again_and_completed(
    small_store: Path, tmp_path: Path, slurm: dict[str, str]
) -> None:
    out = tmp_path / "run"
    arguments = command(small_store, out, train__steps=30, train__checkpoint_every=900)[4:]
    job = ["bash", str(ROOT / "slurm" / "one-node.sbatch"), *arguments]
    process = subprocess.Popen(job, env=slurm, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 500
    while '"step": 2,' not in read_text(out / "metrics.jsonl") and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    (srun,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(srun), signal.SIGUSR1)  # as SLURM signals a job's steps and not its script
    _, said = process.communicate(timeout=500)
    assert process.returncode == 138, said
    assert (tmp_path / "notes").read_text() == f"scontrol requeue {os.getpid()}\n"
    assert len(checkpoint.list_checkpoints(out / "checkpoints")) == 1
    again = subprocess.run(job, env=slurm, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "continues after step" in again.stdout
    assert run_folder.read_manifest(out).status == "complete"


def test_every_task_of_the_array_is_another_arm_and_seed(tmp_path: Path, slurm: dict[str, str]) -> None:
    shutil.copyfile(tmp_path / "bin" / "scontrol", tmp_path / "bin" / "srun")
    for task in range(9):
        job = ["bash", str(ROOT / "slurm" / "array.sbatch"), "mimic.store", "my runs", "--train.epochs", "3"]
        subprocess.run(job, env=slurm | {"SLURM_ARRAY_TASK_ID": str(task)}, check=True)
    lines = (tmp_path / "notes").read_text().splitlines()
    assert len(set(lines)) == 9
    start = "srun --kill-on-bad-exit=1 chartray pretrain mimic.store --out my runs/"
    assert lines[0] == f"{start}real-0 --ehr demographic-norm --seed 0 --train.epochs 3 --resume"
    assert lines[5] == f"{start}shuffled-2 --ehr demographic-norm --control shuffled --seed 2 --train.epochs 3 --resume"


def test_the_jobs_of_a_study_wait_for_those_that_they_need(
    small_store: Path, tmp_path: Path, slurm: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tiny(tmp_path, small_store), tmp_path / "my study"
    study(file, out=out, plan=True, slurm=True)
    planned = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    scripts = sorted((out / "slurm").glob("*.sbatch"))
    assert len(scripts) == len(planned)
    commands = {
        line.removeprefix("srun --kill-on-bad-exit=1 ").removesuffix(" || code=$?")
        for script in scripts
        for line in script.read_text().splitlines()
    }
    assert set(planned) <= commands
    for script in (*scripts, out / "slurm" / "submit.sh"):
        subprocess.run(["bash", "-n", script], check=True)
    submit = ["bash", str(out / "slurm" / "submit.sh"), "--partition=gpu"]
    done = subprocess.run(
        submit, env=slurm | {"PRETRAIN": "--nodes=2 --gpus-per-node=8"}, check=True, capture_output=True, text=True
    )
    assert f"{len(planned)} jobs are queued" in done.stdout
    noted = (tmp_path / "notes").read_text().splitlines()
    order = [line.split()[-1].removesuffix(".sbatch") for line in noted]
    waits = {
        name: {order[int(number) - 1] for number in re.findall(r"\d+", found[1])}
        for name, line in zip(order, noted, strict=True)
        if (found := re.search(r"--dependency=afterok:(\S+)", line))
    }
    pretrained = [name for name in order if name.startswith("pretrain-")]
    evaluated = [name for name in order if name.startswith("evaluate-")]
    assert not set(pretrained) & waits.keys()
    assert all(len(waits[name]) == 1 and waits[name] <= set(pretrained) for name in evaluated)
    assert set(evaluated) <= waits["report"]
    for name, line in zip(order, noted, strict=True):
        assert "--partition=gpu" in line
        assert ("--nodes=2 --gpus-per-node=8" in line) == (name in pretrained)
    with pytest.raises(InputError, match="expected --plan with --slurm"):
        study(file, out=out, slurm=True)
