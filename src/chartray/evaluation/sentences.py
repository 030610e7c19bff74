"""What an evaluation says in words on the command line: its arms by name, and which chart the floors read."""

from collections.abc import Iterable, Mapping
from typing import Any

from chartray.truth import counted

CHART_FLOORS = ("chart-only", "image+chart")
NO_CHART = "no chart"


def arm_words(chart: str, control: str) -> str:
    """An arm as a reader calls it.

    >>> [arm_words("none", "none"), arm_words("sex,age", "none"), arm_words("sex,age", "shuffled")]
    ['no chart', 'sex,age', 'sex,age, shuffled']
    >>> [arm_words("none", "untrained"), arm_words("sex,age", "chart-only")]
    ['untrained', 'chart-only (sex,age)']
    """
    if control in CHART_FLOORS:
        return f"{control} ({chart})"
    if control in ("untrained", "pixels"):
        return control
    name = NO_CHART if chart == "none" else chart
    return name if control == "none" else f"{name}, {control}"


def chart_floors_said(arms: Iterable[tuple[str, str]], left_out: Mapping[str, str]) -> list[str]:
    """Which chart the floors among arms (chart, control) read and without what, or why none is scored.

    >>> chart_floors_said([("none", "none"), ("sex", "chart-only")], {})
    ['chart-only and image+chart read the chart sex']
    """
    read = dict.fromkeys(chart for chart, control in arms if control in CHART_FLOORS)
    if read:
        without = [
            f"{name.removeprefix('chart-only ')}: {why}"
            for name, why in left_out.items()
            if name.startswith("chart-only ")
        ]
        return [
            f"chart-only and image+chart read the chart {' and '.join(read)}" + "".join(f"; {each}" for each in without)
        ]
    if CHART_FLOORS[0] in left_out:
        return [f"no {' and no '.join(CHART_FLOORS)}: {left_out[CHART_FLOORS[0]]}"]
    return []


def said_first(manifest: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of an evaluation before its numbers."""
    arms = dict.fromkeys((str(row["chart"]), str(row["control"])) for row in rows)
    return [
        *blanks_counted(manifest),
        *chart_floors_said(arms, manifest["left_out"]),
        *(f"note: {note}" for note in manifest["not_compared"]),
    ]


def blanks_counted(manifest: Mapping[str, Any]) -> list[str]:
    """How many blank labels count as negative where the probe learns, and in each data set that was scored.

    >>> stores = [{"dataset": "mimic", "blank_negatives": {"Edema": 12}}, {"dataset": "nih", "blank_negatives": {}}]
    >>> for line in blanks_counted({"stores": stores, "settings": {"blank": "source"}}): print(line)
    blank labels counted as negative in mimic: Edema 12
    blank labels counted as negative in nih: none
    """
    blank = manifest["settings"]["blank"]
    asked = "" if blank == "source" else f" (--blank {blank})"
    places = [
        (f"in {one['dataset']}", one["blank_negatives"])
        for one in manifest["stores"]
        if "blank_negatives" in one and not one.get("part_of")  # an earlier Chartray did not count them
    ]
    if "blank_negatives_learnt_from" in manifest:
        places.insert(0, ("in training", manifest["blank_negatives_learnt_from"]))
    return [f"blank labels counted as negative {where}{asked}: {counted(found) or 'none'}" for where, found in places]
