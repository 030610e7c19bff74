"""The parallel, resumable builder of a store, with quarantine.

A shard is the unit of work: a fixed range of the cohort's rows, whose length depends on the cohort and the size alone,
never on the workers. Its images are written under a temporary name, flushed to the disk and renamed; then the same for
its record (`unfinished/shard-00000.json`), which says that it is finished; `store.json` comes last. So an ingest that
was killed at any moment finds finished shards whole, does the others again, and ends in the same bytes.
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.pixels.read import UnreadableFilm, read_film, squash
from chartray.pixels.store import (
    FLOW_FILE,
    LARGEST_SHARD_BYTES,
    STORE_FORMAT,
    UNFINISHED,
    Store,
    arrow_numbers,
    arrow_strings,
    publish,
    read_index,
    read_parquet,
    sha256,
    temporary,
    write_shard,
)
from chartray.progress import progress
from chartray.records.cohort import refuse_shared_patients
from chartray.schema import COHORT_FORMAT, from_metadata

_SAMPLE_FILMS = 64
_SMALLEST_SHARD, _LARGEST_SHARD, _SHARDS_AT_LEAST = 16, 1024, 64
_SIZES = (8, 4096)


class Ingested(NamedTuple):
    """What an ingest left: the folder, the content hash, the films, and reason -> films in quarantine."""

    store: Path
    hash: str
    films: int
    quarantined: dict[str, int]


class Plan(NamedTuple):
    """What is to be ingested: the cohort by its hash, S, where every film lies, and how rows are cut into shards."""

    cohort_sha256: str
    size: int
    shard_rows: int
    image_ids: list[str]
    paths: list[str]
    root: str

    @property
    def shards(self) -> int:
        return -(-len(self.paths) // self.shard_rows)

    def rows(self, shard: int) -> range:
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, len(self.paths)))

    def marker(self) -> dict[str, Any]:
        """What must not change between two runs of one ingest."""
        return {
            "format": STORE_FORMAT,
            "cohort_sha256": self.cohort_sha256,
            "size": self.size,
            "shard_rows": self.shard_rows,
        }


class ShardTask(NamedTuple):
    """One shard, as it travels to a worker; `root` is the image folder if it is there, else empty."""

    folder: str
    shard: int
    first_row: int
    size: int
    root: str
    image_ids: list[str]
    paths: list[str]


def ingest(
    cohort_path: str | Path,
    out: str | Path,
    *,
    size: int = 448,
    workers: int | None = None,
    images_root: str | Path | None = None,
    executor: Executor | None = None,
) -> Ingested:
    """Builds the store `out` of S = `size` pixels from a cohort's films, or continues one that was stopped.

    `workers` processes (default: the cores this process may use), or any `executor` with the interface of
    concurrent.futures that sees the same folders, for instance a Dask client's (`client.get_executor()`); then
    `workers` is its width, for the estimate of the time. `images_root` is where the cohort's image folder lies now.
    A film that cannot be read goes to quarantine with its reason.

    Raises InputError: no cohort, an id given twice, no room on the disk, no film that can be read, a folder that holds
    something else or an ingest begun with another cohort or size.
    """
    out = Path(out).absolute()
    plan = _plan(Path(cohort_path), size, images_root)
    if (out / "store.json").exists():
        return _already_complete(out, plan)
    done = _finished_shards(out, plan)
    workers = workers or _cores()
    try:
        with _pool(executor, workers) as pool:
            _announce(plan, done, out, pool, workers)
            with _begun(out, plan):
                records = _build(plan, done, out, pool)
                return _finish(Path(cohort_path), out, plan, records)
    except BrokenExecutor:
        raise InputError(
            "a worker died while films were read (no memory left, or a decoder that crashed); run the same command "
            "again, with fewer workers if memory is short: it continues after the finished shards"
        ) from None


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
    _write_json(folder, _record_file(folder, task.shard), record)
    return record


def _decoded_side(size: int) -> int:
    """How many pixels a scaled JPEG must keep for S: a quarter more.

    Measured on a 2544 x 3056 film against decoding it whole: 49.6 dB where the decoder leaves S or little more, 54 to
    58 dB from 1.25 S on.
    """
    return size + size // 4


def _plan(cohort_path: Path, size: int, images_root: str | Path | None) -> Plan:
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise InputError(f"expected a size of {_SIZES[0]} to {_SIZES[1]} pixels, found {size}")
    try:
        schema = pq.read_schema(cohort_path)
        metadata = from_metadata(schema.metadata)
        needed = ["image_id", "patient_id", "path", "split"]
        missing = set(needed) - set(schema.names)
        with pq.ParquetFile(cohort_path) as parquet:
            table = parquet.read(columns=needed)
    except FileNotFoundError:
        raise InputError(f"expected a cohort at {cohort_path}, found no such file") from None
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"expected a cohort (made by `chartray cohort`) in {cohort_path}, found {said}") from None
    if metadata.format != COHORT_FORMAT:
        raise InputError(f"expected cohort format {COHORT_FORMAT} in {cohort_path}, found {metadata.format}")
    if missing:
        raise InputError(f"expected a column {min(missing)} in {cohort_path}, found {', '.join(schema.names)}")
    image_ids, paths = table["image_id"].to_pylist(), table["path"].to_pylist()
    _check_rows(cohort_path, image_ids, paths)
    refuse_shared_patients(table["patient_id"], table["split"], str(cohort_path))
    here = Path(images_root).absolute() if images_root is not None else None
    if here is not None and not here.is_dir():
        raise InputError(f"expected the image folder at {here}, found no such folder")
    return Plan(
        cohort_sha256=sha256(cohort_path),
        size=size,
        shard_rows=_shard_rows(len(paths), size),
        image_ids=image_ids,
        paths=_resolved(paths, metadata.image_root, here),
        root=str(here or metadata.image_root),
    )


def _check_rows(cohort_path: Path, image_ids: list[str | None], paths: list[str | None]) -> None:
    if not image_ids:
        raise InputError(f"expected films in {cohort_path}, found no row")
    for name, values in (("image_id", image_ids), ("path", paths)):
        if None in values:
            raise InputError(f"expected a {name} in row {values.index(None)} of {cohort_path}, found none")
    seen: dict[str | None, int] = {}
    for row, image_id in enumerate(image_ids):
        first = seen.setdefault(image_id, row)
        if first != row:
            raise InputError(
                f"expected each image_id once in {cohort_path}, found that of row {first} again in row {row}"
            )


def _resolved(paths: list[str], recorded_root: str, here: Path | None) -> list[str]:
    """Absolute paths; with `here`, the part under the recorded root is looked for under `here`."""
    root = str(here) if here is not None else recorded_root
    resolved = []
    for row, path in enumerate(paths):
        if here is not None and os.path.isabs(path):
            if not (recorded_root and Path(path).is_relative_to(recorded_root)):
                raise InputError(
                    f"expected the path in row {row} under the cohort's image folder {recorded_root!r}, found another; "
                    "leave images_root out"
                )
            path = os.path.relpath(path, recorded_root)
        resolved.append(os.path.join(root, path))
    return resolved


def _shard_rows(rows: int, size: int) -> int:
    """Enough shards to keep workers busy and little to repeat, few enough to map; at most `LARGEST_SHARD_BYTES`."""
    wanted = min(max(-(-rows // _SHARDS_AT_LEAST), _SMALLEST_SHARD), _LARGEST_SHARD)
    return max(1, min(wanted, LARGEST_SHARD_BYTES // (size * size)))


def _already_complete(out: Path, plan: Plan) -> Ingested:
    store = Store.open(out)
    marker = read_index(out)
    if any(marker.get(key) != value for key, value in plan.marker().items()):
        raise InputError(
            f"expected a new folder, found in {out} a finished store of another cohort or size; choose another"
        )
    # The process may have been killed between the last file and the cleaning up.
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    print(f"ingest: {out} is complete, {len(store)} films; nothing to do", file=sys.stderr, flush=True)
    return Ingested(out, store.hash, len(store), dict(Counter(store.quarantine["reason"].to_pylist())))


def _finished_shards(out: Path, plan: Plan) -> dict[int, dict[str, Any]]:
    """The records of an earlier run's finished shards; refuses a folder that holds anything else."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise InputError(f"expected a folder or nothing at {out}, found a file")
    marker_file = out / UNFINISHED / "plan.json"
    if not marker_file.exists():
        strangers = [entry.name for entry in out.iterdir() if entry.name != UNFINISHED]
        if strangers:
            raise InputError(f"expected a new or empty folder, found {min(strangers)} in {out}; choose another")
        return {}
    if json.loads(marker_file.read_text()) != plan.marker():
        raise InputError(
            f"expected the cohort and size that the unfinished ingest in {out} began with, found others; "
            "give those again, or choose another folder"
        )
    done = {}
    for shard in range(plan.shards):
        try:
            record = json.loads(_record_file(out, shard).read_text())
            if (out / record["file"]).stat().st_size == record["bytes"]:
                done[shard] = record
        except FileNotFoundError:
            continue
    return done


