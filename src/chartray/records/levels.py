"""Sex, view, position and age as the public sources write them -> values; None for any other cell."""

from collections.abc import Sequence

from chartray.records.parsing import years
from chartray.schema import AGE_RANGE, POSITION_LEVELS, SEX_LEVELS, VIEW_LEVELS

_SEXES = {word: level for level in SEX_LEVELS for word in (level, level[0])}


def sex_level(cell: str) -> str | None:
    """Male or female, from the word or its first letter.

    >>> [sex_level(cell) for cell in ("M", "female", " f ", "Unknown", "1")]
    ['male', 'female', 'female', None, None]
    """
    return _SEXES.get(cell.strip().lower())


def view_level(cell: str, levels: Sequence[str] = VIEW_LEVELS) -> str | None:
    """The level of a view, in any case.

    >>> view_level("pa"), view_level("Lateral"), view_level("LPO")
    ('PA', 'LATERAL', None)
    """
    return _in_any_case(cell, levels)


def position_level(cell: str) -> str | None:
    """Erect or Recumbent."""
    return _in_any_case(cell, POSITION_LEVELS)


def possible_age(cell: str) -> float | None:
    """An age in years within the valid range. DICOM's Y may follow fewer than three digits.

    >>> [possible_age(cell) for cell in ("58", "058Y", "58y", "006M", "411", "18M")]
    [58.0, 58.0, 58.0, 0.5, None, None]
    """
    text = cell.strip().upper()
    # Not for months: 18M may be a man of 18.
    value = years(text.zfill(4) if text.endswith("Y") else text)
    return value if value is not None and AGE_RANGE[0] <= value <= AGE_RANGE[1] else None


def _in_any_case(cell: str, levels: Sequence[str]) -> str | None:
    return {level.lower(): level for level in levels}.get(cell.strip().lower())
