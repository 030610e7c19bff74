"""Trackers get what metrics.jsonl has, in one run however often it is continued, and nothing else."""

import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chartray.cli import run_command
from chartray.config.study import read_experiment
from chartray.errors import InputError, Stopped
from chartray.experiment import checked
from chartray.experiment_steps import steps_of
from chartray.pixels.store import Store
from chartray.results.folder import command
from chartray.training.pretrain import pretrain
from chartray.training.trackers import TRACKERS_FILE, Tracked, Trackers

from .test_experiment import tiny
from .test_pretrain import losses, small


@pytest.fixture
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that were connected to; any but loopback's is refused."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    seen: list[Any] = []
    true = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            seen.append(address)
            assert address[0] in ("127.0.0.1", "::1", "localhost"), f"the network was asked for: {address}"
        true(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return seen


def stopped_then_continued(store: Path, out: Path, tracked: Tracked) -> None:
    """Six steps, stopped after the third by a signal; continued without naming the tracker again."""
    config = small(**{"train.checkpoint_every": 3, "train.steps": 6})
    calls = 0
    true = Trackers.write

    def write(self: Trackers, step: int, values: Any) -> None:
        nonlocal calls
        true(self, step, values)
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trackers, "write", write)
        with pytest.raises(Stopped):
            pretrain(store, out, config, tracked=tracked)
    pretrain(store, out, config, resume=True)


def no_ids(store: Path, text: str) -> bool:
    cohort = Store.open(store).cohort
    names = {str(each) for column in ("image_id", "patient_id") for each in cohort[column].to_pylist()}
    return not any(f'"{name}"' in text or f"{name}/" in text for name in names)


def test_a_resumed_run_continues_the_same_run_of_mlflow(
    small_store: Path, tmp_path: Path, on_loopback: list[Any]
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    stopped_then_continued(small_store, tmp_path / "run", Tracked(["mlflow"]))
    assert on_loopback == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("chartray").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [each.step for each in sorted(history, key=lambda each: each.step)] == [1, 2, 3, 4, 5, 6]
    assert [each.value for each in sorted(history, key=lambda each: each.step)] == losses(tmp_path / "run")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["train.steps"] == "6"
    # Nothing of the machine or of a patient.
    with sqlite3.connect(tmp_path / "run" / "mlflow.db") as database:
        dumped = "\n".join(database.iterdump())
    assert no_ids(small_store, dumped)
    assert str(small_store) not in dumped
    assert socket.gethostname() not in json.dumps({**run.data.tags, **run.data.params})


def records(content: bytes) -> Iterator[bytes]:
    """What a .wandb file holds: LevelDB's log, in blocks of 32 KiB, after 7 bytes of its own."""
    place, part = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield part
            part = b""


def stopped_study(store: Path, folder: Path, tracked: Tracked) -> list[str]:
    """The pretrainings of a study of two arms and two seeds, the first stopped after a step and begun anew; names."""
    small_study = tiny(folder, store, seeds=[0, 1])
    steps = list(steps_of(read_experiment(small_study), small_study, folder / "out", lambda: None, tracked))
    pretrainings = [step for step in steps if step.stage == "pretraining"]
    true = Trackers.write

    def write(self: Trackers, step: int, values: Any) -> None:
        true(self, step, values)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trackers, "write", write)
        with pytest.raises(Stopped):
            pretrainings[0].does()
    for step in pretrainings:
        step.does()
    return [step.product.parent.name for step in pretrainings]


def test_a_study_has_one_run_of_mlflow_for_each_pretraining_by_arm_and_seed(
    small_store: Path, tmp_path: Path, on_loopback: list[Any]
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    uri = f"sqlite:///{tmp_path / 'all.db'}"
    names = stopped_study(small_store, tmp_path, Tracked(["mlflow"], uri))
    assert names == ["real-0", "none-0", "real-1", "none-1"]
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("chartray").experiment_id])
    assert sorted((run.info.run_name, run.data.tags["group"], run.data.tags["seed"]) for run in runs) == sorted(
        (name, *name.split("-")) for name in names
    )
    for run in runs:
        steps = [each.step for each in client.get_metric_history(run.info.run_id, "loss")]
        assert sorted(steps) == [1, 2, 3, 4]
    assert on_loopback == []


