"""What the numbers say, in sentences: a claim only where the verdict on a comparison allows it (`results.verdict`)."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from chartray.report.disambiguate import names_of, refuse_another_value
from chartray.results.arm import IMAGE_CHART, NO_CHART, PIXELS, UNTRAINED, Arm, dataset_name
from chartray.results.schema import MACRO, AttributeDifference, Comparison, Score
from chartray.results.verdict import SEEDS_FOR_A_CLAIM, Verdict, verdict_of_interval, why_no_claim
from chartray.wording import plural

_NOT_MEASURED = "not measured"
Outcome = Literal["better", "worse", "mixed", "open", "no claim", "unknown"]
_STANDING: dict[Outcome, str] = {
    "better": "Shown",
    "worse": "Shown, against",
    "mixed": "Differs by data set",
    "open": "No difference shown",
    "no claim": "No claim",
    "unknown": "Not compared",
}
_OUTCOMES: dict[Verdict, Outcome] = {
    Verdict.A_HIGHER: "better",
    Verdict.B_HIGHER: "worse",
    Verdict.NO_DIFFERENCE: "open",
    Verdict.NO_CLAIM: "no claim",
}


class Statement(NamedTuple):
    """A sentence with its standing, which `outcome` colours."""

    outcome: Outcome
    sentence: str
    topic: Literal["untrained", "pixels", "chart"] = "chart"

    @property
    def standing(self) -> str:
        """In a word or two."""
        return _STANDING[self.outcome]


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


def verdicts(scores: Sequence[Score], comparisons: Sequence[Comparison]) -> list[Statement]:
    """The sentences of the first screen: against the untrained encoder, against no chart, against the controls.

    `scores` and `comparisons` are under the names of the page. Arms are compared where they differ in the chart alone.
    Plain pixels are named only where pretraining does not beat them everywhere.
    """
    which = selection(scores)
    rows = [one for one in chosen(scores, which) if one.label == MACRO and one.metric == "auroc"]
    arms = sorted({one.arm for one in rows}, key=lambda arm: arm.order)
    pairs = _macro_pairs(at(comparisons, which))
    found = []
    trained = [arm for arm in arms if arm.kind in ("chart", "none")]
    for arm in trained if any(arm.control == UNTRAINED for arm in arms) else []:
        found.append(_against_untrained(arm, _against(arm, UNTRAINED, pairs), seeds_of(rows, arm)))
    for arm in trained:
        beside = _against(arm, PIXELS, pairs)
        if any(one.ci_low is None or one.ci_low <= 0 for one in beside):
            found.append(_against_baseline(arm, "plain pixels", beside, seeds_of(rows, arm))._replace(topic="pixels"))
    charts = [arm for arm in arms if arm.kind == "chart"]
    rivals = [arm for arm in arms if arm.kind in ("none", "control")]
    for arm in charts:
        for rival in rivals:
            if rival.kind == "control" and (rival.chart, rival.use) != (arm.chart, arm.use):
                continue
            if arm.differs_in_chart_alone(rival):
                found.append(_about_the_chart(arm, rival, pairs.get((arm, rival), []), rows))
    return found


def five_lines(results: Sequence[Score], comparisons: Sequence[Comparison]) -> list[str]:
    """Five lines that say what an experiment found, from the rows of its evaluations and comparisons."""
    names = names_of(results, comparisons)
    scores, pairs = names.rows(results), names.rows(comparisons)
    which = selection(scores)
    rows = [one for one in chosen(scores, which) if one.metric == "auroc" and one.label == MACRO]
    arms = sorted({one.arm for one in rows}, key=lambda arm: arm.order)
    places = list(dict.fromkeys(one.place for one in rows))
    trained = [arm for arm in arms if not arm.is_baseline]
    runs = len({(one.arm, one.run, one.pretraining_seed) for one in rows if one.arm in trained})
    beside = [arm.title for arm in arms if arm.is_baseline]
    # The title of a control contains a comma itself.
    first = f"{plural(runs, 'pretraining run')} ({'; '.join(arm.title for arm in trained) or 'none'})"
    first += (
        f", {which.protocol} probe, {which.split} images of {', '.join(map(dataset_name, places)) or 'no data set'}"
    )
    lines = [first + (f"; baselines: {', '.join(beside)}." if beside else ".")]
    lines.append(_macro_line(rows, trained, places))
    said = verdicts(scores, pairs)
    untrained, about = ([one for one in said if one.topic == topic] for topic in ("untrained", "chart"))
    lines.append(untrained[0].sentence if untrained else "The untrained encoder was not scored.")
    lines.append(about[0].sentence if about else "No two arms differ in the chart alone, so the chart was not tested.")
    if len(about) > 1:
        lines.append(about[1].sentence)
    else:
        lines.append(
            "No control (shuffled, constant, mask-only) was run: a gain could come from the added layer alone."
        )
    return lines


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


def reversed_comparison(one: Comparison) -> Comparison:
    """b - a."""
    difference, low, high = (None if value is None else -value for value in (one.difference, one.ci_high, one.ci_low))
    return one.replaced(
        arm_a=one.arm_b,
        arm_b=one.arm_a,
        a=one.b,
        b=one.a,
        value_a=one.value_b,
        value_b=one.value_a,
        difference=difference,
        ci_low=low,
        ci_high=high,
        verdict=None if one.verdict is None else one.verdict.reversed,
        by_seed=tuple(-value for value in one.by_seed),
    )


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


def _macro_pairs(comparisons: Iterable[Comparison]) -> dict[tuple[Arm, Arm], list[Comparison]]:
    """The macro AUROC's comparisons by (a, b), each way round, one a place."""
    found: dict[tuple[Arm, Arm], dict[str, list[Comparison]]] = {}
    for one in comparisons:
        if one.label == MACRO and one.metric == "auroc":
            for way in (one, reversed_comparison(one)):
                found.setdefault((way.arm_a, way.arm_b), {}).setdefault(way.place, []).append(way)
    return {pair: [over_seeds(same) for same in by.values()] for pair, by in found.items()}


