"""What a command says: results on standard output, and what it is doing; `--quiet` and `--json` act here alone."""

import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

from pydantic import BaseModel, JsonValue


class Told:
    """What a command has told so far: its `lines`, and the values of its JSON object."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        """Nothing yet."""
        self.quiet, self.as_json = quiet, as_json
        self.lines: list[str] = []
        self.values: dict[str, JsonValue] = {}
        self.error: str | None = None


_now: Told | None = None


@contextmanager
def telling(*, quiet: bool, as_json: bool) -> Iterator[Told]:
    """How what is said inside comes out: without status lines (`quiet`), kept for one JSON object (`as_json`)."""
    global _now
    before, _now = _now, Told(quiet=quiet, as_json=as_json)
    try:
        yield _now
    finally:
        _now = before


def is_quiet() -> bool:
    """Whether progress is not to be shown."""
    return _now is not None and _now.quiet


def status(line: str, *, aside: bool = False) -> None:
    """Prints what is being done, to standard output or `aside` to standard error; with `--quiet` not at all."""
    if not is_quiet():
        print(line, file=sys.stderr if aside else sys.stdout, flush=True)


def tell(*lines: object, **values: object) -> None:
    """Prints `lines` of a result; with `--json` they and the `values` are kept for the object instead."""
    if _now is None or not _now.as_json:
        for line in lines:
            print(line)
    else:
        _now.lines += [str(line) for line in lines]
        _now.values |= {name: plain(value) for name, value in values.items()}


def failed(sentence: str) -> None:
    """Prints the one sentence of a command that fails to standard error."""
    print(f"chartray: {sentence}", file=sys.stderr)
    if _now is not None:
        _now.error = sentence


def of_children() -> tuple[list[str], int | None]:
    """Options for the commands that this one starts, and the file descriptor that their standard output goes to."""
    options = ["--quiet"] if is_quiet() else []
    if _now is None or not _now.as_json or sys.__stderr__ is None:
        return options, None
    return options, sys.__stderr__.fileno()


def plain(value: object) -> JsonValue:
    """A record, or records, as JSON has them; what is no finite number is null.

    >>> from pathlib import Path
    >>> plain({"at": Path("a/b"), "values": (1, float("nan"))})
    {'at': 'a/b', 'values': [1, None]}
    """
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and (names := getattr(value, "_fields", None)):
        return {name: plain(one) for name, one in zip(names, value, strict=True)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, str):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
