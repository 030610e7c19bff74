"""One writer at a time: a lock that the system releases when the process ends for any reason."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from chartray.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # refused in `supported`, before anything is locked

# What a file system without locks answers: Lustre without `-o flock` ENOSYS, some network shares the others.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


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

    Raises InputError with the sentence `busy` if another process holds it. On a file system without locks
    one line is printed to standard error, and the command continues.
    """
    supported()
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = _opened(file, busy)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        stream.close()


def _opened(file: Path, busy: str) -> IO[str]:
    while True:
        stream = file.open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise InputError(busy) from None
        except OSError as error:
            try:
                _without_locks(file.parent, error)
            except OSError:
                stream.close()
                raise
            return stream
        # The earlier holder removes the file when it is done, and a lock on a removed file protects nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return stream
        stream.close()


def wait_alone(stream: IO[bytes], file: Path) -> None:
    """Waits until no other process holds the open `file`; on a file system without locks one line is printed."""
    supported()
    try:
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        _without_locks(file.parent, error)


def _without_locks(folder: Path, error: OSError) -> None:
    """Raises `error` again, unless it says that the file system has no locks: then one line is printed."""
    if error.errno not in _NO_LOCKS:
        raise error
    _say_no_locks(folder, error.strerror)


@cache
def _say_no_locks(folder: Path, reason: str) -> None:
    print(
        f"chartray: the file system of {folder} has no locks ({reason}); make sure that no other command writes there "
        "at the same time",
        file=sys.stderr,
        flush=True,
    )
