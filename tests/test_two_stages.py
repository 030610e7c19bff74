"""Two stages from given weights: heads settle before a frozen encoder, whose learning rate then rises linearly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from chartray.errors import InputError
from chartray.networks import encoder as vit
from chartray.training import run_folder
from chartray.training.pretrain import pretrain
from tests.test_pretrain import losses, small, weights
from tests.test_public import TIMM, filled

STAGES = {"train__steps": 6, "train__freeze_steps": 3, "train__ramp_steps": 2, "train__checkpoint_every": 1}
STAGES |= {"train__checkpoint_keep": 9, "train__warmup_epochs": 0}


@pytest.fixture(scope="module")
def parent(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two-stages") / "parent"
    pretrain(small_store, run, small(train__steps=2, train__warmup_epochs=0))
    return run


def of(saved: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{network}."): value for name, value in saved.items() if name.startswith(f"{network}.")}


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


@pytest.mark.parametrize(
    "changed",
    [
        {"train__accumulate": 3, "train__ema_before_step": True},
        {"objective__name": "dino", "chart__use": "predict", "chart__ehr": "sex"},
        {"objective__name": "mae", "views__mask_ratio": 0.5},
    ],
)
def test_a_frozen_encoder_and_its_target_stay_bit_for_bit_while_heads_settle(
    small_store: Path, parent: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    pretrain(small_store, tmp_path / "run", small(encoder__init=str(parent), **STAGES | changed))
    given = bits(vit.load(parent).model.state_dict())
    networks = ["encoder"] if changed.get("objective__name") == "mae" else ["encoder", "target_encoder"]
    for step in (1, 2, 3):
        assert all(bits(of(weights(tmp_path / "run", step), name)) == given for name in networks)
    first, third, fourth = (weights(tmp_path / "run", step) for step in (1, 3, 4))
    others = [name for name in first if "encoder." not in name and first[name].is_floating_point()]
    heads = [name for name in others if name.endswith("weight")]
    assert heads
    assert not any(torch.equal(first[name], third[name]) for name in heads)
    assert bits(of(fourth, "encoder")) != given


def test_its_learning_rate_then_rises_linearly(small_store: Path, parent: Path, tmp_path: Path) -> None:
    """Adam's first step moves a weight by its learning rate, whatever the gradient: so it shows which rate it had."""
    config = small(
        encoder__init=str(parent), **STAGES | {"train__weight_decay": 0.0, "train__final_weight_decay": None}
    )
    pretrain(small_store, tmp_path / "run", config)
    rate, encoder = losses(tmp_path / "run", "learning_rate"), losses(tmp_path / "run", "encoder_learning_rate")
    shares = [one / other for one, other in zip(encoder, rate, strict=True)]
    assert shares == pytest.approx([0, 0, 0, 0.5, 1, 1])
    name = "encoder.blocks.0.mlp.fc1.weight"
    moved = (weights(tmp_path / "run", 4)[name] - weights(tmp_path / "run", 3)[name]).abs()
    assert float(moved.median()) == pytest.approx(0.5 * rate[3], rel=0.01)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_resumes_across_the_stages_bit_for_bit(
    small_store: Path, parent: Path, tmp_path: Path, step: int
) -> None:
    config = small(encoder__init=str(parent), **STAGES)
    pretrain(small_store, tmp_path / "whole", config)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    manifest = run_folder.read_manifest(tmp_path / "run").model_copy(update={"status": "running"})
    run_folder.write_manifest(tmp_path / "run", manifest)
    for later in [*(f"checkpoints/step-{each:06d}" for each in range(step + 1, 7)), "encoder"]:
        shutil.rmtree(tmp_path / "run" / later)
    pretrain(small_store, tmp_path / "run", config, resume=True)
    assert bits(weights(tmp_path / "run", 6)) == bits(weights(tmp_path / "whole", 6))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", *TIMM])
def test_every_kind_of_encoder_that_can_be_loaded_is_frozen_and_then_trained(
    small_store: Path, tmp_path: Path, name: str
) -> None:
    shape = {"width": 32, "depth": 2, "heads": 2}
    side = 14 if "patch14" in name else 16
    given = filled(timm.create_model(name, embed_dim=32, depth=2, num_heads=2, img_size=2 * side, num_classes=0))
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    changed = {f"encoder__{knob}": value for knob, value in shape.items()} | {"encoder__patch_size": None}
    changed |= {"encoder__name": name, "encoder__init": str(tmp_path / "w.safetensors")}
    changed |= {"views__size": 2 * side, "views__focal_size": side, "train__steps": 3, "train__freeze_steps": 2}
    pretrain(small_store, tmp_path / "run", small(**STAGES | changed | {"train__ramp_steps": 0}))
    frozen, trained = (weights(tmp_path / "run", step) for step in (2, 3))
    assert bits(of(frozen, "encoder")) == bits(of(frozen, "target_encoder"))
    block = "encoder.blocks.1.mlp.fc2.weight"
    assert torch.equal(frozen[block], given.state_dict()[block.removeprefix("encoder.")])
    assert not torch.equal(frozen[block], trained[block])


def test_the_manifest_says_the_stages(small_store: Path, parent: Path, tmp_path: Path) -> None:
    pretrain(small_store, tmp_path / "run", small(encoder__init=str(parent), **STAGES))
    manifest = run_folder.read_manifest(tmp_path / "run")
    assert (manifest.freeze_steps, manifest.ramp_steps) == (3, 2)
    assert (vit.load(tmp_path / "run").provenance.model_extra or {})["freeze_steps"] == 3


def test_stages_without_weights_or_longer_than_the_run_are_refused(
    small_store: Path, parent: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"expected encoder\.init with train\.freeze_steps"):
        small(**STAGES)
    with pytest.raises(InputError, match=r"below the 5 steps of this run, found 3 \+ 2; lower them"):
        pretrain(small_store, tmp_path / "run", small(encoder__init=str(parent), **STAGES | {"train__steps": 5}))
    assert not (tmp_path / "run").exists()
