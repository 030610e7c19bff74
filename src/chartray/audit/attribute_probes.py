"""How well an attribute can be predicted from frozen features of the image: logistic probes, ridge for numbers.

Probes are fitted on the training images, their penalty is chosen on the validation images, and they are scored on the
evaluation split. Images of which the attribute is unknown are left out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attributes import Attribute, attribute_values, why_not_available
from chartray.audit.families import CHANCE
from chartray.evaluation.baselines import Features, Frozen
from chartray.evaluation.embed import device_of
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.rows import ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import EvaluationSet
from chartray.results.audit_rows import AttributeProbe
from chartray.statistics import metrics
from chartray.statistics.intervals import Bounds, LabelPatients, interval, of_labels
from chartray.statistics.patient_bootstrap import PatientBootstrap, patient_codes, patient_counts
from chartray.statistics.probe import fit_probe
from chartray.statistics.ridge import fit_ridge
from chartray.statistics.variance import student_test

Floats = NDArray[np.float64]

SUPPRESSED = f"fewer than {metrics.MINIMUM_PATIENTS} patients with or without it: suppressed"
ONE_NUMBER = "all scored images have the same value, so R2 is undefined"
HOLDS_FIXED = "the encoder and the probe are held fixed; the scored patients vary"


class Resampling(NamedTuple):
    """How intervals are made: resamples of the patients, their seed, and the coverage."""

    resamples: int
    seed: int
    level: float = 0.95


class AttributeTruth(NamedTuple):
    """An attribute on one evaluation split: `values` (N, K), `counted` (K,) the targets of its macro mean.

    `sampled` are the resamples, the same for all arms.
    """

    attribute: Attribute
    test: EvaluationSet
    values: Floats
    counted: NDArray[np.bool_]
    sampled: PatientBootstrap
    resampling: Resampling

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of a probe of it; the first one is compared between arms."""
        return ("auroc",) if self.attribute.levels else ("r2", "mae")


class AttributeResult(NamedTuple):
    """How well one arm predicts an attribute: scores (N, K), and by metric the value and its resamples (R,).

    `by_level` (K,) and `by_level_resampled` (R, K) are those of each level of a category.
    """

    truth: AttributeTruth
    scores: Floats
    value: dict[str, float]
    resampled: dict[str, Floats]
    by_level: dict[str, Floats]
    by_level_resampled: dict[str, Floats]

    def reason(self, metric: str) -> str | None:
        """Why the metric has no value, or none that may be compared."""
        if not self.truth.counted.any():
            return TOO_FEW
        return ONE_NUMBER if metric == "r2" and np.isnan(self.value[metric]) else None


def attribute_truth(attribute: Attribute, test: EvaluationSet, resampling: Resampling) -> AttributeTruth:
    """The resamples depend on the seed and on which patients have a known attribute, never on the arm."""
    values, patients = attribute_values(attribute, test.image_set), test.image_set.patients
    resamples, seed, _ = resampling
    if attribute.levels:
        counted = metrics.eligible(values, patients)
        sampled = metrics.sample(values, patients, resamples=resamples, seed=seed, macro=counted)
    else:
        enough = len(np.unique(patients[np.isfinite(values[:, 0])])) >= metrics.MINIMUM_PATIENTS
        counted, sampled = np.array([enough]), first_resamples(patients, resampling)
    return AttributeTruth(attribute, test, values, counted, sampled, resampling)


def first_resamples(patients: NDArray[np.str_], resampling: Resampling) -> PatientBootstrap:
    """The first draws of the stream, whatever classes they hold: for metrics that are made of sums over images."""
    codes = patient_codes(patients, len(patients))
    draws = patient_counts(int(codes.max()) + 1, resampling.resamples, resampling.seed)
    rows, always = np.arange(len(draws)), np.array([True])
    return PatientBootstrap(codes, always, always, draws, rows[:, None], rows)


