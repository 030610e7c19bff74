"""From values, intervals and reasons to the rows of results.jsonl, studies.jsonl, draws.jsonl and calibration.jsonl."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.scoring import AT_THRESHOLD, CALIBRATION, METRICS, SPECIFICITY, EvaluationSet, LabelFit, Scored
from chartray.results.schema import MACRO, CalibrationBin, Score
from chartray.statistics import metrics
from chartray.statistics.calibration import BINS
from chartray.statistics.intervals import Bounds, LabelPatients, interval, of_labels, share_interval, spread

Floats = NDArray[np.float64]

TOO_FEW = "too few patients"
ONE_CLASS = "one class in the test images"
ONE_CLASS_TRAINING = "one class in the training images: all images score alike"
NO_MACRO = f"no label has {metrics.MINIMUM_PATIENTS} positive and {metrics.MINIMUM_PATIENTS} negative patients"
NO_PROBABILITIES = "scores outside [0, 1] are not probabilities"
NO_THRESHOLD = "no negative image in validation to choose a threshold on"
# What an interval lets vary, and what it holds fixed.
HOLDS_ENCODER = "holds the pretrained encoder fixed"
HOLDS_FIT = f"{HOLDS_ENCODER}, and what was fitted to the training patients; the scored patients vary"
HOLDS_DRAWS = f"{HOLDS_ENCODER}; the scored patients and the subsets of training patients vary"
HOLDS_THRESHOLD = "; the threshold chosen on validation is held fixed"


class _CountsBehind(NamedTuple):
    """How many images and patients stand behind a row; of the macro those with a known truth in one of its labels."""

    n: int
    n_patients: int
    n_positive: int | None = None
    n_blank: int | None = None
    n_positive_patients: int | None = None
    n_negative_patients: int | None = None

    @property
    def of_label(self) -> LabelPatients:
        """What intervals ask for."""
        positive = self.n_positive or 0
        return LabelPatients(self.n_positive_patients or 0, self.n_negative_patients or 0, positive, self.n - positive)


def result_rows(
    test: EvaluationSet, scored: Scored, level: float, about: Score, fits: Sequence[LabelFit]
) -> list[Score]:
    """One row a label and metric, then the macro's; `statistics.intervals` says how each interval is made.

    `about` says what all rows share; `fits` are of the probe's labels. `test` has a row an image, or a study where
    `about.unit` says so. `scored` may be the mean over draws (`scoring.over_draws`).
    """
    rows: list[Score] = []
    counts = _counts(test)
    (draws,) = scored.parts  # an evaluation is of one encoder
    about = about.replaced(draws=scored.draws, holds_fixed=HOLDS_FIT if scored.draws == 1 else HOLDS_DRAWS)
    for metric in (name for name in (*METRICS, *CALIBRATION, *AT_THRESHOLD) if name in scored.values):
        of_metric = about.replaced(metric=metric)
        if metric in AT_THRESHOLD:
            of_metric = of_metric.replaced(
                holds_fixed=f"{about.holds_fixed}{HOLDS_THRESHOLD}", at_specificity=SPECIFICITY
            )
        found: list[Bounds] = []
        for index, row in enumerate(_label_rows(test, scored, of_metric, fits, counts)):
            known = bool(test.counted[index]) and row.value is not None
            if known:
                found.append(_interval(draws, metric, index, counts[index], level))
                row = _with_interval(row, found[-1])
            rows.append(row.replaced(**_of_metric(scored, metric, index, interval=known)))
        row = _macro_row(test, scored, of_metric, counts[-1])
        if found and row.value is not None:
            macros = np.array([each.macro[metric] for each in draws])
            drawn = np.stack([each.macro_resampled[metric] for each in draws])
            chance = [one.calibrated.macro_by_chance for one in draws if one.calibrated is not None]
            by_chance = np.stack(chance) if metric == "ece" else None
            row = _with_interval(row, of_labels(found, macros, drawn, level, by_chance))
        rows.append(row.replaced(**_of_metric(scored, metric, None, interval=False)))
    return rows


def _interval(draws: Sequence[Scored], metric: str, index: int, counts: _CountsBehind, level: float) -> Bounds:
    """That of one label; `draws` are those of the training patients."""
    values = np.array([each.values[metric][index] for each in draws])
    drawn = np.stack([each.resampled[metric][:, index] for each in draws])
    chance = None
    if metric == "ece":
        chance = np.stack([each.calibrated.by_chance[:, index] for each in draws if each.calibrated is not None])
    return interval(metric, values, drawn, counts.of_label, level, chance)


def _with_interval(row: Score, found: Bounds) -> Score:
    bias = row.value - found.centre if row.metric == "average_precision" and row.value is not None else None
    return row.replaced(ci_low=found.low, ci_high=found.high, interval=found.method, bias=bias)


def draw_rows(
    test: EvaluationSet, draws: Sequence[Scored], about: Score, fits: Sequence[Sequence[LabelFit]]
) -> list[Score]:
    """What each subset of the training patients reached alone, without intervals; `fits` are each subset's."""
    rows: list[Score] = []
    counts = _counts(test)
    for draw, (scored, its) in enumerate(zip(draws, fits, strict=True)):
        of_draw = about.replaced(draw=draw, draws=len(draws))
        for metric in METRICS:
            rows += _label_rows(test, scored, of_draw.replaced(metric=metric), its, counts)
            rows.append(_macro_row(test, scored, of_draw.replaced(metric=metric), counts[-1]))
    return rows


