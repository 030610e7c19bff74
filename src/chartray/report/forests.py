"""Which forests the report draws: macro values of all arms, values by label, differences between arms."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chartray.report.figures import DrawnPanel, Panel, Style, drawn, only, save_grid, saved, slug
from chartray.report.plots import Mark, forest_panel
from chartray.report.summary import over_seeds
from chartray.report.tables import arms_of, intervals
from chartray.results.arm import Arm
from chartray.results.schema import MACRO, Comparison, Score
from chartray.results.verdict import why_no_claim


class Forests(NamedTuple):
    """The forests of one place."""

    macro: DrawnPanel | None
    labels: list[DrawnPanel]
    differences: DrawnPanel | None


def forest_figures(
    place: str, scores: Sequence[Score], comparisons: Sequence[Comparison], styles: Mapping[Arm, Style], out: Path
) -> Forests:
    """Macro values, values by label and differences of one place; saved in `out`/figures."""
    there = [one for one in scores if one.place == place and one.metric == "auroc"]
    arms = arms_of(there)
    mine = only(styles, arms)
    macro, labels = _macro_panel(there, arms, styles), _label_panels(there, arms, styles)
    if labels:
        save_grid(labels, mine, out / "figures" / f"labels-{slug(place)}", columns=3)
    differences = _difference_panel(place, comparisons, mine)
    return Forests(
        macro=saved(macro, f"macro-{slug(place)}", mine, out) if macro else None,
        labels=[drawn(panel, f"label-{slug(place)}-{number}") for number, panel in enumerate(labels)],
        differences=saved(differences, f"differences-{slug(place)}", mine, out) if differences else None,
    )


def differences_by_label(
    rows: Sequence[Comparison], styles: Mapping[Arm, Style], metric: str, name: str
) -> DrawnPanel | None:
    """One pair's differences in `metric` (in words), a line a label, macro mean first; None where no label has one."""
    lines = [(_label(one.label), [_mark(one)]) for one in rows if one.difference is not None]
    if len(lines) < 2 or rows[0].arm_a not in styles:
        return None
    first = rows[0]
    title = f"{metric} of {first.arm_a.title} minus {first.arm_b.title}"
    return drawn(forest_panel(title, lines, styles, axis=f"difference in {metric}", zero=True), name)


def _label(label: str) -> str:
    return "Macro mean" if label == MACRO else label


def _mark(one: Comparison) -> Mark:
    low, high = (
        (one.ci_low, one.ci_high) if one.ci_low is not None and one.ci_high is not None else (math.nan, math.nan)
    )
    value = math.nan if one.difference is None else one.difference
    seeds = one.by_seed if len(one.by_seed) > 1 else ()
    return Mark(one.arm_a, value, low, high, seeds, outermost=one.seeds > 1 and not one.levels)


def _macro_panel(scores: Sequence[Score], arms: Sequence[Arm], styles: Mapping[Arm, Style]) -> Panel | None:
    macro = [one for one in scores if one.label == MACRO]
    rows = [(arm.title, intervals(macro, [arm])) for arm in arms]
    rows = [(title, marks) for title, marks in rows if marks]
    if not rows:
        return None
    return forest_panel("Macro AUROC", rows, styles, axis="macro AUROC", reference=_plain(macro, arms))


def _label_panels(scores: Sequence[Score], arms: Sequence[Arm], styles: Mapping[Arm, Style]) -> list[Panel]:
    labels = sorted({one.label for one in scores if one.value is not None and one.label != MACRO})
    ends = [
        end for one in scores if one.label in labels for end in (one.value, one.ci_low, one.ci_high) if end is not None
    ]
    low, high = (min(ends) - 0.02, max(ends) + 0.02) if ends else (0.0, 1.0)
    found = []
    for label in labels:
        mine = [one for one in scores if one.label == label]
        marks = intervals(mine, arms)
        panel = forest_panel(
            label, [("", marks)], styles, axis="AUROC", reference=_plain(mine, arms), limits=(low, high)
        )
        found.append(panel._replace(width=3.6))
    return found


def _plain(scores: Sequence[Score], arms: Sequence[Arm]) -> Mark | None:
    """Plain pretraining, the reference for charts: its interval for one seed, its mean alone for several.

    That of the first such arm: MSN where there is one.
    """
    plain = [arm for arm in arms if arm.kind == "none"]
    marks = intervals(scores, plain[:1])
    if not marks or not marks[0].seeds:
        return marks[0] if marks else None
    return marks[0]._replace(low=math.nan, high=math.nan)


def _difference_panel(name: str, comparisons: Sequence[Comparison], styles: Mapping[Arm, Style]) -> Panel | None:
    """The differences in macro AUROC of `name`: all pairs, seeds together."""
    pairs: dict[tuple[Arm, Arm], list[Comparison]] = {}
    for one in comparisons:
        shown = (one.place, one.label, one.metric) == (name, MACRO, "auroc") and one.difference is not None
        if shown and one.arm_a in styles and one.arm_b in styles:
            pairs.setdefault((one.arm_a, one.arm_b), []).append(one)
    found = [over_seeds(pairs[pair]) for pair in sorted(pairs, key=lambda pair: (pair[0].order, pair[1].order))]
    if not found:
        return None
    seeds = dict.fromkeys(map(_seeds, found))
    # What is the same for all rows is said once, under the axis.
    endings = [f" ({_seeds(one)})" if len(seeds) > 1 else "" for one in found]
    rows = [
        (f"{one.arm_a.title} − {one.arm_b.title}{end}", [_mark(one)]) for one, end in zip(found, endings, strict=True)
    ]
    axis = "difference in macro AUROC" + (f" ({next(iter(seeds))})" if len(seeds) == 1 else "")
    return forest_panel("Differences in macro AUROC", rows, styles, axis=axis, zero=True)


def _seeds(one: Comparison) -> str:
    return f"{one.seeds} seed{'s' if one.seeds > 1 else ''}{': no claim' if why_no_claim(one.seeds) else ''}"
