"""The loop: exact resume, what may train on what, controls, accumulation, and a checkpoint that learns."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import Block

from chartray.config import pretrain as knobs
from chartray.config.pretrain import Config
from chartray.errors import InputError, UnhealthyRun
from chartray.networks import encoder as vit
from chartray.pixels.store import Store
from chartray.pixels.views import cut_views
from chartray.schema import patient_key
from chartray.training import checkpoint, compilation, loader, run_folder
from chartray.training.build import build_networks
from chartray.training.controls import ChartTable, controlled
from chartray.training.loop import Loop
from chartray.training.prefetch import Batch, Prefetcher
from chartray.training.pretrain import pretrain
from chartray.training.processes import processes
from chartray.training.step import forward
from chartray.training.training_data import load_training_data, settings_hash

SMALL = {
    "encoder.width": 48,
    "encoder.depth": 2,
    "encoder.heads": 3,
    "encoder.patch_size": 8,
    "views.size": 32,
    "views.focal_size": 16,
    "views.focal_count": 2,
    "objective.prototypes": 32,
    "objective.head_hidden": 64,
    "objective.head_out": 32,
    "objective.head_statistics": "resolution",
    "train.batch_size": 24,
    "train.steps": 6,
    "train.checkpoint_every": 3,
    "train.recipe_learning_rate": 1e-3,
    "train.precision": "fp32",
    "train.device": "cpu",
    "health.every": 3,
    "health.probe_films": 16,
}


def small(**changed: Any) -> Config:
    overrides = SMALL | {name.replace("__", "."): value for name, value in changed.items()}
    return knobs.load("tiny-cpu", None, overrides)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "networks.safetensors")


def losses(run: Path, name: str = "loss") -> list[float]:
    return [json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("before", [False, True])
def test_six_steps_are_three_saved_and_three_resumed_bit_for_bit(
    small_store: Path, tmp_path: Path, before: bool
) -> None:
    config = small(train__ema_before_step=before)
    pretrain(small_store, tmp_path / "whole", config)
    pretrain(small_store, tmp_path / "halves", config)
    # As if killed after step 5: the last checkpoint is step 3, and metrics hold a torn line beyond it.
    for later in ("checkpoints/step-000006", "encoder"):
        for file in (tmp_path / "halves" / later).iterdir():
            file.unlink()
        (tmp_path / "halves" / later).rmdir()
    metrics = tmp_path / "halves" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:5]) + '{"step": 6, "lo')
    pretrain(small_store, tmp_path / "halves", config, resume=True)
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    whole, halves = weights(tmp_path / "whole", 6), weights(tmp_path / "halves", 6)
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    files = [tmp_path / run / "encoder" / "model.safetensors" for run in ("whole", "halves")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_images_a_second_count_the_time_that_images_are_waited_for(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loader.ImageLoader.load

    def slowly(loader: loader.ImageLoader, step: int) -> loader.ImageBatch:
        time.sleep(0.3)
        return load(loader, step)

    monkeypatch.setattr(loader.ImageLoader, "load", slowly)
    pretrain(small_store, tmp_path / "run", small(train__steps=5, health__every=100))
    # A step fetches the images of the next: the last one fetches none.
    assert max(losses(tmp_path / "run", "films_per_second")[:-1]) < 24 / 0.25


def test_prototypes_move_within_two_steps_unless_published_freezes_them(small_store: Path, tmp_path: Path) -> None:
    for name, trained in (("msn", True), ("published", False)):
        settings = small(train__steps=2, train__warmup_epochs=0, objective__train_prototypes=trained)
        pretrain(small_store, tmp_path / name, settings)
        store = Store.open(small_store)
        first = build_networks(load_training_data(store, settings), settings).prototypes
        assert torch.equal(weights(tmp_path / name, 2)["prototypes"], first) != trained
    assert knobs.load("published").objective.train_prototypes is False


def test_pretraining_reads_the_train_split_only(small_store: Path) -> None:
    store = Store.open(small_store)
    data = load_training_data(store, small())
    splits = store.cohort.column("split").take(data.rows)
    assert pc.unique(splits).to_pylist() == ["train"]
    seen = {row for step in range(12) for row in data.rows[loader.places_of_step(step, 24, len(data.rows), seed=0)[0]]}
    assert seen == set(data.rows)  # two passes reach every training image and no other


def test_a_variable_known_only_after_the_image_is_refused_unless_named(small_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"died.*after the image.*--chart.allow-after-film died"):
        pretrain(small_store, tmp_path / "run", small(chart__ehr="sex,died"))
    assert not (tmp_path / "run").exists()
    allowed = small(chart__ehr="sex,died", chart__allow_after_film=["died"], train__steps=1)
    pretrain(small_store, tmp_path / "run", allowed)
    assert run_folder.read_manifest(tmp_path / "run").after_film == ["died"]
    assert vit.load(tmp_path / "run").provenance.after_film == ["died"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train__batch_size": 500}, "500 training images"),
        ({"chart__ehr": "sexx"}, "did you mean 'sex'"),
        ({"chart__ehr": "demographic-norm+scan"}, "view"),
        ({"chart__ehr": "none", "chart__control": "shuffled"}, "--ehr none"),
        ({"views__focal_count": 10**9}, "1000000002 views of 24 images need"),
        ({"chart__use": "predict", "chart__control": "mask-only"}, "no value of 'sex' to predict"),
        ({"views__focal_size": 20}, "multiple of the 8 px patch"),
        ({"encoder__name": "vit_tinny"}, "vit_tinny"),
    ],
)
def test_unusable_settings_are_one_sentence_and_write_nothing(
    small_store: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as error:
        pretrain(small_store, tmp_path / "run", small(**changed))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_is_continued_only_as_it_was_started(small_store: Path, tmp_path: Path) -> None:
    pretrain(small_store, tmp_path / "run", small(train__steps=1))
    with pytest.raises(InputError, match="--resume"):
        pretrain(small_store, tmp_path / "run", small(train__steps=1))
    with pytest.raises(InputError, match=r"views\.mask_ratio = 0\.3, found 0\.5"):
        pretrain(small_store, tmp_path / "run", small(train__steps=1, views__mask_ratio=0.5), resume=True)
    pretrain(small_store, tmp_path / "run", small(train__steps=1), resume=True)  # complete: nothing to do


def test_a_run_is_not_continued_on_another_store(small_store: Path, tmp_path: Path) -> None:
    pretrain(small_store, tmp_path / "run", small(train__steps=1))
    manifest = run_folder.read_manifest(tmp_path / "run")
    run_folder.write_manifest(tmp_path / "run", manifest.model_copy(update={"store_hash": "f" * 64}))
    with pytest.raises(InputError, match="was started on a store with hash ffff"):
        pretrain(small_store, tmp_path / "run", small(train__steps=1), resume=True)


def test_what_a_parent_was_shown_stays_with_its_child(small_store: Path, tmp_path: Path) -> None:
    allowed = small(chart__ehr="sex,died", chart__allow_after_film=["died"], train__steps=1)
    pretrain(small_store, tmp_path / "parent", allowed)
    child = small(chart__ehr="none", encoder__init=str(tmp_path / "parent"), train__steps=1)
    pretrain(small_store, tmp_path / "child", child)
    provenance = vit.load(tmp_path / "child").provenance
    assert provenance.after_film == ["died"]
    assert provenance.init.chart == "sex,died"
    assert set(provenance.chart_sources) == {"sex", "died"}


def test_a_run_says_whom_it_was_pretrained_on(small_store: Path, tmp_path: Path) -> None:
    pretrain(small_store, tmp_path / "run", small(train__steps=1))
    keys = (tmp_path / "run" / "train_patients.txt").read_text().split()
    cohort = Store.open(small_store).cohort.to_pandas()
    train = set(cohort.patient_id[cohort.split == "train"])
    assert set(keys) == {patient_key("drawn", patient) for patient in train}
    assert not any("train_patients" in path.name for path in (tmp_path / "run" / "encoder").iterdir())


def test_settings_are_one_experiment_whatever_the_seed_chart_or_control() -> None:
    same = {settings_hash(small(seed=seed, chart__ehr=ehr)) for seed in (0, 1) for ehr in ("none", "sex")}
    assert len(same) == 1
    assert settings_hash(small(train__steps=7)) not in same


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (1, 1)),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2"}, (1, 1)),  # a batch script that did not call srun
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}, (8, 4)),
    ],
)
def test_processes_are_torchruns_or_sruns_or_one(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: tuple[int, int]
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "WORLD_SIZE", "LOCAL_WORLD"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes() == found


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "two"}, {"SLURM_STEP_ID": "0", "SLURM_NTASKS": ""}])
def test_a_launchers_variable_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"a number in the variable {list(environment)[-1]}, found"):
        processes()


def test_epochs_given_take_the_place_of_a_recipes_steps() -> None:
    given = knobs.load("tiny-cpu", None, {"train.epochs": 3}).train
    assert (given.epochs, given.steps) == (3, None)
    for wrong in ({"train.epochs": None, "train.steps": None}, {"train.epochs": 2, "train.steps": 9}):
        with pytest.raises(InputError, match=r"train.epochs or train.steps"):
            knobs.load("tiny-cpu", None, wrong)


def chart_table(patients: int = 30, seed: int = 0) -> ChartTable:
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), generator.integers(1, 5, patients))
    rows = generator.normal(size=(len(codes), 4)).astype(np.float32)
    rows[:, 3] = generator.random(len(codes)) < 0.7
    return ChartTable(rows, rows[:, 3:] > 0, codes)


def test_a_shuffled_chart_is_one_other_patients_whole_rows_and_redrawn_each_epoch() -> None:
    table = chart_table()
    drawn = [controlled(table, "shuffled", [3], seed=1, epoch=epoch) for epoch in range(2)]
    own = {tuple(row): patient for row, patient in zip(table.rows.tolist(), table.patients, strict=True)}
    for control in drawn:
        donors = np.array([own[tuple(row)] for row in control.rows.tolist()])  # every row is somebody's whole row
        assert (donors != table.patients).all()
        for patient in range(30):
            assert len(set(donors[table.patients == patient])) == 1  # a patient's images stay together
        assert len(np.unique(donors)) == 30  # everybody gives once: the charts' distribution over patients stays
    assert not np.array_equal(drawn[0].rows, drawn[1].rows)
    again = controlled(table, "shuffled", [3], seed=1, epoch=1)
    assert np.array_equal(again.rows, drawn[1].rows)


def test_constant_and_mask_only_carry_no_value() -> None:
    table = chart_table()
    constant = controlled(table, "constant", [3], seed=0, epoch=0)
    assert len(np.unique(constant.rows, axis=0)) == 1
    masked = controlled(table, "mask-only", [3], seed=0, epoch=0)
    assert np.array_equal(masked.rows[:, 3], table.rows[:, 3])
    assert not masked.rows[:, :3].any()
    with pytest.raises(InputError, match="published"):
        controlled(table, "mask-only", [], seed=0, epoch=0)


def gradients(store: Store, accumulate: int, **changed: Any) -> tuple[float, dict[str, torch.Tensor]]:
    config = small(train__accumulate=accumulate, **changed)
    data = load_training_data(store, config)
    networks = build_networks(data, config).train()
    batch = loader.ImageLoader(store, data.rows, config.views, patch_side=8, batch_size=24, seed=0).load(0)
    losses = forward(
        networks,
        cut_views(batch.images, batch.plan, config.views, data.grey),
        data.chart_batch(batch, torch.device("cpu")),
        config.objective,
        lambda: torch.autocast("cpu", enabled=False),
        accumulate,
    )
    losses.total.backward()
    parameters = networks.trained_parameters().items()
    return losses.total.item(), {name: value.grad for name, value in parameters if value.grad is not None}


@pytest.mark.parametrize("use", ["anchor", "predict"])
def test_accumulation_through_cached_embeddings_is_exact(small_store: Path, use: str) -> None:
    store = Store.open(small_store)
    whole, wanted = gradients(store, 1, chart__use=use, views__focal_mask_ratio=0.25)
    parts, found = gradients(store, 3, chart__use=use, views__focal_mask_ratio=0.25)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert wanted.keys() == found.keys()
    # Biases before a BatchNorm have no gradient but rounding, which is as large as the others' digits end.
    rounding = 1e-6 * torch.stack([each.norm() for each in wanted.values()]).norm()
    for name in wanted:
        assert (wanted[name] - found[name]).norm() <= 1e-4 * wanted[name].norm() + rounding, name


def test_a_chart_of_no_use_gets_no_gradient_into_the_target(small_store: Path) -> None:
    _, found = gradients(Store.open(small_store), 1)
    assert {"chart.joins.f.weight", "chart.joins.g.weight", "prototypes", "head.0.weight"} <= found.keys()
    assert not any(name.startswith("target") for name in found)


def test_a_non_finite_loss_stops_before_anything_is_updated(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chart value that is not finite must reach neither optimizer nor EMA; the rows are named."""
    real, kept = Loop.learn, {}

    def poisoned(loop: Loop, batch: Batch, prefetcher: Prefetcher) -> Any:
        if batch.step == 2:
            kept.update({name: value.clone() for name, value in loop.networks.state_dict().items()}, loop=loop)
            batch = batch._replace(chart=batch.chart._replace(rows=batch.chart.rows * float("nan")))
        return real(loop, batch, prefetcher)

    monkeypatch.setattr(Loop, "learn", poisoned)
    with pytest.raises(UnhealthyRun, match=r"step 3: the loss is not finite .* rows \d+"):
        pretrain(small_store, tmp_path / "run", small())
    loop = kept.pop("loop")
    trained = loop.networks.trained_parameters()
    assert all(torch.equal(trained[name], kept[name]) for name in trained)
    assert not (tmp_path / "run" / "encoder").exists()
    assert "not finite" in run_folder.read_manifest(tmp_path / "run").status


