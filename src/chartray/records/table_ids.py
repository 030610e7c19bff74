"""The ids, path and split of each image of a hospital's own table; rows without them are excluded and counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.cohort import hashed_split, refuse_shared_patients, split_by_patient
from chartray.records.identifiers import canonical_ids, identifiers, placeholders_among, refuse_control
from chartray.records.mapping import Mapping
from chartray.records.missing import masked, told
from chartray.records.same_patient import Merging, merging
from chartray.records.templates import filled, on_this_machine, template_columns
from chartray.schema import SPLITS
from chartray.wording import plural

_SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "validate", "val": "validate", "validation": "validate"}
_ONE_PATIENT = "they are the same patient (same_patient) or that "


class Exclusion(NamedTuple):
    """A step that leaves out rows: `reasons` (N,) text, null for a row that stays; `cells`: they are cells."""

    step: str
    reasons: pa.Array
    cells: bool = True


class Identified(NamedTuple):
    """`places` (N,): the included rows, from 0; `columns`: their image_id, patient_id, study_id, path and split.

    `flow`: the steps; `missing`: placeholders among the study ids.
    """

    places: pa.Array
    columns: pa.Table
    flow: list[FlowStep]
    missing: dict[str, dict[str, int]]


def identified(
    cells: pa.Table,
    texts: pa.Table,
    plan: Mapping,
    mapping: Path | None,
    where: str,
    left_out: Sequence[Exclusion] = (),
) -> Identified:
    """Ids from the typed `cells`, all else from the `texts`; rows that are `left_out` are blank in both.

    Raises InputError for ambiguous ids, repeated images, unknown splits, and a patient in two splits.
    """
    merged = merging(plan.same_patient, mapping or Path(), exact="patient_id" in plan.exact_ids)
    one = merged.one if merged is not None else None
    named = {key: column for key in ("image_id", "patient_id", "study_id") if (column := getattr(plan, key))}
    columns: dict[str, pa.Array] = {"study_id": pa.nulls(cells.num_rows, pa.string())}
    none: dict[str, dict[str, int]] = {}
    for key, column in named.items():
        what, person = f"{key} (column {column!r})", key == "patient_id"
        exact = f"each id is exact (exact_ids: [{key}])"
        columns[key], none[key] = identifiers(
            cells[column],
            what,
            where,
            one=one if person else None,
            remedy=f"correct the table, or say in the mapping that {_ONE_PATIENT if person else ''}{exact}",
            exact=key in plan.exact_ids,
            way_out=f", or say in the mapping that {exact}",
        )
    own = columns["patient_id"]
    if merged is not None:
        own = canonical_ids(cells[plan.patient_id], "patient_id", where, exact="patient_id" in plan.exact_ids)
    columns["path"], none["path"] = _paths(cells, texts, plan, where)
    if plan.split is not None:
        columns["split"] = texts[plan.split].combine_chunks()
    ids, places, flow = _given(columns, none, plan, where, left_out)
    _refuse_repeated(ids["image_id"], places, where)
    if merged is not None:
        flow.append(_merged(merged, own, own.take(pa.array(places)), ids["patient_id"]))
    if plan.split is None:
        shares = {split: plan.split_shares[split] for split in SPLITS}
        ids = ids.append_column("split", hashed_split(ids["patient_id"], shares, flow, "no split column"))
    else:
        split = _splits(ids["split"], places, plan.split, where)
        ids = ids.set_column(ids.column_names.index("split"), "split", split)
        refuse_shared_patients(ids["patient_id"], split, f"column {plan.split!r} of {where}")
        if "split_shares" in plan.model_fields_set:
            drawn, why = _divided(ids, plan)
            ids = ids.set_column(ids.column_names.index("split"), "split", drawn)
            flow.append(FlowStep(f"column {plan.split}", ids.num_rows, ids.num_rows, why))
    missing = {"study_id": told(none["study_id"])} if none.get("study_id") else {}
    return Identified(pa.array(places), ids, flow, missing)


def _paths(cells: pa.Table, texts: pa.Table, plan: Mapping, where: str) -> tuple[pa.Array, dict[str, int]]:
    """Paths, null if one of their columns is blank or a placeholder, and counts of the placeholders."""
    ids = {plan.image_id, plan.patient_id, plan.study_id} if "{" in plan.path else set()
    exact = {getattr(plan, key) for key in plan.exact_ids}
    parts: dict[str, pa.Array] = {}
    none: dict[str, int] = {}
    for column in template_columns(plan.path, plan):
        # Ids and numbers are canonical: a path has 10000032, not 10000032.0. All else is used as written.
        what = f"path (column {column!r})"
        if column in ids or pa.types.is_floating(cells[column].type) or pa.types.is_decimal(cells[column].type):
            parts[column] = canonical_ids(cells[column], what, where, exact=column in exact)
            continue
        written = texts[column].combine_chunks()
        refuse_control(written, what, where)
        no_path = placeholders_among(written)
        for entry in pc.value_counts(written.filter(no_path.fill_null(False))).to_pylist():
            none[entry["values"]] = none.get(entry["values"], 0) + entry["counts"]
        parts[column] = pc.if_else(no_path, pa.scalar(None, pa.string()), written)
    return on_this_machine(filled(plan.path, plan, parts), where), none


def _given(
    columns: dict[str, pa.Array],
    none: dict[str, dict[str, int]],
    plan: Mapping,
    where: str,
    left_out: Sequence[Exclusion],
) -> tuple[pa.Table, npt.NDArray[np.int64], list[FlowStep]]:
    """The rows with all that an image needs, their places in the table, and the steps of the flow."""
    ids, places = pa.table(columns), np.arange(len(columns["image_id"]))
    flow = [FlowStep(f"rows of {Path(where).name}", ids.num_rows, ids.num_rows)]
    for each in left_out:
        reasons = each.reasons.take(pa.array(places))
        stays = pc.is_null(reasons)
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons.drop_null()).to_pylist()}
        named = told(counts) if each.cells else dict(sorted(counts.items(), key=lambda item: -item[1]))
        before, (ids, places) = ids.num_rows, (ids.filter(stays), places[stays.to_numpy(zero_copy_only=False)])
        flow.append(FlowStep(each.step, before, ids.num_rows, ", ".join(f"{why} {n}" for why, n in named.items())))
    read_from = {
        "image_id": [plan.image_id],
        "patient_id": [plan.patient_id],
        "path": template_columns(plan.path, plan),
        **({"split": [plan.split]} if plan.split else {}),
    }
    for key, names in read_from.items():
        before, given = ids.num_rows, pc.is_valid(ids[key])
        ids, places = ids.filter(given), places[given.to_numpy()]
        if ids.num_rows < before:
            said = ", ".join(f"{cell!r} {count}" for cell, count in told(none.get(key, {})).items())
            blank = f"blank in column {', '.join(names)}"
            why = f"{blank}, or a placeholder (in the whole table: {said})" if said else blank
            flow.append(FlowStep(f"{key} given", before, ids.num_rows, why))
    return ids, places, flow


def _merged(merged: Merging, own: pa.Array, left: pa.Array, patients: pa.ChunkedArray) -> FlowStep:
    """The flow's step: how many ids became how many patients, and how many given ids are not in the table."""
    persons = len(pc.unique(patients))
    why = f"{len(pc.unique(left))} ids became {plural(persons, 'patient')}"
    absent = len(set(merged.named) - set(pc.unique(own).to_pylist()))
    if merged.named:
        why += f"; {absent} of {len(merged.named)} ids in same_patient are not in the table"
    return FlowStep("same_patient", len(left), len(left), why)


