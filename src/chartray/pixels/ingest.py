"""The parallel, resumable builder of a store, with quarantine.

How rows are cut into shards depends on the cohort and the size alone (plan.py), never on the workers. A shard is whole
or not there (shards.py); `store.json` comes last. So an ingest that was killed at any moment finds finished shards
whole, does the others again, and ends in the same bytes. Images are read in separate processes (image_process.py).
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from chartray.console import status
from chartray.errors import InputError
from chartray.outputs.disk import writing
from chartray.outputs.json_file import write_json
from chartray.outputs.lock import locked
from chartray.outputs.replacing import replaced_folder, settle
from chartray.pixels.building import build, finish, workers_for
from chartray.pixels.image_process import USUAL_LIMITS, Limits
from chartray.pixels.plan import IngestPlan, announce, make_plan
from chartray.pixels.quarantine import Lost, overrepresented
from chartray.pixels.shard_file import map_shard
from chartray.pixels.shards import (
    LOCK_FILE,
    PLAN_FILE,
    EarlierShard,
    ShardRecord,
    begun_shards,
)
from chartray.pixels.store import INDEX_FILE, UNFINISHED, Store, read_index
from chartray.wording import plural

_LONGEST = 86_400  # seconds; a limit that timers support
_WORKER_ENDED = (
    "a worker process ended unexpectedly; run the same command again: it continues after the finished shards"
)


class Ingested(NamedTuple):
    """What an ingest made: the folder, its content hash, the number of images, and reason -> images in quarantine.

    `lost` are the splits and labels of which too many are in quarantine.
    """

    store: Path
    hash: str
    images: int
    quarantined: dict[str, int]
    lost: list[Lost]


class _Unchanged(Exception):
    """None of the images in quarantine could be read, for the same reasons as before."""


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
    retry: bool = False,
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
        retry: of the finished store `out`, tries the images in quarantine again; it ends in the bytes of a new ingest.
            `limits` and `allow_outside` may be wider than they were.

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
    settle(out)
    if retry:
        return _retry(Path(cohort_path), out, plan, workers, executor, cluster)
    if (out / INDEX_FILE).exists():
        return _already_complete(out, plan)
    begun = begun_shards(out, plan.marker(), plan.shards)
    try:
        with workers_for(plan, out, workers, executor, cluster) as found:
            announce(plan, begun, out, found.pool, found.at_once)
            with writing(out), _alone(out):
                if (out / INDEX_FILE).exists():  # another ingest has finished it meanwhile
                    return _already_complete(out, plan)
                write_json(out / UNFINISHED / PLAN_FILE, plan.marker())
                tasks = {shard: plan.task(shard, out) for shard in range(plan.shards)}
                images = {shard: len(plan.rows(shard)) for shard in tasks}
                records = list(build(tasks, images, begun, found).values())
                finish(Path(cohort_path), out, plan, records)
                return _made(Store.open(out))
    except BrokenExecutor:
        raise InputError(_WORKER_ENDED) from None
    finally:
        with suppress(OSError):
            out.rmdir()  # which does nothing unless it is empty


def _already_complete(out: Path, plan: IngestPlan) -> Ingested:
    settle(out / INDEX_FILE)
    _refuse_other(out, plan)
    store = Store.open(out)
    # The process may have been killed between the last file and the cleaning up.
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    settle(out / LOCK_FILE)
    status(f"ingest: {out} is complete, {plural(len(store), 'image')}; nothing to do", aside=True)
    return _made(store)


def _refuse_other(out: Path, plan: IngestPlan, *, wider: bool = False) -> bool:
    """Refuses a store of another cohort, size or limits; returns whether the limits differ.

    They may with `wider`, if those of `plan` allow more.
    """
    begun_with, now = read_index(out).model_dump(), plan.marker()
    wide = {
        "largest_image": plan.limits.pixels >= begun_with["largest_image"],
        "outside": not (plan.limits.within and begun_with["outside"]),
    }
    differ = {key for key, value in now.items() if begun_with.get(key) != value}
    # Checked first: no message may suggest removing a store of another cohort.
    if any(not (wider and wide.get(key)) for key in differ):
        raise InputError(f"{out} holds a finished store of another cohort, size or limits; choose another --out")
    return bool(differ)


def _retry(
    cohort_path: Path, out: Path, plan: IngestPlan, count: int | None, executor: Executor | None, cluster: str | None
) -> Ingested:
    """Another try of the images in quarantine, in a new store that takes the place of this one when it is whole."""
    wider = _refuse_other(out, plan, wider=True)
    store = Store.open(out)
    earlier = _records(store, plan)
    images = {shard: len(record.quarantine) for shard, record in enumerate(earlier) if record.quarantine}
    if not images:
        status(f"ingest: {out} has no image in quarantine; nothing to do", aside=True)
        return _made(store)
    try:
        with (
            suppress(_Unchanged),
            workers_for(plan, out, count, executor, cluster) as found,
            # Shards that stay are linked, not copied; every other file is synced when it is written.
            replaced_folder(out, kept=lambda name: name.endswith(".arrow"), lasting=False) as partial_out,
        ):
            (partial_out / UNFINISHED).mkdir()
            tasks = {shard: plan.task(shard, partial_out, EarlierShard(str(out), earlier[shard])) for shard in images}
            records = dict(enumerate(earlier)) | build(tasks, images, {}, found)
            came = sum(len(records[shard].kept) - len(earlier[shard].kept) for shard in images)
            status(
                f"ingest: {came} of {plural(sum(images.values()), 'image')} in quarantine can be read now", aside=True
            )
            if list(records.values()) == earlier and not wider:
                raise _Unchanged
            finish(cohort_path, partial_out, plan, list(records.values()))
    except BrokenExecutor:
        raise InputError(_WORKER_ENDED) from None
    return _made(Store.open(out))


def _records(store: Store, plan: IngestPlan) -> list[ShardRecord]:
    """The shards of a finished store as the records of its ingest had them."""
    reasons = dict(zip(store.quarantine["image_id"].to_pylist(), store.quarantine["reason"].to_pylist(), strict=True))
    sizes = zip(*(store.cohort[name].to_pylist() for name in ("height", "width")), strict=True)
    records = []
    for number, shard in enumerate(read_index(store.folder).shards):
        rows = plan.rows(number)
        kept = [row for row in rows if plan.image_ids[row] not in reasons]
        heights, widths = zip(*islice(sizes, len(kept)), strict=True) if kept else ((), ())
        digests = map_shard(store.folder, shard, store.size, "").digests.tobytes() if kept else b""
        lost = [(row, reasons[plan.image_ids[row]]) for row in rows if plan.image_ids[row] in reasons]
        records.append(ShardRecord(shard, digests, kept, list(heights), list(widths), lost))
    return records


def _made(store: Store) -> Ingested:
    reasons = Counter(store.quarantine["reason"].to_pylist())
    lost = overrepresented(store.cohort, store.quarantine)
    return Ingested(store.folder, store.hash, len(store), dict(reasons), lost)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One ingest at a time, on what its workers will write into."""
    with locked(out / LOCK_FILE, f"another ingest is writing to {out}; wait for it, or choose another --out"):
        (out / UNFINISHED).mkdir(exist_ok=True)
        yield