def predict_attributes(
    arm: AuditArm,
    attributes: Sequence[Attribute],
    train: ImageSet,
    validate: ImageSet,
    tests: Sequence[EvaluationSet],
    device: str,
) -> dict[tuple[str, str], Floats | str]:
    """Scores (N, K) of each attribute on each split by (attribute, data set), or why there are none.

    Attributes that are predicted from the same features are fitted together.
    """
    found: dict[tuple[str, str], Floats | str] = {}
    together: dict[int, tuple[Frozen, list[Attribute]]] = {}
    for attribute in attributes:
        features = arm.features(attribute)
        if isinstance(features, str):
            found |= {(attribute.name, test.dataset): features for test in tests}
        else:
            together.setdefault(id(features), (features, []))[1].append(attribute)
    for features, members in together.values():
        available = [(test, features.of(test.image_set)) for test in tests]
        for attribute, predict in _fitted(features, members, train, validate, device):
            for test, x in available:
                key = (attribute.name, test.dataset)
                if reason := why_not_available(attribute, test.image_set.store):
                    found[key] = reason
                elif x is None:
                    found[key] = f"the store lacks a variable of {arm.arm.chart}"
                else:
                    found[key] = predict(x)
    return found


def _fitted(
    features: Frozen, attributes: Sequence[Attribute], train: ImageSet, validate: ImageSet, device: str
) -> list[tuple[Attribute, Callable[[Features], Floats]]]:
    """For each attribute the function from features (N, D) to scores (N, K)."""
    x, checked = features.needed(train), features.needed(validate)
    fitted: list[tuple[Attribute, Callable[[Features], Floats]]] = []
    categories = [attribute for attribute in attributes if attribute.levels]
    if categories:
        truth, validation = (
            np.hstack([attribute_values(attribute, images) for attribute in categories]) for images in (train, validate)
        )
        probe = fit_probe(
            x,
            truth,
            checked,
            validation,
            patients=train.patients,
            validation_patients=validate.patients,
            device=device_of(device),
        )
        first = 0
        for attribute in categories:
            last = first + len(attribute.targets)
            fitted.append((attribute, _columns(probe.scores, first, last)))
            first = last
    for attribute in attributes:
        if not attribute.levels:
            numbers, known = (attribute_values(attribute, images)[:, 0] for images in (train, validate))
            ridge = fit_ridge(x, numbers, checked, known, patients=train.patients)
            fitted.append((attribute, _column(ridge.predict)))
    return fitted


def _columns(scores: Callable[[Features], Floats], first: int, last: int) -> Callable[[Features], Floats]:
    return lambda x: scores(x)[:, first:last]


def _column(predict: Callable[[Features], Floats]) -> Callable[[Features], Floats]:
    return lambda x: predict(x)[:, None]


def attribute_result(truth: AttributeTruth, scores: Floats) -> AttributeResult:
    """Values and resamples of scores (N, K)."""
    known_values = truth.values
    if truth.attribute.levels:
        values = metrics.auroc(known_values, scores)
        drawn = metrics.resample_in(known_values, scores, truth.sampled)
        macro = float(values[truth.counted].mean()) if truth.counted.any() else np.nan
        return AttributeResult(
            truth, scores, {"auroc": macro}, {"auroc": drawn.macro_auroc}, {"auroc": values}, {"auroc": drawn.auroc}
        )
    known = np.isfinite(known_values[:, 0])
    centre = float(known_values[known, 0].mean()) if known.any() else 0.0
    y = np.where(known, known_values[:, 0] - centre, 0.0)
    error = np.where(known, known_values[:, 0] - scores[:, 0], 0.0)
    sums = np.column_stack([known, y, y**2, error**2, np.abs(error)]).astype(np.float64)
    value = _of_sums(sums.sum(axis=0, keepdims=True))
    resampled = _of_sums(truth.sampled.totals(sums))
    return AttributeResult(truth, scores, {name: float(each[0]) for name, each in value.items()}, resampled, {}, {})


def _of_sums(sums: Floats) -> dict[str, Floats]:
    """(R, 5) of n, y, y^2, squared and absolute errors -> R2 and mean absolute error (R,); R2 of one number is NaN."""
    n, total, squares, squared, absolute = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squares - total**2 / n
        spread = np.where(spread > 1e-12 * squares, spread, np.nan)  # less is rounding
        return {"r2": 1 - squared / spread, "mae": absolute / n}


