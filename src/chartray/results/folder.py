"""The results folder of evaluate, compare and audit: the one writer and the one reader of its rows and manifests.

The content of each file is in `results.schema` (rows) and `results.manifest` (how they came about).
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from chartray.errors import InputError
from chartray.outputs.guard import refuse_other
from chartray.outputs.json_file import parsed_record
from chartray.outputs.opening import SealedFolder
from chartray.outputs.parquet_file import write_sealed
from chartray.outputs.replacing import replaced_folder, settle
from chartray.outputs.seal import SUMS_FILE
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, AuditRow, Leak, RemovalRow, SubgroupRow
from chartray.results.manifest import (
    RESULTS_FORMAT,
    AuditManifest,
    ComparisonManifest,
    EncoderEntry,
    EvaluationManifest,
    Manifest,
    differing,
    reading,
)
from chartray.results.schema import CalibrationBin, Comparison, Interaction, Record, Score
from chartray.wording import no_secret, plural

RESULTS_FILE = "results.jsonl"
STUDIES_FILE = "studies.jsonl"
DRAWS_FILE = "draws.jsonl"
CALIBRATION_FILE = "calibration.jsonl"
THRESHOLDS_FILE = "thresholds.json"
COMPARISONS_FILE = "comparisons.jsonl"
INTERACTIONS_FILE = "interactions.jsonl"
PREDICTIONS_FILE = "predictions.parquet"
EMBEDDINGS_FILE = "embeddings.parquet"
PROBE_FILE = "probe.safetensors"
PROBE_DESCRIPTION_FILE = "probe.json"
TUNED_FOLDER = "finetuned"
AUDIT_ROWS_FILE, LEAKS_FILE = "audit.jsonl", "leaks.jsonl"
SALIENCY_FOLDER = "saliency"
MANIFEST_FILE, COMPARE_FILE, AUDIT_FILE = EvaluationManifest.kind, ComparisonManifest.kind, AuditManifest.kind
# The records of each file of rows.
ROWS: Mapping[str, tuple[type[Record], ...]] = {
    RESULTS_FILE: (Score,),
    STUDIES_FILE: (Score,),
    DRAWS_FILE: (Score,),
    CALIBRATION_FILE: (CalibrationBin,),
    COMPARISONS_FILE: (Comparison,),
    INTERACTIONS_FILE: (Interaction,),
    AUDIT_ROWS_FILE: (AttributeProbe, AttributeDifference, SubgroupRow, RemovalRow),
    LEAKS_FILE: (Leak,),
}
_KINDS: Mapping[str, tuple[str, type[Manifest]]] = {
    MANIFEST_FILE: ("an evaluation", EvaluationManifest),
    COMPARE_FILE: ("a comparison", ComparisonManifest),
    AUDIT_FILE: ("an audit", AuditManifest),
}
# The files that a folder of each kind may hold other than its manifest.
_HOLDS = {
    MANIFEST_FILE: {
        *(RESULTS_FILE, STUDIES_FILE, DRAWS_FILE, CALIBRATION_FILE, COMPARISONS_FILE, THRESHOLDS_FILE),
        *(PREDICTIONS_FILE, EMBEDDINGS_FILE, PROBE_FILE, PROBE_DESCRIPTION_FILE, TUNED_FOLDER, SALIENCY_FOLDER),
    },
    COMPARE_FILE: {COMPARISONS_FILE, INTERACTIONS_FILE},
    AUDIT_FILE: {AUDIT_ROWS_FILE, LEAKS_FILE, PREDICTIONS_FILE},
}
Row = TypeVar("Row", bound=Record)
Parsed = TypeVar("Parsed", bound=BaseModel)
ManifestT = TypeVar("ManifestT", bound=Manifest, covariant=True)


class ResultsFolder(NamedTuple, Generic[ManifestT]):
    """A folder of results, opened: its manifest, and its files, each verified as it is read."""

    manifest: ManifestT
    files: SealedFolder

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.files.folder

    @property
    def scores(self) -> list[Score]:
        """The rows of results.jsonl."""
        return self.rows(RESULTS_FILE, Score)

    @property
    def studies(self) -> list[Score]:
        """The rows of studies.jsonl."""
        return self.rows(STUDIES_FILE, Score)

    @property
    def comparisons(self) -> list[Comparison]:
        """The rows of comparisons.jsonl."""
        return self.rows(COMPARISONS_FILE, Comparison)

    @property
    def interactions(self) -> list[Interaction]:
        """The rows of interactions.jsonl."""
        return self.rows(INTERACTIONS_FILE, Interaction)

    @property
    def calibration(self) -> list[CalibrationBin]:
        """The rows of calibration.jsonl."""
        return self.rows(CALIBRATION_FILE, CalibrationBin)

    @property
    def audit_rows(self) -> list[AuditRow]:
        """The rows of audit.jsonl."""
        return self.rows(AUDIT_ROWS_FILE, AuditRow)

    @property
    def leaks(self) -> list[Leak] | None:
        """The rows of leaks.jsonl, None where there is no such file.

        Raises InputError where they are not those that the manifest counts.
        """
        rows = self.rows(LEAKS_FILE, Leak) if LEAKS_FILE in self.files else None
        counted = self.manifest.leaks if isinstance(self.manifest, AuditManifest) else None
        if counted is not None and (rows is None or sum(row.count > 0 for row in rows) != counted):
            raise InputError(
                f"expected {plural(counted, 'leak')} in {self.folder / LEAKS_FILE}, as {AUDIT_FILE} "
                "counts, found another number; make this audit again"
            )
        return rows

    def rows(self, name: str, kind: type[Row]) -> list[Row]:
        """The records of a file of rows, none where this kind of result has no such file."""
        rows = self.files.rows(name) if name in self.files else []
        return [_row(row, name, f"line {number} of {self.folder / name}", kind) for number, row in enumerate(rows, 1)]

    def table(self, name: str) -> pa.Table | None:
        """A Parquet table, None where there is none."""
        return self.files.table(name) if name in self.files else None


def _row(row: dict[str, Any], name: str, where: str, kind: type[Row]) -> Row:
    kinds = ROWS[name]
    record = (
        next((one for one in kinds if row.get("part") == one.model_fields["part"].default), None)
        if (len(kinds) > 1)
        else kinds[0]
    )
    if record is None:
        raise InputError(f"expected a known part in {where}, found {row.get('part')!r:.40}; make this folder again")
    found = parsed_record(record, row, where)
    assert isinstance(found, kind)
    return found


def open_evaluation(folder: Path) -> ResultsFolder[EvaluationManifest]:
    """Opens a folder of `evaluate`."""
    return open_kind(
        folder,
        EvaluationManifest,
        f"expected an evaluation ({MANIFEST_FILE}) in {folder}, found none; run chartray evaluate",
    )


def open_results(folder: Path, kinds: Sequence[str], what: str) -> ResultsFolder[Manifest]:
    """Opens a folder of one of several `kinds`, the names of their manifests; the first that is there counts.

    Raises InputError as `open_kind`.
    """
    settle(folder)
    kind = next((name for name in kinds if (folder / name).exists()), kinds[0])
    return open_kind(folder, _KINDS[kind][1], what)


def open_kind(folder: Path, kind: type[ManifestT], what: str) -> ResultsFolder[ManifestT]:
    """Opens a folder of `evaluate`, `compare` or `audit`: verified as it is read, and put right after a kill.

    Args:
        folder: the folder.
        kind: the record of its manifest.
        what: what was expected, and what to do, in the words of the command.

    Raises:
        InputError: it is of another kind or format, or was damaged or edited.
    """
    settle(folder)
    file = folder / kind.kind
    if not file.exists():
        raise InputError(what)
    files = SealedFolder(folder)
    content = files.object(kind.kind) if kind.kind in files else {}
    if content.get("format") != RESULTS_FORMAT:
        raise InputError(
            f"expected format {RESULTS_FORMAT} in {file}, found {content.get('format')}; make this folder again"
        )
    return ResultsFolder(parsed_record(kind, content, str(file)), files)


def check_replaceable(out: Path, manifest: str) -> None:
    """Raises InputError if `out` exists and is neither empty nor an earlier result of the kind that `manifest` is the
    file of, with nothing else in it; or if it can be no folder where it is.
    """

    def foreign(names: set[str]) -> str:
        there = {name for name in names if not name.startswith(".")}
        if manifest in there and there <= _HOLDS[manifest] | {manifest, SUMS_FILE}:
            return ""
        kinds = [words for name, (words, _) in _KINDS.items() if name in there and name != manifest]
        wanted = _KINDS[manifest][0]
        # A foreign file's name is not printed: it can be an accession number.
        return " and ".join(kinds) or (f"{wanted} and other files" if manifest in there else f"no {wanted.split()[-1]}")

    refuse_other(out, foreign)


def check_same(out: Path, manifest: str, *, encoder: EncoderEntry, store: str) -> None:
    """Raises InputError if `out` holds a result of that kind of another encoder, or one fitted on another store.

    Args:
        out: the folder to be written.
        manifest: evaluation.json or audit.json.
        encoder: what is to be written about; the `reading` of its provenance tells it from others.
        store: hash of the store that is fitted on.
    """
    if not (out / manifest).is_file():
        return
    before = open_results(out, [manifest], f"expected {_KINDS[manifest][0]} in {out}").manifest
    assert isinstance(before, EvaluationManifest | AuditManifest)
    earlier = before.encoder if isinstance(before, EvaluationManifest) else before.encoders[0]
    # Without a run in its provenance, an encoder has the name of its folder.
    other = differing(*(reading(one.provenance) | {"run": one.run} for one in (earlier, encoder)))
    fitted = before.stores[0].hash
    if not other and fitted != store:
        other = [f"the store's hash {fitted[:12]} instead of {store[:12]}"]
    if other:
        raise InputError(
            f"expected {_KINDS[manifest][0]} of the same encoder and store as --out, found another in {out} "
            f"({other[0]}); choose another --out, or remove it first"
        )


@contextmanager
def written_folder(out: Path, manifest: str) -> Iterator[Path]:
    """A folder to write in, which becomes `out` if nothing goes wrong, in place of an earlier result of its kind.

    Raises InputError as `check_replaceable`.
    """
    check_replaceable(out, manifest)
    with replaced_folder(out) as partial:
        yield partial


def write_rows(folder: Path, name: str, rows: Sequence[Record]) -> None:
    """A file of rows: one JSON object a line."""
    kinds = ROWS[name]
    assert all(isinstance(row, kinds) for row in rows)
    (folder / name).write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The manifest, under the name of its kind."""
    text = manifest.model_dump_json(indent=2, by_alias=True)
    (folder / manifest.kind).write_text(text + "\n", encoding="utf-8")


