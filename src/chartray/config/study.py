"""The YAML file of an experiment: arms x seeds to pretrain, evaluations of every run, an audit; all checked."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, JsonValue, ValidationError

from chartray.config import pretrain as knobs
from chartray.config.audit import AuditOptions
from chartray.config.evaluate import CompareOptions, EvaluateOptions
from chartray.config.pretrain import Config
from chartray.config.renamed import renamed_keys
from chartray.config.section import Knobs, Options, Section, options_of, sentence
from chartray.errors import InputError
from chartray.wording import nearest
from chartray.yaml_file import read_yaml

_NAME = r"^[A-Za-z][\w.+-]*$"  # names of folders
_EVALUATION_NAME = r"^[A-Za-z]\w*$"
# Keys of an arm other than knobs by their dotted names.
_SHORT = {"ehr": "chart.ehr", "control": "chart.control"}
_OF_AN_ARM = ("recipe", "config", *_SHORT)


class ReportOptions(Options):
    """Options of `chartray report`."""

    title: str | None = Field(None, description="Title of the page")
    films: bool = Field(True, description="Show thumbnails of images")


class QuestionSection(Section):
    """The one question that the study is to answer, as its file has it; names are checked against the study."""

    primary: list[str] = Field(min_length=2, max_length=2, description="The two arms, or an arm and a baseline")
    dataset: str = Field("home", description="Data set; home: that of the first evaluation")
    metric: str = Field("auroc macro", description="auroc or average_precision, then a label or macro")
    margin: float | None = Field(None, description="Largest difference that does not matter")
    family: list[list[str]] | str = Field(
        default_factory=list, description="Pairs corrected together; all, or against ARM"
    )


class _ExperimentFile(Section):
    """The top of the file; its parts are checked one by one."""

    store: Path
    pretrain: Knobs = Field(default_factory=dict)
    arms: dict[str, Knobs | None] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    pair_seeds: bool = False
    evaluations: dict[str, Knobs] = Field(min_length=1)
    audit: Knobs | None = None
    question: Knobs | None = None
    report: Knobs = Field(default_factory=dict)


class ArmSpec(NamedTuple):
    """How one arm is pretrained: a `recipe`, then a `file` of knobs, then single knobs."""

    name: str
    recipe: str
    file: Path | None
    overrides: Knobs

    def config(self, seed: int) -> Config:
        """All knobs of one run."""
        return knobs.load(self.recipe, self.file, self.overrides | {"seed": seed})


class EvaluationSpec(NamedTuple):
    """How every run is evaluated: the store to fit on, and the options of `chartray evaluate`."""

    store: Path
    options: EvaluateOptions


class AuditSpec(NamedTuple):
    """An audit of the first seed of the arm `of` against all other runs."""

    store: Path
    of: str
    options: AuditOptions


class Experiment(NamedTuple):
    """An experiment, paths absolute: every arm with every seed on `store`, then what is done with the runs."""

    store: Path
    arms: tuple[ArmSpec, ...]
    seeds: tuple[int, ...]
    evaluations: dict[str, EvaluationSpec]
    audit: AuditSpec | None
    report: ReportOptions
    compare: CompareOptions
    question: QuestionSection | None


def read_experiment(file: Path) -> Experiment:
    """Reads the YAML file of an experiment; its paths are relative to the file's folder.

    Raises InputError for anything that is unknown (the nearest name is suggested) or not as expected, the knobs of
    every arm included.
    """
    tree = read_yaml(file, "an experiment file")
    _refuse_unknown(tree, list(_ExperimentFile.model_fields), str(file))
    for name, entry in {"pretrain": tree.get("pretrain"), **_mapping(tree, "arms", file)}.items():
        known = [*_OF_AN_ARM, *(option.name for option in options_of(Config) if option.name != "seed")]
        _refuse_unknown(renamed_keys(entry) if isinstance(entry, dict) else entry, known, f"{name} of {file}")
    _mapping(tree, "evaluations", file)
    try:
        read = _ExperimentFile.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{file}: {sentence(error, _ExperimentFile)}") from None
    home = file.resolve().parent
    arms = tuple(_arm(name, renamed_keys(read.pretrain | (entry or {})), home) for name, entry in read.arms.items())
    audit = None
    if read.audit is not None:
        with placed(f"audit of {file}"):
            store, rest = _store(read.audit, home, ("of",))
            of = str(rest.pop("of"))
            audit = AuditSpec(store, of, AuditOptions.model_validate(_absolute_external(rest, home)))
    evaluations = {}
    for name, entry in read.evaluations.items():
        with placed(f"evaluations.{name} of {file}"):
            store, rest = _store(entry, home)
            evaluations[name] = EvaluationSpec(store, EvaluateOptions.model_validate(_absolute_external(rest, home)))
    with placed(f"report of {file}"):
        report = ReportOptions.model_validate(read.report)
    with placed(f"question of {file}"):
        question = None if read.question is None else _question(read.question)
    experiment = Experiment(
        store=_absolute(home, read.store),
        arms=arms,
        seeds=tuple(read.seeds),
        evaluations=evaluations,
        audit=audit,
        report=report,
        compare=CompareOptions(pair_seeds=read.pair_seeds),
        question=question,
    )
    _check(experiment, file)
    return experiment


@contextmanager
def placed(where: str) -> Iterator[None]:
    """An InputError inside says where in the file it belongs."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check(experiment: Experiment, file: Path) -> None:
    if len(set(experiment.seeds)) < len(experiment.seeds) or min(experiment.seeds) < 0:
        raise InputError(f"expected seeds that differ, from 0 on, in {file}, found {list(experiment.seeds)}")
    for arm in experiment.arms:
        _refuse_name(arm.name, _NAME, "arm", file)
        for seed in experiment.seeds:
            with placed(f"arm {arm.name} of {file}"):
                arm.config(seed)
    for name in experiment.evaluations:
        _refuse_name(name, _EVALUATION_NAME, "evaluation", file)
    names = [arm.name for arm in experiment.arms]
    if experiment.audit is not None and experiment.audit.of not in names:
        raise InputError(
            f"expected an arm after audit.of in {file}, found {experiment.audit.of!r}"
            f"{nearest(experiment.audit.of, names)}; there are {', '.join(names)}"
        )


