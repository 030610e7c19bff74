"""Tables of scores: labels down, arms across, each seed shown and no cell without its interval or its reason."""

from collections.abc import Sequence
from typing import NamedTuple

from chartray.report.arms import Arm
from chartray.report.figures import Interval
from chartray.report.rows import MACRO, Comparison, Score
from chartray.report.summary import chosen, mean, over_seeds, selection, selection_of, signed

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


def places(scores: Sequence[Score]) -> list[str]:
    """The places in the order of the results: data sets, and whose probe was scored there."""
    return list(dict.fromkeys(one.place for one in scores))


def arms_of(scores: Sequence[Score]) -> list[Arm]:
    """Every arm that has a score, in the order of the columns."""
    return sorted({one.arm for one in scores}, key=lambda arm: arm.order)


def score_table(scores: Sequence[Score], place: str, metric: str) -> Table:
    """`scores` of one selection (`summary.chosen`); the macro mean is the first row."""
    there = [one for one in scores if one.place == place and one.metric == metric]
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


def headlines(scores: Sequence[Score], where: str, start: float) -> list[Headline]:
    """Macro AUROC of every arm at one place; its axis runs from `start` to 1, the same for all places."""
    macro = [one for one in scores if (one.place, one.label, one.metric) == (where, MACRO, "auroc")]

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


class Difference(NamedTuple):
    """One label of a difference table; `p_holm` is corrected over the labels, "" where it was not."""

    label: str
    value: str
    p: str
    p_holm: str


class DifferenceTable(NamedTuple):
    """AUROC of `a` minus that of `b`, label by label."""

    a: Arm
    b: Arm
    seeds: int
    rows: tuple[Difference, ...]

    @property
    def corrected(self) -> bool:
        """Whether any row has a p corrected over the labels."""
        return any(row.p_holm for row in self.rows)


def difference_tables(comparisons: Sequence[Comparison], place: str) -> list[DifferenceTable]:
    """A table for each pair of pretrained encoders that was compared at `place` label by label, seeds together."""
    found: dict[tuple[Arm, Arm], dict[str, list[Comparison]]] = {}
    for one in comparisons:
        pretrained = one.a.kind != "source" and one.b.kind != "source"
        if pretrained and (one.place, one.metric) == (place, "auroc") and one.difference is not None:
            found.setdefault((one.a, one.b), {}).setdefault(one.label, []).append(one)
    tables = []
    for a, b in sorted(found, key=lambda pair: (pair[0].order, pair[1].order)):
        labels = found[a, b]
        if set(labels) == {MACRO}:
            continue
        rows = [over_seeds(labels[label]) for label in sorted(labels, key=lambda label: (label != MACRO, label))]
        differences = [
            Difference(
                one.label,
                signed(one.difference, one.low, one.high),
                p_value(one.p),
                "" if one.label == MACRO else p_value(one.p_holm),
            )
            for one in rows
        ]
        tables.append(DifferenceTable(a, b, max(one.seeds for one in rows), tuple(differences)))
    return tables


def p_value(p: float | None) -> str:
    """A p in print.

    >>> p_value(0.0312), p_value(0.0002), p_value(None)
    ('0.031', '< 0.001', '')
    """
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


class OtherRow(NamedTuple):
    """Macro AUROC of one arm under another protocol, split, share of the labels or reading of them."""

    protocol: str
    split: str
    fraction: str
    reading: str
    arm: Arm
    cell: Cell


def other_rows(scores: Sequence[Score], place: str) -> list[OtherRow]:
    """The macro AUROC of everything that is not the main selection."""
    main = selection(scores)
    found = []
    for which in dict.fromkeys(selection_of(one) for one in scores):
        if which == main:
            continue
        rows = chosen(scores, which)
        macro = [one for one in rows if (one.place, one.label, one.metric) == (place, MACRO, "auroc")]
        reading = f"uncertain: {which.uncertain or 'not recorded'}; blank: {which.blank or 'not recorded'}"
        for arm in arms_of(macro):
            shown = cell([one for one in macro if one.arm == arm])
            if shown is not None:
                share = f"{100 * which.fraction:g} %"
                found.append(OtherRow(which.protocol, which.split, share, reading, arm, shown))
    return found
