"""The memory-mapped data set: one folder, opened in constant time, read without copying.

store.json            format version, size, rows, content hash, and every shard's rows, bytes and SHA-256
images-00000.arrow    one shard: Arrow IPC, image_id and `image`, fixed_shape_tensor uint8 [S, S]; one record batch
cohort.parquet        the cohort's rows that were ingested, in the order of the images, with height and width
cohort.flow.json      how the cohort came about, where its flow lay beside it
quarantine.parquet    image_id, path and reason of the films that could not be read
"""

import hashlib
import json
import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.schema import from_metadata

STORE_FORMAT = 1
FLOW_FILE = "cohort.flow.json"
UNFINISHED = "unfinished"  # the folder inside a store that ingest works in; gone when it has finished
# An Arrow record batch is addressed with 32-bit offsets here and there; half of that is a safe shard.
LARGEST_SHARD_BYTES = 2**30

Pixels = npt.NDArray[np.uint8]


class Store:
    """`size` S, `hash` of the content, `images`, `cohort`; `len(store)` films. Pickles as its folder."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder = folder
        self.size = int(index["size"])
        self.hash = str(index["hash"])
        shards = [(os.path.join(folder, s["file"]), int(s["rows"])) for s in index["shards"] if s["rows"]]
        self.images = Images(self.size, [file for file, _ in shards], [rows for _, rows in shards])

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """Opens a finished store; InputError if it is none, unfinished, of another format, or incomplete."""
        folder = Path(folder).absolute()
        index = read_index(folder)
        for shard in index["shards"]:
            # Plain strings: with Path objects a thousand shards take five times as long.
            _expect_bytes(os.path.join(folder, shard["file"]), int(shard["bytes"]))
        rows = sum(int(shard["rows"]) for shard in index["shards"])
        cohort_rows = _parquet_rows(folder / "cohort.parquet")
        _parquet_rows(folder / "quarantine.parquet")
        if not rows == cohort_rows == index["rows"]:
            raise InputError(
                f"expected {index['rows']} films in {folder}, found {rows} images and {cohort_rows} rows in "
                f"cohort.parquet; {_again(folder)}"
            )
        return cls(folder, index)

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.folder,)

    @cached_property
    def cohort(self) -> pa.Table:
        """One row a film, in the order of `images`, with the cohort's schema metadata; read when first asked for."""
        return read_parquet(self.folder / "cohort.parquet")

    @cached_property
    def quarantine(self) -> pa.Table:
        """`image_id`, `path`, `reason` of the films that could not be read."""
        return read_parquet(self.folder / "quarantine.parquet")

    def damaged(self) -> list[str]:
        """The shards, and cohort.parquet, that are not as ingest wrote them (reads everything)."""
        shards = read_index(self.folder)["shards"]
        damaged = [s["file"] for s in shards if sha256(self.folder / s["file"]) != s["sha256"]]
        return damaged + (["cohort.parquet"] if content_hash(self.size, self.cohort, shards) != self.hash else [])


class Images:
    """The films of a store, uint8 (S, S) each, mapped into memory shard by shard when first touched."""

    def __init__(self, size: int, files: list[str], rows: list[int]) -> None:
        self.size = size
        self._files = files
        self._ends = np.cumsum(np.array(rows, dtype=np.int64))
        self._starts = self._ends - np.array(rows, dtype=np.int64)
        self._mapped: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, S, S)."""
        return len(self), self.size, self.size

    def __getitem__(self, row: int) -> Pixels:
        """Film `row`, uint8 (S, S), read-only and without a copy."""
        row = range(len(self))[int(row)]
        shard = int(np.searchsorted(self._ends, row, side="right"))
        image: Pixels = self._shard(shard)[row - int(self._starts[shard])]
        return image

    def gather(self, rows: npt.NDArray[np.int64], out: Pixels | None = None) -> Pixels:
        """The films `rows` (B,), in that order, copied into `out` uint8 (B, S, S), made if not given."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store of {len(self)} films")
        shape = (len(rows), self.size, self.size)
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"out must be uint8 {shape}, found {out.dtype} {out.shape}")
        shards = np.searchsorted(self._ends, rows, side="right")
        inside = rows - self._starts[shards] if len(rows) else rows
        # In the order of the disk: neighbours share pages and read-ahead.
        order = np.argsort(rows, kind="stable")
        for position, shard, row in zip(order.tolist(), shards[order].tolist(), inside[order].tolist(), strict=True):
            out[position] = self._shard(shard)[row]
        return out

    def _shard(self, shard: int) -> Pixels:
        mapped = self._mapped.get(shard)
        if mapped is None:
            mapped = self._mapped[shard] = read_shard(self._files[shard], self.size)
        return mapped


