"""Brier score, calibration error, reliability and operating points against scikit-learn, plain loops and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from chartray.errors import InputError
from chartray.statistics import calibration, metrics, operating_point
from chartray.statistics.patient_bootstrap import stream

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def images(seed: int, n: int = 400, patients: int = 80, decimals: int = 2) -> Arrays:
    """Truth with unknowns, probabilities with ties, patients whose images resemble each other."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    latent = rng.normal(size=patients)[patient, None] + rng.normal(size=(n, 3))
    truth = (latent + rng.normal(size=(n, 3)) > [0.5, 1.0, 2.0]).astype(float)
    truth[::7, 0] = np.nan
    return truth, np.round(1 / (1 + np.exp(0.5 - latent)), decimals), patient


def plain_ece(truth: np.ndarray, score: np.ndarray, starts: list[float]) -> float:
    """The definition, image by image; `starts` are the scores that the bins but the first begin with."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for t, s in zip(truth, score, strict=True):
        if not np.isnan(t):
            bins.setdefault(sum(s >= start for start in starts), []).append((t, s))
    n = sum(map(len, bins.values()))
    return sum(abs(sum(s - t for t, s in one) / len(one)) * len(one) / n for one in bins.values())


def starts_of(truth: np.ndarray, score: np.ndarray) -> list[float]:
    ordered = sorted(score[~np.isnan(truth)])
    return [ordered[len(ordered) * k // 10] for k in range(1, 10)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_brier_equals_scikit_learn_with_ties_and_unknowns(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    truth = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=n, max_size=n)))
    score = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))) / 4
    known = ~np.isnan(truth)
    ours = calibration.brier(truth[:, None], score[:, None])[0]
    if not known.any():
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(brier_score_loss(truth[known], score[known], pos_label=1), abs=1e-12)


def test_calibration_error_is_its_definition_and_its_bins_hold_equal_counts() -> None:
    truth, score, _ = images(0)
    for label in range(3):
        expected = plain_ece(truth[:, label], score[:, label], starts_of(truth[:, label], score[:, label]))
        assert calibration.ece(truth, score)[label] == pytest.approx(expected, abs=1e-12)
    # Without ties every bin holds a tenth of the images, in order of score.
    rng = np.random.default_rng(1)
    smooth, binary = rng.permutation(np.linspace(0.01, 0.99, 203))[:, None], (rng.random((203, 1)) < 0.4) * 1.0
    curve = calibration.reliability(binary, smooth)
    assert curve.n.sum() == 203
    assert set(curve.n[0].tolist()) == {20, 21}
    order, cuts = np.argsort(smooth[:, 0]), np.cumsum(curve.n[0])[:-1]
    for b, members in enumerate(np.split(order, cuts)):
        assert curve.score[0, b] == pytest.approx(smooth[members].mean(), abs=1e-12)
        assert curve.observed[0, b] == pytest.approx(binary[members].mean(), abs=1e-12)
    weighted = (curve.n[0] * np.abs(curve.score[0] - curve.observed[0])).sum() / 203
    assert calibration.ece(binary, smooth)[0] == pytest.approx(weighted, abs=1e-12)
    # One score for all is one bin, however the images are ordered.
    same = calibration.reliability(binary, np.full((203, 1), 0.25))
    assert sorted(same.n[0].tolist()) == [0] * 9 + [203]
    assert calibration.ece(binary, np.full((203, 1), 0.25))[0] == pytest.approx(abs(binary.mean() - 0.25), abs=1e-12)
    mixed = rng.permutation(400)
    np.testing.assert_allclose(calibration.ece(truth[mixed], score[mixed]), calibration.ece(truth, score), atol=1e-12)


def test_resamples_equal_images_repeated_as_often_as_their_patient_was_drawn() -> None:
    truth, score, patient = images(1)
    limits = np.array([0.4, 0.6, np.nan])
    sampled = metrics.sample(truth, patient, resamples=20, seed=5)
    found = calibration.resample_calibration(truth, score, sampled)
    point, macro = operating_point.resample_at_threshold(truth, score, limits, sampled)
    names = np.unique(patient, return_inverse=True)[1]
    for r, draw in enumerate(next(stream(names.max() + 1, 5))[:20]):
        rows = np.repeat(np.arange(len(truth)), draw[names])
        for label in range(3):
            t, s, starts = truth[rows, label], score[rows, label], starts_of(truth[:, label], score[:, label])
            known = ~np.isnan(t)
            assert found.brier[r, label] == pytest.approx(brier_score_loss(t[known], s[known]), abs=1e-12)
            assert found.ece[r, label] == pytest.approx(plain_ece(t, s, starts), abs=1e-12)
            lowest = known & (s < starts[0])
            assert found.observed[r, label, 0] == pytest.approx(t[lowest].mean(), abs=1e-12)
            if label < 2:
                assert point.sensitivity[r, label] == pytest.approx((s[t == 1] > limits[label]).mean(), abs=1e-12)
                assert point.specificity[r, label] == pytest.approx((s[t == 0] <= limits[label]).mean(), abs=1e-12)
    np.testing.assert_allclose(found.macro_brier, found.brier.mean(axis=1))
    assert np.isnan(point.sensitivity[:, 2]).all()
    assert np.isnan(macro.sensitivity).all()
    once = operating_point.at_threshold(truth, score, limits)
    assert once.sensitivity[0] == (score[truth[:, 0] == 1, 0] > 0.4).mean()
    assert np.isnan(once.specificity[2])


def test_intervals_by_patient_are_wider_where_images_repeat() -> None:
    truth, score, _ = images(2, n=120, patients=120)
    truth, score = (np.repeat(each, 5, axis=0) for each in (truth, score))
    widths = []
    for patients in (np.repeat(np.arange(120), 5), np.arange(600)):
        sampled = metrics.sample(truth, patients, resamples=400, seed=0)
        point, _ = operating_point.resample_at_threshold(truth, score, np.full(3, 0.5), sampled)
        both = calibration.resample_calibration(truth, score, sampled).brier, point.specificity
        widths.append([np.ptp(metrics.percentiles(each, 0.95), axis=0) for each in both])
    np.testing.assert_allclose(np.divide(*widths), np.sqrt(5), rtol=0.25)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_the_threshold_is_the_smallest_that_keeps_the_specificity(negatives: list[int], wanted: float) -> None:
    scores = np.array([*negatives, 3, 99], dtype=float)[:, None]
    truth = np.array([0.0] * len(negatives) + [1.0, np.nan])[:, None]
    found = operating_point.threshold_at_specificity(truth, scores, wanted)
    assert operating_point.at_threshold(truth, scores, found).specificity[0] >= wanted - 1e-9
    lower = operating_point.at_threshold(truth, scores, np.nextafter(found, -np.inf)).specificity[0]
    assert lower < wanted - 1e-9


def test_nine_tenths_of_ten_are_nine_and_no_negative_image_means_no_threshold() -> None:
    scores, truth = np.arange(10.0)[:, None], np.zeros((10, 1))
    assert operating_point.threshold_at_specificity(truth, scores).tolist() == [8.0]
    thirty = operating_point.threshold_at_specificity(np.zeros((30, 1)), np.arange(30.0)[:, None])
    assert thirty.tolist() == [26.0]
    assert np.isnan(operating_point.threshold_at_specificity(truth + 1, scores)).all()
    with pytest.raises(InputError, match=r"specificity in \(0, 1\]"):
        operating_point.threshold_at_specificity(truth, scores, 90)


def simulated(rng: np.random.Generator, n: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Images of which the score's log odds are `slope` times the true ones."""
    odds = rng.normal(-1, 1, (n, 1))
    return (rng.random((n, 1)) < 1 / (1 + np.exp(-odds))).astype(float), 1 / (1 + np.exp(-slope * odds))


def test_what_chance_gives_is_what_perfect_probabilities_show() -> None:
    rng = np.random.default_rng(0)
    found = [simulated(rng, 500, 1) for _ in range(200)]
    shown = np.mean([calibration.ece(*one) for one in found])
    said = np.mean([calibration.ece_by_chance(*one) for one in found])
    assert said == pytest.approx(shown, rel=0.05)
    assert np.mean([calibration.ece(*simulated(rng, 500, 2)) for _ in range(50)]) > 2 * said


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    truth, score = np.array([[1.0, 0.0], [np.nan, 1.0]]), np.array([[0.5, 1.5], [7.0, 0.5]])
    assert calibration.are_probabilities(truth, score).tolist() == [True, False]
    with pytest.raises(InputError, match=r"probabilities in \[0, 1\], found 1.5 in row 0, label 1"):
        calibration.brier(truth, score)
