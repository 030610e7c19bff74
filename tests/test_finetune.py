"""Full fine-tuning: rates by depth and over time, paths dropped, images mixed, and training that survives a kill."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from timm.layers import DropPath

from chartray.config.evaluate import EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation.finetune import checkpoint, training
from chartray.evaluation.finetune.augmentation import masked_loss, mixed
from chartray.evaluation.finetune.depth import parameter_groups, set_drop_path
from chartray.evaluation.finetune.recipe import Recipe, halvings, learning_rate, recipe_of
from chartray.evaluation.finetune.training import FineTuned, fine_tune
from chartray.evaluation.image_set import ImageSet, Policy, image_set_of
from chartray.networks import encoder
from chartray.pixels.store import Store
from tests.evaluation_folders import evaluate, hospital, vit

LABELS = ("Edema", "Pleural Effusion")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("mimic"), labels=LABELS, contrast=6, patients=60)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> encoder.PretrainedEncoder:
    return encoder.load(vit(tmp_path_factory.mktemp("run"), run="none-0", seed=0, depth=2))


@pytest.fixture(scope="module")
def parts(home: Path) -> tuple[ImageSet, ImageSet]:
    store = Store.open(home)
    train, validate = (image_set_of(store, split, LABELS, Policy()) for split in ("train", "validate"))
    return train, validate


def finetune(**options: Any) -> Recipe:
    found = recipe_of(EvaluateOptions(protocol="finetune", **options))
    assert found is not None
    return found


# The numbers


def test_each_block_has_its_share_of_the_rate_and_norms_are_spared(given: encoder.PretrainedEncoder) -> None:
    layer = torch.nn.Linear(given.model.num_features, 2)
    groups = parameter_groups(given.model, layer, finetune(layer_decay=0.5))
    named = {id(value): name for name, value in given.model.named_parameters()}
    named |= {id(layer.weight): "layer.weight", id(layer.bias): "layer.bias"}
    found = {named[id(value)]: group for group in groups for value in group["params"]}
    assert set(found) == set(named.values())
    assert sum(len(group["params"]) for group in groups) == len(named)
    scales = {
        "patch_embed.proj.weight": 0.125,
        "pos_embed": 0.125,
        "cls_token": 0.125,
        "blocks.0.attn.qkv.weight": 0.25,
    }
    scales |= {"blocks.1.mlp.fc1.weight": 0.5, "norm.weight": 1.0, "layer.weight": 1.0}
    for name, scale in scales.items():
        assert found[name]["scale"] == scale
    for name, group in found.items():
        spared = name.endswith(("bias", "norm.weight", "norm1.weight", "norm2.weight")) or name in (
            "pos_embed",
            "cls_token",
        )
        assert group["weight_decay"] == (0.0 if spared else 0.05), name


def test_a_lower_block_moves_less(given: encoder.PretrainedEncoder, parts: tuple[ImageSet, ImageSet]) -> None:
    """AdamW's first step is the learning rate for every weight that has a gradient."""
    recipe = finetune(max_epochs=1, warmup_epochs=0, layer_decay=0.1, drop_path=0, learning_rate=1e-3)
    recipe = recipe._replace(weight_decay=0.0, batch_size=1000)
    found = fine_tune(given, *parts, recipe, seed=0)
    before = dict(given.model.named_parameters())
    for name, share in (("blocks.0.attn.proj.weight", 0.01), ("blocks.1.attn.proj.weight", 0.1), ("norm.weight", 1.0)):
        moved = (dict(found.model.named_parameters())[name] - before[name]).abs().max().item()
        assert moved == pytest.approx(1e-3 * share, rel=0.02), name


def test_the_rate_rises_and_falls() -> None:
    recipe = finetune(max_epochs=20, learning_rate=1.0, warmup_epochs=2)
    rates = [learning_rate(recipe, step / 4, []) for step in range(1, 81)]
    assert rates[:8] == pytest.approx(np.arange(1, 9) / 8)
    assert rates[8] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[8:]))
    assert rates[-1] == pytest.approx((1 + math.cos(math.pi * 17 / 18)) / 2)
    published = recipe_of(EvaluateOptions(protocol="published", max_epochs=50))
    assert published is not None
    assert [learning_rate(published, epoch + 0.5, []) for epoch in (0, 25)] == pytest.approx([1e-3, 0.5e-3])
    assert (finetune().warmup_epochs, finetune(max_epochs=10).warmup_epochs) == (5, 1)


