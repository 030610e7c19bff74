"""Which encounter belongs to a film: the time rules, from arrays to arrays.

A film is paired with every stay of its patient, and the stays that cover it are compared: what a join in a database
does, without the second that loading one takes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
# Microseconds, or whole days under the published rule; NaT where there is none.
Times = npt.NDArray[np.datetime64]

# The patient of a row without one: it is paired with nothing.
NOBODY = np.iinfo(np.int64).min
NO_STAY = -1
# Why a film has no admission, in the order in which a flow says it.
UNLINKED = ("before_admission", "after_discharge", "no_admission", "no_record", "no_time")
# Pairs of a film and a stay looked at together: some 100 bytes each.
_PAIRS_AT_ONCE = 4_000_000


class Films(NamedTuple):
    """patient (N,), at (N,): when each film was taken."""

    patient: Integers
    at: Times


class Stays(NamedTuple):
    """Admissions or ICU stays in the order of their table: patient, begins, ends (M,) each."""

    patient: Integers
    begins: Times
    ends: Times


class Links(NamedTuple):
    """stay (N,): the row of each film's stay, or NO_STAY; candidates (N,): how many stays cover the film."""

    stay: Integers
    candidates: Integers

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        return np.not_equal(self.stay, NO_STAY)


def link_strict(films: Films, stays: Stays) -> Links:
    """Full timestamps: a stay covers a film when begins <= at <= ends; the latest to have begun wins.

    Of stays that began at once the last in table order does. A film without time, or a stay without begin or end, is
    not linked. Source: METHOD, *our strict rule*.
    """
    return _last_covering(films, stays, np.lexsort((stays.begins, stays.patient)))


def link_published(films: Films, stays: Stays) -> Links:
    """Calendar dates: date(begins) <= date(at) <= date(ends); the last in table order wins.

    Source: METHOD, *published linking rule*. A film at 08:00 counts for a stay that begins at 20:00 that day.
    """
    days = Stays(stays.patient, _day(stays.begins), _day(stays.ends))
    return _last_covering(Films(films.patient, _day(films.at)), days, np.argsort(stays.patient, kind="stable"))


def why_unlinked(films: Films, stays: Stays, recorded: npt.NDArray[np.bool_], links: Links) -> dict[str, int]:
    """How many films have no stay, by reason: the first that applies.

    `no_record` (no such patient: not `recorded`, (N,)), `no_time` (the film has none), `no_admission` (the patient has
    no stay at all), `before_admission` (a stay begins later), `after_discharge` (all stays of the patient are over).
    """
    alone = np.flatnonzero(~links.found)
    patient, at = films.patient[alone], films.at[alone]
    # Sorted by patient and begin, those without one first: the last of a patient's is the latest.
    known = np.where(np.isnat(stays.begins), np.datetime64(NOBODY + 1, "us"), stays.begins)
    order = np.lexsort((known, stays.patient))
    last = np.searchsorted(stays.patient[order], patient, side="right") - 1
    # A film before all others' finds the row that is added, nobody's.
    owner = np.append(stays.patient[order], NOBODY)[last]
    latest = np.append(stays.begins[order], np.datetime64("NaT"))[last]
    reasons = {
        "no_record": ~recorded[alone],
        "no_time": np.isnat(at),
        "no_admission": owner != patient,
        # Some stay begins later where the latest does.
        "before_admission": latest > at,
        "after_discharge": np.ones(len(alone), dtype=np.bool_),
    }
    left, counts = np.ones(len(alone), dtype=np.bool_), dict.fromkeys(UNLINKED, 0)
    for reason, applies in reasons.items():
        counts[reason] = int((left & applies).sum())
        left &= ~applies
    return counts


def encounter_begins(admitted: Times, registered: Times) -> Times:
    """The earlier of admission and emergency registration, or the one that is known: emergency films precede
    admission by hours.
    """
    begins: Times = np.fmin(admitted, registered)
    return begins


def _last_covering(films: Films, stays: Stays, order: Integers) -> Links:
    """The last of the stays that cover a film in `order`, in which they are sorted by patient."""
    links = Links(np.full(len(films.at), NO_STAY), np.zeros(len(films.at), dtype=np.int64))
    patients = stays.patient[order]
    first, end = (np.searchsorted(patients, films.patient, side=side) for side in ("left", "right"))
    count = np.where(films.patient == NOBODY, 0, end - first)
    for part in _parts(count):
        film = np.repeat(np.arange(part.start, part.stop), count[part])
        before = np.cumsum(count[part]) - count[part]
        place = np.arange(len(film)) + np.repeat(first[part] - before, count[part])
        stay = order[place]
        covers = (stays.begins[stay] <= films.at[film]) & (films.at[film] <= stays.ends[stay])
        film, stay = film[covers], stay[covers]
        last = np.flatnonzero(np.diff(film, append=NO_STAY))
        links.stay[film[last]] = stay[last]
        links.candidates[part] = np.bincount(film - part.start, minlength=part.stop - part.start)
    return links


def _parts(count: Integers) -> Iterator[slice]:
    """Films in parts of so many pairs, or of one film that has more."""
    pairs, begin = np.cumsum(count), 0
    while begin < len(count):
        before = pairs[begin - 1] if begin else 0
        end = max(int(np.searchsorted(pairs, before + _PAIRS_AT_ONCE, side="right")), begin + 1)
        yield slice(begin, end)
        begin = end


def _day(times: Times) -> Times:
    days: Times = times.astype("datetime64[D]")
    return days
