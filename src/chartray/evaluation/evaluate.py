"""`chartray evaluate`: what an encoder's features are worth, with intervals by patient, beside floors and ceilings.

Probes are fitted on the training films of STORE, chosen on its validation films, and scored on one split of STORE
and of every external store. The folder that `evaluate` writes:

results.jsonl        one object per arm, fraction, data set, label and metric, by film:
    run                   the encoder's run (its provenance, else its folder's name); the same in the floors' rows
    control               the encoder's own: none | shuffled | constant | mask-only; the floors beside it:
                          untrained | pixels | chart-only | image+chart
    chart                 the encoder's chart; for chart-only and image+chart the chart they read; else none
    chart_use             how the encoder's pretraining used its chart: anchor | predict | null
    objective, settings_hash, after_film    of the encoder's pretraining: msn | dino | mae | null; the same for two runs
                          of one recipe; chart variables that it was allowed although known only after the film
    home                  the data set of STORE, whose training films everything was fitted on
    dataset, store        the data set that is scored, and its store's folder name
    protocol, split       linear | knn | finetune | published; test | validate
    label, metric         a label of STORE or `macro`; auroc | average_precision | brier | ece | sensitivity |
                          specificity
    value, ci_low, ci_high, level    null where it cannot be had; `reason` says why
    reason                null | one class in the test films (no value) | too few patients (no interval) |
                          one class in the training films: all films score alike | no label has ... (macro) | ...
    unit, n, n_positive   film; films of known truth, of them positive (null for the macro, whose n is all films)
    n_patients, n_positive_patients, n_negative_patients
    labels                the macro's labels (macro rows only): 10 positive and 10 negative patients or more,
                          the same for every arm and fraction
    resamples, redrawn    draws of the patients the interval stands on, and draws passed over for lack of a class
    fraction, draws       share of the training (and validation) patients, and how many draws of them the value is a
                          mean over: 1 at fraction 1; else the interval is over scored patients and draws
    holds_fixed           what the interval holds fixed, in words
    seed, run_seed        --seed; the pretraining's seed
    uncertain, blank      the label policies; blank: source (as each label's source says) | negative | ignore
    n_blank               films of known truth whose label the source left blank, so that they count as negative
    strength, validation_auroc, chosen_by    (linear) the probe's penalty, the AUROC it was chosen for, and on what:
                          validation | cross-validation (by patient, inside the training films, where validation holds
                          fewer than 10 patients of a class) | other labels | cross-validation of all labels together |
                          nothing (the middle of the list); neighbours, chosen_by (knn). Null where draws differ
    delong_...            (auroc) normal intervals beside the bootstrap; threshold, at_specificity (sensitivity,
                          specificity): the threshold was chosen on validation films for that specificity; `interval` of
                          these is bootstrap, or exact where all patients fall on one side (`clopper_pearson`)
    by_chance             (ece) the calibration error that perfect probabilities of as many films would show
studies.jsonl        the same rows by study, `unit` study: a study's score is the mean of its films' scores; of data
                     sets where a study has more than one film
draws.jsonl          the same rows by film for each `draw` of a fraction below 1, without intervals
calibration.jsonl    reliability: a row an arm, fraction, data set, label and bin of scores
thresholds.json      control -> label -> specificity and threshold, at the largest fraction, chosen on validation
predictions.parquet  image_id, study_id, patient_id, label, truth (null: ignored), score, draw, dataset, split, run,
                     control, chart, fraction; one row a film, label, arm, fraction and draw; within an arm film by film
embeddings.parquet   dataset, split, image_id, patient_id, embedding (D float32): the encoder's features of every
                     film that was used, training and validation films of STORE too (protocols linear and knn)
probe.safetensors    the encoder's probe at the largest fraction: weight (C, D), bias (C,), mean (D,), scale (D,),
                     strength (C,), validation_auroc (C,); labels in its metadata and in probe.json, with the formula.
                     Where the encoder was trained too, the probe is on the features of `finetuned/`, an encoder folder
comparisons.jsonl    {a, b, control_a, control_b, chart_a, chart_b, chart_use_a, chart_use_b, objective_a, objective_b,
                     settings_hash_a, settings_hash_b, home, dataset, protocol, split, fraction, uncertain, blank,
                     after_film, label, metric, difference, ci_low, ci_high, p, p_holm, delong_p, delong_patient_p,
                     level, levels, seeds, claim, verdict, note, reason}:
                     a is the run, b the name of a floor, difference = a - b, the same patients drawn for both;
                     p_holm is Holm's p over the labels of one b, data set, fraction and metric (the macro apart);
                     `claim` warns where seeds < 3
evaluation.json      format, command, versions, when, source and provenance of the encoder, `after_film` (variables
                     that pretraining was allowed although known only after the film), patients_seen_in_pretraining
                     (of STORE's scored split: 0, or null where it could not be checked), settings, stores (path, hash,
                     the same of theirs, dataset, films, patients, label matches, unmatched labels, macro labels,
                     blank_negatives: label -> films whose blank label counts as negative),
                     blank_negatives_learnt_from (the same of the training films), recipe and training (published,
                     finetune: what each epoch of the encoder's arm reached), fractions (training and validation films
                     and patients, of the first draw and of each), left_out (floors, with reasons), not_compared
                     (external stores whose films could not be compared with those that are learnt from, in words),
                     looks (films, or why there are none), notes
looks/               attention, similar patches and similar films of the encoder at the first test set: see looks.py
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chartray.config.evaluate import FROZEN, EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation import results
from chartray.evaluation.baselines import CHART_FLOORS, Arm, Frozen, Part, encoder_features, floor_arms, linear, nearest
from chartray.evaluation.earlier import check_replaceable, check_same
from chartray.evaluation.evaluation_data import Task, make_task
from chartray.evaluation.films import Films, nested_subset
from chartray.evaluation.finetune.recipe import Recipe, recipe_of
from chartray.evaluation.finetune.training import tuned
from chartray.evaluation.folder import Evaluated, fraction_entry, write_results
from chartray.evaluation.outcomes import Learning, Outcome, outcomes_of
from chartray.evaluation.studies import by_study
from chartray.networks.encoder import PretrainedEncoder, load, untrained
from chartray.pixels.store import Store

DEFAULTS = EvaluateOptions()


def evaluate(
    source: Path,
    store: Path,
    out: Path,
    options: EvaluateOptions = DEFAULTS,
    *,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Evaluates the encoder of a RUN (or encoder folder) and writes the Results folder `out`; returns its rows.

    Args:
        source: RUN or encoder folder.
        store: the STORE that is fitted and chosen on.
        out: the folder to write; an earlier evaluation of this encoder on this STORE is replaced.
        options: everything else, `config.evaluate.EvaluateOptions`.
        resume: (published, finetune) continue an interrupted evaluation.

    Raises:
        InputError: what is asked for cannot be had from these inputs.
    """
    check_replaceable(out, results.MANIFEST_FILE)
    recipe = recipe_of(options)
    trainings = _trainings(out, recipe, resume=resume)
    encoder, home = load(source), Store.open(store)
    run = str(encoder.provenance.get("run") or source.resolve().name)
    check_same(out, results.MANIFEST_FILE, run=run, made=encoder.provenance, store=home.hash)
    task = make_task(source, encoder, home, options)
    parts = {share: _parts(task, share, options) for share in options.data_percent}
    if recipe is not None:
        _refuse_without_early_stopping(parts)
    arms, features, left_out = _arms(source, encoder, task, options, recipe, trainings)
    studies, tests = [by_study(test.films) for test in task.tests], [test.films for test in task.tests]
    outcomes: list[Outcome] = []
    for share in options.data_percent:
        for arm in reversed(arms):  # the encoder's own comes last, so that what it learnt stays in hand
            learnings = [
                Learning(train, validate, arm.learn(train, validate, tests, part))
                for part, train, validate in parts[share]
            ]
            learnt = learnings[0].learnt
            outcomes += outcomes_of(arm, share, task, learnings, studies, options)
    outcomes.sort(key=lambda each: (each.fraction, arms.index(each.arm)))
    fractions = [fraction_entry(share, [each[1:] for each in drawn]) for share, drawn in parts.items()]
    about = (source, run, encoder, task, options, recipe)
    rows = write_results(out, Evaluated(*about, arms, outcomes, learnt, features, fractions, left_out))
    shutil.rmtree(trainings, ignore_errors=True)
    return rows


