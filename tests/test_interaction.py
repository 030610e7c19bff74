"""The test of interaction: scipy's Welch test of two data sets, and its error rate on more."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence.interaction import false_positives, in_set
from chartray.statistics.interaction import interaction


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
    found = [
        false_positives(
            np.random.default_rng((3, place)),
            400,
            sets=count,
            seeds=3,
            arms=2 + pooled,
            multiple=multiple,
            correlation=0.5,
        )
        for place, multiple in enumerate((0.5, 2.0, 8.0))
    ]
    assert max(found) < 0.085
    assert 0.015 < np.mean(found) < 0.065
