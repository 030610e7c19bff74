"""The stages whose growth is measured: what each reads, made for so many rows, and its work."""

import importlib
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.speed.full_size_tables import Sizes, film_names, write_tables
from chartray.pixels.shard_file import write_shard
from chartray.pixels.store import Store
from chartray.pixels.store_writing import complete
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata

Work = Callable[[], object]

STORED_SIDE = 8
_SHARD = 1024
_BATCH, _BATCHES = 256, 64
_WIDTH, _LABELS, _RESAMPLES, _STEPS = 192, 14, 100, 4
_FILMS_PER_PATIENT = 4


def write_nothing(folder: Path, rows: int) -> None:
    """For what reads no files."""


def write_hospital(folder: Path, rows: int) -> None:
    """MIMIC's tables for `rows` images."""
    if not (folder / "tables").exists():
        write_tables(folder / "tables", Sizes().scaled(rows))


def write_cohort_of(folder: Path, rows: int) -> None:
    """The cohort of these tables."""
    write_hospital(folder, rows)
    if not (folder / "cohort.parquet").exists():
        cohort(folder, rows)()


def cohort(folder: Path, rows: int) -> Work:
    """Tables to cohort.parquet, strict rules."""
    from chartray.records.cohort import write_cohort
    from chartray.records.mimic import mimic_cohort

    _imported("pandas", "chartray.records.mimic_chart")
    iv, cxr = folder / "tables" / "mimic-iv", folder / "tables" / "mimic-cxr-jpg"
    return lambda: write_cohort(mimic_cohort(str(iv), cxr), folder / "cohort.parquet")


def _imported(*modules: str) -> None:
    """What the work would import itself (pandas by way of pyarrow): a start's cost does not grow with the rows."""
    for module in modules:
        importlib.import_module(module)


def split(folder: Path, rows: int) -> Work:
    """A split by a hash of the patient."""
    from chartray.records.cohort import split_by_patient
    from chartray.schema import SPLIT_SHARES

    patients = pa.array(np.arange(rows) // _FILMS_PER_PATIENT).cast(pa.string())
    return lambda: split_by_patient(patients, SPLIT_SHARES)


def index(folder: Path, rows: int) -> Work:
    """What an ingest works out before its first image."""
    from chartray.pixels.plan import make_plan

    _imported("pandas")
    return lambda: make_plan(folder / "cohort.parquet", 448, None)


def chart(folder: Path, rows: int) -> Work:
    """Fitted on the training images, and the chart rows of all."""
    from chartray.features import fit_chart
    from chartray.records.cohort import read_cohort

    table = read_cohort(folder / "cohort.parquet")
    return lambda: fit_chart(table, "demographic-norm").rows(table)


def opened(folder: Path, rows: int) -> Work:
    """A store opened and one image looked at."""

    def work() -> None:
        store = Store.open(folder / "store")
        store.images[len(store) // 2].sum()

    return work


def gathered(folder: Path, rows: int) -> Work:
    """Batches of 256 images from anywhere in the store."""
    store, generator = Store.open(folder / "store"), np.random.default_rng(0)
    batches = [generator.integers(0, len(store), _BATCH) for _ in range(_BATCHES)]
    out = np.empty((_BATCH, STORED_SIDE, STORED_SIDE), dtype=np.uint8)
    # Every shard has been mapped, as after the first pass of a pretraining.
    for row in range(0, len(store), _SHARD):
        store.images[row].sum()
    return lambda: [store.images.gather(batch, out) for batch in batches]


def trained(folder: Path, rows: int) -> Work:
    """Four steps of `tiny-cpu` with a chart, from the store's opening to the encoder that is written."""
    from chartray.config.pretrain import load
    from chartray.config.section import Knobs
    from chartray.training.pretrain import pretrain

    overrides: Knobs = {"train.steps": _STEPS, "train.batch_size": 32, "chart.ehr": "age", "train.device": "cpu"}
    config, number = load("tiny-cpu", None, overrides), count()
    return lambda: pretrain(folder / "store", folder / f"run-{next(number)}", config)


def probe(folder: Path, rows: int) -> Work:
    """14 labels at all strengths, half as many validation images as a tenth of the training images."""
    from chartray.statistics.probe import fit_probe

    generator = np.random.default_rng(0)
    features = generator.standard_normal((rows + max(rows // 10, 20), _WIDTH), dtype=np.float32)
    weight = generator.normal(size=(_WIDTH, _LABELS)) / np.sqrt(_WIDTH)
    noise = generator.normal(size=(len(features), _LABELS))
    truth = (features @ weight + noise > 1).astype(np.float64)
    return lambda: fit_probe(features[:rows], truth[:rows], features[rows:], truth[rows:])


def bootstrap(folder: Path, rows: int) -> Work:
    """AUROC and average precision of 14 labels, 100 resamples by patient."""
    from chartray.statistics.metrics import resample

    generator = np.random.default_rng(0)
    latent = generator.normal(size=(rows, _LABELS))
    truth = (latent + generator.normal(size=latent.shape) > 1.5).astype(np.float64)
    patients = np.arange(rows) // _FILMS_PER_PATIENT
    return lambda: resample(truth, latent, patients, resamples=_RESAMPLES)


def write_store_of(folder: Path, rows: int) -> None:
    """A store of `rows` images of 8 x 8 px, noise, as ingest would have written it; three quarters for training."""
    out = folder / "store"
    if (out / "store.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = film_names(rows, generator).cast(pa.string())
    shards, digests = [], b""
    for number, first in enumerate(range(0, rows, _SHARD)):
        ids = names.slice(first, _SHARD).to_pylist()
        images = generator.integers(0, 256, (len(ids), STORED_SIDE, STORED_SIDE), dtype=np.uint8)
        shard, of_its_images = write_shard(out / f"images-{number:05d}.arrow", ids, images)
        shards.append(shard)
        digests += of_its_images
    complete(out, STORED_SIDE, shards, digests, _store_cohort(names, generator))


def _store_cohort(names: pa.Array, generator: np.random.Generator) -> pa.Table:
    rows = len(names)
    patients = np.arange(rows) // _FILMS_PER_PATIENT
    splits = np.array(["train", "train", "train", "validate"])[patients % 4]
    columns = {
        "image_id": names,
        "patient_id": pa.array(patients).cast(pa.string()),
        "study_id": pa.array(np.arange(rows)).cast(pa.string()),
        "taken_at": pa.nulls(rows, pa.timestamp("us")),
        "path": names,
        "split": pa.array(splits),
        "ehr.age": pa.array(generator.uniform(18, 90, rows)),
        "label.Edema": pa.array((generator.random(rows) < 0.3).astype(np.float64)),
        "height": pa.array(np.full(rows, 3056, np.int32)),
        "width": pa.array(np.full(rows, 2544, np.int32)),
    }
    age = Variable(kind="numeric", range=(0, 110), unit="years", group="demographic")
    metadata = CohortMetadata(source="drawn", variables={"age": age}, labels={"Edema": LabelSource()}, image_root="")
    return pa.table(columns).replace_schema_metadata(to_metadata(metadata))
