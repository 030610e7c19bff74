"""Atomic replacement: a result is written next to `out`, synced, then renamed, so that a whole one is always there.

While it is written, the same folder holds `.out.lock`, `.out.partial` (the new one) and, for a moment, `.out.earlier`
(the old one). The next command that writes or reads `out` cleans up what a killed one left of these (`settle`).
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from chartray.errors import InputError
from chartray.outputs.disk import writing
from chartray.outputs.lock import locked
from chartray.outputs.seal import seal

# Inside a folder that cannot be renamed: the new content before and while it moves in, and the earlier content.
_NEW, _MOVING_IN, _EARLIER = ".chartray-new", ".chartray-moving-in", ".chartray-earlier"


# Reserved by this process, which needs no other lock to write there.
_reserved: set[Path] = set()


@contextmanager
def reserved(out: Path) -> Iterator[None]:
    """Holds the lock of `out` while what goes there is computed; raises InputError where another command holds it.

    Folders that are made above `out` for the lock are removed again if nothing was written.
    """
    out = out.resolve()
    missing = [folder for folder in out.parents if not folder.exists()]
    refuse_file_above(out)
    with writing(out), ExitStack() as after, _locked(out):
        for folder in reversed(missing):
            after.callback(_remove_if_empty, folder)
        _reserved.add(out)
        try:
            yield
        finally:
            _reserved.discard(out)


@contextmanager
def replaced_folder(
    out: Path, *, kept: Callable[[str], bool] = lambda _: False, lasting: bool = True
) -> Iterator[Path]:
    """A folder to write in, which is sealed, synced and becomes `out` if nothing goes wrong, whatever was there.

    A link stays, and what it points to is replaced. The current folder, and one where a disk is mounted, stay
    too, and their content is replaced.

    Args:
        out: what is replaced.
        kept: whether a file of `out`, by its path below it, is kept: it is not sealed.
        lasting: false for results that take seconds to make: neither sealed nor synced, but still atomic.

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
            if lasting:
                seal(partial)
            _carry_over(out, partial, kept)
            if lasting:
                sync(partial)
            _exchange(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def refuse_file_above(out: Path) -> None:
    """Raises InputError if a folder above `out` is a file."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"cannot write {out}: {above} is a file, not a folder; choose another --out")


@contextmanager
def replaced_file(out: Path, *, shared: Path | None = None) -> Iterator[Path]:
    """The name of a file to write, which is synced and becomes `out` if nothing goes wrong; raises as the above.

    `shared` is for writers that may write the same bytes at once: a folder on the same disk, in which each writes under
    a name of its own, without a lock; what a killed one leaves there is the caller's to remove.
    """
    out = out.resolve()
    partial = _beside(out, "partial") if shared is None else shared / f"{out.name}.{uuid4().hex}"
    with writing(out), _locked(out) if shared is None else nullcontext():
        try:
            yield partial
            sync(partial)
            partial.replace(out)
            sync_names(out.parent)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def settle(out: Path) -> None:
    """Cleans up after a killed command: restores the earlier `out`, or removes its remains.

    Call it before `out` is read; if there is nothing to do, it only checks a few names.
    """
    out = out.resolve()
    inside = (f"{_NEW}.partial", _NEW, _MOVING_IN, _EARLIER)
    left = (_beside(out, "lock"), _beside(out, "partial"), _beside(out, "earlier"), *(out / name for name in inside))
    if not any(place.exists() for place in left):
        return
    # Without permission, or while another command writes, it is left as it is.
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


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}.{what}")


def _carry_over(out: Path, partial: Path, kept: Callable[[str], bool]) -> None:
    """What stays of `out`, under a second name in `partial`: it is not copied where the disk can link."""
    for folder, _, files in os.walk(out):
        for name in files:
            there = Path(folder, name)
            here = partial / there.relative_to(out)
            if kept(there.relative_to(out).as_posix()) and not os.path.lexists(here):
                here.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(there, here, follow_symlinks=False)
                except OSError:
                    shutil.copy2(there, here, follow_symlinks=False)


def _locked(out: Path) -> AbstractContextManager[None]:
    if out in _reserved:
        return nullcontext()
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
    """Replaces the content of `out` by that of the folder in it; after a kill, it continues where it was."""
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
    partial.unlink(missing_ok=True)
    shutil.rmtree(out / f"{_NEW}.partial", ignore_errors=True)
    _move_in(out)
