"""The folders that a card's numbers come from: read, and refused where they are of another encoder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chartray.errors import InputError
from chartray.evaluation import results as files


class Audit(NamedTuple):
    """A folder of `audit`: its manifest, its rows, and what its leak gate compared (None: it had none)."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    leaks: list[dict[str, Any]] | None


class Evaluation(NamedTuple):
    """A Results folder of `evaluate`: its manifest, its film-level rows at the largest fraction, and its floors."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]


def read_folders(
    results: Sequence[Path], made: Mapping[str, Any]
) -> tuple[list[Evaluation], list[dict[str, Any]], list[Audit]]:
    """Evaluations, rows of comparisons, and audits (manifest, rows) of the encoder that `made` describes.

    Raises InputError for a folder that is none of these, is damaged, or is of another encoder.
    """
    evaluations, comparisons, audits = [], [], []
    for folder in results:
        what = f"expected a folder of chartray evaluate, compare or audit as --results, found none in {folder}"
        opened = files.open_results(folder, (files.MANIFEST_FILE, files.COMPARE_FILE, files.AUDIT_FILE), what)
        with files.understood(folder):
            if opened.kind == files.MANIFEST_FILE:
                evaluations.append(_evaluation(opened, made))
            elif opened.kind == files.COMPARE_FILE:
                comparisons += _comparison(opened, made)
            else:
                audits.append(_audit(opened, made))
    return evaluations, comparisons, audits


def _evaluation(opened: files.ResultsFolder, made: Mapping[str, Any]) -> Evaluation:
    _expect_same([opened.manifest["encoder"]["provenance"]], made, opened.folder)
    rows, pairs = (opened.rows(name) for name in (files.RESULTS_FILE, files.COMPARISONS_FILE))
    most = max((row["fraction"] for row in rows), default=1.0)
    whole = [row for row in rows if row["fraction"] == most and row.get("unit", "film") == "film"]
    return Evaluation(opened.manifest, whole, [pair for pair in pairs if pair["fraction"] == most])


def _audit(opened: files.ResultsFolder, made: Mapping[str, Any]) -> Audit:
    _expect_same([one["provenance"] for one in opened.manifest["encoders"]], made, opened.folder)
    return Audit(opened.manifest, opened.rows(files.AUDIT_ROWS_FILE), _leaks(opened))


def _leaks(opened: files.ResultsFolder) -> list[dict[str, Any]] | None:
    """The rows of the leak gate; raises InputError where they are not those that the manifest counts."""
    file, counted = opened.folder / files.LEAKS_FILE, opened.manifest.get("leaks")
    rows = opened.rows(files.LEAKS_FILE) if files.LEAKS_FILE in opened.files else None
    if counted is not None and (rows is None or sum(bool(row.get("count")) for row in rows) != counted):
        raise InputError(
            f"expected {counted} leak{'' if counted == 1 else 's'} in {file}, as {files.AUDIT_FILE} beside it counts, "
            "found another number; make this audit again"
        )
    return rows


def audits_beside(results: Sequence[Path], made: Mapping[str, Any]) -> list[Audit]:
    """Audits of this encoder that nobody named, but that lie beside the results, or beside the folder they are in.

    That is where a study, and most people, put them: what they found out about a leak is not to be forgotten. One that
    cannot be read is told on standard error.
    """
    named = {folder.resolve() for folder in results}
    places = dict.fromkeys(place for folder in named for place in (folder.parent, folder.parent.parent))
    found = []
    for folder in dict.fromkeys(
        file.parent for place in places for file in sorted(place.glob(f"*/{files.AUDIT_FILE}"))
    ):
        if folder.resolve() in named:
            continue
        try:
            opened = files.open_results(folder, [files.AUDIT_FILE], f"expected an audit in {folder}, found none")
            with files.understood(folder):
                encoders = [one["provenance"] for one in opened.manifest["encoders"]]
                if any(not _differing(one, made) for one in encoders):
                    found.append(_audit(opened, made))
        except InputError as error:
            print(f"chartray: an audit beside the results is not on the card: {error}", file=sys.stderr, flush=True)
    return found


def _comparison(opened: files.ResultsFolder, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The macro AUROC rows of the arm that holds this run."""
    encoders = {name: [run["provenance"] for run in runs] for name, runs in opened.manifest["arms"].items()}
    _expect_same([one for members in encoders.values() for one in members], made, opened.folder)
    arms = [name for name, members in encoders.items() if not all(_differing(one, made) for one in members)]
    rows = opened.rows(files.COMPARISONS_FILE)
    most = max((row["fraction"] for row in rows), default=1.0)
    return [
        row
        for row in rows
        if {row["a"], row["b"]} & set(arms)
        and (row["label"], row["metric"], row["fraction"]) == ("macro", "auroc", most)
    ]


def _expect_same(candidates: Sequence[Mapping[str, Any]], made: Mapping[str, Any], folder: Path) -> None:
    """One of the encoders must be this very one; the error names in what the nearest differs."""
    if not candidates:
        raise InputError(f"expected results of the encoder of {made.get('run')} in {folder}, found none")
    nearest = min(candidates, key=lambda one: (one.get("run") != made.get("run"), len(_differing(one, made))))
    if differing := _differing(nearest, made):
        found = ", ".join(f"{key} {nearest.get(key)} instead of {made.get(key)}" for key in differing)
        raise InputError(
            f"expected results of the encoder of {made.get('run')} in {folder}, found those of {nearest.get('run')}: "
            f"{found}; give the results of this encoder"
        )


def _differing(one: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    return [key for key in files.IDENTITY if one.get(key) != made.get(key)]