def calibration_rows(test: EvaluationSet, scored: Scored, level: float, about: Score) -> list[CalibrationBin]:
    """The reliability curve: a row a label and bin that holds images; of several training subsets the first.

    The interval of the observed rate is by patient; there is none where the label has too few patients.
    """
    assert scored.reliability is not None
    assert scored.calibrated is not None
    rows = []
    for index, label in enumerate(test.labels):
        for bin_ in np.flatnonzero(scored.reliability.n[index]).tolist():
            n, patients = (int(each[index, bin_]) for each in (scored.reliability.n, scored.calibrated.patients))
            observed = float(scored.reliability.observed[index, bin_])
            found = spread(np.array([observed]), scored.calibrated.observed[None, :, index, bin_], patients)
            ends = share_interval(observed, found, patients, n, level) if test.counted[index] else (np.nan, np.nan)
            rows.append(
                CalibrationBin(
                    arm=about.arm,
                    run=about.run,
                    run_seed=about.run_seed,
                    home=about.home,
                    dataset=about.dataset,
                    protocol=about.protocol,
                    split=about.split,
                    fraction=about.fraction,
                    draw_by=about.draw_by,
                    label=label,
                    bin=bin_,
                    bins=BINS,
                    n=n,
                    n_patients=patients,
                    score=float(scored.reliability.score[index, bin_]),
                    observed=observed,
                    ci_low=ends[0],
                    ci_high=ends[1],
                )
            )
    return rows


def _counts(test: EvaluationSet) -> list[_CountsBehind]:
    """Of how many images and patients each label's rows are, and last the macro's."""
    positive, negative = metrics.patients_per_class(test.image_set.truth, test.image_set.patients)
    codes = np.unique(test.image_set.patients, return_inverse=True)[1].reshape(-1)
    blank = test.image_set.blank_negatives
    found = [
        _CountsBehind(
            n=int((~np.isnan(truth)).sum()),
            n_patients=len(np.unique(codes[~np.isnan(truth)])),
            n_positive=int((truth == 1).sum()),
            n_blank=None if blank[index] is None else int(blank[index]),
            n_positive_patients=int(positive[index]),
            n_negative_patients=int(negative[index]),
        )
        for index, truth in enumerate(test.image_set.truth.T)
    ]
    scored = (~np.isnan(test.image_set.truth[:, test.counted])).any(axis=1)
    return [*found, _CountsBehind(n=int(scored.sum()), n_patients=len(np.unique(codes[scored])))]


def _label_rows(
    test: EvaluationSet, scored: Scored, about: Score, fits: Sequence[LabelFit], counts: Sequence[_CountsBehind]
) -> list[Score]:
    """One metric of each label, without intervals."""
    rows = []
    for index, label in enumerate(test.labels):
        fit = fits[test.columns[index]]
        value = scored.values[about.metric][index]
        reason = fit.reason
        if np.isnan(value):
            reason = _why_none(scored, about.metric, index)
        elif not test.counted[index]:
            reason = TOO_FEW
        said = fit._replace(reason=reason)._asdict() | counts[index]._asdict()
        rows.append(about.replaced(label=label, value=float(value), redrawn=int(scored.redrawn[index]), **said))
    return rows


def _macro_row(test: EvaluationSet, scored: Scored, about: Score, counts: _CountsBehind) -> Score:
    metric = about.metric
    counted = tuple(label for label, here in zip(test.labels, test.counted, strict=True) if here)
    without = np.flatnonzero(test.counted & np.isnan(scored.values[metric])).tolist()
    reason = None if counted else NO_MACRO
    if without:
        reason = f"{test.labels[without[0]]}: {_why_none(scored, metric, without[0])}"
    return about.replaced(
        label=MACRO,
        value=float(scored.macro[metric]),
        redrawn=int(scored.macro_redrawn),
        reason=reason,
        labels=counted,
        **counts._asdict(),
    )


def _of_metric(scored: Scored, metric: str, index: int | None, *, interval: bool) -> dict[str, float | None]:
    """Fields that only rows of one metric have: DeLong's intervals of AUROC (where there is an `interval` at all), the
    calibration error of perfect probabilities, the threshold of shares at a threshold.
    """
    if metric == "auroc":
        if index is None or scored.delong is None or not interval:
            return {}
        low, high = float(scored.delong.low[index]), float(scored.delong.high[index])
        # DeLong's variance is 0 where the classes are separated perfectly, which is no certainty.
        return {"delong_low": low, "delong_high": high} if low < high else {}
    if metric == "ece":
        chance = None if index is None or scored.by_chance is None else float(scored.by_chance[index])
        return {"by_chance": chance}
    if metric in AT_THRESHOLD:
        # Every draw has a threshold of its own: there is no one number to name.
        if index is None or scored.draws > 1 or scored.thresholds is None:
            return {}
        return {"threshold": float(scored.thresholds[index])}
    return {}


def _why_none(scored: Scored, metric: str, index: int) -> str:
    if metric in CALIBRATION and scored.reliability is not None and not np.isnan(scored.values["auroc"][index]):
        return NO_PROBABILITIES
    # Of several draws of training patients any may lack a threshold, and with it the mean.
    limits = [one.thresholds for draws in scored.parts for one in draws if one.thresholds is not None]
    if metric in AT_THRESHOLD and any(np.isnan(limit[index]) for limit in limits):
        return NO_THRESHOLD
    return ONE_CLASS
