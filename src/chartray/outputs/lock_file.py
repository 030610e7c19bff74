"""A lock for file systems that have none: a file, made only where there is none, that names the process that holds it.

It outlives a holder that is killed. Whether that one still runs is known on the same machine, within the same
container, and nowhere else; elsewhere the lock is never taken away, and a sentence says who held it.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from chartray.errors import InputError

_LOOKS_EVERY, _WRITTEN_WITHIN = 0.05, 2.0  # seconds
_REMOVED_WITHIN = 60.0  # a process that removes an abandoned lock takes milliseconds


class _Holder(NamedTuple):
    """A process: `where` is the same for those who see each other's numbers, `started` tells a number used again."""

    host: str
    where: str
    pid: int
    started: str


@contextmanager
def held_file(file: Path, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock `file`, which is removed afterwards; waits up to `patience` seconds for another holder.

    Raises InputError with the sentence `busy`, and who holds it, if another process does.
    """
    _take(file, busy, time.monotonic() + patience)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()


def _take(file: Path, busy: str, until: float) -> None:
    while True:
        with suppress(FileExistsError):
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            with os.fdopen(descriptor, "w") as stream:
                json.dump(_process(os.getpid()), stream)
                stream.flush()
                os.fsync(stream.fileno())
            return
        holder = _read(file)
        if holder is not None and _ended(holder):
            _remove(file, holder)
        elif time.monotonic() > until and file.exists():
            raise InputError(f"{busy} ({_described(file, holder)})")
        else:
            time.sleep(_LOOKS_EVERY)


def _remove(file: Path, ended: _Holder) -> None:
    """Removes the lock of a process that has ended; a second file keeps others from removing the one that follows."""
    guard = file.with_name(f"{file.name}.removed")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with suppress(OSError):
            if time.time() - guard.stat().st_mtime > _REMOVED_WITHIN:
                guard.unlink()
        time.sleep(_LOOKS_EVERY)
        return
    try:
        if _read(file) == ended:
            file.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _read(file: Path) -> _Holder | None:
    """Who holds it; None if that cannot be read, also after the moment in which a new one is still empty."""
    until = time.monotonic() + _WRITTEN_WITHIN
    while True:
        try:
            host, where, pid, started = json.loads(file.read_text())
            return _Holder(str(host), str(where), int(pid), str(started))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            if time.monotonic() > until:
                return None
            time.sleep(_LOOKS_EVERY)


def _described(file: Path, holder: _Holder | None) -> str:
    who = "who holds its lock is unknown" if holder is None else f"process {holder.pid} on {holder.host} holds its lock"
    if holder is not None and holder.where == _where():
        return who
    return f"{who}; if no such command runs any more, remove {file}"


def _ended(holder: _Holder) -> bool:
    return holder.where == _where() and _process(holder.pid).started != holder.started


def _process(pid: int) -> _Holder:
    """The process with this number, here; its start is empty if there is none."""
    started = ""
    try:
        # The name of the program comes in brackets, and may hold blanks; the start is field 22.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # One that was killed has its number until its parent asks for it.
        started = "" if state in ("Z", "X") else fields[18]
    except OSError:
        if not os.path.isdir("/proc/self"):  # macOS: a number used again is taken for the holder
            with suppress(ProcessLookupError):
                os.kill(pid, 0)
                started = "running"
    return _Holder(os.uname().nodename, _where(), pid, started)


def _where() -> str:
    """This boot of this machine, and the container in it, as far as the system tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename
