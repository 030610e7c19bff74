"""The contract of a cohort: checked, split by patient, every exclusion counted, written as Parquet."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from chartray.errors import InputError
from chartray.flow import CohortFlow, FlowNote, FlowStep, SplitSize
from chartray.records.cohort_files import read_cohort_table, write_cohort_files
from chartray.records.missing import ABSENT, masked
from chartray.records.replaceable import check_cohort_out
from chartray.records.warnings import DataWarning, unknown_labels
from chartray.schema import (
    BLANK_PREFIX,
    COHORT_FORMAT,
    EHR_PREFIX,
    LABEL_PREFIX,
    SIMULATED_FILE,
    SPLITS,
    CohortMetadata,
    from_metadata,
    to_metadata,
)
from chartray.truth import blanks, blanks_said

# Part of every patient's hash; changing it would change every drawn split.
_SALT = "chartray-split-1"
_ID_COLUMNS = {
    "image_id": pa.string(),
    "patient_id": pa.string(),
    "study_id": pa.string(),
    "taken_at": pa.timestamp("us"),
    "path": pa.string(),
    "split": pa.string(),
}
_KIND_TYPES = {"numeric": pa.float64(), "categorical": pa.string(), "boolean": pa.bool_()}


@dataclass
class Cohort:
    """A table with the columns of `column_types` and its metadata in the schema, and how it was made.

    `missing` counts the unusable and absent cells of each variable and label (`records.missing` decides which values
    are named). `layout` is the folder layout of the release ("hosp/"). `warnings` of the source; those about labels
    are derived from `missing`.
    """

    table: pa.Table
    flow: list[FlowStep] = field(default_factory=list)
    links: dict[str, int] = field(default_factory=dict)
    missing: dict[str, dict[str, int]] = field(default_factory=dict)
    layout: str = ""
    warnings: list[DataWarning] = field(default_factory=list)

    @property
    def metadata(self) -> CohortMetadata:
        return from_metadata(self.table.schema.metadata)


def assemble(columns: Mapping[str, Any], metadata: CohortMetadata) -> pa.Table:
    """A cohort table from its columns, in the order and types of the contract."""
    simulated = bool(metadata.image_root) and (Path(metadata.image_root) / SIMULATED_FILE).is_file()
    metadata = metadata.model_copy(update={"simulated": simulated})
    types = column_types(metadata)
    types |= {name: pa.bool_() for name in columns if name.startswith(BLANK_PREFIX)}
    arrays = [_column(columns[name]).cast(kind) for name, kind in types.items()]
    schema = pa.schema(list(types.items()), metadata=to_metadata(metadata))
    return pa.table(arrays, schema=schema)


def column_types(metadata: CohortMetadata) -> dict[str, pa.DataType]:
    """The columns of the contract, in their order, and their types."""
    types = dict(_ID_COLUMNS)
    types |= {EHR_PREFIX + name: _KIND_TYPES[variable.kind] for name, variable in metadata.variables.items()}
    return types | {LABEL_PREFIX + name: pa.float64() for name in metadata.labels}


def split_by_patient(patients: Any, shares: Mapping[str, float]) -> pa.Array:
    """The split of each row, drawn from a salted hash of its patient.

    A patient's split is the same on every machine and with any other patients. `shares` are the relative sizes of the
    splits.
    """
    names = list(shares)
    edges = np.cumsum([shares[name] for name in names]) / sum(shares.values())
    encoded = _column(patients).cast(pa.string()).combine_chunks().dictionary_encode()
    draws = [
        int.from_bytes(hashlib.blake2b(f"{_SALT}/{patient}".encode(), digest_size=8).digest()) / 2**64
        for patient in encoded.dictionary.to_pylist()
    ]
    split = np.searchsorted(edges[:-1], np.asarray(draws), side="right").astype(np.int32)
    return pa.array(names).take(pa.array(split).take(encoded.indices))


def excluding(step: str, rows_in: int, rows_out: int, why: str) -> FlowStep:
    """A step that excludes rows; `why` is dropped if it excluded none."""
    return FlowStep(step, rows_in, rows_out, why if rows_out < rows_in else "")


def hashed_split(patients: Any, shares: Mapping[str, float], flow: list[FlowStep], why: str) -> pa.Array:
    """The split of a cohort without an official one, by `split_by_patient`; recorded in the flow."""
    rows = len(patients)
    drawn = " / ".join(f"{name} {share / sum(shares.values()):.0%}" for name, share in shares.items())
    flow.append(FlowStep(f"split by a hash of the patient, {drawn}", rows, rows, why))
    return split_by_patient(patients, shares)


def split_sizes(table: pa.Table) -> dict[str, SplitSize]:
    """Number of images and patients in each split, also of empty ones."""
    pairs = _patients_of_splits(table["patient_id"], table["split"])
    sizes = {}
    for split in SPLITS:
        here = pairs.filter(pc.equal(pairs["split"], split))
        images = int(pc.sum(here["patient_count"]).as_py() or 0)
        sizes[split] = SplitSize(images=images, patients=here.num_rows)
    return sizes


def patients_in_two_splits(patients: Any, splits: Any) -> int:
    """Number of patients with rows in more than one split."""
    pairs = _patients_of_splits(patients, splits)
    of_patient = pairs.group_by("patient").aggregate([("split", "count")])
    return int(pc.sum(pc.greater(of_patient["split_count"], 1)).as_py() or 0)


def _patients_of_splits(patients: Any, splits: Any) -> pa.Table:
    """patient, split, patient_count (rows): one row for each pair."""
    rows = pa.table({"patient": _column(patients), "split": _column(splits)}).combine_chunks()
    # A patient's images are mostly adjacent: counting runs of equal rows first is faster.
    here, before = rows.slice(1), rows.slice(0, max(rows.num_rows - 1, 0))
    repeats = pc.and_(*(pc.equal(here[name], before[name]) for name in rows.column_names))
    starts = np.flatnonzero(np.append(True, ~pc.fill_null(repeats, False).to_numpy())[: rows.num_rows])
    lengths = np.diff(np.append(starts, rows.num_rows))
    runs = rows.take(pa.array(starts)).append_column("patient_count", pa.array(lengths))
    summed = runs.group_by(["patient", "split"]).aggregate([("patient_count", "sum")])
    return summed.rename_columns({"patient_count_sum": "patient_count"})


def refuse_shared_patients(patients: Any, splits: Any, where: str) -> None:
    """Raises InputError if a patient is in two splits; `where` names the file that defines them."""
    shared = patients_in_two_splits(patients, splits)
    if shared:
        raise InputError(
            f"expected every patient in one split, found {shared} in two or more in {where}; "
            "correct the splits, or the model is tested on patients it was trained on"
        )


def write_cohort(cohort: Cohort, out: Path) -> None:
    """Writes `out` and `<stem>.flow.json` next to it, as `records.cohort_files` says.

    Raises InputError if the table breaks the contract or `out` is not a cohort, OutputError if it cannot be written.
    """
    if not cohort.table.num_rows:
        raise InputError(_no_image(cohort))
    _check(cohort.table, "the cohort")
    check_cohort_out(out)
    write_cohort_files(cohort.table, flow_of(cohort), out)


def _no_image(cohort: Cohort) -> str:
    """The error for a cohort without images, which names the step that left out the last ones."""
    last = next((step for step in cohort.flow if step.rows_in and not step.rows_out), None)
    if last is None:
        where = f": {cohort.flow[0].step}" if cohort.flow else ""
        return f"expected images in the {cohort.metadata.source} cohort, found no rows{where}"
    return (
        f"expected images in the {cohort.metadata.source} cohort, found none after the step {last.step!r}, which "
        f"excluded all {last.rows_in} ({last.why})"
    )


def flow_of(cohort: Cohort) -> CohortFlow:
    """What `<stem>.flow.json` says."""
    notes = (*cohort.warnings, *unknown_labels(cohort.missing))
    return CohortFlow(
        source=cohort.metadata.source,
        release=cohort.metadata.release,
        layout=cohort.layout,
        rules=cohort.metadata.rules,
        steps=list(cohort.flow),
        links=cohort.links,
        splits=split_sizes(cohort.table),
        missing=cohort.missing,
        absent_labels=list(cohort.metadata.absent_labels),
        blank_labels=blanks(cohort.table),
        cautions=[FlowNote(of=each.of, what=each.what, images=each.images, remedy=each.remedy) for each in notes],
    )


def describe(cohort: Cohort) -> str:
    """The flow as text for a terminal: rows read, excluded, linked and split, missing values, warnings."""
    content = flow_of(cohort)
    images = cohort.table.num_rows
    release = f" {content.release}" if content.release else ""
    release += f" ({cohort.layout})" if cohort.layout else ""
    # The rules are about linking: a source without admissions has none.
    rules = f", {content.rules} rules" if cohort.links else ""
    lines = [f"{content.source}{release}{rules}: {images} images"]
    for step in cohort.flow:
        why = f" ({step.why})" if step.why else ""
        lines.append(f"  {step.step}: {step.rows_in} -> {step.rows_out}{why}")
    if cohort.links:
        named = {name.replace("films", "images").replace("_", " "): count for name, count in cohort.links.items()}
        lines.append("  links: " + ", ".join(f"{name} {count}" for name, count in named.items()))
    for split, size in content.splits.items():
        empty = "" if size.images else " (this split is empty)"
        lines.append(f"  {split}: {size.images} images of {size.patients} patients{empty}")
    for name in cohort.metadata.variables:
        lost = images - int(pc.count(cohort.table[EHR_PREFIX + name]).as_py())
        unusable = _unusable(cohort.missing.get(name, {}))
        note = f"; unusable cells: {unusable}" if unusable else ""
        lines.append(f"  {name}: missing in {lost} images ({lost / max(images, 1):.1%}){note}")
    for name, cells in cohort.missing.items():
        if name not in cohort.metadata.variables and (unusable := _unusable(cells)):
            lines.append(f"  {name.removeprefix(LABEL_PREFIX)}: unusable cells: {unusable}")
    lines += [f"  {line}" for line in blanks_said(content.blank_labels)]
    if content.absent_labels:
        lines.append(f"  labels missing from the files: {', '.join(content.absent_labels)}")
    return "\n".join([*lines, *(f"  {line}" for line in warning_lines(cohort))])


def warning_lines(cohort: Cohort) -> list[str]:
    """The warnings about a cohort, one line each; `describe` ends with them."""
    found = (*cohort.warnings, *unknown_labels(cohort.missing))
    return [f"warning: {each.of}: {each.what}; {each.remedy}" for each in found]


def _unusable(cells: Mapping[str, int]) -> str:
    return ", ".join([f"{cell!r} {count}" for cell, count in cells.items() if cell != ABSENT][:5])


def read_cohort(path: Path) -> pa.Table:
    """A cohort's table with its metadata; raises InputError if it is no cohort, is damaged, or breaks the contract."""
    table = read_cohort_table(path)
    _check(table, str(path))
    return table


