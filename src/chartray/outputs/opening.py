"""A sealed folder: every file is verified as it is read, against one reading of the seal."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.outputs.json_file import parsed
from chartray.outputs.replacing import settle
from chartray.outputs.seal import SUMS_FILE, read_sums, verified


class SealedFolder:
    """The files of a folder that was sealed, verified as they are read.

    Each method raises InputError, which names the file, for one that is missing, was damaged or edited, or holds
    something else than it is read as.
    """

    def __init__(self, folder: Path) -> None:
        """Cleans up after a killed command and reads the folder's seal; raises InputError without one."""
        settle(folder)
        self.folder = folder
        self._sums = read_sums(folder)

    def __contains__(self, name: str) -> bool:
        """Whether `name` was written; raises InputError for a file that somebody put there since."""
        if name not in self._sums and (self.folder / name).exists():
            raise InputError(
                f"expected {self.folder / name} in {SUMS_FILE}, found no line for it: the file was added later, or the "
                "line was lost; make this folder again, or restore a complete copy of it"
            )
        return name in self._sums

    def below(self, part: str) -> bool:
        """Whether a file of the folder `part` was written."""
        return any(name.startswith(f"{part}/") for name in self._sums)

    def object(self, name: str) -> dict[str, Any]:
        """A JSON object."""
        return parsed(self._text(name), str(self.folder / name))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The JSON objects of a .jsonl file, one a line."""
        lines = self._text(name).removesuffix("\n").split("\n")
        return [
            parsed(line, f"line {number} of {self.folder / name}") for number, line in enumerate(lines, start=1) if line
        ]

    def table(self, name: str) -> pa.Table:
        """A Parquet table."""
        content = io.BytesIO(verified(self.folder, name, self._sums))
        with self._understood(name, "Parquet"), pq.ParquetFile(content) as parquet:
            return parquet.read()

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a safetensors file."""
        from safetensors.numpy import load  # a tenth of a second, for the few commands that read arrays

        with self._understood(name, "safetensors"):
            found: dict[str, NDArray[Any]] = load(verified(self.folder, name, self._sums))
            return found

    def _text(self, name: str) -> str:
        with self._understood(name, "UTF-8 text"):
            return verified(self.folder, name, self._sums).decode("utf-8")

    @contextmanager
    def _understood(self, name: str, form: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # the libraries raise errors of many kinds
            said = " ".join(str(error).split())[:200]
            raise InputError(f"expected {form} in {self.folder / name}, found something else: {said}") from None
