"""The contract of a cohort: checked, split by patient, every exclusion counted, written as Parquet."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from chartray.errors import InputError
from chartray.records.cautions import Caution, unknown_labels
from chartray.records.cohort_files import read_cohort_table, write_cohort_files
from chartray.records.missing import ABSENT, masked
from chartray.records.replaceable import check_cohort_out
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

SPLIT_SHARES = {"train": 0.8, "validate": 0.1, "test": 0.1}
# Part of every patient's hash, so that a split depends on nothing but the patient's name.
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


class Step(NamedTuple):
    """One step of the flow: rows in, rows out, and why the others went."""

    step: str
    rows_in: int
    rows_out: int
    why: str = ""


@dataclass
class Cohort:
    """A table of the columns of `column_types` with its metadata in the schema, and how it came about.

    `missing` holds for each variable and label the cells that could not be used (`records.missing` says which
    are told by value), and `absent` ones. `layout` says which of a release's layouts the tables had ("hosp/").
    `cautions` are what a person should know before using it, beside the labels that `unknown_labels` tells of.
    """

    table: pa.Table
    flow: list[Step] = field(default_factory=list)
    links: dict[str, int] = field(default_factory=dict)
    missing: dict[str, dict[str, int]] = field(default_factory=dict)
    layout: str = ""
    cautions: list[Caution] = field(default_factory=list)

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
    """A split for each row, drawn from a salted hash of its patient alone.

    The same patient falls into the same split on every machine and whatever other patients there are.
    `shares` are the sizes of the splits, in any unit; the hash is laid on them in their order.
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


def excluding(step: str, rows_in: int, rows_out: int, why: str) -> Step:
    """A step that leaves rows out; where it left none there is no reason to give."""
    return Step(step, rows_in, rows_out, why if rows_out < rows_in else "")


def hashed_split(patients: Any, shares: Mapping[str, float], flow: list[Step], why: str) -> pa.Array:
    """The split of a cohort that has no official one, by `split_by_patient`; the flow says so."""
    rows = len(patients)
    drawn = " / ".join(f"{name} {share / sum(shares.values()):.0%}" for name, share in shares.items())
    flow.append(Step(f"split by a hash of the patient, {drawn}", rows, rows, why))
    return split_by_patient(patients, shares)


def split_sizes(table: pa.Table) -> dict[str, dict[str, int]]:
    """Images and patients of each split; an empty one stands there with zeros."""
    pairs = _patients_of_splits(table["patient_id"], table["split"])
    sizes = {}
    for split in SPLITS:
        here = pairs.filter(pc.equal(pairs["split"], split))
        sizes[split] = {"images": int(pc.sum(here["patient_count"]).as_py() or 0), "patients": here.num_rows}
    return sizes


def patients_in_two_splits(patients: Any, splits: Any) -> int:
    """How many patients have rows in more than one split."""
    pairs = _patients_of_splits(patients, splits)
    of_patient = pairs.group_by("patient").aggregate([("split", "count")])
    return int(pc.sum(pc.greater(of_patient["split_count"], 1)).as_py() or 0)


def _patients_of_splits(patients: Any, splits: Any) -> pa.Table:
    """patient, split, patient_count (rows): one row for each pair that occurs."""
    rows = pa.table({"patient": _column(patients), "split": _column(splits)}).combine_chunks()
    # The films of a patient mostly stand together: a run of equal rows is counted once, with its length.
    here, before = rows.slice(1), rows.slice(0, max(rows.num_rows - 1, 0))
    repeats = pc.and_(*(pc.equal(here[name], before[name]) for name in rows.column_names))
    starts = np.flatnonzero(np.append(True, ~pc.fill_null(repeats, False).to_numpy())[: rows.num_rows])
    lengths = np.diff(np.append(starts, rows.num_rows))
    runs = rows.take(pa.array(starts)).append_column("patient_count", pa.array(lengths))
    summed = runs.group_by(["patient", "split"]).aggregate([("patient_count", "sum")])
    return summed.rename_columns({"patient_count_sum": "patient_count"})


def refuse_shared_patients(patients: Any, splits: Any, where: str) -> None:
    """Raises InputError if a patient is in two splits; `where` says which file drew them."""
    shared = patients_in_two_splits(patients, splits)
    if shared:
        raise InputError(
            f"expected every patient in one split, found {shared} in two or more by {where}; "
            "a model would be tested on patients it has seen, so correct the splits"
        )


def write_cohort(cohort: Cohort, out: Path) -> None:
    """Writes `out` and `<stem>.flow.json` beside it, as `records.cohort_files` says.

    Raises InputError if the table breaks the contract or `out` holds something else than a cohort, OutputError if the
    machine cannot write.
    """
    if not cohort.table.num_rows:
        raise InputError(_no_film(cohort))
    _check(cohort.table, "the cohort")
    check_cohort_out(out)
    write_cohort_files(cohort.table, flow_content(cohort), out)


