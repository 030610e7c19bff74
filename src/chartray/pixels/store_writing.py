"""The last step of a store: its tables, then store.json with the digests of everything."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from chartray.flow import CohortFlow
from chartray.outputs.json_file import write_json
from chartray.outputs.parquet_file import write_table
from chartray.outputs.seal import sha256
from chartray.pixels.shard_file import Shard, arrow_numbers
from chartray.pixels.store import COHORT_FILE, FLOW_FILE, INDEX_FILE, QUARANTINE_FILE, STORE_FORMAT
from chartray.schema import from_metadata

NO_QUARANTINE = pa.table({name: pa.array([], pa.string()) for name in ("image_id", "path", "reason")})


def complete(
    folder: Path,
    size: int,
    shards: Sequence[Shard],
    digests: bytes,
    cohort: pa.Table,
    *,
    quarantine: pa.Table = NO_QUARANTINE,
    flow: CohortFlow | None = None,
    origin: Mapping[str, Any] | None = None,
) -> str:
    """Completes the store in `folder`, where the shards are; returns its content hash.

    Args:
        folder: where the shards have been written.
        size: S.
        shards: in their order.
        digests: of all images, in their order, 32 bytes each.
        cohort: one row an image, with `height` and `width` and a cohort's schema metadata.
        quarantine: `image_id`, `path`, `reason` of what could not be read.
        flow: the flow of the cohort.
        origin: further fields of store.json.
    """
    write_table(cohort, folder / COHORT_FILE)
    write_table(quarantine, folder / QUARANTINE_FILE)
    names = [COHORT_FILE, QUARANTINE_FILE]
    if flow is not None:
        write_json(folder / FLOW_FILE, flow.content())
        names.append(FLOW_FILE)
    content = content_hash(size, cohort, digests)
    index = {
        "format": STORE_FORMAT,
        "size": size,
        **(origin or {}),
        "rows": cohort.num_rows,
        "quarantined": quarantine.num_rows,
        "hash": content,
        "files": {name: sha256(folder / name) for name in names},
        "shards": [shard._asdict() for shard in shards],
    }
    write_json(folder / INDEX_FILE, index)
    return content


def content_hash(size: int, cohort: pa.Table, digests: bytes) -> str:
    """The hash of the images' digests and the cohort's rows without paths, so that other machines get the same."""
    metadata = from_metadata(cohort.schema.metadata).model_copy(update={"image_root": ""})
    digest = hashlib.sha256(json.dumps([STORE_FORMAT, size]).encode())
    digest.update(digests)
    digest.update(metadata.model_dump_json().encode())
    sink = pa.BufferOutputStream()
    rows = cohort.drop_columns(["path"]).replace_schema_metadata(None).combine_chunks()
    # The memory under a null depends on how the rows were read; once taken, it is always the same.
    rows = rows.take(arrow_numbers(np.arange(rows.num_rows, dtype=np.int64))).combine_chunks()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest.update(sink.getvalue())
    return digest.hexdigest()
