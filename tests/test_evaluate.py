"""Whole evaluations of small stores: what is written, against what the parts say and against plain loops."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from chartray.config import EncoderConfig
from chartray.errors import InputError
from chartray.evaluation.evaluate import evaluate
from chartray.networks import encoder
from chartray.pixels.ingest import ingest
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata

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
    splits: tuple[str, ...] = ("train", "train", "validate", "test", "test"),
) -> Path:
    """A store of 2 films a patient; a bright lower half means Edema, a bright left half Pleural Effusion."""
    rng = np.random.default_rng(seed)
    (folder / "films").mkdir(parents=True)
    columns: dict[str, list[Any]] = {name: [] for name in ("image_id", "patient_id", "study_id", "path", "split")}
    columns |= {f"label.{label}": [] for label in labels} | {"ehr.sex": [], "ehr.age": []}
    for patient in range(patients):
        age, male = rng.uniform(20, 90), rng.random() < 0.5
        for film in range(2):
            truth = {"Edema": rng.random() < age / 150, "Pleural Effusion": rng.random() < 0.4}
            pixels = rng.normal(110, 25, (32, 32))
            pixels[16:] += 4 * truth["Edema"]
            pixels[:, :16] += 3 * truth["Pleural Effusion"]
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
        labels={label: LabelSource(columns=(label,)) for label in labels},
        image_root=str(folder / "films"),
    )
    table = pa.table(
        {
            name: pa.array(values, pa.float64() if name.startswith(("label.", "ehr.age")) else pa.string())
            for name, values in columns.items()
        }
    ).append_column("taken_at", pa.nulls(2 * patients, pa.timestamp("us")))
    pq.write_table(table.replace_schema_metadata(to_metadata(metadata)), folder / "cohort.parquet")
    ingest(folder / "cohort.parquet", folder / "store", size=32, workers=1)
    return folder / "store"


def vit(folder: Path, *, seed: int = 0, **provenance: Any) -> Path:
    """An encoder folder of a very small ViT."""
    config = EncoderConfig(name="vit_tiny", heads=2, depth=1, width=32, patch_size=8)
    built = encoder.build(encoder.architecture(config, 32), seed=seed)
    made_of = encoder.architecture(config, 32)
    encoder.save(folder, encoder.PretrainedEncoder(built, 32, 0.45, 0.1, made_of, provenance))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("mimic"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vit(
        tmp_path_factory.mktemp("run") / "encoder",
        run="demographic-0",
        chart="demographic-norm",
        control="none",
        seed=7,
    )


@pytest.fixture(scope="module")
def linear(home: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    other = hospital(folder / "nih", "nih", seed=1, labels=("Edema", "Effusion"), chart=False)
    evaluate(run, home, folder / "out", external=[other], resamples=100, data_percent=[50, 100])
    return folder / "out"


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def test_values_are_those_of_the_predictions_beside_them(linear: Path) -> None:
    rows = read(linear, "results.jsonl")
    table = pq.read_table(linear / "predictions.parquet").to_pylist()
    checked = 0
    for row in rows:
        if row["metric"] == "auroc" and row["label"] != "macro" and row["value"] is not None:
            films = [
                film
                for film in table
                if all(film[key] == row[key] for key in ("dataset", "label", "control", "fraction", "run", "chart"))
                and film["truth"] is not None
            ]
            assert row["n"] == len(films)
            assert row["n_positive"] == sum(film["truth"] for film in films)
            expected = roc_auc_score([film["truth"] for film in films], [film["score"] for film in films])
            assert row["value"] == pytest.approx(expected, abs=1e-12)
            checked += 1
    assert checked == 2 * (5 * 4 + 3 * 2)


def test_the_bright_halves_are_found_and_pixels_find_them_too(linear: Path) -> None:
    rows = read(linear, "results.jsonl")
    best = one(rows, control="pixels", dataset="mimic", label="Edema", metric="auroc", fraction=1.0)
    assert best["value"] > 0.8
    assert best["ci_low"] < best["value"] < best["ci_high"]
    assert one(rows, control="pixels", dataset="nih", label="macro", metric="auroc", fraction=1.0)["value"] > 0.7
