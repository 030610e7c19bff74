"""A PostgreSQL server for tests: a new cluster in a temporary folder, on loopback, ended with the tests."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ADMIN_PASSWORD = "s3cret/of@admin"
READER_PASSWORD = "s3cret-of-reader"


def binaries() -> Path | None:
    """The folder with initdb and postgres: Debian keeps them outside of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@contextmanager
def server() -> Iterator[int]:
    """Starts a server whose superuser is `admin`, and gives its port; PostgreSQL refuses to run as root.

    Its folder is none of pytest's: another pytest that starts meanwhile closes those to other users.
    """
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    as_user: dict[str, str] = {}
    if os.getuid() == 0:
        import pwd

        if not any(entry.pw_name == "postgres" for entry in pwd.getpwall()):
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = {"user": "postgres", "group": "postgres"}
    with TemporaryDirectory(prefix="chartray-postgres-", ignore_cleanup_errors=True) as folder:
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        with _started(programs, Path(folder), as_user) as port:
            yield port


@contextmanager
def _started(programs: Path, folder: Path, as_user: dict[str, str]) -> Iterator[int]:
    secret, data = folder / "secret", folder / "data"
    secret.write_text(ADMIN_PASSWORD + "\n")
    secret.chmod(0o644)
    common = {"stdin": subprocess.DEVNULL, "capture_output": True, "cwd": folder, "check": True} | as_user
    arguments = ["-D", data, "-U", "admin", "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8", "--no-sync"]
    subprocess.run([programs / "initdb", *arguments, "--locale=C"], **common)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c shared_buffers=16MB"
    start = [programs / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log", "-o", options, "start"]
    # pg_ctl's child keeps its streams: they must not be pipes.
    subprocess.run(
        start, **common | {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    )
    try:
        yield port
    finally:
        subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **common)
