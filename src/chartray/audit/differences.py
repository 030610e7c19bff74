"""Does one embedding predict an attribute better than another? Differences between arms, paired by patient.

The interval of a difference between two encoders holds both fixed: another seed of pretraining could have turned out
otherwise, so it says nothing about the chart. Where both arms have several seeds among the runs, their means over seeds
are compared too, and the interval lets seeds vary, as in every comparison (`statistics.arms`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import HOLDS_FIXED, AttributeResult
from chartray.audit.attributes import COIN
from chartray.results.arm import disambiguated
from chartray.results.audit_rows import AttributeDifference
from chartray.results.verdict import why_no_claim
from chartray.statistics.arms import difference_of_measured
from chartray.statistics.variance import MeasuredArm

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

    def measured(self, attribute: str, metric: str) -> MeasuredArm:
        """What `statistics.arms` asks for."""
        found = [results[attribute] for results in self.results]
        values = np.array([one.value[metric] for one in found])
        return MeasuredArm(values[:, None, None], np.stack([one.resampled[metric] for one in found])[:, None, :, None])


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
    seeds = min(len(a.arms), len(b.arms))
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
        run_seed=a.seeds[0] if seeds == 1 else None,
        seeds=seeds,
        levels="patients and seeds" if seeds > 1 else "patients",
        reason=reason,
        claim=why_no_claim(seeds),
    )
    if reason is not None:
        return row
    ours, theirs = (side.measured(name, metric) for side in (a, b))
    patients = len(np.unique(truth.test.image_set.patients[np.isfinite(truth.values).any(axis=1)]))
    found = difference_of_measured(
        ours, theirs, patients=patients, level=truth.resampling.level, bounded=metric == "auroc"
    )
    value, low, high, p, _, freedom, patient_se, seed_se, *_ = (float(each[0]) for each in found)
    return row.replaced(
        value_a=float(ours.values.mean()),
        value_b=float(theirs.values.mean()),
        difference=value,
        ci_low=low,
        ci_high=high,
        p=p,
        patient_se=patient_se,
        seed_se=seed_se,
        degrees_of_freedom=freedom,
    )
