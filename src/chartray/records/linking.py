"""Linking of images to stays: the time rules, on arrays.

Each image is paired with every stay of its patient, and one of the stays that cover it is chosen. A database join would
do the same, but takes a second to load.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
# Microseconds, or whole days under the published rule; NaT if unknown.
Times = npt.NDArray[np.datetime64]

# The patient of a row without one; it is never paired.
NOBODY = np.iinfo(np.int64).min
NO_STAY = -1
# Why an image has no admission, in the order of the flow.
UNLINKED = ("before_admission", "after_discharge", "no_admission", "no_record", "no_time")
# Pairs of an image and a stay that are compared at once, at about 100 bytes each.
_PAIRS_AT_ONCE = 4_000_000
_DAY, _INSTANT = np.timedelta64(1, "D"), np.timedelta64(1, "us")


class ImageTimes(NamedTuple):
    """patient (N,) and time `at` (N,) of each image."""

    patient: Integers
    at: Times


class Stays(NamedTuple):
    """Admissions or ICU stays in the order of their table: patient, begins, ends (M,) each."""

    patient: Integers
    begins: Times
    ends: Times


class Links(NamedTuple):
    """stay (N,): the row of each image's stay, or NO_STAY; candidates (N,): how many stays cover the image."""

    stay: Integers
    candidates: Integers

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        return np.not_equal(self.stay, NO_STAY)


def link_strict(images: ImageTimes, stays: Stays) -> Links:
    """A stay covers an image if begins <= at <= ends; the stay that began last is chosen.

    Among stays that began at the same time, the last in table order is chosen. Images without a time and stays without
    begin or end are not linked. Source: docs/method.md, *strict rule*.
    """
    return _last_covering(images, stays, np.lexsort((stays.begins, stays.patient)))


def link_published(images: ImageTimes, stays: Stays) -> Links:
    """A stay covers an image if date(begins) <= date(at) <= date(ends); the last in table order is chosen.

    An image at 08:00 is linked to a stay that begins at 20:00 that day. Source: docs/method.md, *published rule*.
    """
    days = Stays(stays.patient, _day(stays.begins), _day(stays.ends))
    return _last_covering(ImageTimes(images.patient, _day(images.at)), days, np.argsort(stays.patient, kind="stable"))


def why_unlinked(images: ImageTimes, stays: Stays, recorded: npt.NDArray[np.bool_], links: Links) -> dict[str, int]:
    """How many images have no stay, by the first reason that applies.

    `no_record` (the patient is not `recorded`, (N,)), `no_time` (the image has no time), `no_admission` (the patient
    has no stays), `before_admission` (a stay begins later), `after_discharge` (all stays have ended).
    """
    alone = np.flatnonzero(~links.found)
    patient, at = images.patient[alone], images.at[alone]
    # Sorted by patient and begin, unknown begins first: a patient's last row is the latest stay.
    known = np.where(np.isnat(stays.begins), np.datetime64(NOBODY + 1, "us"), stays.begins)
    order = np.lexsort((known, stays.patient))
    last = np.searchsorted(stays.patient[order], patient, side="right") - 1
    # An image of a patient before all others finds the appended row, which has no patient.
    owner = np.append(stays.patient[order], NOBODY)[last]
    latest = np.append(stays.begins[order], np.datetime64("NaT"))[last]
    reasons = {
        "no_record": ~recorded[alone],
        "no_time": np.isnat(at),
        "no_admission": owner != patient,
        # Some stay begins later if the latest does.
        "before_admission": latest > at,
        "after_discharge": np.ones(len(alone), dtype=np.bool_),
    }
    left, counts = np.ones(len(alone), dtype=np.bool_), dict.fromkeys(UNLINKED, 0)
    for reason, applies in reasons.items():
        counts[reason] = int((left & applies).sum())
        left &= ~applies
    return counts


def encounter_begins(admitted: Times, registered: Times) -> Times:
    """The earlier of admission and emergency registration, or the known one.

    Images in the emergency department precede the admission by hours.
    """
    begins: Times = np.fmin(admitted, registered)
    return begins


def from_end_of_day(at: Times, date_only: npt.NDArray[np.bool_]) -> Times:
    """The times `at` in microseconds; a date alone (N,) stands for the last instant of its day: by then it holds."""
    ends: Times = np.where(date_only, at + _DAY - _INSTANT, at)
    return ends


def pairs_of_ranges(first: Integers, count: Integers) -> Iterator[tuple[slice, Integers, Integers]]:
    """Each row paired with `count` places from `first` on, as (rows, row, place), some millions of pairs at once.

    `rows`: the rows of which these are all pairs.
    """
    for rows in _parts(count):
        row = np.repeat(np.arange(rows.start, rows.stop), count[rows])
        before = np.cumsum(count[rows]) - count[rows]
        yield rows, row, np.arange(len(row)) + np.repeat(first[rows] - before, count[rows])


def _last_covering(images: ImageTimes, stays: Stays, order: Integers) -> Links:
    """The last stay that covers each image in `order`, which sorts the stays by patient."""
    links = Links(np.full(len(images.at), NO_STAY), np.zeros(len(images.at), dtype=np.int64))
    patients = stays.patient[order]
    first, end = (np.searchsorted(patients, images.patient, side=side) for side in ("left", "right"))
    count = np.where(images.patient == NOBODY, 0, end - first)
    for part, image, place in pairs_of_ranges(first, count):
        stay = order[place]
        covers = (stays.begins[stay] <= images.at[image]) & (images.at[image] <= stays.ends[stay])
        image, stay = image[covers], stay[covers]
        last = np.flatnonzero(np.diff(image, append=NO_STAY))
        links.stay[image[last]] = stay[last]
        links.candidates[part] = np.bincount(image - part.start, minlength=part.stop - part.start)
    return links


def _parts(count: Integers) -> Iterator[slice]:
    """Slices of rows with at most `_PAIRS_AT_ONCE` pairs, or of one row with more; `count` (N,): pairs of each row."""
    pairs, begin = np.cumsum(count), 0
    while begin < len(count):
        before = pairs[begin - 1] if begin else 0
        end = max(int(np.searchsorted(pairs, before + _PAIRS_AT_ONCE, side="right")), begin + 1)
        yield slice(begin, end)
        begin = end


def _day(times: Times) -> Times:
    days: Times = times.astype("datetime64[D]")
    return days
