"""The YAML file of an experiment: arms x seeds to pretrain, evaluations of every run, an audit; all checked."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from chartray.config import pretrain as knobs
from chartray.config.pretrain import Config, Section
from chartray.errors import InputError
from chartray.wording import nearest
from chartray.yaml_file import read_yaml

_NAME = r"^[A-Za-z][\w.+-]*$"  # names of folders
_EVALUATION_NAME = r"^[A-Za-z]\w*$"
# What an arm may say beside any knob by its dotted name.
_SHORT = {"ehr": "chart.ehr", "control": "chart.control"}
_OF_AN_ARM = ("recipe", "config", *_SHORT)


class ScoringOptions(Section):
    """What evaluations and audits have in common; the names and defaults are those of the commands."""

    store: Path
    external: list[Path] = Field(default_factory=list)
    split: Literal["test", "validate"] = "test"
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore"
    blank: Literal["source", "negative", "ignore"] = "source"
    floors: bool = True
    floor_chart: str | None = None
    resamples: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"


class EvaluationSpec(ScoringOptions):
    """Options of `chartray evaluate`; every run is evaluated so."""

    protocol: Literal["linear", "knn", "finetune", "published"] = "linear"
    data_percent: list[float] = Field(default_factory=lambda: [1.0], min_length=1)
    draws: int = Field(5, ge=1)
    labels: list[str] | None = None
    freeze: bool | None = None
    scheduler: Literal["cosine", "reduce"] | None = None
    learning_rate: float | None = Field(None, gt=0)
    max_epochs: int | None = Field(None, ge=1)
    layer_decay: float | None = None
    drop_path: float | None = None
    warmup_epochs: float | None = None
    mixup: float | None = None


class AuditSpec(ScoringOptions):
    """Options of `chartray audit`: the first seed of the arm `of` against all other runs."""

    of: str
    attributes: list[str] | None = None


class ReportSpec(Section):
    """Options of `chartray report`."""

    title: str | None = None
    films: bool = True


class _ExperimentFile(Section):
    store: Path
    pretrain: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any] | None] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    evaluations: dict[str, EvaluationSpec] = Field(min_length=1)
    audit: AuditSpec | None = None
    report: ReportSpec = Field(default_factory=ReportSpec)


class ArmSpec(NamedTuple):
    """How one arm is pretrained: a `recipe`, over it a `file` of knobs, over that single knobs."""

    name: str
    recipe: str
    file: Path | None
    overrides: dict[str, Any]

    def config(self, seed: int) -> Config:
        """All knobs of one run."""
        return knobs.load(self.recipe, self.file, self.overrides | {"seed": seed})


class Experiment(NamedTuple):
    """An experiment, paths absolute: every arm with every seed on `store`, then what is done with the runs."""

    store: Path
    arms: tuple[ArmSpec, ...]
    seeds: tuple[int, ...]
    evaluations: dict[str, EvaluationSpec]
    audit: AuditSpec | None
    report: ReportSpec


def read_experiment(file: Path) -> Experiment:
    """Reads the YAML file of an experiment; its paths are relative to the folder it lies in.

    Raises InputError for anything that is unknown (the nearest name is suggested) or not as expected, the knobs of
    every arm included.
    """
    tree = read_yaml(file, "an experiment file")
    _refuse_unknown(tree, list(_ExperimentFile.model_fields), str(file))
    for name, entry in _mapping(tree, "evaluations", file).items():
        _refuse_unknown(entry, list(EvaluationSpec.model_fields), f"evaluations.{name} of {file}")
    _refuse_unknown(tree.get("audit"), list(AuditSpec.model_fields), f"audit of {file}")
    _refuse_unknown(tree.get("report"), list(ReportSpec.model_fields), f"report of {file}")
    for name, entry in {"pretrain": tree.get("pretrain"), **_mapping(tree, "arms", file)}.items():
        _refuse_unknown(entry, [*_OF_AN_ARM, *(knob for knob in knobs.knobs() if knob != "seed")], f"{name} of {file}")
    try:
        read = _ExperimentFile.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where or 'the file'} of {file}: {first['msg'].lower()}, found {_short(first)}") from None
    home = file.resolve().parent
    arms = tuple(_arm(name, read.pretrain | (entry or {}), home) for name, entry in read.arms.items())
    experiment = Experiment(
        store=_absolute(home, read.store),
        arms=arms,
        seeds=tuple(read.seeds),
        evaluations={name: _placed(home, entry) for name, entry in read.evaluations.items()},
        audit=None if read.audit is None else _placed(home, read.audit),
        report=read.report,
    )
    _check(experiment, file)
    return experiment


def _check(experiment: Experiment, file: Path) -> None:
    if len(set(experiment.seeds)) < len(experiment.seeds) or min(experiment.seeds) < 0:
        raise InputError(f"expected seeds that differ, from 0 on, in {file}, found {list(experiment.seeds)}")
    for arm in experiment.arms:
        _refuse_name(arm.name, _NAME, "arm", file)
        for seed in experiment.seeds:
            try:
                arm.config(seed)
            except InputError as error:
                raise InputError(f"arm {arm.name} of {file}: {error}") from None
    for name in experiment.evaluations:
        _refuse_name(name, _EVALUATION_NAME, "evaluation", file)
    names = [arm.name for arm in experiment.arms]
    if experiment.audit is not None and experiment.audit.of not in names:
        raise InputError(
            f"expected an arm after audit.of in {file}, found {experiment.audit.of!r}"
            f"{nearest(experiment.audit.of, names)}; there are {', '.join(names)}"
        )


def _arm(name: str, given: Mapping[str, Any], home: Path) -> ArmSpec:
    overrides = {_SHORT.get(key, key): value for key, value in given.items() if key not in ("recipe", "config")}
    config = given.get("config")
    if not isinstance(config, str | None):
        raise InputError(f"expected a file of knobs after config in the arm {name}, found {config!r}; give its path")
    file = _absolute(home, Path(config)) if config is not None else None
    return ArmSpec(name, str(given.get("recipe", "msn")), file, overrides)


def _placed(home: Path, entry: Any) -> Any:
    external = [_absolute(home, store) for store in entry.external]
    return entry.model_copy(update={"store": _absolute(home, entry.store), "external": external})


def _absolute(home: Path, path: Path) -> Path:
    return (home / path).resolve()


def _mapping(tree: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
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


def _short(error: Any) -> str:
    return repr(error["input"])[:60] if error["type"] != "missing" else "none"
