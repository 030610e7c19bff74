"""The difference of two arms over seeds: scipy's tests, the formula by plain loops, simulated error rates and power."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence.baselines_and_draws import rate
from benchmarks.evidence.seeds import SimulatedSet, rates, simulate, studies
from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.arms import ArmDifference, difference_of_arms, difference_of_measured
from chartray.statistics.equivalence import equivalence
from chartray.statistics.holm import holm
from chartray.statistics.variance import MeasuredArm


def alike(ranks: list[list[int]]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """One arm whose seeds have AUROCs `ranks` / 20 (K, C), whichever patients are drawn: all patients are alike."""
    truth = np.tile(np.repeat([1.0, 0.0], [1, 20])[:, None], (12, len(ranks[0])))
    below = np.tile(np.append(0.0, np.arange(20.0))[:, None], (12, 1))
    return [np.where(truth == 1, np.array(seed) - 0.5, below) for seed in ranks], truth, np.repeat(np.arange(12), 21)


A, B, OTHER = [[18, 15], [17, 15], [15, 19]], [[12, 14], [13, 16], [15, 11], [12, 13]], [[11, 12], [14, 18], [16, 15]]


def test_without_patient_variance_it_is_welchs_test_the_paired_and_the_pooled_one() -> None:
    (a, truth, patients), b, other = alike(A), alike(B)[0], alike(OTHER)[0]
    x, y, z = (np.array(ranks) / 20 for ranks in (A, B, OTHER))
    x, y, z = (np.column_stack((each, each.mean(axis=1))) for each in (x, y, z))

    def agrees(found: ArmDifference, expected: Any) -> None:
        assert found.value == pytest.approx(x.mean(axis=0) - second.mean(axis=0))
        assert found.patient_se == pytest.approx(0)
        assert found.p == pytest.approx(expected.pvalue)
        assert found.degrees_of_freedom == pytest.approx(np.broadcast_to(expected.df, 3))
        ends = expected.confidence_interval(0.9)
        assert (found.low, found.high) == (pytest.approx(ends.low), pytest.approx(ends.high))

    second = y
    agrees(difference_of_arms(a, b, truth, patients, level=0.9, resamples=50), stats.ttest_ind(x, y, equal_var=False))
    second = z
    agrees(
        difference_of_arms(a, other, truth, patients, level=0.9, resamples=50, pair_seeds=True), stats.ttest_rel(x, z)
    )
    # Pooled over three arms: Student's t with the mean square within arms of a one-way analysis of variance.
    found = difference_of_arms(a, other, truth, patients, other_arms=[b], resamples=50)
    within = sum(((each - each.mean(axis=0)) ** 2).sum(axis=0) for each in (x, y, z)) / 7
    assert found.degrees_of_freedom == pytest.approx(7)
    assert found.seed_se == pytest.approx(np.sqrt(within * 2 / 3))
    assert found.p == pytest.approx(2 * stats.t.sf(np.abs(found.value) / found.seed_se, 7))


def test_paired_seeds_of_more_arms_pool_what_is_left_of_arms_and_seeds() -> None:
    (a, truth, patients), b, other = alike(A), alike(B[:3])[0], alike(OTHER)[0]
    found = difference_of_arms(a, b, truth, patients, other_arms=[other], resamples=50, pair_seeds=True)
    values = np.array([A, B[:3], OTHER]) / 20  # (arm, seed, label)
    residual = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean(axis=(0, 1))
    assert found.seed_se[:2] == pytest.approx(np.sqrt((residual**2).sum(axis=(0, 1)) / 4 * 2 / 3))
    assert found.degrees_of_freedom == pytest.approx(4)
    assert found.seed_correlation[0] == pytest.approx(np.corrcoef(values[0, :, 0], values[1, :, 0])[0, 1])


@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_the_variance_is_that_of_patients_and_seeds_each_counted_once(metric: str) -> None:
    (a, b), truth, patients = simulate(np.random.default_rng(0), SimulatedSet(100, 4, labels=3), (3, 2), spread=0.05)
    truth[::7, 1] = np.nan
    found = difference_of_arms(a, b, truth, patients, metric=metric, resamples=150, seed=4)  # type: ignore[arg-type]
    point = metrics.auroc if metric == "auroc" else metrics.average_precision
    seeds = [np.array([point(truth, one) for one in arm]) for arm in (a, b)]
    drawn = [
        [getattr(metrics.resample(truth, one, patients, resamples=150, seed=4), metric) for one in arm]
        for arm in (a, b)
    ]
    for label in range(3):
        x, y = (each[:, label] for each in seeds)
        assert found.value[label] == pytest.approx(x.mean() - y.mean())
        s = x.var(ddof=1) / 3 + y.var(ddof=1) / 2
        total = np.var(
            [
                np.mean([one[r, label] for one in drawn[0]]) - np.mean([one[r, label] for one in drawn[1]])
                for r in range(150)
            ],
            ddof=1,
        )
        twice = 0.0
        for arm in drawn:
            centred = np.array([one[:, label] for one in arm])
            centred = centred - centred.mean(axis=0)
            twice += sum(np.var(each) for each in centred) / (len(arm) - 1) / len(arm)
        assert found.seed_se[label] == pytest.approx(np.sqrt(s))
        assert found.patient_se[label] == pytest.approx(np.sqrt(max(total - twice, 0)))
        half = stats.t.ppf(0.975, found.degrees_of_freedom[label]) * np.hypot(found.patient_se, found.seed_se)[label]
        assert found.high[label] - found.value[label] == pytest.approx(half)
        assert found.value[label] - found.low[label] == pytest.approx(half)
    np.testing.assert_allclose(found.p_holm, [*holm(found.p[:3]), found.p[3]])


def test_few_patients_keep_a_part_of_their_variance() -> None:
    """30 patients: by chance, all that they add to the difference seems to be what they add to single seeds."""
    (a, b), truth, patients = simulate(np.random.default_rng(0), SimulatedSet(30, 1, 0.4), (3, 3), spread=0)
    found = difference_of_arms(a, b, truth, patients, resamples=100)
    drawn = [
        np.mean([metrics.resample(truth, one, patients, resamples=100).auroc for one in arm], axis=0) for arm in (a, b)
    ]
    share = found.patient_se[:-1] ** 2 / (drawn[0] - drawn[1]).var(axis=0, ddof=1)
    assert np.nanmin(share) == pytest.approx(0.1)
    same = equivalence(found.value, np.hypot(found.patient_se, found.seed_se), found.degrees_of_freedom, 1e-4)
    assert np.nanmin(same) > 0.4  # nothing is known to a ten-thousandth


def test_one_seed_is_an_interval_of_these_encoders_and_equal_seeds_add_nothing() -> None:
    (a, b), truth, patients = simulate(np.random.default_rng(1), SimulatedSet(100, 2, labels=3), (1, 1), spread=0.05)
    found = difference_of_arms(a, b, truth, patients, resamples=200)
    drawn = [metrics.resample(truth, one, patients, resamples=200) for one in (a[0], b[0])]
    assert np.isnan(found.seed_se).all()
    assert found.patient_se[:3] == pytest.approx((drawn[0].auroc - drawn[1].auroc).std(axis=0, ddof=1))
    assert found.patient_se[3] == pytest.approx((drawn[0].macro_auroc - drawn[1].macro_auroc).std(ddof=1))
    plain = metrics.difference(found.value[:3], drawn[0].auroc - drawn[1].auroc)
    np.testing.assert_allclose(found.high[:3] - found.low[:3], plain.high - plain.low, rtol=0.25)
    mixed = difference_of_arms(a, b * 3, truth, patients, resamples=200)
    assert np.isnan(mixed.seed_se).all()
    np.testing.assert_allclose(mixed.patient_se, found.patient_se)
    same = difference_of_arms(a * 3, b * 3, truth, patients, resamples=200)
    assert same.seed_se == pytest.approx(0, abs=1e-12)
    for one, three in zip(found[:4], same[:4], strict=True):
        np.testing.assert_allclose(one, three, atol=1e-9)
    nothing = difference_of_arms(a * 2, a * 2, truth, patients, resamples=50)
    assert nothing.p.tolist() == [1] * 4


def test_arms_trade_places_and_rare_labels_are_in_no_family() -> None:
    (a, b), truth, patients = simulate(np.random.default_rng(2), SimulatedSet(100, 2, labels=4), (3, 4), spread=0.05)
    truth[:, 1] = patients < 9  # nine positive patients
    truth[:, 3] = 0
    found = difference_of_arms(a, b, truth, patients, resamples=100)
    turned = difference_of_arms(b, a, truth, patients, resamples=100)
    np.testing.assert_allclose(found.value, -turned.value)
    np.testing.assert_allclose(found.low, -turned.high)
    np.testing.assert_allclose(found.p, turned.p)
    for each in found[:8]:
        assert np.isnan(each).tolist() == [False, True, False, True, False]
    assert found.value[4] == pytest.approx(found.value[[0, 2]].mean())
    np.testing.assert_allclose(found.p_holm[[0, 2]], holm(found.p[[0, 2]]))
    assert np.isnan(difference_of_arms(a, b, truth * 0, patients, resamples=20).value).all()


def test_paired_seeds_that_go_together_are_seen_sharper() -> None:
    one = simulate(np.random.default_rng(3), SimulatedSet(labels=10), (5, 5), spread=0.1, shared_seeds=0.9)
    apart, paired = one.difference(resamples=100), one.difference(resamples=100, pair_seeds=True)
    assert np.median(paired.seed_correlation) > 0.6
    assert np.isnan(apart.seed_correlation).all()
    assert np.median(paired.seed_se / apart.seed_se) < 0.7


def test_what_cannot_be_compared_is_refused_in_a_sentence() -> None:
    (a, b, c), truth, patients = simulate(np.random.default_rng(4), SimulatedSet(30, labels=2), (2, 3, 2), spread=0)
    broken = [b[0], np.where(np.arange(30)[:, None] == 7, np.nan, b[1])]
    for match, arms, options in (
        ("arm b, seed 2: .*NaN in row 7, label 0", (a, broken), {}),
        (r"other arm 1, seed 1: .*one shape \(N, C\)", (a, b), {"other_arms": [[c[0][:5]]]}),
        ("at least one seed in each arm, found none in arm a", ([], b), {}),
        ("as many seeds in arm a as in arm b to pair, found 2 and 3", (a, b), {"pair_seeds": True}),
        ('"auroc" or "average_precision", found "f1"', (a, b), {"metric": "f1"}),
        ("level between 0 and 1, found 95", (a, b), {"level": 95}),
        ("at least 2 resamples, found 1", (a, b), {"resamples": 1}),
    ):
        with pytest.raises(InputError, match=match):
            difference_of_arms(*arms, truth, patients, **options)  # type: ignore[arg-type]


def shares(found: list[str]) -> list[float]:
    return [float(one.split()[0]) for one in found]


@pytest.mark.parametrize(
    ("metric", "designs"),
    [
        ("auroc", [(2, 2), (3, 3), (5, 5)]),
        ("auroc", [(2, 6), (2, 2, 2, 2), (3, 3, 3, 3)]),
        ("average_precision", [(2, 2), (3, 3), (5, 5)]),
    ],
    ids=["two arms", "unequal and pooled", "average precision"],
)
def test_equal_arms_differ_one_time_in_twenty(metric: str, designs: list[tuple[int, ...]]) -> None:
    """200 studies each at two spreads of the seeds: .05 +- .011 for each design, +- .006 together."""
    found = []
    for place, seeds in enumerate(designs):
        both, _ = rates(metric, SimulatedSet(100), seeds, studies_=200, stream=place, resamples=100, spreads=(1.0, 4.0))
        found.append(np.mean(shares(both)))
    assert max(found) < 0.083
    assert 0.032 < np.mean(found) < 0.068


def test_patients_alone_would_call_seeds_a_difference() -> None:
    """The test above would see it: one seed of each arm, as if there were no other."""
    both, _ = rates("auroc", SimulatedSet(100), (1, 1), studies_=200, stream=5, resamples=100, spreads=(4.0,))
    assert shares(both)[0] > 0.4


def test_the_interval_covers_a_true_difference() -> None:
    """200 studies at two spreads, several images a patient: .95 +- .015 each."""
    how = {"resamples": 100, "spreads": (0.5, 2.0)}
    _, covered = rates("auroc", SimulatedSet(100, 4), (3, 3), studies_=200, stream=31, gap=0.03, **how)  # type: ignore[arg-type]
    assert min(shares(covered)) > 0.905
    assert 0.92 < np.mean(shares(covered)) < 0.98


def test_a_difference_of_four_seed_sds_is_found_in_half_of_the_labels() -> None:
    """14 labels, seed SD .005, .02 everywhere, three seeds of five arms; then 28 labels, which a p of 2/1001 hides."""
    test = SimulatedSet(1500, 1, labels=14)
    found = [
        one.difference(resamples=100).p_holm[:-1] <= 0.05
        for one in studies(56, test, (3,) * 5, stream=6, spread=0.005, gap=0.02)
    ]
    assert np.mean(found) >= 0.5
    one = simulate(np.random.default_rng(7), SimulatedSet(400, labels=28), (3, 3), spread=0)
    chance = [np.random.default_rng(seed).normal(size=one.truth.shape) for seed in range(3)]
    apart = difference_of_arms([one.truth] * 3, chance, one.truth, one.patients, resamples=1000)
    assert (apart.value > 0.4).all()
    assert (apart.p_holm <= 0.05).all()


def crossed(rng: np.random.Generator, spread: dict[str, float]) -> MeasuredArm:
    """3 seeds, 5 draws and 200 resamples of a true value of 0: `spread` of seeds, draws, both, patients with each."""
    sides = {"seed": (3, 1), "draw": (1, 5), "seed draw": (3, 5)}
    values = sum(spread[name] * rng.normal(size=(*side, 1)) for name, side in sides.items())
    drawn: Any = 0.0
    for name, side in ({"": (1, 1)} | sides).items():
        size = spread[f"patients {name}".strip()]
        # What these patients add, and what each resample of them adds beside.
        values = values + size * rng.normal(size=(*side, 1))
        drawn = drawn + size * rng.normal(size=(*side, 200))
    every = np.asarray(values) * np.ones((3, 5, 1))
    return MeasuredArm(every, (every + drawn)[..., None])


@pytest.mark.parametrize("large", ["seed", "draw", "patients", "patients seed", "patients seed draw"])
def test_draws_and_seeds_together_keep_the_error_rate(large: str) -> None:
    """300 arms that equal a fixed one, one component five times the others: 15 +- 3.8 may have p < .05."""
    names = ("seed", "draw", "seed draw", "patients", "patients seed", "patients draw", "patients seed draw")
    rng, found = np.random.default_rng(0), 0
    nothing = MeasuredArm(np.zeros((1, 5, 1)), np.zeros((1, 5, 200, 1)), fixed=True)
    for _ in range(300):
        arm = crossed(rng, dict.fromkeys(names, 1.0) | {large: 5.0})
        found += bool(difference_of_measured(arm, nothing, patients=10**6, bounded=False).p[0] < 0.05)
    assert found <= 29, found


@pytest.mark.parametrize(
    ("seeds", "draws", "fixed"), [((3, 1), 1, True), ((3, 3), 5, False)], ids=["baseline", "draws"]
)
def test_baselines_that_no_seed_enters_and_shared_draws_keep_the_error_rate(
    seeds: tuple[int, ...], draws: int, fixed: bool
) -> None:
    """200 studies at two spreads: .05 +- .015 each."""
    found = [rate("auroc", seeds, draws, spread, studies=200, resamples=40, fixed_b=fixed) for spread in (0.0, 3.0)]
    assert max(shares(found)) < 0.095
    assert 0.02 < np.mean(shares(found)) < 0.075
