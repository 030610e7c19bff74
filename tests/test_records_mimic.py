"""MIMIC cohorts against plain row loops over the open MIMIC-IV demo tables, with image metadata made here."""

import json
import shutil
from datetime import datetime, timedelta

import numpy as np
import pyarrow.compute as pc
import pytest

from chartray.errors import InputError
from chartray.features import FEATURE_SETS, fit_chart
from chartray.records.cohort import describe, flow_of, read_cohort, write_cohort
from chartray.records.mimic import mimic_cohort
from chartray.truth import Policy, truth_of
from tests.mimic_demo import DEMO, HOUR, POSITION, image, image_time, needs_demo, rows_of, when, write_cxr, write_rows


@pytest.fixture(scope="module")
def demo_images():
    """Image times around every admission, registration, discharge and ICU stay of the demo, and of strangers."""
    rng = np.random.default_rng(7)
    moments = []
    for stay in rows_of(DEMO / "hosp" / "admissions.csv.gz"):
        for name in ("admittime", "dischtime", "edregtime"):
            if stay[name]:
                moments.append((stay["subject_id"], when(stay[name])))
    for stay in rows_of(DEMO / "icu" / "icustays.csv.gz"):
        moments += [(stay["subject_id"], when(stay[name])) for name in ("intime", "outtime")]
    images = []
    for subject, moment in moments:
        for shift in (timedelta(0), *(HOUR * float(rng.normal(0, 20)) for _ in range(2))):
            at = (moment + shift).replace(microsecond=0)
            view = ["PA", "AP", "LATERAL", "LL", "", "LPO"][rng.integers(6)]
            images.append(image(len(images), subject, at, view, ["Erect", "Recumbent", ""][rng.integers(3)]))
    images += [image(len(images) + k, 19_999_000 + k, datetime(2150, 1, 1, 0, 0, 7)) for k in range(3)]
    order = rng.permutation(len(images))
    return [images[index] for index in order]


def age_by_hand(patient, year, rules):
    age, since = int(patient["anchor_age"]), year - int(patient["anchor_year"])
    if rules == "strict" and age == 91:  # over 89 in anchor_year
        return 91 if since >= 0 else None
    return age + since


def by_loop(images, rules, tables=None):
    """The oracle: the rules of docs/method.md, one image and one row at a time."""
    tables = tables or {
        name: rows_of(DEMO / folder / f"{name}.csv.gz")
        for name, folder in (("patients", "hosp"), ("admissions", "hosp"), ("icustays", "icu"))
    }
    patients = {row["subject_id"]: row for row in tables["patients"]}
    admissions, stays = tables["admissions"], tables["icustays"]
    unknown = set()
    expected = {}
    for each in images:
        subject, at = str(each["subject_id"]), image_time(each)
        patient = patients.get(subject)
        admission = icu = None
        for row in admissions:
            if row["subject_id"] != subject:
                continue
            begins, ends = when(row["admittime"]), when(row["dischtime"])
            if rules == "published":
                if begins.date() <= at.date() <= ends.date():
                    admission = row
            else:
                begins = min(begins, when(row["edregtime"]) or begins)
                if begins <= at <= ends and (admission is None or begins >= admission["begins"]):
                    admission = row | {"begins": begins}
        for row in stays:
            if row["subject_id"] == subject:
                begins, ends = when(row["intime"]), when(row["outtime"])
                if rules == "published":
                    begins, ends, moment = begins.date(), ends.date(), at.date()
                else:
                    moment = at
                    if ends <= moment <= begins:
                        unknown.add(each["dicom_id"])
                icu = row if begins <= moment <= ends else icu
        died = {"0": "alive", "1": "died"}
        absent = ("alive", "not_icu") if rules == "published" else (None, None)
        expected[each["dicom_id"]] = {
            "sex": {"M": "male", "F": "female"}[patient["gender"]] if patient else None,
            "age": age_by_hand(patient, at.year, rules) if patient else None,
            "mortality": died[admission["hospital_expire_flag"]] if admission else absent[0],
            "icu": "icu" if icu else None if each["dicom_id"] in unknown else "not_icu" if admission else absent[1],
            "view": each["ViewPosition"] if each["ViewPosition"] in ("PA", "AP", "LATERAL", "LL") else None,
            "position": each[POSITION] or None,
        }
    return expected


