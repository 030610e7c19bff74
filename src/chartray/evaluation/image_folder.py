"""Any folder of images, without a cohort: read as ingest reads them, in processes of their own."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chartray.cores import available_cores
from chartray.errors import InputError
from chartray.pixels.grey import UnreadableImage
from chartray.pixels.image_process import USUAL_LIMITS, read_apart
from chartray.pixels.store import INDEX_FILE, UNFINISHED
from chartray.wording import plural

# As ingest stores an image by default: an embedding is then the same on both ways.
STORED_SIZE = 448


def is_store(path: Path) -> bool:
    """Whether `path` is to be read as a store, finished or not, and not as a folder of images."""
    return not path.is_dir() or any((path / name).exists() for name in (INDEX_FILE, UNFINISHED))


class ReadImages(NamedTuple):
    """Some files of the folder: `images` uint8 (n, S, S) of those that could be read, and for each file the reason why
    it could not, or None.
    """

    files: list[str]
    images: npt.NDArray[np.uint8]
    reasons: list[str | None]


def image_files(folder: Path) -> list[str]:
    """The files in `folder` and below it, by path from there, in order; raises InputError if there are none.

    Files and folders whose name begins with a dot are left out.
    """
    below = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    found = sorted(file.as_posix() for file in below if not any(part.startswith(".") for part in file.parts))
    if not found:
        raise InputError(f"expected images in {folder} or below it, found no files; check the path")
    return found


def read_files(folder: Path, files: list[str], at_once: int, size: int = STORED_SIZE) -> Iterator[ReadImages]:
    """The images of `files`, `at_once` at a time; raises InputError in the end if none of them could be read."""
    limits = USUAL_LIMITS._replace(within=str(folder.resolve()))
    reasons: Counter[str] = Counter()

    def read(file: str) -> npt.NDArray[np.uint8] | str:
        image = np.empty((size, size), np.uint8)
        try:
            read_apart(str(folder.resolve() / file), size, limits, image)
        except UnreadableImage as unreadable:
            return str(unreadable)
        return image

    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(files), at_once):
            some = files[start : start + at_once]
            found = list(pool.map(read, some))
            why = [each if isinstance(each, str) else None for each in found]
            reasons.update(each for each in why if each is not None)
            images = [each for each in found if not isinstance(each, str)]
            yield ReadImages(some, np.stack(images) if images else np.empty((0, size, size), np.uint8), why)
    if reasons.total() == len(files):
        reason, count = reasons.most_common(1)[0]
        raise InputError(
            f"expected images in {folder}, found {plural(len(files), 'file')}, none of which could be read ({count}: "
            f"{reason}); give a folder of JPEG, PNG or DICOM"
        )
