"""How the numbers of results folders were reached, in sentences that a paper's methods and a model card share.

Every fact is from a manifest or a row. What no file holds is left to the author: `AUTHOR` marks it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chartray.results.arm import dataset_name
from chartray.results.folder import ResultsFolder
from chartray.results.ledger import looks
from chartray.results.manifest import ComparisonManifest, EvaluationManifest, FractionEntry
from chartray.results.question import (
    Scorings,
    answer_lines,
    arm_titles,
    declaration_line,
    question_line,
    scored_line,
)
from chartray.results.schema import MACRO, METRIC_WORDS, Comparison, Score
from chartray.results.verdict import rule
from chartray.small_counts import counts, told
from chartray.statistics.metrics import FEW_POSITIVE_PATIENTS, MINIMUM_PATIENTS
from chartray.truth import BLANK_WORDS, UNCERTAIN_WORDS
from chartray.wording import joined

# What a probe's strength (or number of neighbours) was chosen on, as `chosen_by` in results.jsonl names it.
_CHOSEN = {
    "validation": "on the validation images",
    "cross-validation": "by cross-validation by patient inside the training images",
    "other labels": "as was best for the other labels",
    "cross-validation of all labels together": "by cross-validation by patient of all labels together",
    "nothing": "on no image (the middle of the list)",
}
# After the names of chart variables that are known only after the image.
LATE_CHART = "A gain from that says nothing about charts that are known when the image is taken."
# Metrics that change with the share of positive images.
_OF_PREVALENCE = ("average_precision", "brier")


class ScoredFolder(NamedTuple):
    """An evaluation and those of its scores that are spoken of."""

    manifest: EvaluationManifest
    scores: Sequence[Score]


def author(what: str) -> str:
    """The place of a fact that no file holds.

    >>> author("dates of the examinations")
    '[author: dates of the examinations]'
    """
    return f"[author: {what}]"


def question_sentences(manifests: Iterable[ComparisonManifest]) -> list[str]:
    """The declared question, when it was declared, and what a reader must know where there is none."""
    manifests = list(manifests)
    asked = {one.question.sha256: (one.question, one) for one in manifests if one.question is not None}
    if not asked:
        return (
            ["No question was declared before the test split was scored: every comparison is exploratory."]
            if manifests
            else []
        )
    found = []
    for declared, compared in asked.values():
        question = declared.question
        titles = arm_titles(declared, {title: [run.run for run in runs] for title, runs in compared.arms.items()})
        primary = [f"{name} ({titles[name]})" if name in titles else name for name in question.primary]
        family = "; ".join(f"{titles.get(a, a)} against {titles.get(b, b)}" for a, b in question.family)
        what = "macro mean" if question.label == MACRO else question.label
        margin = "" if question.margin is None else f", with a margin of equivalence of {question.margin:g}"
        found += [
            f"The primary question is whether {primary[0]} differs from {primary[1]} in "
            f"{METRIC_WORDS[question.metric]} ({what}) on {dataset_name(question.dataset)}{margin}.",
            declaration_line(declared, compared.earlier_questions),
            f"Pairs corrected together: {family}. Every other comparison is exploratory.",
        ]
    return found


def answer_of(compared: ResultsFolder[ComparisonManifest]) -> list[str]:
    """The declared question of a comparison, its answer first, and how often test was scored; a line each."""
    made = compared.manifest
    scored = [scored_line(each) for each in looks(made)]
    if made.question is None:
        return ["No question was declared: all differences are exploratory.", *scored]
    answers = answer_lines(compared.comparisons) or ["These evaluations are not those that the question is about."]
    asked = question_line(made.question, {name: [each.run for each in members] for name, members in made.arms.items()})
    return [asked, *answers, declaration_line(made.question, made.earlier_questions), *scored]


def look_sentences(compared: Iterable[ComparisonManifest], evaluated: Iterable[EvaluationManifest]) -> list[str]:
    """How often each test split was scored, by its ledger."""
    found: dict[str, Scorings] = {}
    for one in (scorings for each in compared for scorings in looks(each)):
        found[one.hash] = max(found.get(one.hash, one), one, key=lambda each: each.times)
    said = [scored_line(one) for one in found.values()]
    if said or not any(one.test_split_touched for one in evaluated):
        return said
    return [author("how often the test split was looked at; no ledger was given")]


def image_sentences(evaluations: Sequence[EvaluationManifest]) -> list[str]:
    """How stored and scored images were sized and scaled."""
    stored = sorted({one.size for each in evaluations for one in each.stores if one.size})
    scored = sorted({each.encoder.size for each in evaluations if each.encoder.size})
    found = []
    if stored:
        sides = joined(f"{side} x {side}" for side in stored)
        found.append(f"Images were stored as 8-bit grey, stretched to {sides} px; nothing was cropped away.")
    if scored:
        sides = joined(f"{side} x {side}" for side in scored)
        found.append(f"For scoring, each encoder saw the whole image at {sides} px.")
    return found


def learnt_from_sentences(evaluations: Sequence[EvaluationManifest], fraction: float) -> list[str]:
    """How many images and patients labels were learnt from and hyperparameters chosen on, by data set."""
    sizes: dict[str, list[str]] = {}
    for each in evaluations:
        for entry in (one for one in each.fractions if one.fraction == fraction and one.draws):
            part = entry.draws[0]
            text = (
                f"learnt from {told(part.train.films, 'training image')} of "
                f"{told(part.train.patients, 'patient')}, hyperparameters chosen on "
                f"{told(part.validate_.films, 'validation image')} of {told(part.validate_.patients, 'patient')}"
            )
            there = sizes.setdefault(dataset_name(each.home), [])
            there += [text] if text not in there else []
    return [f"Labels of {name} were {' or '.join(texts)}." for name, texts in sizes.items()]


def fraction_sentences(evaluations: Sequence[EvaluationManifest]) -> list[str]:
    """Smaller shares of the training patients, how they were drawn, and how often."""
    entries = {one.fraction: one for each in evaluations for one in each.fractions if one.fraction < 1}
    if not entries:
        return []
    most = max(len(one.draws) for one in entries.values())
    shares = joined(f"{100 * share:g} % ({_patients(entries[share])})" for share in sorted(entries))
    how = {str((each.settings.model_extra or {}).get("draw_by", "")) for each in evaluations}
    drawn = {
        "simple": ", simple random samples of the patients",
        "stratified": ", random samples of the patients, stratified by their rarest finding",
    }.get(next(iter(how)) if len(how) == 1 else "", "")
    over = f", the mean over {most} draws{drawn}, which the intervals cover" if most > 1 else drawn
    return [
        f"Probes were also fitted on {shares} of the training and validation patients{over}. Smaller shares are parts "
        "of larger ones."
    ]


def _patients(entry: FractionEntry) -> str:
    sizes = sorted({draw.train.patients for draw in entry.draws})
    return told(sizes[-1], "training patient") if sizes else "no patient"


def probe_words(folders: Sequence[ScoredFolder]) -> str:
    """How labels were learnt from the encoders, as manifests and rows say: ends a sentence on what was scored."""
    protocols = list(dict.fromkeys(score.protocol for one in folders for score in one.scores))
    if protocols not in (["linear"], ["knn"]):
        return _trained_words(protocols, [one.manifest for one in folders])
    linear = protocols == ["linear"]
    start = (
        "by an L2-regularised logistic regression per label, on features standardised on the training images"
        if linear
        else "by nearest training images, weighted by cosine"
    )
    grid = {one.manifest.probe for one in folders if one.manifest.probe is not None}
    what = "the penalty" if linear else "the number of neighbours"
    found = [start]
    if len(grid) == 1:
        probe = next(iter(grid))
        values = sorted(probe.candidates)
        found.append(
            f"{what}, one of {len(values)} between {values[0]:g} and {values[-1]:g}, is the one with the highest AUROC "
            f"on the validation images, or in cross-validation by patient ({probe.folds} folds) where validation has "
            f"fewer than {MINIMUM_PATIENTS} positive or {MINIMUM_PATIENTS} negative patients"
        )
    chosen = chosen_words(folders)
    return "; ".join([*found, *([chosen] if chosen else [])])


def chosen_words(folders: Sequence[ScoredFolder]) -> str:
    """What the setting of the encoders' probes was chosen on, each probe (a label of a folder) counted once: "it was
    chosen on the validation images (20 of 28 probes) and by ... (8 of 28)"; "" where no row says.
    """
    probes: dict[str, set[tuple[int, str]]] = {}
    for number, (manifest, scores) in enumerate(folders):
        for one in scores:
            mine = not one.arm.is_baseline and one.dataset == manifest.home
            if mine and one.metric == "auroc" and one.label != MACRO and one.chosen_by:
                probes.setdefault(one.chosen_by, set()).add((number, one.label))
    if not probes:
        return ""
    ways = [" or ".join(_CHOSEN.get(one, one) for one in by.split(" or ")) for by in probes]
    if len(ways) > 1:
        every = len(set().union(*probes.values()))
        parts = [f"{len(there)} of {every}" for there in probes.values()]
        parts[0] += " probes"
        ways = [f"{way} ({part})" for way, part in zip(ways, parts, strict=True)]
    what = "number of neighbours" if folders[0].scores[0].protocol == "knn" else "strength"
    return f"its {what} was chosen {joined(ways)}"


def _trained_words(protocols: Sequence[str], manifests: Sequence[EvaluationManifest]) -> str:
    if len(protocols) != 1 or protocols[0] not in ("finetune", "published"):
        return f"by the protocol {' or '.join(protocols)}"
    recipes = [one.recipe for one in manifests if one.recipe]
    same = recipes and all(recipe == recipes[0] for recipe in recipes)
    start = (
        "after fine-tuning the whole encoder"
        if protocols[0] == "finetune"
        else "by the protocol of the published system"
    )
    return start + (f" ({_recipe_words(recipes[0])})" if same else "")


def _recipe_words(recipe: Mapping[str, str | float | None]) -> str:
    """A recipe of training by gradient descent; a number that it does not hold is left out."""
    optimizer = {"adam": "Adam", "adamw": "AdamW"}.get(str(recipe.get("optimizer")), str(recipe.get("optimizer")))
    found = ["the linear layer alone"] if recipe.get("freeze") else []
    found += [f"{optimizer}, learning rate {recipe['learning_rate']:g}"] if "learning_rate" in recipe else []
    found += [f"{recipe['scheduler']} schedule"] if recipe.get("scheduler") else []
    named = {
        "warmup_epochs": "{:g} epochs of warm-up",
        "weight_decay": "weight decay {:g}",
        "batch_size": "batches of {:g} images",
        "drop_path": "drop path {:g}",
        "mixup": "mixup {:g}",
        "max_epochs": "at most {:g} epochs",
        "patience_epochs": "stopped after {:g} epochs without a gain on the validation images",
    }
    found += [words.format(recipe[name]) for name, words in named.items() if recipe.get(name)]
    decay = recipe.get("layer_decay")
    found += [f"layer-wise rate decay {decay:g}"] if decay not in (None, 1.0) else []
    return ", ".join(found)


def label_sentences(scores: Iterable[Score]) -> list[str]:
    """What blank and uncertain labels counted as."""
    blanks: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for one in scores:
        blanks |= {one.blank: BLANK_WORDS.get(one.blank, one.blank)} if one.blank else {}
        unsure |= {one.uncertain: UNCERTAIN_WORDS.get(one.uncertain, one.uncertain)} if one.uncertain else {}
    return [
        f"{what} labels: {' or '.join(words.values())}."
        for what, words in (("Blank", blanks), ("Uncertain", unsure))
        if words
    ]


def sample_sentences(manifests: Iterable[EvaluationManifest], scores: Iterable[Score]) -> list[str]:
    """How many images and patients were scored, and how few positive patients the rarest labels have."""
    sizes: dict[str, str] = {}
    for store in (store for each in manifests for store in each.stores):
        if store.films is not None and store.patients is not None:
            part = f" (a part of {dataset_name(store.part_of)})" if store.part_of else ""
            sizes[store.dataset] = (
                f"{told(store.films, 'image')} of {told(store.patients, 'patient')} of "
                f"{dataset_name(store.dataset)}{part}"
            )
    found = [f"Scored were {joined(sizes.values())}."] if sizes else []
    few: dict[str, list[str]] = {}
    for one in scores:
        if one.few_positives and one.metric == "auroc" and one.n_positive_patients is not None:
            there = few.setdefault(one.dataset, [])
            text = f"{one.label} ({counts([one.n_positive_patients])[0]})"
            there += [text] if text not in there else []
    if few:
        places = "; ".join(f"{dataset_name(place)}: {', '.join(labels)}" for place, labels in few.items())
        found.append(f"Labels with fewer than {FEW_POSITIVE_PATIENTS} positive patients: {places}.")
    return found


def interval_sentences(scores: Iterable[Score]) -> list[str]:
    """How the interval of one value was made."""
    scores = [one for one in scores if one.resamples and one.level is not None]
    if not scores:
        return []
    level = joined(f"{100 * each:g} %" for each in sorted({one.level for one in scores if one.level is not None}))
    resamples = " or ".join(sorted({f"{one.resamples:,}" for one in scores}))
    made = dict.fromkeys((one.interval, one.metric) for one in scores if one.interval and one.label != MACRO)
    ways = {
        way: [name for metric, name in METRIC_WORDS.items() if (way, metric) in made]
        for way in dict.fromkeys(way for way, _ in made)
    }
    methods = "; ".join(f"{way} ({', '.join(names)})" for way, names in ways.items())
    of_prevalence = [METRIC_WORDS[one] for one in _OF_PREVALENCE if any(metric == one for _, metric in made)]
    return [
        f"Intervals of one encoder are {level} intervals by patient, from {resamples} bootstrap resamples of patients, "
        f"each with all their images. A label with fewer than {MINIMUM_PATIENTS} positive or {MINIMUM_PATIENTS} "
        "negative patients has none.",
        *([f"Methods of the intervals: {methods}."] if methods else []),
        *([f"Intervals of {joined(of_prevalence)} hold at the prevalence of the test set."] if of_prevalence else []),
        f"The macro mean is over labels with at least {MINIMUM_PATIENTS} positive and {MINIMUM_PATIENTS} negative "
        "patients, the same for every arm.",
    ]


def test_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """How differences were tested: the model of the variance, sides, alpha, Holm's scope, and the rule of a verdict."""
    if not comparisons:
        return []
    found = [
        "Differences between arms were tested by Student's t on the same images. The variance is that of the patients "
        "(paired bootstrap) plus, over several seeds, that of the seeds; degrees of freedom by Satterthwaite."
    ]
    levels = sorted({one.level for one in comparisons})
    found.append(f"All tests are two-sided; alpha is {joined(f'{1 - level:.2g}' for level in levels)}.")
    if any(one.p_holm is not None for one in comparisons):
        found.append(
            "P values of labels were corrected by Holm's method over the labels of one pair of arms, data set, share "
            "of the training patients and metric; the macro mean is one test and is not corrected. Pairs, data sets "
            "and metrics are not corrected for."
        )
    found.append(f"{rule(levels[0])}.")
    if any(one.delong_p is not None for one in comparisons):
        found.append("DeLong's test of paired AUROCs, clustered by patient, was computed as a cross-check.")
    return found
