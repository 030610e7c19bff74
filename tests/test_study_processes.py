"""Commands beside each other on a machine of several GPUs: each job sees one."""

from pathlib import Path

import pytest

from chartray import study_processes
from chartray.study_processes import run_all


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
    monkeypatch.setattr(study_processes, "_count_gpus", lambda: gpus)
    # Each waits until both have begun, so that they hold their GPUs at once.
    wait = 'until [ "$(ls "$0" | wc -l)" -ge 2 ]; do sleep 0.02; done'
    script = f'echo "${{CUDA_VISIBLE_DEVICES-nothing}}" > "$0/$1"; {wait}'
    commands = {name: ["sh", "-c", script, str(tmp_path), name] for name in ("a", "b", "c")}
    run_all(commands, 2, begins=lambda name: None, done=lambda name, seconds: None)
    told = {name: (tmp_path / name).read_text().strip() for name in commands}
    assert {told["a"], told["b"]} == seen
    assert told["c"] in seen  # that of the job that ended first
