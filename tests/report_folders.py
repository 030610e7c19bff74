"""Run, results and store folders for the report's tests: every number in them is computed from simulated patients."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from chartray.evaluation.results import RESULTS_FORMAT

from chartray.outputs.json_file import write_json
from chartray.outputs.seal import seal
from chartray.pixels.shard_file import write_shard
from chartray.pixels.store import Store
from chartray.pixels.store_writing import complete
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata
from chartray.statistics import metrics

LABELS = ("Atelectasis", "Edema", "Fracture", "No Finding")
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
    cohort = pa.table(columns).replace_schema_metadata(to_metadata(metadata))
    quarantined = {
        "image_id": ["q1", "q2"],
        "path": [f"/data/p10/{patient[0]}/s1/q1.jpg", "/data/q2.jpg"],
        "reason": [f"truncated file /data/p10/{patient[0]}/s1/q1.jpg", "empty file /data/q2.jpg"],
    }
    shard, digests = write_shard(folder / "images-00000.arrow", ids, images)
    complete(folder, SIDE, [shard], digests, cohort, quarantine=pa.table(quarantined))
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
    write_json(folder / "manifest.json", manifest)
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


def write_results(
    folder: Path,
    run: Path,
    stores: dict[str, Store],
    seed: int,
    *,
    resamples: int = 60,
    floors: bool = True,
    fractions: tuple[float, ...] = (1.0,),
    evidence: bool = False,
) -> Path:
    """What an evaluation writes: simulated scores, and values, intervals and differences computed from them.

    With `evidence` also calibration, operating points, studies and DeLong's intervals.
    """
    folder.mkdir(parents=True)
    manifest = json.loads((run / "manifest.json").read_text())
    chart, control = manifest["chart"], manifest["control"]
    read = chart if chart != "none" else "demographic-norm"
    arms = [(control, chart)]
    arms += [("untrained", "none"), ("pixels", "none"), ("chart-only", read), ("image+chart", read)] if floors else []
    rows, pairs, predictions, embeddings, entries = [], [], [], [], []
    studies, curves = [], []
    for dataset, store in stores.items():
        films = _test_films(store)
        drawn = {}
        same = {"run": run.name, "dataset": dataset, "protocol": "linear", "split": "test", "fraction": 1.0}
        for arm in arms:
            scores = _scores(films.truth, arm, chart, seed)
            drawn[arm] = _judged(films, scores, resamples)
            named = same | {"control": arm[0], "chart": arm[1]}
            more = {"seed": 0, "run_seed": seed, "uncertain": "ignore", "blank": "negative", "resamples": resamples}
            rows += [named | more | row for row in _result_rows(films, drawn[arm])]
            predictions.append(_predictions(films, scores, named))
            for fraction in fractions:
                if fraction < 1:
                    weaker = _judged(films, _scores(films.truth, arm, chart, seed, 0.4 + 0.5 * fraction), resamples)
                    fewer = {"fraction": fraction, "draws": 5, "holds_fixed": "holds the pretrained encoder fixed"}
                    rows += [named | more | row | fewer for row in _result_rows(films, weaker)]
            if evidence:
                rows += [named | more | row for row in _operating_rows(films, scores)]
                curves += [named | row for row in _reliability_rows(films, scores)]
                studies += [named | more | row | {"unit": "study"} for row in _study_rows(films, scores, resamples)]
        for arm in arms[1:]:
            names = {"a": run.name, "b": arm[0], "control_a": control, "chart_a": chart, "control_b": arm[0]}
            pairs.append(same | names | {"chart_b": arm[1], "seeds": 1} | _difference(drawn[arms[0]], drawn[arm]))
        embeddings.append(_embeddings(store, dataset, seed + 10 * len(chart) + 100 * len(control)))
        entries.append(
            {"dataset": dataset, "path": str(store.folder), "hash": store.hash, "unmatched": ["Lung Lesion"]}
        )
    settings = {"protocol": "linear", "split": "test", "uncertain": "ignore", "blank": "negative", "seed": 0}
    evaluation = {"format": RESULTS_FORMAT, "run": run.name, "settings": settings, "stores": entries}
    evaluation |= {"command": ["chartray", "evaluate", "RUN", "STORE"], "left_out": {}, "notes": []}
    evaluation |= {"after_film": manifest["after_film"], "encoder": {"provenance": {"chart_use": "anchor"}}}
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, lines in (("studies.jsonl", studies), ("calibration.jsonl", curves)):
        if lines:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    pq.write_table(pa.concat_tables(predictions), folder / "predictions.parquet")
    pq.write_table(pa.concat_tables(embeddings), folder / "embeddings.parquet")
    seal(folder)
    return folder


class TestFilms(NamedTuple):
    """The test films of a store."""

    __test__ = False

    ids: list[str]
    patients: np.ndarray
    truth: np.ndarray
    counted: np.ndarray


class Judged(NamedTuple):
    """Macro and per-label values of an arm with the resamples behind their intervals."""

    values: dict[str, np.ndarray]
    resamples: metrics.Resamples
    counted: np.ndarray


def _test_films(store: Store) -> TestFilms:
    cohort = store.cohort
    test = np.flatnonzero(np.array(cohort["split"].to_pylist()) == "test")
    truth = np.stack([cohort[f"label.{label}"].to_numpy()[test] for label in LABELS], axis=1)
    truth = np.where(np.isnan(truth), 0.0, np.where(truth == -1, np.nan, truth))
    patients = np.array(cohort["patient_id"].to_pylist())[test]
    ids = np.array(cohort["image_id"].to_pylist())[test].tolist()
    return TestFilms(ids, patients, truth, metrics.eligible(truth, patients))


def _scores(truth: np.ndarray, arm: tuple[str, str], chart: str, seed: int, share: float = 1.0) -> np.ndarray:
    signal = SIGNAL.get(arm[0], SIGNAL[chart]) * share
    strength = np.array([STRENGTH.get(label, 0.8) for label in LABELS])
    common = np.random.default_rng(7).normal(size=truth.shape)
    # The floors do not know beside which run they are scored.
    which = [0, len(arm[0])] if arm[0] in ("untrained", "pixels", "chart-only") else [seed, len(arm[0]), len(chart)]
    own = np.random.default_rng(which).normal(size=truth.shape)
    return np.nan_to_num(truth, nan=0.5) * strength * signal + 0.85 * common + 0.45 * own


def _judged(films: TestFilms, scores: np.ndarray, resamples: int) -> Judged:
    values = {
        "auroc": metrics.auroc(films.truth, scores),
        "average_precision": metrics.average_precision(films.truth, scores),
    }
    drawn = metrics.resample(films.truth, scores, films.patients, resamples=resamples, macro=films.counted)
    return Judged(values, drawn, films.counted)


def _result_rows(films: TestFilms, judged: Judged) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for metric, values in judged.values.items():
        low, high = metrics.percentiles(getattr(judged.resamples, metric), 0.95)
        for place, label in enumerate(LABELS):
            row: dict[str, object] = {"label": label, "metric": metric, "value": _number(values[place])}
            enough = bool(films.counted[place])
            row |= {
                "ci_low": _number(low[place]) if enough else None,
                "ci_high": _number(high[place]) if enough else None,
            }
            row |= {"n": int((~np.isnan(films.truth[:, place])).sum()), "labels": None}
            row |= {
                "n_positive": int(np.nansum(films.truth[:, place])),
                "reason": None if enough else "too few patients",
            }
            rows.append(row)
        low, high = metrics.percentiles(getattr(judged.resamples, f"macro_{metric}"), 0.95)
        macro = {"label": "macro", "metric": metric, "value": _number(values[films.counted].mean()), "n_positive": None}
        macro |= {"ci_low": _number(low), "ci_high": _number(high), "n": len(films.ids), "reason": None}
        rows.append(macro | {"labels": [label for label, one in zip(LABELS, films.counted, strict=True) if one]})
    return rows


def _probabilities(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(1.5 - scores))


def _operating_rows(films: TestFilms, scores: np.ndarray) -> list[dict[str, object]]:
    """Brier score, calibration error, and what the threshold of 90 % specificity reaches, per label and macro."""
    rows: list[dict[str, object]] = []
    found: dict[str, list[float]] = {name: [] for name in ("brier", "ece", "sensitivity", "specificity")}
    for place in range(len(LABELS)):
        known = ~np.isnan(films.truth[:, place])
        truth, score = films.truth[known, place], _probabilities(scores[known, place])
        threshold = float(np.quantile(score[truth == 0][::2], 0.9))
        bins = np.array_split(np.argsort(score), 10)
        gaps = [abs(score[rows_].mean() - truth[rows_].mean()) * len(rows_) / len(score) for rows_ in bins]
        found["brier"].append(float(np.mean((score - truth) ** 2)))
        found["ece"].append(float(np.sum(gaps)))
        found["sensitivity"].append(float((score[truth == 1] > threshold).mean()))
        found["specificity"].append(float((score[truth == 0] <= threshold).mean()))
    for metric, values in found.items():
        at = {"at_specificity": 0.9} if metric in ("sensitivity", "specificity") else {}
        for label, value in zip(LABELS, values, strict=True):
            few = None if films.counted[LABELS.index(label)] else "too few patients"
            more = {"ci_low": value - 0.03, "ci_high": value + 0.03} if few is None else {}
            row: dict[str, object] = {"label": label, "metric": metric, "value": value, "n": len(films.ids)}
            rows.append(row | more | at | {"n_positive": 9, "reason": few})
        macro = float(np.mean(np.array(values)[films.counted]))
        labels = [label for label, one in zip(LABELS, films.counted, strict=True) if one]
        rows.append({"label": "macro", "metric": metric, "value": macro, "n": len(films.ids), "labels": labels} | at)
    return rows


def _reliability_rows(films: TestFilms, scores: np.ndarray) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for place, label in enumerate(LABELS):
        known = ~np.isnan(films.truth[:, place])
        truth, score = films.truth[known, place], _probabilities(scores[known, place])
        for number, here in enumerate(np.array_split(np.argsort(score), 10)):
            rate, spread = float(truth[here].mean()), 1.96 * float(np.sqrt(0.25 / len(here)))
            ends = {"ci_low": max(rate - spread, 0), "ci_high": min(rate + spread, 1)} if films.counted[place] else {}
            row: dict[str, object] = {"label": label, "bin": number, "n": len(here)}
            rows.append(row | {"score": float(score[here].mean()), "observed": rate} | ends)
    return rows


def _study_rows(films: TestFilms, scores: np.ndarray, resamples: int) -> list[dict[str, object]]:
    """Both films of a patient as one study."""
    patients, codes = np.unique(films.patients, return_inverse=True)
    mean = np.stack([scores[codes == study].mean(axis=0) for study in range(len(patients))])
    truth = np.stack([np.nanmax(np.nan_to_num(films.truth[codes == study]), axis=0) for study in range(len(patients))])
    whole = TestFilms([f"s{one}" for one in range(len(patients))], patients, truth, metrics.eligible(truth, patients))
    return _result_rows(whole, _judged(whole, mean, resamples))


def _difference(a: Judged, b: Judged) -> dict[str, object]:
    gap = a.values["auroc"][a.counted].mean() - b.values["auroc"][b.counted].mean()
    found = metrics.difference(gap, a.resamples.macro_auroc - b.resamples.macro_auroc)
    row: dict[str, object] = {"label": "macro", "metric": "auroc", "difference": _number(found.value)}
    return row | {"ci_low": _number(found.low), "ci_high": _number(found.high), "p": _number(found.p)}


def _predictions(films: TestFilms, scores: np.ndarray, named: dict[str, object]) -> pa.Table:
    rows = films.truth.size
    same = {name: [named[name]] * rows for name in ("dataset", "split", "run", "control", "chart", "fraction")}
    columns = {
        "image_id": np.repeat(np.array(films.ids, dtype=object), len(LABELS)),
        "patient_id": np.repeat(films.patients.astype(object), len(LABELS)),
        "label": list(LABELS) * len(films.ids),
        "truth": pa.array(films.truth.reshape(-1), pa.float64(), mask=np.isnan(films.truth.reshape(-1))),
        "score": scores.reshape(-1),
    }
    return pa.table(columns | same)


def _embeddings(store: Store, dataset: str, seed: int) -> pa.Table:
    cohort = store.cohort
    rng = np.random.default_rng(seed)
    edema = np.nan_to_num(cohort["label.Edema"].to_numpy(), nan=0.0)
    male = np.array([one == "male" for one in cohort["ehr.sex"].to_pylist()], dtype=float)
    hidden = rng.normal(size=(len(store), 12)) + np.outer(edema * 2, rng.normal(size=12)) + np.outer(male, np.ones(12))
    flat = pa.array(hidden.astype(np.float32).reshape(-1))
    columns = {name: cohort[name] for name in ("split", "image_id", "patient_id")}
    return pa.table(
        {"dataset": [dataset] * len(store), **columns, "embedding": pa.FixedSizeListArray.from_arrays(flat, 12)}
    )


def _number(value: object) -> float | None:
    number = float(value)
    return None if np.isnan(number) else number


def write_audit(folder: Path, runs: list[Path], store: Store, *, leaking: bool = False) -> Path:
    """What an audit of several runs writes: two attributes, three groups of which one is too small, one taken out."""
    folder.mkdir(parents=True)
    films = _test_films(store)
    male = np.array([one == "male" for one in store.cohort["ehr.sex"].to_pylist()], float)
    test = np.flatnonzero(np.array(store.cohort["split"].to_pylist()) == "test")
    arms = []
    for run in runs:
        manifest = json.loads((run / "manifest.json").read_text())
        arms.append((run.name, manifest["chart"], manifest["control"]))
    arms += [(runs[0].name, "none", "untrained"), (runs[0].name, "none", "pixels")]
    rows: list[dict[str, object]] = []
    for place, (run, chart, control) in enumerate(arms):
        arm = {"run": run, "chart": chart, "control": control, "dataset": "mimic", "n": len(films.ids)}
        rng = np.random.default_rng(place)
        signal = 1.4 if chart != "none" and control == "none" else 0.8
        score = male[test] * signal + rng.normal(size=len(test))
        area = float(metrics.auroc(male[test][:, None], score[:, None])[0])
        ends = {"ci_low": area - 0.04, "ci_high": min(area + 0.04, 1.0), "n_patients": len(np.unique(films.patients))}
        sex = arm | {"part": "readability", "attribute": "sex"}
        rows.append(sex | {"level": None, "metric": "auroc", "value": area} | ends)
        rows.append(sex | {"attribute": "age", "level": None, "metric": "r2", "value": area - 0.5, "ci_low": None})
        rows.append(sex | {"attribute": "age", "level": None, "metric": "mae", "value": 12 * (1.2 - area)})
        if control in ("untrained", "pixels"):
            continue
        for group, patients in (("male", 60), ("female", 48), ("other", 4)):
            few = "fewer than 10 patients: suppressed" if patients < 10 else None
            same = arm | {"part": "group", "attribute": "sex", "group": group, "label": "macro", "n_patients": patients}
            for metric, value in (("auroc", area), ("calibration", area - 0.7), ("false_negative_rate", 1 - area)):
                inside = {"value": value, "ci_low": value - 0.05, "ci_high": value + 0.05} if few is None else {}
                rows.append(same | {"metric": metric, "reason": few} | inside)
        gap = {"part": "group", "attribute": "sex", "group": None, "label": "macro", "metric": "gap", "of": "auroc"}
        gap |= {"value": 0.02, "ci_low": 0.002, "ci_high": 0.07, "expected_high": 0.06, "p": 0.4}
        rows.append(arm | gap | {"largest": "male", "smallest": "female"})
        after = {"label": "macro", "before": area, "after": area - 0.01, "difference": -0.01, "ci_low": -0.03}
        after |= {"ci_high": 0.004, "directions": 1, "attribute_before": area, "attribute_after": 0.5}
        rows.append(arm | {"part": "removed", "attribute": "sex"} | after)
    for other in arms[1:]:
        pair = {"part": "difference", "a": arms[0][0], "chart_a": arms[0][1], "control_a": arms[0][2], "b": other[0]}
        pair |= {"chart_b": other[1], "control_b": other[2], "dataset": "mimic", "attribute": "sex", "metric": "auroc"}
        pair |= {"difference": 0.03, "ci_low": -0.01, "ci_high": 0.07, "p": 0.1, "p_holm": 0.2}
        rows.append(pair | {"verdict": "no difference shown", "claim": "no claim: fewer than 3 seeds"})
    names = [store.cohort[column].to_pylist()[0] for column in ("image_id", "patient_id")]
    leak = {
        "kind": "patient",
        "between": ["pretraining", "mimic:test"],
        "count": 3,
        "examples": names,
        "distance": None,
    }
    (folder / "audit.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "leaks.jsonl").write_text(json.dumps(leak) + "\n" if leaking else "")
    manifest = {"format": RESULTS_FORMAT, "stores": [{"dataset": "mimic"}], "notes": ["one note"], "encoders": []}
    (folder / "audit.json").write_text(json.dumps(manifest))
    seal(folder)
    return folder


def hospital(
    root: Path,
    *,
    films: int = 120,
    seeds: int = 1,
    arms: int = 3,
    datasets: int = 3,
    evidence: bool = False,
    fractions: tuple[float, ...] = (1.0,),
) -> dict[str, list[Path]]:
    """Three data sets, `arms` of chart, none and shuffled, `seeds` of each: the folders by kind."""
    rng = np.random.default_rng(3)
    stores = {
        name: write_store(root / f"store-{name}", name, films, rng) for name in ("mimic", "chexpert", "nih")[:datasets]
    }
    runs, results = [], []
    for chart, control in (("demographic-norm", "none"), ("none", "none"), ("demographic-norm", "shuffled"))[:arms]:
        for seed in range(seeds):
            name = f"{chart}-{control}-{seed}"
            runs.append(write_run(root / f"run-{name}", stores["mimic"], chart, control, seed))
            folder = root / f"results-{name}"
            results.append(write_results(folder, runs[-1], stores, seed, evidence=evidence, fractions=fractions))
    audits = [write_audit(root / "audit", runs, stores["mimic"])] if evidence else []
    folders = [store.folder for store in stores.values()]
    return {"runs": runs, "results": results, "stores": folders, "audits": audits}
