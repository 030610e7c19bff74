"""The whole mission in one process, on a hospital of a few patients: every arrow, every file."""

import json
from pathlib import Path

import pytest

from chartray.cli import run_command


def test_the_demo_goes_from_raw_folders_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert run_command(["demo", str(out), "--patients", "90", "--steps", "3"]) == 0
    said = capsys.readouterr().out
    page = out / "report" / "report.html"
    assert str(page) in said
    assert len(said.split("It says:\n")[1].splitlines()) == 5
    assert "no claim" in said.lower()  # one seed says nothing about the chart
    assert said.count("Seen in one encoder (seed 0): ") >= 3
    assert "own probe" not in said  # every data set was scored with one probe
    html = page.read_text()
    assert "<script src=" not in html
    for arm in ("demographic-norm", "none", "shuffled"):
        manifest = json.loads((out / "runs" / arm / "manifest.json").read_text())
        assert manifest["status"] == "complete"
        assert manifest["flow"]["links"]["films"] > 0
        for data in ("mimic", "nih"):
            folder = out / "results" / f"{arm}-{data}"
            rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
            scored = {"mimic", "mimic:radiologists", "chexpert"} if data == "mimic" else {"nih"}
            assert {row["dataset"] for row in rows} == scored
            own = "shuffled" if arm == "shuffled" else "none"
            assert {own, "untrained", "pixels", "chart-only", "image+chart"} <= {row["control"] for row in rows}
    assert (out / "results" / "arms-mimic" / "comparisons.jsonl").read_text()
    assert (out / "mimic.store" / "store.json").exists()  # the stores stay, the drawn images do not
    assert not (out / "hospital").exists()
    assert run_command(["demo", str(out)]) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
