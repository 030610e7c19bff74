"""Commands of the evidence: evaluate, compare, audit and embed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from chartray.config.audit import AuditOptions
from chartray.config.evaluate import CompareOptions, Device, EvaluateOptions, PlanOptions, Precision
from chartray.config.export import EmbeddingForm
from chartray.config.public import PublicOptions
from chartray.console import tell
from chartray.wording import plural

if TYPE_CHECKING:
    from chartray.results.schema import Comparison, Score
from chartray.outputs.replacing import reserved

EVALUATE, COMPARE, AUDIT, PLAN = EvaluateOptions(), CompareOptions(), AuditOptions(), PlanOptions()
READING = PublicOptions()
# The fields of a model as options of a command.
FLAT = Parameter(name="*")
# Of the metrics in results.jsonl these are printed.
HEADLINES = ("auroc", "average_precision")


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
        source: A run, an encoder folder, or a public encoder: a folder of timm or transformers, a .safetensors file.
        store: The store to fit on.
        out: The results folder.
        options: Everything else.
        resume: Continue an evaluation that was killed; start it if there is none.
    """
    from chartray.commands.opening import need_inputs, need_scoring
    from chartray.results.folder import MANIFEST_FILE, check_replaceable

    need_inputs(encoders=[source], stores=[store, *options.external], out=out, public=options)
    check_replaceable(out, MANIFEST_FILE)
    need_scoring(store, options, labels=options.labels)
    from chartray.evaluation.evaluate import evaluate as evaluate_encoder
    from chartray.evaluation.sentences import said_first
    from chartray.results.folder import open_evaluation

    with reserved(out):
        rows = evaluate_encoder(source, store, out, options, resume=resume)
        manifest = open_evaluation(out).manifest
    told = [
        row
        for row in rows
        if (row.label == "macro" and row.metric in HEADLINES) or (not row.arm.is_baseline and row.metric == "auroc")
    ]
    first = said_first(manifest, [row.arm for row in rows])
    tell(*first, *map(_score_line, told), out, out=out, scores=told)


def compare(
    results: Annotated[list[Path], Parameter(negative=())],
    *,
    out: Path,
    options: Annotated[CompareOptions, FLAT] = COMPARE,
) -> None:
    """Compares evaluated arms on the same images: differences with intervals, paired by patient.

    Args:
        results: Folders that `evaluate` wrote, of two arms or more; an arm may have several seeds.
        out: The folder to write comparisons.jsonl to.
        options: Everything else.
    """
    from chartray.commands.opening import need_inputs

    need_inputs(folders=results, out=out)
    from chartray.evaluation.compare import compare as compare_arms
    from chartray.results.folder import open_kind
    from chartray.results.manifest import ComparisonManifest
    from chartray.results.methods import answer_of

    with reserved(out):
        rows = compare_arms(results, out, options)
        said = answer_of(open_kind(out, ComparisonManifest, f"expected the comparison in {out}"))
    told = [row for row in rows if row.label == "macro" and row.metric == "auroc"]
    tell(*said, *map(_difference_line, told), out=out, answer=said, comparisons=told)


