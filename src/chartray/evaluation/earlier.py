"""What stands at --out already: a result is replaced by one of its kind, encoder and store, and by no other."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chartray.errors import InputError
from chartray.evaluation import results
from chartray.outputs.guard import refuse_other, refuse_other_file
from chartray.outputs.parquet_file import metadata_of_parquet
from chartray.outputs.replacing import replaced_folder, settle
from chartray.outputs.seal import SUMS_FILE

EMBEDDINGS_KEY = b"chartray.embeddings"
# By its manifest a kind of result is known; with it lie these files and folders, and nothing else.
_KINDS = {results.MANIFEST_FILE: "an evaluation", results.COMPARE_FILE: "a comparison", results.AUDIT_FILE: "an audit"}
_HOLDS = {
    results.MANIFEST_FILE: {
        results.RESULTS_FILE,
        results.STUDIES_FILE,
        results.DRAWS_FILE,
        results.CALIBRATION_FILE,
        results.THRESHOLDS_FILE,
        results.COMPARISONS_FILE,
        results.PREDICTIONS_FILE,
        results.EMBEDDINGS_FILE,
        results.PROBE_FILE,
        results.PROBE_DESCRIPTION_FILE,
        results.TUNED_FOLDER,
        results.LOOKS_FOLDER,
    },
    results.COMPARE_FILE: {results.COMPARISONS_FILE},
    results.AUDIT_FILE: {results.AUDIT_ROWS_FILE, results.LEAKS_FILE, results.PREDICTIONS_FILE},
}


def check_replaceable(out: Path, manifest: str) -> None:
    """Raises InputError if `out` exists and is neither empty nor an earlier result of the kind that `manifest` is the
    file of, with nothing else in it; or if it can be no folder where it is.
    """

    def foreign(names: set[str]) -> str:
        there = {name for name in names if not name.startswith(".")}
        if manifest in there and there <= _HOLDS[manifest] | {manifest, SUMS_FILE}:
            return ""
        kinds = [words for name, words in _KINDS.items() if name in there and name != manifest]
        others = sorted(there - _HOLDS[manifest] - {*_KINDS, SUMS_FILE}) if manifest in there else []
        wanted = _KINDS[manifest]
        return " and ".join(kinds) or (f"{others[0]} beside {wanted}" if others else f"no {wanted.split()[-1]}")

    refuse_other(out, foreign)


def check_embeddings_replaceable(out: Path) -> None:
    """Raises InputError if `out` exists and is no file that `embed` wrote."""
    refuse_other_file(out, "earlier embeddings", lambda file: EMBEDDINGS_KEY in metadata_of_parquet(file))


def check_same(out: Path, manifest: str, *, run: str, made: Mapping[str, Any], store: str) -> None:
    """Raises InputError if `out` holds a result of that kind of another encoder, or one fitted on another store.

    Args:
        out: the folder to be written.
        manifest: evaluation.json or audit.json.
        run: what the encoder is called.
        made: its provenance; `results.IDENTITY` of it tells it from others.
        store: hash of the store that is fitted on.
    """
    if not (out / manifest).is_file():
        return
    before = results.open_results(out, [manifest], f"expected {_KINDS[manifest]} in {out}").manifest
    with results.understood(out / manifest):
        encoder = (before.get("encoders") or [None])[0] or before.get("encoder") or {}
        earlier = {"run": before.get("run", encoder.get("run"))}
        earlier |= {key: (encoder.get("provenance") or {}).get(key) for key in results.IDENTITY if key != "run"}
        fitted = ((before.get("stores") or [{}])[0]).get("hash")
    now = {"run": run} | {key: made.get(key) for key in results.IDENTITY if key != "run"}
    differing = [f"{key} {earlier[key]} instead of {now[key]}" for key in now if earlier[key] != now[key]]
    if not differing and fitted != store:
        differing = [f"the store's hash {str(fitted)[:12]} instead of {store[:12]}"]
    if differing:
        raise InputError(
            f"expected {_KINDS[manifest]} of the same encoder and store as --out, found another in {out} "
            f"({differing[0]}); choose another --out, or remove it first"
        )


@contextmanager
def whole_folder(out: Path, manifest: str) -> Iterator[Path]:
    """A folder to write in, which becomes `out` if nothing goes wrong, in place of an earlier result of its kind.

    Raises InputError as `check_replaceable`.
    """
    check_replaceable(out, manifest)
    with replaced_folder(out) as partial:
        yield partial


@contextmanager
def set_aside(folders: Sequence[Path]) -> Iterator[None]:
    """While their results are made anew, earlier ones lie aside; put back where none were made, after a kill by the
    next study.
    """
    aside = {folder: folder.with_name(f".{folder.name}.set-aside") for folder in folders}
    _put_back(aside)
    for folder, before in aside.items():
        settle(folder)
        if folder.exists():
            folder.rename(before)
    try:
        yield
    finally:
        _put_back(aside)


def _put_back(aside: Mapping[Path, Path]) -> None:
    for folder, before in aside.items():
        settle(folder)
        if before.exists() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(before, ignore_errors=True)
