"""What the report reads: run folders of pretraining and results folders of evaluation, checked and typed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from chartray.errors import InputError

MACRO = "macro"
# Sources that are scored beside a run but do not depend on how it was pretrained.
FLOORS = ("untrained", "pixels", "chart-only")
SOURCES = (*FLOORS, "image+chart")
_TITLES = {
    "untrained": "untrained encoder",
    "pixels": "plain pixels",
    "chart-only": "chart only",
    "image+chart": "image + chart",
}


class Arm(NamedTuple):
    """One column of every table: how the chart entered pretraining, or which source was scored beside it.

    `chart` is the feature set (none: plain pretraining), `control` is none, shuffled, constant, mask-only or one of
    SOURCES, `use` is anchor or predict.
    """

    chart: str
    control: str = "none"
    use: str = "anchor"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        if self.control in _TITLES:
            base = _TITLES[self.control]
            return f"{base} on {self.chart}" if self.control == "image+chart" and self.chart != "none" else base
        name = "no chart" if self.chart == "none" else self.chart
        name += ", predicted" if self.use == "predict" and self.chart != "none" else ""
        return name if self.control == "none" else f"{name}, {self.control}"

    @property
    def kind(self) -> str:
        """chart, none, control or source: the order of the columns."""
        if self.control in SOURCES:
            return "source"
        if self.control != "none":
            return "control"
        return "none" if self.chart == "none" else "chart"

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts charts first, then no chart, controls, floors and ceilings."""
        place = ("chart", "none", "control", "source").index(self.kind)
        return place, SOURCES.index(self.control) if self.control in SOURCES else 0, self.title


def arm_of(chart: str | None, control: str | None, use: str | None = None) -> Arm:
    """The arm that a row or a manifest names; a floor is one arm whatever run it was scored beside."""
    control = (control or "none").replace("_", "-").replace(" ", "").replace("chart-only", "chart-only")
    control = {"image-chart": "image+chart", "chartonly": "chart-only"}.get(control, control)
    if control in FLOORS:
        return Arm("none", control)
    return Arm(chart or "none", control, use or "anchor")


class Score(NamedTuple):
    """One line of results.jsonl; `low` and `high` are None where no interval was possible, `reason` says why."""

    arm: Arm
    run: str
    dataset: str
    protocol: str
    fraction: float
    split: str
    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    n_positive: int | None
    seed: int | None
    uncertain: str | None
    blank: str | None
    reason: str | None


class Comparison(NamedTuple):
    """One line of comparisons.jsonl: value(a) - value(b) on the same patients."""

    a: Arm
    b: Arm
    dataset: str
    protocol: str
    label: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    reason: str | None


@dataclass(frozen=True)
class Run:
    """A folder of pretraining."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def arm(self) -> Arm:
        """Chart, control and use, as the manifest says."""
        use = self.manifest.get("use") or (self.config.get("chart") or {}).get("use")
        return arm_of(self.manifest.get("chart"), self.manifest.get("control"), use)

    @property
    def seed(self) -> int | None:
        """The seed of pretraining."""
        seed = self.manifest.get("seed", self.config.get("seed"))
        return None if seed is None else int(seed)


@dataclass(frozen=True)
class Results:
    """A folder of an evaluation."""

    folder: Path
    scores: list[Score]
    comparisons: list[Comparison]
    evaluation: dict[str, Any]

    @cached_property
    def predictions(self) -> pa.Table | None:
        """predictions.parquet, or None where there is none."""
        return _table(self.folder / "predictions.parquet")

    @cached_property
    def embeddings(self) -> pa.Table | None:
        """embeddings.parquet, or None where there is none."""
        return _table(self.folder / "embeddings.parquet")


def read_run(folder: Path) -> Run:
    """Raises InputError where `folder` has no manifest.json."""
    manifest = _json(folder / "manifest.json", "a run folder of `chartray pretrain`")
    config_file, metrics_file = folder / "config.yaml", folder / "metrics.jsonl"
    try:
        config = yaml.safe_load(config_file.read_text()) if config_file.is_file() else {}
    except yaml.YAMLError as error:
        raise InputError(f"expected YAML in {config_file}, found {' '.join(str(error).split())}") from None
    metrics = list(read_lines(metrics_file)) if metrics_file.is_file() else []
    return Run(folder, config or {}, manifest, metrics)


def read_results(folder: Path) -> Results:
    """Raises InputError where `folder` has no results.jsonl or a line of it lacks label, metric or value."""
    file = folder / "results.jsonl"
    if not file.is_file():
        raise InputError(f"expected results.jsonl of `chartray evaluate` in {folder}, found none; check --results")
    scores = [_score(row, file, line) for line, row in enumerate(read_lines(file), start=1)]
    comparisons_file = folder / "comparisons.jsonl"
    rows = read_lines(comparisons_file) if comparisons_file.is_file() else []
    evaluation_file = folder / "evaluation.json"
    evaluation = _json(evaluation_file, "an evaluation") if evaluation_file.is_file() else {}
    return Results(folder, scores, [comparison(row) for row in rows], evaluation)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a line that is no JSON object is refused by number.

    The last line may be cut short (a run that was killed while it wrote): it is left out.
    """
    lines = file.read_text().splitlines()
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise InputError(f"expected one JSON object a line in {file}, found {error} in line {number}") from None
        if not isinstance(row, dict):
            raise InputError(f"expected one JSON object a line in {file}, found {type(row).__name__} in line {number}")
        found.append(row)
    return found


