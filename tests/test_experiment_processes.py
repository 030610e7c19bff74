"""Commands beside each other: each sees a GPU of its own, and none outlives the study."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chartray import experiment_processes
from chartray.experiment_processes import run_all


@pytest.mark.parametrize(
    ("given", "gpus", "seen"),
    [
        ("GPU-a,GPU-b", 8, {"GPU-a", "GPU-b"}),  # what a scheduler has given, by its names
        (None, 4, {"0", "1"}),
        (None, 1, {"nothing"}),  # one GPU, or none, is everybody's
        (None, 0, {"nothing"}),
    ],
)
def test_each_of_two_jobs_sees_a_gpu_of_its_own(
    given: str | None, gpus: int, seen: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    # This machine has none: only their number is made up, the processes are real.
    monkeypatch.setattr(experiment_processes, "_count_gpus", lambda: gpus)
    # Each waits until both have begun, so that they hold their GPUs at once.
    wait = 'until [ "$(ls "$0" | wc -l)" -ge 2 ]; do sleep 0.02; done'
    script = f'echo "${{CUDA_VISIBLE_DEVICES-nothing}}" > "$0/$1"; {wait}'
    commands = {name: ["sh", "-c", script, str(tmp_path), name] for name in ("a", "b", "c")}
    run_all(commands, 2, begins=lambda name: None, done=lambda name, seconds: None)
    told = {name: (tmp_path / name).read_text().strip() for name in commands}
    assert {told["a"], told["b"]} == seen
    assert told["c"] in seen  # that of the job that ended first


# A command with a process of its own, as torchrun has: both say that they run, until they are ended.
HAS_A_CHILD = """
import pathlib, subprocess, sys, time
place = pathlib.Path(sys.argv[1])
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
(place.parent / (place.name + ".part")).write_text(f"{child.pid}")
(place.parent / (place.name + ".part")).rename(place)
time.sleep(60)
"""
STUDY = """
import sys
from chartray.experiment_processes import run_all
commands = {place: [sys.executable, "-S", "-c", sys.argv[1], place] for place in sys.argv[2:]}
run_all(commands, len(commands), begins=print, done=print)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_commands_and_their_own_processes_end_with_an_experiment_that_is_killed(tmp_path: Path, number: int) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
    study = subprocess.Popen([sys.executable, "-c", heard + STUDY, HAS_A_CHILD, *map(str, places)])
    deadline = time.monotonic() + 60
    while not all(place.exists() for place in places):
        assert time.monotonic() < deadline
        assert study.poll() is None
        time.sleep(0.05)
    children = [int(place.read_text()) for place in places]
    parents = [parent_of(child) for child in children]
    assert all(map(alive, children + parents))
    study.send_signal(number)
    study.wait()
    while any(map(alive, children + parents)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
