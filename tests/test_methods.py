"""The sentences on how numbers were reached, which the page's methods and the model card share."""

from typing import Any

import pytest

from chartray.evaluation.sentences import blanks_counted
from chartray.report.cohorts import MissingCells
from chartray.results.arm import Arm
from chartray.results.manifest import StoreEntry
from chartray.results.methods import interval_sentences, sample_sentences
from chartray.results.schema import Score


def score(**values: Any) -> Score:
    """An AUROC of Edema, with an interval."""
    about = {"arm": Arm("none"), "run": "r-0", "dataset": "mimic", "home": "mimic", "split": "test"}
    about |= {"protocol": "linear", "label": "Edema", "metric": "auroc", "resamples": 1000, "level": 0.95}
    return Score.model_validate(about | values)


def test_counts_below_ten_are_in_no_sentence() -> None:
    (said,) = sample_sentences([], [score(n_positive_patients=count, label=f"L{count}") for count in (3, 14, 30)])
    assert said == "Labels with fewer than 20 positive patients: MIMIC-CXR: L3 (< 10), L14 (14)."
    store = StoreEntry(dataset="mimic", hash="", blank_negatives={"Edema": 12, "Mass": 3})
    assert blanks_counted("source", [store]) == ["blank labels counted as negative in mimic: Edema 12, Mass < 10"]


@pytest.mark.parametrize(
    ("observed", "missing", "share"), [(224, 16, "6.7 %"), (240, 0, "0.0 %"), (237, 3, ""), (2, 238, "")]
)
def test_a_share_that_gives_a_small_count_away_is_not_told(observed: int, missing: int, share: str) -> None:
    percent = 100 * missing / (observed + missing)
    assert MissingCells("sex", "categorical", observed, missing, percent, False, "").share == share


@pytest.mark.parametrize(
    ("interval_of", "methods", "prevalence"),
    [
        ({"auroc": "score"}, "score (AUROC)", None),
        (
            {"auroc": "score", "average_precision": "bias-corrected logit"},
            "score (AUROC); bias-corrected logit (average precision)",
            "average precision",
        ),
        ({"brier": "logit", "sensitivity": "exact"}, "logit (Brier score); exact (sensitivity)", "Brier score"),
        (
            {"brier": "logit", "average_precision": "logit"},
            "logit (average precision, Brier score)",
            "average precision and Brier score",
        ),
    ],
)
def test_intervals_of_what_depends_on_prevalence_are_said_to(
    interval_of: dict[str, str], methods: str, prevalence: str | None
) -> None:
    rows = [score(metric=metric, interval=interval) for metric, interval in interval_of.items()]
    # The macro mean's own way, and values without an interval, are in no list.
    rows += [score(label="macro", interval="from the labels' intervals"), score(metric="ece", resamples=None)]
    said = interval_sentences(rows)
    assert f"Methods of the intervals: {methods}." in said
    about = [sentence for sentence in said if "prevalence" in sentence]
    assert about == ([f"Intervals of {prevalence} hold at the prevalence of the test set."] if prevalence else [])