def score(row: Mapping[str, Any]) -> Score:
    """A row of results.jsonl as a Score; raises KeyError where dataset, label or metric is missing."""
    return Score(
        arm=arm_of(row.get("chart"), row.get("control"), row.get("use")),
        run=str(row.get("run", "")),
        dataset=str(row["dataset"]),
        protocol=str(row.get("protocol", "linear")),
        fraction=float(row.get("fraction") or 1.0),
        split=str(row.get("split", "test")),
        label=str(row["label"]),
        metric=_metric(str(row["metric"])),
        value=number(row.get("value")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        n=_count(row.get("n")),
        n_positive=_count(row.get("n_positive")),
        seed=_count(row.get("seed")),
        uncertain=row.get("uncertain"),
        blank=row.get("blank"),
        reason=row.get("reason"),
    )


def comparison(row: Mapping[str, Any]) -> Comparison:
    """A row of comparisons.jsonl."""
    seeds = row.get("seeds", 1)
    return Comparison(
        a=_named_arm(row.get("a"), row),
        b=_named_arm(row.get("b"), row),
        dataset=str(row.get("dataset", "")),
        protocol=str(row.get("protocol", "linear")),
        label=str(row.get("label", MACRO)),
        metric=_metric(str(row.get("metric", "auroc"))),
        difference=number(row.get("difference")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        p=number(row.get("p")),
        seeds=len(seeds) if isinstance(seeds, Sequence) else int(seeds or 1),
        reason=row.get("reason"),
    )


def number(value: Any) -> float | None:
    """A finite number, else None: JSON null and NaN both say that there is no value."""
    return None if value is None or value != value or abs(value) == float("inf") else float(value)


def _score(row: Mapping[str, Any], file: Path, line: int) -> Score:
    try:
        return score(row)
    except KeyError as error:
        found = ", ".join(sorted(row))
        raise InputError(f"expected the field {error} in line {line} of {file}, found {found}") from None


def _metric(name: str) -> str:
    return {"average_precision": "auprc", "ap": "auprc"}.get(name.lower(), name.lower())


def _count(value: Any) -> int | None:
    return None if value is None or value != value else int(value)


def _named_arm(name: Any, row: Mapping[str, Any]) -> Arm:
    if isinstance(name, Mapping):
        return arm_of(name.get("chart"), name.get("control"), name.get("use"))
    text = str(name)
    if text in SOURCES:
        return arm_of(row.get("chart"), text)
    chart, _, control = text.partition(",") if "," in text else text.partition("/")
    return arm_of(chart.strip(), control.strip() or "none", row.get("use"))


def _table(file: Path) -> pa.Table | None:
    return pq.read_table(file) if file.is_file() else None


def _json(file: Path, what: str) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"expected {what} with {file.name} at {file.parent}, found none; check the path") from None
    except json.JSONDecodeError as error:
        raise InputError(f"expected JSON in {file}, found {error}; was it written whole?") from None
    if not isinstance(tree, dict):
        raise InputError(f"expected a JSON object in {file}, found {type(tree).__name__}")
    return tree
