"""Does one embedding predict an attribute better than another? Differences between arms, paired by patient.

The interval of a difference between two encoders holds both fixed: another seed of pretraining could have turned out
otherwise, so it says nothing about the chart. Where both arms have several seeds among the runs, their means over seeds
are compared too, and the interval lets seeds vary (`statistics.hierarchical_bootstrap`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import HOLDS_FIXED, AttributeResult
from chartray.audit.attributes import COIN
from chartray.results.arm import disambiguated
from chartray.results.audit_rows import AttributeDifference
from chartray.results.verdict import why_no_claim
from chartray.statistics import metrics
from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap

Floats = NDArray[np.float64]
SEEDS_VARY = "the probes are held fixed; the scored patients and the seeds of pretraining vary"


class Side(NamedTuple):
    """One side of a comparison: its name, its runs, and each run's results on one data set, by attribute."""

    name: str
    arms: Sequence[AuditArm]
    results: Sequence[Mapping[str, AttributeResult]]

    @property
    def seeds(self) -> list[int | None]:
        """The pretraining seeds of its runs."""
        return [arm.seed for arm in self.arms]


def compared_sides(
    arms: Sequence[AuditArm], results: Sequence[Mapping[str, AttributeResult]]
) -> Iterator[tuple[Side, Side]]:
    """The encoder (the first arm) with every other arm; then its arm with other arms, as means over seeds.

    Runs of one `Arm` are its seeds. Means are compared among arms of the encoder's settings, where both sides have at
    least two runs, each with a different known seed (`notes_on_seeds`).
    """
    own = Side(arms[0].name, arms[:1], results[:1])
    for arm, found in zip(arms[1:], results[1:], strict=True):
        yield own, Side(arm.name, [arm], [found])
    means = [
        Side(name, [arms[index] for index in members], [results[index] for index in members])
        for name, members in _by_arm(arms).items()
    ]
    means = [side for side in means if len(side.arms) > 1 and _distinct(side.seeds)]
    for side in means[1:]:
        if means[0].arms[0] is arms[0]:
            yield means[0], side


def notes_on_seeds(arms: Sequence[AuditArm]) -> list[str]:
    """Why arms of several runs are not compared over seeds: a seed is repeated, or unknown."""
    notes = []
    for name, members in _by_arm(arms).items():
        if len(members) > 1 and not _distinct([arms[index].seed for index in members]):
            runs = ", ".join(f"{arms[index].run} (seed {arms[index].seed})" for index in members)
            notes.append(f"{name} is not compared over seeds: expected runs of different known seeds, found {runs}")
    return notes


def _by_arm(arms: Sequence[AuditArm]) -> dict[str, list[int]]:
    """Positions of the runs of the encoder's settings, by the name of their arm."""
    runs = [arm for arm in arms if arm.provenance is not None]
    recipes = {
        each: [run.provenance.recipe for run in runs if run.provenance is not None and run.arm == each]
        for each in dict.fromkeys(run.arm for run in runs)
    }
    names = disambiguated(recipes, recipes)
    grouped: dict[str, list[int]] = {}
    for index, run in enumerate(arms):
        if run.provenance is not None and run.arm.settings == arms[0].arm.settings:
            grouped.setdefault(names.get(run.arm, run.arm).title, []).append(index)
    return grouped


def _distinct(seeds: Sequence[int | None]) -> bool:
    return None not in seeds and len(set(seeds)) == len(seeds)


def difference_rows(a: Side, b: Side) -> list[AttributeDifference]:
    """a minus b, attribute by attribute on one data set, on the same resamples of patients; `families` corrects p.

    The coin, which is the negative control, is not compared.
    """
    return [
        _row(a, b, name)
        for name in a.results[0]
        if name != COIN and all(name in results for results in (*a.results, *b.results))
    ]


def _row(a: Side, b: Side, name: str) -> AttributeDifference:
    first = a.results[0][name]
    truth, metric = first.truth, first.truth.metrics[0]
    reason = first.reason(metric)
    ours, theirs = (np.stack([found[name].resampled[metric] for found in side.results]) for side in (a, b))  # (K, R)
    values = [float(np.mean([found[name].value[metric] for found in side.results])) for side in (a, b)]
    drawn, seeds = ours.mean(axis=0) - theirs.mean(axis=0), min(len(ours), len(theirs))
    if seeds > 1 and reason is None:
        paired = sorted(map(str, a.seeds)) == sorted(map(str, b.seeds))
        varying = [_by_seed(a, ours) - _by_seed(b, theirs)] if paired else [ours, -theirs]
        drawn = hierarchical_bootstrap(drawn, varying, seed=truth.resampling.seed)
    row = AttributeDifference(
        arm_a=a.arms[0].arm,
        arm_b=b.arms[0].arm,
        a=a.name,
        b=b.name,
        dataset=truth.test.dataset,
        attribute=name,
        split=truth.test.image_set.split,
        resamples=truth.resampling.resamples,
        seed=truth.resampling.seed,
        level_of_interval=truth.resampling.level,
        holds_fixed=SEEDS_VARY if seeds > 1 else HOLDS_FIXED,
        metric=metric,
        without=b.arms[0].without(truth.attribute),
        seeds=seeds,
        levels="patients and seeds" if seeds > 1 else "patients",
        reason=reason,
        claim=why_no_claim(seeds),
    )
    if reason is not None:
        return row
    found = metrics.difference(values[0] - values[1], drawn, truth.resampling.level)
    return row.replaced(
        value_a=values[0],
        value_b=values[1],
        difference=float(found.value),
        ci_low=float(found.low),
        ci_high=float(found.high),
        p=float(found.p),
    )


def _by_seed(side: Side, resampled: Floats) -> Floats:
    return resampled[np.argsort([str(each) for each in side.seeds], kind="stable")]
