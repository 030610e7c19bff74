"""Signals that ask to stop: pretraining saves itself and says by which; a second one ends it at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chartray.training import checkpoint, run_folder
from tests.test_pretrain import RUN, command, wait_for_step

# A shell starts what runs in its background deaf to SIGINT, and pretraining respects it: here it is heard.
HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGINT, 130)], ids=["USR1", "INT"])
def test_a_signal_saves_the_run_at_its_step(small_store: Path, tmp_path: Path, number: int, code: int) -> None:
    """SIGTERM: tests/test_pretrain.py. One that is ignored since the process began, as under nohup, stays ignored."""
    tokens = command(small_store, tmp_path / "run", train__steps=900, train__checkpoint_every=900)
    tokens[2] = HEARD + "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + RUN
    process = subprocess.Popen(tokens, stderr=subprocess.PIPE, env=ONE_THREAD, text=True)
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGHUP)
    wait_for_step(tmp_path / "run", 6, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    (saved,) = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    step = int(saved.name.removeprefix("step-"))
    assert f"stopped after step {step} of 900 as asked; continue with --resume" in said
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == step
    assert run_folder.read_manifest(tmp_path / "run").status == "running"


WAITS = """
import sys, torch, torch.distributed as dist
from chartray.stopping import asked_to_stop, second_ends_at_once
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
with asked_to_stop(), second_ends_at_once():
    print("ready", flush=True)
    if rank == 0:
        dist.all_reduce(torch.ones(1))
    sys.stdin.read()
"""


def test_a_second_signal_ends_a_process_that_waits_for_another(tmp_path: Path) -> None:
    """In a collective no handler of Python's runs: the other process never comes."""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", WAITS, str(rank), str(tmp_path / "place")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ONE_THREAD,
        )
        for rank in range(2)
    ]
    waits = both[0]
    try:
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        # Those of one Ctrl-C, as torchrun sends it on.
        waits.send_signal(signal.SIGTERM)
        waits.send_signal(signal.SIGUSR1)
        with pytest.raises(subprocess.TimeoutExpired):
            waits.wait(timeout=1.2)
        waits.send_signal(signal.SIGUSR1)
        assert waits.wait(timeout=20) == 138
        assert waits.stderr is not None
        assert "ended at once by a second signal" in waits.stderr.read()
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_ctrl_c_in_any_command_is_a_sentence() -> None:
    code = HEARD + (
        "import os, sys; from chartray import cli\n"
        "cli.app = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(cli.run_command([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "chartray: stopped as asked\n")


@pytest.mark.parametrize("words", [["ingest", "c.parquet", "--out", "store"], ["check", "store"]], ids=lambda w: w[0])
def test_a_system_without_locks_is_refused_in_a_sentence(words: list[str], tmp_path: Path) -> None:
    """As Windows, which has no fcntl and no resource."""
    code = "import sys; sys.modules |= dict.fromkeys(['fcntl', 'resource']); from chartray.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("chartray: expected Linux")
    assert done.stderr.count("\n") == 1
    told = subprocess.run([sys.executable, "-c", code, words[0], "--help"], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
