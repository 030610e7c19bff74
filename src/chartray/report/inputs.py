"""What the report reads: run folders of pretraining and results folders of evaluation, checked and typed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from chartray.errors import InputError
from chartray.evaluation.results import (
    CALIBRATION_FILE,
    COMPARE_FILE,
    COMPARISONS_FILE,
    EMBEDDINGS_FILE,
    MANIFEST_FILE,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    STUDIES_FILE,
    ResultsFolder,
    open_results,
    understood,
)
from chartray.outputs.json_file import read_json
from chartray.outputs.opening import SealedFolder
from chartray.outputs.seal import sha256
from chartray.report.arms import Arm, arm_of
from chartray.report.rows import Bin, Comparison, Score, bins, comparison, scores
from chartray.yaml_file import read_yaml


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
    """A folder of an evaluation; `scores` are of films, `studies` of studies, `calibration` reliability curves.

    Evaluations that wrote no studies.jsonl or calibration.jsonl have none.
    """

    folder: Path
    scores: list[Score]
    comparisons: list[Comparison]
    evaluation: dict[str, Any]
    studies: list[Score] = field(default_factory=list)
    calibration: list[Bin] = field(default_factory=list)
    files: SealedFolder | None = None

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
        return self._table(PREDICTIONS_FILE)

    @cached_property
    def embeddings(self) -> pa.Table | None:
        """embeddings.parquet, or None where there is none."""
        return self._table(EMBEDDINGS_FILE)

    def _table(self, name: str) -> pa.Table | None:
        return self.files.table(name) if self.files is not None and name in self.files else None


def read_run(folder: Path) -> Run:
    """Raises InputError where `folder` has no manifest.json, or one of its files is damaged."""
    manifest = read_json(folder / "manifest.json", "the manifest of a run of `chartray pretrain`")
    config_file, metrics_file = folder / "config.yaml", folder / "metrics.jsonl"
    for file, digest in ((config_file, "config_sha256"), (metrics_file, "metrics_sha256")):
        if digest in manifest and (not file.is_file() or sha256(file) != manifest[digest]):
            raise InputError(
                f"expected {file} as the run wrote it, found {'other content' if file.is_file() else 'no file'} (its "
                "manifest.json has the SHA-256): it was damaged or edited; take a whole copy of the run"
            )
    config = read_yaml(config_file, "a run's config.yaml") if config_file.is_file() else {}
    metrics = list(read_lines(metrics_file)) if metrics_file.is_file() else []
    with understood(folder):
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

    Raises InputError where `folder` is neither, was damaged or edited, or a line lacks data set, label or metric.
    """
    opened = open_results(
        folder,
        (MANIFEST_FILE, COMPARE_FILE),
        f"expected results of `chartray evaluate` or `compare` in {folder}, found none; check the path of the results",
    )
    rows, pairs, studies, curves = (
        _rows(opened, name) for name in (RESULTS_FILE, COMPARISONS_FILE, STUDIES_FILE, CALIBRATION_FILE)
    )
    with understood(folder):
        evaluation = opened.manifest if opened.kind == MANIFEST_FILE else {}
        known = _known(folder, opened.manifest, [*rows, *pairs])
        rows, pairs, studies, curves = ([known | _given(row) for row in of] for of in (rows, pairs, studies, curves))
        results = Results(
            folder,
            scores(rows),
            [comparison(pair) for pair in pairs],
            evaluation,
            scores(studies),
            files=opened.files,
        )
        return replace(results, calibration=bins(curves, results.base))


def _rows(opened: ResultsFolder, name: str) -> list[dict[str, Any]]:
    """The rows of a file of an evaluation, none where it was not written; raises InputError where a field is absent."""
    found = opened.rows(name)
    needed = ("dataset", "label") if name == CALIBRATION_FILE else ("dataset", "label", "metric")
    for line, row in enumerate(found, start=1):
        absent = [field for field in needed if field not in row]
        if absent:
            has = ", ".join(sorted(row))
            raise InputError(f"expected the field {absent[0]!r} in line {line} of {opened.folder / name}, found {has}")
    return found


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
    """The data set that a compared evaluation was fitted on; None where it is no longer there."""
    if not (folder / MANIFEST_FILE).is_file():
        return None
    manifest = open_results(folder, [MANIFEST_FILE], f"expected an evaluation in {folder}").manifest
    return str(manifest["stores"][0]["dataset"])


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a line that is no JSON object is refused by number.

    The last line may be cut short (a run that was killed while it wrote): it is left out.
    """
    lines = _text(file).splitlines()
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise InputError(f"expected one JSON object a line in {file}, found {error} in line {number}") from None
        if not isinstance(row, dict):
            raise InputError(f"expected one JSON object a line in {file}, found {type(row).__name__} in line {number}")
        found.append(row)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in {file}, found {error}; was it written over?") from None
    except OSError as error:
        raise InputError(f"expected to read {file}, found: {error.strerror}") from None
