"""Time and memory of `chartray cohort mimic` on tables as large as the real ones, with random content.

    python bench/full_size_cohort.py [--rules strict|published] [--gzip] [--keep FOLDER]

377,110 films of 65,379 patients in 227,835 studies (MIMIC-CXR-JPG 2.0.0) against 382,278 patients, 523,740
admissions and 76,540 ICU stays (MIMIC-IV 1.0). Nothing of the content is real; only the sizes are.
"""

import argparse
import gzip
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from chartray.schema import CHEXPERT_LABELS

FILMS, CXR_PATIENTS, STUDIES = 377_110, 65_379, 227_835
PATIENTS, ADMISSIONS, ICU_STAYS = 382_278, 523_740, 76_540
_HOUR = np.timedelta64(3600, "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", default="strict", choices=("strict", "published"))
    parser.add_argument("--gzip", action="store_true", help="tables as csv.gz, as PhysioNet has them")
    parser.add_argument("--keep", type=Path, help="write the tables here and leave them")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="chartray-full-size-"))
    try:
        write_tables(folder, gzipped=options.gzip)
        measure(folder, options.rules)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def write_tables(folder: Path, *, gzipped: bool) -> None:
    rng = np.random.default_rng(0)
    subjects = 10_000_000 + rng.choice(9_999_999, PATIENTS, replace=False)
    start = np.datetime64("2110-01-01T00:00:00")
    days = rng.integers(0, 365 * 90, ADMISSIONS)
    admitted = start + days * 24 * _HOUR + rng.integers(0, 86_400, ADMISSIONS) * np.timedelta64(1, "s")
    owner = rng.integers(0, PATIENTS, ADMISSIONS)
    stayed = (rng.exponential(110, ADMISSIONS) * 3600).astype(int) * np.timedelta64(1, "s")
    hosp, icu, cxr = folder / "mimic-iv" / "hosp", folder / "mimic-iv" / "icu", folder / "mimic-cxr-jpg"
    registered = _texts(admitted - rng.integers(0, 20, ADMISSIONS) * _HOUR)
    write(
        hosp / "patients",
        gzipped,
        subject_id=subjects,
        gender=rng.choice(["M", "F"], PATIENTS),
        anchor_age=rng.integers(18, 92, PATIENTS),
        anchor_year=rng.integers(2110, 2200, PATIENTS),
        anchor_year_group=rng.choice(["2008 - 2010", "2011 - 2013"], PATIENTS),
        dod=np.full(PATIENTS, ""),
    )
    write(
        hosp / "admissions",
        gzipped,
        subject_id=subjects[owner],
        hadm_id=20_000_000 + np.arange(ADMISSIONS),
        admittime=_texts(admitted),
        dischtime=_texts(admitted + stayed),
        deathtime=np.full(ADMISSIONS, ""),
        admission_type=np.full(ADMISSIONS, "EW EMER."),
        race=np.full(ADMISSIONS, "WHITE"),
        edregtime=np.where(rng.random(ADMISSIONS) < 0.66, registered, ""),
        hospital_expire_flag=(rng.random(ADMISSIONS) < 0.02).astype(int),
    )
    chosen = rng.choice(ADMISSIONS, ICU_STAYS, replace=False)
    write(
        icu / "icustays",
        gzipped,
        subject_id=subjects[owner[chosen]],
        hadm_id=20_000_000 + chosen,
        stay_id=30_000_000 + np.arange(ICU_STAYS),
        first_careunit=np.full(ICU_STAYS, "Medical Intensive Care Unit (MICU)"),
        intime=_texts(admitted[chosen]),
        outtime=_texts(admitted[chosen] + stayed[chosen] // 2),
        los=rng.random(ICU_STAYS),
    )
    _write_films(cxr, gzipped, rng, subjects, owner, admitted)


def _write_films(cxr, gzipped, rng, subjects, owner, admitted) -> None:
    """Seven films in ten lie in a real admission of their patient, the others before or after one, or have none."""
    of_study = np.sort(rng.integers(0, STUDIES, FILMS))
    patient_of_study = rng.choice(PATIENTS, CXR_PATIENTS, replace=False)[rng.integers(0, CXR_PATIENTS, STUDIES)]
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], patient_of_study)
    last = np.searchsorted(owner[order], patient_of_study, side="right")
    has = last > first
    pick = order[np.minimum(first + (rng.random(STUDIES) * (last - first)).astype(int), ADMISSIONS - 1)]
    at = np.where(has, admitted[pick], np.datetime64("2150-06-01T12:00:00"))
    at = at + (rng.normal(24, 36, STUDIES) * 3600).astype(int) * np.timedelta64(1, "s")
    text = _texts(at[of_study])
    date = np.char.replace(text.astype("U10"), "-", "")
    clock = np.char.replace(np.array([each[11:19] for each in text]), ":", "").astype(float) + 0.125
    dicom = np.array([f"{value:08x}-{row:08x}" for row, value in enumerate(rng.integers(0, 2**32, FILMS))])
    subject, study = subjects[patient_of_study][of_study], 50_000_000 + of_study
    view = rng.choice(["PA", "AP", "LATERAL", "LL", "", "LPO"], FILMS, p=[0.255, 0.39, 0.22, 0.093, 0.0415, 0.0005])
    write(
        cxr / "mimic-cxr-2.0.0-metadata",
        gzipped,
        dicom_id=dicom,
        subject_id=subject,
        study_id=study,
        PerformedProcedureStepDescription=np.full(FILMS, "CHEST (PORTABLE AP)"),
        ViewPosition=view,
        Rows=np.full(FILMS, 3056),
        Columns=np.full(FILMS, 2544),
        StudyDate=date,
        StudyTime=clock,
        ProcedureCodeSequence_CodeMeaning=np.full(FILMS, "CHEST (PORTABLE AP)"),
        ViewCodeSequence_CodeMeaning=np.full(FILMS, "antero-posterior"),
        PatientOrientationCodeSequence_CodeMeaning=rng.choice(["Erect", "Recumbent", ""], FILMS, p=[0.8, 0.09, 0.11]),
    )
    split = np.where(subject % 100 == 0, "validate", np.where(subject % 100 == 1, "test", "train"))
    write(cxr / "mimic-cxr-2.0.0-split", gzipped, dicom_id=dicom, study_id=study, subject_id=subject, split=split)
    cells = {
        name: rng.choice(["1.0", "0.0", "-1.0", ""], STUDIES, p=[0.1, 0.1, 0.05, 0.75]) for name in CHEXPERT_LABELS
    }
    own = {"subject_id": subjects[patient_of_study], "study_id": 50_000_000 + np.arange(STUDIES)}
    write(cxr / "mimic-cxr-2.0.0-chexpert", gzipped, **own, **cells)


