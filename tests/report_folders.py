"""Run, results and store folders for the report's tests: every number in them is computed from simulated patients."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from chartray.measure import metrics
from chartray.pixels.store import Store, write_shard
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata

LABELS = ("Atelectasis", "Cardiomegaly", "Edema", "Fracture", "No Finding", "Pleural Effusion", "Pneumonia")
SIDE = 96
# How well an arm's scores follow the truth; the controls are as good as no chart, the floors are worse.
SIGNAL = {"none": 1.0, "demographic-norm": 1.05, "shuffled": 0.98, "untrained": 0.55, "pixels": 0.5, "chart-only": 0.3}
STRENGTH = {"Atelectasis": 0.5, "Cardiomegaly": 1.3, "Edema": 1.1, "Fracture": 0.25, "No Finding": 0.9}


def write_store(folder: Path, source: str, films: int, rng: np.random.Generator) -> Store:
    """A store of drawn films with a cohort of two films a patient; identifiers look like hospital numbers."""
    folder.mkdir(parents=True)
    patients = [f"p1{int(number):07d}" for number in rng.integers(0, 10**7, films // 2 + 1)]
    ids = [f"{source}-{int(number):08x}" for number in rng.choice(2**31, films, replace=False)]
    patient = [patients[row // 2] for row in range(films)]
    split = [("train", "validate", "test", "test")[(row // 2) % 4] for row in range(films)]
    age = np.clip(rng.normal(61, 17, films), 16, 100).round()
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    images = np.empty((films, SIDE, SIDE), np.uint8)
    for row in range(films):
        lungs = sum(np.exp(-(((x - side) / 0.15) ** 2 + ((y - 0.45) / 0.28) ** 2) * 2) for side in (0.3, 0.7))
        heart = np.exp(-(((x - 0.56) / (0.12 + 0.1 * rng.random())) ** 2 + ((y - 0.62) / 0.2) ** 2))
        images[row] = np.clip(190 - 150 * lungs + 60 * heart + rng.normal(0, 6, (SIDE, SIDE)), 0, 255)
    columns = {
        "image_id": ids,
        "patient_id": patient,
        "path": [f"/films/{one}.jpg" for one in ids],
        "split": split,
        "ehr.sex": [None if rng.random() < 0.05 else ("male", "female")[int(rng.random() < 0.48)] for _ in ids],
        "ehr.age": pa.array([None if rng.random() < 0.08 else float(one) for one in age], pa.float64()),
        "ehr.view": [("PA", "AP", "LATERAL")[int(rng.integers(3))] for _ in ids],
        "ehr.mortality": [None if rng.random() < 0.4 else ("alive", "died")[int(rng.random() < 0.1)] for _ in ids],
        "height": pa.array([2544] * films, pa.int32()),
        "width": pa.array([3056 if rng.random() < 0.3 else 2080 for _ in ids], pa.int32()),
    }
    for label in LABELS:
        share = 0.02 if label == "Fracture" else 0.3
        values = np.where(rng.random(films) < share, 1.0, 0.0)
        values[rng.random(films) < 0.06] = -1.0
        columns[f"label.{label}"] = pa.array([None if rng.random() < 0.3 else one for one in values], pa.float64())
    metadata = CohortMetadata(
        source=source,
        release="2.0.0",
        variables={
            "sex": Variable(kind="categorical", levels=("male", "female")),
            "age": Variable(kind="numeric", range=(0, 110), unit="years"),
            "view": Variable(kind="categorical", levels=("PA", "LATERAL", "AP", "LL")),
            "mortality": Variable(kind="categorical", levels=("alive", "died"), known_at_film=False),
        },
        labels={label: LabelSource() for label in LABELS},
    )
    pq.write_table(pa.table(columns).replace_schema_metadata(to_metadata(metadata)), folder / "cohort.parquet")
    quarantined = {
        "image_id": ["q1", "q2"],
        "path": [f"/data/p10/{patient[0]}/s1/q1.jpg", "/data/q2.jpg"],
        "reason": [f"truncated file /data/p10/{patient[0]}/s1/q1.jpg", "empty file /data/q2.jpg"],
    }
    pq.write_table(pa.table(quarantined), folder / "quarantine.parquet")
    write_shard(folder / "images-00000.arrow", ids, images)
    shard = {"file": "images-00000.arrow", "rows": films, "bytes": (folder / "images-00000.arrow").stat().st_size}
    index = {"format": 1, "size": SIDE, "rows": films, "hash": f"{rng.integers(2**60):016x}", "shards": [shard]}
    (folder / "store.json").write_text(json.dumps(index))
    return Store.open(folder)


def write_run(folder: Path, store: Store, chart: str, control: str, seed: int, steps: int = 120) -> Path:
    """A run folder whose curves fall and flatten as those of a healthy run do."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed + len(chart) + len(control))
    tables = {
        "encoder": {"name": "vit_tiny_patch16_224", "width": 192, "depth": 6, "heads": 3, "patch_size": 8},
        "views": {"size": 64, "focal_size": 32, "focal_count": 4},
        "objective": {"name": "msn", "prototypes": 128},
        "chart": {"ehr": chart, "use": "anchor", "control": control},
        "train": {"steps": steps, "batch_size": 64},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tables))
    flow = {
        "source": "mimic",
        "release": "2.2",
        "rules": "strict",
        "steps": [
            {"step": "films in the metadata", "rows_in": len(store) + 60, "rows_out": len(store) + 60, "why": ""},
            {"step": "known view", "rows_in": len(store) + 60, "rows_out": len(store) + 2, "why": "view is XTABLE"},
            {"step": "readable", "rows_in": len(store) + 2, "rows_out": len(store), "why": "truncated or empty"},
        ],
        "links": {"linked": 320, "by_emergency_registration": 41, "before_admission": 22, "no_record": 57, "ties": 3},
        "missing": {"sex": {"?": 3}, "age": {"absent": 9}},
        "absent_labels": ["Lung Lesion"],
    }
    manifest = {
        "chartray": "0.1.0",
        "torch": "2.9.1",
        "timm": "1.0.22",
        "command": f"chartray pretrain STORE --ehr {chart} --control {control} --seed {seed}",
        "git_commit": "f7d5035c0ffee",
        "store": str(store.folder),
        "store_hash": store.hash,
        "source": "mimic",
        "chart": chart,
        "control": control,
        "after_film": ["mortality"] if "mortality" in chart else [],
        "ehr_in": 5 if chart != "none" else 0,
        "seed": seed,
        "recipe": "tiny-cpu",
        "films": 210,
        "patients": 105,
        "steps": steps,
        "flow": flow,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with (folder / "metrics.jsonl").open("w") as out:
        for step in range(1, steps + 1):
            cross = 4.85 - 1.9 * (1 - np.exp(-step / 40)) + rng.normal(0, 0.04)
            row = {"step": step, "loss": cross + 0.7, "cross_entropy": cross, "mean_entropy": 0.7 + rng.normal(0, 0.02)}
            row["learning_rate"] = 1e-3 * min(step / 12, 0.5 * (1 + np.cos(np.pi * step / steps)))
            if step % 10 == 0:
                row["health.prototypes_in_use"] = 60 - 45 * np.exp(-step / 30) + rng.normal(0, 1)
                row["health.assignment_entropy"] = 4.0 - np.exp(-step / 20)
                row["health.effective_rank"] = 20 + step / 12 + rng.normal(0, 1)
                row["health.agreement"] = 0.6 + 0.3 * (1 - np.exp(-step / 40))
                row["health.knn_auroc"] = 0.6 + 0.08 * (1 - np.exp(-step / 50)) + rng.normal(0, 0.005)
            out.write(json.dumps(row) + "\n")
    return folder


def write_results(folder: Path, run: Path, stores: dict[str, Store], seed: int, resamples: int = 60) -> Path:
    """Scores, intervals and paired differences that metrics.py computes from simulated predictions."""
    folder.mkdir(parents=True)
    manifest = json.loads((run / "manifest.json").read_text())
    chart, control = manifest["chart"], manifest["control"]
    sources = [control, "untrained", "pixels", "chart-only", "image+chart"]
    rows, comparisons, predictions, embeddings = [], [], [], []
    macro_labels = {}
    for dataset, store in stores.items():
        cohort = store.cohort
        test = np.flatnonzero(np.array(cohort["split"].to_pylist()) == "test")
        patients = np.array(cohort["patient_id"].to_pylist())[test]
        truth = np.stack([cohort[f"label.{label}"].to_numpy()[test] for label in LABELS], axis=1)
        truth = np.where(np.isnan(truth), 0.0, np.where(truth == -1, np.nan, truth))
        enough = metrics.eligible(truth, patients)
        macro_labels[dataset] = [label for label, there in zip(LABELS, enough, strict=True) if there]
        common = np.random.default_rng(7).normal(size=truth.shape)
        for source in sources:
            signal = SIGNAL.get(source, SIGNAL[chart] if source in ("none", "image+chart") else 1.0)
            rng = np.random.default_rng([seed, len(source), len(chart)])
            strength = np.array([STRENGTH.get(label, 0.8) for label in LABELS])
            score = np.nan_to_num(truth, nan=0.5) * strength * signal + 0.85 * common
            score = score + 0.45 * rng.normal(size=truth.shape)
            base = {"run": run.name, "chart": chart, "control": source, "dataset": dataset, "protocol": "linear"}
            base |= {"split": "test", "fraction": 1.0, "seed": seed, "uncertain": "ignore", "blank": "negative"}
            kept = np.flatnonzero(enough)
            ends = metrics.bootstrap(truth[:, kept], score[:, kept], patients, resamples=resamples)
            for metric, point, low, high in (
                ("auroc", metrics.auroc(truth, score), ends.auroc_low, ends.auroc_high),
                (
                    "auprc",
                    metrics.average_precision(truth, score),
                    ends.average_precision_low,
                    ends.average_precision_high,
                ),
            ):
                for place, label in enumerate(LABELS):
                    there = bool(enough[place])
                    at = int(np.searchsorted(kept, place))
                    known = ~np.isnan(truth[:, place])
                    rows.append(
                        base
                        | {
                            "label": label,
                            "metric": metric,
                            "value": None if np.isnan(point[place]) else float(point[place]),
                            "ci_low": float(low[at]) if there else None,
                            "ci_high": float(high[at]) if there else None,
                            "n": int(known.sum()),
                            "n_positive": int(np.nansum(truth[:, place])),
                            "reason": None if there else "too few patients",
                        }
                    )
                mean = float(point[kept].mean())
                macro = {"label": "macro", "metric": metric, "value": mean, "n": len(test), "n_positive": None}
                macro |= {"ci_low": mean - 0.03, "ci_high": mean + 0.03, "reason": None}
                rows.append(base | macro)
            arm = {"chart": [chart] * len(test) * len(LABELS), "control": [source] * len(test) * len(LABELS)}
            ids = np.array(cohort["image_id"].to_pylist())[test]
            predictions.append(
                pa.table(
                    {
                        "dataset": [dataset] * len(test) * len(LABELS),
                        **arm,
                        "image_id": np.repeat(ids, len(LABELS)),
                        "patient_id": np.repeat(patients, len(LABELS)),
                        "label": list(LABELS) * len(test),
                        "truth": truth.reshape(-1),
                        "score": score.reshape(-1),
                    }
                )
            )
            if source in (control, "untrained"):
                hidden = np.concatenate([score, rng.normal(size=(len(test), 9))], axis=1).astype(np.float32)
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(hidden.reshape(-1)), hidden.shape[1])
                table = {
                    "dataset": [dataset] * len(test),
                    "chart": [chart] * len(test),
                    "control": [source] * len(test),
                }
                embeddings.append(pa.table({**table, "image_id": ids, "embedding": vectors}))
        of = {
            row["control"]: row["value"]
            for row in rows
            if (row["dataset"], row["label"], row["metric"]) == (dataset, "macro", "auroc")
        }
        for source in sources[1:]:
            gap = of[control] - of[source]
            pair = {"a": {"chart": chart, "control": control}, "b": {"chart": chart, "control": source}, "p": 0.01}
            pair |= {"dataset": dataset, "label": "macro", "metric": "auroc", "difference": gap, "seeds": 1}
            comparisons.append(pair | {"ci_low": gap - 0.03, "ci_high": gap + 0.03})
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in comparisons))
    (folder / "evaluation.json").write_text(json.dumps({"resamples": 1000, "macro_labels": macro_labels}))
    pq.write_table(pa.concat_tables(predictions), folder / "predictions.parquet")
    pq.write_table(pa.concat_tables(embeddings), folder / "embeddings.parquet")
    return folder


def hospital(root: Path, *, films: int = 120, seeds: int = 1, arms: int = 3) -> dict[str, list[Path]]:
    """Three data sets, `arms` of chart, none and shuffled, `seeds` of each: the folders by kind."""
    rng = np.random.default_rng(3)
    stores = {name: write_store(root / f"store-{name}", name, films, rng) for name in ("mimic", "chexpert", "nih")}
    runs, results = [], []
    for chart, control in (("demographic-norm", "none"), ("none", "none"), ("demographic-norm", "shuffled"))[:arms]:
        for seed in range(seeds):
            name = f"{chart}-{control}-{seed}"
            runs.append(write_run(root / f"run-{name}", stores["mimic"], chart, control, seed))
            results.append(write_results(root / f"results-{name}", runs[-1], stores, seed))
    return {"runs": runs, "results": results, "stores": [store.folder for store in stores.values()]}
