"""MIMIC-IV and MIMIC-CXR-JPG -> cohort: each image with its chart, linked by the strict or the published rule."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records import mimic_tables
from chartray.records.catalogue import chosen
from chartray.records.cohort import (
    Cohort,
    assemble,
    excluding,
    hashed_split,
    refuse_shared_patients,
)
from chartray.records.identifiers import placeholders_among, whole_numbers
from chartray.records.labels import Labels, StudyCells, read_study_cells, study_labels
from chartray.records.levels import position_level, view_level
from chartray.records.linking import ImageTimes
from chartray.records.measurements import MeasuredValues
from chartray.records.mimic_chart import ImageCharts, chart_of_images
from chartray.records.mimic_measured import measured_of_images
from chartray.records.missing import count_missing, shown
from chartray.records.parsing import by_cell
from chartray.records.race import RACE_LEVELS, race_column, race_of_images
from chartray.records.reading import (
    find_csv,
    folder_content,
    need_folder,
    read_cells,
    refuse_blank,
    refuse_empty,
    refuse_repeated,
)
from chartray.records.warnings import DataWarning
from chartray.schema import (
    AGE_RANGE,
    EHR_PREFIX,
    ICU_LEVELS,
    MORTALITY_LEVELS,
    POSITION_LEVELS,
    READ_COLUMN,
    SEX_LEVELS,
    SPLIT_SHARES,
    SPLITS,
    VIEW_LEVELS,
    CohortMetadata,
    Rules,
    Variable,
)

# PhysioNet's labels lack 8 studies of 227,835. If a larger share than this is missing, the download may be incomplete.
_HALF = "the file may be incomplete: download it again, unless this is intended"
_LACKING = 0.001
_FLAT = "resized"
_POSITION = "PatientOrientationCodeSequence_CodeMeaning"


class _Files(NamedTuple):
    """The files being read: MIMIC-IV's tables, the images' metadata, the official split (None: no file), the labels."""

    hospital: Future[mimic_tables.MimicTables]
    images: Future[pa.Table]
    split: Future[tuple[Path, pa.Table] | None]
    labels: Future[tuple[StudyCells, StudyCells | None]]


def mimic_cohort(
    mimic_iv: str,
    mimic_cxr: Path,
    *,
    rules: Rules = "strict",
    measured: Sequence[str] = (),
    window_hours: float | None = None,
) -> Cohort:
    """One row per image of MIMIC-CXR-JPG with sex, age, view, position, mortality, icu, race and its labels.

    `mimic_iv` is the folder of MIMIC-IV 1.0 (`core/`) or 2.x and 3.x (`hosp/`), or the URL of a database that
    holds its tables. Image files may be absent. `rules` are those of docs/method.md; only the strict ones leave a value
    missing if there is no record. `measured` names laboratory and vital values of `records.catalogue`: the last of each
    at most `window_hours` before the image, by default 72 (laboratory), 24 (vital) or 8760 (body), and stored by then.
    Raises InputError for a missing table or column.
    """
    quantities = chosen(measured)
    root = need_folder(mimic_cxr, "MIMIC-CXR-JPG")
    # Each csv.gz is decompressed on one core.
    with ThreadPoolExecutor(2) as beside:
        reading = _Files(
            hospital=beside.submit(mimic_tables.read_mimic_tables, mimic_iv, ordered=rules == "published"),
            images=beside.submit(_metadata_cells, root),
            split=beside.submit(_official_split, root),
            labels=beside.submit(_label_cells, root),
        )
        source, cells = reading.hospital.result(), reading.images.result()
        charts = chart_of_images(cells, _need_cxr_csv(root, "metadata"), source, rules)
        charts = charts._replace(rows=_with_race(_rows(cells, charts.rows), source.tables["admissions"]))
        if quantities:
            images = ImageTimes(cells["subject_id"].to_numpy(), charts.rows["taken_at"].to_numpy())
            charts = _with_measured(charts, measured_of_images(mimic_iv, images, quantities, window_hours))
        variables = _variables(rules, race_column(source.tables["admissions"]))
        variables |= {name: entry.variable() for name, entry in quantities.items()}
        return _assembled(charts, variables, source, reading, root, rules)


def _with_measured(charts: ImageCharts, found: MeasuredValues) -> ImageCharts:
    rows = charts.rows
    for name, values in found.columns.items():
        rows = rows.append_column(EHR_PREFIX + name, values)
    return charts._replace(
        rows=rows,
        missing=charts.missing | found.missing,
        steps=charts.steps + found.steps,
        warnings=charts.warnings + found.warnings,
    )


def _assembled(
    charts: ImageCharts,
    variables: dict[str, Variable],
    source: mimic_tables.MimicTables,
    reading: _Files,
    root: Path,
    rules: Rules,
) -> Cohort:
    """The cohort: exclusions, splits and labels."""
    rows = charts.rows
    missing = _missing(rows) | charts.missing
    flow = [FlowStep("rows of the MIMIC-CXR metadata", rows.num_rows, rows.num_rows), *charts.steps]
    official = reading.split.result()
    if official is not None:
        # Before any exclusion: PhysioNet's split csv lists the images in the order of the metadata csv.
        rows = rows.append_column("split", _official_splits(rows["image_id"], *official))
    if rules == "published":
        rows = _published_exclusions(rows, flow)
    unsplit: list[DataWarning] = []
    if official is None:
        rows = rows.append_column("split", hashed_split(rows["patient_id"], SPLIT_SHARES, flow, "no split csv"))
    else:
        rows, unsplit = _within_splits(rows, official, flow)
    labels, unlabelled = _labels(rows, *reading.labels.result(), flow)
    metadata = CohortMetadata(
        source="mimic",
        release=source.release,
        rules=rules,
        variables=variables,
        labels=labels.sources,
        absent_labels=labels.absent,
        image_root=str(root),
    )
    columns = {name: rows[name] for name in rows.column_names} | {"path": _paths(rows, root)} | labels.columns
    table = assemble(columns, metadata)
    if labels.read_rows is not None:
        table = table.append_column(READ_COLUMN, labels.read_rows)
    warnings = charts.warnings + unsplit + unlabelled
    return Cohort(table, flow, charts.links, missing | labels.missing, source.layout, warnings)


def _metadata_cells(root: Path) -> pa.Table:
    """The cells of the metadata csv, one row per image; raises InputError for missing ids and repeated images.

    Patients and studies become whole numbers, as in the names of their folders.
    """
    file = _need_cxr_csv(root, "metadata")
    ids = ["dicom_id", "subject_id", "study_id"]
    named = [*ids, "ViewPosition", "StudyDate", "StudyTime", _POSITION]
    numbers = ids[1:]
    cells = read_cells(file, named, types=dict.fromkeys(numbers, pa.int64()))
    refuse_empty(cells, file)
    for name in numbers:
        cells = cells.set_column(named.index(name), name, whole_numbers(cells[name], name, str(file)))
    refuse_blank(cells, ids, file)
    refuse_repeated(cells, "dicom_id", file)
    return cells


def _rows(cells: pa.Table, chart: pa.Table) -> pa.Table:
    """`chart` with the columns of the metadata: ids, view and position."""
    rows = chart
    for name, (column, level) in {
        "view": ("ViewPosition", view_level),
        "position": (_POSITION, position_level),
    }.items():
        cell = cells[column].combine_chunks()
        values = by_cell(cell, level, pa.string())
        rows = rows.append_column(f"{name}_cell", cell).append_column(EHR_PREFIX + name, values)
    rows = rows.append_column("image_id", cells["dicom_id"])
    for name, column in (("patient_id", "subject_id"), ("study_id", "study_id")):
        rows = rows.append_column(name, cells[column].cast(pa.string()))
    return rows


def _paths(rows: pa.Table, root: Path) -> pa.ChunkedArray:
    """The path of each image: ROOT/files/p10/p10000032/s50414267/<dicom_id>.jpg, or ROOT/resized/<dicom_id>.jpg.

    The flat folder counts where there is no `files`.
    """
    image, patient, study = rows["image_id"], rows["patient_id"], rows["study_id"]
    if (root / _FLAT).is_dir() and not (root / "files").is_dir():
        return pc.binary_join_element_wise(f"{root}/{_FLAT}/", pc.binary_join_element_wise(image, ".jpg", ""), "")
    tens = pc.utf8_slice_codeunits(patient, 0, 2)
    return pc.binary_join_element_wise(f"{root}/files/p", tens, "/p", patient, "/s", study, "/", image, ".jpg", "")


def _with_race(rows: pa.Table, admissions: pa.Table) -> pa.Table:
    """Adds the race of each image's patient if the admissions have such a column."""
    if race_column(admissions) is None:
        return rows
    groups, cells = race_of_images(rows["patient_id"], admissions)
    return rows.append_column("race_cell", cells).append_column(EHR_PREFIX + "race", groups)


