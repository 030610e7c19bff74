"""Checks of a cohort's image files: that each exists, and that a sample can be read."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from chartray.checks.finding import Finding, Severity, rows
from chartray.pixels.grey import UnreadableImage
from chartray.pixels.image_process import Limits, read_apart
from chartray.schema import CohortMetadata
from chartray.wording import plural

SAMPLE_IMAGES = 200
# Decoded at a reduced size: enough to see whether they can be.
_SMALL = 64
_AT_ONCE = 32


def files(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Image files that are missing or empty (all are checked) or unreadable (`SAMPLE_IMAGES` are read)."""
    paths = [os.path.join(metadata.image_root, path) for path in table["path"].to_pylist()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a network share answers many requests at once
        sizes = np.array(list(pool.map(_size, paths, chunksize=256)), dtype=np.int64)
    absent, empty = np.flatnonzero(sizes < 0), np.flatnonzero(sizes == 0)
    if len(absent) == len(paths):
        what = f"none of {plural(len(paths), 'image')} exists under {metadata.image_root or 'the given paths'}"
        remedy = "mount the folder, or give its new place to `ingest --images`"
        yield Finding("error", what, where, len(paths), remedy)
        return
    for found, problem in ((absent, "missing"), (empty, "empty")):
        if len(found):
            what = f"{problem} files: {len(found):,} of {plural(len(paths), 'image')}"
            remedy = "fetch them again; ingest quarantines them otherwise"
            yield Finding("warning", what, f"{where}, {rows(found)}", len(found), remedy)
    there = np.flatnonzero(sizes > 0)
    sample = there[np.unique(np.linspace(0, len(there) - 1, SAMPLE_IMAGES).astype(int))]
    limits = Limits(within=os.path.abspath(metadata.image_root) if metadata.image_root else "")
    yield from _read(paths, sample, len(there), where, limits)


def _read(paths: list[str], sample: np.ndarray, there: int, where: str, limits: Limits) -> Iterator[Finding]:
    image = np.empty((_SMALL, _SMALL), dtype=np.uint8)
    reasons: Counter[str] = Counter()
    bad = []
    for row in sample.tolist():
        try:
            read_apart(paths[row], _SMALL, limits, image)
        except UnreadableImage as reason:
            bad.append(row)
            reasons[str(reason)] += 1
    tried = "all" if len(sample) == there else f"{len(sample)} of {there:,}, evenly spaced"
    if bad:
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        what = f"unreadable files: {len(bad):,} of those tried ({tried}): {why}"
        remedy = "fetch them again; ingest quarantines them otherwise"
        severity: Severity = "error" if len(bad) == len(sample) else "warning"
        yield Finding(severity, what, f"{where}, {rows(bad)}", len(bad), remedy)
    else:
        yield Finding("note", f"all images tried are readable ({tried})", where, 0, "nothing")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # a NUL character in a path
        return -1
