"""What the numbers say, in sentences: a claim only where an interval carries it, none about the chart on few seeds."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

from chartray.report import inputs
from chartray.report.inputs import MACRO, NO_CHART, Arm, Comparison, Score, shown

# DESIGN and METHOD: one seed of a self-supervised run moves by as much as the chart is expected to.
SEEDS_FOR_A_CLAIM = 3
Outcome = Literal["better", "worse", "open", "no claim", "unknown"]


class Verdict(NamedTuple):
    """A sentence with its standing: `outcome` colours it, `parts` are (data set, difference with interval)."""

    outcome: Outcome
    sentence: str
    parts: tuple[tuple[str, str], ...] = ()
    topic: Literal["untrained", "pixels", "chart"] = "chart"


class Selection(NamedTuple):
    """Which results are the main ones: everything else is shown as another protocol, fraction or split."""

    protocol: str
    split: str
    fraction: float


def selection(scores: Sequence[Score]) -> Selection:
    """The linear probe if there is one, the test split if it was scored, the largest share of the labels."""
    protocols = list(dict.fromkeys(one.protocol for one in scores)) or ["linear"]
    protocol = "linear" if "linear" in protocols else protocols[0]
    splits = {one.split for one in scores if one.protocol == protocol} or {"test"}
    split = "test" if "test" in splits else sorted(splits)[0]
    return Selection(protocol, split, max((one.fraction for one in scores if one.protocol == protocol), default=1.0))


def chosen(scores: Iterable[Score], which: Selection) -> list[Score]:
    """The scores of a selection, each (arm, run, seed, data set, label, metric) once.

    A floor that was scored beside several runs with one seed is one measurement, not several. Image + chart is kept
    on the encoder that saw no chart, where there is one: that is the ceiling that pretraining with the chart faces.
    """
    scores = list(scores)
    plain_ceiling = any(one.arm.control == "image+chart" and one.arm.on == NO_CHART for one in scores)
    found: dict[tuple[Any, ...], Score] = {}
    for one in scores:
        if plain_ceiling and one.arm.control == "image+chart" and one.arm.on != NO_CHART:
            continue
        if (one.protocol, one.split, one.fraction) == which:
            run = "" if one.arm.kind == "source" and one.arm.control != "image+chart" else one.run
            found.setdefault((one.arm, run, one.seed, one.dataset, one.label, one.metric), one)
    return list(found.values())


def signed(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A difference with its interval: +0.070 [0.041, 0.099]."""
    if value is None:
        return "not measured"
    return f"{value:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")


