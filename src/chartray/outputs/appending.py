"""A file that only grows: one JSON object a line, each with the SHA-256 of itself and of the line before it."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from chartray.outputs.json_file import DIGEST, digest
from chartray.outputs.lock import alone

_BEFORE = "before"


class Entries(NamedTuple):
    """The entries of a file that can be read; `unreadable` lines were cut off, changed, or follow a removed one."""

    entries: list[dict[str, object]]
    unreadable: int


def append_line(file: Path, content: Mapping[str, object]) -> None:
    """Appends one object, behind those that other processes append at the same time; flushed to the disk.

    A file that is made takes the permissions to read and write of its folder, so that who may add files there may
    append. Raises OSError where it cannot be written.
    """
    made = not file.exists()
    with file.open("a+b") as stream, alone(stream, file):
        if made:
            with suppress(OSError):  # of another user
                os.fchmod(stream.fileno(), file.parent.stat().st_mode & 0o666)
        stream.seek(0)
        lines = stream.read().splitlines(keepends=True)
        whole = _parsed(lines[-1]) if lines else {}
        plain = json.loads(json.dumps(dict(content) | {_BEFORE: (whole or {}).get(DIGEST, "")}))
        line = json.dumps(plain | {DIGEST: digest(plain)}) + "\n"
        # What a killed process has left of a line stays a line of its own.
        broken = bool(lines) and not lines[-1].endswith(b"\n")
        stream.write(("\n" if broken else "").encode() + line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(file: Path) -> Entries:
    """What was appended; raises OSError where there is such a file that cannot be read."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return Entries([], 0)
    found, unreadable, before = list[dict[str, object]](), 0, ""
    for line in lines:
        entry = _parsed(line)
        if entry is None or entry[_BEFORE] not in ("", before):
            unreadable += 1
        before = "" if entry is None else str(entry[DIGEST])
        if entry is not None:
            found.append(entry)
    return Entries(found, unreadable)


def _parsed(line: bytes) -> dict[str, object] | None:
    """A whole line, None for any other."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or _BEFORE not in entry:
        return None
    plain = {key: value for key, value in entry.items() if key != DIGEST}
    return entry if entry.get(DIGEST) == digest(plain) else None
