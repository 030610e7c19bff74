"""MIMIC-IV and MIMIC-CXR-JPG -> cohort: the chart of each film, linked by the strict or the published rule."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records import hospital, linking
from chartray.records.cohort import (
    SPLIT_SHARES,
    Cohort,
    Step,
    assemble,
    excluding,
    hashed_split,
    refuse_shared_patients,
)
from chartray.records.labels import Labels, study_labels
from chartray.records.missing import count_missing, shown
from chartray.records.reading import (
    ROW,
    connect,
    fetch,
    find_csv,
    folder_content,
    need_folder,
    offered,
    read_cells,
    refuse_repeated,
)
from chartray.schema import (
    AGE_RANGE,
    EHR_PREFIX,
    ICU_LEVELS,
    MORTALITY_LEVELS,
    POSITION_LEVELS,
    SEX_LEVELS,
    SPLITS,
    VIEW_LEVELS,
    CohortMetadata,
    Variable,
)

Rules = Literal["strict", "published"]
_POSITION = "PatientOrientationCodeSequence_CodeMeaning"


class _Tables(NamedTuple):
    films: ibis.Table
    patients: ibis.Table
    admissions: ibis.Table
    icustays: ibis.Table


def mimic_cohort(mimic_iv: str, mimic_cxr: Path, *, rules: Rules = "strict") -> Cohort:
    """One row a film of MIMIC-CXR-JPG with sex, age, view, position, mortality, icu and its labels.

    `mimic_iv` is the folder of MIMIC-IV 1.0 (`core/`) or 2.x and 3.x (`hosp/`), or the URL of a database that
    holds its tables. Films may be absent. `rules` are METHOD's section 2; only the strict ones leave a value
    missing where there is no record. Raises InputError for a missing table or column.
    """
    connection = connect()
    root = need_folder(mimic_cxr, "MIMIC-CXR-JPG")
    # Most of the time here goes into unpacking csv.gz, on one core a file.
    with ThreadPoolExecutor(1) as beside:
        metadata_cells = beside.submit(_metadata_cells, root)
        source = hospital.open_hospital(mimic_iv, connection, ordered=rules == "published")
        cells = metadata_cells.result()
    films = _films(cells, connection)
    tables = _Tables(films, source.patients, source.admissions, source.icustays)
    linked, links = _link(tables, rules, connection)
    links = {"films": cells.num_rows} | links
    rows = _rows(cells, _chart(tables, linked, rules, connection))
    missing = _missing(rows)
    flow = [Step("rows of the MIMIC-CXR metadata", rows.num_rows, rows.num_rows)]
    if rules == "published":
        rows = _published_exclusions(rows, flow)
    rows = _split(rows, root, flow)
    labels = _labels(rows, root, flow)
    metadata = CohortMetadata(
        source="mimic",
        release=source.release,
        rules=rules,
        variables=_variables(rules),
        labels=labels.sources,
        absent_labels=labels.absent,
        image_root=str(root),
    )
    paths = pc.binary_join_element_wise(pa.scalar(str(root)), rows["relative_path"], "/")
    columns = {name: rows[name] for name in rows.column_names} | {"path": paths} | labels.columns
    return Cohort(assemble(columns, metadata), flow, links, missing | labels.missing, source.layout)


def _metadata_cells(root: Path) -> pa.Table:
    """The metadata csv's cells, one row a film; raises InputError for a film without its ids, or one named twice."""
    file = _need_cxr_csv(root, "metadata")
    ids = ["dicom_id", "subject_id", "study_id"]
    named = [*ids, "ViewPosition", "StudyDate", "StudyTime", _POSITION]
    cells = read_cells(file, named, types={"StudyTime": pa.float64()})
    for name in ids:
        if cells[name].null_count:
            row = int(np.flatnonzero(pc.is_null(cells[name]).to_numpy())[0]) + 1
            raise InputError(f"expected a {name} in every row of {file}, found none in data row {row}")
    refuse_repeated(cells, "dicom_id", file)
    return cells


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


def _rows(cells: pa.Table, chart: pa.Table) -> pa.Table:
    """The metadata's own columns beside `chart`: ids, path, view and position."""
    ids = {"image_id": cells["dicom_id"], "patient_id": cells["subject_id"], "study_id": cells["study_id"]}
    image, patient, study = ids.values()
    tens = pc.utf8_slice_codeunits(patient, 0, 2)
    path = pc.binary_join_element_wise("files/p", tens, "/p", patient, "/s", study, "/", image, ".jpg", "")
    rows = chart.append_column("relative_path", path)
    columns = {"view": ("ViewPosition", VIEW_LEVELS), "position": (_POSITION, POSITION_LEVELS)}
    for name, (column, levels) in columns.items():
        known = pc.is_in(cells[column], value_set=pa.array(levels))
        values = pc.if_else(known, cells[column], pa.scalar(None, pa.string()))
        rows = rows.append_column(f"{name}_cell", cells[column]).append_column(EHR_PREFIX + name, values)
    for name, column in ids.items():
        rows = rows.append_column(name, column)
    return rows


