"""When MIMIC's images were taken and its stays began and ended: columns of text -> times, whatever their spelling."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.linking import NOBODY, Stays, Times
from chartray.records.parsing import CLOCK_NUMBER, RADIOGRAPH_YEARS, by_cell, calendar_date, time_of_day, written_moment

MICROSECONDS = pa.timestamp("us")
_DAY, _INSTANT = np.timedelta64(1, "D"), np.timedelta64(1, "us")
_ALWAYS = (np.datetime64(NOBODY + 1, "us"), np.datetime64(np.iinfo(np.int64).max, "us"))
# No date alone is as long as a date and a time in MIMIC-IV's own form.
_WITH_SECONDS = len("2150-03-01 14:30:00")
# From so many cells on, a column with nothing but midnights holds dates, and one with no hour but the first holds HHMM.
_ENOUGH = 100

Flags = npt.NDArray[np.bool_]


class Moments(NamedTuple):
    """`at` (N,), NaT where the cell is blank or no time; `date_only` (N,): where no time of day is written."""

    at: Times
    date_only: Flags


class Spans(NamedTuple):
    """What is written of admissions or ICU stays: `stays`, in which a date alone is an end at the end of that day;
    which end `backwards`, before they begin; and which were `begun_on_a_date`, at no time of day (M,).
    """

    stays: Stays
    backwards: Flags
    begun_on_a_date: Flags

    def forwards(self, begins: Times) -> Stays:
        """The stays from `begins` on; one that ends before it begins covers nothing."""
        return self.stays._replace(begins=np.where(self.backwards, np.datetime64("NaT"), begins))

    def certain(self) -> Stays:
        """The stays as far as it is known that they last: from the second day on where the begin is a date alone."""
        begins = self.stays.begins
        return self.forwards(np.where(self.begun_on_a_date, begins + _DAY - _INSTANT, begins))

    def possible(self, *, by_date: bool) -> Stays:
        """All the time that stays may have lasted of which something is not known; the others are nobody's.

        By calendar dates, a date alone leaves nothing open, and the published rule says which dates a stay covers that
        ends before it begins.
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
    """Admissions or ICU stays (their subject_id as whole numbers); raises InputError for a begin or an end that is
    written but no time.
    """
    written = {name: moments(cells[name], name, file) for name in (begins, ends)}
    for name, (at, _) in written.items():
        wrong = np.flatnonzero(pc.is_valid(cells[name]).to_numpy() & np.isnat(at))
        if wrong.size:
            raise InputError(
                f"expected dates with times as {name} of {file}, found something else in data row {wrong[0] + 1}; "
                "write them as 2150-03-01 14:30:00"
            )
    (begin, begun_on_a_date), (end, ended_on_a_date) = written.values()
    end = np.where(ended_on_a_date, end + _DAY - _INSTANT, end)
    patient = cells["subject_id"].combine_chunks().fill_null(NOBODY).to_numpy()
    return Spans(Stays(patient, begin, end), end < begin, begun_on_a_date)


def days(cells: pa.ChunkedArray) -> Times:
    """YYYYMMDD, or a date in another spelling -> days, NaT where the cell is none; each distinct cell is read once.

    >>> days(pa.chunked_array([["21500301", "2150-03-01", "21500230", "21500301.0", None]])).tolist()
    [datetime.date(2150, 3, 1), datetime.date(2150, 3, 1), None, datetime.date(2150, 3, 1), None]
    """
    encoded = cells.combine_chunks().dictionary_encode()
    texts = encoded.dictionary
    times = pc.strptime(texts, "%Y%m%d", "s", error_is_null=True)
    # strptime takes the 30th of February for the 2nd of March.
    plain = pc.and_(pc.equal(pc.strftime(times, "%Y%m%d"), texts), _of_an_image(times)).fill_null(False)
    none = pa.scalar(None, pa.date32())
    others = by_cell(pc.if_else(plain, pa.scalar(None, pa.string()), texts), calendar_date, pa.date32())
    read = pc.coalesce(pc.if_else(plain, times.cast(pa.date32()), none), others)
    found: Times = read.take(encoded.indices).to_numpy(zero_copy_only=False)
    return found


