"""How well disease is predicted once an attribute's directions are removed from the embedding (LEACE).

The directions are found on the training images (`statistics.leace`) and removed from all images; disease and the
attribute are then probed again. After it no linear probe of the training images finds the attribute, so
`attribute_after` of a category is 0.5 by construction. Whether a nonlinear reader still finds it is what
`neighbours_before` and `neighbours_after` say (AUROC of 50 weighted nearest neighbours). A fall of disease AUROC has
two explanations: the probe relied on the attribute, or disease and attribute share a direction for a good reason (age
and a large heart). Removing any directions costs something, so as many random ones are removed too (`RANDOM_DRAWS`
draws): `beyond_random` is what the attribute's directions cost beyond that, and its p is the test.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import AttributeResult, AttributeTruth, Resampling, attribute_result
from chartray.audit.attributes import Attribute, attribute_values, subgroup_codes
from chartray.evaluation.baselines import Features, Frozen, fitted_probe
from chartray.evaluation.embed import device_of
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.rows import NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import EvaluationSet
from chartray.results.audit_rows import RemovalRow
from chartray.results.schema import MACRO
from chartray.statistics import metrics
from chartray.statistics.knn import knn_scores
from chartray.statistics.leace import LeaceEraser, fit_leace, random_erasers
from chartray.statistics.patient_bootstrap import PatientBootstrap
from chartray.statistics.probe import fit_probe
from chartray.statistics.ridge import fit_ridge
from chartray.statistics.variance import SeedVariance, satterthwaite, student_test

Floats = NDArray[np.float64]

NEIGHBOURS = 50
# At most this number of training images, evenly spaced, are searched for neighbours: distances grow with their number.
NEIGHBOURHOOD = 20_000
_SCORE_DIGITS = 5
RANDOM_DRAWS = 5
HOLDS_FIXED = "the encoder, both probes and the directions are held fixed; the scored patients vary"


class DiseaseScores(NamedTuple):
    """Disease on the evaluation split before removal: scores (N, C), and their resamples, which removal shares."""

    test: EvaluationSet
    sampled: PatientBootstrap
    scores: Floats
    resampled: metrics.Resamples


class Erased(NamedTuple):
    """The features of training, validation and scored images after a removal, and disease by new probes of them.

    `scores` (N, C) and their AUROC (C + 1,) and its resamples (R, C + 1), the macro last.
    """

    features: tuple[Floats, Floats, Floats]
    scores: Floats
    auroc: Floats
    resampled: Floats


class Remover:
    """Removes directions from one arm's features, and probes disease again; random ones are removed once a rank."""

    def __init__(
        self, frozen: Frozen, train: ImageSet, validate: ImageSet, disease: DiseaseScores, device: str
    ) -> None:
        self.train, self.validate, self.disease, self.device = train, validate, disease, device_of(device)
        self.whole = [frozen.needed(images) for images in (train, validate, disease.test.image_set)]
        self._random: dict[int, list[Erased]] = {}

    def without(self, eraser: LeaceEraser) -> Erased:
        """After the removal of an eraser's directions."""
        x, checked, tested = (eraser.erase(each) for each in self.whole)
        scores = fitted_probe(x, checked, self.train, self.validate, self.device).scores(tested)
        test, sampled = self.disease.test, self.disease.sampled
        drawn = metrics.resample_in(test.image_set.truth, scores, sampled)
        each = metrics.auroc(test.image_set.truth, scores)
        macro = each[test.counted].mean() if test.counted.any() else np.nan
        resampled = np.column_stack((drawn.auroc, drawn.macro_auroc))
        return Erased((x, checked, tested), scores, np.append(each, macro), resampled)

    def random(self, directions: int, seed: int) -> list[Erased]:
        """After the removal of as many random directions, several times; empty for none."""
        if directions and directions not in self._random:
            erasers = random_erasers(self.whole[0], directions, RANDOM_DRAWS, seed)
            self._random[directions] = [self.without(eraser) for eraser in erasers]
        return self._random.get(directions, [])


class RemovalResult(NamedTuple):
    """Rows, and the disease scores (N, C) after removal."""

    rows: list[RemovalRow]
    scores: Floats


def disease_scores(test: EvaluationSet, scores: Floats, resampling: Resampling) -> DiseaseScores:
    """Scores (N, C) of the whole embedding, resampled."""
    truth, (resamples, seed, _) = test.image_set.truth, resampling
    sampled = metrics.sample(truth, test.image_set.patients, resamples=resamples, seed=seed, macro=test.counted)
    return DiseaseScores(test, sampled, scores, metrics.resample_in(truth, scores, sampled))


