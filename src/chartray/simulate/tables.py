"""Writing of reproducible csv files."""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from chartray.csv_cells import harmless

Row = tuple[object, ...]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes a csv file with a header; compressed, without a time stamp, if `path` ends in .gz.

    A text that a spreadsheet would read as a formula gets a leading apostrophe (`csv_cells`).
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0) if path.suffix == ".gz" else content)
