"""MIMIC-IV and MIMIC-CXR tables as large as the real ones, or many times as large, with random content.

377,110 images of 65,379 patients in 227,835 studies (MIMIC-CXR-JPG 2.0.0) against 382,278 patients, 523,740 admissions
and 76,540 ICU stays (MIMIC-IV 1.0). Nothing of the content is real; only the sizes are.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from chartray.csv_cells import harmless_columns
from chartray.schema import CHEXPERT_LABELS

_SECOND, _HOUR = np.timedelta64(1, "s"), np.timedelta64(3600, "s")
_BLOCK = 1 << 18


class Sizes(NamedTuple):
    """How many rows each table has; `scaled` keeps their proportions."""

    films: int = 377_110
    film_patients: int = 65_379
    studies: int = 227_835
    patients: int = 382_278
    admissions: int = 523_740
    icu_stays: int = 76_540

    def scaled(self, films: int) -> "Sizes":
        """Tables for so many images.

        >>> Sizes().scaled(37_711).admissions
        52374
        """
        return Sizes(*(max(8, round(rows * films / self.films)) for rows in self))


class _Admissions(NamedTuple):
    """What the images' times follow: the patients' ids, whose each admission is, and when it began."""

    subjects: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    admitted: npt.NDArray[np.datetime64]


def write_tables(folder: Path, sizes: Sizes) -> int:
    """Writes `mimic-iv/` and `mimic-cxr-jpg/` as csv below `folder`; returns their bytes."""
    rng = np.random.default_rng(0)
    admissions = _write_hospital(folder / "mimic-iv", sizes, rng)
    _write_films(folder / "mimic-cxr-jpg", sizes, rng, admissions)
    return sum(file.stat().st_size for file in folder.rglob("*.csv"))


def _write_hospital(root: Path, sizes: Sizes, rng: np.random.Generator) -> _Admissions:
    # Ids of eight digits while there are few enough of them, in no order.
    subjects = 10_000_000 + rng.permutation(max(9_999_999, 2 * sizes.patients))[: sizes.patients]
    rows = sizes.admissions
    days = rng.integers(0, 365 * 90, rows)
    admitted = np.datetime64("2110-01-01T00:00:00") + days * 24 * _HOUR + rng.integers(0, 86_400, rows) * _SECOND
    owner = rng.integers(0, sizes.patients, rows)
    stayed = (rng.exponential(110, rows) * 3600).astype(int) * _SECOND
    _write(
        root / "hosp" / "patients.csv",
        subject_id=subjects,
        gender=rng.choice(["M", "F"], sizes.patients),
        anchor_age=rng.integers(18, 92, sizes.patients),
        anchor_year=rng.integers(2110, 2200, sizes.patients),
        anchor_year_group=rng.choice(["2008 - 2010", "2011 - 2013"], sizes.patients),
        dod=np.full(sizes.patients, ""),
    )
    registered = pa.array(admitted - rng.integers(0, 20, rows) * _HOUR, mask=rng.random(rows) >= 0.66)
    _write(
        root / "hosp" / "admissions.csv",
        subject_id=subjects[owner],
        hadm_id=20_000_000 + np.arange(rows),
        admittime=admitted,
        dischtime=admitted + stayed,
        deathtime=np.full(rows, ""),
        admission_type=np.full(rows, "EW EMER."),
        race=np.full(rows, "WHITE"),
        edregtime=registered,
        hospital_expire_flag=(rng.random(rows) < 0.05).astype(int),
    )
    chosen = rng.permutation(rows)[: sizes.icu_stays]
    _write(
        root / "icu" / "icustays.csv",
        subject_id=subjects[owner[chosen]],
        hadm_id=20_000_000 + chosen,
        stay_id=30_000_000 + np.arange(len(chosen)),
        first_careunit=np.full(len(chosen), "Medical Intensive Care Unit (MICU)"),
        intime=admitted[chosen],
        outtime=admitted[chosen] + stayed[chosen] // 2,
        los=rng.random(len(chosen)),
    )
    return _Admissions(subjects, owner, admitted)


def _write_films(root: Path, sizes: Sizes, rng: np.random.Generator, admissions: _Admissions) -> None:
    rows, studies = sizes.films, sizes.studies
    of_study = np.sort(rng.integers(0, studies, rows))
    patients = rng.permutation(sizes.patients)[: sizes.film_patients]
    # By patient, as the published files are.
    patients = patients[np.argsort(admissions.subjects[patients])]
    patient_of_study = patients[np.sort(rng.integers(0, len(patients), studies))]
    at = _film_times(patient_of_study, admissions, rng)[of_study]
    dates, times = at.astype("datetime64[D]"), (at - at.astype("datetime64[D]")) // _SECOND
    months = dates.astype("datetime64[M]")
    of_month, month = (dates - months).astype(int) + 1, months.astype(int)
    date = (month // 12 + 1970) * 10_000 + (month % 12 + 1) * 100 + of_month
    clock = times // 3600 * 10_000 + times // 60 % 60 * 100 + times % 60 + 0.125
    dicom = film_names(rows, rng)
    subject, study = admissions.subjects[patient_of_study][of_study], 50_000_000 + of_study
    view = rng.choice(["PA", "AP", "LATERAL", "LL", "", "LPO"], rows, p=[0.255, 0.39, 0.22, 0.093, 0.0415, 0.0005])
    _write(
        root / "mimic-cxr-2.0.0-metadata.csv",
        dicom_id=dicom,
        subject_id=subject,
        study_id=study,
        PerformedProcedureStepDescription=np.full(rows, "CHEST (PORTABLE AP)"),
        ViewPosition=view,
        Rows=np.full(rows, 3056),
        Columns=np.full(rows, 2544),
        StudyDate=date,
        StudyTime=clock,
        ProcedureCodeSequence_CodeMeaning=np.full(rows, "CHEST (PORTABLE AP)"),
        ViewCodeSequence_CodeMeaning=np.full(rows, "antero-posterior"),
        PatientOrientationCodeSequence_CodeMeaning=rng.choice(["Erect", "Recumbent", ""], rows, p=[0.8, 0.09, 0.11]),
    )
    split = np.where(subject % 100 == 0, "validate", np.where(subject % 100 == 1, "test", "train"))
    _write(root / "mimic-cxr-2.0.0-split.csv", dicom_id=dicom, study_id=study, subject_id=subject, split=split)
    cells = {
        name: rng.choice(["1.0", "0.0", "-1.0", ""], studies, p=[0.1, 0.1, 0.05, 0.75]) for name in CHEXPERT_LABELS
    }
    own = {"subject_id": admissions.subjects[patient_of_study], "study_id": 50_000_000 + np.arange(studies)}
    _write(root / "mimic-cxr-2.0.0-chexpert.csv", **own, **cells)


def _film_times(
    patient_of_study: npt.NDArray[np.int64], admissions: _Admissions, rng: np.random.Generator
) -> npt.NDArray[np.datetime64]:
    """When each study was taken: most lie in a real admission of their patient, the others beside one, or have none."""
    order = np.argsort(admissions.owner, kind="stable")
    first = np.searchsorted(admissions.owner, patient_of_study, sorter=order)
    last = np.searchsorted(admissions.owner, patient_of_study, side="right", sorter=order)
    picked = first + (rng.random(len(first)) * (last - first)).astype(int)
    within = admissions.admitted[order[np.minimum(picked, len(order) - 1)]]
    at = np.where(last > first, within, np.datetime64("2150-06-01T12:00:00"))
    later = (rng.normal(24, 36, len(at)) * 3600).astype(int) * _SECOND
    return np.asarray(at + later, dtype="datetime64[s]")


def film_names(films: int, rng: np.random.Generator) -> pa.Array:
    """Names as MIMIC-CXR's: five groups of eight hexadecimal digits, 44 characters, each image another.

    >>> film_names(2, np.random.default_rng(0)).to_pylist()[1][:9]
    '00000001-'
    """
    hexadecimal = np.frombuffer(b"0123456789abcdef", np.uint8)
    digits = hexadecimal[rng.integers(0, 16, (films, 5, 8), dtype=np.uint8)]
    # The first group counts, so that no two are alike.
    digits[:, 0] = hexadecimal[np.arange(films)[:, None] >> np.arange(28, -4, -4) & 15]
    text = np.full((films, 5, 9), ord("-"), np.uint8)
    text[:, :, :8] = digits
    content = np.ascontiguousarray(text.reshape(films, 45)[:, :44])
    offsets = np.arange(films + 1, dtype=np.int64) * 44
    return pa.LargeStringArray.from_buffers(films, pa.py_buffer(offsets), pa.py_buffer(content))


def _write(file: Path, **columns: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    # As PhysioNet's: nothing is quoted, what is missing is nothing. No text here holds a comma.
    options = csv.WriteOptions(quoting_style="none", quoting_header="none", batch_size=_BLOCK)
    csv.write_csv(harmless_columns(table), file, options)
