"""Two other simulated hospitals, as CheXpert-v1.0-small and NIH ChestX-ray14 folders."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from chartray.schema import CHEXPERT_LABELS
from chartray.simulate import labels, population
from chartray.simulate.course import radiographs
from chartray.simulate.planted import plant
from chartray.simulate.population import LATENTS, OF_PATIENT, Columns, years
from chartray.simulate.radiograph import Radiograph, shape
from chartray.simulate.tables import Row, write_csv

CHEXPERT, NIH = 2, 3
CHEXPERT_FOLDER = "CheXpert-v1.0-small"
# How these hospitals differ from the MIMIC-like one, added to the baselines of LATENTS.
SHIFTS: dict[int, dict[str, float]] = {
    CHEXPERT: {
        "admitted": 0.6,
        "icu": 0.4,
        "devices": 0.4,
        "effusion": 0.3,
        "haze": 0.4,
        "pneumonia": -0.5,
        "age": 0.1,
    },
    NIH: {"age": -1.0, "icu": -0.5, "haze": 0.9, "nodule": 0.5, "mass": 0.5, "emphysema": 0.3, "cardiomegaly": -0.5},
}


class Elsewhere(NamedTuple):
    """A drawn hospital: latents (one row per study), the images, and the study, patient and split of each."""

    latents: Columns
    images: list[Radiograph]
    study_of_image: list[int]
    patient_of_study: list[int]
    splits: list[str]


def draw_chexpert(
    patients: int, seed: int, *, chart_effect: float = 1.0, planted_effect: float | None = None, size: int = 512
) -> Elsewhere:
    """The CheXpert-like hospital; its images have three quarters of `size`, as in the small release."""
    rng = np.random.default_rng((seed, CHEXPERT))
    latents, owner = _people(patients, rng, CHEXPERT, chart_effect, planted_effect)
    splits = _splits(patients, (("test", 0.40), ("valid", 0.10)), "train", rng)
    every: list[Radiograph] = []
    study_of_image: list[int] = []
    for n, patient in enumerate(owner):
        study = 1 + owner[:n][-3:].count(patient)
        views = ("AP",) if latents["portable"][n] else (("PA", "LATERAL") if rng.random() < 0.5 else ("PA",))
        folder = f"{splits[patient]}/patient{patient + 1:05d}/study{study}"
        shown = ("lateral" if view == "LATERAL" else "frontal" for view in views)
        paths = [f"{folder}/view{k + 1}_{side}.jpg" for k, side in enumerate(shown)]
        every += radiographs(latents, n, views, paths, "chexpert", 3 * size // 4, (seed, CHEXPERT, patient, n))
        study_of_image += [n] * len(views)
    return Elsewhere(latents, every, study_of_image, owner, splits)


def draw_nih(
    patients: int, seed: int, *, chart_effect: float = 1.0, planted_effect: float | None = None, size: int = 512
) -> Elsewhere:
    """The NIH-like hospital: frontal square PNG images of three quarters of `size`, a few of them RGBA."""
    rng = np.random.default_rng((seed, NIH))
    latents, owner = _people(patients, rng, NIH, chart_effect, planted_effect)
    splits = _splits(patients, (("test", 0.25),), "train_val", rng)
    every: list[Radiograph] = []
    for n, patient in enumerate(owner):
        follow_up = owner[:n][-3:].count(patient)
        batch = 1 + (2 * n) // max(1, len(owner))
        path = f"images_{batch:03d}/images/{patient + 1:08d}_{follow_up:03d}.png"
        view = ("AP",) if latents["portable"][n] else ("PA",)
        every += radiographs(latents, n, view, [path], "nih", 3 * size // 4, (seed, NIH, patient, n))
        if rng.random() < 0.02 or n == 1:
            every[-1] = every[-1]._replace(damage="rgba")
    return Elsewhere(latents, every, list(range(len(owner))), owner, splits)


def _people(
    patients: int, rng: np.random.Generator, data_set: int, chart_effect: float, planted_effect: float | None
) -> tuple[Columns, list[int]]:
    shift = SHIFTS[data_set]
    person = population.draw(OF_PATIENT, {}, patients, rng, chart_effect=chart_effect, shift=shift)
    owner = np.repeat(np.arange(patients), 1 + (rng.random(patients) < 0.25).astype(np.int64))
    known = {name: column[owner] for name, column in person.items()}
    known = population.illness(known, len(owner), rng, chart_effect=chart_effect, shift=shift)
    latents = population.draw(tuple(LATENTS), known, len(owner), rng, chart_effect=chart_effect, shift=shift)
    if planted_effect is not None:
        latents = plant(latents, planted_effect, rng.spawn(1)[0], mean_age=shift["age"])
    return latents, owner.tolist()


def _splits(patients: int, parts: tuple[tuple[str, float], ...], rest: str, rng: np.random.Generator) -> list[str]:
    names = [name for name, share in parts for _ in range(max(1, round(share * patients)))]
    names += [rest] * (patients - len(names))
    split: list[str] = rng.permutation(np.array(names[:patients])).tolist()
    return split


def write_chexpert(root: Path, hospital: Elsewhere, rng: np.random.Generator) -> None:
    """Writes train.csv with the labeller's labels, valid.csv and test.csv with the radiologists' (0 or 1, complete)."""
    labelled, read = labels.labeller(hospital.latents, rng), labels.radiologist(hospital.latents)
    ages = years(hospital.latents["age"])
    tables: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    for image, n in zip(hospital.images, hospital.study_of_image, strict=True):
        split = hospital.splits[hospital.patient_of_study[n]]
        columns = labelled if split == "train" else read
        frontal = image.view != "LATERAL"
        values = [columns[name][n] for name in CHEXPERT_LABELS]
        tables[split].append(
            (
                f"{CHEXPERT_FOLDER}/{image.path}",
                "Male" if image.values["male"] else "Female",
                int(ages[n]),
                "Frontal" if frontal else "Lateral",
                image.view if frontal else "",
                *("" if np.isnan(value) else f"{value:.1f}" for value in values),
            )
        )
    for split, rows in tables.items():
        write_csv(root / f"{split}.csv", ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS), rows)


NIH_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
)


def write_nih(root: Path, hospital: Elsewhere, rng: np.random.Generator) -> None:
    """Writes Data_Entry_2017_v2020.csv and the two official lists; a few ages are entry errors above 110."""
    found = labels.nih(hospital.latents, rng)
    ages = years(hospital.latents["age"])
    rows: list[Row] = []
    lists: dict[str, list[str]] = {"train_val": [], "test": []}
    for n, image in enumerate(hospital.images):
        name = Path(image.path).name
        patient = hospital.patient_of_study[n]
        age = int(rng.choice((148, 151, 411, 414))) if rng.random() < 0.004 or n == 0 else int(ages[n])
        sex = "M" if image.values["male"] else "F"
        height, width = shape(image)
        rows.append((name, found[n], int(name[9:12]), patient + 1, age, sex, image.view, width, height, 0.143, 0.143))
        lists[hospital.splits[patient]].append(name)
    write_csv(root / "Data_Entry_2017_v2020.csv", NIH_COLUMNS, rows)
    for split, names in lists.items():
        (root / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in names))
