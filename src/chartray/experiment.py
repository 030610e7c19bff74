"""An experiment: arms x seeds pretrained, evaluated, compared, audited, reported; finished steps are not repeated.

OUT/runs/<arm>-<seed>, OUT/results/<arm>-<seed>-<evaluation>, OUT/results/arms-<evaluation>, OUT/audit, OUT/report.
Every step is one command (`experiment_plan`). When it has been done, OUT/steps/<name>.json says with what: the
command, the settings, the stores' hashes and the steps it needed. It is done again where any of these is another.
"""

import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from chartray.audit.attributes import chosen_attributes
from chartray.config.evaluate import CompareOptions, ScoringOptions
from chartray.config.study import ArmSpec, Experiment, placed, read_experiment
from chartray.errors import InputError, UnhealthyRun
from chartray.evaluation.declare import QUESTION_FILE, declare, question_of, read_questions
from chartray.evaluation.image_set import chosen_labels
from chartray.experiment_processes import run_all
from chartray.experiment_slurm import SUBMIT, Job, scripts
from chartray.features.chart import fit_chart
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import read_json, write_json
from chartray.outputs.replacing import replaced_file, replaced_folder, reserved, settle
from chartray.outputs.set_aside import set_aside
from chartray.pixels.store import Store, read_index
from chartray.results.folder import AUDIT_FILE, COMPARE_FILE, MANIFEST_FILE, answer_of, open_kind
from chartray.results.manifest import ComparisonManifest
from chartray.results.question import declaration_line, question_line
from chartray.results.verdict import SEEDS_FOR_A_CLAIM
from chartray.training.early import check_chart
from chartray.wording import plural

# What does the work is imported by the step that needs it: a misspelt key is found without waiting for torch.

_CHARTRAY = (sys.executable, "-m", "chartray")
_REPEATED = ("external", "against", "run", "store", "audit")
_SEVERAL = ("data_percent",)
_RESULTS = (MANIFEST_FILE, COMPARE_FILE, AUDIT_FILE)


class ExperimentStep(NamedTuple):
    """One command: `tokens` after `chartray`, what it `does` in this process, and the file that it ends with.

    `stage`: steps of one stage do not need each other. `needs`: names of steps. `settings`: what else decides its
    outcome; `stores` whose content does.
    """

    stage: str
    name: str
    tokens: list[str]
    does: Callable[[], object]
    product: Path
    needs: tuple[str, ...]
    stores: tuple[Path, ...]
    settings: Mapping[str, Any]

    @property
    def command(self) -> str:
        return shlex.join(["chartray", *self.tokens])


def run_experiment(file: Path, out: Path, *, jobs: int = 1) -> Path:
    """Runs the experiment of `file` in `out` and returns the report; after a kill the same call continues.

    `jobs`: steps that run at the same time, each in its own process. Raises, before anything is written, InputError for
    a file that describes no experiment, a missing store, a chart, label or attribute that its store lacks, or an `out`
    that holds other files or is in use; then UnhealthyRun for an arm that collapsed,
    Stopped where several jobs were asked to stop.
    """
    if jobs < 1:
        raise InputError(f"expected at least 1 of --jobs, found {jobs}; 1 does one step after the other")
    out = Path(out).resolve()
    with reserved(out):
        return _run(Path(file), out, jobs=jobs)


def _run(file: Path, out: Path, *, jobs: int) -> Path:
    _claim(out)
    experiment = read_experiment(file)
    steps, keys = _checked(experiment, file, out)
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
                commands = {name: [*_CHARTRAY, *step.tokens] for name, step in waiting.items()}
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
    _claim(out)
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


def experiment_plan(file: Path, out: Path) -> list[str]:
    """The commands that the experiment consists of, a line each, to be put behind `srun` or into a queue.

    Lines that begin with # say what may run at once: a stage needs the ones before it. Each line may be given again.
    Raises InputError as `run_experiment` does for the file, its stores and its charts.
    """
    experiment = read_experiment(Path(file))
    lines = [f"# {_claims(experiment)}"]
    stages = groupby(_checked(experiment, file, Path(out).resolve())[0], key=lambda step: step.stage)
    for number, (stage, group) in enumerate(stages, start=1):
        steps = list(group)
        after = "" if number == 1 else f", after stage {number - 1}"
        lines.append(f"# stage {number}, {stage}: {plural(len(steps), 'command')}{after}")
        lines += [step.command for step in steps]
    return lines


