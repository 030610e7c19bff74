"""The methods paragraph and the reproducibility block, written from manifests and from the evaluation's record."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from chartray.evaluation.sentences import blanks_counted
from chartray.report.audits import Audit
from chartray.report.inputs import Results, Run
from chartray.report.methods_evidence import evidence_sentences
from chartray.report.methods_pretraining import pretraining
from chartray.report.methods_probe import chosen_words, learnt_words
from chartray.report.rows import MACRO, Score, shown
from chartray.report.summary import Selection
from chartray.statistics.metrics import MINIMUM_PATIENTS
from chartray.truth import BLANK_WORDS

_FACTS = {
    "chartray": "Chartray",
    "python": "Python",
    "torch": "PyTorch",
    "timm": "timm",
    "git_commit": "git commit",
    "seed": "seed",
    "recipe": "recipe",
    "objective": "objective",
    "settings_hash": "hash of the settings",
    "source": "pretrained on",
    "films": "training films",
    "patients": "training patients",
    "steps": "optimizer steps",
    "chart": "chart",
    "control": "control",
    "chart_use": "use of the chart",
    "status": "status",
    "after_film": "variables from after the film",
    "ehr_in": "width of the chart row",
    "device": "device",
    "precision": "precision",
    "command": "command",
}


class Scoring(NamedTuple):
    """How the main results were scored: what a reader must know to trust a number."""

    protocol: str
    split: str
    fraction: str
    blank: str
    blanks: list[str]
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


class Facts(NamedTuple):
    """Facts that all runs share, and those in which they differ (a column for each run)."""

    shared: list[tuple[str, str]]
    runs: list[str]
    differing: list[tuple[str, list[str]]]


def scoring(results: Sequence[Results], scores: Sequence[Score], which: Selection) -> Scoring:
    """`scores` are those of the selection `which`."""
    records = [one.evaluation for one in results]
    return Scoring(
        protocol=which.protocol,
        split=which.split,
        fraction=f"{100 * which.fraction:g} %",
        blank=_one({one.blank for one in scores if one.blank}),
        blanks=list(dict.fromkeys(line for record in records if record for line in _blanks(record))),
        uncertain=_one({one.uncertain for one in scores if one.uncertain}),
        resamples=_one({f"{one.resamples:,}" for one in scores if one.resamples}),
        macro_labels=macro_labels(scores),
        too_few=_too_few(scores),
        unmatched=_unmatched(results),
        fitted_on=_fitted_on(results),
        left_out=_left_out(records),
        notes=list(dict.fromkeys(str(note) for record in records for note in record.get("notes") or [])),
        seen=seen_in_pretraining(results),
        holds_fixed=_holds_fixed(scores),
        chosen=chosen_words(scores, which.protocol),
    )


def _blanks(record: Mapping[str, Any]) -> list[str]:
    """How many blanks count as negative, as an evaluation counted them; none where it did not."""
    known = isinstance(record.get("settings"), dict) and "blank" in record["settings"] and "stores" in record
    return blanks_counted(record) if known else []


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


def facts(runs: Sequence[Run]) -> Facts:
    """The reproducibility block."""
    names = [f"{run.arm.title}, seed {run.seed}" for run in runs]
    shared, differing = [], []
    for key, title in _FACTS.items():
        in_words = command_words if key == "command" else text
        values = [in_words(run.manifest.get(key)) for run in runs]
        if not any(values):
            continue
        if (len(set(values)) == 1 and len(runs) > 1) or len(runs) == 1:
            shared.append((title, values[0]))
        else:
            differing.append((title, values))
    return Facts(shared, names, differing)


def methods(
    runs: Sequence[Run],
    how: Scoring,
    datasets: Sequence[str],
    results: Sequence[Results] = (),
    audits: Sequence[Audit] = (),
    simulated: Sequence[str] = (),
) -> str:
    """A paragraph for a paper; a fact that no file holds is left out, never guessed. `simulated` are data sets that
    a program drew.
    """
    drawn = [f"Films, charts and findings of {', '.join(map(shown, simulated))} were simulated."] if simulated else []
    scored = _evaluation(how, datasets, results)
    return " ".join([*drawn, *pretraining(runs, results), *scored, *evidence_sentences(results, audits)])


def seen_in_pretraining(results: Sequence[Results]) -> list[str]:
    """Whether scored patients were pretrained on: what each evaluation checked, or why it could not."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in results:
        for store in one.evaluation.get("stores") or [] if one.base is not None else []:
            titles = found.setdefault(_seen({**one.evaluation, **store}), {}).setdefault(_place(one, store), [])
            titles += [one.base.title] if one.base is not None and one.base.title not in titles else []
    if len(found) == 1:
        return [f"{next(iter(found))}."]
    return [
        words + ": " + "; ".join(f"{' / '.join(titles)} on {shown(place)}" for place, titles in there.items()) + "."
        for words, there in found.items()
    ]


