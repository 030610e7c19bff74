"""Fine-tuning and the comparison of arms over seeds."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from chartray.config.evaluate import CompareOptions, EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation.embed import embed
from chartray.evaluation.finetune.augmentation import augment, masked_loss
from chartray.evaluation.finetune.recipe import recipe_of
from chartray.evaluation.finetune.training import fine_tune
from chartray.evaluation.image_set import Policy, image_set_of
from chartray.networks import encoder
from chartray.outputs.seal import seal
from chartray.pixels.ingest import ingest
from chartray.pixels.store import Store
from chartray.results.arm import BASELINES
from tests.evaluation_folders import compare, evaluate, hospital, one, read, vit

LABELS = ("Edema", "Pleural Effusion")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("mimic"), labels=LABELS, contrast=6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vit(tmp_path_factory.mktemp("run"), run="demographic-0", chart="demographic-norm", seed=7)


def test_published_linear_leaves_the_encoder_and_full_fine_tuning_learns_more(
    home: Path, run: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"resamples": 20, "baselines": False, "max_epochs": 12}
    frozen = evaluate(
        run, home, tmp_path / "frozen", EvaluateOptions(protocol="published", learning_rate=0.05, **options)
    )
    whole = evaluate(
        run,
        home,
        tmp_path / "whole",
        EvaluateOptions(protocol="published", freeze=False, learning_rate=3e-3, **options),
    )
    at = {"label": "macro", "metric": "auroc"}
    assert one(frozen, **at)["value"] > 0.55
    assert one(whole, **at)["value"] > one(frozen, **at)["value"] + 0.05
    assert not (tmp_path / "frozen" / "finetuned").exists()
    manifest = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert manifest["recipe"]["optimizer"] == "adam"
    assert manifest["recipe"]["batch_size"] == 64
    best = max(manifest["training"], key=lambda epoch: epoch["validation_auroc"])
    assert one(whole, label="Edema", metric="auroc")["best_epoch"] == best["epoch"]
    assert len(manifest["training"]) <= min(12, best["epoch"] + 5)
    # The encoder and the layer on disk give the scores on disk.
    tuned, probe = encoder.load(tmp_path / "whole" / "finetuned"), load_file(tmp_path / "whole" / "probe.safetensors")
    films = image_set_of(Store.open(home), "test", LABELS, Policy())
    logits = embed(tuned, films.store, films.rows) @ probe["weight"].T + probe["bias"]
    written = pq.read_table(tmp_path / "whole" / "predictions.parquet")["score"].to_numpy()
    np.testing.assert_allclose(written.reshape(-1, 2), 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_finetune_has_the_same_training_from_scratch_beside_it(home: Path, run: Path, tmp_path: Path) -> None:
    rows = evaluate(
        run,
        home,
        tmp_path / "out",
        EvaluateOptions(protocol="finetune", resamples=20, max_epochs=2, scheduler="reduce"),
    )
    assert {row["control"] for row in rows} == {"none", "untrained"}
    comparison = one(read(tmp_path / "out", "comparisons.jsonl"), b="untrained", label="macro", metric="auroc")
    assert comparison["ci_low"] <= comparison["difference"] <= comparison["ci_high"]
    left_out = json.loads((tmp_path / "out" / "evaluation.json").read_text())["left_out"]
    assert set(left_out) == {"pixels", "chart-only", "image+chart"}
    assert set(left_out.values()) == {"not scored under finetune, only under linear and knn"}


@pytest.mark.parametrize(
    ("protocol", "option", "only"),
    [
        ("finetune", {"freeze": True}, "--freeze only with --protocol published,"),
        ("finetune", {"freeze": False}, "--freeze only with --protocol published,"),
        ("linear", {"freeze": False}, "--freeze only with --protocol published,"),
        ("linear", {"scheduler": "cosine"}, "--scheduler only with --protocol published or finetune,"),
        ("linear", {"learning_rate": 1e-3}, "--learning-rate only with --protocol published or finetune,"),
        ("knn", {"max_epochs": 50}, "--max-epochs only with --protocol published or finetune,"),
    ],
)
def test_an_option_that_means_nothing_under_the_protocol_is_refused(
    home: Path, run: Path, tmp_path: Path, protocol: Any, option: dict[str, Any], only: str
) -> None:
    with pytest.raises(InputError, match=f"expected {only} found it with {protocol}"):
        evaluate(run, home, tmp_path / "out", EvaluateOptions(protocol=protocol, **option))


def test_fine_tuning_is_the_same_twice_and_leaves_the_given_encoder(home: Path, run: Path) -> None:
    given = encoder.load(run)
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    store = Store.open(home)
    train, validate = (image_set_of(store, split, LABELS, Policy()) for split in ("train", "validate"))
    recipe = recipe_of(EvaluateOptions(protocol="finetune", max_epochs=2))
    assert recipe is not None
    first, second = (fine_tune(given, train, validate, recipe, seed=3) for _ in range(2))
    torch.testing.assert_close(first.layer.weight, second.layer.weight, rtol=0, atol=0)
    torch.testing.assert_close(dict(given.model.state_dict()), before, rtol=0, atol=0)
    assert not torch.equal(first.model.norm.weight.cpu(), given.model.norm.weight)
    with pytest.raises(InputError, match="both classes among the"):
        fine_tune(given, train, validate.kept(validate.truth.sum(axis=1) == 0), recipe, seed=0)


def test_augmentation_turns_scales_and_shifts_within_its_bounds() -> None:
    side = 65
    film = torch.zeros(500, 1, side, side)
    film[:, :, side // 2, side // 2] = 1.0  # one bright point in the middle tells the shift
    moved = augment(film, torch.Generator().manual_seed(0))
    grid = torch.arange(side, dtype=torch.float32)
    mass = moved.sum(dim=(1, 2, 3))
    seen = mass > 0.2
    down = ((moved * grid[:, None]).sum(dim=(1, 2, 3)) / mass - side // 2)[seen] / side
    across = ((moved * grid).sum(dim=(1, 2, 3)) / mass - side // 2)[seen] / side
    for shift in (down, across):
        assert shift.abs().max() < 0.15 * 1.15 * 2**0.5 + 0.02
        assert shift.std() > 0.05
        assert abs(shift.mean()) < 0.02
    # A disc keeps its shape under turns and flips, so its area tells the scale: 0.85 to 1.15 in length.
    disc = (((grid - side // 2) ** 2 + (grid[:, None] - side // 2) ** 2) < 12**2).float().expand(500, 1, side, side)
    area = augment(disc, torch.Generator().manual_seed(1)).sum(dim=(1, 2, 3)) / disc[0].sum()
    assert area.min() == pytest.approx(0.85**2, rel=0.03)
    assert area.max() == pytest.approx(1.15**2, rel=0.03)
    # Flipped or not, each about half the time: a bright left half ends up on either side.
    half = torch.zeros(500, 1, side, side)
    half[..., : side // 2] = 1.0
    left = augment(half, torch.Generator().manual_seed(2))
    share = (left[..., : side // 2].sum(dim=(1, 2, 3)) > left[..., side // 2 + 1 :].sum(dim=(1, 2, 3))).float().mean()
    assert 0.4 < share < 0.6


def test_ignored_labels_do_not_pull() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    truth = torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])
    loss = masked_loss(logits, truth)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(3.0))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True], [True, False]]


# Comparing arms


@pytest.fixture(scope="module")
def evaluated(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Evaluations of two arms at three seeds."""
    folder = tmp_path_factory.mktemp("evaluated")
    found = {}
    for seed in range(3):
        for chart in ("demographic-norm", "none"):
            name = f"{chart}-{seed}"
            weights = seed + 10 * (chart == "none")
            made = vit(folder / "runs" / name, seed=seed, weights=weights, run=name, chart=chart, control="none")
            evaluate(made, home, folder / name, EvaluateOptions(resamples=30, baselines=seed == 0))
            found[name] = folder / name
    return found


