"""Tables of scores: labels down, arms across, each seed shown and no cell without its interval or its reason."""

from collections.abc import Sequence
from typing import NamedTuple

from chartray.report.figures import Interval
from chartray.report.inputs import MACRO, Arm, Score
from chartray.report.summary import chosen, mean, selection

METRICS = {"auroc": "AUROC", "auprc": "AUPRC"}


class Cell(NamedTuple):
    """`value` is the mean over seeds; `interval` is given for one seed, `seeds` for several."""

    value: str
    interval: str
    seeds: tuple[str, ...]
    reason: str


class Row(NamedTuple):
    """One label: how many films carry it and a cell for each arm (None where it was not scored)."""

    label: str
    films: int | None
    positives: int | None
    cells: tuple[Cell | None, ...]


class Table(NamedTuple):
    """A metric on one data set."""

    metric: str
    arms: tuple[Arm, ...]
    rows: tuple[Row, ...]


class Headline(NamedTuple):
    """An arm's macro AUROC on one data set, for the first screen; percentages place its interval on a common axis."""

    arm: Arm
    cell: Cell
    low_percent: float | None
    high_percent: float | None
    at_percent: float | None


def datasets(scores: Sequence[Score]) -> list[str]:
    """The data sets in the order of the results: the one that was pretrained on comes first."""
    return list(dict.fromkeys(one.dataset for one in scores))


def arms_of(scores: Sequence[Score]) -> list[Arm]:
    """Every arm that has a score, in the order of the columns."""
    return sorted({one.arm for one in scores}, key=lambda arm: arm.order)


def score_table(scores: Sequence[Score], dataset: str, metric: str) -> Table:
    """`scores` of one selection (`summary.chosen`); the macro mean is the first row."""
    there = [one for one in scores if one.dataset == dataset and one.metric == metric]
    arms = arms_of(there)
    labels = sorted({one.label for one in there}, key=lambda label: (label != MACRO, label))
    rows = []
    for label in labels:
        of_label = [one for one in there if one.label == label]
        counted = next((one for one in of_label if one.n is not None), of_label[0])
        cells = tuple(cell([one for one in of_label if one.arm == arm]) for arm in arms)
        rows.append(Row(label, counted.n, counted.n_positive if label != MACRO else None, cells))
    return Table(METRICS.get(metric, metric), tuple(arms), tuple(rows))


def cell(scores: Sequence[Score]) -> Cell | None:
    """What one cell says about an arm's scores on one label, one score a seed."""
    if not scores:
        return None
    value = mean(scores)
    reason = next((one.reason for one in scores if one.reason), "")
    if value is None:
        return Cell("–", "", (), reason or "no value")
    if len(scores) > 1:
        each = tuple("–" if one.value is None else f"{one.value:.3f}" for one in scores)
        return Cell(f"{value:.3f}", "", each, reason)
    low, high = scores[0].low, scores[0].high
    interval = "" if low is None or high is None else f"{low:.3f}–{high:.3f}"
    return Cell(f"{value:.3f}", interval, (), reason)


def axis_start(scores: Sequence[Score]) -> float:
    """Where the bars of the first screen begin: at chance, or at 0 where an arm does worse than chance somewhere."""
    macro = [one for one in scores if (one.label, one.metric) == (MACRO, "auroc") and one.value is not None]
    ends = [one.value if one.low is None else one.low for one in macro]
    return 0.5 if all(end is None or end >= 0.5 for end in ends) else 0.4 if min(filter(None, ends)) >= 0.4 else 0.0


def headlines(scores: Sequence[Score], dataset: str, start: float) -> list[Headline]:
    """Macro AUROC of every arm on a data set; places run from `start` to 1, the same for all data sets."""
    macro = [one for one in scores if (one.dataset, one.label, one.metric) == (dataset, MACRO, "auroc")]

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / (1 - start), 2)

    found = []
    for arm in arms_of(macro):
        of_arm = [one for one in macro if one.arm == arm]
        shown = cell(of_arm)
        if shown is None:
            continue
        lows, highs = (
            [one.low for one in of_arm if one.low is not None],
            [one.high for one in of_arm if one.high is not None],
        )
        # Over several seeds the bar is the span of the seeds' values; an interval over seeds is the comparisons' work.
        values = [one.value for one in of_arm if one.value is not None]
        low, high = (
            (min(values), max(values)) if len(values) > 1 else (min(lows, default=None), max(highs, default=None))
        )
        found.append(Headline(arm, shown, place(low), place(high), place(mean(of_arm))))
    return found


def intervals(scores: Sequence[Score], arms: Sequence[Arm]) -> list[Interval]:
    """The scores as marks of a forest plot, arms in order, every seed on its own line; null values are left out."""
    nan = float("nan")
    found = []
    for arm in arms:
        for one in scores:
            if one.arm == arm and one.value is not None:
                low, high = (nan, nan) if one.low is None or one.high is None else (one.low, one.high)
                found.append(Interval(arm, one.value, low, high))
    return found


class OtherRow(NamedTuple):
    """Macro AUROC of one arm under another protocol, split or share of the labels."""

    protocol: str
    split: str
    fraction: str
    arm: Arm
    cell: Cell


def other_rows(scores: Sequence[Score], dataset: str) -> list[OtherRow]:
    """The macro AUROC of everything that is not the main selection."""
    main = selection(scores)
    found = []
    settings = dict.fromkeys((one.protocol, one.split, one.fraction) for one in scores)
    for protocol, split, fraction in settings:
        if (protocol, split, fraction) == main:
            continue
        rows = chosen(scores, type(main)(protocol, split, fraction))
        macro = [one for one in rows if (one.dataset, one.label, one.metric) == (dataset, MACRO, "auroc")]
        for arm in arms_of(macro):
            shown = cell([one for one in macro if one.arm == arm])
            if shown is not None:
                found.append(OtherRow(protocol, split, f"{100 * fraction:g} %", arm, shown))
    return found
