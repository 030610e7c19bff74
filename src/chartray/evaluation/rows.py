"""The rows of results.jsonl, studies.jsonl, draws.jsonl and calibration.jsonl: values, intervals and reasons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.scoring import AT_THRESHOLD, CALIBRATION, METRICS, SPECIFICITY, EvaluationSet, Scored
from chartray.statistics import metrics
from chartray.statistics.calibration import BINS
from chartray.statistics.clopper_pearson import BOOTSTRAP, EXACT, clopper_pearson_interval

Floats = NDArray[np.float64]

MACRO = "macro"
TOO_FEW = "too few patients"
ONE_CLASS = "one class in the test films"
ONE_CLASS_TRAINING = "one class in the training films: all films score alike"
NO_MACRO = f"no label has {metrics.MINIMUM_PATIENTS} positive and {metrics.MINIMUM_PATIENTS} negative patients"
NO_PROBABILITIES = "scores outside [0, 1] are no probabilities"
NO_THRESHOLD = "no negative film in validation to choose a threshold on"
# What an interval lets vary, and what it holds fixed.
HOLDS_ENCODER = "holds the pretrained encoder fixed"
HOLDS_FIT = f"{HOLDS_ENCODER}, and what was fitted to the training patients; the patients scored vary"
HOLDS_DRAWS = f"{HOLDS_ENCODER}; the patients scored and the draws of training patients vary"
HOLDS_THRESHOLD = "; the threshold chosen on validation is held fixed"


def result_rows(
    test: EvaluationSet,
    scored: Scored,
    level: float,
    common: dict[str, Any],
    notes: Sequence[dict[str, Any]],
    *,
    unit: str = "film",
) -> list[dict[str, Any]]:
    """One row a label and metric, then the macro's; `notes` say more of each of the probe's labels.

    `unit` is what `test` has a row of: film or study. `scored` may be the mean over draws (`scoring.over_draws`).
    """
    rows: list[dict[str, Any]] = []
    counts = _counts(test)
    for metric in (name for name in (*METRICS, *CALIBRATION, *AT_THRESHOLD) if name in scored.values):
        low, high = _ends(metric, scored.values[metric], scored.resampled[metric], level)
        held = HOLDS_FIT if scored.draws == 1 else HOLDS_DRAWS
        more = {"unit": unit, "draws": scored.draws, "holds_fixed": held}
        if metric in AT_THRESHOLD:
            more |= {"holds_fixed": held + HOLDS_THRESHOLD, "at_specificity": SPECIFICITY}
        for row in _label_rows(test, scored, metric, common | more, notes, counts):
            index = len(rows) % (len(test.labels) + 1)
            if test.counted[index]:
                row |= {"ci_low": float(low[index]), "ci_high": float(high[index])}
                row |= _at_the_edge(metric, row["value"], [counts[index]], level)
            rows.append(row | _of_metric(scored, metric, index, interval=bool(test.counted[index])))
        low, high = _ends(metric, np.float64(scored.macro[metric]), scored.macro_resampled[metric], level)
        macro = _macro_row(test, scored, metric, common | more, counts)
        macro |= {"ci_low": float(low), "ci_high": float(high)}
        counted = [each for each, here in zip(counts, test.counted.tolist(), strict=False) if here]
        macro |= _at_the_edge(metric, scored.macro[metric], counted, level)
        rows.append(macro | _of_metric(scored, metric, None, interval=False))
    return rows


def _at_the_edge(metric: str, value: float, counts: Sequence[dict[str, Any]], level: float) -> dict[str, Any]:
    """Of shares at a threshold how their interval was made, and where all patients fall on one side the exact one."""
    if metric not in AT_THRESHOLD:
        return {}
    side = "n_positive_patients" if metric == "sensitivity" else "n_negative_patients"
    ends = clopper_pearson_interval(value, [each[side] for each in counts], level)
    return {"interval": BOOTSTRAP} if ends is None else {"interval": EXACT, "ci_low": ends[0], "ci_high": ends[1]}


def draw_rows(
    test: EvaluationSet,
    draws: Sequence[Scored],
    common: dict[str, Any],
    notes: Sequence[Sequence[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """What each draw of the training patients reached alone, without intervals; `notes` are each draw's."""
    rows: list[dict[str, Any]] = []
    counts = _counts(test)
    for draw, (scored, its) in enumerate(zip(draws, notes, strict=True)):
        more = common | {"unit": "film", "draw": draw, "draws": len(draws)}
        for metric in METRICS:
            rows += _label_rows(test, scored, metric, more, its, counts)
            rows.append(_macro_row(test, scored, metric, more, counts))
    return rows


def calibration_rows(test: EvaluationSet, scored: Scored, level: float, common: dict[str, Any]) -> list[dict[str, Any]]:
    """The reliability curve: a row a label and bin that holds films; of several draws of training patients the first.

    `score` is the bin's mean score, `observed` its share of positive films, with an interval by patient unless the
    label has too few patients.
    """
    assert scored.reliability is not None
    assert scored.observed is not None
    rows = []
    for index, label in enumerate(test.labels):
        for bin_ in np.flatnonzero(scored.reliability.n[index]).tolist():
            drawn = scored.observed[:, index, bin_]
            drawn = drawn[~np.isnan(drawn)]  # draws that hold a film of this bin
            ends = metrics.percentiles(drawn, level) if test.counted[index] else (np.nan, np.nan)
            rows.append(
                common
                | {"label": label, "draw": 0, "bin": bin_, "bins": BINS, "n": int(scored.reliability.n[index, bin_])}
                | {"score": float(scored.reliability.score[index, bin_])}
                | {"observed": float(scored.reliability.observed[index, bin_])}
                | {"ci_low": float(ends[0]), "ci_high": float(ends[1])}
            )
    return rows


