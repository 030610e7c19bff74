"""Images of 2544 x 3056 pixels into a store, against Pillow's and pydicom's usual way to the same size."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.speed.measuring import Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.processor import Counted
from chartray.cores import available_cores
from chartray.memory import keep_freed_memory
from chartray.pixels.image_process import Limits
from chartray.pixels.shards import ShardTask, build_shard
from chartray.pixels.store import UNFINISHED

RATIO_GOAL = 4.0
SIZE = 448
_HEIGHT, _WIDTH = 3056, 2544
_DIFFERENT_FILMS, _FILMS_PER_PROCESS = 8, 32
# So that a JPEG of quality 95 has 1.5 MB, as those of MIMIC-CXR-JPG have on average (558 GB, 377,110 images).
_GRAIN = 1.85
_BITS = 12


class _Share(NamedTuple):
    """What one process did: images, seconds from its first image to its last, and its processor seconds."""

    films: int
    seconds: float
    processor_seconds: float


def measure(name: str, options: Options) -> Row:
    """Images a second and core, one process a core: read, squashed to 448 px, written to shards and flushed to disk.

    The reference writes nothing. `ingest.jpeg`: Pillow opens, converts to RGB and resizes. `ingest.dicom`: pydicom's
    pixel array, modality step and window, stretched to 8 bits, then Pillow as before. Each image is read from the
    system's cache by both.
    """
    kind = name.removeprefix("ingest.")
    height, width = (_HEIGHT // 4, _WIDTH // 4) if options.quick else (_HEIGHT, _WIDTH)
    paths = write_films(options.scratch, kind, height, width)
    count = _DIFFERENT_FILMS if options.quick else _FILMS_PER_PROCESS
    theirs = convert_jpeg if kind == "jpeg" else convert_dicom
    ours, reference = side_by_side(
        [
            partial(in_processes, partial(ingest_share, options.scratch), keep_freed_memory, paths, count),
            partial(in_processes, partial(convert_share, theirs), None, paths, count),
        ],
        options.repeats,
    )
    used = [way.notes["processor_seconds"] for way in (ours, reference)]
    details: dict[str, float | str] = {
        "processes": available_cores(),
        "megabytes_per_film": sum(Path(path).stat().st_size for path in paths) / len(paths) / 1e6,
        "megabytes_per_stored_film": SIZE * SIZE / 1e6,
        "processor_ms_per_film_ours": used[0] * 1e3,
        "processor_ms_per_film_reference": used[1] * 1e3,
        "ratio_of_processor_seconds": used[1] / used[0],
    }
    return Row(name, "images/s/core", "higher", ours, reference, RATIO_GOAL, "ratio", details)


def in_processes(
    share: Callable[[Sequence[str], int], _Share],
    initializer: Callable[[], None] | None,
    paths: list[str],
    count: int,
) -> Once:
    """One process a core, started anew each round; each takes `count` images. Images a second and core."""
    cores = available_cores()
    chosen = [paths[film % len(paths)] for film in range(count)]

    def once() -> tuple[float, float]:
        with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=initializer) as pool:
            shares = list(pool.map(share, [chosen] * cores, range(cores)))
        films = sum(each.films for each in shares)
        used = sum(each.processor_seconds for each in shares) / films
        return films / max(each.seconds for each in shares) / cores, used

    return Counted(once)


def ingest_share(folder: Path, paths: Sequence[str], process: int) -> _Share:
    """One shard, as `chartray ingest` has its workers build it."""
    (folder / UNFINISHED).mkdir(exist_ok=True)
    names = [str(film) for film in range(len(paths))]
    task = ShardTask(str(folder), process, 0, SIZE, "", names, list(paths), Limits())
    build_shard(task._replace(image_ids=names[:1], paths=task.paths[:1]))  # imports are paid, uncounted
    return _counted(lambda: len(build_shard(task).kept))


def convert_share(convert: Callable[[str], Any], paths: Sequence[str], process: int) -> _Share:
    """As many images by the usual way, their pixels given up at once."""
    convert(paths[0])
    return _counted(lambda: sum(convert(path) is not None for path in paths))


def convert_jpeg(path: str) -> Image.Image:
    """The usual way: three channels of a grey image, all of its pixels decoded, then resized."""
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def convert_dicom(path: str) -> Image.Image:
    """The usual way with pydicom: modality step, window, negative inverted, stretched to 8 bits, RGB, resized."""
    data = pydicom.dcmread(path)
    values = np.asarray(apply_voi_lut(apply_modality_lut(pixel_array(data), data), data), dtype=np.float64)
    if data.PhotometricInterpretation == "MONOCHROME1":
        values = values.max() - values
    values -= values.min()
    values /= values.max()
    grey = Image.fromarray((values * 255).astype(np.uint8))
    return grey.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def write_films(folder: Path, kind: str, height: int, width: int) -> list[str]:
    """Different images, smooth with grain: JPEG of quality 95, or DICOM of 12 bits, uncompressed, with a window."""
    paths = []
    for film in range(_DIFFERENT_FILMS):
        path = folder / f"film-{film}.{kind}"
        if kind == "jpeg":
            Image.fromarray(_drawn(film, height, width, 8).astype(np.uint8)).save(path, quality=95)
        else:
            _save_dicom(path, _drawn(film, height, width, _BITS).astype(np.uint16))
        paths.append(str(path))
    return paths


def _drawn(film: int, height: int, width: int, bits: int) -> npt.NDArray[np.float32]:
    """(height, width) in [0, 2^bits): what is smooth over centimetres, and grain that does not compress."""
    generator = np.random.default_rng(film)
    coarse = Image.fromarray(generator.uniform(30, 225, (12, 10)).astype(np.float32))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    grey = smooth + _GRAIN * generator.standard_normal((height, width), dtype=np.float32)
    drawn: npt.NDArray[np.float32] = np.clip(grey, 0, 255) * np.float32(((1 << bits) - 1) / 255)
    return drawn


def _save_dicom(path: Path, pixels: npt.NDArray[np.uint16]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, _BITS, _BITS - 1
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)


def _counted(work: Callable[[], int]) -> _Share:
    began, used = time.perf_counter(), _processor_seconds()
    films = work()
    return _Share(films, time.perf_counter() - began, _processor_seconds() - used)


def _processor_seconds() -> float:
    """Of this process and of the readers of images that it has started."""
    children = [each for task in Path("/proc/self/task").iterdir() for each in (task / "children").read_text().split()]
    ticks = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13] for child in children]
    return time.process_time() + sum(int(n) for pair in ticks for n in pair) / os.sysconf("SC_CLK_TCK")
