"""The memory-mapped data set: one folder, opened in constant time, read without copying, every byte verified.

store.json            format version, size, rows, content hash, every shard's rows, bytes and SHA-256, the SHA-256 of
                      the tables below, and its own
images-00000.arrow    one shard (shard_file.py)
cohort.parquet        the cohort's rows that were ingested, in the order of the images, with height and width
cohort.flow.json      the flow of the cohort, if it had one
quarantine.parquet    image_id, path and reason of the images that could not be read

Small files are verified when the store is opened, a shard's frame when it is first mapped, an image when a process
first reads it; `Store.damaged` reads everything.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from chartray.errors import InputError
from chartray.flow import CohortFlow
from chartray.outputs.json_file import parsed_record, read_json, read_object
from chartray.outputs.parquet_file import read_table
from chartray.outputs.replacing import settle
from chartray.outputs.seal import sha256
from chartray.pixels.shard_file import Digest, Mapped, Pixels, Shard, map_shard

STORE_FORMAT = 2
INDEX_FILE = "store.json"
COHORT_FILE, QUARANTINE_FILE, FLOW_FILE = "cohort.parquet", "quarantine.parquet", "cohort.flow.json"
UNFINISHED = "unfinished"  # the folder inside a store that ingest works in; gone when it has finished
_INDEX = "the index of a store"
# Fewer images than this are verified sooner by one thread than threads are started.
_FEW, _THREADS = 64, 4


class Store:
    """`size` S, `hash` of the content, `images`, `cohort`; `len(store)` images. Pickles as its folder."""

    def __init__(self, folder: Path, index: "Index") -> None:
        self.folder = folder
        self.size = index.size
        self.hash = index.hash
        self._files = {str(name): digest for name, digest in index.files.items()}
        self.images = Images(folder, self.size, list(index.shards))

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """Opens a finished store; InputError if it is missing, unfinished, of another format, incomplete or damaged."""
        folder = Path(folder).absolute()
        index = read_index(folder)
        for shard in index.shards:
            # Plain strings: with Path objects a thousand shards take five times as long.
            _expect_bytes(os.path.join(folder, shard.file), shard.bytes)
        store = cls(folder, index)
        for name in (COHORT_FILE, QUARANTINE_FILE, FLOW_FILE):
            store._verify(name)
        return store

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.folder,)

    @cached_property
    def cohort(self) -> pa.Table:
        """One row an image, in the order of `images`, with the cohort's schema metadata; read when first asked for."""
        return self._table(COHORT_FILE)

    @cached_property
    def quarantine(self) -> pa.Table:
        """`image_id`, `path`, `reason` of the images that could not be read."""
        return self._table(QUARANTINE_FILE)

    def damaged(self) -> list[str]:
        """The shards that are not as ingest wrote them (reads every byte of them)."""
        shards = read_index(self.folder).shards
        return [shard.file for shard in shards if sha256(self.folder / shard.file) != shard.sha256]

    def _table(self, name: str) -> pa.Table:
        self._verify(name)
        return read_table(self.folder / name, f"{name} of a store")

    def _verify(self, name: str) -> None:
        """Raises InputError unless a small file is as it was written, or not there where none was."""
        file, expected = self.folder / name, self._files.get(name)
        try:
            found = sha256(file)
        except FileNotFoundError:
            if expected is None:
                return
            raise InputError(
                f"expected {file}, found no such file; the store is incomplete: {_again(self.folder)}"
            ) from None
        except OSError as error:
            raise InputError(f"expected to read {file}, found: {error.strerror}; {_again(self.folder)}") from None
        if found != expected:
            raise InputError(
                f"expected {file} as it was written, found other content (its SHA-256 differs); the store is damaged: "
                f"{_again(self.folder)}"
            )


