"""What a user should know of the files that a command read; a command that refuses says its one sentence instead."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_held: list[str] | None = None


def notice(line: str) -> None:
    """Says `line` on standard error: at once, or, within `held`, when the command is known not to refuse."""
    if _held is None:
        print(line, file=sys.stderr, flush=True)
    else:
        _held.append(line)


@contextmanager
def held() -> Iterator[list[str]]:
    """The notices of a command, each once, for whoever knows how it ended."""
    global _held
    before, _held = _held, []
    try:
        yield _held
    finally:
        _held = before
