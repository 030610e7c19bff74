"""What a run would need is said before it begins, and nothing is written; what a run refuses is refused."""

import re
import time
from pathlib import Path

import pytest

from chartray.cli import run_command
from chartray.errors import InputError
from chartray.pixels.store import Store
from chartray.training import checkpoint, run_folder
from chartray.training.dry_run import dry_run, print_dry_run
from chartray.training.pretrain import pretrain
from tests.test_pretrain import SMALL, losses, small


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_ten_lines_say_what_a_run_has_and_nothing_is_written(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = files(small_store)
    for out in (None, tmp_path / "above" / "run"):
        print_dry_run(small_store, small(train__epochs=2, train__steps=None), out=out)
        said, aside = capsys.readouterr()
        lines = dict(
            re.split(r"  +", line, maxsplit=1) for line in said.replace("chart columns", "columns  ").splitlines()
        )
        assert len(said.splitlines()) == len(lines) == 10
        assert "training on CPU" in aside
        assert lines["images"].startswith("144 of ")
        assert lines["steps"].startswith("12 of 24 images")
        assert lines["epochs"] == "2.0"
        assert "24 images in 1 part)" in lines["memory"]
        assert " free" in lines["memory"]
        assert f"in {tmp_path}" in lines["free disk"]
    assert files(tmp_path) == {}
    assert files(small_store) == store


def test_the_command_needs_no_out_for_a_dry_run_alone(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokens = ["pretrain", str(small_store), "--recipe", "tiny-cpu"]
    tokens += [token for knob, value in SMALL.items() for token in (f"--{knob}", str(value))]
    assert run_command([*tokens, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert run_command(tokens) == 2
    assert "--out" in capsys.readouterr().err
    assert files(tmp_path) == {}
    assert run_command(["pretrain", "--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out


def test_the_hours_and_the_disk_are_those_of_the_run(small_store: Path, tmp_path: Path) -> None:
    config = small(train__steps=40, train__checkpoint_every=20, train__checkpoint_keep=1, health__every=20)
    needs = dry_run(small_store, config)
    began = time.perf_counter()
    pretrain(small_store, tmp_path / "run", config)
    whole = time.perf_counter() - began
    # Each rate counts from the step before: the probe and the checkpoint between two steps are in it.
    of_steps = sum(24 / rate for rate in losses(tmp_path / "run", "films_per_second"))
    assert of_steps / 3 < needs.hours * 3600 < 3 * of_steps
    assert needs.hours * 3600 < 3 * whole
    (kept,) = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    size, encoder = (
        sum(file.stat().st_size for file in each.iterdir()) for each in (kept, kept.parents[1] / "encoder")
    )
    # Beside the tensors a file has names and sums. One more is there while it is written.
    assert 0.9 * (2 * size + encoder) < needs.disk < 2 * size + encoder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train__batch_size": 500}, "500 training images"),
        ({"chart__ehr": "none", "chart__control": "shuffled"}, "--ehr none"),
        ({"views__focal_count": 10**9}, "1000000002 views of 24 images need"),
        ({"views__focal_size": 20}, "multiple of the 8 px patch"),
        ({"train__accumulate": 5}, "train.accumulate to divide"),
    ],
)
def test_what_a_run_refuses_is_refused(
    small_store: Path, tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    sentences = []
    for refuse in (dry_run, lambda store, config: pretrain(store, tmp_path / "run", config)):
        with pytest.raises(InputError, match=said) as error:
            refuse(small_store, small(**changed))
        sentences.append(re.sub(r"found [\d.]+ GiB|[\d.]+ GiB are free", "free", str(error.value)))
    assert sentences[0] == sentences[1]


def test_a_folder_that_a_run_could_not_have_is_refused_and_stays(small_store: Path, tmp_path: Path) -> None:
    config = small(train__steps=1)
    pretrain(small_store, tmp_path / "run", config)
    before = files(tmp_path)
    with pytest.raises(InputError, match="holds a run already"):
        dry_run(small_store, config, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"views\.mask_ratio"):
        dry_run(small_store, small(train__steps=1, views__mask_ratio=0.5), out=tmp_path / "run", resume=True)
    dry_run(small_store, config, out=tmp_path / "run", resume=True)
    assert files(tmp_path) == before
    assert run_folder.read_manifest(tmp_path / "run").store_hash == Store.open(small_store).hash
