"""Tables of scores: labels down, arms across, each seed shown and no cell without its interval or its reason."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from chartray.report.plots import Mark, together
from chartray.report.summary import chosen, mean, over_seeds, selection, selection_of, signed, verdict_of
from chartray.results.arm import Arm
from chartray.results.schema import MACRO, Comparison, Score
from chartray.results.verdict import after_correction
from chartray.small_counts import nearly
from chartray.wording import p_value


class MetricTitle(NamedTuple):
    """A metric in print: its title, what a reader must know of it, and whether its table is open from the start."""

    title: str
    note: str
    is_open: bool = False


# How evaluation makes the interval of a share.
EXACT_SHARE = (
    "Intervals are exact (Clopper and Pearson), for the effective number of images; at 0 or 1, for that of patients."
)
# In the order of the page; "{}" is the specificity that thresholds were chosen for, in per cent.
METRICS = {
    "auroc": MetricTitle("AUROC", "0.5 is chance, 1 is perfect.", is_open=True),
    "average_precision": MetricTitle("Average precision", "Chance is the share of positive images."),
    "sensitivity": MetricTitle(
        "Sensitivity at {} % specificity",
        f"At the threshold that reaches {{}} % specificity on the validation images. {EXACT_SHARE}",
    ),
    "specificity": MetricTitle("Specificity reached", f"At the same threshold, chosen for {{}} %. {EXACT_SHARE}"),
    "brier": MetricTitle("Brier score", "Mean squared error of the scores as probabilities; lower is better."),
    "ece": MetricTitle(
        "Calibration error",
        "Expected calibration error over 10 bins of equally many images; lower is better. "
        "Chance: the error that perfect probabilities of as many images show.",
    ),
}


class Cell(NamedTuple):
    """`value` is the mean over seeds; `interval` is given for one seed, `seeds` for several."""

    value: str
    interval: str
    seeds: tuple[str, ...]
    reason: str


class LabelRow(NamedTuple):
    """One label: its positive images of its images, as they are told, and a cell for each arm (None where it was not
    scored); `few` positive patients.
    """

    label: str
    few: bool
    images: str
    cells: tuple[Cell | None, ...]


class ScoreTable(NamedTuple):
    """A metric on one data set."""

    metric: str
    note: str
    is_open: bool
    arms: tuple[Arm, ...]
    rows: tuple[LabelRow, ...]

    @property
    def has_few(self) -> bool:
        """Whether any label has few positive patients."""
        return any(row.few for row in self.rows)


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


def score_table(scores: Sequence[Score], place: str, metric: str) -> ScoreTable:
    """`scores` of one selection (`summary.chosen`); the macro mean is the first row."""
    there = [one for one in scores if one.place == place and one.metric == metric]
    arms = arms_of(there)
    labels = sorted({one.label for one in there}, key=lambda label: (label != MACRO, label))
    rows = []
    whole = max((one.n for one in there if one.n is not None), default=0)
    for label in labels:
        of_label = [one for one in there if one.label == label]
        counted = next((one for one in of_label if one.n is not None), of_label[0])
        cells = tuple(cell([one for one in of_label if one.arm == arm]) for arm in arms)
        few = any(one.few_positives for one in of_label)
        positive = counted.n_positive if label != MACRO else None
        rows.append(LabelRow(label, few, _images(positive, counted.n, whole), cells))
    percent = next((f"{100 * one.at_specificity:g}" for one in there if one.at_specificity is not None), "fixed")
    title, note, is_open = METRICS[metric]
    return ScoreTable(title.format(percent), note.format(percent), is_open, tuple(arms), tuple(rows))


def _images(positive: int | None, images: int | None, whole: int) -> str:
    """Positive images of the images of a label; `whole` are those of all labels."""
    if images is None:
        return ""
    told = nearly(images, whole)
    return told if positive is None else f"{nearly(positive, images)} of {told}"


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
    low, high = scores[0].ci_low, scores[0].ci_high
    interval = "" if low is None or high is None else f"{low:.3f}–{high:.3f}"
    chance = scores[0].by_chance
    interval += f"; chance {chance:.3f}" if interval and chance is not None else ""
    return Cell(f"{value:.3f}", interval, (), reason)


def axis_start(scores: Sequence[Score]) -> float:
    """Where the bars of the first screen begin: at chance, or at 0 where an arm does worse than chance somewhere."""
    macro = [one for one in scores if (one.label, one.metric) == (MACRO, "auroc") and one.value is not None]
    ends = [one.value if one.ci_low is None else one.ci_low for one in macro]
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
            [one.ci_low for one in of_arm if one.ci_low is not None],
            [one.ci_high for one in of_arm if one.ci_high is not None],
        )
        # Over several seeds the bar is the span of the seeds' values; an interval over seeds is the comparisons' work.
        values = [one.value for one in of_arm if one.value is not None]
        low, high = (
            (min(values), max(values)) if len(values) > 1 else (min(lows, default=None), max(highs, default=None))
        )
        found.append(Headline(arm, shown, place(low), place(high), place(mean(of_arm))))
    return found


def intervals(scores: Sequence[Score], arms: Sequence[Arm]) -> list[Mark]:
    """The scores as marks of a forest plot, arms in order, an arm's seeds together; null values are left out."""
    nan = float("nan")
    found = []
    for arm in arms:
        marks = []
        for one in scores:
            if one.arm == arm and one.value is not None:
                low, high = (nan, nan) if one.ci_low is None or one.ci_high is None else (one.ci_low, one.ci_high)
                marks.append(Mark(arm, one.value, low, high))
        found += [together(marks)] if marks else []
    return found


