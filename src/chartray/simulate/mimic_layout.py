"""The simulated hospital as MIMIC-IV and MIMIC-CXR-JPG folders."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.schema import CHEXPERT_LABELS
from chartray.simulate import labels
from chartray.simulate.course import Course, Stay, course, radiographs
from chartray.simulate.population import years
from chartray.simulate.radiograph import Radiograph, shape
from chartray.simulate.tables import Row, write_csv

# Release -> the folder of patients and admissions, and the column of race.
CORE = {"1.0": ("core", "ethnicity"), "2.2": ("hosp", "race"), "3.1": ("hosp", "race")}
DATA_SET = 1
_RACES = ("WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO", "ASIAN", "OTHER", "UNKNOWN")
_UNITS = ("Medical Intensive Care Unit (MICU)", "Surgical Intensive Care Unit (SICU)", "Coronary Care Unit (CCU)")
# itemid: label, unit, mean and spread of the logarithm, cause, strength for one standard deviation of the cause.
LABS = {
    50963: ("NTproBNP", "pg/mL", 6.5, 1.0, "heart_failure", 0.8),
    51301: ("White Blood Cells", "K/uL", 2.2, 0.3, "infection", 0.25),
    50912: ("Creatinine", "mg/dL", 0.0, 0.35, "severity", 0.20),
    50813: ("Lactate", "mmol/L", 0.4, 0.35, "severity", 0.25),
}


class Mimic(NamedTuple):
    """The drawn hospital: the patients' course, and the study, id and path of each image."""

    course: Course
    images: list[Radiograph]
    study_of_image: list[int]
    study_ids: list[int]
    subject_ids: list[int]
    dicom_ids: list[str]
    recorded: list[bool]
    splits: list[str]


def draw(
    patients: int, seed: int, *, chart_effect: float = 1.0, planted_effect: float | None = None, size: int = 512
) -> Mimic:
    """Draws the MIMIC-like hospital without writing it; a pure function."""
    rng = np.random.default_rng((seed, DATA_SET))
    drawn = course(patients, rng, chart_effect=chart_effect, planted_effect=planted_effect)
    subjects = np.sort(rng.choice(np.arange(10_000_000, 20_000_000, 37), patients, replace=False)).tolist()
    study_ids = rng.choice(np.arange(50_000_000, 60_000_000, 7), len(drawn.studies), replace=False).tolist()
    recorded = (rng.random(patients) >= 0.08).tolist()
    splits = rng.permutation(np.array(_splits(patients))).tolist()
    every: list[Radiograph] = []
    study_of_image: list[int] = []
    dicom_ids: list[str] = []
    for n, study in enumerate(drawn.studies):
        subject = subjects[study.patient]
        names = ["-".join(f"{part:08x}" for part in rng.integers(0, 2**32, 5)) for _ in study.views]
        folder = f"files/p{str(subject)[:2]}/p{subject}/s{study_ids[n]}"
        paths = [f"{folder}/{name}.jpg" for name in names]
        keys = (seed, DATA_SET, study.patient, n)
        every += radiographs(drawn.latents, study.row, study.views, paths, "mimic", size, keys)
        study_of_image += [n] * len(names)
        dicom_ids += names
    _damage(every, [splits[drawn.studies[n].patient] for n in study_of_image])
    return Mimic(drawn, every, study_of_image, study_ids, subjects, dicom_ids, recorded, splits)


def _splits(patients: int) -> list[str]:
    test, validate = max(1, round(0.15 * patients)), max(1, round(0.10 * patients))
    return ["test"] * test + ["validate"] * validate + ["train"] * (patients - test - validate)