def _against_untrained(arm: Arm, pairs: Sequence[Comparison], seeds: int) -> Statement:
    if not pairs:
        sentence = f"Pretraining ({arm.title}) was not compared with the untrained encoder."
        return Statement("unknown", sentence, topic="untrained")
    return _against_baseline(arm, "the untrained encoder", pairs, seeds)._replace(topic="untrained")


def _against_baseline(arm: Arm, baseline: str, pairs: Sequence[Comparison], seeds: int) -> Statement:
    """`seeds` were scored; where fewer were set against the baseline, the sentence is about these alone."""
    few = [one for one in pairs if why_no_claim(one.seeds)]
    enough = [one for one in pairs if not why_no_claim(one.seeds)]
    fewest = min((one.seeds for one in few), default=seeds)
    if not enough:
        sentence = f"No claim about pretraining ({arm.title}) against {baseline}: {_needed(few, fewest)}."
        return Statement("no claim", sentence)
    behind = min(one.seeds for one in enough)
    ours = f"Pretraining ({arm.title}{f', {behind} of {seeds} seeds' if behind < seeds else ''})"
    better, worse = f"{ours} beats {baseline} in macro AUROC", f"{ours} is below {baseline} in macro AUROC"
    return _with_few(_spoken(better, worse, f"{ours} against {baseline}", enough), few, fewest)


def _against(arm: Arm, baseline: str, pairs: Mapping[tuple[Arm, Arm], list[Comparison]]) -> list[Comparison]:
    """The comparisons of `arm` with the baseline that was scored with it."""
    return [one for (a, b), found in pairs.items() if a == arm and b.control == baseline for one in found]


