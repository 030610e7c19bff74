"""The plan of an ingest: checked before anything is written, cut into shards, with an estimate of space and time."""

import os
import shutil
from collections.abc import Collection
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue

from chartray.console import status
from chartray.errors import InputError
from chartray.outputs.seal import sha256
from chartray.pixels.image_process import USUAL_LIMITS, Limits
from chartray.pixels.shard_file import LARGEST_SHARD_BYTES
from chartray.pixels.shards import EarlierShard, ShardTask, time_images
from chartray.pixels.store import STORE_FORMAT
from chartray.records.cohort import refuse_shared_patients
from chartray.records.cohort_files import read_cohort_table
from chartray.schema import COHORT_FORMAT, from_metadata
from chartray.wording import plural

_SAMPLE_IMAGES = 64
_SMALLEST_SHARD, _LARGEST_SHARD, _SHARDS_AT_LEAST = 16, 1024, 64
_SIZES = (8, 4096)


class IngestPlan(NamedTuple):
    """What is ingested: the cohort by its hash, S, the path of every image, and how rows are cut into shards."""

    cohort_sha256: str
    size: int
    shard_rows: int
    image_ids: list[str]
    paths: list[str]
    root: str
    limits: Limits

    @property
    def shards(self) -> int:
        return -(-len(self.paths) // self.shard_rows)

    def rows(self, shard: int) -> range:
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, len(self.paths)))

    def task(self, shard: int, out: Path, earlier: EarlierShard | None = None) -> ShardTask:
        """One shard of the store `out`, ready to travel: a worker may stand in another folder."""
        rows = self.rows(shard)
        ids, paths = self.image_ids[rows.start : rows.stop], self.paths[rows.start : rows.stop]
        root = os.path.abspath(self.root) if Path(self.root).is_dir() else ""
        here = os.getcwd()
        paths = [os.path.join(here, path) for path in paths]
        return ShardTask(str(out), shard, rows.start, self.size, root, ids, paths, self.limits, earlier)

    def marker(self) -> dict[str, JsonValue]:
        """The settings that must stay the same when an ingest is continued."""
        return {
            "format": STORE_FORMAT,
            "cohort_sha256": self.cohort_sha256,
            "size": self.size,
            "shard_rows": self.shard_rows,
            "largest_image": self.limits.pixels,
            "outside": not self.limits.within,
        }


def make_plan(
    cohort_path: Path,
    size: int,
    images_root: str | Path | None,
    limits: Limits = USUAL_LIMITS,
    *,
    allow_outside: bool = False,
) -> IngestPlan:
    """The plan of a cohort; `allow_outside` lets its paths lead out of the image folder.

    Raises InputError for no cohort, an id given twice, a patient in two splits, no folder, a path that leads out of it.
    """
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise InputError(f"expected a size of {_SIZES[0]} to {_SIZES[1]} pixels, found {size}")
    needed = ["image_id", "patient_id", "path", "split"]
    table = read_cohort_table(cohort_path, needed)
    try:
        metadata = from_metadata(table.schema.metadata)
    except (KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"expected a cohort (made by `chartray cohort`) in {cohort_path}, found {said}") from None
    missing = set(needed) - set(table.column_names)
    if metadata.format != COHORT_FORMAT:
        raise InputError(f"expected cohort format {COHORT_FORMAT} in {cohort_path}, found {metadata.format}")
    if missing:
        raise InputError(f"expected a column {min(missing)} in {cohort_path}, found none")
    image_ids, paths = table["image_id"].to_pylist(), table["path"].to_pylist()
    _check_rows(cohort_path, image_ids, paths)
    refuse_shared_patients(table["patient_id"], table["split"], str(cohort_path))
    here = Path(images_root).absolute() if images_root is not None else None
    if here is not None and not here.is_dir():
        raise InputError(f"expected the image folder at {here}, found no such folder")
    root = str(here or metadata.image_root)
    resolved = _resolved(paths, metadata.image_root, here, allow_outside)
    if root and not allow_outside:
        _refuse_outside(cohort_path, resolved, root)
    return IngestPlan(
        cohort_sha256=sha256(cohort_path),
        size=size,
        shard_rows=_shard_rows(len(paths), size),
        image_ids=image_ids,
        paths=resolved,
        root=root,
        limits=limits._replace(within=os.path.abspath(root) if root and not allow_outside else ""),
    )


