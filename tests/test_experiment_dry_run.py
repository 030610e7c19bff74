"""What a study's runs need is summed arm by arm, each kind of step measured once, and nothing is written."""

from pathlib import Path

import pytest

from chartray import experiment_dry_run as room
from chartray.cli import run_command
from chartray.experiment_dry_run import ArmNeeds, kind_of_step, lines_of
from chartray.training.dry_run import Needs, Timed, dry_run
from tests.test_experiment import tiny
from tests.test_pretrain import small


def test_a_study_says_what_its_runs_need_and_writes_nothing(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"real": {}, "shuffled": {"control": "shuffled"}, "none": {"ehr": "none"}}
    file = tiny(tmp_path, small_store, seeds=[0, 1], arms=arms, audit=None)
    measured: list[str] = []

    def noted(store: Path, config: object) -> object:
        measured.append(kind_of_step(config))
        return dry_run(store, config)

    monkeypatch.setattr(room, "dry_run", noted)
    assert run_command(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said, aside = capsys.readouterr()
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["arm", "real", "shuffled", "none", "total"]
    assert [line.split()[1:4] for line in lines[1:5]] == [["2", "144", "8"]] * 3 + [["6", "864", "24"]]
    assert len(set(measured)) == len(measured) == 2
    assert "of 2 kinds on this machine" in lines[-1]
    assert "144 training images" in aside
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml"]
    assert run_command(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run", "--plan"]) == 2
    assert "--dry-run alone" in capsys.readouterr().err


def test_hours_and_disk_are_summed_over_the_runs_that_are_left(tmp_path: Path) -> None:
    timed = Timed(step=3.6, probe=0.0, memory=2**30, checkpoint=2**29, encoder=2**28)
    config = small(train__steps=1000, train__checkpoint_every=100, train__checkpoint_keep=3)
    needs = Needs.of(config, 5000, 1000, timed)
    assert needs == Needs(5000, 1000, 1.0, 3, 3 * 2**29 + 2**28)
    arms = [ArmNeeds("real", needs, timed, 3, 1), ArmNeeds("none", needs, timed, 3, 0)]
    lines = lines_of(arms, tmp_path, jobs=2)
    assert lines[1].split() == ["real", "2", "5,000", "2,000", "3.6", "s", "1.0", "GiB", "2.0", "3.5", "GiB"]
    assert lines[3].split() == ["total", "5", "25,000", "5,000", "1.0", "GiB", "5.0", "8.8", "GiB"]
    assert "2.5 at best with 2 jobs" in lines[4]
    assert "1.0 GiB while they are written" in lines[5]
    assert "1 run done already" in lines[6]


def test_a_seed_a_control_and_a_chart_change_no_step() -> None:
    assert kind_of_step(small(seed=1, chart__control="shuffled")) == kind_of_step(small(chart__ehr="sex"))
    for changed in ({"chart__ehr": "none"}, {"encoder__width": 96}, {"train__batch_size": 48}):
        assert kind_of_step(small(**changed)) != kind_of_step(small())


def test_the_roles_of_a_chart_change_a_step_and_their_variables_do_not() -> None:
    predicted = kind_of_step(small(chart__roles="age=predict,sex=predict"))
    assert predicted == kind_of_step(small(chart__ehr="sex", chart__use="predict"))
    others = [{"chart__ehr": "none"}, {"chart__roles": "sex=none"}, {"chart__roles": "sex=mmcl"}, {}]
    assert all(kind_of_step(small(**other)) != predicted for other in others)
    assert kind_of_step(small(chart__roles="sex=none")) == kind_of_step(small(chart__ehr="none"))
