"""From what the arms of one evaluation reached to the records of its results folder, and the folder itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from safetensors.numpy import save as to_safetensors

from chartray.config.evaluate import EvaluateOptions
from chartray.evaluation.baselines import Candidate, Frozen, Learnt, initialisation
from chartray.evaluation.differences import Pair, comparison_rows
from chartray.evaluation.evaluation_data import Task, image_ids
from chartray.evaluation.finetune.recipe import Recipe
from chartray.evaluation.image_set import ImageSet, blank_entry, label_names, metadata_of, read_by_radiologists
from chartray.evaluation.outcomes import Outcome
from chartray.evaluation.rows import calibration_rows, draw_rows, result_rows
from chartray.evaluation.saliency import write_saliency
from chartray.evaluation.scoring import SPECIFICITY, EvaluationSet, over_draws
from chartray.evaluation.studies import study_ids
from chartray.networks.encoder import PretrainedEncoder, save, untrained
from chartray.progress import progress
from chartray.results import folder as results
from chartray.results.arm import RADIOLOGISTS
from chartray.results.manifest import (
    RESULTS_FORMAT,
    Counts,
    EncoderEntry,
    EvaluationManifest,
    FractionEntry,
    MatchEntry,
    ProbeEntry,
    SaliencyEntry,
    Settings,
    StoreEntry,
    SubsetEntry,
)
from chartray.results.schema import Comparison, Score
from chartray.statistics.knn import NEIGHBOURS
from chartray.statistics.probe import FOLDS, STRENGTHS, Probe


class Evaluated(NamedTuple):
    """One evaluation, done: the encoder of `source`, its candidate first, and what all of them reached.

    `learnt` is what the encoder's arm learnt from the largest fraction (its first subset), `features` the encoder's
    own.
    """

    source: Path
    run: str
    encoder: PretrainedEncoder
    task: Task
    settings: EvaluateOptions
    recipe: Recipe | None
    candidates: Sequence[Candidate]
    outcomes: Sequence[Outcome]
    learnt: Learnt
    features: Frozen | None
    fractions: Sequence[FractionEntry]
    left_out: dict[str, str]


def write_results(out: Path, done: Evaluated) -> list[Score]:
    """Writes the results folder `out`, whole or not at all; returns the rows of results.jsonl."""
    level = done.settings.level
    scores: list[Score] = []
    studies, draws, curves = [], [], []
    for each in done.outcomes:
        about = score_of(each, done)
        scores += result_rows(each.test, each.scored, level, about, each.fits)
        studies += study_rows(each, about, done.settings)
        curves += calibration_rows(each.test, each.drawn[0].images, level, about)
        if each.fraction < 1:
            draws += draw_rows(each.test, [d.images for d in each.drawn], about, [d.fits for d in each.drawn])
    with results.written_folder(out, results.MANIFEST_FILE) as folder, progress("write", 4, "parts") as advance:
        advance(0, "rows")
        results.write_rows(folder, results.RESULTS_FILE, scores)
        results.write_rows(folder, results.STUDIES_FILE, studies)
        results.write_rows(folder, results.DRAWS_FILE, draws)
        results.write_rows(folder, results.CALIBRATION_FILE, curves)
        advance(1, "differences from the baselines")
        results.write_rows(folder, results.COMPARISONS_FILE, comparisons_of(done))
        results.write_object(folder / results.THRESHOLDS_FILE, thresholds_of(done.outcomes))
        advance(1, "predictions, features and probe")
        tables = [table for each in done.outcomes for table in predictions_of(each, done.run)]
        results.write_parquet(folder / results.PREDICTIONS_FILE, tables)
        if done.features is not None:
            results.write_parquet(folder / results.EMBEDDINGS_FILE, embeddings_of(done.task, done.features))
        if done.learnt.probe is not None:
            write_probe(folder, done.learnt.probe, done.task.labels, done.settings.data_percent[-1])
        if done.learnt.tuned is not None:
            save(folder / results.TUNED_FOLDER, done.learnt.tuned)
        advance(1, "saliency maps" if done.settings.saliency and done.features is not None else "")
        results.write_manifest(folder, manifest_of(done, saliency_of(folder, done)))
        advance(1, str(out))
    return scores


def saliency_of(folder: Path, done: Evaluated) -> SaliencyEntry:
    """Writes the saliency maps of a frozen encoder at the first test set; says of how many images, or why none."""
    if not done.settings.saliency:
        return SaliencyEntry(films=0, reason="not asked for")
    if done.features is None:
        return SaliencyEntry(films=0, reason="saliency is computed for frozen features only")
    own_arm, test = done.candidates[0].arm, done.task.tests[0]
    own = next(each for each in reversed(done.outcomes) if each.arm == own_arm and each.test is test)
    settings = done.settings
    return write_saliency(
        folder / results.SALIENCY_FOLDER,
        done.encoder,
        untrained(done.encoder, seed=initialisation(done.encoder, settings.seed)),
        own.test,
        own.drawn[0].scores[:, own.test.columns],
        done.features.needed(own.test.image_set),
        images=done.settings.saliency,
        device=settings.device,
        resamples=settings.resamples,
        level=settings.level,
        seed=settings.seed,
    )


def score_of(outcome: Outcome, done: Evaluated) -> Score:
    """What all rows of an outcome share; label and metric are still empty."""
    settings, made = done.settings, done.encoder.provenance
    return Score(
        arm=outcome.arm,
        run=done.run,
        home=done.task.home,
        dataset=outcome.test.dataset,
        store=outcome.test.store,
        protocol=settings.protocol,
        split=settings.split,
        fraction=float(outcome.fraction),
        draw_by=settings.draw_by if outcome.fraction < 1 else None,
        label="",
        metric="",
        seed=settings.seed,
        run_seed=made.seed,
        uncertain=settings.uncertain,
        blank=settings.blank,
        resamples=settings.resamples,
        level=settings.level,
        after_film=tuple(made.after_film),
    )


def study_rows(outcome: Outcome, about: Score, settings: EvaluateOptions) -> list[Score]:
    """The rows of studies.jsonl; none where no study has more than one image."""
    if outcome.studies is None:
        return []
    scored = over_draws([each.studies for each in outcome.drawn if each.studies is not None])
    test = outcome.studies.of(outcome.test)
    return result_rows(test, scored, settings.level, about.replaced(unit="study"), outcome.fits)


def thresholds_of(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, float | None]]]:
    """What thresholds.json says: control -> label -> specificity on validation and threshold, of STORE's labels, at
    the largest fraction, of its first subset.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    fraction = max(each.fraction for each in outcomes)
    for each in outcomes:
        limits = each.drawn[0].images.thresholds
        if each.fraction == fraction and each.arm.control not in found and limits is not None:
            named = zip(each.test.labels, limits.tolist(), strict=True)
            found[each.arm.control] = {
                label: {"specificity": SPECIFICITY, "threshold": None if np.isnan(limit) else limit}
                for label, limit in named
            }
    return found


