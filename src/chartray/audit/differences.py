"""Is an attribute better read from one embedding than from another? Differences, paired by patient.

Between two encoders the interval holds both fixed: it says nothing of the chart, which other seeds might have served
otherwise. Where both arms have several seeds among the runs, the means over seeds are compared too, and seeds vary in
the interval (`statistics.hierarchical_bootstrap`); with three or more of each that is a statement about the chart.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import HOLDS_FIXED, Reading
from chartray.audit.attributes import COIN
from chartray.results.verdict import verdict, why_no_claim
from chartray.statistics import metrics
from chartray.statistics.hierarchical_bootstrap import hierarchical_bootstrap
from chartray.statistics.holm import holm

SEEDS_VARY = "the probes are held fixed; the patients of the scored films and the seeds of pretraining vary"


class Side(NamedTuple):
    """One side of a comparison: its name, its runs, and for each run what was read on one data set, by attribute."""

    name: str
    arms: Sequence[AuditArm]
    readings: Sequence[Mapping[str, Reading]]

    @property
    def seeds(self) -> list[Any]:
        """The pretraining seeds of its runs."""
        return [arm.made.get("seed") for arm in self.arms]


def sides(arms: Sequence[AuditArm], readings: Sequence[Mapping[str, Reading]]) -> Iterator[tuple[Side, Side]]:
    """What is compared: the encoder, first of `arms`, with every other arm; then its arm with others over the seeds.

    Runs of one chart, use of it, objective, control and settings of pretraining are seeds of one arm; only arms of the
    encoder's settings are compared so, and only where both have two seeds or more, each once (`seeds_said`).
    """
    own = Side(arms[0].run, arms[:1], readings[:1])
    for arm, read in zip(arms[1:], readings[1:], strict=True):
        yield own, Side(arm.run if arm.pretrained else arm.control, [arm], [read])
    several = [
        Side(name, [arms[index] for index in members], [readings[index] for index in members])
        for name, members in _over_seeds(arms).items()
    ]
    able = [side for side in several if len(side.arms) > 1 and _once_each(side.seeds)]
    for side in able[1:]:
        if able[0].arms[0] is arms[0]:
            yield able[0], side


def seeds_said(arms: Sequence[AuditArm]) -> list[str]:
    """Why arms of several runs are not compared over seeds: a seed that comes twice, or is not said."""
    notes = []
    for name, members in _over_seeds(arms).items():
        seeds = [arms[index].made.get("seed") for index in members]
        if len(members) > 1 and not _once_each(seeds):
            runs = ", ".join(f"{arms[index].run} (seed {seed})" for index, seed in zip(members, seeds, strict=True))
            notes.append(f"{name} is compared over seeds with no other arm: its runs {runs} are not each of a seed")
    return notes


def _over_seeds(arms: Sequence[AuditArm]) -> dict[str, list[int]]:
    """Positions of the pretrained arms of the encoder's settings, by the name of the arm they are seeds of.

    The hash of settings leaves out the chart and what is made of it, so these stand in the name, as `compare` writes.
    """
    grouped: dict[str, list[int]] = {}
    for index, arm in enumerate(arms):
        if arm.pretrained and arm.made.get("settings_hash") == arms[0].made.get("settings_hash"):
            changed = (arm.made.get("objective"), arm.made.get("chart_use"), arm.control)
            words = [str(word) for word in changed if word not in (None, "msn", "anchor", "none")]
            grouped.setdefault(f"{arm.chart} ({', '.join(words)})" if words else arm.chart, []).append(index)
    return grouped


def _once_each(seeds: Sequence[Any]) -> bool:
    return None not in seeds and len(set(seeds)) == len(seeds)


def difference_rows(a: Side, b: Side, common: dict[str, Any], *, confidence: float, seed: int) -> list[dict[str, Any]]:
    """a minus b, attribute by attribute on one data set, the same patients drawn for both.

    p_holm is Holm's p over the attributes of this pair, `corrected_over` so many; the coin, which nobody can read, is
    not asked. The verdict follows p_holm (`results.verdict`).
    """
    rows = [
        _row(a, b, name, common, confidence, seed)
        for name in a.readings[0]
        if name != COIN and all(name in readings for readings in (*a.readings, *b.readings))
    ]
    over = sum(not np.isnan(row["p"]) for row in rows)
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]).tolist(), strict=True):
        row |= {"p_holm": adjusted, "corrected_over": over}
        row["verdict"] = verdict(row["difference"], adjusted, row["seeds"], confidence)
    return rows


def _row(a: Side, b: Side, name: str, common: dict[str, Any], confidence: float, seed: int) -> dict[str, Any]:
    judge = a.readings[0][name].judge
    metric = judge.metrics[0]
    reason = a.readings[0][name].reason(metric)
    able = reason is None
    ours, theirs = (np.stack([read[name].resampled[metric] for read in side.readings]) for side in (a, b))  # (K, R)
    values = [float(np.mean([read[name].value[metric] for read in side.readings])) for side in (a, b)]
    drawn, seeds = ours.mean(axis=0) - theirs.mean(axis=0), min(len(ours), len(theirs))
    if seeds > 1 and able:
        paired = sorted(map(str, a.seeds)) == sorted(map(str, b.seeds))
        drawn = hierarchical_bootstrap(
            drawn, [_in_order(a, ours) - _in_order(b, theirs)] if paired else [ours, -theirs], seed=seed
        )
    found = metrics.difference(values[0] - values[1], drawn, confidence)
    low, high, p = ((float(each) if able else np.nan) for each in (found.low, found.high, found.p))
    return {
        "part": "difference",
        "a": a.name,
        "b": b.name,
        "chart_a": a.arms[0].chart,
        "chart_b": b.arms[0].chart,
        "control_a": a.arms[0].control,
        "control_b": b.arms[0].control,
        "dataset": judge.place.dataset,
        "attribute": name,
        "metric": metric,
        "value_a": values[0] if able else np.nan,
        "value_b": values[1] if able else np.nan,
        "difference": float(found.value) if able else np.nan,
        "ci_low": low,
        "ci_high": high,
        "p": p,
        "reason": reason,
        "seeds": seeds,
        "levels": "patients and seeds" if seeds > 1 else "patients",
        "claim": why_no_claim(seeds),
        "holds_fixed": SEEDS_VARY if seeds > 1 else HOLDS_FIXED,
    } | common


def _in_order(side: Side, resampled: Any) -> Any:
    return resampled[np.argsort([str(each) for each in side.seeds], kind="stable")]
