"""What MIMIC-IV says of each film: tables typed, the admission and the ICU stay linked, sex, age, mortality, icu."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records import linking
from chartray.records.hospital import Hospital
from chartray.records.linking import NOBODY, Films, Links, Stays
from chartray.records.values import by_cell, identifier, moment, number
from chartray.schema import AGE_RANGE, EHR_PREFIX, ICU_LEVELS, MORTALITY_LEVELS, SEX_LEVELS, Rules

_MICROSECONDS = pa.timestamp("us")


def chart_of_films(cells: pa.Table, hospital: Hospital, rules: Rules) -> tuple[pa.Table, dict[str, int]]:
    """One row a film of `cells` (subject_id, StudyDate, StudyTime as text or number), in their order: taken_at, the
    `ehr.` columns and the cells they were read from; and how many films were linked, how, or why not.

    Raises InputError for times of MIMIC-IV that cannot be read.
    """
    tables = hospital.tables
    admissions = _stays(tables["admissions"], "admittime", "dischtime", hospital.place["admissions"])
    icu_stays = _stays(tables["icustays"], "intime", "outtime", hospital.place["icustays"])
    patient, day = _ids(cells["subject_id"]), _days(cells["StudyDate"])
    taken_at = _taken_at(day, cells["StudyTime"])
    film_patients = pa.array(patient, mask=patient == NOBODY)
    row = pc.index_in(film_patients, value_set=pa.array(_ids(tables["patients"]["subject_id"])))
    if rules == "strict":
        films, link, encounters = Films(patient, taken_at), linking.link_strict, admissions
        if "edregtime" in tables["admissions"].column_names:
            begins = linking.encounter_begins(admissions.begins, _times(tables["admissions"]["edregtime"]))
            encounters = admissions._replace(begins=begins)
    else:
        films, link, encounters = Films(patient, day.astype("datetime64[us]")), linking.link_published, admissions
    admission, icu = link(films, encounters), link(films, icu_stays)
    counts = {
        "linked": int(admission.found.sum()),
        "ties": int((admission.candidates > 1).sum()),
        "by_emergency_registration": _early(films, admissions, admission) if rules == "strict" else 0,
        **linking.why_unlinked(films, encounters, row.is_valid().to_numpy(zero_copy_only=False), admission),
        "icu_linked": int(icu.found.sum()),
        "icu_ties": int((icu.candidates > 1).sum()),
        "icu_stays_that_end_before_they_begin": int((icu_stays.ends < icu_stays.begins).sum()),
    }
    expired = _of_stay(tables["admissions"]["hospital_expire_flag"], admission)
    chart = _of_patient(tables["patients"], row, day) | _of_stays(expired, admission, icu, rules)
    return pa.table({"taken_at": pa.array(taken_at, _MICROSECONDS)} | chart), {"films": len(patient)} | counts


def _stays(cells: pa.Table, begins: str, ends: str, file: Path) -> Stays:
    """Admissions or ICU stays; raises InputError for a begin or an end that is written but no time."""
    times = {name: _times(cells[name]) for name in (begins, ends)}
    unreadable = [pc.is_valid(cells[name]).to_numpy() & np.isnat(time) for name, time in times.items()]
    wrong = np.flatnonzero(unreadable[0] | unreadable[1])
    if wrong.size:
        raise InputError(f"expected dates with times in {file}, found something else in data row {wrong[0] + 1}")
    return Stays(_ids(cells["subject_id"]), times[begins], times[ends])


def _ids(cells: pa.ChunkedArray) -> linking.Integers:
    """(N,) patients, NOBODY where the cell is no whole number."""
    column = cells.combine_chunks()
    column = column if column.type == pa.int64() else by_cell(column, identifier, pa.int64())
    ids: linking.Integers = column.fill_null(NOBODY).to_numpy()
    return ids


def _numbers(cells: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(N,), NaN where the cell is no number."""
    column = cells.combine_chunks()
    column = column if column.type == pa.float64() else by_cell(column, number, pa.float64())
    numbers: npt.NDArray[np.float64] = column.fill_null(np.nan).to_numpy()
    return numbers


