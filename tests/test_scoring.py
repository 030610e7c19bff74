"""From scores to rows: every metric against its own room, reasons, draws, studies, reliability."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from chartray.errors import InputError
from chartray.evaluation.image_set import ImageSet, Match
from chartray.evaluation.rows import calibration_rows, draw_rows, result_rows
from chartray.evaluation.scoring import EvaluationSet, LabelFit, Scored, choose_thresholds, over_draws, score
from chartray.evaluation.studies import by_study
from chartray.pixels.store import Store
from chartray.results.arm import Arm
from chartray.results.schema import Score
from chartray.statistics import calibration, metrics
from chartray.statistics.delong import delong
from tests.evaluation_folders import one, said

LABELS = ["Edema", "Mass", "Hernia"]
ABOUT = Score(
    arm=Arm(),
    run="r",
    home="mimic",
    dataset="mimic",
    protocol="linear",
    split="test",
    label="",
    metric="",
    fraction=1.0,
)
FITS = [LabelFit(strength=float(k)) for k in range(3)]


def films(patients: int = 80, studies: list[str | None] | None = None) -> ImageSet:
    """Two images a patient, both of one study; hardly anybody has a hernia."""
    rng = np.random.default_rng(3)
    truth = (rng.random((patients, 3)) < [0.4, 0.3, 0.03]).repeat(2, axis=0).astype(float)
    truth[::9, 1] = np.nan
    names = np.array([f"p{row:03}" for row in range(patients)]).repeat(2)
    ids = [f"s{row}" for row in range(patients) for _ in range(2)] if studies is None else studies
    store = SimpleNamespace(cohort=pa.table({"study_id": pa.array(ids, pa.string())}), folder=Path("mimic.store"))
    return ImageSet(cast(Store, store), "test", np.arange(len(truth)), names, truth)


def test_set(of: ImageSet) -> EvaluationSet:
    matches = [Match(label, label) for label in LABELS]
    counted = metrics.eligible(of.truth, of.patients)
    # The probe knows the labels in another order than the store.
    return EvaluationSet("mimic", "mimic.store", of, list("i" * len(of.rows)), matches, np.array([2, 0, 1]), counted)


test_set.__test__ = False


def scores_for(of: ImageSet, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Probabilities in the probe's order of labels."""
    rng = np.random.default_rng(seed)
    here = 1 / (1 + np.exp(-scale * (np.nan_to_num(of.truth, nan=0.5) * 1.5 - 1 + rng.normal(size=of.truth.shape))))
    return here[:, [1, 2, 0]]


def rows_of(scored: Scored, of: ImageSet, **more: Any) -> list[dict[str, Any]]:
    return said(result_rows(test_set(of), scored, 0.95, ABOUT.replaced(**more), FITS))


def test_rows_hold_every_metric_as_its_own_room_computes_it() -> None:
    of = films()
    all_scores = scores_for(of)
    thresholds = np.array([0.5, 0.6, 0.4])
    scored = score(test_set(of), all_scores, resamples=200, seed=1, thresholds=thresholds)
    rows, here, there = rows_of(scored, of), all_scores[:, [2, 0, 1]], thresholds[[2, 0, 1]]
    assert len(rows) == 6 * 4
    positive, negative = of.truth == 1, of.truth == 0
    expected = {
        "auroc": metrics.auroc(of.truth, here),
        "average_precision": metrics.average_precision(of.truth, here),
        "brier": calibration.brier(of.truth, here),
        "ece": calibration.ece(of.truth, here),
        "sensitivity": [(here[positive[:, c], c] > there[c]).mean() for c in range(3)],
        "specificity": [(here[negative[:, c], c] <= there[c]).mean() for c in range(3)],
    }
    for metric, values in expected.items():
        for index, label in enumerate(LABELS):
            row = one(rows, metric=metric, label=label)
            assert row["value"] == pytest.approx(values[index], abs=1e-12)
            assert row["strength"] == [2, 0, 1][index]
            assert (row["unit"], row["draws"]) == ("film", 1)
            if label == "Hernia":
                assert (row["ci_low"], row["reason"]) == (None, "too few patients")
                assert row.get("delong_low") is row.get("delong_high") is None  # no interval of any kind
            else:
                assert 0 <= row["ci_low"] < row["value"] < row["ci_high"] <= 1
        macro = one(rows, metric=metric, label="macro")
        assert macro["value"] == pytest.approx(np.mean(values[:2]), abs=1e-12)
        assert macro["labels"] == ["Edema", "Mass"]
        assert macro["ci_low"] < macro["value"] < macro["ci_high"]
    by_image, by_patient = delong(of.truth, here), delong(of.truth, here, patients=of.patients)
    edema = one(rows, metric="auroc", label="Edema")
    assert (edema["delong_low"], edema["delong_high"]) == (by_patient.low[0], by_patient.high[0])
    assert edema["delong_low"] != by_image.low[0]
    sensitivity = one(rows, metric="sensitivity", label="Edema")
    assert (sensitivity["threshold"], sensitivity["at_specificity"]) == (0.4, 0.9)
    assert sensitivity["holds_fixed"].endswith("the threshold chosen on validation is held fixed")
    assert "the scored patients vary" in edema["holds_fixed"]
    assert one(rows, metric="ece", label="Edema")["by_chance"] == calibration.ece_by_chance(of.truth, here)[0]
    without = score(test_set(of), all_scores, resamples=20, seed=1)
    assert {row["metric"] for row in rows_of(without, of)} == {"auroc", "average_precision", "brier", "ece"}


