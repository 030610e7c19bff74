"""Probes against scikit-learn's optimum, neighbours against a plain loop."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from chartray.errors import InputError
from chartray.statistics import knn, metrics, probe

STRENGTHS = (0.1, 3.0, 300.0)


def images(seed: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different scales, and three labels of which one is rare."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 6))
    features = latent @ rng.normal(size=(6, width)) + 0.3 * rng.normal(size=(n, width))
    features = features * np.logspace(-3, 3, width) + np.linspace(-5, 5, width)
    truth = (latent[:, :3] + rng.normal(size=(n, 3)) > [0.0, 0.5, 1.8]).astype(float)
    return features, truth


@pytest.mark.parametrize(("n", "width"), [(300, 20), (60, 150)])
def test_every_label_and_strength_reaches_scikit_learns_optimum(n: int, width: int) -> None:
    features, truth = images(0, n, width)
    truth[::5, 1] = np.nan
    weight, bias, mean, scale = probe.solve(features, truth, STRENGTHS)
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    np.testing.assert_allclose((features - mean) / scale, standardised)
    for label in range(3):
        known = ~np.isnan(truth[:, label])
        for index, strength in enumerate(STRENGTHS):
            oracle = LogisticRegression(C=1 / strength, solver="newton-cg", tol=1e-10, max_iter=10_000)
            oracle.fit(standardised[known], truth[known, label])
            np.testing.assert_allclose(weight[label, index], oracle.coef_[0], rtol=0, atol=1e-4)
            assert bias[label, index] == pytest.approx(oracle.intercept_[0], abs=1e-4)


@pytest.mark.parametrize(
    ("n", "width", "positives", "strengths"),
    [
        (800, 40, 3, (1e-4, 1.0, 1e6)),  # a finding that three images have
        (90, 160, 3, (1e-2, 1.0, 1e6)),
        (300, 40, 60, (1e-8, 1e9)),
        (70, 120, 20, (1e-4,)),  # separable under hardly any penalty: where quasi-Newton steps creep
    ],
)
def test_rare_labels_and_extreme_penalties_reach_it_too(
    n: int, width: int, positives: int, strengths: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 6)) @ rng.normal(size=(6, width)) + 0.3 * rng.normal(size=(n, width))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    truth = np.zeros((n, 1))
    truth[rng.choice(n, positives, replace=False)] = 1
    agrees_with_scikit_learn(x, truth, strengths)


@pytest.mark.parametrize("apart", [0.0, 1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("n", [60, 300])
def test_features_that_are_nearly_the_same_share_their_weight(n: int, apart: float) -> None:
    rng = np.random.default_rng(8)
    latent = rng.normal(size=(n, 6))
    x = latent @ rng.normal(size=(6, 40)) + 0.3 * rng.normal(size=(n, 40))
    x = np.hstack((x, x + apart * rng.normal(size=(n, 40))))
    truth = (latent[:, :2] + rng.normal(size=(n, 2)) > 0).astype(float)
    agrees_with_scikit_learn((x - x.mean(axis=0)) / x.std(axis=0), truth, (1e-3, 1.0, 1e3))


def agrees_with_scikit_learn(x: np.ndarray, truth: np.ndarray, strengths: tuple[float, ...]) -> None:
    weight, bias, _, _ = probe.solve(x, truth, strengths)
    for label in range(truth.shape[1]):
        for index, strength in enumerate(strengths):
            oracle = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-12, max_iter=1000)
            oracle.fit(x, truth[:, label])
            np.testing.assert_allclose(weight[label, index], oracle.coef_[0], rtol=0, atol=1e-4)
            assert bias[label, index] == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_the_gradient_is_zero_where_the_classes_can_be_separated() -> None:
    features, truth = images(1, 40, 200)
    weight, bias, mean, scale = probe.solve(features, truth[:, :2], (0.001,))
    x = (features - mean) / scale
    logits = x @ weight[:, 0].T + bias[:, 0]
    residual = 1 / (1 + np.exp(-logits)) - truth[:, :2]
    assert np.abs(residual.T @ x + 0.001 * weight[:, 0]).max() < 1e-6
    assert ((logits > 0) == truth[:, :2]).all()


def test_each_label_takes_the_strength_that_is_best_on_its_validation_images() -> None:
    features, truth = images(2, 60, 80)
    unseen, unseen_truth = features[::2] + 0.5 * features.std(axis=0), truth[::2]
    chosen = probe.fit_probe(features[1::2], truth[1::2], unseen, unseen_truth, strengths=STRENGTHS)
    weight, bias, mean, scale = probe.solve(features[1::2], truth[1::2], STRENGTHS)
    for label in range(3):
        found = [
            roc_auc_score(unseen_truth[:, label], (unseen - mean) / scale @ weight[label, s] + bias[label, s])
            for s in range(len(STRENGTHS))
        ]
        assert chosen.validation_auroc[label] == pytest.approx(max(found))
        assert chosen.strength[label] == max(
            s for s, value in zip(STRENGTHS, found, strict=True) if value == max(found)
        )


def test_areas_of_all_strengths_are_those_of_each() -> None:
    rng = np.random.default_rng(9)
    truth = (rng.random((80, 4)) < [0.5, 0.1, 0.3, 0.0]).astype(float)
    truth[::7, 2] = np.nan
    logits = np.stack([rng.normal(size=(80, 4)).round(digits) for digits in (0, 1, 9)] + [np.zeros((80, 4))], axis=2)
    found = probe._aurocs(truth, logits)
    for index in range(4):
        np.testing.assert_allclose(found[:, index], metrics.auroc(truth, logits[:, :, index]), rtol=0, atol=1e-15)
    assert np.isnan(found[3]).all()


def test_a_label_without_choice_follows_the_others_and_one_without_classes_scores_all_images_alike() -> None:
    features, truth = images(3, 200, 10)
    truth = np.column_stack((truth, np.zeros(200)))
    truth[100:, 2] = 0
    assert truth[:100, 2].any()
    chosen = probe.fit_probe(features[:100], truth[:100], features[100:], truth[100:], strengths=STRENGTHS)
    assert np.isnan(chosen.validation_auroc).tolist() == [False, False, True, True]
    assert chosen.strength[2] in STRENGTHS
    assert np.isnan(chosen.strength).tolist() == [False, False, False, True]
    assert len(np.unique(chosen.scores(features)[:, 3])) == 1
    assert 0 < chosen.scores(features)[0, 3] < 0.05


def test_constant_features_weigh_nothing() -> None:
    features, truth = images(4, 100, 5)
    padded = np.column_stack((features, np.full(100, 7.3), np.zeros(100)))
    alone, with_constants = (probe.solve(each, truth, STRENGTHS)[0] for each in (features, padded))
    np.testing.assert_allclose(with_constants[..., :5], alone, atol=1e-6)
    assert np.abs(with_constants[..., 5:]).max() < 1e-12


def test_the_strongest_penalty_ranks_images_by_the_difference_of_class_means() -> None:
    features, truth = images(5, 200, 8)
    weight, _, mean, scale = probe.solve(features, truth[:, :1], (1e6,))
    x, positive = (features - mean) / scale, truth[:, 0] == 1
    means = x[positive].mean(axis=0) - x[~positive].mean(axis=0)
    cosine = weight[0, 0] @ means / np.linalg.norm(weight[0, 0]) / np.linalg.norm(means)
    assert cosine == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_fitted_is_refused_in_a_sentence() -> None:
    features, truth = images(6, 20, 4)
    with pytest.raises(InputError, match="of the same images"):
        probe.solve(features[:10], truth, STRENGTHS)
    features[13, 2] = np.nan
    with pytest.raises(InputError, match="row 13"):
        probe.solve(features, truth, STRENGTHS)


def test_neighbours_vote_as_a_plain_loop_says() -> None:
    features, truth = images(7, 120, 6)
    truth[::4, 1] = np.nan
    train, query = features[:90], features[90:]
    found = knn.knn_scores(train, truth[:90], query, neighbours=(1, 7, 500))
    rate = np.nanmean(truth[:90], axis=0)
    train, query = train - train.mean(axis=0), query - train.mean(axis=0)
    for m, image in enumerate(query):
        cosine = train @ image / np.linalg.norm(train, axis=1) / np.linalg.norm(image)
        nearest = np.argsort(-cosine)
        for index, k in enumerate((1, 7, 90)):
            votes = np.exp((cosine[nearest[:k]] - cosine.max()) / 0.07)
            for label in range(3):
                cast = truth[nearest[:k], label]
                known = ~np.isnan(cast)
                share = (votes[known] @ cast[known] + rate[label]) / (votes[known].sum() + 1)
                assert found[index, m, label] == pytest.approx(share, abs=1e-4)


def test_neighbours_find_what_is_there_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((600, 2)) < 0.3).astype(float)
    signal = rng.normal(size=(600, 8)) + 2 * truth @ np.eye(2, 8)
    assert knn.knn_auroc(signal[:400], truth[:400], signal[400:], truth[400:]) > 0.8
    assert abs(knn.knn_auroc(rng.normal(size=(400, 8)), truth[:400], signal[400:], truth[400:]) - 0.5) < 0.1
    assert np.isnan(knn.knn_auroc(signal, truth, signal, np.zeros_like(truth)))
    scores = knn.knn_scores(signal[:400], truth[:400], signal[400:], neighbours=(1, 50))
    assert knn.choose_neighbours(scores, truth[400:]) == 1
    assert knn.choose_neighbours(scores, np.zeros((200, 2))) is None  # one class: nothing was chosen by anything


def test_a_direction_in_which_features_hardly_vary_is_read() -> None:
    """Standardising each feature does not widen it; until a strength of 1 was no longer the weakest it was missed."""
    rng = np.random.default_rng(0)
    told = rng.normal(size=3000)
    common = rng.normal(size=(3000, 1)) + 0.5 * told[:, None]  # what a penalty leaves to read
    narrow = np.outer(told, [0.01, -0.01, 0.01, -0.01])
    features = common + narrow + 1e-3 * rng.normal(size=(3000, 4))
    truth = (told > 0).astype(float)[:, None]
    found = probe.fit_probe(features[:2000], truth[:2000], features[2000:2500], truth[2000:2500])
    score = roc_auc_score(truth[2500:, 0], found.scores(features[2500:])[:, 0])
    assert score > 0.99
    before = probe.fit_probe(features[:2000], truth[:2000], features[2000:2500], truth[2000:2500], strengths=(1.0,))
    assert roc_auc_score(truth[2500:, 0], before.scores(features[2500:])[:, 0]) < 0.95
