"""What MIMIC-IV says of each film: tables typed, the admission and the ICU stay linked, sex, age, mortality, icu.

The only part of the MIMIC cohort that needs Ibis.
"""

from typing import NamedTuple

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records import linking
from chartray.records.database import ROW, fetch, offered
from chartray.records.hospital import Hospital
from chartray.schema import AGE_RANGE, EHR_PREFIX, ICU_LEVELS, MORTALITY_LEVELS, SEX_LEVELS, Rules


class _Tables(NamedTuple):
    """`films`: film, patient, day, taken_at. `patients`: patient, sex_cell, anchor_age, anchor_year.
    `admissions`: stay, patient, admitted, registered, ends, expired, order. `icustays`: stay, patient, begins, ends,
    order. Times are timestamps.
    """

    films: ibis.Table
    patients: ibis.Table
    admissions: ibis.Table
    icustays: ibis.Table


def chart_of_films(
    cells: pa.Table, hospital: Hospital, rules: Rules, connection: ibis.BaseBackend
) -> tuple[pa.Table, dict[str, int]]:
    """One row a film of `cells` (subject_id, StudyDate, StudyTime as text or number), in their order: taken_at, the
    `ehr.` columns and the cells they were read from; and how many films were linked, how, or why not.

    Raises InputError for times of MIMIC-IV that cannot be read.
    """
    tables = _Tables(_films(cells, connection), *_typed(hospital, connection))
    linked, links = _link(tables, rules, connection)
    return _chart(tables, linked, rules, connection), {"films": cells.num_rows} | links


def _films(cells: pa.Table, connection: ibis.BaseBackend) -> ibis.Table:
    """film (the row), patient, day and taken_at; numbers alone, so that the joins are cheap."""
    dated = cells.select(["subject_id", "StudyTime"]).append_column("day", _days(cells["StudyDate"]))
    table = offered(dated, connection)
    day = table["day"]
    # HHMMSS.sss as a number that has lost its leading zeros: 93012.5 is 09:30:12.5.
    clock = table["StudyTime"].try_cast("float64")
    hours, minutes, seconds = (clock / 10000).floor(), (clock / 100).floor() % 100, clock % 100
    valid = (clock >= 0) & (hours < 24) & (minutes < 60) & (seconds < 61)
    microseconds = ((hours * 3600 + minutes * 60 + seconds) * 1e6).round().try_cast("int64")
    films = table.select(
        film=table[ROW],
        patient=table["subject_id"].try_cast("int64"),
        day=day,
        taken_at=ibis.ifelse(valid, day.cast("timestamp") + microseconds.as_interval("us"), None),
    )
    return connection.create_table(ibis.util.gen_name("films"), films, temp=True)


def _days(cells: pa.ChunkedArray) -> pa.Array:
    """YYYYMMDD -> days, null where the cell is none; each distinct cell is read once.

    >>> _days(pa.chunked_array([["21500301", "21500230", None]])).to_pylist()
    [datetime.date(2150, 3, 1), None, None]
    """
    encoded = cells.combine_chunks().dictionary_encode()
    texts = pc.utf8_slice_codeunits(encoded.dictionary, 0, 8)
    times = pc.strptime(texts, "%Y%m%d", "s", error_is_null=True)
    # strptime takes the 30th of February for the 2nd of March.
    days = pc.if_else(pc.equal(pc.strftime(times, "%Y%m%d"), texts), times.cast(pa.date32()), None)
    return days.take(encoded.indices)


def _typed(hospital: Hospital, connection: ibis.BaseBackend) -> tuple[ibis.Table, ibis.Table, ibis.Table]:
    """The patients, admissions and ICU stays with numbers and timestamps; raises InputError for a time that is none."""
    tables = {name: offered(cells, connection) for name, cells in hospital.tables.items()}
    patients, admissions, icustays = tables["patients"], tables["admissions"], tables["icustays"]
    registered = (
        admissions["edregtime"].try_cast("timestamp") if "edregtime" in admissions.columns else ibis.null("timestamp")
    )
    typed = {
        "patients": patients.select(
            patient=patients["subject_id"].try_cast("int64"),
            sex_cell=patients["gender"],
            anchor_age=patients["anchor_age"].try_cast("float64"),
            anchor_year=patients["anchor_year"].try_cast("float64"),
        ),
        "admissions": admissions.select(
            stay=admissions["hadm_id"].try_cast("int64"),
            patient=admissions["subject_id"].try_cast("int64"),
            admitted=admissions["admittime"].try_cast("timestamp"),
            registered=registered,
            ends=admissions["dischtime"].try_cast("timestamp"),
            expired=admissions["hospital_expire_flag"],
            order=admissions[ROW],
            unreadable=_unreadable(admissions, ["admittime", "dischtime"]),
        ),
        "icustays": icustays.select(
            stay=icustays["stay_id"].try_cast("int64"),
            patient=icustays["subject_id"].try_cast("int64"),
            begins=icustays["intime"].try_cast("timestamp"),
            ends=icustays["outtime"].try_cast("timestamp"),
            order=icustays[ROW],
            unreadable=_unreadable(icustays, ["intime", "outtime"]),
        ),
    }
    made = {name: connection.create_table(ibis.util.gen_name(name), table, temp=True) for name, table in typed.items()}
    for name in ("admissions", "icustays"):
        bad = made[name].filter(made[name]["unreadable"])
        first = fetch(bad.aggregate(row=bad["order"].min()), connection)["row"][0].as_py()
        if first is not None:
            raise InputError(
                f"expected dates with times in {hospital.place[name]}, found something else in data row {first}"
            )
    return made["patients"], made["admissions"], made["icustays"]