def test_a_threshold_that_one_draw_lacks_is_the_reason_whichever_draw_it_is() -> None:
    of = films()
    scores = scores_for(of)
    for limits in ((0.5, np.nan), (np.nan, 0.5)):
        draws = [
            score(test_set(of), scores, resamples=20, seed=0, thresholds=np.full(scores.shape[1], limit))
            for limit in limits
        ]
        row = one(rows_of(over_draws(draws), of), label="Edema", metric="sensitivity")
        assert row["reason"] == "no negative image in validation to choose a threshold on"


@pytest.mark.parametrize(("limit", "sensitivity"), [(0.0, 1), (1.0, 0)])
def test_where_all_patients_fall_on_one_side_the_interval_is_exact_by_patient(limit: float, sensitivity: int) -> None:
    of = films()
    rows = rows_of(score(test_set(of), scores_for(of), resamples=50, seed=0, thresholds=np.full(3, limit)), of)
    tails = []
    for label in ("Edema", "Mass"):
        for metric, side in (("sensitivity", "n_positive_patients"), ("specificity", "n_negative_patients")):
            row = one(rows, label=label, metric=metric)
            value, patients = (sensitivity if metric == "sensitivity" else 1 - sensitivity), row[side]
            tail = 0.025 ** (1 / patients)  # Clopper and Pearson's bound in closed form
            assert (row["value"], row["interval"]) == (value, "exact")
            assert (row["ci_low"], row["ci_high"]) == pytest.approx((tail, 1) if value else (0, 1 - tail))
            tails += [tail] if metric == "sensitivity" else []
    macro = one(rows, label="macro", metric="sensitivity")
    ends = (np.mean(tails), 1) if sensitivity else (0, 1 - np.mean(tails))
    assert (macro["ci_low"], macro["ci_high"]) == pytest.approx(ends)
    assert one(rows, label="Hernia", metric="sensitivity")["ci_low"] is None  # too few patients are too few still


def test_every_interval_says_how_it_was_made_and_holds_its_value() -> None:
    of = films()
    rows = rows_of(score(test_set(of), scores_for(of), resamples=200, seed=0, thresholds=np.full(3, 0.5)), of)
    made = {row["metric"]: row["interval"] for row in rows if row["label"] == "Edema"}
    assert made == {
        "auroc": "score",
        "average_precision": "bias-corrected logit",
        "brier": "logit",
        "ece": "mirrored percentiles",
        "sensitivity": "exact",
        "specificity": "exact",
    }
    assert {row["interval"] for row in rows if row["label"] == "macro"} == {"from the labels' intervals"}
    assert {row["interval"] for row in rows if row["label"] == "Hernia"} == {None}
    for row in rows:
        assert row["ci_low"] is None or 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
        assert (row["bias"] is not None) == (row["metric"] == "average_precision" and row["label"] != "Hernia")


@pytest.mark.parametrize("flip", [1, -1])
def test_a_perfect_ranking_has_an_interval_with_width(flip: int) -> None:
    of = films()
    apart = (np.nan_to_num(of.truth, nan=0.5) * 0.8 + 0.1)[:, [1, 2, 0]]
    rows = rows_of(score(test_set(of), apart if flip == 1 else 1 - apart, resamples=50, seed=0), of)
    for label in ("Edema", "Mass", "macro"):
        row = one(rows, label=label, metric="auroc")
        assert row["value"] == (1 if flip == 1 else 0)
        away = row["ci_high"] - row["ci_low"]
        assert 0.02 < away < 0.2
        assert row["ci_low" if flip == -1 else "ci_high"] == pytest.approx(row["value"])
        assert np.ptp([one(rows, label=label, metric="average_precision")[end] for end in ("ci_low", "ci_high")]) > 0.05
    if flip == -1:  # every image is off by as much, so no label's calibration error varies: nor does their mean's
        always = one(rows, label="macro", metric="ece")
        assert always["ci_low"] == always["value"] == always["ci_high"]


