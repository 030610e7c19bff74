"""The as-of join: for each image the last value of its patient inside a window, as far as it was known by then.

The rows of values come in parts, so a table larger than the memory is joined while it is read. Neither the order of the
rows nor their division into parts changes the result.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chartray.records.linking import NOBODY, ImageTimes, Integers, Times, pairs_of_ranges

Numbers = npt.NDArray[np.float64]
_FOREVER = np.datetime64(np.iinfo(np.int64).max, "us")
_NEVER = np.datetime64("NaT", "us")
_NOW = np.timedelta64(0, "us")
_LONGEST = 24 * 365.25 * 200  # hours


class Window(NamedTuple):
    """Times relative to the image, in microseconds and inclusive: from `first` (None: without limit) to `last`."""

    first: np.timedelta64 | None
    last: np.timedelta64 = _NOW


def hours(count: float) -> np.timedelta64:
    """A number of hours in microseconds; more than two centuries, also infinity, are two centuries.

    >>> [str(hours(count)) for count in (1.5, float("-inf"))]
    ['5400000000 microseconds', '-6311520000000000 microseconds']
    """
    return np.timedelta64(round(float(np.clip(count, -_LONGEST, _LONGEST)) * 3_600_000_000), "us")


class DatedValues(NamedTuple):
    """patient, time `at`, time `known` (when it was stored, not before `at`) and `value` of each row (M,).

    A row without a patient, a time or a value (NaN) is never found.
    """

    patient: Integers
    at: Times
    known: Times
    value: Numbers


class ImageIndex:
    """The images ordered by patient and time, so that those inside a window stand next to each other."""

    def __init__(self, images: ImageTimes) -> None:
        self.images = len(images.at)
        there = np.flatnonzero((images.patient != NOBODY) & ~np.isnat(images.at))
        patient, at = images.patient[there], images.at[there].astype("datetime64[us]")
        self._patients, self._times = np.unique(patient), np.unique(at)
        self._step = len(self._times) + 1
        keys = np.searchsorted(self._patients, patient) * self._step + np.searchsorted(self._times, at)
        order = np.argsort(keys, kind="stable")
        self._rows, self._keys = there[order], keys[order]

    def has(self, patient: Integers) -> npt.NDArray[np.bool_]:
        """Which rows belong to a patient who has an image with a time (M,)."""
        if not len(self._patients):
            return np.zeros(len(patient), dtype=np.bool_)
        place = np.searchsorted(self._patients, patient)
        found: npt.NDArray[np.bool_] = self._patients[np.minimum(place, len(self._patients) - 1)] == patient
        return found

    def pairs(self, patient: Integers, begins: Times, ends: Times) -> Iterator[tuple[Integers, Integers]]:
        """Image and row of every image with begins <= time <= ends of its patient, some millions at once."""
        owner = np.searchsorted(self._patients, patient) * self._step
        first = np.searchsorted(self._keys, owner + np.searchsorted(self._times, begins, side="left"))
        end = np.searchsorted(self._keys, owner + np.searchsorted(self._times, ends, side="right"))
        count = np.where(self.has(patient) & ~np.isnat(begins) & ~np.isnat(ends), np.maximum(end - first, 0), 0)
        for _, row, place in pairs_of_ranges(first, count):
            yield self._rows[place], row


class AsOf:
    """The last value of each image so far: `value` (N,), NaN without one, of the time `at`, `known` since then.

    Of values of the same time, the one that became known last is taken, and of those the largest.
    """

    def __init__(self, index: ImageIndex, window: Window) -> None:
        self._index, self._window = index, window
        self.at = np.full(index.images, _NEVER)
        self.known = np.full(index.images, _NEVER)
        self.value: Numbers = np.full(index.images, np.nan)

    def add(self, rows: DatedValues) -> None:
        """Takes note of some rows."""
        first, last = self._window
        usable = ~np.isnan(rows.value) & ~np.isnat(rows.at) & ~np.isnat(rows.known)
        rows = DatedValues(rows.patient[usable], rows.at[usable], rows.known[usable], rows.value[usable])
        # A window that ends before the image still needs values that are known by the image, not by its end.
        begins = np.maximum(rows.at - last, rows.known - max(last, _NOW))
        ends = np.full(len(begins), _FOREVER) if first is None else rows.at - first
        for image, row in self._index.pairs(rows.patient, begins, ends):
            self._keep(image, rows.at[row], rows.known[row], rows.value[row])

    def _keep(self, image: Integers, at: Times, known: Times, value: Numbers) -> None:
        order = np.lexsort((value, known, at, image))
        best = order[np.diff(image[order], append=-1) != 0]
        image, at, known, value = image[best], at[best], known[best], value[best]
        before, since, held = self.at[image], self.known[image], self.value[image]
        later = np.isnat(before) | (at > before)
        later |= (at == before) & ((known > since) | ((known == since) & (value > held)))
        image = image[later]
        self.at[image], self.known[image], self.value[image] = at[later], known[later], value[later]
