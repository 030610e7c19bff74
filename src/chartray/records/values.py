"""Text cells -> numbers, identifiers and times, each distinct text read once; null where it is none."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

# Three digits and a capital letter, as DICOM has it (PS3.5, AS); `18M` is also how a man of 18 is written.
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])", re.ASCII)
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def by_cell(column: Any, value: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """`value` of each cell, worked out once for each distinct text; blank cells stay null.

    >>> by_cell(pa.array(["1", None, "x", "1"]), number, pa.float64()).to_pylist()
    [1.0, None, None, 1.0]
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = column.dictionary_encode()
    return pa.array([value(cell) for cell in encoded.dictionary.to_pylist()], kind).take(encoded.indices)


def number(cell: str) -> float | None:
    """A finite number, or None: `inf`, `nan`, `3,5` and `1_000` are not."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def years(cell: str) -> float | None:
    """A finite number of years, or an age as DICOM writes it in years, months, weeks or days; else None.

    >>> [years(cell) for cell in ("45", "045Y", "018M", "18M")]
    [45.0, 45.0, 1.5, None]
    """
    age = _DICOM_AGE.fullmatch(cell)
    return number(cell) if age is None else int(age[1]) * _YEARS[age[2]]


def identifier(cell: str) -> int | None:
    """A whole number of 64 bits, or None; `12.0`, as some programs write it, is 12."""
    try:
        value = int(cell)
    except ValueError:
        decimal = number(cell)
        if decimal is None or not decimal.is_integer():
            return None
        value = int(decimal)
    return value if abs(value) < 2**63 and "_" not in cell else None


def moment(cell: str) -> datetime | None:
    """A date, or a date and a time, as ISO 8601 writes them, or None; one of another time zone in UTC."""
    try:
        time = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
