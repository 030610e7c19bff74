"""Intervals of one value: coverage where few patients have a finding, the edges, and closed forms."""

import numpy as np
import pytest
from scipy.stats import beta
from scipy.stats import t as student

from benchmarks.evidence.rare_labels import HERE, Setting, covered
from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.delong import delong
from chartray.statistics.intervals import (
    Bounds,
    LabelPatients,
    Spread,
    auroc_interval,
    average_precision_interval,
    interval,
    mean_interval,
    of_labels,
    share_interval,
    spread,
)


def coverage(setting: Setting, labels: int, *, alone: bool = False) -> dict[tuple[str, str], float]:
    found = covered(setting, labels, 100, alone=alone).found
    return {key: float(1 - rows[:, :2].sum(axis=1).mean()) for key, rows in found.items()}


def test_a_few_positive_patients_are_covered_where_percentiles_are_not() -> None:
    """10 to 20 positive patients at AUROC .92, which percentiles of the bootstrap cover too seldom."""
    rate = coverage(Setting(200, 0.07, 0.92, 1), 500)
    for metric in ("auroc", "average_precision", "brier", "sensitivity", "specificity", "ece"):
        assert rate[metric, "ours"] > 0.92, metric
    assert rate["auroc", "percentiles"] < 0.91


def test_labels_near_perfect_are_covered_in_a_small_test_set() -> None:
    """50 patients, AUROC .98: few images have an error, and the labels' intervals are skewed."""
    rate = coverage(Setting(50, 0.4, 0.98, 1), 1000, alone=True)
    for metric in ("auroc", "brier", "ece"):
        assert rate[metric, "ours"] > 0.935, metric
        assert rate[f"macro {metric}", "ours"] > 0.95, metric


def test_luck_changes_the_prevalence_and_not_the_interval() -> None:
    """Ten positive patients of 50 where 4 are expected: precision is that of a test set with as many positives."""
    rate = coverage(Setting(50, 0.05, 0.8, 4), 80, alone=True)
    assert rate["auroc", "ours"] > 0.93
    for metric in ("average_precision", "brier"):
        assert rate[metric, HERE] > 0.93
        assert rate[metric, HERE] > rate[metric, "ours"] + 0.05


def test_the_score_interval_is_newcombes_where_the_variance_is_hanley_and_mcneils() -> None:
    # Newcombe 2006, method 5: theta solves (value - theta)^2 = z^2 V(theta); checked by putting the ends in.
    value, positive, negative = 0.83, 25, 60
    other = (positive + negative) / 2 - 1

    def variance(true: float) -> float:
        shape = 1 + other * ((1 - true) / (2 - true) + true / (1 + true))
        return true * (1 - true) * shape / (positive * negative)

    found = auroc_interval(value, Spread(variance(value), 1e9, 0.0), positive, negative, 0.95)
    for end in (found.low, found.high):
        assert abs(value - end) == pytest.approx(1.959964 * np.sqrt(variance(end)), rel=1e-5)
    mirrored = auroc_interval(1 - value, Spread(variance(value), 1e9, 0.0), positive, negative, 0.95)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_many_patients_have_the_interval_of_delong() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((6000, 1)) < 0.3).astype(float)
    score, patients = truth + rng.normal(size=truth.shape), np.arange(6000) // 2
    drawn = metrics.resample(truth, score, patients, resamples=2000, seed=1).auroc
    counts = LabelPatients(*(int(n[0]) for n in metrics.patients_per_class(truth, patients)), 1800, 4200)
    ours = interval("auroc", metrics.auroc(truth, score), drawn.T, counts, 0.95)
    theirs = delong(truth, score, patients=patients)
    assert (ours.low, ours.high) == pytest.approx((theirs.low[0], theirs.high[0]), abs=1.5e-3)


def test_shares_have_clopper_and_pearsons_interval_of_as_many_images_as_the_variance_says() -> None:
    value, patients = 0.75, 40
    alone = share_interval(value, Spread(value * (1 - value) / patients, 39.0, 0.0), patients, 90, 0.95)
    assert alone[:2] == pytest.approx((beta.ppf(0.025, 30, 11), beta.ppf(0.975, 31, 10)))
    twice = share_interval(value, Spread(value * (1 - value) / 80, 39.0, 0.0), patients, 90, 0.95)
    assert twice[:2] == pytest.approx((beta.ppf(0.025, 60, 21), beta.ppf(0.975, 61, 20)))
    never_more = share_interval(value, Spread(1e-9, 39.0, 0.0), patients, 90, 0.95)
    assert never_more[:2] == pytest.approx((beta.ppf(0.025, 67.5, 23.5), beta.ppf(0.975, 68.5, 22.5)))
    for share in (0.0, 1.0):
        ends = share_interval(share, Spread(0.0, 39.0, 0.0), patients, 90, 0.95)
        assert abs(ends.high - ends.low) == pytest.approx(1 - 0.025 ** (1 / patients))
        assert share in (ends.low, ends.high)


