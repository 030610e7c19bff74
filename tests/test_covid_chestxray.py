"""A messy chart of real images, covid-chestxray: every cell of its cohort against a plain loop over the csv."""

import csv
import hashlib
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from chartray.records.cohort import describe, flow_of
from chartray.records.table import table_cohort

DATA = (Path(__file__).parents[2] / "shared" / "data" / "covid-chestxray-cc-224px").resolve()
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "covid-chestxray.yaml"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the images of covid-chestxray are not in ../shared/data")

NUMBERS = {
    "age": ("age", 0, 110),
    "day_of_illness": ("offset", -365, 365),
    "temperature": ("temperature", 30, 45),
    "saturation": ("pO2_saturation", 0, 100),
    "lymphocytes": ("lymphocyte_count", 0, 100),
}
TRUTHS = {
    "went_icu": "went_icu",
    "in_icu": "in_icu",
    "intubated": "intubated",
    "tube_in_place": "intubation_present",
    "oxygen": "needed_supplemental_O2",
}
WORDS = {"sex": {"M": "male", "F": "female"}, "view": {"PA": "PA", "AP": "AP", "AP Supine": "AP"}}
OTHER = ["No Finding", "Streptococcus", "Pneumocystis", "Klebsiella", "E.Coli", "Varicella", "Legionella"]
OTHER += ["Chlamydophila", "Bacterial", "ARDS"]


@pytest.fixture(scope="module")
def cohort():
    return table_cohort(DATA / "metadata.csv", EXAMPLE, DATA / "images")


@pytest.fixture(scope="module")
def images():
    with (DATA / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(cell, low, high):
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if low <= value <= high else None


def day(cell):
    for form in ("%B %d, %Y", "%b %d, %Y"):
        try:
            return datetime.strptime(cell, form)
        except ValueError:
            pass
    return None


def split(patient):
    drawn = int.from_bytes(hashlib.blake2b(f"chartray-split-1/{patient}".encode(), digest_size=8).digest()) / 2**64
    return "train" if drawn < 0.5 else "validate" if drawn < 0.7 else "test"


def expected(image):
    row = {
        "image_id": image["file"],
        "patient_id": image["patientid"],
        "study_id": None,
        "taken_at": day(image["date"]),
        "path": str(DATA / "images" / image["file"]),
        "split": split(image["patientid"]),
        "label.COVID-19": {"COVID-19": 1.0, "COVID-19, ARDS": 1.0, **dict.fromkeys(OTHER, 0.0)}.get(image["finding"]),
        "label.Died": {"N": 1.0, "Y": 0.0}.get(image["survival"]),
    }
    row |= {f"ehr.{name}": number(image[column], low, high) for name, (column, low, high) in NUMBERS.items()}
    row |= {f"ehr.{name}": {"Y": True, "N": False}.get(image[column]) for name, column in TRUTHS.items()}
    return row | {f"ehr.{name}": levels.get(image[name]) for name, levels in WORDS.items()}


def test_every_cell_equals_a_plain_loop(cohort, images):
    rows = cohort.table.to_pylist()
    assert len(rows) == len(images) == 198
    for row, image in zip(rows, images, strict=True):
        assert {name: cell for name, cell in row.items() if not name.startswith("blank.")} == expected(image)


def test_what_could_not_be_used_is_counted_cell_by_cell(cohort, images):
    for name, column in TRUTHS.items():
        lost = Counter(image[column] or "absent" for image in images if image[column] not in ("Y", "N"))
        assert cohort.missing[name] == lost
    for name, (column, low, high) in NUMBERS.items():
        lost = Counter(image[column] or "absent" for image in images if number(image[column], low, high) is None)
        assert cohort.missing[name] == lost
    dates = Counter("(unreadable)" if image["date"] else "absent" for image in images if day(image["date"]) is None)
    assert cohort.missing["taken_at"] == dates
    assert cohort.missing["label.Died"] == {"?": 1, "absent": 137}
    assert cohort.missing["label.COVID-19"]["todo"] == sum(image["finding"] == "todo" for image in images)


def test_no_patient_is_in_two_splits_and_no_date_is_told(cohort, images):
    patients = {}
    for row in cohort.table.to_pylist():
        patients.setdefault(row["patient_id"], set()).add(row["split"])
    assert {len(splits) for splits in patients.values()} == {1}
    assert len(patients) == len({image["patientid"] for image in images})
    said = describe(cohort) + str(flow_of(cohort))
    for image in images:
        assert image["file"] not in said
        assert len(image["date"]) < 6 or image["date"] not in said
