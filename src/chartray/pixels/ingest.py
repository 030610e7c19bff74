"""The parallel, resumable builder of a store, with quarantine.

How rows are cut into shards depends on the cohort and the size alone (plan.py), never on the workers. A shard is whole
or not there (shards.py); `store.json` comes last. So an ingest that was killed at any moment finds finished shards
whole, does the others again, and ends in the same bytes. Images are read in separate processes (image_process.py).
"""

import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from chartray.errors import InputError
from chartray.outputs.disk import writing
from chartray.outputs.json_file import write_json
from chartray.outputs.lock import locked
from chartray.outputs.replacing import settle
from chartray.pixels.cluster import SeenFile, Workers, on_cluster
from chartray.pixels.image_process import USUAL_LIMITS, Limits, release
from chartray.pixels.plan import IngestPlan, announce, make_plan, no_image
from chartray.pixels.shard_file import arrow_numbers, arrow_strings
from chartray.pixels.shards import LOCK_FILE, PLAN_FILE, ShardRecord, begun_shards, find_or_build
from chartray.pixels.store import INDEX_FILE, UNFINISHED, Store, read_index, read_parquet
from chartray.pixels.store_writing import complete
from chartray.progress import progress
from chartray.records.cohort_files import read_flow

_LONGEST = 86_400  # seconds; a limit that timers support
_LOOKS_EVERY = 10.0  # seconds
_SEEN_IMAGES = 8  # that every worker of a cluster must see


class Ingested(NamedTuple):
    """What an ingest made: the folder, its content hash, the number of images, and reason -> images in quarantine."""

    store: Path
    hash: str
    images: int
    quarantined: dict[str, int]


def ingest(
    cohort_path: str | Path,
    out: str | Path,
    *,
    size: int = 448,
    workers: int | None = None,
    images_root: str | Path | None = None,
    limits: Limits = USUAL_LIMITS,
    allow_outside: bool = False,
    executor: Executor | None = None,
    cluster: str | None = None,
) -> Ingested:
    """Builds the store `out` of S = `size` pixels from a cohort's images, or continues one that was stopped.

    An image that cannot be read, crashes its decoder or costs more than `limits` goes to quarantine with its reason.

    Args:
        cohort_path: a cohort's Parquet file.
        out: the folder of the store.
        size: S.
        workers: processes that read images; default: the cores this process may use.
        images_root: where the cohort's image folder is now.
        limits: what an image may cost; `within` follows from the image folder.
        allow_outside: paths and links may lead out of the image folder.
        executor: any with the interface of concurrent.futures that sees the same folders; then `workers` is its width,
            for the estimate of the time.
        cluster: the address of a Dask scheduler, or its file, whose workers read the images.

    Raises:
        InputError: no cohort, an id given twice, no room on the disk, no image that can be read, a folder that holds
            something else or an ingest begun with another cohort, size or limits, another ingest at work there, a
            cluster that cannot be reached or whose workers differ from this machine.
        OutputError: the machine cannot write or start processes; a later run continues.
        LostProcess: the cluster was lost on the way; a later run continues.
    """
    if workers is not None and workers < 1:
        raise InputError(f"expected --workers of at least 1, found {workers}")
    if cluster is not None and workers is not None:
        raise InputError("expected --workers for this machine or --cluster, found both; a cluster has its own workers")
    # Not `<=`: NaN is no bound.
    if not (limits.pixels >= 1 and 0 < limits.seconds <= _LONGEST):
        raise InputError(
            f"expected --max-megapixels above 0 and --max-seconds above 0 and up to {_LONGEST}, found "
            f"{limits.pixels / 1e6:g} and {limits.seconds:g}"
        )
    out = Path(out).absolute()
    plan = make_plan(Path(cohort_path), size, images_root, limits, allow_outside=allow_outside)
    if (out / INDEX_FILE).exists():
        return _already_complete(out, plan)
    begun = begun_shards(out, plan.marker(), plan.shards)
    try:
        with _workers(plan, out, workers, executor, cluster) as found:
            announce(plan, begun, out, found.pool, found.at_once)
            with writing(out), _alone(out):
                if (out / INDEX_FILE).exists():  # another ingest has finished it meanwhile
                    return _already_complete(out, plan)
                write_json(out / UNFINISHED / PLAN_FILE, plan.marker())
                records = _build(plan, begun, out, found)
                return _finish(Path(cohort_path), out, plan, records)
    except BrokenExecutor:
        raise InputError(
            "a worker process ended unexpectedly; run the same command again: it continues after the finished shards"
        ) from None
    finally:
        with suppress(OSError):
            out.rmdir()  # which does nothing unless it is empty


