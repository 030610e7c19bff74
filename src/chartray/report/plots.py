"""What each kind of panel draws: curves over steps, ROC, precision-recall, reliability, shares of labels, forests."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from chartray.report.figures import BOTTOM, INK, MUTED, PAPER, Panel, Style
from chartray.results.arm import Arm

# Letters of a row's name in a forest that fit on one line; a longer name is broken.
_NAME = 52


class Series(NamedTuple):
    """One run's values of one quantity over the steps."""

    arm: Arm
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


class Mark(NamedTuple):
    """A value with its interval (NaN where there is none).

    Of several seeds it is their mean and `seeds` are their values; with `outermost` it ends where the outermost of the
    seeds' intervals do, and is no interval itself.
    """

    arm: Arm
    value: float
    low: float
    high: float
    seeds: tuple[float, ...] = ()
    outermost: bool = False


class Curve(NamedTuple):
    """A line from (`x`, `y`) to the next: false and true positive rate, or recall and precision."""

    arm: Arm
    x: NDArray[np.float64]
    y: NDArray[np.float64]


class ReliabilityCurve(NamedTuple):
    """A reliability curve (bins,): mean score, observed share and its interval (NaN where there is none)."""

    arm: Arm
    score: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def together(marks: Sequence[Mark]) -> Mark:
    """Marks of one arm, one a seed, as one: the mean, the seeds, the outermost ends of their intervals."""
    if len(marks) == 1:
        return marks[0]
    low, high = (min(mark.low for mark in marks), max(mark.high for mark in marks))
    if any(math.isnan(mark.low) or math.isnan(mark.high) for mark in marks):
        low = high = math.nan
    values = tuple(mark.value for mark in marks)
    return Mark(marks[0].arm, math.fsum(values) / len(values), low, high, values, outermost=True)


def training_panel(title: str, series: Sequence[Series], styles: Mapping[Arm, Style], unit: str) -> Panel:
    """A quantity over optimizer steps, all runs overlaid; a thin line is raw, nothing is smoothed."""

    def draw(axes: Axes) -> None:
        for one in series:
            style = styles[one.arm]
            mark = style.marker if one.steps.size <= 40 else ""
            axes.plot(*thinned(one.steps, one.values), color=style.colour, linestyle=style.line, marker=mark, ms=3)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    ends = ", ".join(f"{one.arm.title} ends at {one.values[-1]:.3g}" for one in series if one.values.size)
    return Panel(title, f"{title} over optimizer steps: {ends}", draw)


