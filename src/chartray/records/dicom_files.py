"""The headers of all files in a folder, read in parallel and kept in parts: a later command reads only what is new.

The parts are Parquet files with the tags as text, which include ids and dates of birth: they stay with the cohort.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from chartray.cores import available_cores
from chartray.errors import InputError, LostProcess
from chartray.outputs.parquet_file import read_table, write_table
from chartray.pixels.dicom_header import NoImage, read_header
from chartray.pixels.grey import UnreadableImage
from chartray.progress import progress

# Of a file: its path in the folder, its size and time of change, what it is instead of an image, why the reader of
# images would refuse it, and whether the reader turns it.
_OWN = {
    "file": pa.string(),
    "size": pa.int64(),
    "modified": pa.int64(),
    "instead": pa.string(),
    "problem": pa.string(),
    "turned": pa.bool_(),
}
_FORMAT = {b"chartray.headers": b"1"}
_CHUNK = 256
_IN_A_PART = 8192
# Below this, starting processes takes longer than reading.
_FEW = 4096
_OUTSIDE = "a link that leads out of the folder"
_UNNAMED = "a name that is no UTF-8 or has a control character"


class _ToRead(NamedTuple):
    root: str
    files: list[str]
    known: list[tuple[int, int]]
    keywords: tuple[str, ...]


def read_headers(root: Path, keywords: Sequence[str], kept: Path | None, workers: int | None = None) -> pa.Table:
    """One row for each file below `root`, in the order of their paths: the columns of `_OWN`, and `keywords` as text.

    A header is read again only if its file's size or time of change is another one than in the folder `kept`.
    Raises InputError if there is no file, LostProcess if a process that reads ends.
    """
    files, strange = _files(root, kept.resolve() if kept is not None else None)
    if not files and not strange:
        raise InputError(f"expected DICOM images in {root}, found no file; check the path")
    earlier = _earlier(kept, keywords)
    places = dict(zip(earlier["file"].to_pylist(), range(earlier.num_rows), strict=True))
    states = list(zip(earlier["size"].to_pylist(), earlier["modified"].to_pylist(), strict=True))
    known = [states[places[file]] if file in places else (-1, -1) for file in files]
    tasks = [
        _ToRead(str(root), files[at : at + _CHUNK], known[at : at + _CHUNK], tuple(keywords))
        for at in range(0, len(files), _CHUNK)
    ]
    with progress("headers", len(files), "files") as advance, _Parts(kept) as parts:
        for rows, count in _done(tasks, workers):
            parts.add(rows)
            advance(count)
    read = pa.concat_tables([_nothing(keywords), *parts.fresh])
    again = set(read["file"].to_pylist())
    same = [places[file] for file in files if file not in again and file in places]
    reused = earlier.take(pa.array(same, pa.int64()))
    rows = pa.concat_tables([read, reused.select(read.column_names), _strange(strange, read.schema)])
    return rows.sort_by("file").combine_chunks()


def _files(root: Path, kept: Path | None) -> tuple[list[str], dict[str, int]]:
    """The paths below `root`, and counts of what has no usable path; links to folders are not followed."""
    found: list[str] = []
    strange: dict[str, int] = {}
    unread: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unread.append):
        folders[:] = [name for name in folders if kept is None or Path(folder, name) != kept]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        if links:
            strange["a link to a folder"] = strange.get("a link to a folder", 0) + len(links)
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), root)
            if _is_text(path):
                found.append(path)
            else:
                strange[_UNNAMED] = strange.get(_UNNAMED, 0) + 1
    if unread:
        strange["a folder that cannot be read"] = len(unread)
    return sorted(found), strange


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return path.isprintable()


def _done(tasks: list[_ToRead], workers: int | None) -> Iterator[tuple[pa.Table, int]]:
    """The freshly read rows of each task, and how many files it was about."""
    files = sum(len(task.files) for task in tasks)
    workers = min(workers or available_cores(), max(len(tasks), 1))
    if workers == 1 or files < _FEW:
        for task in tasks:
            yield _read_all(task), len(task.files)
        return
    # Not forked: a fork of a process with threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_read_all, task): len(task.files) for task in tasks}
        try:
            for done in as_completed(waiting):
                yield done.result(), waiting[done]
        except BrokenExecutor:
            raise LostProcess(
                "a process that read DICOM headers has ended; run the same command again, which continues"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_all(task: _ToRead) -> pa.Table:
    """The rows of the files that are not as `known`."""
    rows = []
    for file, known in zip(task.files, task.known, strict=True):
        path = os.path.join(task.root, file)
        state = (-1, -1)
        with suppress(OSError):
            found = os.stat(path)
            state = (found.st_size, found.st_mtime_ns)
        if state != known or state[0] < 0:
            rows.append({"file": file, "size": state[0], "modified": state[1], **_row(path, task)})
    return pa.Table.from_pylist(rows, _nothing(task.keywords).schema)


def _row(path: str, task: _ToRead) -> dict[str, str | bool | None]:
    try:
        header = read_header(path, task.keywords, task.root)
    except NoImage as other:
        return {"instead": str(other)}
    except UnreadableImage as reason:
        # The reader's remedy is an option of `ingest`.
        return {"instead": _OUTSIDE if "leads out" in str(reason) else str(reason)}
    texts = {keyword: text or None for keyword, text in header.texts.items()}
    return {"problem": header.problem, "turned": header.turned, **texts}


def _nothing(keywords: Sequence[str]) -> pa.Table:
    return pa.schema([*_OWN.items(), *((key, pa.string()) for key in keywords)], metadata=_FORMAT).empty_table()


def _strange(strange: dict[str, int], schema: pa.Schema) -> pa.Table:
    rows = [{"file": "", "instead": reason} for reason, count in strange.items() for _ in range(count)]
    return pa.Table.from_pylist(rows, schema)


def _earlier(kept: Path | None, keywords: Sequence[str]) -> pa.Table:
    """The rows of all parts with these `keywords`, the latest of each file; damaged parts are read again."""
    tables = [_nothing(keywords)]
    for part in sorted(kept.glob("headers-*.parquet")) if kept is not None else []:
        with suppress(InputError):
            table = read_table(part, "headers of DICOM files")
            if (table.schema.metadata or {}).items() >= _FORMAT.items() and set(keywords) <= set(table.column_names):
                tables.append(table.select(tables[0].column_names))
    rows = pa.concat_tables(tables)
    order = pa.array(np.arange(rows.num_rows))
    latest = pa.table({"file": rows["file"], "at": order}).group_by("file").aggregate([("at", "max")])
    return rows.take(latest["at_max"])


class _Parts:
    """What is read, collected, and written to the folder `kept` in parts; also what was read before an error."""

    def __init__(self, kept: Path | None) -> None:
        self.fresh: list[pa.Table] = []
        self._kept = kept
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.fresh.append(rows)
            self._waiting.append(rows)
        if sum(each.num_rows for each in self._waiting) >= _IN_A_PART:
            self._write()

    def _write(self) -> None:
        if self._kept is not None and self._waiting:
            self._kept.mkdir(parents=True, exist_ok=True)
            number = len(list(self._kept.glob("headers-*.parquet"))) + 1
            write_table(pa.concat_tables(self._waiting), self._kept / f"headers-{number:05}.parquet")
        self._waiting = []
