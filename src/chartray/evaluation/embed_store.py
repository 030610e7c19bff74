"""`chartray embed`: the embedding of every image of a store, as one Parquet file to work with elsewhere.

One row an image, in the order of the store: `image_id`, `patient_id`, `study_id` (may be null), `split`, `embedding`
(fixed-size list of D float32: the class token of the whole image). The schema metadata, key `chartray.embeddings`, is
JSON: format, source, dimensions, encoder (size, grey statistics, architecture, provenance), store (folder, hash,
dataset), split, precision, versions, when. The file carries its own SHA-256 (`outputs.parquet_file`).
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from chartray.config.public import PublicOptions
from chartray.errors import InputError
from chartray.evaluation.embed import embed
from chartray.evaluation.embed_file import EMBEDDINGS_KEY, check_embeddings_replaceable
from chartray.evaluation.image_set import metadata_of
from chartray.networks.encoder import PretrainedEncoder
from chartray.networks.public import AS_PUBLISHED, open_encoder
from chartray.outputs.parquet_file import write_table
from chartray.pixels.store import Store
from chartray.results.folder import versions
from chartray.schema import hashed

FORMAT = 2
_NAMES = ("image_id", "patient_id", "study_id", "split")
_IDS = _NAMES[:3]


def embed_store(
    source: Path,
    store: Path,
    out: Path,
    *,
    split: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    reading: PublicOptions = AS_PUBLISHED,
    hash_ids: bool = False,
) -> Path:
    """Embeds the images of a store and writes `out`, whole or not at all; returns it.

    Args:
        source: RUN, encoder folder or public encoder.
        store: the STORE.
        out: the Parquet file to write; earlier embeddings are replaced, anything else is not.
        split: train, validate or test; default all images. No label is read.
        device: auto, cpu or cuda.
        precision: fp32, or bf16 for autocast.
        reading: how a public encoder is read.
        hash_ids: write hashed names instead of ids, and no folder's path; equal ids of this store have equal names.

    Raises:
        InputError: no such encoder, store or split, `out` is something else, or an embedding is not finite.
    """
    check_embeddings_replaceable(out)
    encoder, image_set = open_encoder(source, reading), Store.open(store)
    rows = _rows(image_set, split)
    features = embed(encoder, image_set, rows, device=device, precision=precision)
    named = image_set.cohort.select(_NAMES)
    cohort = (_with_hashed_ids(named) if hash_ids else named).take(pa.array(rows))
    flat = pa.array(np.ascontiguousarray(features).ravel(), pa.float32())
    table = cohort.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, features.shape[1]))
    described = _description(source, encoder, image_set) | {
        "split": split,
        "films": len(rows),
        "dimensions": features.shape[1],
        "precision": precision,
    }
    shared = _without_folders(described | {"hashed_ids": True}) if hash_ids else described
    table = table.replace_schema_metadata({EMBEDDINGS_KEY: json.dumps(shared).encode()})
    write_table(table, out)
    return out


def _with_hashed_ids(named: pa.Table) -> pa.Table:
    """Names of all the store's ids, whatever split is embedded: the same in every file of it."""
    for name in _IDS:
        ids = named[name].to_pylist()
        names = dict(zip(ids, hashed([each or "" for each in ids], size=8), strict=True)) | {None: None}
        column = pa.array([names[each] for each in ids], pa.string())
        named = named.set_column(named.column_names.index(name), name, column)
    return named


def _without_folders(said: JsonValue) -> JsonValue:
    """A description in which only the last part of each path is left: folders may be named after patients.

    >>> _without_folders({"source": "/data/runs/a", "command": "chartray embed /data/b c"})
    {'source': 'a', 'command': 'chartray embed b c'}
    """
    if isinstance(said, dict):
        return {name: _without_folders(value) for name, value in said.items()}
    if isinstance(said, list):
        return [_without_folders(value) for value in said]
    if isinstance(said, str):
        return " ".join(Path(word).name if "/" in word else word for word in said.split(" "))
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


def _description(source: Path, encoder: PretrainedEncoder, store: Store) -> dict[str, JsonValue]:
    return {
        "format": FORMAT,
        "source": str(source),
        "encoder": encoder.described(),
        "store": {"folder": str(store.folder), "hash": store.hash, "dataset": metadata_of(store).source},
        "versions": {**versions()},
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
