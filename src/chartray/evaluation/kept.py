"""What an evaluation has computed until it was killed: features, piece by piece, each verified before it is used."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from chartray.errors import InputError
from chartray.networks.encoder import PretrainedEncoder
from chartray.outputs.parquet_file import read_table, write_table
from chartray.pixels.store import Store

Integers = NDArray[np.int64]
Features = NDArray[np.float32]

# A multiple of every batch: an image is embedded among the same others, wherever a computation was killed.
PIECE = 2048
_KEY = b"chartray.features"


class KeptFeatures(NamedTuple):
    """The pieces of one kind of features in `folder`; `made_of` is what they follow from."""

    folder: Path
    made_of: Mapping[str, JsonValue]

    def of(self, store: Store, rows: Integers, **more: JsonValue) -> "KeptFeatures":
        """Those of some images of a store, made of `more`."""
        where = self.folder.with_name(f"{self.folder.name}-{store.hash[:16]}")
        images = hashlib.sha256(rows.tobytes()).hexdigest()[:16]
        return KeptFeatures(where, {**self.made_of, "store": store.hash, "images": images, **more})

    def read(self, start: int) -> Features | None:
        """The piece that begins with image `start`; None if there is none, or a damaged one, which is told.

        Raises InputError for one that is made of something else.
        """
        file = self._file(start)
        if not file.exists():
            return None
        try:
            table = read_table(file, "features that an evaluation has kept")
            of = json.loads((table.schema.metadata or {})[_KEY])
        except (InputError, LookupError, ValueError) as error:
            print(f"chartray: computed again, since it cannot be read: {error}", file=sys.stderr, flush=True)
            return None
        for name in of | {**self.made_of}:
            if of.get(name) != self.made_of.get(name):
                raise InputError(
                    f"expected to continue the evaluation in {self.folder.parent} with the {name} that it was begun "
                    f"with, found another; repeat the command that began it, or delete {self.folder.parent} to begin "
                    "again"
                )
        flat = table.column("features").combine_chunks()
        values: Features = flat.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        return values

    def write(self, start: int, features: Features) -> None:
        """Keeps a piece, whole or not at all."""
        flat = pa.array(np.ascontiguousarray(features).ravel(), pa.float32())
        table = pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(table.replace_schema_metadata({_KEY: json.dumps(dict(self.made_of)).encode()}), self._file(start))

    def _file(self, start: int) -> Path:
        return self.folder / f"{start:09d}.parquet"


def unfinished(out: Path, *, resume: bool) -> Path:
    """Where an evaluation keeps what it has computed until its results are written: beside `out`.

    Raises InputError where an earlier one has left something and is not to be continued.
    """
    folder = out.with_name(f".{out.name}.unfinished")
    if folder.exists() and not resume:
        raise InputError(f"an unfinished evaluation for {out} is in {folder}; continue it with --resume, or delete it")
    return folder


def weights_digest(encoder: PretrainedEncoder) -> str:
    """16 hexadecimal digits that tell the weights of two encoders apart."""
    digest = hashlib.sha256()
    for name, value in encoder.model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def made_of_encoder(encoder: PretrainedEncoder) -> dict[str, JsonValue]:
    """What features follow from, of the encoder."""
    sees = f"{encoder.size} {encoder.grey_mean} {encoder.grey_std} {encoder.interpolation}"
    return {"encoder": weights_digest(encoder), "preparation of images": sees, "pooling": encoder.provenance.pooling}
