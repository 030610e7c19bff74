"""Earlier results that lie aside while they are made anew, and come back where that fails."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from chartray.outputs.replacing import settle


@contextmanager
def set_aside(folders: Sequence[Path]) -> Iterator[None]:
    """While their results are made anew, earlier ones lie aside; put back where none were made, after a kill by the
    next study.
    """
    aside = {folder: folder.with_name(f".{folder.name}.set-aside") for folder in folders}
    _put_back(aside)
    for folder, before in aside.items():
        settle(folder)
        if folder.exists():
            folder.rename(before)
    try:
        yield
    finally:
        _put_back(aside)


def _put_back(aside: Mapping[Path, Path]) -> None:
    for folder, before in aside.items():
        settle(folder)
        if before.exists() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(before, ignore_errors=True)
