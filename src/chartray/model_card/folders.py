"""The folders that a card's numbers come from: read, and refused where they are of another encoder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
        if (folder / files.MANIFEST_FILE).is_file():
            evaluations.append(_evaluation(folder, made))
        elif (folder / files.COMPARE_FILE).is_file():
            comparisons += _comparison(folder, made)
        elif (folder / files.AUDIT_FILE).is_file():
            audits.append(_audit(folder, made))
        else:
            raise InputError(
                f"expected a folder of chartray evaluate, compare or audit as --results, found none in {folder}"
            )
    return evaluations, comparisons, audits


def _evaluation(folder: Path, made: Mapping[str, Any]) -> Evaluation:
    manifest = files.read_manifest(folder / files.MANIFEST_FILE)
    with _whole(folder / files.MANIFEST_FILE):
        provenance = manifest["encoder"]["provenance"]
    _expect_same([provenance], made, folder)
    rows = files.read_jsonl(folder / files.RESULTS_FILE)
    pairs = files.read_jsonl(folder / files.COMPARISONS_FILE)
    most = max((row["fraction"] for row in rows), default=1.0)
    whole = [row for row in rows if row["fraction"] == most and row.get("unit", "film") == "film"]
    return Evaluation(manifest, whole, [pair for pair in pairs if pair["fraction"] == most])


def _audit(folder: Path, made: Mapping[str, Any]) -> Audit:
    manifest = files.read_manifest(folder / files.AUDIT_FILE)
    with _whole(folder / files.AUDIT_FILE):
        candidates = [one["provenance"] for one in manifest["encoders"]]
    _expect_same(candidates, made, folder)
    return Audit(manifest, files.read_jsonl(folder / files.AUDIT_ROWS_FILE), _leaks(folder, manifest))


def _leaks(folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of the leak gate; raises InputError where they are not those that the manifest counts."""
    file, counted = folder / files.LEAKS_FILE, manifest.get("leaks")
    rows = files.read_jsonl(file) if file.is_file() else None
    if counted is not None and (rows is None or sum(bool(row.get("count")) for row in rows) != counted):
        raise InputError(
            f"expected {counted} leak{'' if counted == 1 else 's'} in {file}, as {files.AUDIT_FILE} beside it counts, "
            "found another number; make this audit again"
        )
    return rows


def audits_beside(results: Sequence[Path], made: Mapping[str, Any]) -> list[Audit]:
    """Audits of this encoder that nobody named, but that lie beside the results, or beside the folder they are in.

    That is where a study, and most people, put them: what they found out about a leak is not to be forgotten.
    """
    named = {folder.resolve() for folder in results}
    places = dict.fromkeys(place for folder in named for place in (folder.parent, folder.parent.parent))
    found = []
    for folder in dict.fromkeys(
        file.parent for place in places for file in sorted(place.glob(f"*/{files.AUDIT_FILE}"))
    ):
        if folder.resolve() not in named:
            with suppress(InputError):  # of another encoder, or no audit at all
                found.append(_audit(folder, made))
    return found


def _comparison(folder: Path, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The macro AUROC rows of the arm that holds this run."""
    manifest = files.read_manifest(folder / files.COMPARE_FILE)
    with _whole(folder / files.COMPARE_FILE):
        encoders = {name: [run["provenance"] for run in runs] for name, runs in manifest["arms"].items()}
    _expect_same([one for members in encoders.values() for one in members], made, folder)
    arms = [name for name, members in encoders.items() if not all(_differing(one, made) for one in members)]
    rows = files.read_jsonl(folder / files.COMPARISONS_FILE)
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


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """What a manifest lacks, in a sentence: it is damaged, or of a Chartray that did not say which encoder."""
    try:
        yield
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"expected the provenance of each encoder in {file}, found none; make this folder again"
        ) from None
