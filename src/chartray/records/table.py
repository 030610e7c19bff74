"""A hospital's own table and its mapping file -> cohort; cells that the mapping does not cover are missing."""

from collections.abc import Mapping as Mapped
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.cohort import Cohort, assemble
from chartray.records.labels import blank_column
from chartray.records.mapping import Mapping, read_mapping
from chartray.records.missing import count_unreadable
from chartray.records.parsing import by_cell, has_zone, without_zone
from chartray.records.path_template import template_columns
from chartray.records.reading import need_folder, no_secret
from chartray.records.table_cells import read_table, text_cells
from chartray.records.table_ids import identified
from chartray.records.table_values import label_cells, time_reader, variable_cells
from chartray.records.warnings import undecided, unread
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, CohortMetadata, LabelSource

_NAMED = ("image_id", "patient_id", "study_id", "taken_at", "split")


def table_cohort(file: Path | str, mapping: Path, images: Path) -> Cohort:
    """One row per image of `file`: a csv, a Parquet file, or `URL#table` of a database, read as `mapping` says.

    `images` is the folder that paths are relative to; its files may be absent. Cells outside a variable's levels, range
    or lists are missing and counted. Raises InputError for missing columns, and for ambiguous ids and times.
    """
    plan = read_mapping(mapping)
    root = need_folder(images, "the images")
    name, where = str(file), no_secret(str(file))
    cells = read_table(name, _columns(plan), mapping)
    texts = text_cells(cells, where)
    ids = identified(cells, texts, plan, mapping, where)
    times = _times(texts, plan, where)
    rows = texts.take(ids.places)
    missing: dict[str, dict[str, int]] = dict(ids.missing)
    columns: dict[str, pa.ChunkedArray] = {key: ids.columns[key] for key in ids.columns.column_names}
    written = ids.columns["path"]
    columns["path"] = pc.if_else(
        pc.starts_with(written, "/"), written, pc.binary_join_element_wise(str(root), written, "/")
    )
    columns["taken_at"] = times.take(ids.places)
    if plan.taken_at is not None:
        missing["taken_at"] = count_unreadable(rows[plan.taken_at], columns["taken_at"])
    for key, entry in plan.ehr.items():
        columns[EHR_PREFIX + key], missing[key] = variable_cells(rows, entry)
    for key, label in plan.labels.items():
        read = label_cells(rows, label)
        missing[LABEL_PREFIX + key] = read.missing
        columns |= {LABEL_PREFIX + key: read.values} | blank_column(key, read.values, read.blank)
    metadata = CohortMetadata(
        source=plan.name or Path(where.partition("#")[2] or name).stem,
        variables={key: entry.described() for key, entry in plan.ehr.items()},
        labels={key: LabelSource(columns=label.columns, blank=label.blank) for key, label in plan.labels.items()},
        image_root=str(root),
    )
    notes = [FlowStep(step, rows.num_rows, rows.num_rows, note) for step, note in undecided(rows, plan).items()]
    warnings = unread(rows, plan, missing)
    return Cohort(assemble(columns, metadata), ids.flow + notes, {}, missing, warnings=warnings)


def _columns(plan: Mapping) -> dict[str, str]:
    """The needed columns of the table -> the key of the mapping that names each."""
    needed = {column: key for key in _NAMED if (column := getattr(plan, key)) is not None}
    for name in template_columns(plan):
        needed.setdefault(name, "path")
    sections: tuple[tuple[str, Mapped[str, Any]], ...] = (("ehr", plan.ehr), ("labels", plan.labels))
    for section, entries in sections:
        for key, entry in entries.items():
            for column in entry.columns:
                needed.setdefault(column, f"{section}.{key}")
    return needed


def _times(texts: pa.Table, plan: Mapping, where: str) -> pa.Array:
    """When each image was taken, null if unreadable; times with a zone in UTC.

    Raises InputError if only some times have a zone: they would be hours apart.
    """
    if plan.taken_at is None:
        return pa.nulls(texts.num_rows, pa.timestamp("us"))
    read = cache(time_reader(plan))
    zoned = by_cell(texts[plan.taken_at], lambda cell: has_zone(read(cell)), pa.bool_())
    with_zone, without = (
        pc.equal(zoned, value).fill_null(False).to_numpy(zero_copy_only=False) for value in (True, False)
    )
    if with_zone.any() and without.any():
        first = [int(np.flatnonzero(mask)[0]) + 1 for mask in (with_zone, without)]
        raise InputError(
            f"expected a time zone in all times or in none in column {plan.taken_at!r} of {where}, found one with a "
            f"zone in data row {first[0]} and one without in data row {first[1]}; write all in the same way"
        )
    return by_cell(texts[plan.taken_at], lambda cell: without_zone(read(cell)), pa.timestamp("us"))
