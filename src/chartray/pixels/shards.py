"""Shards, the unit of work: read, written and found again, each whole or not at all.

A shard is a range of the cohort's rows. Its images are written under a temporary name, flushed to the disk and renamed;
then the same for its record (`unfinished/shard-00000.json`), which says that it is finished.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.pixels.grey import UnreadableFilm
from chartray.pixels.read import read_film, squash
from chartray.pixels.store import UNFINISHED, publish, sha256, temporary, write_shard

PLAN_FILE = "plan.json"


class ShardTask(NamedTuple):
    """One shard, as it travels to a worker; `root` is the image folder if it is there, else empty."""

    folder: str
    shard: int
    first_row: int
    size: int
    root: str
    image_ids: list[str]
    paths: list[str]


def build_shard(task: ShardTask) -> dict[str, Any]:
    """Reads the films of one shard and writes it; returns its record (runs in a worker)."""
    folder = Path(task.folder)
    images = np.empty((len(task.paths), task.size, task.size), dtype=np.uint8)
    kept: list[int] = []
    heights: list[int] = []
    widths: list[int] = []
    quarantine: list[tuple[int, str]] = []
    for row, path in enumerate(task.paths):
        try:
            film = read_film(path, smallest_side=_decoded_side(task.size))
        except UnreadableFilm as reason:
            quarantine.append((task.first_row + row, str(reason)))
            continue
        images[len(kept)] = squash(film, task.size)
        kept.append(row)
        heights.append(film.height)
        widths.append(film.width)
    if quarantine and task.root and not Path(task.root).is_dir():
        # A share that went away in the middle must not fill the quarantine.
        raise InputError(f"the image folder {task.root} has gone; run the same command again when it is back")
    name = f"images-{task.shard:05d}.arrow"
    whole = temporary(folder / UNFINISHED, name)
    write_shard(whole, [task.image_ids[row] for row in kept], images[: len(kept)])
    record = {
        "file": name,
        "rows": len(kept),
        "bytes": whole.stat().st_size,
        "sha256": sha256(whole),
        "kept": [task.first_row + row for row in kept],
        "height": heights,
        "width": widths,
        "quarantine": quarantine,
    }
    publish(whole, folder / name)
    write_json(folder, record_file(folder, task.shard), record)
    return record


def time_films(paths: Sequence[str], size: int) -> tuple[float, int]:
    """Seconds that reading and squashing `paths` takes, and how many of them cannot be read (runs in a worker)."""
    began, unreadable = time.perf_counter(), 0
    for path in paths:
        try:
            squash(read_film(path, smallest_side=_decoded_side(size)), size)
        except UnreadableFilm:
            unreadable += 1
    return time.perf_counter() - began, unreadable


def finished_shards(out: Path, marker: Mapping[str, Any], shards: int) -> dict[int, dict[str, Any]]:
    """The records of an earlier run's finished shards; refuses a folder that holds anything else.

    `marker` is what must not change between two runs of one ingest, as `write_json` wrote it to `plan.json`.
    """
    if not out.exists():
        return {}
    if not out.is_dir():
        raise InputError(f"expected a folder or nothing at {out}, found a file")
    marker_file = out / UNFINISHED / PLAN_FILE
    if not marker_file.exists():
        strangers = [entry.name for entry in out.iterdir() if entry.name != UNFINISHED]
        if strangers:
            raise InputError(f"expected a new or empty folder, found {min(strangers)} in {out}; choose another")
        return {}
    try:
        begun = json.loads(marker_file.read_text())
    except ValueError:
        raise InputError(f"expected JSON in {marker_file}, found other content; remove the folder {out}") from None
    if begun != marker:
        raise InputError(
            f"expected the cohort and size that the unfinished ingest in {out} began with, found others; "
            "give those again, or choose another folder"
        )
    done = {}
    for shard in range(shards):
        try:
            record = json.loads(record_file(out, shard).read_text())
            if (out / record["file"]).stat().st_size == record["bytes"]:
                done[shard] = record
        except FileNotFoundError:
            continue
    return done


def record_file(out: Path, shard: int) -> Path:
    """Where the record of a finished shard lies."""
    return out / UNFINISHED / f"shard-{shard:05d}.json"


def write_json(out: Path, file: Path, content: dict[str, Any]) -> None:
    """Writes `file` of the store `out`, whole or not at all."""
    whole = temporary(out / UNFINISHED, file.name)
    whole.write_text(json.dumps(content, indent=None if "kept" in content else 1) + "\n")
    publish(whole, file)


def write_parquet(out: Path, name: str, table: pa.Table) -> None:
    """Writes the table `name` of the store `out`, whole or not at all."""
    whole = temporary(out / UNFINISHED, name)
    pq.write_table(table, whole)
    publish(whole, out / name)


def _decoded_side(size: int) -> int:
    """How many pixels a scaled JPEG must keep for S: a quarter more.

    Measured on a 2544 x 3056 film against decoding it whole: 49.6 dB where the decoder leaves S or little more, 54 to
    58 dB from 1.25 S on.
    """
    return size + size // 4
