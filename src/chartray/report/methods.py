"""The methods paragraph and the reproducibility block, written from manifests and from the evaluation's record."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chartray.report.inputs import MACRO, Results, Run, Score, shown
from chartray.report.summary import Selection

_FACTS = {
    "chartray": "Chartray",
    "python": "Python",
    "torch": "PyTorch",
    "timm": "timm",
    "git_commit": "git commit",
    "seed": "seed",
    "recipe": "recipe",
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
    uncertain: str
    resamples: str
    macro_labels: dict[str, list[str]]
    too_few: dict[str, list[str]]
    unmatched: dict[str, list[str]]
    fitted_on: dict[str, list[str]]
    left_out: dict[str, str]
    notes: list[str]


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
        uncertain=_one({one.uncertain for one in scores if one.uncertain}),
        resamples=_one({f"{one.resamples:,}" for one in scores if one.resamples}),
        macro_labels=macro_labels(scores),
        too_few=_too_few(scores),
        unmatched=_unmatched(records),
        fitted_on=_fitted_on(records),
        left_out=_left_out(records),
        notes=list(dict.fromkeys(str(note) for record in records for note in record.get("notes") or [])),
    )


def macro_labels(scores: Sequence[Score]) -> dict[str, list[str]]:
    """The labels in each data set's macro mean, as evaluation recorded them."""
    found: dict[str, list[str]] = {}
    for one in scores:
        if one.label == MACRO and one.labels:
            found.setdefault(one.dataset, list(one.labels))
    return found


def facts(runs: Sequence[Run]) -> Facts:
    """The reproducibility block."""
    names = [f"{run.arm.title}, seed {run.seed}" for run in runs]
    shared, differing = [], []
    for key, title in _FACTS.items():
        values = [text(run.manifest.get(key)) for run in runs]
        if not any(values):
            continue
        if (len(set(values)) == 1 and len(runs) > 1) or len(runs) == 1:
            shared.append((title, values[0]))
        else:
            differing.append((title, values))
    return Facts(shared, names, differing)


def methods(runs: Sequence[Run], how: Scoring, datasets: Sequence[str]) -> str:
    """A paragraph for a paper; a fact that no file holds is left out, never guessed."""
    return " ".join([*_pretraining(runs), *_evaluation(how, datasets)])


def _pretraining(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    first = runs[0]
    encoder, train = first.config.get("encoder") or {}, first.config.get("train") or {}
    objective, views = first.config.get("objective") or {}, first.config.get("views") or {}
    name = encoder.get("name") or "Vision Transformer"
    sizes = [f"{encoder[key]} {words}" for key, words in (("depth", "blocks"), ("heads", "heads")) if encoder.get(key)]
    shape = [f"width {encoder['width']}"] if encoder.get("width") else []
    shape += [f"patch {encoder['patch_size']} px"] if encoder.get("patch_size") else []
    said = f"Encoders ({name}{': ' + ', '.join(sizes + shape) if sizes or shape else ''}) were pretrained"
    said += f" with {str(objective.get('name', 'a self-supervised objective')).upper()}"
    steps, films = first.manifest.get("steps"), first.manifest.get("films")
    said += f" for {steps:,} optimizer steps" if isinstance(steps, int) else ""
    said += f" of {train['batch_size']} films" if train.get("batch_size") else ""
    said += f" on {films:,} films" if isinstance(films, int) else ""
    patients = first.manifest.get("patients")
    said += f" of {patients:,} patients" if isinstance(patients, int) else ""
    said += f" of {shown(str(first.manifest['source']))}" if first.manifest.get("source") else ""
    said += ", the training split only."
    found = [said]
    if views.get("size"):
        focal = (
            f" and {views['focal_count']} focal views of {views['focal_size']} px" if views.get("focal_count") else ""
        )
        found.append(f"Each film gave a target view and a masked view of {views['size']} px{focal}.")
    found += _chart_sentences(runs)
    seeds = len({run.seed for run in runs})
    found.append(f"{'One seed was' if seeds == 1 else f'{seeds} seeds were'} run.")
    return found


def _chart_sentences(runs: Sequence[Run]) -> list[str]:
    charts = list(dict.fromkeys(run.arm.chart for run in runs if run.arm.chart != "none"))
    controls = list(dict.fromkeys(run.arm.control for run in runs if run.arm.control != "none"))
    found = []
    if charts:
        uses = {run.arm.use for run in runs if run.arm.chart != "none"}
        way = "was predicted from the anchor embedding" if uses == {"predict"} else "entered the anchor branch only"
        found.append(f"The chart ({', '.join(charts)}) {way}; the target branch and inference used the film alone.")
    if controls:
        found.append(f"Controls: {', '.join(controls)} chart rows.")
    after = sorted({name for run in runs for name in run.manifest.get("after_film") or []})
    if after:
        found.append(f"Variables known only after the film were allowed by name: {', '.join(after)}.")
    return found


def _evaluation(how: Scoring, datasets: Sequence[str]) -> list[str]:
    probes = {
        "linear": "by an L2-regularised logistic regression per label, its strength chosen on the validation split",
        "knn": "by weighted nearest neighbours",
        "finetune": "after fine-tuning the whole encoder",
        "published": "by the protocol of the published system",
    }
    found = []
    if datasets:
        by = probes.get(how.protocol, f"by the protocol {how.protocol}")
        where = ", ".join(map(shown, datasets))
        found.append(f"Embeddings of the target encoder were scored on the {how.split} films of {where} {by}.")
    if how.resamples:
        found.append(f"Intervals are 95 % percentile intervals of {how.resamples} bootstrap resamples of patients.")
    if how.blank or how.uncertain:
        found.append(
            f"Blank labels: {how.blank or 'not recorded'}; uncertain labels: {how.uncertain or 'not recorded'}."
        )
    if how.macro_labels:
        found.append(
            "The macro mean is over labels with enough positive and negative patients, the same for every arm."
        )
    return found


def _too_few(scores: Sequence[Score]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in scores:
        labels = found.setdefault(one.dataset, [])
        if one.metric == "auroc" and one.label != MACRO and one.low is None and one.label not in labels:
            labels.append(one.label)
    return {dataset: labels for dataset, labels in found.items() if labels}


def _unmatched(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    stores = [store for record in records for store in record.get("stores") or []]
    return {str(store["dataset"]): list(store["unmatched"]) for store in stores if store.get("unmatched")}


def _fitted_on(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """For each scored data set, on which data sets' training films the probes were fitted."""
    found: dict[str, list[str]] = {}
    for record in records:
        names = [str(store["dataset"]) for store in record.get("stores") or []]
        for name in names:
            homes = found.setdefault(name, [])
            homes += [names[0]] if names[0] not in homes else []
    return found


def _left_out(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {str(name): str(why) for record in records for name, why in (record.get("left_out") or {}).items()}


def _one(values: set[str]) -> str:
    return ", ".join(sorted(values))


def text(value: Any) -> str:
    """A value of a manifest in words; nothing for null and empty."""
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)