def plain(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A value with its interval: 0.712 [0.684, 0.740]."""
    if value is None:
        return "no value"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def seeds_of(scores: Iterable[Score], arm: Arm) -> int:
    """How many seeds an arm was pretrained with."""
    return len({one.seed for one in scores if one.arm == arm})


def verdicts(scores: Sequence[Score], comparisons: Sequence[Comparison]) -> list[Verdict]:
    """The sentences of the first screen: against the untrained encoder, against no chart, against the controls.

    Plain pixels are spoken of only where pretraining does not beat them everywhere: that is news nobody may miss.
    """
    which = selection(scores)
    rows = chosen(scores, which)
    arms = sorted({one.arm for one in rows}, key=lambda arm: arm.order)
    pairs = _macro_pairs(at(comparisons, which))
    found = []
    untrained = next((arm for arm in arms if arm.control == "untrained"), None)
    trained = [arm for arm in arms if arm.kind in ("chart", "none")]
    for arm in trained if untrained else []:
        found.append(_against_untrained(arm, pairs.get((arm, untrained), []) if untrained else []))
    for arm in trained:
        beside = pairs.get((arm, Arm("none", "pixels")), [])
        if any(outcome(one) != "better" for one in beside):
            found.append(_against_floor(arm, "plain pixels", beside)._replace(topic="pixels"))
    charts = [arm for arm in arms if arm.kind == "chart"]
    rivals = [arm for arm in arms if arm.kind in ("none", "control")]
    for arm in charts:
        for rival in rivals:
            if rival.kind == "control" and (rival.chart, rival.use) != (arm.chart, arm.use):
                continue
            seeds = min(seeds_of(rows, arm), seeds_of(rows, rival))
            found.append(_about_the_chart(arm, rival, pairs.get((arm, rival), []), seeds))
    return found


def five_lines(results: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Five lines that say what an experiment found; rows as in results.jsonl and comparisons.jsonl.

    Raises KeyError where a row of `results` lacks dataset, label or metric.
    """
    scores, pairs = inputs.scores(results), [inputs.comparison(row) for row in comparisons]
    which = selection(scores)
    rows = [one for one in chosen(scores, which) if one.metric == "auroc" and one.label == MACRO]
    arms = sorted({one.arm for one in rows}, key=lambda arm: arm.order)
    datasets = list(dict.fromkeys(one.dataset for one in rows))
    trained = [arm for arm in arms if arm.kind != "source"]
    runs = len({(one.arm, one.run, one.seed) for one in rows if one.arm in trained})
    beside = [arm.title for arm in arms if arm.kind == "source"]
    first = f"{_plural(runs, 'pretraining run')} ({', '.join(arm.title for arm in trained) or 'none'})"
    first += f", {which.protocol} probe, {which.split} films of {', '.join(map(shown, datasets)) or 'no data set'}"
    lines = [first + (f"; beside them {', '.join(beside)}." if beside else ".")]
    lines.append(_macro_line(rows, trained, datasets))
    said = verdicts(scores, pairs)
    untrained, about = ([one for one in said if one.topic == topic] for topic in ("untrained", "chart"))
    lines.append(untrained[0].sentence if untrained else "The untrained encoder was not scored beside these runs.")
    lines.append(
        about[0].sentence if about else "No pair of runs differs in the chart alone: nothing is said about it."
    )
    if len(about) > 1:
        lines.append(about[1].sentence)
    else:
        lines.append(
            "No control (shuffled, constant, mask-only) was run, so a gain could come from the added layer alone."
        )
    return lines


def mean(scores: Sequence[Score]) -> float | None:
    """The mean over seeds; None where no seed has a value."""
    values = [one.value for one in scores if one.value is not None]
    return fmean(values) if values else None


def outcome(one: Comparison) -> Outcome:
    """What the interval of a difference allows to be said."""
    if one.difference is None or one.low is None or one.high is None:
        return "unknown"
    return "better" if one.low > 0 else "worse" if one.high < 0 else "open"


def reversed_comparison(one: Comparison) -> Comparison:
    """b - a."""
    negative = [None if value is None else -value for value in (one.difference, one.high, one.low)]
    return one._replace(a=one.b, b=one.a, difference=negative[0], low=negative[1], high=negative[2])


def at(comparisons: Iterable[Comparison], which: Selection) -> list[Comparison]:
    """The comparisons of a selection."""
    return [one for one in comparisons if (one.protocol, one.fraction) == (which.protocol, which.fraction)]


def over_seeds(comparisons: Sequence[Comparison]) -> Comparison:
    """Comparisons of one pair on one data set as one: that over most seeds, if one was made over several.

    Else the mean difference with the outermost ends of the seeds' intervals, which claims less than any average would.
    """
    most = max(one.seeds for one in comparisons)
    best = [one for one in comparisons if one.seeds == most]
    first, count = best[0], len(best)
    if most > 1 or count == 1:
        return first
    values = [one.difference for one in best if one.difference is not None]
    lows, highs = [one.low for one in best], [one.high for one in best]
    low = min((value for value in lows if value is not None), default=None) if None not in lows else None
    high = max((value for value in highs if value is not None), default=None) if None not in highs else None
    return first._replace(difference=fmean(values) if values else None, low=low, high=high, p=None, seeds=count)


def _macro_pairs(comparisons: Iterable[Comparison]) -> dict[tuple[Arm, Arm], list[Comparison]]:
    """The macro AUROC's comparisons by (a, b), each way round, one a data set."""
    found: dict[tuple[Arm, Arm], dict[str, list[Comparison]]] = {}
    for one in comparisons:
        if one.label == MACRO and one.metric == "auroc":
            for way in (one, reversed_comparison(one)):
                found.setdefault((way.a, way.b), {}).setdefault(way.dataset, []).append(way)
    return {pair: [over_seeds(same) for same in by.values()] for pair, by in found.items()}


def _against_untrained(arm: Arm, pairs: Sequence[Comparison]) -> Verdict:
    if not pairs:
        sentence = f"Pretraining ({arm.title}) was not compared with the untrained encoder."
        return Verdict("unknown", sentence, topic="untrained")
    return _against_floor(arm, "the untrained encoder", pairs)._replace(topic="untrained")


def _against_floor(arm: Arm, floor: str, pairs: Sequence[Comparison]) -> Verdict:
    ours = f"Pretraining ({arm.title})"
    better, worse = f"{ours} beats {floor} in macro AUROC", f"{ours} falls short of {floor} in macro AUROC"
    return _spoken(better, worse, f"{ours} against {floor}", pairs)


def _about_the_chart(arm: Arm, rival: Arm, pairs: Sequence[Comparison], seeds: int) -> Verdict:
    parts = _parts(pairs)
    against = f"{arm.title} against {rival.title}"
    if seeds < SEEDS_FOR_A_CLAIM:
        seen = f"; seen: {_joined(parts)}" if parts else ""
        count = f"{_plural(seeds, 'seed')}, {SEEDS_FOR_A_CLAIM} needed"
        return Verdict("no claim", f"No claim about the chart, {against}: {count}{seen}.", parts)
    if not pairs:
        return Verdict("unknown", f"{against} was not compared.")
    return _spoken(
        f"{arm.title} beats {rival.title} in macro AUROC",
        f"{rival.title} beats {arm.title} in macro AUROC",
        against,
        pairs,
    )


def _spoken(better: str, worse: str, open_words: str, pairs: Sequence[Comparison]) -> Verdict:
    """One sentence over all data sets, in the order better, worse, open; the strongest of them colours it."""
    texts, outcomes = [], [outcome(one) for one in pairs]
    words: dict[Outcome, str] = {
        "better": f"{better}: ",
        "worse": f"{worse}: ",
        "open": f"{open_words}: no difference shown on ",
        "unknown": f"{open_words}: no interval on ",
    }
    for kind, opening in words.items():
        there = _parts([one for one, what in zip(pairs, outcomes, strict=True) if what == kind])
        if there:
            texts.append(opening + _joined(there))
    first: Outcome = outcomes[0] if len(set(outcomes)) == 1 else "open"
    return Verdict(first, "; ".join(texts) + ".", _parts(pairs))


def _parts(pairs: Sequence[Comparison]) -> tuple[tuple[str, str], ...]:
    return tuple((shown(one.dataset), signed(one.difference, one.low, one.high)) for one in pairs)


def _joined(parts: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{dataset} {text}" for dataset, text in parts)


def _macro_line(rows: Sequence[Score], arms: Sequence[Arm], datasets: Sequence[str]) -> str:
    texts = []
    for dataset in datasets:
        cells = []
        for arm in arms:
            there = [one for one in rows if one.arm == arm and one.dataset == dataset]
            if there:
                low, high = (there[0].low, there[0].high) if len(there) == 1 else (None, None)
                cells.append(f"{arm.title} {plain(mean(there), low, high)}")
        if cells:
            texts.append(f"{shown(dataset)}: {', '.join(cells)}")
    return "Macro AUROC: " + ("; ".join(texts) if texts else "no value") + "."


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
