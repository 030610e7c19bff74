"""Parquet files with the SHA-256 of all their bytes in the footer, which is verified when they are read.

The digest is in the file's key-value metadata under `chartray.sha256`, 64 hexadecimal digits; it is that of the
file with 64 zeros in their place. Another program that reads and writes the table leaves it out or makes it part of the
Arrow schema: then the rows cannot be verified, and the reader says so.
"""

import base64
import hashlib
import mmap
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chartray.errors import InputError
from chartray.outputs.notices import notice
from chartray.outputs.replacing import replaced_file, settle

_KEY, _BLANK = b"chartray.sha256", b"0" * 64
_DIGEST = re.compile(rb"[0-9a-f]{64}")
# Thrift's compact form: a string of 64 bytes is field type 0x18, then its length.
_MARK = _KEY + b"\x18" + bytes([64])


def write_table(table: pa.Table, file: Path, **options: Any) -> None:
    """Writes `table`, sealed, whole or not at all; `options` are those of `pq.ParquetWriter`."""
    with replaced_file(file) as partial:
        write_sealed(table, partial, **options)


def write_sealed(table: pa.Table, file: Path, **options: Any) -> None:
    """Writes `table` with its SHA-256 to `file` itself, for a caller that renames it or seals the folder afterwards."""
    write_parts([table], file, **options)


def write_parts(parts: Iterable[pa.Table], file: Path, **options: Any) -> None:
    """`write_sealed` of a table in `parts`, at least one, with one schema: it need not fit in memory."""
    waiting = iter(parts)
    first = next(waiting)
    kept = {key: value for key, value in (first.schema.metadata or {}).items() if key != _KEY}
    schema = first.schema.with_metadata(kept or None)
    with pq.ParquetWriter(file, schema, **({"compression": "zstd"} | options)) as writer:
        for part in chain([first], waiting):
            writer.write_table(part.replace_schema_metadata(kept or None))
        writer.add_key_value_metadata({_KEY.decode(): _BLANK.decode()})
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        place = content.rfind(_MARK) + len(_MARK)
        content[place : place + 64] = hashlib.sha256(content).hexdigest().encode()


def read_table(file: Path, what: str, columns: list[str] | None = None) -> pa.Table:
    """The table of a Parquet file, its schema metadata without the digest.

    Raises InputError, which names the file and calls it `what`, if there is none, it is no Parquet, or it is not as it
    was written. One line on standard error if another program wrote it, so that it cannot be verified.
    """
    verify_parquet(file, what)
    try:
        with pq.ParquetFile(file) as parquet:
            table = parquet.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"expected {what} (Parquet) in {file}, found something else: {said}") from None
    carried = table.schema.metadata or {}
    return table.replace_schema_metadata({key: value for key, value in carried.items() if key != _KEY} or None)


def metadata_of_parquet(file: Path) -> dict[bytes, bytes]:
    """The schema metadata of a Parquet file; empty where there is none, or `file` is no Parquet."""
    try:
        return pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowException):
        return {}


def verify_parquet(file: Path, what: str) -> None:
    """Raises InputError unless `file` is as `write_table` wrote it; prints a line if it cannot be verified."""
    settle(file)
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            vouched = _vouched(content, file)
            if vouched is False:
                raise InputError(
                    f"expected {what} in {file} as it was written, found other content (its SHA-256 differs): it was "
                    "damaged or edited; make it again, or restore a complete copy of it"
                )
    except FileNotFoundError:
        raise InputError(f"expected {what} at {file}, found no such file") from None
    except ValueError:
        raise InputError(f"expected {what} (Parquet) in {file}, found an empty file") from None
    except OSError as error:
        raise InputError(f"expected {what} at {file}, found: {error.strerror}") from None
    if vouched is None:
        notice(f"chartray: {file} was not written by Chartray, so its rows cannot be verified")


def _vouched(content: mmap.mmap, file: Path) -> bool | None:
    """Whether the bytes are those that were sealed; None where another program wrote them, with or without the key."""
    place = content.rfind(_MARK)
    start = place + len(_MARK)
    if place >= 0 and content[start : start + 64] == _digest(content, start).encode():
        return True
    try:
        metadata = pq.read_metadata(file).metadata or {}
        copied = base64.b64decode(metadata.get(b"ARROW:schema", b""))
    except (OSError, pa.ArrowException, ValueError):
        return None if place < 0 else False
    if place >= 0 and _KEY not in metadata:  # it is there, but the footer around it is damaged
        return False
    # Also a digest under another name was sealed here, and its name was damaged since.
    digests = [name for name, value in metadata.items() if name == _KEY or _DIGEST.fullmatch(value)]
    return None if all(name in copied for name in digests) else False


def _digest(content: mmap.mmap, place: int) -> str:
    digest = hashlib.sha256()
    with memoryview(content) as view:
        digest.update(view[:place])
        digest.update(_BLANK)
        digest.update(view[place + 64 :])
    return digest.hexdigest()
