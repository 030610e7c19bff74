"""The signals that ask a command to stop: noted, so that it can finish what it does and save itself."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SLURM sends SIGUSR1 before the time is over (--signal=USR1@300), SIGTERM at preemption; a lost terminal SIGHUP.
SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if name in signal.Signals.__members__
)
# A terminal sends Ctrl-C to torchrun and its processes, and torchrun sends it on: these are one.
_SAME_SECONDS = 1.0


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """While open, the signals that ask to stop are only noted, in the list that is yielded.

    One that this process was started to ignore, as SIGHUP under nohup, stays ignored. For the main thread.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before: dict[int, Any] = {}
    try:
        for asks in SIGNALS:
            if signal.getsignal(asks) != signal.SIG_IGN:
                before[asks] = signal.signal(asks, note)
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def second_ends_at_once() -> Iterator[None]:
    """While open, a second signal ends this process with 128 + its number, also while it waits for another process.

    Python's handlers wait for such a call to return; this one is a thread. For the main thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_end_at_second, args=(reading,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _end_at_second(reading: int) -> None:
    first: float | None = None
    while number := os.read(reading, 1):
        if number[0] not in SIGNALS:
            continue
        if first is not None and time.monotonic() - first > _SAME_SECONDS:
            print("chartray: ended at once by a second signal", file=sys.stderr, flush=True)
            os._exit(128 + number[0])
        first = time.monotonic() if first is None else first