def announce(plan: IngestPlan, done: Collection[int], out: Path, pool: Executor, workers: int) -> None:
    """Prints GB needed, GB free and the estimated time; raises InputError without room or without a readable image."""
    rows = [row for shard in range(plan.shards) if shard not in done for row in plan.rows(shard)]
    if not rows:
        return
    needed = len(rows) * (plan.size**2 + 64)
    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"expected {needed / 1e9:.2f} GB free in {existing}, found {free / 1e9:.2f}; free some, or choose another "
            "disk or a smaller --size"
        )
    sample = [plan.paths[rows[i]] for i in np.unique(np.linspace(0, len(rows) - 1, _SAMPLE_IMAGES).astype(int))]
    parts = [sample[i::workers] for i in range(min(workers, len(sample)))]
    timed = list(pool.map(time_images, parts, [plan.size] * len(parts), [plan.limits] * len(parts)))
    seconds, reasons = sum(t[0] for t in timed), [reason for t in timed for reason in t[1]]
    unreadable = len(reasons)
    if unreadable == len(sample) and not done and not any(os.path.exists(path) for path in plan.paths):
        raise InputError(no_image(plan, "no such file"))
    left = seconds / len(sample) * len(rows) / workers
    warning = f"; {unreadable} of them cannot be read" if unreadable else ""
    status(
        f"ingest: {plural(len(rows), 'image')} at {plan.size} px need {needed / 1e9:.2f} GB, {free / 1e9:.1f} GB are "
        f"free in {existing}; about {_duration(left)} with {plural(workers, 'worker')}, estimated from "
        f"{plural(len(sample), 'image')}{warning}",
        aside=True,
    )


def no_image(plan: IngestPlan, reason: str) -> str:
    """The error if no image can be read."""
    under = f" under {plan.root}" if plan.root else ""
    return (
        f"expected images{under}, found none of {len(plan.paths)} that can be read (row 1: {reason}); give their "
        "folder with --images"
    )


def _check_rows(cohort_path: Path, image_ids: list[str | None], paths: list[str | None]) -> None:
    if not image_ids:
        raise InputError(f"expected images in {cohort_path}, found no row")
    for name, values in (("image_id", image_ids), ("path", paths)):
        if None in values:
            raise InputError(f"expected a value of {name} in row {values.index(None) + 1} of {cohort_path}, found none")
    seen: dict[str | None, int] = {}
    for row, image_id in enumerate(image_ids):
        first = seen.setdefault(image_id, row)
        if first != row:
            raise InputError(
                f"expected each image_id once in {cohort_path}, found that of row {first + 1} again in row {row + 1}"
            )


def _resolved(paths: list[str], recorded_root: str, here: Path | None, allow_outside: bool) -> list[str]:
    """Paths under their root; with `here`, the part under the recorded root is looked for under `here`."""
    root = str(here) if here is not None else recorded_root
    resolved = []
    for row, path in enumerate(paths):
        if here is not None and os.path.isabs(path):
            if not (recorded_root and Path(path).is_relative_to(recorded_root)):
                if allow_outside:
                    resolved.append(path)
                    continue
                raise InputError(
                    f"expected the path in row {row + 1} under the cohort's image folder {recorded_root!r}, found "
                    "another; leave --images out, or use --allow-outside"
                )
            path = os.path.relpath(path, recorded_root)
        resolved.append(os.path.join(root, path))
    return resolved


def _refuse_outside(cohort_path: Path, paths: list[str], root: str) -> None:
    """Checks the paths alone; links are checked when an image is read."""
    folder = os.path.abspath(root)
    for row, path in enumerate(paths):
        if os.path.commonpath([folder, os.path.abspath(path)]) != folder:
            raise InputError(
                f"expected every path of {cohort_path} inside the image folder {root}, found that of row {row + 1} "
                "leading out of it; correct the table, or use --allow-outside if this is meant"
            )


def _shard_rows(rows: int, size: int) -> int:
    """Enough shards to keep workers busy and little to repeat, few enough to map; at most `LARGEST_SHARD_BYTES`."""
    wanted = min(max(-(-rows // _SHARDS_AT_LEAST), _SMALLEST_SHARD), _LARGEST_SHARD)
    return max(1, min(wanted, LARGEST_SHARD_BYTES // (size * size)))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
