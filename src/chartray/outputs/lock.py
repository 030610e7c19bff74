"""One writer at a time: a lock that the system releases when the process ends for any reason."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from chartray.errors import InputError
from chartray.outputs.lock_file import held_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # refused in `supported`, before anything is locked

# What a file system without locks answers: Lustre without `-o flock` ENOSYS, some network shares the others.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_MINUTE = 60.0  # seconds


def supported() -> None:
    """Raises InputError on a system without the locks that every result is written under."""
    if fcntl is None:
        raise InputError(
            f"expected Linux, which Chartray is tested on, or macOS, which it is not, found {sys.platform}, where a "
            "file cannot be locked; on Windows use its Subsystem for Linux (WSL 2)"
        )


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Holds the lock `file`, made if need be and removed afterwards.

    Raises InputError with the sentence `busy` if another process holds it. On a file system without locks a file with
    the holder's name (lock_file.py) stands for one, and one line on standard error says so.
    """
    supported()
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = _opened(file, busy)
    try:
        with nullcontext() if stream is not None else held_file(_stand_in(file), busy):
            yield
    finally:
        with suppress(OSError):
            file.unlink()
        if stream is not None:
            stream.close()


def reason_without_locks(folder: Path) -> str | None:
    """Why files in `folder` cannot be locked, None where they can; OSError where none can be written."""
    supported()
    with NamedTemporaryFile(dir=folder, prefix=".chartray-lock-") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return error.strerror
    return None


def names_of(file: Path) -> set[str]:
    """The names that may be found of the lock `file`."""
    return {file.name, _stand_in(file).name, f"{_stand_in(file).name}.removed"}


def _opened(file: Path, busy: str) -> IO[str] | None:
    """The locked file; None on a file system without locks."""
    while True:
        stream = file.open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise InputError(busy) from None
        except OSError as error:
            stream.close()
            _without_locks(file.parent, error)
            return None
        # The earlier holder removes the file when it is done, and a lock on a removed file protects nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return stream
        stream.close()


@contextmanager
def alone(stream: IO[bytes], file: Path) -> Iterator[None]:
    """Waits until no other process holds the open `file`, and holds it until `stream` is closed.

    On a file system without locks it waits up to a minute for the file that stands for one, then raises InputError.
    """
    supported()
    without = False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        _without_locks(file.parent, error)
        without = True
    busy = f"another command has been writing to {file} for a minute; wait for it, then run the same command again"
    with held_file(_stand_in(file.with_name(f".{file.name}.lock")), busy, _MINUTE) if without else nullcontext():
        yield


def _stand_in(file: Path) -> Path:
    return file.with_name(f"{file.name}.holder")


def _without_locks(folder: Path, error: OSError) -> None:
    """Raises `error` again, unless it says that the file system has no locks: then one line is printed."""
    if error.errno not in _NO_LOCKS:
        raise error
    _say_no_locks(folder, error.strerror)


@cache
def _say_no_locks(folder: Path, reason: str) -> None:
    print(
        f"chartray: the file system of {folder} has no locks ({reason}); a file with the name of the process that "
        "writes stands for one",
        file=sys.stderr,
        flush=True,
    )
