"""The rows of comparisons.jsonl: one arm minus another, paired by patient, and what may be said of it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.rows import MACRO, NO_MACRO, ONE_CLASS, TOO_FEW
from chartray.evaluation.scoring import METRICS, Scored
from chartray.results.verdict import verdict
from chartray.statistics import metrics
from chartray.statistics.delong import delong_difference
from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap
from chartray.statistics.holm import holm

Floats = NDArray[np.float64]


class Pair(NamedTuple):
    """Two arms on the same films, each one's `Scored` over its seeds and draws, and how their seeds vary.

    Draws of training patients are the same for both, and drawn together. `seeds` are "fixed", "paired" (seed s of a and
    of b are drawn together) or "apart". `truth` (N, C) and `patients` (N,) of the films are for DeLong's test, which is
    made where one seed and one draw stand behind each arm.
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
    level: float,
    common: dict[str, Any],
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """a minus b, paired by patient (and draw, and seed): the macro of each metric, then each label.

    `p_holm` is Holm's p over the labels of these two on this data set in one metric that have a p; the macro is a
    family of its own, so its two p are equal. Other pairs, data sets, fractions and the other metric are not counted.
    `verdict` follows p_holm, and is "no claim" where `common` has fewer than 3 `seeds`. `delong_p` takes films as
    independent, `delong_patient_p` clustered by patient.
    """
    rows = []
    common = common | {"levels": pair.levels}
    for metric in METRICS:
        drawn = pair.resampled(metric, macro=True, seed=seed)
        macro = metrics.difference(pair.a.macro[metric] - pair.b.macro[metric], drawn, level)
        reason = None if counted.any() else NO_MACRO
        rows.append(_comparison(common, MACRO, metric, macro, 0, reason))
        rows[-1] |= {"value_a": pair.a.macro[metric], "value_b": pair.b.macro[metric]}
        rows[-1]["p_holm"] = rows[-1]["p"]
        drawn = pair.resampled(metric, macro=False, seed=seed)
        each = metrics.difference(pair.a.values[metric] - pair.b.values[metric], drawn, level)
        found = []
        for index, label in enumerate(labels):
            reason = None if counted[index] else TOO_FEW
            if np.isnan(each.value[index]):
                reason = ONE_CLASS
            found.append(_comparison(common, label, metric, each, index, reason))
            values = (float(side.values[metric][index]) for side in (pair.a, pair.b))
            found[-1] |= dict(zip(("value_a", "value_b"), values, strict=True))
        for row, adjusted in zip(found, holm([row["p"] for row in found]).tolist(), strict=True):
            row["p_holm"] = adjusted
        if metric == "auroc":
            for index, (row, both) in enumerate(zip(found, _delong(pair, len(labels)), strict=True)):
                row |= {"delong_p": both[0], "delong_patient_p": both[1]} if counted[index] else {}
        rows += found
    for row in rows:
        row["verdict"] = verdict(row["difference"], row["p_holm"], common["seeds"], level)
    return rows


def _delong(pair: Pair, labels: int) -> list[tuple[float | None, float | None]]:
    """p of each label, films independent and clustered; None where DeLong's test does not apply."""
    if pair.a.members or pair.b.members or pair.truth is None or pair.patients is None:
        return [(None, None)] * labels
    films, patients = (
        delong_difference(pair.truth, pair.a.scores, pair.b.scores, patients=names).p.tolist()
        for names in (None, pair.patients)
    )
    return list(zip(films, patients, strict=True))


def _comparison(
    common: dict[str, Any], label: str, metric: str, found: metrics.PairedDifference, index: int, reason: str | None
) -> dict[str, Any]:
    value, low, high, p = (float(np.atleast_1d(each)[index]) for each in found)
    if reason is not None:
        low = high = p = np.nan
    return (
        common
        | {"label": label, "metric": metric, "difference": value}
        # The stretch of few members knows no bounds, a difference of two shares does.
        | {"ci_low": float(np.maximum(low, -1)), "ci_high": float(np.minimum(high, 1)), "p": p}
        | {"delong_p": None, "delong_patient_p": None, "reason": reason}
    )
