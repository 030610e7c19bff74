"""Which results are the main ones, and what a comparison of two arms allows to be said (`results.verdict`)."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from chartray.report.disambiguate import refuse_another_value
from chartray.results.arm import IMAGE_CHART, NO_CHART, Arm
from chartray.results.audit_rows import AttributeDifference
from chartray.results.schema import Comparison, Score
from chartray.results.verdict import Verdict, verdict_of_interval, why_no_claim

_NOT_MEASURED = "not measured"
Outcome = Literal["better", "worse", "open", "no claim", "unknown"]
_OUTCOMES: dict[Verdict, Outcome] = {
    Verdict.A_HIGHER: "better",
    Verdict.B_HIGHER: "worse",
    Verdict.NO_DIFFERENCE: "open",
    Verdict.NO_CLAIM: "no claim",
}


class Selection(NamedTuple):
    """Which results are the main ones: all else is shown as another protocol, split, fraction or reading of labels."""

    protocol: str
    split: str
    fraction: float
    uncertain: str | None = None
    blank: str | None = None


# How evaluation reads uncertain and blank labels by default, and then with --blank negative.
_USUAL_LABELS = (("ignore", "source"), ("ignore", "negative"))


def selection_of(one: Score | Comparison) -> Selection:
    """The selection that a score or a comparison belongs to."""
    return Selection(one.protocol, one.split, one.fraction, one.uncertain, one.blank)


def selection(scores: Sequence[Score]) -> Selection:
    """The linear probe if there is one, the test split if it was scored, the largest share of the training patients.

    Uncertain labels ignored and blank ones as their source says, if they were read so; else as they were read first.
    """
    protocols = list(dict.fromkeys(one.protocol for one in scores)) or ["linear"]
    protocol = "linear" if "linear" in protocols else protocols[0]
    there = [one for one in scores if one.protocol == protocol]
    splits = {one.split for one in there} or {"test"}
    split = "test" if "test" in splits else sorted(splits)[0]
    there = [one for one in there if one.split == split]
    readings = list(dict.fromkeys((one.uncertain, one.blank) for one in there)) or [(None, None)]
    reading = next((usual for usual in _USUAL_LABELS if usual in readings), readings[0])
    there = [one for one in there if (one.uncertain, one.blank) == reading]
    return Selection(protocol, split, max((one.fraction for one in there), default=1.0), *reading)


def chosen(scores: Iterable[Score], which: Selection) -> list[Score]:
    """The scores of a selection, each (arm, run, seed, place, label, metric) once.

    A baseline that was scored with several runs of one seed is one measurement. Image + chart is kept on the
    encoder that saw no chart, where there is one: this is the upper reference for pretraining with the chart. Raises
    InputError where two scores of one thing differ.
    """
    scores = [one for one in scores if selection_of(one) == which]
    on_no_chart = any(one.arm.control == IMAGE_CHART and NO_CHART in one.arm.on for one in scores)
    found: dict[tuple[Arm, str, int | None, str, str, str], Score] = {}
    for one in scores:
        if on_no_chart and one.arm.control == IMAGE_CHART and NO_CHART not in one.arm.on:
            continue
        run = "" if one.arm.is_baseline and one.arm.control != IMAGE_CHART else one.run
        first = found.setdefault((one.arm, run, one.pretraining_seed, one.place, one.label, one.metric), one)
        refuse_another_value(first, one)
    return list(found.values())


def signed(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A difference with its interval: +0.070 [0.041, 0.099]."""
    if value is None:
        return _NOT_MEASURED
    return f"{value:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")


def plain(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A value with its interval: 0.712 [0.684, 0.740]."""
    if value is None:
        return "no value"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def seeds_of(scores: Iterable[Score], arm: Arm, place: str | None = None) -> int:
    """How many seeds an arm was pretrained with, of those that were scored at `place` if one is given."""
    return len({one.pretraining_seed for one in scores if one.arm == arm and place in (None, one.place)})


def mean(scores: Sequence[Score]) -> float | None:
    """The mean over seeds; None where no seed has a value."""
    values = [one.value for one in scores if one.value is not None]
    return fmean(values) if values else None


def outcome(one: Comparison) -> Outcome:
    """What a comparison allows to be said of a."""
    said = verdict_of(one)
    return "unknown" if said is None else _OUTCOMES[said]


def verdict_of(one: Comparison | AttributeDifference) -> Verdict | None:
    """The verdict that a comparison recorded, else that of its interval; None where it has no interval.

    Whatever was recorded, fewer than `SEEDS_FOR_A_CLAIM` seeds allow no claim.
    """
    if one.difference is None or one.ci_low is None or one.ci_high is None:
        return None
    if one.verdict is None or why_no_claim(one.seeds):
        return verdict_of_interval(one.ci_low, one.ci_high, one.seeds)
    return one.verdict


def at(comparisons: Iterable[Comparison], which: Selection) -> list[Comparison]:
    """The comparisons of a selection."""
    return [one for one in comparisons if selection_of(one) == which]


def over_seeds(comparisons: Sequence[Comparison]) -> Comparison:
    """Comparisons of one pair at one place as one: that over most seeds, if one was made over several.

    Else the mean difference with the outermost ends of the seeds' intervals, which claims less than any average would;
    a pair that was compared twice with one seed counts once.
    """
    most = max(one.seeds for one in comparisons)
    of_most = [one for one in comparisons if one.seeds == most]
    best = list({(one if one.run_seed is None else one.run_seed): one for one in reversed(of_most)}.values())[::-1]
    first, count = best[0], len(best)
    if most > 1 or count == 1:
        return first
    values = [one.difference for one in best if one.difference is not None]
    lows = [one.ci_low for one in best if one.ci_low is not None]
    highs = [one.ci_high for one in best if one.ci_high is not None]
    return first.replaced(
        difference=fmean(values) if values else None,
        ci_low=min(lows) if len(lows) == count else None,
        ci_high=max(highs) if len(highs) == count else None,
        seeds=count,
        by_seed=tuple(values),
        levels="",
        **dict.fromkeys(("p", "p_holm", "delong_p", "verdict")),
    )
