"""`chartray evaluate`: what an encoder's features are worth, with intervals by patient, beside floors and ceilings.

Probes are fitted on the training films of STORE, chosen on its validation films, and scored on one split of STORE
and of every external store. The folder that `evaluate` writes:

results.jsonl        one object per arm, fraction, data set, label and metric:
    run                   the encoder's run (its provenance, else its folder's name); the same in the floors' rows
    control               the encoder's own: none | shuffled | constant | mask-only; the floors beside it:
                          untrained | pixels | chart-only | image+chart
    chart                 the encoder's chart; for chart-only and image+chart the chart they read; else none
    chart_use             how the encoder's pretraining used its chart: anchor | predict | null
    objective, settings_hash, after_film    of the encoder's pretraining: msn | dino | mae | null; the same for two runs
                          of one recipe; chart variables that it was allowed although known only after the film
    dataset, store        the source of the scored cohort, and its store's folder name
    protocol, split       linear | knn | finetune | published; test | validate
    label, metric         a label of STORE or `macro`; auroc | average_precision
    value, ci_low, ci_high, level    null where it cannot be had; `reason` says why
    reason                null | one class in the test films (no value) | too few patients (no interval) |
                          one class in the training films: all films score alike | no label has ... (macro)
    n, n_positive         films of known truth, of them positive (null for the macro, whose n is all films)
    n_patients, n_positive_patients, n_negative_patients
    labels                the macro's labels (macro rows only): 10 positive and 10 negative patients or more,
                          the same for every arm and fraction
    resamples, redrawn    draws of the patients the interval stands on, and draws passed over for lack of a class
    fraction, seed, run_seed         share of the training (and validation) patients; --seed; the pretraining's seed
    uncertain, blank      the label policies
    strength, validation_auroc       (linear) the probe's penalty and what it was chosen on; neighbours (knn)
predictions.parquet  image_id, patient_id, label, truth (null: ignored), score, dataset, split, run, control, chart,
                     fraction; one row a film, label, arm and fraction; within an arm film by film
embeddings.parquet   dataset, split, image_id, patient_id, embedding (D float32): the encoder's features of every
                     film that was used, training and validation films of STORE too (protocols linear and knn)
probe.safetensors    the encoder's probe at the largest fraction: weight (C, D), bias (C,), mean (D,), scale (D,),
                     strength (C,), validation_auroc (C,); labels in its metadata and in probe.json, with the formula.
                     Where the encoder was trained too, the probe is on the features of `finetuned/`, an encoder folder
comparisons.jsonl    {a, b, control_a, control_b, chart_a, chart_b, chart_use_a, chart_use_b, objective_a, objective_b,
                     settings_hash_a, settings_hash_b, dataset, protocol, split, fraction, uncertain, blank, after_film,
                     label, metric, difference, ci_low, ci_high, p, p_holm, level, seeds, claim, note, reason}:
                     a is the run, b the name of a floor, difference = a - b, the same patients drawn for both;
                     p_holm is Holm's p over the labels of one b, data set, fraction and metric (the macro apart);
                     `claim` warns where seeds < 3
evaluation.json      format, command, versions, when, source and provenance of the encoder, `after_film` (variables
                     that pretraining was allowed although known only after the film), patients_seen_in_pretraining
                     (of STORE's scored split: 0, or null where it could not be checked), settings, stores (path, hash,
                     the same of theirs,
                     dataset, films, patients, label matches, unmatched labels, macro labels, films without any label),
                     recipe and training (published, finetune: what each epoch of the encoder's arm reached),
                     fractions (training and validation films and patients), left_out (floors, with reasons), notes
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from chartray.evaluation import results
from chartray.evaluation.arms import CHART_FLOORS, Arm, Frozen, Learnt, encoder_features, floor_arms, linear, nearest
from chartray.evaluation.films import Blank, Uncertain, nested_subset
from chartray.evaluation.finetune import Recipe, recipe_of, tuned
from chartray.evaluation.outcomes import (
    Outcome,
    comparisons_of,
    counts,
    embeddings_of,
    manifest_of,
    outcomes_of,
    predictions_of,
    rows_of,
)
from chartray.evaluation.task import Protocol, Settings, Task, make_task
from chartray.networks.encoder import PretrainedEncoder, load, save, untrained
from chartray.pixels.store import Store

# Protocols of frozen features, which plain pixels and charts can stand in for.
FROZEN = "linear and knn"


def evaluate(
    source: Path,
    store: Path,
    out: Path,
    *,
    external: Sequence[Path] = (),
    protocol: Protocol = "linear",
    split: Literal["test", "validate"] = "test",
    uncertain: Uncertain = "ignore",
    blank: Blank = "negative",
    data_percent: Sequence[float] = (1.0,),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    floors: bool = True,
    device: str = "auto",
    precision: str = "fp32",
    freeze: bool | None = None,
    scheduler: Literal["cosine", "reduce"] | None = None,
    learning_rate: float | None = None,
    max_epochs: int | None = None,
) -> list[dict[str, Any]]:
    """Evaluates the encoder of a RUN (or encoder folder) and writes the Results folder `out`; returns its rows.

    Args:
        source: RUN or encoder folder.
        store: the STORE that is fitted and chosen on.
        out: the folder to write; earlier results are replaced.
        external: further stores to score with the same probes, labels matched by name.
        protocol: linear, knn, finetune or published.
        split: which split is scored; the test split is touched only if this says so.
        uncertain: what -1 counts as: ignore, zeros or ones.
        blank: what a blank label counts as: negative or ignore.
        data_percent: fractions in (0, 1] of the training and validation patients, each nested in the next: 0.05 is 5 %.
        resamples: draws of the patients behind each interval.
        level: of the intervals.
        seed: of the draws, of the subsets and of the untrained encoder.
        labels: which labels; default all of STORE.
        floors: score the floors and ceilings beside the encoder.
        device: auto, cpu or cuda.
        precision: fp32 or bf16, of the encoder.
        freeze: (published) train the linear layer alone, the default; false: the encoder too.
        scheduler: (published, finetune) cosine, the default, or reduce: halve the rate when validation stands still.
        learning_rate: (published, finetune) of the first epoch; default 1e-3 for the layer alone, else 1e-4.
        max_epochs: (published, finetune) at most so many passes over the training films; default 50.

    Raises:
        InputError: what is asked for cannot be had from these inputs.
    """
    shares = tuple(sorted({float(each) for each in data_percent}))
    settings = Settings(protocol, split, uncertain, blank, shares, resamples, level, seed, device, precision)
    results.check_replaceable(out)
    tuning: dict[str, Any] = {"learning_rate": learning_rate, "max_epochs": max_epochs}
    recipe = recipe_of(protocol, freeze=freeze, scheduler=scheduler, **tuning)
    encoder = load(source)
    task = make_task(source, encoder, Store.open(store), [Store.open(each) for each in external], labels, settings)
    run = str(encoder.provenance.get("run") or source.resolve().name)
    arms, frozen, left_out = _arms(source, encoder, task, settings, recipe, floors)
    outcomes: list[Outcome] = []
    fractions: list[dict[str, Any]] = []
    last: Learnt | None = None
    for share in shares:
        train, validate = (each.kept(nested_subset(each, share, seed)) for each in (task.train, task.validate))
        fractions.append({"fraction": share, "train": counts(train), "validate": counts(validate)})
        for arm in arms:
            learnt = arm.learn(train, validate, [test.films for test in task.tests])
            last = learnt if arm is arms[0] else last
            outcomes += outcomes_of(arm, share, task, train, learnt, settings)
    rows = [row for outcome in outcomes for row in rows_of(outcome, run, encoder, settings)]
    with results.whole_folder(out) as folder:
        results.write_jsonl(folder / results.RESULTS_FILE, rows)
        results.write_jsonl(
            folder / results.COMPARISONS_FILE, comparisons_of(outcomes, arms[0], run, encoder, settings)
        )
        results.write_parquet(folder / results.PREDICTIONS_FILE, [predictions_of(each, run) for each in outcomes])
        if frozen is not None:
            results.write_parquet(folder / results.EMBEDDINGS_FILE, embeddings_of(task, frozen))
        if last is not None and last.probe is not None:
            results.write_probe(folder, last.probe, task.labels, shares[-1])
        if last is not None and last.tuned is not None:
            save(folder / results.TUNED_FOLDER, last.tuned)
        manifest = manifest_of(source, run, encoder, task, settings, fractions, left_out)
        if recipe is not None and last is not None:
            manifest |= {"recipe": recipe._asdict(), "training": list(last.history)}
        results.write_json(folder / results.MANIFEST_FILE, manifest)
    return rows


def _arms(
    source: Path,
    encoder: PretrainedEncoder,
    task: Task,
    settings: Settings,
    recipe: Recipe | None,
    with_floors: bool,
) -> tuple[list[Arm], Frozen | None, dict[str, str]]:
    """The encoder first, then what stands beside it: beside a trained one the same training from scratch."""
    control, chart = (str(encoder.provenance.get(key, "none")) for key in ("control", "chart"))
    seed, device, precision = settings.seed, settings.device, settings.precision
    if recipe is not None:
        arms = [("fine-tune", control, chart, encoder)]
        if with_floors:
            arms.append(("fine-tune, untrained", "untrained", "none", untrained(source, seed=seed)))
        return (
            [
                Arm(who, what, tuned(model, recipe, seed=seed, device=device, precision=precision, title=title))
                for title, who, what, model in arms
            ],
            None,
            dict.fromkeys(("pixels", *CHART_FLOORS), f"not scored under {settings.protocol}, only under {FROZEN}")
            if with_floors
            else {},
        )
    learner = {"linear": linear, "knn": nearest}[settings.protocol]
    frozen = encoder_features(encoder, task.films, device=device, precision=precision, title="embed")
    own = Arm(control, chart, learner(frozen, device))
    if not with_floors:
        return [own], frozen, {}
    beside, left_out = floor_arms(
        source,
        encoder,
        frozen,
        task.films,
        task.labels,
        learner=learner,
        device=device,
        precision=precision,
        seed=seed,
    )
    return [own, *beside], frozen, left_out
