"""A chart of events, a MEDS data set or an OMOP base, joined to the images: each variable by its codes and window.

The join is that of `as_of`, for numbers through `measurements`; the events are read in parts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.as_of import AsOf, DatedValues, ImageIndex, Window, hours
from chartray.records.charts import ImageTable, Joined, joined_images
from chartray.records.identifiers import canonical_ids
from chartray.records.linking import NOBODY, ImageTimes, Integers, Stays, Times, link_strict
from chartray.records.mapping import ChartMapping, Mapping
from chartray.records.mapping_entries import VariableMapping
from chartray.records.measurements import AsOfImages, DatedCells, Measurement
from chartray.records.parsing import by_cell
from chartray.records.units import Conversion, of_code, same_unit
from chartray.records.warnings import DataWarning

# The time of an event without one, which is a fact that always holds.
ALWAYS = np.datetime64("0001-01-01", "us")
_YEAR = np.timedelta64(round(365.2425 * 86_400_000_000), "us")
_OTHER = "(a code in no level)"


class EventPart(NamedTuple):
    """Some events: their `cells`, and when each ends (M,), NaT where it is a moment."""

    cells: DatedCells
    ends: Times


class EventSource(Protocol):
    """A data set of events: its name in messages, and the number of each patient in it."""

    where: str

    def patients(self, ids: pa.StringArray) -> Integers:
        """The number of each id's patient (N,), NOBODY without one."""

    def parts(self, patterns: Sequence[str]) -> Iterator[EventPart]:
        """The events whose codes match a pattern; others may be among them."""


def join_events(images: ImageTable, places: Sequence[str], plan: Mapping) -> Joined:
    """The column of each variable that has codes, as text for each image (N,), null where it has no event by then.

    Raises InputError if the data set cannot be read, or has no patient of the images.
    """
    joined = plan.charts
    assert joined is not None
    assert images.times is not None
    if len(places) != 1:
        raise InputError(f"expected one --charts for a chart of events, found {len(places)}; give one")
    if images.times.zoned:
        raise InputError(f"expected times without a time zone in {images.where}, as the events have; export them so")
    source = _opened(places[0], joined)
    column = next(iter(joined.on))
    patient = source.patients(canonical_ids(images.cells[column], f"column {column!r}", images.where))
    taken = ImageTimes(patient, images.times.at.to_numpy(zero_copy_only=False))
    entries = {name: entry for name, entry in plan.ehr.items() if entry.codes}
    readers = _Readers(entries, taken)
    seen: set[int] = set()
    for part in source.parts([code for entry in entries.values() for code in entry.codes]):
        seen.update(np.unique(part.cells.patient).tolist())
        readers.add(part)
    held = np.isin(patient, np.array(sorted(seen - {NOBODY}), np.int64))
    remedy = "check the column and the codes"
    step, warnings = joined_images(held, images, source.where, joined, "an event of these codes", remedy)
    known = f"stored ({joined.stored}) by then" if joined.stored else "dated by then: no stored time is given"
    found = readers.found()
    columns = {str(entry.column): found.columns[name] for name, entry in entries.items()}
    return Joined(columns, replace(step, why=f"{step.why}; {known}"), warnings + found.warnings, found.notes)


def _opened(place: str, joined: ChartMapping) -> EventSource:
    if joined.model == "meds":
        from chartray.records.meds import MedsEvents

        return MedsEvents(place, joined.stored)
    from chartray.records.omop import OmopEvents

    return OmopEvents(place, joined.stored, next(iter(joined.on.values())))


class _EventValues(NamedTuple):
    """Each variable as text, or why it has no number (N,); notes of the flow and warnings on numbers."""

    columns: dict[str, pa.Array]
    notes: tuple[FlowStep, ...]
    warnings: list[DataWarning]


