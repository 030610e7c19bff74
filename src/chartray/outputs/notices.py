"""Remarks about the files that a command read; a command that fails prints its one error sentence instead."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_held: list[str] | None = None


def notice(line: str) -> None:
    """Prints `line` to standard error: at once, or, within `held`, once the command is known not to fail."""
    if _held is None:
        print(line, file=sys.stderr, flush=True)
    else:
        _held.append(line)


@contextmanager
def held() -> Iterator[list[str]]:
    """Collects the notices of a command until its exit code is known."""
    global _held
    before, _held = _held, []
    try:
        yield _held
    finally:
        _held = before
