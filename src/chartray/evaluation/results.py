"""The Results folder: the names and forms of what is in it, and the one way to open it, verified."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from safetensors.numpy import save

from chartray.errors import InputError
from chartray.outputs.opening import SealedFolder
from chartray.outputs.parquet_file import write_sealed
from chartray.outputs.replacing import settle

if TYPE_CHECKING:  # it imports torch, which takes seconds, and the names of files are needed without
    from chartray.statistics.probe import Probe

RESULTS_FILE = "results.jsonl"
STUDIES_FILE = "studies.jsonl"
DRAWS_FILE = "draws.jsonl"
CALIBRATION_FILE = "calibration.jsonl"
THRESHOLDS_FILE = "thresholds.json"
COMPARISONS_FILE = "comparisons.jsonl"
PREDICTIONS_FILE = "predictions.parquet"
EMBEDDINGS_FILE = "embeddings.parquet"
PROBE_FILE = "probe.safetensors"
PROBE_DESCRIPTION_FILE = "probe.json"
TUNED_FOLDER = "finetuned"
MANIFEST_FILE = "evaluation.json"
COMPARE_FILE = "compare.json"
AUDIT_FILE, AUDIT_ROWS_FILE, LEAKS_FILE = "audit.json", "audit.jsonl", "leaks.jsonl"
LOOKS_FOLDER = "looks"
RESULTS_FORMAT = 2
# Of an encoder's provenance: two that agree in all of these are one encoder.
IDENTITY = ("run", "seed", "store_hash", "settings_hash", "chart", "control")


def write_jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line; NaN becomes null."""
    file.write_text("".join(json.dumps(_plain(row)) + "\n" for row in rows), encoding="utf-8")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """One JSON object; NaN becomes null."""
    file.write_text(json.dumps(_plain(content), indent=2) + "\n", encoding="utf-8")


