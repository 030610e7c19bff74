"""What --out may be: nothing, an empty folder, or an earlier result of the same kind."""

from collections.abc import Callable
from pathlib import Path

from chartray.errors import InputError
from chartray.outputs.replacing import refuse_file_above, settle


def refuse_other(out: Path, foreign: Callable[[set[str]], str] | None = None) -> None:
    """Raises InputError unless the folder `out` is new, empty, or an earlier result that may be replaced.

    First puts right what a killed command left of `out`.

    Args:
        out: the folder to be written.
        foreign: given the names in `out`, says what it holds that may not be replaced, such as "no earlier report", or
            "". Without it nothing may be replaced.
    """
    settle(out)
    if not out.exists():
        refuse_file_above(out)
        return
    if not out.is_dir():
        raise InputError(f"expected a folder as --out, found the file {out}; choose another --out")
    names = {entry.name for entry in out.iterdir()}
    holds = foreign(names) if foreign is not None else ""
    if names and (holds or foreign is None):
        also = f" and holds {holds}" if holds else ""
        raise InputError(f"{out} is not empty{also}; choose another folder")


def refuse_other_file(out: Path, kind: str, is_earlier: Callable[[Path], bool]) -> None:
    """Raises InputError unless the file `out` is new, or an earlier result of `kind`, which may be replaced."""
    settle(out)
    if not (out.exists() or out.is_symlink()):
        refuse_file_above(out)
    elif not (out.is_file() and is_earlier(out)):
        found = "a folder" if out.is_dir() else "another file, which would be overwritten"
        raise InputError(f"expected a new file or {kind} at {out}, found {found}; give --out another name")