def _counts(test: EvaluationSet) -> list[dict[str, Any]]:
    """Of how many films and patients each label's rows are, and last the macro's."""
    positive, negative = metrics.patients_per_class(test.films.truth, test.films.patients)
    codes = np.unique(test.films.patients, return_inverse=True)[1].reshape(-1)
    blank = test.films.blank_negatives
    found: list[dict[str, Any]] = [
        {
            "n": int((~np.isnan(truth)).sum()),
            "n_positive": int((truth == 1).sum()),
            "n_blank": blank[index],
            "n_patients": len(np.unique(codes[~np.isnan(truth)])),
            "n_positive_patients": int(positive[index]),
            "n_negative_patients": int(negative[index]),
        }
        for index, truth in enumerate(test.films.truth.T)
    ]
    macro = dict.fromkeys(found[0]) | {"n": len(codes), "n_patients": len(np.unique(codes))}
    return [*found, macro]


def _label_rows(
    test: EvaluationSet,
    scored: Scored,
    metric: str,
    common: dict[str, Any],
    notes: Sequence[dict[str, Any]],
    counts: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """One metric of each label, without intervals."""
    rows = []
    for index, label in enumerate(test.labels):
        note = dict(notes[test.columns[index]])
        reason = note.pop("reason", None)
        if np.isnan(scored.values[metric][index]):
            reason = _why_none(scored, metric, index)
        elif not test.counted[index]:
            reason = TOO_FEW
        rows.append(
            common
            | {"label": label, "metric": metric, "value": float(scored.values[metric][index])}
            | {"ci_low": None, "ci_high": None}
            | counts[index]
            | {"redrawn": int(scored.redrawn[index]), "reason": reason, "labels": None}
            | note
        )
    return rows


def _macro_row(
    test: EvaluationSet, scored: Scored, metric: str, common: dict[str, Any], counts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    counted = [label for label, here in zip(test.labels, test.counted, strict=True) if here]
    without = np.flatnonzero(test.counted & np.isnan(scored.values[metric])).tolist()
    reason = None if counted else NO_MACRO
    if without:
        reason = f"{test.labels[without[0]]}: {_why_none(scored, metric, without[0])}"
    return (
        common
        | {"label": MACRO, "metric": metric, "value": scored.macro[metric], "ci_low": None, "ci_high": None}
        | counts[-1]
        | {"redrawn": scored.macro_redrawn, "reason": reason, "labels": counted}
    )


def _ends(metric: str, value: Floats | np.float64, resampled: Floats, level: float) -> tuple[Floats, Floats]:
    """The interval, in [0, 1] as every metric is: the stretch of few draws (`hierarchical_bootstrap`) knows no bounds.

    Noise adds to a calibration error, and resampling adds it once more: its percentiles lie above the truth, and often
    above the value. The upper one is kept and mirrored at the value, which covers (benchmarks/LOG.md).
    """
    low, high = metrics.percentiles(resampled, level)
    if metric == "ece":
        low = 2 * value - high
    return np.maximum(low, 0), np.minimum(high, 1)


def _of_metric(scored: Scored, metric: str, index: int | None, *, interval: bool) -> dict[str, Any]:
    """What only rows of one metric have: AUROC DeLong's intervals (where there is an `interval` at all), calibration
    error what perfect probabilities of as many films would have by chance, shares at a threshold the threshold.
    """
    if metric == "auroc":
        names = ("delong_low", "delong_high", "delong_patient_low", "delong_patient_high")
        if index is None or scored.delong is None or not interval:
            return dict.fromkeys(names)
        found = {name: float(each[index]) for name, each in zip(names, scored.delong, strict=True)}
        # Classes that are perfectly apart have no variance by DeLong, which is no certainty.
        return found if found["delong_low"] < found["delong_high"] else dict.fromkeys(names)
    if metric == "ece":
        chance = None if index is None or scored.by_chance is None else float(scored.by_chance[index])
        return {"by_chance": chance}
    if metric in AT_THRESHOLD:
        # Every draw has a threshold of its own: there is no one number to name.
        named = index is not None and scored.draws == 1 and scored.thresholds is not None
        return {"threshold": float(scored.thresholds[index]) if named else None}  # type: ignore[index]
    return {}


def _why_none(scored: Scored, metric: str, index: int) -> str:
    if metric in CALIBRATION and scored.reliability is not None and not np.isnan(scored.values["auroc"][index]):
        return NO_PROBABILITIES
    # Of several draws of training patients any may lack a threshold, and with it the mean.
    limits = [one.thresholds for draws in scored.parts for one in draws if one.thresholds is not None]
    if metric in AT_THRESHOLD and any(np.isnan(limit[index]) for limit in limits):
        return NO_THRESHOLD
    return ONE_CLASS
