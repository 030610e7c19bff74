"""What memory this process may still take, whether it has run out, and that what it frees stays with it."""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_HUGE_PAGE = 2 * 2**20
_huge_pages = False  # whether they are preferred
# Messages of torch, CUDA and its libraries where they raise no specific error.
_SIGNS = ("can't allocate memory", "out of memory", "ran out of memory", "_STATUS_ALLOC_FAILED")
# oneDNN's, whole: of a primitive descriptor, say, it has other reasons.
_WHOLE = ("could not create a primitive", "std::bad_alloc")
_NO_LIMIT = 2**60  # a control group without a limit says a number of this size, or "max"


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step or image; with another C library it does nothing.

    By default glibc returns large blocks to the kernel at once, which then clears every page again: an eighth of a
    step's time on a CPU, and 15 to 30 MB a DICOM image (benchmarks/LOG.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    # -1 is never: the largest other threshold, 2 GiB, is less than what a step of 64 images frees.
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20)):
        mallopt(option, value)


def give_back_freed_memory() -> None:
    """Returns to the kernel what this process has freed and glibc kept; with another C library it does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
        if _huge_pages:
            prefer_huge_pages()  # what was returned is advised no longer


def prefer_huge_pages() -> None:
    """Advises Linux to hold what glibc allocates from now on in pages of 2 MiB; call `keep_freed_memory` before.

    A step on a CPU reads and writes gigabytes in pages of 4 KiB, and on a virtual machine looking these up is a sixth
    of its time (benchmarks/LOG.md). The heap is grown to the memory that is available, advised, and freed untouched:
    that takes no memory. Where address space is limited or counted as memory, or Linux refuses, nothing is done.
    """
    global _huge_pages
    room = available()
    counted = list(_of_process()) or "2" in _lines("/proc/sys/vm/overcommit_memory")
    if sys.platform != "linux" or room is None or counted or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(room)
    if start is None:
        return
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(first, (start + room - first) // _HUGE_PAGE * _HUGE_PAGE, mmap.MADV_HUGEPAGE)
    libc.free(start)
    _huge_pages = True


def ran_out(error: BaseException) -> bool:
    """Whether Python, or torch on either device, could not get memory."""
    torch = sys.modules.get("torch")
    of_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    said = str(error)
    return of_gpu or isinstance(error, MemoryError) or said in _WHOLE or any(sign in said for sign in _SIGNS)


def begin_peak() -> int | None:
    """Begins to measure `peak`; the bytes that this process has taken and not freed, None where Linux does not say."""
    give_back_freed_memory()  # it would count as taken
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is taken now
    except OSError:
        return None
    return _status("VmRSS:")


def peak() -> int:
    """The most bytes that this process has taken since `begin_peak`."""
    return _status("VmHWM:") or 0


def _status(name: str) -> int | None:
    return next((int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith(name)), None)


def available() -> int | None:
    """Bytes that this process may still take: the machine's, its control group's (SLURM, containers), its own limit.

    None where the system does not say.
    """
    said = [*_of_machine(), *_of_control_group(), *_of_process()]
    return max(min(said), 0) if said else None


def _of_machine() -> Iterator[int]:
    # Where programs may take what caches hold, MemAvailable counts it; the number of free pages does not.
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_control_group() -> Iterator[int]:
    for line in _lines("/proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            root, limit, used, cache = "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "
        elif "memory" in kinds.split(","):
            root, limit, used = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file "
        else:
            continue
        group = Path(root, path.strip("/"))
        for folder in (group, *group.parents):
            allowed, taken = (next(iter(_lines(folder / name)), "") for name in (limit, used))
            if allowed.isdecimal() and taken.isdecimal() and int(allowed) < _NO_LIMIT:
                cached = [int(each.split()[1]) for each in _lines(folder / "memory.stat") if each.startswith(cache)]
                yield int(allowed) - int(taken) + sum(cached)
            if folder == Path(root):
                break


def _of_process() -> Iterator[int]:
    if sys.platform != "linux":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        for line in _lines("/proc/self/statm"):
            yield limit - int(line.split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _lines(file: str | Path) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
