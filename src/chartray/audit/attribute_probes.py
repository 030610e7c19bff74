"""How well an attribute is read from frozen features of the film: linear probes of levels, ridge regression of numbers.

Probes are fitted on the training films, their strength is chosen on the validation films, and they are scored on the
films under test. A film of which the attribute is not known is left out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attributes import Attribute, truth_of_attribute, why_not_held
from chartray.evaluation.baselines import Frozen
from chartray.evaluation.embed import device_of
from chartray.evaluation.films import Films
from chartray.evaluation.rows import ONE_CLASS, TOO_FEW
from chartray.statistics import metrics
from chartray.statistics.patient_bootstrap import PatientBootstrap, patient_codes, patient_counts
from chartray.statistics.probe import fit_probe
from chartray.statistics.ridge import fit_ridge

Floats = NDArray[np.float64]

SUPPRESSED = f"fewer than {metrics.MINIMUM_PATIENTS} patients with or without it: suppressed"
ONE_NUMBER = "one number in all films scored: R2 is of how numbers differ"
HOLDS_FIXED = "the encoder and the probe are held fixed; the patients of the scored films vary"


class Place(NamedTuple):
    """The films that are scored in one store, and their ids."""

    dataset: str
    films: Films
    image_ids: list[str]


class Judge(NamedTuple):
    """The truth of an attribute on one place (N, K), the targets its macro counts (K,), the draws all arms share."""

    attribute: Attribute
    place: Place
    truth: Floats
    counted: NDArray[np.bool_]
    sampled: PatientBootstrap

    @property
    def metrics(self) -> tuple[str, ...]:
        """What readability is measured in, the first one compared."""
        return ("auroc",) if self.attribute.levels else ("r2", "mae")


class Reading(NamedTuple):
    """What was read: scores (N, K); by metric the value and resamples (R,) over all levels, and of each (R, K)."""

    judge: Judge
    scores: Floats
    value: dict[str, float]
    values: dict[str, Floats]
    resampled: dict[str, Floats]
    each: dict[str, Floats]

    def reason(self, metric: str) -> str | None:
        """Why the metric has no value, or none that may be compared."""
        if not self.judge.counted.any():
            return TOO_FEW
        return ONE_NUMBER if metric == "r2" and np.isnan(self.value[metric]) else None


def judge_of(attribute: Attribute, place: Place, *, resamples: int, seed: int) -> Judge:
    """The draws of patients depend on the seed and on whose attribute is known, never on the arm."""
    truth = truth_of_attribute(attribute, place.films)
    patients = place.films.patients
    if attribute.levels:
        counted = metrics.eligible(truth, patients)
        return Judge(
            attribute,
            place,
            truth,
            counted,
            metrics.sample(truth, patients, resamples=resamples, seed=seed, macro=counted),
        )
    enough = len(np.unique(patients[np.isfinite(truth[:, 0])])) >= metrics.MINIMUM_PATIENTS
    return Judge(attribute, place, truth, np.array([enough]), every_draw(patients, resamples, seed))


def every_draw(patients: NDArray[np.str_], resamples: int, seed: int) -> PatientBootstrap:
    """The first draws of the stream, whatever classes they hold: for what is made of sums over films."""
    codes = patient_codes(patients, len(patients))
    draws = patient_counts(int(codes.max()) + 1, resamples, seed)
    rows, always = np.arange(len(draws)), np.array([True])
    return PatientBootstrap(codes, always, always, draws, rows[:, None], rows)


def read(
    arm: AuditArm, attributes: Sequence[Attribute], train: Films, validate: Films, places: Sequence[Place], device: str
) -> dict[tuple[str, str], Floats | str]:
    """Scores (N, K) of each attribute on each place by (attribute, data set), or why there are none.

    Attributes that are read from the same features are solved together.
    """
    found: dict[tuple[str, str], Floats | str] = {}
    together: dict[int, tuple[Frozen, list[Attribute]]] = {}
    for attribute in attributes:
        features = arm.features(attribute)
        if isinstance(features, str):
            found |= {(attribute.name, place.dataset): features for place in places}
        else:
            together.setdefault(id(features), (features, []))[1].append(attribute)
    for features, members in together.values():
        held = [(place, features.of(place.films)) for place in places]
        for attribute, columns in _fitted(features, members, train, validate, device):
            for place, values in held:
                key = (attribute.name, place.dataset)
                if reason := why_not_held(attribute, place.films.store):
                    found[key] = reason
                elif values is None:
                    found[key] = f"the store lacks a variable of {arm.chart}"
                else:
                    found[key] = columns(values)
    return found


def _fitted(
    features: Frozen, attributes: Sequence[Attribute], train: Films, validate: Films, device: str
) -> list[tuple[Attribute, Any]]:
    """For each attribute the function from features (N, D) to scores (N, K)."""
    x, checked = features.needed(train), features.needed(validate)
    fitted: list[tuple[Attribute, Any]] = []
    categories = [attribute for attribute in attributes if attribute.levels]
    if categories:
        truth, validation = (
            np.hstack([truth_of_attribute(attribute, films) for attribute in categories]) for films in (train, validate)
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
            numbers, known = (truth_of_attribute(attribute, films)[:, 0] for films in (train, validate))
            ridge = fit_ridge(x, numbers, checked, known)
            fitted.append((attribute, lambda values, ridge=ridge: ridge.predict(values)[:, None]))
    return fitted


def _columns(scores: Any, first: int, last: int) -> Any:
    return lambda values: scores(values)[:, first:last]


def reading_of(judge: Judge, scores: Floats) -> Reading:
    """Scores against the truth: values and resamples."""
    if judge.attribute.levels:
        values = metrics.auroc(judge.truth, scores)
        drawn = metrics.resample_in(judge.truth, scores, judge.sampled)
        macro = float(values[judge.counted].mean()) if judge.counted.any() else np.nan
        return Reading(
            judge,
            scores,
            {"auroc": macro},
            {"auroc": values},
            {"auroc": drawn.macro_auroc},
            {"auroc": drawn.auroc},
        )
    known = np.isfinite(judge.truth[:, 0])
    centre = float(judge.truth[known, 0].mean()) if known.any() else 0.0
    y = np.where(known, judge.truth[:, 0] - centre, 0.0)
    error = np.where(known, judge.truth[:, 0] - scores[:, 0], 0.0)
    sums = np.column_stack([known, y, y**2, error**2, np.abs(error)]).astype(np.float64)
    value = _of_sums(sums.sum(axis=0, keepdims=True))
    drawn_numbers = _of_sums(judge.sampled.totals(sums))
    return Reading(judge, scores, {name: float(each[0]) for name, each in value.items()}, {}, drawn_numbers, {})


def _of_sums(sums: Floats) -> dict[str, Floats]:
    """(R, 5) of n, y, y^2, squared and absolute errors -> R2 and mean absolute error (R,); R2 of one number is NaN."""
    n, total, squares, squared, absolute = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squares - total**2 / n
        spread = np.where(spread > 1e-12 * squares, spread, np.nan)  # less is rounding
        return {"r2": 1 - squared / spread, "mae": absolute / n}


def rows_of(arm: AuditArm, reading: Reading, common: dict[str, Any], confidence: float) -> list[dict[str, Any]]:
    """One row a metric, and one a level where there are more than two; `level` null is the macro over them."""
    judge, attribute = reading.judge, reading.judge.attribute
    base = _base(arm, judge, common)
    known = np.isfinite(judge.truth).any(axis=1)
    counts = {"n": int(known.sum()), "n_patients": len(np.unique(judge.place.films.patients[known]))}
    rows = []
    for metric in judge.metrics:
        reason = reading.reason(metric)
        drawn = reading.resampled[metric]
        drawn = drawn[~np.isnan(drawn)]  # draws of one number have no R2
        low, high = metrics.percentiles(drawn, confidence) if reason is None and len(drawn) else (np.nan, np.nan)
        interval = (float(low), float(high))
        rows.append(
            base
            | {"level": None, "metric": metric, "value": reading.value[metric] if reason != TOO_FEW else np.nan}
            | {"ci_low": interval[0], "ci_high": interval[1]}
            | counts
            | {
                "levels": [str(t) for t, c in zip(attribute.targets, judge.counted, strict=True) if c and t],
                "reason": reason,
            }
        )
        if len(attribute.targets) < 2:
            continue
        lows, highs = metrics.percentiles(reading.each[metric], confidence)
        for index, level in enumerate(attribute.targets):
            truth = judge.truth[:, index]
            positive = truth == 1
            reason = ONE_CLASS if np.isnan(reading.values[metric][index]) else None
            reason = reason or (None if judge.counted[index] else SUPPRESSED)
            rows.append(
                base
                | {"level": level, "metric": metric}
                | {"value": float(reading.values[metric][index]) if reason is None else np.nan}
                | {"ci_low": float(lows[index]) if reason is None else np.nan}
                | {"ci_high": float(highs[index]) if reason is None else np.nan}
                | counts
                | {"n_level": int(positive.sum())}
                | {"n_level_patients": len(np.unique(judge.place.films.patients[positive])), "reason": reason}
            )
    return rows


def unread_row(arm: AuditArm, judge: Judge, reason: str, common: dict[str, Any]) -> dict[str, Any]:
    """The row of an attribute that an arm cannot be asked about."""
    nothing = dict.fromkeys(("value", "ci_low", "ci_high"), np.nan)
    counts = {"n": 0, "n_patients": 0, "reason": reason}
    return _base(arm, judge, common) | {"level": None, "metric": judge.metrics[0]} | nothing | counts


def _base(arm: AuditArm, judge: Judge, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "part": "readability",
        "run": arm.run,
        "chart": arm.chart,
        "control": arm.control,
        "dataset": judge.place.dataset,
        "attribute": judge.attribute.name,
        "unit": judge.attribute.unit,
        "known_at_film": judge.attribute.known_at_film,
        "holds_fixed": HOLDS_FIXED,
    } | common
