"""Measured values of a chart, such as creatinine or heart rate -> the value of each image, as of the image.

Every source hands its rows over in parts; units are harmonised, and the join is that of `as_of`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.flow import FlowStep
from chartray.records.as_of import AsOf, DatedValues, ImageIndex, Numbers, Window
from chartray.records.linking import NOBODY, ImageTimes, Integers, Times
from chartray.records.missing import count_missing, told
from chartray.records.parsing import by_cell
from chartray.records.units import Conversion, of_code, same_unit
from chartray.records.warnings import DataWarning
from chartray.wording import plural

NO_NUMBER = "(no number)"
OUT_OF_RANGE = "(outside its range)"
NOT_STORED = "(no stored time)"
NO_TIME = "(no readable time)"
_FIXED = (NO_NUMBER, OUT_OF_RANGE, NOT_STORED, NO_TIME)
_NO_UNIT = "no unit"


class Measurement(NamedTuple):
    """A numeric variable: the `codes` it is measured under (or patterns of them), its `range`, and the window.

    A value is brought from the unit of its code, if that names one, to that of its row.
    `units`: how a value in another unit is brought to it, by the unit's name (see `same_unit`); '' is a blank cell.
    A value in any other unit is not used.
    """

    name: str
    codes: Mapping[str, Conversion]
    units: Mapping[str, Conversion]
    range: tuple[float, float]
    window: Window


class DatedCells(NamedTuple):
    """Rows of a source (M,): patient, code, value and unit as text, NaT where the times are unreadable.

    `known` is when a value was stored, NaT if that is not known.
    """

    patient: Integers
    code: pa.Array
    value: pa.Array
    unit: pa.Array
    at: Times
    known: Times


class MeasuredValues(NamedTuple):
    """Of each variable the value of each image (N,), counts of the missing ones, notes of the flow, and warnings.

    `reasons` (N,): why the last row in the window could not be used, where there is no value; null without a row.
    """

    columns: dict[str, pa.Array]
    reasons: dict[str, pa.Array]
    missing: dict[str, dict[str, int]]
    steps: list[FlowStep]
    warnings: list[DataWarning]


class AsOfImages:
    """Takes rows of values part by part, and has the last usable one of each variable for each image."""

    def __init__(self, wanted: Sequence[Measurement], images: ImageTimes) -> None:
        self._index = ImageIndex(images)
        self._variables = [_VariableAsOf(each, self._index) for each in wanted]
        self.rows = 0

    def add(self, cells: DatedCells) -> None:
        """Takes note of some rows; those of other patients and codes are passed over."""
        here = np.flatnonzero((cells.patient != NOBODY) & self._index.has(cells.patient))
        self.rows += len(cells.patient)
        if not len(here):
            return
        place = pa.array(here)
        code, value, unit = (column.take(place) for column in (cells.code, cells.value, cells.unit))
        # Encoded once for all variables.
        code, unit = code.dictionary_encode(), unit.fill_null("").dictionary_encode()
        mine = DatedCells(cells.patient[here], code, value, unit, cells.at[here], cells.known[here])
        for variable in self._variables:
            variable.add(mine)

    def found(self) -> MeasuredValues:
        """What each image has, once all rows were added."""
        made = MeasuredValues({}, {}, {}, [], [])
        for each in self._variables:
            values = pa.array(each.last.value, from_pandas=True)
            images, having = len(values), len(values) - values.null_count
            made.columns[each.wanted.name] = values
            made.reasons[each.wanted.name] = reasons = each.reasons()
            made.missing[each.wanted.name] = count_missing(reasons, values)
            why = f"{having} of {plural(images, 'image')} have a value{_window_said(each.wanted.window)}"
            unused = told(each.unused())
            if unused:
                why += f"; rows left out: {', '.join(f'{reason} {count}' for reason, count in unused.items())}"
            made.steps.append(FlowStep(f"{each.wanted.name} as of the image", images, images, why))
            made.warnings.extend(each.warnings())
        return made


class _VariableAsOf:
    """One variable: its last usable value, and the last row that could not be used, for each image."""

    def __init__(self, wanted: Measurement, index: ImageIndex) -> None:
        self.wanted, self.last = wanted, AsOf(index, wanted.window)
        self._of_code = cache(lambda code: of_code(code, wanted.codes))
        self._reasons = list(_FIXED)
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self._unused = AsOf(index, wanted.window)

    def add(self, cells: DatedCells) -> None:
        """Takes note of the rows of its codes."""
        scale, shift = (by_cell(cells.code, partial(self._part, place), pa.float64()) for place in (0, 1))
        rows = np.flatnonzero(pc.is_valid(scale).to_numpy(zero_copy_only=False))
        if not len(rows):
            return
        self._rows += len(rows)
        place = pa.array(rows)
        raw = pc.add(pc.multiply(cells.value.take(place).cast(pa.float64()), scale.take(place)), shift.take(place))
        value, reason = self._harmonised(raw, cells.unit.take(place))
        patient, at, known = cells.patient[rows], cells.at[rows], cells.known[rows]
        for times, said in ((at, NO_TIME), (known, NOT_STORED)):
            lacking = np.isnat(times) & (reason < 0)
            value[lacking], reason[lacking] = np.nan, _FIXED.index(said)
        self.last.add(DatedValues(patient, at, np.maximum(at, known), value))
        wrong = reason >= 0
        if wrong.any():
            # Stored or not, such a row is a reason from its time on.
            self._unused.add(DatedValues(patient[wrong], at[wrong], at[wrong], reason[wrong].astype(np.float64)))
            for number, count in zip(*np.unique(reason[wrong], return_counts=True), strict=True):
                self._counts[self._reasons[number]] += int(count)

    def _part(self, place: int, code: str) -> float | None:
        found = self._of_code(code)
        return None if found is None else found[place]

    def _harmonised(self, cells: pa.Array, units: pa.Array) -> tuple[Numbers, Integers]:
        """The values in the variable's unit, NaN if not usable, and the number of the reason, -1 if usable."""
        values: Numbers = cells.fill_null(np.nan).to_numpy(zero_copy_only=False).copy()
        encoded = units.dictionary_encode()
        scale, shift, reason = (np.empty(len(encoded.dictionary)) for _ in range(3))
        for number, unit in enumerate(encoded.dictionary.to_pylist()):
            conversion = self.wanted.units.get(same_unit(unit))
            scale[number], shift[number] = conversion or (np.nan, 0.0)
            reason[number] = -1 if conversion else self._reason(f"in {unit}" if unit else _NO_UNIT)
        which = encoded.indices.to_numpy()
        values = values * scale[which] + shift[which]
        low, high = self.wanted.range
        why = reason[which].astype(np.int64)
        # Rounded: a unit that was converted and converted back may be outside by the last digit alone.
        outside = (np.round(values, 9) < low) | (np.round(values, 9) > high)
        why = np.where((why < 0) & outside, _FIXED.index(OUT_OF_RANGE), why)
        blank: npt.NDArray[np.bool_] = pc.is_null(cells, nan_is_null=True).to_numpy(zero_copy_only=False)
        why = np.where(blank, _FIXED.index(NO_NUMBER), why)
        values[why >= 0] = np.nan
        return values, why

    def _reason(self, said: str) -> int:
        if said not in self._reasons:
            self._reasons.append(said)
        return self._reasons.index(said)

    def unused(self) -> dict[str, int]:
        """Rows of patients with images that could not be used, by the reason."""
        return dict(self._counts)

    def reasons(self) -> pa.Array:
        """Why the last row inside the window could not be used, for images without a value (N,)."""
        why = np.where(np.isnan(self.last.value), self._unused.value, np.nan)
        return pa.array(self._reasons).take(pa.array(why, from_pandas=True).cast(pa.int64()))

    def warnings(self) -> list[DataWarning]:
        """One if no image has a value, one if no row could be brought to the unit."""
        name, images = self.wanted.name, len(self.last.value)
        if not np.isnan(self.last.value).all() or not images:
            return []
        other = sum(count for said, count in self._counts.items() if said.startswith("in ") or said == _NO_UNIT)
        if self._rows and other == self._rows:
            what = f"none of {plural(self._rows, 'row')} is in a unit that can be harmonised"
            return [DataWarning(name, what, images, "say under units how theirs is brought to the variable's")]
        what = f"no image has a value among {plural(self._rows, 'row')} of the patients with images"
        return [DataWarning(name, what, images, "check the codes, the window and the patients' ids")]


def _window_said(window: Window) -> str:
    if window.first is None:
        return " known by then"
    span = -window.first / np.timedelta64(1, "h")
    return f" at most {span:g} hours old, known by then"
