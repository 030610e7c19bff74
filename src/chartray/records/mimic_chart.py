"""What MIMIC-IV says of each film: the admission and the ICU stay linked, sex, age, mortality, icu."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.records import linking
from chartray.records.cautions import Caution
from chartray.records.cohort import Step
from chartray.records.levels import sex_level
from chartray.records.linking import NO_STAY, NOBODY, Films, Links, Stays
from chartray.records.mimic_tables import Hospital
from chartray.records.mimic_times import MICROSECONDS, Flags, Spans, clocks, days, moments, spans
from chartray.records.missing import ABSENT, UNREADABLE, count_unreadable
from chartray.records.values import YEARS_OF_FILMS, by_cell, number, truth
from chartray.schema import AGE_RANGE, EHR_PREFIX, ICU_LEVELS, MORTALITY_LEVELS, Rules

# MIMIC-IV writes this anchor_age for everybody over 89, however old (MIT-LCP/mimic-code#1231), and 0 for newborns.
_OVER_89 = 91.0
_BEFORE_91 = "(over 89 some years after the film)"


class FilmCharts(NamedTuple):
    """`rows`: one a film, in their order: taken_at, the `ehr.` columns and the cells they were read from; `links`: how
    many films were linked, how, or why not; times that could not be read (`missing`); what is to be said of all this.
    """

    rows: pa.Table
    links: dict[str, int]
    missing: dict[str, dict[str, int]]
    steps: list[Step]
    cautions: list[Caution]


class _Linked(NamedTuple):
    """What covers each film, and where something that is not known of a stay may cover it too (N,)."""

    admission: Links
    icu: Links
    admission_unknown: Flags
    icu_unknown: Flags


def chart_of_films(cells: pa.Table, file: Path, hospital: Hospital, rules: Rules) -> FilmCharts:
    """The charts of the films of `cells` (subject_id as whole numbers, StudyDate and StudyTime as text) from `file`.

    Raises InputError for times of MIMIC-IV that cannot be read.
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
        films = Films(patient, taken_at)
        linked = _linked_strict(films, encounters, icu_stays)
    else:
        films, encounters = Films(patient, day.astype("datetime64[us]")), admissions.stays
        linked = _linked_published(films, admissions, icu_stays)
    admission, icu = linked.admission, linked.icu
    counts = {
        "films": len(patient),
        "linked": int(admission.found.sum()),
        "ties": int((admission.candidates > 1).sum()),
        "by_emergency_registration": _early(films, admissions.stays, admission) if rules == "strict" else 0,
        **linking.why_unlinked(films, encounters, row.is_valid().to_numpy(zero_copy_only=False), admission),
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
    ages = _Ages.of_films(tables["patients"], row, day)
    chart = _of_patient(tables["patients"], row, ages, rules) | _of_stays(expired, linked, rules)
    rows = pa.table({"taken_at": pa.array(taken_at, MICROSECONDS)} | chart)
    said = {name: lost for name, lost in missing.items() if lost}
    return FilmCharts(rows, counts, said, ages.steps(rules), _undated(said) + ages.cautions())


def _encounters(admissions: Spans, cells: pa.Table, file: Path) -> tuple[Stays, dict[str, dict[str, int]]]:
    """Admissions from the emergency registration on, where that came first, and registrations that cannot be read."""
    if "edregtime" not in cells.column_names:
        return admissions.forwards(admissions.stays.begins), {}
    registered = moments(cells["edregtime"], "edregtime", file).at
    lost = count_unreadable(cells["edregtime"], pa.array(registered))
    lost.pop(ABSENT, None)  # who came by another way has none
    return admissions.forwards(linking.encounter_begins(admissions.stays.begins, registered)), {"edregtime": lost}


def _linked_strict(films: Films, encounters: Stays, icu_stays: Spans) -> _Linked:
    icu = linking.link_strict(films, icu_stays.certain())
    perhaps = _last_possible(films, icu_stays, by_date=False)
    admission = linking.link_strict(films, encounters)
    return _Linked(admission, icu, np.zeros(len(films.at), dtype=np.bool_), (perhaps != NO_STAY) & ~icu.found)


def _linked_published(films: Films, admissions: Spans, icu_stays: Spans) -> _Linked:
    """A film without a date may lie in any stay; of several the last in table order wins, known or not."""
    dateless = np.isnat(films.at)
    links, perhaps = [], []
    for each in (admissions, icu_stays):
        links.append(linking.link_published(films, each.stays))
        perhaps.append(_last_possible(films, each, by_date=True))
    admission, icu = links
    return _Linked(
        admission, icu, dateless | (perhaps[0] > admission.stay), dateless | ((perhaps[1] > icu.stay) & ~icu.found)
    )


def _last_possible(films: Films, stays: Spans, *, by_date: bool) -> linking.Integers:
    """(N,) the row of the last stay that something not known of it lets cover the film, or NO_STAY."""
    possible = stays.possible(by_date=by_date)
    rows = np.flatnonzero(possible.patient != NOBODY)
    link = linking.link_published if by_date else linking.link_strict
    found = link(films, Stays(possible.patient[rows], possible.begins[rows], possible.ends[rows])).stay
    return np.append(rows, NO_STAY)[found]


def _numbers(cells: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(N,), NaN where the cell is no number."""
    column = cells.combine_chunks()
    column = column if column.type == pa.float64() else by_cell(column, number, pa.float64())
    numbers: npt.NDArray[np.float64] = column.fill_null(np.nan).to_numpy()
    return numbers


class _Ages(NamedTuple):
    """Of each film (N,): the patient's age by its year, NaN where not known, and the cell that says so or why it is not
    known; where MIMIC-IV has the patient `over_89`, in the film's year or before, or only `later`; and newborns.
    """

    age: npt.NDArray[np.float64]
    cell: pa.Array
    over_89: Flags
    later: Flags
    newborn: Flags

    @classmethod
    def of_films(cls, patients: pa.Table, row: pa.Array, day: linking.Times) -> "_Ages":
        """Year of the film - anchor_year + anchor_age, from each film's `row` of the patients."""
        anchor = {name: _numbers(patients[name]) for name in ("anchor_age", "anchor_year")}
        age, year = anchor.values()
        anchor["anchor_age"] = np.where((age >= 0) & (age % 1 == 0), age, np.nan)
        in_years = (year >= YEARS_OF_FILMS.start) & (year < YEARS_OF_FILMS.stop)
        anchor["anchor_year"] = np.where(in_years & (year % 1 == 0), year, np.nan)
        unread = [
            pc.if_else(pa.array(np.isnan(numbers)), patients[name].combine_chunks().cast(pa.string()), None)
            for name, numbers in anchor.items()
        ]
        anchor_age, anchor_year = (
            pa.array(numbers).take(row).fill_null(np.nan).to_numpy() for numbers in anchor.values()
        )
        film_year = pc.year(pa.array(day)).cast(pa.float64()).fill_null(np.nan).to_numpy()
        at_film = film_year - anchor_year + anchor_age
        cell = pa.array(at_film, from_pandas=True).cast(pa.string())
        for cells in unread:
            cell = pc.coalesce(cell, cells.take(row))
        oldest = anchor_age >= _OVER_89 - 1
        later = oldest & (film_year < anchor_year)
        return cls(at_film, cell, oldest & (film_year >= anchor_year), later, anchor_age == 0)

    def steps(self, rules: Rules) -> list[Step]:
        """What the flow says of patients over 89."""
        films, oldest, later = len(self.age), int(self.over_89.sum()), int(self.later.sum())
        if not oldest + later:
            return []
        known = f"{oldest} films of patients over 89 have the age {_OVER_89:.0f}, as MIMIC-IV writes every such age"
        unknown = f"{later} films were taken before the year in which MIMIC-IV has their patient over 89: no age"
        if rules == "published":
            known = f"{oldest + later} films of patients over 89: the published rule counts from {_OVER_89:.0f}"
            unknown = ""
        said = [known] * bool(oldest or not unknown) + [unknown] * bool(later and unknown)
        return [Step("age over 89", films, films, "; ".join(said))]

    def cautions(self) -> list[Caution]:
        """Newborns: MIMIC-CXR's patients came through the emergency department, and none is one."""
        films = int(self.newborn.sum())
        if not films:
            return []
        what = f"{films} films of patients whose anchor_age is 0, which is a newborn's; MIMIC-CXR has none"
        return [Caution("age", what, films, "look whether their films and patients belong together")]


def _undated(missing: dict[str, dict[str, int]]) -> list[Caution]:
    """What it means that a film's date or time cannot be read."""
    cautions = []
    for name, form, lost in (
        ("StudyDate", "21500301 or 2150-03-01", "age, mortality and icu are"),
        ("StudyTime", "93012.5 or 09:30:12.5", "under the strict rules mortality and icu are"),
    ):
        films = missing.get(name, {}).get(UNREADABLE, 0)
        if films:
            what = f"{films} films whose cell cannot be read: {lost} missing for them"
            cautions.append(Caution(name, what, films, f"write it as {form}"))
    return cautions


def _early(films: Films, admissions: Stays, links: Links) -> int:
    """How many films were linked through an emergency registration, before the admission itself."""
    return int((films.at[links.found] < admissions.begins[links.stay[links.found]]).sum())


def _of_patient(patients: pa.Table, row: pa.Int32Array, ages: _Ages, rules: Rules) -> dict[str, pa.Array]:
    """Sex and age from each film's `row` of the patients; a strict age over 89 is the one that MIMIC-IV writes."""
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
    """Mortality of each film's admission, and whether it was in an ICU.

    The published rules know no film outside of an admission: alive there, and not in an ICU. What cannot be read is
    missing under both.
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
    """The cell of each film's stay."""
    return cells.combine_chunks().take(pa.array(links.stay, mask=~links.found))
