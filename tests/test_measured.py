"""Laboratory and vital values of MIMIC-IV as of each image, against a plain loop over the demo's rows."""

from collections.abc import Iterable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chartray.errors import InputError
from chartray.records import linking
from chartray.records.as_of import AsOf, DatedValues, ImageIndex, Window
from chartray.records.catalogue import CATALOGUE
from chartray.records.cohort import describe, flow_of
from chartray.records.linking import NOBODY, ImageTimes
from chartray.records.mimic import mimic_cohort
from tests.mimic_demo import DEMO, HOUR, cells, image_time, needs_demo, rows_of, when, write_cxr, write_rows

# What the demo's tables have of units, one by one: to the variable's own.
TO_UNIT = {
    "temperature": {"°F": lambda value: (value - 32) / 1.8, "°C": float},
    "weight": {"Lbs": lambda value: value * 0.45359237},
    "height": {"Inches": lambda value: value * 2.54},
}


def rows_by_hand(hospital: Path) -> list[tuple[str, str, datetime | None, datetime | None, str, str]]:
    """subject, code, drawn, stored, number and unit of every row of the three tables."""
    found = []
    for table in ("hosp/labevents", "icu/chartevents"):
        for row in rows_of(hospital / f"{table}.csv.gz"):
            times = when(row["charttime"]), when(row["storetime"])
            found.append((row["subject_id"], row["itemid"], *times, row["valuenum"], row["valueuom"].strip()))
    for row in rows_of(hospital / "hosp" / "omr.csv.gz"):
        at = datetime.combine(date.fromisoformat(row["chartdate"]), time.max)
        unit = row["result_name"].partition("(")[2].rstrip(")")
        found.append((row["subject_id"], row["result_name"], at, at, row["result_value"], unit))
    return found