def _damage(every: list[Radiograph], splits: list[str]) -> None:
    """One truncated JPEG and one empty file, both among the training images."""
    training = [n for n, split in enumerate(splits) if split == "train"]
    for n, damage in zip(training[len(training) // 3 :], ("truncated", "empty"), strict=False):
        every[n] = every[n]._replace(damage=damage)


def write_cxr(root: Path, hospital: Mimic, rng: np.random.Generator) -> None:
    """Writes the csv files of MIMIC-CXR-JPG 2.0.0 below `root`, and the radiologists' file of 2.1.0; not the images."""
    studies, latents = hospital.course.studies, hospital.course.latents
    metadata: list[Row] = []
    splits: list[Row] = []
    for image, dicom, n in zip(hospital.images, hospital.dicom_ids, hospital.study_of_image, strict=True):
        study, subject = studies[n], hospital.subject_ids[studies[n].patient]
        metadata.append((dicom, subject, hospital.study_ids[n], *_scan(image, study.views, study.taken, rng)))
        splits.append((dicom, hospital.study_ids[n], subject, hospital.splits[study.patient]))
    write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA_COLUMNS, metadata)
    write_csv(root / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    rows = np.array([study.row for study in studies])
    severities = {name: column[rows] for name, column in latents.items()}
    written = labels.labeller(severities, rng)
    # The second labeller agrees nine times in ten.
    other, agrees = labels.labeller(severities, rng), rng.random((len(CHEXPERT_LABELS), len(rows))) < 0.9
    second = {
        name: np.where(agree, written[name], other[name]) for name, agree in zip(CHEXPERT_LABELS, agrees, strict=True)
    }
    for tool, columns in (("chexpert", written), ("negbio", second)):
        table = [
            (
                hospital.subject_ids[study.patient],
                hospital.study_ids[n],
                *(_label(columns[name][n]) for name in CHEXPERT_LABELS),
            )
            for n, study in enumerate(studies)
        ]
        write_csv(root / f"mimic-cxr-2.0.0-{tool}.csv.gz", ("subject_id", "study_id", *CHEXPERT_LABELS), table)
    _write_read(root, hospital, labels.radiologist(severities), rng.spawn(1)[0])


def _write_read(root: Path, hospital: Mimic, read: dict[str, NDArray[np.float64]], rng: np.random.Generator) -> None:
    """The radiologists' labels of about half of the test studies; the file uses the older name of one finding."""
    columns = ["Airspace Opacity" if name == "Lung Opacity" else name for name in CHEXPERT_LABELS]
    chosen = rng.random(len(hospital.study_ids)) < READ_BY_RADIOLOGISTS
    table = [
        (hospital.study_ids[n], *(_label(read[name][n]) for name in CHEXPERT_LABELS))
        for n, study in enumerate(hospital.course.studies)
        if chosen[n] and hospital.splits[study.patient] == "test"
    ]
    write_csv(root / "mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *columns), table)


# The share of test studies that radiologists read.
READ_BY_RADIOLOGISTS = 0.5
METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)


def _scan(image: Radiograph, views: tuple[str, ...], taken: datetime, rng: np.random.Generator) -> Row:
    portable = views[0] == "AP"
    named, placed = rng.random(2) >= (0.04, 0.11)
    time = f"{taken.hour * 10000 + taken.minute * 100 + taken.second}.{int(rng.integers(0, 1000)):03d}"
    meaning = {"PA": "postero-anterior", "AP": "antero-posterior"}.get(image.view, "lateral")
    return (
        "CHEST (PORTABLE AP)" if portable else "CHEST (PA AND LAT)",
        image.view if named else "",
        *shape(image),
        taken.strftime("%Y%m%d"),
        time,
        "CHEST (PORTABLE AP)" if portable else "CHEST (PA AND LAT)",
        meaning if named else "",
        ("Recumbent" if image.recumbent else "Erect") if placed else "",
    )


def _label(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f}"


def write_iv(root: Path, hospital: Mimic, release: str, rng: np.random.Generator, *, chart_effect: float) -> None:
    """Writes the tables of MIMIC-IV `release` below `root`: patients, admissions, icustays, labevents, d_labitems."""
    core, race = CORE[release]
    people: list[Row] = []
    admissions: list[Row] = []
    icu: list[Row] = []
    labs: list[Row] = []
    latents = hospital.course.latents
    first = {study.patient: study.row for study in reversed(hospital.course.studies)}
    ids = iter(
        rng.choice(np.arange(20_000_000, 40_000_000, 3), 4 * len(hospital.course.studies) + 64, replace=False).tolist()
    )
    for patient, subject in enumerate(hospital.subject_ids):
        if not hospital.recorded[patient]:
            continue
        row = first[patient]
        stays = hospital.course.stays[patient]
        gone = next((stay.discharged for stay in stays if stay.died), None)
        if gone is None and stays and rng.random() < 0.2:
            gone = stays[-1].discharged + timedelta(days=200)
        people.append(
            (
                subject,
                "M" if latents["male"][row] else "F",
                int(years(latents["age"][row : row + 1])[0]),
                hospital.course.anchor_year[patient],
                str(rng.choice(YEAR_GROUPS if release.startswith("3") else YEAR_GROUPS[:-1])),
                gone.strftime("%Y-%m-%d") if gone else "",
            )
        )
        origin = str(rng.choice(_RACES))
        for stay in stays:
            hadm = next(ids)
            admissions.append(_admission(subject, hadm, stay, release, origin, rng))
            if stay.icu_in is not None and stay.icu_out is not None:
                days = (stay.icu_out - stay.icu_in).total_seconds() / 86400
                unit = str(rng.choice(_UNITS))
                icu.append((subject, hadm, next(ids), unit, unit, _second(stay.icu_in), _second(stay.icu_out), days))
            labs += _labs(subject, hadm, stay, {name: float(c[row]) for name, c in latents.items()}, rng, chart_effect)
    write_csv(root / core / "patients.csv.gz", PATIENT_COLUMNS, people)
    provider = () if release == "1.0" else ("admit_provider_id",)
    columns = (*ADMISSION_COLUMNS[:6], *provider, *ADMISSION_COLUMNS[6:11], race, *ADMISSION_COLUMNS[11:])
    write_csv(root / core / "admissions.csv.gz", columns, admissions)
    write_csv(root / "icu" / "icustays.csv.gz", ICU_COLUMNS, icu)
    ordered = () if release == "1.0" else ("order_provider_id",)
    events = [(n + 1, *lab[:4], *("" for _ in ordered), *lab[4:]) for n, lab in enumerate(labs)]
    write_csv(root / "hosp" / "labevents.csv.gz", (*LAB_COLUMNS[:5], *ordered, *LAB_COLUMNS[5:]), events)
    items = [(item, lab[0], "Blood", "Chemistry") for item, lab in LABS.items()]
    write_csv(root / "hosp" / "d_labitems.csv.gz", ("itemid", "label", "fluid", "category"), items)


# Only release 3.x has the last one.
YEAR_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2020 - 2022")
PATIENT_COLUMNS = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")
ADMISSION_COLUMNS = (
    "subject_id",
    "hadm_id",
    "admittime",
    "dischtime",
    "deathtime",
    "admission_type",
    "admission_location",
    "discharge_location",
    "insurance",
    "language",
    "marital_status",
    "edregtime",
    "edouttime",
    "hospital_expire_flag",
)
ICU_COLUMNS = ("subject_id", "hadm_id", "stay_id", "first_careunit", "last_careunit", "intime", "outtime", "los")
LAB_COLUMNS = (
    "labevent_id",
    "subject_id",
    "hadm_id",
    "specimen_id",
    "itemid",
    "charttime",
    "storetime",
    "value",
    "valuenum",
    "valueuom",
    "ref_range_lower",
    "ref_range_upper",
    "flag",
    "priority",
    "comments",
)


def _second(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def _admission(subject: int, hadm: int, stay: Stay, release: str, origin: str, rng: np.random.Generator) -> Row:
    left = stay.registered + timedelta(hours=float(rng.uniform(2, 9))) if stay.registered else None
    provider = () if release == "1.0" else (f"P{int(rng.integers(0, 90000)):05d}",)
    return (
        subject,
        hadm,
        _second(stay.admitted),
        _second(stay.discharged),
        _second(stay.discharged) if stay.died else "",
        "EW EMER." if stay.registered else "URGENT",
        *provider,
        "EMERGENCY ROOM" if stay.registered else "TRANSFER FROM HOSPITAL",
        "DIED" if stay.died else "HOME",
        str(rng.choice(("Medicare", "Medicaid", "Other"))),
        "ENGLISH",
        str(rng.choice(("MARRIED", "SINGLE", "WIDOWED", ""))),
        origin,
        _second(stay.registered),
        _second(left),
        int(stay.died),
    )


def _labs(
    subject: int, hadm: int, stay: Stay, values: dict[str, float], rng: np.random.Generator, chart_effect: float
) -> list[Row]:
    """Two rounds of blood tests; about a quarter without hadm_id, as in the open demo."""
    rows: list[Row] = []
    for n in range(2):
        drawn = stay.admitted + (stay.discharged - stay.admitted) * float(rng.uniform(0.4 * n, 0.4 * n + 0.5))
        stored = drawn + timedelta(minutes=float(rng.uniform(20, 120)))
        specimen = int(rng.integers(1, 10**8))
        for item, (_, unit, mean, spread, cause, strength) in LABS.items():
            # Blood tests are part of the chart, so chart_effect also scales what they say about hidden causes.
            value = float(np.exp(mean + chart_effect * strength * values[cause] + spread * rng.standard_normal()))
            shown = f"{value:.3g}"
            known = hadm if rng.random() >= 0.26 else ""
            moments = (_second(drawn), _second(stored))
            rows.append((subject, known, specimen, item, *moments, shown, shown, unit, "", "", "", "ROUTINE", ""))
    return rows