def _arm(name: str, given: Mapping[str, JsonValue], home: Path) -> ArmSpec:
    overrides = {_SHORT.get(key, key): value for key, value in given.items() if key not in ("recipe", "config")}
    config = given.get("config")
    if not isinstance(config, str | None):
        raise InputError(f"expected a file of knobs after config in the arm {name}, found {config!r}; give its path")
    file = _absolute(home, Path(config)) if config is not None else None
    return ArmSpec(name, str(given.get("recipe", "msn")), file, overrides)


def _question(given: Knobs) -> QuestionSection:
    """The question, as far as it can be checked without the stores."""
    _refuse_unknown(given, list(QuestionSection.model_fields), "it")
    try:
        asked = QuestionSection.model_validate(given)
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][0])
        wanted = {
            "primary": "two names of arms, such as [real, none]",
            "margin": "a number above 0, such as 0.01",
            "family": "pairs of arms, such as [[real, none], [shuffled, none]], or all, or against none",
        }.get(wrong, "a text")
        raise InputError(f"expected {wanted} under {wrong}, found {given.get(wrong, 'nothing')!r:.60}") from None
    if asked.margin is not None and not 0 < asked.margin < 1:
        raise InputError(
            f"expected a margin above 0 and below 1, found {asked.margin:g}; it is the largest difference that does "
            "not matter, such as 0.01"
        )
    if isinstance(asked.family, str) and asked.family != "all" and not asked.family.startswith("against "):
        raise InputError(f"expected pairs of arms, all, or against ARM under family, found {asked.family!r}")
    if isinstance(asked.family, list) and any(len(pair) != 2 for pair in asked.family):
        raise InputError("expected pairs of two arms under family, found a list of another length; name two in each")
    return asked


def _store(entry: Mapping[str, JsonValue], home: Path, more: Sequence[str] = ()) -> tuple[Path, Knobs]:
    """The store of an entry, and the rest of the entry with today's names; `more` keys are required too."""
    rest = renamed_keys(entry)
    for key in ("store", *more):
        if not isinstance(rest.get(key), str):
            raise InputError(f"expected a text under {key}, found {rest.get(key, 'none')!r}; see examples/study.yaml")
    return _absolute(home, Path(str(rest.pop("store")))), rest


def _absolute_external(entry: Knobs, home: Path) -> Knobs:
    external = entry.get("external")
    if not isinstance(external, list) or not all(isinstance(each, str) for each in external):
        return entry
    return entry | {"external": [str(_absolute(home, Path(str(each)))) for each in external]}


def _absolute(home: Path, path: Path) -> Path:
    return (home / path).resolve()


def _mapping(tree: Mapping[str, JsonValue], key: str, file: Path) -> Knobs:
    found = tree.get(key)
    if not isinstance(found, dict) or not found:
        said = "nothing" if found is None else type(found).__name__
        raise InputError(f"expected a mapping of names under {key} in {file}, found {said}; see examples/study.yaml")
    return {str(name): entry for name, entry in found.items()}


def _refuse_unknown(entry: Any, known: Sequence[str], where: str) -> None:
    if entry is None:
        return
    if not isinstance(entry, dict):
        raise InputError(f"expected a mapping in {where}, found {type(entry).__name__}; see examples/study.yaml")
    for key in entry:
        if key not in known:
            raise InputError(f"unknown key {key!r} in {where}{nearest(str(key), known)}")


def _refuse_name(name: str, pattern: str, what: str, file: Path) -> None:
    if not re.match(pattern, name):
        raise InputError(f"expected letters and digits as the name of an {what} in {file}, found {name!r}")