def clocks(cells: pa.ChunkedArray, file: Path) -> npt.NDArray[np.timedelta64]:
    """HHMMSS.sss, a number that may have lost its leading zeros, or a clock -> time since midnight, or NaT.

    93012.5 and 09:30:12.5 are half past nine. Raises InputError for a column that seems to hold HHMM, whose 1415 would
    be fourteen minutes past midnight.
    """
    texts = cells.combine_chunks()
    digits = pc.match_substring_regex(texts, f"^(?:{CLOCK_NUMBER.pattern})$")
    nothing = pa.scalar(None, pa.string())
    numbers = pc.if_else(digits, texts, nothing).cast(pa.float64()).fill_null(np.nan).to_numpy()
    given = numbers[np.isfinite(numbers)]
    # Where leading zeros are lost, no number of four digits begins with one: 0932 is HHMM, and so is 1415 beside it.
    padded = pc.any(pc.match_substring_regex(texts, r"^0[0-9]{3}$")).as_py()
    if padded or (len(given) >= _ENOUGH and given.max() < 2400):
        found = (
            "four digits with a leading zero, as HHMM has" if padded else "no hour but the first, as if it were HHMM"
        )
        raise InputError(f"expected StudyTime as HHMMSS in {file}, found {found}; write it as 141500 or 14:15:00")
    hours, minutes, seconds = numbers // 10000, numbers // 100 % 100, numbers % 100
    valid = (hours < 24) & (minutes < 60) & (seconds < 61)
    microseconds = np.rint(np.where(valid, hours * 3600 + minutes * 60 + seconds, 0) * 1e6).astype("timedelta64[us]")
    others = by_cell(pc.if_else(digits, nothing, texts), time_of_day, pa.duration("us"))
    return np.where(valid, microseconds, others.to_numpy(zero_copy_only=False))


def moments(cells: pa.ChunkedArray, column: str, file: Path) -> Moments:
    """Times of MIMIC-IV, which are local; raises InputError for one with a zone, since StudyTime has none."""
    texts = cells.combine_chunks().cast(pa.string())
    try:
        read = texts.cast(MICROSECONDS)
    except pa.ArrowInvalid:
        zoned = by_cell(texts, _has_zone, pa.bool_())
        if pc.any(zoned).as_py():
            row = int(np.flatnonzero(zoned.fill_null(False).to_numpy(zero_copy_only=False))[0]) + 1
            raise InputError(
                f"expected local times without a zone as {column} of {file}, found one with a zone in data row {row}; "
                "StudyTime has none, so export them without"
            ) from None
        read = by_cell(texts, written_moment, MICROSECONDS)
    read = pc.if_else(_of_an_image(read), read, pa.scalar(None, MICROSECONDS))
    at: Times = read.to_numpy(zero_copy_only=False)
    date_only = np.zeros(len(at), dtype=np.bool_)
    if (pc.min(pc.utf8_length(texts)).as_py() or 0) < _WITH_SECONDS:
        # A day, a month and a year have eight digits at most.
        digits = pc.utf8_length(pc.replace_substring_regex(texts, r"\.0$|\D", ""))
        date_only = pc.less_equal(digits, 8).fill_null(False).to_numpy(zero_copy_only=False)
    written = at[~np.isnat(at)]
    if len(written) >= _ENOUGH and (written == written.astype("datetime64[D]")).all():
        date_only = ~np.isnat(at)
    return Moments(at, date_only)


def _has_zone(cell: str) -> bool:
    time = written_moment(cell)
    return time is not None and time.tzinfo is not None


def _of_an_image(times: pa.Array) -> pa.Array:
    """Whether a time is of a year in which images are taken: programs write year 1 or 9999 where they have none."""
    year = pc.year(times)
    return pc.and_(pc.greater_equal(year, RADIOGRAPH_YEARS.start), pc.less(year, RADIOGRAPH_YEARS.stop))