def comparisons_of(done: Evaluated) -> list[Comparison]:
    """The encoder against every baseline, on the same images at the same fraction and training subsets."""
    own_arm, settings = done.candidates[0].arm, done.settings
    made = done.encoder.provenance
    own = {(each.fraction, each.test.dataset): each for each in done.outcomes if each.arm == own_arm}
    rows: list[Comparison] = []
    for other in (each for each in done.outcomes if each.arm != own_arm):
        about = Comparison(
            arm_a=own_arm,
            arm_b=other.arm,
            a=done.run,
            b=other.arm.control,
            home=done.task.home,
            dataset=other.test.dataset,
            protocol=settings.protocol,
            split=settings.split,
            fraction=float(other.fraction),
            draw_by=settings.draw_by if other.fraction < 1 else None,
            label="",
            metric="",
            uncertain=settings.uncertain,
            blank=settings.blank,
            after_film=tuple(made.after_film),
            level=settings.level,
            seeds=1,
            run_seed=made.seed,
        )
        a, test = own[other.fraction, other.test.dataset], other.test
        pair = Pair(a.scored.parts[:1], other.scored.parts[:1], test.image_set.truth, test.image_set.patients)
        rows += comparison_rows(test.labels, test.counted, pair, about)
    return rows


def predictions_of(outcome: Outcome, run: str) -> list[pa.Table]:
    """The rows of predictions.parquet, a table a training subset."""
    test, arm = outcome.test, outcome.arm
    columns: dict[str, str | float] = {"dataset": test.dataset, "split": test.image_set.split, "run": run}
    columns |= {"control": arm.control, "chart": arm.chart, "fraction": outcome.fraction}
    names = results.ImageNames(test.image_ids, study_ids(test.image_set), test.image_set.patients)
    return [
        results.prediction_table(
            names, test.labels, test.image_set.truth, each.scores[:, test.columns], columns, draw=draw
        )
        for draw, each in enumerate(outcome.drawn)
    ]


def embeddings_of(task: Task, frozen: Frozen) -> list[pa.Table]:
    """The rows of embeddings.parquet, a table a split."""
    parts = [(test.dataset, test.image_set) for test in task.tests if not test.dataset.endswith(RADIOLOGISTS)]
    learning = [(task.tests[0].dataset, image_set) for image_set in (task.train, task.validate)]
    parts += [(name, image_set) for name, image_set in learning if image_set.split != task.tests[0].image_set.split]
    return [
        results.embedding_table(
            name, image_set.split, image_ids(image_set), image_set.patients, frozen.needed(image_set)
        )
        for name, image_set in parts
    ]


def write_probe(folder: Path, probe: Probe, labels: Sequence[str], fraction: float) -> None:
    """The probe as safetensors (weight, bias, mean, scale, strength) and JSON (what they are)."""
    arrays = {name: np.ascontiguousarray(value) for name, value in probe._asdict().items() if name != "chosen_by"}
    # Not save_file, whose files their owner alone may read, whatever the umask says.
    (folder / results.PROBE_FILE).write_bytes(to_safetensors(arrays, metadata={"labels": json.dumps(list(labels))}))
    results.write_object(
        folder / results.PROBE_DESCRIPTION_FILE,
        {
            "format": RESULTS_FORMAT,
            "labels": list(labels),
            "fraction": fraction,
            "strength": probe.strength.tolist(),
            "validation_auroc": probe.validation_auroc.tolist(),
            "chosen_by": list(probe.chosen_by),
            "formula": "probability = sigmoid(((features - mean) / scale) @ weight.T + bias)",
        },
    )


