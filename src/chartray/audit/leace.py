"""How well disease is predicted once an attribute's directions are removed from the embedding (LEACE).

The directions are found on the training images (`statistics.leace`) and removed from all images; disease and the
attribute are then probed again. After it no linear probe of the training images finds the attribute, so
`attribute_after` of a category is 0.5 by construction. Whether a nonlinear reader still finds it is what
`neighbours_before` and `neighbours_after` say (AUROC of 50 weighted nearest neighbours). A fall of disease AUROC has
two explanations: the probe relied on the attribute, or disease and attribute share a direction for a good reason (age
and a large heart). The coin, which no image shows, gives the cost of removing any one direction.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import AttributeResult, AttributeTruth, Resampling, attribute_result
from chartray.audit.attributes import Attribute, attribute_values, subgroup_codes
from chartray.evaluation.baselines import Features, Frozen
from chartray.evaluation.embed import device_of
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.rows import NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import EvaluationSet
from chartray.results.schema import MACRO, RemovalRow
from chartray.statistics import metrics
from chartray.statistics.knn import knn_scores
from chartray.statistics.leace import fit_leace
from chartray.statistics.patient_bootstrap import PatientBootstrap
from chartray.statistics.probe import fit_probe
from chartray.statistics.ridge import fit_ridge

Floats = NDArray[np.float64]

NEIGHBOURS = 50
# At most this number of training images, evenly spaced, are searched for neighbours: distances grow with their number.
NEIGHBOURHOOD = 20_000
_SCORE_DIGITS = 6
HOLDS_FIXED = "the encoder, both probes and the directions are held fixed; the scored patients vary"


class DiseaseScores(NamedTuple):
    """Disease on the evaluation split before removal: scores (N, C), and their resamples, which removal shares."""

    test: EvaluationSet
    sampled: PatientBootstrap
    scores: Floats
    resampled: metrics.Resamples


class RemovalResult(NamedTuple):
    """Rows, and the disease scores (N, C) after removal."""

    rows: list[RemovalRow]
    scores: Floats


def disease_scores(test: EvaluationSet, scores: Floats, resampling: Resampling) -> DiseaseScores:
    """Scores (N, C) of the whole embedding, resampled."""
    truth, (resamples, seed, _) = test.image_set.truth, resampling
    sampled = metrics.sample(truth, test.image_set.patients, resamples=resamples, seed=seed, macro=test.counted)
    return DiseaseScores(test, sampled, scores, metrics.resample_in(truth, scores, sampled))


def remove_attribute(
    arm: AuditArm,
    frozen: Frozen,
    train: ImageSet,
    validate: ImageSet,
    disease: DiseaseScores,
    found: AttributeResult,
    device: str,
) -> RemovalResult:
    """Removes one attribute from an arm's embedding; `disease` and `found` are of the whole embedding."""
    truth, where = found.truth, device_of(device)
    attribute = truth.attribute
    whole = [frozen.needed(images) for images in (train, validate, disease.test.image_set)]
    eraser = fit_leace(whole[0], _concept(attribute, train))
    x, checked, tested = (eraser.erase(each) for each in whole)
    probe = fit_probe(
        x,
        train.truth,
        checked,
        validate.truth,
        patients=train.patients,
        validation_patients=validate.patients,
        device=where,
    )
    after = attribute_result(truth, _attribute_scores(attribute, train, validate, x, checked, tested, where))
    base = RemovalRow(
        arm=arm.arm,
        run=arm.run,
        dataset=disease.test.dataset,
        attribute=attribute.name,
        split=disease.test.image_set.split,
        resamples=truth.resampling.resamples,
        seed=truth.resampling.seed,
        level_of_interval=truth.resampling.level,
        holds_fixed=HOLDS_FIXED,
        label=MACRO,
        directions=eraser.directions,
        attribute_metric=truth.metrics[0],
        attribute_before=_value(found),
        attribute_after=_value(after),
        neighbours_before=_neighbours(truth, train, whole[0], whole[2], where) if attribute.levels else None,
        neighbours_after=_neighbours(truth, train, x, tested, where) if attribute.levels else None,
    )
    scores = probe.scores(tested)
    return RemovalResult(_rows(disease, scores, base), scores)