def between_arms(folders: Sequence[Path], out: Path, options: CompareOptions) -> list[dict[str, Any]]:
    """The rows of a comparison without those against baselines (tests/test_compare.py)."""
    return [row for row in compare(folders, out, options) if row["control_b"] not in BASELINES]


def test_three_seeds_make_an_arm_and_the_difference_is_the_mean_of_theirs(
    evaluated: dict[str, Path], tmp_path: Path
) -> None:
    rows = between_arms(list(evaluated.values()), tmp_path / "out", CompareOptions(resamples=100))
    row = one(rows, label="macro", metric="auroc")
    assert (row["a"], row["b"], row["seeds"], row["claim"]) == ("demographic-norm", "no chart", 3, None)
    macro = {
        name: one(read(folder, "results.jsonl"), label="macro", metric="auroc", control="none")["value"]
        for name, folder in evaluated.items()
    }
    by_seed = [macro[f"demographic-norm-{seed}"] - macro[f"none-{seed}"] for seed in range(3)]
    assert row["by_seed"] == pytest.approx(by_seed)
    assert row["difference"] == pytest.approx(np.mean(by_seed))
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    stores = json.loads((tmp_path / "out" / "compare.json").read_text())["stores"]
    assert [each["dataset"] for each in stores] == ["mimic"]
    written = read(tmp_path / "out", "comparisons.jsonl")
    assert len([row for row in written if row["control_b"] not in BASELINES]) == len(rows) == 2 * (1 + len(LABELS))