def _texts(times) -> np.ndarray:
    return np.char.replace(np.datetime_as_string(times, unit="s"), "T", " ")


def write(stem: Path, gzipped: bool, **columns) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_name(f"{stem.name}.csv{'.gz' if gzipped else ''}")
    with gzip.open(file, "wb", compresslevel=1) if gzipped else file.open("wb") as stream:
        stream.write((",".join(columns) + "\n").encode())
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        csv.write_csv(table, stream, csv.WriteOptions(include_header=False, quoting_style="needed"))


def measure(folder: Path, rules: str) -> None:
    """Runs the command in a process of its own; its peak memory is the children's."""
    out = folder / "cohort.parquet"
    command = [
        str(Path(sys.executable).with_name("chartray")),
        "cohort",
        "mimic",
        "--mimic-iv",
        str(folder / "mimic-iv"),
    ]
    command += ["--mimic-cxr", str(folder / "mimic-cxr-jpg"), "--out", str(out), "--rules", rules]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    gigabytes, processor = used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime
    print(
        f"{FILMS} films, {rules} rules: {seconds:.1f} s ({processor:.1f} s of processor time), peak {gigabytes:.2f} GB"
        f", {out.stat().st_size / 2**20:.0f} MB written"
    )


if __name__ == "__main__":
    main()
