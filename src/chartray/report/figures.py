"""Figures as matplotlib panels: drawn alone for the page (SVG that follows its colours) and in a grid for print.

A panel is a drawing function for one set of axes, so that the page can lay panels out for any width while the SVG and
PDF files beside it hold the same drawing as one figure.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from chartray.report.arms import Arm

# Inches under the axes for tick labels and the axis title.
_BOTTOM = 0.48
PAPER, INK, MUTED, RULE = "#fbfbf9", "#1b2430", "#5b6675", "#d5dae1"
# Okabe and Ito's colour-blind-safe colours and greys; marker and line style say the same again without colour.
_CHART_COLOURS = ("#0072b2", "#56b4e9", "#332288", "#117733")
_FIXED: dict[str, tuple[str, str, Literal["-", "--", "-.", ":"]]] = {
    "none": ("#d55e00", "s", "--"),
    "dino": ("#882255", "s", "-."),
    "mae": ("#8c6d1f", "s", ":"),
    "shuffled": ("#cc79a7", "D", "-."),
    "constant": ("#e69f00", "^", ":"),
    "mask-only": ("#8c6d1f", "v", ":"),
    "untrained": ("#6b7280", "X", ":"),
    "pixels": ("#98a1ac", "P", ":"),
    "chart-only": ("#009e73", "*", "-."),
    "image+chart": ("#44aa99", "h", "--"),
}
_MARKERS = ("o", "^", "v", "D", "s", "X", "P", "*", "h")
_LINES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-.", ":", "--", "-")
# Keys are literals to the type checker; any mapping of them will do.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # Type 3 holds the glyphs used and no more: TrueType would read and subset the whole font for each file.
    "pdf.fonttype": 3,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}


class Style(NamedTuple):
    """How an arm looks everywhere on the page."""

    colour: str
    marker: str
    line: Literal["-", "--", "-.", ":"]


class Panel(NamedTuple):
    """One set of axes: `title` above it, `description` for those who cannot see it, inches wide and high."""

    title: str
    description: str
    draw: Callable[[Axes], None]
    width: float = 3.6
    height: float = 2.5
    left: float = 0.62


class Series(NamedTuple):
    """One run's values of one quantity over the steps."""

    arm: Arm
    seed: int | None
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


class Interval(NamedTuple):
    """A value with its interval (NaN where there is none), one for each seed."""

    arm: Arm
    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """A ROC curve."""

    arm: Arm
    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]


def styles(arms: Sequence[Arm]) -> dict[Arm, Style]:
    """A look for each arm, the same in every figure: charts in blues, no chart vermilion, floors grey.

    Arms that would look alike (no chart under MSN and under DINO) differ in marker and line.
    """
    found: dict[Arm, Style] = {}
    for arm in sorted(set(arms), key=lambda arm: arm.order):
        if arm.kind == "chart":
            place = sum(other.kind == "chart" for other in found)
            style = Style(_CHART_COLOURS[place % len(_CHART_COLOURS)], "o", "-")
        else:
            name = (arm.objective if arm.objective in _FIXED else "none") if arm.kind == "none" else arm.control
            style = Style(*_FIXED.get(name, ("#882255", "o", "-")))
        ways = (style._replace(marker=marker, line=line) for line in _LINES for marker in _MARKERS)
        found[arm] = next((one for one in (style, *ways) if one not in found.values()), style)
    return found


def training_panel(title: str, series: Sequence[Series], look: Mapping[Arm, Style], unit: str) -> Panel:
    """A quantity over optimizer steps, all runs overlaid; a thin line is raw, nothing is smoothed."""

    def draw(axes: Axes) -> None:
        for one in series:
            style = look[one.arm]
            mark = style.marker if one.steps.size <= 40 else ""
            axes.plot(*thinned(one.steps, one.values), color=style.colour, linestyle=style.line, marker=mark, ms=3)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    ends = ", ".join(f"{one.arm.title} ends at {one.values[-1]:.3g}" for one in series if one.values.size)
    return Panel(title, f"{title} over optimizer steps: {ends}", draw)