def _missing(rows: pa.Table) -> dict[str, dict[str, int]]:
    nothing = pa.nulls(rows.num_rows, pa.string())
    cells = {
        "sex": rows["sex_cell"],
        "age": rows["age_cell"],
        "view": rows["view_cell"],
        "position": rows["position_cell"],
        "mortality": rows["died_cell"],
        "icu": nothing,
    } | ({"race": rows["race_cell"]} if "race_cell" in rows.column_names else {})
    return {name: count_missing(cell, rows[EHR_PREFIX + name]) for name, cell in cells.items()}


def _published_exclusions(rows: pa.Table, flow: list[FlowStep]) -> pa.Table:
    """Excludes rows without sex and rows of other views; a missing view is kept (docs/method.md)."""
    with_sex = pc.is_valid(rows["ehr.sex"])
    cell = rows["view_cell"].combine_chunks()
    not_said = pc.or_(pc.is_null(cell), placeholders_among(cell).fill_null(False))
    kept = pc.and_(with_sex, pc.or_(pc.is_valid(rows["ehr.view"]), not_said))
    of_known_sex, left = (pc.sum(mask).as_py() or 0 for mask in (with_sex, kept))
    flow.append(excluding("sex known", rows.num_rows, of_known_sex, "no sex in MIMIC-IV (published rule)"))
    why = f"a view other than {', '.join(VIEW_LEVELS)} (published rule)"
    flow.append(excluding("one of the four views, or no view", of_known_sex, left, why))
    # Filtering copies every column: once for both exclusions, without the cells, and only if rows are excluded.
    read_again = rows.drop_columns([name for name in rows.column_names if name.endswith("_cell")])
    return read_again if left == rows.num_rows else read_again.filter(kept)