def plan(
    results: Annotated[list[Path], Parameter(negative=())],
    *,
    out: Path | None = None,
    options: Annotated[PlanOptions, FLAT] = PLAN,
) -> None:
    """Plans a study from a pilot: the smallest difference that numbers of seeds and test patients can show.

    Args:
        results: Folders that `evaluate` wrote, with two seeds or more of at least one arm. Those of the
            validation split leave the test split unseen.
        out: A folder for plan.json, plan.csv, plan.svg and plan.pdf.
        options: Everything else.
    """
    from chartray.evaluation.plan import plan_study, sentences

    if out is None:
        made = plan_study(results, options)
        tell(*sentences(made), plan=made)
        return
    from chartray.commands.opening import need_inputs
    from chartray.report.plan_figure import check_plan_replaceable, write_plan

    need_inputs(folders=results, out=out)
    check_plan_replaceable(out)
    with reserved(out):
        made = plan_study(results, options)
        tell(*sentences(made), write_plan(made, out), out=out, plan=made)


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
        source: A run, an encoder folder, or a public encoder: a folder of timm or transformers, a .safetensors file.
        store: The store whose training images the probes are fitted on.
        out: The audit's folder.
        against: A run or a public encoder to compare with: without the chart, with shuffled charts; may be repeated.
        options: Everything else.
    """
    from chartray.commands.opening import need_inputs, need_scoring
    from chartray.results.folder import AUDIT_FILE, check_replaceable

    need_inputs(encoders=[source, *(against or [])], stores=[store, *options.external], out=out, public=options)
    check_replaceable(out, AUDIT_FILE)
    need_scoring(store, options, attributes=options.attributes)
    from chartray.audit.audit import audit as audit_encoder
    from chartray.audit.sentences import audit_sentences

    with reserved(out):
        found = audit_encoder(source, store, out, options, against=against or [])
    said = audit_sentences(*found)
    tell(*said, out, out=out, sentences=said)


def embed(
    source: Path,
    images: Path,
    *,
    out: Path,
    split: Literal["train", "validate", "test"] | None = None,
    tokens: Literal["class", "patches", "both"] = "class",
    device: Device = "auto",
    precision: Precision = "fp32",
    hash_ids: bool = False,
    to: EmbeddingForm = "parquet",
    reading: Annotated[PublicOptions, FLAT] = READING,
) -> None:
    """Writes the encoder's features of every image of a store, or of any folder of images.

    Args:
        source: A run, an encoder folder, or a public encoder: a folder of timm or transformers, a .safetensors file.
        images: A store, or a folder of JPEG, PNG and DICOM files; files that cannot be read are counted and said.
        out: The Parquet file; with --to npy or projector a folder.
        split: Split of the store to embed; by default all.
        tokens: The class token of each image (its embedding), the tokens of its patches, or both.
        device: Device of the encoder.
        precision: Precision of the encoder.
        hash_ids: Write hashed names instead of the ids of images, patients and studies, or of the names of files.
        to: Parquet, arrays of numpy, or the files of TensorBoard's Embedding Projector.
        reading: How a public encoder is read.
    """
    from chartray.commands.opening import need_inputs
    from chartray.evaluation.embed_file import check_embeddings_replaceable
    from chartray.evaluation.image_folder import image_files, is_store

    need_inputs(encoders=[source], stores=[images] if is_store(images) else [], out=out, public=reading)
    check_embeddings_replaceable(out, to, tokens)
    if not is_store(images):
        image_files(images)
    from chartray.evaluation.embed_store import embed_store

    with reserved(out):
        made = embed_store(
            source,
            images,
            out,
            split=split,
            tokens=tokens,
            device=device,
            precision=precision,
            reading=reading,
            hash_ids=hash_ids,
            to=to,
        )
    tell(made, out=made)


def _score_line(row: "Score") -> str:
    """A line of results: data set and split, fraction, arm, label, metric, value [interval], reason."""
    value = "null" if row.value is None else f"{row.value:.3f}"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
    over = "" if row.labels is None else f" of {plural(len(row.labels), 'label')}"
    why = f" ({row.reason})" if row.reason else ""
    what = f"{row.dataset} {row.split} {row.fraction:.0%}, {row.arm.title}"
    return f"{what}: {row.label}{over}, {row.metric} {value}{interval}{why}"


def _difference_line(row: "Comparison") -> str:
    """A line of comparisons: data set, the two arms, difference [interval], and its verdict."""
    where = row.dataset if row.fraction == 1 else f"{row.dataset} {row.fraction:.0%}"
    pair = f"{where}: {row.a} minus {row.b}: macro AUROC"
    if row.difference is None:
        return f"{pair} null ({row.reason})"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
    return f"{pair} {row.difference:+.3f}{interval}. {row.in_words(row.a, row.b)}"
