"""MIMIC as other programs write it: the cohort of perturbed spellings is that of clean ones; nothing is made up."""

import random
from datetime import datetime, timedelta

import numpy as np
import pytest

from chartray.errors import InputError
from chartray.features import fit_chart
from chartray.records.cohort import describe, flow_of
from chartray.records.mimic import mimic_cohort
from chartray.simulate import mimic_layout
from tests.mimic_demo import DEMO, METADATA, POSITION, image, rows_of, when, write_rows
from tests.test_records_mimic import MimicTables, by_loop

TABLES = {
    "patients": ("hosp", ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group"]),
    "admissions": (
        "hosp",
        ["subject_id", "hadm_id", "admittime", "dischtime", "edregtime", "hospital_expire_flag", "race"],
    ),
    "icustays": ("icu", ["subject_id", "hadm_id", "stay_id", "intime", "outtime"]),
}


@pytest.fixture
def hospital(tmp_path):
    return MimicTables(tmp_path)


def as_float(cell, draw):
    return draw.choice([cell, f"{cell}.0", f" {cell} ", f"{cell}.00"])


def as_time(cell, draw):
    at = when(cell)
    forms = [
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%d %H:%M:%S.000000",
        "%Y%m%d %H%M%S",
        "%d-%b-%Y %H:%M:%S",
        " %Y/%m/%d %H:%M:%S",
    ]
    return cell if at is None else draw.choice([cell, at.strftime(draw.choice(forms))])


def in_case(cell, draw):
    return draw.choice([cell, cell.lower(), cell.upper(), f" {cell} "])


def perturbed(name, row, draw):
    row = dict(row)
    for key in ("subject_id", "hadm_id", "stay_id", "anchor_age", "anchor_year", "study_id"):
        if row.get(key) not in (None, ""):
            row[key] = as_float(row[key], draw)
    for key in ("admittime", "dischtime", "edregtime", "intime", "outtime"):
        if key in row:
            row[key] = as_time(row[key], draw)
    if name == "patients":
        row["gender"] = in_case(draw.choice([row["gender"], {"M": "Male", "F": "Female"}[row["gender"]]]), draw)
    if name == "admissions":
        said = {"0": ["0", "0.0", "False", "no", " f"], "1": ["1", "1.0", "True", "YES", "t "]}
        row["hospital_expire_flag"] = draw.choice(said[row["hospital_expire_flag"]])
        row["race"] = in_case(row["race"], draw)
    if name == "metadata":
        day, (whole, _, fraction) = row["StudyDate"], row["StudyTime"].partition(".")
        clock = whole.zfill(6)
        row["StudyDate"] = draw.choice(
            [day, f"{day}.0", f"{day[:4]}-{day[4:6]}-{day[6:]}", f"{day[:4]}/{day[4:6]}/{day[6:]}"]
        )
        colons, end = f"{clock[:2]}:{clock[2:4]}:{clock[4:]}", fraction or "000"
        forms = [f"{whole}.{end}", f" {clock}.{end}", f"{colons}.{end}"] + ([] if fraction else [clock, colons])
        row["StudyTime"] = draw.choice([row["StudyTime"], *forms])
        row["ViewPosition"], row[POSITION] = in_case(row["ViewPosition"], draw), in_case(row[POSITION], draw)
    return row


def of_the_demo():
    """The demo's own tables, and images around their times."""
    content = {name: rows_of(DEMO / folder / f"{name}.csv.gz") for name, (folder, _) in TABLES.items()}
    draw = random.Random(3)
    times = [(row["subject_id"], when(row["admittime"])) for row in content["admissions"]]
    times += [(row["subject_id"], when(row["intime"])) for row in content["icustays"]]
    images = []
    for subject, at in times * 2:
        at = (at + timedelta(hours=draw.gauss(10, 40))).replace(microsecond=0)
        view = draw.choice(["PA", "AP", "LATERAL", "LL", "", "LPO"])
        images.append(image(len(images), subject, at, view, draw.choice(["Erect", "Recumbent", ""])))
    return content | {"metadata": images}


def of_a_simulated_hospital(folder):
    """Its tables and the metadata of its images, as `chartray simulate` writes them."""
    drawn = mimic_layout.draw(300, 3, size=64)
    mimic_layout.write_iv(folder / "iv", drawn, "2.2", np.random.default_rng(0), chart_effect=1.0)
    mimic_layout.write_cxr(folder / "cxr", drawn, np.random.default_rng(1))
    files = {name: folder / "iv" / place / f"{name}.csv*" for name, (place, _) in TABLES.items()}
    files["metadata"] = folder / "cxr" / "mimic-cxr-*-metadata.csv*"
    return {name: rows_of(next(file.parent.glob(file.name))) for name, file in files.items()}


@pytest.fixture(scope="module", params=["demo", "simulated"])
def tables(request, tmp_path_factory):
    """Tables, images and labels by study."""
    if request.param == "demo" and not DEMO.exists():
        pytest.skip("the MIMIC-IV demo tables are not in ../shared/data")
    content = of_the_demo() if request.param == "demo" else of_a_simulated_hospital(tmp_path_factory.mktemp("drawn"))
    draw = random.Random(4)
    studies = dict.fromkeys(row["study_id"] for row in content["metadata"])
    labels = [{"study_id": study, "Edema": draw.choice(["1.0", "0.0", "-1.0", ""])} for study in studies]
    return content | {"labels": labels}


def written(root, tables):
    for name, (folder, columns) in TABLES.items():
        write_rows(root / folder / f"{name}.csv", columns, tables[name])
    write_rows(root / "cxr" / "mimic-cxr-2.0.0-metadata.csv", METADATA, tables["metadata"])
    write_rows(root / "cxr" / "mimic-cxr-2.0.0-chexpert.csv", ["study_id", "Edema"], tables["labels"])
    return root


@pytest.mark.parametrize("rules", ["strict", "published"])
def test_perturbed_spellings_give_the_same_cohort(rules, tables, tmp_path):
    root = written(tmp_path, tables)
    clean = mimic_cohort(str(root), root / "cxr", rules=rules)
    assert clean.links["linked"] > 100
    expected = by_loop(tables["metadata"], rules, tables)
    for row in clean.table.to_pylist():
        assert {name: row[f"ehr.{name}"] for name in expected[row["image_id"]]} == expected[row["image_id"]]
    assert clean.table["label.Edema"].null_count < 0.5 * clean.table.num_rows
    for seed in range(3):
        draw = random.Random(seed)
        others = {name: [perturbed(name, row, draw) for row in rows] for name, rows in tables.items()}
        other = mimic_cohort(str(written(tmp_path, others)), root / "cxr", rules=rules)
        assert other.table.equals(clean.table)
        assert other.links == clean.links
        views = ("view", "race")  # which are told as they are written
        assert {k: v for k, v in other.missing.items() if k not in views} == {
            k: v for k, v in clean.missing.items() if k not in views
        }


@pytest.mark.parametrize("cells", [("2150-03-02", "093012"), ("21500302.0", "09:30:12"), ("2150/03/02", "9:30:12")])
@pytest.mark.parametrize("flag", ["1.0", "True", " yes"])
def test_the_spellings_of_the_issue(cells, flag, hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00", died=flag)
    hospital.icu(10000001, "2150-03-02 00:00:00", "2150-03-03 08:00:00")
    hospital.image(10000001, "2150-03-02 09:30:12")
    hospital.images[0]["StudyDate"], hospital.images[0]["StudyTime"] = cells
    for rules in ("strict", "published"):
        cohort = hospital.cohort(rules)
        assert cohort.table["taken_at"].to_pylist() == [datetime(2150, 3, 2, 9, 30, 12)]
        assert hospital.chart(rules) == [("died", "icu")]


def test_what_cannot_be_read_is_missing_and_said_under_both_rules(hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-05 12:00:00", died="perhaps")
    hospital.icu(10000001, "2150-03-02 00:00:00", "2150-03-03 08:00:00")
    hospital.admit(10000002, "2151-03-01 10:00:00", "2151-03-05 12:00:00", died=1)
    for _ in range(3):
        hospital.image(10000002, "2151-03-02 09:30:12")
    hospital.image(10000001, "2150-03-02 09:30:12")
    hospital.image(10000003, "2150-03-02 09:30:12")
    hospital.images[0]["StudyDate"] = "02.03.2151"
    hospital.images[1]["StudyTime"] = "morning"
    hospital.patients.append({"subject_id": 10000003, "gender": "X", "anchor_age": ">89", "anchor_year": 2150})
    strict = [(None, None), (None, None), ("died", "not_icu"), (None, "icu"), (None, None)]
    published = [(None, None), ("died", "not_icu"), ("died", "not_icu"), (None, "icu"), ("alive", "not_icu")]
    assert hospital.chart() == strict
    cohort = hospital.cohort()
    assert cohort.missing["sex"] == {"X": 1}
    assert cohort.missing["age"] == {">89": 1, "absent": 1}
    assert cohort.missing["mortality"] == {"perhaps": 1, "absent": 3}
    assert cohort.missing["StudyDate"] == cohort.missing["StudyTime"] == {"(unreadable)": 1}
    for line in (
        "warning: StudyDate: unreadable in 1 images",
        "warning: StudyTime: unreadable in 1 images",
        "'perhaps' 1",
    ):
        assert line in describe(cohort)
    hospital.patients[2]["gender"] = "F"
    assert hospital.chart("published") == published
    table = hospital.cohort("published").table
    train = table.set_column(table.schema.get_field_index("split"), "split", [["train"] * 5])
    rows = fit_chart(train, "stay", allow_after_film=["mortality", "icu"]).rows(train)
    assert rows.representable.tolist() == [None not in cells for cells in published]


def test_ids_as_floats_are_whole_numbers_and_others_are_refused(hospital):
    hospital.admit("10000001.0", "2150-03-01 10:00:00", "2150-03-05 12:00:00")
    hospital.image("10000001.0", "2150-03-02 09:30:12")
    labels = [{"study_id": "50000000.0", "Edema": "1.0"}]
    row = hospital.cohort(labels=labels).table.to_pylist()[0]
    assert row["path"].endswith("/files/p10/p10000001/s50000000/d000000.jpg")
    assert (row["patient_id"], row["study_id"]) == ("10000001", "50000000")
    assert (row["ehr.race"], row["label.Edema"], row["ehr.mortality"]) == ("white", 1.0, "alive")
    hospital.images[0]["subject_id"] = "1.00000E+07"
    with pytest.raises(InputError, match=r"as subject_id of .*metadata.csv.gz, found scientific notation"):
        hospital.cohort()
    hospital.images[0]["subject_id"] = "nan"
    with pytest.raises(InputError, match=r"expected subject_id in every row of .*metadata.csv.gz, found none in"):
        hospital.cohort()
    hospital.images[0]["subject_id"] = 10000001
    hospital.patients.append(hospital.patients[0] | {"subject_id": "10000001.0"})
    with pytest.raises(InputError, match=r"expected each subject_id once in .*patients.csv.gz"):
        hospital.cohort()


def test_an_age_over_89_is_no_fact_but_what_mimic_writes(hospital):
    hospital.patients[0] |= {"anchor_age": 91, "anchor_year": 2150}
    hospital.patients[1] |= {"anchor_age": 0, "anchor_year": 2150}
    for year in (2147, 2150, 2154):
        hospital.image(10000001, f"{year}-03-02 09:30:12")
    hospital.image(10000002, "2151-03-02 09:30:12")
    cohort = hospital.cohort()
    assert cohort.table["ehr.age"].to_pylist() == [None, 91.0, 91.0, 1.0]
    assert cohort.missing["age"] == {"(over 89 only after the image)": 1}
    said = describe(cohort)
    assert "age over 89: 4 -> 4 (2 images of patients over 89 have the age 91, as in MIMIC-IV; 1" in said
    assert "warning: age: 1 images of newborns (anchor_age 0)" in said
    published = hospital.cohort("published")
    assert published.table["ehr.age"].to_pylist() == [88.0, 91.0, 95.0, 1.0]
    assert "3 images of patients over 89: their age is computed from 91" in describe(published)


def test_a_date_without_a_time_is_a_whole_day(hospital):
    hospital.admit(10000001, "2150-03-01", "2150-03-05", died=1)
    hospital.icu(10000001, "2150-03-02", "2150-03-04")
    for at in ("01 00:00:00", "02 09:00:00", "03 09:00:00", "04 23:59:59", "05 00:00:00", "05 18:00:00", "06 00:00:00"):
        hospital.image(10000001, f"2150-03-{at}")
    # On the day on which the ICU stay began the image may have come first.
    icu = ["not_icu", None, "icu", "icu", "not_icu", "not_icu", None]
    assert hospital.chart() == [("died" if k < 6 else None, each) for k, each in enumerate(icu)]
    hospital.admissions[0] |= {"dischtime": "05.03.2150"}
    with pytest.raises(InputError, match="found another form in data row 1"):
        hospital.cohort()


def test_a_stay_without_an_end_leaves_open_what_it_may_have_covered(hospital):
    hospital.admit(10000001, "2150-03-01 10:00:00", "2150-03-09 12:00:00", died=0)
    hospital.icu(10000001, "2150-03-03 00:00:00", "")
    hospital.admit(10000002, "2151-03-03 00:00:00", "", died=1)
    for subject, year in ((10000001, 2150), (10000002, 2151)):
        for day in (2, 4):
            hospital.image(subject, f"{year}-03-0{day} 12:00:00")
    assert hospital.chart() == [("alive", "not_icu"), ("alive", None), (None, None), (None, None)]
    assert hospital.chart("published") == [
        ("alive", "not_icu"),
        ("alive", None),
        ("alive", "not_icu"),
        (None, "not_icu"),
    ]


def test_times_with_a_zone_and_times_that_look_like_hhmm_are_refused(hospital):
    hospital.image(10000001, "2150-03-02 09:30:12")
    for zone in ("Z", "+02:00", " UTC"):
        hospital.admissions = []
        hospital.admit(10000001, f"2150-03-01 10:00:00{zone}", "2150-03-05 12:00:00")
        with pytest.raises(
            InputError, match=r"times without a time zone as admittime of .*, found a time zone in data row 1"
        ):
            hospital.cohort()
    hospital.admissions = []
    for minute in range(120):
        hospital.image(10000001, "2150-03-02 09:30:12")
        hospital.images[-1]["StudyTime"] = str(1000 + minute % 60)
    hospital.images[0]["StudyTime"] = "1100"
    with pytest.raises(
        InputError, match=r"expected StudyTime as HHMMSS in .*metadata.csv.gz, found only times before 00:24"
    ):
        hospital.cohort()


def test_half_the_labels_are_noticed(hospital):
    for day in range(1, 9):
        hospital.image(10000001, f"2150-03-0{day} 00:00:00")
    labels = [{"study_id": each["study_id"], "Edema": "1.0"} for each in hospital.images]
    assert not hospital.cohort(labels=labels).warnings
    cohort = hospital.cohort(labels=labels[:4])
    assert "4 of 8 studies, with 4 images, are not in mimic-cxr-2.0.0-chexpert.csv" in describe(cohort)
    assert [each.images for each in flow_of(cohort).cautions if each.of == "labels"] == [4]
    with pytest.raises(InputError, match=r"expected the images' studies in .*chexpert.csv, found none of 8"):
        hospital.cohort(labels=[{"study_id": 1, "Edema": "1.0"}])


def test_half_a_split_csv_is_noticed(hospital):
    for day in range(1, 9):
        hospital.image(10000000 + day, f"2150-03-0{day} 00:00:00")
    split = [each | {"split": " Train"} for each in hospital.images]
    assert not hospital.cohort(split=split).warnings
    cohort = hospital.cohort(split=split[:5])
    assert cohort.table["split"].to_pylist() == ["train"] * 5
    assert (
        "warning: split: 3 of 8 images are not among the 5 of mimic-cxr-2.0.0-split.csv and were excluded"
        in describe(cohort)
    )


@pytest.mark.parametrize("name", ["patients", "admissions", "icustays", "metadata", "chexpert"])
def test_a_header_alone_is_refused(name, hospital):
    hospital.image(10000001, "2150-03-02 09:30:12")
    hospital.cohort()
    file = next(file for file in hospital.root.parent.rglob(f"*{name}.csv*"))
    write_rows(file, list(rows_of(file)[0]), [])
    with pytest.raises(
        InputError, match=rf"expected rows in .*{name}.csv.*, found only a header; download the file again"
    ):
        mimic_cohort(str(hospital.root), hospital.cxr)


def test_the_published_rule_keeps_a_view_that_is_not_said(hospital):
    for view in ("", "nan", "N/A", "LPO", "pa"):
        hospital.image(10000001, "2150-03-02 09:30:12", view=view)
    cohort = hospital.cohort("published")
    assert cohort.table["ehr.view"].to_pylist() == [None, None, None, "PA"]
