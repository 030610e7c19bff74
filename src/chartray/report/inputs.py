"""What the report reads: runs of pretraining, and the results folders of evaluate, compare and audit, as records."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from chartray.config.pretrain import Config, load_saved
from chartray.errors import InputError
from chartray.networks.description import Provenance
from chartray.outputs.opening import SealedFolder
from chartray.outputs.seal import sha256
from chartray.results.arm import Arm
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, Leak, RemovalRow, SubgroupRow
from chartray.results.folder import (
    AUDIT_FILE,
    COMPARE_FILE,
    EMBEDDINGS_FILE,
    MANIFEST_FILE,
    PREDICTIONS_FILE,
    open_kind,
    open_results,
)
from chartray.results.manifest import AuditManifest, EvaluationManifest, Manifest, StoreEntry, arm_of_run
from chartray.results.schema import CalibrationBin, Comparison, Interaction, Score
from chartray.training.manifest import RunManifest, read_manifest


@dataclass(frozen=True)
class PretrainingRun:
    """A folder of pretraining; `metrics` are the numbers of each step of metrics.jsonl."""

    folder: Path
    config: Config
    manifest: RunManifest
    metrics: list[dict[str, float | None]]
    arm: Arm


@dataclass(frozen=True)
class Results:
    """A folder of an evaluation or a comparison, its rows under the names of the page.

    `scores` are by image, `studies` by study, `calibration` the reliability curves; a comparison has `comparisons`
    alone.
    """

    manifest: Manifest
    files: SealedFolder
    scores: list[Score] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    interactions: list[Interaction] = field(default_factory=list)
    studies: list[Score] = field(default_factory=list)
    calibration: list[CalibrationBin] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.files.folder

    @property
    def evaluation(self) -> EvaluationManifest | None:
        """What an evaluation says of itself; None for a comparison."""
        return self.manifest if isinstance(self.manifest, EvaluationManifest) else None

    @property
    def stores(self) -> tuple[StoreEntry, ...]:
        """The stores that were scored; none for a comparison, which scores nothing itself."""
        return self.manifest.stores if self.evaluation else ()

    @property
    def base(self) -> Arm | None:
        """The encoder that was evaluated."""
        return next((one.arm for one in self.scores if not one.arm.is_baseline), None)

    @property
    def provenance(self) -> Provenance | None:
        """How the evaluated encoder was pretrained."""
        return self.evaluation.encoder.provenance if self.evaluation else None

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
        return self.files.table(name) if name in self.files else None


@dataclass(frozen=True)
class AuditResults:
    """A folder of an audit, its rows under the names of the page; `leaks` is None without a leakage check."""

    manifest: AuditManifest
    probes: list[AttributeProbe]
    differences: list[AttributeDifference]
    subgroups: list[SubgroupRow]
    removals: list[RemovalRow]
    leaks: list[Leak] | None

    @property
    def datasets(self) -> list[str]:
        """The data sets that were audited."""
        parts = (self.probes, self.differences, self.subgroups, self.removals)
        names = [row.dataset for rows in parts for row in rows]
        return list(dict.fromkeys([*names, *(store.dataset for store in self.manifest.stores)]))

    @property
    def arms(self) -> set[Arm]:
        """Every arm that was audited."""
        pairs = {arm for one in self.differences for arm in (one.arm_a, one.arm_b)}
        return pairs | {row.arm for rows in (self.probes, self.subgroups, self.removals) for row in rows}


def read_run(folder: Path) -> PretrainingRun:
    """Raises InputError where `folder` is no run, or one of its files is damaged or of another form."""
    manifest = read_manifest(folder)
    config, metrics = folder / "config.yaml", folder / "metrics.jsonl"
    for written, digest in ((config, manifest.config_sha256), (metrics, manifest.metrics_sha256)):
        if digest is not None and (not written.is_file() or sha256(written) != digest):
            raise InputError(
                f"expected {written} as the run wrote it, found {'other content' if written.is_file() else 'no file'} "
                "(its manifest.json has the SHA-256): it was damaged or edited; restore a complete copy of the run"
            )
    steps = _steps(metrics) if metrics.is_file() else []
    return PretrainingRun(folder, load_saved(config), manifest, steps, arm_of_run(manifest))


def read_results(folder: Path) -> Results:
    """The folder of an evaluation or of a comparison; raises InputError where `folder` is neither, or was damaged."""
    opened = open_results(
        folder,
        (MANIFEST_FILE, COMPARE_FILE),
        f"expected results of `chartray evaluate` or `compare` in {folder}, found none; check the path of the results",
    )
    rows = opened.scores, opened.comparisons, opened.interactions, opened.studies, opened.calibration
    return Results(opened.manifest, opened.files, *rows)


def read_audit(folder: Path) -> AuditResults:
    """The folder of `chartray audit`; raises InputError where it is none, or was damaged."""
    opened = open_kind(
        folder, AuditManifest, f"expected an audit ({AUDIT_FILE}) of `chartray audit` in {folder}, found none; check it"
    )
    rows = opened.audit_rows
    return AuditResults(
        opened.manifest,
        [row for row in rows if isinstance(row, AttributeProbe)],
        [row for row in rows if isinstance(row, AttributeDifference)],
        [row for row in rows if isinstance(row, SubgroupRow)],
        [row for row in rows if isinstance(row, RemovalRow)],
        opened.leaks,
    )


def _steps(file: Path) -> list[dict[str, float | None]]:
    """The numbers of each step; the last line may be cut short (a run that was killed while it wrote)."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in {file}, found {error}; was it written over?") from None
    except OSError as error:
        raise InputError(f"expected to read {file}, found: {error.strerror}") from None
    found: list[dict[str, float | None]] = []
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise InputError(f"expected a JSON object in line {number} of {file}, found other content") from None
        if not isinstance(step, dict) or not all(isinstance(value, int | float | None) for value in step.values()):
            raise InputError(f"expected a JSON object of numbers in line {number} of {file}, found other content")
        found.append(step)
    return found