def _no_film(cohort: Cohort) -> str:
    """What is said where no film is left: the step that left the last ones out."""
    last = next((step for step in cohort.flow if step.rows_in and not step.rows_out), None)
    if last is None:
        where = f": {cohort.flow[0].step}" if cohort.flow else ""
        return f"expected films in the {cohort.metadata.source} cohort, found no row{where}"
    return (
        f"expected films in the {cohort.metadata.source} cohort, found none after the step {last.step!r}, which left "
        f"out all {last.rows_in} ({last.why})"
    )


def flow_content(cohort: Cohort) -> dict[str, Any]:
    """What stands in `<stem>.flow.json`."""
    return {
        "source": cohort.metadata.source,
        "release": cohort.metadata.release,
        "layout": cohort.layout,
        "rules": cohort.metadata.rules,
        "steps": [step._asdict() for step in cohort.flow],
        "links": cohort.links,
        "splits": split_sizes(cohort.table),
        "missing": cohort.missing,
        "absent_labels": cohort.metadata.absent_labels,
        "blank_labels": blanks(cohort.table),
        "cautions": [caution._asdict() for caution in (*cohort.cautions, *unknown_labels(cohort.missing))],
    }


def describe(cohort: Cohort) -> str:
    """The flow in plain lines, for a terminal: what was read, left out, linked, split, and what is missing."""
    content = flow_content(cohort)
    films = cohort.table.num_rows
    release = f" {content['release']}" if content["release"] else ""
    release += f" ({cohort.layout})" if cohort.layout else ""
    # The rules are those of linking: without tables of admissions there is nothing to link.
    rules = f", {content['rules']} rules" if cohort.links else ""
    lines = [f"{content['source']}{release}{rules}: {films} films"]
    for step in cohort.flow:
        why = f" ({step.why})" if step.why else ""
        lines.append(f"  {step.step}: {step.rows_in} -> {step.rows_out}{why}")
    if cohort.links:
        lines.append("  links: " + ", ".join(f"{name} {count}" for name, count in cohort.links.items()))
    for split, size in content["splits"].items():
        empty = "" if size["images"] else " (this split is empty)"
        lines.append(f"  {split}: {size['images']} films of {size['patients']} patients{empty}")
    for name in cohort.metadata.variables:
        lost = films - int(pc.count(cohort.table[EHR_PREFIX + name]).as_py())
        unusable = _unusable(cohort.missing.get(name, {}))
        said = f"; cells that could not be used: {unusable}" if unusable else ""
        lines.append(f"  {name}: missing for {lost} films ({lost / max(films, 1):.1%}){said}")
    for name, cells in cohort.missing.items():
        if name not in cohort.metadata.variables and (unusable := _unusable(cells)):
            lines.append(f"  {name.removeprefix(LABEL_PREFIX)}: cells that could not be used: {unusable}")
    lines += [f"  {line}" for line in blanks_said(content["blank_labels"])]
    if content["absent_labels"]:
        lines.append(f"  labels that the files lack: {', '.join(content['absent_labels'])}")
    return "\n".join([*lines, *(f"  {line}" for line in warnings(cohort))])


def warnings(cohort: Cohort) -> list[str]:
    """What a person should know before using it, a line each; `describe` ends with them."""
    cautions = flow_content(cohort)["cautions"]
    return [f"warning: {each['of']}: {each['what']}; {each['remedy']}" for each in cautions]


def _unusable(cells: Mapping[str, int]) -> str:
    return ", ".join([f"{cell!r} {count}" for cell, count in cells.items() if cell != ABSENT][:5])


def read_cohort(path: Path) -> pa.Table:
    """A cohort's table with its metadata; raises InputError if it is none, was damaged, or breaks the contract."""
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
        raise InputError(f"expected at least one film in {where}, found none; make the cohort again")
    for name in ("image_id", "patient_id", "path", "split"):
        if table[name].null_count:
            row = int(np.flatnonzero(pc.is_null(table[name]).to_numpy())[0])
            raise InputError(f"expected a value of {name!r} in every row of {where}, found none in row {row + 1}")
    repeated = table.num_rows - len(pc.unique(table["image_id"]))
    if repeated:
        raise InputError(f"expected each image_id once in {where}, found {repeated} again")
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
        raise InputError(
            f"expected a cohort in {where}, found metadata that cannot be read: {_reason(error)}"
        ) from None
    if metadata.format != COHORT_FORMAT:
        raise InputError(
            f"expected cohort format {COHORT_FORMAT} in {where}, found {metadata.format}; make the cohort again"
        )
    return metadata


def _reason(error: ValueError) -> str:
    """The first thing that is wrong, in one line."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return " ".join(f"{where}: {first['msg']}".split())


def _column(values: Any) -> pa.ChunkedArray:
    if isinstance(values, pa.ChunkedArray):
        return values
    return pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])


def empty_splits(sizes: Mapping[str, Mapping[str, int]]) -> Sequence[str]:
    """The splits without a film."""
    return [name for name, size in sizes.items() if not size["images"]]
