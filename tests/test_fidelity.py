"""The recipes to the letter: sequences of the official MSN code and of the published one, written out."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from chartray.config.pretrain import Config, load
from chartray.networks import encoder as vit
from chartray.networks.siamese import Siamese
from chartray.pixels.store import Store
from chartray.pixels.views import cut_views
from chartray.training.build import build_monitor, build_networks, build_optimizer
from chartray.training.loader import ImageLoader
from chartray.training.prefetch import Batch
from chartray.training.pretrain import pretrain
from chartray.training.schedules import make_schedule
from chartray.training.step import forward, gradient, msn_forward
from chartray.training.training_data import TrainingData, load_training_data
from tests.test_pretrain import losses, small

CPU = torch.device("cpu")


def in_float32() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def batch_of(store: Store, data: TrainingData, config: Config, step: int = 0) -> Batch:
    loader = ImageLoader(store, data.rows, config.views, patch_side=8, batch_size=24, seed=config.seed)
    images = loader.load(step)
    views = cut_views(images.images, images.plan, config.views, data.grey)
    return Batch(step, images.rows, views, data.chart_batch(images, CPU))


def built(store: Store, **changed: Any) -> tuple[Siamese, Batch, Config]:
    config = small(**changed)
    data = load_training_data(store, config)
    networks = build_networks(data, config).train()
    assert isinstance(networks, Siamese)
    return networks, batch_of(store, data, config), config


def head_by_hand(head: nn.Sequential, rows: Tensor) -> Tensor:
    """Three linear layers; after the first two, BatchNorm by the mean and variance of these rows, and GELU. Float64."""
    for at in (0, 3):
        rows = rows @ head[at].weight.double().T + head[at].bias.double()
        centred = rows - rows.mean(dim=0)
        rows = centred / (centred.square().mean(dim=0) + 1e-5).sqrt()
        rows = rows * head[at + 1].weight.double() + head[at + 1].bias.double()
        rows = 0.5 * rows * (1 + torch.erf(rows / 2**0.5))
    return rows @ head[6].weight.double().T + head[6].bias.double()


def assigned_by_hand(networks: Siamese, embeddings: Tensor) -> Tensor:
    cosine = nn.functional.normalize(embeddings, dim=1) @ nn.functional.normalize(networks.prototypes.double(), dim=1).T
    return torch.log_softmax(cosine / 0.1, dim=1)


@pytest.mark.parametrize("statistics", ["resolution", "together"])
def test_the_heads_statistics_are_those_of_each_resolution_or_of_all_anchors(
    small_store: Path, statistics: str
) -> None:
    """The official code runs the head once for each size of view; the published one on all anchors together."""
    networks, batch, config = built(Store.open(small_store), objective__head_statistics=statistics)
    found = msn_forward(networks, batch.views, batch.chart, config.objective, in_float32, 1).assignments
    assert found is not None
    with torch.no_grad():
        classes = [vit.class_token(networks.encoder, batch.views.random, batch.views.random_keep)]
        classes.append(vit.class_token(networks.encoder, batch.views.focal))
        assert networks.chart.joins is not None
        rows = batch.chart.rows[:, networks.chart.joined_columns]
        tokens = torch.cat(classes)
        anchors = networks.chart.joins(tokens, rows.repeat(len(tokens) // len(rows), 1)).double()
        groups = [anchors] if statistics == "together" else [anchors[:24], anchors[24:]]
        wanted = torch.cat([assigned_by_hand(networks, head_by_hand(networks.head, group)) for group in groups])
        others = torch.cat(
            [assigned_by_hand(networks, head_by_hand(networks.head, each)) for each in anchors.split(24)]
        )
    torch.testing.assert_close(found.anchor.double(), wanted, rtol=0, atol=1e-4)
    assert (found.anchor.double() - others).abs().max() > 0.01  # of each view apart would be another thing


def test_views_of_one_size_are_one_group_as_in_the_official_code(small_store: Path) -> None:
    store, same = Store.open(small_store), {"views__focal_size": 32}
    totals = []
    for statistics in ("resolution", "together"):
        networks, batch, config = built(store, objective__head_statistics=statistics, **same)
        totals.append(forward(networks, batch.views, batch.chart, config.objective, in_float32).total.item())
    assert totals[0] == totals[1]


@pytest.mark.parametrize("statistics", ["resolution", "together"])
def test_recomputed_parts_move_the_running_values_once(small_store: Path, statistics: str) -> None:
    kept = []
    for parts in (1, 3):
        networks, batch, config = built(Store.open(small_store), objective__head_statistics=statistics)
        gradient(networks, batch, config, in_float32, parts)
        kept.append({name: value.clone() for name, value in networks.named_buffers()})
    groups = {"resolution": 2, "together": 1}[statistics]
    assert {int(kept[0][f"{head}.1.num_batches_tracked"]) for head in ("head", "target_head")} == {groups, 1}
    for name, value in kept[0].items():
        torch.testing.assert_close(kept[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("before", [False, True])
def test_the_target_moves_after_the_step_or_before_the_next_forward_pass(
    small_store: Path, tmp_path: Path, before: bool
) -> None:
    """Three steps by hand: target, forward, backward, step (published); forward, backward, step, target (official)."""
    config = small(
        train__steps=3, train__ema=0.5, train__final_ema=0.5, train__clip=None, train__ema_before_step=before
    )
    pretrain(small_store, tmp_path / "run", config)
    store = Store.open(small_store)
    data = load_training_data(store, config)
    networks = build_networks(data, config).train()
    optimizer, by_hand = build_optimizer(networks, config.train), []
    pairs = [(networks.target_encoder, networks.encoder), (networks.target_head, networks.head)]

    def move() -> None:
        with torch.no_grad():
            for target, anchor in pairs:
                for old, new in zip(target.parameters(), anchor.parameters(), strict=True):
                    old.copy_(0.5 * old.double() + 0.5 * new.double())

    rates = losses(tmp_path / "run", "learning_rate"), losses(tmp_path / "run", "weight_decay")
    for step, (rate, decay) in enumerate(zip(*rates, strict=True)):
        if before:
            move()
        batch = batch_of(store, data, config, step)
        total = forward(networks, batch.views, batch.chart, config.objective, in_float32).total
        optimizer.zero_grad()
        total.backward()
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, decay if group["decays"] else 0.0
        optimizer.step()
        if not before:
            move()
        by_hand.append(total.item())
    assert losses(tmp_path / "run") == pytest.approx(by_hand, rel=1e-5)
    for name, value in vit.load(tmp_path / "run").model.state_dict().items():
        # The head's BatchNorm takes norm.bias off again, and no share of attention depends on the keys' bias: their
        # gradients are rounding, which Adam blows up.
        if name != "norm.bias" and not name.endswith("qkv.bias"):
            torch.testing.assert_close(value, networks.target_encoder.state_dict()[name], rtol=0, atol=1e-5, msg=name)


def test_the_targets_running_values_are_its_own(small_store: Path) -> None:
    """The official EMA moves weights alone; in training no head reads its running values."""
    networks, batch, config = built(Store.open(small_store))
    gradient(networks, batch, config, in_float32)
    before = {name: value.clone() for name, value in networks.target_head.named_buffers()}
    networks.move_target(0.5)
    assert not torch.equal(before["1.running_mean"], networks.head[1].running_mean)
    assert all(torch.equal(value, before[name]) for name, value in networks.target_head.named_buffers())


def test_clipping_is_over_encoder_chart_and_head_and_not_over_prototypes(small_store: Path) -> None:
    store = Store.open(small_store)
    unclipped, batch, config = built(store, train__clip=None)
    _, norm = gradient(unclipped, batch, config, in_float32)
    clipped, batch, config = built(store, train__clip=float(norm) / 4)
    _, said = gradient(clipped, batch, config, in_float32)
    assert said == norm
    wanted = {name: value.grad for name, value in unclipped.trained_parameters().items()}
    squares = sum(float(grad.double().square().sum()) for name, grad in wanted.items() if name != "prototypes")
    assert float(norm) == pytest.approx(squares**0.5, rel=1e-5)
    for name, value in clipped.trained_parameters().items():
        share = 1.0 if name == "prototypes" else 0.25
        torch.testing.assert_close(value.grad, share * wanted[name], rtol=1e-4, atol=1e-9, msg=name)


def test_first_weights_are_drawn_as_in_the_official_code() -> None:
    """Standard deviations that the official code's calls have, in draws of some ten thousand numbers or more."""
    config = load("msn", None, {"encoder.name": "vit_tiny", "encoder.depth": 1, "chart.ehr": "none"})
    encoder = vit.build(vit.architecture(config.encoder, 224), seed=0)
    networks = Siamese(encoder, nn.Identity(), config.objective)  # type: ignore[arg-type]  # no chart is needed here
    spreads = {
        "encoder.patch_embed.proj.weight": (2 / 256) ** 0.5,  # one channel of 16 x 16 pixels
        "encoder.blocks.0.attn.qkv.weight": 0.02,
        "encoder.blocks.0.mlp.fc1.weight": 0.02,
        "encoder.pos_embed": 0.02,
        "head.0.weight": 0.02,
        "head.3.weight": 0.02,
        "head.6.weight": 0.02,
        "prototypes": 1 / (3 * 256) ** 0.5,  # uniform within 1 / sqrt(256)
    }
    values = dict(networks.named_parameters())
    for name, spread in spreads.items():
        assert float(values[name].detach().std()) == pytest.approx(spread, rel=0.02), name
    assert float(values["encoder.cls_token"].detach().std()) == pytest.approx(0.02, rel=0.2)  # 192 numbers
    assert not any(value.any() for name, value in values.items() if name.endswith("bias"))
    assert all((values[f"head.{at}.weight"] == 1).all() for at in (1, 4))
    # Three colours drawn with sd sqrt(2 / 768) that show the same grey: the sum of their weights.
    assert spreads["encoder.patch_embed.proj.weight"] == pytest.approx(3**0.5 * (2 / 768) ** 0.5)


