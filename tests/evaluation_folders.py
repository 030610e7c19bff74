"""Small stores and encoders to evaluate, and readers of what an evaluation writes."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from chartray.config.pretrain import EncoderConfig
from chartray.evaluation import compare as comparison
from chartray.evaluation import evaluate as evaluation
from chartray.evaluation.image_set import ImageSet, Match
from chartray.evaluation.scoring import EvaluationSet
from chartray.networks import encoder
from chartray.networks.description import Provenance
from chartray.pixels.ingest import ingest
from chartray.results.schema import Record
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata
from chartray.training.patients import patients_sha256

SEX = Variable(kind="categorical", levels=("male", "female"), group="demographic", columns=("gender",))
AGE = Variable(kind="numeric", range=(0, 110), unit="years", group="demographic", columns=("age",))


def hospital(
    folder: Path,
    source: str = "mimic",
    *,
    seed: int = 0,
    labels: tuple[str, ...] = ("Edema", "Pleural Effusion", "Pneumothorax", "No Finding"),
    patients: int = 120,
    chart: bool = True,
    contrast: float = 4,
    splits: tuple[str, ...] = ("train", "train", "validate", "test", "test"),
) -> Path:
    """A store of 2 images a patient; a bright lower half means Edema, a bright left half Pleural Effusion."""
    rng = np.random.default_rng(seed)
    (folder / "films").mkdir(parents=True)
    columns: dict[str, list[Any]] = {name: [] for name in ("image_id", "patient_id", "study_id", "path", "split")}
    columns |= {f"label.{label}": [] for label in labels} | {"ehr.sex": [], "ehr.age": []}
    for patient in range(patients):
        age, male = rng.uniform(20, 90), rng.random() < 0.5
        for film in range(2):
            truth = {"Edema": rng.random() < age / 150, "Pleural Effusion": rng.random() < 0.4}
            pixels = rng.normal(110, 25, (32, 32))
            pixels[16:] += contrast * truth["Edema"]
            pixels[:, :16] += contrast * 0.75 * truth["Pleural Effusion"]
            name = f"p{patient:03}-{film}"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "films" / f"{name}.png")
            found = {"Edema": truth["Edema"], "Pleural Effusion": truth["Pleural Effusion"]}
            found |= {"Effusion": truth["Pleural Effusion"], "Pneumothorax": patient == patients - 1}
            found["No Finding"] = not any(truth.values())
            for column, value in (("image_id", name), ("patient_id", f"p{patient:03}"), ("study_id", name)):
                columns[column].append(value)
            columns["path"].append(str(folder / "films" / f"{name}.png"))
            columns["split"].append(splits[patient % len(splits)])
            columns["ehr.sex"].append(None if rng.random() < 0.1 else "male" if male else "female")
            columns["ehr.age"].append(age)
            for label in labels:
                # As the labeller writes: what a report does not mention stays blank, now and then it is unsure.
                value = 1.0 if found[label] else None if rng.random() < 0.5 or label == "No Finding" else 0.0
                columns[f"label.{label}"].append(-1.0 if label == "Edema" and rng.random() < 0.1 else value)
    if not chart:
        del columns["ehr.sex"], columns["ehr.age"]
    metadata = CohortMetadata(
        source=source,
        variables={"sex": SEX, "age": AGE} if chart else {},
        labels={label: LabelSource(columns=(label,), blank="negative") for label in labels},
        image_root=str(folder / "films"),
    )
    table = pa.table(
        {
            name: pa.array(values, pa.float64() if name.startswith(("label.", "ehr.age")) else pa.string())
            for name, values in columns.items()
        }
    ).append_column("taken_at", pa.nulls(2 * patients, pa.timestamp("us")))
    pq.write_table(table.replace_schema_metadata(to_metadata(metadata)), folder / "cohort.parquet")
    ingest(folder / "cohort.parquet", folder / "store", size=32, workers=1, executor=ThreadPoolExecutor(1))
    return folder / "store"


def patients_entry(keys: Sequence[str]) -> dict[str, Any]:
    """What an encoder's provenance records of the patients of its pretraining."""
    return {"patients": len(keys), "patients_sha256": patients_sha256(keys)}


def vit(folder: Path, *, seed: int = 0, weights: int | None = None, depth: int = 1, **provenance: Any) -> Path:
    """An encoder folder of a very small ViT; `seed` is in its provenance, and draws its weights unless given."""
    config = EncoderConfig(name="vit_tiny", heads=2, depth=depth, width=32, patch_size=8)
    built = encoder.build(encoder.architecture(config, 32), seed=seed if weights is None else weights)
    made_of = encoder.architecture(config, 32)
    made = Provenance.model_validate({"seed": seed} | provenance)
    encoder.save(folder, encoder.PretrainedEncoder(built, 32, 0.45, 0.1, made_of, made))
    return folder


def said(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows as they stand on disk."""
    return [json.loads(row.model_dump_json()) for row in rows]


def evaluate(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """The rows of results.jsonl of an evaluation."""
    return said(evaluation.evaluate(*arguments, **options))


def compare(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """The rows of comparisons.jsonl of a comparison."""
    return said(comparison.compare(*arguments, **options))


def evaluation_set(films: ImageSet, labels: Sequence[str] = ()) -> EvaluationSet:
    """Images that are scored, all labels in the macro mean."""
    every = np.arange(len(labels))
    return EvaluationSet("d", "", films, [], [Match(label, label) for label in labels], every, every >= 0)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]
