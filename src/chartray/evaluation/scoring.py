"""Scores against a test set: values of every metric, their resamples by patient, and the mean over draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.evaluation.films import Films, Match
from chartray.measure import calibration, metrics
from chartray.measure.delong import delong
from chartray.measure.draws import Sampled
from chartray.measure.levels import over_draws_and_seeds
from chartray.measure.operating_point import at_threshold, resample_at_threshold, threshold_at_specificity

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# What arms are compared in; every arm is scored in them, in calibration, and at its threshold if it has one.
METRICS = ("auroc", "average_precision")
CALIBRATION = ("brier", "ece")
AT_THRESHOLD = ("sensitivity", "specificity")
# The specificity on validation films that thresholds are chosen for.
SPECIFICITY = 0.9


class EvaluationSet(NamedTuple):
    """The films that are scored in one store, and which of the probe's labels they have.

    `films.truth` (N, C), `columns` (C,) are positions among the probe's labels, `counted` (C,) the macro's labels.
    """

    dataset: str
    store: str
    films: Films
    image_ids: list[str]
    matches: list[Match]
    columns: Integers
    counted: NDArray[np.bool_]

    @property
    def labels(self) -> list[str]:
        """The probe's names of the labels that are scored here."""
        return [match.label for match in self.matches]


class Intervals(NamedTuple):
    """AUROC's normal intervals by DeLong, each (C,): films independent, and clustered by patient."""

    low: Floats
    high: Floats
    patient_low: Floats
    patient_high: Floats


class Scored(NamedTuple):
    """One arm on one test set: scores (N, C), each metric (C,) and its macro mean, and their resamples (R, C) and (R,).

    `redrawn` (C,) and `macro_redrawn` count draws passed over for lack of a class; `thresholds` (C,) were chosen on
    validation; `observed` (R, C, bins) are resamples of the reliability curve. `draws` says how many draws of training
    patients values and resamples are over; `scores`, `thresholds` and `observed` are the first draw's then.
    """

    scores: Floats
    values: dict[str, Floats]
    macro: dict[str, float]
    resampled: dict[str, Floats]
    macro_resampled: dict[str, Floats]
    redrawn: Integers
    macro_redrawn: int
    thresholds: Floats | None = None
    delong: Intervals | None = None
    reliability: calibration.Reliability | None = None
    observed: Floats | None = None
    draws: int = 1


def choose_thresholds(truth: Floats, scores: Floats, specificity: float = SPECIFICITY) -> Floats:
    """(C,): the smallest threshold whose specificity on these validation films is at least `specificity`.

    A film is called positive above it; NaN where a label has no negative film.
    """
    return threshold_at_specificity(truth, scores, specificity)


def score(
    test: EvaluationSet,
    scores: Floats,
    *,
    resamples: int,
    seed: int,
    thresholds: Floats | None = None,
    level: float = 0.95,
) -> Scored:
    """Scores (N, C of the probe) against a test set in every metric; one seed draws the same patients for all arms.

    `thresholds` (C of the probe,) as `choose_thresholds` found them on validation: without them there is neither
    sensitivity nor specificity. Brier score and calibration error are NaN for labels whose scores leave [0, 1].
    `level` is that of DeLong's interval. Raises InputError for a NaN score, naming the store and its row.
    """
    here = scores[:, test.columns]
    _refuse_unscored(test, here)
    truth, patients = test.films.truth, test.films.patients
    sampled = metrics.sample(truth, patients, resamples=resamples, seed=seed, macro=test.counted)
    found = _judged(truth, here, sampled)
    probable = np.where(calibration.are_probabilities(truth, here), truth, np.nan)
    drawn = calibration.resample_calibration(probable, here, sampled)
    values = {"brier": calibration.brier(probable, here), "ece": calibration.ece(probable, here)}
    resampled = {"brier": drawn.brier, "ece": drawn.ece}
    macro = {"brier": drawn.macro_brier, "ece": drawn.macro_ece}
    chosen = None if thresholds is None else thresholds[test.columns]
    if chosen is not None:
        each, mean = resample_at_threshold(truth, here, chosen, sampled)
        values |= at_threshold(truth, here, chosen)._asdict()
        resampled |= each._asdict()
        macro |= mean._asdict()
    films, by_patient = (delong(truth, here, patients=names, level=level) for names in (None, patients))
    return found._replace(
        values=found.values | values,
        macro=found.macro | {name: _macro(value, test.counted) for name, value in values.items()},
        resampled=found.resampled | resampled,
        macro_resampled=found.macro_resampled | macro,
        thresholds=chosen,
        delong=Intervals(films.low, films.high, by_patient.low, by_patient.high),
        reliability=calibration.reliability(probable, here),
        observed=drawn.observed,
    )