def write_object(file: Path, content: Mapping[str, Any]) -> None:
    """Another JSON object of the folder; NaN becomes null."""
    file.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_parquet(file: Path, tables: Sequence[pa.Table]) -> None:
    """The tables one after the other, with a SHA-256 that goes with the file where it is taken."""
    write_sealed(pa.concat_tables(tables), file)


def now() -> str:
    """The time, as manifests have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> tuple[str, ...]:
    """The command line, as manifests have it: without the passwords of its URLs."""
    return tuple(no_secret(word) if "://" in word else word for word in sys.argv)


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = ("chartray", "numpy", "pyarrow", "torch", "timm")
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in packages}


class ImageNames(NamedTuple):
    """Of N images: their ids, their studies (None where the cohort does not say), their patients."""

    images: Sequence[str]
    studies: Sequence[str | None]
    patients: NDArray[np.str_]


def prediction_table(
    images: ImageNames,
    labels: Sequence[str],
    truth: NDArray[np.float64],
    scores: NDArray[np.float64],
    columns: Mapping[str, str | float],
    *,
    draw: int = 0,
) -> pa.Table:
    """One row an image and label, image by image; `columns` are the same in every row. Ignored truth is null."""
    rows, count = truth.shape
    known = truth.ravel()

    def each(names: Sequence[str | None]) -> pa.Array:
        return pa.array(np.repeat(np.array(names, dtype=object), count), pa.string())

    table = {
        "image_id": each(images.images),
        "study_id": each(images.studies),
        "patient_id": each(images.patients.tolist()),
        "label": pa.array(np.tile(np.array(labels, dtype=object), rows), pa.string()),
        "truth": pa.array(known, pa.float64(), mask=np.isnan(known)),
        "score": pa.array(scores.ravel(), pa.float64()),
        "draw": pa.repeat(pa.scalar(draw, pa.int32()), rows * count),
    }
    same = {name: pa.repeat(pa.scalar(value), rows * count) for name, value in columns.items()}
    return pa.table(table | same)


def embedding_table(
    dataset: str, split: str, image_ids: Sequence[str], patients: NDArray[np.str_], features: NDArray[np.float32]
) -> pa.Table:
    """One row an image: the D numbers of its embedding."""
    flat = pa.array(np.ascontiguousarray(features).ravel(), pa.float32())
    return pa.table(
        {
            "dataset": pa.repeat(pa.scalar(dataset), len(features)),
            "split": pa.repeat(pa.scalar(split), len(features)),
            "image_id": pa.array(list(image_ids), pa.string()),
            "patient_id": pa.array(patients.tolist(), pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
        }
    )
