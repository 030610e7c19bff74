"""Which curves the report draws: training, ROC, precision and recall, reliability, and shares of the labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chartray.report.curve_data import LabelCurves
from chartray.report.figures import DrawnPanel, Style, drawn, only, save_grid, single, slug
from chartray.report.inputs import PretrainingRun, Results
from chartray.report.plots import (
    Mark,
    ReliabilityCurve,
    Series,
    precision_recall_panel,
    reliability_panel,
    roc_panel,
    shares_panel,
    training_panel,
)
from chartray.report.summary import Selection, chosen
from chartray.report.tables import arms_of, intervals
from chartray.results.arm import Arm
from chartray.results.schema import MACRO, METRIC_WORDS, CalibrationBin, Score

# What is drawn of metrics.jsonl: the field, its title, its unit, and what a reader should styles for.
QUANTITIES = (
    ("loss", "Loss", "nats", "falls, then flattens; its level does not measure quality"),
    ("cross_entropy", "Cross-entropy", "nats", "cross-entropy of the anchor's and the target's assignments"),
    (
        "mean_entropy",
        "Mean-entropy term",
        "nats",
        "log K minus the entropy of the mean assignment; cannot reach 0 at small batches",
    ),
    ("prior", "Prior term", "nats", "with the mean-entropy term: divergence of the mean assignment from its prior"),
    ("learning_rate", "Learning rate", "per step", "warm-up, then cosine"),
    ("health.assignment_entropy", "Entropy of the mean assignment", "nats", "near 0: all images share one prototype"),
    ("health.prototypes_in_use", "Prototypes in use", "prototypes", "few: collapse"),
    (
        "health.information",
        "Information in the assignments",
        "nats",
        "near 0: the assignments do not depend on the image",
    ),
    ("health.effective_rank", "Effective rank of embeddings", "dimensions", "near 1: collapse"),
    ("health.spread", "Spread of embeddings", "share of their mean", "near 0: all embeddings are nearly equal"),
    ("health.agreement", "Target and anchor agreement", "share", "1 from the start: the task is too easy"),
    ("health.knn_auroc", "Neighbour probe on validation", "macro AUROC", "the only curve here that measures quality"),
)


def training_figures(runs: Sequence[PretrainingRun], styles: Mapping[Arm, Style], out: Path) -> list[DrawnPanel]:
    """One panel a quantity that any run has, all runs overlaid; figures/training.svg and .pdf."""
    found, panels = [], []
    for field, title, unit, note in QUANTITIES:
        series = [one for run in runs if (one := series_of(run, field)).steps.size]
        if series:
            panel = training_panel(title, series, styles, unit)
            panels.append(panel)
            found.append(DrawnPanel(title, note, single(panel, f"training-{len(panels)}")))
    if panels:
        save_grid(panels, only(styles, {run.arm for run in runs}), out / "figures" / "training", columns=3)
    return found


def series_of(run: PretrainingRun, field: str) -> Series:
    """One field of a run's metrics.jsonl; steps without a finite value are left out."""
    found = [(step["step"], value) for step in run.metrics if (value := step.get(field)) is not None]
    finite = np.array([pair for pair in found if np.isfinite(pair[1])], dtype=np.float64).reshape(-1, 2)
    return Series(run.arm, finite[:, 0], finite[:, 1])


class LabelFigure(NamedTuple):
    """ROC and precision-recall of one label, side by side."""

    title: str
    note: str
    svgs: tuple[str, str]


def label_figures(
    place: str, curves: Mapping[str, LabelCurves], styles: Mapping[Arm, Style], out: Path
) -> list[LabelFigure]:
    """ROC and precision-recall by label, of the arms in `styles`; figures/roc-PLACE and precision-recall-PLACE."""
    found, panels = [], []
    for number, (label, here) in enumerate(curves.items()):
        roc, precision = ([one for one in of if one.arm in styles] for of in (here.roc, here.precision_recall))
        pair = roc_panel(label, roc, styles), precision_recall_panel(label, precision, styles, here.prevalence)
        names = (f"roc-{slug(place)}-{number}", f"precision-recall-{slug(place)}-{number}")
        svgs = single(pair[0], names[0]), single(pair[1], names[1])
        found.append(LabelFigure(label, f"{100 * here.prevalence:.1f} % of images positive", svgs))
        panels.append(pair)
    for name, drawings in zip(("roc", "precision-recall"), zip(*panels, strict=True), strict=False):
        save_grid(drawings, styles, out / "figures" / f"{name}-{slug(place)}", columns=5)
    return found