@needs_demo
@pytest.mark.parametrize("rules", ["strict", "published"])
def test_every_cell_equals_a_plain_row_loop(rules, demo_images, tmp_path):
    cohort = mimic_cohort(str(DEMO), write_cxr(tmp_path, demo_images), rules=rules)
    expected = by_loop(demo_images, rules)
    if rules == "published":
        views = {each["dicom_id"]: each["ViewPosition"] for each in demo_images}
        expected = {name: row for name, row in expected.items() if row["sex"] and views[name] != "LPO"}
    rows = {row["image_id"]: row for row in cohort.table.to_pylist()}
    assert rows.keys() == expected.keys()
    for name in ("sex", "age", "view", "position", "mortality", "icu"):
        assert {image: row[f"ehr.{name}"] for image, row in rows.items()} == {
            image: row[name] for image, row in expected.items()
        }, name
    found = {row["ehr.icu"] for row in rows.values()} | {row["ehr.mortality"] for row in rows.values()}
    assert {"icu", "not_icu", "alive", "died"} <= found


@needs_demo
def test_flow_and_links_account_for_every_image(demo_images, tmp_path):
    cohort = mimic_cohort(str(DEMO), write_cxr(tmp_path, demo_images))
    links, expected = cohort.links, by_loop(demo_images, "strict")
    assert links["films"] == len(demo_images)
    assert links["linked"] == sum(row["mortality"] is not None for row in expected.values())
    parts = ("linked", "before_admission", "after_discharge", "no_admission", "no_record", "no_time")
    assert sum(links[part] for part in parts) == links["films"]
    assert links["no_record"] == 3
    assert 0 < links["by_emergency_registration"] < links["linked"]
    content = flow_of(cohort)
    assert sum(size.images for size in content.splits.values()) == len(demo_images)
    assert content.missing["view"]["LPO"] == sum(each["ViewPosition"] == "LPO" for each in demo_images)
    published = mimic_cohort(str(DEMO), tmp_path, rules="published")
    lost = {step.step: step.rows_in - step.rows_out for step in published.flow}
    assert sum(lost.values()) == len(demo_images) - published.table.num_rows
    assert lost["sex known"] == 3  # the strangers have none


@needs_demo
def test_release_and_metadata_are_named(demo_images, tmp_path):
    cohort = mimic_cohort(str(DEMO), write_cxr(tmp_path, demo_images[:50]))
    assert cohort.metadata.release == "2.x"
    assert cohort.metadata.absent_labels == sorted(set(cohort.metadata.absent_labels) - {"Edema"})
    assert len(cohort.metadata.absent_labels) == 13
    known = {name: variable.known_at_film for name, variable in cohort.metadata.variables.items()}
    mortality = {"mortality": False}
    assert known == dict.fromkeys(("sex", "age", "view", "position", "icu", "race"), True) | mortality
    published = mimic_cohort(str(DEMO), tmp_path, rules="published")
    assert not published.metadata.variables["icu"].known_at_film


