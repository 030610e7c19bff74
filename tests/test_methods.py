"""The sentences on how numbers were reached, which the page's methods and the model card share."""

from typing import Any

import pytest

from chartray.evaluation.sentences import blanks_counted
from chartray.report.cohorts import MissingCells
from chartray.results.arm import Arm
from chartray.results.manifest import StoreEntry
from chartray.results.methods import sample_sentences
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
