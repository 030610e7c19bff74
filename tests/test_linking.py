"""The time rules against plain loops over rows, on random hospitals with blanks, ties and strangers."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartray.errors import InputError
from chartray.records import linking
from chartray.records.identifiers import whole_numbers
from chartray.records.linking import NO_STAY, NOBODY, UNLINKED, ImageTimes, Stays
from chartray.records.parsing import moment

START = np.datetime64("2150-03-01T00:00:00", "us")


def hospital(seed: int, images: int = 40, stays: int = 30, patients: int = 6) -> tuple[ImageTimes, Stays, np.ndarray]:
    """Few patients and few hours, so that ties, stays that end before they begin and blanks all occur."""
    random = np.random.default_rng(seed)

    def times(count: int) -> np.ndarray:
        found = START + random.integers(0, 120, count).astype("timedelta64[h]")
        found[random.random(count) < 0.1] = np.datetime64("NaT")
        return found

    def of(count: int) -> np.ndarray:
        found = random.integers(0, patients, count)
        found[random.random(count) < 0.05] = NOBODY
        return found

    taken = ImageTimes(of(images), times(images))
    begins = times(stays)
    there = Stays(of(stays), begins, begins + random.integers(-5, 60, stays).astype("timedelta64[h]"))
    return taken, there, (taken.patient != NOBODY) & (taken.patient != patients - 1)


def by_loop(images: ImageTimes, stays: Stays, rules: str) -> tuple[list[int], list[int]]:
    """The rules of docs/method.md for one image and one stay at a time."""
    chosen, candidates = [], []
    for patient, at in zip(images.patient, images.at.tolist(), strict=True):
        best, best_begins, count = NO_STAY, datetime.min, 0
        for row, (owner, begins, ends) in enumerate(
            zip(stays.patient, stays.begins.tolist(), stays.ends.tolist(), strict=True)
        ):
            if owner != patient or patient == NOBODY or None in (at, begins, ends):
                continue
            covers = begins.date() <= at.date() <= ends.date() if rules == "published" else begins <= at <= ends
            if covers:
                count += 1
                if rules == "published" or begins >= best_begins:
                    best, best_begins = row, begins
        chosen.append(best)
        candidates.append(count)
    return chosen, candidates


@pytest.mark.parametrize("rules", ["strict", "published"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), pairs=st.sampled_from([1, 7, 4_000_000]))
def test_links_are_those_of_a_loop_over_rows(rules: str, seed: int, pairs: int) -> None:
    images, stays, _ = hospital(seed)
    link = linking.link_strict if rules == "strict" else linking.link_published
    with pytest.MonkeyPatch.context() as patch:
        # In how many parts the pairs are looked at must not show.
        patch.setattr(linking, "_PAIRS_AT_ONCE", pairs)
        links = link(images, stays)
    assert (links.stay.tolist(), links.candidates.tolist()) == by_loop(images, stays, rules)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_every_image_without_a_stay_has_one_reason(seed: int) -> None:
    images, stays, recorded = hospital(seed)
    links = linking.link_strict(images, stays)
    expected = dict.fromkeys(UNLINKED, 0)
    for image in np.flatnonzero(~links.found):
        begins = stays.begins[stays.patient == images.patient[image]]
        if not recorded[image]:
            reason = "no_record"
        elif np.isnat(images.at[image]):
            reason = "no_time"
        elif not begins.size:
            reason = "no_admission"
        else:
            reason = "before_admission" if (begins > images.at[image]).any() else "after_discharge"
        expected[reason] += 1
    assert linking.why_unlinked(images, stays, recorded, links) == expected


def test_nothing_to_link_links_nothing() -> None:
    none = np.empty(0, "datetime64[us]")
    empty, stays = ImageTimes(np.empty(0, np.int64), none), Stays(np.empty(0, np.int64), none, none)
    images, full, recorded = hospital(1)
    assert not linking.link_strict(images, stays).found.any()
    assert not linking.link_published(empty, full).found.size
    counts = linking.why_unlinked(images, stays, recorded, linking.link_strict(images, stays))
    assert sum(counts.values()) == len(images.at)
    assert counts["no_admission"] == int((recorded & ~np.isnat(images.at)).sum())


def test_an_encounter_begins_when_the_first_of_both_was_written_down() -> None:
    early, late, never = START, START + np.timedelta64(3, "h"), np.datetime64("NaT", "us")
    admitted, registered = np.array([late, early, never, late, never]), np.array([early, late, late, never, never])
    begins = linking.encounter_begins(admitted, registered)
    assert begins[:4].tolist() == [value.item() for value in (early, early, late, late)]
    assert np.isnat(begins[4])


def test_ids_and_times_from_text() -> None:
    cells = ["10000032", " 12 ", "12.0", "9007199254740993", "nan", None]
    numbers = [10000032, 12, 12, 9007199254740993, None, None]
    assert whole_numbers(pa.array(cells), "subject_id", "patients.csv").to_pylist() == numbers
    for cell in ("12.5", "x", "1_000", "1e+30", "99999999999999999999"):
        with pytest.raises(InputError, match=r"subject_id of patients.csv, found .* in data row 1"):
            whole_numbers(pa.array([cell]), "subject_id", "patients.csv")
    noon = datetime(2150, 3, 1, 12)
    assert [moment(cell) for cell in ("2150-03-01 12:00:00", "2150-03-01T12:00", "2150-03-01")] == [
        noon,
        noon,
        noon - timedelta(hours=12),
    ]
    assert moment("2150-03-01 14:00:00+02:00") == noon
    assert moment("soon") is None
