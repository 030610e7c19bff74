"""The rows of interactions.jsonl: whether a difference of two arms differs by data set."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.evaluation.comparable import EvaluatedRun
from chartray.evaluation.pairs import ComparedPair, ComparedSet, pairs_of
from chartray.evaluation.scoring import METRICS
from chartray.results.schema import MACRO, Interaction
from chartray.results.verdict import why_no_claim
from chartray.statistics.holm import holm
from chartray.statistics.interaction import DifferenceInSet, interaction
from chartray.statistics.variance import MeasuredArm

Floats = NDArray[np.float64]


class _PairOnSet(NamedTuple):
    """A pair on one data set."""

    on: ComparedSet
    pair: ComparedPair


def interaction_rows(
    sets: Sequence[ComparedSet], arms: Mapping[str, Sequence[EvaluatedRun]], runs: Sequence[EvaluatedRun]
) -> list[Interaction]:
    """Every pair of arms, and of an arm and its baseline, that was compared on two data sets or more.

    A part of a data set, such as the images that radiologists read, is no further data set. Fractions of the training
    patients with several draws are left out: the draws are common to all data sets too.
    """
    parts = {store.dataset for store in runs[0].opened.manifest.stores if store.part_of is not None}
    whole = [each for each in sets if each.dataset not in parts and each.draws == 1]
    rows = []
    for fraction in dict.fromkeys(each.fraction for each in whole):
        there = [each for each in whole if each.fraction == fraction]
        counted = [np.array(each.sheet.labels)[each.counted].tolist() for each in there]
        labels = list(dict.fromkeys(label for each in counted for label in each))
        common = [label for label in labels if all(label in each for each in counted)]
        found: dict[tuple[str, str], list[_PairOnSet]] = {}
        for on in there if len(there) > 1 else ():
            for pair in pairs_of(arms, runs, on.over(common)):
                found.setdefault((pair.a.name, pair.b.name), []).append(_PairOnSet(on, pair))
        for same in found.values():
            if len(same) > 1 and len({each.pair.reached.seeds for each in same}) == 1:
                rows += [row for metric in METRICS for row in _rows(same, labels, metric)]
    return rows


def _rows(same: Sequence[_PairOnSet], labels: Sequence[str], metric: str) -> list[Interaction]:
    """The macro, then the labels, of those that two data sets have."""
    on, (a, b, reached) = same[0]
    sets = [_aligned(each, labels, metric) for each in same]
    found = interaction(sets, pair_seeds=reached.pair_seeds)
    values = np.stack([each.a.values.mean(axis=(0, 1)) - each.b.values.mean(axis=(0, 1)) for each in sets])
    corrected = np.append(holm(found.p[:-1]), found.p[-1])
    about = Interaction(
        arm_a=a.arm,
        arm_b=b.arm,
        a=a.name,
        b=b.name,
        home=on.home,
        protocol=a.runs[0].settings.protocol,
        split=a.runs[0].settings.split,
        fraction=float(on.fraction),
        label=MACRO,
        metric=metric,
        datasets=(),
        differences=(),
        level=on.options.level,
        seeds=reached.seeds,
        claim=why_no_claim(reached.seeds),
    )
    rows = []
    for place, label in ((-1, MACRO), *enumerate(labels)):
        there = np.flatnonzero(~np.isnan(values[:, place])).tolist()
        freedom = float(found.numerator[place]), float(found.denominator[place])
        of_macro = tuple(np.array(on.sheet.labels)[on.counted].tolist()) if label == MACRO else None
        if len(there) > 1:
            row = about.replaced(
                label=label,
                labels=of_macro,
                datasets=tuple(same[each].on.dataset for each in there),
                differences=tuple(values[there, place].tolist()),
                statistic=float(found.statistic[place]),
                degrees_of_freedom=freedom if np.isfinite(freedom).all() else (),
                p=float(found.p[place]),
                p_holm=float(corrected[place]),
            )
            rows.append(row)
    return rows


def _aligned(one: _PairOnSet, labels: Sequence[str], metric: str) -> DifferenceInSet:
    """The labels in the order of `labels`, then the macro; NaN where the data set lacks a label or patients of it."""
    here = {label: place for place, label in enumerate(one.on.sheet.labels)}
    places = np.array([*(here.get(label, -1) for label in labels), len(here)])
    found = one.pair.reached.measured(metric, one.on.counted)

    def aligned(each: Floats) -> Floats:
        return np.where(places >= 0, each[..., places], np.nan)

    def arm(each: MeasuredArm) -> MeasuredArm:
        return each._replace(values=aligned(each.values), drawn=aligned(each.drawn))

    return found._replace(a=arm(found.a), b=arm(found.b), others=[aligned(each) for each in found.others])
