"""Whole evaluations of small stores: what is written, against what the parts say and against plain loops."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from chartray.cli import run_command
from chartray.config.evaluate import CompareOptions, DrawBy, EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation import image_set
from chartray.evaluation.baselines import baseline_chart
from chartray.evaluation.leakage import same_images
from chartray.evaluation.sentences import blanks_counted
from chartray.features import fit_chart
from chartray.networks import encoder
from chartray.networks.initial_weights import lineage
from chartray.outputs.seal import seal
from chartray.pixels.ingest import ingest
from chartray.pixels.shard_file import Mapped, Shard
from chartray.pixels.store import Images, Store
from chartray.records.cohort import read_cohort, write_cohort
from chartray.records.table import table_cohort
from chartray.report.write import write_report
from chartray.results.folder import open_evaluation
from chartray.schema import CohortMetadata, LabelSource, from_metadata, patient_key, to_metadata
from chartray.statistics import metrics
from chartray.statistics.arms import difference_of_arms
from chartray.training.patients import write_patients
from chartray.truth import Policy, blank_negatives, truth_of
from tests.evaluation_folders import compare, evaluate, hospital, one, patients_entry, read, vit
from tests.stores import replace_cohort
from tests.test_features import mimic_like


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
    evaluate(
        run,
        home,
        folder / "out",
        EvaluateOptions(external=[other], resamples=100, data_percent=[0.5, 1], draws=2, saliency=0),
    )
    return folder / "out"


def test_values_are_those_of_the_predictions_beside_them(linear: Path) -> None:
    rows = read(linear, "results.jsonl")
    table = pq.read_table(linear / "predictions.parquet")
    checked = 0
    for row in rows:
        if row["metric"] == "auroc" and row["label"] != "macro" and row["value"] is not None:
            assert row["draws"] == (1 if row["fraction"] == 1 else 2)
            each = []
            for draw in range(row["draws"]):
                known = matching(table, row | {"draw": draw})
                known = known.filter(known["truth"].is_valid())
                assert row["n"] == known.num_rows
                assert row["n_positive"] == sum(known["truth"].to_pylist())
                each.append(roc_auc_score(known["truth"].to_pylist(), known["score"].to_pylist()))
            assert row["value"] == pytest.approx(np.mean(each), abs=1e-12)
            checked += 1
    assert checked == 2 * (5 * 4 + 3 * 2)  # fractions x (arms x labels at home + arms x labels elsewhere)


def matching(table: pa.Table, row: dict[str, Any]) -> pa.Table:
    for key in ("dataset", "label", "control", "fraction", "draw"):
        table = table.filter(pc.equal(table[key], row[key])) if key in row else table
    return table


def test_intervals_and_the_macro_follow_from_the_predictions(linear: Path) -> None:
    rows, comparisons = read(linear, "results.jsonl"), read(linear, "comparisons.jsonl")
    macro = one(rows, control="none", dataset="mimic", label="macro", metric="auroc", fraction=1.0)
    assert macro["labels"] == ["Edema", "Pleural Effusion", "No Finding"]
    each = [
        one(rows, control="none", dataset="mimic", label=label, metric="auroc", fraction=1.0)["value"]
        for label in macro["labels"]
    ]
    assert macro["value"] == pytest.approx(np.mean(each))
    assert macro["ci_low"] < macro["value"] < macro["ci_high"]
    scores, truth, patients = {}, {}, {}
    table = pq.read_table(linear / "predictions.parquet")
    for control in ("none", "pixels"):
        found = [
            matching(table, {"dataset": "mimic", "label": label, "control": control, "fraction": 1.0})
            for label in macro["labels"]
        ]
        scores[control] = np.column_stack([part["score"].to_numpy() for part in found])
        truth[control] = np.column_stack([part["truth"].to_numpy(zero_copy_only=False) for part in found])
        patients[control] = np.array(found[0]["patient_id"].to_pylist())
    wanted = difference_of_arms([scores["none"]], [scores["pixels"]], truth["none"], patients["none"], resamples=100)
    ends = wanted.low[-1], wanted.high[-1]
    values = [metrics.auroc(truth["none"], scores[of]).mean() for of in ("none", "pixels")]
    row = one(comparisons, b="pixels", dataset="mimic", label="macro", metric="auroc", fraction=1.0)
    assert row["a"] == "demographic-0"
    assert row["difference"] == pytest.approx(values[0] - values[1])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(map(float, ends)))
    assert row["seeds"] == 1
    assert row["claim"] == "no claim: fewer than 3 seeds"


def test_the_bright_halves_are_found_and_sex_and_age_alone_are_worth_less(linear: Path) -> None:
    rows = read(linear, "results.jsonl")
    at = {"dataset": "mimic", "label": "Pleural Effusion", "metric": "auroc", "fraction": 1.0}
    pixels, chart = (one(rows, control=control, **at)["value"] for control in ("pixels", "chart-only"))
    assert pixels > 0.8
    assert abs(chart - 0.5) < 0.2
    assert one(rows, control="pixels", dataset="nih", label="macro", metric="auroc", fraction=1.0)["value"] > 0.75
    assert one(rows, control="chart-only", **at)["chart"] == "demographic-norm"


def test_rare_and_one_class_labels_say_why_they_lack_a_number(linear: Path) -> None:
    rows = read(linear, "results.jsonl")
    rare = one(rows, control="none", dataset="mimic", label="Pneumothorax", metric="auroc", fraction=1.0)
    assert (rare["reason"], rare["ci_low"], rare["n_positive_patients"]) == ("too few patients", None, 1)
    assert rare["value"] == 0.5  # the patient with a pneumothorax is in the test split: nothing to learn it from


def test_a_label_of_one_class_gives_null_and_a_reason(home: Path, run: Path, tmp_path: Path) -> None:
    rows = evaluate(run, home, tmp_path / "out", EvaluateOptions(split="validate", resamples=20, baselines=False))
    row = one(rows, label="Pneumothorax", metric="auroc")
    assert row["reason"] == "one class in the test images"
    written = one(read(tmp_path / "out", "results.jsonl"), label="Pneumothorax", metric="average_precision")
    assert written["value"] is None
    manifest = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert manifest["test_split_touched"] is False
    assert "optimistic" in " ".join(manifest["notes"])
    splits = pq.read_table(tmp_path / "out" / "embeddings.parquet")["split"].to_pylist()
    assert set(splits) == {"train", "validate"}
    assert {film["split"] for film in pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()} == {
        "validate"
    }


def test_labels_of_another_store_are_matched_by_name_and_charts_left_out_where_absent(linear: Path) -> None:
    manifest = json.loads((linear / "evaluation.json").read_text())
    nih = one(manifest["stores"], dataset="nih")
    assert {"label": "Pleural Effusion", "there": "Effusion"} in nih["matches"]
    assert nih["unmatched"] == ["Pneumothorax", "No Finding"]
    controls = {row["control"] for row in read(linear, "results.jsonl") if row["dataset"] == "nih"}
    assert controls == {"none", "untrained", "pixels"}
    assert set(manifest["left_out"]) == {"chart-only on nih", "image+chart on nih"}
    assert nih["hash"] != one(manifest["stores"], dataset="mimic")["hash"]


def test_the_probe_on_disk_gives_the_scores_from_the_embeddings_on_disk(linear: Path) -> None:
    probe = load_file(linear / "probe.safetensors")
    table = pq.read_table(linear / "embeddings.parquet")
    table = table.filter(pc.and_(pc.equal(table["split"], "test"), pc.equal(table["dataset"], "mimic")))
    features = np.array(table["embedding"].to_pylist())
    logits = ((features - probe["mean"]) / probe["scale"]) @ probe["weight"].T + probe["bias"]
    labels = json.loads((linear / "probe.json").read_text())["labels"]
    predictions = pq.read_table(linear / "predictions.parquet")
    row = {"dataset": "mimic", "label": "Edema", "control": "none", "fraction": 1.0}
    written = matching(predictions, row)
    assert written["image_id"].to_pylist() == table["image_id"].to_pylist()
    expected = 1 / (1 + np.exp(-logits[:, labels.index("Edema")]))
    np.testing.assert_allclose(written["score"].to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("pool", "words"), [("grid", "4 x 4 means of patches"), ("mean", "mean of patches")])
def test_a_runs_encoder_may_be_read_by_its_patches(
    pool: Any, words: str, home: Path, run: Path, linear: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(resamples=20, saliency=1, pool=pool)
    rows = evaluate(run, home, tmp_path / "out", options)
    assert {row["control"] for row in rows} >= {"none", "untrained", "pixels"}
    table = pq.read_table(tmp_path / "out" / "embeddings.parquet").slice(0, 5)
    store = Store.open(home)
    order = store.cohort["image_id"].to_pylist()
    images = torch.from_numpy(
        store.images.gather(np.array([order.index(each) for each in table["image_id"].to_pylist()]))
    )
    loaded = encoder.load(run)
    with torch.inference_mode():
        patches = loaded.model.forward_features(loaded.standardised(loaded.resized(images)))[:, 1:]  # 4 x 4 of them
    wanted = patches.flatten(1) if pool == "grid" else patches.mean(dim=1)
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), wanted, atol=1e-5)
    manifest = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert manifest["encoder"]["provenance"]["pooling"] == words
    assert words in manifest["saliency"]["reason"]
    page = write_report([], [tmp_path / "out"], tmp_path / "page")
    assert f"The probe (linear, of the {words}) was fitted on" in page.read_text()
    # Another encoder than the same by its class token, whose results it may not replace.
    with pytest.raises(InputError, match=r"pooling .* instead of none"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(resamples=20, saliency=0))


def test_patches_and_class_token_of_one_run_are_compared_as_two_arms(home: Path, run: Path, tmp_path: Path) -> None:
    for pool in ("own", "grid"):
        evaluate(run, home, tmp_path / pool, EvaluateOptions(resamples=20, saliency=0, pool=pool))
    rows = compare([tmp_path / "own", tmp_path / "grid"], tmp_path / "compared", CompareOptions(resamples=20))
    notes = {(row["a"], row["b"]): row["note"] for row in rows}
    by_class, by_patches = "demographic-norm, class token", "demographic-norm, 4 x 4 means of patches"
    said = "embeddings pooled differently: class token and 4 x 4 means of patches"
    assert notes[by_class, by_patches] == said
    assert {notes[arm, "untrained encoder"] for arm in (by_class, by_patches)} == {None}


def test_patches_are_refused_where_a_protocol_trains_through_the_class_token(
    home: Path, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"expected --pool own or class with --protocol finetune, .* found grid"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(protocol="finetune", pool="grid"))


def test_the_same_command_gives_the_same_results(home: Path, run: Path, linear: Path, tmp_path: Path) -> None:
    again = hospital(tmp_path, "nih", seed=1, labels=("Edema", "Effusion"), chart=False)
    evaluate(
        run,
        home,
        tmp_path / "out",
        EvaluateOptions(external=[again], resamples=100, data_percent=[0.5, 1], draws=2, saliency=0),
    )
    for name in ("results.jsonl", "draws.jsonl", "calibration.jsonl", "comparisons.jsonl", "probe.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (linear / name).read_bytes()


def test_a_store_twice_is_refused_before_anything_is_computed(home: Path, run: Path, tmp_path: Path) -> None:
    other = hospital(tmp_path / "a", "nih", seed=1, patients=20, labels=("Edema",))
    alike = hospital(tmp_path / "b", "nih", seed=2, patients=20, labels=("Edema",))
    third = hospital(tmp_path / "c", "nih", seed=3, patients=20, labels=("Edema",))
    for external, found in (([home], home), ([other, other], other), ([other, alike, third], third)):
        with pytest.raises(InputError, match=rf"found {found} again; leave it out, or rename its folder"):
            evaluate(run, home, tmp_path / "out", EvaluateOptions(external=external, resamples=5))
    assert not (tmp_path / "out").exists()


def test_neighbours_use_the_number_that_validation_chose(home: Path, run: Path, tmp_path: Path) -> None:
    rows = evaluate(
        run, home, tmp_path / "out", EvaluateOptions(protocol="knn", resamples=20, labels=["Edema", "Pleural Effusion"])
    )
    row = one(rows, control="pixels", label="Pleural Effusion", metric="auroc")
    assert row["neighbours"] in (5, 10, 20, 50, 100, 200)
    assert row["value"] > 0.6
    assert not (tmp_path / "out" / "probe.safetensors").exists()


# Images and labels


def labelled(cells: dict[str, list[Any]], **blank: Any) -> pa.Table:
    """A cohort of labels alone; `blank` says what a blank of each means (spaces in names as _)."""
    sources = {name: LabelSource(blank=blank.get(name.replace(" ", "_"))) for name in cells if name[:6] != "blank."}
    columns = {
        name if name[:6] == "blank." else f"label.{name}": pa.array(
            values, pa.bool_() if name[:6] == "blank." else pa.float64()
        )
        for name, values in cells.items()
    }
    metadata = CohortMetadata(source="hospital", labels=sources)
    return pa.table(columns).replace_schema_metadata(to_metadata(metadata))


def test_an_image_with_no_finding_alone_is_a_negative_of_edema() -> None:
    table = labelled({"No Finding": [1.0, None], "Edema": [None, 1.0]}, No_Finding="negative", Edema="negative")
    labels = ["No Finding", "Edema"]
    assert truth_of(table, labels, Policy()).tolist() == [[1, 0], [0, 1]]
    ignoring = truth_of(table, labels, Policy(blank="ignore"))
    assert np.isnan(ignoring).tolist() == [[False, True], [True, False]]


@given(st.lists(st.sampled_from([None, 0.0, 1.0, -1.0]), min_size=1, max_size=12), st.data())
def test_whether_a_blank_is_negative_depends_on_its_label_alone(cells: list[float | None], data: st.DataObject) -> None:
    """Failed before: one label's filled cells made another one's blanks negative."""
    other = data.draw(st.lists(st.sampled_from([None, 1.0]), min_size=len(cells), max_size=len(cells)))
    for means, blank in (("negative", 0.0), ("unknown", np.nan)):
        expected = [blank if cell is None else np.nan if cell == -1 else cell for cell in cells]
        table = labelled({"Died": cells, "Mass": other}, Died=means, Mass="negative")
        np.testing.assert_array_equal(truth_of(table, ["Died"], Policy())[:, 0], expected)
        said = blank_negatives(table, ["Died"], Policy())[:, 0]
        assert said.tolist() == [cell is None and means == "negative" for cell in cells]
        # Asked for by name it is honoured, and counted.
        asked = Policy(blank="negative")
        assert (truth_of(table, ["Died"], asked)[:, 0] == 0).sum() == sum(cell in (None, 0.0) for cell in cells)
        assert blank_negatives(table, ["Died"], asked).sum() == sum(cell is None for cell in cells)


def test_a_null_that_is_no_blank_is_never_negative() -> None:
    """An unreadable cell, or an image that the labeller's file does not name."""
    cells: dict[str, list[Any]] = {
        "Edema": [1.0, 0.0, None, None, 0.0],
        "blank.Edema": [False, False, True, False, True],
    }
    table = labelled(cells, Edema="negative")
    for policy in (Policy(), Policy(blank="negative")):
        assert str(truth_of(table, ["Edema"], policy)[:, 0].tolist()) == "[1.0, 0.0, 0.0, nan, 0.0]"
        assert blank_negatives(table, ["Edema"], policy)[:, 0].tolist() == [False, False, True, False, True]
    assert str(truth_of(table, ["Edema"], Policy(blank="ignore"))[:, 0].tolist()) == "[1.0, 0.0, nan, nan, 0.0]"


