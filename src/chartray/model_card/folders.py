"""The folders that a card's numbers come from: read, and refused where they are of another encoder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chartray.errors import InputError
from chartray.evaluation import results as files

# Results of another encoder are refused by these.
_IDENTITY = ("run", "seed", "store_hash", "settings_hash", "chart", "control")
_AUDIT_FILE, _AUDIT_ROWS = "audit.json", "audit.jsonl"


class Audit(NamedTuple):
    """A folder of `audit`: its manifest and its rows."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]


class Evaluation(NamedTuple):
    """A Results folder of `evaluate`: its manifest, its film-level rows at the largest fraction, and its floors."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]


def read_folders(
    results: Sequence[Path], made: Mapping[str, Any]
) -> tuple[list[Evaluation], list[dict[str, Any]], list[Audit]]:
    """Evaluations, rows of comparisons, and audits (manifest, rows) of the encoder that `made` describes."""
    evaluations, comparisons, audits = [], [], []
    for folder in results:
        if (folder / files.MANIFEST_FILE).is_file():
            evaluations.append(_evaluation(folder, made))
        elif (folder / files.COMPARE_FILE).is_file():
            comparisons += _comparison(folder, made)
        elif (folder / _AUDIT_FILE).is_file():
            manifest = json.loads((folder / _AUDIT_FILE).read_text())
            _expect_same([one["provenance"] for one in manifest["encoders"]], made, folder)
            audits.append(Audit(manifest, files.read_jsonl(folder / _AUDIT_ROWS)))
        else:
            raise InputError(
                f"expected a folder of chartray evaluate, compare or audit as --results, found none in {folder}"
            )
    return evaluations, comparisons, audits


def _evaluation(folder: Path, made: Mapping[str, Any]) -> Evaluation:
    manifest = json.loads((folder / files.MANIFEST_FILE).read_text())
    _expect_same([manifest["encoder"]["provenance"]], made, folder)
    rows = files.read_jsonl(folder / files.RESULTS_FILE)
    pairs = files.read_jsonl(folder / files.COMPARISONS_FILE)
    most = max(row["fraction"] for row in rows)
    whole = [row for row in rows if row["fraction"] == most and row.get("unit", "film") == "film"]
    return Evaluation(manifest, whole, [pair for pair in pairs if pair["fraction"] == most])


def _comparison(folder: Path, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The macro AUROC rows of the arm that holds this run."""
    manifest = json.loads((folder / files.COMPARE_FILE).read_text())
    arms = [name for name, runs in manifest["arms"].items() if made.get("run") in [run["run"] for run in runs]]
    if not arms:
        raise InputError(f"expected a comparison with the run {made.get('run')!r} in {folder}, found others")
    rows = files.read_jsonl(folder / files.COMPARISONS_FILE)
    most = max((row["fraction"] for row in rows), default=1.0)
    return [
        row
        for row in rows
        if {row["a"], row["b"]} & set(arms)
        and (row["label"], row["metric"], row["fraction"]) == ("macro", "auroc", most)
    ]


def _expect_same(candidates: Sequence[Mapping[str, Any]], made: Mapping[str, Any], folder: Path) -> None:
    if not any(all(one.get(key) == made.get(key) for key in _IDENTITY) for one in candidates):
        found = ", ".join(str(one.get("run")) for one in candidates)
        raise InputError(f"expected results of the encoder of {made.get('run')} in {folder}, found those of {found}")