class _Readers:
    """One reader for each variable, by its name."""

    def __init__(self, entries: dict[str, VariableMapping], images: ImageTimes) -> None:
        self._images, self._entries = images, entries
        numeric = {name: each for name, each in entries.items() if each.kind == "numeric" and not each.years_since}
        self._numbers = AsOfImages([_measurement(name, entry) for name, entry in numeric.items()], images)
        index = ImageIndex(images)
        others = {name: entry for name, entry in entries.items() if name not in numeric}
        self._last = {name: AsOf(index, _window(entry)) for name, entry in others.items() if not entry.during}
        self._stays: dict[str, list[Stays]] = {name: [] for name, entry in others.items() if entry.during}
        self._place = {name: cache(_placing(entry)) for name, entry in entries.items()}

    def add(self, part: EventPart) -> None:
        cells = part.cells
        self._numbers.add(cells)
        for name in (*self._last, *self._stays):
            place = by_cell(cells.code, self._place[name], pa.float64())
            value = place.fill_null(np.nan).to_numpy(zero_copy_only=False)
            if name in self._stays:
                mine = ~np.isnan(value)
                self._stays[name].append(Stays(cells.patient[mine], cells.at[mine], part.ends[mine]))
                continue
            if self._entries[name].years_since:
                value = np.where(np.isnan(value) | np.isnat(cells.at), np.nan, cells.at.astype(np.int64))
            known = np.maximum(cells.at, cells.known)
            self._last[name].add(DatedValues(cells.patient, cells.at, known, value))

    def found(self) -> _EventValues:
        """What each image has, once all events were added."""
        numbers = self._numbers.found()
        columns = {}
        for name, values in numbers.columns.items():
            columns[name] = pc.coalesce(values.cast(pa.string()), numbers.reasons[name])
        for name, last in self._last.items():
            entry = self._entries[name]
            if entry.years_since:
                age = (self._images.at.astype(np.int64) - last.value) / _YEAR.astype(np.int64)
                columns[name] = pa.array(age, from_pandas=True).cast(pa.string())
                continue
            words = pa.array([*entry.levels, _OTHER] if entry.kind == "categorical" else ["1"])
            columns[name] = words.take(pa.array(last.value, from_pandas=True).cast(pa.int64()))
        for name, stays in self._stays.items():
            columns[name] = self._during(stays)
        return _EventValues(columns, tuple(numbers.steps), numbers.warnings)

    def _during(self, parts: Iterable[Stays]) -> pa.Array:
        """Whether a stay covers the image; null for patients without any, and without a time."""
        stays = Stays(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        inside = link_strict(self._images, stays).found
        asked = np.isin(self._images.patient, stays.patient[~np.isnat(stays.begins)]) & ~np.isnat(self._images.at)
        return pa.array(np.where(inside, "1", "0"), mask=~(asked & (self._images.patient != NOBODY)))


def _placing(entry: VariableMapping) -> Callable[[str], float | None]:
    """Finds the place of a code among the levels of a variable, 0 if it has none, None if it is not the variable's."""
    levels = {pattern: float(place) for place, pattern in enumerate(entry.levels)}

    def place(code: str) -> float | None:
        if of_code(code, entry.codes) is None:
            return None
        if entry.kind != "categorical":
            return 0.0
        found = of_code(code, levels)
        return float(len(levels)) if found is None else found

    return place


def _window(entry: VariableMapping) -> Window:
    first, last = entry.window_days
    begins = None if first is None or first == -np.inf else hours(24 * first)
    return Window(begins, hours(24 * (np.inf if last is None else last)))


def _measurement(name: str, entry: VariableMapping) -> Measurement:
    assert entry.range is not None
    units = {same_unit(unit): conversion for unit, conversion in entry.units.items()}
    if not units:
        units = {same_unit(entry.unit or ""): Conversion(1.0), "": Conversion(1.0)}
    return Measurement(name, entry.codes, units, (float(entry.range[0]), float(entry.range[1])), _window(entry))


def dated(times: pa.Array) -> Times:
    """Timestamps of any unit as microseconds, NaT if null."""
    found: Times = pc.cast(times, pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    return found
