"""Commands of the evidence: evaluate, compare, audit and embed."""

from math import isnan
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from chartray.config.audit import AuditOptions
from chartray.config.evaluate import Device, EvaluateOptions, IntervalOptions, Precision
from chartray.outputs.replacing import reserved

EVALUATE, COMPARE, AUDIT = EvaluateOptions(), IntervalOptions(), AuditOptions()
# The fields of a model as options of a command.
FLAT = Parameter(name="*")
# Of the metrics in results.jsonl these are printed.
HEADLINES = ("auroc", "average_precision")
FLOORS = ("untrained", "pixels", "chart-only", "image+chart")


def evaluate(
    source: Path,
    store: Path,
    *,
    out: Path,
    options: Annotated[EvaluateOptions, FLAT] = EVALUATE,
    resume: bool = False,
) -> None:
    """Scores an encoder: fits a probe on STORE's training split and scores its test split and every external store.

    Hyperparameters are selected on the validation split.

    Args:
        source: A run or an encoder folder.
        store: The store to fit on.
        out: The results folder.
        options: Everything else.
        resume: Continue an interrupted training (--protocol published or finetune).
    """
    from chartray.commands.opening import need_inputs, need_scoring
    from chartray.evaluation.earlier import check_replaceable
    from chartray.evaluation.results import MANIFEST_FILE, matches_table, open_results

    need_inputs(encoders=[source], stores=[store, *options.external], out=out)
    check_replaceable(out, MANIFEST_FILE)
    need_scoring(store, options, labels=options.labels)
    from chartray.evaluation.evaluate import evaluate as evaluate_encoder
    from chartray.evaluation.sentences import said_first

    with reserved(out):
        rows = evaluate_encoder(source, store, out, options, resume=resume)
        manifest = open_results(out, [MANIFEST_FILE], f"expected an evaluation in {out}").manifest
    for line in (*matches_table(manifest), *said_first(manifest, rows)):
        print(line)
    for row in rows:
        own, metric = row["control"] not in FLOORS, row["metric"]
        if (row["label"] == "macro" and metric in HEADLINES) or (own and metric == "auroc"):
            print(_spoken(row))
    print(out)


def compare(results: list[Path], *, out: Path, options: Annotated[IntervalOptions, FLAT] = COMPARE) -> None:
    """Compares evaluated arms on the same images: differences with intervals, paired by patient.

    Args:
        results: Folders that `evaluate` wrote, of two arms or more; an arm may have several seeds.
        out: The folder to write comparisons.jsonl to.
        options: Everything else.
    """
    from chartray.commands.opening import need_inputs

    need_inputs(folders=results, out=out)
    from chartray.evaluation.compare import compare as compare_arms

    with reserved(out):
        rows = compare_arms(results, out, options)
    for row in rows:
        if row["label"] == "macro" and row["metric"] == "auroc":
            print(_spoken_difference(row))


def audit(
    source: Path,
    store: Path,
    *,
    out: Path,
    against: Annotated[list[Path] | None, Parameter(negative=())] = None,
    options: Annotated[AuditOptions, FLAT] = AUDIT,
) -> None:
    """Audits an encoder: chart variables in its features, disease scores by subgroup, and data leakage.

    Args:
        source: A run or an encoder folder.
        store: The store whose training images the probes are fitted on.
        out: The audit's folder.
        against: A run to compare with: without the chart, with shuffled charts; may be repeated.
        options: Everything else.
    """
    from chartray.commands.opening import need_inputs, need_scoring
    from chartray.evaluation.earlier import check_replaceable
    from chartray.evaluation.results import AUDIT_FILE

    need_inputs(encoders=[source, *(against or [])], stores=[store, *options.external], out=out)
    check_replaceable(out, AUDIT_FILE)
    need_scoring(store, options, attributes=options.attributes)
    from chartray.audit.audit import audit as audit_encoder
    from chartray.audit.sentences import spoken

    with reserved(out):
        rows = audit_encoder(source, store, out, options, against=against or [])
    for line in spoken(rows):
        print(line)
    print(out)


def embed(
    source: Path,
    store: Path,
    *,
    out: Path,
    split: Literal["train", "validate", "test"] | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Writes the encoder's features of every image of a store as Parquet.

    Args:
        source: A run or an encoder folder.
        store: The store.
        out: The Parquet file.
        split: Split to embed; by default all.
        device: Device of the encoder.
        precision: Precision of the encoder.
    """
    from chartray.commands.opening import need_inputs
    from chartray.evaluation.earlier import check_embeddings_replaceable

    need_inputs(encoders=[source], stores=[store], out=out)
    check_embeddings_replaceable(out)
    from chartray.evaluation.embed_store import embed_store

    with reserved(out):
        print(embed_store(source, store, out, split=split, device=device, precision=precision))


def _spoken(row: dict[str, Any]) -> str:
    """A line of results: data set and split, fraction, arm, label, metric, value [interval], reason."""
    from chartray.evaluation.sentences import arm_words

    low, high = row["ci_low"], row["ci_high"]
    value = "null" if row["value"] is None or isnan(row["value"]) else f"{row['value']:.3f}"
    interval = "" if low is None or isnan(low) else f" [{low:.3f}, {high:.3f}]"
    labels = len(row["labels"]) if row["label"] == "macro" else 0
    over = f" of {labels} label{'' if labels == 1 else 's'}" if row["label"] == "macro" else ""
    why = f" ({row['reason']})" if row["reason"] else ""
    what = f"{row['dataset']} {row['split']} {row['fraction']:.0%}, {arm_words(row['chart'], row['control'])}"
    return f"{what}: {row['label']}{over}, {row['metric']} {value}{interval}{why}"


def _spoken_difference(row: dict[str, Any]) -> str:
    """A line of comparisons: data set, the two arms, difference [interval], and what may be said of it."""
    from chartray.evaluation.sentences import NO_CHART
    from chartray.results.verdict import Verdict

    where = row["dataset"] if row["fraction"] == 1 else f"{row['dataset']} {row['fraction']:.0%}"
    a, b = (NO_CHART if row[side] == "none" else row[side] for side in ("a", "b"))
    pair = f"{where}: {a} minus {b}: macro AUROC"
    if isnan(row["difference"]):
        return f"{pair} null ({row['reason']})"
    low, high = row["ci_low"], row["ci_high"]
    interval = "" if isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    said = row["claim"] or (Verdict(row["verdict"]).named(a, b) if row["verdict"] else row["reason"])
    return f"{pair} {row['difference']:+.3f}{interval}; {said}"
