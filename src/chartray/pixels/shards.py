"""Shards, the unit of work: read, written and found again, each whole or not at all.

A shard is a range of the cohort's rows. Its file comes first, then its record (`unfinished/shard-00000.json`), which
says that it is finished and what it holds.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from chartray.errors import InputError
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import read_json, write_json
from chartray.outputs.lock import names_of
from chartray.outputs.replacing import replaced_file
from chartray.outputs.seal import sha256
from chartray.pixels.grey import UnreadableImage
from chartray.pixels.image_process import Limits, read_apart, warm
from chartray.pixels.shard_file import Pixels, Shard, write_shard
from chartray.pixels.store import UNFINISHED, Images

PLAN_FILE = "plan.json"
LOCK_FILE = ".ingest.lock"


class ShardTask(NamedTuple):
    """One shard, as it is sent to a worker; `root` is the image folder if it exists, else empty."""

    folder: str
    shard: int
    first_row: int
    size: int
    root: str
    image_ids: list[str]
    paths: list[str]
    limits: Limits
    earlier: "EarlierShard | None" = None


class ShardRecord(NamedTuple):
    """A finished shard: the rows of the cohort that it keeps, their sizes, and (row, reason) of those in quarantine."""

    shard: Shard
    digests: bytes
    kept: list[int]
    heights: list[int]
    widths: list[int]
    quarantine: list[tuple[int, str]]


class EarlierShard(NamedTuple):
    """A shard of the finished store `folder`, of which only the images in quarantine are read again."""

    folder: str
    record: ShardRecord


class Abandoned(Exception):
    """The ingest ended while this shard was being read."""


def find_or_build(task: ShardTask, ending: Event | None = None) -> ShardRecord:
    """The shard as an earlier run finished it, every byte of it verified, else as `build_shard` builds it."""
    if task.earlier is not None:
        return _retry(task, task.earlier, ending)
    found = _recorded(Path(task.folder), task.shard)
    if found is not None and _is_whole(Path(task.folder), found.shard):
        return found
    return build_shard(task, ending)


def build_shard(task: ShardTask, ending: Event | None = None) -> ShardRecord:
    """Reads the images of one shard and writes it; returns its record (runs in a worker).

    Raises Abandoned, and writes nothing, once `ending` is set.
    """
    images = np.empty((len(task.paths), task.size, task.size), dtype=np.uint8)
    read = _read(task, range(len(task.paths)), images, ending)
    record = _written(task, read, images[: len(read.sizes)])
    content = record._asdict() | {"shard": record.shard._asdict(), "digests": record.digests.hex()}
    folder = Path(task.folder)
    write_json(_record_file(folder, task.shard), content, shared=folder / UNFINISHED)
    return record


class _Tried(NamedTuple):
    """Row of the cohort -> height and width of an image that was read, in their order; and (row, reason) of others."""

    sizes: dict[int, tuple[int, int]]
    quarantine: list[tuple[int, str]]


def _read(task: ShardTask, rows: Iterable[int], images: Pixels, ending: Event | None) -> _Tried:
    """Reads `rows` of the shard, counted from its first, into the first of `images` uint8 (n, S, S)."""
    read = _Tried({}, [])
    for row in rows:
        if ending is not None and ending.is_set():
            raise Abandoned
        try:
            sizes = read_apart(task.paths[row], task.size, task.limits, images[len(read.sizes)])
        except UnreadableImage as reason:
            read.quarantine.append((task.first_row + row, str(reason)))
        else:
            read.sizes[task.first_row + row] = sizes
    if read.quarantine and task.root and not Path(task.root).is_dir():
        # A network share that is lost midway must not fill the quarantine.
        raise InputError(f"the image folder {task.root} has disappeared; run the same command again when it is back")
    return read


def _written(task: ShardTask, read: _Tried, images: Pixels) -> ShardRecord:
    folder, name = Path(task.folder), f"images-{task.shard:05d}.arrow"
    ids = [task.image_ids[row - task.first_row] for row in read.sizes]
    # On a cluster a worker that was given up for dead may still write the same bytes.
    with replaced_file(folder / name, shared=folder / UNFINISHED) as partial:
        shard, digests = write_shard(partial, ids, images)
    heights, widths = ([size[side] for size in read.sizes.values()] for side in (0, 1))
    return ShardRecord(shard._replace(file=name), digests, list(read.sizes), heights, widths, read.quarantine)


def _retry(task: ShardTask, earlier: EarlierShard, ending: Event | None) -> ShardRecord:
    """The record after another try of the images in quarantine; the shard is written only if some can be read now."""
    before = earlier.record
    tried = [row - task.first_row for row, _ in before.quarantine]
    came = np.empty((len(tried), task.size, task.size), dtype=np.uint8)
    read = _read(task, tried, came, ending)
    if not read.sizes:
        return before._replace(quarantine=read.quarantine)
    stored = Images(Path(earlier.folder), task.size, [before.shard])
    sizes = dict(zip(before.kept, zip(before.heights, before.widths, strict=True), strict=True)) | read.sizes
    rows = sorted(sizes)
    images = np.empty((len(rows), task.size, task.size), dtype=np.uint8)
    new, old = ({row: place for place, row in enumerate(of)} for of in (read.sizes, before.kept))
    for place, row in enumerate(rows):
        images[place] = came[new[row]] if row in new else stored[old[row]]
    return _written(task, read._replace(sizes={row: sizes[row] for row in rows}), images)


def time_images(paths: Sequence[str], size: int, limits: Limits) -> tuple[float, list[str]]:
    """Seconds to read these images, and the reasons of those that cannot be read (runs in a worker)."""
    image, reasons = np.empty((size, size), dtype=np.uint8), []
    warm()
    began = time.perf_counter()
    for path in paths:
        try:
            read_apart(path, size, limits, image)
        except UnreadableImage as reason:
            reasons.append(str(reason))
    return time.perf_counter() - began, reasons


def begun_shards(out: Path, marker: Mapping[str, Any], shards: int) -> dict[int, ShardRecord]:
    """The records of an earlier run's finished shards; refuses a folder that holds anything else.

    `marker` is what must not change between two runs of one ingest, as `plan.json` has it.
    """
    marker_file, ours = out / UNFINISHED / PLAN_FILE, {UNFINISHED, *names_of(out / LOCK_FILE)}
    if not marker_file.exists():
        # A foreign file's name is not printed: it can be an accession number.
        refuse_other(out, lambda names: "no store" if names - ours else "")
        return {}
    try:
        begun = read_json(marker_file, "the plan of an unfinished ingest")
    except InputError as error:
        raise InputError(f"{error}; or remove the folder {out}") from None
    if begun != marker:
        raise InputError(
            f"the unfinished ingest in {out} began with another cohort, size or limits; give those again, or "
            "choose another --out"
        )
    records = {shard: _recorded(out, shard) for shard in range(shards)}
    return {shard: record for shard, record in records.items() if record is not None}


def _recorded(folder: Path, shard: int) -> ShardRecord | None:
    """The record of a shard that an earlier run finished; None where there is none, or none that can be trusted."""
    file = _record_file(folder, shard)
    if not file.exists():
        return None
    try:
        content = read_json(file, "the record of a shard")
    except InputError:
        return None
    content["shard"] = Shard(**content["shard"])
    content["digests"] = bytes.fromhex(content["digests"])
    content["quarantine"] = [(row, reason) for row, reason in content["quarantine"]]
    return ShardRecord(**content)


def _is_whole(folder: Path, shard: Shard) -> bool:
    try:
        return sha256(folder / shard.file) == shard.sha256
    except OSError:
        return False


def _record_file(folder: Path, shard: int) -> Path:
    return folder / UNFINISHED / f"shard-{shard:05d}.json"
