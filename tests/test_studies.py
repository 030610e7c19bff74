"""The studies that the repository offers: each is a study file whose arms, charts and question exist."""

import re
from pathlib import Path

import pytest

from chartray.config.study import read_experiment
from chartray.features.sets import FEATURE_SETS
from chartray.results.verdict import SEEDS_FOR_A_CLAIM
from chartray.schema import CHEXPERT_LABELS, NIH_LABELS

FOLDER = Path(__file__).resolve().parents[1] / "studies"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_studies() -> None:
    assert {"planted.yaml", "paper.yaml", "low-data.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_study_of_the_repository_can_be_run_as_it_stands(file: Path) -> None:
    experiment = read_experiment(file)
    text = file.read_text(encoding="utf-8")
    for said in ("Needs", "Hardware", "Hours", "Expected"):
        assert re.search(rf"^# {said} {{1,10}}\S", text, re.MULTILINE), said
    assert re.search(rf"^#.*chartray study \S*{file.name} --out \S", text, re.MULTILINE)
    assert len(experiment.seeds) >= SEEDS_FOR_A_CLAIM
    arms = [arm.name for arm in experiment.arms]
    for arm in experiment.arms:
        for name in arm.config(0).chart.by_name:
            assert name in FEATURE_SETS, (arm.name, name)
    question = experiment.question
    assert question is not None
    assert question.margin is not None
    assert set(question.primary) <= {*arms, "untrained", "pixels", "chart-only", "image+chart"}
    if isinstance(question.family, str):
        assert question.family.removeprefix("against ") in (*arms, "all")
    label = question.metric.split(" ", 1)[1]
    assert label == "macro" or label in (*CHEXPERT_LABELS, *NIH_LABELS)
