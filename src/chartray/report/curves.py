"""Which panels the report draws: training curves, ROC curves, forests of values and of differences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chartray.report.arms import Arm
from chartray.report.figures import (
    Curve,
    Interval,
    Panel,
    Series,
    Style,
    forest_panel,
    roc_panel,
    save_grid,
    single,
    training_panel,
)
from chartray.report.inputs import Run
from chartray.report.rows import MACRO, Comparison, Score
from chartray.report.summary import over_seeds
from chartray.report.tables import arms_of, intervals

# What is drawn of metrics.jsonl: the field, its title, its unit, and what a reader should look for.
QUANTITIES = (
    ("loss", "Loss", "nats", "falls, then flattens; its level says nothing about quality"),
    ("cross_entropy", "Cross-entropy", "nats", "the anchor's assignments against the target's"),
    (
        "mean_entropy",
        "Mean-entropy term",
        "nats",
        "log K minus the entropy of the mean assignment; has a floor at small batches",
    ),
    ("learning_rate", "Learning rate", "per step", "warm-up, then cosine"),
    ("health.assignment_entropy", "Entropy of the mean assignment", "nats", "near zero: all films share one prototype"),
    ("health.prototypes_in_use", "Prototypes in use", "prototypes", "few: collapse"),
    ("health.information", "Information in the assignments", "nats", "near 0: the assignments say nothing of the film"),
    ("health.effective_rank", "Effective rank of embeddings", "dimensions", "near 1: collapse"),
    ("health.agreement", "Target and anchor agreement", "share", "1 from the start: the task is too easy"),
    ("health.knn_auroc", "Neighbour probe on validation", "macro AUROC", "the one curve here that speaks of quality"),
)


class Drawn(NamedTuple):
    """A panel on the page: its title, what to look for, and the SVG element."""

    title: str
    note: str
    svg: str


def training_figures(runs: Sequence[Run], look: Mapping[Arm, Style], out: Path) -> list[Drawn]:
    """One panel a quantity, all runs overlaid; figures/training.svg and .pdf. Quantities no run has are left out."""
    found, panels = [], []
    for field, title, unit, note in QUANTITIES:
        series = [one for run in runs if (one := series_of(run, field)).steps.size]
        if series:
            panel = training_panel(title, series, look, unit)
            panels.append(panel)
            found.append(Drawn(title, note, single(panel, f"training-{len(panels)}")))
    if panels:
        save_grid(panels, _only(look, {run.arm for run in runs}), out / "figures" / "training", columns=3)
    return found


def series_of(run: Run, field: str) -> Series:
    """One field of a run's metrics.jsonl; a nested health record is read as `health.<name>`."""
    steps, values = [], []
    for row in run.metrics:
        value: Any = row.get(field)
        if value is None and "." in field:
            section, _, key = field.partition(".")
            inner = row.get(section)
            value = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(value, int | float) and np.isfinite(value) and "step" in row:
            steps.append(float(row["step"]))
            values.append(float(value))
    return Series(run.arm, run.seed, np.array(steps), np.array(values))


def dataset_figures(
    name: str,
    scores: Sequence[Score],
    comparisons: Sequence[Comparison],
    curves: Mapping[str, Sequence[Curve]],
    look: Mapping[Arm, Style],
    out: Path,
) -> dict[str, Any]:
    """The figures of one place, drawn for the page and saved in `out`/figures with the place in their names."""
    there = [one for one in scores if one.place == name and one.metric == "auroc"]
    arms = arms_of(there)
    mine = _only(look, set(arms))
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    found: dict[str, Any] = {"macro": None, "labels": [], "differences": None, "roc": []}
    macro = _macro_panel(there, arms, look)
    if macro:
        found["macro"] = _one(macro, f"macro-{slug}", mine, out)
    labels = _label_panels(there, arms, look)
    if labels:
        found["labels"] = [Drawn(p.title, "", single(p, f"label-{slug}-{i}")) for i, p in enumerate(labels)]
        save_grid(labels, mine, out / "figures" / f"labels-{slug}", columns=3)
    differences = _difference_panel(name, comparisons, mine)
    if differences:
        found["differences"] = _one(differences, f"differences-{slug}", mine, out)
    panels = [roc_panel(label, [one for one in drawn if one.arm in mine], look) for label, drawn in curves.items()]
    if panels:
        found["roc"] = [Drawn(p.title, "", single(p, f"roc-{slug}-{i}")) for i, p in enumerate(panels)]
        save_grid(panels, mine, out / "figures" / f"roc-{slug}", columns=5)
    return found


