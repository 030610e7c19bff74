"""The methods and the reproducibility block, written from the manifests of runs, evaluations and audits."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from chartray.evaluation.sentences import blanks_by_place
from chartray.report.cohorts import DataSection
from chartray.report.inputs import AuditResults, PretrainingRun, Results
from chartray.report.methods_data import eligibility, missing_values, reference_standard, split
from chartray.report.methods_evidence import audited, measured
from chartray.report.methods_pretraining import images_told, pretraining
from chartray.report.summary import Selection, selection_of
from chartray.results import methods as said
from chartray.results.arm import dataset_name
from chartray.results.manifest import ComparisonManifest, EvaluationManifest, StoreEntry
from chartray.results.methods import ScoredFolder, author
from chartray.results.schema import MACRO, Score
from chartray.small_counts import counts, told
from chartray.training.manifest import RunManifest

_FACTS = {
    "chartray": "Chartray",
    "torch": "PyTorch",
    "timm": "timm",
    "git_commit": "git commit",
    "seed": "seed",
    "recipe": "recipe",
    "objective": "objective",
    "settings_hash": "hash of the settings",
    "source": "pretrained on",
    "films": "training images",
    "patients": "training patients",
    "steps": "optimizer steps",
    "chart": "chart",
    "control": "control",
    "chart_use": "use of the chart",
    "status": "status",
    "after_film": "variables known only after the image",
    "ehr_in": "width of the chart row",
    "command": "command",
}


class ScoringFacts(NamedTuple):
    """How the main results were scored: what a reader must know to trust a number."""

    protocol: str
    embedding: str
    split: str
    fraction: str
    blank: str
    blanks: "BlanksTable | None"
    uncertain: str
    resamples: str
    macro_labels: dict[str, list[str]]
    too_few: dict[str, list[str]]
    unmatched: dict[str, list[str]]
    fitted_on: dict[str, list[str]]
    left_out: dict[str, str]
    notes: list[str]
    seen: list[str]
    holds_fixed: str
    chosen: str


class BlanksTable(NamedTuple):
    """Blank labels that count as negative: a row for each label with any, a count for each place, as it is told."""

    places: list[str]
    rows: list[tuple[str, list[str]]]


class Facts(NamedTuple):
    """Facts that all runs share, and those in which they differ (a column for each run)."""

    shared: list[tuple[str, str]]
    runs: list[str]
    differing: list[tuple[str, list[str]]]


def scoring(results: Sequence[Results], scores: Sequence[Score], which: Selection) -> ScoringFacts:
    """`scores` are those of the selection `which`."""
    evaluations = [one.evaluation for one in results if one.evaluation is not None]
    return ScoringFacts(
        protocol=which.protocol,
        embedding=" and ".join(sorted({one.encoder.provenance.pooling or "class token" for one in evaluations})),
        split=which.split,
        fraction=f"{100 * which.fraction:g} %",
        blank=_one({one.blank for one in scores if one.blank}),
        blanks=_blanks(evaluations),
        uncertain=_one({one.uncertain for one in scores if one.uncertain}),
        resamples=_one({f"{one.resamples:,}" for one in scores if one.resamples}),
        macro_labels=macro_labels(scores),
        too_few=_too_few(scores),
        unmatched=_unmatched(results),
        fitted_on=_fitted_on(results),
        left_out={name: why for one in evaluations for name, why in one.left_out.items()},
        notes=list(dict.fromkeys(note for one in evaluations for note in one.notes)),
        seen=seen_in_pretraining(results),
        holds_fixed=_holds_fixed(scores),
        chosen=said.chosen_words(scored_folders(results, which)),
    )


def _blanks(evaluations: Sequence[EvaluationManifest]) -> BlanksTable | None:
    """None where no evaluation counted them."""
    found: list[tuple[str, dict[str, int]]] = []
    for one in evaluations:
        for where, counted in blanks_by_place(one.stores, one.blank_negatives_learnt_from):
            found += [(where, counted)] if (where, counted) not in found else []
    if not found:
        return None
    labels = dict.fromkeys(label for _, counted in found for label, count in counted.items() if count)
    rows = [(label, [counts([counted.get(label, 0)])[0] for _, counted in found]) for label in labels]
    return BlanksTable([where for where, _ in found], rows)


def _holds_fixed(scores: Sequence[Score]) -> str:
    """What the intervals of AUROC hold fixed, as evaluation recorded it."""
    said = dict.fromkeys(one.holds_fixed for one in scores if one.metric == "auroc" and one.holds_fixed)
    return "; or ".join(f"an interval {one}" if not number else one for number, one in enumerate(said))


def macro_labels(scores: Sequence[Score]) -> dict[str, list[str]]:
    """The labels in the macro mean at each place, as evaluation recorded them."""
    found: dict[str, list[str]] = {}
    for one in scores:
        if one.label == MACRO and one.labels:
            found.setdefault(one.place, list(one.labels))
    return found


def facts(runs: Sequence[PretrainingRun]) -> Facts:
    """The reproducibility block."""
    names = [f"{run.arm.title}, seed {run.manifest.seed}" for run in runs]
    shared, differing = [], []
    for key, title in _FACTS.items():
        values = [_fact(run.manifest, key) for run in runs]
        if not any(values):
            continue
        if (len(set(values)) == 1 and len(runs) > 1) or len(runs) == 1:
            shared.append((title, values[0]))
        else:
            differing.append((title, values))
    return Facts(shared, names, differing)


class Paragraph(NamedTuple):
    """A titled part of the methods."""

    title: str
    text: str


def methods(
    runs: Sequence[PretrainingRun],
    which: Selection,
    results: Sequence[Results] = (),
    audits: Sequence[AuditResults] = (),
    data: Sequence[DataSection] = (),
    simulated: Sequence[str] = (),
) -> list[Paragraph]:
    """Paragraphs for a paper, of facts that files hold; `[author: ...]` stands where none can. docs/reporting.md says
    which item of CLAIM and TRIPOD+AI each fills. `simulated` are the simulated data sets.
    """
    folders = scored_folders(results, which)
    manifests, scores = [one.manifest for one in folders], [score for one in folders for score in one.scores]
    comparisons = [pair for one in results for pair in one.comparisons]
    compared = comparison_manifests(results)
    parts = {
        "Study": [
            author("study goal; intended use, users and place in care; protocol and registration"),
            *said.question_sentences(compared),
        ],
        "Eligibility": eligibility(data, simulated),
        "Split": split(data),
        "Reference standard": reference_standard(data, results),
        "Missing values": [*missing_values(data, runs), *said.label_sentences(scores)],
        "Images": said.image_sentences(manifests),
        "Pretraining": pretraining(runs, results),
        "Probes": [
            *_scored(folders, which),
            *said.learnt_from_sentences(manifests, which.fraction),
            *said.fraction_sentences(manifests),
        ],
        "Measures": [*measured(results), *said.interval_sentences(scores)],
        "Comparisons": [*said.test_sentences(comparisons), *said.look_sentences(compared, manifests)],
        "Sample size": [
            *said.sample_sentences(manifests, scores),
            author("how many patients and seeds were planned, and why; the smallest difference that matters"),
        ],
        "Audit": audited(audits),
        "Statements": [author("availability of data, code and weights; funding and the role of funders; interests")],
    }
    return [Paragraph(title, " ".join(sentences)) for title, sentences in parts.items() if sentences]


def comparison_manifests(results: Sequence[Results]) -> list[ComparisonManifest]:
    """What the comparisons say of themselves."""
    return [one.manifest for one in results if isinstance(one.manifest, ComparisonManifest)]


def asked(results: Sequence[Results]) -> list[str]:
    """For the first screen: which question was declared, and how often the test split was scored."""
    compared = comparison_manifests(results)
    return [*said.question_sentences(compared), *said.look_sentences(compared, [])]


def scored_folders(results: Sequence[Results], which: Selection) -> list[ScoredFolder]:
    """The evaluations, each with its scores of the selection `which`."""
    found = []
    for one in results:
        scores = [score for score in one.scores if selection_of(score) == which]
        if one.evaluation is not None and scores:
            found.append(ScoredFolder(one.evaluation, scores))
    return found


def _scored(folders: Sequence[ScoredFolder], which: Selection) -> list[str]:
    where = ", ".join(dict.fromkeys(dataset_name(score.dataset) for one in folders for score in one.scores))
    if not where:
        return []
    return [
        f"Embeddings of the target encoder were scored on the {which.split} images of {where} "
        f"{said.probe_words(folders)}."
    ]


def seen_in_pretraining(results: Sequence[Results]) -> list[str]:
    """Whether scored patients were pretrained on: what each evaluation checked, or why it could not."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in results:
        for store in one.stores if one.base is not None else ():
            titles = found.setdefault(_seen(store.patients_seen_in_pretraining), {}).setdefault(_place(one, store), [])
            titles += [one.base.title] if one.base is not None and one.base.title not in titles else []
    if len(found) == 1:
        return [f"{next(iter(found))}."]
    return [
        words
        + ": "
        + "; ".join(f"{' / '.join(titles)} on {dataset_name(place)}" for place, titles in there.items())
        + "."
        for words, there in found.items()
    ]


