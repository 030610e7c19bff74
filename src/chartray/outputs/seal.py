"""SHA-256 of written results, verified when they are opened: a changed result is refused.

A folder is sealed by the file SHA256SUMS in it, which `sha256sum -c SHA256SUMS` reads too.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from chartray.errors import InputError

SUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)")


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Writes SHA256SUMS over every file in `folder` and below it, in the order of their names."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file != folder / SUMS_FILE
    )
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def verify(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raises InputError unless `names` (default: every file that was sealed) hold what they held when sealed.

    Args:
        folder: a folder that `seal` has sealed.
        names: files of it, as paths below it; only files about to be read need it. A name that was not sealed is
            refused.
    """
    sums = read_sums(folder)
    for name in sums if names is None else names:
        with _reading(folder, name, sums):
            found = sha256(folder / name)
        _expect(folder / name, found, sums[name])


def verified(folder: Path, name: str, sums: Mapping[str, str]) -> bytes:
    """The content of a file, as it was when sealed: the very bytes that were verified; raises as `verify`."""
    with _reading(folder, name, sums):
        content = (folder / name).read_bytes()
    _expect(folder / name, hashlib.sha256(content).hexdigest(), sums[name])
    return content


def sealed(folder: Path) -> bool:
    """Whether `folder` has the file that seals it."""
    return (folder / SUMS_FILE).is_file()


@contextmanager
def _reading(folder: Path, name: str, sums: Mapping[str, str]) -> Iterator[None]:
    file = folder / name
    if name not in sums:
        raise InputError(f"expected {name} among the files of {folder / SUMS_FILE}, found others; {_AGAIN}")
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"expected the file {file}, found none; the folder is incomplete: {_AGAIN}") from None
    except OSError as error:
        raise InputError(f"expected to read the file {file}, found: {error.strerror}; {_AGAIN}") from None


def _expect(file: Path, found: str, sealed_as: str) -> None:
    if found != sealed_as:
        raise InputError(
            f"expected {file} as it was written, found other content (its SHA-256 differs): it was damaged or edited; "
            f"{_AGAIN}"
        )


_AGAIN = "make this folder again, or restore a complete copy of it"


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by name, as `seal` wrote them; raises InputError where there are none or other text."""
    file = folder / SUMS_FILE
    try:
        *lines, rest = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise InputError(
            f"expected {SUMS_FILE} in {folder}, found none: the folder is incomplete, or of an earlier version of "
            f"Chartray; {_AGAIN}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise InputError(f"expected lines of SHA-256 and name in {file}, found: {said}; {_AGAIN}") from None
    sums = {}
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or line is rest:
            raise InputError(f"expected a SHA-256 and a name in line {number} of {file}, found other text; {_AGAIN}")
        sums[match[2]] = match[1]
    return sums