def test_runs_of_other_settings_are_no_seeds_of_one_arm(evaluated: dict[str, Path], tmp_path: Path) -> None:
    """The seed says nothing where the recipe changed; what each arm was made of stands in the rows."""
    folders = {}
    for name, folder in evaluated.items():
        short = name.endswith(("-1", "-2")) and name.startswith("none")
        more = {"settings_hash": "b" * 12, "recipe": "short"} if short else {"settings_hash": "a" * 12, "recipe": "msn"}
        films = 90 if name.startswith("none") else 80
        folders[name] = told(folder, tmp_path / name, films=films, after_film=["icu"] if "dem" in name else [], **more)
    rows = between_arms(list(folders.values()), tmp_path / "out", CompareOptions(resamples=20))
    at = {"label": "macro", "metric": "auroc"}
    arms = {(row["a"], row["b"], row["seeds"]) for row in rows}
    assert arms == {
        ("demographic-norm", "no chart, recipe msn", 1),
        ("demographic-norm", "no chart, recipe short", 2),
        ("no chart, recipe msn", "no chart, recipe short", 1),
    }
    row = one(rows, a="demographic-norm", b="no chart, recipe short", **at)
    assert "different images: 80 and 90" in row["note"]
    assert "different settings" in row["note"]
    assert (row["settings_hash_a"], row["settings_hash_b"]) == ("a" * 12, "b" * 12)
    assert (row["after_film"], row["uncertain"], row["blank"]) == (["icu"], "ignore", "source")
    assert one(rows, a="no chart, recipe msn", b="no chart, recipe short", **at)["after_film"] == []
    # Alike in all but the seed: one arm, and nothing to warn of. The settings name them where recipes do not.
    same = [told(folder, tmp_path / "same" / name, films=80, settings_hash="a") for name, folder in evaluated.items()]
    assert {
        (row["seeds"], row["note"]) for row in between_arms(same, tmp_path / "out", CompareOptions(resamples=20))
    } == {(3, None)}
    unnamed = [told(evaluated[f"none-{seed}"], tmp_path / f"u{seed}", settings_hash=f"{seed}") for seed in range(2)]
    row = one(between_arms(unnamed, tmp_path / "out", CompareOptions(resamples=20)), **at)
    assert (row["a"], row["b"]) == ("no chart, settings 0", "no chart, settings 1")


def test_objectives_are_arms_of_their_own(evaluated: dict[str, Path], tmp_path: Path) -> None:
    folders = [
        told(evaluated[f"none-{seed}"], tmp_path / f"{name}-{seed}", objective=name, settings_hash=name)
        for name, seeds in (("msn", (0, 1)), ("dino", (0, 1, 2)))
        for seed in seeds
    ]
    rows = between_arms(folders, tmp_path / "out", CompareOptions(resamples=20))
    assert {(row["a"], row["b"], row["seeds"]) for row in rows} == {("no chart", "DINO, no chart", 2)}
    assert {(row["objective_a"], row["objective_b"]) for row in rows} == {("msn", "dino")}


def told(folder: Path, copy: Path, **provenance: Any) -> Path:
    """The results of a folder, as if their encoder had said more of how it was made."""
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "evaluation.json").read_text())
    manifest["encoder"]["provenance"] |= provenance
    (copy / "evaluation.json").write_text(json.dumps(manifest))
    seal(copy)
    return copy


