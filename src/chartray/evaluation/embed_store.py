"""`chartray embed`: the embedding of every image of a store or folder, to work with elsewhere (or `embed_forms`).

One row an image, in the order of the store: `image_id`, `patient_id`, `study_id` (may be null), `split`; of a folder,
one row a file, by name: `file` (its path in the folder) and `reason` (why it could not be read, else null). Then
`embedding` (fixed-size list of D float32, of the whole image) or `patch_tokens` (N lists of D), or
both. The schema metadata, key `chartray.embeddings`, is JSON: format, source, dimensions, tokens, encoder (size, grey
statistics, architecture, provenance), store (folder, hash, dataset) or images (folder), split, precision, versions,
when. The file carries its own SHA-256 (`outputs.parquet_file`).
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from chartray.config.export import EmbeddingForm
from chartray.config.public import PublicOptions
from chartray.errors import InputError
from chartray.evaluation.embed import batches, device_of, images_at_once, tokens_in_batches
from chartray.evaluation.embed_file import EMBEDDINGS_KEY, check_embeddings_replaceable
from chartray.evaluation.embed_forms import write_form
from chartray.evaluation.image_folder import image_files, is_store, read_files
from chartray.evaluation.image_set import metadata_of
from chartray.networks.encoder import PretrainedEncoder
from chartray.networks.public import AS_PUBLISHED, open_encoder
from chartray.outputs.notices import notice
from chartray.outputs.parquet_file import write_parts
from chartray.outputs.replacing import replaced_file
from chartray.pixels.store import Store
from chartray.progress import progress
from chartray.results.folder import versions
from chartray.schema import hashed
from chartray.wording import plural, without_folders

FORMAT = 2
_NAMES = ("image_id", "patient_id", "study_id", "split")
_IDS = _NAMES[:3]
_PART_BYTES = 1 << 28
WhichTokens = Literal["class", "patches", "both"]


def embed_store(
    source: Path,
    images: Path,
    out: Path,
    *,
    split: str | None = None,
    tokens: WhichTokens = "class",
    device: str = "auto",
    precision: str = "fp32",
    reading: PublicOptions = AS_PUBLISHED,
    hash_ids: bool = False,
    to: EmbeddingForm = "parquet",
) -> Path:
    """Embeds the images of a store, or of any folder, and writes `out`, whole or not at all; returns it.

    Args:
        source: RUN, encoder folder or public encoder.
        images: a STORE, or a folder of images, whose subfolders are read too.
        out: the Parquet file, or folder, to write; earlier embeddings are replaced, anything else is not.
        split: of a store, train, validate or test; default all images. No label is read.
        tokens: class: the embedding; patches: the patch tokens; both.
        device: auto, cpu or cuda.
        precision: fp32, or bf16 for autocast.
        reading: how a public encoder is read.
        hash_ids: write hashed names instead of ids, and no folder's path; equal ids of this store have equal names.
        to: parquet, or what `embed_forms` writes: npy, projector.

    Raises:
        InputError: no such encoder, images or split, `out` is something else, or an embedding is not finite.
    """
    check_embeddings_replaceable(out, to, tokens)
    encoder = open_encoder(source, reading)
    of: dict[str, JsonValue]
    if is_store(images):
        store = Store.open(images)
        rows = _rows(store, split)
        of = {"store": {"folder": str(store.folder), "hash": store.hash, "dataset": metadata_of(store).source}}
        parts, count = _stored(store, rows, device, hash_ids), len(rows)
    else:
        files = image_files(images)
        if split is not None:
            raise InputError(f"expected --split only with a store, found the folder {images}; leave it out")
        of = {"images": str(images)}
        parts, count = _files(images, files, device, hash_ids), len(files)
    described: dict[str, JsonValue] = {
        "format": FORMAT,
        "source": str(source),
        "encoder": encoder.described(),
        **of,
        "versions": {**versions()},
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "split": split,
        "films": count,
        "dimensions": encoder.dimensions,
        "tokens": tokens,
        "precision": precision,
    }
    shared = _shared(described | {"hashed_ids": True}) if hash_ids else described

    def place(number: int) -> str:
        return f"row {number} of {images}" if "store" in of else f"file {number} of {images}, by name from 0"

    found = _embedded(encoder, parts, count, tokens, place=place, device=device, precision=precision)
    if to != "parquet":
        write_form(found, out, to, count, shared)
        return out
    about = {EMBEDDINGS_KEY: json.dumps(shared).encode()}
    with replaced_file(out) as partial:
        write_parts((part.replace_schema_metadata(about) for part in found), partial)
    return out


class _NamedImages(NamedTuple):
    """Some rows of the output: their names, and uint8 (n, S, S) of those that `readable` (rows,) says were read.

    `numbers` (n,) are where these are.
    """

    names: pa.Table
    images: Tensor
    readable: NDArray[np.bool_]
    numbers: NDArray[np.int64]


def _stored(store: Store, rows: NDArray[np.int64], device: str, hash_ids: bool) -> Iterator[_NamedImages]:
    named = store.cohort.select(_NAMES)
    names = (_with_hashed_ids(named) if hash_ids else named).take(pa.array(rows))
    done = 0
    for images in batches(store, rows, images_at_once(device_of(device)), "cpu"):
        here = slice(done, done + len(images))
        yield _NamedImages(names.slice(done, len(images)), images, np.ones(len(images), bool), rows[here])
        done += len(images)


def _files(folder: Path, files: list[str], device: str, hash_ids: bool) -> Iterator[_NamedImages]:
    shown = dict(zip(files, hashed(files, size=8) if hash_ids else files, strict=True))
    left_out: Counter[str] = Counter()
    done = 0
    for some in read_files(folder, files, images_at_once(device_of(device))):
        names = pa.table({"file": [shown[file] for file in some.files], "reason": pa.array(some.reasons, pa.string())})
        left_out.update(each for each in some.reasons if each is not None)
        readable = np.array([each is None for each in some.reasons])
        yield _NamedImages(names, torch.from_numpy(some.images), readable, done + np.flatnonzero(readable))
        done += len(some.files)
    if left_out:
        why = "; ".join(f"{count}: {reason}" for reason, count in left_out.most_common(3))
        notice(
            f"chartray: {left_out.total()} of {plural(len(files), 'file')} could not be read and have no embedding "
            f"({why}); the column reason says which"
        )


def _embedded(
    encoder: PretrainedEncoder,
    parts: Iterator[_NamedImages],
    count: int,
    tokens: WhichTokens,
    *,
    place: Callable[[int], str],
    device: str,
    precision: str,
) -> Iterator[pa.Table]:
    """Tables of names and tokens, in parts that memory holds easily."""
    waiting: deque[_NamedImages] = deque()

    def images() -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        for part in parts:
            waiting.append(part)
            yield part.images, part.numbers

    found = tokens_in_batches(
        encoder, images(), place=place, device=device, precision=precision, with_patches=tokens != "class"
    )
    ready: list[pa.Table] = []
    with progress("embed", count, "images") as advance:
        for each in found:
            part = waiting.popleft()
            table = part.names
            if tokens != "patches":
                table = table.append_column("embedding", _column(each.embedding, part.readable))
            if each.patches is not None:
                table = table.append_column("patch_tokens", _column(each.patches, part.readable))
            ready.append(table)
            advance(table.num_rows)
            if sum(one.nbytes for one in ready) > _PART_BYTES:
                yield pa.concat_tables(ready)
                ready = []
    if ready:
        yield pa.concat_tables(ready)


def _column(values: NDArray[np.float32], readable: NDArray[np.bool_]) -> pa.Array:
    """(n, D) or (n, N, D) as lists of fixed size, null where a row could not be read."""
    filled = np.zeros((len(readable), *values.shape[1:]), np.float32)
    filled[readable] = values
    column = pa.array(filled.ravel())
    for size in filled.shape[:1:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return pa.FixedSizeListArray.from_arrays(column, filled.shape[1], mask=pa.array(~readable))


def _with_hashed_ids(named: pa.Table) -> pa.Table:
    """Names of all the store's ids, whatever split is embedded: the same in every file of it."""
    for name in _IDS:
        ids = named[name].to_pylist()
        names = dict(zip(ids, hashed([each or "" for each in ids], size=8), strict=True)) | {None: None}
        column = pa.array([names[each] for each in ids], pa.string())
        named = named.set_column(named.column_names.index(name), name, column)
    return named


def _shared(described: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A description in which only the last part of each path is left: folders may be named after patients.

    >>> _shared({"source": "/data/Doe John/a", "command": "chartray embed /data/b c"})
    {'source': 'a', 'command': 'chartray embed b c'}
    """
    return {
        name: without_folders(value) if name == "command" and isinstance(value, str) else _last_part(value)
        for name, value in described.items()
    }


def _last_part(said: JsonValue) -> JsonValue:
    if isinstance(said, dict):
        return {**_shared(said)}
    if isinstance(said, list):
        return [_last_part(value) for value in said]
    if isinstance(said, str):
        return Path(said).name if "/" in said else said
    return said


def _rows(store: Store, split: str | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The store's rows of `split`, all when None; raises InputError where there are none."""
    splits = np.array(store.cohort.column("split").to_pylist(), dtype=np.str_)
    rows = np.arange(len(splits)) if split is None else np.flatnonzero(splits == split)
    if not len(rows):
        there = ", ".join(f"{name} {count}" for name, count in zip(*np.unique(splits, return_counts=True), strict=True))
        wanted = "images" if split is None else f"images in the split {split!r}"
        raise InputError(f"expected {wanted} in {store.folder}, found none (images: {there or 'none'})")
    return rows.astype(np.int64)
