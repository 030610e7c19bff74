"""The picture of a plan: detectable difference over seeds, and over test patients."""

import csv
import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from chartray.csv_cells import harmless
from chartray.evaluation.plan import SEEDS, Plan, PlannedCell
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import write_sealed
from chartray.outputs.replacing import replaced_folder
from chartray.report.figures import INK, MUTED, Panel, save_grid
from chartray.results.schema import MACRO

_SHADES = ("#56b4e9", "#0072b2", "#44aa99", "#117733", "#332288")
_MARKERS = ("v", "o", "s", "D", "^")


_PLAN = "plan.json"


def check_plan_replaceable(out: Path) -> None:
    """Raises InputError unless `out` is a new or empty folder, or an earlier plan."""
    refuse_other(out, lambda names: "" if _PLAN in names else "no earlier plan")


def write_plan(plan: Plan, out: Path) -> Path:
    """Writes `out`/plan.json, plan.csv (a row for each label, seeds and patients), plan.svg and plan.pdf."""
    check_plan_replaceable(out)
    with replaced_folder(out) as partial:
        cells = [cell._asdict() for cell in plan.cells]
        write_sealed(plan._asdict() | {"cells": cells}, partial / _PLAN)
        with (partial / "plan.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, PlannedCell._fields)
            writer.writeheader()
            writer.writerows(cell | {"label": harmless(str(cell["label"]))} for cell in cells)
        save_plan(plan, partial)
    return out


def save_plan(plan: Plan, out: Path) -> list[Path]:
    """`out`/plan.svg and plan.pdf."""
    sizes = sorted({one.patients for one in plan.cells})
    metric = {"auroc": "AUROC", "average_precision": "AP"}[plan.metric]
    over_seeds = _panel(
        "Over seeds, a line for each number of test patients",
        "seeds an arm",
        f"detectable difference, macro {metric}",
        list(SEEDS),
        {f"{size:,}": [plan.cell(MACRO, seeds, size).detectable for seeds in SEEDS] for size in sizes},
        plan,
    )
    over_patients = _panel(
        "Over test patients, a line for each number of seeds",
        "test patients",
        f"detectable difference, macro {metric}",
        sizes,
        {f"{seeds} seeds": [plan.cell(MACRO, seeds, size).detectable for size in sizes] for seeds in SEEDS},
        plan,
    )
    return save_grid([over_seeds, over_patients], {}, out / "plan", columns=2)


def _panel(title: str, below: str, beside: str, places: list[int], lines: dict[str, list[float]], plan: Plan) -> Panel:
    def draw(axes: Axes) -> None:
        ends = _apart([values[-1] for values in lines.values()], 0.055 * max(max(each) for each in lines.values()))
        for place, (name, values) in enumerate(lines.items()):
            colour = _SHADES[place % len(_SHADES)]
            axes.plot(places, values, color=colour, marker=_MARKERS[place % len(_MARKERS)], ms=4, lw=1.5)
            axes.annotate(
                name, (places[-1], ends[place]), (6, 0), textcoords="offset points", va="center", color=INK, size=8
            )
        if plan.margin is not None:
            axes.axhline(plan.margin, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
            axes.annotate("margin", (places[0], plan.margin), (0, 3), textcoords="offset points", color=MUTED, size=8)
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{each:,}" for each in places])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(places[0] * 0.9, places[-1] * (places[-1] / places[0]) ** 0.28)
        axes.set_ylim(0, None)
        axes.set_xlabel(below)
        axes.set_ylabel(beside)

    spoken = "; ".join(f"{name}: {values[0]:.3f} to {values[-1]:.3f}" for name, values in lines.items())
    return Panel(title, f"{title}. {spoken}", draw, 4.6, 3.2, 0.66)


def _apart(values: list[float], least: float) -> list[float]:
    """Where names stand beside lines that end at `values`: no nearer to each other than `least`."""
    order = np.argsort(values)
    placed = np.array(values, dtype=float)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + least)
    return [float(each) for each in placed]