class Images:
    """The images of a store, uint8 (S, S) each, mapped into memory shard by shard when first touched.

    A damaged shard or image raises InputError when it is first read.
    """

    def __init__(self, folder: Path, size: int, shards: list[Shard]) -> None:
        self.size = size
        self._folder = folder
        self._shards = [shard for shard in shards if shard.rows]
        rows = np.array([shard.rows for shard in self._shards], dtype=np.int64)
        self._ends = np.cumsum(rows)
        self._starts = self._ends - rows
        self._mapped: dict[int, Mapped] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, S, S)."""
        return len(self), self.size, self.size

    def __getitem__(self, row: int) -> Pixels:
        """Image `row`, uint8 (S, S), read-only and without a copy."""
        row = range(len(self))[int(row)]
        shard = int(np.searchsorted(self._ends, row, side="right"))
        inside = row - int(self._starts[shard])
        image: Pixels = self._shard(shard).images[inside]
        self._verify(shard, inside, image)
        return image

    def gather(self, rows: npt.NDArray[np.int64], out: Pixels | None = None) -> Pixels:
        """The images `rows` (B,), in that order, copied into `out` uint8 (B, S, S), made if not given."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store of {len(self)} images")
        shape = (len(rows), self.size, self.size)
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"out must be uint8 {shape}, found {out.dtype} {out.shape}")
        shards = np.searchsorted(self._ends, rows, side="right")
        inside = rows - self._starts[shards] if len(rows) else rows
        # In the order of the disk: neighbours share pages and read-ahead.
        order = np.argsort(rows, kind="stable")
        places = list(zip(order.tolist(), shards[order].tolist(), inside[order].tolist(), strict=True))
        if sum(not self._shard(shard).verified[row] for _, shard, row in places) < _FEW:
            self._copy(places, out)
        else:
            parts = [
                places[len(places) * part // _THREADS : len(places) * (part + 1) // _THREADS]
                for part in range(_THREADS)
            ]
            with ThreadPoolExecutor(_THREADS) as threads:
                list(threads.map(self._copy, parts, [out] * _THREADS))
        return out

    def _copy(self, places: list[tuple[int, int, int]], out: Pixels) -> None:
        """Copies images to their places in `out`, from shard and row, and verifies the copies."""
        for position, shard, row in places:
            out[position] = self._shard(shard).images[row]
            self._verify(shard, row, out[position])

    def _verify(self, shard: int, row: int, image: Pixels) -> None:
        mapped = self._shard(shard)
        if mapped.verified[row]:
            return
        if not mapped.vouched(row, image):
            file = self._folder / self._shards[shard].file
            raise InputError(
                f"expected image {row + 1} in {file} as it was written, found other content (its SHA-256 differs); "
                f"the store is damaged: {_again(self._folder)}"
            )
        mapped.verified[row] = 1

    def _shard(self, shard: int) -> Mapped:
        mapped = self._mapped.get(shard)
        if mapped is None:
            found = map_shard(self._folder, self._shards[shard], self.size, _again(self._folder))
            mapped = self._mapped.setdefault(shard, found)
        return mapped


class Index(BaseModel):
    """The fields of store.json that a store is opened with; further fields describe its ingest."""

    model_config = ConfigDict(frozen=True, extra="allow")

    size: int = Field(ge=8, le=4096)
    hash: Digest
    rows: NonNegativeInt
    files: dict[Literal["cohort.parquet", "quarantine.parquet", "cohort.flow.json"], Digest]
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(shard.rows for shard in self.shards) != self.rows:
            raise ValueError("rows are not those of the shards together")
        if any(shard.pixels_at + shard.rows * self.size**2 > shard.bytes for shard in self.shards):
            raise ValueError("a shard's pixels do not fit into its bytes")
        return self


def read_parquet(file: Any) -> pa.Table:
    """A whole Parquet file (`pq.read_table` would import pandas first, which takes a second)."""
    with pq.ParquetFile(file) as parquet:
        return parquet.read()


def read_index(folder: Path) -> Index:
    """What store.json says.

    Raises InputError if there is no finished store of this format in `folder`, it was changed, or it is not what ingest
    writes.
    """
    file = folder / INDEX_FILE
    if folder.is_file():
        raise InputError(
            f"expected a store folder, found the file {folder}; `chartray ingest` makes a store of a cohort"
        )
    if not file.exists():
        settle(folder)  # a killed `ingest --retry` may have left it under another name
    if not file.exists():
        if (folder / UNFINISHED).is_dir():
            raise InputError(f"the ingest of {folder} has not finished; run it again, it continues")
        raise InputError(f"expected a store (a folder with store.json) at {folder}, found none")
    try:
        said = read_json(file, _INDEX)
    except InputError as error:
        try:
            found = read_object(file, _INDEX).get("format")
        except InputError:
            found = STORE_FORMAT  # unknown
        _refuse_other_format(folder, found)
        raise InputError(f"{error}; or {_again(folder)}") from None
    _refuse_other_format(folder, said.get("format"))
    try:
        return Index.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"expected what `chartray ingest` writes in {file}, found something else"
            f"{f' at {where}' if where else ''} ({first['msg']}); {_again(folder)}"
        ) from None


def _refuse_other_format(folder: Path, found: object) -> None:
    if found != STORE_FORMAT:
        raise InputError(
            f"expected store format {STORE_FORMAT} in {folder / INDEX_FILE}, found {found}; {_again(folder)}"
        )


def _expect_bytes(file: str, size: int) -> None:
    try:
        found = os.stat(file).st_size
    except OSError:
        again = _again(os.path.dirname(file))
        raise InputError(f"expected {file}, found no such file; the store is incomplete: {again}") from None
    if found != size:
        again = _again(os.path.dirname(file))
        raise InputError(f"expected {size} bytes in {file}, found {found}; the store is damaged: {again}")


def _again(folder: str | Path) -> str:
    """How to repair a store: it must be removed first, since ingest leaves a finished store alone."""
    return f"remove the folder {folder}, then `chartray ingest` its cohort again"


def read_store_flow(folder: Path) -> CohortFlow | None:
    """The flow of the cohort that a store was made from, verified; None where the store has none."""
    file = folder / FLOW_FILE
    if not file.is_file():
        return None
    content = read_json(file, "the flow of the store's cohort")
    return parsed_record(CohortFlow, content, str(file), remedy="ingest the cohort again")
