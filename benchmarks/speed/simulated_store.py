"""Images to train on: a simulated hospital, its JPEG files and the store made of them."""

from pathlib import Path
from typing import NamedTuple

from chartray.pixels.ingest import ingest
from chartray.records.cohort import write_cohort
from chartray.records.mimic import mimic_cohort
from chartray.simulate.hospital import simulate


class ImageSet(NamedTuple):
    """A store, and the folder of the JPEG files that it was made of (their cohort's paths are relative to it)."""

    store: Path
    images: Path


def make_films(scratch: Path, size: int, patients: int) -> ImageSet:
    """About two images a patient, 512 px JPEG as MIMIC-CXR-JPG has them (larger), stored at `size` px."""
    hospital = scratch / "hospital"
    simulate(hospital, patients=patients, seed=0)
    cohort = mimic_cohort(str(hospital / "mimic-iv"), hospital / "mimic-cxr-jpg")
    write_cohort(cohort, scratch / "mimic.parquet")
    store = scratch / f"mimic-{size}.store"
    ingest(scratch / "mimic.parquet", store, size=size)
    return ImageSet(store, hospital / "mimic-cxr-jpg")