def reliability_figures(
    results: Sequence[Results],
    place: str,
    which: Selection,
    styles: Mapping[Arm, Style],
    out: Path,
    *,
    without: Sequence[str] = (),
) -> list[DrawnPanel]:
    """Reliability curves of every label at one place, one an encoder (its first seed); figures/reliability-PLACE.

    Baselines are left out: the question is whether the encoders' scores can be taken as probabilities.
    """
    found: dict[str, dict[Arm, list[CalibrationBin]]] = {}
    for one in results:
        rows = [row for row in one.calibration if row.place == place and row.fraction == which.fraction]
        if not rows or not chosen(one.scores, which):
            continue
        here: dict[tuple[str, Arm], list[CalibrationBin]] = {}
        for row in rows:
            if not row.arm.is_baseline and row.label not in without:
                here.setdefault((row.label, row.arm), []).append(row)
        for (label, arm), bins in here.items():
            found.setdefault(label, {}).setdefault(arm, sorted(bins, key=lambda row: row.bin))
    panels = []
    for label, curves in sorted(found.items()):
        drawings = [_reliability(arm, curves[arm]) for arm in sorted(curves, key=lambda arm: arm.order)]
        panels.append(reliability_panel(label, drawings, styles))
    if panels:
        arms = {arm for curves in found.values() for arm in curves}
        save_grid(panels, only(styles, arms), out / "figures" / f"reliability-{slug(place)}", columns=5)
    return [drawn(panel, f"reliability-{slug(place)}-{number}") for number, panel in enumerate(panels)]


def _reliability(arm: Arm, bins: Sequence[CalibrationBin]) -> ReliabilityCurve:
    """A bin without score or rate is left out; NaN where there is no interval."""
    points = [(row.score, row.observed, row.ci_low, row.ci_high) for row in bins]
    columns = np.array([point for point in points if None not in point[:2]], dtype=np.float64).reshape(-1, 4).T
    return ReliabilityCurve(arm, *columns)


class Shares(NamedTuple):
    """Low-data curves: figures, training subsets behind a point, and what their intervals hold fixed, in sentences."""

    figures: list[DrawnPanel]
    draws: int
    sentences: list[str]
    arms: list[Arm]


def share_figures(
    scores: Sequence[Score], place: str, which: Selection, styles: Mapping[Arm, Style], out: Path
) -> Shares | None:
    """Macro AUROC and average precision over the share of the training patients; None for only one share."""
    shares = sorted({one.fraction for one in scores if which == which_of(one, which) and one.place == place})
    if len(shares) < 2:
        return None
    by_share = {share: chosen(scores, which._replace(fraction=share)) for share in shares}
    rows = [one for found in by_share.values() for one in found if (one.place, one.label) == (place, MACRO)]
    panels, arms = [], arms_of(rows)
    for metric in ("auroc", "average_precision"):
        points: dict[Arm, list[tuple[float, Mark]]] = {}
        for arm in arms:
            for share in shares:
                here = [one for one in rows if (one.metric, one.fraction, one.arm) == (metric, share, arm)]
                points.setdefault(arm, []).extend((share, mark) for mark in intervals(here, [arm]))
        points = {arm: found for arm, found in points.items() if found}
        if points:
            name = METRIC_WORDS[metric]
            panels.append(shares_panel(f"Macro {name}", points, styles, f"macro {name}"))
    if not panels:
        return None
    save_grid(panels, only(styles, arms), out / "figures" / f"shares-{slug(place)}", columns=2)
    figures = [drawn(panel, f"shares-{slug(place)}-{number}") for number, panel in enumerate(panels)]
    held = {one.fraction < 1: one.holds_fixed for one in rows if one.metric == "auroc" and one.holds_fixed}
    words = {True: "Below 100 %, an interval", False: "At 100 %, it"}
    sentences = [f"{words[fewer]} {held[fewer]}." for fewer in (True, False) if fewer in held]
    return Shares(figures, max(one.draws for one in rows), sentences, arms)


def which_of(one: Score, which: Selection) -> Selection:
    """The selection of a score, were it of the share of `which`."""
    return Selection(one.protocol, one.split, which.fraction, one.uncertain, one.blank)