def encoder_entry(encoder: PretrainedEncoder, run: str, path: Path) -> EncoderEntry:
    """What a manifest says of an encoder."""
    return EncoderEntry(
        run=run,
        path=str(path),
        size=encoder.size,
        grey_mean=encoder.grey_mean,
        grey_std=encoder.grey_std,
        interpolation=encoder.interpolation,
        architecture=encoder.architecture,
        provenance=encoder.provenance,
    )


def manifest_of(done: Evaluated, saliency: SaliencyEntry) -> EvaluationManifest:
    """What evaluation.json says."""
    task, settings = done.task, done.settings
    notes = ["`holds_fixed` in each row says what its interval holds fixed"]
    if caution := done.candidates[0].arm.caution:
        notes.append(f"{done.candidates[0].arm.title}: {caution}")
    for test in task.tests:
        count, of = int(read_by_radiologists(test.image_set).sum()), len(test.image_set.rows)
        if 0 < count < of:
            notes.append(
                f"radiologists labelled {count} of the {of} images of {test.dataset}, a labeller the others; "
                f"{test.dataset}{RADIOLOGISTS} holds those of the radiologists"
            )
    if settings.split == "validate":
        notes.append(
            "scored on the validation split, on which the probe was chosen: values are optimistic; test was not scored"
        )
    encoder = encoder_entry(done.encoder, done.run, done.source)
    return EvaluationManifest(
        command=results.command(),
        when=results.now(),
        versions=results.versions(),
        run=done.run,
        encoder=encoder,
        after_film=tuple(encoder.provenance.after_film),
        settings=Settings.model_validate(settings.recorded()),
        labels=tuple(task.labels),
        blank_negatives_learnt_from=blank_entry(task.train, task.labels),
        stores=tuple(
            store_entry(test, task.labels, seen) for test, seen in zip(task.tests, task.patients_seen, strict=True)
        ),
        fractions=tuple(done.fractions),
        left_out=done.left_out,
        not_compared=tuple(task.not_compared),
        probe=probe_entry(settings.protocol),
        recipe=None if done.recipe is None else done.recipe._asdict(),
        training=tuple(dict(epoch) for epoch in done.learnt.history) if done.recipe is not None else (),
        saliency=saliency,
        test_split_touched=settings.split == "test",
        notes=tuple(notes),
    )


def probe_entry(protocol: str) -> ProbeEntry | None:
    """What the manifest says of the grid of a protocol that fits on frozen features."""
    grids = {"linear": STRENGTHS, "knn": tuple(map(float, NEIGHBOURS))}
    return ProbeEntry(candidates=grids[protocol], folds=FOLDS) if protocol in grids else None


def store_entry(test: EvaluationSet, labels: Sequence[str], seen: int | None = None) -> StoreEntry:
    """What a manifest says of a scored store; `labels` are the probe's, `seen` its patients that were pretrained on."""
    store, metadata = test.image_set.store, metadata_of(test.image_set.store)
    there = {match.there for match in test.matches}
    count = counts(test.image_set)
    return StoreEntry(
        dataset=test.dataset,
        path=str(store.folder),
        hash=store.hash,
        release=metadata.release,
        rules=metadata.rules,
        simulated=metadata.simulated,
        split=test.image_set.split,
        part_of=test.dataset.removesuffix(RADIOLOGISTS) if test.dataset.endswith(RADIOLOGISTS) else None,
        matches=tuple(MatchEntry(label=match.label, there=match.there) for match in test.matches),
        unmatched=tuple(label for label in labels if label not in test.labels),
        unmatched_there=tuple(name for name in label_names(store.cohort) if name not in there),
        macro_labels=tuple(label for label, here in zip(test.labels, test.counted, strict=True) if here),
        size=store.size,
        films=count.films,
        patients=count.patients,
        films_read_by_radiologists=int(read_by_radiologists(test.image_set).sum()),
        blank_negatives=blank_entry(test.image_set, test.labels),
        patients_seen_in_pretraining=seen,
    )


def fraction_entry(fraction: float, parts: Sequence[tuple[ImageSet, ImageSet]], labels: Sequence[str]) -> FractionEntry:
    """What the manifest says of a fraction: images and patients of each training subset, and labels of one class."""
    draws = tuple(
        SubsetEntry(
            train=counts(train),
            validate=counts(validate),
            without_probe=tuple(label for label, able in zip(labels, train.learnable, strict=True) if not able),
        )
        for train, validate in parts
    )
    return FractionEntry(fraction=fraction, draws=draws)


def counts(image_set: ImageSet) -> Counts:
    """How many images of how many patients."""
    return Counts(films=len(image_set.rows), patients=len(np.unique(image_set.patients)))
