"""An experiment: arms x seeds pretrained, evaluated, compared, audited, reported; finished steps are not repeated.

OUT/runs/<arm>-<seed>, OUT/results/<arm>-<seed>-<evaluation>, OUT/results/arms-<evaluation>, OUT/audit, OUT/report.
Every step is one command (`experiment_plan`). When it has been done, OUT/steps/<name>.done.json says with what: the
command, the settings, the stores' hashes and the steps it needed. It is done again where any of these is another.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from chartray.audit.attributes import chosen_attributes
from chartray.config.evaluate import ScoringOptions
from chartray.config.study import Experiment, placed, read_experiment
from chartray.console import status
from chartray.errors import InputError
from chartray.evaluation.declare import QUESTION_FILE, declare, question_of, read_questions
from chartray.evaluation.image_set import chosen_labels
from chartray.experiment_processes import run_all
from chartray.experiment_slurm import SUBMIT, Job, scripts
from chartray.experiment_steps import ExperimentStep, steps_of
from chartray.features.chart import fit_chart
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import read_json, write_json
from chartray.outputs.replacing import replaced_file, replaced_folder, reserved, settle
from chartray.outputs.set_aside import set_aside
from chartray.pixels.store import Store, read_index
from chartray.results.folder import AUDIT_FILE, COMPARE_FILE, MANIFEST_FILE, open_kind
from chartray.results.manifest import ComparisonManifest
from chartray.results.methods import answer_of
from chartray.results.question import declaration_line, question_line
from chartray.results.verdict import SEEDS_FOR_A_CLAIM
from chartray.training.early import check_chart
from chartray.training.trackers import NOT_TRACKED, Tracked
from chartray.wording import plural

_CHARTRAY = (sys.executable, "-m", "chartray")
_RESULTS = (MANIFEST_FILE, COMPARE_FILE, AUDIT_FILE)


def run_experiment(file: Path, out: Path, *, jobs: int = 1, tracked: Tracked = NOT_TRACKED) -> Path:
    """Runs the experiment of `file` in `out` and returns the report; after a kill the same call continues.

    `jobs`: steps that run at the same time, each in its own process. `tracked`: trackers of the runs.
    Raises, before anything is written, InputError for
    a file that describes no experiment, a missing store, a chart, label or attribute that its store lacks, or an `out`
    that holds other files or is in use; then UnhealthyRun for an arm that collapsed,
    Stopped where several jobs were asked to stop.
    """
    if jobs < 1:
        raise InputError(f"expected at least 1 of --jobs, found {jobs}; 1 does one step after the other")
    out = Path(out).resolve()
    with reserved(out):
        return _run(Path(file), out, jobs=jobs, tracked=tracked)


def _run(file: Path, out: Path, *, jobs: int, tracked: Tracked) -> Path:
    claim(out)
    experiment = read_experiment(file)
    steps, keys = checked(experiment, file, out, tracked)
    _say(_claims(experiment))
    _keep(file, out)
    (out / "steps").mkdir(exist_ok=True)
    todo = [step for step in steps if not _is_done(step, keys[step.name], out)]
    if len(todo) < len(steps):
        _say(f"{len(steps) - len(todo)} of {len(steps)} steps are done already")
    for stage, group in groupby(todo, key=lambda step: step.stage):
        waiting = {step.name: step for step in group}
        _say(f"{stage}, {plural(len(waiting), 'step')}")

        def done(name: str, seconds: float, waiting: Mapping[str, ExperimentStep] = waiting) -> None:
            _note_done(waiting[name], keys[name], out, seconds)

        with set_aside(_made_before(waiting.values(), out)):
            if jobs > 1:
                commands = {name: [*_CHARTRAY, *step.arguments] for name, step in waiting.items()}
                run_all(commands, jobs, begins=_say, done=done)
                continue
            for name, step in waiting.items():
                _say(name)
                began = time.monotonic()
                step.does()
                done(name, time.monotonic() - began)
    return steps[-1].product


def _keep(file: Path, out: Path) -> None:
    """A copy of the experiment's file in its folder."""
    kept = out / "study.yaml"
    if file.resolve() != kept and not (kept.exists() and kept.read_bytes() == file.read_bytes()):
        out.mkdir(parents=True, exist_ok=True)
        with replaced_file(kept) as partial:
            shutil.copyfile(file, partial)


def declare_question(file: Path, out: Path) -> list[str]:
    """Fixes the question of the experiment of `file` in OUT/question.json, and says it in words.

    Raises InputError where the file declares none, or one that its arms, evaluations and stores do not have.
    """
    experiment, out = read_experiment(Path(file)), Path(out).resolve()
    if experiment.question is None:
        raise InputError(f"expected a question in {file}, found none; see examples/study.yaml")
    claim(out)
    _keep(Path(file), out)
    with placed(f"question of {file}"):
        questions = declare(experiment, out)
    return [question_line(questions[-1], {}), declaration_line(questions[-1], questions[:-1])]


def experiment_answer(out: Path) -> list[str]:
    """What the experiment in `out` says of its question: one line where none was declared or nothing was compared."""
    if not (out / QUESTION_FILE).exists():
        return ["No question was declared before the test split was scored: all differences are exploratory."]
    questions = read_questions(out / QUESTION_FILE)
    folder = out / "results" / f"arms-{questions[-1].question.evaluation}"
    made = open_kind(folder, ComparisonManifest, f"expected the comparison that answers the question in {folder}")
    return answer_of(made)


