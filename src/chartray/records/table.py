"""A hospital's own table and its mapping file -> cohort; cells that the mapping does not cover are missing."""

from collections.abc import Mapping as Mapped
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.charts import CHART_PREFIX, ImageTable, Joined, join, read_chart
from chartray.records.cohort import Cohort, assemble
from chartray.records.events import join_events
from chartray.records.labels import blank_column
from chartray.records.mapping import Mapping, read_mapping
from chartray.records.missing import count_unreadable, shown
from chartray.records.omop_images import with_occurrences
from chartray.records.reading import need_folder
from chartray.records.table_cells import OpenTable, open_table, refuse_absent, text_cells
from chartray.records.table_ids import Exclusion, identified
from chartray.records.table_times import ReadTimes, read_times
from chartray.records.table_values import label_cells, variable_cells
from chartray.records.templates import template_columns
from chartray.records.warnings import undecided, unread
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, CohortMetadata, LabelSource
from chartray.wording import no_secret

_NAMED = ("image_id", "patient_id", "study_id", "split")


class Source(NamedTuple):
    """Where rows come from: a `table` of images, the folder `root` of their files, and the default `name` of the set.

    `left_out`: exclusions that the source makes itself, in their order.
    """

    table: OpenTable
    root: Path
    name: str
    left_out: Sequence[Exclusion] = ()


def table_cohort(file: Path | str, mapping: Path, images: Path, charts: Sequence[str] = ()) -> Cohort:
    """One row per image of `file`: a csv, a Parquet file, or `URL#table` of a database, read as `mapping` says.

    `images` is the folder that paths are relative to; its files may be absent. `charts` is a second table, or several
    with the same columns, joined as the mapping's `charts` says. Cells outside a variable's levels, range or lists are
    missing and counted. Raises InputError for missing columns, and for ambiguous ids and times.
    """
    plan = read_mapping(mapping)
    root = need_folder(images, "the images")
    name = str(file)
    source = Source(open_table(name), root, Path(no_secret(name).partition("#")[2] or name).stem)
    return cohort_of(source, plan, mapping, charts)


def cohort_of(source: Source, plan: Mapping, mapping: Path | None, charts: Sequence[str] = ()) -> Cohort:
    """The cohort of the images of a source, as the `plan` of the file `mapping` says."""
    table, plan = with_occurrences(source.table, plan, charts)
    where = table.where
    tables = _charts(charts, plan, mapping)
    own, of_chart = _columns(plan, table, tables, mapping)
    cells = table.read(list(own))
    left_out = [*source.left_out, *_kept(text_cells(cells, where), plan)]
    stays = _staying(left_out)
    cells = _without(cells, stays)
    texts = text_cells(cells, where)
    times = None
    if plan.taken_at is not None:
        times = read_times(texts, plan.taken_at, plan.taken_at_format, plan, where)
    joined = None
    images = ImageTable(cells, times, where, 0 if stays is None else pc.sum(pc.invert(stays)).as_py() or 0)
    if plan.charts is not None and plan.charts.model is not None:
        joined = join_events(images, charts, plan)
    elif plan.charts is not None and tables:
        names = list(dict.fromkeys(name.removeprefix(CHART_PREFIX) for name in of_chart))
        chart = read_chart(tables, plan.charts, names, plan)
        joined = join(images, chart, names, plan)
    if joined is not None:
        for name in of_chart:
            column = joined.columns[name.removeprefix(CHART_PREFIX)]
            cells, texts = cells.append_column(name, column), texts.append_column(name, column)
    return _assembled(source, plan, mapping, cells, texts, times, left_out, joined)


def _assembled(
    source: Source,
    plan: Mapping,
    mapping: Path | None,
    cells: pa.Table,
    texts: pa.Table,
    times: ReadTimes | None,
    left_out: Sequence[Exclusion],
    joined: Joined | None,
) -> Cohort:
    ids = identified(cells, texts, plan, mapping, source.table.where, left_out)
    rows = texts.take(ids.places)
    missing: dict[str, dict[str, int]] = dict(ids.missing)
    columns: dict[str, pa.ChunkedArray] = {key: ids.columns[key] for key in ids.columns.column_names}
    written = ids.columns["path"]
    columns["path"] = pc.if_else(
        pc.starts_with(written, "/"), written, pc.binary_join_element_wise(str(source.root), written, "/")
    )
    columns["taken_at"] = pa.nulls(rows.num_rows, pa.timestamp("us"))
    if times is not None:
        columns["taken_at"] = times.at.take(ids.places)
        missing["taken_at"] = count_unreadable(times.cells.take(ids.places), columns["taken_at"])
    for key, entry in plan.ehr.items():
        columns[EHR_PREFIX + key], missing[key] = variable_cells(rows, entry)
    for key, label in plan.labels.items():
        read = label_cells(rows, label)
        missing[LABEL_PREFIX + key] = read.missing
        columns |= {LABEL_PREFIX + key: read.values} | blank_column(key, read.values, read.blank)
    metadata = CohortMetadata(
        source=plan.name or source.name,
        variables={key: entry.described() for key, entry in plan.ehr.items()},
        labels={key: LabelSource(columns=label.columns, blank=label.blank) for key, label in plan.labels.items()},
        image_root=str(source.root),
    )
    notes = [FlowStep(step, rows.num_rows, rows.num_rows, note) for step, note in undecided(rows, plan).items()]
    warnings = unread(rows, None if times is None else times.cells.take(ids.places), plan, missing)
    if joined is not None:
        notes = [joined.step, *joined.notes, *notes]
        warnings += joined.warnings
    return Cohort(assemble(columns, metadata), ids.flow + notes, {}, missing, warnings=warnings)


