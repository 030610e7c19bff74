"""From scores to result rows: values, intervals by patient, reasons, and paired comparisons with the floors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.films import Films, Match
from chartray.measure import metrics
from chartray.measure.holm import holm

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MACRO = "macro"
METRICS = ("auroc", "average_precision")
TOO_FEW = "too few patients"
ONE_CLASS = "one class in the test films"
ONE_CLASS_TRAINING = "one class in the training films: all films score alike"
NO_MACRO = f"no label has {metrics.MINIMUM_PATIENTS} positive and {metrics.MINIMUM_PATIENTS} negative patients"
NO_CLAIM = "no claim: fewer than 3 seeds"
SEEDS_FOR_A_CLAIM = 3


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


class Scored(NamedTuple):
    """One arm on one test set: scores (N, C), both metrics (C,) and macro, and the resamples they are judged by."""

    scores: Floats
    values: dict[str, Floats]
    macro: dict[str, float]
    resamples: metrics.Resamples


def score(test: EvaluationSet, scores: Floats, *, resamples: int, seed: int) -> Scored:
    """Scores (N, C of the probe) against a test set; the same seed draws the same patients for every arm."""
    here = scores[:, test.columns]
    return judged(test.films.truth, here, test.films.patients, test.counted, resamples=resamples, seed=seed)


def judged(
    truth: Floats,
    scores: Floats,
    patients: NDArray[np.str_],
    counted: NDArray[np.bool_],
    *,
    resamples: int,
    seed: int,
) -> Scored:
    """Truth and scores (N, C), patients (N,), the macro's labels (C,) -> both metrics and their resamples."""
    values = {"auroc": metrics.auroc(truth, scores), "average_precision": metrics.average_precision(truth, scores)}
    macro = {name: float(each[counted].mean()) if counted.any() else np.nan for name, each in values.items()}
    drawn = metrics.resample(truth, scores, patients, resamples=resamples, seed=seed, macro=counted)
    return Scored(scores, values, macro, drawn)


def mean_of(scored: Sequence[Scored]) -> Scored:
    """The mean over several runs, in value and in each resample; the scores are the first one's."""
    drawn = [one.resamples for one in scored]
    fields = ("auroc", "average_precision", "macro_auroc", "macro_average_precision")
    return Scored(
        scored[0].scores,
        {name: np.mean([one.values[name] for one in scored], axis=0) for name in METRICS},
        {name: float(np.mean([one.macro[name] for one in scored])) for name in METRICS},
        drawn[0]._replace(**{name: np.mean([getattr(one, name) for one in drawn], axis=0) for name in fields}),
    )


def result_rows(
    test: EvaluationSet, scored: Scored, level: float, common: dict[str, Any], notes: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row a label and metric, then the macro's; `notes` say more of each of the probe's labels."""
    positive, negative = metrics.patients_per_class(test.films.truth, test.films.patients)
    rows = []
    for metric in METRICS:
        resampled = getattr(scored.resamples, metric)
        low, high = metrics.percentiles(resampled, level)
        for index, label in enumerate(test.labels):
            truth, note = test.films.truth[:, index], dict(notes[test.columns[index]])
            reason = note.pop("reason", None)
            interval = (low[index], high[index]) if test.counted[index] else (np.nan, np.nan)
            if np.isnan(scored.values[metric][index]):
                reason = ONE_CLASS
            elif not test.counted[index]:
                reason = TOO_FEW
            rows.append(
                common
                | {"label": label, "metric": metric, "value": float(scored.values[metric][index])}
                | {"ci_low": float(interval[0]), "ci_high": float(interval[1])}
                | {"n": int((~np.isnan(truth)).sum()), "n_positive": int((truth == 1).sum())}
                | {"n_patients": len(np.unique(test.films.patients[~np.isnan(truth)]))}
                | {"n_positive_patients": int(positive[index]), "n_negative_patients": int(negative[index])}
                | {"redrawn": int(scored.resamples.redrawn[index]), "reason": reason, "labels": None}
                | note
            )
        low, high = metrics.percentiles(getattr(scored.resamples, f"macro_{metric}"), level)
        counted = [label for label, here in zip(test.labels, test.counted, strict=True) if here]
        rows.append(
            common
            | {"label": MACRO, "metric": metric, "value": scored.macro[metric]}
            | {"ci_low": float(low), "ci_high": float(high), "n": len(test.films.rows), "n_positive": None}
            | {"n_patients": len(np.unique(test.films.patients))}
            | {"n_positive_patients": None, "n_negative_patients": None}
            | {"redrawn": scored.resamples.macro_redrawn, "reason": None if counted else NO_MACRO, "labels": counted}
        )
    return rows


def comparison_rows(
    labels: Sequence[str], counted: NDArray[np.bool_], a: Scored, b: Scored, level: float, common: dict[str, Any]
) -> list[dict[str, Any]]:
    """a minus b, paired by patient: the macro of each metric, then each label.

    `p_holm` is Holm's p over the labels of these two on this data set in one metric that have a p; the macro is a
    family of its own, so its two p are equal. Other pairs, data sets, fractions and the other metric are not counted.
    """
    rows = []
    for metric in METRICS:
        drawn = getattr(a.resamples, f"macro_{metric}") - getattr(b.resamples, f"macro_{metric}")
        macro = metrics.difference(a.macro[metric] - b.macro[metric], drawn, level)
        reason = None if counted.any() else NO_MACRO
        rows.append(_comparison(common, MACRO, metric, macro, 0, reason))
        rows[-1]["p_holm"] = rows[-1]["p"]
        drawn = getattr(a.resamples, metric) - getattr(b.resamples, metric)
        each = metrics.difference(a.values[metric] - b.values[metric], drawn, level)
        found = []
        for index, label in enumerate(labels):
            reason = None if counted[index] else TOO_FEW
            if np.isnan(each.value[index]):
                reason = ONE_CLASS
            found.append(_comparison(common, label, metric, each, index, reason))
        for row, adjusted in zip(found, holm([row["p"] for row in found]).tolist(), strict=True):
            row["p_holm"] = adjusted
        rows += found
    return rows


def _comparison(
    common: dict[str, Any], label: str, metric: str, found: metrics.Difference, index: int, reason: str | None
) -> dict[str, Any]:
    value, low, high, p = (float(np.atleast_1d(each)[index]) for each in found)
    if reason is not None:
        low = high = p = np.nan
    return (
        common
        | {"label": label, "metric": metric, "difference": value, "ci_low": low, "ci_high": high, "p": p}
        | {"reason": reason}
    )


def claim(seeds: int) -> str | None:
    """What may not be said of `seeds` pretrainings."""
    return NO_CLAIM if seeds < SEEDS_FOR_A_CLAIM else None
