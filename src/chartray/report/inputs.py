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
# What is scored beside a run: floors that no pretraining enters, and the ceiling that reads its embedding too.
SOURCES = ("untrained", "pixels", "chart-only", "image+chart")
NO_CHART = "no chart"

_DATASETS = {"mimic": "MIMIC-CXR", "chexpert": "CheXpert", "nih": "NIH ChestX-ray14"}


def shown(dataset: str) -> str:
    """What a reader calls a data set.

    >>> shown("mimic"), shown("mimic:second.store"), shown("hannover")
    ('MIMIC-CXR', 'MIMIC-CXR (second.store)', 'hannover')
    """
    source, colon, folder = dataset.partition(":")
    return _DATASETS.get(source, source) + (f" ({folder})" if colon else "")


class Arm(NamedTuple):
    """One column of every table: how the chart entered pretraining, or which source was scored beside it.

    `chart` is the feature set (none: plain pretraining), `control` is none, shuffled, constant, mask-only or one of
    SOURCES, `use` is anchor or predict; `on` is the title of the encoder whose embedding image + chart read.
    """

    chart: str
    control: str = "none"
    use: str = "anchor"
    on: str = ""

    @property
    def title(self) -> str:
        """What a reader calls it."""
        if self.control == "chart-only":
            return "chart only" if self.chart == "none" else f"chart only ({self.chart})"
        if self.control == "image+chart":
            return "image + chart" if self.on in ("", NO_CHART) else f"image + chart on {self.on}"
        if self.control in SOURCES:
            return {"untrained": "untrained encoder", "pixels": "plain pixels"}[self.control]
        name = NO_CHART if self.chart == "none" else self.chart
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


def arm_of(chart: str | None, control: str | None, use: str | None = None, base: Arm | None = None) -> Arm:
    """The arm that a row or a manifest names; `base` is the encoder that it was scored beside.

    The untrained encoder and plain pixels are one arm each, whatever run they were scored beside.
    """
    chart, control = chart or "none", control or "none"
    if control in ("untrained", "pixels"):
        return Arm("none", control)
    if control in SOURCES:
        return Arm(chart, control, on=base.title if base is not None and control == "image+chart" else "")
    # Without a chart there is nothing to use in one way or another.
    return Arm(chart, control, (use or "anchor") if chart != "none" else "anchor")


class Score(NamedTuple):
    """One line of results.jsonl; `low` and `high` are None where there can be no interval, `reason` says why.

    `labels` are those of the macro mean, in macro rows.
    """

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
    resamples: int | None
    labels: tuple[str, ...]
    reason: str | None


class Comparison(NamedTuple):
    """One line of comparisons.jsonl: value(a) - value(b) on the same patients."""

    a: Arm
    b: Arm
    dataset: str
    protocol: str
    fraction: float
    label: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    seeds: int


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
        use = self.manifest.get("chart_use") or (self.config.get("chart") or {}).get("use")
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

    @property
    def base(self) -> Arm | None:
        """The encoder that was evaluated."""
        return next((one.arm for one in self.scores if one.arm.kind != "source"), None)

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
    """The folder of an evaluation, or of a comparison (which has comparisons.jsonl alone).

    Raises InputError where `folder` is neither, or a line lacks data set, label or metric.
    """
    file, comparisons_file = folder / "results.jsonl", folder / "comparisons.jsonl"
    if not file.is_file() and not comparisons_file.is_file():
        raise InputError(
            f"expected results.jsonl of `chartray evaluate` in {folder}, found none; check the path of the results"
        )
    evaluation_file = folder / "evaluation.json"
    evaluation = _json(evaluation_file, "an evaluation") if evaluation_file.is_file() else {}
    provenance = (evaluation.get("encoder") or {}).get("provenance") or {}
    rows = read_lines(file) if file.is_file() else []
    pairs = read_lines(comparisons_file) if comparisons_file.is_file() else []
    for one, of in ((file, rows), (comparisons_file, pairs)):
        for line, row in enumerate(of, start=1):
            absent = [name for name in ("dataset", "label", "metric") if name not in row]
            if absent:
                found = ", ".join(sorted(row))
                raise InputError(f"expected the field {absent[0]!r} in line {line} of {one}, found {found}")
    use = provenance.get("chart_use")
    return Results(folder, scores(rows, use), [comparison(pair, use) for pair in pairs], evaluation)


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


def scores(rows: Sequence[Mapping[str, Any]], use: str | None = None) -> list[Score]:
    """Rows of results.jsonl, of one or several runs; `use` is how the run's chart was used, where rows do not say.

    Raises KeyError where data set, label or metric is missing.
    """
    bases = {
        row.get("run"): arm_of(row.get("chart"), row.get("control"), row.get("chart_use", use))
        for row in rows
        if row.get("control") not in SOURCES
    }
    return [_score(row, bases.get(row.get("run"))) for row in rows]


def comparison(row: Mapping[str, Any], use: str | None = None) -> Comparison:
    """A row of comparisons.jsonl."""
    a = arm_of(row.get("chart_a"), row.get("control_a"), row.get("chart_use_a", use))
    b = arm_of(row.get("chart_b"), row.get("control_b"), row.get("chart_use_b", use), a)
    seeds = row.get("seeds") or 1
    return Comparison(
        a=a,
        b=b,
        dataset=str(row["dataset"]),
        protocol=str(row.get("protocol", "linear")),
        fraction=float(row.get("fraction") or 1.0),
        label=str(row["label"]),
        metric=_metric(str(row["metric"])),
        difference=number(row.get("difference")),
        low=number(row.get("ci_low")),
        high=number(row.get("ci_high")),
        p=number(row.get("p")),
        seeds=len(seeds) if isinstance(seeds, Sequence) else int(seeds),
    )


def number(value: Any) -> float | None:
    """A finite number, else None: JSON null and NaN both say that there is no value."""
    return None if value is None or value != value or abs(value) == float("inf") else float(value)


def _score(row: Mapping[str, Any], base: Arm | None) -> Score:
    source = row.get("control") in SOURCES
    # A floor has the seed of its evaluation, an encoder that of its pretraining.
    seed = row.get("seed") if source or row.get("run_seed") is None else row["run_seed"]
    return Score(
        arm=arm_of(row.get("chart"), row.get("control"), base=base) if source or base is None else base,
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
        seed=_count(seed),
        uncertain=row.get("uncertain"),
        blank=row.get("blank"),
        resamples=_count(row.get("resamples")),
        labels=tuple(row.get("labels") or ()),
        reason=row.get("reason"),
    )


def _metric(name: str) -> str:
    return {"average_precision": "auprc", "ap": "auprc"}.get(name.lower(), name.lower())


def _count(value: Any) -> int | None:
    return None if value is None or value != value else int(value)


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
