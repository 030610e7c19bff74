"""The test of interaction: scipy's Welch test of two data sets, and its error rate on more."""

import numpy as np
import pytest
from scipy import stats

from chartray.statistics.arms import MeasuredArm
from chartray.statistics.interaction import DifferenceInSet, interaction

RESAMPLES = 60


def in_set(a: np.ndarray, b: np.ndarray, patients: float, others: tuple[np.ndarray, ...] = ()) -> DifferenceInSet:
    """Values (K, L) of both arms on a data set; `patients` is the variance that the patients give the difference."""
    spread = np.random.default_rng(0).normal(size=RESAMPLES)
    spread = np.sqrt(patients) * (spread - spread.mean()) / spread.std(ddof=1)
    drawn = [np.broadcast_to(each[None, None, :, None], (len(arm), 1, RESAMPLES, arm.shape[1]))
             for each, arm in ((spread, a), (0 * spread, b))]  # fmt: skip
    arms = (MeasuredArm(arm[:, None], its) for arm, its in zip((a, b), drawn, strict=True))
    return DifferenceInSet(*arms, patients=10**6, others=others)


def test_two_data_sets_without_patient_variance_are_welchs_test_of_the_seeds_differences() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3)) + 1  # (set, seed, label)
    found = interaction([in_set(a[place], b[place], 0.0) for place in range(2)])
    wanted = stats.ttest_ind(a[0] - a[1], b[0] - b[1], equal_var=False)
    np.testing.assert_allclose(found.statistic, wanted.statistic**2)
    np.testing.assert_allclose(found.numerator, 1)
    np.testing.assert_allclose(found.denominator, wanted.df)
    np.testing.assert_allclose(found.p, wanted.pvalue)


def test_a_label_that_one_data_set_lacks_is_tested_on_the_others() -> None:
    rng = np.random.default_rng(2)
    sets = [in_set(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), 1.0) for _ in range(3)]
    values = sets[2].a.values.copy()
    values[..., 1] = np.nan
    lacking = interaction([*sets[:2], sets[2]._replace(a=sets[2].a._replace(values=values))])
    np.testing.assert_allclose(lacking.p[1], interaction(sets[:2]).p[1])
    np.testing.assert_allclose(lacking.p[0], interaction(sets).p[0])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("pooled", [0, 3])
def test_equal_differences_differ_at_most_one_time_in_twenty(count: int, pooled: int) -> None:
    """400 studies at three sizes of the seeds' variance, which the data sets have half in common."""
    rng, found = np.random.default_rng(3), []
    for variance in (0.5, 2.0, 8.0):
        common = [rng.normal(size=(3, 400)) for _ in range(2 + pooled)]
        sets = []
        for size in (1.0, 0.5, 2.0)[:count]:
            arms = [np.sqrt(variance / 2) * (each + rng.normal(size=(3, 400))) for each in common]
            arms[0] += np.sqrt(size) * rng.normal(size=400)
            sets.append(in_set(arms[0], arms[1], size, tuple(arms[2:])))
        found.append(float((interaction(sets).p < 0.05).mean()))
    assert max(found) < 0.085
    assert 0.015 < np.mean(found) < 0.065
