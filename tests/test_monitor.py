"""The monitor: three collapses that must stop a run, a healthy run that must not, and known assignments."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from chartray.errors import UnhealthyRun
from chartray.objectives.msn import Assignments
from chartray.training import run_folder
from chartray.training.monitor import AssignmentStatistics, Monitor, assignment_statistics, effective_rank, spread
from chartray.training.pretrain import pretrain

from .test_pretrain import losses, small

# The monitor may speak from step 80 on: the recipe's 200 steps at this size would only cost time.
SHORT = {
    "train__steps": 180,
    "train__checkpoint_every": 1000,
    "health__patience_steps": 80,
    "health__every": 10,
    "health__probe_films": 48,
    "chart__ehr": "none",
}


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        (
            "possible prototypes are in use|few prototypes",
            {"objective__mean_entropy_weight": 0.0, "objective__sinkhorn_iterations": 0},
        ),
        ("no longer distinguish images", {"objective__sinkhorn_iterations": 0, "objective__sharpening": 4.0}),
        ("effective rank", {"train__learning_rate": 1e-3 * 24 / 64 * 100}),
    ],
)
def test_a_collapse_is_seen_said_and_stops_the_run(
    small_store: Path, tmp_path: Path, what: str, changed: dict[str, Any]
) -> None:
    """Me-max (and Sinkhorn, which alone keeps prototypes in use) off; a hot, unbalanced target; the rate x 100."""
    with pytest.raises(UnhealthyRun, match=what) as error:
        pretrain(small_store, tmp_path / "run", small(**SHORT | changed))
    assert "\n" not in str(error.value)
    assert 80 <= len(losses(tmp_path / "run")) < 180
    assert run_folder.read_manifest(tmp_path / "run").status.startswith("stopped: step ")
    assert not (tmp_path / "run" / "encoder").exists()


@pytest.mark.parametrize("changed", [{}, {"objective__train_prototypes": False, "train__clip": None}])
def test_a_healthy_run_is_not_stopped(small_store: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    pretrain(small_store, tmp_path / "run", small(**SHORT | changed))
    assert run_folder.read_manifest(tmp_path / "run").status == "complete"
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()


def test_spread_sees_the_scale_that_effective_rank_does_not() -> None:
    films = torch.randn(64, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    mean = torch.full((8,), 5.0, dtype=torch.double)
    films -= films.mean(dim=0)
    wanted = float(films.norm(dim=1).square().mean().sqrt() / mean.norm())
    assert spread(films + mean) == pytest.approx(wanted)
    assert effective_rank(films * 1e-3 + mean) == pytest.approx(effective_rank(films + mean))
    assert spread(films * 1e-3 + mean) == pytest.approx(wanted * 1e-3)


def test_effective_rank_counts_directions() -> None:
    directions = torch.linalg.qr(torch.randn(64, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0)))[0]
    spread = torch.cat((directions, -directions))  # eight orthogonal directions of one length, centred
    assert effective_rank(spread) == pytest.approx(8.0)
    assert effective_rank(torch.ones(50, 16)) == 1.0
    assert effective_rank(spread * 1000) == pytest.approx(8.0)


def test_statistics_of_a_batch_that_is_known() -> None:
    """Four images on four of eight prototypes, confident and agreed; then all on one."""
    sure = torch.full((4, 8), -20.0)
    sure[torch.arange(4), torch.arange(4)] = 0.0
    sure = sure.log_softmax(dim=1)
    found = assignment_statistics(
        Assignments(anchor=sure.repeat(2, 1), target=sure), mean_entropy=math.log(8) - math.log(4)
    )
    assert found.prototypes_in_use == 4
    assert found.agreement == 1.0
    assert found.assignment_entropy == pytest.approx(math.log(4))
    assert found.information == pytest.approx(math.log(4), abs=1e-3)
    assert found.anchor_information == pytest.approx(math.log(4), abs=1e-3)
    one = assignment_statistics(
        Assignments(anchor=sure[:1].repeat(8, 1), target=sure[:1].repeat(4, 1)), mean_entropy=math.log(8)
    )
    assert (one.prototypes_in_use, one.information) == (1, pytest.approx(0.0, abs=1e-5))
    even = torch.full((8, 8), 1 / 8).log()
    flat = assignment_statistics(Assignments(anchor=even, target=sure), mean_entropy=0.0)
    assert flat.anchor_information == pytest.approx(0.0, abs=1e-5)
    assert flat.information == pytest.approx(math.log(4), abs=1e-3)


def test_anchors_that_predict_the_same_for_every_image_are_a_collapse() -> None:
    """What a rate 200 times too high did to real images: me-max content, targets not, rank and spread not yet gone."""
    flat = AssignmentStatistics(3.4, prototypes_in_use=20, agreement=0.1, information=0.19, anchor_information=0.001)
    untrained = flat._replace(information=1.7, anchor_information=0.28)
    for statistics, said in (
        (flat, "anchors predict the same for every image (0.001 of 3.47 nats)"),
        (untrained, ""),
    ):
        monitor = Monitor(classes=32, untrained_rank=14.1, untrained_spread=0.70, earliest=200)
        for step in range(60):
            monitor.record(4.85 + 0.001 * (step % 7), statistics)
        assert str(monitor.problem(200, 6.5, 0.086) or "").startswith(said)
        assert (monitor.problem(200, 6.5, 0.086) is None) == (said == "")


def test_a_spread_is_too_small_by_what_bf16_rounds_not_by_the_untrained_one_alone() -> None:
    """small-cpu learns on at a twentieth of its untrained spread of 1.3; 0.01 is ten roundings of bf16."""
    for untrained, now, collapsed in (
        (1.3, 0.053, False),
        (1.3, 0.009, True),
        (0.1, 0.006, False),
        (0.1, 0.004, True),
    ):
        monitor = Monitor(classes=32, untrained_rank=14.1, untrained_spread=untrained, earliest=200, balanced=False)
        for step in range(60):
            monitor.record(4.85 + 0.001 * (step % 7), None)
        assert ("nearly identical" in str(monitor.problem(200, 6.5, now))) == collapsed


def test_a_constant_loss_is_a_collapse_and_early_steps_are_not_checked() -> None:
    monitor = Monitor(classes=64, untrained_rank=20.0, untrained_spread=0.4, earliest=200)
    healthy = AssignmentStatistics(
        assignment_entropy=4.0, prototypes_in_use=50, agreement=0.5, information=3.0, anchor_information=2.0
    )
    for _ in range(60):
        monitor.record(6.931472, healthy)
    assert monitor.problem(199, 15.0) is None
    assert "has not changed in five decimals" in str(monitor.problem(200, 15.0))