@pytest.mark.parametrize("recipe", ["published", "dino", "mae", "small-cpu", "tiny-cpu"])
def test_other_recipes_keep_timms_first_weights(recipe: str) -> None:
    config = load(recipe)
    shape = vit.architecture(config.encoder, config.views.size)
    torch.manual_seed(5)
    theirs = timm.create_model(**shape.arguments(), num_classes=0, in_chans=1, dynamic_img_size=True).state_dict()
    ours = vit.build(shape, seed=5).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_the_untrained_baseline_is_drawn_as_the_run_was(small_store: Path, tmp_path: Path) -> None:
    for weights in ("msn", "timm"):
        config = small(train__steps=1, encoder__first_weights=weights)
        pretrain(small_store, tmp_path / weights, config)
        first = build_networks(load_training_data(Store.open(small_store), config), config).encoder.state_dict()
        fresh = vit.untrained(vit.load(tmp_path / weights), seed=config.seed).model.state_dict()
        assert all(torch.equal(fresh[name], value) for name, value in first.items())


def test_focal_positions_are_those_that_an_exported_encoder_has_at_this_size() -> None:
    """timm's antialiased positions, where the official code has none: what was trained is what timm and export load."""
    config = small()
    model = vit.build(vit.architecture(config.encoder, 32), seed=0).eval()
    focal = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(vit.class_token(copy.deepcopy(model), focal), model(focal))


def test_a_power_law_prior_is_in_the_loss_and_in_the_monitors_expectation(small_store: Path, tmp_path: Path) -> None:
    config = small(train__steps=2, objective__prior="power-law", objective__prior_exponent=2.0, chart__ehr="none")
    pretrain(small_store, tmp_path / "run", config)
    parts = [losses(tmp_path / "run", name) for name in ("loss", "cross_entropy", "mean_entropy", "prior")]
    for loss, *terms in zip(*parts, strict=True):
        assert loss == pytest.approx(sum(terms), rel=1e-6)
    share = torch.arange(1, 33, dtype=torch.float64) ** -2
    share /= share.sum()
    schedule = make_schedule(config.train, 144)
    monitor = build_monitor(config, schedule, rank=1.0, spread=1.0)
    assert monitor.classes == round(float((-(share * share.log()).sum()).exp()))  # 3 or so, not 24
