"""The Results folder: written beside, then given its name, so that nothing is ever half there."""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from chartray.errors import InputError

if TYPE_CHECKING:  # it imports torch, which takes seconds, and the names of files are needed without
    from chartray.measure.probe import Probe

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
RESULTS_FORMAT = 1
# Of an encoder's provenance: two that agree in all of these are one encoder.
IDENTITY = ("run", "seed", "store_hash", "settings_hash", "chart", "control")


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `out` if nothing goes wrong, in place of whatever is there.

    A link stays, and what it points to is replaced. The folder one stands in stays too, and its content is replaced:
    the shell and every relative path would be left in a folder that is no more.
    """
    out = out.resolve()
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if out == Path.cwd():
            for old in out.iterdir():
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            for new in sorted(partial.iterdir()):
                new.rename(out / new.name)
            return
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line; NaN becomes null."""
    file.write_text("".join(json.dumps(_plain(row)) + "\n" for row in rows))


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """One JSON object; NaN becomes null."""
    file.write_text(json.dumps(_plain(content), indent=2) + "\n")


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """What `write_jsonl` wrote; raises InputError for anything else."""
    return [_object(line, f"line {number} of {file}") for number, line in enumerate(_lines(file), start=1)]


def read_manifest(file: Path) -> dict[str, Any]:
    """What `write_json` wrote; raises InputError for anything else, or another format."""
    manifest = _object("\n".join(_lines(file)), str(file))
    if manifest.get("format") != RESULTS_FORMAT:
        raise InputError(
            f"expected format {RESULTS_FORMAT} in {file}, found {manifest.get('format')}; make this folder again"
        )
    return manifest


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"expected text in {file}, found {' '.join(str(error).split())}; make this folder again"
        ) from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"expected JSON in {where}, found {error}; make this folder again") from None
    if not isinstance(found, dict):
        raise InputError(f"expected a JSON object in {where}, found {type(found).__name__}; make this folder again")
    return found


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
    """The tables one after the other."""
    pq.write_table(pa.concat_tables(tables), file, compression="zstd")


def write_probe(folder: Path, probe: "Probe", labels: Sequence[str], fraction: float) -> None:
    """The probe as safetensors (weight, bias, mean, scale, strength) and JSON (what they are)."""
    arrays = {name: np.ascontiguousarray(value) for name, value in probe._asdict().items() if name != "chosen_by"}
    save_file(arrays, folder / PROBE_FILE, metadata={"labels": json.dumps(list(labels))})
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