def _seen(record: Mapping[str, Any]) -> str:
    count = record.get("patients_seen_in_pretraining")
    if count == 0:
        return "Checked by patient, none was pretrained on"
    if count is not None:
        return f"{count:,} of the scored patients were pretrained on"
    if "patients_seen_in_pretraining" not in record:
        return "Not checked whether scored patients were pretrained on, as the evaluation recorded nothing of it"
    return (
        "Not checked whether scored patients were pretrained on, as the encoder came without the list of its patients, "
        "started from other weights, or was pretrained on another source"
    )


def _evaluation(how: Scoring, datasets: Sequence[str], results: Sequence[Results]) -> list[str]:
    found = []
    if datasets:
        by = learnt_words(how.protocol, how.chosen, results)
        where = ", ".join(map(shown, datasets))
        found.append(f"Embeddings of the target encoder were scored on the {how.split} films of {where} {by}.")
    if how.resamples:
        found.append(f"Intervals are 95 % percentile intervals of {how.resamples} bootstrap resamples of patients.")
    if how.blank or how.uncertain:
        found.append(
            f"Blank labels: {BLANK_WORDS.get(how.blank, how.blank) or 'not recorded'}; uncertain labels: "
            f"{how.uncertain or 'not recorded'}."
        )
    found += [f"{line[0].upper()}{line[1:]}." for line in how.blanks]
    if how.macro_labels:
        found.append(
            f"The macro mean is over labels with at least {MINIMUM_PATIENTS} positive and {MINIMUM_PATIENTS} negative "
            "patients, the same for every arm."
        )
    return found


def _too_few(scores: Sequence[Score]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in scores:
        labels = found.setdefault(one.place, [])
        if one.metric == "auroc" and one.label != MACRO and one.low is None and one.label not in labels:
            labels.append(one.label)
    return {place: labels for place, labels in found.items() if labels}


def _unmatched(results: Sequence[Results]) -> dict[str, list[str]]:
    stores = [(one, store) for one in results for store in one.evaluation.get("stores") or []]
    return {_place(one, store): list(store["unmatched"]) for one, store in stores if store.get("unmatched")}


def _fitted_on(results: Sequence[Results]) -> dict[str, list[str]]:
    """For each place, on which data sets' training films the probes were fitted."""
    found: dict[str, list[str]] = {}
    for one in results:
        stores = one.evaluation.get("stores") or []
        for store in stores:
            homes, home = found.setdefault(_place(one, store), []), str(stores[0]["dataset"])
            homes += [home] if home not in homes else []
    return found


def _place(results: Results, store: Mapping[str, Any]) -> str:
    dataset = str(store["dataset"])
    return results.places.get(dataset, dataset)


def _left_out(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {str(name): str(why) for record in records for name, why in (record.get("left_out") or {}).items()}


def _one(values: set[str]) -> str:
    return ", ".join(sorted(values))


def command_words(value: Any) -> str:
    """A command as anyone would type it: `chartray ...` with files and folders as they were given from where one stood;
    of those given from the root of a machine only as much of the end as tells them apart.

    >>> command_words(["/opt/venv/bin/chartray", "evaluate", "/data/runs/none", "k.store", "--out=/tmp/results/none"])
    'chartray evaluate runs/none k.store --out=results/none'
    >>> command_words("chartray evaluate runs/chart /Users/someone/k.store --out results/chart")
    'chartray evaluate runs/chart k.store --out results/chart'
    """
    words = list(map(str, value if isinstance(value, list) else str(value or "").split()))
    if not words:
        return ""
    program = PurePath(words[0]).name or words[0]
    given = [word.rpartition("=") for word in words[1:]]
    endings = _endings([place for _, _, place in given])
    found = [option + equals + endings[place] for option, equals, place in given]
    return " ".join(["chartray" if program in ("__main__.py", "cli.py") else program, *found])


def _endings(places: Sequence[str]) -> dict[str, str]:
    """What is told of each place: all of it, or of one on a machine its shortest end that no other place has."""
    parts = {place: PurePath(place).parts for place in places}
    told = {place: place for place, each in parts.items() if not _of_a_machine(each)}
    # Whose folder it lies in is nobody's business.
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


def text(value: Any) -> str:
    """A value of a manifest in words; nothing for null and empty."""
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)
