"""The steps of an experiment: which command each is, what it does in this process, and what it needs."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chartray.config.evaluate import CompareOptions
from chartray.config.study import ArmSpec, Experiment
from chartray.errors import UnhealthyRun
from chartray.evaluation.declare import QUESTION_FILE
from chartray.results.folder import AUDIT_FILE, COMPARE_FILE, MANIFEST_FILE
from chartray.training.trackers import NOT_TRACKED, Tracked

# What does the work is imported by the step that needs it: a misspelt key is found without waiting for torch.

_REPEATED = ("external", "against", "run", "store", "audit")
_SEVERAL = ("data_percent",)


class ExperimentStep(NamedTuple):
    """One command: `tokens` after `chartray`, what it `does` in this process, and the file that it ends with.

    `stage`: steps of one stage do not need each other. `needs`: names of steps. `settings`: what else decides its
    outcome; `stores` whose content does. `tracking`: tokens that do not.
    """

    stage: str
    name: str
    tokens: list[str]
    does: Callable[[], object]
    product: Path
    needs: tuple[str, ...]
    stores: tuple[Path, ...]
    settings: Mapping[str, Any]
    tracking: Sequence[str] = ()

    @property
    def arguments(self) -> list[str]:
        """All that stands after `chartray`."""
        return [*self.tokens, *self.tracking]

    @property
    def command(self) -> str:
        return shlex.join(["chartray", *self.arguments])


def steps_of(
    experiment: Experiment, file: Path, out: Path, declares: Callable[[], object], tracked: Tracked = NOT_TRACKED
) -> Iterator[ExperimentStep]:
    """Every step of an experiment, each after those that it needs; `declares` is what fixes its question."""
    question = [_question(experiment, file, out, declares)] if experiment.question is not None else []
    yield from question
    runs = {f"{arm.name}-{seed}": (arm, seed) for seed in experiment.seeds for arm in experiment.arms}
    folders = {name: out / "runs" / name for name in runs}
    for name, (arm, seed) in runs.items():
        yield _pretraining(name, arm, seed, experiment.store, folders[name], tracked)
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


def _question(experiment: Experiment, file: Path, out: Path, declares: Callable[[], object]) -> ExperimentStep:
    """Before all others: what is to be answered is fixed while no run exists."""
    assert experiment.question is not None
    settings = experiment.question.model_dump(mode="json") | {"seeds": experiment.seeds}
    settings |= {arm.name: arm.config(0).model_dump(mode="json") for arm in experiment.arms}
    settings |= {name: spec.options.model_dump(mode="json") for name, spec in experiment.evaluations.items()}
    return ExperimentStep(
        stage="question",
        name="question",
        tokens=["study", str(file.resolve()), "--out", str(out), "--declare"],
        does=declares,
        product=out / QUESTION_FILE,
        needs=(),
        stores=(experiment.store, *(spec.store for spec in experiment.evaluations.values())),
        settings=settings,
    )


def _pretraining(name: str, arm: ArmSpec, seed: int, store: Path, out: Path, trackers: Tracked) -> ExperimentStep:
    config = arm.config(seed)
    tracked = trackers._replace(group=arm.name) if trackers.names else trackers
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
            pretrain(store, out, config, command=command, resume=True, tracked=tracked)
        except UnhealthyRun as error:
            raise UnhealthyRun(f"{name}: {error}; change this arm, or leave it out of the experiment") from None

    settings = config.model_dump(mode="json")
    return ExperimentStep(
        stage="pretraining",
        name=f"pretrain-{name}",
        tokens=tokens,
        does=does,
        product=out / "encoder",
        needs=(),
        stores=(store,),
        settings=settings,
        tracking=tracked.tokens(),
    )


def _evaluation(name: str, evaluation: str, experiment: Experiment, run: Path, out: Path) -> ExperimentStep:
    (store, options), folder = experiment.evaluations[evaluation], out / "results" / f"{name}-{evaluation}"

    def does() -> None:
        from chartray.evaluation.evaluate import evaluate

        evaluate(run, store, folder, options, resume=True)

    return ExperimentStep(
        stage="evaluation",
        name=f"evaluate-{name}-{evaluation}",
        tokens=_tokens(
            "evaluate", [run, store], {"out": folder, "resume": True} | options.model_dump(exclude_unset=True)
        ),
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
