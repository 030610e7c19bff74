"""Scores against a test set: values of every metric, their resamples by patient, and the mean over draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.errors import InputError
from chartray.evaluation.image_set import ImageSet, Match
from chartray.statistics import calibration, metrics
from chartray.statistics.delong import delong
from chartray.statistics.operating_point import at_threshold, resample_at_threshold, threshold_at_specificity
from chartray.statistics.patient_bootstrap import PatientBootstrap

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# What arms are compared in; every arm is scored in them, in calibration, and at its threshold if it has one.
METRICS = ("auroc", "average_precision")
CALIBRATION = ("brier", "ece")
AT_THRESHOLD = ("sensitivity", "specificity")
# The specificity on validation images that thresholds are chosen for.
SPECIFICITY = 0.9


class LabelFit(NamedTuple):
    """How the fit of one label was chosen; the fields are those of `results.schema.Score`."""

    strength: float | None = None
    validation_auroc: float | None = None
    neighbours: int | None = None
    best_epoch: int | None = None
    chosen_by: str | None = None
    draws_without_probe: int = 0
    reason: str | None = None


class EvaluationSet(NamedTuple):
    """The images that are scored in one store, and which of the probe's labels they have.

    `image_set.truth` (N, C), `columns` (C,) are positions among the probe's labels, `counted` (C,) the macro's labels.
    """

    dataset: str
    store: str
    image_set: ImageSet
    image_ids: list[str]
    matches: list[Match]
    columns: Integers
    counted: NDArray[np.bool_]

    @property
    def labels(self) -> list[str]:
        """The probe's names of the labels that are scored here."""
        return [match.label for match in self.matches]


class DelongIntervals(NamedTuple):
    """AUROC's normal intervals by DeLong, images clustered by patient; each (C,)."""

    low: Floats
    high: Floats


class Scored(NamedTuple):
    """One arm on one test set: scores (N, C), each metric (C,) and its macro mean, and their resamples (R, C) and (R,).

    `redrawn` (C,) and `macro_redrawn` count draws passed over for lack of a class; `thresholds` (C,) were chosen on
    validation; `calibrated` are the resamples of calibration, `by_chance` (C,) the calibration error of perfect
    probabilities. A mean over S seeds of D draws of training patients has its parts in `members`, S of D; its resamples
    hold seeds and draws fixed, and scores, thresholds and reliability are the first one's.
    """

    scores: Floats
    values: dict[str, Floats]
    macro: dict[str, float]
    resampled: dict[str, Floats]
    macro_resampled: dict[str, Floats]
    redrawn: Integers
    macro_redrawn: int
    thresholds: Floats | None = None
    delong: DelongIntervals | None = None
    reliability: calibration.Reliability | None = None
    calibrated: calibration.Calibrated | None = None
    by_chance: Floats | None = None
    members: Sequence[Sequence["Scored"]] = ()

    @property
    def draws(self) -> int:
        """How many draws of training patients the values are a mean over."""
        return len(self.members[0]) if self.members else 1

    @property
    def parts(self) -> Sequence[Sequence["Scored"]]:
        """Itself, where it is no mean."""
        return self.members or ((self,),)


def choose_thresholds(truth: Floats, scores: Floats, specificity: float = SPECIFICITY) -> Floats:
    """(C,): the smallest threshold whose specificity on these validation images is at least `specificity`.

    An image is called positive above it; NaN where a label has no negative image.
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
    truth, patients = test.image_set.truth, test.image_set.patients
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
    by_patient = delong(truth, here, patients=patients, level=level)
    return found._replace(
        values=found.values | values,
        macro=found.macro | {name: _macro(value, test.counted) for name, value in values.items()},
        resampled=found.resampled | resampled,
        macro_resampled=found.macro_resampled | macro,
        thresholds=chosen,
        delong=DelongIntervals(by_patient.low, by_patient.high),
        reliability=calibration.reliability(probable, here),
        calibrated=drawn,
        by_chance=calibration.ece_by_chance(probable, here),
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


def over_draws(scored: Sequence[Scored]) -> Scored:
    """One arm that learnt from several draws of training patients: the mean. One draw is returned as it is.

    There is no DeLong interval, which knows no draws.
    """
    return scored[0] if len(scored) == 1 else _mean(scored)._replace(members=(tuple(scored),))


def _mean(scored: Sequence[Scored]) -> Scored:
    def mean(each: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
        return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}

    return scored[0]._replace(
        values=mean([one.values for one in scored]),
        macro={name: float(np.mean([one.macro[name] for one in scored])) for name in scored[0].macro},
        resampled=mean([one.resampled for one in scored]),
        macro_resampled=mean([one.macro_resampled for one in scored]),
        delong=None,
    )


def _judged(truth: Floats, scores: Floats, sampled: PatientBootstrap) -> Scored:
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
    missing = np.isnan(scores) & ~np.isnan(test.image_set.truth)
    if missing.any():
        image, label = np.argwhere(missing)[0]
        raise InputError(
            f"expected a score of every image, found NaN for {len(np.unique(np.argwhere(missing)[:, 0]))} images of "
            f"{test.store}, the first in row {test.image_set.rows[image]} of the store, label {test.labels[label]}; "
            "the features are damaged or the fit diverged"
        )