def _macro_panel(scores: Sequence[Score], arms: Sequence[Arm], look: Mapping[Arm, Style]) -> Panel | None:
    macro = [one for one in scores if one.label == MACRO]
    rows = [(arm.title, intervals(macro, [arm])) for arm in arms]
    rows = [(title, marks) for title, marks in rows if marks]
    if not rows:
        return None
    return forest_panel("Macro AUROC", rows, look, axis="macro AUROC", reference=_plain(macro, arms))


def _label_panels(scores: Sequence[Score], arms: Sequence[Arm], look: Mapping[Arm, Style]) -> list[Panel]:
    labels = sorted({one.label for one in scores if one.value is not None and one.label != MACRO})
    ends = [end for mark in intervals(scores, arms) for end in (mark.value, mark.low, mark.high) if end == end]
    low, high = (min(ends) - 0.02, max(ends) + 0.02) if ends else (0.0, 1.0)
    found = []
    for label in labels:
        mine = [one for one in scores if one.label == label]
        marks = intervals(mine, arms)
        panel = forest_panel(label, [("", marks)], look, axis="AUROC", reference=_plain(mine, arms), limits=(low, high))
        found.append(panel._replace(width=3.6))
    return found


def _plain(scores: Sequence[Score], arms: Sequence[Arm]) -> Interval | None:
    """Plain pretraining, against which charts are seen: its interval for one seed, its mean for several.

    That of the first such arm: MSN where there is one.
    """
    plain = [arm for arm in arms if arm.kind == "none"]
    marks = intervals(scores, plain[:1])
    if len(marks) < 2:
        return marks[0] if marks else None
    return Interval(marks[0].arm, sum(mark.value for mark in marks) / len(marks), math.nan, math.nan)


def _difference_panel(name: str, comparisons: Sequence[Comparison], look: Mapping[Arm, Style]) -> Panel | None:
    """The differences in macro AUROC of `name`: all pairs, seeds together."""
    pairs: dict[tuple[Arm, Arm], list[Comparison]] = {}
    for one in comparisons:
        shown = (one.place, one.label, one.metric) == (name, MACRO, "auroc") and one.difference is not None
        if shown and one.a in look and one.b in look:
            pairs.setdefault((one.a, one.b), []).append(one)
    rows: list[tuple[str, list[Interval]]] = []
    for a, b in sorted(pairs, key=lambda pair: (pair[0].order, pair[1].order)):
        one = over_seeds(pairs[a, b])
        low, high = (one.low, one.high) if one.low is not None and one.high is not None else (math.nan, math.nan)
        seeds = f" ({one.seeds} seeds)" if one.seeds > 1 else ""
        value = math.nan if one.difference is None else one.difference
        rows.append((f"{a.title} − {b.title}{seeds}", [Interval(a, value, low, high)]))
    if not rows:
        return None
    return forest_panel("Differences in macro AUROC", rows, look, axis="difference in macro AUROC", zero=True)


def _one(panel: Panel, name: str, look: Mapping[Arm, Style], out: Path) -> Drawn:
    save_grid([panel], look, out / "figures" / name, columns=1)
    return Drawn(panel.title, "", single(panel, name))


def _only(look: Mapping[Arm, Style], arms: set[Arm]) -> dict[Arm, Style]:
    return {arm: style for arm, style in look.items() if arm in arms}