def roc_panel(title: str, curves: Sequence[Curve], styles: Mapping[Arm, Style]) -> Panel:
    """ROC curves of one label, one an arm."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for curve in reversed(curves):
            style = styles[curve.arm]
            x, y = thinned(curve.x, curve.y, 150)
            axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=1.5)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")

    return Panel(title, f"ROC curves for {title}", draw, 2.6, 2.6, 0.55)


def precision_recall_panel(
    title: str, curves: Sequence[Curve], styles: Mapping[Arm, Style], prevalence: float
) -> Panel:
    """Precision over recall of one label, one curve an arm; the line of chance is at the `prevalence`."""

    def draw(axes: Axes) -> None:
        axes.axhline(prevalence, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for curve in reversed(curves):
            style = styles[curve.arm]
            x, y = thinned(curve.x, curve.y, 150)
            axes.step(x, y, where="pre", color=style.colour, linestyle=style.line, linewidth=1.5)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
        axes.set_xlabel("recall (sensitivity)")
        axes.set_ylabel("precision")

    words = f"Precision-recall curves for {title}; a share of {prevalence:.3f} of the images is positive"
    return Panel(title, words, draw, 2.6, 2.6, 0.55)


def reliability_panel(title: str, curves: Sequence[ReliabilityCurve], styles: Mapping[Arm, Style]) -> Panel:
    """Observed share over mean score, a point a bin with its interval; on the diagonal scores are probabilities."""
    ends = [np.r_[one.score, one.observed, one.high[~np.isnan(one.high)]] for one in curves]
    most = min(1.0, 1.04 * max((float(each.max()) for each in ends if each.size), default=1.0))

    def draw(axes: Axes) -> None:
        axes.plot([0, most], [0, most], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for one in reversed(curves):
            style = styles[one.arm]
            axes.vlines(one.score, one.low, one.high, color=style.colour, linewidth=1.0, alpha=0.55)
            axes.plot(
                one.score, one.observed, color=style.colour, linestyle=style.line, lw=1.2, marker=style.marker, ms=3.5
            )
        axes.set(xlim=(-0.02 * most, 1.02 * most), ylim=(-0.02 * most, 1.02 * most), aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("mean score")
        axes.set_ylabel("observed share")

    gaps = "; ".join(f"{one.arm.title} {np.abs(one.score - one.observed).max():.3f}" for one in curves)
    return Panel(title, f"Reliability curves for {title}; largest gap: {gaps}", draw, 2.6, 2.6, 0.62)


def shares_panel(
    title: str, points: Mapping[Arm, Sequence[tuple[float, Mark]]], styles: Mapping[Arm, Style], axis: str
) -> Panel:
    """A value over the share of the training patients (fractions of 1), with intervals; seeds are small dots."""
    shares = sorted({share for found in points.values() for share, _ in found})

    def draw(axes: Axes) -> None:
        for place, (arm, found) in enumerate(points.items()):
            style = styles[arm]
            # Marks of one share are side by side, so that no interval hides another.
            x = np.array([100 * share for share, _ in found]) * 1.045 ** (place - (len(points) - 1) / 2)
            axes.plot(x, [one.value for _, one in found], color=style.colour, linestyle=style.line, lw=1.2)
            for at, (_, one) in zip(x, found, strict=True):
                hollow = math.isnan(one.low)
                if not hollow:
                    axes.plot([at, at], [one.low, one.high], color=style.colour, lw=1.2, alpha=0.6)
                axes.plot([at] * len(one.seeds), one.seeds, ".", color=style.colour, ms=3)
                face = "none" if hollow and not one.seeds else style.colour
                axes.plot([at], [one.value], style.marker, color=style.colour, ms=5, markerfacecolor=face)
        axes.set_xscale("log")
        axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("share of the training patients, %")
        axes.set_ylabel(axis)

    spoken = "; ".join(
        f"{arm.title} " + ", ".join(f"{one.value:.3f} at {100 * share:g} %" for share, one in found)
        for arm, found in points.items()
    )
    return Panel(title, f"{title} over the share of the training patients: {spoken}", draw, 4.6, 3.2, 0.66)


def forest_panel(
    title: str,
    rows: Sequence[tuple[str, Sequence[Mark]]],
    styles: Mapping[Arm, Style],
    *,
    axis: str,
    reference: Mark | None = None,
    zero: bool = False,
    chance: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Panel:
    """Values with intervals: a named row for each entry, its intervals under each other, seeds as dots on theirs.

    `reference` is a band through all rows (plain MSN); `zero` draws a line at no difference, `chance` a dashed one.
    """
    names = [_wrapped(name) for name, _ in rows]
    heads = [0.33 + 0.15 * (len(lines) - 1) if lines else 0.1 for lines in names]
    lines = [max(len(intervals), 1) * 0.17 + head for head, (_, intervals) in zip(heads, rows, strict=True)]

    def draw(axes: Axes) -> None:
        if reference is not None and not math.isnan(reference.low):
            axes.axvspan(reference.low, reference.high, color=styles[reference.arm].colour, alpha=0.10, linewidth=0)
        if reference is not None:
            axes.axvline(reference.value, color=styles[reference.arm].colour, linewidth=0.9, linestyle=(0, (3, 2)))
        if chance is not None:
            axes.axvline(chance, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        if zero:
            axes.axvline(0, color=INK, linewidth=0.9)
        top = 0.0
        for (_, intervals), words, head, height in zip(rows, names, heads, lines, strict=True):
            # The name is on the plot's background, so that no line runs through it.
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}
            place = axes.get_yaxis_transform()
            for line, part in enumerate(words):
                at = top + 0.15 * (line + 1)
                axes.text(0, at, part, transform=place, va="center", ha="left", color=INK, size=9, bbox=ground)
            for line, one in enumerate(intervals):
                _interval(axes, one, top + head + 0.17 * line, styles[one.arm])
            top += height
        axes.set_ylim(top + 0.02, -0.02)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(axis)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(6))

    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{one.arm.title} {one.value:.3f}" for one in intervals) for name, intervals in rows
    )
    return Panel(title, f"{title}. {spoken}", draw, 4.5, sum(lines) + BOTTOM + 0.2, 0.15)


def _wrapped(name: str) -> list[str]:
    """The lines of a name; one may end after a comma, since the names of charts are lists without a space.

    >>> _wrapped("sex,age,view,smoker,triage,icu,crp,leuko − sex,age,view, shuffled")
    ['sex,age,view,smoker,triage,icu,crp,', 'leuko − sex,age,view, shuffled']
    """
    mark = "\0"
    lines = textwrap.wrap(re.sub(r",(?=\S)", f",{mark} ", name), _NAME, break_long_words=False)
    return [line.replace(f"{mark} ", "").replace(mark, "") for line in lines]


def _interval(axes: Axes, one: Mark, y: float, style: Style) -> None:
    if not math.isnan(one.low):
        # The outermost ends of several seeds' intervals are no interval themselves: they are drawn fainter.
        width, alpha = (1.2, 0.5) if one.outermost else (1.8, 1.0)
        axes.plot([one.low, one.high], [y, y], color=style.colour, solid_capstyle="butt", lw=width, alpha=alpha)
    axes.plot(one.seeds, [y] * len(one.seeds), "|", color=style.colour, markersize=6, markeredgewidth=1.2)
    axes.plot(
        [one.value],
        [y],
        marker=style.marker,
        color=style.colour,
        markersize=5.5,
        linestyle="none",
        markerfacecolor=style.colour if one.seeds or not math.isnan(one.low) else "none",
    )


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most about `most` of the points of a line, first and last kept: what no screen could show is not shipped."""
    keep = np.unique(np.linspace(0, max(x.size - 1, 0), min(most, x.size)).round().astype(np.int64))
    return x[keep], y[keep]
