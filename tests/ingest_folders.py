"""Folders of images to ingest, with the fixtures `films` and `cohort`, and readers of what an ingest left."""

import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chartray.outputs import json_file, parquet_file
from chartray.outputs.replacing import replaced_file
from chartray.pixels import shards
from chartray.schema import CohortMetadata, to_metadata


def write_cohort(
    file: Path, paths: list[Path | str], root: Path | str = "", ids: list[str | None] | None = None
) -> Path:
    rows = len(paths)
    cohort = pa.table(
        {
            "image_id": pa.array(ids or [f"image-{row}" for row in range(rows)], pa.string()),
            "patient_id": [f"patient-{row // 2}" for row in range(rows)],
            "path": [str(path) for path in paths],
            "split": ["train"] * rows,
            "ehr.sex": [("male", None, "female")[row % 3] for row in range(rows)],
        }
    )
    metadata = CohortMetadata(source="table", image_root=str(root))
    pq.write_table(cohort.replace_schema_metadata(to_metadata(metadata)), file)
    return file


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """38 images, of which four cannot be read: empty, cut short, no picture, constant."""
    folder = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(2)
    for row in range(38):
        pixels = random.integers(0, 256, (30 + row, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02d}.{'png' if row % 2 else 'jpg'}")
    (folder / "03.png").write_bytes(b"")
    (folder / "10.jpg").write_bytes((folder / "10.jpg").read_bytes()[:-400])
    (folder / "17.png").write_text("<html>404</html>")
    Image.new("L", (9, 9), 3).save(folder / "25.png")
    return folder


@pytest.fixture
def cohort(films: Path, tmp_path: Path) -> Path:
    paths: list[Path | str] = [*sorted(films.iterdir()), films / "gone.png"]
    return write_cohort(tmp_path / "cohort.parquet", paths, films)


def many_images(folder: Path) -> Path:
    """A cohort of 320 images, 20 shards: some seconds of work."""
    random = np.random.default_rng(3)
    pictures = [folder / f"{number}.png" for number in range(5)]
    for picture in pictures:
        Image.fromarray(random.integers(0, 256, (600, 500), dtype=np.uint8)).save(picture, compress_level=1)
    return write_cohort(folder / "cohort.parquet", [pictures[row % 5] for row in range(320)], folder)


def png(width: int, height: int, lines: int) -> bytes:
    """A PNG of zeros that declares its size and holds so many lines of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    squeezed, line = zlib.compressobj(9), bytes(width + 1)
    data = b"".join(squeezed.compress(line) for _ in range(lines)) + squeezed.flush()
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def shards_of(out: Path) -> int:
    return len(list((out / "unfinished").glob("shard-*.json")))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


class Killed(BaseException):
    """Stands for SIGKILL at one exact place."""


def killed_at(stop: int, renamed: bool, patch: pytest.MonkeyPatch) -> None:
    """Makes an ingest raise Killed at its write number `stop`, before or after the file has its name."""
    calls = iter(range(1000))

    @contextmanager
    def stopping(file: Path, **shared: Path | None) -> Iterator[Path]:
        last = next(calls) == stop
        with replaced_file(file, **shared) as partial:
            yield partial
            if last and not renamed:
                raise Killed
        if last:
            raise Killed

    for module in (shards, json_file, parquet_file):
        patch.setattr(module, "replaced_file", stopping)
