"""A second table, the chart, joined to the images: by equal ids, and by time where the mapping has one.

With times it is the as-of join of `as_of`: the last value at or before the image, for each column by itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.as_of import AsOf, DatedValues, ImageIndex, Window, hours
from chartray.records.identifiers import canonical_ids, refuse_other_spellings, spelling_keys
from chartray.records.linking import NOBODY, ImageTimes, Integers, from_end_of_day
from chartray.records.mapping import ChartMapping, Mapping
from chartray.records.table_cells import OpenTable, text_cells
from chartray.records.table_times import ReadTimes, read_times
from chartray.records.templates import template_columns
from chartray.records.warnings import DataWarning
from chartray.wording import plural

# In a mapping, before the name of a column that both tables have.
CHART_PREFIX = "charts."
_BETWEEN = "\x1f"
# If fewer images have a row, the ids may be those of something else.
_HALF = 0.5


class ImageTable(NamedTuple):
    """The images' own table: typed `cells`, their `times` (None without), `where` it is, and how many of its rows are
    `left_out`, whose cells are blank.
    """

    cells: pa.Table
    times: ReadTimes | None
    where: str
    left_out: int = 0


class SecondTable(NamedTuple):
    """The rows of the chart, of one file or of several below each other, and how they belong to the images."""

    cells: pa.Table
    files: list[tuple[str, int]]
    joined: ChartMapping

    @property
    def where(self) -> str:
        return " and ".join(name for name, _ in self.files)

    def place(self, row: int) -> str:
        """Where a row (from 0) is."""
        ends = list(accumulate(rows for _, rows in self.files))
        file = next(at for at, end in enumerate(ends) if row < end)
        before = ends[file - 1] if file else 0
        return f"data row {row - before + 1} of {self.files[file][0]}"


class Joined(NamedTuple):
    """The chart's `columns` for each image (N,) as text, the step of the flow, and warnings."""

    columns: dict[str, pa.Array]
    step: FlowStep
    warnings: list[DataWarning]
    notes: tuple[FlowStep, ...] = ()


def read_chart(tables: Sequence[OpenTable], joined: ChartMapping, columns: Sequence[str], plan: Mapping) -> SecondTable:
    """The `columns`, ids and times of the `tables`, which all have them."""
    times = template_columns(joined.time, plan) if joined.time is not None else []
    needed = list(dict.fromkeys([*joined.on.values(), *times, *columns]))
    parts = [table.read(needed) for table in tables]
    if len(parts) > 1:  # one file may have numbers where the other has text
        parts = [text_cells(part, table.where) for part, table in zip(parts, tables, strict=True)]
    files = [(table.where, part.num_rows) for part, table in zip(parts, tables, strict=True)]
    return SecondTable(pa.concat_tables(parts, promote_options="permissive").combine_chunks(), files, joined)


def join(images: ImageTable, chart: SecondTable, columns: Sequence[str], plan: Mapping) -> Joined:
    """The `columns` of the chart for each image, null where it has no row, or no value by then.

    Raises InputError if no image has a row, for ids that differ only in spelling, for two different rows of one id, and
    for times that cannot be compared.
    """
    ours, theirs = _codes(images, chart)
    texts = text_cells(chart.cells, chart.where)
    held = np.isin(ours, theirs[theirs != NOBODY])
    remedy = "name the columns that hold the same id under charts: on"
    step, warnings = joined_images(held, images, chart.where, chart.joined, "a row", remedy)
    if chart.joined.time is not None:
        found, said = _as_of(images, ours, theirs, chart, texts, columns, plan)
    else:
        found, said = _at_once(ours, theirs, chart, texts, columns), ""
    return Joined(found, replace(step, why=step.why + said), warnings)


def joined_images(
    held: npt.NDArray[np.bool_], images: ImageTable, chart: str, joined: ChartMapping, what: str, remedy: str
) -> tuple[FlowStep, list[DataWarning]]:
    """The step of the flow, which says how many images have `what` in the chart, and a warning if fewer than half have.

    `held` (N,): which images have it. `chart` names its table. Raises InputError, which ends with `remedy`, if none
    has.
    """
    count, total = int(held.sum()), len(held) - images.left_out
    by = ", ".join(ours if ours == theirs else f"{ours} = {theirs}" for ours, theirs in joined.on.items())
    if not count:
        raise InputError(
            f"expected images of {images.where} in {chart} by {by}, found none of {plural(total, 'image')} with "
            f"{what}; {remedy}"
        )
    warnings = []
    if count < _HALF * total:
        said = f"only {count} of {plural(total, 'image')} have {what} in {chart}"
        warnings.append(DataWarning("charts", said, total - count, "check the columns under charts: on"))
    return FlowStep("chart joined", total, total, f"{count} of {total} have {what} in {chart} by {by}"), warnings