def _parts(task: Task, share: float, options: EvaluateOptions) -> list[tuple[Part, Films, Films]]:
    """Each draw of a share of the patients: its training and its validation films."""
    found = []
    for part in (Part(share, draw) for draw in range(options.draws if share < 1 else 1)):
        train, validate = (
            each.kept(nested_subset(each, share, options.seed, part.draw)) for each in (task.train, task.validate)
        )
        found.append((part, train, validate))
    return found


def _refuse_without_early_stopping(parts: Mapping[float, Sequence[tuple[Part, Films, Films]]]) -> None:
    """Raises InputError, before any training, if a part has no label with both classes among its validation films."""
    for part, _, validate in (each for drawn in parts.values() for each in drawn):
        if not ((validate.truth == 1).any(axis=0) & (validate.truth == 0).any(axis=0)).any():
            raise InputError(
                f"expected a label with both classes among the {len(validate.rows)} validation films of draw "
                f"{part.draw + 1} of the fraction {part.fraction:g} of {validate.store.folder}, found none; early "
                "stopping needs one, so leave out --data-percent as small as that"
            )


def _trainings(out: Path, recipe: Recipe | None, *, resume: bool) -> Path:
    """Where trainings by gradient descent are kept until the results are written: beside `out`."""
    folder = out.with_name(f".{out.name}.training")
    if resume and recipe is None:
        raise InputError(
            "expected --resume only with --protocol published or finetune; the others keep no state to go on from"
        )
    if recipe is not None and folder.exists() and not resume:
        raise InputError(
            f"expected no training to be under way for {out}, found one in {folder}; go on with --resume, or delete it"
        )
    return folder


