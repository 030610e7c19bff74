"""What the numbers say, in sentences: a claim only where the verdict on a comparison allows it (`results.verdict`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from chartray.report.disambiguate import names_of
from chartray.report.summary import (
    Outcome,
    at,
    chosen,
    mean,
    outcome,
    over_seeds,
    plain,
    seeds_of,
    selection,
    signed,
)
from chartray.results.arm import CHART_ONLY, IMAGE_CHART, PIXELS, RADIOLOGISTS, UNTRAINED, Arm, dataset_name
from chartray.results.schema import MACRO, METRIC_WORDS, Comparison, Interaction, Score
from chartray.results.verdict import SEEDS_FOR_A_CLAIM, encoders, seen
from chartray.wording import p_said, plural

Topic = Literal["declared", "chart", "image", "both", "untrained", "pixels", "public"]
# What the first screen answers, in this order.
QUESTIONS: dict[Topic, str] = {
    "declared": "The declared question",
    "chart": "Does pretraining with the chart help?",
    "image": "Does the image say more than the chart alone?",
    "both": "Does the chart add to the image?",
    "untrained": "Does pretraining help at all?",
    "pixels": "Does pretraining beat plain pixels?",
    "public": "Against public encoders",
}
_NOWHERE: Mapping[tuple[Arm, Arm], set[str]] = {}
Standing = Literal["better", "worse", "mixed", "equal", "open", "no claim", "unknown"]


class Statement(NamedTuple):
    """A sentence on two arms, its standing in a few words, and the kind of it, which the page colours."""

    outcome: Standing
    standing: str
    sentence: str
    topic: Topic
    arms: str = ""


class _SeededComparison(NamedTuple):
    """A comparison at one place, over how many seeds it speaks, and over which (empty: not known)."""

    one: Comparison
    seeds: int
    names: tuple[int, ...]

    @property
    def kind(self) -> Standing:
        found = outcome(self.one)
        return "equal" if found == "open" and self.one.within_margin else found

    @property
    def seen(self) -> Outcome:
        """What its interval alone shows, of these encoders."""
        low, high = self.one.ci_low, self.one.ci_high
        if low is None or high is None:
            return "unknown"
        return "better" if low > 0 else "worse" if high < 0 else "open"


def verdicts(
    scores: Sequence[Score], comparisons: Sequence[Comparison], interactions: Sequence[Interaction] = ()
) -> list[Statement]:
    """The sentences of the first screen, by topic in the order of `QUESTIONS`.

    `scores` and `comparisons` are under the names of the page. Arms are compared where they differ in the chart alone.
    Plain pixels are named only where pretraining does not beat them everywhere.
    """
    which = selection(scores)
    rows = [one for one in chosen(scores, which) if one.label == MACRO and one.metric == "auroc"]
    arms = sorted({one.arm for one in rows}, key=lambda arm: arm.order)
    # What the declared question asks stands there, and not among what is exploratory.
    told = [one for one in comparisons if one.role in ("primary", "family")]
    pairs = _macro_pairs(one for one in at(comparisons, which) if one not in told)
    above = {pair: {one.place for one in there} for pair, there in _macro_pairs(at(told, which)).items()}
    trained = [arm for arm in arms if arm.kind in ("chart", "none")]
    found = _declared(comparisons)
    for arm in (arm for arm in trained if arm.kind == "chart"):
        for rival in (rival for rival in arms if rival.kind in ("none", "control")):
            of_it = rival.kind == "none" or (rival.chart, rival.use) == (arm.chart, arm.use)
            if of_it and arm.differs_in_chart_alone(rival) and ((arm, rival) in pairs or (arm, rival) not in above):
                found.append(_between(arm, rival, pairs, rows, "chart", above))
    for arm in trained:
        found += [_between(arm, other, pairs, rows, "image") for other in _beside(arm, CHART_ONLY, pairs)]
        found += [_between(other, arm, pairs, rows, "both") for other in _beside(arm, IMAGE_CHART, pairs)]
        untrained = _beside(arm, UNTRAINED, pairs)
        found += [_between(arm, other, pairs, rows, "untrained") for other in untrained]
        if not untrained and any(other.control == UNTRAINED for other in arms):
            sentence = f"Pretraining ({arm.title}) was not compared with the untrained encoder."
            found.append(Statement("unknown", "Not compared", sentence, "untrained"))
        for other in _beside(arm, PIXELS, pairs):
            if any(one.ci_low is None or one.ci_low <= 0 for one in pairs[arm, other]):
                found.append(_between(arm, other, pairs, rows, "pixels"))
        publics = [rival for rival in arms if rival.kind == "public" and (arm, rival) in pairs]
        found += [_between(arm, rival, pairs, rows, "public") for rival in publics]
    tested = {
        f"{a.title} / {b.title}": one
        for one in interactions
        if (one.label, one.metric) == (MACRO, "auroc") and one.claim is None
        if (one.protocol, one.split, one.fraction) == which[:3]
        for a, b in ((one.arm_a, one.arm_b), (one.arm_b, one.arm_a))
    }
    found = [_by_data_set(one, tested.get(one.arms)) for one in found]
    return sorted(found, key=lambda one: list(QUESTIONS).index(one.topic))


class Answer(NamedTuple):
    """A question of the first screen with its statements; all but the declared one are exploratory."""

    title: str
    declared: bool
    statements: list[Statement]


def answers(
    scores: Sequence[Score], comparisons: Sequence[Comparison], interactions: Sequence[Interaction] = ()
) -> list[Answer]:
    """The sentences of `verdicts` under their questions, the declared one first."""
    said = verdicts(scores, comparisons, interactions)
    grouped = [(topic, [one for one in said if one.topic == topic]) for topic in QUESTIONS]
    return [Answer(QUESTIONS[topic], topic == "declared", there) for topic, there in grouped if there]


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
    declared, untrained, about = (
        [one.sentence for one in said if one.topic == topic] for topic in ("declared", "untrained", "chart")
    )
    lines.append(untrained[0] if untrained else "The untrained encoder was not scored.")
    about = [*declared, *(one for one in about if one not in declared)]
    lines.append(about[0] if about else "No two arms differ in the chart alone, so the chart was not tested.")
    no_control = "No control (shuffled, constant, mask-only) was run: a gain could come from the added layer alone."
    return [*lines, about[1] if len(about) > 1 else no_control]


def _declared(comparisons: Sequence[Comparison]) -> list[Statement]:
    """The rows of the declared question, the primary one first, whatever they measure."""
    asked = [one for role in ("primary", "family") for one in comparisons if one.role == role]
    return [
        _statement(one.arm_a.title, one.arm_b.title, [_SeededComparison(one, one.seeds, ())], "declared", _measure(one))
        for one in asked
    ]


def _measure(one: Comparison) -> str:
    metric = METRIC_WORDS.get(one.metric, one.metric)
    return f"macro {metric}" if one.label == MACRO else f"{metric} of {one.label}"


def _beside(arm: Arm, control: str, pairs: Mapping[tuple[Arm, Arm], list[Comparison]]) -> list[Arm]:
    """The baselines of a kind that an arm was compared with: image + chart on its own embedding."""
    plainly = replace(arm, note="").title
    found = [b for a, b in pairs if a == arm and b.control == control and b.on in ("", plainly, arm.title)]
    return sorted(found, key=lambda one: one.title)


def _between(
    a: Arm,
    b: Arm,
    pairs: Mapping[tuple[Arm, Arm], list[Comparison]],
    rows: Sequence[Score],
    topic: Topic,
    above: Mapping[tuple[Arm, Arm], set[str]] = _NOWHERE,
) -> Statement:
    """What may be said of a against b at all places where both were scored, and compared but for those of `above`."""
    there = pairs.get((a, b), [])
    sides = [arm for arm in (a, b) if arm.kind in ("chart", "none", "control")]
    told = []
    for one in there:
        names = [{row.pretraining_seed for row in rows if row.arm == arm and row.place == one.place} for arm in sides]
        known = set.intersection(*names) if names else set()
        # Of a comparison of two pretrained arms every seed must have been scored.
        count = min([one.seeds, *(len(each) for each in names if each and len(sides) > 1)])
        numbers = tuple(sorted(each for each in known if each is not None))
        told.append(_SeededComparison(one, count, numbers if len(numbers) == count else ()))
    here, fewest = _title(a, topic, told, rows), plural(SEEDS_FOR_A_CLAIM, "seed")
    if not told:
        few = min(seeds_of(rows, arm) for arm in sides) < SEEDS_FOR_A_CLAIM
        why = f"; no claim: fewer than {fewest}" if few else ""
        return Statement("unknown", "Not compared", f"{here} against {b.title} was not compared{why}.", topic)
    both = [{row.place for row in rows if row.arm == arm} for arm in (a, b)]
    bare = [place for place in dict.fromkeys(row.place for row in rows) if place in both[0] & both[1]]
    bare = [place for place in bare if place not in {one.place for one in there} | above.get((a, b), set())]
    said = _statement(here, _named(b), told, topic)._replace(arms=f"{a.title} / {b.title}")
    if bare:
        said = said._replace(sentence=f"{said.sentence} Not compared on {', '.join(map(dataset_name, bare))}.")
    return said


def _title(arm: Arm, topic: Topic, told: Sequence[_SeededComparison], rows: Sequence[Score]) -> str:
    """The first arm of a sentence, and of how many of its seeds it speaks."""
    behind, scored = max((one.seeds for one in told), default=0), seeds_of(rows, arm)
    some = f", {behind} of {scored} seeds" if 1 < behind < scored else ""
    if topic in ("untrained", "pixels"):
        return f"Pretraining ({arm.title}{some})"
    return f"{arm.title}{f' ({some[2:]})' if some else ''}"


def _named(arm: Arm) -> str:
    return {UNTRAINED: f"the {arm.title}"}.get(arm.control, arm.title)


def _by_data_set(said: Statement, tested: Interaction | None) -> Statement:
    """What was shown on some data sets alone differs by data set only where a test of interaction says so."""
    if said.outcome != "mixed" or tested is None or tested.p_holm is None:
        return said
    over = f", over the {plural(len(tested.labels), 'label')} that all of them count" if tested.labels else ""
    words = f" Test of interaction between data sets{over}: {p_said(tested.p_holm)}."
    standing = "Differs by data set" if tested.p_holm <= 1 - tested.level else said.standing
    return said._replace(standing=standing, sentence=said.sentence + words)


def _statement(
    a: str, b: str, told: Sequence[_SeededComparison], topic: Topic, measure: str = "macro AUROC"
) -> Statement:
    """One sentence over all places, those over enough seeds first; every place with its difference and interval."""
    enough = [each for each in told if each.seeds >= SEEDS_FOR_A_CLAIM]
    first = _texts(a, b, [(each.kind, each.one) for each in enough], measure, "shown")
    sentences = ["; ".join(first)] if first else []
    few: dict[tuple[int, tuple[int, ...]], list[_SeededComparison]] = {}
    for each in told:
        if each.seeds < SEEDS_FOR_A_CLAIM:
            few.setdefault((each.seeds, each.names), []).append(each)
    for (seeds, names), there in few.items():
        what = "; ".join(_texts(a, b, [(each.seen, each.one) for each in there], measure, "seen"))
        sentences.append(seen(what, seeds, names))
    return Statement(*_standing(told), f"{'. '.join(sentences)}.", topic)


def _texts(
    a: str, b: str, found: Sequence[tuple[Standing, Comparison]], measure: str, verb: Literal["shown", "seen"]
) -> list[str]:
    """Clauses over places that are alike; after the first, the two names are not repeated where they need not be."""
    margin = next((one.margin for _, one in found if one.margin is not None), None)
    words: dict[Standing, str] = {
        "better": f"{a} is higher than {b} in {measure}: ",
        "worse": f"{a} is lower than {b} in {measure}: ",
        "equal": f"{a} and {b} differ by no more than {margin} in {measure}: ",
    }
    texts = [
        opening + ", ".join(_part(one, kind) for what, one in found if what == kind)
        for kind, opening in words.items()
        if any(what == kind for what, _ in found)
    ]
    rest: list[str] = []
    claims: dict[str, list[Comparison]] = {}
    for what, one in found:
        if what == "no claim":
            claims.setdefault(one.claim or "no claim", []).append(one)
    rest += [f"{', '.join(_part(one, 'no claim') for one in there)} ({claim})" for claim, there in claims.items()]
    short: dict[Standing, str] = {"open": f"no difference {verb} on ", "unknown": "no interval on "}
    for kind, opening in short.items():
        there = [_part(one, kind) for what, one in found if what == kind]
        rest += [opening + ", ".join(there)] if there else []
    if rest and not texts:
        rest[0] = f"{a} against {b} in {measure}: {rest[0]}"
    return texts + rest


def _part(one: Comparison, kind: Standing) -> str:
    """A place with its difference; where no difference is shown, what could have been seen."""
    name = dataset_name(one.place)
    if one.difference is None:
        return name
    text = f"{name} {signed(one.difference, one.ci_low, one.ci_high)}"
    if kind in ("better", "worse") and one.within_margin:
        return f"{text} (and shown to be no more than {one.margin:g})"
    if kind != "open" or one.detectable is None:
        return text
    needs = [
        plural(count, noun) for count, noun in ((one.seeds_needed, "seed"), (one.patients_needed, "patient")) if count
    ]
    wanted = f"; a difference of {one.margin:g} needs {' an arm, or '.join(needs)}" if needs and one.margin else ""
    return f"{text} (80 % power for {one.detectable:.3f}{wanted})"


def _standing(told: Sequence[_SeededComparison]) -> tuple[Standing, str]:
    """The kind and the words: shown everywhere, or on how many data sets; a part of a data set is no further one."""
    whole = [each for each in told if not each.one.dataset.endswith(RADIOLOGISTS)] or list(told)
    few = [each for each in whole if each.seeds < SEEDS_FOR_A_CLAIM]
    if len(few) == len(whole):
        most = max(few, key=lambda each: each.seeds)
        # A part in which something was seen is in the sentence.
        saw = any(each.seen in ("better", "worse") for each in few)
        return "no claim", f"Seen in {encoders(most.seeds)}" if saw else f"No claim: {plural(most.seeds, 'seed')}"
    kinds = [each.kind for each in whole if each.seeds >= SEEDS_FOR_A_CLAIM]
    measured = [kind for kind in kinds if kind != "unknown"]
    if not measured:
        return "unknown", "Not compared"
    count = {kind: measured.count(kind) for kind in measured}
    every = len(measured) + len(few)
    better, worse = count.get("better", 0), count.get("worse", 0)
    if better and worse:
        return "mixed", f"Shown on {better}, against on {worse} of {every}"
    if better or worse:
        how = "Shown" if better else "Shown, against"
        kind: Standing = "better" if better else "worse"
        there = better or worse
        return (kind, how) if there == every else ("mixed", f"{how}{', ' if worse else ' '}on {there} of {every}")
    if set(measured) == {"equal"}:
        return "equal", f"No difference over {max(each.one.margin or 0 for each in whole):g}"
    if set(measured) == {"no claim"}:
        return "no claim", "Exploratory" if any(
            "exploratory" in (each.one.claim or "") for each in whole
        ) else "No claim"
    return "open", "No difference shown"


def _macro_pairs(comparisons: Iterable[Comparison]) -> dict[tuple[Arm, Arm], list[Comparison]]:
    """The macro AUROC's comparisons by (a, b), each way round, one a place."""
    found: dict[tuple[Arm, Arm], dict[str, list[Comparison]]] = {}
    for one in comparisons:
        if one.label == MACRO and one.metric == "auroc":
            for way in (one, one.reversed):
                found.setdefault((way.arm_a, way.arm_b), {}).setdefault(way.place, []).append(way)
    return {pair: [over_seeds(same) for same in by.values()] for pair, by in found.items()}


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
