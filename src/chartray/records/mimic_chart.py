"""The chart of each image from MIMIC-IV: its admission and ICU stay, sex, age, mortality and icu."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.flow import FlowStep
from chartray.records import linking
from chartray.records.levels import sex_level
from chartray.records.linking import NO_STAY, NOBODY, ImageTimes, Links, Stays
from chartray.records.mimic_tables import MimicTables
from chartray.records.mimic_times import MICROSECONDS, Flags, Spans, clocks, days, moments, spans
from chartray.records.missing import ABSENT, UNREADABLE, count_unreadable
from chartray.records.parsing import RADIOGRAPH_YEARS, by_cell, number, truth
from chartray.records.warnings import DataWarning
from chartray.schema import AGE_RANGE, EHR_PREFIX, ICU_LEVELS, MORTALITY_LEVELS, Rules

# MIMIC-IV gives everybody over 89 this anchor_age (MIT-LCP/mimic-code#1231), and newborns 0.
_OVER_89 = 91.0
_BEFORE_91 = "(over 89 only after the image)"


class ImageCharts(NamedTuple):
    """`rows`, one per image in order: taken_at, the `ehr.` columns and the cells they were read from.

    `links` counts linked images by rule, and unlinked ones by reason; `missing` counts unreadable times.
    """

    rows: pa.Table
    links: dict[str, int]
    missing: dict[str, dict[str, int]]
    steps: list[FlowStep]
    warnings: list[DataWarning]


class _Linked(NamedTuple):
    """The stays linked to each image, and whether a stay with incomplete times may cover it too (N,)."""

    admission: Links
    icu: Links
    admission_unknown: Flags
    icu_unknown: Flags


def chart_of_images(cells: pa.Table, file: Path, hospital: MimicTables, rules: Rules) -> ImageCharts:
    """The charts of the images in `cells` (subject_id as whole numbers, StudyDate and StudyTime as text) of `file`.

    Raises InputError for unreadable times of stays.
    """
    tables = hospital.tables
    admissions = spans(tables["admissions"], "admittime", "dischtime", hospital.place["admissions"])
    icu_stays = spans(tables["icustays"], "intime", "outtime", hospital.place["icustays"])
    patient = cells["subject_id"].combine_chunks().to_numpy()
    day, clock = days(cells["StudyDate"]), clocks(cells["StudyTime"], file)
    taken_at = np.add(day.astype("datetime64[us]"), clock)
    row = pc.index_in(pa.array(patient), value_set=tables["patients"]["subject_id"].combine_chunks())
    encounters, registered = _encounters(admissions, tables["admissions"], hospital.place["admissions"])
    if rules == "strict":
        images = ImageTimes(patient, taken_at)
        linked = _linked_strict(images, encounters, icu_stays)
    else:
        images, encounters = ImageTimes(patient, day.astype("datetime64[us]")), admissions.stays
        linked = _linked_published(images, admissions, icu_stays)
    admission, icu = linked.admission, linked.icu
    counts = {
        "films": len(patient),
        "linked": int(admission.found.sum()),
        "ties": int((admission.candidates > 1).sum()),
        "by_emergency_registration": _early(images, admissions.stays, admission) if rules == "strict" else 0,
        **linking.why_unlinked(images, encounters, row.is_valid().to_numpy(zero_copy_only=False), admission),
        "icu_linked": int(icu.found.sum()),
        "icu_ties": int((icu.candidates > 1).sum()),
        "icu_unknown": int(linked.icu_unknown.sum()),
        "admissions_that_end_before_they_begin": int(admissions.backwards.sum()),
        "icu_stays_that_end_before_they_begin": int(icu_stays.backwards.sum()),
    }
    missing = {
        "StudyDate": count_unreadable(cells["StudyDate"], pa.array(day)),
        "StudyTime": count_unreadable(cells["StudyTime"], pa.array(clock)),
        **registered,
    }
    expired = _of_stay(tables["admissions"]["hospital_expire_flag"], admission)
    ages = _Ages.of_images(tables["patients"], row, day)
    chart = _of_patient(tables["patients"], row, ages, rules) | _of_stays(expired, linked, rules)
    rows = pa.table({"taken_at": pa.array(taken_at, MICROSECONDS)} | chart)
    said = {name: lost for name, lost in missing.items() if lost}
    return ImageCharts(rows, counts, said, ages.steps(rules), _undated(said) + ages.warnings())


def _encounters(admissions: Spans, cells: pa.Table, file: Path) -> tuple[Stays, dict[str, dict[str, int]]]:
    """Admissions from the emergency registration on, if that is earlier, and counts of unreadable registrations."""
    if "edregtime" not in cells.column_names:
        return admissions.forwards(admissions.stays.begins), {}
    registered = moments(cells["edregtime"], "edregtime", file).at
    lost = count_unreadable(cells["edregtime"], pa.array(registered))
    lost.pop(ABSENT, None)  # patients who were not registered in the emergency department
    return admissions.forwards(linking.encounter_begins(admissions.stays.begins, registered)), {"edregtime": lost}


def _linked_strict(images: ImageTimes, encounters: Stays, icu_stays: Spans) -> _Linked:
    icu = linking.link_strict(images, icu_stays.certain())
    perhaps = _last_possible(images, icu_stays, by_date=False)
    admission = linking.link_strict(images, encounters)
    return _Linked(admission, icu, np.zeros(len(images.at), dtype=np.bool_), (perhaps != NO_STAY) & ~icu.found)


def _linked_published(images: ImageTimes, admissions: Spans, icu_stays: Spans) -> _Linked:
    """An image without a date may be in any stay; of several stays the last in table order is linked."""
    dateless = np.isnat(images.at)
    links, perhaps = [], []
    for each in (admissions, icu_stays):
        links.append(linking.link_published(images, each.stays))
        perhaps.append(_last_possible(images, each, by_date=True))
    admission, icu = links
    return _Linked(
        admission, icu, dateless | (perhaps[0] > admission.stay), dateless | ((perhaps[1] > icu.stay) & ~icu.found)
    )


def _last_possible(images: ImageTimes, stays: Spans, *, by_date: bool) -> linking.Integers:
    """(N,) the row of the last stay with incomplete times that may cover the image, or NO_STAY."""
    possible = stays.possible(by_date=by_date)
    rows = np.flatnonzero(possible.patient != NOBODY)
    link = linking.link_published if by_date else linking.link_strict
    found = link(images, Stays(possible.patient[rows], possible.begins[rows], possible.ends[rows])).stay
    return np.append(rows, NO_STAY)[found]


def _numbers(cells: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(N,), NaN if the cell is not a number."""
    column = cells.combine_chunks()
    column = column if column.type == pa.float64() else by_cell(column, number, pa.float64())
    numbers: npt.NDArray[np.float64] = column.fill_null(np.nan).to_numpy()
    return numbers