def _official_split(root: Path) -> tuple[Path, pa.Table] | None:
    file = _find_cxr_csv(root, "split")
    if file is None:
        return None
    cells = read_cells(file, ["dicom_id", "split"])
    refuse_empty(cells, file)
    return file, cells


def _official_splits(images: pa.ChunkedArray, file: Path, cells: pa.Table) -> pa.Array:
    """The split of each image from `cells`, the content of `file`; null if the image is not in it."""
    if images.equals(cells["dicom_id"]):
        split = cells["split"].combine_chunks()
    else:
        refuse_repeated(cells, "dicom_id", file)
        found = pc.index_in(images, value_set=cells["dicom_id"].combine_chunks())
        split = cells["split"].combine_chunks().take(found.combine_chunks())
    split = pc.utf8_lower(split)
    others = sorted({name for name in pc.unique(split).to_pylist() if name is not None} - set(SPLITS))
    if others:
        raise InputError(f"expected the splits {', '.join(SPLITS)} in {file}, found {shown(others[0])}")
    return split


def _within_splits(
    rows: pa.Table, official: tuple[Path, pa.Table], flow: list[FlowStep]
) -> tuple[pa.Table, list[DataWarning]]:
    """The rows with an official split, and a warning if the split csv or the metadata may be incomplete."""
    file, cells = official
    kept = rows.filter(pc.is_valid(rows["split"])) if rows["split"].null_count else rows
    flow.append(excluding("official split", rows.num_rows, kept.num_rows, f"not in {file.name}"))
    refuse_shared_patients(kept["patient_id"], kept["split"], str(file))
    if rows.num_rows - kept.num_rows <= _LACKING * rows.num_rows:
        return kept, []
    lost = rows.num_rows - kept.num_rows
    what = f"{lost} of {rows.num_rows} images are not among the {cells.num_rows} of {file.name} and were excluded"
    return kept, [DataWarning("split", what, lost, _HALF)]


def _label_cells(root: Path) -> tuple[StudyCells, StudyCells | None]:
    read = _find_cxr_csv(root, "test-set-labeled")
    return read_study_cells(root, _stem(_need_cxr_csv(root, "chexpert")), _stem(read) if read else None)


