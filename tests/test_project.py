"""`chartray init`: the files of a new project work as they are, in the order that their README says."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chartray.cli import run_command


def hospital(folder: Path) -> None:
    """The table that mapping.yaml describes, and its images."""
    rng = np.random.default_rng(0)
    rows = ["accession,mrn,time,file,sex,age,icu,effusion,pneumonia"]
    (folder / "images").mkdir()
    for number in range(120):
        patient = number // 2
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(folder / "images" / f"A{number}.png")
        rows.append(
            f"A{number},P{patient},2023-01-07 01:{number % 60:02},A{number}.png,{'mf'[patient % 2]},{20 + patient},"
            f"{('yes', 'no')[patient % 3 == 0]},{number % 2},{int(number % 5 == 0)}"
        )
    (folder / "images.csv").write_text("\n".join(rows))


def test_a_new_project_runs_as_its_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["init", str(tmp_path / "new"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert sorted(told["files"]) == sorted(map(str, (tmp_path / "new").iterdir()))
    monkeypatch.chdir(tmp_path / "new")
    hospital(tmp_path / "new")
    commands = re.findall(r"^    chartray (.+)$", Path("README.md").read_text(), re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        *("doctor", "cohort", "check", "ingest", "check", "study", "study", "study")
    ]
    for command in commands[1:6]:
        words = [*command.split(), *(["--size", "64", "--workers", "1"] if command.startswith("ingest") else [])]
        assert run_command(words) == 0, command
    plan = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("chartray pretrain") for line in plan) == 9


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run_command(["init", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_git_keeps_what_holds_identifiers_out(tmp_path: Path) -> None:
    assert run_command(["init", str(tmp_path / "new")]) == 0
    kept = [
        "c.parquet",
        "c.flow.json",
        "c.headers/a",
        "images.csv",
        "images.store/store.json",
        "study/report/x",
        "images/a.png",
    ]
    subprocess.run(["git", "init", "-q", str(tmp_path / "new")], check=True)
    for name in kept:
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_text("")
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=tmp_path / "new", capture_output=True, text=True
    )
    assert set(listed.stdout.split()) == {".gitignore", "README.md", "mapping.yaml", "study.sbatch", "study.yaml"}
