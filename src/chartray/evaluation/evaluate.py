"""`chartray evaluate`: what an encoder's features are worth, with intervals by patient, beside baselines.

Probes are fitted on the training images of STORE, chosen on its validation images, and scored on one split of STORE
and of every external store. docs/results.md says what stands in the folder that it writes.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from chartray.config.evaluate import FROZEN, EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation.assemble import Evaluated, encoder_entry, fraction_entry, write_results
from chartray.evaluation.baselines import (
    Candidate,
    Frozen,
    Learner,
    TrainingSubset,
    baselines_of,
    encoder_features,
    initialisation,
    linear,
    nearest,
)
from chartray.evaluation.evaluation_data import Task, make_task
from chartray.evaluation.finetune.recipe import Recipe, recipe_of
from chartray.evaluation.finetune.training import tuned
from chartray.evaluation.image_set import ImageSet, nested_subset
from chartray.evaluation.kept import unfinished
from chartray.evaluation.outcomes import Learning, Outcome, outcomes_of
from chartray.evaluation.studies import by_study
from chartray.networks.encoder import PretrainedEncoder, untrained
from chartray.networks.public import open_encoder
from chartray.pixels.store import Store
from chartray.progress import progress
from chartray.results.arm import CHART_BASELINES, PIXELS, UNTRAINED, arm_of
from chartray.results.folder import MANIFEST_FILE, check_replaceable, check_same
from chartray.results.ledger import note_scoring
from chartray.results.schema import Score

DEFAULTS = EvaluateOptions()


def evaluate(
    source: Path,
    store: Path,
    out: Path,
    options: EvaluateOptions = DEFAULTS,
    *,
    resume: bool = False,
) -> list[Score]:
    """Evaluates the encoder of a RUN (or encoder folder) and writes the results folder `out`; returns its rows.

    Args:
        source: RUN, encoder folder or public encoder.
        store: the STORE that is fitted and chosen on.
        out: the folder to write; an earlier evaluation of this encoder on this STORE is replaced.
        options: everything else, `config.evaluate.EvaluateOptions`.
        resume: continue an evaluation that was killed: what it had trained or embedded is kept beside `out`.

    Raises:
        InputError: what is asked for cannot be had from these inputs.
    """
    check_replaceable(out, MANIFEST_FILE)
    recipe = recipe_of(options)
    begun = unfinished(out, resume=resume)
    encoder, home = open_encoder(source, options), Store.open(store)
    run = encoder.provenance.run or source.resolve().name
    if recipe is not None and encoder.grid:
        raise InputError(
            f"expected --pool own or class with --protocol {options.protocol}, which trains through what the encoder's "
            f"head pools, found {options.pool}"
        )
    check_same(out, MANIFEST_FILE, encoder=encoder_entry(encoder, run, source), store=home.hash)
    task = make_task(source, encoder, home, options)
    parts = {share: _parts(task, share, options) for share in options.data_percent}
    if recipe is not None:
        _refuse_without_early_stopping(parts)
    candidates, features, left_out = _candidates(source, encoder, task, options, recipe, begun)
    studies, tests = [by_study(test.image_set) for test in task.tests], [test.image_set for test in task.tests]
    outcomes: list[Outcome] = []
    steps = len(candidates) * sum(len(drawn) + len(tests) for drawn in parts.values())
    with progress("fit and score", steps, "steps") as advance:
        for share in options.data_percent:
            for candidate in reversed(candidates):  # the encoder's own comes last: what it learnt stays in hand

                def tell(what: str, of: str = f"{candidate.arm.title}, {share:.0%}") -> None:
                    advance(0, f"{what} ({of})")

                learnings = []
                for part, train, validate in parts[share]:
                    learnt = candidate.learn(train, validate, tests, part, tell)
                    learnings.append(Learning(train, validate, learnt))
                    advance(1)
                outcomes += outcomes_of(candidate.arm, share, task, learnings, studies, options, tell)
                advance(len(tests))
                learnt = learnings[0].learnt
    arms = [candidate.arm for candidate in candidates]
    outcomes.sort(key=lambda each: (each.fraction, arms.index(each.arm)))
    fractions = [fraction_entry(share, [each[1:] for each in drawn], task.labels) for share, drawn in parts.items()]
    if options.split == "test":
        scored = [(test.image_set.store.folder, test.image_set.store.hash) for test in task.tests]
        note_scoring(scored, run=run, source=source)
    about = (source, run, encoder, task, options, recipe)
    rows = write_results(out, Evaluated(*about, candidates, outcomes, learnt, features, fractions, left_out))
    shutil.rmtree(begun, ignore_errors=True)
    return rows


def _parts(task: Task, share: float, options: EvaluateOptions) -> list[tuple[TrainingSubset, ImageSet, ImageSet]]:
    """Each draw of a share of the patients: its training and its validation images."""
    found = []
    for part in (TrainingSubset(share, draw) for draw in range(options.draws if share < 1 else 1)):
        train, validate = (
            each.kept(nested_subset(each, share, options.seed, part.draw, by=options.draw_by))
            for each in (task.train, task.validate)
        )
        found.append((part, train, validate))
    return found


def _refuse_without_early_stopping(parts: Mapping[float, Sequence[tuple[TrainingSubset, ImageSet, ImageSet]]]) -> None:
    """Raises InputError, before any training, if a part has no label with both classes among its validation images."""
    for part, _, validate in (each for drawn in parts.values() for each in drawn):
        if not ((validate.truth == 1).any(axis=0) & (validate.truth == 0).any(axis=0)).any():
            raise InputError(
                f"expected a label with both classes among the {len(validate.rows)} validation images of training "
                f"subset {part.draw + 1} at fraction {part.fraction:g} of {validate.store.folder}, found none; early "
                "stopping needs one, so use a larger --data-percent, or --draw-by stratified"
            )


def _candidates(
    source: Path,
    encoder: PretrainedEncoder,
    task: Task,
    settings: EvaluateOptions,
    recipe: Recipe | None,
    begun: Path,
) -> tuple[list[Candidate], Frozen | None, dict[str, str]]:
    """The encoder first, then its baselines: of a fine-tuned one the same training from scratch."""
    own = encoder_entry(encoder, "", source).arm
    seed, device, precision = settings.seed, settings.device, settings.precision
    if recipe is not None:

        def trained(model: PretrainedEncoder, title: str) -> Learner:
            return tuned(model, recipe, seed=seed, device=device, precision=precision, title=title, trainings=begun)

        found = [Candidate(own, trained(encoder, "fine-tune"))]
        if not settings.baselines:
            return found, None, {}
        fresh = untrained(encoder, seed=initialisation(encoder, seed))
        found.append(Candidate(arm_of("none", UNTRAINED, base=own), trained(fresh, "fine-tune, untrained")))
        why = f"not scored under {settings.protocol}, only under {' and '.join(FROZEN)}"
        return found, None, dict.fromkeys((PIXELS, *CHART_BASELINES), why)
    learner = {"linear": linear, "knn": nearest}[settings.protocol]
    frozen = encoder_features(encoder, task.image_set, device=device, precision=precision, title="embed", kept=begun)
    candidate = Candidate(own, learner(frozen, device, task.labels))
    if not settings.baselines:
        return [candidate], frozen, {}
    beside, left_out = baselines_of(
        encoder,
        frozen,
        task.image_set,
        task.labels,
        learner=learner,
        device=device,
        precision=precision,
        seed=seed,
        chart=settings.baseline_chart,
        kept=begun,
    )
    return [candidate, *beside], frozen, left_out