def _labels(
    rows: pa.Table, labelled: StudyCells, read: StudyCells | None, flow: list[FlowStep]
) -> tuple[Labels, list[DataWarning]]:
    """The labels of each image's study, and warnings about studies without labels.

    The radiologists' labels of 2.1.0 replace the labeller's for the studies that they read.
    """
    studies = rows["study_id"].combine_chunks().cast(pa.int64())
    warnings = _unlabelled(studies, labelled, read, flow)
    labels = study_labels(studies, labelled, read)
    if read is not None:
        why = (
            f"{labels.read} images have the radiologists' labels of {read.file.name}, the others have those of "
            f"{_stem(labelled.file)}.csv"
        )
        flow.append(FlowStep("labels", rows.num_rows, rows.num_rows, why))
    return labels, warnings


def _unlabelled(
    studies: pa.Array, labelled: StudyCells, read: StudyCells | None, flow: list[FlowStep]
) -> list[DataWarning]:
    """Records images whose study has no labels in the flow; warns if the file of labels may be incomplete.

    Raises InputError if no study has labels.
    """
    files = [labelled] if read is None else [labelled, read]
    ids = pa.chunked_array([chunk for each in files for chunk in each.content["study_id"].chunks], pa.int64())
    named = pc.is_in(studies, value_set=ids.combine_chunks())
    images = len(studies) - (pc.sum(named).as_py() or 0)
    if not images:
        return []
    absent, all_of_them = (pc.count_distinct(some).as_py() for some in (studies.filter(pc.invert(named)), studies))
    if absent == all_of_them:
        raise InputError(
            f"expected the images' studies in {labelled.file}, found none of {all_of_them}; download the file again"
        )
    why = f"{absent} of {all_of_them} studies, with {images} images, are not in {labelled.file.name}: no labels"
    flow.append(FlowStep("studies with labels", len(studies), len(studies), why))
    if absent <= _LACKING * all_of_them:
        return []
    what = f"{absent} of {all_of_them} studies are not among the {labelled.content.num_rows} of {labelled.file.name}"
    return [DataWarning("labels", what, images, _HALF)]


def _need_cxr_csv(root: Path, table: str) -> Path:
    file = _find_cxr_csv(root, table)
    if file is None:
        raise InputError(f"expected mimic-cxr-2.0.0-{table}.csv or .csv.gz in {root}, found {folder_content(root)}")
    return file


def _find_cxr_csv(root: Path, table: str) -> Path | None:
    """`mimic-cxr-<release>-<table>.csv[.gz]` of the newest release."""
    stems = sorted({_stem(file) for file in root.glob(f"mimic-cxr-*-{table}.csv*")})
    return find_csv(root, stems[-1]) if stems else None


def _stem(file: Path) -> str:
    return file.name.split(".csv")[0]


def _variables(rules: Rules, race: str | None = None) -> dict[str, Variable]:
    """The chart variables. `race` names its column in the admissions; it is for audits and in no published set."""
    after = rules == "strict"
    variables = {
        "sex": Variable(kind="categorical", levels=SEX_LEVELS, group="demographic", columns=("patients.gender",)),
        "age": Variable(
            kind="numeric",
            range=AGE_RANGE,
            unit="years",
            group="demographic",
            columns=("patients.anchor_year", "patients.anchor_age", "metadata.StudyDate"),
        ),
        "view": Variable(kind="categorical", levels=VIEW_LEVELS, group="scan", columns=("metadata.ViewPosition",)),
        "position": Variable(
            kind="categorical", levels=POSITION_LEVELS, group="scan", columns=(f"metadata.{_POSITION}",)
        ),
        "mortality": Variable(
            kind="categorical",
            levels=MORTALITY_LEVELS,
            group="stay",
            known_at_film=False,
            columns=("admissions.hospital_expire_flag",),
        ),
        "icu": Variable(
            kind="categorical",
            levels=ICU_LEVELS,
            group="stay",
            # The published rule compares dates: an image at 08:00 is linked to a stay that begins at 20:00.
            known_at_film=after,
            columns=("icustays.intime", "icustays.outtime"),
        ),
    }
    if race is not None:
        columns = (f"admissions.{race}",)
        variables["race"] = Variable(kind="categorical", levels=RACE_LEVELS, group="demographic", columns=columns)
    return variables
