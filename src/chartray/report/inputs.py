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
from chartray.report.arms import SOURCES, Arm, arm_of

MACRO = "macro"

_DATASETS = {"mimic": "MIMIC-CXR", "chexpert": "CheXpert", "nih": "NIH ChestX-ray14"}


def place_of(dataset: str, home: str) -> str:
    """Where a probe was scored, as a key: the data set, and whose probe it was where `home` says so."""
    return f"{dataset}<{home}" if home else dataset


def shown(place: str) -> str:
    """What a reader calls a data set or a place.

    >>> shown("mimic"), shown("mimic:second.store"), shown("hannover")
    ('MIMIC-CXR', 'MIMIC-CXR (second.store)', 'hannover')
    >>> shown("nih<nih"), shown("nih<mimic")
    ('NIH ChestX-ray14 (own probe)', 'NIH ChestX-ray14 (probe of MIMIC-CXR)')
    """
    dataset, _, home = place.partition("<")
    source, colon, folder = dataset.partition(":")
    name = _DATASETS.get(source, source) + (f" ({folder})" if colon else "")
    return name + ("" if not home else " (own probe)" if home == dataset else f" (probe of {shown(home)})")


class Score(NamedTuple):
    """One line of results.jsonl; `low` and `high` are None where there can be no interval, `reason` says why.

    `labels` are those of the macro mean, in macro rows; `home` is the data set that the probe was fitted on, ""
    where it is not recorded or goes without saying.
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
    home: str = ""

    @property
    def place(self) -> str:
        """The data set, and whose probe was scored there."""
        return place_of(self.dataset, self.home)


class Comparison(NamedTuple):
    """One line of comparisons.jsonl: value(a) - value(b) on the same patients.

    `split` is "", `uncertain` and `blank` are None where they are not recorded; `seed` is that of the pretraining of a
    single pair of runs; `p_holm` is corrected over the labels.
    """

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
    split: str = ""
    uncertain: str | None = None
    blank: str | None = None
    home: str = ""
    seed: int | None = None
    p_holm: float | None = None

    @property
    def place(self) -> str:
        """The data set, and whose probe was scored there."""
        return place_of(self.dataset, self.home)


@dataclass(frozen=True)
class Run:
    """A folder of pretraining."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    metrics: list[dict[str, Any]]
    arm: Arm

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

    @property
    def provenance(self) -> dict[str, Any]:
        """What the evaluated encoder says of its pretraining."""
        found = (self.evaluation.get("encoder") or {}).get("provenance")
        return found if isinstance(found, dict) else {}

    @property
    def places(self) -> dict[str, str]:
        """Data sets that were scored, and the places they are."""
        return {one.dataset: one.place for one in self.scores}

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
    config = config or {}
    arm = arm_of(
        manifest.get("chart"),
        manifest.get("control"),
        manifest.get("chart_use") or (config.get("chart") or {}).get("use"),
        objective=manifest.get("objective") or (config.get("objective") or {}).get("name"),
        settings=manifest.get("settings_hash"),
    )
    return Run(folder, config, manifest, metrics, arm)


def read_results(folder: Path) -> Results:
    """The folder of an evaluation, or of a comparison (which has comparisons.jsonl alone).

    Raises InputError where `folder` is neither, or a line lacks data set, label or metric.
    """
    file, comparisons_file = folder / "results.jsonl", folder / "comparisons.jsonl"
    if not file.is_file() and not comparisons_file.is_file():
        raise InputError(
            f"expected results.jsonl of `chartray evaluate` in {folder}, found none; check the path of the results"
        )
    record = next((folder / name for name in ("evaluation.json", "compare.json") if (folder / name).is_file()), None)
    found = _json(record, "an evaluation") if record else {}
    rows = read_lines(file) if file.is_file() else []
    pairs = read_lines(comparisons_file) if comparisons_file.is_file() else []
    for one, of in ((file, rows), (comparisons_file, pairs)):
        for line, row in enumerate(of, start=1):
            absent = [name for name in ("dataset", "label", "metric") if name not in row]
            if absent:
                has = ", ".join(sorted(row))
                raise InputError(f"expected the field {absent[0]!r} in line {line} of {one}, found {has}")
    evaluation = found if "arms" not in found else {}
    known = _known(folder, found, [*rows, *pairs])
    rows, pairs = ([known | _given(row) for row in of] for of in (rows, pairs))
    return Results(folder, scores(rows), [comparison(pair) for pair in pairs], evaluation)


def _known(folder: Path, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What evaluation.json or compare.json says of all rows of a folder.

    The home data set is the first that is scored; raises InputError where a comparison is of probes of several.
    """
    made = (record.get("encoder") or {}).get("provenance") or {}
    settings = record.get("settings") or {}
    stores = record.get("stores") or []
    members = [one for arm in (record.get("arms") or {}).values() for one in arm]
    homes = {home for one in members if (home := _home(Path(one["folder"])))}
    if len(homes) > 1:
        raise InputError(
            f"expected probes of one data set in the comparison {folder}, found {' and '.join(sorted(homes))}; "
            "compare evaluations that were fitted on one"
        )
    first = str(stores[0]["dataset"]) if stores else str(rows[0]["dataset"]) if rows else ""
    known = {"home": homes.pop() if homes else first, "run_seed": made.get("seed")}
    known |= {name: settings.get(name) for name in ("split", "uncertain", "blank")}
    return known | {name: made.get(name) for name in ("chart_use", "objective", "settings_hash")}


def _home(folder: Path) -> str | None:
    file = folder / "evaluation.json"
    stores = _json(file, "an evaluation").get("stores") if file.is_file() else None
    return str(stores[0]["dataset"]) if stores else None


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


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


def scores(rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """Rows of results.jsonl, of one or several runs.

    Raises KeyError where data set, label or metric is missing.
    """
    bases = {_beside(row): _arm(row) for row in rows if row.get("control") not in SOURCES}
    return [_score(row, bases.get(_beside(row))) for row in rows]


def comparison(row: Mapping[str, Any]) -> Comparison:
    """A row of comparisons.jsonl."""
    a = _arm(row, "_a")
    b = _arm(row, "_b", a)
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
        split=str(row.get("split") or ""),
        uncertain=row.get("uncertain"),
        blank=row.get("blank"),
        home=str(row.get("home") or ""),
        seed=_count(row.get("run_seed")),
        p_holm=number(row.get("p_holm")),
    )


def _beside(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which encoder a floor was scored beside: two runs may share a name."""
    return row.get("run"), row.get("run_seed"), row.get("objective"), row.get("settings_hash")


def _arm(row: Mapping[str, Any], side: str = "", base: Arm | None = None) -> Arm:
    def of(name: str) -> Any:
        return row.get(name + side, row.get(name))

    return arm_of(
        of("chart"),
        of("control"),
        of("chart_use"),
        base,
        objective=of("objective"),
        settings=of("settings_hash"),
    )


def number(value: Any) -> float | None:
    """A finite number, else None: JSON null and NaN both say that there is no value."""
    return None if value is None or value != value or abs(value) == float("inf") else float(value)


def _score(row: Mapping[str, Any], base: Arm | None) -> Score:
    source = row.get("control") in SOURCES
    # A floor has the seed of its evaluation, an encoder that of its pretraining.
    seed = row.get("seed") if source or row.get("run_seed") is None else row["run_seed"]
    return Score(
        arm=_arm(row, base=base) if source or base is None else base,
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
        home=str(row.get("home") or ""),
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