def write_slurm(file: Path, out: Path) -> Path:
    """Writes OUT/slurm: a script of SLURM for each command, and submit.sh, which queues them; returns the latter.

    Raises InputError as `run_experiment` does.
    """
    out = Path(out).resolve()
    _claim(out)
    steps, _ = _checked(read_experiment(Path(file)), file, out)
    declared = [step.name for step in steps if step.stage == "question"]
    # Nothing begins before the question is fixed.
    jobs = [
        Job(step.name, step.tokens, step.needs or [name for name in declared if name != step.name]) for step in steps
    ]
    _keep(Path(file), out)
    with replaced_folder(out / "slurm", lasting=False) as partial:
        for name, text in scripts(jobs, Path.cwd()).items():
            (partial / name).write_text(text, encoding="utf-8")
    return out / "slurm" / SUBMIT


def _checked(experiment: Experiment, file: Path, out: Path) -> tuple[list[ExperimentStep], dict[str, str]]:
    """The steps and their keys: every store is there, and gives every arm its chart, and what is scored."""
    steps, keys = list(_steps(experiment, file, out)), dict[str, str]()
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


def _steps(experiment: Experiment, file: Path, out: Path) -> Iterator[ExperimentStep]:
    question = [_question(experiment, file, out)] if experiment.question is not None else []
    yield from question
    runs = {f"{arm.name}-{seed}": (arm, seed) for seed in experiment.seeds for arm in experiment.arms}
    folders = {name: out / "runs" / name for name in runs}
    for name, (arm, seed) in runs.items():
        yield _pretraining(name, arm, seed, experiment.store, folders[name])
    results, compared = [], []
    for name in runs:
        for evaluation in experiment.evaluations:
            yield (step := _evaluation(name, evaluation, experiment, folders[name], out))
            results.append(step)
    for evaluation in experiment.evaluations if len(experiment.arms) > 1 else ():
        of_evaluation = [each for each in results if each.settings["of"] == evaluation]
        options = experiment.compare
        if question:
            options = options.model_copy(update={"question": out / QUESTION_FILE, "evaluation": evaluation})
        yield (step := _comparison(evaluation, [*question, *of_evaluation], options, out))
        compared.append(step)
    audits = [_audit(experiment, folders, out)] if experiment.audit is not None else []
    yield from audits
    yield _report(experiment, folders, [*results, *compared], audits, out)


def _question(experiment: Experiment, file: Path, out: Path) -> ExperimentStep:
    """Before all others: what is to be answered is fixed while no run exists."""
    assert experiment.question is not None

    def does() -> None:
        for line in declare_question(file, out):
            _say(line)

    settings = experiment.question.model_dump(mode="json") | {"seeds": experiment.seeds}
    settings |= {arm.name: arm.config(0).model_dump(mode="json") for arm in experiment.arms}
    settings |= {name: spec.options.model_dump(mode="json") for name, spec in experiment.evaluations.items()}
    return ExperimentStep(
        stage="question",
        name="question",
        tokens=["study", str(file.resolve()), "--out", str(out), "--declare"],
        does=does,
        product=out / QUESTION_FILE,
        needs=(),
        stores=(experiment.store, *(spec.store for spec in experiment.evaluations.values())),
        settings=settings,
    )


def _pretraining(name: str, arm: ArmSpec, seed: int, store: Path, out: Path) -> ExperimentStep:
    config = arm.config(seed)
    tokens = ["pretrain", str(store), "--out", str(out), "--recipe", arm.recipe]
    tokens += ["--config", str(arm.file)] if arm.file is not None else []
    for knob, value in (arm.overrides | {"seed": seed}).items():
        # JSON is YAML, which the command line reads; a text is the same in both.
        tokens += [f"--{knob}", value if isinstance(value, str) else json.dumps(value)]
    tokens += ["--resume"]
    command = shlex.join(["chartray", *tokens])

    def does() -> None:
        from chartray.training.pretrain import pretrain

        try:
            pretrain(store, out, config, command=command, resume=True)
        except UnhealthyRun as error:
            raise UnhealthyRun(f"{name}: {error}; change this arm, or leave it out of the experiment") from None

    settings = config.model_dump(mode="json")
    return ExperimentStep("pretraining", f"pretrain-{name}", tokens, does, out / "encoder", (), (store,), settings)


