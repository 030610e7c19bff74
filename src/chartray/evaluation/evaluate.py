"""`chartray evaluate`: what an encoder's features are worth, with intervals by patient, beside baselines.

Probes are fitted on the training images of STORE, chosen on its validation images, and scored on one split of STORE
and of every external store. docs/results.md says what stands in the folder that it writes.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from chartray.errors import InputError
from chartray.evaluation.assemble import Evaluated, encoder_entry, fraction_entry, write_results
from chartray.evaluation.baselines import (
    Candidate,
    Frozen,
    Learner,
    Part,
    baselines_of,
    encoder_features,
    linear,
    nearest,
)
from chartray.evaluation.evaluation_data import Protocol, Settings, Task, make_task
from chartray.evaluation.films import Films, nested_subset
from chartray.evaluation.finetune.recipe import Recipe, recipe_of
from chartray.evaluation.finetune.training import tuned
from chartray.evaluation.outcomes import Learning, Outcome, outcomes_of
from chartray.evaluation.studies import by_study
from chartray.networks.encoder import PretrainedEncoder, load, untrained
from chartray.pixels.store import Store
from chartray.results.arm import CHART_BASELINES, PIXELS, UNTRAINED, arm_of
from chartray.results.folder import MANIFEST_FILE, check_replaceable, check_same
from chartray.results.schema import Score
from chartray.truth import Blank, Uncertain

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
    blank: Blank = "source",
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
    draws: int = 5,
    layer_decay: float | None = None,
    drop_path: float | None = None,
    warmup_epochs: float | None = None,
    mixup: float | None = None,
    resume: bool = False,
    looks: int = 12,
    floor_chart: str | None = None,
) -> list[Score]:
    """Evaluates the encoder of a RUN (or encoder folder) and writes the Results folder `out`; returns its rows.

    Args:
        source: RUN or encoder folder.
        store: the STORE that is fitted and chosen on.
        out: the folder to write; an earlier evaluation of this encoder on this STORE is replaced.
        external: further stores to score with the same probes, labels matched by name.
        protocol: linear, knn, finetune or published.
        split: which split is scored; the test split is touched only if this says so.
        uncertain: what -1 counts as: ignore, zeros or ones.
        blank: what a blank label counts as: source (as the cohort says of each label), negative or ignore.
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
        draws: at fractions below 1, how many independent draws of the training and validation patients are learnt from.
        layer_decay: (finetune) learning rate of a block as a share of that of the block above it; default 0.75.
        drop_path: (finetune) probability that the last block is passed over for a film; default 0.1.
        warmup_epochs: (finetune) how long the learning rate rises; default 5, or a tenth of max_epochs if less.
        mixup: (finetune) alpha of the Beta distribution that films are mixed by; default 0, not at all.
        resume: (published, finetune) continue the trainings of the same command that was stopped; without any, start.
        looks: (linear, knn) on how many films attention and similar patches are shown, at most; 0 writes no film.
        floor_chart: the feature set that chart-only and image+chart read; default what STORE gives of the encoder's
            chart, or of demographic-norm where it gives nothing or the encoder has none.

    Raises:
        InputError: what is asked for cannot be had from these inputs.
    """
    shares = tuple(sorted({float(each) for each in data_percent}))
    policy = (uncertain, blank)
    settings = Settings(protocol, split, *policy, shares, resamples, level, seed, device, precision, draws, floor_chart)
    check_replaceable(out, MANIFEST_FILE)
    if floor_chart is not None and not (floors and protocol in ("linear", "knn")):
        raise InputError(f"expected --floor-chart only where chart floors are scored, with --floors under {FROZEN}")
    recipe = recipe_of(
        protocol,
        freeze=freeze,
        scheduler=scheduler,
        learning_rate=learning_rate,
        max_epochs=max_epochs,
        layer_decay=layer_decay,
        drop_path=drop_path,
        warmup_epochs=warmup_epochs,
        mixup=mixup,
    )
    trainings = _trainings(out, recipe, resume=resume)
    encoder, home = load(source), Store.open(store)
    run = str(encoder.provenance.get("run") or source.resolve().name)
    check_same(out, MANIFEST_FILE, encoder=encoder_entry(encoder, run, source), store=home.hash)
    task = make_task(source, encoder, home, [Store.open(each) for each in external], labels, settings)
    parts = {share: _parts(task, share, draws, seed) for share in shares}
    if recipe is not None:
        _refuse_without_early_stopping(parts)
    candidates, features, left_out = _candidates(source, encoder, task, settings, recipe, floors, trainings)
    studies, tests = [by_study(test.films) for test in task.tests], [test.films for test in task.tests]
    outcomes: list[Outcome] = []
    for share in shares:
        for candidate in reversed(candidates):  # the encoder's own comes last, so that what it learnt stays in hand
            learnings = [
                Learning(train, validate, candidate.learn(train, validate, tests, part))
                for part, train, validate in parts[share]
            ]
            learnt = learnings[0].learnt
            outcomes += outcomes_of(candidate.arm, share, task, learnings, studies, settings)
    arms = [candidate.arm for candidate in candidates]
    outcomes.sort(key=lambda each: (each.fraction, arms.index(each.arm)))
    fractions = [fraction_entry(share, [each[1:] for each in drawn]) for share, drawn in parts.items()]
    about = (source, run, encoder, task, settings, recipe)
    rows = write_results(out, Evaluated(*about, candidates, outcomes, learnt, features, fractions, left_out, looks))
    shutil.rmtree(trainings, ignore_errors=True)
    return rows


def _parts(task: Task, share: float, draws: int, seed: int) -> list[tuple[Part, Films, Films]]:
    """Each draw of a share of the patients: its training and its validation films."""
    found = []
    for part in (Part(share, draw) for draw in range(draws if share < 1 else 1)):
        train, validate = (
            each.kept(nested_subset(each, share, seed, part.draw)) for each in (task.train, task.validate)
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


def _candidates(
    source: Path,
    encoder: PretrainedEncoder,
    task: Task,
    settings: Settings,
    recipe: Recipe | None,
    with_baselines: bool,
    trainings: Path,
) -> tuple[list[Candidate], Frozen | None, dict[str, str]]:
    """The encoder first, then its baselines: of a fine-tuned one the same training from scratch."""
    own = encoder_entry(encoder, "", source).arm
    seed, device, precision = settings.seed, settings.device, settings.precision
    if recipe is not None:

        def trained(model: PretrainedEncoder, title: str) -> Learner:
            return tuned(model, recipe, seed=seed, device=device, precision=precision, title=title, trainings=trainings)

        found = [Candidate(own, trained(encoder, "fine-tune"))]
        if not with_baselines:
            return found, None, {}
        fresh = untrained(source, seed=seed)
        found.append(Candidate(arm_of("none", UNTRAINED, base=own), trained(fresh, "fine-tune, untrained")))
        why = f"not scored under {settings.protocol}, only under {FROZEN}"
        return found, None, dict.fromkeys((PIXELS, *CHART_BASELINES), why)
    learner = {"linear": linear, "knn": nearest}[settings.protocol]
    frozen = encoder_features(encoder, task.films, device=device, precision=precision, title="embed")
    candidate = Candidate(own, learner(frozen, device))
    if not with_baselines:
        return [candidate], frozen, {}
    beside, left_out = baselines_of(
        source,
        encoder,
        frozen,
        task.films,
        task.labels,
        learner=learner,
        device=device,
        precision=precision,
        seed=seed,
        chart=settings.floor_chart,
    )
    return [candidate, *beside], frozen, left_out
