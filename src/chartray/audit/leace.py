"""How much disease is still read once an attribute's directions are taken out of the embedding.

The directions are found on the training films (LEACE, `statistics.leace`) and taken from all films; disease and the
attribute are then probed afresh. After it no linear probe of the training films finds the attribute, so
`attribute_after` of a category is 0.5 by construction; whether curved borders still find it is what
`neighbours_before` and `neighbours_after` say (AUROC of 50 weighted nearest neighbours). A fall of disease AUROC has
two readings: the probe leant on the attribute, or disease and attribute share a direction for good reason (age and a
large heart). The coin, of which nothing is in the film, shows what removing a direction costs by itself.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.attribute_probes import Judge, reading_of
from chartray.audit.attributes import Attribute, level_codes, truth_of_attribute
from chartray.evaluation.baselines import Frozen
from chartray.evaluation.embed import device_of
from chartray.evaluation.films import Films
from chartray.evaluation.rows import MACRO, NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.statistics import metrics
from chartray.statistics.knn import knn_scores
from chartray.statistics.leace import fit_leace
from chartray.statistics.patient_bootstrap import PatientBootstrap
from chartray.statistics.probe import fit_probe
from chartray.statistics.ridge import fit_ridge

Floats = NDArray[np.float64]

NEIGHBOURS = 50
# Training films that neighbours are looked for among, evenly spaced: the distances grow with their number.
NEIGHBOURHOOD = 20_000
_SCORE_DIGITS = 6
HOLDS_FIXED = "the encoder, both probes and the directions are held fixed; the patients of the scored films vary"


class Before(NamedTuple):
    """Disease on the scored films as the embedding is: scores (N, C), resamples, and the draws that stay the same."""

    test: Films
    labels: list[str]
    counted: NDArray[np.bool_]
    sampled: PatientBootstrap
    scores: Floats
    resamples: metrics.Resamples


class Removed(NamedTuple):
    """Rows, and the scores (N, C) of disease after it."""

    rows: list[dict[str, Any]]
    scores: Floats


def before(test: Films, labels: list[str], scores: Floats, *, resamples: int, seed: int) -> Before:
    """Disease scores (N, C) of the untouched embedding, judged."""
    counted = metrics.eligible(test.truth, test.patients)
    sampled = metrics.sample(test.truth, test.patients, resamples=resamples, seed=seed, macro=counted)
    return Before(test, labels, counted, sampled, scores, metrics.resample_in(test.truth, scores, sampled))


def removed(
    attribute: Attribute,
    frozen: Frozen,
    train: Films,
    validate: Films,
    known: Before,
    judge: Judge,
    attribute_scores: Floats,
    common: dict[str, Any],
    *,
    device: str,
    confidence: float,
) -> Removed:
    """Removes one attribute; `attribute_scores` (N, K) and `judge` are those of the untouched embedding."""
    where = device_of(device)
    eraser = fit_leace(frozen.needed(train), _concept(attribute, train))
    x, checked, tested = (eraser.erase(frozen.needed(films)) for films in (train, validate, known.test))
    probe = fit_probe(
        x,
        train.truth,
        checked,
        validate.truth,
        patients=train.patients,
        validation_patients=validate.patients,
        device=where,
    )
    scores = probe.scores(tested)
    metric = judge.metrics[0]
    found = {
        "directions": eraser.directions,
        "attribute_metric": metric,
        "attribute_before": _told(judge, attribute_scores),
        "attribute_after": _told(judge, _attribute_scores(attribute, train, validate, x, checked, tested, where)),
    }
    if attribute.levels:
        for name, ours, theirs in (
            ("neighbours_before", frozen.needed(train), frozen.needed(known.test)),
            ("neighbours_after", x, tested),
        ):
            found[name] = _neighbours(attribute, train, judge, ours, theirs, where)
    base = {"part": "removed", "attribute": attribute.name, "metric": "auroc", "holds_fixed": HOLDS_FIXED}
    return Removed(_rows(known, scores, base | found | common, confidence), scores)


def _told(judge: Judge, scores: Floats) -> float:
    """How well the attribute is read, NaN of fewer than 10 patients."""
    reading = reading_of(judge, scores)
    return reading.value[judge.metrics[0]] if judge.counted.any() else np.nan


def _concept(attribute: Attribute, films: Films) -> Floats:
    """(N, K): all levels but the last, or the number; NaN where it is not known."""
    if not attribute.levels:
        return truth_of_attribute(attribute, films)
    codes = level_codes(attribute, films)
    concept: Floats = (codes[:, None] == np.arange(len(attribute.levels) - 1)).astype(np.float64)
    concept[codes < 0] = np.nan
    return concept


def _attribute_scores(
    attribute: Attribute, train: Films, validate: Films, x: Floats, checked: Floats, tested: Floats, device: str
) -> Floats:
    truth, validation = (truth_of_attribute(attribute, films) for films in (train, validate))
    if not attribute.levels:
        return fit_ridge(x, truth[:, 0], checked, validation[:, 0]).predict(tested)[:, None]
    probe = fit_probe(
        x,
        truth,
        checked,
        validation,
        patients=train.patients,
        validation_patients=validate.patients,
        device=device,
    )
    # What is left of the weights is rounding, and so would be the order of films by it: they tie.
    return np.round(probe.scores(tested), _SCORE_DIGITS)


def _neighbours(attribute: Attribute, train: Films, judge: Judge, ours: Any, theirs: Any, device: str) -> float:
    if not judge.counted.any():
        return float("nan")
    every = np.unique(np.linspace(0, len(ours) - 1, min(len(ours), NEIGHBOURHOOD)).astype(np.int64))
    truth = truth_of_attribute(attribute, train)[every]
    scores = knn_scores(ours[every], truth, theirs, neighbours=(NEIGHBOURS,), device=device)[0]
    return float(metrics.auroc(judge.truth, scores)[judge.counted].mean())


def _rows(known: Before, scores: Floats, base: dict[str, Any], confidence: float) -> list[dict[str, Any]]:
    truth = known.test.truth
    drawn = metrics.resample_in(truth, scores, known.sampled)
    values = [metrics.auroc(truth, each) for each in (known.scores, scores)]
    each = metrics.difference(values[1] - values[0], drawn.auroc - known.resamples.auroc, confidence)
    counted = known.counted
    macros = [float(value[counted].mean()) if counted.any() else np.nan for value in values]
    macro = metrics.difference(macros[1] - macros[0], drawn.macro_auroc - known.resamples.macro_auroc, confidence)
    rows = [
        base
        | {"label": MACRO, "before": macros[0], "after": macros[1]}
        | _difference(macro, 0, None if counted.any() else NO_MACRO)
        | {"labels": [label for label, here in zip(known.labels, counted, strict=True) if here]}
    ]
    for index, label in enumerate(known.labels):
        reason = None if counted[index] else ONE_CLASS if np.isnan(values[0][index]) else TOO_FEW
        rows.append(
            base
            | {"label": label, "before": float(values[0][index]), "after": float(values[1][index])}
            | _difference(each, index, reason)
        )
    return rows


def _difference(found: metrics.PairedDifference, index: int, reason: str | None) -> dict[str, Any]:
    value, low, high, p = (float(np.atleast_1d(part)[index]) for part in found)
    if reason is not None:
        low = high = p = np.nan
    return {"difference": value, "ci_low": low, "ci_high": high, "p": p, "reason": reason}
