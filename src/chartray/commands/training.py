"""Commands of pretraining: one run, a study of arms and seeds, and the knobs."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chartray.commands.options import Count

Overrides = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def pretrain(
    store: Path,
    *overrides: Overrides,
    out: Path,
    recipe: str | None = None,
    ehr: str | None = None,
    control: str | None = None,
    config: Path | None = None,
    resume: bool = False,
) -> None:
    """Pretrains a ViT on the train split of a store; any knob as --section.key value (see `chartray knobs`).

    Args:
        store: A folder that `ingest` wrote.
        overrides: Knobs.
        out: The run's folder.
        recipe: msn (default), published, dino, mae or tiny-cpu.
        ehr: The chart: a named set, variables separated by commas, or none.
        control: shuffled, constant or mask-only charts instead of the patients' own.
        config: A YAML file of knobs, between the recipe and the command line.
        resume: Continue the run in OUT from its last checkpoint; without one, start.
    """
    from chartray.config import pretrain as knobs

    given = knobs.parse_overrides(overrides)
    given |= {"chart.ehr": ehr} if ehr is not None else {}
    given |= {"chart.control": control} if control is not None else {}
    started = out / "config.yaml"
    if resume and started.is_file():
        if recipe is not None:
            given["recipe"] = recipe
        resolved = knobs.load_saved(started, config, given)
    else:
        resolved = knobs.load(recipe or "msn", config, given)

    from chartray.commands.opening import need_inputs
    from chartray.training.early import check_run

    need_inputs(stores=[store], out=out)
    check_run(store, out, resolved, resume=resume)
    from chartray.training.pretrain import pretrain as pretrain_run

    pretrain_run(store, out, resolved, command=shlex.join(["chartray", *sys.argv[1:]]), resume=resume)


def knobs(recipe: str = "msn") -> None:
    """Every knob of pretraining, its value in a recipe, and what it is.

    Args:
        recipe: msn, published, dino, mae or tiny-cpu.
    """
    from chartray.config import pretrain as all_knobs

    resolved = all_knobs.load(recipe)
    for knob, (meaning, _) in all_knobs.knobs().items():
        section, _, key = knob.partition(".")
        value = getattr(getattr(resolved, section), key) if key else getattr(resolved, section)
        print(f"--{knob:<36} {value!s:<28} {meaning}")


def study(file: Path, *, out: Path, plan: bool = False, jobs: Count = 1) -> None:
    """Arms x seeds of a study file: pretrains, evaluates, compares, audits and reports; what is done is not done again.

    Args:
        file: YAML: store, arms, seeds, evaluations (see examples/study.yaml).
        out: The study's folder; killed at any moment, the same command continues.
        plan: Only print the commands that the study stands for, a line each, for a cluster's queue.
        jobs: Steps that run at the same time, each in its own process; with several GPUs each process gets one.
    """
    from chartray.experiment import experiment_plan, run_experiment

    if plan:
        print("\n".join(experiment_plan(file, out)))
        return
    print(run_experiment(file, out, jobs=jobs))