class MimicTables:
    """A small MIMIC-IV of one's own, in the layout of any release."""

    def __init__(self, root, release="2.2"):
        self.root, self.core = root / "iv", "core" if release == "1.0" else "hosp"
        self.race = "ethnicity" if release == "1.0" else "race"
        self.group = "2020 - 2022" if release[0] == "3" else "2011 - 2013"
        self.cxr = root / "cxr"
        self.patients = [
            {"subject_id": 10000001, "gender": "F", "anchor_age": 50, "anchor_year": 2150},
            {"subject_id": 10000002, "gender": "M", "anchor_age": 70, "anchor_year": 2151},
        ]
        self.admissions, self.stays, self.images = [], [], []
        # Somebody without images, since a table without rows is refused.
        begins = dict.fromkeys(("admittime", "intime"), "2150-01-01 10:00:00")
        ends = dict.fromkeys(("dischtime", "outtime"), "2150-01-02 10:00:00")
        self.stranger = {"subject_id": 19999999, "hadm_id": 29999999, "stay_id": 39999999} | begins | ends

    def admit(self, subject, begins, ends, registered="", died=0):
        stay = {"subject_id": subject, "hadm_id": 20000000 + len(self.admissions), "admittime": begins}
        self.admissions.append(
            stay | {"dischtime": ends, "edregtime": registered, "hospital_expire_flag": died, self.race: "WHITE"}
        )

    def icu(self, subject, begins, ends):
        stay = {"subject_id": subject, "hadm_id": 20000000, "stay_id": 30000000 + len(self.stays)}
        self.stays.append(stay | {"intime": begins, "outtime": ends})

    def image(self, subject, at, view="AP"):
        self.images.append(image(len(self.images), subject, datetime.fromisoformat(at), view))

    def cohort(self, rules="strict", **cxr):
        patients = [row | {"anchor_year_group": self.group} for row in self.patients]
        write_rows(self.root / self.core / "patients.csv.gz", list(patients[0]), patients)
        columns = ["subject_id", "hadm_id", "admittime", "dischtime", "edregtime", "hospital_expire_flag", self.race]
        write_rows(self.root / self.core / "admissions.csv", columns, [*self.admissions, self.stranger])
        columns = ["subject_id", "hadm_id", "stay_id", "intime", "outtime"]
        write_rows(self.root / "icu" / "icustays.csv.gz", columns, [*self.stays, self.stranger])
        return mimic_cohort(str(self.root), write_cxr(self.cxr, self.images, **cxr), rules=rules)

    def chart(self, rules="strict"):
        rows = self.cohort(rules).table.to_pylist()
        return [(row["ehr.mortality"], row["ehr.icu"]) for row in rows]


@pytest.fixture
def hospital(tmp_path):
    return MimicTables(tmp_path)


