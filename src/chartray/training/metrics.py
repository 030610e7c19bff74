"""The numbers of every step: one line of JSON in metrics.jsonl, the same as TensorBoard events, and in trackers."""

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from chartray.errors import InputError
from chartray.outputs.disk import writing
from chartray.outputs.replacing import sync
from chartray.training.trackers import Trackers

METRICS_FILE, EVENTS = "metrics.jsonl", "events"


class MetricsWritten(NamedTuple):
    """How much of metrics.jsonl a checkpoint covers: its first bytes, and their SHA-256."""

    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()


class Metrics:
    """Writes the numbers of a run; of a resumed run, lines after the checkpoint are cut off.

    As a context it closes both files. TensorBoard's own writer runs in a thread, whose errors are not caught; this one
    writes each step before the next. Raises OutputError where the machine cannot write.
    """

    def __init__(
        self, out: Path, *, first_step: int, written: MetricsWritten, trackers: Trackers | None = None
    ) -> None:
        self._trackers = trackers or Trackers({})
        self._out, self._file = out, out / METRICS_FILE
        with writing(out):
            kept = _kept(self._file, written)
            self._digest, self._bytes = hashlib.sha256(kept), len(kept)
            # Unbuffered, so that an error is raised by the write and not again at the end.
            self._stream = self._file.open("ab", buffering=0)
            self._stream.truncate(self._bytes)
            (out / EVENTS).mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}"
            self._events = (out / EVENTS / f"{name}.{time.monotonic_ns()}").open("ab", buffering=0)
            self._records: Any = RecordWriter(self._events)
            self._event(Event(step=first_step + 1, file_version="brain.Event:2"))
            # Makes TensorBoard forget later steps.
            self._event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of a step."""
        line = (json.dumps({"step": step} | dict(values)) + "\n").encode()
        with writing(self._out):
            rest = line
            while rest:
                rest = rest[self._stream.write(rest) or 0 :]
            numbers = [Summary.Value(tag=name.replace(".", "/"), simple_value=value) for name, value in values.items()]
            self._event(Event(step=step, summary=Summary(value=numbers)))
        self._digest.update(line)
        self._bytes += len(line)
        self._trackers.write(step, values)

    def written(self) -> MetricsWritten:
        """How much is on the disk, flushed to it."""
        with writing(self._out):
            sync(self._file)
        return MetricsWritten(self._bytes, self._digest.hexdigest())

    def _event(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._events.close()
        self._trackers.end(error)


def _kept(file: Path, written: MetricsWritten) -> bytes:
    """The part of the file that the checkpoint covers; anything that a kill left after it is dropped.

    Raises InputError if that part was changed.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if written.bytes:
            print(
                f"chartray: expected {file}, found none; the run continues without the numbers of its earlier steps",
                file=sys.stderr,
                flush=True,
            )
        return b""
    kept = content[: written.bytes]
    if hashlib.sha256(kept).hexdigest() != written.sha256:
        line = _first_broken(kept)
        where = f"line {line} is not a step" if line else f"its first {written.bytes} bytes differ"
        raise InputError(
            f"expected {file} as it was written up to the checkpoint, found other content ({where}): it was damaged or "
            "edited; restore a complete copy of it, or move it away to continue without the numbers of earlier steps"
        )
    return kept


def _first_broken(content: bytes) -> int | None:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            json.loads(line)["step"]
        except (ValueError, TypeError, LookupError, RecursionError):
            return number
    return None
