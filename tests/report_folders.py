"""Run, results and store folders for the report's tests: every number in them is computed from simulated patients."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import yaml

from chartray.config import pretrain as knobs_of
from chartray.networks.description import Provenance
from chartray.outputs.json_file import read_json, write_json
from chartray.outputs.seal import sha256
from chartray.pixels.shard_file import write_shard
from chartray.pixels.store import Store
from chartray.pixels.store_writing import complete
from chartray.results.arm import Arm, arm_of
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, AuditRow, Leak, RemovalRow, SubgroupRow
from chartray.results.folder import (
    AUDIT_FILE,
    AUDIT_ROWS_FILE,
    CALIBRATION_FILE,
    COMPARE_FILE,
    COMPARISONS_FILE,
    EMBEDDINGS_FILE,
    LEAKS_FILE,
    MANIFEST_FILE,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    STUDIES_FILE,
    ImageNames,
    embedding_table,
    prediction_table,
    write_manifest,
    write_parquet,
    write_rows,
    written_folder,
)
from chartray.results.manifest import (
    AuditManifest,
    ComparisonManifest,
    EncoderEntry,
    EvaluationManifest,
    MemberEntry,
    Settings,
    StoreEntry,
)
from chartray.results.schema import MACRO, CalibrationBin, Comparison, Score
from chartray.results.verdict import verdict, why_no_claim
from chartray.schema import CohortMetadata, LabelSource, Variable, to_metadata
from chartray.statistics import metrics

LABELS = ("Atelectasis", "Edema", "Fracture", "No Finding")
SIDE = 96
# How well an arm's scores follow the truth; the controls are as good as no chart, the baselines are worse.
SIGNAL = {"none": 1.0, "demographic-norm": 1.05, "shuffled": 0.98, "untrained": 0.55, "pixels": 0.5, "chart-only": 0.3}
SETTINGS = Settings(protocol="linear", split="test", uncertain="ignore", blank="negative")
STRENGTH = {"Atelectasis": 0.5, "Cardiomegaly": 1.3, "Edema": 1.1, "Fracture": 0.25, "No Finding": 0.9}


def write_store(folder: Path, source: str, images: int, rng: np.random.Generator) -> Store:
    """A store of drawn images with a cohort of two images a patient; identifiers look like hospital numbers."""
    folder.mkdir(parents=True)
    patients = [f"p1{int(number):07d}" for number in rng.integers(0, 10**7, images // 2 + 1)]
    ids = [f"{source}-{int(number):08x}" for number in rng.choice(2**31, images, replace=False)]
    patient = [patients[row // 2] for row in range(images)]
    split = [("train", "validate", "test", "test")[(row // 2) % 4] for row in range(images)]
    age = np.clip(rng.normal(61, 17, images), 16, 100).round()
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pixels = np.empty((images, SIDE, SIDE), np.uint8)
    for row in range(images):
        lungs = sum(np.exp(-(((x - side) / 0.15) ** 2 + ((y - 0.45) / 0.28) ** 2) * 2) for side in (0.3, 0.7))
        heart = np.exp(-(((x - 0.56) / (0.12 + 0.1 * rng.random())) ** 2 + ((y - 0.62) / 0.2) ** 2))
        pixels[row] = np.clip(190 - 150 * lungs + 60 * heart + rng.normal(0, 6, (SIDE, SIDE)), 0, 255)
    columns = {
        "image_id": ids,
        "patient_id": patient,
        "path": [f"/images/{one}.jpg" for one in ids],
        "split": split,
        "ehr.sex": [None if rng.random() < 0.05 else ("male", "female")[int(rng.random() < 0.48)] for _ in ids],
        "ehr.age": pa.array([None if rng.random() < 0.08 else float(one) for one in age], pa.float64()),
        "ehr.view": [("PA", "AP", "LATERAL")[int(rng.integers(3))] for _ in ids],
        "ehr.mortality": [None if rng.random() < 0.4 else ("alive", "died")[int(rng.random() < 0.1)] for _ in ids],
        "height": pa.array([2544] * images, pa.int32()),
        "width": pa.array([3056 if rng.random() < 0.3 else 2080 for _ in ids], pa.int32()),
    }
    for label in LABELS:
        share = 0.02 if label == "Fracture" else 0.3
        values = np.where(rng.random(images) < share, 1.0, 0.0)
        values[rng.random(images) < 0.06] = -1.0
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
    shard, digests = write_shard(folder / "images-00000.arrow", ids, pixels)
    complete(folder, SIDE, [shard], digests, cohort, quarantine=pa.table(quarantined))
    return Store.open(folder)


def write_run(folder: Path, store: Store, chart: str, control: str, seed: int, steps: int = 120) -> Path:
    """A run folder whose curves fall and flatten as those of a healthy run do."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed + len(chart) + len(control))
    knobs = knobs_of.load(
        "tiny-cpu", overrides={"chart.ehr": chart, "chart.control": control, "train.steps": steps, "seed": seed}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(knobs.model_dump(mode="json")))
    flow = {
        "source": "mimic",
        "release": "2.2",
        "rules": "strict",
        "steps": [
            {"step": "images in the metadata", "rows_in": len(store) + 60, "rows_out": len(store) + 60, "why": ""},
            {"step": "known view", "rows_in": len(store) + 60, "rows_out": len(store) + 2, "why": "view is XTABLE"},
            {"step": "readable", "rows_in": len(store) + 2, "rows_out": len(store), "why": "truncated or empty"},
        ],
        "links": {"linked": 320, "by_emergency_registration": 41, "before_admission": 22, "no_record": 57, "ties": 3},
        "missing": {"sex": {"?": 3}, "age": {"absent": 9}},
        "absent_labels": ["Lung Lesion"],
    }
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
    manifest = {
        "chartray": "0.1.0",
        "torch": "2.9.1",
        "timm": "1.0.22",
        "command": f"chartray pretrain STORE --ehr {chart} --control {control} --seed {seed}",
        "git_commit": "f7d5035c0ffee",
        "status": "complete",
        "store": str(store.folder),
        "store_hash": store.hash,
        "source": "mimic",
        "simulated": False,
        "chart": chart,
        "chart_use": "anchor" if chart != "none" else None,
        "control": control,
        "objective": "msn",
        "settings_hash": "1f" * 32,
        "after_film": ["mortality"] if "mortality" in chart else [],
        "ehr_in": 5 if chart != "none" else 0,
        "seed": seed,
        "recipe": "tiny-cpu",
        "films": 210,
        "patients": 105,
        "steps": steps,
        "warmup_steps": 12,
        "peak_learning_rate": 0.001,
        "flow": flow,
        "config_sha256": sha256(folder / "config.yaml"),
        "metrics_sha256": sha256(folder / "metrics.jsonl"),
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def encoder_of(run: Path) -> EncoderEntry:
    """The encoder of a run, as manifests of results have it."""
    said = read_json(run / "manifest.json", "a run")
    names = {*Provenance.model_fields, "simulated", "steps", "films"}
    provenance = {name: value for name, value in said.items() if name in names} | {"run": run.name}
    return EncoderEntry(run=run.name, path=str(run), provenance=Provenance(**provenance))


def write_results(
    folder: Path,
    run: Path,
    stores: dict[str, Store],
    seed: int,
    *,
    resamples: int = 60,
    baselines: bool = True,
    fractions: tuple[float, ...] = (1.0,),
    evidence: bool = False,
    read: str = "demographic-norm",
) -> Path:
    """What an evaluation writes: simulated scores, and values, intervals and differences computed from them.

    With `evidence` also calibration, operating points and studies. `read` is the chart of the baselines of runs
    without one.
    """
    encoder = encoder_of(run)
    base, home = encoder.arm, next(iter(stores))
    read = base.chart if base.chart != "none" else read
    others = (("none", "untrained"), ("none", "pixels"), (read, "chart-only"), (read, "image+chart"))
    arms = [base, *(arm_of(*one, base=base) for one in others if baselines)]
    rows: list[Score] = []
    studies: list[Score] = []
    curves: list[CalibrationBin] = []
    pairs: list[Comparison] = []
    predictions, embeddings = [], []
    for dataset, store in stores.items():
        images = _test_images(store)
        drawn = {}
        same = {"home": home, "dataset": dataset, "protocol": "linear", "split": "test"}
        policy = {"uncertain": "ignore", "blank": "negative"}
        for arm in arms:
            scores = _scores(images.truth, arm, base.chart, seed)
            drawn[arm] = _measured(images, scores, resamples)
            about = Score(
                **same,
                **policy,
                arm=arm,
                run=run.name,
                store=store.folder.name,
                label="",
                metric="",
                seed=0,
                run_seed=seed,
                resamples=resamples,
            )
            rows += _result_rows(images, drawn[arm], about)
            predictions.append(_predictions(images, scores, about))
            for fraction in fractions:
                if fraction < 1:
                    weaker = _scores(images.truth, arm, base.chart, seed, 0.4 + 0.5 * fraction)
                    fewer = about.replaced(fraction=fraction, draws=5, holds_fixed="holds the pretrained encoder fixed")
                    rows += _result_rows(images, _measured(images, weaker, resamples), fewer)
            if evidence:
                rows += _operating_rows(images, scores, about)
                of_arm = {"arm": arm, "run": run.name, "home": home}
                curves += _reliability_rows(images, scores, {**of_arm, **same})
                studies += _study_rows(images, scores, resamples, about.replaced(unit="study"))
        for arm in arms[1:]:
            about = {**same, **policy, "arm_a": base, "arm_b": arm, "a": run.name, "b": arm.control, "run_seed": seed}
            pairs.append(_difference(drawn[base], drawn[arm], about))
        embeddings.append(_embeddings(store, dataset, seed + 10 * len(base.chart) + 100 * len(base.control)))
    manifest = EvaluationManifest(
        run=run.name,
        encoder=encoder,
        stores=tuple(
            StoreEntry(dataset=dataset, path=str(store.folder), hash=store.hash, unmatched=("Lung Lesion",))
            for dataset, store in stores.items()
        ),
        settings=SETTINGS,
        command=("chartray", "evaluate", "RUN", "STORE"),
        after_film=tuple(encoder.provenance.after_film),
        labels=LABELS,
    )
    with written_folder(folder, MANIFEST_FILE) as out:
        write_rows(out, RESULTS_FILE, rows)
        write_rows(out, COMPARISONS_FILE, pairs)
        if evidence:
            write_rows(out, STUDIES_FILE, studies)
            write_rows(out, CALIBRATION_FILE, curves)
        write_parquet(out / PREDICTIONS_FILE, predictions)
        write_parquet(out / EMBEDDINGS_FILE, embeddings)
        write_manifest(out, manifest)
    return folder


class TestImages(NamedTuple):
    """The test images of a store."""

    __test__ = False

    ids: list[str]
    patients: np.ndarray
    truth: np.ndarray
    counted: np.ndarray


class Measured(NamedTuple):
    """Macro and per-label values of an arm with the resamples behind their intervals."""

    values: dict[str, np.ndarray]
    resamples: metrics.Resamples
    counted: np.ndarray


def _test_images(store: Store) -> TestImages:
    cohort = store.cohort
    test = np.flatnonzero(np.array(cohort["split"].to_pylist()) == "test")
    truth = np.stack([cohort[f"label.{label}"].to_numpy()[test] for label in LABELS], axis=1)
    truth = np.where(np.isnan(truth), 0.0, np.where(truth == -1, np.nan, truth))
    patients = np.array(cohort["patient_id"].to_pylist())[test]
    ids = np.array(cohort["image_id"].to_pylist())[test].tolist()
    return TestImages(ids, patients, truth, metrics.eligible(truth, patients))


def _scores(truth: np.ndarray, arm: Arm, chart: str, seed: int, share: float = 1.0) -> np.ndarray:
    signal = SIGNAL.get(arm.control if arm.control != "none" else chart, SIGNAL["demographic-norm"]) * share
    strength = np.array([STRENGTH.get(label, 0.8) for label in LABELS])
    common = np.random.default_rng(7).normal(size=truth.shape)
    # These baselines do not depend on the run that they are scored beside.
    same = arm.control in ("untrained", "pixels", "chart-only")
    which = [0, len(arm.control)] if same else [seed, len(arm.control), len(chart)]
    own = np.random.default_rng(which).normal(size=truth.shape)
    return np.nan_to_num(truth, nan=0.5) * strength * signal + 0.85 * common + 0.45 * own


def _measured(images: TestImages, scores: np.ndarray, resamples: int) -> Measured:
    values = {
        "auroc": metrics.auroc(images.truth, scores),
        "average_precision": metrics.average_precision(images.truth, scores),
    }
    drawn = metrics.resample(images.truth, scores, images.patients, resamples=resamples, macro=images.counted)
    return Measured(values, drawn, images.counted)


def _result_rows(images: TestImages, measured: Measured, about: Score) -> list[Score]:
    rows: list[Score] = []
    counted = tuple(label for label, one in zip(LABELS, images.counted, strict=True) if one)
    for metric, values in measured.values.items():
        low, high = metrics.percentiles(getattr(measured.resamples, metric), 0.95)
        for place, label in enumerate(LABELS):
            enough = bool(images.counted[place])
            row = about.replaced(label=label, metric=metric, value=float(values[place]))
            ends = {"ci_low": float(low[place]), "ci_high": float(high[place])} if enough else {}
            truth = images.truth[:, place]
            counts = {"n": int((~np.isnan(truth)).sum()), "n_positive": int(np.nansum(truth))}
            rows.append(row.replaced(**ends, **counts, reason=None if enough else "too few patients"))
        low, high = metrics.percentiles(getattr(measured.resamples, f"macro_{metric}"), 0.95)
        macro = about.replaced(label=MACRO, metric=metric, value=float(values[images.counted].mean()), labels=counted)
        rows.append(macro.replaced(ci_low=float(low), ci_high=float(high), n=len(images.ids)))
    return rows


def _probabilities(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(1.5 - scores))


def _operating_rows(images: TestImages, scores: np.ndarray, about: Score) -> list[Score]:
    """Brier score, calibration error, and what the threshold of 90 % specificity reaches, per label and macro."""
    rows: list[Score] = []
    found: dict[str, list[float]] = {name: [] for name in ("brier", "ece", "sensitivity", "specificity")}
    for place in range(len(LABELS)):
        known = ~np.isnan(images.truth[:, place])
        truth, score = images.truth[known, place], _probabilities(scores[known, place])
        threshold = float(np.quantile(score[truth == 0][::2], 0.9))
        bins = np.array_split(np.argsort(score), 10)
        gaps = [abs(score[rows_].mean() - truth[rows_].mean()) * len(rows_) / len(score) for rows_ in bins]
        found["brier"].append(float(np.mean((score - truth) ** 2)))
        found["ece"].append(float(np.sum(gaps)))
        found["sensitivity"].append(float((score[truth == 1] > threshold).mean()))
        found["specificity"].append(float((score[truth == 0] <= threshold).mean()))
    counted = tuple(label for label, one in zip(LABELS, images.counted, strict=True) if one)
    for metric, values in found.items():
        at = 0.9 if metric in ("sensitivity", "specificity") else None
        of_metric = about.replaced(metric=metric, at_specificity=at, n=len(images.ids))
        for label, value in zip(LABELS, values, strict=True):
            row = of_metric.replaced(label=label, value=value, n_positive=9)
            enough = label in counted
            ends = {"ci_low": value - 0.03, "ci_high": value + 0.03} if enough else {"reason": "too few patients"}
            rows.append(row.replaced(**ends))
        macro = float(np.mean(np.array(values)[images.counted]))
        rows.append(of_metric.replaced(label=MACRO, value=macro, labels=counted))
    return rows


def _reliability_rows(images: TestImages, scores: np.ndarray, about: dict[str, object]) -> list[CalibrationBin]:
    rows: list[CalibrationBin] = []
    for place, label in enumerate(LABELS):
        known = ~np.isnan(images.truth[:, place])
        truth, score = images.truth[known, place], _probabilities(scores[known, place])
        for number, here in enumerate(np.array_split(np.argsort(score), 10)):
            rate, spread = float(truth[here].mean()), 1.96 * float(np.sqrt(0.25 / len(here)))
            ends = {"ci_low": max(rate - spread, 0.0), "ci_high": min(rate + spread, 1.0)}
            row = CalibrationBin(
                **about, label=label, bin=number, bins=10, n=len(here), score=float(score[here].mean()), observed=rate
            )
            rows.append(row.replaced(**ends) if images.counted[place] else row)
    return rows


def _study_rows(images: TestImages, scores: np.ndarray, resamples: int, about: Score) -> list[Score]:
    """Both images of a patient as one study."""
    patients, codes = np.unique(images.patients, return_inverse=True)
    mean = np.stack([scores[codes == study].mean(axis=0) for study in range(len(patients))])
    truth = np.stack([np.nanmax(np.nan_to_num(images.truth[codes == study]), axis=0) for study in range(len(patients))])
    whole = TestImages([f"s{one}" for one in range(len(patients))], patients, truth, metrics.eligible(truth, patients))
    return _result_rows(whole, _measured(whole, mean, resamples), about)


def _difference(a: Measured, b: Measured, about: dict[str, object]) -> Comparison:
    gap = a.values["auroc"][a.counted].mean() - b.values["auroc"][b.counted].mean()
    found = metrics.difference(gap, a.resamples.macro_auroc - b.resamples.macro_auroc)
    value, low, high, p = (float(one) for one in found)
    return Comparison(
        **about,
        label=MACRO,
        metric="auroc",
        difference=value,
        ci_low=low,
        ci_high=high,
        p=p,
        p_holm=p,
        levels="patients",
        verdict=verdict(value, p, 1),
        claim=why_no_claim(1),
    )


def _predictions(images: TestImages, scores: np.ndarray, about: Score) -> pa.Table:
    names = ImageNames(images.ids, [None] * len(images.ids), images.patients)
    arm = {"control": about.arm.control, "chart": about.arm.chart}
    columns = {name: getattr(about, name) for name in ("dataset", "split", "run", "fraction")}
    return prediction_table(names, LABELS, images.truth, scores, columns | arm)


def _embeddings(store: Store, dataset: str, seed: int) -> pa.Table:
    cohort = store.cohort
    rng = np.random.default_rng(seed)
    edema = np.nan_to_num(cohort["label.Edema"].to_numpy(), nan=0.0)
    male = np.array([one == "male" for one in cohort["ehr.sex"].to_pylist()], dtype=float)
    hidden = rng.normal(size=(len(store), 12)) + np.outer(edema * 2, rng.normal(size=12)) + np.outer(male, np.ones(12))
    tables = []
    for split in ("train", "validate", "test"):
        rows = np.flatnonzero(np.array(cohort["split"].to_pylist()) == split)
        ids, patients = (np.array(cohort[name].to_pylist())[rows] for name in ("image_id", "patient_id"))
        tables.append(embedding_table(dataset, split, ids.tolist(), patients, hidden[rows].astype(np.float32)))
    return pa.concat_tables(tables)


def write_comparison(folder: Path, runs: Sequence[Path], store: Store, rows: Sequence[Comparison]) -> Path:
    """What a comparison writes: `rows`, of the arms of `runs`."""
    members: dict[str, tuple[MemberEntry, ...]] = {}
    for run in runs:
        encoder = encoder_of(run)
        one = MemberEntry(run=run.name, folder=str(run), seed=encoder.provenance.seed, provenance=encoder.provenance)
        members[one.arm.title] = (*members.get(one.arm.title, ()), one)
    manifest = ComparisonManifest(
        arms=members, stores=(StoreEntry(dataset="mimic", path=str(store.folder), hash=store.hash),), settings=SETTINGS
    )
    with written_folder(folder, COMPARE_FILE) as out:
        write_rows(out, COMPARISONS_FILE, rows)
        write_manifest(out, manifest)
    return folder


def write_audit(folder: Path, runs: list[Path], store: Store, *, leaking: bool = False) -> Path:
    """What an audit of several runs writes: two attributes, three subgroups, one too small, one attribute removed."""
    images = _test_images(store)
    male = np.array([one == "male" for one in store.cohort["ehr.sex"].to_pylist()], float)
    test = np.flatnonzero(np.array(store.cohort["split"].to_pylist()) == "test")
    encoders = [encoder_of(run) for run in runs]
    arms = [encoder.arm for encoder in encoders]
    arms += [arm_of("none", control, base=arms[0]) for control in ("untrained", "pixels")]
    same = {"dataset": "mimic", "split": "test", "resamples": 60, "seed": 0}
    sex = same | {"attribute": "sex"}
    counts = {"n": len(images.ids), "n_patients": len(np.unique(images.patients))}
    rows: list[AuditRow] = []
    for place, arm in enumerate(arms):
        of_arm = {"arm": arm, "run": runs[min(place, len(runs) - 1)].name}
        rng = np.random.default_rng(place)
        signal = 1.4 if arm.kind == "chart" else 0.8
        score = male[test] * signal + rng.normal(size=len(test))
        area = float(metrics.auroc(male[test][:, None], score[:, None])[0])
        ends = {"ci_low": area - 0.04, "ci_high": min(area + 0.04, 1.0)}
        rows.append(AttributeProbe(**sex, **of_arm, **counts, **ends, metric="auroc", value=area))
        for metric, value in (("r2", area - 0.5), ("mae", 12 * (1.2 - area))):
            of_age = same | {"attribute": "age", "unit": "years"}
            rows.append(AttributeProbe(**of_age, **of_arm, **counts, metric=metric, value=value))
        if arm.is_baseline:
            continue
        for group, patients in (("male", 60), ("female", 48), ("other", 4)):
            for metric, value in (("auroc", area), ("calibration", area - 0.7), ("false_negative_rate", 1 - area)):
                row = SubgroupRow(
                    **sex, **of_arm, group=group, label=MACRO, metric=metric, n_patients=patients, specificity=0.9
                )
                inside = {"value": value, "ci_low": value - 0.05, "ci_high": value + 0.05}
                few = {"reason": "fewer than 10 patients: suppressed"}
                rows.append(row.replaced(**few) if patients < 10 else row.replaced(**inside))
        rows.append(
            SubgroupRow(
                **sex,
                **of_arm,
                label=MACRO,
                metric="gap",
                of="auroc",
                value=0.02,
                ci_low=0.002,
                ci_high=0.07,
                expected_high=0.06,
                p=0.4,
                largest="male",
                smallest="female",
                specificity=0.9,
            )
        )
        rows.append(
            RemovalRow(
                **sex,
                **of_arm,
                label=MACRO,
                before=area,
                after=area - 0.01,
                difference=-0.01,
                ci_low=-0.03,
                ci_high=0.004,
                directions=1,
                attribute_metric="auroc",
                attribute_before=area,
                attribute_after=0.5,
            )
        )
    for place, other in enumerate(arms[1:], start=1):
        rows.append(
            AttributeDifference(
                **sex,
                arm_a=arms[0],
                arm_b=other,
                a=runs[0].name,
                b=other.control if other.is_baseline else runs[place].name,
                metric="auroc",
                difference=0.03,
                ci_low=-0.01,
                ci_high=0.07,
                p=0.1,
                p_holm=0.2,
                verdict=verdict(0.03, 0.2, 1),
                claim=why_no_claim(1),
            )
        )
    names = tuple(store.cohort[column].to_pylist()[0] for column in ("image_id", "patient_id"))
    leak = Leak(kind="patient", between=("pretraining", "mimic:test"), count=3, examples=names)
    manifest = AuditManifest(
        encoders=tuple(encoders),
        stores=(StoreEntry(dataset="mimic", path=str(store.folder), hash=store.hash),),
        settings=SETTINGS,
        leaks=int(leaking),
        notes=("one note",),
    )
    with written_folder(folder, AUDIT_FILE) as out:
        write_rows(out, AUDIT_ROWS_FILE, rows)
        write_rows(out, LEAKS_FILE, [leak] if leaking else [])
        write_manifest(out, manifest)
    return folder


def hospital(
    root: Path,
    *,
    images: int = 120,
    seeds: int = 1,
    arms: int = 3,
    datasets: int = 3,
    evidence: bool = False,
    fractions: tuple[float, ...] = (1.0,),
    chart: str = "demographic-norm",
) -> dict[str, list[Path]]:
    """Three data sets, `arms` of `chart`, none and shuffled, `seeds` of each: the folders by kind."""
    rng = np.random.default_rng(3)
    stores = {
        name: write_store(root / f"store-{name}", name, images, rng) for name in ("mimic", "chexpert", "nih")[:datasets]
    }
    runs, results = [], []
    for ehr, control in ((chart, "none"), ("none", "none"), (chart, "shuffled"))[:arms]:
        for seed in range(seeds):
            name = f"{ehr}-{control}-{seed}"
            runs.append(write_run(root / f"run-{name}", stores["mimic"], ehr, control, seed))
            folder = root / f"results-{name}"
            of_run = {"evidence": evidence, "fractions": fractions, "read": chart}
            results.append(write_results(folder, runs[-1], stores, seed, **of_run))
    audits = [write_audit(root / "audit", runs, stores["mimic"])] if evidence else []
    folders = [store.folder for store in stores.values()]
    return {"runs": runs, "results": results, "stores": folders, "audits": audits}
