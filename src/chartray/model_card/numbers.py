"""What a card says in numbers: tables by data set, differences, what can be read from the embedding."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chartray.model_card.folders import Evaluation
from chartray.truth import BLANK_WORDS, counted

METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
# Controls that are floors and ceilings beside the encoder.
_BESIDE = {
    "untrained": "the same architecture, untrained",
    "pixels": "plain pixels (32 x 32)",
    "chart-only": "the chart alone",
    "image+chart": "this encoder and the chart",
}
_READ_A_CHART = ("chart-only", "image+chart")
_DATASETS = {"mimic": "MIMIC-CXR", "chexpert": "CheXpert", "nih": "NIH ChestX-ray14"}


class Table(NamedTuple):
    """Values by label, the macro first."""

    columns: list[str]
    rows: list[list[str]]


class DataSet(NamedTuple):
    """What was measured on one data set; `says` are sentences."""

    name: str
    says: list[str]
    tables: list[Table]


def datasets_of(one: Evaluation) -> list[DataSet]:
    """What an evaluation measured, data set by data set."""
    found = []
    for store in one.manifest["stores"]:
        rows = [row for row in one.rows if row["dataset"] == store["dataset"]]
        own = [row for row in rows if row["control"] not in _BESIDE]
        tables = [_against_floors(rows), *([_own(own)] if {row["metric"] for row in own} > {"auroc"} else [])]
        found.append(DataSet(dataset_of(one.manifest, store["dataset"]), _how(one, store, rows), tables))
    return found


def _how(one: Evaluation, store: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    settings, home = one.manifest["settings"], one.manifest["stores"][0]
    fitted = "its own training films" if store is home else f"the training films of {dataset_name(home['dataset'])}"
    seen = store.get("patients_seen_in_pretraining")
    share = 100 * max(settings["data_percent"])
    holds = {str(row["holds_fixed"]) for row in rows if row["metric"] == "auroc" and row.get("holds_fixed")}
    return [
        f"{store['films']:,} films of {store['patients']:,} patients, the {store['split']} split. "
        f"Protocol {settings['protocol']}, learnt from {share:g} % of the patients of {fitted}.",
        f"Blank labels: {BLANK_WORDS.get(settings['blank'], settings['blank'])}{_blank(store)}; uncertain labels: "
        f"{settings['uncertain']}.",
        f"Intervals: {100 * settings['level']:g} %, {settings['resamples']:,} resamples of patients"
        + (f"; {'; '.join(sorted(holds))}." if holds else "."),
        "Whether scored patients were pretrained on is unknown."
        if seen is None
        else f"{seen:,} of the scored patients were pretrained on.",
        *_threshold(rows),
    ]


def _blank(store: Mapping[str, Any]) -> str:
    """How many blanks count as negative."""
    if "blank_negatives" not in store:
        return " (how many count as negative was not counted)"
    said = {cell(label): count for label, count in store["blank_negatives"].items()}
    return f" (counted as negative: {counted(said) or 'none'})"


def _threshold(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    fixed = {row["at_specificity"] for row in rows if row.get("at_specificity") is not None}
    return [
        f"Sensitivity and specificity are at the threshold that had a specificity of {value:g} on the validation "
        "films; where all patients fall on one side the interval is exact by patient (Clopper and Pearson)."
        for value in sorted(fixed)
    ]


def _against_floors(rows: Sequence[Mapping[str, Any]]) -> Table:
    """AUROC of the encoder, of the floors and of the ceiling."""
    mine = [row for row in rows if row["metric"] == "auroc"]
    controls = list(dict.fromkeys(row["control"] for row in mine))
    by = {(row["label"], row["control"]): row for row in mine}
    lines = []
    for label in _labels(mine):
        there = [by.get((label, control)) for control in controls]
        first = next(row for row in there if row is not None)
        # The macro mean is over labels, each with its own positive films.
        count = "–" if first["n_positive"] is None else f"{first['n_positive']:,} of {first['n']:,}"
        lines.append([_title(first), count, *(_value(row) for row in there)])
    charts = {row["control"]: cell(str(row["chart"])) for row in mine if row["control"] in _READ_A_CHART}
    titles = (_BESIDE.get(one, "**this encoder**") + (f" ({charts[one]})" if one in charts else "") for one in controls)
    columns = ["AUROC", "Positive films", *titles]
    return Table(columns, lines)


def _own(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The encoder's other metrics."""
    metrics = [name for name in METRIC_NAMES if name != "auroc" and any(row["metric"] == name for row in rows)]
    by = {(row["label"], row["metric"]): row for row in rows}
    firsts = {row["label"]: row for row in rows}
    lines = [
        [_title(firsts[label]), *(_value(by.get((label, metric))) for metric in metrics)] for label in _labels(rows)
    ]
    return Table(["This encoder", *(METRIC_NAMES[metric] for metric in metrics)], lines)


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels in their order, the macro mean first."""
    return sorted(dict.fromkeys(row["label"] for row in rows), key=lambda label: label != "macro")


def _title(row: Mapping[str, Any]) -> str:
    return f"macro mean of {len(row['labels'] or [])} labels" if row["label"] == "macro" else cell(row["label"])


def _value(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "not scored" if row is None else cell(str(row.get("reason") or "not defined"))
    if row["ci_low"] is None:
        return f"{row['value']:.3f} (no interval: {cell(str(row.get('reason') or 'unknown'))})"
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def compared(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence a comparison of arms, in the words of its verdict."""
    return [
        f"{_arm(row['a'])} against {_arm(row['b'])} on {dataset_name(row['dataset'])}: macro AUROC {_difference(row)}, "
        f"{row['seeds']} seed{'' if row['seeds'] == 1 else 's'}; **{_verdict(row)}**."
        for row in rows
    ]