def _codes(images: ImageTable, chart: SecondTable) -> tuple[Integers, Integers]:
    """A number for the id of each image and of each row of the chart, equal for equal ids; NOBODY without an id."""
    ours, theirs = [], []
    for column, other in chart.joined.on.items():
        what = f"column {column!r}"
        mine = canonical_ids(images.cells[column], what, images.where)
        other_ids = canonical_ids(chart.cells[other], f"column {other!r}", chart.where)
        if chart.joined.same_id == "spelling":
            mine, other_ids = spelling_keys(mine), spelling_keys(other_ids)
        else:
            remedy = "write both alike, or say same_id: spelling under charts"
            refuse_other_spellings(mine, f"{what} of {images.where}", other_ids, chart.place, remedy)
        ours.append(mine)
        theirs.append(other_ids)
    keys, others = (pc.binary_join_element_wise(*parts, _BETWEEN) for parts in (ours, theirs))
    known = pc.unique(others).drop_null()
    ours_of, theirs_of = (pc.index_in(each, value_set=known).cast(pa.int64()) for each in (keys, others))
    return ours_of.fill_null(NOBODY).to_numpy(), theirs_of.fill_null(NOBODY).to_numpy()


def _as_of(
    images: ImageTable,
    ours: Integers,
    theirs: Integers,
    chart: SecondTable,
    texts: pa.Table,
    columns: Sequence[str],
    plan: Mapping,
) -> tuple[dict[str, pa.Array], str]:
    """The last value at or before each image, at most `within_days` old; a date alone counts from the day's end."""
    joined = chart.joined
    assert joined.time is not None
    if images.times is None:
        raise InputError("expected 'taken_at' in the mapping, which a chart with times needs, found none; add it")
    times = read_times(texts, joined.time, joined.time_format, plan, chart.where)
    if None not in (times.zoned, images.times.zoned) and times.zoned != images.times.zoned:
        first, second = ("with", "without") if images.times.zoned else ("without", "with")
        raise InputError(
            f"expected times of {images.where} and {chart.where} in the same form, found the images' {first} a time "
            f"zone and the chart's {second}; write all in the same way"
        )
    at = images.times.at.to_numpy(zero_copy_only=False)
    begins = from_end_of_day(*(column.to_numpy(zero_copy_only=False) for column in (times.at, times.date_only)))
    longest = None if joined.within_days is None else -hours(24 * joined.within_days)
    index = ImageIndex(ImageTimes(ours, at))
    # Of rows with the same time the last one is taken: its number is the largest.
    numbers = np.arange(len(begins), dtype=np.float64)
    found = {}
    for column in columns:
        last = AsOf(index, Window(longest))
        filled = pc.is_valid(texts[column]).to_numpy()
        last.add(DatedValues(theirs, begins, begins, np.where(filled, numbers, np.nan)))
        found[column] = texts[column].combine_chunks().take(pa.array(last.value, from_pandas=True).cast(pa.int64()))
    unread = int((np.isnat(begins) & (theirs != NOBODY)).sum())
    window = "" if joined.within_days is None else f", at most {joined.within_days:g} days old"
    said = f"; of each column the last value at or before the image{window}"
    return found, said + (f"; {plural(unread, 'row')} of the chart without a readable time" if unread else "")


def _at_once(
    ours: Integers, theirs: Integers, chart: SecondTable, texts: pa.Table, columns: Sequence[str]
) -> dict[str, pa.Array]:
    """The only row of each id, or, of each column, the value that most of its rows have."""
    used = np.flatnonzero(np.isin(theirs, ours) & (theirs != NOBODY))
    codes = theirs[used]
    found = {}
    for column in columns:
        cells = texts[column].combine_chunks().take(pa.array(used))
        if chart.joined.several is None:
            _refuse_different(codes, cells, used, chart, column)
            ids, places = np.unique(codes, return_index=True)
            values = cells.take(pa.array(places))
        else:
            ids, values = _majority(codes, cells)
        place = np.searchsorted(ids, ours)
        there = np.isin(ours, ids)
        found[column] = values.take(pa.array(np.where(there, place, 0), mask=~there))
    return found


def _refuse_different(codes: Integers, cells: pa.Array, used: Integers, chart: SecondTable, column: str) -> None:
    """Raises InputError if two rows of one id have different cells; equal rows are one."""
    encoded = cells.dictionary_encode().indices.fill_null(-1).to_numpy()
    order = np.argsort(codes, kind="stable")
    differ = np.flatnonzero((np.diff(codes[order]) == 0) & (np.diff(encoded[order]) != 0))
    if len(differ):
        first, second = (chart.place(int(used[order[at]])) for at in (differ[0], differ[0] + 1))
        raise InputError(
            f"expected one row for each {', '.join(chart.joined.on.values())} in {chart.where}, found two with "
            f"different cells in column {column!r}, {first} and {second}; give their 'time' under charts, or "
            "several: majority"
        )


def _majority(codes: Integers, cells: pa.Array) -> tuple[Integers, pa.Array]:
    """The ids and the most frequent value of each, blanks not counted; null if two are equally frequent."""
    counts = pa.table({"id": codes, "cell": cells}).group_by(["id", "cell"]).aggregate([([], "count_all")])
    counts = counts.filter(pc.is_valid(counts["cell"])).sort_by([("id", "ascending"), ("count_all", "descending")])
    ids, first = np.unique(counts["id"].to_numpy(), return_index=True)
    times = counts["count_all"].to_numpy()
    next_one = np.minimum(first + 1, len(times) - 1)
    tie = (next_one != first) & (counts["id"].to_numpy()[next_one] == ids) & (times[next_one] == times[first])
    return ids, counts["cell"].combine_chunks().take(pa.array(first, mask=tie))
