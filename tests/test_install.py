"""What `make` installs: everything that the lock pins, and with CPU=1 nothing of CUDA."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

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


def test_byte_code_is_written_where_python_itself_writes_none(tmp_path: Path) -> None:
    """As `make bytecode` does for the house's own files."""
    (tmp_path / "module.py").write_text("one = 1\n")
    (writing,) = [command for command in recipe("bytecode") if "compileall" in command]
    quiet = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    quiet.pop("PYTHONPYCACHEPREFIX", None)
    options = [word for word in shlex.split(writing)[1:] if word not in ("src", "benchmarks")]
    subprocess.run([sys.executable, *options, str(tmp_path)], env=quiet, check=True)
    assert list(tmp_path.glob("__pycache__/module.*.pyc"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by its build backend."""
    out = tmp_path_factory.mktemp("dist")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=ROOT, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "src/chartray"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name.removeprefix("src/") for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("chartray/")}
    assert tracked <= held
    assert {"chartray/py.typed", "chartray/recipes/msn.yaml", "chartray/project/gitignore"} <= held
    assert not [name for name in held - tracked if not name.endswith(".py")]


def test_the_wheel_works_where_the_checkout_is_not(wheel: Path, tmp_path: Path) -> None:
    """In an environment with this wheel and the packages of this one, but not the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # As paths: the .pth files in these folders, such as that of an editable checkout, are not read.
    ours = [folder for folder in sys.path if folder.endswith("-packages")]
    (site / "ours.pth").write_text("\n".join(ours))
    python = tmp_path / "env" / "bin" / "python"
    code = """
import sys
from pathlib import Path
import chartray
from chartray.cli import run_command
from chartray.config.pretrain import recipe_names
assert Path(chartray.__file__).is_relative_to(sys.prefix), chartray.__file__
assert {"msn", "published", "small-cpu", "small-gpu", "tiny-cpu"} <= set(recipe_names())
assert run_command(["init", "new"]) == 0
assert run_command(["simulate", "hospital", "--patients", "24", "--workers", "1"]) == 0
assert run_command(["cohort", "nih", "hospital/nih", "--out", "c.parquet"]) == 0
from chartray.report.page import environment
environment().get_template("page.html.j2")
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_wheel_and_the_lock_are_an_environment_of_their_own(wheel: Path, tmp_path: Path) -> None:
    """Every package from the lock by its hash, by uv; minutes and gigabytes unless they are in its cache."""
    uv = [str(Path(sys.executable).with_name("uv"))]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(tmp_path / "env")], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = [*uv, "pip", "install", "-q", "--python", python]
    subprocess.run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    subprocess.run([*uv, "pip", "check", "-q", "--python", python], check=True)
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "chartray", "doctor"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_has_no_wheel_is_not_asked_for(python: str, machine: str) -> None:
    """openTSNE has none for aarch64 and pyjpegls none for 3.14; the lock leaves them out there."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    where = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine}
    wanted = {each.name for each in map(Requirement, asked) if each.marker is None or each.marker.evaluate(where)}
    lock = re.findall(r"^([\w.-]+)==[^ ]+(?: ; ([^\\\n]+))?", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    locked = {name for name, marker in lock if not marker or Marker(marker).evaluate(where)}
    assert wanted <= locked
    assert ("opentsne" in wanted, "opentsne" in locked) == (machine == "x86_64",) * 2
    assert ("pyjpegls" in wanted, "pyjpegls" in locked) == (python != "3.14",) * 2


def test_containers_install_what_the_lock_says_from_nowhere_else() -> None:
    docker, apptainer = ((ROOT / name).read_text() for name in ("Dockerfile", "apptainer.def"))
    for text in (docker, apptainer):
        assert not re.search(r"https?://|--(extra-)?index|--find", text)
        assert text.count("--require-hashes") == 2
    # Both do the same to the same files, which the one's ignore file lets in.
    for pattern in (r"pip install --no-cache[^\n&\\]+", r"uv pip [^\n&\\]+", r"g\+\+"):
        of_one, of_other = (
            {part.strip() for part in re.findall(pattern, text.replace("/opt/chartray/bin/", ""))}
            for text in (docker, apptainer)
        )
        assert of_one == of_other
    let_in = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", docker, re.MULTILINE) for name in line.split()}
    listed = set(re.findall(r"^    (\S+) /chartray/", apptainer, re.MULTILINE))
    assert let_in == copied == listed
    assert all((ROOT / name).exists() for name in listed)
