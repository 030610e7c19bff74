"""The files of a cohort: all of them looked for, a sample of them read."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from chartray.checks.finding import Finding, Severity, films, rows
from chartray.pixels.film_process import Limits, read_apart
from chartray.pixels.grey import UnreadableFilm
from chartray.schema import CohortMetadata

SAMPLE_FILMS = 200
# JPEGs are decoded at a fraction of their size: enough to know that they can be.
_SMALL = 64
_AT_ONCE = 32


def files(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Films whose file is absent or empty (every one is looked for) or cannot be read (`SAMPLE_FILMS` are tried)."""
    paths = [os.path.join(metadata.image_root, path) for path in table["path"].to_pylist()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a share over the network answers many questions at once
        sizes = np.array(list(pool.map(_size, paths, chunksize=256)), dtype=np.int64)
    absent, empty = np.flatnonzero(sizes < 0), np.flatnonzero(sizes == 0)
    if len(absent) == len(paths):
        what = f"no file of {films(len(paths))} is there, under {metadata.image_root or 'the paths given'}"
        remedy = "mount or move the folder, or say `ingest --images` where they lie now"
        yield Finding("error", what, where, len(paths), remedy)
        return
    for found, words in ((absent, "are not there"), (empty, "are empty")):
        if len(found):
            what = f"the files of {films(len(found))} of {len(paths):,} {words}"
            remedy = "fetch them again, or leave them: ingest puts them in quarantine"
            yield Finding("warning", what, f"{where}, {rows(found)}", len(found), remedy)
    there = np.flatnonzero(sizes > 0)
    sample = there[np.unique(np.linspace(0, len(there) - 1, SAMPLE_FILMS).astype(int))]
    limits = Limits(within=os.path.abspath(metadata.image_root) if metadata.image_root else "")
    yield from _read(paths, sample, len(there), where, limits)


def _read(paths: list[str], sample: np.ndarray, there: int, where: str, limits: Limits) -> Iterator[Finding]:
    image = np.empty((_SMALL, _SMALL), dtype=np.uint8)
    reasons: Counter[str] = Counter()
    bad = []
    for row in sample.tolist():
        try:
            read_apart(paths[row], _SMALL, limits, image)
        except UnreadableFilm as reason:
            bad.append(row)
            reasons[str(reason)] += 1
    tried = "all of them" if len(sample) == there else f"{len(sample)} of {there:,}, evenly spread"
    if bad:
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        what = f"{films(len(bad))} of those tried ({tried}) cannot be read: {why}"
        remedy = "fetch them again, or leave them: ingest puts them in quarantine"
        severity: Severity = "error" if len(bad) == len(sample) else "warning"
        yield Finding(severity, what, f"{where}, {rows(bad)}", len(bad), remedy)
    else:
        yield Finding("note", f"every film tried can be read ({tried})", where, 0, "nothing")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # a NUL character in a path
        return -1