def _arms(
    source: Path,
    encoder: PretrainedEncoder,
    task: Task,
    settings: EvaluateOptions,
    recipe: Recipe | None,
    trainings: Path,
) -> tuple[list[Arm], Frozen | None, dict[str, str]]:
    """The encoder first, then what stands beside it: beside a trained one the same training from scratch."""
    control, chart = (str(encoder.provenance.get(key, "none")) for key in ("control", "chart"))
    seed, device, precision = settings.seed, settings.device, settings.precision
    if recipe is not None:
        arms = [("fine-tune", control, chart, encoder)]
        if settings.baselines:
            arms.append(("fine-tune, untrained", "untrained", "none", untrained(source, seed=seed)))
        options: dict[str, Any] = {"seed": seed, "device": device, "precision": precision, "trainings": trainings}
        not_scored = dict.fromkeys(
            ("pixels", *CHART_FLOORS), f"not scored under {settings.protocol}, only under {' and '.join(FROZEN)}"
        )
        return (
            [Arm(who, what, tuned(model, recipe, title=title, **options)) for title, who, what, model in arms],
            None,
            not_scored if settings.baselines else {},
        )
    learner = {"linear": linear, "knn": nearest}[settings.protocol]
    frozen = encoder_features(encoder, task.films, device=device, precision=precision, title="embed")
    own = Arm(control, chart, learner(frozen, device))
    if not settings.baselines:
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
        chart=settings.baseline_chart,
    )
    return [own, *beside], frozen, left_out
