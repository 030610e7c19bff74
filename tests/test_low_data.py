"""Parts of the training patients: draws, how strengths are chosen where validation is small, what rows say of it."""

import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from chartray.config.evaluate import EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation import image_set
from chartray.evaluation.sentences import matches_said
from chartray.pixels.store import Store
from chartray.results.folder import open_evaluation
from chartray.statistics import knn, probe
from tests.evaluation_folders import evaluate, hospital, one, read, vit
from tests.stores import replace_cohort

LABELS = ("Edema", "Pleural Effusion")
STRENGTHS = (1.0, 100.0, 10_000.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("mimic"), labels=LABELS, patients=150)


@pytest.fixture(scope="module")
def evaluated(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("low")
    run = vit(folder / "encoder", run="none-0", chart="none", control="none", seed=0)
    evaluate(
        run, home, folder / "out", EvaluateOptions(data_percent=[0.1, 0.5, 1], draws=3, resamples=60, baselines=False)
    )
    return folder / "out"


def test_draws_are_orders_of_their_own_each_nested(home: Path) -> None:
    train = image_set.image_set_of(Store.open(home), "train", LABELS, image_set.Policy())
    kept = {}
    for draw in range(3):
        before: set[str] = set()
        for fraction in (0.1, 0.25, 0.5):
            names = set(train.patients[image_set.nested_subset(train, fraction, 0, draw)].tolist())
            assert before < names
            before = names
        kept[draw] = before
    assert len({frozenset(names) for names in kept.values()}) == 3
    assert image_set.nested_subset(train, 1, 0, 2).all()


def cohort(patients: int, shares: list[float]) -> image_set.ImageSet:
    """One image a patient, each label in a share of the patients."""
    rng = np.random.default_rng(0)
    truth = (rng.random((patients, len(shares))) < shares).astype(float)
    names = np.array([f"p{row:04}" for row in range(patients)])
    return image_set.ImageSet(cast(Store, None), "train", np.arange(patients), names, truth)


def test_simple_draws_vary_as_simple_random_samples_and_never_look_at_labels() -> None:
    patients, kept = 400, 40
    train = cohort(patients, [0.3, 0.1, 0.02])
    drawn = np.array([image_set.nested_subset(train, kept / patients, 0, draw) for draw in range(1500)])
    shares = drawn.astype(float) @ train.truth / kept
    variance = train.truth.var(axis=0, ddof=1) * (1 / kept - 1 / patients)  # sampling without replacement
    np.testing.assert_allclose(shares.std(axis=0), np.sqrt(variance), rtol=0.06)
    np.testing.assert_allclose(shares.mean(axis=0), train.truth.mean(axis=0), atol=4 * np.sqrt(variance / 1500).max())
    # Every patient and every pair of patients is as likely as any other.
    assert drawn.mean(axis=0).std() == pytest.approx(np.sqrt(0.1 * 0.9 / 1500), rel=0.15)
    others = train._replace(truth=1 - train.truth)
    assert all((image_set.nested_subset(others, 0.1, 0, draw) == drawn[draw]).all() for draw in range(20))
    # A rare label may lack positive patients in a simple draw; stratified draws vary less and hold on to it.
    lacking = (drawn.astype(float) @ train.truth[:, 2] == 0).mean()
    assert 0.2 < lacking < 0.7
    even = np.array([image_set.nested_subset(train, 0.1, 0, draw, by="stratified") for draw in range(300)])
    assert (even.astype(float) @ train.truth / kept).std(axis=0).max() < 0.75 * np.sqrt(variance).max()


def test_a_label_without_a_class_in_a_draw_has_no_probe_there_which_is_counted_and_said(
    home: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(home, store)
    table = pq.read_table(store / "cohort.parquet")
    rare = table["label.Edema"].to_pylist()
    split, names = table["split"].to_pylist(), table["patient_id"].to_pylist()
    some = sorted({name for name, part in zip(names, split, strict=True) if part == "train"})[::10]
    rare = [
        value if part != "train" else float(name in some) for value, part, name in zip(rare, split, names, strict=True)
    ]
    place = table.column_names.index("label.Edema")
    replace_cohort(store, table.set_column(place, table.schema.field(place), [rare]))
    settings = {"data_percent": [0.1, 1], "draws": 6, "resamples": 40, "baselines": False, "saliency": 0}
    evaluate(vit(tmp_path / "encoder"), store, tmp_path / "out", EvaluateOptions(**settings))
    rows, draws = read(tmp_path / "out", "results.jsonl"), read(tmp_path / "out", "draws.jsonl")
    manifest = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert manifest["settings"]["draw_by"] == "simple"
    lacking = ["Edema" in each["without_probe"] for each in manifest["fractions"][0]["draws"]]
    assert 0 < sum(lacking) < 6
    row = one(rows, fraction=0.1, label="Edema", metric="auroc")
    assert (row["draws_without_probe"], row["draw_by"]) == (sum(lacking), "simple")
    assert row["reason"] == (
        f"one class in the training images: all images score alike in {sum(lacking)} of 6 training subsets"
    )
    alone = [one(draws, label="Edema", metric="auroc", draw=draw) for draw in range(6)]
    assert [each["value"] == 0.5 for each in alone] == lacking
    whole = one(rows, fraction=1.0, label="Edema", metric="auroc")
    assert (whole["draws_without_probe"], whole["draw_by"]) == (0, None)


def test_a_fraction_is_the_mean_of_its_draws_and_its_interval_covers_them(evaluated: Path) -> None:
    rows, draws = read(evaluated, "results.jsonl"), read(evaluated, "draws.jsonl")
    assert {row["fraction"] for row in draws} == {0.1, 0.5}
    assert {row["draw"] for row in draws} == {0, 1, 2}
    table = pq.read_table(evaluated / "predictions.parquet")
    assert set(table.column("draw").unique().to_pylist()) == {0, 1, 2}
    assert str(table.schema.field("draw").type) == "int32"
    for label in (*LABELS, "macro"):
        at = {"label": label, "metric": "auroc"}
        whole, part = (one(rows, fraction=fraction, **at) for fraction in (1.0, 0.1))
        found = [one(draws, fraction=0.1, draw=draw, **at)["value"] for draw in range(3)]
        assert part["value"] == pytest.approx(np.mean(found))
        assert (whole["draws"], part["draws"]) == (1, 3)
        assert "subsets of training patients vary" in part["holds_fixed"]
        assert "draws" not in whole["holds_fixed"]
        assert "encoder fixed" in whole["holds_fixed"]
        assert part["ci_high"] - part["ci_low"] > whole["ci_high"] - whole["ci_low"]
    assert {row["home"] for row in rows} == {"mimic"}


def test_rows_say_how_the_strength_was_chosen(evaluated: Path) -> None:
    rows = read(evaluated, "results.jsonl")
    whole = one(rows, fraction=1.0, label="Edema", metric="auroc")
    assert whole["chosen_by"] == "validation"
    half = one(rows, fraction=0.5, label="Edema", metric="auroc")
    assert half["chosen_by"] == "cross-validation"
    for row in (row for row in read(evaluated, "draws.jsonl") if row["label"] != "macro"):
        assert row["strength"] in [None, *probe.STRENGTHS]
    manifest = json.loads((evaluated / "evaluation.json").read_text())
    tenth = manifest["fractions"][0]
    assert len(tenth["draws"]) == 3
    assert all(each["train"]["patients"] == 6 for each in tenth["draws"])
    assert manifest["settings"]["draws"] == 3


def test_cross_validation_is_by_patient_and_as_a_plain_loop_says() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 3)
    truth = (rng.random((60, 2)) < [0.4, 0.15])[patients].astype(float)
    truth[5:20, 1] = np.nan
    features = rng.normal(size=(180, 12)) + truth[:, :1] * 0.7
    folds = probe.patient_folds(truth, patients)
    assert all(len(set(folds[patients == patient].tolist())) == 1 for patient in range(60))
    rare = [len(set(patients[(folds == fold) & (truth[:, 1] == 1)].tolist())) for fold in range(5)]
    assert max(rare) - min(rare) <= 1
    found = probe.cross_validated(features, truth, folds, STRENGTHS)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    for label in range(2):
        known = ~np.isnan(truth[:, label])
        for index, strength in enumerate(STRENGTHS):
            won = pairs = 0.0
            for fold in range(5):
                fit, held = known & (folds != fold), known & (folds == fold)
                model = LogisticRegression(C=1 / strength, solver="newton-cg", tol=1e-10).fit(x[fit], truth[fit, label])
                y = truth[held, label]
                if len(set(y.tolist())) == 2:
                    both = y.sum() * (1 - y).sum()
                    won, pairs = won + both * roc_auc_score(y, model.decision_function(x[held])), pairs + both
            assert found[label, index] == pytest.approx(won / pairs, abs=1e-9)


def test_each_label_chooses_where_it_has_patients_enough() -> None:
    rng = np.random.default_rng(1)
    patients, checked = np.arange(200), 1000 + np.arange(100)
    latent = rng.normal(size=(300, 4))
    every = (latent > [0.0, 1.3, 2.0, 9.0]).astype(float)
    every[:3, 3] = 1  # learnt from three patients, none of them in validation
    features = np.hstack((latent + rng.normal(size=(300, 4)), rng.normal(size=(300, 20))))
    every[200 + np.flatnonzero(every[200:, 2] == 1)[3:], 2] = 0  # three positives are too few to choose on
    fitted = probe.fit_probe(
        features[:200],
        every[:200],
        features[200:],
        every[200:],
        patients=patients,
        validation_patients=checked,
    )
    assert fitted.chosen_by == (
        "validation",
        "validation" if every[200:, 1].sum() >= 10 else "cross-validation",
        "cross-validation" if every[:200, 2].sum() >= 5 else "other labels",
        "other labels",
    )
    assert np.isnan(fitted.validation_auroc).tolist() == [by == "other labels" for by in fitted.chosen_by]
    few = probe.fit_probe(
        features[:12],
        every[:12, :1],
        features[200:206],
        every[200:206, :1],
        patients=[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
        validation_patients=np.arange(6),
    )
    assert few.chosen_by[0] in ("cross-validation of all labels together", "nothing")
    with pytest.raises(InputError, match="found those of one"):
        probe.fit_probe(features, every, features, every, patients=np.arange(300))


def test_neighbours_are_held_out_by_fold() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.random((90, 2)) < 0.3).astype(float)
    features = rng.normal(size=(90, 5)).astype(np.float32)
    folds = np.arange(90) % 3
    found = knn.held_out_scores(features, truth, folds, neighbours=(5, 20))
    for fold in range(3):
        here = folds == fold
        alone = knn.knn_scores(features[~here], truth[~here], features[here], neighbours=(5, 20))
        np.testing.assert_array_equal(found[:, here], alone)
    # Copies of one patient's image would find themselves; held out together they cannot.
    twice, both = np.vstack((features, features)), np.vstack((truth, truth))
    leaky = knn.held_out_scores(twice, both, np.arange(180) // 90, neighbours=(1,))[0]
    honest = knn.held_out_scores(twice, both, np.tile(folds, 2), neighbours=(1,))[0]
    assert roc_auc_score(both[:, 0], leaky[:, 0]) > 0.9
    assert roc_auc_score(both[:, 0], honest[:, 0]) < 0.75


# The other files of the folder


def test_studies_are_scored_where_they_have_several_images(tmp_path: Path) -> None:
    store = hospital(tmp_path, labels=LABELS, patients=150)
    table = pq.read_table(store / "cohort.parquet")
    studies = [f"s{name[:4]}" for name in table["image_id"].to_pylist()]
    place = table.column_names.index("study_id")
    same = {label: table[f"label.{label}"].to_pylist() for label in LABELS}
    for label, values in same.items():  # one report a study
        values[1::2] = values[::2]
        column = table.column_names.index(f"label.{label}")
        table = table.set_column(column, table.schema.field(column), [values])
    replace_cohort(store, table.set_column(place, "study_id", [studies]))
    evaluate(vit(tmp_path / "encoder"), store, tmp_path / "out", EvaluateOptions(resamples=30, baselines=False))
    films_, studies_ = (read(tmp_path / "out", f"{name}.jsonl") for name in ("results", "studies"))
    at = {"label": "Edema", "metric": "auroc"}
    assert one(studies_, **at)["unit"] == "study"
    assert one(films_, **at)["unit"] == "film"
    predictions = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    known = predictions[(predictions.label == "Edema") & predictions.truth.notna()]
    mean = predictions[predictions.label == "Edema"].groupby("study_id").score.mean()
    truth = known.groupby("study_id").truth.max()
    assert one(studies_, **at)["value"] == pytest.approx(roc_auc_score(truth, mean[truth.index]))
    assert one(studies_, **at)["n"] == len(truth)


def test_thresholds_are_validations_and_rows_stand_at_them(evaluated: Path, home: Path) -> None:
    thresholds = json.loads((evaluated / "thresholds.json").read_text())
    rows = read(evaluated, "results.jsonl")
    table = pq.read_table(evaluated / "predictions.parquet").to_pylist()
    for label in LABELS:
        limit = thresholds["none"][label]["threshold"]
        row = one(rows, fraction=1.0, label=label, metric="sensitivity")
        assert (row["threshold"], row["at_specificity"]) == (limit, 0.9)
        found = [each for each in table if each["fraction"] == 1 and each["label"] == label and each["truth"] == 1]
        assert row["value"] == pytest.approx(np.mean([each["score"] > limit for each in found]))
        assert one(rows, fraction=0.1, label=label, metric="sensitivity")["threshold"] is None
    curves = read(evaluated, "calibration.jsonl")
    films_ = sum(row["n"] for row in curves if row["fraction"] == 1 and row["label"] == "Edema")
    assert films_ == one(rows, fraction=1.0, label="Edema", metric="auroc")["n"]


def test_images_that_radiologists_read_are_a_data_set_beside_the_whole(tmp_path: Path) -> None:
    store = hospital(tmp_path, labels=LABELS, patients=150)
    second = hospital(tmp_path / "second", labels=LABELS, patients=60, seed=1)
    table = pq.read_table(store / "cohort.parquet")
    rng = np.random.default_rng(0)
    marked = [split == "test" and rng.random() < 0.6 for split in table["split"].to_pylist()]
    replace_cohort(store, table.append_column("read_by_radiologists", [marked]))
    run = vit(tmp_path / "encoder")
    rows = evaluate(run, store, tmp_path / "out", EvaluateOptions(resamples=20, baselines=False, external=[second]))
    manifest = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [entry["dataset"] for entry in manifest["stores"]] == ["mimic", "mimic:store", "mimic:radiologists"]
    assert [entry["films_read_by_radiologists"] for entry in manifest["stores"]] == [sum(marked), 0, sum(marked)]
    assert f"radiologists labelled {sum(marked)} of the 120 images of mimic" in " ".join(manifest["notes"])
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    wanted = {
        name
        for name, here in zip(pq.read_table(store / "cohort.parquet")["image_id"].to_pylist(), marked, strict=True)
        if here
    }
    assert {row["image_id"] for row in table if row["dataset"] == "mimic:radiologists"} == wanted
    whole = {(row["image_id"], row["label"]): row["score"] for row in table if row["dataset"] == "mimic"}
    # To rounding: products of more rows may be summed in another order.
    assert all(
        row["score"] == pytest.approx(whole[row["image_id"], row["label"]], rel=1e-12)
        for row in table
        if row["dataset"].endswith("gists")
    )
    assert one(rows, dataset="mimic:radiologists", label="macro", metric="auroc")["n"] == sum(marked)
    embedded = pq.read_table(tmp_path / "out" / "embeddings.parquet").column("dataset").unique().to_pylist()
    assert embedded == ["mimic", "mimic:store"]


def test_the_table_of_labels_says_which_met_which(home: Path, tmp_path: Path) -> None:
    other = hospital(tmp_path / "nih", "nih", labels=("Effusion", "Pneumothorax"), patients=60)
    evaluate(
        vit(tmp_path / "encoder"),
        home,
        tmp_path / "out",
        EvaluateOptions(resamples=5, baselines=False, external=[other]),
    )
    assert matches_said(open_evaluation(tmp_path / "out").manifest) == [
        "nih: 1 of 2 labels matched by name",
        "  Edema             -",
        "  Pleural Effusion  Effusion",
        "  only there, not scored: Pneumothorax",
    ]
