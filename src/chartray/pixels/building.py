"""The work of an ingest: who reads the images, every shard as it is done, and at last the tables of the store."""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa

from chartray.cores import available_cores
from chartray.errors import InputError
from chartray.pixels.cluster import SeenFile, Workers, on_cluster
from chartray.pixels.image_process import release
from chartray.pixels.plan import IngestPlan, no_image
from chartray.pixels.quarantine import table_of
from chartray.pixels.shard_file import arrow_numbers
from chartray.pixels.shards import ShardRecord, ShardTask, find_or_build
from chartray.pixels.store import UNFINISHED, read_parquet
from chartray.pixels.store_writing import complete
from chartray.progress import progress
from chartray.records.cohort_files import read_flow

_LOOKS_EVERY = 10.0  # seconds
_SEEN_IMAGES = 8  # that every worker of a cluster must see


def build(
    tasks: Mapping[int, ShardTask], images: Mapping[int, int], begun: Mapping[int, ShardRecord], workers: Workers
) -> dict[int, ShardRecord]:
    """All shards, in order; those of an earlier run, `begun`, are verified, and rebuilt if they changed.

    `images` of each shard are what progress is counted in.
    """
    records: dict[int, ShardRecord] = {}
    quarantined = 0
    with progress("ingest", sum(images.values()), "images", done=sum(images[shard] for shard in begun)) as advance:
        futures: dict[Future[ShardRecord], int] = {
            workers.pool.submit(workers.build, task): shard for shard, task in tasks.items()
        }
        try:
            for future in _as_completed(futures, workers.look):
                shard = futures[future]
                records[shard] = future.result()
                quarantined += len(records[shard].quarantine)
                advance(0 if shard in begun else images[shard], f"{quarantined} in quarantine" if quarantined else "")
        finally:
            for future in futures:
                future.cancel()
    return {shard: records[shard] for shard in tasks}


def _as_completed(futures: Collection[Future[ShardRecord]], look: Callable[[], None]) -> Iterator[Future[ShardRecord]]:
    """The futures as they are done; `look` is called where none was for a while."""
    left = set(futures)
    while left:
        done, left = wait(left, _LOOKS_EVERY, FIRST_COMPLETED)
        yield from done
        if not done:
            look()


def finish(cohort_path: Path, out: Path, plan: IngestPlan, records: list[ShardRecord]) -> None:
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
    in_quarantine = table_of(whole, lost, [plan.paths[row] for row in lost], [reason for _, reason in quarantine])
    complete(
        out,
        plan.size,
        [record.shard for record in records],
        b"".join(record.digests for record in records),
        cohort.replace_schema_metadata(whole.schema.metadata),
        quarantine=in_quarantine,
        # The store goes where the cohort may not: what was left out, and why, goes with it.
        flow=read_flow(cohort_path),
        origin=plan.marker(),
    )
    shutil.rmtree(out / UNFINISHED)


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
def workers_for(
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
