"""MEDS and OMOP written from the MIMIC-IV demo: the same cells as `cohort mimic` from its files, and plain loops."""

import csv
import math
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from chartray.errors import InputError
from chartray.records.catalogue import CATALOGUE
from chartray.records.cohort import Cohort, flow_of
from chartray.records.mapping import PATIENT_KEYS, read_mapping
from chartray.records.mimic import mimic_cohort
from chartray.records.table import table_cohort
from tests.mimic_demo import cells, image_time, needs_demo, rows_of, when, write_cxr, write_rows

pytestmark = needs_demo
# °F needs more than a factor, which is all that a mapping can give.
NAMES = list(CATALOGUE)
HOURS = {"laboratory": 72, "vital": 24, "body": 8760}
CONCEPTS = {"Weight (Lbs)": "9001", "Height (Inches)": "9002", "BMI (kg/m2)": "9003"}
TABLES = (("hosp/labevents", "LAB"), ("icu/chartevents", "VITAL"))
PREFIX = {"laboratory": "LAB", "vital": "VITAL", "body": "OMR"}


def write_meds(hospital: Path, folder: Path) -> Path:
    """A MEDS data set in two shards of shuffled rows, with the extension column `stored`."""
    rows: list[tuple[int, datetime | None, str, float | None, datetime | None]] = []
    for table, prefix in TABLES:
        for row in rows_of(hospital / f"{table}.csv.gz"):
            value = float(row["valuenum"]) if row["valuenum"] else None
            code = f"{prefix}//{row['itemid']}//{row['valueuom'].strip()}"
            rows.append((int(row["subject_id"]), when(row["charttime"]), code, value, when(row["storetime"])))
    for row in rows_of(hospital / "hosp" / "omr.csv.gz"):
        at = datetime.combine(when(row["chartdate"]).date(), time.max)
        try:
            value = float(row["result_value"])
        except ValueError:
            value = None
        rows.append((int(row["subject_id"]), at, f"OMR//{row['result_name']}", value, at))
    for row in rows_of(hospital / "hosp" / "patients.csv.gz"):
        rows.append((int(row["subject_id"]), None, f"GENDER//{row['gender']}", None, None))
        born = datetime(int(row["anchor_year"]) - int(row["anchor_age"]), 1, 1)
        rows.append((int(row["subject_id"]), born, "MEDS_BIRTH", None, born))
    order = np.random.default_rng(1).permutation(len(rows))
    types = (pa.int64(), pa.timestamp("us"), pa.string(), pa.float64(), pa.timestamp("us"))
    names = ("subject_id", "time", "code", "numeric_value", "stored")
    for shard, part in enumerate(np.array_split(order, 2)):
        columns = zip(*(rows[at] for at in part), strict=True)
        table = pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})
        file = folder / "data" / ("train" if shard else "held_out") / f"{shard}.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(table, file)
    return folder


def write_omop(hospital: Path, folder: Path) -> Path:
    """An OMOP base in csv files; the items are their own concepts."""
    known = {str(item) for entry in CATALOGUE.values() for item in entry.items}
    measured = [
        {"person_id": row["subject_id"], "measurement_concept_id": row["itemid"], "measurement_source_value": "x"}
        | {"measurement_datetime": row["charttime"], "measurement_date": row["charttime"][:10]}
        | {"value_as_number": row["valuenum"], "unit_source_value": row["valueuom"].strip(), "stored": row["storetime"]}
        for table, _ in TABLES
        for row in rows_of(hospital / f"{table}.csv.gz")
        if row["itemid"] in known
    ]
    measured += [
        {"person_id": row["subject_id"], "measurement_concept_id": CONCEPTS.get(row["result_name"], "0")}
        | {"measurement_date": row["chartdate"], "value_as_number": row["result_value"], "stored": row["chartdate"]}
        | {"unit_source_value": row["result_name"].partition("(")[2].rstrip(")")}
        for row in rows_of(hospital / "hosp" / "omr.csv.gz")
    ]
    write_rows(folder / "measurement.csv.gz", list(measured[0]), measured)
    patients = rows_of(hospital / "hosp" / "patients.csv.gz")
    persons = [
        {"person_id": row["subject_id"], "gender_concept_id": {"M": 8507, "F": 8532}[row["gender"]]}
        | {"year_of_birth": int(row["anchor_year"]) - int(row["anchor_age"]), "month_of_birth": 1, "day_of_birth": 1}
        | {"person_source_value": f"MRN-{row['subject_id']}"}
        for row in patients
    ]
    write_rows(folder / "person.csv", list(persons[0]), persons)
    died = [{"person_id": row["subject_id"], "death_date": row["dod"]} for row in patients if row["dod"]]
    write_rows(folder / "death.csv", list(died[0]), died)
    visits = [
        {"person_id": row["subject_id"], "visit_concept_id": 9201, "visit_start_datetime": row["admittime"]}
        | {"visit_end_datetime": row["dischtime"]}
        for row in rows_of(hospital / "hosp" / "admissions.csv.gz")
    ]
    write_rows(folder / "visit_occurrence.csv", list(visits[0]), visits)
    return folder


