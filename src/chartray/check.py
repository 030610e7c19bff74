"""`chartray check`: finds all problems of a cohort or a store before it is used."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from chartray.checks import table as of_table
from chartray.checks import variables as of_variables
from chartray.checks.files import files
from chartray.checks.finding import Finding
from chartray.checks.images import images
from chartray.checks.scans import scans
from chartray.config.pretrain import load
from chartray.errors import InputError
from chartray.flow import CohortFlow
from chartray.pixels.quarantine import overrepresented
from chartray.pixels.store import Store, read_store_flow
from chartray.records.cohort_files import read_cohort_table, read_flow
from chartray.schema import COHORT_FORMAT, CohortMetadata, from_metadata
from chartray.wording import listed, plural

_ORDER = {"error": 0, "warning": 1, "note": 2}
_ENLARGEMENT_TO_WARN_OF = 1.3


def check(path: Path) -> list[Finding]:
    """All findings about a cohort file or a store, errors first.

    Both: rows, patients, splits, labels, variables and flow. A cohort: its image files (all must exist, 200 are read).
    A store: every byte against its hash, and every image for constant pixels, inversion and duplicates.
    Raises InputError if `path` is neither.
    """
    path = Path(path)
    findings = list(_store(path) if path.is_dir() else _cohort(path))
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def spoken(findings: Sequence[Finding]) -> list[str]:
    """One line per finding, and a last line with their counts."""
    lines = [
        f"{finding.severity}: {finding.what} [{finding.where}]"
        + ("" if finding.remedy == "nothing" else f"; {finding.remedy}")
        for finding in findings
    ]
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in _ORDER}
    told = ", ".join(plural(count, kind) for kind, count in counts.items())
    return [
        *lines,
        f"{told}: {'fix the errors before training' if counts['error'] else 'ready for training'}",
    ]


def _cohort(path: Path) -> Iterator[Finding]:
    if not path.exists():
        raise InputError(f"expected a cohort or a store at {path}, found nothing; check the path")
    table = read_cohort_table(path)
    metadata = _metadata(table, path)
    yield from _rows(table, metadata, read_flow(path), path.name)
    if "path" in table.column_names and table.num_rows and not table["path"].null_count:
        yield from files(table, metadata, path.name)


def _store(folder: Path) -> Iterator[Finding]:
    where = folder.name
    try:
        store = Store.open(folder)
    except InputError as error:
        if not (folder / "store.json").is_file():
            raise
        yield Finding("error", f"the store cannot be opened: {error}", where, 0, "nothing")
        return
    table = store.cohort
    metadata = _metadata(table, folder / "cohort.parquet")
    yield from _rows(table, metadata, read_store_flow(folder), f"{where}/cohort.parquet")
    damaged = store.damaged()
    for name in damaged:
        what = f"{name} is damaged (its hash differs from the one that ingest wrote)"
        yield Finding("error", what, where, 1, f"remove {where} and ingest again")
    if store.quarantine.num_rows:
        reasons = store.quarantine["reason"].value_counts().to_pylist()
        told = listed([f"{entry['counts']} x {entry['values']}" for entry in reasons], most=5)
        lost = store.quarantine.num_rows
        remedy = "fetch them again, then `ingest --retry`"
        yield Finding("note", f"{plural(lost, 'image')} in quarantine: {told}", where, lost, remedy)
        for group in overrepresented(table, store.quarantine):
            yield Finding("warning", str(group), where, group.lost, remedy)
    if not any(name.endswith(".arrow") for name in damaged):
        yield from images(store, where)
    yield from _enlargement(store, where)


def _rows(table: pa.Table, metadata: CohortMetadata, flow: CohortFlow | None, where: str) -> Iterator[Finding]:
    yield from of_table.contract(table, metadata, where)
    if not of_table.complete(table, metadata):
        return
    yield from of_table.patients_and_splits(table, where)
    yield from of_table.labels(table, metadata, where)
    yield from scans(table, where)
    yield from of_variables.variables(table, metadata, where)
    yield from of_variables.shifts(table, metadata, where)
    yield from of_variables.flow(flow, where)


def _enlargement(store: Store, where: str) -> Iterator[Finding]:
    """Whether the views of the recipe `msn` are upsampled from this store's image size."""
    from chartray.pixels.views import median_enlargement  # imports torch

    views = load("msn").views
    sizes = np.stack([store.cohort[side].to_numpy() for side in ("height", "width")], axis=1)[:4096].astype(np.float64)
    found = median_enlargement(sizes, store.size, views, seed=0)
    for name, times in found.items():
        if times > _ENLARGEMENT_TO_WARN_OF:
            size = views.size if name == "random" else views.focal_size
            what = f"the median {name} view of {size} px is upsampled {times:.2f} times from images of {store.size} px"
            remedy = "ingest with a larger --size, or train with smaller views"
            yield Finding("warning", what, where, len(store), remedy)


def _metadata(table: pa.Table, path: Path) -> CohortMetadata:
    try:
        metadata = from_metadata(table.schema.metadata)
    except (KeyError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"expected a cohort (made by `chartray cohort`) or a store at {path}, found {said}") from None
    if metadata.format != COHORT_FORMAT:
        raise InputError(f"expected cohort format {COHORT_FORMAT} in {path}, found {metadata.format}; make it again")
    return metadata