class _Ages(NamedTuple):
    """Per image (N,): the patient's age in that year (NaN if unknown), and the cell or reason to report for it.

    MIMIC-IV lists the patient as over 89 by the year of the image (`over_89`), or only `later`; `newborn` if anchor_age
    is 0.
    """

    age: npt.NDArray[np.float64]
    cell: pa.Array
    over_89: Flags
    later: Flags
    newborn: Flags

    @classmethod
    def of_images(cls, patients: pa.Table, row: pa.Array, day: linking.Times) -> "_Ages":
        """Age = year of the image - anchor_year + anchor_age, with each image's `row` in the patients."""
        anchor = {name: _numbers(patients[name]) for name in ("anchor_age", "anchor_year")}
        age, year = anchor.values()
        anchor["anchor_age"] = np.where((age >= 0) & (age % 1 == 0), age, np.nan)
        in_years = (year >= RADIOGRAPH_YEARS.start) & (year < RADIOGRAPH_YEARS.stop)
        anchor["anchor_year"] = np.where(in_years & (year % 1 == 0), year, np.nan)
        unread = [
            pc.if_else(pa.array(np.isnan(numbers)), patients[name].combine_chunks().cast(pa.string()), None)
            for name, numbers in anchor.items()
        ]
        anchor_age, anchor_year = (
            pa.array(numbers).take(row).fill_null(np.nan).to_numpy() for numbers in anchor.values()
        )
        image_year = pc.year(pa.array(day)).cast(pa.float64()).fill_null(np.nan).to_numpy()
        at_image = image_year - anchor_year + anchor_age
        cell = pa.array(at_image, from_pandas=True).cast(pa.string())
        for cells in unread:
            cell = pc.coalesce(cell, cells.take(row))
        oldest = anchor_age >= _OVER_89 - 1
        later = oldest & (image_year < anchor_year)
        return cls(at_image, cell, oldest & (image_year >= anchor_year), later, anchor_age == 0)

    def steps(self, rules: Rules) -> list[FlowStep]:
        """The flow's note on patients over 89."""
        images, oldest, later = len(self.age), int(self.over_89.sum()), int(self.later.sum())
        if not oldest + later:
            return []
        known = f"{oldest} images of patients over 89 have the age {_OVER_89:.0f}, as in MIMIC-IV"
        unknown = f"{later} images have no age: MIMIC-IV lists the patient as over 89 only in a later year"
        if rules == "published":
            known = f"{oldest + later} images of patients over 89: their age is computed from {_OVER_89:.0f}"
            unknown = ""
        said = [known] * bool(oldest or not unknown) + [unknown] * bool(later and unknown)
        return [FlowStep("age over 89", images, images, "; ".join(said))]

    def warnings(self) -> list[DataWarning]:
        """A warning about newborns: MIMIC-CXR has only patients of the emergency department, and no newborns."""
        images = int(self.newborn.sum())
        if not images:
            return []
        what = f"{images} images of newborns (anchor_age 0), which MIMIC-CXR does not contain"
        return [DataWarning("age", what, images, "check that these images belong to these patients")]