def test_classes_that_are_perfectly_apart_have_no_delong_interval() -> None:
    of = films()
    scores = scores_for(of)
    scores[:, 2] = np.where(of.truth[:, 0] == 1, 0.9, 0.1)  # the probe's third label is Edema
    row = one(rows_of(score(test_set(of), scores, resamples=20, seed=0), of), label="Edema", metric="auroc")
    assert row["value"] == 1
    assert row["delong_low"] is row["delong_high"] is None


def test_what_cannot_be_had_is_null_and_says_why() -> None:
    of = films()
    of.truth[:, 2] = 0
    scores = scores_for(of)
    scores[:, 2] += 3  # the probe's third label is Edema
    thresholds = np.array([np.nan, 0.5, 0.5])  # and its first is Mass
    rows = rows_of(score(test_set(of), scores, resamples=20, seed=0, thresholds=thresholds), of)
    no_threshold = "no negative image in validation to choose a threshold on"
    for wanted, reason in (
        ({"label": "Hernia", "metric": "auroc"}, "one class in the test images"),
        ({"label": "Hernia", "metric": "sensitivity"}, "one class in the test images"),
        ({"label": "Edema", "metric": "brier"}, "scores outside [0, 1] are not probabilities"),
        ({"label": "macro", "metric": "ece"}, "Edema: scores outside [0, 1] are not probabilities"),
        ({"label": "Mass", "metric": "specificity"}, no_threshold),
        ({"label": "macro", "metric": "sensitivity"}, f"Mass: {no_threshold}"),
    ):
        row = one(rows, **wanted)
        assert row["value"] is None
        assert row["reason"] == reason
    # A share of the negative images is known where there are only negative ones.
    assert one(rows, label="Hernia", metric="specificity")["reason"] == "too few patients"
    assert one(rows, label="Edema", metric="auroc")["reason"] is None
    scores[4, 0] = np.nan
    with pytest.raises(
        InputError, match=r"NaN for 1 images of mimic.store, the first in row 4 of the store, label Mass"
    ):
        score(test_set(of), scores, resamples=20, seed=0)


def test_a_threshold_chosen_on_validation_is_used_on_test_as_it_is() -> None:
    validation, test = films(patients=200), films()
    scores = scores_for(validation, seed=5)
    chosen = choose_thresholds(validation.truth[:, [1, 2, 0]], scores)
    shown = rows_of(score(test_set(test), scores_for(test), resamples=20, seed=0, thresholds=chosen), test)
    there = rows_of(score(test_set(validation), scores, resamples=20, seed=0, thresholds=chosen), validation)
    for label in LABELS:
        assert 0.9 <= one(there, label=label, metric="specificity")["value"] < 0.92
        both = [one(rows, label=label, metric="sensitivity")["threshold"] for rows in (there, shown)]
        assert both[0] == both[1]


def test_draws_of_training_patients_widen_the_interval_and_keep_their_own_rows() -> None:
    of = films()
    many = [
        score(
            test_set(of), scores_for(of, seed=draw, scale=1 + draw), resamples=300, seed=0, thresholds=np.full(3, 0.5)
        )
        for draw in range(5)
    ]
    mean = over_draws(many)
    rows = rows_of(mean, of)
    alone = said(draw_rows(test_set(of), many, ABOUT, [[LabelFit()] * 3] * 5))
    assert len(alone) == 5 * 2 * 4
    for metric in ("auroc", "average_precision"):
        for label in (*LABELS, "macro"):
            row = one(rows, metric=metric, label=label)
            its = [one(alone, metric=metric, label=label, draw=draw)["value"] for draw in range(5)]
            assert row["value"] == pytest.approx(np.mean(its))
            assert row["draws"] == 5
    assert {row["ci_low"] for row in alone} == {None}
    brier = one(rows, metric="brier", label="Edema")
    spread = np.std([each.values["brier"][0] for each in many], ddof=1) / np.sqrt(5)
    assert brier["ci_high"] - brier["ci_low"] > 2 * 1.96 * spread
    assert brier["holds_fixed"].endswith("the scored patients and the subsets of training patients vary")
    assert one(rows, metric="sensitivity", label="Edema")["threshold"] is None
    assert one(rows, metric="auroc", label="Edema")["delong_low"] is None
    assert all(0 <= row["ci_low"] <= row["ci_high"] <= 1 for row in rows if row["ci_low"] is not None)
    assert over_draws(many[:1]) is many[0]


