"""`chartray doctor` tries what it names: a decoder, lock or package that is away is said with its remedy."""

import errno
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from chartray import doctor
from chartray.cli import run_command
from chartray.extras import PACKAGES
from chartray.outputs import lock
from chartray.pixels import decoders, dicom_frame
from chartray.report.embedding_map import neighbourhoods


def told(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, dict[str, doctor.Examined]]:
    code = run_command(["doctor", *tokens, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == code
    return code, {each["name"]: doctor.Examined(**each) for each in found["result"]["examined"]}


def test_this_machine_has_what_is_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, str(tmp_path))
    assert code == 0
    assert {"Python", "torch", "cores", "memory", "disk", "locks", "byte-code"} <= set(found)
    assert len({name for name in found if name.startswith(("JPEG", "PNG", "DICOM"))}) == 12
    assert not any(tmp_path.iterdir())


def test_a_decoder_that_is_away_is_one_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = {syntax: "gdcm" if name == "pyjpegls" else name for syntax, name in dicom_frame._PLUGINS.items()}
    monkeypatch.setattr(dicom_frame, "_PLUGINS", plugins)
    assert [name for name, reason in decoders.unread().items() if reason is not None] == ["DICOM, JPEG-LS"]
    code, found = told(capsys, str(tmp_path))
    assert (code, found["DICOM, JPEG-LS"].verdict) == (0, "note")


def test_a_folder_that_is_missing_or_has_no_locks_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found = told(capsys, str(tmp_path / "nowhere"))
    assert (code, found["folder"].verdict) == (2, "missing")

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    code, found = told(capsys, str(tmp_path))
    assert (code, found["locks"].verdict) == (0, "note")


METADATA = """Metadata-Version: 2.4
Name: {name}
Version: 1.5
Provides-Extra: dev
Provides-Extra: out
Provides-Extra: near
Requires-Dist: numpy>=99
Requires-Dist: pyarrow
Requires-Dist: nothing-here; python_version < "3"
Requires-Dist: inner[near]>=1; extra == "out"
Requires-Dist: numpy; extra == "near"
Requires-Dist: not-installed; extra == "{missing}"
"""


def test_packages_and_extras_are_looked_up_where_they_are_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, missing in {"house": "dev", "inner": "near"}.items():
        (tmp_path / f"{name}-1.5.dist-info").mkdir()
        (tmp_path / f"{name}-1.5.dist-info" / "METADATA").write_text(METADATA.format(name=name, missing=missing))
    monkeypatch.syspath_prepend(tmp_path)
    (said,) = doctor._wanting("house", "")
    assert said.endswith("is installed, >=99 is needed")
    assert [tuple(each) for each in doctor._extras("house")] == [
        ("extra out", "note", "not-installed is not installed", "pip install 'house[out]'"),
        ("extra near", "ok", "installed", ""),
    ]


def test_without_torch_it_still_examines_the_rest(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from chartray.cli import run_command; "
    code += "sys.exit(run_command(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "missing  torch: cannot be imported" in done.stdout
    assert "DICOM, JPEG 2000: read" in done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_without_opentsne_a_page_has_no_such_map_and_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    assert neighbourhoods(np.random.default_rng(0).normal(size=(40, 3))) is None
    assert "openTSNE is not installed" in capsys.readouterr().err


def test_every_extra_that_a_sentence_names_is_declared_with_its_packages() -> None:
    """Failed before: `--tracker mlflow` asked for an extra of Chartray that there was not."""
    asked = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {
        extra: sorted(Requirement(each).name for each in packages)
        for extra, packages in asked["optional-dependencies"].items()
        if extra not in doctor._FOR_DEVELOPERS
    }
    assert declared == {extra: sorted(packages) for extra, packages in PACKAGES.items()}
