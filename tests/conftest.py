"""A small store of drawn images that every test may read: two shapes, a chart, labels, three splits."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from chartray.pixels.ingest import ingest
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata

# Fixtures of several test modules.
pytest_plugins = ("tests.ingest_folders", "tests.mimic_demo")
# Two cores are shared with whatever else runs; small tensors are faster on one thread.
torch.set_num_threads(1)

FILMS, FILM_SIZE = 240, 48


def draw_film(generator: np.random.Generator, disc: bool, bars: bool) -> np.ndarray:
    """Noise, and perhaps a bright disc (label Disc) and bars (label Bars), each anywhere."""
    film = generator.normal(90, 12, (FILM_SIZE, FILM_SIZE))
    rows, columns = np.mgrid[:FILM_SIZE, :FILM_SIZE]
    if disc:
        top, left = generator.integers(10, FILM_SIZE - 10, 2)
        film[(rows - top) ** 2 + (columns - left) ** 2 < 64] += 80
    if bars:
        film += 25 * (np.sin(columns * 1.2 + generator.uniform(0, 6)) > 0)
    return np.clip(film, 0, 255).astype(np.uint8)


def small_cohort(folder: Path) -> pa.Table:
    """Writes the images to `folder` and returns their cohort: 120 patients with two images each."""
    generator = np.random.default_rng(0)
    patients = np.arange(FILMS) // 2
    sex = generator.random(FILMS // 2) < 0.5
    disc, bars = generator.random(FILMS) < 0.5, (generator.random(FILMS) < 0.5) ^ (sex[patients] & True)
    for row in range(FILMS):
        Image.fromarray(draw_film(generator, disc[row], bars[row])).save(folder / f"{row}.png")
    split = np.array(["train", "train", "train", "validate", "test"])[patients % 5]
    sexes = pa.array([None if p % 11 == 0 else ("male" if sex[p] else "female") for p in patients], pa.string())
    ages = pa.array([None if p % 7 == 0 else float(20 + p % 60) for p in patients], pa.float64())
    table = pa.table(
        {
            "image_id": [f"film-{row}" for row in range(FILMS)],
            "patient_id": [f"p{patient}" for patient in patients],
            "study_id": [f"s{row}" for row in range(FILMS)],
            "taken_at": pa.nulls(FILMS, pa.timestamp("us")),
            "path": [str(folder / f"{row}.png") for row in range(FILMS)],
            "split": split,
            "ehr.sex": sexes,
            "ehr.age": ages,
            "ehr.died": pa.array(generator.random(FILMS) < 0.3),
            "label.Disc": disc.astype(float),
            "label.Bars": bars.astype(float),
        }
    )
    metadata = CohortMetadata(
        source="drawn",
        variables={
            "sex": Variable(kind="categorical", levels=("male", "female"), group="demographic"),
            "age": Variable(kind="numeric", range=(0, 110), unit="years", group="demographic"),
            "died": Variable(kind="boolean", group="stay", known_at_film=False),
        },
        labels={"Disc": LabelSource(), "Bars": LabelSource()},
        image_root=str(folder),
    )
    return table.replace_schema_metadata(to_metadata(metadata))


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 240 images of 48 px: 144 train, 48 validate, 48 test."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "films").mkdir()
    pq.write_table(small_cohort(folder / "films"), folder / "cohort.parquet")
    ingest(folder / "cohort.parquet", folder / "store", size=FILM_SIZE, workers=1)
    return folder / "store"
