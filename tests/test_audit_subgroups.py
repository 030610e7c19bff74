"""Gaps between subgroups of patients: what their intervals cover, what is suppressed and why, draws that are shared."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import Resampling, first_resamples
from chartray.audit.attributes import Attribute
from chartray.audit.subgroups import Diagnosis, subgroup_rows
from chartray.evaluation.image_set import ImageSet
from chartray.results.arm import Arm
from tests.evaluation_folders import evaluation_set, one, said

LEVELS = ("a", "b", "c", "d")


def grouped(
    truth: np.ndarray, score: np.ndarray, codes: np.ndarray, patients: np.ndarray, threshold: float = 0.5, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of the groups that `codes` (N,) say, for labels L0, L1, ... of truth and score (N, C)."""
    attribute = Attribute("group", LEVELS[: codes.max() + 1], (), None, True)
    films = ImageSet(None, "test", np.arange(len(codes)), patients, truth)
    labels = [f"L{index}" for index in range(truth.shape[1])]
    diagnosis = Diagnosis(evaluation_set(films, labels), score, np.full(truth.shape[1], threshold))
    arm = AuditArm(Arm(), "real", lambda _: "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chartray.audit.subgroups.subgroup_codes", lambda *_: codes)
        return said(subgroup_rows(arm, diagnosis, attribute, Resampling(100, seed)))


@pytest.mark.parametrize(("groups", "gap"), [(2, 0.0), (4, 0.0), (4, 0.1)])
def test_the_interval_of_a_gap_covers_it(groups: int, gap: float) -> None:
    """AUROCs from 0.85 - gap to 0.85, of scores whose shift makes them so."""
    shifts = np.sqrt(2) * norm.ppf(0.85 - gap * np.arange(groups) / (groups - 1))
    covered = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        codes = generator.integers(0, groups, 240)
        truth = generator.integers(0, 2, 240).astype(float)
        score = truth * shifts[codes] + generator.normal(0, 1, 240)
        rows = grouped(truth[:, None], score[:, None], codes, np.arange(240).astype(str), seed=seed)
        row = one(rows, metric="gap", of="auroc", label="L0")
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["p"] < 0.05 or row["ci_low"] == 0
        covered.append(row["ci_low"] <= gap <= row["ci_high"])
    assert np.mean(covered) >= 0.87  # 95 % of 40 but for chance


@pytest.mark.parametrize("all_missed", [True, False])
def test_groups_of_which_all_or_none_were_missed_have_exact_intervals(all_missed: bool) -> None:
    """Two groups of 20 and 30 patients, every other one with both findings, two images each."""
    codes = np.repeat([0, 1], [40, 60])
    patients = np.repeat(np.arange(50), 2).astype(str)
    truth = np.repeat(np.arange(50) % 2, 2)[:, None].astype(float).repeat(2, axis=1)
    score = np.where(truth == 1, 0.4 if all_missed else 0.6, 0.1)
    rows = grouped(truth, score, codes, patients)
    for group, having in (("a", 10), ("b", 15)):
        found = one(rows, metric="false_negative_rate", threshold="common", group=group, label="L0")
        exact = binomtest(having if all_missed else 0, having).proportion_ci(0.95, method="exact")
        assert (found["ci_low"], found["ci_high"]) == pytest.approx(tuple(exact))
        assert (found["value"], found["interval"]) == (float(all_missed), "exact")
        mean = one(rows, metric="false_negative_rate", threshold="common", group=group, label="macro")
        assert mean["ci_high"] - mean["ci_low"] == pytest.approx(1 - 0.025 ** (1 / having))
    gap = next(row for row in rows if row["metric"] == "gap" and row["of"] == "false_negative_rate")
    assert (gap["value"], gap["ci_low"], gap["interval"]) == (0, 0, "exact")
    assert gap["ci_high"] == pytest.approx(1 - (0.025 / 2) ** (1 / 10))


def sparse() -> list[dict[str, Any]]:
    """Three groups of 30 patients; of label L0 five patients of group b have a known truth, all of them of L1."""
    generator = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 30)
    truth = generator.integers(0, 2, (90, 2)).astype(float)
    truth[35:60, 0] = np.nan
    truth[:, 1] = np.where(codes == 1, 0, truth[:, 1])  # nobody of b has L1
    return grouped(truth, generator.random((90, 2)), codes, np.arange(90).astype(str))


def test_cells_of_few_patients_with_a_known_truth_are_suppressed() -> None:
    rows = sparse()
    row = one(rows, group="b", label="L0", metric="calibration")
    assert (row["n_patients"], row["reason"]) == (5, "fewer than 10 patients: suppressed")
    assert [row["value"], row["ci_low"], row["ci_high"]] == [None] * 3
    gap = one(rows, label="L0", metric="gap", of="calibration")
    assert {gap["largest"], gap["smallest"]} == {"a", "c"}
    macro = one(rows, label="macro", metric="calibration", group="a")
    assert macro["labels"] == ["L1"]  # the label that all three groups have


def test_a_group_of_enough_patients_without_a_macro_says_why() -> None:
    row = one(sparse(), label="macro", metric="auroc", group="b")
    assert row["n_patients"] == 30
    assert row["value"] is None
    assert row["reason"] == "every label is suppressed in this subgroup"


def test_misses_without_a_threshold_have_a_reason() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (80, 1)).astype(float)
    people = np.arange(80).astype(str)
    rows = grouped(truth, generator.random((80, 1)), np.arange(80) % 2, people, threshold=np.nan)
    row = one(rows, group="a", label="L0", metric="false_negative_rate", threshold="common")
    assert row["value"] is None
    assert row["reason"] == "no negative image in validation to choose a threshold on"
    assert one(rows, group="a", label="L0", metric="auroc")["reason"] is None


def test_all_labels_and_groups_share_the_draws_of_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare label: draws without its three positive images in a group are left out of what they would enter."""
    monkeypatch.setattr("chartray.statistics.metrics.MINIMUM_PATIENTS", 2)
    generator = np.random.default_rng(1)
    codes, people = np.arange(60) % 2, np.arange(60)
    truth = np.column_stack([generator.integers(0, 2, 60), people < 6]).astype(float)
    score = generator.random((60, 2))
    rows = grouped(truth, score, codes, np.array([f"{each:02}" for each in people]))
    drawn = np.full((100, 2), np.nan)
    for index, weights in enumerate(
        first_resamples(np.array([f"{each:02}" for each in people]), Resampling(100, 0)).counts
    ):
        for group in (0, 1):
            inside = (codes == group) & (weights > 0)
            if all(len(np.unique(truth[inside, label])) == 2 for label in (0, 1)):
                areas = [
                    roc_auc_score(truth[inside, label], score[inside, label], sample_weight=weights[inside])
                    for label in (0, 1)
                ]
                drawn[index, group] = np.mean(areas)
    assert 0 < np.isnan(drawn).sum() < 30
    gap = one(rows, metric="gap", of="auroc", label="macro")
    assert gap["ci_high"] == pytest.approx(max(gap["value"], np.nanquantile(np.ptp(drawn, axis=1), 0.975)))
