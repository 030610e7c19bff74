"""The parallel, resumable builder of a store, with quarantine.

How rows are cut into shards depends on the cohort and the size alone (plan.py), never on the workers. A shard is whole
or not there (shards.py); `store.json` comes last. So an ingest that was killed at any moment finds finished shards
whole, does the others again, and ends in the same bytes.
"""

import fcntl
import multiprocessing
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from chartray.errors import InputError
from chartray.memory import keep_freed_memory
from chartray.outputs import json_file
from chartray.pixels.plan import Plan, announce, make_plan, no_film
from chartray.pixels.shards import PLAN_FILE, build_shard, finished_shards, write_json, write_parquet
from chartray.pixels.store import (
    FLOW_FILE,
    UNFINISHED,
    Store,
    arrow_numbers,
    arrow_strings,
    content_hash,
    read_index,
    read_parquet,
)
from chartray.progress import progress
from chartray.records.cohort_files import read_flow


class Ingested(NamedTuple):
    """What an ingest left: the folder, the content hash, the films, and reason -> films in quarantine."""

    store: Path
    hash: str
    films: int
    quarantined: dict[str, int]


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
    if workers is not None and workers < 1:
        raise InputError(f"expected --workers of at least 1, found {workers}")
    out = Path(out).absolute()
    plan = make_plan(Path(cohort_path), size, images_root)
    if (out / "store.json").exists():
        return _already_complete(out, plan)
    done = finished_shards(out, plan.marker(), plan.shards)
    workers = workers or available_cores()
    try:
        with _pool(executor, workers) as pool:
            announce(plan, done, out, pool, workers)
            with _begun(out, plan):
                records = _build(plan, done, out, pool)
                return _finish(Path(cohort_path), out, plan, records)
    except BrokenExecutor:
        raise InputError(
            "a worker died while films were read (no memory left, or a decoder that crashed); run the same command "
            "again, with fewer workers if memory is short: it continues after the finished shards"
        ) from None


def _already_complete(out: Path, plan: Plan) -> Ingested:
    marker = read_index(out)
    # Before anything is said of removing the folder: a store of another cohort is not to go.
    if any(marker.get(key) != value for key, value in plan.marker().items()):
        raise InputError(
            f"expected a new folder, found in {out} a finished store of another cohort or size; choose another"
        )
    store = Store.open(out)
    # The process may have been killed between the last file and the cleaning up.
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    print(f"ingest: {out} is complete, {len(store)} films; nothing to do", file=sys.stderr, flush=True)
    return Ingested(out, store.hash, len(store), dict(Counter(store.quarantine["reason"].to_pylist())))


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
        write_json(out, unfinished / PLAN_FILE, plan.marker())
        yield


def _build(plan: Plan, done: dict[int, dict[str, Any]], out: Path, pool: Executor) -> list[dict[str, Any]]:
    records = dict(done)
    total, ready = len(plan.paths), sum(len(plan.rows(shard)) for shard in done)
    quarantined = sum(len(record["quarantine"]) for record in done.values())
    with progress("ingest", total, "films", done=ready) as advance:
        futures: dict[Future[dict[str, Any]], int] = {
            pool.submit(build_shard, plan.task(shard, out)): shard for shard in range(plan.shards) if shard not in done
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


def _finish(cohort_path: Path, out: Path, plan: Plan, records: list[dict[str, Any]]) -> Ingested:
    """Writes cohort.parquet, quarantine.parquet and, last, store.json."""
    quarantine = [entry for record in records for entry in record["quarantine"]]
    kept = [row for record in records for row in record["kept"]]
    if not kept:
        _remove(out, records)
        raise InputError(no_film(plan, quarantine[0][1]))
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
    write_parquet(out, "cohort.parquet", cohort.replace_schema_metadata(whole.schema.metadata))
    write_parquet(out, "quarantine.parquet", pa.table(columns))
    flow = read_flow(cohort_path)
    if flow is not None:
        # The store goes where the cohort may not: what was left out, and why, goes with it.
        json_file.write_json(out / FLOW_FILE, flow)
    shards = [{key: record[key] for key in ("file", "rows", "bytes", "sha256")} for record in records]
    content = content_hash(plan.size, cohort, shards)
    index = {**plan.marker(), "rows": len(kept), "quarantined": len(lost), "hash": content, "shards": shards}
    write_json(out, out / "store.json", index)
    shutil.rmtree(out / UNFINISHED)
    return Ingested(out, content, len(kept), dict(Counter(reason for _, reason in quarantine)))


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
        context.set_forkserver_preload([build_shard.__module__])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    keep_freed_memory()
    _die_with_parent()


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


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
