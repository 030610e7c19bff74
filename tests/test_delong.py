"""DeLong's variance and test against the formulas written out, the bootstrap, and simulated chance."""

import numpy as np
import pytest

from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.delong import delong, delong_difference


def images(seed: int, n: int = 120, patients: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth with unknowns, two scores with ties, patients whose images resemble each other."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    latent = rng.normal(size=patients)[patient, None] + rng.normal(size=(n, 2))
    truth = (latent + rng.normal(size=(n, 2)) > [0.3, 0.8]).astype(float)
    truth[::11, 0] = np.nan
    return truth, np.round(latent, 1), np.round(latent + rng.normal(size=(n, 2)), 1), patient


def placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components by comparing every positive image with every negative one, O(m n)."""
    positive, negative = score[truth == 1], score[truth == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(axis=1), wins.mean(axis=0)


def test_the_variance_is_that_of_the_components_written_out() -> None:
    truth, a, b, _ = images(0)
    one, both = delong(truth, a), delong_difference(truth, a, b)
    np.testing.assert_allclose(one.auroc, metrics.auroc(truth, a), atol=1e-12)
    for label in range(2):
        (a10, a01), (b10, b01) = (placements(truth[:, label], score[:, label]) for score in (a, b))
        expected = a10.var(ddof=1) / len(a10) + a01.var(ddof=1) / len(a01)
        assert one.variance[label] == pytest.approx(expected, abs=1e-12)
        s10, s01 = np.cov(a10, b10) / len(a10), np.cov(a01, b01) / len(a01)
        total = s10 + s01
        assert both.variance[label] == pytest.approx(total[0, 0] + total[1, 1] - 2 * total[0, 1], abs=1e-12)
        assert both.difference[label] == pytest.approx(a10.mean() - b10.mean(), abs=1e-12)
    z = 1.959963984540054
    np.testing.assert_allclose(one.high - one.low, 2 * z * np.sqrt(one.variance), atol=1e-12)
    np.testing.assert_array_equal(both.p < 0.05, (both.low > 0) | (both.high < 0))


def test_clustered_variance_is_obuchowskis_written_out() -> None:
    truth, a, _, patient = images(1)
    found = delong(truth, a, patients=patient).variance
    for label in range(2):
        t = truth[:, label]
        v10, v01 = placements(t, a[:, label])
        area, m, n = v10.mean(), len(v10), len(v01)
        everyone = np.unique(patient[~np.isnan(t)])
        sums = {who: [0.0, 0, 0.0, 0] for who in everyone}
        for who, v in zip(patient[t == 1], v10, strict=True):
            sums[who][0] += v
            sums[who][1] += 1
        for who, v in zip(patient[t == 0], v01, strict=True):
            sums[who][2] += v
            sums[who][3] += 1
        x = np.array([s[0] - s[1] * area for s in sums.values()])
        y = np.array([s[2] - s[3] * area for s in sums.values()])
        i10, i01, i = sum(s[1] > 0 for s in sums.values()), sum(s[3] > 0 for s in sums.values()), len(sums)
        s10, s01 = i10 / ((i10 - 1) * m) * (x @ x), i01 / ((i01 - 1) * n) * (y @ y)
        s11 = i / (i - 1) * (x @ y)
        assert found[label] == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n), abs=1e-12)


def test_one_image_a_patient_is_delong_and_copies_of_images_add_nothing() -> None:
    truth, a, b, _ = images(2)
    alone = np.random.default_rng(0).permutation(len(truth))
    for found, plain in (
        (delong(truth, a, patients=alone), delong(truth, a)),
        (delong_difference(truth, a, b, patients=alone), delong_difference(truth, a, b)),
    ):
        np.testing.assert_allclose(np.array(found), np.array(plain), atol=1e-14)
    copies = [np.repeat(each, 4, axis=0) for each in (truth, a, alone)]
    np.testing.assert_allclose(
        delong(copies[0], copies[1], patients=copies[2]).variance, delong(truth, a).variance, atol=1e-14
    )
    assert (delong(copies[0], copies[1]).variance < 0.3 * delong(truth, a).variance).all()


def test_it_agrees_with_the_bootstrap_of_images_and_of_patients() -> None:
    truth, a, b, patient = images(3, n=900, patients=300)
    for names, given in ((np.arange(900), None), (patient, patient)):
        sampled = [metrics.resample(truth, score, names, resamples=2000, seed=1).auroc for score in (a, b)]
        # The standard deviation of 2,000 draws is known to 1 / sqrt(4000) = 1.6 %; the two differ by O(1 / n) beside.
        np.testing.assert_allclose(
            np.sqrt(delong(truth, a, patients=given).variance), sampled[0].std(axis=0), rtol=0.07
        )
        np.testing.assert_allclose(
            np.sqrt(delong_difference(truth, a, b, patients=given).variance),
            (sampled[0] - sampled[1]).std(axis=0),
            rtol=0.07,
        )


def test_p_is_small_as_often_as_chance_allows() -> None:
    rng, p, clustered = np.random.default_rng(4), [], []
    for _ in range(300):
        # Two scores of one quality; a patient's three images share truth and most of the noise.
        sick = (rng.random(80) < 0.4).astype(float).repeat(3)[:, None]
        a, b = (sick + rng.normal(size=80).repeat(3)[:, None] + 0.3 * rng.normal(size=(240, 1)) for _ in range(2))
        p.append(delong_difference(sick, a, b).p[0])
        clustered.append(delong_difference(sick, a, b, patients=np.arange(80).repeat(3)).p[0])
    # 300 x 0.05 = 15 +- 3.8; treating the images as independent calls chance a difference far more often.
    assert 4 <= np.sum(np.array(clustered) < 0.05) <= 30
    assert np.sum(np.array(p) < 0.05) > 45


def test_the_edges() -> None:
    truth, a, _, patient = images(5)
    assert delong_difference(truth, a, 2 * a + 1).p.tolist() == [1, 1]
    assert delong_difference(truth, a, -a).p.max() < 1e-6
    single = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = delong(single, np.arange(6.0).reshape(3, 2))
    assert found.auroc[0] == 0
    assert np.isnan(found.variance).all()  # one positive image; one class
    assert np.isnan(delong(truth, a, patients=np.zeros(len(truth))).variance).all()
    with pytest.raises(InputError, match="one patient for each"):
        delong(truth, a, patients=patient[1:])
    with pytest.raises(InputError, match="level"):
        delong(truth, a, level=95)