def _splits(cells: pa.ChunkedArray, places: npt.NDArray[np.int64], column: str, where: str) -> pa.Array:
    names = cells.to_pylist()
    other = next((row for row, cell in enumerate(names) if cell.lower() not in _SPLIT_NAMES), None)
    if other is not None:
        raise InputError(
            f"expected {', '.join(SPLITS)} in column {column!r} of {where}, found {masked(names[other])} "
            f"in data row {places[other] + 1}"
        )
    return pa.array([_SPLIT_NAMES[cell.lower()] for cell in names], pa.string())


def _divided(ids: pa.Table, plan: Mapping) -> tuple[pa.Array, str]:
    """The splits, with the training patients divided into train and validate."""
    shares = {name: plan.split_shares[name] for name in ("train", "validate")}
    training = pc.equal(ids["split"], "train")
    drawn = pc.if_else(training, split_by_patient(ids["patient_id"], shares), ids["split"])
    return (
        drawn,
        f"its training patients are divided by a hash, validate {shares['validate'] / sum(shares.values()):.0%}",
    )


def _refuse_repeated(ids: pa.ChunkedArray, places: npt.NDArray[np.int64], where: str) -> None:
    if len(pc.unique(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    for row, value in zip((places + 1).tolist(), ids.to_pylist(), strict=True):
        if value in first:
            raise InputError(
                f"expected each image_id once in {where}, found the one of data row {first[value]} again in "
                f"data row {row} (the row after the header is 1); give every image a unique id"
            )
        first[value] = row
