"""The open MIMIC-IV demo, image metadata made for it, and two fixtures: a hospital with vital signs, and its images."""

import csv
import gzip
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chartray.records.catalogue import CATALOGUE
from chartray.records.cohort import Cohort

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DEMO = SHARED / "mimic-iv-demo"
needs_demo = pytest.mark.skipif(not DEMO.exists(), reason="the MIMIC-IV demo tables are not in ../shared/data")

POSITION = "PatientOrientationCodeSequence_CodeMeaning"
METADATA = ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime", POSITION]
HOUR = timedelta(hours=1)
VITALS = {
    220045: ("bpm", 40, 160),
    220210: ("insp/min", 8, 40),
    220277: ("%", 70, 104),
    220179: ("mmHg", 60, 220),
    220050: ("mmHg", 60, 220),
    220180: ("mmHg", 30, 120),
    220051: ("mmHg", 30, 120),
    223761: ("°F", 92, 106),
    223762: ("°C", 33, 42),
}
CHARTED = ["subject_id", "hadm_id", "stay_id", "charttime", "storetime", "itemid", "value", "valuenum", "valueuom"]


def rows_of(file):
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
        return list(csv.DictReader(stream))


def write_rows(file, columns, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", newline="") if file.suffix == ".gz" else file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def when(text):
    return datetime.fromisoformat(text) if text else None


def image(number, subject, at, view="AP", position="Erect"):
    clock = int(at.strftime("%H%M%S")) + at.microsecond / 1e6
    return {
        "dicom_id": f"d{number:06d}",
        "subject_id": subject,
        "study_id": 50_000_000 + number,
        "ViewPosition": view,
        "StudyDate": at.strftime("%Y%m%d"),
        "StudyTime": f"{clock:g}" if clock else "0",
        POSITION: position,
    }


def write_cxr(root, images, labels=None, split=None):
    write_rows(root / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA, images)
    labels = labels or [{"study_id": each["study_id"], "Edema": "1.0"} for each in images]
    write_rows(root / "mimic-cxr-2.0.0-chexpert.csv", ["subject_id", *labels[0]], labels)
    if split:
        write_rows(root / "mimic-cxr-2.0.0-split.csv", ["dicom_id", "study_id", "subject_id", "split"], split)
    return root


def image_time(each):
    clock, _, fraction = each["StudyTime"].partition(".")
    whole = datetime.strptime(each["StudyDate"] + clock.zfill(6), "%Y%m%d%H%M%S")
    return whole + timedelta(seconds=float(f"0.{fraction or 0}"))


def cells(cohort: Cohort, name: str) -> dict[str, Any]:
    """A chart variable's value by image."""
    return dict(zip(cohort.table["image_id"].to_pylist(), cohort.table[f"ehr.{name}"].to_pylist(), strict=True))


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MIMIC-IV demo with the table of vital signs that its open edition lacks, of the same columns."""
    root = tmp_path_factory.mktemp("hospital")
    for name in ("hosp", "icu"):
        (root / name).mkdir()
        for file in (DEMO / name).iterdir():
            (root / name / file.name).symlink_to(file)
    draw = random.Random(3)
    charted = []
    for stay in rows_of(DEMO / "icu" / "icustays.csv.gz"):
        begins = when(stay["intime"])
        for _ in range(60):
            item = draw.choice(list(VITALS))
            unit, low, high = VITALS[item]
            at = begins + timedelta(minutes=draw.randrange(0, 4000, 30))
            stored = "" if draw.random() < 0.05 else at + timedelta(minutes=draw.choice((0, 7, 45, 600)))
            value = "" if draw.random() < 0.05 else draw.randint(low, high)
            unit = draw.choice((unit, unit, unit, "", "furlongs")) if draw.random() < 0.2 else unit
            charted.append(
                stay
                | {"charttime": at, "storetime": stored, "itemid": item, "value": value, "valuenum": value}
                | {"valueuom": unit}
            )
    write_rows(root / "icu" / "chartevents.csv.gz", CHARTED, charted)
    return root


def images_near(values: Iterable[dict[str, Any]], count: int = 500) -> list[dict[str, Any]]:
    """Images at, shortly before and hours after times at which values were drawn or stored, and of a stranger."""
    draw = random.Random(5)
    moments = []
    for row in values:
        at = draw.choice([row["charttime"], row["storetime"] or row["charttime"]])
        shift = draw.choice(
            [timedelta(0), timedelta(seconds=-1), draw.uniform(0, 100) * HOUR, draw.uniform(0, 9) * HOUR]
        )
        moments.append((row["subject_id"], (when(str(at)) + shift).replace(microsecond=0)))
    chosen = [*draw.sample(moments, count), ("19999000", datetime(2150, 1, 1, 0, 0, 7))]
    return [image(number, subject, at) for number, (subject, at) in enumerate(chosen)]


@pytest.fixture(scope="session")
def images(hospital: Path) -> list[dict[str, Any]]:
    """Images near the laboratory and vital values of `hospital`."""
    known = {str(item) for entry in CATALOGUE.values() for item in entry.items}
    drawn = [row for row in rows_of(hospital / "hosp" / "labevents.csv.gz") if row["itemid"] in known]
    return images_near(drawn) + [
        each | {"dicom_id": f"v{number}", "study_id": 60_000_000 + number}
        for number, each in enumerate(images_near(rows_of(hospital / "icu" / "chartevents.csv.gz")))
    ]