def test_the_plateau_is_torchs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.maximum.accumulate(rng.random(40)) + rng.normal(scale=0.01, size=40)
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)
        for count, value in enumerate(values.tolist(), start=1):
            oracle.step(value)
            assert 0.5 ** halvings(values[:count].tolist()) == optimizer.param_groups[0]["lr"]


def test_paths_are_dropped_more_often_the_deeper_and_only_in_training(tmp_path: Path) -> None:
    model = encoder.load(vit(tmp_path, depth=3)).model
    films = torch.rand(4, 1, 32, 32)
    whole = encoder.class_token(model.eval(), films)
    set_drop_path(model, 0.4)
    rates = [block.drop_path1.drop_prob if isinstance(block.drop_path1, DropPath) else 0 for block in model.blocks]
    assert rates == pytest.approx([0, 0.2, 0.4])
    torch.testing.assert_close(encoder.class_token(model.eval(), films), whole)
    model.train()
    assert not torch.equal(encoder.class_token(model, films), encoder.class_token(model, films))


def test_what_is_unknown_in_either_image_is_unknown_in_their_mixture() -> None:
    films = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    truth = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [1.0, 0.0], [torch.nan, 1.0], [0.0, 0.0], [1.0, 1.0]])
    share = float(np.random.default_rng(3).beta(0.8, 0.8))
    generator = np.random.default_rng(3)
    found, told = mixed(films, truth, 0.8, generator)
    others = (found[:, 0, 0, 0] - share * films[:, 0, 0, 0]) / (1 - share)
    order = others.round().long()
    assert sorted(order.tolist()) == list(range(6))
    expected = share * truth + (1 - share) * truth[order]
    torch.testing.assert_close(told, expected, equal_nan=True)
    assert torch.isnan(told).equal(torch.isnan(truth) | torch.isnan(truth[order]))
    logits = torch.zeros(6, 2, requires_grad=True)
    masked_loss(logits, told).backward()
    assert logits.grad is not None
    assert (logits.grad == 0)[torch.isnan(told)].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, r"--layer-decay in \(0, 1\], found 0"),
        ({"layer_decay": 1.5}, r"--layer-decay in \(0, 1\], found 1.5"),
        ({"drop_path": 1.0}, r"--drop-path in \[0, 1\), found 1"),
        ({"warmup_epochs": 50}, r"--warmup-epochs in \[0, 50\), below --max-epochs, found 50"),
        ({"mixup": -0.1}, "--mixup of 0"),
        ({"mixup": float("nan")}, "--mixup of 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        finetune(**options)


@pytest.mark.parametrize("name", ["layer_decay", "drop_path", "warmup_epochs", "mixup"])
def test_published_stays_as_published(name: str) -> None:
    with pytest.raises(
        InputError, match=f"--{name.replace('_', '-')} only with --protocol finetune, found it with pub"
    ):
        recipe_of(EvaluateOptions(protocol="published", **{name: 0.5}))
    found = recipe_of(EvaluateOptions(protocol="published", freeze=False))
    assert found is not None
    assert (found.layer_decay, found.drop_path, found.warmup_epochs, found.mixup) == (1.0, 0.0, 0.0, 0.0)


# The best epoch, and going on after a kill


def test_the_best_epoch_is_kept_and_training_stops_after_it(
    given: encoder.PretrainedEncoder, parts: tuple[ImageSet, ImageSet]
) -> None:
    recipe = finetune(max_epochs=12, learning_rate=0.02)._replace(patience_epochs=2)
    found = fine_tune(given, *parts, recipe, seed=0)
    reached = [entry["validation_auroc"] for entry in found.history]
    assert found.best_epoch == 1 + int(np.argmax(reached))
    assert len(reached) == min(12, found.best_epoch + 2)
    again = training.predict(given, found, parts[1])
    assert np.nanmean(found.validation_auroc) == pytest.approx(reached[found.best_epoch - 1])
    assert training.auroc(parts[1].truth, again).tolist() == found.validation_auroc.tolist()


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("options", [{"mixup": 0.4, "drop_path": 0.3}, {"scheduler": "reduce"}])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    given: encoder.PretrainedEncoder,
    parts: tuple[ImageSet, ImageSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    recipe = finetune(max_epochs=4, **options)
    whole = fine_tune(given, *parts, recipe, seed=1, folder=tmp_path / "whole")
    epoch = training._epoch

    def twice(work: training.Training, number: int, validation: Any) -> tuple[float, float]:
        if number == 3:
            raise Interrupted
        return epoch(work, number, validation)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_epoch", twice)
        with pytest.raises(Interrupted):
            fine_tune(given, *parts, recipe, seed=1, folder=tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step-000002"]
    same(fine_tune(given, *parts, recipe, seed=1, folder=tmp_path / "cut"), whole)
    # A training that is done is not trained again.
    with monkeypatch.context() as patched:
        patched.setattr(training, "_epoch", twice)
        same(fine_tune(given, *parts, recipe, seed=1, folder=tmp_path / "cut"), whole)
    assert not list(tmp_path.rglob("*.pt"))
    for changed in (recipe._replace(learning_rate=0.5), recipe._replace(mixup=0.9)):
        with pytest.raises(InputError, match="with the recipe it was started with"):
            fine_tune(given, *parts, changed, seed=1, folder=tmp_path / "cut")
    with pytest.raises(InputError, match="with the seed it was started with"):
        fine_tune(given, *parts, recipe, seed=2, folder=tmp_path / "cut")
    fewer = parts[0].kept(np.arange(len(parts[0].rows)) > 3)
    with pytest.raises(InputError, match="with the training films it was started with"):
        fine_tune(given, fewer, parts[1], recipe, seed=1, folder=tmp_path / "cut")


def same(found: FineTuned, expected: FineTuned) -> None:
    assert found.history == expected.history
    assert found.best_epoch == expected.best_epoch
    for one, other in ((found.model, expected.model), (found.layer, expected.layer)):
        torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


def test_an_evaluation_stopped_in_its_second_training_resumes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = vit(tmp_path / "encoder", seed=0)
    options: dict[str, Any] = {
        "protocol": "finetune",
        "max_epochs": 3,
        "data_percent": [0.5],
        "draws": 2,
        "resamples": 5,
    }
    evaluate(run, home, tmp_path / "whole", EvaluateOptions(**options))
    save = checkpoint.save

    def dies(folder: Path, networks: Any, optimizer: Any, reached: checkpoint.Reached, made_of: Any) -> None:
        save(folder, networks, optimizer, reached, made_of)
        if folder.name == "fine-tune-0.5-1" and reached.epoch == 2:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", dies)
        with pytest.raises(Interrupted):
            evaluate(run, home, tmp_path / "cut", EvaluateOptions(**options))
    kept = tmp_path / ".cut.unfinished"
    assert (kept / "fine-tune-0.5-1" / "step-000002").is_dir()
    assert not (tmp_path / "cut").exists()
    with pytest.raises(
        InputError,
        match=r"an unfinished evaluation for .* is in .*cut\.unfinished; continue it with --resume, or delete it",
    ):
        evaluate(run, home, tmp_path / "cut", EvaluateOptions(**options))
    evaluate(run, home, tmp_path / "cut", EvaluateOptions(**options), resume=True)
    assert not kept.exists()
    whole, cut = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("whole", "cut"))
    assert whole.drop(["run"]).equals(cut.drop(["run"]))
    for name in ("results.jsonl", "draws.jsonl", "probe.safetensors", "finetuned/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    manifest = json.loads((tmp_path / "cut" / "evaluation.json").read_text())
    assert (manifest["recipe"]["layer_decay"], manifest["recipe"]["drop_path"]) == (0.75, 0.1)
    with pytest.raises(InputError, match=r"training subset 1 at fraction 0.02 of .*; early stopping needs one"):
        evaluate(run, home, tmp_path / "few", EvaluateOptions(**options | {"data_percent": [0.02, 1]}))
