"""Seeds and draws above the patients: error rates under chance, the t interval, what pairing and one member mean."""

import numpy as np
import pytest
from scipy.stats import t as student

from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap
from chartray.statistics.metrics import difference, resample


def chance(seed: int, seeds: int, spread: float, patients: int = 120) -> np.ndarray:
    """Resampled AUROC differences (S, R) of two arms whose seeds are drawn from one distribution."""
    rng = np.random.default_rng((seed, seeds))
    truth = (rng.random(patients) < 0.3).astype(float)
    alike_hard = rng.normal(size=patients)
    skill = 1 + spread * rng.normal(size=(2 * seeds, 1))
    scores = skill * truth + alike_hard + 0.5 * rng.normal(size=(2 * seeds, patients))
    labels = np.repeat(truth[:, None], 2 * seeds, axis=1)  # every seed a column: one call resamples them all
    drawn = resample(labels, scores.T, np.arange(patients), resamples=200, seed=seed).auroc.T
    return drawn[:seeds] - drawn[seeds:]


@pytest.mark.parametrize("spread", [0.0, 0.4], ids=["seeds alike", "seeds apart"])
def test_chance_is_called_a_difference_one_time_in_twenty(spread: float) -> None:
    """200 data sets without a true difference, three seeds an arm: 10 +- 3.1 may have p < 0.05."""
    data = [chance(trial, 3, spread) for trial in range(200)]

    def found(resampled: list[np.ndarray]) -> int:
        return sum(bool(difference(0.0, each).p < 0.05) for each in resampled)

    used = found([hierarchical_bootstrap(each.mean(axis=0), [each], seed=trial) for trial, each in enumerate(data)])
    assert 2 <= used <= 20
    if spread:
        # The test sees what goes wrong otherwise: seeds held fixed, seeds drawn without Student's factor.
        rng = np.random.default_rng(0)
        plain = [each[rng.integers(0, 3, size=(3, 200)), np.arange(200)].mean(axis=0) for each in data]
        assert found([each.mean(axis=0) for each in data]) > 80
        assert found(plain) > 25


def test_a_single_seed_calls_chance_a_difference_one_time_in_twenty() -> None:
    data = [chance(trial, 1, 0.0)[0] for trial in range(200)]
    assert 2 <= sum(bool(difference(0.0, each).p < 0.05) for each in data) <= 20


@pytest.mark.parametrize("members", [3, 5, 20])
def test_where_patients_do_not_vary_it_is_students_interval(members: int) -> None:
    # Values at the normal quantiles, so that what is drawn of them is as normal as so few can be.
    values = student.ppf((np.arange(members) + 0.5) / members, df=1000)
    drawn = hierarchical_bootstrap(np.full(40_000, values.mean()), [np.repeat(values[:, None], 40_000, axis=1)], seed=0)
    for level in (0.9, 0.95):
        half = student.ppf((1 + level) / 2, members - 1) * values.std(ddof=1) / np.sqrt(members)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        assert (low, high) == (pytest.approx(-half, rel=0.12), pytest.approx(half, rel=0.12))


def test_the_two_levels_add_up_and_nothing_is_counted_twice() -> None:
    """Members that share a patient effect and differ in an interaction: var = shared + (interaction + spread) / K."""
    rng, members, resamples = np.random.default_rng(0), 50, 20_000
    shared = rng.normal(size=resamples)
    skill, noise = 3 * rng.normal(size=members), 2 * rng.normal(size=members)
    interaction = 2 * rng.normal(size=(members, resamples))
    each = shared + (skill + noise)[:, None] + interaction  # `noise` is the interaction with these patients
    drawn = hierarchical_bootstrap(each.mean(axis=0), [each], seed=1)
    expected = 1 + (skill + noise).var(ddof=1) / members * (members - 1) / (members - 3)  # the variance of Student's t
    assert drawn.var() == pytest.approx(expected, rel=0.06)
    assert drawn.mean() == pytest.approx(each.mean(), abs=0.05)


def test_one_member_adds_nothing_and_the_seed_decides() -> None:
    each = np.random.default_rng(0).normal(size=(4, 300, 2))
    np.testing.assert_array_equal(hierarchical_bootstrap(each[0], [each[:1]], seed=0), each[0])
    found = hierarchical_bootstrap(each.mean(axis=0), [each], seed=0)
    assert found.shape == (300, 2)
    np.testing.assert_array_equal(found, hierarchical_bootstrap(each.mean(axis=0), [each], seed=0))
    assert (found != hierarchical_bootstrap(each.mean(axis=0), [each], seed=1)).any()
    # The labels share what is drawn: a label's column does not depend on its neighbours.
    np.testing.assert_allclose(found[:, 1], hierarchical_bootstrap(each.mean(axis=0)[:, 1], [each[:, :, 1]], seed=0))
    same = np.zeros((3, 100))
    assert (hierarchical_bootstrap(same[0], [same], seed=0) == 0).all()


def crossed(
    rng: np.random.Generator, spread: dict[str, float], shape: tuple[int, int, int] = (3, 5, 200)
) -> np.ndarray:
    """Resampled differences (S, D, R) whose true mean is 0: `spread` of seeds, draws, both, patients with each."""
    seeds, draws, resamples = shape
    sides = {"seed": (seeds, 1), "draw": (1, draws), "seed draw": (seeds, draws)}
    fixed = sum(spread[name] * rng.normal(size=(*side, 1)) for name, side in sides.items())
    for name, side in ({"": (1, 1)} | sides).items():
        size = spread[f"patients {name}".strip()]
        # What these patients add, and what each resample of them adds beside.
        fixed = fixed + size * (rng.normal(size=(*side, 1)) + rng.normal(size=(*side, resamples)))
    return np.asarray(fixed)


@pytest.mark.parametrize("large", ["seed", "draw", "patients", "patients seed", "patients seed draw"])
def test_draws_and_seeds_together_keep_the_error_rate(large: str) -> None:
    """300 data sets without a true difference, one component five times the others: 15 +- 3.8 may have p < 0.05."""
    names = ("seed", "draw", "seed draw", "patients", "patients seed", "patients draw", "patients seed draw")
    rng, found = np.random.default_rng(0), 0
    for trial in range(300):
        each = crossed(rng, dict.fromkeys(names, 1.0) | {large: 5.0})
        drawn = hierarchical_bootstrap(each.mean(axis=(0, 1)), [each.mean(axis=0), each.mean(axis=1)], seed=trial)
        found += bool(difference(0.0, drawn).p < 0.05)
    assert found <= 29, found
