"""What a case ends in: the same bytes, or one sentence and an exit code; anything else is a failure."""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.processes import Ended

# Every outcome that may be; the rest are failures, and named as they are found.
SAME = "the same bytes as undisturbed"
REFUSED = "refused in one sentence, exit code 2"
MACHINE = "the machine's fault in one sentence, exit code 1; then the same bytes"
READ = "read"
EXPECTED = (SAME, REFUSED, MACHINE, READ)

_LONGEST_SENTENCE = 1500
# What a clock decides, or a commit made meanwhile, and the digests of what they decide.
_CLOCKED = re.compile(r":(when|seconds|films_per_second|git_commit)$|\.json:sha256$|/state\.json:metrics:")


class Case(NamedTuple):
    """One fault: a kind, and the seed from which everything else of it follows."""

    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.seed}"


class Outcome(NamedTuple):
    """What came of a case; `note` says of a failure what was seen."""

    what: str
    note: str = ""

    @property
    def expected(self) -> bool:
        return self.what in EXPECTED


def failure(what: str, note: str) -> Outcome:
    note = " ".join(note.split())
    return Outcome(what, note if len(note) < 800 else f"{note[:200]} ... {note[-600:]}")


def misbehaved(ended: Ended) -> Outcome | None:
    """The failure of a command that was not killed by us: a signal, a hang, a traceback, no sentence; else None."""
    if ended.hung:
        return failure("hang", ended.err)
    if ended.signal is not None:
        return failure(f"died of signal {ended.signal}", ended.err)
    if ended.uncaught:
        return failure("traceback", ended.err)
    return None if ended.code == 0 else unsaid(ended.err)


def unsaid(err: str) -> Outcome | None:
    """The failure of a command that ended with an exit code and not with one sentence."""
    if "Traceback (most recent call last)" in err:
        return failure("traceback", err)
    said = [line for line in err.splitlines() if line.strip()]
    if not said or not said[-1].startswith("chartray: "):
        return failure("no sentence", err)
    if len(said[-1]) > _LONGEST_SENTENCE:
        return failure("a sentence too long", said[-1][:300])
    return None


Content = Mapping[str, str]


def content(place: Path, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Everything below `place`, name -> what it says: of JSON each value under its own name, of other files a digest.

    `without`: names that two undisturbed runs do not agree in, such as a time.
    """
    found: dict[str, str] = {}
    for file in [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file()):
        name = file.relative_to(place.parent).as_posix()
        if "SHA256SUMS" not in name and "/events/" not in name:
            found |= {
                each: value for each, value in _parts(name, file) if each not in without and not _CLOCKED.search(each)
            }
    return found


def _parts(name: str, file: Path) -> Iterator[tuple[str, str]]:
    try:
        if file.suffix == ".json":
            yield from _leaves(name, json.loads(file.read_text()))
            return
        if file.suffix == ".parquet":
            yield from _of_table(name, file)
            return
        if file.suffix == ".jsonl":
            for number, line in enumerate(file.read_text().splitlines()):
                yield from _leaves(f"{name}#{number}", json.loads(line))
            return
    except (ValueError, OSError, pa.ArrowException):
        pass
    yield name, sha256(file.read_bytes()).hexdigest()


def _of_table(name: str, file: Path) -> Iterator[tuple[str, str]]:
    """The rows, and each value of the JSON in the metadata; on one thread, since this process forks."""
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        table = parquet.read(use_threads=False)
    for key, value in (table.schema.metadata or {}).items():
        if b"sha256" not in key:
            yield from _leaves(f"{name}:{key.decode()}", json.loads(value))
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata(None).combine_chunks())
    yield name, sha256(stream.getvalue()).hexdigest()


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}:{key}", inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _leaves(f"{name}:{number}", inner)
    else:
        yield name, json.dumps(value)


def differing(found: Content, expected: Content) -> list[str]:
    """The names in which two contents differ."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def told_patients(text: str, mark: str) -> bool:
    """Whether an identifier stands in a text: those of the harness's patients all contain `mark`."""
    return re.search(re.escape(mark), text, re.IGNORECASE) is not None