def judged(
    truth: Floats,
    scores: Floats,
    patients: NDArray[np.str_],
    counted: NDArray[np.bool_],
    *,
    resamples: int,
    seed: int,
) -> Scored:
    """Truth and scores (N, C), patients (N,), the macro's labels (C,) -> the metrics that arms are compared in."""
    return _judged(truth, scores, metrics.sample(truth, patients, resamples=resamples, seed=seed, macro=counted))


def over_draws(scored: Sequence[Scored], *, seed: int) -> Scored:
    """One arm that learnt from several draws of training patients: the mean, its resamples over patients and draws.

    What every draw has in common is kept, scores, thresholds and reliability of the first, and no DeLong interval,
    which knows no draws. One draw is returned as it is.
    """
    first = scored[0]
    if len(scored) == 1:
        return first

    def together(each: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
        return {name: over_draws_and_seeds(np.stack([one[name] for one in each])[None], seed=seed) for name in each[0]}

    return first._replace(
        values={name: np.mean([one.values[name] for one in scored], axis=0) for name in first.values},
        macro={name: float(np.mean([one.macro[name] for one in scored])) for name in first.macro},
        resampled=together([one.resampled for one in scored]),
        macro_resampled=together([one.macro_resampled for one in scored]),
        delong=None,
        draws=len(scored),
    )


def over_seeds(scored: Sequence[Sequence[Scored]], *, seed: int, side: int | None = 0) -> Scored:
    """An arm of S pretraining seeds, each scored over the same D draws of training patients: `scored` is S of D.

    The mean over both, and resamples over patients, draws and seeds; with `side` None the seeds are held fixed. Two
    arms are paired by seed where both give one `side`, and vary apart where they give two.
    """
    first = scored[0][0]

    def together(name: str, metric: str) -> Floats:
        each = np.stack([[getattr(one, name)[metric] for one in draws] for draws in scored])  # (S, D, R, ...)
        return over_draws_and_seeds(each, seed=seed, side=side)

    return first._replace(
        values={
            name: np.mean([[one.values[name] for one in draws] for draws in scored], axis=(0, 1)) for name in METRICS
        },
        macro={name: float(np.mean([[one.macro[name] for one in draws] for draws in scored])) for name in METRICS},
        resampled={name: together("resampled", name) for name in METRICS},
        macro_resampled={name: together("macro_resampled", name) for name in METRICS},
        delong=None,
        draws=len(scored[0]),
    )


def _judged(truth: Floats, scores: Floats, sampled: Sampled) -> Scored:
    values = {"auroc": metrics.auroc(truth, scores), "average_precision": metrics.average_precision(truth, scores)}
    drawn = metrics.resample_in(truth, scores, sampled)
    return Scored(
        scores=scores,
        values=values,
        macro={name: _macro(value, sampled.counted) for name, value in values.items()},
        resampled={"auroc": drawn.auroc, "average_precision": drawn.average_precision},
        macro_resampled={"auroc": drawn.macro_auroc, "average_precision": drawn.macro_average_precision},
        redrawn=drawn.redrawn,
        macro_redrawn=drawn.macro_redrawn,
    )


def _macro(values: Floats, counted: NDArray[np.bool_]) -> float:
    return float(values[counted].mean()) if counted.any() else np.nan


def _refuse_unscored(test: EvaluationSet, scores: Floats) -> None:
    missing = np.isnan(scores) & ~np.isnan(test.films.truth)
    if missing.any():
        film, label = np.argwhere(missing)[0]
        raise InputError(
            f"expected a score of every film, found NaN for {len(np.unique(np.argwhere(missing)[:, 0]))} films of "
            f"{test.store}, the first in row {test.films.rows[film]} of the store, label {test.labels[label]}; "
            "the features are damaged or the fit diverged"
        )