def _value(found: AttributeResult) -> float | None:
    """The metric of an attribute, None with fewer than 10 patients."""
    return found.value[found.truth.metrics[0]] if found.truth.counted.any() else None


def _concept(attribute: Attribute, images: ImageSet) -> Floats:
    """(N, K): all levels but the last, or the number; NaN where it is unknown."""
    if not attribute.levels:
        return attribute_values(attribute, images)
    codes = subgroup_codes(attribute, images)
    concept: Floats = (codes[:, None] == np.arange(len(attribute.levels) - 1)).astype(np.float64)
    concept[codes < 0] = np.nan
    return concept


def _attribute_scores(
    attribute: Attribute, train: ImageSet, validate: ImageSet, x: Floats, checked: Floats, tested: Floats, device: str
) -> Floats:
    values, validation = (attribute_values(attribute, images) for images in (train, validate))
    if not attribute.levels:
        return fit_ridge(x, values[:, 0], checked, validation[:, 0]).predict(tested)[:, None]
    probe = fit_probe(
        x,
        values,
        checked,
        validation,
        patients=train.patients,
        validation_patients=validate.patients,
        device=device,
    )
    # The weights that remain are rounding error, which must not order the images.
    return np.round(probe.scores(tested), _SCORE_DIGITS)


def _neighbours(
    truth: AttributeTruth, train: ImageSet, known: Features | Floats, tested: Features | Floats, device: str
) -> float | None:
    if not truth.counted.any():
        return None
    every = np.unique(np.linspace(0, len(known) - 1, min(len(known), NEIGHBOURHOOD)).astype(np.int64))
    values = attribute_values(truth.attribute, train)[every]
    scores = knn_scores(known[every], values, tested, neighbours=(NEIGHBOURS,), device=device)[0]
    return float(metrics.auroc(truth.values, scores)[truth.counted].mean())


def _rows(disease: DiseaseScores, scores: Floats, base: RemovalRow) -> list[RemovalRow]:
    """The macro mean's row, then a row a label."""
    truth, counted, labels = disease.test.image_set.truth, disease.test.counted, disease.test.labels
    drawn = metrics.resample_in(truth, scores, disease.sampled)
    before, after = (metrics.auroc(truth, each) for each in (disease.scores, scores))
    means = [float(value[counted].mean()) if counted.any() else np.nan for value in (before, after)]
    macro = metrics.difference(
        means[1] - means[0], drawn.macro_auroc - disease.resampled.macro_auroc, base.level_of_interval
    )
    rows = [
        _with_difference(
            base.replaced(
                before=means[0],
                after=means[1],
                labels=tuple(label for label, here in zip(labels, counted, strict=True) if here),
            ),
            macro,
            0,
            None if counted.any() else NO_MACRO,
        )
    ]
    each = metrics.difference(after - before, drawn.auroc - disease.resampled.auroc, base.level_of_interval)
    for index, label in enumerate(labels):
        reason = None if counted[index] else ONE_CLASS if np.isnan(before[index]) else TOO_FEW
        row = base.replaced(label=label, before=float(before[index]), after=float(after[index]))
        rows.append(_with_difference(row, each, index, reason))
    return rows


def _with_difference(row: RemovalRow, found: metrics.PairedDifference, index: int, reason: str | None) -> RemovalRow:
    value, low, high, p = (float(np.atleast_1d(part)[index]) for part in found)
    if reason is not None:
        return row.replaced(difference=value, reason=reason)
    return row.replaced(difference=value, ci_low=low, ci_high=high, p=p)
