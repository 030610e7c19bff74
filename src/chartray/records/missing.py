"""Counts of unusable cells by value, without dates, identifiers and free text.

The counts go into the flow and from there into stores, runs and reports, which are shared.
"""

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ABSENT = "absent"
UNREADABLE = "(unreadable)"
RARE = "(rare values)"
HIDDEN = "(dates, long numbers or long texts)"
# The most values that are named for one variable; a wrong column could have thousands.
_NAMED_CELLS = 50
# A value in fewer images than this could identify a patient. It is named only if the column has few such values, as a
# variable has ("?", "Not visible") and a column of names or remarks has not.
_COMMON = 5
_RARE_CELLS = 12
_LONGEST = 40
_DIGITS_OF_AN_IDENTIFIER = 5
_MONTH = (
    r"(?:jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sep|o[kc]t|nov|de[zc]|janv|f[eé]v|avr|juin|juil|ao[uû]t|ene|abr|ago)"
)
_DATE = re.compile(
    r"\d{1,4}\s?[-./]\s?\d{1,2}\s?[-./]\s?\d{1,4}|\d\s?[/-]\s?\d{4}|\d{4}\s?[/-]\s?\d{1,2}(?!\d)|\d{1,2}:\d{2}"
    rf"|\d[\s.,-]*{_MONTH}|\b{_MONTH}\w*[\s.,-]*\d",
    re.IGNORECASE,
)


def count_missing(cells: Any, values: Any) -> dict[str, int]:
    """Counts of the cells without a value, by what is safe to show of them; blank cells are `absent`.

    >>> count_missing(pa.array(["M", "?", None, "?"]), pa.array(["male", None, None, None]))
    {'?': 2, 'absent': 1}
    """
    lost = _lost(cells, values).cast(pa.string())
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(lost).to_pylist()}
    return told({cell: count for cell, count in counts.items() if cell is not None}, absent=lost.null_count)


def count_unreadable(cells: Any, values: Any) -> dict[str, int]:
    """Counts of unreadable and absent cells of a column of times, whose values are never shown."""
    lost = _lost(cells, values)
    counts = {UNREADABLE: len(lost) - lost.null_count, ABSENT: lost.null_count}
    return {name: count for name, count in counts.items() if count}


def told(counts: Mapping[str, int], *, absent: int = 0) -> dict[str, int]:
    """Counts of the values that are safe to show, most frequent first, and sums of all others.

    >>> told({"Not visible": 16, "?": 3, "03.04.2020": 9, "MRN 8812345": 1}, absent=2)
    {'Not visible': 16, '?': 3, '(dates, long numbers or long texts)': 10, 'absent': 2}
    """
    named = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    hidden = sum(count for cell, count in named.items() if not tellable(cell))
    named = {cell: count for cell, count in named.items() if tellable(cell)}
    rare = [cell for cell, count in named.items() if count < _COMMON]
    rarely = sum(named.pop(cell) for cell in rare) if len(rare) > _RARE_CELLS else 0
    kept = dict(list(named.items())[:_NAMED_CELLS])
    sums = {"(other values)": sum(named.values()) - sum(kept.values()), RARE: rarely, HIDDEN: hidden, ABSENT: absent}
    return kept | {name: count for name, count in sums.items() if count}


def tellable(cell: str) -> bool:
    """Whether a cell is safe to show: short, and no date, time, identifier or DICOM name.

    >>> [tellable(cell) for cell in ("Not visible", "-inf", "700", "3. Mai 2020", "8:15", "p10000032", "Doe^Jane")]
    [True, True, True, False, False, False, False]
    """
    digits = sum(character.isdigit() for character in cell)
    return len(cell) <= _LONGEST and "^" not in cell and digits < _DIGITS_OF_AN_IDENTIFIER and not _DATE.search(cell)


def shown(cell: str) -> str:
    """A cell for an error message: in quotes if it is safe to show, else `another value`."""
    return repr(cell) if tellable(cell) else "another value"


def masked(cell: str) -> str:
    """The form of a cell without its content, in quotes: letters as a or A, digits as 9.

    >>> masked("P0001"), masked("p0001 ")
    ("'A9999'", "'a9999 '")
    """
    signs = ("9" if sign.isdigit() else "A" if sign.isupper() else "a" if sign.isalpha() else sign for sign in cell)
    return repr("".join(signs)[:_LONGEST])


def _lost(cells: Any, values: Any) -> pa.ChunkedArray:
    cells, values = (
        column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]) for column in (cells, values)
    )
    return cells.filter(pc.is_null(values))
