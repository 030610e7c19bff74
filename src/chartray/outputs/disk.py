"""Write failures of the machine as one sentence: no space, a quota, a file size limit, a failing disk."""

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
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk failed",
    errno.EMFILE: "this process cannot open more files (ulimit -n)",
    errno.ENFILE: "the system cannot open more files",
}
# Libraries in Rust and C++ raise their own errors, with the number or words of the system's error in the text.
_NUMBER = re.compile(r"(?:os error|errno|code:)\s*(\d+)", re.IGNORECASE)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Raises OutputError if the machine cannot write to `out`, whichever library reports it."""
    try:
        yield
    except (InputError, OutputError):
        raise
    except Exception as error:
        said = of_the_machine(error)
        if said is None:
            raise
        raise OutputError(
            f"cannot write {out}: {said}; an earlier result is unchanged; free some space or choose another --out, "
            "then run the same command again"
        ) from None


def of_the_machine(error: BaseException) -> str | None:
    """The reason why the machine could not write; None for any other error.

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