def _already_complete(out: Path, plan: IngestPlan) -> Ingested:
    settle(out / INDEX_FILE)
    begun_with = read_index(out).model_dump()
    # Checked first: no message may suggest removing a store of another cohort.
    if any(begun_with.get(key) != value for key, value in plan.marker().items()):
        raise InputError(f"{out} holds a finished store of another cohort, size or limits; choose another --out")
    store = Store.open(out)
    # The process may have been killed between the last file and the cleaning up.
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    settle(out / LOCK_FILE)
    print(f"ingest: {out} is complete, {len(store)} images; nothing to do", file=sys.stderr, flush=True)
    return Ingested(out, store.hash, len(store), dict(Counter(store.quarantine["reason"].to_pylist())))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One ingest at a time, on what its workers will write into."""
    with locked(out / LOCK_FILE, f"another ingest is writing to {out}; wait for it, or choose another --out"):
        (out / UNFINISHED).mkdir(exist_ok=True)
        yield


def _build(plan: IngestPlan, begun: dict[int, ShardRecord], out: Path, workers: Workers) -> list[ShardRecord]:
    """All shards, in order; finished shards of an earlier run are verified, and rebuilt if they changed."""
    records: dict[int, ShardRecord] = {}
    quarantined = 0
    with progress("ingest", len(plan.paths), "images", done=sum(len(plan.rows(shard)) for shard in begun)) as advance:
        futures: dict[Future[ShardRecord], int] = {
            workers.pool.submit(workers.build, plan.task(shard, out)): shard for shard in range(plan.shards)
        }
        try:
            for future in _as_completed(futures, workers.look):
                shard = futures[future]
                records[shard] = future.result()
                quarantined += len(records[shard].quarantine)
                images = 0 if shard in begun else len(plan.rows(shard))
                advance(images, f"{quarantined} in quarantine" if quarantined else "")
        finally:
            for future in futures:
                future.cancel()
    return [records[shard] for shard in range(plan.shards)]


def _as_completed(futures: Collection[Future[ShardRecord]], look: Callable[[], None]) -> Iterator[Future[ShardRecord]]:
    """The futures as they are done; `look` is called where none was for a while."""
    left = set(futures)
    while left:
        done, left = wait(left, _LOOKS_EVERY, FIRST_COMPLETED)
        yield from done
        if not done:
            look()


def _finish(cohort_path: Path, out: Path, plan: IngestPlan, records: list[ShardRecord]) -> Ingested:
    """Writes the tables and, last, store.json."""
    quarantine = [entry for record in records for entry in record.quarantine]
    kept = [row for record in records for row in record.kept]
    if not kept:
        _remove(out, records)
        raise InputError(no_image(plan, quarantine[0][1]))
    whole = _cohort(cohort_path, plan)
    cohort = whole.drop_columns([name for name in ("height", "width") if name in whole.column_names])
    cohort = cohort.take(arrow_numbers(np.array(kept, dtype=np.int64)))
    for name, sizes in (("height", [r.heights for r in records]), ("width", [r.widths for r in records])):
        cohort = cohort.append_column(
            name, arrow_numbers(np.array([n for part in sizes for n in part], dtype=np.int32))
        )
    lost = [row for row, _ in quarantine]
    columns = {
        "image_id": arrow_strings([plan.image_ids[row] for row in lost]),
        "path": arrow_strings([plan.paths[row] for row in lost]),
        "reason": arrow_strings([reason for _, reason in quarantine]),
    }
    content = complete(
        out,
        plan.size,
        [record.shard for record in records],
        b"".join(record.digests for record in records),
        cohort.replace_schema_metadata(whole.schema.metadata),
        quarantine=pa.table(columns),
        # The store goes where the cohort may not: what was left out, and why, goes with it.
        flow=read_flow(cohort_path),
        origin=plan.marker(),
    )
    shutil.rmtree(out / UNFINISHED)
    return Ingested(out, content, len(kept), dict(Counter(reason for _, reason in quarantine)))


def _cohort(file: Path, plan: IngestPlan) -> pa.Table:
    """The cohort, which may have been replaced in the hours since it was planned."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"the cohort {file} can no longer be read ({error.strerror}); put it back, then run the same command again"
        ) from None
    if hashlib.sha256(content).hexdigest() != plan.cohort_sha256:
        raise InputError(
            f"{file} has changed since this ingest began; put the earlier cohort back, then run the same command again"
        )
    return read_parquet(BytesIO(content))


def _remove(out: Path, records: list[ShardRecord]) -> None:
    for record in records:
        (out / record.shard.file).unlink(missing_ok=True)
    shutil.rmtree(out / UNFINISHED)


@contextmanager
def _workers(
    plan: IngestPlan, out: Path, count: int | None, executor: Executor | None, cluster: str | None
) -> Iterator[Workers]:
    """Those of a cluster, the executor that was given, or threads of our own, each with a process that reads."""
    count = count or available_cores()
    if cluster is not None:
        with on_cluster(cluster, out, _seen_here(plan)) as there:
            yield there
        return
    if executor is not None:
        yield Workers(executor, count)
        return
    ending = Event()
    pool = ThreadPoolExecutor(count)
    try:
        yield Workers(pool, count, partial(find_or_build, ending=ending))
    finally:
        ending.set()
        pool.shutdown(cancel_futures=True)
        release()


def _seen_here(plan: IngestPlan) -> list[SeenFile]:
    """A few images that are here, by their rows, since a path can name a patient."""
    found: list[SeenFile] = []
    for row in np.unique(np.linspace(0, len(plan.paths) - 1, _SEEN_IMAGES).astype(int)).tolist():
        path = os.path.join(os.getcwd(), plan.paths[row])
        with suppress(OSError, ValueError):
            found.append(SeenFile(f"the image in row {row + 1} of the cohort", path, os.stat(path).st_size))
    return found


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
