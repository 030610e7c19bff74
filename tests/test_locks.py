"""Locks on a file system that has none, as Lustre mounted without `-o flock`: there the system's call really fails."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chartray.outputs.appending import read_lines
from tests.faults.processes import compiled
from tests.ingest_folders import content, many_images, wait_for

Started = Callable[..., "subprocess.Popen[str]"]

HOLDS = """
import sys, time
from pathlib import Path
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.outputs.replacing import replaced_folder
try:
    with replaced_folder(Path(sys.argv[1])) as partial:
        (partial / "a.txt").write_text("first")
        print("holds", flush=True)
        time.sleep(float(sys.argv[2]))
except InputError as error:
    sys.exit(str(error))
"""
CONTENDS = """
import os, signal, sys
from contextlib import suppress
from pathlib import Path
from chartray.errors import InputError
from chartray.outputs.lock import locked
lock, inside = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 40:
    with suppress(InputError), locked(lock, "busy"):
        if done == 20 and sys.argv[3] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        os.unlink(inside)
        done += 1
"""
APPENDS = """
import sys
from pathlib import Path
from chartray.outputs.appending import append_line
for number in range(10):
    append_line(Path(sys.argv[1]), {"process": sys.argv[2], "number": number})
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = compiled(tmp_path_factory.mktemp("shim"))
    if made is None:
        pytest.skip("no C compiler for the library that lets flock fail")
    return made


@pytest.fixture
def started(shim: Path) -> Started:
    def start(program: str, *words: object, wrong: int = errno.ENOSYS) -> "subprocess.Popen[str]":
        told = os.environ | {"LD_PRELOAD": str(shim), "FAULTS_FLOCK": str(wrong)}
        command = [sys.executable, "-c", program, *map(str, words)]
        return subprocess.Popen(command, env=told, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.mark.parametrize("wrong", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_said_and_worked_on(started: Started, tmp_path: Path, wrong: int) -> None:
    process = started(HOLDS, tmp_path / "out", 0, wrong=wrong)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert said == (
        f"chartray: the file system of {tmp_path} has no locks ({os.strerror(wrong)}); a file with the name of the "
        "process that writes stands for one\n"
    )
    assert {file.name for file in tmp_path.iterdir()} == {"out"}


def test_another_failure_of_a_lock_is_a_sentence(started: Started, tmp_path: Path) -> None:
    program = "import sys; from chartray.cli import run_command; sys.exit(run_command(sys.argv[1:]))"
    process = started(program, "simulate", tmp_path / "out", "--patients", 2, wrong=errno.EIO)
    said = process.communicate()[1]
    assert (process.returncode, said.count("\n")) == (1, 1), said
    assert "the disk failed" in said


def test_two_writers_exclude_each_other_and_a_killed_one_nobody(started: Started, tmp_path: Path) -> None:
    first = started(HOLDS, tmp_path / "out", 600)
    assert first.stdout is not None
    assert first.stdout.readline() == "holds\n"
    second = started(HOLDS, tmp_path / "out", 0)
    said = second.communicate()[1].splitlines()[-1]
    assert second.returncode == 1
    assert said.startswith("another command is writing to ")
    assert f"process {first.pid} on " in said
    assert said.endswith("holds its lock)")
    first.kill()
    first.communicate()
    assert (tmp_path / ".out.lock.holder").exists()
    third = started(HOLDS, tmp_path / "out", 0)
    assert (third.communicate()[0], third.returncode) == ("holds\n", 0)
    assert content(tmp_path / "out").keys() == {"a.txt", "SHA256SUMS"}
    assert {file.name for file in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("text", ['["node7", "another boot", 12, "34"]', ""], ids=["another machine", "cut off"])
def test_a_lock_whose_holder_cannot_be_asked_is_never_taken_away(started: Started, tmp_path: Path, text: str) -> None:
    held = tmp_path / ".out.lock.holder"
    held.write_text(text)
    process = started(HOLDS, tmp_path / "out", 0)
    said = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 1
    assert said.endswith(f"if no such command runs any more, remove {held})")
    assert ("process 12 on node7 holds its lock" if text else "who holds its lock is unknown") in said
    assert held.read_text() == text


def test_a_number_that_is_used_again_is_another_process(started: Started, tmp_path: Path) -> None:
    process = started(HOLDS, tmp_path / "out", 600)
    assert process.stdout is not None
    process.stdout.readline()
    held = tmp_path / ".out.lock.holder"
    host, where, _, _ = json.loads(held.read_text())
    process.kill()
    process.communicate()
    held.write_text(json.dumps([host, where, os.getpid(), "1"]))
    assert started(HOLDS, tmp_path / "out", 0).wait() == 0


def test_many_that_contend_are_inside_one_at_a_time_though_some_die(started: Started, tmp_path: Path) -> None:
    words = (tmp_path / "lock", tmp_path / "inside")
    processes = [started(CONTENDS, *words, "dies" if number < 3 else "lives") for number in range(6)]
    said = [each.communicate(timeout=120)[1] for each in processes]
    assert [each.returncode for each in processes] == [-signal.SIGKILL] * 3 + [0] * 3, said


def test_lines_appended_at_once_are_all_there(started: Started, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    processes = [started(APPENDS, file, number) for number in range(4)]
    said = [each.communicate(timeout=120)[1] for each in processes]
    assert [each.returncode for each in processes] == [0] * 4, said
    found = read_lines(file)
    assert found.unreadable == 0
    assert sorted((e["process"], e["number"]) for e in found.entries) == [
        (str(process), number) for process in range(4) for number in range(10)
    ]
    assert {each.name for each in tmp_path.iterdir()} == {"ledger.jsonl"}


def test_an_ingest_that_was_killed_without_locks_continues(started: Started, tmp_path: Path) -> None:

    program = """
import sys
from chartray.pixels.ingest import ingest
ingest(sys.argv[1], sys.argv[2], size=64, workers=2)
"""
    cohort, out = many_images(tmp_path), tmp_path / "out"
    killed = started(program, cohort, out)
    wait_for(lambda: len(list((out / "unfinished").glob("shard-*.json"))) > 2)
    killed.kill()
    killed.communicate()
    assert (out / ".ingest.lock.holder").exists()
    again = started(program, cohort, out)
    said = again.communicate()[1]
    assert again.returncode == 0, said
    undisturbed = subprocess.run([sys.executable, "-c", program, cohort, tmp_path / "local"], check=True)
    assert undisturbed.returncode == 0
    assert content(out) == content(tmp_path / "local")