def by_loop(hospital: Path, images: list[dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """The rule of docs/mimic.md, one image and one row at a time; nothing of the package but the catalogue's facts."""
    rows = rows_by_hand(hospital)
    expected: dict[str, dict[str, float | None]] = {}
    for name in names:
        entry = CATALOGUE[name]
        hours = {"laboratory": 72, "vital": 24, "body": 8760}[entry.group]
        items, (low, high) = {str(item) for item in entry.items}, entry.range
        of_patient: dict[str, list[tuple[datetime, datetime, float]]] = {}
        for subject, code, at, stored, number, unit in rows:
            if code not in items or not number or at is None or stored is None:
                continue
            alike = {"mEq/L": "mmol/L", "mm Hg": "mmHg", "IU/L": "U/L", "units": "pH", "bpm": "1/min"}
            alike |= {"insp/min": "1/min", "": "ratio"}
            if name in TO_UNIT:
                value = TO_UNIT[name][unit](float(number)) if unit in TO_UNIT[name] else None
            else:
                value = float(number) if alike.get(unit, unit) == entry.unit else None
            if value is not None and low <= value <= high:
                of_patient.setdefault(subject, []).append((at, max(at, stored), value))
        expected[name] = {}
        for each in images:
            taken, best = image_time(each), None
            for row in of_patient.get(str(each["subject_id"]), []):
                in_window = taken - hours * HOUR <= row[0] <= taken and row[1] <= taken
                if in_window and (best is None or row > best):
                    best = row
            expected[name][each["dicom_id"]] = None if best is None else best[2]
    return expected


@needs_demo
def test_every_measured_cell_equals_a_plain_row_loop(hospital: Path, images: Any, tmp_path: Path) -> None:
    cohort = mimic_cohort(str(hospital), write_cxr(tmp_path, images), measured=["all"])
    expected = by_loop(hospital, images, CATALOGUE)
    for name in CATALOGUE:
        assert cells(cohort, name) == pytest.approx(expected[name]), name
        filled = sum(value is not None for value in expected[name].values())
        rare = name in ("crp", "d_dimer", "ntprobnp", "troponin_t")
        assert (1 if rare else 25) <= filled < len(images), f"{name}: {filled} values prove little"
    content = flow_of(cohort)
    assert all(variable.known_at_film for name, variable in cohort.metadata.variables.items() if name in CATALOGUE)
    for name, missing in content.missing.items():
        if name in CATALOGUE:  # every image without a value has one reason
            assert sum(missing.values()) == sum(value is None for value in expected[name].values()), name
    assert {"no unit", "in furlongs", "(no stored time)"} <= content.missing["heart_rate"].keys()
    (said,) = (line for line in describe(cohort).splitlines() if "d_dimer as of the image" in line)
    assert "at most 72 hours old, known by then; rows left out: in ng/mL " in said


@needs_demo
def test_items_are_what_the_dictionaries_of_mimic_call_them() -> None:
    labels = {row["itemid"]: row for row in rows_of(DEMO / "hosp" / "d_labitems.csv.gz")}
    charted = {row["itemid"]: row for row in rows_of(DEMO / "icu" / "d_items.csv.gz")}
    words = {
        "haemoglobin": "Hemoglobin", "white_cells": "White Blood Cells", "platelets": "Platelet Count",
        "crp": "C-Reactive Protein", "ntprobnp": "NTproBNP", "d_dimer": "D-Dimer", "inr": "INR(PT)",
        "bilirubin": "Bilirubin, Total", "alt": "Alanine Aminotransferase (ALT)", "troponin_t": "Troponin T",
        "oxygen_saturation": "O2 saturation pulseoxymetry",
    }  # fmt: skip
    for name, entry in CATALOGUE.items():
        for item in entry.items:
            if entry.group == "laboratory":
                row = labels[str(item)]
                assert row["fluid"] == "Blood", name
                assert row["label"].lower() == words.get(name, name).replace("_", " ").lower(), name
            elif entry.group == "vital":
                row = charted[str(item)]
                assert row["linksto"] == "chartevents"
                assert words.get(name, name.partition("_")[0]).lower() in row["label"].lower(), name


START = np.datetime64("2150-03-01T00:00:00", "us")


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    pairs=st.sampled_from([1, 7, 4_000_000]),
    window=st.sampled_from([(-24, 0), (None, 0), (0, 0), (-48, -6), (-12, 24), (None, 48)]),
    parts=st.integers(1, 4),
)
def test_the_join_is_that_of_a_loop_in_any_order_and_any_parts(
    seed: int, pairs: int, window: tuple[int | None, int], parts: int
) -> None:
    """A value counts if it is inside the window, and known by the image or by the window's end."""
    draw = np.random.default_rng(seed)

    def drawn(count: int, missing: float) -> Any:
        times = START + draw.integers(0, 90, count).astype("timedelta64[h]")
        times[draw.random(count) < missing] = np.datetime64("NaT")
        return times

    def owners(count: int) -> Any:
        return np.where(draw.random(count) < 0.05, NOBODY, draw.integers(0, 6, count))

    images = ImageTimes(owners(30), drawn(30, 0.1))
    at = drawn(60, 0.1)
    values = np.where(draw.random(60) < 0.1, np.nan, draw.integers(0, 4, 60).astype(float))
    rows = DatedValues(owners(60), at, at + draw.integers(0, 20, 60).astype("timedelta64[h]"), values)
    hour = np.timedelta64(1, "h").astype("timedelta64[us]")
    first, last = window
    join = AsOf(ImageIndex(images), Window(None if first is None else first * hour, last * hour))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linking, "_PAIRS_AT_ONCE", pairs)
        for part in np.array_split(draw.permutation(60), parts):
            join.add(DatedValues(*(column[part] for column in rows)))
    for row, (patient, taken) in enumerate(zip(*images, strict=True)):
        best = None
        for owner, time_, known, value in zip(*rows, strict=True):
            if patient == NOBODY or owner != patient or np.isnan(value) or np.isnat(taken) or np.isnat(time_):
                continue
            inside = (first is None or time_ >= taken + first * hour) and time_ <= taken + last * hour
            if inside and known <= taken + max(last, 0) * hour:
                best = max(best or (START - hour, START, 0.0), (time_, known, value))
        assert np.isnan(join.value[row]) if best is None else join.value[row] == best[2]


