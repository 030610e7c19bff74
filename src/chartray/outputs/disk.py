"""What the machine cannot write, in a sentence: no room, a quota, a limit on the size of files, a disk that fails."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chartray.errors import InputError, OutputError

_SAYS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "the limit on the size of a file (ulimit -f) is reached",
    errno.EROFS: "the disk may only be read",
    errno.EIO: "the disk failed",
    errno.EMFILE: "this process may not open more files (ulimit -n)",
    errno.ENFILE: "the system may not open more files",
}
# Libraries in Rust and C++ say the number, or the words, but raise an error of their own kind.
_NUMBER = re.compile(r"(?:os error|errno|code:)\s*(\d+)", re.IGNORECASE)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Raises OutputError where the machine cannot write what goes to `out`, whichever library found out."""
    try:
        yield
    except (InputError, OutputError):
        raise
    except Exception as error:
        said = of_the_machine(error)
        if said is None:
            raise
        raise OutputError(
            f"expected to write {out}, found that {said}; what stood there before is as it was: make room or choose "
            "another place, then run the same command again"
        ) from None


def of_the_machine(error: BaseException) -> str | None:
    """What kept the machine from writing, in words; None where the error is about something else.

    >>> of_the_machine(OSError(28, "No space left on device"))
    'no space is left on the disk'
    >>> of_the_machine(RuntimeError("Error while serializing: IoError(Os { code: 28, kind: StorageFull })"))
    'no space is left on the disk'
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        match = _NUMBER.search(str(error))
        number = int(match[1]) if match else None
    if number is None:
        number = next((each for each in _SAYS if os.strerror(each).lower() in str(error).lower()), None)
    return _SAYS.get(number) if number is not None else None