def _announce(plan: Plan, done: dict[int, Any], out: Path, pool: Executor, workers: int) -> None:
    """Says GB needed, GB free and how long it will take; refuses where there is no room or no film."""
    rows = [row for shard in range(plan.shards) if shard not in done for row in plan.rows(shard)]
    if not rows:
        return
    needed = len(rows) * (plan.size**2 + 64)
    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"expected {needed / 1e9:.2f} GB free in {existing}, found {free / 1e9:.2f}; make room, take another disk "
            "or a smaller size"
        )
    sample = [plan.paths[rows[i]] for i in np.unique(np.linspace(0, len(rows) - 1, _SAMPLE_FILMS).astype(int))]
    parts = [sample[i::workers] for i in range(min(workers, len(sample)))]
    timed = list(pool.map(time_films, parts, [plan.size] * len(parts)))
    seconds, unreadable = sum(t[0] for t in timed), sum(t[1] for t in timed)
    if unreadable == len(sample) and not done and not any(os.path.exists(path) for path in plan.paths):
        raise InputError(_no_film(plan, "no such file"))
    left = seconds / len(sample) * len(rows) / workers
    warning = f"; {unreadable} of them cannot be read" if unreadable else ""
    print(
        f"ingest: {len(rows)} films at {plan.size} px need {needed / 1e9:.2f} GB, {free / 1e9:.1f} GB are free in "
        f"{existing}; about {_duration(left)} with {workers} worker{'s' if workers > 1 else ''}, "
        f"estimated from {len(sample)} films{warning}",
        file=sys.stderr,
        flush=True,
    )


