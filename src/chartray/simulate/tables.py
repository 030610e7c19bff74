"""Writing csv files that are the same bytes each time."""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

Row = tuple[object, ...]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A csv file with a header; compressed, without time stamp, where `path` ends in .gz."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0) if path.suffix == ".gz" else content)