class ResultsFolder(NamedTuple):
    """A Results folder, opened: its `kind` by the name of its manifest, the manifest, and its files to read."""

    kind: str
    manifest: dict[str, Any]
    files: SealedFolder

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.files.folder

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a .jsonl file, none where this kind of result has no such file."""
        rows = self.files.rows(name) if name in self.files else []
        for number, row in enumerate(rows, start=1):
            for field, value in row.items():
                kinds = _OF_ROWS.get(field)
                if kinds is not None and value is not None and (type(value) is bool or not isinstance(value, kinds)):
                    raise InputError(
                        f"expected {'text' if kinds == (str,) else 'a number'} as {field} in line {number} of "
                        f"{self.folder / name}, found {type(value).__name__}; make this folder again"
                    )
        return rows


def open_results(folder: Path, kinds: Sequence[str], what: str) -> ResultsFolder:
    """Opens a folder of `evaluate`, `compare` or `audit`: verified as it is read, and put right after a kill.

    Args:
        folder: the folder.
        kinds: the manifests of the kinds that are of use here; the first that is there counts.
        what: what was expected, and what to do, in the words of the command.

    Raises:
        InputError: it is of no such kind, of another format, was damaged or edited, or its manifest lacks what every
            manifest of its kind says.
    """
    settle(folder)
    kind = next((name for name in kinds if (folder / name).exists()), None)
    if kind is None:
        raise InputError(what)
    files = SealedFolder(folder)
    manifest = files.object(kind) if kind in files else {}
    if manifest.get("format") != RESULTS_FORMAT:
        raise InputError(
            f"expected format {RESULTS_FORMAT} in {folder / kind}, found {manifest.get('format')}; make this folder "
            "again"
        )
    with understood(folder / kind):
        _SAID[kind].model_validate(manifest)
    return ResultsFolder(kind, manifest, files)


_TEXTS = (
    *("run", "chart", "control", "chart_use", "home", "dataset", "protocol", "split", "label", "metric", "unit"),
    *("a", "b", "chart_a", "chart_b", "control_a", "control_b", "part", "attribute", "reason", "verdict", "claim"),
)
_NUMBERS = (
    *("value", "ci_low", "ci_high", "n", "n_positive", "fraction", "difference", "p", "p_holm", "draws"),
    *("value_a", "value_b", "by_chance", "threshold", "score", "observed", "delong_low", "delong_high"),
)
# What stands in the fields of rows, where anything does.
_OF_ROWS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXTS, (str,)),
    **dict.fromkeys(_NUMBERS, (int, float)),
}


@contextmanager
def understood(*places: Path) -> Iterator[None]:
    """Raises InputError, which names the files or folders, where what stands in them lacks what Chartray writes."""
    try:
        yield
    except InputError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        found = " ".join(str(error).split())[:200]
    else:
        return
    where = " and ".join(map(str, places))
    raise InputError(f"expected what Chartray writes in {where}, found another form ({found}); make this folder again")


class _SaidOfEncoder(BaseModel):
    provenance: dict[str, Any]


class _SaidOfStore(BaseModel):
    dataset: str
    hash: str
    path: str


class _SaidOfEvaluation(BaseModel):
    run: str
    encoder: _SaidOfEncoder
    settings: dict[str, Any]
    stores: list[_SaidOfStore] = Field(min_length=1)


class _SaidOfMember(BaseModel):
    folder: str
    provenance: dict[str, Any]


class _SaidOfComparison(BaseModel):
    arms: dict[str, list[_SaidOfMember]]
    settings: dict[str, Any]


class _SaidOfAudit(BaseModel):
    encoders: list[_SaidOfEncoder]
    stores: list[dict[str, Any]] = Field(default_factory=list)
    attributes: list[dict[str, Any]] = Field(default_factory=list)


# What every manifest of a kind says, whatever else it says.
_SAID: dict[str, type[BaseModel]] = {
    MANIFEST_FILE: _SaidOfEvaluation,
    COMPARE_FILE: _SaidOfComparison,
    AUDIT_FILE: _SaidOfAudit,
}


class FilmNames(NamedTuple):
    """Of N films: their ids, their studies (None where the cohort does not say), their patients."""

    images: Sequence[str]
    studies: Sequence[str | None]
    patients: NDArray[np.str_]


def prediction_table(
    films: FilmNames,
    labels: Sequence[str],
    truth: NDArray[np.float64],
    scores: NDArray[np.float64],
    columns: Mapping[str, str | float],
    *,
    draw: int = 0,
) -> pa.Table:
    """One row a film and label, film by film; `columns` are the same in every row. Ignored truth is null."""
    rows, count = truth.shape
    known = truth.ravel()

    def each(names: Sequence[str | None]) -> pa.Array:
        return pa.array(np.repeat(np.array(names, dtype=object), count), pa.string())

    table = {
        "image_id": each(films.images),
        "study_id": each(films.studies),
        "patient_id": each(films.patients.tolist()),
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
    """One row a film: the D numbers of its class token."""
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


def write_parquet(file: Path, tables: Sequence[pa.Table]) -> None:
    """The tables one after the other, with a SHA-256 that goes with the file where it is taken."""
    write_sealed(pa.concat_tables(tables), file)


def write_probe(folder: Path, probe: "Probe", labels: Sequence[str], fraction: float) -> None:
    """The probe as safetensors (weight, bias, mean, scale, strength) and JSON (what they are)."""
    arrays = {name: np.ascontiguousarray(value) for name, value in probe._asdict().items() if name != "chosen_by"}
    # Not save_file, whose files their owner alone may read, whatever the umask says.
    (folder / PROBE_FILE).write_bytes(save(arrays, metadata={"labels": json.dumps(list(labels))}))
    write_json(
        folder / PROBE_DESCRIPTION_FILE,
        {
            "format": RESULTS_FORMAT,
            "labels": list(labels),
            "fraction": fraction,
            "strength": probe.strength.tolist(),
            "validation_auroc": probe.validation_auroc.tolist(),
            "chosen_by": list(probe.chosen_by),
            "formula": "probability = sigmoid(((features - mean) / scale) @ weight.T + bias)",
        },
    )


def matches_table(manifest: Mapping[str, Any]) -> list[str]:
    """Lines of text: which column of each external store each label of an evaluation met, and which met none."""
    labels, lines = list(manifest["labels"]), []
    for entry in manifest["stores"][1:]:
        there = {match["label"]: match["there"] for match in entry["matches"]}
        if entry.get("part_of"):
            continue  # it has the labels of the whole
        lines.append(f"{entry['dataset']}: {len(there)} of {len(labels)} labels matched by name")
        width = max(len(label) for label in labels)
        lines += [f"  {label:<{width}}  {there.get(label, '-')}" for label in labels]
        if entry["unmatched_there"]:
            lines.append(f"  only there, not scored: {', '.join(entry['unmatched_there'])}")
    return lines


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = ("chartray", "numpy", "pyarrow", "torch", "timm")
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in packages}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