def test_the_edges_of_the_strict_rule(hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00", registered="2150-03-01 04:00:00", died=1)
    hospital.icu(10000001, "2150-03-02 20:00:00", "2150-03-03 08:00:00")
    at = ["01 03:59:59", "01 04:00:00", "02 19:59:59", "02 20:00:00", "03 08:00:00", "03 08:00:01", "05 12:00:01"]
    for moment in at:
        hospital.image(10000001, f"2150-03-{moment}")
    assert hospital.chart() == [
        (None, None),
        ("died", "not_icu"),
        ("died", "not_icu"),
        ("died", "icu"),
        ("died", "icu"),
        ("died", "not_icu"),
        (None, None),
    ]
    # By calendar dates the image of 19:59:59 already counts as ICU, and the ones outside the admission do not miss it.
    assert hospital.chart("published") == [
        ("died", "not_icu"),
        ("died", "not_icu"),
        ("died", "icu"),
        ("died", "icu"),
        ("died", "icu"),
        ("died", "icu"),
        ("died", "not_icu"),
    ]


def test_resized_images_in_one_folder_are_found_where_there_are_no_folders_of_patients(hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00")
    hospital.image(10000001, "2150-03-02 10:00:00")
    (row,) = hospital.cohort().table.to_pylist()
    assert row["path"].startswith(f"{hospital.cxr}/files/p10/p10000001/s")
    (hospital.cxr / "resized").mkdir()
    (row,) = hospital.cohort().table.to_pylist()
    assert row["path"] == f"{hospital.cxr}/resized/{row['image_id']}.jpg"
    (hospital.cxr / "files").mkdir()
    (row,) = hospital.cohort().table.to_pylist()
    assert row["path"].startswith(f"{hospital.cxr}/files/p10/p10000001/s")


def test_overlapping_stays(hospital):
    """Strict: the latest to have begun wins, whatever the order of rows; published: the last row wins."""
    hospital.admit(10000001, "2150-03-02 00:00:00", "2150-03-09 00:00:00", died=1)
    hospital.admit(10000001, "2150-03-01 00:00:00", "2150-03-09 00:00:00", died=0)
    hospital.image(10000001, "2150-03-03 00:00:00")
    assert hospital.chart() == [("died", "not_icu")]
    assert hospital.chart("published") == [("alive", "not_icu")]
    assert hospital.cohort().links["ties"] == 1


def test_a_stay_that_ends_before_it_begins_links_nothing(hospital):
    hospital.admit(10000001, "2150-03-01 00:00:00", "2150-03-09 00:00:00")
    hospital.icu(10000001, "2150-03-04 00:00:00", "2150-03-03 00:00:00")
    for day in (2, 3, 5):
        hospital.image(10000001, f"2150-03-0{day} 12:00:00")
    # One of the two times is wrong: between them nobody knows.
    assert hospital.chart() == [("alive", "not_icu"), ("alive", None), ("alive", "not_icu")]
    links = hospital.cohort().links
    assert (links["icu_stays_that_end_before_they_begin"], links["icu_unknown"]) == (1, 1)


def test_an_admission_that_ends_before_it_begins_links_nothing_either(hospital):
    """Not even through an emergency registration before both."""
    hospital.admit(10000001, "2150-03-04 10:00:00", "2150-03-03 09:00:00", registered="2150-03-01 04:00:00", died=1)
    for at in ("02 12:00:00", "03 12:00:00"):
        hospital.image(10000001, f"2150-03-{at}")
    assert hospital.chart() == [(None, None)] * 2
    assert hospital.cohort().links["admissions_that_end_before_they_begin"] == 1
    assert hospital.chart("published") == [("alive", "not_icu")] * 2


def test_moving_one_record_past_the_image_changes_no_feature(hospital):
    """A record that lies after the image may lie anywhere after it, or not exist: sex, age, icu stay what they are."""
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-09 00:00:00")
    hospital.admit(10000002, "2151-03-01 10:00:00", "2151-03-09 00:00:00")
    for day in (1, 2, 3):
        hospital.image(10000001, f"2150-03-0{day} 12:00:00")
        hospital.image(10000002, f"2151-03-0{day} 12:00:00", view="PA")
    hospital.icu(10000001, "2150-03-01 11:00:00", "2150-03-04 00:00:00")

    def features():
        table = hospital.cohort().table
        table = table.set_column(table.schema.get_field_index("split"), "split", [["train"] * 6])
        return fit_chart(table, "sex,icu,view").rows(table).values.tolist()

    before = features()
    hospital.icu(10000002, "2151-03-03 12:00:01", "2151-03-05 00:00:00")
    hospital.admit(10000001, "2150-05-01 10:00:00", "2150-05-09 00:00:00", died=1)
    assert features() == before
    hospital.stays[-1]["intime"] = "2151-03-03 12:00:00"
    assert features() != before


def test_why_an_image_has_no_admission(hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-09 00:00:00")
    for subject, at in ((10000001, "02-28"), (10000001, "03-10"), (10000002, "03-02"), (10000003, "03-02")):
        hospital.image(subject, f"2150-{at} 12:00:00")
    links = hospital.cohort().links
    reasons = ("linked", "before_admission", "after_discharge", "no_admission", "no_record")
    assert [links[reason] for reason in reasons] == [0, 1, 1, 1, 1]


def test_study_times_that_lost_their_zeros(hospital):
    hospital.image(10000001, "2150-03-01 00:00:07")
    hospital.image(10000001, "2150-03-01 09:30:12")
    hospital.image(10000001, "2150-03-01 23:59:59")
    hospital.images[0]["StudyTime"] = "7.5"
    hospital.images.append(hospital.images[0] | {"dicom_id": "no-time", "StudyTime": ""})
    hospital.images.append(hospital.images[0] | {"dicom_id": "bad-time", "StudyTime": "256000"})
    cohort = hospital.cohort(labels=[{"study_id": 50000000, "Edema": ""}])
    times = cohort.table["taken_at"].to_pylist()
    assert times[:3] == [
        datetime(2150, 3, 1, 0, 0, 7, 500_000),
        datetime(2150, 3, 1, 9, 30, 12),
        datetime(2150, 3, 1, 23, 59, 59),
    ]
    assert times[3:] == [None, None]
    assert cohort.links["no_time"] == 2
    assert cohort.table["ehr.age"].to_pylist() == [50.0] * 5


@pytest.mark.parametrize("release", ["1.0", "2.2", "3.1"])
def test_every_release_gives_the_same_chart(release, tmp_path):
    hospital = MimicTables(tmp_path, release)
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00")
    hospital.image(10000001, "2150-03-02 00:00:00")
    cohort = hospital.cohort()
    assert cohort.metadata.release == {"1.0": "1.0", "2.2": "2.x", "3.1": "3.x"}[release]
    layout = "core/" if release == "1.0" else "hosp/"
    assert describe(cohort).splitlines()[0] == f"mimic {cohort.metadata.release} ({layout}), strict rules: 1 images"
    assert flow_of(cohort).layout == layout
    assert cohort.table["ehr.mortality"].to_pylist() == ["alive"]


def test_a_folder_that_says_its_release_is_believed(tmp_path):
    hospital = MimicTables(tmp_path)
    hospital.root = tmp_path / "mimic-iv-3.1"
    hospital.image(10000001, "2150-03-02 00:00:00")
    assert hospital.cohort().metadata.release == "3.1"


def test_labels_by_study_and_by_radiologists(hospital):
    for day in (1, 2, 3):
        hospital.image(10000001, f"2150-03-0{day} 00:00:00")
    labels = [
        {"study_id": 50000000, "Edema": "1.0", "Lung Opacity": "-1.0", "No Finding": ""},
        {"study_id": 50000001, "Edema": "0.0", "Lung Opacity": "", "No Finding": "maybe"},
    ]
    cohort = hospital.cohort(labels=labels)
    assert cohort.table["label.Edema"].to_pylist() == [1.0, 0.0, None]
    assert cohort.table["label.Lung Opacity"].to_pylist() == [-1.0, None, None]
    assert cohort.missing["label.No Finding"] == {"maybe": 1, "absent": 2}
    # A blank of a study that the labeller's file has is a negative; a cell that cannot be read, a study that the file
    # does not have, are not known.
    assert str(truth_of(cohort.table, ["No Finding"], Policy())[:, 0].tolist()) == "[0.0, nan, nan]"
    assert str(truth_of(cohort.table, ["Lung Opacity"], Policy(blank="negative"))[:, 0].tolist()) == "[nan, 0.0, nan]"
    read = [{"study_id": 50000001, "Edema": "1.0", "Airspace Opacity": "1.0"}]
    write_rows(hospital.cxr / "mimic-cxr-2.1.0-test-set-labeled.csv", list(read[0]), read)
    cohort = hospital.cohort(labels=labels)
    assert cohort.table["label.Edema"].to_pylist() == [1.0, 1.0, None]
    assert cohort.table["label.Lung Opacity"].to_pylist() == [-1.0, 1.0, None]
    assert "1 images have the radiologists'" in cohort.flow[-1].why
    assert cohort.table["read_by_radiologists"].to_pylist() == [False, True, False]


def split_rows(images, *splits):
    return [row | {"split": split} for row, split in zip(images, splits, strict=True) if split]


def test_official_splits(hospital, tmp_path):
    hospital.image(10000001, "2150-03-01 00:00:00")
    hospital.image(10000002, "2150-03-02 00:00:00")
    hospital.image(10000002, "2150-03-03 00:00:00")
    cohort = hospital.cohort(split=split_rows(hospital.images, "test", "train", None))
    assert cohort.table["split"].to_pylist() == ["test", "train"]
    assert [cohort.flow[-1].rows_in, cohort.flow[-1].rows_out] == [3, 2]
    write_cohort(cohort, tmp_path / "c.parquet")
    assert read_cohort(tmp_path / "c.parquet").equals(cohort.table)
    flow = json.loads((tmp_path / "c.flow.json").read_text())
    assert flow["splits"]["validate"] == {"images": 0, "patients": 0}
    with pytest.raises(InputError, match=r"found 1 in two or more in .*mimic-cxr-2.0.0-split.csv"):
        hospital.cohort(split=split_rows(hospital.images, "test", "train", "validate"))
    with pytest.raises(InputError, match="found 'holdout'"):
        hospital.cohort(split=split_rows(hospital.images, "test", "train", "holdout"))


def test_cells_read_as_numbers_and_times_or_as_text_give_one_chart(hospital):
    """One cell that is no number turns its whole table into text; the other rows must not notice."""
    hospital.patients.append({"subject_id": 10000003, "gender": "F", "anchor_age": 60, "anchor_year": 2150})
    for subject in (10000001, 10000002, 10000003):
        hospital.admit(subject, "2150-03-01 10:00:00", "2150-03-05 12:00:00", "2150-03-01 08:00:00", subject % 2)
        hospital.icu(subject, "2150-03-02 20:00:00", "2150-03-03 08:00:00")
        for at in ("2150-03-01 09:00:00", "2150-03-02 21:00:00.250", "2150-03-07 00:00:00"):
            hospital.image(subject, at)
    expected = hospital.cohort()
    hospital.patients[2] |= {"anchor_age": "?", "subject_id": "unknown"}
    hospital.admissions[2] |= {"hadm_id": "unknown", "edregtime": "unknown"}
    hospital.stays[2] |= {"stay_id": "unknown"}
    hospital.images[8]["StudyTime"] = "at noon"
    found = hospital.cohort()
    assert found.table.slice(0, 6).equals(expected.table.slice(0, 6))
    assert expected.table["ehr.icu"].to_pylist()[:3] == ["not_icu", "icu", None]
    assert found.table["ehr.age"].to_pylist()[6:] == [None] * 3
    assert found.table["taken_at"].null_count == 1


def test_official_splits_in_another_order(hospital):
    for day in range(1, 6):
        hospital.image(10000000 + day, f"2150-03-0{day} 00:00:00")
    parts = ("test", "train", "validate", "train", "test")
    rows = split_rows(hospital.images, *parts)
    assert hospital.cohort(split=rows).table["split"].to_pylist() == list(parts)
    assert hospital.cohort(split=rows[::-1]).table["split"].to_pylist() == list(parts)
    with pytest.raises(InputError, match=r"each dicom_id once in .*split.csv"):
        hospital.cohort(split=[*rows, rows[0]])


def refused(hospital, message):
    with pytest.raises(InputError, match=message):
        mimic_cohort(str(hospital.root), hospital.cxr)


def test_what_is_missing_is_named(hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00")
    hospital.image(10000001, "2150-03-02 00:00:00")
    hospital.cohort()
    (hospital.root / "hosp" / "admissions.csv").rename(hospital.root / "hosp" / "visits.csv")
    refused(hospital, r"expected admissions.csv or admissions.csv.gz in .*hosp, found patients.csv.gz, visits.csv")
    rows = [{"subject_id": 1, "hadm_id": 1, "admittime": "2150-01-01", "hospital_expire_flag": 0}]
    write_rows(hospital.root / "hosp" / "admissions.csv", list(rows[0]), rows)
    refused(hospital, r"column 'dischtime' in .*admissions.csv, found subject_id, hadm_id, admittime, hospital_exp")
    rows[0] |= {"dischtime": "soon"}
    write_rows(hospital.root / "hosp" / "admissions.csv", list(rows[0]), rows)
    refused(hospital, r"expected dates with times as dischtime of .*admissions.csv, found another form in data row 1")
    shutil.rmtree(hospital.root / "hosp")
    refused(hospital, r"expected hosp/patients.csv.*core/patients.csv.* in .*iv, found icu")
    refused_cxr = hospital.cxr / "mimic-cxr-2.0.0-metadata.csv.gz"
    MimicTables.cohort(hospital)
    refused_cxr.unlink()
    refused(hospital, r"expected mimic-cxr-2.0.0-metadata.csv or .csv.gz in .*cxr, found mimic-cxr-2.0.0-chexpert.csv")
    hospital.cxr = hospital.cxr / "nowhere"
    refused(hospital, "expected a folder with MIMIC-CXR-JPG at .*nowhere, found none")


def test_rows_that_would_count_twice_are_refused(hospital):
    hospital.image(10000001, "2150-03-02 00:00:00")
    hospital.patients.append(hospital.patients[0])
    with pytest.raises(
        InputError, match=r"each subject_id once in .*patients.csv.gz, found one repeated in data row 3"
    ):
        hospital.cohort()
    hospital.patients.pop()
    hospital.images *= 2
    with pytest.raises(InputError, match=r"each dicom_id once in .*metadata.csv.gz, found one repeated in data row 2"):
        hospital.cohort()


def test_a_ragged_csv_is_one_sentence(hospital):
    hospital.image(10000001, "2150-03-02 00:00:00")
    hospital.cohort()
    file = hospital.root / "hosp" / "admissions.csv"
    whole = file.read_text()
    file.write_text(whole + "10000001,M,44\n")
    with pytest.raises(InputError, match=r"a csv table in .*admissions.csv, found 3 cells instead of \d+ in") as caught:
        mimic_cohort(str(hospital.root), hospital.cxr)
    assert "10000001" not in str(caught.value)  # the row may be a patient's
    file.write_bytes(whole.encode() + b"M\xfcller\n")
    refused(hospital, r"expected a csv table.* in .*admissions.csv, found .*bytes.*; save it as UTF-8")


def test_a_database_of_the_same_tables(hospital, tmp_path):
    import duckdb

    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00", registered="2150-03-01 04:00:00", died=1)
    hospital.icu(10000001, "2150-03-02 20:00:00", "2150-03-03 08:00:00")
    hospital.image(10000001, "2150-03-01 05:00:00")
    hospital.image(10000001, "2150-03-02 21:00:00")
    from_files = hospital.cohort()
    with duckdb.connect(str(tmp_path / "mimic.db")) as database:
        for schema, name, file in (
            ("mimiciv_hosp", "patients", "hosp/patients.csv.gz"),
            ("mimiciv_hosp", "admissions", "hosp/admissions.csv"),
            ("mimiciv_icu", "icustays", "icu/icustays.csv.gz"),
        ):
            database.execute(f"create schema if not exists {schema}")
            database.execute(f"create table {schema}.{name} as from read_csv('{hospital.root / file}')")
    url = f"duckdb://{tmp_path / 'mimic.db'}"
    cohort = mimic_cohort(url, hospital.cxr)
    assert cohort.table.equals(from_files.table)
    assert cohort.links == from_files.links
    assert pc.all(pc.equal(cohort.table["ehr.mortality"], "died")).as_py()
    with pytest.raises(InputError, match="choose the last admission in file order"):
        mimic_cohort(url, hospital.cxr, rules="published")


@needs_demo
def test_race_is_what_most_admissions_say_and_stays_out_of_the_published_sets(demo_images, tmp_path):
    groups = {"W": "white", "B": "black", "H": "hispanic", "A": "asian"}
    silent = ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER")
    said = {}
    for row in rows_of(DEMO / "hosp" / "admissions.csv.gz"):
        if row["race"] not in silent:
            word = row["race"].split("/")[0].split(" ")[0]
            whole = word in ("WHITE", "BLACK", "HISPANIC", "ASIAN")
            said.setdefault(row["subject_id"], []).append(groups[word[0]] if whole else "other")
    expected = {patient: max(dict.fromkeys(each), key=each.count) for patient, each in said.items()}
    cohort = mimic_cohort(str(DEMO), write_cxr(tmp_path, demo_images))
    found = cohort.table["ehr.race"].to_pylist()
    assert found == [expected.get(patient) for patient in cohort.table["patient_id"].to_pylist()]
    assert set(found) == {"white", "black", "hispanic", "other", None}
    assert cohort.missing["race"].keys() <= {*silent, "absent"}
    assert cohort.metadata.variables["race"].columns == ("admissions.race",)
    assert not any("race" in feature.items for feature in FEATURE_SETS.values())


@needs_demo
def test_release_1_calls_race_ethnicity_and_tables_without_either_have_none(demo_images, tmp_path):
    root = write_cxr(tmp_path / "cxr", demo_images[:200])
    expected = mimic_cohort(str(DEMO), root).table["ehr.race"].to_pylist()
    admissions = rows_of(DEMO / "hosp" / "admissions.csv.gz")
    for name, column in (("old", "ethnicity"), ("bare", None)):
        shutil.copytree(DEMO, tmp_path / name)
        columns = [column if each == "race" else each for each in admissions[0]]
        rows = [row | {"ethnicity": row["race"]} for row in admissions]
        write_rows(tmp_path / name / "hosp" / "admissions.csv.gz", [each for each in columns if each], rows)
        table = mimic_cohort(str(tmp_path / name), root).table
        assert ("ehr.race" in table.column_names) == (column is not None)
        if column is not None:
            assert table["ehr.race"].to_pylist() == expected
