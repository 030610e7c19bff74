"""Commands of pretraining: pretrain, knobs and study."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import PlainValidator

from chartray.commands.options import Count
from chartray.config.pretrain import Config, load, load_saved
from chartray.config.section import Knobs, options_of
from chartray.console import tell
from chartray.errors import InputError
from chartray.training.trackers import Tracked, TrackerName, check_trackers

if TYPE_CHECKING:
    Given = Knobs | None
else:
    # The help, the names and the types are those of Config; what was given is checked with the recipe below it.
    Given = Annotated[
        Config,
        Parameter(name="*", n_tokens=1, negative_iterable=(), allow_repeating=True),
        PlainValidator(lambda given: _nulls(given)),
    ]


def pretrain(
    store: Path,
    *,
    out: Path | None = None,
    config: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    tracker: Annotated[list[TrackerName] | None, Parameter(negative=())] = None,
    tracker_uri: str | None = None,
    tracker_group: str | None = None,
    given: Given = None,
) -> None:
    """Pretrains a Vision Transformer on the training split of a store.

    The defaults are those of the recipe msn; `chartray knobs --recipe NAME` lists the values of another.

    Args:
        store: A folder that `ingest` wrote.
        out: The run's folder; --dry-run needs none.
        config: A YAML file of settings, between the recipe and the command line.
        resume: Continue the run in OUT from its last checkpoint; start it if there is none.
        dry_run: Print what the run needs (memory, hours, disk) from a few real steps, and write nothing.
        tracker: Where numbers go besides metrics.jsonl; may be repeated. tensorboard, always written, is RUN/events.
        tracker_uri: MLflow's server or database; by default MLFLOW_TRACKING_URI, else RUN/mlflow.db.
        tracker_group: Group of the run in MLflow (a tag) and W&B, shared by runs that differ in their seed alone.
        given: Settings.
    """
    tracked = Tracked(tracker or (), tracker_uri, tracker_group)
    check_trackers(tracked)
    if out is None and not dry_run:
        raise InputError("expected --out, the run's folder, found none; only --dry-run needs no folder")
    settings = dict(given or {})
    recipe = settings.get("recipe")
    if out is not None and resume and (started := out / "config.yaml").is_file():
        resolved = load_saved(started, config, settings)
    else:
        resolved = load(str(recipe or "msn"), config, settings)

    from chartray.commands.opening import need_inputs
    from chartray.training.early import check_run

    need_inputs(stores=[store], out=out)
    check_run(store, out, resolved, resume=resume)
    from chartray.training.runtime import refuse_missing_device  # imports torch, but not yet what is trained

    refuse_missing_device(resolved.train)
    if out is None or dry_run:
        from chartray.training.dry_run import print_dry_run

        print_dry_run(store, resolved, out=out, resume=resume)
        return
    from chartray.results.folder import command
    from chartray.training.pretrain import pretrain as pretrain_run

    pretrain_run(store, out, resolved, command=shlex.join(["chartray", *command()[1:]]), resume=resume, tracked=tracked)
    tell(out=out)


def _nulls(given: Knobs) -> Knobs:
    """The word null is YAML's, on the command line too."""
    return {
        name: _nulls(value) if isinstance(value, dict) else None if value == "null" else value
        for name, value in given.items()
    }


def knobs(recipe: str = "msn") -> None:
    """Lists every setting of pretraining with its value in a recipe.

    Args:
        recipe: msn, published, dino, mae, small-gpu, small-cpu or tiny-cpu.
    """
    values = load(recipe).model_dump()
    settings = dict[str, object]()
    for name, field in options_of(Config):
        section, _, key = name.rpartition(".")
        settings[name] = values[section][key] if section else values[key]
        tell(f"--{name:<36} {settings[name]!s:<28} {field.description}")
    tell(recipe=recipe, settings=settings)


def study(
    file: Path,
    *,
    out: Path,
    plan: bool = False,
    slurm: bool = False,
    declare: bool = False,
    dry_run: bool = False,
    jobs: Count = 1,
    tracker: Annotated[list[TrackerName] | None, Parameter(negative=())] = None,
    tracker_uri: str | None = None,
) -> None:
    """Runs an experiment of arms x seeds: pretrains, evaluates, compares, audits, reports; finished steps are kept.

    Args:
        file: YAML: store, arms, seeds, evaluations (see examples/study.yaml).
        out: The experiment's folder; after an interruption the same command continues.
        plan: Only print the commands of the experiment, one per line, for a cluster's queue.
        slurm: With --plan, also write them as SLURM scripts to OUT/slurm, with a submit.sh that queues them in order.
        declare: Only fix the file's question in OUT/question.json, before anything is scored on test.
        dry_run: Only print what pretraining its runs needs (memory, hours, disk) from a few real steps of each recipe.
        jobs: Steps to run at the same time, each in its own process, and on its own GPU if there are several.
        tracker: Where the numbers of its runs go besides metrics.jsonl, grouped by arm and seed; may be repeated.
        tracker_uri: MLflow's server or database; by default MLFLOW_TRACKING_URI, else each run's own RUN/mlflow.db.
    """
    tracked = Tracked(tracker or (), tracker_uri)
    check_trackers(tracked)
    if slurm and not plan:
        raise InputError("expected --plan with --slurm, found --slurm alone; add --plan, and nothing is run here")
    if dry_run:
        if plan or declare:
            raise InputError("expected --dry-run alone, found it with --plan or --declare; give one of them")
        from chartray.experiment_dry_run import experiment_needs

        tell(*experiment_needs(file, out, jobs=jobs))
        return
    from chartray.experiment import declare_question, experiment_answer, experiment_plan, run_experiment, write_slurm

    if plan or declare:
        tell(*(experiment_plan(file, out, tracked) if plan else declare_question(file, out)))
        if slurm:
            tell(f"# bash {shlex.quote(str(write_slurm(file, out, tracked)))}")
        return
    page = run_experiment(file, out, jobs=jobs, tracked=tracked)
    answer = experiment_answer(out)
    tell(*answer, page, answer=answer, page=page)