def probe_rows(arm: AuditArm, result: AttributeResult) -> list[AttributeProbe]:
    """One row a metric, and one a level where there are more than two; `level` None is the macro mean over levels."""
    truth, attribute = result.truth, result.truth.attribute
    patients, level_of_interval = truth.test.image_set.patients, truth.resampling.level
    known = np.isfinite(truth.values).any(axis=1)
    base = _row(arm, truth).replaced(n=int(known.sum()), n_patients=len(np.unique(patients[known])))
    counted = tuple(name for name, here in zip(attribute.targets, truth.counted, strict=True) if here and name)
    rows: list[AttributeProbe] = []
    for metric in truth.metrics:
        reason = result.reason(metric)
        each = _level_bounds(result, level_of_interval) if metric == "auroc" else {}
        drawn = result.resampled[metric]
        drawn = drawn[~np.isnan(drawn)]  # resamples of one number have no R2
        low, high = None, None
        if reason is None and each:
            low, high = of_labels(
                list(each.values()), np.array([result.value[metric]]), drawn[None], level_of_interval
            )[:2]
        elif reason is None and len(drawn):
            low, high = map(float, metrics.percentiles(drawn, level_of_interval))
        rows.append(
            base.replaced(
                metric=metric,
                value=None if reason == TOO_FEW else result.value[metric],
                ci_low=low,
                ci_high=high,
                levels=counted,
                reason=reason,
            )
        )
        if reason is None and metric in CHANCE and len(drawn) > 1:
            error = float(drawn.std(ddof=1))
            away = np.array([result.value[metric] - CHANCE[metric]])
            p = student_test(away, np.array([error]), np.array([rows[-1].n_patients - 1.0]), level_of_interval)[0]
            rows[-1] = rows[-1].replaced(p=float(p[0]), standard_error=error)
        if len(attribute.targets) < 2:
            continue
        for index, level in enumerate(attribute.targets):
            positive = truth.values[:, index] == 1
            value = float(result.by_level[metric][index])
            reason = ONE_CLASS if np.isnan(value) else None if truth.counted[index] else SUPPRESSED
            shown = reason is None
            rows.append(
                base.replaced(
                    level=level,
                    metric=metric,
                    value=value if shown else None,
                    ci_low=each[index].low if shown else None,
                    ci_high=each[index].high if shown else None,
                    n_level=int(positive.sum()),
                    n_level_patients=len(np.unique(patients[positive])),
                    reason=reason,
                )
            )
    return rows


def _level_bounds(result: AttributeResult, level: float) -> dict[int, Bounds]:
    """The interval of the AUROC of each level that has one."""
    truth = result.truth
    positive, negative = metrics.patients_per_class(truth.values, truth.test.image_set.patients)
    return {
        index: interval(
            "auroc",
            result.by_level["auroc"][[index]],
            result.by_level_resampled["auroc"][None, :, index],
            LabelPatients(int(positive[index]), int(negative[index]), 0, 0),
            level,
        )
        for index in np.flatnonzero(truth.counted).tolist()
    }


def missing_row(arm: AuditArm, truth: AttributeTruth, reason: str) -> AttributeProbe:
    """The row of an attribute that cannot be predicted from an arm."""
    return _row(arm, truth).replaced(reason=reason)


def _row(arm: AuditArm, truth: AttributeTruth) -> AttributeProbe:
    return AttributeProbe(
        arm=arm.arm,
        run=arm.run,
        run_seed=arm.run_seed,
        dataset=truth.test.dataset,
        attribute=truth.attribute.name,
        unit=truth.attribute.unit,
        known_at_film=truth.attribute.known_at_film,
        split=truth.test.image_set.split,
        resamples=truth.resampling.resamples,
        seed=truth.resampling.seed,
        level_of_interval=truth.resampling.level,
        holds_fixed=HOLDS_FIXED,
        metric=truth.metrics[0],
        without=arm.without(truth.attribute),
        n=0,
        n_patients=0,
    )