def test_what_was_learnt_from_must_be_the_same_too(home: Path, evaluated: dict[str, Path], tmp_path: Path) -> None:
    """The same images scored, but the probes fitted on other images, or on other patients drawn."""
    mine, runs = evaluated["demographic-norm-0"], evaluated["none-0"].parent / "runs"
    cohort = pq.read_table(home.parent / "cohort.parquet")
    keep = np.array(cohort["split"].to_pylist()) != "train"
    keep |= np.arange(len(keep)) % 4 < 2
    (tmp_path / "less").mkdir()
    pq.write_table(cohort.filter(keep), tmp_path / "less" / "cohort.parquet")
    ingest(tmp_path / "less" / "cohort.parquet", tmp_path / "less" / "store", size=32, workers=1)
    evaluate(
        runs / "none-0", tmp_path / "less" / "store", tmp_path / "fewer", EvaluateOptions(resamples=5, baselines=False)
    )
    with pytest.raises(InputError, match="one store of mimic in all evaluations, found hash"):
        compare([mine, tmp_path / "fewer"], tmp_path / "out")
    for name, seed in (("demographic-norm-0", 0), ("none-0", 0), ("none-0", 1)):
        out = tmp_path / f"{name} {seed}"
        evaluate(
            runs / name,
            home,
            out,
            EvaluateOptions(resamples=5, baselines=False, seed=seed, data_percent=[0.5], draws=2),
        )
    drawn = [tmp_path / "demographic-norm-0 0", tmp_path / "none-0 0", tmp_path / "none-0 1"]
    compare(drawn[:2], tmp_path / "out", CompareOptions(resamples=5))
    with pytest.raises(InputError, match=r"one --seed in all evaluations with a fraction .* found 0 in .* and 1 in"):
        compare([drawn[0], drawn[2]], tmp_path / "out", CompareOptions(resamples=5))


def test_p_values_of_labels_are_corrected_for_their_number(evaluated: dict[str, Path], tmp_path: Path) -> None:
    compare([evaluated["demographic-norm-0"], evaluated["none-0"]], tmp_path / "out", CompareOptions(resamples=50))
    for folder, fields in ((tmp_path / "out", ("a", "b")), (evaluated["none-0"], ("a", "b"))):
        rows = read(folder, "comparisons.jsonl")
        for row in rows:
            family = [each for each in rows if all(each[key] == row[key] for key in (*fields, "metric"))]
            if row["label"] == "macro":
                assert row["p_holm"] == row["p"]
                continue
            low, high = sorted(each["p"] for each in family if each["label"] != "macro")
            expected = min(1.0, 2 * low) if row["p"] == low else max(min(1.0, 2 * low), high)
            assert row["p_holm"] == pytest.approx(expected)
            assert {"uncertain", "blank", "after_film", "objective_a", "settings_hash_b", "note"} <= set(row)


def test_fewer_than_three_seeds_make_no_claim(evaluated: dict[str, Path], tmp_path: Path) -> None:
    rows = compare(
        [evaluated["none-0"], evaluated["demographic-norm-1"]], tmp_path / "out", CompareOptions(resamples=20)
    )
    assert {row["claim"] for row in rows} == {"no claim: fewer than 3 seeds"}
    assert {row["seeds"] for row in rows} == {1}


def test_evaluations_of_other_images_truths_or_policies_are_refused(
    home: Path, evaluated: dict[str, Path], tmp_path: Path
) -> None:
    made = evaluated["none-0"].parent / "runs" / "none-0"
    other = hospital(tmp_path / "other", labels=LABELS, patients=60)
    evaluate(made, other, tmp_path / "fewer", EvaluateOptions(resamples=5, baselines=False))
    evaluate(made, home, tmp_path / "ones", EvaluateOptions(resamples=5, baselines=False, uncertain="ones"))
    evaluate(made, home, tmp_path / "one label", EvaluateOptions(resamples=5, baselines=False, labels=["Edema"]))
    for name, words in (
        ("fewer", r"the same images on mimic in .* \(96\) and .* \(48\), found 48 in only one of them"),
        ("ones", "one uncertain in all evaluations, found ignore in .* and ones"),
        ("one label", "the same labels on mimic .* found Pleural Effusion in only one of them"),
        ("nothing", "expected an evaluation"),
    ):
        with pytest.raises(InputError, match=words):
            compare([evaluated["demographic-norm-0"], tmp_path / name], tmp_path / "out")
    with pytest.raises(InputError, match="at least two arms"):
        compare([evaluated["none-0"], evaluated["none-1"]], tmp_path / "out")
    assert not (tmp_path / "out").exists()
