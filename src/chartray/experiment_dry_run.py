"""What an experiment's pretraining would need, arm by arm and in all, before it begins; nothing is written."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

from chartray.config.pretrain import NO_CHART, Config
from chartray.config.study import Experiment, placed, read_experiment
from chartray.console import status
from chartray.experiment import checked, claim
from chartray.training.dry_run import Needs, Timed, dry_run, free_disk, in_bytes, in_hours, needs_like
from chartray.training.manifest import COMPLETE, MANIFEST_FILE, read_manifest
from chartray.wording import plural

# Settings of a chart that change no step's cost; its roles count, and the variables of each do not.
_ALIKE = ("ehr", "use", "roles", "control", "films_of", "allow_after_film")


class ArmNeeds(NamedTuple):
    """What a run of an arm needs, what its steps were measured as, and how many runs are done of how many."""

    arm: str
    needs: Needs
    timed: Timed
    runs: int
    done: int

    @property
    def left(self) -> int:
        """Runs that are still to be done."""
        return self.runs - self.done


def experiment_needs(file: Path, out: Path, *, jobs: int = 1) -> list[str]:
    """A short table: what every arm's runs and all of them need; each kind of step is measured once.

    Raises InputError as `run_experiment` does for its file, stores and charts, and where a run would.
    """
    file, out = Path(file), Path(out).resolve()
    claim(out)
    experiment = read_experiment(file)
    with redirect_stdout(sys.stderr):  # what a run says at its start
        checked(experiment, file, out)
        arms = _arms(experiment, file, out)
    return lines_of(arms, out, jobs=jobs)


def _arms(experiment: Experiment, file: Path, out: Path) -> list[ArmNeeds]:
    measured: dict[str, Timed] = {}
    found = []
    for arm in experiment.arms:
        config = arm.config(experiment.seeds[0])
        kind = kind_of_step(config)
        with placed(f"arm {arm.name} of {file}"):
            if kind not in measured:
                status(f"study: some real steps of arm {arm.name}")
                measured[kind] = dry_run(experiment.store, config).timed
            needs = needs_like(measured[kind], experiment.store, config)
        runs = [out / "runs" / f"{arm.name}-{seed}" for seed in experiment.seeds]
        done = sum((run / MANIFEST_FILE).is_file() and read_manifest(run).status == COMPLETE for run in runs)
        found.append(ArmNeeds(arm.name, needs, measured[kind], len(runs), done))
    return found


def kind_of_step(config: Config) -> str:
    """Runs with the same kind take the same time, memory and disk a step, as far as their settings tell."""
    settings = config.model_dump(mode="json", exclude={"seed", "recipe"})
    chart = {name: value for name, value in settings["chart"].items() if name not in _ALIKE}
    roles = {role for each in config.chart.by_name.values() for role in each} - {"none"}
    settings["chart"] = chart | {"roles": sorted(roles)} if config.chart.name != NO_CHART else None
    return json.dumps(settings, sort_keys=True)


def lines_of(arms: Sequence[ArmNeeds], out: Path, *, jobs: int) -> list[str]:
    """The table, and what it counts."""
    head = ("arm", "runs", "images", "steps", "a step", "memory", "hours", "disk")
    rows = [
        (
            each.arm,
            f"{each.left}",
            f"{each.needs.images:,}",
            f"{each.left * each.needs.steps:,}",
            f"{each.timed.step:.3g} s",
            in_bytes(each.timed.memory),
            in_hours(each.left * each.needs.hours),
            in_bytes(each.left * each.needs.kept),
        )
        for each in arms
    ]
    runs, done = sum(each.left for each in arms), sum(each.done for each in arms)
    hours = sum(each.left * each.needs.hours for each in arms)
    # Beside what is kept, each run that is going on writes a checkpoint before it deletes the oldest.
    writing = jobs * max(each.timed.checkpoint for each in arms)
    disk = sum(each.left * each.needs.kept for each in arms)
    total = (
        "total",
        f"{runs}",
        f"{sum(each.left * each.needs.images for each in arms):,}",
        f"{sum(each.left * each.needs.steps for each in arms):,}",
        "",
        in_bytes(max(each.timed.memory for each in arms)),
        in_hours(hours),
        in_bytes(disk),
    )
    table = [head, *rows, total]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in table)
    ]
    kinds = len({each.timed for each in arms})
    beside = f", {in_hours(hours / jobs)} at best with {jobs} jobs" if jobs > 1 else ""
    before = f"; {plural(done, 'run')} done already" if done else ""
    lines += [
        f"images: those of each run's train split; memory: of a step, beside the weights, the largest in all{beside}",
        f"disk: checkpoints and encoders that are kept, and {in_bytes(writing)} while they are written; "
        f"{free_disk(out, disk + writing)}",
        f"measured in five real steps of {plural(kinds, 'kind')} on this machine; not counted: start-up, evaluations, "
        f"comparisons, audit and report{before}",
    ]
    return lines
