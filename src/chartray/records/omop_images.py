"""OMOP's image_occurrence (the medical imaging extension, MI-CDM): whose an image is, and when, by its study or series.

Its columns are columns of the images' table then, named `charts.person_id`, `charts.image_occurrence_date` and so on.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.charts import CHART_PREFIX
from chartray.records.mapping import IMAGE_KEYS, Mapping
from chartray.records.omop import read_rows
from chartray.records.table_cells import OpenTable, text_cells
from chartray.wording import no_secret, plural

TABLE = "image_occurrence"
# As the extension publishes them for CDM 5.4, without the addresses of the files.
COLUMNS = (
    "person_id",
    "image_occurrence_id",
    "procedure_occurrence_id",
    "visit_occurrence_id",
    "anatomic_site_concept_id",
    "image_occurrence_date",
    "image_study_uid",
    "image_series_uid",
    "modality_concept_id",
)
_PERSON = "person_id"


def with_occurrences(table: OpenTable, plan: Mapping, places: Sequence[str]) -> tuple[OpenTable, Mapping]:
    """The images' table with the columns of image_occurrence, and the plan that joins persons by their number.

    Both as they are where `charts: on` names no uid of image_occurrence. Raises InputError where no image has a row,
    and for two persons of one uid.
    """
    joined = plan.charts
    if joined is None or joined.model != "omop" or len(places) != 1:
        return table, plan
    ((column, key),) = joined.on.items()
    if key not in IMAGE_KEYS:
        return table, plan
    person = CHART_PREFIX + _PERSON
    by_person = joined.model_copy(update={"on": {person: _PERSON}})
    named = [*table.columns, *(CHART_PREFIX + name for name in COLUMNS)]

    def read(columns: list[str]) -> pa.Table:
        own = [name for name in columns if name in table.columns]
        cells = table.read(list(dict.fromkeys([*own, *([column] if column in table.columns else [])])))
        wanted = [name.removeprefix(CHART_PREFIX) for name in columns if name not in table.columns]
        uids = text_cells(cells.select([column]), table.where)[column].combine_chunks()
        found = _of_uids(uids, key, wanted, places[0], f"{table.where} by {column} = {key}")
        for name in wanted:
            cells = cells.append_column(CHART_PREFIX + name, found[name])
        return cells.select(columns)

    if column not in table.columns:  # refused with the other columns that are absent
        return table, plan
    return OpenTable(table.where, named, read), plan.model_copy(update={"charts": by_person})


def _of_uids(uids: pa.Array, key: str, wanted: Sequence[str], place: str, images: str) -> dict[str, pa.Array]:
    """The wanted columns for each image, null without a row, and where the rows of one uid differ."""
    where = f"{TABLE} of {no_secret(place)}"
    columns = list(dict.fromkeys([_PERSON, key, *wanted]))
    parts = [part for part in read_rows(place, TABLE, columns, needed=columns) if part.num_rows]
    empty = pa.table({name: pa.nulls(0, pa.string()) for name in columns})
    rows = pa.concat_tables(parts) if parts else empty
    rows = rows.append_column("row", pa.array(range(1, rows.num_rows + 1)))
    rows = rows.filter(pc.is_in(rows[key], value_set=uids.unique().drop_null()))
    if not rows.num_rows:
        raise InputError(
            f"expected images of {images} in {where}, found none of {plural(len(uids), 'image')} with a row; name the "
            "column with the DICOM uid under charts: on"
        )
    found = {}
    for name in dict.fromkeys([_PERSON, *wanted]):
        if name == key:
            found[name] = uids
            continue
        known = rows.filter(pc.is_valid(rows[name]))
        each = known.group_by(key).aggregate([(name, "min"), (name, "max"), ("row", "min"), ("row", "max")])
        same = pc.equal(each[f"{name}_min"], each[f"{name}_max"])
        if name == _PERSON and not pc.all(same).as_py():
            first, last = (pc.filter(each[f"row_{end}"], pc.invert(same))[0].as_py() for end in ("min", "max"))
            raise InputError(
                f"expected one person for each {key} of {where}, found two, among data rows {first} to {last}; correct "
                "the base, since the images of one study are of one patient"
            )
        place_of = pc.index_in(uids, value_set=each[key].combine_chunks())
        values = pc.if_else(same, each[f"{name}_min"], pa.scalar(None, pa.string()))
        found[name] = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).take(place_of)
    return found
