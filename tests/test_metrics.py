"""The metrics against scikit-learn, closed forms and plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from chartray.errors import InputError
from chartray.statistics import metrics
from chartray.statistics.holm import holm
from chartray.statistics.patient_bootstrap import stream


def images(seed: int, n: int = 400, patients: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, scores with many ties, and patients whose images resemble each other."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    severity = rng.normal(size=patients)[patient]
    latent = severity[:, None] + rng.normal(size=(n, 3)) * [0.3, 1.0, 3.0]
    truth = (latent + rng.normal(size=(n, 3)) > [0.5, 1.0, 2.0]).astype(float)
    return truth, np.round(latent, 1), patient


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_both_metrics_equal_scikit_learn_with_ties_and_unknowns(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    truth = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=n, max_size=n)))
    score = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    known = ~np.isnan(truth)
    ours = (
        metrics.auroc(truth[:, None], score[:, None])[0],
        metrics.average_precision(truth[:, None], score[:, None])[0],
    )
    if len(np.unique(truth[known])) < 2:
        assert np.isnan(ours).all()
    else:
        theirs = roc_auc_score(truth[known], score[known]), average_precision_score(truth[known], score[known])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_large_inputs_equal_scikit_learn_to_twelve_digits() -> None:
    truth, score, _ = images(0, n=20_000)
    for label in range(3):
        assert metrics.auroc(truth, score)[label] == pytest.approx(
            roc_auc_score(truth[:, label], score[:, label]), abs=1e-12
        )
        assert metrics.average_precision(truth, score)[label] == pytest.approx(
            average_precision_score(truth[:, label], score[:, label]), abs=1e-12
        )


def test_resamples_equal_images_repeated_as_often_as_their_patient_was_drawn() -> None:
    truth, score, patient = images(1)
    truth[::7, 0] = np.nan
    seed, resamples = 5, 20
    found = metrics.resample(truth, score, patient, resamples=resamples, seed=seed)
    # The draws again, by a plain loop over the same stream.
    names = np.unique(patient, return_inverse=True)[1]
    counts = next(stream(names.max() + 1, seed))[:resamples]
    assert found.redrawn.tolist() == [0, 0, 0]
    for r, draw in enumerate(counts):
        rows = np.repeat(np.arange(len(truth)), draw[names])
        for label in range(3):
            t, s = truth[rows, label], score[rows, label]
            known = ~np.isnan(t)
            assert found.auroc[r, label] == pytest.approx(roc_auc_score(t[known], s[known]), abs=1e-12)
            assert found.average_precision[r, label] == pytest.approx(
                average_precision_score(t[known], s[known]), abs=1e-12
            )
    np.testing.assert_allclose(found.macro_auroc, found.auroc.mean(axis=1))


def test_draws_that_lack_a_class_are_passed_over_and_counted() -> None:
    truth, score, patient = images(2, n=300, patients=60)
    rare = (patient == 7).astype(float)  # one positive patient: e^-1 of the draws miss it
    truth, score = np.column_stack((truth, rare)), np.column_stack((score, np.arange(300.0)))
    found = metrics.resample(truth, score, patient, resamples=500, seed=0)
    assert not np.isnan(found.auroc).any()
    missed = found.redrawn[3] / (500 + found.redrawn[3])
    assert missed == pytest.approx(np.exp(-1), abs=0.08)
    assert found.redrawn[:3].tolist() == [0, 0, 0]
    # One patient is too few for the macro, which is over the three others and redraws nothing.
    assert metrics.eligible(truth, patient).tolist() == [True, True, True, False]
    assert found.macro_redrawn == 0
    np.testing.assert_allclose(found.macro_auroc, found.auroc[:, :3].mean(axis=1))


def test_one_class_labels_have_no_interval_and_do_not_disturb_the_others() -> None:
    truth, score, patient = images(3)
    alone = metrics.bootstrap(truth, score, patient, resamples=50)
    wider = metrics.bootstrap(
        np.column_stack((truth, np.zeros(len(truth)))), np.column_stack((score, score[:, 0])), patient, resamples=50
    )
    assert np.isnan(wider.auroc_low[3])
    assert np.isnan(wider.average_precision_high[3])
    np.testing.assert_array_equal(wider.auroc_low[:3], alone.auroc_low)
    nothing = metrics.bootstrap(np.full((4, 1), np.nan), np.zeros((4, 1)), np.arange(4), resamples=5)
    assert np.isnan(nothing.auroc_low).all()


def test_intervals_by_patient_are_wider_than_by_image_where_images_repeat() -> None:
    truth, score, patient = images(4, n=100, patients=100)
    truth, score, patient = (np.repeat(each, 5, axis=0) for each in (truth, score, patient))
    by_patient = metrics.bootstrap(truth, score, patient, resamples=400)
    by_image = metrics.bootstrap(truth, score, np.arange(len(truth)), resamples=400)
    ratio = (by_patient.auroc_high - by_patient.auroc_low) / (by_image.auroc_high - by_image.auroc_low)
    np.testing.assert_allclose(ratio, np.sqrt(5), rtol=0.25)


def test_intervals_cover_the_true_value_as_often_as_they_say() -> None:
    # Binormal scores, d' = 1: the true AUROC is Phi(1 / sqrt 2) = 0.7602.
    inside = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        truth = (rng.random(200) < 0.4).astype(float)[:, None]
        score = truth + rng.normal(size=(200, 1))
        interval = metrics.bootstrap(truth, score, np.arange(200), resamples=200, seed=trial)
        inside += bool(interval.auroc_low[0] <= 0.7602 <= interval.auroc_high[0])
    assert 0.90 <= inside / 200 <= 0.99


def test_the_seed_decides_and_the_names_of_patients_do_not() -> None:
    truth, score, patient = images(5)
    first = metrics.bootstrap(truth, score, patient, resamples=30, seed=1)
    named = metrics.bootstrap(
        truth, score, np.char.add("p", np.char.zfill(patient.astype(str), 3)), resamples=30, seed=1
    )
    other = metrics.bootstrap(truth, score, patient, resamples=30, seed=2)
    np.testing.assert_array_equal(first, named)
    assert (first.auroc_low != other.auroc_low).any()


def test_paired_differences_are_tighter_than_unpaired_and_their_p_follows_the_interval() -> None:
    truth, score, patient = images(6)
    worse = score + np.random.default_rng(0).normal(size=score.shape) * 0.8
    a, b, other = (
        metrics.resample(truth, each, patient, resamples=400, seed=seed)
        for each, seed in ((score, 0), (worse, 0), (worse, 1))
    )
    value = metrics.auroc(truth, score) - metrics.auroc(truth, worse)
    pair, unpaired = (metrics.difference(value, a.auroc - each.auroc) for each in (b, other))
    assert (pair.high - pair.low < unpaired.high - unpaired.low).all()
    np.testing.assert_array_equal(pair.p < 0.05, (pair.low > 0) | (pair.high < 0))
    assert metrics.difference(value * 0, a.auroc - a.auroc).p.tolist() == [1, 1, 1]
    macro = metrics.difference(value.mean(), a.macro_auroc - b.macro_auroc)
    assert 0 < macro.low < macro.value < macro.high


def test_what_cannot_be_scored_is_refused_in_a_sentence() -> None:
    one = np.array([[1.0], [0.0]])
    with pytest.raises(InputError, match=r"one shape \(N, C\)"):
        metrics.auroc(one, one[:, 0])
    with pytest.raises(InputError, match="label policy"):
        metrics.auroc(-one, one)
    with pytest.raises(InputError, match="NaN in row 1, label 0"):
        metrics.auroc(one, np.array([[1.0], [np.nan]]))
    with pytest.raises(InputError, match="one patient for each of 2 images"):
        metrics.bootstrap(one, one, np.arange(3))


def test_holm_rejects_where_the_procedure_rejects() -> None:
    """Holm's procedure as he wrote it: from the smallest p, reject while p <= alpha / (those that are left)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(0, 0.1, size=rng.integers(1, 15)).round(2)  # with ties
        p[rng.uniform(size=len(p)) < 0.2] = np.nan
        alpha = rng.choice([0.01, 0.05, 0.2]) + 1e-9
        rejected, left = set(), int(np.isfinite(p).sum())
        for index in np.argsort(p)[:left]:
            if p[index] > alpha / (left - len(rejected)):
                break
            rejected.add(int(index))
        adjusted = holm(p)
        assert set(np.flatnonzero(adjusted <= alpha).tolist()) == rejected
        np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(p))
        assert np.nanmax(np.append(adjusted, 0)) <= 1