def time_films(paths: Sequence[str], size: int) -> tuple[float, int]:
    """Seconds that reading and squashing `paths` takes, and how many of them cannot be read (runs in a worker)."""
    began, unreadable = time.perf_counter(), 0
    for path in paths:
        try:
            squash(read_film(path, smallest_side=_decoded_side(size)), size)
        except UnreadableFilm:
            unreadable += 1
    return time.perf_counter() - began, unreadable


@contextmanager
def _begun(out: Path, plan: Plan) -> Iterator[None]:
    """Makes the folder, or clears what a killed run left half written; one ingest at a time."""
    unfinished = out / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / "lock").open("w") as lock:
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another ingest is writing to {out}; wait for it or choose another folder") from None
        for leftover in unfinished.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        _write_json(out, unfinished / "plan.json", plan.marker())
        yield


def _build(plan: Plan, done: dict[int, dict[str, Any]], out: Path, pool: Executor) -> list[dict[str, Any]]:
    records = dict(done)
    total, ready = len(plan.paths), sum(len(plan.rows(shard)) for shard in done)
    quarantined = sum(len(record["quarantine"]) for record in done.values())
    with progress("ingest", total, "films", done=ready) as advance:
        futures: dict[Future[dict[str, Any]], int] = {
            pool.submit(build_shard, _task(plan, shard, out)): shard
            for shard in range(plan.shards)
            if shard not in done
        }
        try:
            for future in as_completed(futures):
                shard = futures[future]
                records[shard] = future.result()
                quarantined += len(records[shard]["quarantine"])
                advance(len(plan.rows(shard)), f"{quarantined} in quarantine" if quarantined else "")
        finally:
            for future in futures:
                future.cancel()
    return [records[shard] for shard in range(plan.shards)]


def _task(plan: Plan, shard: int, out: Path) -> ShardTask:
    rows = plan.rows(shard)
    cut = slice(rows.start, rows.stop)
    root = plan.root if Path(plan.root).is_dir() else ""
    return ShardTask(str(out), shard, rows.start, plan.size, root, plan.image_ids[cut], plan.paths[cut])