def test_blanks_that_count_as_negative_are_counted_in_rows_and_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = hospital(tmp_path, labels=("Edema", "Pleural Effusion"), patients=60)
    cohort = read_cohort(store / "cohort.parquet")
    split, encoder = np.array(cohort["split"].to_pylist()), vit(tmp_path / "encoder")
    blank = {part: cohort["label.Edema"].is_null().to_numpy() & (split == part) for part in ("train", "test")}
    options = {"resamples": 5, "baselines": False, "saliency": 0}
    rows = evaluate(encoder, store, tmp_path / "out", EvaluateOptions(**options))
    row = one(rows, label="Edema", metric="auroc")
    assert (row["n_blank"], row["blank"]) == (blank["test"].sum(), "source")
    manifest = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert manifest["stores"][0]["blank_negatives"]["Edema"] == blank["test"].sum() > 5
    assert manifest["blank_negatives_learnt_from"]["Edema"] == blank["train"].sum() > 5
    stores = open_evaluation(tmp_path / "out").manifest.stores
    assert f"in mimic: Edema {blank['test'].sum()}, " in "; ".join(blanks_counted("source", stores))
    # Without them: fewer images, none counted.
    ignored = one(
        evaluate(encoder, store, tmp_path / "out", EvaluateOptions(blank="ignore", **options)),
        label="Edema",
        metric="auroc",
    )
    assert (ignored["n_blank"], ignored["n"]) == (0, row["n"] - blank["test"].sum())
    # A cohort that does not say what a blank means is of an earlier Chartray: nobody guesses.
    earlier = read_cohort(store / "cohort.parquet")
    metadata = from_metadata(earlier.schema.metadata)
    metadata.labels = {name: LabelSource(columns=(name,)) for name in metadata.labels}
    replace_cohort(store, earlier.replace_schema_metadata(to_metadata(metadata)))
    with pytest.raises(InputError, match=r"does not say what blank labels mean \(Edema \d+, .* use --blank"):
        evaluate(encoder, store, tmp_path / "out", EvaluateOptions(**options))
    again = one(
        evaluate(encoder, store, tmp_path / "out", EvaluateOptions(blank="negative", **options)),
        label="Edema",
        metric="auroc",
    )
    assert (again["value"], again["n_blank"], again["blank"]) == (row["value"], row["n_blank"], "negative")