def test_the_commands_of_a_study_carry_its_trackers_and_a_finished_run_stays_finished(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tiny(tmp_path, small_store), tmp_path / "out"
    plan = ["study", str(file), "--out", str(out), "--plan", "--slurm"]
    keys = [checked(read_experiment(file), file, out)[1]]
    assert run_command([*plan, "--tracker", "tensorboard"]) == 0
    (real, none) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("chartray pretrain"))
    assert real.endswith("--resume --tracker tensorboard --tracker-group real")
    assert none.endswith("--resume --tracker tensorboard --tracker-group none")
    assert real in (out / "slurm" / "pretrain-real-0.sbatch").read_text()
    assert "--tracker" not in (out / "slurm" / "evaluate-real-0-small.sbatch").read_text()
    # A tracker decides no outcome: what was done without one is not done again.
    keys.append(checked(read_experiment(file), file, out, Tracked(["tensorboard"]))[1])
    assert keys[0] == keys[1]
    assert run_command([*plan, "--tracker-uri", "http://127.0.0.1:1"]) == 2
    assert "expected --tracker-uri only with --tracker mlflow" in capsys.readouterr().err
    assert run_command(["pretrain", str(small_store), "--out", str(out), "--tracker-group", "real"]) == 2
    assert "expected --tracker-group only with --tracker" in capsys.readouterr().err


def test_weights_and_biases_is_offline_and_continued(small_store: Path, tmp_path: Path, on_loopback: list[Any]) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    stopped_then_continued(small_store, tmp_path / "run", Tracked(["wandb"], group="real"))
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    steps: list[tuple[int, float]] = []
    ids, hosts, groups, content = set(), set(), set(), b""
    for file in files:
        content += file.read_bytes()
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                hosts.add(record.run.host)
                groups.add(record.run.run_group)
            if record.WhichOneof("record_type") == "history":
                found = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                steps.append((record.history.step.num, float(found["loss"])))
    assert len(ids) == 1
    assert groups == {"real"}
    assert [value for _, value in sorted(steps)] == losses(tmp_path / "run")
    text = content.decode("latin-1")
    assert hosts == {"not told"}
    assert no_ids(small_store, text)
    assert str(small_store) not in text


@pytest.mark.slow
def test_a_real_server_of_mlflow_with_sqlite_takes_the_numbers(
    small_store: Path, tmp_path: Path, on_loopback: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    where = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path)]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen([*command, *where], stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        stopped_then_continued(small_store, tmp_path / "run", Tracked(["mlflow"], uri))
        client = mlflow.MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name("chartray").experiment_id])
        history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda each: each.step)
        assert [each.value for each in history] == losses(tmp_path / "run")
        assert not (tmp_path / "run" / "mlflow.db").exists()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
    # The server is gone: a run that should go there does not begin.
    with pytest.raises(InputError, match=r"expected mlflow to take the numbers of .*; check its address"):
        pretrain(small_store, tmp_path / "other", small(), tracked=Tracked(["mlflow"], uri))


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing:
        def write(self, step: int, values: Any) -> None:
            raise ConnectionError("of patient p17")

        def end(self, status: str) -> None:
            raise AssertionError("it was left out")

    trackers = Trackers({"mlflow": Failing()})
    trackers.write(1, {"loss": 1.0})
    trackers.write(2, {"loss": 1.0})
    trackers.end(None)
    said = capsys.readouterr().err
    assert said.count("mlflow takes no more numbers (ConnectionError)") == 1
    assert "p17" not in said


def test_a_tracker_without_its_extra_or_a_uri_without_mlflow_is_one_sentence(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", str(small_store), "--out", str(tmp_path / "run")]
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        assert run_command([*arguments, "--tracker", name]) == 2
        assert f'install Chartray with its extra: {name} (pip install "chartray[{name}]")' in capsys.readouterr().err
    assert run_command([*arguments, "--tracker", "tensorboard", "--tracker-uri", "http://127.0.0.1:1"]) == 2
    assert "expected --tracker-uri only with --tracker mlflow" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_a_tracker_no_file_of_one_is_written(small_store: Path, tmp_path: Path, on_loopback: list[Any]) -> None:
    pretrain(small_store, tmp_path / "run", small(**{"train.steps": 2}))
    assert not (tmp_path / "run" / TRACKERS_FILE).exists()
    assert list((tmp_path / "run" / "events").iterdir())
    assert on_loopback == []


def test_a_password_in_the_uri_of_a_tracker_is_refused(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", str(small_store), "--out", str(tmp_path / "run"), "--tracker", "mlflow"]
    assert run_command([*words, "--tracker-uri", "http://me:pa55word@127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert "found one for http://127.0.0.1:1; set MLFLOW_TRACKING_USERNAME" in said
    assert "pa55word" not in said


def test_the_command_of_a_manifest_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["chartray", "x", "--charts", "postgres://me:pa55word@host/base#a", "--b=s3://c/d"]
    )
    assert command() == ("chartray", "x", "--charts", "postgres://host/base#a", "--b=s3://c/d")
