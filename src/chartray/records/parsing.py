"""Text cells -> numbers, booleans and times; null for text in any other format."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

import pyarrow as pa

# Three digits and a capital letter, as in DICOM (PS3.5, AS). `18M` may also be a man of 18.
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])", re.ASCII)
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}

_TRUTHS = dict.fromkeys(("1", "true", "yes", "y", "t"), True) | dict.fromkeys(("0", "false", "no", "n", "f"), False)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
# Year first, or an English month name. 03/04/2020 is ambiguous (March or April): it needs a format.
_DATES = (
    r"(?P<year>\d{4})(?P<mark>[-./]?)(?P<month>\d{2})(?P=mark)(?P<day>\d{2})",
    r"(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})",
    rf"(?P<day>\d{{1,2}})[- ]?{_MONTH}[- ,]*(?P<year>\d{{4}})",
    rf"{_MONTH} (?P<day>\d{{1,2}}),? (?P<year>\d{{4}})",
)
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?(?: ?(?P<half>[ap])\.?m\.?)?"
)
_DIGITS = r"(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})(?:\.(?P<fraction>\d+))?"
_SHORT_DIGITS = r"(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>)(?P<fraction>)"
_ZONE = r"(?: ?(?P<zone>z|utc|gmt|[+-]\d{2}:?(?:\d{2})?))?"
_FLAGS = re.ASCII | re.IGNORECASE
_DATE_ONLY = tuple(re.compile(rf"{form}(?:\.0)?", _FLAGS) for form in _DATES)
# 2020-01-31 09:30, 2020-01-31T09:30:12.5+01:00, 31JAN2020:09:30:12, 20200131 093012, 20200131093012.5
_MOMENTS = tuple(
    re.compile(rf"{form}{gap}{clock}{_ZONE}", _FLAGS)
    for form in _DATES
    for gap, clock in ((r"(?:T|:|,? +)", _CLOCK), (r"(?:T| |)", _DIGITS), (r"T?", _SHORT_DIGITS))
)
_CLOCK_ONLY = re.compile(_CLOCK, _FLAGS)
# HHMMSS without its leading zeros. 0930 is ambiguous (09:30 or 00:09:30).
CLOCK_NUMBER = re.compile(r"(\d{6}|[1-9]\d{0,4}|0)(?:\.(\d+))?", re.ASCII)
# Programs write 0001-01-01 and 9999-12-31 for missing dates; there were no X-rays before 1895.
RADIOGRAPH_YEARS = range(1895, 3000)


def by_cell(column: Any, value: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """Applies `value` to each distinct text of a column once; blank cells stay null.

    >>> by_cell(pa.array(["1", None, "x", "1"]), number, pa.float64()).to_pylist()
    [1.0, None, None, 1.0]
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = column.dictionary_encode()
    return pa.array([value(cell) for cell in encoded.dictionary.to_pylist()], kind).take(encoded.indices)