def roc_panel(title: str, curves: Sequence[Curve], look: Mapping[Arm, Style]) -> Panel:
    """ROC curves of one label, one an arm."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for curve in reversed(curves):
            style = look[curve.arm]
            x, y = thinned(curve.false_positive_rate, curve.true_positive_rate, 150)
            axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=1.5)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")

    return Panel(title, f"ROC curves for {title}", draw, 2.6, 2.6, 0.55)


def forest_panel(
    title: str,
    rows: Sequence[tuple[str, Sequence[Interval]]],
    look: Mapping[Arm, Style],
    *,
    axis: str,
    reference: Interval | None = None,
    zero: bool = False,
    limits: tuple[float, float] | None = None,
) -> Panel:
    """Values with intervals: a named row for each entry, its intervals under each other.

    `reference` is drawn as a band through all rows (plain MSN); with `zero` a line at no difference.
    """
    heads = [0.33 if name else 0.1 for name, _ in rows]
    lines = [max(len(intervals), 1) * 0.17 + head for head, (_, intervals) in zip(heads, rows, strict=True)]

    def draw(axes: Axes) -> None:
        if reference is not None and not math.isnan(reference.low):
            axes.axvspan(reference.low, reference.high, color=look[reference.arm].colour, alpha=0.10, linewidth=0)
        if reference is not None:
            axes.axvline(reference.value, color=look[reference.arm].colour, linewidth=0.9, linestyle=(0, (3, 2)))
        if zero:
            axes.axvline(0, color=INK, linewidth=0.9)
        top = 0.0
        for (name, intervals), head, height in zip(rows, heads, lines, strict=True):
            # The name stands on the plot's ground, so that no line runs through it.
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}
            place = axes.get_yaxis_transform()
            if name:
                axes.text(0, top + 0.15, name, transform=place, va="center", ha="left", color=INK, size=9, bbox=ground)
            for line, one in enumerate(intervals):
                _interval(axes, one, top + head + 0.17 * line, look[one.arm])
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
    return Panel(title, f"{title}. {spoken}", draw, 4.9, sum(lines) + _BOTTOM + 0.2, 0.15)


def _interval(axes: Axes, one: Interval, y: float, style: Style) -> None:
    if not math.isnan(one.low):
        axes.plot([one.low, one.high], [y, y], color=style.colour, linewidth=1.8, solid_capstyle="butt")
    face = "none" if math.isnan(one.low) else style.colour
    axes.plot(
        [one.value],
        [y],
        marker=style.marker,
        color=style.colour,
        markersize=5.5,
        linestyle="none",
        markerfacecolor=face,
    )


def roc(truth: NDArray[np.float64], score: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates (N,), from all to nothing called negative; ties share one point.

    Rows with NaN truth are left out. Raises ValueError where one class is absent.

    >>> roc(np.array([0., 1.]), np.array([.2, .9]))[1].tolist()
    [0.0, 1.0, 1.0]
    """
    known = ~np.isnan(truth)
    positive, score = truth[known] > 0.5, score[known]
    if positive.all() or not positive.any():
        raise ValueError("a ROC curve needs both classes")
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), positive.size - 1)
    hits = np.cumsum(positive[order])[ends]
    false = ends + 1 - hits
    return np.append(0.0, false / (~positive).sum()), np.append(0.0, hits / positive.sum())


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most about `most` of the points of a line, first and last kept: what no screen could show is not shipped."""
    keep = np.unique(np.linspace(0, max(x.size - 1, 0), min(most, x.size)).round().astype(np.int64))
    return x[keep], y[keep]


def single(panel: Panel, name: str) -> str:
    """A panel alone, as an SVG element for the page: its ink, rules and arm colours are the page's CSS variables."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(panel.width, panel.height))
        panel.draw(_axes(figure, panel, 0.0, panel.height, top=0.1))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return themed(text.getvalue(), name, panel.description)


def save_grid(panels: Sequence[Panel], look: Mapping[Arm, Style], stem: Path, *, columns: int) -> list[Path]:
    """All panels as one figure with a legend: `stem`.svg and `stem`.pdf."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = panels[0].width, max(panel.height for panel in panels) + 0.2
    with mpl.rc_context(_STYLE | {"svg.hashsalt": stem.name}):
        legend_columns = max(1, min(len(look), int(width * columns / 2.4)))
        legend_height = 0.2 * math.ceil(len(look) / legend_columns) + 0.15
        figure = Figure(figsize=(width * columns, height * rows + legend_height))
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            axes = _axes(figure, panel, column * width, legend_height + (rows - row) * height, top=0.3)
            panel.draw(axes)
            axes.set_title(panel.title)
        handles = [
            mpl.lines.Line2D(
                [], [], color=style.colour, marker=style.marker, linestyle=style.line, ms=5, label=arm.title
            )
            for arm, style in look.items()
        ]
        figure.legend(handles=handles, loc="lower left", ncols=legend_columns)
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = [stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.pdf")]
        figure.savefig(files[0], metadata={"Date": None})
        figure.savefig(files[1], metadata={"CreationDate": None})
    return files


def _axes(figure: Figure, panel: Panel, left: float, top_edge: float, *, top: float) -> Axes:
    """Axes for a panel whose upper left corner is at (left, top_edge) inches.

    Margins are given, not measured: matplotlib's layout engines draw every figure twice.
    """
    width, height = figure.get_size_inches()
    inner_width, inner_height = panel.width - panel.left - 0.15, panel.height - _BOTTOM - 0.1
    corner = left + panel.left, top_edge - top - inner_height
    return figure.add_axes(
        (corner[0] / width, corner[1] / height, inner_width / width, inner_height / height), anchor="NW"
    )


def themed(svg: str, name: str, description: str) -> str:
    """A matplotlib SVG made part of the page: unique ids, page font, CSS colours, words for screen readers.

    A fixed colour stays as the fallback of each variable, so the element is right outside the page too.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--c{found[0][1:]}, {found[0]})", svg)
    words = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    width, height = (float(found) for found in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())  # type: ignore[union-attr]
    head = f'<svg class="plot" role="img" aria-label="{words}" viewBox="0 0 {width:g} {height:g}" '
    head += f'style="--w: {width / 0.75:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]