@pytest.mark.parametrize(("uncertain", "expected"), [("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_uncertain_labels_follow_the_policy(uncertain: Any, expected: float) -> None:
    table = pa.table({"label.Edema": [-1.0, 1.0, 0.0]})
    found = truth_of(table, ["Edema"], Policy(uncertain=uncertain))[:, 0]
    np.testing.assert_array_equal(found, [expected, 1, 0])
    with pytest.raises(InputError, match=r"found 2.0 in row 2 of the split"):
        truth_of(pa.table({"label.Edema": [0.0, 2.0]}), ["Edema"], Policy())


@pytest.mark.parametrize("by", ["simple", "stratified"])
def test_low_data_fractions_are_nested_whole_patients(home: Path, by: DrawBy) -> None:
    store = Store.open(home)
    train = image_set.image_set_of(store, "train", ["Edema", "Pleural Effusion"], Policy())
    before: set[str] = set()
    for fraction in (0.05, 0.1, 0.25, 0.5, 1):
        kept = train.patients[image_set.nested_subset(train, fraction, 0, by=by)]
        names = set(kept.tolist())
        assert before <= names
        assert len(names) == max(1, round(len(set(train.patients.tolist())) * fraction))
        assert len(kept) == np.isin(train.patients, list(names)).sum()
        before = names
    first, second = (image_set.nested_subset(train, 0.25, seed, by=by) for seed in (0, 1))
    assert (first != second).any()


def test_fractions_shrink_validation_too(linear: Path) -> None:
    half, whole = json.loads((linear / "evaluation.json").read_text())["fractions"]
    assert (half["fraction"], whole["fraction"]) == (0.5, 1.0)
    for split in ("train", "validate"):
        assert half["draws"][0][split]["patients"] == whole["draws"][0][split]["patients"] / 2
    assert {row["fraction"] for row in read(linear, "results.jsonl")} == {0.5, 1.0}


# Refusals


@pytest.mark.parametrize("missing", ["train", "validate", "test"])
def test_an_empty_split_is_refused(run: Path, tmp_path: Path, missing: str) -> None:
    splits = tuple(split for split in ("train", "validate", "test") if split != missing)
    store = hospital(tmp_path, patients=10, splits=splits)
    with pytest.raises(InputError, match=f"expected images in the split '{missing}'"):
        evaluate(run, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_evaluated_is_refused_in_a_sentence(home: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'Edema'"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(labels=["Oedema"]))
    with pytest.raises(InputError, match="linear or knn or finetune or published"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(protocol="forest"))
    for wrong in (0, -0.5, 1.01, 5, 100, float("nan")):
        with pytest.raises(InputError, match=r"--data-percent in \(0, 1\], found .*; 0.05 means 5 %"):
            evaluate(run, home, tmp_path / "out", EvaluateOptions(data_percent=[0.5, wrong]))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="choose another"):
        evaluate(run, home, tmp_path / "notes")
    other = hospital(tmp_path / "hernia", "other", labels=("No Finding",), patients=20)
    with pytest.raises(InputError, match="no label name matches"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(external=[other], labels=["Edema"]))
    assert (tmp_path / "notes" / "mine.txt").exists()


def test_embeddings_that_are_not_finite_are_named_by_run_and_row(home: Path, tmp_path: Path) -> None:
    broken = vit(tmp_path / "encoder", run="diverged")
    weights = load_file(broken / "model.safetensors")
    weights["norm.weight"][:] = 3e38  # finite, as it must be to be loaded
    save_file(weights, broken / "model.safetensors")
    seal(broken)
    with pytest.raises(
        InputError,
        match=r"finite embeddings from diverged, found \d+ of \d+ that are not, the first in row 0 of .*store",
    ):
        evaluate(broken, home, tmp_path / "out", EvaluateOptions(baselines=False))


def test_a_label_made_from_a_column_of_the_encoders_chart_is_refused(tmp_path: Path) -> None:
    store = hospital(tmp_path, labels=("Edema", "Pleural Effusion"))
    table = pq.read_table(store / "cohort.parquet")
    meta = from_metadata(table.schema.metadata)
    meta.labels["Edema"] = LabelSource(columns=("age",), blank="negative")
    replace_cohort(store, table.replace_schema_metadata(to_metadata(meta)))
    with pytest.raises(InputError, match="'Edema' and the chart variable 'age'"):
        evaluate(vit(tmp_path / "a", chart="demographic-norm", source="mimic"), store, tmp_path / "out")
    # An encoder that saw no chart is fine; its chart floors leave age out.
    rows = evaluate(
        vit(tmp_path / "b", chart="none", source="mimic"), store, tmp_path / "out", EvaluateOptions(resamples=5)
    )
    assert {row["chart"] for row in rows if row["control"] == "chart-only"} == {"sex"}
    left_out = json.loads((tmp_path / "out" / "evaluation.json").read_text())["left_out"]
    assert set(left_out) == {"chart-only without age", "image+chart without age"}


def test_a_label_is_refused_by_the_chart_of_pretraining_whatever_this_cohort_makes_of_the_column(
    tmp_path: Path,
) -> None:
    """Intensive care is a chart variable of one example mapping, and the label of the other."""
    charts, labelled = (hannover(tmp_path, name) for name in ("hannover.yaml", "hannover-icu.yaml"))
    chart = fit_chart(read_cohort(charts), "sex,icu", allow_after_film=["icu"])
    assert "icu" not in from_metadata(read_cohort(labelled).schema.metadata).variables
    variables = from_metadata(read_cohort(charts).schema.metadata).variables
    provenance = {"source": "hannover", "chart": "sex,icu", "chart_variables": list(chart.variables)}
    sources = {name: list(variables[name].columns) for name in chart.variables}
    ingest(labelled, tmp_path / "store", size=32, workers=1)
    shown = vit(tmp_path / "shown", chart_sources=sources, **provenance)
    with pytest.raises(
        InputError, match=r"label 'ICU' of .* variable 'icu' .* both made from the column 'icu_admission_offset'"
    ):
        evaluate(shown, tmp_path / "store", tmp_path / "out")
    # So is one that only its parent was shown, whatever the child was pretrained on.
    for dataset in ("nih", "hannover"):
        own = {"source": dataset, "chart": "none", "chart_variables": [], "chart_sources": sources}
        child = vit(tmp_path / f"child of {dataset}", **own, init=lineage(shown))
        with pytest.raises(InputError, match=r"variable 'icu' .* both made from the column 'icu_admission_offset'"):
            evaluate(child, tmp_path / "store", tmp_path / "out")
    # Elsewhere a column of that name is another fact, and an encoder that was shown only sex may be asked.
    for index, changed in enumerate(({"source": "mimic"}, {"chart": "sex", "chart_variables": ["sex"]})):
        named = {"sex": sources["sex"]} if "chart" in changed else sources
        free = vit(tmp_path / f"free{index}", chart_sources=named, **(provenance | changed))
        assert evaluate(
            free, tmp_path / "store", tmp_path / f"out{index}", EvaluateOptions(resamples=2, baselines=False)
        )


def hannover(folder: Path, mapping: str) -> Path:
    """A cohort of images of noise through one of the example mappings."""
    examples, rng = Path(__file__).resolve().parents[1] / "examples", np.random.default_rng(0)
    words = (examples / "hannover.yaml").read_text()
    columns = set(re.findall(r"(?:column|days_from_film|starts|ends): ([\w-]+)", words)) | {"image_id", "patient_id"}
    rows = [",".join(sorted(columns))]
    (folder / "films").mkdir(exist_ok=True)
    for film in range(60):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / "films" / f"f{film}.jpg")
        cells = dict.fromkeys(columns, "") | {"image_id": f"f{film}", "patient_id": f"p{film}"}
        cells |= {"sex": "mf"[film % 2], "projection": "ap"}
        if rng.random() < 0.5:
            cells |= {"icu_admission_offset": "-1", "icu_release_offset": "2"}
        rows.append(",".join(cells[name] for name in sorted(columns)))
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    out = folder / f"{Path(mapping).stem}.parquet"
    write_cohort(table_cohort(folder / "data.csv", examples / mapping, folder / "films"), out)
    return out


@pytest.mark.parametrize(
    ("chart", "rules", "floor", "dropped"),
    [
        ("all-age-norm", "published", "sex,age-norm,view,position", {"mortality", "icu"}),
        ("all-10", "published", "sex,age-10,view,position", {"mortality", "icu"}),
        ("socio-age10,scan", "published", "socio-age10,scan", set()),
        ("age,mortality", "strict", "age-norm", {"mortality"}),
        ("clinical", "published", "demographic-norm", {"mortality", "icu"}),
        ("none", "strict", "demographic-norm", set()),
        ("sex,blood_group", "strict", "sex", {"blood_group"}),
    ],
)
def test_the_chart_floors_keep_what_was_known_at_the_image(
    chart: str, rules: str, floor: str, dropped: set[str]
) -> None:
    """Under every name that pretraining takes; to lose one variable is not to lose the floors."""
    found, reasons = baseline_chart(mimic_like(rules), chart, ["Edema"])
    assert found is not None
    assert (found.ehr, set(reasons)) == (floor, dropped)
    assert not found.after_film


def test_the_chart_of_the_floors_can_be_named_and_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = str(vit(tmp_path / "none", run="none", chart="none"))

    def said(*options: str, out: str = "out", code: int = 0, store: Path = home) -> str:
        command = ["evaluate", plain, str(store), "--out", str(tmp_path / out), "--resamples", "2", "--saliency", "0"]
        assert run_command([*command, *options]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    without = said()
    assert "chart-only and image+chart read the chart demographic-norm\n" in without
    assert "mimic test 100%, no chart: macro of" in without
    assert "mimic test 100%, chart only (demographic-norm): macro of" in without
    assert "none/none" not in without
    assert "chart-only and image+chart read the chart sex\n" in said("--baseline-chart", "sex")
    rows = read(tmp_path / "out", "results.jsonl")
    assert {row["chart"] for row in rows if row["control"] in ("chart-only", "image+chart")} == {"sex"}
    command = ["evaluate", plain, str(home), "--out", str(tmp_path / "out"), "--resamples", "2"]
    assert run_command([*command, "--looks", "0", "--floor-chart", "sex"]) == 0  # names of an earlier release
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if " is now " in line] == [
        "--looks is now --saliency",
        "--floor-chart is now --baseline-chart",
    ]
    assert "found 'smoker'" in said("--baseline-chart", "sex,smoker", out="no", code=2)
    for options in (["--no-baselines"], ["--protocol", "published"]):
        assert "--baseline-chart only with " in said("--baseline-chart", "sex", *options, out="no", code=2)
    bare = hospital(tmp_path / "bare", chart=False, patients=60)
    none = said(out="bare-out", store=bare)
    assert "no chart-only and no image+chart: the cohort gives none of sex, age;" in none
    assert "; name a feature set that it gives with --baseline-chart" in none
    assert not (tmp_path / "no").exists()


def test_patients_of_pretraining_are_not_scored(home: Path, tmp_path: Path) -> None:
    cohort = read_cohort(home / "cohort.parquet")
    patients = {
        split: sorted(set(cohort.filter(pc.equal(cohort["split"], split))["patient_id"].to_pylist()))
        for split in ("train", "test")
    }
    options: dict[str, Any] = {"resamples": 2, "baselines": False, "labels": ["Edema"]}
    made = tmp_path / "run"
    vit(made / "encoder", source="mimic")

    def seen(store: Path = home, source: Path = made, **more: Any) -> Any:
        out = tmp_path / "of" / source.relative_to(tmp_path) / store.parent.name
        evaluate(source, store, out, EvaluateOptions(**options, **more))
        manifest = json.loads((out / "evaluation.json").read_text())
        return [entry["patients_seen_in_pretraining"] for entry in manifest["stores"]]

    assert seen() == [None]  # the run does not say whom it was trained on
    keys = {split: [patient_key("mimic", one) for one in named] for split, named in patients.items()}
    vit(made / "encoder", source="mimic", **patients_entry(keys["train"]))
    write_patients(made, keys["train"])
    (made / "manifest.json").write_text("{}")
    assert seen() == seen(source=made / "encoder") == [0]
    other = hospital(tmp_path / "nih", "nih", patients=20, seed=5)
    assert seen(external=[other]) == [0, None]  # the same names, but patients of another source
    started = tmp_path / "started"
    first = {"source": "model.safetensors", "run": None}
    vit(started / "encoder", source="mimic", init=first, **patients_entry(keys["train"]))
    shutil.copy(made / "train_patients.txt", started)
    assert seen(source=started) == [None]  # nobody knows whom the first weights were shown
    child = tmp_path / "child"
    vit(child / "encoder", source="mimic", init=lineage(made), **patients_entry(keys["train"]))
    shutil.copy(made / "train_patients.txt", child)
    assert seen(source=child) == [0]  # the parent's patients are known too
    assert seen(source=child / "encoder") == [0]
    shutil.copytree(made / "encoder", tmp_path / "taken" / "home")
    assert seen(source=tmp_path / "taken" / "home") == [None]
    for broken in (b"", (made / "train_patients.txt").read_bytes()[:-70], None):
        # An empty file would say of everybody that they were not seen.
        (made / "train_patients.txt").unlink()
        if broken is not None:
            (made / "train_patients.txt").write_bytes(broken)
        for source in (made, made / "encoder", child):
            with pytest.raises(
                InputError, match=r"expected the \d+ patients of pretraining in .*run/train_patients.txt"
            ):
                seen(source=source)
        (made / "train_patients.txt").touch()
    vit(made / "encoder", source="mimic", **patients_entry(keys["test"][:3]))
    write_patients(made, keys["test"][:3])
    vit(child / "encoder", source="mimic", init=lineage(made), **patients_entry(keys["train"]))
    assert seen(split="validate") == [0]
    with pytest.raises(InputError, match=r"pretrained on 3 patients of .* \(train_patients.txt of .*run lists them\)"):
        seen(source=child)
    again = hospital(tmp_path / "again", "mimic", patients=20)
    for stores in ({}, {"store": again, "external": [home]}):
        with pytest.raises(InputError, match=r"pretrained on 3 patients of the test split of") as error:
            seen(**stores)
        assert not any(patient in str(error.value) for patient in patients["test"][:3])


def test_images_that_were_learnt_from_are_not_scored_elsewhere_under_other_names(
    home: Path, run: Path, tmp_path: Path
) -> None:
    """The same images as another source, with other names, patients and splits: only their pixels say so."""
    splits = ("test", "train", "validate", "train", "test")  # at home the first and second learn, the third chooses
    other = hospital(tmp_path / "renamed", "elsewhere", splits=splits)
    options: dict[str, Any] = {"resamples": 2, "baselines": False, "labels": ["Edema"], "saliency": 0}
    with pytest.raises(
        InputError,
        match=r"48 of the 96 images of the test split of .*renamed/store are identical to images of the train split",
    ) as error:
        evaluate(run, home, tmp_path / "out", EvaluateOptions(external=[other], **options))
    assert "of the train split of" in str(error.value)
    assert not (tmp_path / "out").exists()
    # What only was chosen on is refused too, unless home is judged by it as well.
    chosen = hospital(tmp_path / "chosen", "elsewhere", splits=("train", "train", "test", "train", "validate"))
    with pytest.raises(InputError, match=r"48 of the 48 images of .* are identical to images of the validate split"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(external=[chosen], **options))
    validated = hospital(tmp_path / "validated", "elsewhere", splits=("train", "train", "validate", "train", "test"))
    assert evaluate(run, home, tmp_path / "out", EvaluateOptions(external=[validated], split="validate", **options))
    # At another size their pixels differ: it is said that they were not compared.
    assert ingest(tmp_path / "renamed" / "cohort.parquet", tmp_path / "small", size=24, workers=1)
    evaluate(run, home, tmp_path / "small-out", EvaluateOptions(external=[tmp_path / "small"], **options))
    (said,) = json.loads((tmp_path / "small-out" / "evaluation.json").read_text())["not_compared"]
    assert "(24 px) were not compared with those of" in said
    assert "(32 px)" in said


def test_patients_that_were_learnt_from_are_not_scored_in_another_store_of_the_source(
    home: Path, run: Path, tmp_path: Path
) -> None:
    """Other images of the same people: their names say so, though nobody kept a list of pretraining's patients."""
    other = hospital(tmp_path / "again", "mimic", seed=9, splits=("test", "train", "validate", "train", "validate"))
    with pytest.raises(
        InputError,
        match=r"24 of the 24 patients of .* are also in the train split of .* \(source 'mimic'\); use the same split",
    ) as error:
        evaluate(run, home, tmp_path / "out", EvaluateOptions(external=[other], baselines=False, resamples=2))
    assert "p000" not in str(error.value)


def test_an_image_of_one_grey_is_no_double_and_one_line_does_not_make_one(tmp_path: Path) -> None:
    stores = [Store.open(hospital(tmp_path / name, name, seed=seed, patients=10)) for seed, name in enumerate("ab")]
    ours, theirs = (image_set.image_set_of(store, "train", ["Edema"], Policy()) for store in stores)
    assert not len(same_images(ours, theirs))
    pixels = [store.images.gather(np.arange(len(store))) for store in stores]
    pixels[0][ours.rows[0]] = pixels[1][theirs.rows[0]] = 7
    pixels[0][ours.rows[1], 16] = pixels[1][theirs.rows[1], 16]
    pixels[0][ours.rows[2]] = pixels[1][theirs.rows[2]]
    for store, changed in zip(stores, pixels, strict=True):
        store.images = Changed(store.images, changed)
    assert same_images(ours, theirs).tolist() == [theirs.rows[2]]


class Changed(Images):
    """Images that were painted over in memory."""

    def __init__(self, images: Images, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        super().__init__(Path(), images.size, [Shard("", len(pixels), 0, "", 0, "")])
        self._pixels = Mapped(pixels, pixels[:0], pa.array([], pa.string()), bytearray(b"\1" * len(pixels)))

    def _shard(self, shard: int) -> Any:
        return self._pixels


def test_earlier_results_are_replaced_and_a_failure_leaves_them(home: Path, run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"resamples": 5, "baselines": False, "labels": ["Edema"]}
    evaluate(run, home, tmp_path / "out", EvaluateOptions(**options))
    with pytest.raises(InputError):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(**options | {"labels": ["Mass"]}))
    assert len(read(tmp_path / "out", "results.jsonl")) == 12
    evaluate(run, home, tmp_path / "out", EvaluateOptions(**options | {"labels": ["Edema", "No Finding"]}))
    assert len(read(tmp_path / "out", "results.jsonl")) == 18
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_untrained_encoder_is_initialised_by_the_seed_of_the_run(tmp_path: Path) -> None:
    """So the runs of an arm bring as many initialisations as seeds; what no seed enters scores alike in all."""
    store = hospital(tmp_path, labels=("Edema",), patients=60)
    found = {}
    for seed in (0, 1):
        evaluate(
            vit(tmp_path / f"encoder{seed}", seed=seed),
            store,
            tmp_path / f"out{seed}",
            EvaluateOptions(resamples=5, saliency=0, device="cpu"),
        )
        table = pq.read_table(tmp_path / f"out{seed}" / "predictions.parquet").to_pandas()
        found[seed] = {control: part.score.to_numpy() for control, part in table.groupby("control")}
        rows = [row for row in read(tmp_path / f"out{seed}", "results.jsonl") if row["control"] == "untrained"]
        assert {(row["seed"], row["run_seed"]) for row in rows} == {(0, seed)}
    assert not np.array_equal(found[0]["untrained"], found[1]["untrained"])
    for control in ("pixels", "chart-only"):
        np.testing.assert_array_equal(found[0][control], found[1][control])
