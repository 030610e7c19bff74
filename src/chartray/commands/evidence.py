"""Commands of the evidence: evaluate, compare, audit, and embeddings to look at elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from chartray.commands.options import Count, Seed, ZeroOrMore
from chartray.wording import plural

if TYPE_CHECKING:
    from chartray.results.schema import Comparison, Score
from chartray.outputs.replacing import reserved

Uncertain = Literal["ignore", "zeros", "ones"]
Blank = Literal["source", "negative", "ignore"]
Split = Literal["test", "validate"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
Stores = Annotated[list[Path] | None, Parameter(negative=())]
# Of the metrics in results.jsonl these are printed.
HEADLINES = ("auroc", "average_precision")


def evaluate(
    source: Path,
    store: Path,
    *,
    out: Path,
    external: Stores = None,
    protocol: Literal["linear", "knn", "finetune", "published"] = "linear",
    split: Split = "test",
    uncertain: Uncertain = "ignore",
    blank: Blank = "source",
    data_percent: Annotated[list[float] | None, Parameter(negative=(), consume_multiple=True)] = None,
    draws: Count = 5,
    labels: str | None = None,
    floors: bool = True,
    resamples: Count = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    freeze: bool | None = None,
    scheduler: Literal["cosine", "reduce"] | None = None,
    learning_rate: float | None = None,
    max_epochs: int | None = None,
    layer_decay: float | None = None,
    drop_path: float | None = None,
    warmup_epochs: float | None = None,
    mixup: float | None = None,
    resume: bool = False,
    looks: ZeroOrMore = 12,
    floor_chart: str | None = None,
) -> None:
    """Fits on STORE's train, chooses on its validation, scores its test split and every external store.

    Args:
        source: A run, or an encoder folder.
        store: The store to fit on.
        out: The results folder.
        external: A store to score with the same probe as is, matched by label name; may be repeated.
        protocol: linear, knn, finetune or published.
        split: The split that is scored.
        uncertain: What -1 means: ignore, zeros or ones.
        blank: What a blank label means: source (as the cohort says of each label), negative or ignore.
        data_percent: Fractions of the training and validation patients, each nested in the next: 1.0 is all.
        draws: Random patient subsets for each fraction below 1.
        labels: Only these labels, separated by commas.
        floors: Also score the baselines: untrained encoder, plain pixels, chart alone, image + chart.
        resamples: Bootstrap resamples, by patient.
        seed: For resamples, subsets and the untrained encoder.
        device: auto, cpu or cuda.
        precision: Of the encoder: fp32 or bf16.
        freeze: (published) Train the linear layer alone, the default; --no-freeze trains the encoder too.
        scheduler: (published, finetune) cosine, the default, or reduce on plateau.
        learning_rate: (published, finetune) Initial learning rate; default 1e-3, or 1e-4 if the encoder is trained.
        max_epochs: (published, finetune) Maximum epochs; default 50.
        layer_decay: (finetune) Layer-wise learning-rate decay, block by block; default 0.75.
        drop_path: (finetune) Stochastic-depth rate of the last block; default 0.1.
        warmup_epochs: (finetune) Warm-up epochs; default 5.
        mixup: (finetune) Mixup alpha; default 0, no mixup.
        resume: (published, finetune) Continue a training that was killed.
        looks: (linear, knn) Number of scored images for which saliency is computed; 0 for none.
        floor_chart: (linear, knn) The feature set that chart-only and image+chart read; default: the run's own chart,
            of a run without one demographic-norm.
    """
    from chartray.commands.opening import need_inputs, need_scoring
    from chartray.results.folder import MANIFEST_FILE, check_replaceable

    need_inputs(encoders=[source], stores=[store, *(external or [])], out=out)
    check_replaceable(out, MANIFEST_FILE)
    need_scoring(store, labels=labels.split(",") if labels else None, floor_chart=floor_chart)
    from chartray.evaluation.evaluate import evaluate as evaluate_encoder
    from chartray.evaluation.sentences import said_first
    from chartray.results.folder import open_evaluation

    with reserved(out):
        rows = evaluate_encoder(
            source,
            store,
            out,
            external=external or [],
            protocol=protocol,
            split=split,
            uncertain=uncertain,
            blank=blank,
            data_percent=data_percent or [1.0],
            draws=draws,
            labels=labels.split(",") if labels else None,
            floors=floors,
            resamples=resamples,
            seed=seed,
            device=device,
            precision=precision,
            freeze=freeze,
            scheduler=scheduler,
            learning_rate=learning_rate,
            max_epochs=max_epochs,
            layer_decay=layer_decay,
            drop_path=drop_path,
            warmup_epochs=warmup_epochs,
            mixup=mixup,
            resume=resume,
            looks=looks,
            floor_chart=floor_chart,
        )
        manifest = open_evaluation(out).manifest
    for line in said_first(manifest, [row.arm for row in rows]):
        print(line)
    for row in rows:
        own = not row.arm.is_baseline
        if (row.label == "macro" and row.metric in HEADLINES) or (own and row.metric == "auroc"):
            print(_score_line(row))
    print(out)


def compare(results: list[Path], *, out: Path, resamples: Count = 1000, seed: Seed = 0) -> None:
    """Arms against each other on the same films: differences with intervals, paired by patient.

    Args:
        results: Folders that `evaluate` wrote, of two arms or more; an arm may have several seeds.
        out: The folder to write comparisons.jsonl to.
        resamples: Bootstrap resamples, by patient.
        seed: For the resamples.
    """
    from chartray.commands.opening import need_inputs

    need_inputs(folders=results, out=out)
    from chartray.evaluation.compare import compare as compare_arms

    with reserved(out):
        rows = compare_arms(results, out, resamples=resamples, seed=seed)
    for row in rows:
        if row.label == "macro" and row.metric == "auroc":
            print(_difference_line(row))


def audit(
    source: Path,
    store: Path,
    *,
    out: Path,
    against: Stores = None,
    external: Stores = None,
    attributes: str | None = None,
    split: Split = "test",
    uncertain: Uncertain = "ignore",
    blank: Blank = "source",
    floors: bool = True,
    floor_chart: str | None = None,
    resamples: Count = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """What the encoder reads of the patient beside disease, how groups fare, and what has leaked.

    Args:
        source: A run, or an encoder folder.
        store: The store whose training films the probes are fitted on.
        out: The audit's folder.
        against: A run to compare with: without the chart, with shuffled charts; may be repeated.
        external: A store to score too, and to search for shared patients and films; may be repeated.
        attributes: Chart variables to read, separated by commas; default: all that the cohort has.
        split: The split that is scored.
        uncertain: What -1 means: ignore, zeros or ones.
        blank: What a blank label means: source (as the cohort says of each label), negative or ignore.
        floors: Also score the baselines: untrained encoder, plain pixels, chart alone, image + chart.
        floor_chart: The feature set that chart-only and image+chart read; default: the run's own chart, of a run
            without one demographic-norm.
        resamples: Bootstrap resamples, by patient.
        seed: For resamples and the untrained encoder.
        device: auto, cpu or cuda.
        precision: Of the encoder: fp32 or bf16.
    """
    from chartray.commands.opening import need_inputs, need_scoring
    from chartray.results.folder import AUDIT_FILE, check_replaceable

    need_inputs(encoders=[source, *(against or [])], stores=[store, *(external or [])], out=out)
    check_replaceable(out, AUDIT_FILE)
    need_scoring(store, attributes=attributes.split(",") if attributes else None, floor_chart=floor_chart)
    from chartray.audit.audit import audit as audit_encoder
    from chartray.audit.sentences import audit_sentences

    with reserved(out):
        found = audit_encoder(
            source,
            store,
            out,
            against=against or [],
            external=external or [],
            attributes=attributes.split(",") if attributes else None,
            split=split,
            uncertain=uncertain,
            blank=blank,
            floors=floors,
            floor_chart=floor_chart,
            resamples=resamples,
            seed=seed,
            device=device,
            precision=precision,
        )
    for line in audit_sentences(*found):
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
    """The encoder's features of every film of a store, as Parquet.

    Args:
        source: A run, or an encoder folder.
        store: The store.
        out: The Parquet file.
        split: Only these films; default: all.
        device: auto, cpu or cuda.
        precision: Of the encoder: fp32 or bf16.
    """
    from chartray.commands.opening import need_inputs
    from chartray.evaluation.embed_file import check_embeddings_replaceable

    need_inputs(encoders=[source], stores=[store], out=out)
    check_embeddings_replaceable(out)
    from chartray.evaluation.embed_store import embed_store

    with reserved(out):
        print(embed_store(source, store, out, split=split, device=device, precision=precision))


def _score_line(row: "Score") -> str:
    """A line of results: data set and split, fraction, arm, label, metric, value [interval], reason."""
    value = "null" if row.value is None else f"{row.value:.3f}"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
    over = "" if row.labels is None else f" of {plural(len(row.labels), 'label')}"
    why = f" ({row.reason})" if row.reason else ""
    what = f"{row.dataset} {row.split} {row.fraction:.0%}, {row.arm.title}"
    return f"{what}: {row.label}{over}, {row.metric} {value}{interval}{why}"


def _difference_line(row: "Comparison") -> str:
    """A line of comparisons: data set, the two arms, difference [interval], and what may be said of it."""
    where = row.dataset if row.fraction == 1 else f"{row.dataset} {row.fraction:.0%}"
    pair = f"{where}: {row.a} minus {row.b}: macro AUROC"
    if row.difference is None:
        return f"{pair} null ({row.reason})"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
    said = row.claim or (row.verdict.named(row.a, row.b) if row.verdict else row.reason)
    return f"{pair} {row.difference:+.3f}{interval}; {said}"