def experiment_plan(file: Path, out: Path, tracked: Tracked = NOT_TRACKED) -> list[str]:
    """The commands that the experiment consists of, a line each, to be put behind `srun` or into a queue.

    Lines that begin with # say what may run at once: a stage needs the ones before it. Each line may be given again.
    Raises InputError as `run_experiment` does for the file, its stores and its charts.
    """
    experiment = read_experiment(Path(file))
    lines = [f"# {_claims(experiment)}"]
    stages = groupby(checked(experiment, file, Path(out).resolve(), tracked)[0], key=lambda step: step.stage)
    for number, (stage, group) in enumerate(stages, start=1):
        steps = list(group)
        after = "" if number == 1 else f", after stage {number - 1}"
        lines.append(f"# stage {number}, {stage}: {plural(len(steps), 'command')}{after}")
        lines += [step.command for step in steps]
    return lines


def write_slurm(file: Path, out: Path, tracked: Tracked = NOT_TRACKED) -> Path:
    """Writes OUT/slurm: a script of SLURM for each command, and submit.sh, which queues them; returns the latter.

    Raises InputError as `run_experiment` does.
    """
    out = Path(out).resolve()
    claim(out)
    steps, _ = checked(read_experiment(Path(file)), file, out, tracked)
    declared = [step.name for step in steps if step.stage == "question"]
    # Nothing begins before the question is fixed.
    jobs = [
        Job(step.name, step.arguments, step.needs or [name for name in declared if name != step.name]) for step in steps
    ]
    _keep(Path(file), out)
    with replaced_folder(out / "slurm", lasting=False) as partial:
        for name, text in scripts(jobs, Path.cwd()).items():
            (partial / name).write_text(text, encoding="utf-8")
    return out / "slurm" / SUBMIT


def checked(
    experiment: Experiment, file: Path, out: Path, tracked: Tracked = NOT_TRACKED
) -> tuple[list[ExperimentStep], dict[str, str]]:
    """The steps and their keys: every store is there, and gives every arm its chart, and what is scored."""

    def declares() -> None:
        for line in declare_question(file, out):
            _say(line)

    steps, keys = list(steps_of(experiment, file, out, declares, tracked)), dict[str, str]()
    for step in steps:
        keys[step.name] = _key(step, keys)
    store = Store.open(experiment.store)
    for arm in experiment.arms:
        with placed(f"arm {arm.name} of {file}"):
            check_chart(store, arm.config(experiment.seeds[0]).chart)
    _check_scoring(experiment, file)
    with placed(f"question of {file}"):
        question_of(experiment)
        if experiment.question is None:
            declare(experiment, out)  # refuses to forget an earlier one
    return steps, keys


def _check_scoring(experiment: Experiment, file: Path) -> None:
    """What is scored with the runs is there: found now, not when the last of them is pretrained."""
    for name, each in experiment.evaluations.items():
        with placed(f"evaluation {name} of {file}"):
            home = Store.open(each.store)
            chosen_labels(home, each.options.labels)
            _check_baseline_chart(home, each.options)
    if experiment.audit is not None:
        with placed(f"audit of {file}"):
            home = Store.open(experiment.audit.store)
            chosen_attributes(home, experiment.audit.options.attributes)
            _check_baseline_chart(home, experiment.audit.options)


def _check_baseline_chart(home: Store, options: ScoringOptions) -> None:
    if options.baseline_chart is not None:
        fit_chart(home.cohort, options.baseline_chart)


def _made_before(steps: Iterable[ExperimentStep], out: Path) -> list[Path]:
    """Folders of results that this experiment made by steps that are to be done again.

    The commands replace no result of another store or encoder, and cannot know that the experiment has asked for it.
    """
    return [step.product.parent for step in steps if step.product.name in _RESULTS and _note(step, out).is_file()]


def _note_done(step: ExperimentStep, key: str, out: Path, seconds: float) -> None:
    """The note that a step has been done, and with what."""
    write_json(_note(step, out), {"key": key, "command": step.command, "seconds": round(seconds, 1)})


def _is_done(step: ExperimentStep, key: str, out: Path) -> bool:
    note = _note(step, out)
    settle(step.product.parent)
    settle(step.product)
    if not (step.product.exists() and note.is_file()):
        return False
    return read_json(note, "the note of an experiment's step (delete it to repeat the step)").get("key") == key


def _note(step: ExperimentStep, out: Path) -> Path:
    return out / "steps" / f"{step.name}.done.json"


def _key(step: ExperimentStep, keys: Mapping[str, str]) -> str:
    """What decides the outcome of a step: its command, settings, the stores' content, and the same of what it needs."""
    hashes = [read_index(store).hash for store in step.stores]
    known = [step.tokens, dict(step.settings), hashes, [keys[name] for name in step.needs]]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def claim(out: Path) -> None:
    """Raises InputError where `out` holds something other than an experiment."""
    # What a command leaves that was killed before its first step.
    begun = {"steps", *(f".{name}.{what}" for name in ("study.yaml", QUESTION_FILE) for what in ("lock", "partial"))}

    def foreign(names: set[str]) -> str:
        ours = "study.yaml" in names or (names <= begun and not any((out / "steps").glob("*")))
        return "" if ours else "no experiment"

    refuse_other(out, foreign)


def _claims(experiment: Experiment) -> str:
    arms, seeds = len(experiment.arms), len(experiment.seeds)
    runs = f"{plural(arms, 'arm')} x {plural(seeds, 'seed')}"
    if seeds < SEEDS_FOR_A_CLAIM:
        return f"{runs}: no claim about the chart is possible with fewer than {SEEDS_FOR_A_CLAIM} seeds"
    return f"{runs}: differences between arms can be claims"


def _say(line: str) -> None:
    status(f"study: {line}")
