"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from chartray.console import is_quiet

_PLAIN_INTERVAL_SECONDS = 10.0
# What is shown on the terminal: progress inside of other progress is one more line of it.
_open: Progress | None = None


class Advance(Protocol):
    """`advance(3, "loss 5.1")`: three more units are done."""

    def __call__(self, count: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0, shown: bool = True) -> Iterator[Advance]:
    """Shows the progress of `title` in `unit`s out of `total`; `done` of them were finished by an earlier run.

    The rate counts only what this process did. Where standard error is no terminal, a plain line is
    written every ten seconds and one at the end. `shown` is false for all but one of several processes.
    """
    console = Console(stderr=True)
    if not shown or is_quiet():
        yield lambda count=1, note="": None
    elif console.is_terminal:
        with _bar(console, title, total, unit, done) as advance:
            yield advance
    else:
        with _plain_lines(title, total, unit, done) as advance:
            yield advance


@contextmanager
def _bar(console: Console, title: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    global _open
    outer = _open
    began, current = time.monotonic(), done
    with _new_bar(console) if outer is None else nullcontext(outer) as bar:
        _open, task = bar, bar.add_task(title, total=total, completed=done, rate="", note="")

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal current
            current += count
            rate = (current - done) / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=current, rate=f"{rate:.1f} {unit}/s")
            if note:
                bar.update(task, note=note)

        try:
            yield advance
        finally:
            _open = outer
            if outer is not None:
                bar.remove_task(task)


def _new_bar(console: Console) -> Progress:
    # What is being done is cut where the line ends; wrapped, the bars would move up and down.
    note = Column(ratio=4, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=note),
        console=console,
        expand=True,
    )


@contextmanager
def _plain_lines(title: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    began, current, written, last_note = time.monotonic(), done, time.monotonic(), ""
    said: tuple[int, str] | None = None

    def line() -> None:
        nonlocal said
        if said == (current, last_note):
            return  # the last unit came when a line was due
        said = current, last_note
        elapsed = max(time.monotonic() - began, 1e-9)
        rate = (current - done) / elapsed
        left = f"{(total - current) / rate:.0f} s left" if rate > 0 and current < total else f"{elapsed:.0f} s"
        end = f", {last_note}" if last_note else ""
        print(f"{title}: {current}/{total} {unit}, {rate:.1f} {unit}/s, {left}{end}", file=sys.stderr, flush=True)

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal current, written, last_note
        current += count
        last_note = note or last_note
        if time.monotonic() - written >= _PLAIN_INTERVAL_SECONDS:
            written = time.monotonic()
            line()

    yield advance
    line()