def _charts(files: Sequence[str], plan: Mapping, mapping: Path | None) -> list[OpenTable]:
    if files and plan.charts is None:
        where = f"the mapping {mapping}" if mapping is not None else "a mapping (--mapping)"
        raise InputError(f"expected 'charts' in {where}, which says how --charts is joined, found none; add it")
    if plan.charts is not None and not files:
        raise InputError(f"expected the chart of {mapping} (charts) as --charts, found none; give the table")
    if plan.charts is not None and plan.charts.model is not None:
        return []
    return [open_table(file) for file in files]


def _columns(
    plan: Mapping, table: OpenTable, charts: Sequence[OpenTable], mapping: Path | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The needed columns of the table and of the chart -> the key of the mapping that names each.

    A name that both have is the table's; `charts.` before it means the chart's. Raises InputError for an absent column.
    """
    own: dict[str, str] = {column: key for key in _NAMED if (column := getattr(plan, key)) is not None}
    for template, key in ((plan.path, "path"), (plan.taken_at, "taken_at")):
        for name in template_columns(template, plan) if template is not None else []:
            own.setdefault(name, key)
    for column in plan.keep:
        own.setdefault(column, "keep")
    needed: dict[str, str] = {}
    sections: tuple[tuple[str, Mapped[str, Any]], ...] = (("ehr", plan.ehr), ("labels", plan.labels))
    for section, entries in sections:
        for key, entry in entries.items():
            for column in entry.columns:
                needed.setdefault(column, f"{section}.{key}")
    of_chart: dict[str, str] = {}
    if plan.charts is not None:
        coded = {entry.column for entry in plan.ehr.values() if entry.codes}
        of_chart = {name: key for name, key in needed.items() if name in coded or _of_chart(name, table, charts)}
        for column in plan.charts.on:
            own.setdefault(column, "charts.on")
        theirs = {name.removeprefix(CHART_PREFIX): key for name, key in of_chart.items()}
        theirs |= dict.fromkeys(plan.charts.on.values(), "charts.on")
        if plan.charts.time is not None:
            theirs |= dict.fromkeys(template_columns(plan.charts.time, plan), "charts.time")
        for chart in charts:
            refuse_absent(theirs, chart.columns, chart.where, mapping)
    refuse_absent(own, table.columns, table.where, mapping)
    rest = {name: key for name, key in needed.items() if name not in of_chart and name not in own}
    both = [*table.columns, *(name for chart in charts for name in chart.columns if name not in table.columns)]
    refuse_absent(rest, both, " or ".join([table.where, *(chart.where for chart in charts)]), mapping)
    return own | rest, of_chart


def _of_chart(name: str, table: OpenTable, charts: Sequence[OpenTable]) -> bool:
    if name in table.columns:
        return False
    short = name.removeprefix(CHART_PREFIX)
    return name != short or any(short in chart.columns for chart in charts)


def _kept(texts: pa.Table, plan: Mapping) -> list[Exclusion]:
    """The exclusions of `keep`: rows whose cell is none of those listed."""
    found = []
    for column, cells in plan.keep.items():
        written = texts[column].combine_chunks()
        among = pc.is_in(written, value_set=pa.array([cell for cell in cells if cell], pa.string()))
        if "" in cells:
            among = pc.or_(among, pc.is_null(written))
        reasons = pc.if_else(among, pa.scalar(None, pa.string()), pc.fill_null(written, "blank"))
        listed = ", ".join(shown(cell) if cell else "blank" for cell in cells)
        found.append(Exclusion(f"{column} is {listed}", reasons))
    return found


def _staying(left_out: Sequence[Exclusion]) -> pa.Array | None:
    """Which rows are not left out; None: all."""
    return reduce(pc.and_, (pc.is_null(each.reasons) for each in left_out)) if left_out else None


def _without(cells: pa.Table, stays: pa.Array | None) -> pa.Table:
    """The cells, blank in rows that are left out: what stands in those is not to be refused."""
    if stays is None:
        return cells
    columns = [pc.if_else(stays, cells[name], pa.scalar(None, cells[name].type)) for name in cells.column_names]
    return pa.table(columns, cells.column_names)
