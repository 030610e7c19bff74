"""Processes that a fault may end: a fork of this one that runs one command, or many cheap cases in a row.

Everything is imported before the fork, so that a case costs no new interpreter. A fork has a bound on its time and on
its memory, and what it prints is caught.
"""

import ctypes
import faulthandler
import gc
import json
import mmap
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

SHIM, CONTROL = "FAULTS_SHIM", "FAULTS_CONTROL"
_SOURCE = Path(__file__).with_name("shim.c")
_LONGS, _PREFIX, _TEXT = struct.Struct("4l"), 4 * 8, 1024
UNCAUGHT = 99  # no command ends with it

T = TypeVar("T")
Action = Literal["count", "kill", "tear", "fail", "fail on", "fail reads"]
_ACTIONS: tuple[Action, ...] = ("count", "kill", "tear", "fail", "fail on", "fail reads")


class Fault(NamedTuple):
    """What shall happen at the call with number `at` below the folder of the case; `error`: an errno."""

    action: Action
    at: int = 0
    error: int = 0


class Ended(NamedTuple):
    """How a command ended: its exit code, or the number of the signal; `calls` below its folder; where it was hit."""

    code: int | None
    signal: int | None
    out: str
    err: str
    calls: int
    hit: str
    seconds: float
    hung: bool

    @property
    def uncaught(self) -> bool:
        return self.code == UNCAUGHT or "Traceback (most recent call last)" in self.err + self.out


class Control:
    """The file by which the shim in every process of a command is told what to do."""

    def __init__(self) -> None:
        name = os.environ.get(CONTROL)
        self._map = None
        if name is not None:
            with open(name, "r+b") as stream:
                self._map = mmap.mmap(stream.fileno(), _PREFIX + 2 * _TEXT)

    @property
    def works(self) -> bool:
        return self._map is not None

    def arm(self, fault: Fault, folder: Path) -> None:
        if self._map is not None:
            self._map[_PREFIX : _PREFIX + 2 * _TEXT] = bytes(2 * _TEXT)
            _LONGS.pack_into(self._map, 0, 0, fault.at, _ACTIONS.index(fault.action), fault.error)
            place = f"{folder}/".encode()
            self._map[_PREFIX : _PREFIX + len(place)] = place

    def disarm(self) -> tuple[int, str]:
        """How many calls were counted, and the one that was hit."""
        if self._map is None:
            return 0, ""
        self._map[_PREFIX : _PREFIX + _TEXT] = bytes(_TEXT)
        said = self._map[_PREFIX + _TEXT : _PREFIX + 2 * _TEXT].split(b"\0")[0].decode(errors="replace")
        return _LONGS.unpack_from(self._map, 0)[0], said