def _unreadable(table: ibis.Table, columns: list[str]) -> ibis.Value:
    return ibis.or_(*(table[name].notnull() & table[name].try_cast("timestamp").isnull() for name in columns))


def _link(tables: _Tables, rules: Rules, connection: ibis.BaseBackend) -> tuple[dict[str, ibis.Table], dict[str, int]]:
    """The admission and the ICU stay of each film, and how many films were linked, how, or why not."""
    films, admissions, icustays = tables.films, tables.admissions, tables.icustays
    if rules == "strict":
        at = films.select("film", "patient", at=films["taken_at"])
        begins = linking.encounter_begins(admissions["admitted"], admissions["registered"])
        stays, link = admissions.mutate(begins=begins), linking.link_strict
    else:
        at = films.select("film", "patient", at=films["day"].cast("timestamp"))
        stays, link = admissions.mutate(begins=admissions["admitted"]), linking.link_published
    found = {
        name: connection.create_table(ibis.util.gen_name(name), link(at, table), temp=True)
        for name, table in (("admission", stays), ("icu", icustays))
    }
    admission = found["admission"]
    joined = admission.join(admissions, "stay").join(at, "film")
    early = joined["at"] < (joined["admitted"] if rules == "strict" else joined["at"])
    counted = joined.aggregate(
        linked=joined.count(), ties=(joined["candidates"] > 1).sum(), by_emergency_registration=early.sum()
    )
    reasons = linking.unlinked(at, stays, tables.patients, admission)
    why = reasons.group_by("reason").aggregate(films=reasons.count())
    icu = found["icu"]
    in_icu = icu.aggregate(icu_linked=icu.count(), icu_ties=(icu["candidates"] > 1).sum())
    backwards = icustays.aggregate(stays=(icustays["ends"] < icustays["begins"]).sum())
    links = {name: int(value or 0) for name, value in fetch(counted, connection).to_pylist()[0].items()}
    links |= dict.fromkeys(("before_admission", "after_discharge", "no_admission", "no_record", "no_time"), 0)
    links |= {entry["reason"]: entry["films"] for entry in fetch(why, connection).to_pylist()}
    links |= {name: int(value or 0) for name, value in fetch(in_icu, connection).to_pylist()[0].items()}
    links["icu_stays_that_end_before_they_begin"] = int(fetch(backwards, connection)["stays"][0].as_py() or 0)
    return found, links


def _chart(tables: _Tables, linked: dict[str, ibis.Table], rules: Rules, connection: ibis.BaseBackend) -> pa.Table:
    """What MIMIC-IV says of each film, in file order, with the cells it was read from."""
    films, patients = tables.films, tables.patients
    admission = linked["admission"].join(tables.admissions, "stay").select("film", "expired")
    icu = linked["icu"].select("film", icu_stay="stay")
    # One left join at a time, each on a key that is unique on the right: no film is doubled or lost.
    joined = (
        films.left_join(patients, "patient")
        .drop("patient_right")
        .left_join(admission.mutate(admitted=True), "film")
        .drop("film_right")
        .left_join(icu, "film")
        .drop("film_right")
    )
    age = (joined["day"].year() - joined["anchor_year"] + joined["anchor_age"]).cast("float64")
    died = joined["expired"].cases(("0", MORTALITY_LEVELS[0]), ("1", MORTALITY_LEVELS[1]), else_=None)
    in_icu, not_in_icu = (ibis.literal(level) for level in ICU_LEVELS)
    other = ibis.ifelse(joined["admitted"].fill_null(False), not_in_icu, None)
    if rules == "published":
        died, other = died.fill_null(MORTALITY_LEVELS[0]), not_in_icu
    values = {
        "sex": joined["sex_cell"].cases(("M", SEX_LEVELS[0]), ("F", SEX_LEVELS[1]), else_=None),
        "age": ibis.ifelse((age >= AGE_RANGE[0]) & (age <= AGE_RANGE[1]), age, None),
        "mortality": died,
        "icu": ibis.ifelse(joined["icu_stay"].notnull(), in_icu, other),
    }
    cells = {"sex_cell": joined["sex_cell"], "age_cell": age, "died_cell": joined["expired"]}
    chart = {EHR_PREFIX + name: value for name, value in values.items()}
    return fetch(joined.select("film", "taken_at", **cells, **chart).order_by("film").drop("film"), connection)