def write_shard(file: Path, image_ids: list[str], images: Pixels) -> None:
    """Writes one shard: `images` uint8 (n, S, S) and their ids, as one record batch; the caller renames the file."""
    size = images.shape[1]
    tensor = pa.fixed_shape_tensor(pa.uint8(), (size, size))
    storage = pa.FixedSizeListArray.from_arrays(arrow_numbers(images.reshape(-1)), type=tensor.storage_type)
    batch = pa.RecordBatch.from_arrays(
        [arrow_strings(image_ids), pa.ExtensionArray.from_storage(tensor, storage)], names=["image_id", "image"]
    )
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_shard(file: str | Path, size: int) -> Pixels:
    """The images of one shard, uint8 (n, S, S), read-only, mapped: no byte is read before it is touched."""
    try:
        # Closing gives the descriptor back; the pages stay mapped for as long as the array lives.
        with pa.memory_map(str(file)) as source:
            column = pa.ipc.open_file(source).get_batch(0).column("image")
        images: Pixels = column.to_numpy_ndarray()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"expected a shard of films in {file}, found {' '.join(str(error).split())}") from None
    if images.shape[1:] != (size, size):
        raise InputError(f"expected films of {size} x {size} in {file}, found {images.shape[1]} x {images.shape[2]}")
    return images


def read_parquet(file: Path) -> pa.Table:
    """A whole Parquet file (`pq.read_table` would import pandas first, which takes a second)."""
    with pq.ParquetFile(file) as parquet:
        return parquet.read()


def arrow_numbers(values: npt.NDArray[Any]) -> pa.Array:
    """A number column (n,) over the memory of `values` (`pa.array` would import pandas in every worker)."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def arrow_strings(values: list[str]) -> pa.Array:
    """A string column, likewise."""
    encoded = [value.encode() for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in encoded])]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def content_hash(size: int, cohort: pa.Table, shards: list[dict[str, Any]]) -> str:
    """From the shards' hashes and the rows of the cohort, but not from where the films lay: another machine agrees."""
    metadata = from_metadata(cohort.schema.metadata).model_copy(update={"image_root": ""})
    digest = hashlib.sha256(json.dumps([STORE_FORMAT, size, [s["sha256"] for s in shards]]).encode())
    digest.update(metadata.model_dump_json().encode())
    sink = pa.BufferOutputStream()
    rows = cohort.drop_columns(["path"]).replace_schema_metadata(None).combine_chunks()
    # What lies in memory under a null depends on how the rows were read; once taken, it is always the same.
    rows = rows.take(arrow_numbers(np.arange(rows.num_rows, dtype=np.int64))).combine_chunks()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def temporary(folder: Path, name: str) -> Path:
    """A name in `folder` that no other process or thread writes under."""
    return folder / f"{name}.{os.getpid()}.{threading.get_ident()}.tmp"


def publish(whole: Path, file: Path) -> None:
    """Flushes a whole file to the disk and gives it its name, in one step."""
    with whole.open("rb+") as stream:
        os.fsync(stream.fileno())
    whole.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_index(folder: Path) -> dict[str, Any]:
    """What store.json says; InputError if there is no finished store of this format in `folder`."""
    file = folder / "store.json"
    if folder.is_file():
        raise InputError(
            f"expected a store folder, found the file {folder}; `chartray ingest` makes a store of a cohort"
        )
    try:
        index: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        if (folder / UNFINISHED).is_dir():
            raise InputError(f"the ingest of {folder} has not finished; run it again, it continues") from None
        raise InputError(f"expected a store (a folder with store.json) at {folder}, found none") from None
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"expected JSON in {file}, found {said}; {_again(folder)}") from None
    found = index.get("format") if isinstance(index, dict) else None
    if found != STORE_FORMAT:
        raise InputError(f"expected store format {STORE_FORMAT} in {file}, found {found}; {_again(folder)}")
    return index


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _expect_bytes(file: str, size: int) -> None:
    try:
        found = os.stat(file).st_size
    except OSError:
        again = _again(os.path.dirname(file))
        raise InputError(f"expected {file}, found no such file; the store is incomplete: {again}") from None
    if found != size:
        again = _again(os.path.dirname(file))
        raise InputError(f"expected {size} bytes in {file}, found {found}; the store is damaged: {again}")


def _parquet_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except FileNotFoundError:
        again = _again(file.parent)
        raise InputError(f"expected {file}, found no such file; the store is incomplete: {again}") from None
    except (OSError, pa.ArrowInvalid) as error:
        said = " ".join(str(error).split())
        raise InputError(f"expected Parquet in {file}, found {said}; {_again(file.parent)}") from None


def _again(folder: str | Path) -> str:
    """What mends a store: an ingest finds one that calls itself finished, and leaves it alone."""
    return f"remove the folder {folder}, then `chartray ingest` its cohort again"
