"""The rows of comparisons.jsonl: one arm minus another, paired by patient, and what may be said of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.rows import NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import METRICS, Scored
from chartray.results.schema import MACRO, Comparison
from chartray.results.verdict import verdict, why_no_claim
from chartray.statistics.arms import ArmDifference, difference_of_measured
from chartray.statistics.delong import delong_difference
from chartray.statistics.interaction import DifferenceInSet
from chartray.statistics.variance import MeasuredArm

Floats = NDArray[np.float64]
# What one arm reached on one test set: K seeds of D draws of training patients each.
Parts = Sequence[Sequence[Scored]]
# What rows say of the inference.
_INFERRED = ("patient_se", "seed_se", "draw_se", "degrees_of_freedom", "seed_correlation")


class Pair(NamedTuple):
    """Two arms on the same images, N of them: `truth` (N, C), `patients` (N,).

    Draws of training patients are the same for both. `others` are more arms whose seeds vary as much, as
    `difference_of_arms` has them; `fixed_b`: no seed enters b; `alone_b`: seeds of b vary otherwise than theirs.
    """

    a: Parts
    b: Parts
    truth: Floats
    patients: NDArray[np.str_]
    others: Sequence[Parts] = ()
    pair_seeds: bool = False
    fixed_b: bool = False
    alone_b: bool = False

    @property
    def seeds(self) -> int:
        """How many seeds stand behind each arm that seeds enter."""
        return len(self.a) if self.fixed_b else min(len(self.a), len(self.b))

    @property
    def levels(self) -> str:
        """What varies in the interval."""
        above = ["draws"] * (len(self.a[0]) > 1) + ["seeds"] * (self.seeds > 1)
        return " and ".join(("patients", *above)) if len(above) < 2 else "patients, draws and seeds"

    def difference(self, metric: str, counted: NDArray[np.bool_], level: float) -> ArmDifference:
        """The inference on one metric; labels that are not `counted` have none."""
        one = self.measured(metric, counted)
        return difference_of_measured(
            one.a, one.b, patients=one.patients, level=level, others=one.others, pair_seeds=self.pair_seeds
        )

    def measured(self, metric: str, counted: NDArray[np.bool_]) -> DifferenceInSet:
        """One metric of both as `statistics` takes them: the labels, then the macro; NaN where not `counted`."""
        return DifferenceInSet(
            _measured(self.a, metric, counted),
            _measured(self.b, metric, counted)._replace(fixed=self.fixed_b, alone=self.alone_b),
            patients=len(np.unique(self.patients)),
            others=[_values(one, metric, counted).mean(axis=1) for one in self.others],
        )

    def by_seed(self, metric: str) -> Floats:
        """The differences of seeds at the same places, (K, C + 1), as many as the shorter arm has."""
        every = np.ones(len(self.a[0][0].values[metric]), dtype=bool)
        a, b = (_values(one, metric, every).mean(axis=1) for one in (self.a, self.b))
        return np.asarray(a - b if self.fixed_b else a[: len(b)] - b[: len(a)])


def _measured(parts: Parts, metric: str, counted: NDArray[np.bool_]) -> MeasuredArm:
    drawn = [
        [np.column_stack((draw.resampled[metric], draw.macro_resampled[metric])) for draw in draws] for draws in parts
    ]
    return MeasuredArm(_values(parts, metric, counted), np.where(np.append(counted, True), drawn, np.nan))


def _values(parts: Parts, metric: str, counted: NDArray[np.bool_]) -> Floats:
    found = [[np.append(draw.values[metric], draw.macro[metric]) for draw in draws] for draws in parts]
    return np.where(np.append(counted, True), found, np.nan)


def comparison_rows(
    labels: Sequence[str], counted: NDArray[np.bool_], pair: Pair, about: Comparison
) -> list[Comparison]:
    """a minus b: the macro of each metric, then each label.

    `about` says what all rows share. `p_holm` is Holm's p over the labels of these two on this data set in one metric
    that have a p; the macro is a family of its own, so its two p are equal. Other pairs, data sets, fractions and the
    other metric are not counted. The verdict follows p_holm (`results.verdict`).
    """
    rows: list[Comparison] = []
    about = about.replaced(levels=pair.levels, seeds=pair.seeds, claim=why_no_claim(pair.seeds))
    every = np.ones(len(labels), dtype=bool)
    of_macro = tuple(np.array(labels)[counted].tolist())
    for metric in METRICS:
        found = pair.difference(metric, counted, about.level)
        values = [_values(one, metric, every).mean(axis=(0, 1)).tolist() for one in (pair.a, pair.b)]
        delongs = _delong(pair) if metric == "auroc" else None
        for label, place in ((MACRO, -1), *((label, place) for place, label in enumerate(labels))):
            reason = _reason(place, counted, values[0][place])
            a, b = values[0][place], values[1][place]
            row = about.replaced(
                label=label,
                labels=of_macro if label == MACRO else None,
                metric=metric,
                difference=a - b,
                value_a=a,
                value_b=b,
                reason=reason,
                **_said(found, place),
            )
            if delongs is not None and label != MACRO and reason is None:
                row = row.replaced(delong_p=delongs[place])
            rows.append(row.replaced(verdict=verdict(row.difference, row.p_holm, row.seeds, row.level)))
    return rows


def _reason(place: int, counted: NDArray[np.bool_], value: float) -> str | None:
    if place < 0:
        return None if counted.any() else NO_MACRO
    return ONE_CLASS if math.isnan(value) else None if counted[place] else TOO_FEW


def _said(found: ArmDifference, place: int) -> dict[str, float]:
    ends = {"ci_low": "low", "ci_high": "high", "p": "p", "p_holm": "p_holm"} | {name: name for name in _INFERRED}
    return {field: float(getattr(found, name)[place]) for field, name in ends.items()}


def _delong(pair: Pair) -> list[float] | None:
    """p of each label, images clustered by patient; None where DeLong's test does not apply, over seeds and draws."""
    if any(len(one) > 1 or len(one[0]) > 1 for one in (pair.a, pair.b)):
        return None
    a, b = (one[0][0].scores for one in (pair.a, pair.b))
    return list(delong_difference(pair.truth, a, b, patients=pair.patients).p.tolist())