def spoiled(hospital: Path, folder: Path, table: str, change: Any) -> Path:
    """A copy of the hospital with another content of one table."""
    root = folder / "other"
    for name in ("hosp", "icu"):
        (root / name).mkdir(parents=True)
        for file in (hospital / name).iterdir():
            if f"{name}/{file.name}" != f"{table}.csv.gz":
                (root / name / file.name).symlink_to(file.resolve())
    rows = change(rows_of(hospital / f"{table}.csv.gz"))
    if rows:
        write_rows(root / f"{table}.csv.gz", list(rows[0]), rows)
    return root


@needs_demo
@pytest.mark.parametrize(
    ("names", "table", "change", "sentence"),
    [
        (["heamoglobin"], None, None, r"expected --measured of all, .* 'heamoglobin' \(did you mean 'haemoglobin'"),
        (["vital"], "icu/chartevents", lambda rows: [], r"expected chartevents.csv or chartevents.csv.gz in .*icu, "),
        (
            ["crp"],
            "hosp/labevents",
            lambda rows: [{k: v for k, v in row.items() if k != "storetime"} for row in rows],
            r"expected a column 'storetime' in .*labevents.csv.gz, found labevent_id",
        ),
        (
            ["crp"],
            "hosp/labevents",
            lambda rows: [row for row in rows if row["itemid"] != "50889"],
            r"expected rows of itemid 50889 in labevents of .*, found none; download the table again",
        ),
        (
            ["crp"],
            "hosp/labevents",
            lambda rows: [rows[0], rows[1] | {"itemid": "50889", "subject_id": "Doe"}],
            r"expected whole numbers as subject_id of .*labevents.csv.gz, found another form in data row 2; correct it",
        ),
        (
            ["crp"],
            "hosp/labevents",
            lambda rows: [rows[0], rows[1] | {"itemid": "50889", "storetime": "2148-08-16 01:30:00+02:00"}],
            r"expected times without a time zone as storetime of .*, found a time zone in data row 2; export them",
        ),
    ],
)  # fmt: skip
def test_measured_values_that_cannot_be_read_are_refused(
    hospital: Path, images: Any, tmp_path: Path, names: Any, table: Any, change: Any, sentence: str
) -> None:
    root = spoiled(hospital, tmp_path, table, change) if table else hospital
    with pytest.raises(InputError, match=sentence) as caught:
        mimic_cohort(str(root), write_cxr(tmp_path, images[:20]), measured=names)
    assert "Doe" not in str(caught.value)


@needs_demo
def test_a_narrower_window_and_a_unit_nobody_can_harmonise(hospital: Path, images: Any, tmp_path: Path) -> None:
    def in_stones(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [row | {"valueuom": "stone"} if row["itemid"] == "50912" else row for row in rows]

    root = spoiled(hospital, tmp_path, "hosp/labevents", in_stones)
    cxr = write_cxr(tmp_path, images)
    cohort = mimic_cohort(str(root), cxr, measured=["creatinine", "sodium"], window_hours=6)
    assert set(cells(cohort, "creatinine").values()) == {None}
    assert flow_of(cohort).missing["creatinine"]["in stone"] > 100
    (warning,) = (each for each in cohort.warnings if each.of == "creatinine")
    assert "is in a unit that can be harmonised" in warning.what
    wide = mimic_cohort(str(hospital), cxr, measured=["sodium"])
    narrow, wider = ([v for v in cells(each, "sodium").values() if v is not None] for each in (cohort, wide))
    assert 0 < len(narrow) < len(wider)