def test_the_reliability_curve_is_that_of_the_images_with_intervals_by_patient() -> None:
    of = films()
    scored = score(test_set(of), scores_for(of), resamples=300, seed=0)
    rows = said(calibration_rows(test_set(of), scored, 0.95, ABOUT))
    curve = calibration.reliability(of.truth, scored.scores)
    edema = [row for row in rows if row["label"] == "Edema"]
    assert [row["bin"] for row in edema] == list(range(10))
    assert [row["observed"] for row in edema] == curve.observed[0].tolist()
    assert sum(row["n"] for row in edema) == len(of.rows)
    assert all(row["ci_low"] <= row["observed"] <= row["ci_high"] for row in edema)
    assert all(row["ci_low"] < row["ci_high"] for row in edema)  # also where no image of a bin has the finding
    assert all(row["n_patients"] <= row["n"] <= 2 * row["n_patients"] for row in edema)
    assert all(row["ci_low"] is None for row in rows if row["label"] == "Hernia")


def test_the_interval_of_the_calibration_error_covers_it() -> None:
    """Scores with 1.5 times the true log odds; the error of endless images, by the same tenths, is simulated."""

    def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        odds = rng.normal(-1, 1, n)
        return 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-1.5 * odds))

    true, given = drawn(np.random.default_rng(0), 400_000)
    tenths = np.array_split(np.argsort(given), 10)
    error = sum(abs((given - true)[each].sum()) for each in tenths) / len(given)
    inside = []
    for trial in range(120):
        rng = np.random.default_rng(trial)
        true, given = drawn(rng, 400)
        of = ImageSet(
            cast(Store, None),
            "test",
            np.arange(400),
            np.arange(400).astype(str),
            (rng.random(400) < true)[:, None] * 1.0,
        )
        test = EvaluationSet("x", "x", of, [], [Match("Edema", "Edema")], np.array([0]), np.array([True]))
        rows = said(
            result_rows(test, score(test, given[:, None], resamples=100, seed=trial), 0.95, ABOUT, [LabelFit()])
        )
        row = one(rows, metric="ece", label="Edema")
        inside.append(row["ci_low"] <= error <= row["ci_high"])
    assert np.mean(inside) > 0.9


def test_a_study_scores_the_mean_of_its_images() -> None:
    of = films(studies=[f"s{row // 2}" if row < 156 else None for row in range(160)])
    of.truth[0, 0], of.truth[1, 0] = 0, 1  # two images of one study that disagree
    of.truth[2, 1], of.truth[3, 1] = np.nan, 0  # and two of which one is unknown
    studies = by_study(of)
    assert studies is not None
    assert len(studies.names) == 78 + 4
    assert studies.image_set.truth[0, 0] == 1
    assert studies.image_set.truth[1, 1] == 0
    scores = scores_for(of)
    np.testing.assert_allclose(studies.mean(scores)[:78], (scores[:156:2] + scores[1:156:2]) / 2)
    np.testing.assert_array_equal(studies.mean(scores)[78:], scores[156:])
    assert studies.image_set.patients.tolist() == [*of.patients[:156:2], *of.patients[156:]]
    test = studies.of(test_set(of))
    rows = said(
        result_rows(
            test, score(test, studies.mean(scores), resamples=20, seed=0), 0.95, ABOUT.replaced(unit="study"), FITS
        )
    )
    row = one(rows, label="Edema", metric="auroc")
    assert (row["unit"], row["n"]) == ("study", 82)
    assert row["value"] == metrics.auroc(studies.image_set.truth, studies.mean(scores)[:, [2, 0, 1]])[0]
    # The order of the images does not matter, one image a study is nothing to average, and patients do not share one.
    mixed = np.random.default_rng(0).permutation(160)
    again = by_study(of._replace(rows=of.rows[mixed], patients=of.patients[mixed], truth=of.truth[mixed]))
    assert again is not None
    order = np.argsort(again.image_set.rows // 2)
    np.testing.assert_allclose(np.sort(again.mean(scores[mixed])[order], axis=0), np.sort(studies.mean(scores), axis=0))
    assert by_study(films(studies=[None] * 160)) is None
    assert by_study(films(studies=[f"s{row // 2}-{row % 2}" for row in range(160)])) is None
    shared = by_study(films(studies=["s"] * 160))
    assert shared is not None
    assert len(shared.names) == 80


def test_the_macro_counts_the_images_of_its_labels() -> None:
    of = films()
    of.truth[:10, :2] = np.nan  # hernia, which is too rare for the macro, is known of these
    scored = score(test_set(of), scores_for(of), resamples=20, seed=0)
    row = one(rows_of(scored, of), label="macro", metric="auroc")
    assert row["labels"] == ["Edema", "Mass"]
    assert (row["n"], row["n_patients"]) == (150, 75)