def remove_attribute(arm: AuditArm, remover: Remover, found: AttributeResult) -> RemovalResult:
    """Removes one attribute from an arm's embedding; `found` is of the whole embedding."""
    truth, disease, train = found.truth, remover.disease, remover.train
    attribute, metric = truth.attribute, truth.metrics[0]
    eraser = fit_leace(remover.whole[0], _concept(attribute, train))
    erased = remover.without(eraser)
    random = remover.random(eraser.directions, truth.resampling.seed)
    after, *others = (
        attribute_result(truth, _attribute_scores(attribute, remover, one.features)) for one in (erased, *random)
    )
    base = RemovalRow(
        arm=arm.arm,
        run=arm.run,
        run_seed=arm.run_seed,
        dataset=disease.test.dataset,
        attribute=attribute.name,
        split=disease.test.image_set.split,
        resamples=truth.resampling.resamples,
        seed=truth.resampling.seed,
        level_of_interval=truth.resampling.level,
        holds_fixed=HOLDS_FIXED,
        label=MACRO,
        directions=eraser.directions,
        random_draws=len(random),
        attribute_metric=metric,
        attribute_before=_value(found),
        attribute_after=_value(after),
        neighbours_before=_neighbours(truth, remover, remover.whole) if attribute.levels else None,
        neighbours_after=_neighbours(truth, remover, erased.features) if attribute.levels else None,
    )
    if others and truth.counted.any():
        beyond = _beyond(
            np.array([after.value[metric]]),
            after.resampled[metric][:, None],
            [(np.array([each.value[metric]]), each.resampled[metric][:, None]) for each in others],
            len(np.unique(disease.test.image_set.patients)),
            base.level_of_interval,
        )
        base = base.replaced(
            attribute_random=after.value[metric] - float(beyond.value[0]),
            attribute_beyond=float(beyond.value[0]),
            attribute_beyond_low=float(beyond.low[0]),
            attribute_beyond_high=float(beyond.high[0]),
        )
    return RemovalResult(_rows(disease, erased, random, base), erased.scores)


def _beyond(
    value: Floats, resampled: Floats, random: list[tuple[Floats, Floats]], patients: int, level: float
) -> metrics.PairedDifference:
    """A value (C,) and its resamples (R, C) minus the mean of random draws, by t; patients and draws vary."""
    values, drawn = (np.stack(each) for each in zip(*random, strict=True))
    difference = value - values.mean(axis=0)
    of_patients = np.var(resampled - drawn.mean(axis=0), axis=0, ddof=1)
    of_draws = SeedVariance((values.var(axis=0, ddof=1) / len(values))[None], np.array([[len(values) - 1.0]]))
    freedom = satterthwaite(of_patients, np.full(len(value), max(patients - 1.0, 1.0)), of_draws)
    p, half = student_test(difference, np.sqrt(of_patients + of_draws.variance), freedom, level)
    return metrics.PairedDifference(difference, difference - half, difference + half, p)


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


def _attribute_scores(attribute: Attribute, remover: Remover, features: tuple[Floats, Floats, Floats]) -> Floats:
    x, checked, tested = features
    train, validate = remover.train, remover.validate
    values, validation = (attribute_values(attribute, images) for images in (train, validate))
    if not attribute.levels:
        ridge = fit_ridge(x, values[:, 0], checked, validation[:, 0], patients=train.patients)
        return ridge.predict(tested)[:, None]
    probe = fit_probe(
        x,
        values,
        checked,
        validation,
        patients=train.patients,
        validation_patients=validate.patients,
        device=remover.device,
    )
    # The weights that remain are rounding and what the solver leaves (1e-5), which must not order the images.
    return np.round(probe.scores(tested), _SCORE_DIGITS)


def _neighbours(truth: AttributeTruth, remover: Remover, features: Sequence[Features | Floats]) -> float | None:
    known, _, tested = features
    if not truth.counted.any():
        return None
    every = np.unique(np.linspace(0, len(known) - 1, min(len(known), NEIGHBOURHOOD)).astype(np.int64))
    values = attribute_values(truth.attribute, remover.train)[every]
    scores = knn_scores(known[every], values, tested, neighbours=(NEIGHBOURS,), device=remover.device)[0]
    return float(metrics.auroc(truth.values, scores)[truth.counted].mean())


def _rows(disease: DiseaseScores, erased: Erased, random: list[Erased], base: RemovalRow) -> list[RemovalRow]:
    """The macro mean's row, then a row a label."""
    truth, counted, labels = disease.test.image_set.truth, disease.test.counted, disease.test.labels
    values = metrics.auroc(truth, disease.scores)
    before = np.append(values, values[counted].mean() if counted.any() else np.nan)
    drawn = np.column_stack((disease.resampled.auroc, disease.resampled.macro_auroc))
    found = metrics.difference(erased.auroc - before, erased.resampled - drawn, base.level_of_interval)
    beyond = None
    if random:
        others = [(each.auroc, each.resampled) for each in random]
        people = len(np.unique(disease.test.image_set.patients))
        beyond = _beyond(erased.auroc, erased.resampled, others, people, base.level_of_interval)
    every = tuple(label for label, here in zip(labels, counted, strict=True) if here)
    rows = [base.replaced(labels=every), *(base.replaced(label=label, labels=None) for label in labels)]
    reasons = [None if counted.any() else NO_MACRO]
    reasons += [
        None if here else ONE_CLASS if np.isnan(value) else TOO_FEW for here, value in zip(counted, values, strict=True)
    ]
    order = [len(labels), *range(len(labels))]
    return [
        _with_differences(row, before, erased.auroc, found, beyond, index, reason)
        for row, index, reason in zip(rows, order, reasons, strict=True)
    ]


def _with_differences(
    row: RemovalRow,
    before: Floats,
    after: Floats,
    found: metrics.PairedDifference,
    beyond: metrics.PairedDifference | None,
    index: int,
    reason: str | None,
) -> RemovalRow:
    row = row.replaced(before=float(before[index]), after=float(after[index]), difference=float(found.value[index]))
    if reason is not None:
        return row.replaced(reason=reason)
    row = row.replaced(ci_low=float(found.low[index]), ci_high=float(found.high[index]))
    if beyond is None:
        return row
    return row.replaced(
        random_after=float(after[index] - beyond.value[index]),
        beyond_random=float(beyond.value[index]),
        beyond_low=float(beyond.low[index]),
        beyond_high=float(beyond.high[index]),
        p=float(beyond.p[index]),
    )
