"""`--quiet`, `--json`, colour: what goes to which stream."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chartray.cli import app, run_command

TINY = ["--recipe", "tiny-cpu", "--train.batch_size", "32", "--train.device", "cpu", "--ehr", "none"]


def test_quiet_leaves_results_and_warnings(
    small_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cohort = small_store / "cohort.parquet"
    assert run_command(["features", str(cohort), "--out", str(tmp_path / "loud")]) == 0
    loud = capfd.readouterr()
    assert run_command(["features", "--quiet", str(cohort), "--out", str(tmp_path / "quiet")]) == 0
    assert capfd.readouterr() == loud
    pretrain = ["pretrain", str(small_store), "--out", str(tmp_path / "run"), *TINY, "--train.steps", "2"]
    assert run_command([*pretrain, "-q"]) == 0
    said = capfd.readouterr()
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["warning", "warning"]  # of a small store
    assert said.err == ""
    assert run_command([*pretrain, "--resume"]) == 0
    assert "is complete" in capfd.readouterr().out


def test_json_is_one_object_whatever_happens(
    small_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def ran(*tokens: str) -> dict[str, object]:
        code = run_command([*tokens, "--json"])
        found: dict[str, object] = json.loads(capfd.readouterr().out)
        assert set(found) == {"command", "exit_code", "error", "notices", "lines", "result"}
        assert found["exit_code"] == code
        return found

    checked = ran("check", str(small_store))
    assert checked["command"] == "check"
    assert checked["error"] is None
    assert {"severity", "what", "where", "count", "remedy"} == set(checked["result"]["findings"][0])  # type: ignore[index]
    assert ran("cohort", "nih", "nowhere", "--out", "c.parquet")["command"] == "cohort nih"
    refused = ran("check", str(tmp_path / "nowhere"))
    assert (refused["exit_code"], refused["result"]) == (2, {})
    assert "nowhere" in str(refused["error"])
    assert "pretrian" in str(ran("pretrian")["error"])
    run = ran("pretrain", str(small_store), "--out", str(tmp_path / "run"), *TINY, "--train.steps", "2")
    assert run["result"] == {"out": str(tmp_path / "run")}
    assert "dry" not in ran("pretrain", str(small_store), *TINY, "--dry-run")["lines"]  # type: ignore[operator]
    assert ran("knobs")["result"]["settings"]["seed"] == 0  # type: ignore[index]


def on_a_terminal(tokens: list[str], **variables: str) -> str:
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "chartray", *tokens]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env | {"TERM": "xterm-256color"} | variables):
        os.close(theirs)
        said = b""
        try:
            while more := os.read(ours, 65536):
                said += more
        except OSError:
            pass  # Linux says EIO where the other end is closed
    os.close(ours)
    return said.decode()


def test_colour_is_for_terminals_that_want_it() -> None:
    """SGR sequences that set a colour: 30 to 37, 90 to 97, or 38."""
    coloured = ("\x1b[3", "\x1b[9", "\x1b[1;3")
    assert any(start in on_a_terminal(["--help"]) for start in coloured)
    assert not any(start in on_a_terminal(["--help"], NO_COLOR="1") for start in coloured)
    done = subprocess.run([sys.executable, "-m", "chartray", "--help"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert "--quiet" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str) -> None:
    made = app.generate_completion(shell=shell)  # type: ignore[arg-type]
    assert all(name in made for name in ("pretrain", "doctor", "cohort", "--out"))


def test_the_page_on_json_has_every_command() -> None:
    page = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`([a-z]+)(?: \.\.\.)?`", " ".join(re.findall(r"^\| (`[^|]+)\|", page, re.MULTILINE))))
    commands = {name for name in app if not name.startswith("-")} - {"bench"}
    assert commands - described == set()