def _times(cells: pa.ChunkedArray) -> linking.Times:
    """(N,) microseconds, NaT where the cell is no time."""
    column = cells.combine_chunks()
    column = column if column.type == _MICROSECONDS else by_cell(column, moment, _MICROSECONDS)
    times: linking.Times = column.to_numpy(zero_copy_only=False)
    return times


def _days(cells: pa.ChunkedArray) -> linking.Times:
    """YYYYMMDD -> days, NaT where the cell is none; each distinct cell is read once.

    >>> _days(pa.chunked_array([["21500301", "21500230", None]])).tolist()
    [datetime.date(2150, 3, 1), None, None]
    """
    encoded = cells.combine_chunks().dictionary_encode()
    texts = pc.utf8_slice_codeunits(encoded.dictionary, 0, 8)
    times = pc.strptime(texts, "%Y%m%d", "s", error_is_null=True)
    # strptime takes the 30th of February for the 2nd of March.
    read = pc.if_else(pc.equal(pc.strftime(times, "%Y%m%d"), texts), times.cast(pa.date32()), None)
    days: linking.Times = read.take(encoded.indices).to_numpy(zero_copy_only=False)
    return days


def _taken_at(day: linking.Times, clock_cells: pa.ChunkedArray) -> linking.Times:
    """Day and HHMMSS.sss, a number that has lost its leading zeros: 93012.5 is 09:30:12.5; NaT where either is none."""
    clock = _numbers(clock_cells)
    hours, minutes, seconds = clock // 10000, clock // 100 % 100, clock % 100
    valid = (clock >= 0) & (hours < 24) & (minutes < 60) & (seconds < 61)
    microseconds = np.rint(np.where(valid, hours * 3600 + minutes * 60 + seconds, 0) * 1e6).astype("timedelta64[us]")
    return np.where(valid, day.astype("datetime64[us]") + microseconds, np.datetime64("NaT"))


def _early(films: Films, admissions: Stays, links: Links) -> int:
    """How many films were linked through an emergency registration, before the admission itself."""
    return int((films.at[links.found] < admissions.begins[links.stay[links.found]]).sum())


def _of_patient(patients: pa.Table, row: pa.Int32Array, day: linking.Times) -> dict[str, pa.Array]:
    """Sex and age (year of the film - anchor_year + anchor_age, in years) from each film's `row` of the patients."""
    sex = patients["gender"].combine_chunks().take(row)
    anchor_age, anchor_year = (
        pa.array(_numbers(patients[name]), from_pandas=True).take(row) for name in ("anchor_age", "anchor_year")
    )
    year = pc.year(pa.array(day)).cast(pa.float64())
    age = pc.add(pc.subtract(year, anchor_year), anchor_age)
    in_range = pc.and_(pc.greater_equal(age, AGE_RANGE[0]), pc.less_equal(age, AGE_RANGE[1]))
    return {
        "sex_cell": sex,
        "age_cell": age,
        f"{EHR_PREFIX}sex": by_cell(sex, {"M": SEX_LEVELS[0], "F": SEX_LEVELS[1]}.get, pa.string()),
        f"{EHR_PREFIX}age": pc.if_else(in_range, age, pa.scalar(None, pa.float64())),
    }


def _of_stays(expired: pa.StringArray, admission: Links, icu: Links, rules: Rules) -> dict[str, pa.Array]:
    """Mortality of each film's admission, and whether it was in an ICU; the published rules know no missing one."""
    died = by_cell(expired, {"0": MORTALITY_LEVELS[0], "1": MORTALITY_LEVELS[1]}.get, pa.string())
    elsewhere = admission.found
    if rules == "published":
        died, elsewhere = died.fill_null(MORTALITY_LEVELS[0]), np.ones_like(elsewhere)
    level = np.where(icu.found, 0, 1)
    in_icu = pa.array(ICU_LEVELS).take(pa.array(level, mask=~(icu.found | elsewhere)))
    return {"died_cell": expired, f"{EHR_PREFIX}mortality": died, f"{EHR_PREFIX}icu": in_icu}


def _of_stay(cells: pa.ChunkedArray, links: Links) -> pa.Array:
    """The cell of each film's stay."""
    return cells.combine_chunks().take(pa.array(links.stay, mask=~links.found))