def _missing(rows: pa.Table) -> dict[str, dict[str, int]]:
    nothing = pa.nulls(rows.num_rows, pa.string())
    cells = {
        "sex": rows["sex_cell"],
        "age": rows["age_cell"],
        "view": rows["view_cell"],
        "position": rows["position_cell"],
        "mortality": rows["died_cell"],
        "icu": nothing,
    }
    return {name: count_missing(cell, rows[EHR_PREFIX + name]) for name, cell in cells.items()}


def _published_exclusions(rows: pa.Table, flow: list[Step]) -> pa.Table:
    """Rows without sex, and rows of another view than the four; a missing view stays (METHOD section 2)."""
    with_sex = rows.filter(pc.is_valid(rows["ehr.sex"]))
    flow.append(excluding("sex known", rows.num_rows, with_sex.num_rows, "no sex in MIMIC-IV (published rule)"))
    kept = with_sex.filter(pc.or_(pc.is_valid(with_sex["ehr.view"]), pc.is_null(with_sex["view_cell"])))
    why = f"a view other than {', '.join(VIEW_LEVELS)} (published rule)"
    flow.append(excluding("one of the four views, or none given", with_sex.num_rows, kept.num_rows, why))
    return kept


def _split(rows: pa.Table, root: Path, flow: list[Step]) -> pa.Table:
    file = _find_cxr_csv(root, "split")
    if file is None:
        return rows.append_column("split", hashed_split(rows["patient_id"], SPLIT_SHARES, flow, "no split csv"))
    official = read_cells(file, ["dicom_id", "split"])
    if rows["image_id"].equals(official["dicom_id"]):  # as PhysioNet has them: the films of the metadata, in its order
        split = official["split"].combine_chunks()
    else:
        refuse_repeated(official, "dicom_id", file)
        found = pc.index_in(rows["image_id"], value_set=official["dicom_id"].combine_chunks())
        split = official["split"].combine_chunks().take(found.combine_chunks())
    others = sorted({name for name in pc.unique(split).to_pylist() if name is not None} - set(SPLITS))
    if others:
        raise InputError(f"expected the splits {', '.join(SPLITS)} in {file}, found {shown(others[0])}")
    kept = rows.append_column("split", split)
    if split.null_count:
        kept = kept.filter(pc.is_valid(split))
    flow.append(excluding("official split", rows.num_rows, kept.num_rows, f"not in {file.name}"))
    refuse_shared_patients(kept["patient_id"], kept["split"], str(file))
    return kept


def _labels(rows: pa.Table, root: Path, flow: list[Step]) -> Labels:
    """The labels of each film's study: the labeller's, or the radiologists' of 2.1.0 for the studies they read."""
    stem = _stem(_need_cxr_csv(root, "chexpert"))
    read = _find_cxr_csv(root, "test-set-labeled")
    labels = study_labels(rows["study_id"], root, stem, _stem(read) if read else None)
    if read is not None:
        why = f"labels of {labels.read} films are the radiologists' of {read.name}, the others of {stem}.csv"
        flow.append(Step("labels", rows.num_rows, rows.num_rows, why))
    return labels


def _need_cxr_csv(root: Path, table: str) -> Path:
    file = _find_cxr_csv(root, table)
    if file is None:
        raise InputError(f"expected mimic-cxr-2.0.0-{table}.csv or .csv.gz in {root}, found {folder_content(root)}")
    return file


def _find_cxr_csv(root: Path, table: str) -> Path | None:
    """`mimic-cxr-<release>-<table>.csv[.gz]`, of the newest release where there are several."""
    stems = sorted({_stem(file) for file in root.glob(f"mimic-cxr-*-{table}.csv*")})
    return find_csv(root, stems[-1]) if stems else None


def _stem(file: Path) -> str:
    return file.name.split(".csv")[0]


def _variables(rules: Rules) -> dict[str, Variable]:
    after = rules == "strict"
    return {
        "sex": Variable(kind="categorical", levels=SEX_LEVELS, group="demographic", columns=("patients.gender",)),
        "age": Variable(
            kind="numeric",
            range=AGE_RANGE,
            unit="years",
            group="demographic",
            columns=("patients.anchor_year", "patients.anchor_age", "metadata.StudyDate"),
        ),
        "view": Variable(kind="categorical", levels=VIEW_LEVELS, group="scan", columns=("metadata.ViewPosition",)),
        "position": Variable(
            kind="categorical", levels=POSITION_LEVELS, group="scan", columns=(f"metadata.{_POSITION}",)
        ),
        "mortality": Variable(
            kind="categorical",
            levels=MORTALITY_LEVELS,
            group="stay",
            known_at_film=False,
            columns=("admissions.hospital_expire_flag",),
        ),
        "icu": Variable(
            kind="categorical",
            levels=ICU_LEVELS,
            group="stay",
            # By calendar dates a film at 08:00 counts for a stay that begins at 20:00.
            known_at_film=after,
            columns=("icustays.intime", "icustays.outtime"),
        ),
    }