def entry_of(name: str, model: str) -> dict[str, Any]:
    """A variable of the catalogue as an entry of a mapping."""
    entry = CATALOGUE[name]
    made: dict[str, Any] = {"kind": "numeric", "range": list(entry.range), "unit": entry.unit, "group": entry.group}
    made["window_days"] = [-HOURS[entry.group] / 24, 0]
    units = {unit: {"factor": each.scale, "offset": each.shift} for unit, each in entry.units.items()}
    if model == "omop":
        codes = [f"measurement/{CONCEPTS.get(str(item), item)}" for item in entry.items]
        return made | {"codes": codes, "units": units}
    prefix = PREFIX[entry.group]
    if entry.group == "body":
        return made | {"codes": {f"OMR//{entry.items[0]}": next(iter(units.values()))}}
    # The data set has the unit in the code as MIMIC writes it, °F too.
    spelled = {f"{sign}{unit}": way for unit, way in units.items() for sign in ("", "°")}
    return made | {"codes": {f"{prefix}//{item}//{unit}": way for item in entry.items for unit, way in spelled.items()}}


def mapping_of(folder: Path, model: str, ehr: dict[str, Any], charts: dict[str, Any]) -> Path:
    tree = {"image_id": "dicom_id", "patient_id": "subject_id", "path": "{dicom_id}.jpg", "taken_at": "taken"}
    tree |= {"charts": {"model": model, **charts}, "ehr": ehr}
    file = folder / f"{model}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def table_of(folder: Path, images: list[dict[str, Any]]) -> Path:
    with (folder / "images.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["dicom_id", "subject_id", "mrn", "taken"])
        for each in images:
            subject = each["subject_id"]
            writer.writerow([each["dicom_id"], subject, f"MRN-{subject}", image_time(each)])
    return folder / "images.csv"


MEDS_MORE = {
    "sex": {"kind": "categorical", "codes": ["GENDER//*"], "levels": {"GENDER//M": "male", "GENDER//F": "female"}},
    "age": {"kind": "numeric", "codes": ["MEDS_BIRTH"], "years_since": True, "range": [0, 110], "unit": "years"},
}
OMOP_MORE = {
    "sex": {"kind": "categorical", "codes": ["gender/*"], "levels": {"gender/8507": "male", "gender/8532": "female"}},
    "age": {"kind": "numeric", "codes": ["birth"], "years_since": True, "range": [0, 110], "unit": "years"},
    "inpatient": {"kind": "boolean", "codes": ["visit/9201"], "during": True, "group": "stay", "known_at_film": True},
    "died": {"kind": "boolean", "codes": ["death"], "window_days": [0, 365], "absent_means": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def from_files(hospital: Path, images: Any, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return mimic_cohort(str(hospital), write_cxr(tmp_path_factory.mktemp("cxr"), images), measured=NAMES)


@pytest.fixture(scope="module")
def meds(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meds(hospital, tmp_path_factory.mktemp("meds"))


@pytest.fixture(scope="module")
def omop(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_omop(hospital, tmp_path_factory.mktemp("omop"))


def same(cohort: Cohort, expected: Cohort, images: Any) -> None:
    for name in (*NAMES, "sex"):
        assert cells(cohort, name) == pytest.approx(cells(expected, name)), name
    birth = {each["dicom_id"]: image_time(each) for each in images}
    for image, age in cells(expected, "age").items():
        found = cells(cohort, "age")[image]
        assert (found is None) == (age is None)
        if age is not None and age < 89:  # MIMIC counts years of the calendar
            assert found == pytest.approx(age + birth[image].timetuple().tm_yday / 365.25, abs=0.02)


def test_a_meds_data_set_gives_the_same_cells(meds: Path, images: Any, from_files: Cohort, tmp_path: Path) -> None:
    ehr = {name: entry_of(name, "meds") for name in NAMES} | MEDS_MORE
    mapping = mapping_of(tmp_path, "meds", ehr, {"on": {"subject_id": "subject_id"}, "stored": "stored"})
    cohort = table_cohort(table_of(tmp_path, images), mapping, tmp_path, [str(meds)])
    same(cohort, from_files, images)
    assert all(variable.known_at_film for variable in cohort.metadata.variables.values())
    (step,) = (step for step in flow_of(cohort).steps if step.step == "chart joined")
    assert "stored (stored) by then" in step.why


@pytest.mark.parametrize("form", ["csv", "parquet", "database"])
def test_an_omop_base_gives_the_same_cells(
    omop: Path, form: str, images: Any, from_files: Cohort, tmp_path: Path
) -> None:
    place = str(omop)
    for file in omop.iterdir() if form != "csv" else ():
        table = file.name.partition(".")[0]
        with duckdb.connect(str(tmp_path / "omop.db")) as base:
            source = f"read_csv('{file}', sample_size=-1)"
            if form == "parquet":
                base.execute(f"copy (from {source}) to '{tmp_path / table}.parquet'")
                place = str(tmp_path)
            else:
                base.execute("create schema if not exists cdm")
                base.execute(f"create table cdm.{table} as from {source}")
                place = f"duckdb://{tmp_path / 'omop.db'}#cdm"
    ehr = {name: entry_of(name, "omop") for name in NAMES} | OMOP_MORE
    mapping = mapping_of(tmp_path, "omop", ehr, {"on": {"mrn": "person_source_value"}, "stored": "stored"})
    cohort = table_cohort(table_of(tmp_path, images), mapping, tmp_path, [place])
    same(cohort, from_files, images)
    visits, died = (
        rows_of(omop / "visit_occurrence.csv"),
        {row["person_id"]: row for row in rows_of(omop / "death.csv")},
    )
    for each in images:
        subject, at = str(each["subject_id"]), image_time(each)
        mine = [row for row in visits if row["person_id"] == subject]
        inside = any(when(r["visit_start_datetime"]) <= at <= when(r["visit_end_datetime"]) for r in mine)
        assert cells(cohort, "inpatient")[each["dicom_id"]] == (inside if mine else None)
        death = datetime.combine(when(died[subject]["death_date"]), time.max) if subject in died else None
        soon = death is not None and at <= death <= at + timedelta(days=365)
        assert cells(cohort, "died")[each["dicom_id"]] == soon
    assert not cohort.metadata.variables["died"].known_at_film


@pytest.mark.parametrize(
    ("model", "change", "sentence"),
    [
        ("meds", "timeless", r"expected times in the column 'time' of .*, found none in 1 rows; without them no value"),
        ("meds", "empty", r"expected a MEDS data set with data/\*\*/\*.parquet in .*, found"),
        ("meds", "untyped", r"expected times without a time zone as 'time' of .*, found string"),
        ("meds", "stranger", r"expected images of .* in .* by subject_id, found none of .* with an event"),
        ("meds", "during", r"'during' of 'creatinine' needs visits with an end, which MEDS does not have; give the"),
        ("omop", "nobody", r"expected persons in the table person of .*, found none; check the base"),
        ("omop", "headless", r"expected a column 'person_id' in .*, found 2 columns whose names look like cells"),
        ("omop", "empty", r"expected person.csv\[.gz\] or person.parquet of OMOP in .*, found"),
        ("omop", "code", r"expected codes that begin with gender, birth, .*, found 'LAB//50912'"),
    ],
)
def test_a_chart_of_events_that_cannot_be_read_is_refused(
    model: str, change: str, sentence: str, images: Any, tmp_path: Path
) -> None:
    place = tmp_path / "chart"
    (place / "data").mkdir(parents=True)
    if model == "meds" and change != "empty":
        time_ = pa.array(["2150-01-01"]) if change == "untyped" else pa.array([None], pa.timestamp("us"))
        if change == "stranger":
            time_ = pa.array([datetime(2150, 1, 1)], pa.timestamp("us"))
        row = {"subject_id": pa.array([7]), "time": time_, "code": pa.array(["LAB//50912"])}
        pq.write_table(pa.table(row | {"numeric_value": pa.array([1.5])}), place / "data" / "0.parquet")
    if model == "omop" and change != "empty":
        person = "" if change == "nobody" else f"{images[0]['subject_id']},8507\n"
        header = "10000032,Doe^Jane" if change == "headless" else "person_id,gender_concept_id"
        (place / "person.csv").write_text(f"{header}\n{person}")
    entry = {"kind": "numeric", "codes": ["LAB//50912"], "range": [0, 50]}
    if change == "during":
        entry = {"kind": "boolean", "codes": ["VISIT//*"], "during": True}
    key = "subject_id" if model == "meds" else "person_id"
    mapping = mapping_of(tmp_path, model, {"creatinine": entry}, {"on": {"subject_id": key}})
    with pytest.raises(InputError, match=sentence):
        table_cohort(table_of(tmp_path, images[:9]), mapping, tmp_path, [str(place)])


def occurrences(omop: Path, images: Any, folder: Path) -> Path:
    """The base with image_occurrence, which alone says whose a study is and on which day; a study has two series."""
    for file in omop.iterdir():
        (folder / file.name).symlink_to(file)
    rows = [
        {"image_occurrence_id": 2 * place + series, "person_id": each["subject_id"], "image_study_uid": f"1.2.{place}"}
        | {"image_occurrence_date": f"{image_time(each):%Y-%m-%d}", "image_series_uid": f"1.2.{place}.{series}"}
        | {"modality_concept_id": 2128000005 if place % 5 else 4013636, "anatomic_site_concept_id": 4000 + series}
        for place, each in enumerate(images)
        for series in (0, 1)
    ]
    write_rows(folder / "image_occurrence.csv", list(rows[0]), rows)
    return folder


@pytest.mark.parametrize("form", ["csv", "database"])
def test_images_with_a_study_uid_alone_are_linked_by_image_occurrence(
    omop: Path, form: str, images: Any, tmp_path: Path
) -> None:
    """The same cells as from a table that has the patient and the day itself."""
    images = images[:200]
    (tmp_path / "base").mkdir()
    base = occurrences(omop, images, tmp_path / "base")
    place = str(base)
    if form == "database":
        with duckdb.connect(str(tmp_path / "omop.db")) as server:
            for file in base.iterdir():
                server.execute(f"create table {file.name.partition('.')[0]} as from read_csv('{file}', sample_size=-1)")
        place = f"duckdb://{tmp_path / 'omop.db'}"
    ehr = {name: entry_of(name, "omop") for name in ("creatinine", "weight")} | OMOP_MORE
    days = [[each["dicom_id"], f"1.2.{at}", f"{image_time(each):%Y-%m-%d}"] for at, each in enumerate(images)]
    days.append(["stranger", "1.9", "2150-01-01"])
    rows = [dict(zip(("file", "study", "day"), row, strict=True)) for row in days]
    subjects = [each["subject_id"] for each in images] + ["0"]
    rows = [row | {"subject": subject} for row, subject in zip(rows, subjects, strict=True)]
    write_rows(tmp_path / "uid.csv", ["file", "study"], rows)
    write_rows(tmp_path / "known.csv", ["file", "subject", "day"], rows[:-1])
    common = {"image_id": "file", "path": "{file}.jpg"}
    told = {"patient_id": "charts.person_id", "taken_at": "charts.image_occurrence_date", "study_id": "study"}
    told |= {"keep": {"charts.modality_concept_id": ["2128000005"]}}
    by_uid = {"study": "image_study_uid"}
    mappings = {
        "uid": common | told | {"charts": {"model": "omop", "on": by_uid}},
        "known": common | {"patient_id": "subject", "taken_at": "day"}
        | {"charts": {"model": "omop", "on": {"subject": "person_id"}}},
    }  # fmt: skip
    found = {}
    for name, tree in mappings.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree | {"ehr": ehr}))
        found[name] = table_cohort(tmp_path / f"{name}.csv", tmp_path / f"{name}.yaml", tmp_path, [place])
    kept = {each["dicom_id"] for at, each in enumerate(images) if at % 5}
    assert set(found["uid"].table["image_id"].to_pylist()) == kept
    for column in ("ehr.creatinine", "ehr.weight", "ehr.age", "ehr.inpatient", "ehr.died", "taken_at", "patient_id"):
        there = {
            name: dict(zip(one.table["image_id"].to_pylist(), one.table[column].to_pylist(), strict=True))
            for name, one in found.items()
        }
        assert there["uid"] == {image: there["known"][image] for image in kept}, column
    (kept_step,) = (step for step in flow_of(found["uid"]).steps if step.step.startswith("charts.modality_concept_id"))
    assert (kept_step.rows_in, kept_step.rows_out) == (201, 160)
    assert "blank 1" in kept_step.why


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("none", r"expected images of .* by study = image_study_uid in image_occurrence of .*, found none of 9 images"),
        ("two", r"expected one person for each image_study_uid of .*, found two, among data rows 1 to 2; correct"),
        ("column", r"expected a column 'image_occurrence_date' in .*image_occurrence.csv, found"),
        ("absent", r"expected image_occurrence.csv\[.gz\] or image_occurrence.parquet of OMOP in .*, found"),
        ("key", r"needs the column of the patient under 'on', .* or image_study_uid or image_series_uid"),
    ],
)
def test_an_image_occurrence_that_does_not_fit_is_refused(
    change: str, sentence: str, images: Any, tmp_path: Path
) -> None:
    rows = [
        {"person_id": 7, "image_study_uid": "1.2.0", "image_occurrence_date": "2150-01-01"},
        {"person_id": 8, "image_study_uid": "1.2.0", "image_occurrence_date": "2150-01-01"},
    ]
    columns = [name for name in rows[0] if change != "column" or name != "image_occurrence_date"]
    if change != "absent":
        write_rows(tmp_path / "image_occurrence.csv", columns, rows if change == "two" else rows[:1])
    (tmp_path / "person.csv").write_text("person_id,gender_concept_id\n7,8507\n")
    study = "9.9" if change == "none" else "1.2.0"
    write_rows(tmp_path / "images.csv", ["file", "study"], [{"file": n, "study": study} for n in range(9)])
    tree = {"image_id": "file", "path": "{file}.jpg", "patient_id": "charts.person_id"}
    tree |= {"taken_at": "charts.image_occurrence_date"}
    tree["charts"] = {"model": "omop", "on": {"study": "image_uid" if change == "key" else "image_study_uid"}}
    tree["ehr"] = {"sex": OMOP_MORE["sex"]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=sentence):
        table_cohort(tmp_path / "images.csv", tmp_path / "m.yaml", tmp_path, [str(tmp_path)])


@pytest.mark.parametrize("way", ["fahrenheit", {"factor": 5 / 9, "offset": -160 / 9}])
@pytest.mark.parametrize("model", ["meds", "omop"])
def test_degrees_fahrenheit_are_brought_to_celsius(model: str, way: Any, images: Any, tmp_path: Path) -> None:
    """As by --measured. 98.6 °F is 37 °C; of two values the last counts, and 37.5 C is not taken for °F."""
    chart, subject, at = tmp_path / "chart", images[0]["subject_id"], image_time(images[0])
    (chart / "data").mkdir(parents=True)
    rows = [(at - timedelta(hours=3), "C", 37.5), (at - timedelta(hours=2), "degF", 98.6)]
    if model == "meds":
        table = {"subject_id": pa.array([subject] * 2), "time": pa.array([row[0] for row in rows], pa.timestamp("us"))}
        table |= {"code": pa.array([f"TEMP//{row[1]}" for row in rows]), "numeric_value": [row[2] for row in rows]}
        pq.write_table(pa.table(table), chart / "data" / "0.parquet")
        told = {"codes": {"TEMP//C": 1, "TEMP//degF": way}}
    else:
        names = ["person_id", "measurement_concept_id", "measurement_source_value"]
        names += ["measurement_datetime", "value_as_number", "unit_source_value"]
        cells_ = [[subject, 3020891, "x", f"{when_:%Y-%m-%d %H:%M:%S}", value, unit] for when_, unit, value in rows]
        write_rows(chart / "measurement.csv", names, [dict(zip(names, each, strict=True)) for each in cells_])
        (chart / "person.csv").write_text(f"person_id\n{subject}\n")
        told = {"codes": ["measurement/3020891"], "units": {"C": 1, "degF": way}}
    entry = {"kind": "numeric", "range": [20, 45], "unit": "C", "window_days": [-1, 0]} | told
    mapping = mapping_of(tmp_path, model, {"temperature": entry}, {"on": {"subject_id": PATIENT_KEYS[model][0]}})
    cohort = table_cohort(table_of(tmp_path, images[:9]), mapping, tmp_path, [str(chart)])
    assert cells(cohort, "temperature")[images[0]["dicom_id"]] == pytest.approx(37.0)


@pytest.mark.parametrize(
    ("units", "unit", "sentence"),
    [
        (
            {"degF": "rankine"},
            "C",
            r"needs a factor other than 0, .* or fahrenheit or kelvin \(to °C\), found 'rankine'",
        ),
        ({"degF": {"factor": 0, "offset": 1}}, "C", r"needs a factor other than 0, .* found"),
        ({"degF": {"factor": 1, "shift": 1}}, "C", r"needs a factor other than 0, .* found"),
        ({"degF": {"factor": 1, "offset": ".nan"}}, "C", r"needs a factor other than 0, .* found"),
        ({"degF": True}, "C", r"needs a factor other than 0, .* found True"),
        ({"degF": "fahrenheit"}, "K", r"fahrenheit and kelvin lead to 'unit' C, found 'K'"),
    ],
)
def test_a_unit_that_says_no_conversion_is_refused(units: Any, unit: str, sentence: str, tmp_path: Path) -> None:
    entry = {"kind": "numeric", "range": [20, 45], "unit": unit, "codes": ["measurement/1"], "units": units}
    mapping = mapping_of(tmp_path, "omop", {"temperature": entry}, {"on": {"subject_id": "person_id"}})
    with pytest.raises(InputError, match=sentence):
        read_mapping(mapping)


def test_a_window_without_an_end_in_days_is_all_of_the_chart(omop: Path, images: Any, tmp_path: Path) -> None:
    """`.inf`, and more days than microseconds can count."""
    found = []
    for window in ([None, None], [-math.inf, math.inf], [-1e15, 1e15]):
        entry = entry_of("creatinine", "omop") | {"window_days": window}
        mapping = mapping_of(tmp_path, "omop", {"creatinine": entry}, {"on": {"subject_id": "person_id"}})
        cohort = table_cohort(table_of(tmp_path, images), mapping, tmp_path, [str(omop)])
        found.append(cells(cohort, "creatinine"))
    assert found[0] == found[1] == found[2]
    assert any(value is not None for value in found[0].values())


def test_a_unit_that_is_not_listed_is_missing_and_said(omop: Path, images: Any, tmp_path: Path) -> None:
    """The demo has D-dimers in ng/mL, which may be either of two units."""
    entry = entry_of("d_dimer", "omop") | {"window_days": [None, 0]}
    mapping = mapping_of(tmp_path, "omop", {"d_dimer": entry}, {"on": {"subject_id": "person_id"}})
    cohort = table_cohort(table_of(tmp_path, images), mapping, tmp_path, [str(omop)])
    content = flow_of(cohort)
    lost = sum(value is None for value in cells(cohort, "d_dimer").values())
    assert 0 < content.missing["d_dimer"]["in ng/mL"] < lost == sum(content.missing["d_dimer"].values())
    steps = {step.step: step.why for step in content.steps}
    assert "rows left out: in ng/mL 4" in steps["d_dimer as of the image"]
    assert "no stored time is given" in steps["chart joined"]
