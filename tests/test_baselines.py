"""The baselines end to end: exact resume, what is trained, what is evaluated, and charts they cannot use."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chartray.cli import run_command
from chartray.config import pretrain as knobs
from chartray.errors import InputError, UnhealthyRun
from chartray.networks import encoder as vit
from chartray.pixels.store import Store
from chartray.training import run_folder
from chartray.training.build import build_networks
from chartray.training.monitor import Monitor
from chartray.training.pretrain import pretrain
from chartray.training.training_data import load_training_data

from .test_monitor import SHORT
from .test_pretrain import RUN, SMALL, command, gradients, losses, small, weights

BASELINES = ("dino", "mae")


@pytest.mark.parametrize("name", BASELINES)
def test_six_steps_are_three_saved_and_three_resumed_bit_for_bit(small_store: Path, tmp_path: Path, name: str) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    settings = small(objective__name=name)
    for run in (whole, halves):
        pretrain(small_store, run, settings)
    for later in ("checkpoints/step-000006", "encoder"):
        for file in (halves / later).iterdir():
            file.unlink()
        (halves / later).rmdir()
    pretrain(small_store, halves, settings, resume=True)
    assert losses(halves) == losses(whole)
    first, second = weights(whole, 6), weights(halves, 6)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    files = [run / "encoder" / "model.safetensors" for run in (whole, halves)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", BASELINES)
def test_two_steps_change_the_encoder_that_is_evaluated(small_store: Path, tmp_path: Path, name: str) -> None:
    settings = small(objective__name=name, train__steps=2, train__warmup_epochs=0, train__checkpoint_every=1)
    pretrain(small_store, tmp_path / "run", settings)
    start = build_networks(load_training_data(Store.open(small_store), settings), settings).state_dict()
    taken_home = vit.load(tmp_path / "run").model.state_dict()
    assert all(start[f"encoder.{key}"].shape == value.shape for key, value in taken_home.items())
    moved = [key for key, value in taken_home.items() if not torch.equal(start[f"encoder.{key}"], value)]
    assert {"cls_token", "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.bias"} <= set(moved)
    saved = weights(tmp_path / "run", 2)
    changed = {key for key in saved if not torch.equal(saved[key], start[key])}
    assert changed == saved.keys()  # nothing that is saved stands still
    assert run_folder.read_manifest(tmp_path / "run").objective == name


def test_dinos_target_is_the_average_of_its_anchor_and_its_centre_that_of_the_outputs(
    small_store: Path, tmp_path: Path
) -> None:
    settings = small(objective__name="dino", train__steps=2, train__warmup_epochs=0, train__checkpoint_every=1)
    pretrain(small_store, tmp_path / "run", settings)
    start = build_networks(load_training_data(Store.open(small_store), settings), settings).state_dict()
    after = weights(tmp_path / "run", 1)
    momentum = losses(tmp_path / "run", "ema")[0]
    for part, name in (("encoder", "blocks.0.attn.qkv.weight"), ("head", "0.weight"), ("last_layer", "")):
        key = f"{part}.{name}".rstrip(".")
        wanted = momentum * start[f"target_{key}"] + (1 - momentum) * after[key]
        assert torch.allclose(after[f"target_{key}"], wanted, atol=1e-7), key
        assert not torch.equal(after[key], start[key])
    assert not start["centre"].any()
    assert after["centre"].abs().max() > 0
    taken_home = load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    target = {key.removeprefix("target_encoder."): value for key, value in weights(tmp_path / "run", 2).items()}
    assert all(torch.equal(target[key], value) for key, value in taken_home.items())


@pytest.mark.parametrize("name", BASELINES)
def test_accumulation_is_exact(small_store: Path, name: str) -> None:
    changed = {"objective__name": name, "views__focal_mask_ratio": 0.25}
    whole, wanted = gradients(Store.open(small_store), 1, **changed)
    parts, found = gradients(Store.open(small_store), 6, **changed)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert wanted.keys() == found.keys()
    assert not any("target" in key for key in found)
    for key in wanted:
        assert (wanted[key] - found[key]).norm() <= 1e-4 * wanted[key].norm() + 1e-7, key


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_two_processes_give_the_losses_and_weights_of_one(small_store: Path, tmp_path: Path, name: str) -> None:
    settings = {"objective__name": name, "train__steps": 4, "train__clip": 0.5, "train__warmup_epochs": 0}
    pretrain(small_store, tmp_path / "one", small(**settings))
    (tmp_path / "run.py").write_text(RUN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    tail = command(small_store, tmp_path / "two", **settings)[3:]
    done = subprocess.run(
        [*launcher, str(tmp_path / "run.py"), *tail], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for measured in ("loss", "gradient_norm"):
        found, wanted = losses(tmp_path / "two", measured), losses(tmp_path / "one", measured)
        assert found == pytest.approx(wanted, rel=1e-5)
    one, two = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    assert all(torch.allclose(one[key], two[key], atol=2e-5) for key in one)


@pytest.mark.parametrize("name", BASELINES)
def test_a_healthy_run_is_not_stopped(small_store: Path, tmp_path: Path, name: str) -> None:
    pretrain(small_store, tmp_path / "run", small(**SHORT | {"objective__name": name}))
    assert run_folder.read_manifest(tmp_path / "run").status == "complete"
    found = losses(tmp_path / "run")
    assert sum(found[-20:]) < sum(found[:20])


@pytest.mark.parametrize(
    ("name", "what", "changed"),
    [
        ("dino", "no longer distinguish images", {"objective__target_temperature": 0.5}),
        ("dino", "effective rank|no longer distinguish images", {"train__learning_rate": 1e-3 * 24 / 64 * 100}),
        ("mae", "nearly identical", {"train__weight_decay": 100.0, "train__final_weight_decay": 100.0}),
    ],
)
def test_a_collapse_is_seen_said_and_stops_the_run(
    small_store: Path, tmp_path: Path, name: str, what: str, changed: dict[str, Any]
) -> None:
    """A target too soft to be followed anywhere but to the uniform answer; the rate x 100, which ends in one of two
    ways; a decay that takes all weights to zero, where embeddings keep their rank while they become one.
    """
    with pytest.raises(UnhealthyRun, match=what):
        pretrain(small_store, tmp_path / "run", small(**SHORT | changed | {"objective__name": name}))
    assert 80 <= len(losses(tmp_path / "run")) < 180


def test_a_run_without_assignments_is_judged_by_loss_and_rank() -> None:
    monitor = Monitor(classes=64, untrained_rank=20.0, untrained_spread=0.4, earliest=50)
    for step in range(60):
        monitor.record(1.0 / (step + 1), None)
    assert monitor.problem(60, 6.0) is None
    assert "effective rank of 4.0" in str(monitor.problem(60, 4.0))
    again = Monitor(classes=64, untrained_rank=0.0, untrained_spread=0.0, earliest=50)
    again.restore(monitor.state())
    assert again.problem(60, 4.0) == monitor.problem(60, 4.0)
    for _ in range(60):
        monitor.record(0.5, None)
    assert "has not changed" in str(monitor.problem(120, 20.0))


@pytest.mark.parametrize("name", BASELINES)
def test_the_command_line_pretrains_it_and_refuses_a_misspelt_one(
    small_store: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [token for knob, value in SMALL.items() for token in (f"--{knob}", str(value))]
    command = ["pretrain", str(small_store), "--recipe", "tiny-cpu", *options, "--objective.name"]
    assert run_command([*command, name, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()
    assert run_command([*command, name + "x", "--out", str(tmp_path / "other")]) == 2
    assert f"found '{name}x'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_baseline_has_no_chart_unless_it_is_asked_for() -> None:
    assert small().chart.ehr == "demographic-norm"
    assert all(small(objective__name=name).chart.ehr == "none" for name in BASELINES)
    assert small(objective__name="dino", chart__ehr="sex").chart.ehr == "sex"


@pytest.mark.parametrize("use", ["anchor", "predict"])
def test_dino_takes_a_chart_through_the_same_seam(small_store: Path, use: str) -> None:
    changed = {"objective__name": "dino", "chart__ehr": "sex,age", "chart__use": use}
    whole, wanted = gradients(Store.open(small_store), 1, **changed)
    parts, found = gradients(Store.open(small_store), 3, **changed)
    assert any(key.startswith("chart.") for key in wanted)
    assert parts == pytest.approx(whole, rel=1e-5)
    for key in wanted:
        assert (wanted[key] - found[key]).norm() <= 1e-4 * wanted[key].norm() + 1e-7, key


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"chart__ehr": "sex"}, r"expected --ehr none with objective\.name mae.*found sex"),
        ({"views__mask_ratio": 0.0}, "mask at least one of 16 patches"),
        ({"objective__decoder_width": 50}, r"multiple of 4 and of objective\.decoder_heads = 3, found 50"),
        ({"chart__control": "shuffled"}, "--ehr none"),
    ],
)
def test_what_mae_cannot_use_is_one_sentence_and_writes_nothing(
    small_store: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as error:
        pretrain(small_store, tmp_path / "run", small(**changed | {"objective__name": "mae"}))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_mae_makes_no_focal_views_and_logs_no_average(small_store: Path, tmp_path: Path) -> None:
    settings = small(objective__name="mae", train__steps=1)
    assert settings.views.focal_count == 0
    pretrain(small_store, tmp_path / "run", settings)
    noted = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert noted["loss"] == noted["reconstruction"]
    assert not {"ema", "mean_entropy", "health.agreement"} & noted.keys()
    assert "health.effective_rank" in noted


@pytest.mark.parametrize("name", BASELINES)
def test_the_recipe_resolves_and_names_its_objective(name: str) -> None:
    recipe = knobs.load(name)
    assert (recipe.objective.name, recipe.chart.ehr) == (name, "none")