class LabelDifference(NamedTuple):
    """One label of a difference table; `p_holm` is corrected over the labels, "" where it was not.

    `verdict` names the arm that is higher, or says that no difference was shown or nothing is claimed.
    """

    label: str
    value: str
    p: str
    p_holm: str
    delong: str
    verdict: str


class DifferenceTable(NamedTuple):
    """A metric of `a` minus that of `b`, label by label; `pairs` are the comparisons behind `rows`."""

    a: Arm
    b: Arm
    metric: str
    seeds: int
    levels: str
    rows: tuple[LabelDifference, ...]
    pairs: tuple[Comparison, ...]

    @property
    def corrected(self) -> bool:
        """Whether any row has a p corrected over the labels."""
        return any(row.p_holm for row in self.rows)

    @property
    def has_delong(self) -> bool:
        """Whether any row has DeLong's p."""
        return any(row.delong for row in self.rows)


def difference_tables(comparisons: Sequence[Comparison], place: str) -> list[DifferenceTable]:
    """A table for each metric and pair of pretrained encoders compared at `place` label by label, seeds together."""
    found: dict[tuple[Arm, Arm, str], dict[str, list[Comparison]]] = {}
    for one in comparisons:
        pretrained = not one.arm_a.is_baseline and not one.arm_b.is_baseline
        if pretrained and one.place == place and one.metric in METRICS and one.difference is not None:
            found.setdefault((one.arm_a, one.arm_b, one.metric), {}).setdefault(one.label, []).append(one)
    tables = []
    metrics = list(METRICS)
    for a, b, metric in sorted(found, key=lambda key: (metrics.index(key[2]), key[0].order, key[1].order)):
        labels = found[a, b, metric]
        if set(labels) == {MACRO}:
            continue
        pairs = [over_seeds(labels[label]) for label in sorted(labels, key=lambda label: (label != MACRO, label))]
        over = sum(one.p is not None for one in pairs if one.label != MACRO)
        rows = tuple(_difference(one, over) for one in pairs)
        seeds, levels = max(one.seeds for one in pairs), next((one.levels for one in pairs if one.levels), "")
        tables.append(DifferenceTable(a, b, METRICS[metric].title, seeds, levels, rows, tuple(pairs)))
    return tables


def _difference(one: Comparison, over: int) -> LabelDifference:
    value = signed(one.difference, one.ci_low, one.ci_high)
    # The macro mean is tested alone: there is nothing to correct for.
    holm = "" if one.label == MACRO else p_value(one.p_holm)
    words = after_correction(spoken_verdict(one), one.ci_low, one.ci_high, over if holm else 0, "label")
    return LabelDifference(one.label, value, p_value(one.p), holm, p_value(one.delong_p), words)


def spoken_verdict(one: Comparison) -> str:
    """What the comparison allows to be said, with the arms by name; "" where it has no interval."""
    said = verdict_of(one)
    return "" if said is None else said.named(one.arm_a.title, one.arm_b.title)


class OtherRow(NamedTuple):
    """Macro AUROC of one arm under another protocol, split, share of the training patients or reading of the labels."""

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
        reading = "as above" if which[3:] == main[3:] else reading
        for arm in arms_of(macro):
            shown = cell([one for one in macro if one.arm == arm])
            if shown is not None:
                share = f"{100 * which.fraction:g} %"
                found.append(OtherRow(which.protocol, which.split, share, reading, arm, shown))
    return found


class StudyRow(NamedTuple):
    """An arm's macro values by image and by study."""

    arm: Arm
    images: tuple[Cell | None, ...]
    studies: tuple[Cell | None, ...]


class StudyTable(NamedTuple):
    """Macro values by image and by study; `metrics` are the titles of the columns."""

    metrics: tuple[str, ...]
    images: int | None
    studies: int | None
    rows: tuple[StudyRow, ...]


def study_table(scores: Sequence[Score], studies: Sequence[Score], place: str) -> StudyTable | None:
    """Both of one selection (`summary.chosen`); None where no study was scored at `place`."""
    by_image, by_study = ([one for one in of if (one.place, one.label) == (place, MACRO)] for of in (scores, studies))
    metrics = [metric for metric in ("auroc", "average_precision") if any(one.metric == metric for one in by_study)]
    if not metrics:
        return None

    def cells(of: Sequence[Score], arm: Arm) -> tuple[Cell | None, ...]:
        return tuple(cell([one for one in of if (one.arm, one.metric) == (arm, metric)]) for metric in metrics)

    rows = tuple(StudyRow(arm, cells(by_image, arm), cells(by_study, arm)) for arm in arms_of(by_study))
    counts = [next((one.n for one in of if one.n is not None), None) for of in (by_image, by_study)]
    titles = tuple(METRICS[metric].title for metric in metrics)
    return StudyTable(titles, counts[0], counts[1], rows)


def delong_words(scores: Sequence[Score], place: str) -> str:
    """How wide the intervals are against DeLong's clustered by patient; "" without these."""
    ratios = []
    for one in scores:
        ends = one.ci_low, one.ci_high, one.delong_low, one.delong_high
        if (one.place, one.metric) != (place, "auroc") or None in ends:
            continue
        low, high, delong_low, delong_high = (float(end) for end in ends if end is not None)
        ratios += [(high - low) / (delong_high - delong_low)] if delong_high > delong_low else []
    if not ratios:
        return ""
    least, middle, most = (f"{value:.2f}" for value in (min(ratios), median(ratios), max(ratios)))
    return (
        f"Cross-check: the intervals are {middle} times as wide as DeLong’s, which are clustered by patient too "
        f"(median of {len(ratios)}; range {least} to {most})."
    )
