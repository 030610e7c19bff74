"""The rows of comparisons.jsonl: one arm minus another, paired by patient, and what may be said of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.rows import NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import METRICS, Scored
from chartray.results.schema import MACRO, Comparison
from chartray.results.verdict import verdict, why_no_claim
from chartray.statistics import metrics
from chartray.statistics.arms import ArmDifference
from chartray.statistics.delong import delong_difference
from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap
from chartray.statistics.holm import holm

Floats = NDArray[np.float64]
# What rows say of the inference over seeds.
_OF_SEEDS = ("patient_se", "seed_se", "degrees_of_freedom", "seed_correlation")


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
    over_seeds: Mapping[str, ArmDifference] | None = None,
) -> list[Comparison]:
    """a minus b: the macro of each metric, then each label.

    `about` says what all rows share. Interval and p are those of `over_seeds` by metric, where both arms have two seeds
    or more (`statistics.arms`), else of the pair's resamples. `p_holm` is Holm's p over the labels of these two on this
    data set in one metric that have a p; the macro is a family of its own, so its two p are equal. Other pairs, data
    sets, fractions and the other metric are not counted. The verdict follows p_holm (`results.verdict`).
    """
    rows: list[Comparison] = []
    about = about.replaced(levels=pair.levels, claim=why_no_claim(about.seeds))
    for metric in METRICS:
        of_metric = about.replaced(metric=metric)
        each, macro = _differences(pair, metric, about.level, seed, None if over_seeds is None else over_seeds[metric])
        values = (float(side.macro[metric]) for side in (pair.a, pair.b))
        rows.append(_comparison(of_metric, MACRO, macro, 0, values, None if counted.any() else NO_MACRO))
        delongs = _delong(pair, len(labels)) if metric == "auroc" else [None] * len(labels)
        for index, label in enumerate(labels):
            reason = None if counted[index] else TOO_FEW
            if np.isnan(each.value[index]):
                reason = ONE_CLASS
            values = (float(side.values[metric][index]) for side in (pair.a, pair.b))
            row = _comparison(of_metric, label, each, index, values, reason)
            if counted[index]:
                row = row.replaced(delong_p=delongs[index])
            rows.append(row)
        rows[-len(labels) - 1 :] = _corrected(rows[-len(labels) - 1 :])
        if over_seeds is not None:
            found, place = over_seeds[metric], {label: index for index, label in enumerate([*labels, MACRO])}
            rows[-len(labels) - 1 :] = [
                row.replaced(**{name: float(getattr(found, name)[place[row.label]]) for name in _OF_SEEDS})
                for row in rows[-len(labels) - 1 :]
            ]
    return [row.replaced(verdict=verdict(row.difference, row.p_holm, about.seeds, about.level)) for row in rows]


def _differences(
    pair: Pair, metric: str, level: float, seed: int, over_seeds: ArmDifference | None
) -> tuple[metrics.PairedDifference, metrics.PairedDifference]:
    """Of the labels (C,), and of the macro."""
    each, macro = pair.a.values[metric] - pair.b.values[metric], pair.a.macro[metric] - pair.b.macro[metric]
    if over_seeds is not None:
        low, high, p = over_seeds.low, over_seeds.high, over_seeds.p
        ends = metrics.PairedDifference(np.asarray(macro), low[-1], high[-1], p[-1])
        return metrics.PairedDifference(each, low[:-1], high[:-1], p[:-1]), ends
    drawn, macro_drawn = (pair.resampled(metric, macro=one, seed=seed) for one in (False, True))
    return metrics.difference(each, drawn, level), metrics.difference(macro, macro_drawn, level)


def _corrected(rows: Sequence[Comparison]) -> list[Comparison]:
    """The macro, then the labels, with Holm's p over the labels."""
    adjusted = holm([np.nan if row.p is None else row.p for row in rows[1:]]).tolist()
    return [row.replaced(p_holm=p) for row, p in zip(rows, [rows[0].p, *adjusted], strict=True)]


def _delong(pair: Pair, labels: int) -> list[float | None]:
    """p of each label, images clustered by patient; None where DeLong's test does not apply."""
    if pair.a.members or pair.b.members or pair.truth is None or pair.patients is None:
        return [None] * labels
    return list(delong_difference(pair.truth, pair.a.scores, pair.b.scores, patients=pair.patients).p.tolist())


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
