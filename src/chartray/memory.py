"""Memory that one piece of work frees is kept for the next."""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Has glibc keep what a step or a film frees for the next one; with another C library nothing happens.

    It gives large blocks back to the kernel at once, which clears every page of them again for the next: an eighth of
    a step's time on a CPU, and 15 to 30 MB a DICOM film (benchmarks/LOG.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20)):
        mallopt(option, value)