def test_checkpoints_are_kept_to_a_number(small_store: Path, tmp_path: Path) -> None:
    pretrain(small_store, tmp_path / "run", small(train__checkpoint_every=1, train__checkpoint_keep=2))
    kept = [path.name for path in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == ["step-000005", "step-000006"]
    everything = [p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file() and "events" not in str(p)]
    assert set(everything) <= {
        ".json",
        ".jsonl",
        ".yaml",
        ".txt",
        ".safetensors",
        "",
    }  # SHA256SUMS has none; nothing is pickled


RUN = "import sys; from chartray.cli import main; main()"


def command(store: Path, out: Path, **changed: Any) -> list[str]:
    settings = SMALL | {name.replace("__", "."): value for name, value in changed.items()}
    options = [token for knob, value in settings.items() for token in (f"--{knob}", str(value))]
    return [sys.executable, "-c", RUN, "pretrain", str(store), "--out", str(out), "--recipe", "tiny-cpu", *options]


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and f'"step": {step},' not in read_text(run / "metrics.jsonl"):
        pass


def read_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_killed_in_the_middle_resumes_to_the_same_bytes(
    small_store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = {"train__steps": 60, "train__checkpoint_every": 10}
    # Sums are taken in another order by another number of threads: the same bytes need the same number.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    tokens = command(small_store, tmp_path / "killed", **settings)
    process = subprocess.Popen(tokens, stderr=subprocess.PIPE, env=one_thread)
    wait_for_step(tmp_path / "killed", 25, process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    if number == signal.SIGTERM:
        assert b"continue with --resume" in said
    found = checkpoint.list_checkpoints(tmp_path / "killed" / "checkpoints")
    assert 20 <= int(found[-1].name.removeprefix("step-")) < 60
    pretrain(small_store, tmp_path / "killed", small(**settings), resume=True)
    pretrain(small_store, tmp_path / "whole", small(**settings))
    files = [tmp_path / run / "encoder" / "model.safetensors" for run in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_two_processes_give_the_losses_and_weights_of_one(small_store: Path, tmp_path: Path) -> None:
    settings = {"train__steps": 4, "chart__use": "anchor", "train__clip": 0.5}
    pretrain(small_store, tmp_path / "one", small(**settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    script = tmp_path / "run.py"
    script.write_text(RUN)
    tail = command(small_store, tmp_path / "two", **settings)[3:]
    done = subprocess.run(
        [*launcher, str(script), *tail], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    norms = [losses(tmp_path / run, "gradient_norm") for run in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    one, two = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    # What shifts all anchors alike is taken off again by the head's BatchNorm: its gradient is rounding alone, which
    # Adam blows up to steps of the learning rate. These are such parameters, and no other.
    _, found = gradients(Store.open(small_store), 1, **settings)
    whole = sum(float(gradient.norm() ** 2) for gradient in found.values()) ** 0.5
    idle = {name for name, gradient in found.items() if gradient.norm() < 1e-6 * whole}
    assert idle == {"encoder.norm.bias", "chart.joins.f.bias", "chart.joins.g.bias", "head.0.bias", "head.3.bias"}
    shifted = idle | {"head.1.running_mean", "head.4.running_mean"}
    for name in one:
        if one[name].is_floating_point() and name.removeprefix("target_") not in shifted:
            assert torch.allclose(one[name], two[name], atol=2e-4), name


def test_settings_are_told_apart_by_what_is_not_told_by_name() -> None:
    one = settings_hash(small())
    for alike in ({"seed": 7}, {"chart__ehr": "none"}, {"chart__control": "shuffled"}, {"chart__use": "predict"}):
        assert settings_hash(small(**alike)) == one
    for other in ({"chart__width": 64}, {"chart__weight": 0.5}, {"train__batch_size": 12}, {"views__focal_count": 1}):
        assert settings_hash(small(**other)) != one


@pytest.mark.parametrize(
    ("objective", "as_one"),
    [
        ("msn", False),
        pytest.param("msn", True, marks=pytest.mark.slow),
        pytest.param("mae", False, marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks_give_the_losses_of_blocks_as_written(
    small_store: Path, tmp_path: Path, objective: str, as_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps in float32: the same losses but for rounding, all blocks compiled, and the run says that it is."""
    # Watched, not replaced: the networks are needed, to see which of their blocks it has compiled.
    compiled: list[Any] = []
    original = compilation.compile_encoders

    def watched(networks: Any, *, whole: bool) -> None:
        assert not whole  # which is for GPUs
        compiled.append(networks)
        original(networks, whole=as_one)

    monkeypatch.setattr(compilation, "compile_encoders", watched)
    settings = {"objective__name": objective, "views__mask_ratio": 0.5, "train__steps": 3, "views__focal_count": 0}
    pretrain(small_store, tmp_path / "written", small(**settings, train__compile=False))
    assert not compiled
    pretrain(small_store, tmp_path / "compiled", small(**settings, train__compile=True))
    blocks = [module for module in compiled[0].modules() if isinstance(module, Block)]
    assert len(blocks) == {"msn": 4, "mae": 2 + 2}[objective]
    if as_one:
        assert all(hasattr(each, "compiled_stack") for each in (compiled[0].encoder, compiled[0].target_encoder))
    else:
        assert all(block._compiled_call_impl for block in blocks)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "written"), rel=1e-5)
    assert run_folder.read_manifest(tmp_path / "compiled").compiled is True
    assert run_folder.read_manifest(tmp_path / "written").compiled is False


def test_compiling_without_a_compiler_is_refused_in_a_sentence_and_auto_says_that_it_goes_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = torch.device("cpu")
    assert not compilation.wanted(small(train__compile=True).train.model_copy(update={"compile": False}), 10**6, cpu)
    assert not compilation.wanted(small().train, 999, cpu)
    torch._dynamo.reset()  # what this process has compiled needs no compiler
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/no/such/compiler"))
    with pytest.raises(InputError, match=r"expected a torch.compile that works .* found .*; install") as refused:
        compilation.wanted(small(train__compile=True).train, 3, cpu)
    assert "\n" not in str(refused.value)
    assert not compilation.wanted(small().train, 100_000, cpu)
    assert "train.compile is off" in capsys.readouterr().out
