"""The times of MIMIC's images and stays: columns of text in any common format -> times."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.linking import NOBODY, Integers, Stays, Times, from_end_of_day
from chartray.records.parsing import CLOCK_NUMBER, RADIOGRAPH_YEARS, by_cell, calendar_date, time_of_day, written_moment

MICROSECONDS = pa.timestamp("us")
_ALWAYS = (np.datetime64(NOBODY + 1, "us"), np.datetime64(np.iinfo(np.int64).max, "us"))
# A date without a time is shorter than MIMIC-IV's own format.
_WITH_SECONDS = len("2150-03-01 14:30:00")
# The fewest cells from which a format is inferred: only midnights means dates, only hour 0 means HHMM.
_ENOUGH = 100

Flags = npt.NDArray[np.bool_]


class Moments(NamedTuple):
    """`at` (N,), NaT if the cell is blank or unreadable; `date_only` (N,): whether the cell has no time of day."""

    at: Times
    date_only: Flags


class Spans(NamedTuple):
    """Admissions or ICU stays: `stays`, which `backwards` end before they begin, and which begin on a date alone (M,).

    A stay that ends on a date alone ends at the end of that day.
    """

    stays: Stays
    backwards: Flags
    begun_on_a_date: Flags

    def forwards(self, begins: Times) -> Stays:
        """The stays from `begins` on; one that ends before it begins covers no image."""
        return self.stays._replace(begins=np.where(self.backwards, np.datetime64("NaT"), begins))

    def certain(self) -> Stays:
        """The time that each stay certainly covers: from the second day on if it begins on a date alone."""
        begins = self.stays.begins
        return self.forwards(from_end_of_day(begins, self.begun_on_a_date))

    def possible(self, *, by_date: bool) -> Stays:
        """The time that stays with incomplete times may cover; the others have no patient.

        `by_date`: under the published rule, dates without a time and stays that end before they begin are complete.
        """
        patient, begins, ends = self.stays
        doubtful = np.isnat(begins) | np.isnat(ends)
        if not by_date:
            doubtful |= self.backwards | self.begun_on_a_date
            begins, ends = np.where(self.backwards, ends, begins), np.where(self.backwards, begins, ends)
        return Stays(
            np.where(doubtful, patient, NOBODY),
            np.where(np.isnat(begins), _ALWAYS[0], begins),
            np.where(np.isnat(ends), _ALWAYS[1], ends),
        )


def spans(cells: pa.Table, begins: str, ends: str, file: Path) -> Spans:
    """Admissions or ICU stays (subject_id as whole numbers); raises InputError for an unreadable begin or end."""
    written = {name: moments(cells[name], name, file) for name in (begins, ends)}
    for name, (at, _) in written.items():
        wrong = np.flatnonzero(pc.is_valid(cells[name]).to_numpy() & np.isnat(at))
        if wrong.size:
            raise InputError(
                f"expected dates with times as {name} of {file}, found another form in data row {wrong[0] + 1}; "
                "write them as 2150-03-01 14:30:00"
            )
    (begin, begun_on_a_date), (end, ended_on_a_date) = written.values()
    end = from_end_of_day(end, ended_on_a_date)
    patient = cells["subject_id"].combine_chunks().fill_null(NOBODY).to_numpy()
    return Spans(Stays(patient, begin, end), end < begin, begun_on_a_date)


def days(cells: pa.ChunkedArray) -> Times:
    """YYYYMMDD, or a date in another common format -> days, NaT if unreadable.

    >>> days(pa.chunked_array([["21500301", "2150-03-01", "21500230", "21500301.0", None]])).tolist()
    [datetime.date(2150, 3, 1), datetime.date(2150, 3, 1), None, datetime.date(2150, 3, 1), None]
    """
    encoded = cells.combine_chunks().dictionary_encode()
    texts = encoded.dictionary
    times = pc.strptime(texts, "%Y%m%d", "s", error_is_null=True)
    # strptime reads 30 February as 2 March.
    plain = pc.and_(pc.equal(pc.strftime(times, "%Y%m%d"), texts), _of_an_image(times)).fill_null(False)
    none = pa.scalar(None, pa.date32())
    others = by_cell(pc.if_else(plain, pa.scalar(None, pa.string()), texts), calendar_date, pa.date32())
    read = pc.coalesce(pc.if_else(plain, times.cast(pa.date32()), none), others)
    found: Times = read.take(encoded.indices).to_numpy(zero_copy_only=False)
    return found


def clocks(cells: pa.ChunkedArray, file: Path) -> npt.NDArray[np.timedelta64]:
    """HHMMSS.sss, with or without its leading zeros, or HH:MM:SS -> time since midnight, NaT if unreadable.

    93012.5 and 09:30:12.5 are half past nine. Raises InputError for a column that seems to hold HHMM, since 1415 would
    be read as 00:14:15.
    """
    texts = cells.combine_chunks()
    digits = pc.match_substring_regex(texts, f"^(?:{CLOCK_NUMBER.pattern})$")
    nothing = pa.scalar(None, pa.string())
    numbers = pc.if_else(digits, texts, nothing).cast(pa.float64()).fill_null(np.nan).to_numpy()
    given = numbers[np.isfinite(numbers)]
    # HHMMSS without leading zeros never begins with 0, so 0932 means that the column holds HHMM.
    padded = pc.any(pc.match_substring_regex(texts, r"^0[0-9]{3}$")).as_py()
    if padded or (len(given) >= _ENOUGH and given.max() < 2400):
        found = "HHMM (four digits with a leading zero)" if padded else "only times before 00:24, as if it were HHMM"
        raise InputError(f"expected StudyTime as HHMMSS in {file}, found {found}; write it as 141500 or 14:15:00")
    hours, minutes, seconds = numbers // 10000, numbers // 100 % 100, numbers % 100
    valid = (hours < 24) & (minutes < 60) & (seconds < 61)
    microseconds = np.rint(np.where(valid, hours * 3600 + minutes * 60 + seconds, 0) * 1e6).astype("timedelta64[us]")
    others = by_cell(pc.if_else(digits, nothing, texts), time_of_day, pa.duration("us"))
    return np.where(valid, microseconds, others.to_numpy(zero_copy_only=False))


def moments(cells: pa.ChunkedArray, column: str, file: Path) -> Moments:
    """The local times of a whole column of MIMIC-IV: if all of many are midnights, they are dates.

    Raises InputError as `moments_of_part`.
    """
    at, date_only = moments_of_part(cells, column, str(file), np.arange(1, len(cells) + 1))
    written = at[~np.isnat(at)]
    if len(written) >= _ENOUGH and (written == written.astype("datetime64[D]")).all():
        date_only = ~np.isnat(at)
    return Moments(at, date_only)


def moments_of_part(cells: pa.ChunkedArray, column: str, where: str, rows: Integers | None) -> Moments:
    """Local times of MIMIC-IV; raises InputError for a time with a zone, since StudyTime has none.

    `rows` (N,): the data row of each cell, None for a database.
    """
    texts = cells.combine_chunks().cast(pa.string())
    try:
        read = texts.cast(MICROSECONDS)
    except pa.ArrowInvalid:
        zoned = by_cell(texts, _has_zone, pa.bool_())
        if pc.any(zoned).as_py():
            first = np.flatnonzero(zoned.fill_null(False).to_numpy(zero_copy_only=False))[0]
            row = "" if rows is None else f" in data row {rows[first]}"
            raise InputError(
                f"expected times without a time zone as {column} of {where}, found a time zone{row}; "
                "export them without one"
            ) from None
        read = by_cell(texts, written_moment, MICROSECONDS)
    read = pc.if_else(_of_an_image(read), read, pa.scalar(None, MICROSECONDS))
    at: Times = read.to_numpy(zero_copy_only=False)
    date_only = np.zeros(len(at), dtype=np.bool_)
    if (pc.min(pc.utf8_length(texts)).as_py() or 0) < _WITH_SECONDS:
        # A date alone has at most eight digits.
        digits = pc.utf8_length(pc.replace_substring_regex(texts, r"\.0$|\D", ""))
        date_only = pc.less_equal(digits, 8).fill_null(False).to_numpy(zero_copy_only=False)
    return Moments(at, date_only)


def _has_zone(cell: str) -> bool:
    time = written_moment(cell)
    return time is not None and time.tzinfo is not None


def _of_an_image(times: pa.Array) -> pa.Array:
    """Whether a time is in a year with X-rays: programs write year 1 or 9999 for missing times."""
    year = pc.year(times)
    return pc.and_(pc.greater_equal(year, RADIOGRAPH_YEARS.start), pc.less(year, RADIOGRAPH_YEARS.stop))
