"""The methods paragraph and the reproducibility block, written from manifests and from the evaluation's record."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from chartray.report.audits import Audit
from chartray.report.inputs import Results, Run
from chartray.report.methods_evidence import evidence_sentences
from chartray.report.rows import MACRO, Score, shown
from chartray.report.summary import Selection

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
        unmatched=_unmatched(results),
        fitted_on=_fitted_on(results),
        left_out=_left_out(records),
        notes=list(dict.fromkeys(str(note) for record in records for note in record.get("notes") or [])),
        seen=seen_in_pretraining(results),
        holds_fixed=_holds_fixed(scores),
    )


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
) -> str:
    """A paragraph for a paper; a fact that no file holds is left out, never guessed."""
    return " ".join([*_pretraining(runs), *_evaluation(how, datasets), *evidence_sentences(results, audits)])


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


def seeds_by_arm(runs: Sequence[Run]) -> str:
    """The arms of some runs with the seeds of each: 'sex, no chart; 3 seeds each', or 'sex: 3 seeds; no chart: 1 seed'.

    Seeds are counted once, however many runs share one.
    """
    seeds: dict[str, set[int | None]] = {}
    for run in runs:
        seeds.setdefault(run.arm.title, set()).add(run.seed)
    counts = {title: f"{len(there)} seed{'' if len(there) == 1 else 's'}" for title, there in seeds.items()}
    if len(set(counts.values())) == 1:
        return f"{', '.join(counts)}; {next(iter(counts.values()))}{' each' if len(counts) > 1 else ''}"
    return "; ".join(f"{title}: {count}" for title, count in counts.items())


def started_from(runs: Sequence[Run], results: Sequence[Results]) -> list[str]:
    """Which encoders began with given weights: 'sex started from the weights of RUN (pretrained with sex)'."""
    records = [(run.arm, run.manifest, run.config) for run in runs]
    records += [(one.base, one.provenance, {}) for one in results if one.base is not None]
    found = []
    for arm, record, config in records:
        init = record.get("init") or (config.get("encoder") or {}).get("init")
        if not init:
            continue
        init = init if isinstance(init, Mapping) else {"source": init}
        # The name alone: the folders of the machine are nobody's business.
        name = init.get("run") or Path(str(init.get("source") or "an unnamed file")).name
        chart = f" (pretrained with the chart {init['chart']})" if init.get("chart") not in (None, "none") else ""
        found.append(f"{arm.title} started from the weights of {name}{chart}")
    return list(dict.fromkeys(found))


def _pretraining(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    found = _by_run(runs, _trained_how) + _by_run(runs, _views)
    found += [f"{one}." for one in started_from(runs, [])]
    found += _chart_sentences(runs)
    if len({run.arm for run in runs}) > 1:
        found.append(f"Arms: {seeds_by_arm(runs)}.")
    else:
        seeds = len({run.seed for run in runs})
        found.append(f"{'One seed was' if seeds == 1 else f'{seeds} seeds were'} run.")
    return found


def _by_run(runs: Sequence[Run], say: Callable[[Run, str], str]) -> list[str]:
    """What `say` says of all runs, or of each group of arms of which it says something else."""
    same: dict[str, list[str]] = {}
    for run in runs:
        titles = same.setdefault(say(run, ""), [])
        titles += [run.arm.title] if run.arm.title not in titles else []
    if len(same) == 1:
        return [sentence for sentence in same if sentence]
    found: dict[str, None] = {}
    for run in runs:
        titles = same[say(run, "")]
        # Runs of one arm may differ too: then each is named with its seed.
        alone = sum(run.arm.title in others for others in same.values()) == 1
        found[say(run, "; ".join(titles) if alone else f"{run.arm.title}, seed {run.seed}")] = None
    return [sentence for sentence in found if sentence]


def _trained_how(run: Run, who: str) -> str:
    encoder, train = run.config.get("encoder") or {}, run.config.get("train") or {}
    name = encoder.get("name") or "Vision Transformer"
    sizes = [f"{encoder[key]} {words}" for key, words in (("depth", "blocks"), ("heads", "heads")) if encoder.get(key)]
    shape = [f"width {encoder['width']}"] if encoder.get("width") else []
    shape += [f"patch {encoder['patch_size']} px"] if encoder.get("patch_size") else []
    said = f"Encoders ({name}{': ' + ', '.join(sizes + shape) if sizes or shape else ''})"
    said += f" of the arms {who}" if who else ""
    objective = run.manifest.get("objective") or (run.config.get("objective") or {}).get("name")
    said += f" were pretrained with {str(objective or 'a self-supervised objective').upper()}"
    steps, films = run.manifest.get("steps"), run.manifest.get("films")
    said += f" for {steps:,} optimizer steps" if isinstance(steps, int) else ""
    said += f" of {train['batch_size']} films" if train.get("batch_size") else ""
    said += f" on {films:,} films" if isinstance(films, int) else ""
    patients = run.manifest.get("patients")
    said += f" of {patients:,} patients" if isinstance(patients, int) else ""
    said += f" of {shown(str(run.manifest['source']))}" if run.manifest.get("source") else ""
    return said + ", the training split only."


def _views(run: Run, who: str) -> str:
    views = run.config.get("views") or {}
    if not views.get("size"):
        return ""
    focal = f" and {views['focal_count']} focal views of {views['focal_size']} px" if views.get("focal_count") else ""
    kinds = {"msn": "a target view and a masked view", "mae": "one view, most of it masked,"}
    kind = kinds.get(run.arm.objective, "two global views")
    return f"Each film gave {kind} of {views['size']} px{focal if run.arm.objective != 'mae' else ''}" + (
        f" ({who})." if who else "."
    )


def _chart_sentences(runs: Sequence[Run]) -> list[str]:
    charts = any(run.arm.chart != "none" for run in runs)
    controls = list(dict.fromkeys(run.arm.control for run in runs if run.arm.control != "none"))
    found = []
    if charts:
        ways = {"anchor": "entered the anchor branch only", "predict": "was predicted from the anchor embedding"}
        for use, way in ways.items():
            there = list(dict.fromkeys(run.arm.chart for run in runs if run.arm.chart != "none" and run.arm.use == use))
            if there:
                found.append(
                    f"The chart ({', '.join(there)}) {way}; the target branch and inference used the film alone."
                )
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
    """A command as anyone would type it: `chartray ...` with the names of files and folders, not their places.

    >>> command_words(["/opt/venv/bin/chartray", "evaluate", "/data/runs/none", "--out=/tmp/results/none"])
    'chartray evaluate none --out=none'
    """
    words = value if isinstance(value, list) else str(value or "").split()
    found = []
    for number, word in enumerate(map(str, words)):
        option, equals, place = word.rpartition("=")
        name = PurePath(place).name if "/" in place else place
        name = "chartray" if number == 0 and name in ("__main__.py", "cli.py") else name
        found.append(option + equals + (name or place))
    return " ".join(found)


def text(value: Any) -> str:
    """A value of a manifest in words; nothing for null and empty."""
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)