def number(cell: str) -> float | None:
    """A finite number, or None (also for `inf`, `nan`, `3,5` and `1_000`)."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def truth(cell: str) -> bool | None:
    """A boolean in a common spelling, or None.

    >>> [truth(cell) for cell in ("1", "0.0", "TRUE", "f", " Yes", "n", "2", "ja")]
    [True, False, True, False, True, False, None, None]
    """
    text = cell.strip().lower()
    return _TRUTHS.get(re.sub(r"^([01])\.0+$", r"\1", text))


def years(cell: str) -> float | None:
    """An age in years: a finite number, or a DICOM age in years, months, weeks or days; else None.

    >>> [years(cell) for cell in ("45", "045Y", "018M", "18M")]
    [45.0, 45.0, 1.5, None]
    """
    age = _DICOM_AGE.fullmatch(cell)
    return number(cell) if age is None else int(age[1]) * _YEARS[age[2]]


def moment(cell: str) -> datetime | None:
    """A date, or a date with a time, without a time zone (converted to UTC if there is one); else None.

    Accepts ISO 8601, DICOM, other forms with the year first, and English month names.

    >>> for cell in ("2020-01-31T09:30+01:00", "20200131 093012", "31-JAN-2020", "2020/1/31 9:30 pm", "31.01.2020"):
    ...     print(moment(cell))
    2020-01-31 08:30:00
    2020-01-31 09:30:12
    2020-01-31 00:00:00
    2020-01-31 21:30:00
    None
    """
    return without_zone(written_moment(cell))


def without_zone(time: datetime | None) -> datetime | None:
    """A time without a time zone: converted to UTC if it has one."""
    return time if time is None or time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def has_zone(time: datetime | None) -> bool | None:
    """Whether a time has a time zone; None for no time."""
    return None if time is None else time.tzinfo is not None


def written_moment(cell: str) -> datetime | None:
    """As `moment`, but keeps the time zone that is written in the cell."""
    text = cell.strip()
    # The common case, ten times as fast: `YYYY-MM-DD`, alone or with `HH:MM` or `HH:MM:SS`.
    if len(text) in (10, 16, 19) and text[4] == text[7] == "-" and text[10:11] in ("", " ", "T"):
        with suppress(ValueError):
            time = datetime.fromisoformat(text)
            return time if time.year in RADIOGRAPH_YEARS else None
    for form in _MOMENTS:
        found = form.fullmatch(text)
        if found is not None:
            day, clock = _day(found), _clock(found)
            if day is None or clock is None:
                return None
            try:
                zone = _zone(found["zone"])
            except ValueError:  # 24 hours or more
                return None
            return datetime(day.year, day.month, day.day, tzinfo=zone) + clock
    day = _first_day(text)
    return None if day is None else datetime(day.year, day.month, day.day)


def formatted_moment(cell: str, formats: Sequence[str]) -> datetime | None:
    """As `written_moment`, for a cell in one of the strptime `formats`."""
    for form in formats:
        with suppress(ValueError, OverflowError):
            time = datetime.strptime(cell.strip(), form)
            return time if time.year in RADIOGRAPH_YEARS else None
    return None


def joined_moment(cell: str) -> datetime | None:
    """As `written_moment`, also for a date and HHMMSS without its leading zeros, as columns of numbers have it.

    >>> [str(joined_moment(cell)) for cell in ("21500302 93012.5", "2150-03-02 9:30", "21500302 0930")]
    ['2150-03-02 09:30:12.500000', '2150-03-02 09:30:00', 'None']
    """
    time = written_moment(cell)
    day, _, clock = cell.strip().rpartition(" ")
    if time is not None or not day:
        return time
    date_of_it, since = _first_day(day), time_of_day(clock)
    if date_of_it is None or since is None:
        return None
    return datetime(date_of_it.year, date_of_it.month, date_of_it.day) + since


def is_date_format(form: str) -> bool:
    """Whether a strptime format contains a full date.

    >>> [is_date_format(form) for form in ("%d.%m.%Y %H:%M", "%Y%m%d", "%d.%m.", "dd.mm.yyyy", "%q")]
    [True, True, False, False, False]
    """
    for day in (datetime(2001, 2, 3), datetime(2002, 11, 28)):
        try:
            if datetime.strptime(day.strftime(form), form).date() != day.date():
                return False
        except (ValueError, re.error):
            return False
    return True


def calendar_date(cell: str) -> date | None:
    """The day of a date, or of a date with a time, or None.

    >>> [str(calendar_date(cell)) for cell in ("21500302", "2150-03-02", "21500302.0", "2150-03-02 00:00:00", "0302")]
    ['2150-03-02', '2150-03-02', '2150-03-02', '2150-03-02', 'None']
    """
    time = written_moment(cell)
    return None if time is None else time.date()


def time_of_day(cell: str) -> timedelta | None:
    """The time since midnight, or None. Accepts HH:MM[:SS] and HHMMSS without its leading zeros.

    >>> [str(time_of_day(cell)) for cell in ("09:30:12", "093012", "93012.015", "9:30", "930", "0930", "246000")]
    ['9:30:12', '9:30:12', '9:30:12.015000', '9:30:00', '0:09:30', 'None', 'None']
    """
    text = cell.strip()
    clock = _CLOCK_ONLY.fullmatch(text)
    if clock is not None:
        return _clock(clock)
    digits = CLOCK_NUMBER.fullmatch(text)
    if digits is None:
        return None
    whole = digits[1].zfill(6)
    return _since_midnight(int(whole[:2]), int(whole[2:4]), int(whole[4:]), digits[2])


def _first_day(text: str) -> date | None:
    found = next((match for form in _DATE_ONLY if (match := form.fullmatch(text))), None)
    return None if found is None else _day(found)


def _day(found: re.Match[str]) -> date | None:
    parts = found.groupdict()
    name = parts.get("name")
    month = int(parts["month"]) if name is None else _MONTHS.index(name[:3].lower()) + 1
    if int(parts["year"]) not in RADIOGRAPH_YEARS:
        return None
    try:
        return date(int(parts["year"]), month, int(parts["day"]))
    except ValueError:
        return None


def _clock(found: re.Match[str]) -> timedelta | None:
    parts = found.groupdict()
    hour, half = int(parts["hour"]), parts.get("half")
    if half is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half.lower() == "p" else 0)
    return _since_midnight(hour, int(parts["minute"]), int(parts["second"] or 0), parts["fraction"])


def _since_midnight(hour: int, minute: int, second: int, fraction: str | None) -> timedelta | None:
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    microseconds = round(float(f"0.{fraction or 0}") * 1e6)
    return timedelta(hours=hour, minutes=minute, seconds=second, microseconds=microseconds)


def _zone(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    return UTC if text[0] not in "+-" else datetime.strptime(f"{text.replace(':', ''):0<5}", "%z").tzinfo