def compiled(folder: Path) -> Path | None:
    """The shim, compiled; None where there is no compiler or no LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    made = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(_SOURCE), "-ldl"]
    return made if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def began_again_with_shim(folder: Path) -> None:
    """Starts this program anew with the shim in it, unless it is in or cannot be had."""
    if SHIM in os.environ:
        return
    shim, control = compiled(folder), folder / "control"
    control.write_bytes(bytes(8192))
    told = {SHIM: str(shim or ""), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    if shim is not None:
        told |= {CONTROL: str(control), "LD_PRELOAD": str(shim)}
    os.execve(sys.executable, [sys.executable, "-m", "tests.faults", *sys.argv[1:]], os.environ | told)


def settle_before_forks() -> None:
    """Forks share what has been imported: nothing of it is to be looked at by their garbage collector."""
    gc.collect()
    gc.freeze()


def run_forked(
    does: Callable[[], int],
    folder: Path,
    control: Control,
    fault: Fault = Fault("count"),  # noqa: B008  # a tuple
    *,
    seconds: float,
    gigabytes: float = 0,
) -> Ended:
    """Runs `does` in a fork that stands in `folder`; all its processes are gone when this returns."""
    return ended(begun(does, folder, control, fault, seconds=seconds, gigabytes=gigabytes), control, seconds=seconds)


class Begun(NamedTuple):
    """A fork at work."""

    pid: int
    said: Path
    since: float


def begun(
    does: Callable[[], int], folder: Path, control: Control, fault: Fault, *, seconds: float, gigabytes: float = 0
) -> Begun:
    """A fork that runs `does`; the fault counts from here."""
    said = folder.with_name(f"{folder.name}.{time.monotonic_ns()}")
    control.arm(fault, folder)
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return Begun(pid, said, time.monotonic())
    code = UNCAUGHT
    try:
        os.setsid()
        _catch_output(said)
        _bound_memory(gigabytes)
        os.chdir(folder)
        faulthandler.dump_traceback_later(seconds * 0.9)
        code = does()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def ended(begun: Begun, control: Control, *, seconds: float) -> Ended:
    """Waits for a fork, but not longer than its bound, and ends what it leaves."""
    status, hung, pause = None, False, 0.001
    while status is None:
        done, found = os.waitpid(begun.pid, os.WNOHANG)
        if done:
            status = found
        elif time.monotonic() - begun.since > seconds and not hung:
            hung = True
            os.kill(begun.pid, signal.SIGKILL)
        else:
            time.sleep(pause)
            pause = min(0.02, pause * 1.5)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(begun.pid, signal.SIGKILL)
    calls, hit = control.disarm()
    out, err = (_text(begun.said.with_suffix(f"{begun.said.suffix}.{name}")) for name in ("out", "err"))
    by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = None if by_signal is not None else os.WEXITSTATUS(status)
    return Ended(code, by_signal, out, err, calls, hit, time.monotonic() - begun.since, hung)


def in_a_row(
    does: Callable[[T], Sequence[str]], cases: Sequence[T], scratch: Path, *, seconds: float, gigabytes: float
) -> Iterator[tuple[T, Sequence[str]]]:
    """Runs cheap cases one after the other in a fork: yields each with what `does` returned.

    A case that ends the fork yields ("died of signal N",), one that takes longer than `seconds` ("hung",); a new fork
    goes on behind it.
    """
    waiting = list(cases)
    while waiting:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            _serve(does, waiting, writer, scratch, gigabytes)
        os.close(writer)
        hung = False
        for line in _lines(reader, seconds):
            hung = line is None
            if line is not None:
                yield waiting.pop(0), json.loads(line)
        os.close(reader)
        if hung:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if waiting:
            died = f"died of signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "left without a word"
            yield waiting.pop(0), ("hung" if hung else died,)


def _lines(reader: int, seconds: float) -> Iterator[bytes | None]:
    """The lines of a pipe to its end; None, and the end, where one is longer than `seconds` in coming."""
    held = b""
    while True:
        ready, _, _ = select.select([reader], [], [], seconds)
        if not ready:
            yield None
            return
        if not (read := os.read(reader, 65536)):
            return
        *lines, held = (held + read).split(b"\n")
        yield from lines


def _serve(does: Callable[[T], Sequence[str]], cases: list[T], writer: int, scratch: Path, gigabytes: float) -> None:
    os.setsid()
    _catch_output(scratch / "row")
    _bound_memory(gigabytes)
    for case in cases:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream in (1, 2):
            os.ftruncate(stream, 0)
            os.lseek(stream, 0, os.SEEK_SET)
        try:
            said = does(case)
        except BaseException:
            said = "fault of the harness", traceback.format_exc()
        os.write(writer, json.dumps(said).encode() + b"\n")
    os._exit(0)


def said_so_far(scratch: Path) -> tuple[str, str]:
    """What the case at work has printed, for `does` of `in_a_row`: standard output and standard error."""
    sys.stdout.flush()
    sys.stderr.flush()
    return _text(scratch / "row.out", keep=True), _text(scratch / "row.err", keep=True)


def _catch_output(said: Path) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said.with_suffix(f"{said.suffix}.{name}"), os.O_RDWR | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _bound_memory(gigabytes: float) -> None:
    if gigabytes:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * mmap.PAGESIZE + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # No core file for a decoder that crashes on purpose.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a harness that is stopped leaves nothing running


def _text(file: Path, *, keep: bool = False) -> str:
    try:
        text = file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
    if not keep:
        file.unlink()
    return text
