"""A RUN: one writer, whatever a kill or a full disk leaves is resumed or begun again, and nothing damaged is used."""

import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chartray.cli import run_command
from chartray.errors import InputError, OutputError, UnhealthyRun
from chartray.networks import encoder as vit
from chartray.outputs.lock import locked
from chartray.outputs.seal import seal, verify
from chartray.training import checkpoint, run_folder
from chartray.training.monitor import Monitor
from chartray.training.pretrain import pretrain
from tests.test_pretrain import SMALL, losses, small

QUICK: dict[str, Any] = {"train__steps": 3, "train__checkpoint_every": 1, "train__compile": False}
WEIGHTS = "encoder/model.safetensors"


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of three steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain(small_store, out, small(**QUICK))
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, killed after its last checkpoint."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "encoder")
    run_folder.write_manifest(out, run_folder.read_manifest(out).model_copy(update={"status": "running"}))
    return out


def test_a_run_that_another_command_writes_to_is_left_alone(small_store: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    for resume in (False, True):
        with (
            locked(tmp_path / ".run.lock", "busy"),  # as another process holds it
            pytest.raises(InputError, match=r"another command is writing to .*run; wait for it"),
        ):
            pretrain(small_store, out, small(**QUICK), resume=resume)
    assert not out.exists()
    pretrain(small_store, out, small(**QUICK))
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert vit.load(out).provenance.config_sha256 == run_folder.read_manifest(out).config_sha256


def test_an_encoder_says_what_its_process_knows_not_what_lies_in_the_folder(
    small_store: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def disturbed(folder: Path, *arguments: Any, **options: Any) -> Path:
        shutil.copy(whole / "manifest.json", folder.parent)
        return save(folder, *arguments, **options)

    monkeypatch.setattr(checkpoint, "save", disturbed)
    pretrain(small_store, tmp_path / "run", small(**QUICK, seed=5))
    assert vit.load(tmp_path / "run").provenance.seed == run_folder.read_manifest(tmp_path / "run").seed == 5


def killed_at(store: Path, out: Path, calls: int, resume: bool) -> None:
    made = 0

    def killed(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal made
        of_run = any(isinstance(each, str | bytes | os.PathLike) and "run" in os.fsdecode(each) for each in arguments)
        if of_run and event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "open", "shutil.rmtree"):
            made += 1
            if made > calls:
                os._exit(9)

    torch.set_num_threads(1)
    sys.addaudithook(killed)
    pretrain(store, out, small(**QUICK), resume=resume)
    os._exit(0)


def kill_and_go_on(store: Path, whole: Path, folder: Path, calls: int) -> bool:
    """Kills a run at a call, gives the same command again, then with --resume; returns whether it was killed."""
    out = folder / f"run-{calls}" / "run"
    process = multiprocessing.get_context("forkserver").Process(target=killed_at, args=(store, out, calls, False))
    process.start()
    process.join()
    if process.exitcode == 0:
        return False
    assert process.exitcode == 9
    try:
        pretrain(store, out, small(**QUICK))
    except InputError as error:
        assert "continue it with --resume" in str(error)  # noqa: PT017  # either is right, and nothing else
        pretrain(store, out, small(**QUICK), resume=True)
    for name in (WEIGHTS, "checkpoints/step-000003/networks.safetensors", "config.yaml", "train_patients.txt"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), (calls, name)
    assert losses(out) == losses(whole)
    assert run_folder.read_manifest(out).status == "complete"
    assert not [path for path in out.rglob(".*") if not path.name.endswith(".lock")], calls
    shutil.rmtree(out.parent)
    return True


def test_a_run_killed_at_a_call_begins_again_or_goes_on_to_the_same_bytes(
    small_store: Path, whole: Path, tmp_path: Path
) -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["chartray.training.pretrain", "tests.test_pretrain"]
    )
    for calls in (1, 6, 14, 25, 60, 90):
        kill_and_go_on(small_store, whole, tmp_path, calls)


@pytest.mark.slow
def test_a_run_killed_at_any_call_begins_again_or_goes_on_to_the_same_bytes(
    small_store: Path, whole: Path, tmp_path: Path
) -> None:
    calls = 0
    while kill_and_go_on(small_store, whole, tmp_path, calls):
        calls += 1
    assert calls > 50


def test_complete_is_only_a_run_whose_encoder_is_there(small_store: Path, whole: Path, run: Path) -> None:
    pretrain(small_store, run, small(**QUICK), resume=True)  # killed before the encoder
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    for name in ("model.safetensors", "encoder.json"):  # complete, and damaged since
        (run / "encoder" / name).write_bytes(b"damaged")
        pretrain(small_store, run, small(**QUICK), resume=True)
        assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
        assert run_folder.read_manifest(run).status == "complete"


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(
    small_store: Path, whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run / "checkpoints" / "step-000003"
    (newest / "optimizer.safetensors").write_bytes((newest / "optimizer.safetensors").read_bytes()[:-1])
    pretrain(small_store, run, small(**QUICK), resume=True)
    said = capsys.readouterr()
    assert "going back to step-000002: expected " in said.err
    assert "continues after step 2 of 3" in said.out
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    run_folder.write_manifest(run, run_folder.read_manifest(run).model_copy(update={"status": "running"}))
    for each in checkpoint.list_checkpoints(run / "checkpoints"):
        (each / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match=r"expected an intact checkpoint in .*, found 3, all damaged"):
        pretrain(small_store, run, small(**QUICK), resume=True)


def test_each_damaged_file_of_a_run_is_refused_or_harmless(small_store: Path, whole: Path, run: Path) -> None:
    """A bit or the end of any file is another: a sentence, or the same bytes of the encoder in the end."""
    draw = random.Random(0)
    shutil.rmtree(run / "checkpoints" / "step-000003")
    for kept in ("step-000001", "step-000002"):
        verify(run / "checkpoints" / kept)
    pristine = run.with_name("pristine")
    run.rename(pristine)
    names = [path.relative_to(pristine) for path in pristine.rglob("*") if path.is_file() and "events" not in str(path)]
    assert len(names) == 4 + 2 * 4
    for name in names:
        for change in range(2):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(pristine, run)
            content = bytearray((run / name).read_bytes())
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            (run / name).write_bytes(content if change else content[: draw.randrange(len(content))])
            try:
                pretrain(small_store, run, small(**QUICK), resume=True)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017  # either is right
                continue
            assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes(), name
            assert (run / "train_patients.txt").read_bytes() == (whole / "train_patients.txt").read_bytes()


def test_config_yaml_edited_by_hand_is_noticed(
    small_store: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    command = ["pretrain", str(small_store), "--out", str(run), "--resume"]
    assert run_command(command) == 2
    assert "config.yaml as it was written when the run began" in capsys.readouterr().err
    config.unlink()
    assert run_command(command) == 2
    assert "config.yaml as it was written when the run began, found none" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(small_store: Path, run: Path) -> None:
    pretrain(small_store, run.with_name("other"), small(**QUICK, seed=1))
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.with_name("other") / "checkpoints", run / "checkpoints")
    with pytest.raises(InputError, match=r"expected a checkpoint of this run in .*step-000003, found one of other"):
        pretrain(small_store, run, small(**QUICK), resume=True)


@pytest.mark.parametrize("file", ["networks", "optimizer"])
def test_a_checkpoint_holds_exactly_what_is_trained(small_store: Path, run: Path, file: str) -> None:
    newest = run / "checkpoints" / "step-000003"
    tensors = load_file(newest / f"{file}.safetensors")
    name = sorted(tensors)[5]
    for changed in ({name: None}, {name: torch.zeros(2, 2, 2)}, {"stranger": torch.zeros(1)}):
        given = {key: value for key, value in (tensors | changed).items() if value is not None}
        save_file(given, newest / f"{file}.safetensors")
        seal(newest)
        with pytest.raises(InputError, match=rf"expected {next(iter(changed))} of shape .* in .*step-000003"):
            pretrain(small_store, run, small(**QUICK), resume=True)


def test_metrics_lose_half_a_line_and_nothing_else(small_store: Path, whole: Path, run: Path) -> None:
    for later in ("step-000003", "step-000002"):
        shutil.rmtree(run / "checkpoints" / later)
    metrics = run / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-30])
    pretrain(small_store, run, small(**QUICK), resume=True)
    assert losses(run) == losses(whole)
    broken = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([broken[0], "{\n", broken[2]]))
    shutil.rmtree(run / "encoder")
    with pytest.raises(InputError, match=r"metrics\.jsonl as it was written .*line 2 is not a step.*or move it away"):
        pretrain(small_store, run, small(**QUICK), resume=True)
    metrics.unlink()
    pretrain(small_store, run, small(**QUICK), resume=True)
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.parametrize("limit", [2_000, 20_000, 300_000])
def test_a_limit_on_files_is_a_sentence_and_the_run_goes_on_when_it_is_lifted(
    small_store: Path, tmp_path: Path, whole: Path, limit: int
) -> None:
    largest = (whole / "checkpoints/step-000003/optimizer.safetensors").stat().st_size
    assert limit < largest
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match=r"ulimit -f") as refused:
            pretrain(small_store, tmp_path / "run", small(**QUICK))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(refused.value)
    resume = (tmp_path / "run" / "manifest.json").exists()
    pretrain(small_store, tmp_path / "run", small(**QUICK), resume=resume)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_full_disk_is_a_sentence_on_standard_error_and_no_traceback(small_store: Path, tmp_path: Path) -> None:
    options = [token for knob, value in (SMALL | {"train.steps": 400}).items() for token in (f"--{knob}", str(value))]
    tokens = [sys.executable, "-m", "chartray", "pretrain", str(small_store), "--out", str(tmp_path / "run")]
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", *tokens, "--recipe", "tiny-cpu", *options]
    done = subprocess.run([*limited, "--train.checkpoint_every", "1000"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("chartray: cannot write")
    assert "Traceback" not in done.stderr


def test_a_run_stopped_at_its_last_step_is_not_complete_when_it_is_continued(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Monitor, "problem", lambda monitor, step, *_: "collapsed" if step == 3 else None)
        with pytest.raises(UnhealthyRun, match="step 3: collapsed"):
            pretrain(small_store, tmp_path / "run", small(**QUICK))
    for _ in range(2):
        with pytest.raises(UnhealthyRun, match="step 3: collapsed"):
            pretrain(small_store, tmp_path / "run", small(**QUICK), resume=True)
    assert not (tmp_path / "run" / "encoder").exists()
    pretrain(small_store, tmp_path / "run", small(**QUICK, health__stop=False), resume=True)
    assert (tmp_path / "run" / WEIGHTS).exists()
