"""Earlier results that are set aside while they are made again, and restored where that fails."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from chartray.outputs.replacing import settle


@contextmanager
def set_aside(folders: Sequence[Path]) -> Iterator[None]:
    """Sets earlier results aside while they are made again, and restores them where none were made.

    After a kill, the next study restores them.
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