def _evaluation(name: str, evaluation: str, experiment: Experiment, run: Path, out: Path) -> ExperimentStep:
    (store, options), folder = experiment.evaluations[evaluation], out / "results" / f"{name}-{evaluation}"

    def does() -> None:
        from chartray.evaluation.evaluate import evaluate

        evaluate(run, store, folder, options)

    return ExperimentStep(
        stage="evaluation",
        name=f"evaluate-{name}-{evaluation}",
        tokens=_tokens("evaluate", [run, store], {"out": folder} | options.model_dump(exclude_unset=True)),
        does=does,
        product=folder / MANIFEST_FILE,
        needs=(f"pretrain-{name}",),
        stores=(store, *options.external),
        settings={"of": evaluation} | options.model_dump(mode="json"),
    )


def _comparison(
    evaluation: str, results: Sequence[ExperimentStep], options: CompareOptions, out: Path
) -> ExperimentStep:
    folder = out / "results" / f"arms-{evaluation}"
    folders = [each.product.parent for each in results if each.product.name == MANIFEST_FILE]

    def does() -> None:
        from chartray.evaluation.compare import compare

        compare(folders, folder, options)

    return ExperimentStep(
        stage="comparison and audit",
        name=f"compare-{evaluation}",
        tokens=_tokens("compare", folders, {"out": folder} | options.model_dump(exclude_defaults=True)),
        does=does,
        product=folder / COMPARE_FILE,
        needs=tuple(each.name for each in results),
        stores=(),
        settings={},
    )


def _audit(experiment: Experiment, folders: Mapping[str, Path], out: Path) -> ExperimentStep:
    assert experiment.audit is not None
    store, of, options = experiment.audit
    first = f"{of}-{experiment.seeds[0]}"
    against = [folder for name, folder in folders.items() if name != first]

    def does() -> None:
        from chartray.audit.audit import audit

        audit(folders[first], store, out / "audit", options, against=against)

    return ExperimentStep(
        stage="comparison and audit",
        name="audit",
        tokens=_tokens(
            "audit",
            [folders[first], store],
            {"out": out / "audit", "against": against} | options.model_dump(exclude_unset=True),
        ),
        does=does,
        product=out / "audit" / AUDIT_FILE,
        needs=tuple(f"pretrain-{name}" for name in folders),
        stores=(store, *options.external),
        settings=options.model_dump(mode="json"),
    )


def _report(
    experiment: Experiment,
    folders: Mapping[str, Path],
    results: Sequence[ExperimentStep],
    audits: Sequence[ExperimentStep],
    out: Path,
) -> ExperimentStep:
    specs = experiment.evaluations.values()
    scored = [store for each in specs for store in (each.store, *each.options.external)]
    stores = list(dict.fromkeys([experiment.store, *scored]))
    of_results, of_audits = ([each.product.parent for each in steps] for steps in (results, audits))
    title, films = experiment.report.title, experiment.report.films
    runs = list(folders.values())
    options = {"run": runs, "store": stores, "audit": of_audits, "title": title, "films": films}

    def does() -> None:
        from chartray.report.write import write_report

        write_report(runs, of_results, out / "report", stores=stores, audits=of_audits, title=title, films=films)

    return ExperimentStep(
        stage="report",
        name="report",
        tokens=_tokens("report", of_results, {"out": out / "report"} | options),
        does=does,
        product=out / "report" / "report.html",
        needs=tuple(each.name for each in (*results, *audits)),
        stores=tuple(stores),
        settings={},
    )


def _tokens(verb: str, places: Sequence[Path], options: Mapping[str, Any]) -> list[str]:
    """A command as the command line takes it; what is None is left out."""
    tokens = [verb, *map(str, places)]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            tokens.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif name in _REPEATED:
            tokens += [token for each in value for token in (flag, str(each))]
        elif name in _SEVERAL:
            tokens += [flag, *map(str, value)]
        elif value is not None:
            tokens += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return tokens


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
    return out / "steps" / f"{step.name}.json"


def _key(step: ExperimentStep, keys: Mapping[str, str]) -> str:
    """What decides the outcome of a step: its command, settings, the stores' content, and the same of what it needs."""
    hashes = [read_index(store).hash for store in step.stores]
    known = [step.tokens, dict(step.settings), hashes, [keys[name] for name in step.needs]]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def _claim(out: Path) -> None:
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
    print(f"study: {line}", flush=True)
