"""The mappings of public data sets, each on a tiny copy of the published layout with the columns that it has."""

import csv
from pathlib import Path
from typing import Any

import pytest

from chartray.records.cohort import Cohort, describe
from chartray.records.dicom import dicom_cohort
from chartray.records.table import table_cohort
from tests.test_records_dicom import film

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PADCHEST = [
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Pediatric",
    "Modality_DICOM",
    "Manufacturer_DICOM",
    "ReportID",
    "Report",
    "MethodLabel",
    "Labels",
    "Localizations",
]
CHEXPERT = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
BRAX = [
    *("DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber", "StudyDate", *CHEXPERT),
    *("ViewPosition", "Rows", "Columns", "Manufacturer"),
]
VINDR = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
]


def write(file: Path, names: list[str], rows: list[dict[str, Any]], *, delimiter: str = ",") -> Path:
    """With the column without a name that pandas writes first, as PadChest and BRAX have it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        table = csv.DictWriter(stream, names, restval="", delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return file


def of(cohort: Cohort, column: str) -> dict[str, Any]:
    """The column by image."""
    return dict(zip(cohort.table["image_id"].to_pylist(), cohort.table[column].to_pylist(), strict=True))


def test_padchest(tmp_path: Path) -> None:
    cells = {
        "a.png": ("PA", "['cardiomegaly', 'pleural effusion']"),
        "b.png": ("AP_horizontal", "['normal']"),
        "c.png": ("L", "['pneumonia']"),
        "d.png": ("PA", "['unchanged']"),
        "e.png": ("PA", "['pneumonia', 'unchanged']"),
        "f.png": ("PA", ""),
        "g.png": ("EXCLUDE", "['exclude']"),
        "h.png": ("AP", "['laminar atelectasis', ' pulmonary edema']"),
    }
    rows = [
        {"": place, "ImageID": name, "ImageDir": 7, "StudyDate_DICOM": "20140915", "StudyID": f"s{name}",
         "PatientID": name, "PatientBirth": "1930.0", "PatientSex_DICOM": "F", "Projection": view, "Labels": labels}
        for place, (name, (view, labels)) in enumerate(cells.items())
    ]  # fmt: skip
    table = write(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", ["", *PADCHEST], rows)
    cohort = table_cohort(table, EXAMPLES / "padchest.yaml", tmp_path)
    assert of(cohort, "path")["a.png"] == f"{tmp_path}/7/a.png"
    assert of(cohort, "ehr.birth_year")["a.png"] == 1930
    assert of(cohort, "ehr.view") == {
        "a.png": "PA",
        "b.png": "AP",
        "d.png": "PA",
        "e.png": "PA",
        "f.png": "PA",
        "h.png": "AP",
    }
    assert "Projection is 'PA', 'AP', 'AP_horizontal': 8 -> 6 (EXCLUDE 1, L 1)" in describe(cohort)
    unsaid = {"d.png": None, "f.png": None}
    others = {"a.png": 0, "b.png": 0, "e.png": None, "h.png": 0}
    assert of(cohort, "label.Cardiomegaly") == others | unsaid | {"a.png": 1}
    assert of(cohort, "label.Pneumonia") == others | unsaid | {"e.png": 1}
    assert of(cohort, "label.Atelectasis") == of(cohort, "label.Edema") == others | unsaid | {"h.png": 1}
    assert cohort.warnings == []


def test_vindr_cxr(tmp_path: Path) -> None:
    root = tmp_path / "1.0.0"
    votes: dict[str, list[int]] = {}
    for place in range(30):
        film(root, f"train/{place:032x}.dicom", PatientID=None, Modality=None, SOPClassUID=None, SOPInstanceUID=None,
             StudyInstanceUID=None, BodyPartExamined=None, ViewPosition=None, PatientSex="M",
             PatientAge="061Y")  # fmt: skip
        votes[f"{place:032x}"] = [place % 2, place % 3 % 2, place % 5 % 2]
    film(root, f"test/{99:032x}.dicom", PatientID=None, StudyInstanceUID=None, BodyPartExamined=None)
    train = [
        {"image_id": image, "rad_id": f"R{at}", "Pleural effusion": vote}
        | dict.fromkeys([*VINDR[:16], "No finding"], 0)
        for image, each in votes.items()
        for at, vote in enumerate(each)
    ]
    test = [{"image_id": f"{99:032x}", "Pleural effusion": "1.0"}]
    charts = [
        write(
            root / "annotations" / "image_labels_train.csv",
            ["image_id", "rad_id", *VINDR, "Other diseases", "No finding"],
            train,
        ),
        write(
            root / "annotations" / "image_labels_test.csv", ["image_id", *VINDR, "Other disease", "No finding"], test
        ),
    ]
    cohort = dicom_cohort(root, EXAMPLES / "vindr-cxr.yaml", [str(chart) for chart in charts])
    expected = {image: float(sum(each) >= 2) for image, each in votes.items()} | {f"{99:032x}": 1.0}
    assert of(cohort, "label.Pleural Effusion") == expected
    split = of(cohort, "split")
    assert split.pop(f"{99:032x}") == "test"
    assert set(split.values()) == {"train", "validate"}
    assert set(of(cohort, "ehr.age").values()) == {61.0, None}


def test_brax(tmp_path: Path) -> None:
    cells = [("PA", "45", ""), ("L", "50", "1.0"), ("AP", "85 or more", "-1.0"), ("", "1", "")]
    rows = [
        {"PngPath": f"images/id_{place}/Study_{place}/Series_1/image-{place}.png", "PatientID": f"id_{place}",
         "PatientSex": "F", "PatientAge": age, "StudyDate": "20080714", "ViewPosition": view, "No Finding": 1,
         "Pneumonia": cell}
        for place, (view, age, cell) in enumerate(cells)
    ]  # fmt: skip
    table = write(tmp_path / "master_spreadsheet_update.csv", ["", *BRAX], rows)
    cohort = table_cohort(table, EXAMPLES / "brax.yaml", tmp_path)
    assert cohort.table["path"].to_pylist() == [f"{tmp_path}/{row['PngPath']}" for row in (rows[0], rows[2])]
    assert cohort.table["ehr.age"].to_pylist() == [45.0, None]
    assert cohort.table["label.Pneumonia"].to_pylist() == [0.0, -1.0]
    assert set(cohort.metadata.labels) == set(CHEXPERT)
    assert "ViewPosition is 'PA', 'AP': 4 -> 2 (L 1, blank 1)" in describe(cohort)


def test_rsna_pneumonia(tmp_path: Path) -> None:
    folder = tmp_path / "stage_2_train_images"
    ids = [f"0004cfab-14fd-4e49-80ba-63a80b6bddd{place}" for place in range(4)]
    for name in ids:
        film(folder, f"{name}.dcm", PatientID=name, Modality="CR", StudyDate="19010101", StudyTime="000000.00",
             PatientAge="51", PatientSex="F", ViewPosition="AP", SeriesDescription="view: AP")  # fmt: skip
    boxes = [(ids[0], 0), (ids[1], 1), (ids[1], 1), (ids[2], 0)]
    rows = [{"patientId": name, "x": place, "Target": target} for place, (name, target) in enumerate(boxes)]
    labels = write(tmp_path / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], rows)
    cohort = dicom_cohort(folder, EXAMPLES / "rsna-pneumonia.yaml", [str(labels)])
    by_patient = dict(zip(cohort.table["patient_id"].to_pylist(), cohort.table.to_pylist(), strict=True))
    assert [by_patient[name]["label.Pneumonia"] for name in ids] == [0.0, 1.0, 0.0, None]
    assert {(row["ehr.age"], row["ehr.sex"], row["ehr.view"], row["taken_at"]) for row in by_patient.values()} == {
        (51.0, "female", "AP", None)
    }
    assert "3 of 4 have a row in" in describe(cohort)


def test_midrc(tmp_path: Path) -> None:
    for place, tags in enumerate(({"PatientSex": ""}, {"Modality": "CT"}, {"Modality": "CR", "PatientAge": "071Y"})):
        film(tmp_path / "midrc", f"case/{place}/{place}.dcm", PatientID=f"10000{place}-abc", **tags)
    names = ["submitter_id", "sex", "race", "age_at_index", "icu_indicator", "covid19_positive"]
    rows = [
        dict(zip(names, (f"10000{place}-abc", "Female", "White", 70, "No", "Yes"), strict=True)) for place in range(3)
    ]
    case = write(tmp_path / "case.tsv", ["type", *names], rows, delimiter="\t")
    cohort = dicom_cohort(tmp_path / "midrc", EXAMPLES / "midrc.yaml", [str(case)])
    assert cohort.table["ehr.sex"].to_pylist() == ["female"] * 2
    assert cohort.table["ehr.age"].to_pylist() == [None, 71.0]
    assert cohort.table["ehr.icu"].to_pylist() == [False] * 2
    assert cohort.table["label.COVID-19"].to_pylist() == [1.0] * 2
    assert not cohort.metadata.variables["icu"].known_at_film


@pytest.mark.parametrize("name", ["padchest", "vindr-cxr", "brax", "rsna-pneumonia", "midrc"])
def test_each_says_its_command(name: str) -> None:
    assert f"--mapping {name}.yaml" in (EXAMPLES / f"{name}.yaml").read_text()
