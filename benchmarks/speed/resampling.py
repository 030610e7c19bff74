"""Intervals of 14 labels by 1,000 resamples of the patients, against a loop of scikit-learn's metrics."""

from functools import partial

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.speed.measuring import Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.processor import Counted, timed
from chartray.statistics import metrics

RATIO_GOAL, SECONDS_GOAL = 17.0, 10.0
FILMS, LABELS, RESAMPLES = 36_640, 14, 1000
_FILMS_PER_PATIENT = 3.664
_LOOPS = 3

Floats = npt.NDArray[np.float64]


def measure(name: str, options: Options) -> Row:
    """AUROC and average precision of every resample, on a test set of a tenth of MIMIC-CXR: seconds.

    The loop repeats images as often as their patient was drawn and calls roc_auc_score and average_precision_score for
    each label; it runs a few resamples and is said for all of them. Raises RuntimeError where its values are others.
    """
    films, resamples = (1_000, 50) if options.quick else (FILMS, RESAMPLES)
    difference = refuse_other_values(*test_set(min(films, 5_000)))
    ours, reference = side_by_side(
        [partial(resampling, films, resamples), partial(looping, films, resamples)], options.repeats
    )
    used = [way.notes["processor_seconds"] for way in (ours, reference)]
    details: dict[str, float | str] = {
        "films": films,
        "labels": LABELS,
        "resamples": resamples,
        "resamples_timed_of_the_loop": _LOOPS,
        "largest_difference": difference,
        "seconds_goal": SECONDS_GOAL,
        "processor_seconds_ours": used[0],
        "processor_seconds_reference": used[1],
        "ratio_of_processor_seconds": used[1] / used[0],
    }
    return Row(name, "s", "lower", ours, reference, RATIO_GOAL, "ratio", details)


def resampling(films: int, resamples: int) -> Once:
    """Ours: one sort of a label's scores serves every resample."""
    truth, score, patients = test_set(films)
    return Counted(lambda: timed(lambda: metrics.resample(truth, score, patients, resamples=resamples)))


def looping(films: int, resamples: int) -> Once:
    """The usual way, for all resamples by what a few take."""
    truth, score, patients = test_set(films)

    def once() -> tuple[float, float]:
        seconds, used = timed(lambda: [by_loop(truth, score, patients, draw) for draw in range(_LOOPS)])
        return seconds * resamples / _LOOPS, used * resamples / _LOOPS

    return Counted(once)


def by_loop(truth: Floats, score: Floats, patients: npt.NDArray[np.int64], draw: int) -> Floats:
    """One resample's AUROC and average precision, (2, C)."""
    count = int(patients.max()) + 1
    drawn = np.bincount(np.random.default_rng(draw).integers(0, count, count), minlength=count)
    rows = np.repeat(np.arange(len(truth)), drawn[patients])
    both = (roc_auc_score, average_precision_score)
    return np.array([[each(truth[rows, c], score[rows, c]) for c in range(truth.shape[1])] for each in both])


def refuse_other_values(truth: Floats, score: Floats, patients: npt.NDArray[np.int64]) -> float:
    """The largest difference between our metrics and scikit-learn's; raises RuntimeError above 1e-9."""
    ours = np.stack([metrics.auroc(truth, score), metrics.average_precision(truth, score)])
    both = (roc_auc_score, average_precision_score)
    theirs = np.array([[each(truth[:, c], score[:, c]) for c in range(truth.shape[1])] for each in both])
    difference = float(np.abs(ours - theirs).max())
    if not difference <= 1e-9:
        raise RuntimeError(f"AUROC or average precision differs from scikit-learn's by {difference}")
    return difference


def test_set(films: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Truth and scores (N, 14) with ties, labels from 40 % to 1 %, and patients (N,) with 3.7 images each."""
    rng = np.random.default_rng(0)
    patients = round(films / _FILMS_PER_PATIENT)
    owner = rng.integers(0, patients, films)
    latent = rng.normal(size=(patients, LABELS))[owner] + rng.normal(size=(films, LABELS))
    rates = np.geomspace(0.4, 0.01, LABELS)
    above = np.sqrt(3) * np.quantile(rng.normal(size=100_000), 1 - rates)
    truth = (latent + rng.normal(size=latent.shape) > above).astype(np.float64)
    return truth, np.round(1 / (1 + np.exp(-latent)), 4), owner
