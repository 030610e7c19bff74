"""Results written beside, synced to the disk, then given their name: the earlier or the new one is always whole.

Beside `out` lie, while it is being written, `.out.lock`, `.out.partial` (the new one) and, for a moment, `.out.earlier`
(the old one). Whatever a killed command leaves of these, the next one that writes or reads `out` puts right (`settle`).
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from chartray.errors import InputError
from chartray.outputs.disk import writing
from chartray.outputs.lock import locked
from chartray.outputs.seal import seal

# Inside a folder that cannot be renamed: the new content before and while it moves in, and the earlier content.
_NEW, _MOVING_IN, _EARLIER = ".chartray-new", ".chartray-moving-in", ".chartray-earlier"


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A folder to write in, which is sealed, synced and becomes `out` if nothing goes wrong, whatever stood there.

    A link stays, and what it points to is replaced. The folder one stands in, and one where a disk is mounted, stay
    too, and their content is replaced.

    Raises:
        InputError: another command is writing to `out`.
        OutputError: the machine cannot write: no room, a quota, a limit; `out` is as it was.
    """
    out = out.resolve()
    partial = _beside(out, "partial")
    with writing(out), _locked(out):
        _settle(out)
        partial.mkdir(parents=True)
        try:
            yield partial
            seal(partial)
            sync(partial)
            _exchange(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replaced_file(out: Path) -> Iterator[Path]:
    """The name of a file to write, which is synced and becomes `out` if nothing goes wrong; raises as the above."""
    out = out.resolve()
    partial = _beside(out, "partial")
    with writing(out), _locked(out):
        try:
            yield partial
            sync(partial)
            partial.replace(out)
            sync_names(out.parent)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def settle(out: Path) -> None:
    """Puts right what a killed command left of `out`: the earlier result is back, or what remained of it is gone.

    To be called before `out` is read; it costs a look at a few names where there is nothing to do.
    """
    out = out.resolve()
    inside = (f"{_NEW}.partial", _NEW, _MOVING_IN, _EARLIER)
    left = (_beside(out, "partial"), _beside(out, "earlier"), *(out / name for name in inside))
    if not any(place.exists() for place in left):
        return
    # Who may not write here, or comes while another writes, leaves it to them.
    with suppress(OSError, InputError), _locked(out):
        _settle(out)


def sync(place: Path) -> None:
    """Flushes a file, or a folder with all in it, to the disk."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    for folder in [] if place.is_file() else [place, *(each for each in place.rglob("*") if each.is_dir())]:
        sync_names(folder)


def sync_names(folder: Path) -> None:
    """Flushes the names in a folder to the disk, so that a renamed file keeps its name when the power goes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):  # some shares cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}.{what}")


def _locked(out: Path) -> AbstractContextManager[None]:
    return locked(_beside(out, "lock"), f"another command is writing to {out}; wait for it, or choose another --out")


def _exchange(partial: Path, out: Path) -> None:
    """The earlier one aside, the new one in, the earlier one removed."""
    if not out.exists():
        partial.rename(out)
    elif out == Path.cwd() or out.is_mount():
        whole = out / f"{_NEW}.partial"  # another disk may be mounted here: a copy is whole only when it is done
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(partial, whole)
        sync(whole)
        whole.rename(out / _NEW)
        _move_in(out)
    else:
        earlier = _beside(out, "earlier")
        out.rename(earlier)
        try:
            partial.rename(out)
        except OSError:
            earlier.rename(out)
            raise
        sync_names(out.parent)
        shutil.rmtree(earlier)
    sync_names(out.parent)


def _move_in(out: Path) -> None:
    """Replaces the content of `out` by that of the folder in it; begun again after a kill, it goes on where it was."""
    new, moving, earlier = out / _NEW, out / _MOVING_IN, out / _EARLIER
    if new.exists():
        earlier.mkdir(exist_ok=True)
        for entry in list(out.iterdir()):
            if entry not in (new, earlier):  # after a kill some of them lie in `earlier` already
                entry.rename(earlier / entry.name)
        new.rename(moving)
        sync_names(out)
    if moving.exists():
        for entry in sorted(moving.iterdir()):
            entry.rename(out / entry.name)
        moving.rmdir()
        sync_names(out)
    shutil.rmtree(earlier, ignore_errors=True)


def _settle(out: Path) -> None:
    partial, earlier = _beside(out, "partial"), _beside(out, "earlier")
    if earlier.exists():
        shutil.rmtree(earlier) if out.exists() else earlier.rename(out)
    if partial.is_dir():
        shutil.rmtree(partial)
    shutil.rmtree(out / f"{_NEW}.partial", ignore_errors=True)
    _move_in(out)