def _undated(missing: dict[str, dict[str, int]]) -> list[DataWarning]:
    """Warnings about unreadable dates and times of images."""
    warnings = []
    for name, form, lost in (
        ("StudyDate", "21500301 or 2150-03-01", "age, mortality and icu are missing for them"),
        ("StudyTime", "93012.5 or 09:30:12.5", "under the strict rules mortality and icu are missing for them"),
    ):
        images = missing.get(name, {}).get(UNREADABLE, 0)
        if images:
            what = f"unreadable in {images} images: {lost}"
            warnings.append(DataWarning(name, what, images, f"write it as {form}"))
    return warnings


def _early(images: ImageTimes, admissions: Stays, links: Links) -> int:
    """How many images are between an emergency registration and its admission."""
    return int((images.at[links.found] < admissions.begins[links.stay[links.found]]).sum())


def _of_patient(patients: pa.Table, row: pa.Int32Array, ages: _Ages, rules: Rules) -> dict[str, pa.Array]:
    """Sex and age from each image's `row` in the patients; under the strict rules ages over 89 are MIMIC-IV's 91."""
    sex = patients["gender"].combine_chunks().take(row)
    age, cell = ages.age, ages.cell
    if rules == "strict":
        age = np.where(ages.over_89, _OVER_89, np.where(ages.later, np.nan, age))
        cell = pc.if_else(pa.array(ages.later), _BEFORE_91, cell)
    in_range = (age >= AGE_RANGE[0]) & (age <= AGE_RANGE[1])
    return {
        "sex_cell": sex,
        "age_cell": cell,
        f"{EHR_PREFIX}sex": by_cell(sex, sex_level, pa.string()),
        f"{EHR_PREFIX}age": pa.array(age, pa.float64(), mask=~in_range),
    }


def _of_stays(expired: pa.StringArray, linked: _Linked, rules: Rules) -> dict[str, pa.Array]:
    """Mortality in each image's admission, and whether the patient was in an ICU.

    Under the published rules, an image outside every admission counts as alive and not in an ICU. Unreadable values are
    missing under both rules.
    """
    found = linked.admission.found
    died = by_cell(expired, _mortality, pa.string())
    if rules == "published":
        died = pc.if_else(pa.array(found), died, MORTALITY_LEVELS[0])
        found = np.ones_like(found)
    died = pc.if_else(pa.array(linked.admission_unknown), pa.scalar(None, pa.string()), died)
    level = np.where(linked.icu.found, 0, 1)
    unknown = linked.icu_unknown | ~(linked.icu.found | found)
    in_icu = pa.array(ICU_LEVELS).take(pa.array(level, mask=unknown))
    return {"died_cell": expired, f"{EHR_PREFIX}mortality": died, f"{EHR_PREFIX}icu": in_icu}


def _mortality(cell: str) -> str | None:
    died = truth(cell)
    return None if died is None else MORTALITY_LEVELS[int(died)]


def _of_stay(cells: pa.ChunkedArray, links: Links) -> pa.Array:
    """The cell of each image's stay, null without a stay."""
    return cells.combine_chunks().take(pa.array(links.stay, mask=~links.found))
