"""The workers of a Dask cluster, which read images as this machine does, or are refused.

Work goes through Dask's interface of concurrent.futures. A worker must have the same Chartray, the same decoders and
the same folders: all of them are asked before the work begins, and each asks itself before its first shard, since
workers may join later.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module, metadata
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from chartray.errors import InputError, LostProcess
from chartray.extras import need_extra
from chartray.outputs.json_file import read_object
from chartray.pixels.shards import ShardRecord, ShardTask, find_or_build
from chartray.pixels.store import UNFINISHED

_ANSWERS_WITHIN, _WITHOUT_WORKERS = 20.0, 120.0  # seconds
# Chartray first: its version is known even of a worker that has no module of this name.
_PACKAGES = (
    "chartray",
    "distributed",
    "imagecodecs",
    "numpy",
    "pillow",
    "pyarrow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
)
_OTHER_CODE = (
    "expected the same code of Chartray on every worker, found other code of the same version; install the same there "
    "and start it again"
)
_CONTINUES = "then run the same command again: it continues after the finished shards"


class SeenFile(NamedTuple):
    """A file that every worker must see with the same bytes; `name` is what a sentence calls it."""

    name: str
    path: str
    size: int


class Here(NamedTuple):
    """What a worker must share with this machine: versions, the source code of Chartray, and files."""

    versions: tuple[tuple[str, str], ...]
    code: str
    files: tuple[SeenFile, ...]


class Workers(NamedTuple):
    """Who reads images: `at_once` through `pool`; `build` is what it is given, `look` raises once all are lost."""

    pool: Executor
    at_once: int
    build: Callable[[ShardTask], ShardRecord] = find_or_build
    look: Callable[[], None] = lambda: None


@contextmanager
def on_cluster(address: str, out: Path, images: list[SeenFile]) -> Iterator[Workers]:
    """The workers of the Dask scheduler at `address`, each of which sees the folder `out` and `images` as we do.

    Raises:
        InputError: no Dask here, no scheduler there, no worker, one that differs from this machine.
        LostProcess: the scheduler ended, all workers ended, or one shard has ended several of them.
    """
    client = _connected(address)
    try:
        with _marked(out) as mark:
            here = Here(_versions(), _code(), (mark, *images))
            _refuse_others(client, here)
            presence = _Presence(client, address)
            yield Workers(
                client.get_executor(pure=False), sum(client.nthreads().values()), partial(_build, here), presence.look
            )
    except (CancelledError, import_module("distributed").CancelledError):
        raise LostProcess(f"the Dask scheduler at {address} has ended; start it again, {_CONTINUES}") from None
    except import_module("distributed").scheduler.KilledWorker as killed:
        raise LostProcess(
            f"{killed.allowed_failures + 1} workers ended while they worked on the same images (out of memory, or a "
            f"time limit?); give them more memory or fewer threads, {_CONTINUES}"
        ) from None
    finally:
        client.close()


class _Presence:
    """Notices that the scheduler or all its workers are gone, which Dask waits for without end."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._seen = time.monotonic()

    def look(self) -> None:
        """Raises LostProcess where no worker has been there for a while."""
        with suppress(OSError, ValueError):
            if self._client.nthreads():
                self._seen = time.monotonic()
        if time.monotonic() - self._seen > _WITHOUT_WORKERS:
            raise LostProcess(
                f"the Dask scheduler at {self._address} has had no worker for {_WITHOUT_WORKERS:g} s; start workers, "
                f"{_CONTINUES}"
            )


