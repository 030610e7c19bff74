"""One shard of a store: an Arrow file whose bytes are verified piece by piece, as they are read.

One record batch with the columns `image_id`, `sha256` (of the image's pixels, then its id) and `image`,
fixed_shape_tensor uint8 [S, S]. The pixels are one piece of the file. All around them, the *frame* (Arrow's own words,
ids, digests), is small: its SHA-256 is verified before Arrow, which trusts what it maps, may read it. Each image is
then verified against its digest when it is first looked at.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, NonNegativeInt

from chartray.errors import InputError

# An Arrow record batch is addressed with 32-bit offsets here and there; half of that is a safe shard.
LARGEST_SHARD_BYTES = 2**30
_DIGEST = 32

Pixels = npt.NDArray[np.uint8]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Shard(NamedTuple):
    """What is known of a shard: its file's name, images, bytes and SHA-256, where the pixels begin, and the frame's."""

    file: Annotated[str, Field(pattern=r"^images-[0-9]{5,10}\.arrow$")]
    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: Digest
    pixels_at: NonNegativeInt
    frame_sha256: Digest


class Mapped(NamedTuple):
    """A shard in memory: `images` uint8 (n, S, S), read-only; `digests` uint8 (n, 32); `ids` (n,).

    `verified` (n,) is 1 where this process has seen the image to be what was written.
    """

    images: Pixels
    digests: Pixels
    ids: pa.Array
    verified: bytearray

    def vouched(self, row: int, image: Pixels) -> bool:
        """Whether `image` (S, S) is what was written as `row`."""
        return digest_of(str(self.ids[row]), image) == bytes(self.digests[row])


def digest_of(image_id: str, image: Pixels) -> bytes:
    """SHA-256 of the pixels (S, S), then the id."""
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    digest.update(image_id.encode())
    return digest.digest()


def write_shard(file: Path, image_ids: list[str], images: Pixels) -> tuple[Shard, bytes]:
    """Writes `images` uint8 (n, S, S) and their ids to `file`; returns what is known of it, and its n digests."""
    rows, size = len(images), images.shape[1]
    digests = b"".join(digest_of(each, image) for each, image in zip(image_ids, images, strict=True))
    tensor = pa.fixed_shape_tensor(pa.uint8(), (size, size))
    storage = pa.FixedSizeListArray.from_arrays(arrow_numbers(images.reshape(-1)), type=tensor.storage_type)
    columns = {
        "image_id": arrow_strings(image_ids),
        "sha256": pa.Array.from_buffers(pa.binary(_DIGEST), rows, [None, pa.py_buffer(digests)]),
        "image": pa.ExtensionArray.from_storage(tensor, storage),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.memory_map(str(file)) as source:
        content = source.read_buffer()
    pixels = pa.ipc.open_file(content).get_batch(0).column("image").storage.flatten().buffers()[1]
    # Without images there are no pixels in the file, and Arrow gives memory of its own.
    at = pixels.address - content.address if rows else 0
    whole, frame = hashlib.sha256(content).hexdigest(), _frame_sha256(content, at, images.size)
    return Shard(file.name, rows, content.size, whole, at, frame), digests


def map_shard(folder: str | Path, shard: Shard, size: int, again: str) -> Mapped:
    """Maps a shard, its frame verified: no pixel is read before it is touched.

    Raises InputError, which ends in `again` (how to repair the store), if it is missing or not as it was written.
    """
    file = f"{folder}/{shard.file}"
    try:
        # Closing gives the descriptor back; the pages stay mapped for as long as the arrays live.
        with pa.memory_map(file) as source:
            content = source.read_buffer()
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise InputError(f"expected a shard of images in {file}, found {said}; {again}") from None
    pixels = shard.rows * size * size
    if content.size != shard.bytes or _frame_sha256(content, shard.pixels_at, pixels) != shard.frame_sha256:
        raise InputError(
            f"expected {file} as it was written, found other content (its SHA-256 differs); the store is damaged: "
            f"{again}"
        )
    try:
        batch = pa.ipc.open_file(content).get_batch(0)
        batch.validate(full=True)
        shapes = (batch.column("image").to_numpy_ndarray().shape, len(batch.column("sha256")))
    except (pa.ArrowException, KeyError, ValueError, AttributeError):
        shapes = None
    if shapes != ((shard.rows, size, size), shard.rows) or batch.schema.types[1] != pa.binary(_DIGEST):
        raise InputError(f"expected {shard.rows} images of {size} x {size} in {file}, found other content; {again}")
    column, buffer = batch.column("sha256"), batch.column("sha256").buffers()[1]
    digests = np.frombuffer(buffer, dtype=np.uint8, count=len(column) * _DIGEST).reshape(-1, _DIGEST)
    return Mapped(batch.column("image").to_numpy_ndarray(), digests, batch.column("image_id"), bytearray(shard.rows))


def _frame_sha256(content: pa.Buffer, pixels_at: int, pixels: int) -> str:
    view = memoryview(content)
    digest = hashlib.sha256(view[:pixels_at])
    digest.update(view[pixels_at + pixels :])
    return digest.hexdigest()


def arrow_numbers(values: npt.NDArray[Any]) -> pa.Array:
    """A number column (n,) over the memory of `values` (`pa.array` would import pandas in every worker)."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def arrow_strings(values: list[str]) -> pa.Array:
    """A string column, likewise."""
    encoded = [value.encode() for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in encoded])]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))