def _arm(name: str) -> str:
    """An arm of a comparison; its name begins with its chart."""
    return cell(re.sub(r"^none(?= \(|$)", "no chart", name))


def _verdict(row: Mapping[str, Any]) -> str:
    words = {"a higher": "the first is higher", "b higher": "the second is higher"}
    found = next((str(row[name]) for name in ("verdict", "claim", "reason") if row.get(name)), "no verdict")
    return words.get(found, found)


def beside_floors(evaluations: Sequence[Evaluation]) -> list[str]:
    """One sentence a floor and data set."""
    return [
        f"This encoder against {_BESIDE.get(row['b'], row['b'])} on {dataset_of(one.manifest, row['dataset'])}: "
        f"macro AUROC {_difference(row)}; one pretraining, so this speaks of this encoder alone and **no claim** is "
        "made of the method."
        for one in evaluations
        for row in one.comparisons
        if (row["label"], row["metric"]) == ("macro", "auroc")
    ]


def floors_above(one: Evaluation) -> list[str]:
    """Where something that learnt nothing from films, or nothing at all, scores higher than the encoder."""
    macro = [
        row for row in one.rows if (row["label"], row["metric"]) == ("macro", "auroc") and row["value"] is not None
    ]
    own = {row["dataset"]: row["value"] for row in macro if row["control"] not in _BESIDE}
    return [
        f"On {dataset_of(one.manifest, row['dataset'])} {_BESIDE[row['control']]} scored higher than this encoder: "
        f"macro AUROC {row['value']:.3f} against {own[row['dataset']]:.3f}."
        for row in macro
        if row["control"] in ("untrained", "pixels", "chart-only") and row["value"] > own.get(row["dataset"], 1.0)
    ]


def _difference(row: Mapping[str, Any]) -> str:
    if row["difference"] is None or row["ci_low"] is None:
        return f"not compared ({row.get('reason') or 'no value'})"
    p = "" if row.get("p") is None else f", p = {row['p']:.3f}"
    return f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]{p}"


def readable(rows: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> list[list[str]]:
    """How well attributes are read: attribute, data set, metric, value from the embedding, value from plain pixels."""
    mine = [row for row in rows if row["part"] == "readability" and row["level"] is None and row["metric"] != "mae"]
    pixels = {(row["dataset"], row["attribute"], row["metric"]): row for row in mine if row["control"] == "pixels"}
    own = [row for row in mine if (row["run"], row["control"]) == (made.get("run"), made.get("control", "none"))]
    return [
        [
            cell(row["attribute"]),
            dataset_name(row["dataset"]),
            {"auroc": "AUROC", "r2": "R²"}.get(row["metric"], row["metric"]),
            _value(row),
            _value(pixels.get((row["dataset"], row["attribute"], row["metric"]))),
        ]
        for row in own
    ]


def dataset_of(manifest: Mapping[str, Any], dataset: str) -> str:
    """A data set of an evaluation, as a reader calls it, and whether it is simulated."""
    store: dict[str, Any] = next((one for one in manifest["stores"] if one["dataset"] == dataset), {})
    return dataset_name(dataset) + (" (simulated)" if store.get("simulated") else "")


def dataset_name(dataset: str) -> str:
    """What a reader calls a data set."""
    source, colon, rest = dataset.partition(":")
    return _DATASETS.get(source, source) + (f" ({rest})" if colon else "")


def cell(text: str) -> str:
    """Text that cannot break a Markdown table or become markup."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]#" else letter for letter in text)