def _about_the_chart(arm: Arm, rival: Arm, pairs: Sequence[Comparison], rows: Sequence[Score]) -> Statement:
    """A claim for each place where both arms were scored, and compared, over enough seeds."""
    against = f"{arm.title} against {rival.title}"
    scored = min(seeds_of(rows, arm), seeds_of(rows, rival))
    seeds = [min(seeds_of(rows, arm, one.place), seeds_of(rows, rival, one.place), one.seeds) for one in pairs]
    few = [(one, count) for one, count in zip(pairs, seeds, strict=True) if count < SEEDS_FOR_A_CLAIM]
    enough = [one for one, count in zip(pairs, seeds, strict=True) if count >= SEEDS_FOR_A_CLAIM]
    if not pairs and scored >= SEEDS_FOR_A_CLAIM:
        return Statement("unknown", f"{against} was not compared.")
    rare = [one for one, _ in few]
    fewest = min((count for _, count in few), default=scored)
    if not enough:
        return Statement("no claim", f"No claim about the chart, {against}: {_needed(rare, fewest)}.")
    said = _spoken(
        f"{arm.title} beats {rival.title} in macro AUROC",
        f"{rival.title} beats {arm.title} in macro AUROC",
        against,
        enough,
    )
    elsewhere = {one.place for one in rows if one.arm == arm} & {one.place for one in rows if one.arm == rival}
    compared = {one.place for one in pairs}
    bare = [place for place in dict.fromkeys(one.place for one in rows) if place in elsewhere - compared]
    if bare:
        said = said._replace(
            sentence=f"{said.sentence.removesuffix('.')}; not compared on {', '.join(map(dataset_name, bare))}."
        )
    return _with_few(said, rare, fewest)


def _needed(few: Sequence[Comparison], fewest: int) -> str:
    """Why comparisons over `fewest` seeds carry no claim, and what was seen."""
    seen = [part for part in _parts(few) if part[1] != _NOT_MEASURED]
    needed = f"{plural(fewest, 'seed')}, {SEEDS_FOR_A_CLAIM} needed"
    return f"{needed}. Observed difference in macro AUROC: {_joined(seen)}" if seen else needed


def _with_few(said: Statement, few: Sequence[Comparison], fewest: int) -> Statement:
    """What was said of data sets with enough seeds, and after it those with too few."""
    if not few:
        return said
    sentence = f"{said.sentence.removesuffix('.')}; no claim elsewhere: {_needed(few, fewest)}."
    return said._replace(sentence=sentence)


def _spoken(better: str, worse: str, open_words: str, pairs: Sequence[Comparison]) -> Statement:
    """One sentence over all data sets, in the order better, worse, open; mixed where they differ."""
    texts, outcomes = [], [outcome(one) for one in pairs]
    words: dict[Outcome, str] = {
        "better": f"{better}: ",
        "worse": f"{worse}: ",
        "open": f"{open_words}: no difference shown on ",
        "unknown": f"{open_words}: no interval on ",
    }
    for kind, opening in words.items():
        there = [one for one, what in zip(pairs, outcomes, strict=True) if what == kind]
        if there:
            texts.append(opening + _joined(_parts(there)))
    # What was not measured is no outcome, and so cannot differ from one.
    said = sorted(set(outcomes) - {"unknown"})
    first: Outcome = "unknown" if not said else said[0] if len(said) == 1 else "mixed"
    return Statement(first, "; ".join(texts) + ".")


def _parts(pairs: Sequence[Comparison]) -> tuple[tuple[str, str], ...]:
    return tuple((dataset_name(one.place), signed(one.difference, one.ci_low, one.ci_high)) for one in pairs)


def _joined(parts: Sequence[tuple[str, str]]) -> str:
    return ", ".join(dataset if text == _NOT_MEASURED else f"{dataset} {text}" for dataset, text in parts)


def _macro_line(rows: Sequence[Score], arms: Sequence[Arm], places: Sequence[str]) -> str:
    texts = []
    for place in places:
        cells = []
        for arm in arms:
            there = [one for one in rows if one.arm == arm and one.place == place]
            if there:
                low, high = (there[0].ci_low, there[0].ci_high) if len(there) == 1 else (None, None)
                cells.append(f"{arm.title} {plain(mean(there), low, high)}")
        if cells:
            texts.append(f"{dataset_name(place)}: {', '.join(cells)}")
    return "Macro AUROC: " + ("; ".join(texts) if texts else "no value") + "."