def _check(table: pa.Table, where: str) -> None:
    metadata = _metadata(table, where)
    for name, kind in column_types(metadata).items():
        if name not in table.column_names:
            raise InputError(f"expected a column {name!r} in {where}, found {', '.join(table.column_names)}")
        if table.schema.field(name).type != kind:
            raise InputError(f"expected column {name!r} of {where} to be {kind}, found {table.schema.field(name).type}")
    if table.num_rows == 0:
        raise InputError(f"expected at least one image in {where}, found none; make the cohort again")
    for name in ("image_id", "patient_id", "path", "split"):
        if table[name].null_count:
            row = int(np.flatnonzero(pc.is_null(table[name]).to_numpy())[0])
            raise InputError(f"expected {name!r} in every row of {where}, found none in row {row + 1}")
    repeated = table.num_rows - len(pc.unique(table["image_id"]))
    if repeated:
        raise InputError(f"expected unique image_ids in {where}, found {repeated} repeated")
    others = sorted(set(pc.unique(table["split"]).to_pylist()) - set(SPLITS))
    if others:
        raise InputError(f"expected the splits {', '.join(SPLITS)} in {where}, found {masked(others[0])}")
    refuse_shared_patients(table["patient_id"], table["split"], where)


def _metadata(table: pa.Table, where: str) -> CohortMetadata:
    try:
        metadata = from_metadata(table.schema.metadata)
    except KeyError:
        raise InputError(f"expected a cohort in {where}, found a table without Chartray's metadata") from None
    except ValueError as error:  # not JSON, or JSON of another form
        raise InputError(f"expected a cohort in {where}, found unreadable metadata: {_reason(error)}") from None
    if metadata.format != COHORT_FORMAT:
        raise InputError(
            f"expected cohort format {COHORT_FORMAT} in {where}, found {metadata.format}; make the cohort again"
        )
    return metadata


def _reason(error: ValueError) -> str:
    """The first problem, on one line."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return " ".join(f"{where}: {first['msg']}".split())


def _column(values: Any) -> pa.ChunkedArray:
    if isinstance(values, pa.ChunkedArray):
        return values
    return pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
