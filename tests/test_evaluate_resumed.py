"""An evaluation on frozen features that is killed continues with what it had embedded, to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chartray.cli import run_command
from chartray.pixels.store import Store
from chartray.training.pretrain import pretrain
from tests.test_pretrain import small

# An evaluation, but for the times, the command line and the place of its folder.
SAME = ("results.jsonl", "studies.jsonl", "comparisons.jsonl", "calibration.jsonl", "thresholds.json")


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    pretrain(small_store, folder, small(train__steps=1))
    return folder


def tokens(run: Path, store: Path, out: Path, protocol: str) -> list[str]:
    quick = ["--resamples", "20", "--saliency", "0", "--device", "cpu", "--protocol", protocol]
    return ["evaluate", str(run), str(store), "--out", str(out), *quick]


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_a_killed_evaluation_continues_to_the_same_bytes(
    run: Path, small_store: Path, tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut, kept = tmp_path / "whole", tmp_path / "cut", tmp_path / ".cut.unfinished"
    assert run_command(tokens(run, small_store, whole, protocol)) == 0
    assert not (tmp_path / ".whole.unfinished").exists()
    killed_when_kept([*tokens(run, small_store, cut, protocol)], kept)
    assert not cut.exists()
    (piece,) = kept.glob("embed-*/*.parquet")
    before = piece.stat().st_mtime_ns
    capsys.readouterr()
    assert run_command(tokens(run, small_store, cut, protocol)) == 2
    said = capsys.readouterr().err
    assert f"an unfinished evaluation for {cut} is in {kept}; continue it with --resume, or delete it" in said
    assert piece.stat().st_mtime_ns == before
    assert run_command([*tokens(run, small_store, cut, protocol), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "embed: store, train, validate and test: 240/240 images" in said
    assert "240 were kept" in said
    assert not kept.exists()
    for name in SAME:
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    for name in ("predictions.parquet", "embeddings.parquet"):
        assert pq.read_table(whole / name).equals(pq.read_table(cut / name)), name
    if protocol == "linear":
        assert (whole / "probe.safetensors").read_bytes() == (cut / "probe.safetensors").read_bytes()


def killed_when_kept(command: list[str], kept: Path) -> None:
    """Runs a command until the first features are kept, and kills it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chartray", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300
    while not list(kept.glob("embed-*/*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    process.kill()
    process.communicate()


def test_features_of_another_store_are_refused_and_damaged_ones_are_computed_again(
    run: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = tmp_path / "out", tmp_path / ".out.unfinished"
    command = [*tokens(run, small_store, out, "linear"), "--no-baselines"]
    killed_when_kept(tokens(run, small_store, out, "linear"), kept)
    assert run_command([*command, "--precision", "bf16", "--resume"]) == 2
    said = capsys.readouterr().err
    assert "with the precision that it was begun with, found another" in said
    assert "Traceback" not in said
    (piece,) = kept.glob(f"embed-{Store.open(small_store).hash[:16]}/*.parquet")
    content = bytearray(piece.read_bytes())
    content[len(content) // 3] ^= 1
    piece.write_bytes(content)
    assert run_command([*command, "--resume"]) == 0
    said = capsys.readouterr().err
    assert "computed again, since it cannot be read" in said
    assert "were kept" not in said
