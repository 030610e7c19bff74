"""What `make` installs: everything that the lock pins, and with CPU=1 nothing of CUDA."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


def recipe(target: str, *variables: str) -> list[str]:
    """The commands of a target, which are not run; of `install` as if nothing were there."""
    shown = ["make", "--dry-run", "--always-make", "--no-print-directory", target, *variables]
    return subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def pinned(lock: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))


def synced(commands: list[str]) -> str:
    """The lock that is installed by hash: the command that makes it is run as it is, but for its target."""
    (making,) = [command for command in commands if command.endswith("> .venv/packages.lock")]
    making = making.removesuffix("> .venv/packages.lock")
    return subprocess.run(["bash", "-c", making], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_all_that_is_pinned_is_installed_by_hash_and_as_byte_code() -> None:
    commands = recipe("install")
    assert synced(commands) == (ROOT / "requirements.lock").read_text()
    (syncing,) = [command for command in commands if " pip sync " in command]
    assert {"--require-hashes", "--compile-bytecode"} <= set(shlex.split(syncing))
    assert "--torch-backend" not in " ".join(commands)


def test_without_cuda_all_else_is_installed_by_hash_and_torch_at_its_version() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    commands = recipe("install", "CPU=1")
    left_out = pinned(lock) - pinned(synced(commands))
    assert {"torch", "torchvision", "triton"} <= left_out
    assert all(name.startswith(("nvidia-", "cuda-")) for name in left_out - {"torch", "torchvision", "triton"})
    assert not re.search(r"^(nvidia|cuda)", synced(commands), re.MULTILINE)
    (torch,) = [command for command in commands if "--torch-backend cpu" in command]
    versions = "".join(re.findall(r"\$\(.*\)", torch))
    told = subprocess.run(["bash", "-c", f"echo {versions}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == re.findall(r"^(?:torch|torchvision)==[^ ]+", lock, re.MULTILINE)
    elsewhere = recipe("install", "CPU=1", "TORCH_FROM=--find-links wheels")
    assert [torch.replace("--torch-backend cpu", "--find-links wheels")] == [
        command for command in elsewhere if "wheels" in command
    ]


def test_byte_code_is_written_where_python_itself_writes_none(tmp_path: Path) -> None:
    """As `make bytecode` does for the house's own files."""
    (tmp_path / "module.py").write_text("one = 1\n")
    (writing,) = [command for command in recipe("bytecode") if "compileall" in command]
    quiet = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    quiet.pop("PYTHONPYCACHEPREFIX", None)
    options = [word for word in shlex.split(writing)[1:] if word not in ("src", "benchmarks")]
    subprocess.run([sys.executable, *options, str(tmp_path)], env=quiet, check=True)
    assert list(tmp_path.glob("__pycache__/module.*.pyc"))