def _finish(cohort_path: Path, out: Path, plan: Plan, records: list[dict[str, Any]]) -> Ingested:
    """Writes cohort.parquet, quarantine.parquet and, last, store.json."""
    quarantine = [entry for record in records for entry in record["quarantine"]]
    kept = [row for record in records for row in record["kept"]]
    if not kept:
        _remove(out, records)
        raise InputError(_no_film(plan, quarantine[0][1]))
    whole = read_parquet(cohort_path)
    cohort = whole.drop_columns([name for name in ("height", "width") if name in whole.column_names])
    cohort = cohort.take(arrow_numbers(np.array(kept, dtype=np.int64)))
    for name in ("height", "width"):
        pixels = np.array([n for record in records for n in record[name]], dtype=np.int32)
        cohort = cohort.append_column(name, arrow_numbers(pixels))
    lost = [row for row, _ in quarantine]
    columns = {
        "image_id": arrow_strings([plan.image_ids[row] for row in lost]),
        "path": arrow_strings([plan.paths[row] for row in lost]),
        "reason": arrow_strings([reason for _, reason in quarantine]),
    }
    _write_parquet(out, "cohort.parquet", cohort.replace_schema_metadata(whole.schema.metadata))
    _write_parquet(out, "quarantine.parquet", pa.table(columns))
    flow = cohort_path.with_name(f"{cohort_path.stem}.flow.json")
    if flow.is_file():
        # The store goes where the cohort may not: what was left out, and why, goes with it.
        shutil.copyfile(flow, out / FLOW_FILE)
    shards = [{key: record[key] for key in ("file", "rows", "bytes", "sha256")} for record in records]
    content = _content_hash(plan.size, cohort, shards)
    index = {**plan.marker(), "rows": len(kept), "quarantined": len(lost), "hash": content, "shards": shards}
    _write_json(out, out / "store.json", index)
    shutil.rmtree(out / UNFINISHED)
    return Ingested(out, content, len(kept), dict(Counter(reason for _, reason in quarantine)))


def _content_hash(size: int, cohort: pa.Table, shards: list[dict[str, Any]]) -> str:
    """From the shards' hashes and the rows of the cohort, but not from where the films lay: another machine agrees."""
    metadata = from_metadata(cohort.schema.metadata).model_copy(update={"image_root": ""})
    digest = hashlib.sha256(json.dumps([STORE_FORMAT, size, [s["sha256"] for s in shards]]).encode())
    digest.update(metadata.model_dump_json().encode())
    sink = pa.BufferOutputStream()
    rows = cohort.drop_columns(["path"]).replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _no_film(plan: Plan, reason: str) -> str:
    under = f" under {plan.root}" if plan.root else ""
    return (
        f"expected films{under}, found none of {len(plan.paths)} that can be read; the first is {plan.paths[0]} "
        f"({reason}); say where they lie (images_root)"
    )


def _remove(out: Path, records: list[dict[str, Any]]) -> None:
    for record in records:
        (out / record["file"]).unlink(missing_ok=True)
    shutil.rmtree(out / UNFINISHED)
    if not any(out.iterdir()):
        out.rmdir()


@contextmanager
def _pool(executor: Executor | None, workers: int) -> Iterator[Executor]:
    """The executor that was given, or a pool of processes of our own."""
    if executor is not None:
        yield executor
        return
    # Not fork: the caller may have threads (torch, Arrow), whose locks a forked child would inherit.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """A worker whose parent was killed must not go on writing into a store that a second run may have finished."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _record_file(out: Path, shard: int) -> Path:
    return out / UNFINISHED / f"shard-{shard:05d}.json"


def _write_json(out: Path, file: Path, content: dict[str, Any]) -> None:
    whole = temporary(out / UNFINISHED, file.name)
    whole.write_text(json.dumps(content, indent=None if "kept" in content else 1) + "\n")
    publish(whole, file)


def _write_parquet(out: Path, name: str, table: pa.Table) -> None:
    whole = temporary(out / UNFINISHED, name)
    pq.write_table(table, whole)
    publish(whole, out / name)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