def test_logit_intervals_are_those_of_the_t_distribution() -> None:
    def ends(centre: float, freedom: float) -> list[float]:
        half = student.ppf(0.975, freedom) * 0.05 / (centre * (1 - centre))
        return [1 / (1 + np.exp(-(np.log(centre / (1 - centre)) + side * half))) for side in (-1, 1)]

    assert mean_interval(0.2, Spread(0.0025, 14.0, 0.1), 15, 0.95)[:2] == pytest.approx(ends(0.2, 14))
    assert average_precision_interval(0.3, Spread(0.0025, 14.0, 0.1), 25, 0.95)[:2] == pytest.approx(ends(0.2, 14))


def test_nothing_at_an_edge_is_certain() -> None:
    nothing = Spread(0.0, 11.0, 0.0)
    for value in (0.0, 1.0, 0.5, 0.9999):
        assert np.ptp(auroc_interval(value, nothing, 12, 40, 0.95)[:2]) > 0.01
    for value in (1.0, 0.9999, 0.4):
        assert np.ptp(average_precision_interval(value, nothing, 12, 0.95)[:2]) > 0.01
    assert np.ptp(mean_interval(0.0, nothing, 12, 0.95)[:2]) > 0.01
    found = auroc_interval(0.7, Spread(0.003, 11.0, 0.0), 12, 40, 0.95)
    wide, narrow = (auroc_interval(0.7, Spread(0.003, 11.0, 0.0), 12, 40, level) for level in (0.99, 0.8))
    assert wide.low < found.low < narrow.low < 0.7 < narrow.high < found.high < wide.high
    with pytest.raises(InputError, match="level between 0 and 1, found 95"):
        auroc_interval(0.7, nothing, 12, 40, 95)


def test_draws_of_training_patients_add_their_variance_and_cost_degrees_of_freedom() -> None:
    rng = np.random.default_rng(3)
    patients = rng.normal(0, 0.02, 4000)
    values = np.array([0.70, 0.74, 0.78])
    drawn = values[:, None] + patients  # all draws are hit by the patients alike
    found = spread(values, drawn, 50)
    alone = spread(values[:1], drawn[:1], 50)
    assert alone.variance == pytest.approx(drawn[0].var(ddof=1) * 50 / 49)
    assert found.variance == pytest.approx(alone.variance + values.var(ddof=1) / 3)
    assert 2 <= found.freedom < alone.freedom < 50
    # What patients do to one draw and not to another is counted once.
    apart = values[:, None] + rng.normal(0, 0.02, (3, 4000))
    assert spread(values, apart, 50).variance == pytest.approx(values.var(ddof=1) / 3, rel=0.05)


def test_the_mean_over_labels_is_as_sure_as_labels_err_apart() -> None:
    rng = np.random.default_rng(4)
    errors = rng.normal(0, 0.05, (4000, 4))
    counts = LabelPatients(60, 140, 60, 140)

    def both(drawn: np.ndarray) -> tuple[float, float]:
        labels = [interval("auroc", np.array([0.8]), drawn[None, :, k], counts, 0.95) for k in range(4)]
        macro = of_labels(labels, np.array([0.8]), drawn.mean(axis=1)[None], 0.95)
        return macro.high - macro.low, labels[0].high - labels[0].low

    apart, alone = both(0.8 + errors)
    assert apart / alone == pytest.approx(0.5, abs=0.02)
    together, alone = both(0.8 + np.repeat(errors[:, :1], 4, axis=1))
    assert together / alone == pytest.approx(1, abs=0.01)


def test_a_mean_is_less_skewed_than_its_labels() -> None:
    labels = [Bounds(0.8, 0.96, "score", 0.92, 0.04)] * 4
    rng = np.random.default_rng(6)

    def macro(error: float) -> Bounds:
        drawn = 0.92 + error * rng.normal(size=(1, 100_000))
        return of_labels(labels, np.array([0.92]), drawn, 0.95)

    apart = macro(0.04 / 2)  # four independent labels: half the width, a quarter of the skew
    assert (apart.low, apart.high) == pytest.approx((0.91 - 0.04, 0.91 + 0.04), abs=1e-3)
    together = macro(0.04)
    assert (together.low, together.high) == pytest.approx((0.8, 0.96), abs=1e-3)


def test_a_variance_of_logits_above_that_of_the_value_counts() -> None:
    drawn = np.where(np.arange(50_000) % 5 == 0, 0.01, 0.1)  # a fifth of the resamples lack the images with an error
    found = interval("brier", np.array([drawn.mean()]), drawn[None], LabelPatients(20, 30, 20, 30), 0.95)
    ends = [np.log(end / (1 - end)) for end in (found.low, found.high)]
    spread_of_logits = np.log(drawn / (1 - drawn)).std() * np.sqrt(20 / 19)
    assert ends[1] - ends[0] == pytest.approx(2 * student.ppf(0.975, 19) * spread_of_logits, rel=0.01)


def test_the_seed_and_the_names_of_patients_leave_the_interval_as_it_is() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random((300, 1)) < 0.2).astype(float)
    score, patients = truth + rng.normal(size=truth.shape), np.arange(300) // 2
    value = metrics.auroc(truth, score)
    counts = LabelPatients(*(int(n[0]) for n in metrics.patients_per_class(truth, patients)), 60, 240)
    ends = [
        interval(
            "auroc", value, metrics.resample(truth, score, patients, resamples=1000, seed=seed).auroc.T, counts, 0.95
        )
        for seed in (0, 1)
    ]
    assert ends[0][:2] == pytest.approx(ends[1][:2], abs=0.01)