def _seen(count: int | None) -> str:
    if count == 0:
        return "Checked by patient: none was in the pretraining data"
    if count is not None:
        return f"{told(count, 'patient')} of those scored were in the pretraining data"
    return (
        "Not checked: the encoder came without the list of its patients, started from other weights, or was "
        "pretrained on another source"
    )


def _too_few(scores: Sequence[Score]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in scores:
        labels = found.setdefault(one.place, [])
        if one.metric == "auroc" and one.label != MACRO and one.ci_low is None and one.label not in labels:
            labels.append(one.label)
    return {place: labels for place, labels in found.items() if labels}


def _unmatched(results: Sequence[Results]) -> dict[str, list[str]]:
    return {_place(one, store): list(store.unmatched) for one in results for store in one.stores if store.unmatched}


def _fitted_on(results: Sequence[Results]) -> dict[str, list[str]]:
    """For each place, on which data sets' training images the probes were fitted."""
    found: dict[str, list[str]] = {}
    for one in results:
        for store in one.stores:
            homes = found.setdefault(_place(one, store), [])
            homes += [one.manifest.home] if one.manifest.home not in homes else []
    return found


def _place(results: Results, store: StoreEntry) -> str:
    return results.places.get(store.dataset, store.dataset)


def _one(values: set[str]) -> str:
    return ", ".join(sorted(values))


def command_words(value: str | Sequence[str] | None) -> str:
    """A command as one would type it: `chartray ...` with relative paths as they were given; of absolute paths only as
    much of the end as tells them apart.

    >>> command_words(["/opt/venv/bin/chartray", "evaluate", "/data/runs/none", "k.store", "--out=/tmp/results/none"])
    'chartray evaluate runs/none k.store --out=results/none'
    >>> command_words("chartray evaluate runs/chart /Users/someone/k.store --out results/chart")
    'chartray evaluate runs/chart k.store --out results/chart'
    """
    words = value.split() if isinstance(value, str) else list(value or ())
    if not words:
        return ""
    program = PurePath(words[0]).name or words[0]
    given = [word.rpartition("=") for word in words[1:]]
    endings = _endings([place for _, _, place in given])
    found = [option + equals + endings[place] for option, equals, place in given]
    return " ".join(["chartray" if program in ("__main__.py", "cli.py") else program, *found])


def _endings(places: Sequence[str]) -> dict[str, str]:
    """What is shown of each path: all of it if it is relative, else its shortest end that no other path has."""
    parts = {place: PurePath(place).parts for place in places}
    told = {place: place for place, each in parts.items() if not _of_a_machine(each)}
    # The name of the user stays off the page.
    inside = {
        place: each[3:] if each[1:2] in (("home",), ("Users",)) and len(each) > 3 else each[1:]
        for place, each in parts.items()
        if place not in told
    }
    for place, each in inside.items():
        others = [*(other for name, other in inside.items() if name != place), *(parts[name] for name in told)]
        apart = next((n for n in range(1, len(each)) if each[-n:] not in [other[-n:] for other in others]), len(each))
        told[place] = "/".join(each[-apart:] if each else ()) or place
    return told


def _of_a_machine(parts: tuple[str, ...]) -> bool:
    return parts[:1] == ("/",) or ".." in parts or parts[:1] == ("~",)


def _fact(made: RunManifest, key: str) -> str:
    """A fact of a run; a small number of images or patients is not told, nor one that gives it away."""
    if key == "films":
        return images_told(made)
    if key == "patients" and made.patients is not None:
        return counts([made.patients])[0]
    return command_words(made.command) if key == "command" else text(getattr(made, key))


def text(value: object) -> str:
    """A value of a manifest in words; nothing for null and empty."""
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)
