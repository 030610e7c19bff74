"""A folder of DICOM files -> cohort: its table is what the tags say, and a mapping only adds to the defaults.

Kept are radiographs of the chest: Modality CR or DX (or those asked for), a body part that is the chest or that no tag
names, one frame, for presentation, no burned-in text, each SOPInstanceUID once. All else is left out and counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.pixels.dicom import RADIOGRAPHS
from chartray.pixels.dicom_header import has_text
from chartray.records.cohort import Cohort
from chartray.records.dicom_files import read_headers
from chartray.records.dicom_rows import TAGS, DicomRows, Kept, levels_of, rows_of
from chartray.records.dicom_tags import VIEWS
from chartray.records.mapping import Mapping, read_mapping
from chartray.records.reading import need_folder
from chartray.records.table import Source, cohort_of
from chartray.records.table_cells import OpenTable
from chartray.records.templates import template_columns
from chartray.records.warnings import DataWarning
from chartray.schema import AGE_RANGE, SCAN_PREFIX, SEX_LEVELS
from chartray.wording import joined, plural

MODALITIES = ("CR", "DX")
# Of a mapping file, as YAML would have it.
_Tree = dict[str, object]
_COLUMNS = {"image_id": "SOPInstanceUID", "patient_id": "PatientID", "study_id": "StudyInstanceUID"}
_FROM_TAGS: _Tree = {
    "sex": {"column": "sex", "kind": "categorical", "levels": list(SEX_LEVELS), "group": "demographic"},
    "age": {"column": "age", "kind": "numeric", "range": AGE_RANGE, "unit": "years", "group": "demographic"},
    "view": {"column": "view", "kind": "categorical", "levels": list(VIEWS), "group": "scan"},
}
# Of the device, where the tags have more than one value.
_NUMBERS = {"pixel_spacing": ("mm", (0.01, 2.0)), "exposure": ("mAs", (0.01, 1000.0))}
_NAMES = ("manufacturer", "model")


def dicom_cohort(
    folder: Path,
    mapping: Path | None = None,
    charts: Sequence[str] = (),
    *,
    modalities: Sequence[str] = MODALITIES,
    laterals: bool = True,
    headers: Path | None = None,
    workers: int | None = None,
) -> Cohort:
    """One row for each radiograph of the chest below `folder`, whatever its files are called.

    The variables sex, age and view, and manufacturer, model, pixel_spacing and exposure where they differ, come from
    the tags; `mapping` adds variables and labels from any tag or from `charts`, a second table. `laterals`: whether
    lateral views are kept. What was read is kept in the folder `headers`, so that a later call reads only what is new.
    Raises InputError for a folder without DICOM, a `modality` that holds no radiographs, and as `table_cohort` does.
    """
    root = need_folder(folder, "DICOM images")
    unknown = [name for name in modalities if name not in RADIOGRAPHS]
    if unknown or not modalities:
        raise InputError(
            f"expected --modality of {', '.join(RADIOGRAPHS)}, found {unknown[0] if unknown else 'none'!r}; others are "
            "not radiographs"
        )
    given: _Tree = {**_COLUMNS, "path": "file", "taken_at": "time", "ehr": _FROM_TAGS}
    plan = _plan(mapping, given)
    tags = [name for name in dict.fromkeys([*TAGS, *_named(plan)]) if name in TAGS or has_text(name)]
    found = read_headers(root, tags, headers, workers)
    rows = rows_of(found, Kept(tuple(modalities), laterals))
    _refuse_no_dicom(root, rows)
    stays = reduce(pc.and_, (pc.is_null(each.reasons) for each in rows.left_out))
    device, lacking = _device(rows, stays)
    plan = _plan(mapping, given | {"ehr": _FROM_TAGS | device})
    where = f"{root} (its files in the order of their paths)"
    table = OpenTable(where, rows.table.column_names, rows.table.select)
    cohort = cohort_of(Source(table, root, root.name, rows.left_out), plan, mapping, charts)
    cohort.flow[0] = replace(cohort.flow[0], step=f"files of {root.name}")
    return _with_scan(cohort, rows, stays, lacking)


def _plan(mapping: Path | None, given: _Tree) -> Mapping:
    return Mapping.model_validate(given) if mapping is None else read_mapping(mapping, given)


def _named(plan: Mapping) -> list[str]:
    """Every column that a mapping names, of the tags or of the chart."""
    templates = [plan.path, *([plan.taken_at] if plan.taken_at else [])]
    named = [column for template in templates for column in template_columns(template, plan)]
    named += [column for column in (plan.image_id, plan.patient_id, plan.study_id, plan.split) if column]
    named += [*plan.keep, *(plan.charts.on if plan.charts is not None else ())]
    for variable in plan.ehr.values():
        named += variable.columns
    for label in plan.labels.values():
        named += label.columns
    return named


def _refuse_no_dicom(root: Path, rows: DicomRows) -> None:
    others = rows.left_out[0].reasons
    if not others.null_count:
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(others).to_pylist()}
        raise InputError(
            f"expected images in DICOM in {root}, found none among {plural(len(others), 'file')} "
            f"({', '.join(f'{why} {count}' for why, count in counts.items())}); check the path"
        )


def _device(rows: DicomRows, stays: pa.Array) -> tuple[_Tree, list[str]]:
    """The variables of the device that differ between the images that stay, and the names of the others."""
    entries: _Tree = {}
    for name, (unit, limits) in _NUMBERS.items():
        entries[name] = {"column": name, "kind": "numeric", "range": limits, "unit": unit, "group": "scan"}
    several = {name for name in _NUMBERS if pc.count_distinct(rows.table[name].filter(stays)).as_py() > 1}
    for name in _NAMES:
        levels = levels_of(rows.table[name].combine_chunks(), stays)
        entries[name] = {"column": name, "kind": "categorical", "levels": levels, "group": "scan"}
        several |= {name} if len(levels) > 1 else set()
    return {name: entry for name, entry in entries.items() if name in several}, sorted(entries.keys() - several)


def _with_scan(cohort: Cohort, rows: DicomRows, stays: pa.Array, lacking: list[str]) -> Cohort:
    """The cohort with what the tags say of each image, and the notes on what was read from which tag."""
    files = pc.binary_join_element_wise(cohort.metadata.image_root, rows.table["file"].combine_chunks(), "/")
    place = pc.index_in(cohort.table["path"].combine_chunks(), value_set=files)
    table = cohort.table
    for name, column in rows.scan.items():
        table = table.append_column(SCAN_PREFIX + name, column.take(place))
    images = table.num_rows
    chosen = set(place.to_pylist())
    notes = {
        name: ", ".join(f"{tag} {count}" for tag, count in Counter(tags[at] for at in chosen).most_common())
        for name, tags in rows.sources.items()
    }
    turned = int(pc.sum(table[SCAN_PREFIX + "turned"]).as_py() or 0)
    notes["orientation"] = f"{turned} turned or mirrored by their header: the reader makes them upright"
    if lacking:
        notes["device"] = f"{joined(lacking)} left out: not given, or the same for all images"
    cohort.flow += [FlowStep(f"{name} from the tags", images, images, note) for name, note in notes.items()]
    issuers = {cell for cell in rows.table["IssuerOfPatientID"].filter(stays).to_pylist() if cell}
    if len(issuers) > 1:
        what = f"{len(issuers)} issuers of patient ids, so that one id may be that of several patients"
        remedy = "make a cohort of each, or name another column as patient_id in a mapping"
        cohort.warnings.append(DataWarning("patient_id", what, images, remedy))
    return replace(cohort, table=table)
