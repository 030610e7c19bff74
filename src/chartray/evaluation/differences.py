"""The rows of comparisons.jsonl: one arm minus another, paired by patient, and what may be said of it."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.rows import NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import METRICS, Scored
from chartray.results.schema import MACRO, Comparison
from chartray.results.verdict import verdict, why_no_claim
from chartray.statistics import metrics
from chartray.statistics.delong import delong_difference
from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap
from chartray.statistics.holm import holm

Floats = NDArray[np.float64]


class Pair(NamedTuple):
    """Two arms on the same images, each one's `Scored` over its seeds and draws, and how their seeds vary.

    Draws of training patients are the same for both, and drawn together. `seeds` are "fixed", "paired" (seed s of a and
    of b are drawn together) or "apart". `truth` (N, C) and `patients` (N,) of the images are for DeLong's test, made
    where one seed and one draw stand behind each arm.
    """

    a: Scored
    b: Scored
    seeds: Literal["fixed", "paired", "apart"] = "fixed"
    truth: Floats | None = None
    patients: NDArray[np.str_] | None = None

    @property
    def levels(self) -> str:
        """What the resamples draw."""
        above = ["draws"] * (self.a.draws > 1) + ["seeds"] * (self.seeds != "fixed")
        return " and ".join(("patients", *above)) if len(above) < 2 else "patients, draws and seeds"

    def resampled(self, metric: str, *, macro: bool, seed: int) -> Floats:
        """Resamples of a minus b, (R, C) or, of the macro, (R,): over patients, draws and seeds."""
        a, b = (
            np.stack(
                [[(one.macro_resampled if macro else one.resampled)[metric] for one in draws] for draws in side.parts]
            )
            for side in (self.a, self.b)
        )  # (S, D, R, ...)
        mean = a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))
        groups = [a.mean(axis=0) - b.mean(axis=0)]
        if self.seeds == "paired":
            groups.append((a - b).mean(axis=1))
        elif self.seeds == "apart":
            groups += [a.mean(axis=1), -b.mean(axis=1)]
        return hierarchical_bootstrap(mean, groups, seed=seed)


def comparison_rows(
    labels: Sequence[str],
    counted: NDArray[np.bool_],
    pair: Pair,
    about: Comparison,
    *,
    seed: int = 0,
) -> list[Comparison]:
    """a minus b, paired by patient (and training subset, and seed): the macro of each metric, then each label.

    `about` says what all rows share. `p_holm` is Holm's p over the labels of these two on this data set in one metric
    that have a p; the macro is a family of its own, so its two p are equal. Other pairs, data sets, fractions and the
    other metric are not counted. The verdict follows p_holm (`results.verdict`).
    """
    rows: list[Comparison] = []
    about = about.replaced(levels=pair.levels, claim=why_no_claim(about.seeds))
    for metric in METRICS:
        of_metric = about.replaced(metric=metric)
        drawn = pair.resampled(metric, macro=True, seed=seed)
        macro = metrics.difference(pair.a.macro[metric] - pair.b.macro[metric], drawn, about.level)
        values = (float(side.macro[metric]) for side in (pair.a, pair.b))
        row = _comparison(of_metric, MACRO, macro, 0, values, None if counted.any() else NO_MACRO)
        rows.append(row.replaced(p_holm=row.p))
        drawn = pair.resampled(metric, macro=False, seed=seed)
        each = metrics.difference(pair.a.values[metric] - pair.b.values[metric], drawn, about.level)
        found = []
        for index, label in enumerate(labels):
            reason = None if counted[index] else TOO_FEW
            if np.isnan(each.value[index]):
                reason = ONE_CLASS
            values = (float(side.values[metric][index]) for side in (pair.a, pair.b))
            found.append(_comparison(of_metric, label, each, index, values, reason))
        adjusted = holm([np.nan if row.p is None else row.p for row in found]).tolist()
        delongs = _delong(pair, len(labels)) if metric == "auroc" else [(None, None)] * len(labels)
        for index, (row, p_holm, both) in enumerate(zip(found, adjusted, delongs, strict=True)):
            of_delong = {"delong_p": both[0], "delong_patient_p": both[1]} if counted[index] else {}
            rows.append(row.replaced(p_holm=p_holm, **of_delong))
    return [row.replaced(verdict=verdict(row.difference, row.p_holm, about.seeds, about.level)) for row in rows]


def _delong(pair: Pair, labels: int) -> list[tuple[float | None, float | None]]:
    """p of each label, images independent and clustered; None where DeLong's test does not apply."""
    if pair.a.members or pair.b.members or pair.truth is None or pair.patients is None:
        return [(None, None)] * labels
    independent, clustered = (
        delong_difference(pair.truth, pair.a.scores, pair.b.scores, patients=names).p.tolist()
        for names in (None, pair.patients)
    )
    return list(zip(independent, clustered, strict=True))


def _comparison(
    about: Comparison,
    label: str,
    found: metrics.PairedDifference,
    index: int,
    values: Iterable[float],
    reason: str | None,
) -> Comparison:
    value, low, high, p = (float(np.atleast_1d(each)[index]) for each in found)
    if reason is not None:
        low = high = p = np.nan
    value_a, value_b = values
    return about.replaced(
        label=label,
        difference=value,
        value_a=value_a,
        value_b=value_b,
        # The correction for few members is not bounded, a difference of two shares is.
        ci_low=float(np.maximum(low, -1)),
        ci_high=float(np.minimum(high, 1)),
        p=p,
        reason=reason,
    )
