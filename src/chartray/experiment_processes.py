"""Commands that run at the same time, each in its own process; they end when this process is stopped or killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from chartray.console import of_children
from chartray.errors import InputError, OutputError, Stopped, UnhealthyRun
from chartray.stopping import SIGNALS, asked_to_stop

_POLL_SECONDS = 0.1
# Exit codes (`errors`) of a machine that cannot write, and of a run that must not continue.
_CANNOT_WRITE, _UNHEALTHY = 1, 3
# The leader of the group that all commands are in. Its standard input ends when this process is no more, be it that it
# was killed: then it ends the group, first in a way on which pretraining saves itself.
_WATCH = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
def others():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open("/proc/" + name + "/stat") as stat:
                    state, _, group = stat.read().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == os.getpid() and state != "Z":
                return True
    return False
sys.stdin.read()
os.killpg(0, signal.SIGTERM)
until = time.monotonic() + 60
while time.monotonic() < until and (not os.path.isdir("/proc/self") or others()):
    time.sleep(0.2)
os.killpg(0, signal.SIGKILL)
"""


def run_all(
    commands: Mapping[str, Sequence[str]],
    jobs: int,
    *,
    begins: Callable[[str], object],
    done: Callable[[str, float], object],
) -> None:
    """Runs every command, at most `jobs` at once; `begins(name)` before, `done(name, seconds)` after one that succeeds.

    Where there are several GPUs each of the `jobs` sees one of them, in turn: all would take the first.
    One that fails leaves the others running; then the first failure is raised: UnhealthyRun where a run collapsed,
    Stopped where one was asked to stop, OutputError where one could not write, else InputError. SIGTERM, SIGUSR1,
    SIGINT and SIGHUP reach every process as SIGTERM, on which pretraining saves itself; when all have ended, Stopped is
    raised. A second one reaches them too, and ends them at once. No process outlives the call, none of theirs either,
    and if this process is killed they are ended too.
    """
    waiting, failed = list(commands), dict[str, int]()
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    options, stdout = of_children()
    free, held = list(_environments(jobs)), dict[str, dict[str, str]]()
    # Their own group: else Ctrl-C would reach them besides the SIGTERM from here, and end them unsaved.
    watch = subprocess.Popen([sys.executable, "-I", "-S", "-c", _WATCH], stdin=subprocess.PIPE, process_group=0)
    try:
        with asked_to_stop() as asked:
            told = 0
            while running or (waiting and not asked):
                while waiting and len(running) < jobs and not asked:
                    name = waiting.pop(0)
                    begins(name)
                    held[name] = free.pop(0)
                    process = subprocess.Popen(
                        [*commands[name], *options],
                        process_group=watch.pid,
                        env=os.environ | held[name],
                        stdout=stdout,
                    )
                    running[name] = process, time.monotonic()
                if len(asked) > told:
                    told = len(asked)
                    _end(running)
                time.sleep(_POLL_SECONDS)
                for name, (process, began) in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del running[name]
                    free.append(held.pop(name))
                    if code == 0:
                        done(name, time.monotonic() - began)
                    else:
                        failed[name] = code
    finally:
        _end(running)
        for process, _ in running.values():
            process.wait()
        with suppress(ProcessLookupError):
            os.killpg(watch.pid, signal.SIGKILL)  # and whatever the commands themselves have left
        watch.communicate()
    if asked:
        raise Stopped("stopped as asked, with all processes that it started; the same command continues", asked[0])
    for name in commands:
        if name in failed:
            raise _failure(name, failed[name])


def _environments(jobs: int) -> Iterator[dict[str, str]]:
    """The GPU that each of the jobs sees, by torch's numbers or by the names that this process was given."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [name.strip() for name in given.split(",")] if given else [str(gpu) for gpu in range(_count_gpus())]
    for job in range(jobs):
        yield {"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)]} if len(gpus) > 1 else {}


def _count_gpus() -> int:
    import torch  # takes seconds, and only several jobs ask

    return torch.cuda.device_count()


def _end(running: Mapping[str, tuple[subprocess.Popen[bytes], float]]) -> None:
    for process, _ in running.values():
        process.terminate()


def _failure(name: str, code: int) -> Exception:
    if code == _UNHEALTHY:
        return UnhealthyRun(
            f"{name} cannot continue, as said above; change this arm, or leave it out of the experiment"
        )
    # Below zero: before it could answer.
    number = -code if code < 0 else code - 128
    if number in SIGNALS:
        return Stopped(f"{name} was stopped; the same command continues", number)
    failure = OutputError if code == _CANNOT_WRITE else InputError
    return failure(f"{name} has failed (exit code {code}), as said above; correct it and run the same command again")
