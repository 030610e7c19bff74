"""Images are read in child processes: one that hangs or crashes a decoder, or takes all memory, affects nothing else.

A reader is a child process that receives a path and returns the squashed image or the reason why it is unreadable. It
writes nothing, and ends when its parent does. When an image takes too long, the kernel ends the reader, since no signal
handler interrupts a decoder in C; the image is then unreadable, and a new reader reads the next one.
"""

import atexit
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chartray.errors import OutputError
from chartray.memory import keep_freed_memory
from chartray.pixels.grey import LARGEST_IMAGE, UnreadableImage

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from chartray.pixels.image_process import serve; serve(int(sys.argv[1]))"
)
_BY_THE_CLOCK = 10  # a file that waits for its disk takes longer than its decoder does
_STARTS_WITHIN, _ENDS_WITHIN = 120.0, 10.0  # seconds
_KEPT = 2
# An image is held as up to 16-bit colour, then as 64-bit and 32-bit numbers a pixel; and what a process needs besides.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 40, 2 << 30
_IMAGE, _UNREADABLE, _NO_MEMORY = b"I", b"U", b"M"
_SIZES = struct.Struct(">II")


class Limits(NamedTuple):
    """Limits of one image: rows x columns, processor seconds, and the folder it must be in ("" for any)."""

    pixels: int = LARGEST_IMAGE
    seconds: float = 60.0
    within: str = ""


USUAL_LIMITS = Limits()


class _Ended(Exception):
    """The reader has ended; its text is the reason. `again`: another try may go well."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def read_apart(path: str, size: int, limits: Limits, out: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Reads the image at `path` into `out` uint8 (S, S), squashed to S = `size`; returns its true height and width.

    Raises UnreadableImage with the reason, also where the decoder crashed twice, had no memory twice, or took too long;
    OutputError where no reader can be started.
    """
    for last in (False, True):
        reader = _idle.pop() if _idle and not last else _Reader()
        try:
            found = reader.read(path, size, limits, out)
        except UnreadableImage:
            _idle.append(reader)
            raise
        except _Ended as ended:
            reader.kill()
            if last or not ended.again:
                raise UnreadableImage(str(ended)) from None
        except BaseException:
            reader.kill()
            raise
        else:
            _idle.append(reader)
            return found
    raise AssertionError


def warm() -> None:
    """Starts a reader, if none is idle: it takes a second."""
    if not _idle:
        _idle.append(_Reader())


def release(kept: int = _KEPT) -> None:
    """Ends the readers that have nothing to read, all but `kept`."""
    while len(_idle) > kept:
        _idle.pop().close()


_idle: list["_Reader"] = []
os.register_at_fork(after_in_child=_idle.clear)
atexit.register(release, 0)


class _Reader:
    """A child process that reads images, one at a time."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path]
        nothing = subprocess.DEVNULL  # decoders print to either stream, with the words of a file
        try:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=nothing, stdout=nothing, stderr=nothing
            )
        except OSError as error:
            raise OutputError(
                f"cannot start a process that reads images ({error.strerror}); run the same command again "
                "with fewer --workers"
            ) from None
        finally:
            theirs.close()
        try:
            if not self._connection.poll(_STARTS_WITHIN):
                raise EOFError
            self._connection.recv_bytes()
        except (EOFError, OSError):
            self.kill()
            raise OutputError(
                f"a process that reads images ended at its start ({self._end()}); run the same "
                "command again with fewer --workers"
            ) from None

    def read(self, path: str, size: int, limits: Limits, out: npt.NDArray[np.uint8]) -> tuple[int, int]:
        request = json.dumps({"path": path, "size": size, "limits": limits})
        by_the_clock = _BY_THE_CLOCK * limits.seconds
        try:
            self._connection.send_bytes(request.encode())
            if not self._connection.poll(by_the_clock + _ENDS_WITHIN):
                raise _Ended(f"reading it took more than {by_the_clock:g} s", again=False)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._ended(limits) from None
        kind, answer = answer[:1], answer[1:]
        if kind == _UNREADABLE:
            raise UnreadableImage(answer.decode())
        if kind == _NO_MEMORY:
            raise _Ended("reading it needs more memory than is available or allowed", again=True)
        height, width = _SIZES.unpack_from(answer)
        out[:] = np.frombuffer(answer, dtype=np.uint8, offset=_SIZES.size).reshape(size, size)
        return height, width

    def kill(self) -> None:
        """Ends the process, whatever it does; one that waits for a disk ends when the disk answers."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Lets the process end."""
        self._connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN)

    def _ended(self, limits: Limits) -> _Ended:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN)
        code = self._process.returncode
        if code == -signal.SIGPROF:
            return _Ended(f"reading it took more than {limits.seconds:g} s of a processor", again=False)
        if code == -signal.SIGALRM:
            return _Ended(f"reading it took more than {_BY_THE_CLOCK * limits.seconds:g} s", again=False)
        if code == -signal.SIGKILL:
            return _Ended("the system killed the process that read it twice: out of memory", again=True)
        return _Ended(f"the decoder crashed ({self._end()})", again=True)

    def _end(self) -> str:
        code = self._process.returncode
        if code is None:
            return "no answer"
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"


def serve(descriptor: int) -> None:
    """The child's side: reads what it is sent until the parent ends."""
    from PIL import Image  # the decoders, which the parent does not need

    from chartray.pixels.read import decode_image, squash

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and closes the connection
    for each in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    Image.MAX_IMAGE_PIXELS = None  # `largest` is looked at instead, which may be more
    keep_freed_memory()
    connection, taken = Connection(descriptor), _address_space()
    connection.send_bytes(b"")
    with suppress(EOFError, OSError):
        while True:
            request = json.loads(connection.recv_bytes())
            path, size, limits = request["path"], request["size"], Limits(*request["limits"])
            _limit(limits, taken)
            try:
                image = decode_image(
                    path, smallest_side=_decoded_side(size), largest=limits.pixels, within=limits.within
                )
                answer = _IMAGE + _SIZES.pack(image.height, image.width) + squash(image, size).tobytes()
            except UnreadableImage as reason:
                answer = _UNREADABLE + str(reason).encode(errors="replace")
            except MemoryError:
                answer = _NO_MEMORY
            for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(timer, 0)
            connection.send_bytes(answer)


def _limit(limits: Limits, taken: int | None) -> None:
    """Sets the kernel's limits of time and memory for the next image."""
    if taken is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = taken + _BYTES_BESIDE + _BYTES_PER_PIXEL * limits.pixels
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)
    signal.setitimer(signal.ITIMER_REAL, _BY_THE_CLOCK * limits.seconds)


def _decoded_side(size: int) -> int:
    """The smallest side at which a scaled JPEG is decoded: 1.25 S.

    Measured on a 2544 x 3056 image against decoding it whole: 49.6 dB where the decoder leaves S or little more, 54 to
    58 dB from 1.25 S on.
    """
    return size + size // 4


def _address_space() -> int | None:
    """The bytes of address space that this process has taken, where the system tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return None
    return pages * resource.getpagesize()