def _connected(address: str) -> Any:
    """A client of the scheduler, which has a worker."""
    need_extra("dask", "--cluster")
    distributed = import_module("distributed")
    _quiet()
    where = _scheduler(address)
    if where.startswith("tls://") and not _has_certificates():
        raise InputError(
            f"expected certificates for {where} in Dask's configuration (distributed.comm.tls), found none that can be "
            "read; give their files there, or correct --cluster"
        )
    connected: Future[Any] = Future()

    def connect() -> None:
        try:
            connected.set_result(distributed.Client(where, timeout=_ANSWERS_WITHIN, set_as_default=False))
        except Exception as error:  # raised again below, in the thread that waits
            connected.set_exception(error)

    # Dask itself waits without end for a server of another kind, which accepts and says nothing.
    Thread(target=connect, daemon=True).start()
    try:
        client = connected.result(_ANSWERS_WITHIN + 1)
    except (OSError, ValueError, RuntimeError):
        raise InputError(
            f"expected a Dask scheduler at {where}, found none that answers within {_ANSWERS_WITHIN:g} s; start one "
            "(`dask scheduler`), or correct --cluster"
        ) from None
    try:
        client.wait_for_workers(1, timeout=_ANSWERS_WITHIN)
    except TimeoutError:
        client.close()
        raise InputError(
            f"expected workers at the Dask scheduler {where}, found none within {_ANSWERS_WITHIN:g} s; start some "
            f"(`dask worker {where}`)"
        ) from None
    return client


def _scheduler(address: str) -> str:
    """The address of the scheduler, which may be given as the file that it writes."""
    where = address
    if "://" not in address:
        file = Path(address)
        if not file.is_file():
            raise InputError(
                f"expected --cluster tcp://HOST:PORT or a scheduler file, found {address}, which is neither"
            )
        where = str(read_object(file, "a Dask scheduler file").get("address", ""))
        if "://" not in where:
            raise InputError(f"expected a Dask scheduler file with an address in {file}, found none")
    if not where.startswith(("tcp://", "tls://")):
        raise InputError(f"expected a Dask scheduler at tcp://HOST:PORT or tls://HOST:PORT, found {where}")
    return where


def _has_certificates() -> bool:
    with suppress(OSError, ValueError):
        return import_module("distributed").Security().get_connection_args("client")["ssl_context"] is not None
    return False


def _quiet() -> None:
    """Dask reports on standard error what is said here in a sentence."""
    import logging

    for name in ("distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _marked(out: Path) -> Iterator[SeenFile]:
    """A file in `out` that only those see who share its disk; removed afterwards, with folders made for it."""
    folder = out / UNFINISHED
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{uuid.uuid4().hex}.seen"
    mark.write_text(mark.name)
    try:
        yield SeenFile(f"the folder {out}", str(mark), len(mark.name))
    finally:
        mark.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _refuse_others(client: Any, here: Here) -> None:
    """Raises InputError if one of the workers there now differs from this machine."""
    wanted = dict(here.versions)["chartray"]
    # A function of Python's own: a worker without Chartray, or with an earlier one, can run it.
    for worker, found in sorted(client.run(metadata.version, "chartray", on_error="return").items()):
        if found != wanted:
            said = _differs("Chartray", wanted, found if isinstance(found, str) else "none")
            raise InputError(f"{said} (worker {worker})")
    for worker, found in sorted(client.run(unlike, here, on_error="return").items()):
        if found:
            raise InputError(f"{found if isinstance(found, str) else _OTHER_CODE} (worker {worker})")


@cache
def unlike(here: Here) -> str:
    """What on this worker differs from the machine that asks, as a sentence; empty if nothing does."""
    for (name, wanted), (_, found) in zip(here.versions, _versions(), strict=True):
        if found != wanted:
            return _differs("Chartray" if name == "chartray" else name, wanted, found)
    if _code() != here.code:
        return _OTHER_CODE
    for file in here.files:
        try:
            seen = os.stat(file.path).st_size
        except OSError:
            seen = -1
        if seen != file.size:
            return (
                f"expected {file.name} on every worker, as here, found another or none; --cluster needs a "
                "file system that all machines share, under the same path"
            )
    return ""


def _build(here: Here, task: ShardTask) -> ShardRecord:
    """A shard, built on a worker; one that has joined since the work began is asked first."""
    if said := unlike(here):
        raise InputError(f"{said} (worker {import_module('distributed').get_worker().address})")
    return find_or_build(task)


def _differs(what: str, wanted: str, found: str) -> str:
    return (
        f"expected {what} {wanted} on every worker, as here, found {found}; install the same there and start it again"
    )


def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "none"))
    return tuple(found)


@cache
def _code() -> str:
    """The SHA-256 of Chartray's source files, with their names."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
