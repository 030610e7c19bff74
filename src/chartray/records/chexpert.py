"""CheXpert (v1.0 and -small) -> cohort: ids, sex, age, view and labels from its csv files."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.cohort import Cohort, assemble, refuse_shared_patients
from chartray.records.identifiers import identifiers
from chartray.records.labels import label_columns, present_labels
from chartray.records.levels import possible_age, sex_level, view_level
from chartray.records.missing import count_missing
from chartray.records.parsing import by_cell
from chartray.records.reading import (
    find_csv,
    folder_content,
    header,
    need_folder,
    read_cells,
    refuse_empty,
    refuse_repeated,
)
from chartray.schema import (
    AGE_RANGE,
    CHEXPERT_LABELS,
    EHR_PREFIX,
    SEX_LEVELS,
    VIEW_LEVELS,
    CohortMetadata,
    Variable,
)

_FILES = {"train": ("train",), "validate": ("valid",), "test": ("test", "test_labels")}
_CHART_CELLS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
# The part of a path after the data set's folder, which may have been renamed.
_PATH = r"(?:^|/)(?P<path>(?:train|valid|test)/(?P<patient>patient[0-9]+)/(?P<study>study[0-9]+)/[^/]+)$"
_SIDES = ("frontal", "lateral")
_FOLDERS = ("train", "valid", "test")


def chexpert_cohort(root: Path) -> Cohort:
    """One row per image of `train.csv`, `valid.csv` (split validate) and `test.csv`, as far as they exist.

    Paths are resolved below `root`, whatever folder they begin with; in AIMI's download the csv files and the patients'
    folders are in `CheXpert-v1.0 batch 1 (validate & csv)` and so on. The csv of the test set may have only paths and
    labels. Raises InputError for missing files or labels, and for paths that are not CheXpert's.
    """
    root = need_folder(root, "CheXpert")
    parts, flow, files = [], [], []
    places = [root, *_batches(root)]
    held: dict[str, list[str]] = {}  # the columns in the file of each split
    for split, stems in _FILES.items():
        file = next((found for place in places for stem in stems if (found := find_csv(place, stem))), None)
        if file is None:
            flow.append(FlowStep(split, 0, 0, f"there is no {stems[0]}.csv"))
            continue
        part = _read(file, split)
        lacking = [name for name in CHEXPERT_LABELS if name not in part.column_names]
        without = f" (without {', '.join(lacking)})" if lacking else ""
        flow.append(FlowStep(split, part.num_rows, part.num_rows, f"rows of {file.name}{without}"))
        held[split] = part.column_names
        parts.append(part)
        files.append(file)
    if not parts:
        raise InputError(f"expected train.csv, valid.csv or test.csv in {root}, found {folder_content(root)}")
    rows = pa.concat_tables(parts, promote_options="default").combine_chunks()
    where = " and ".join(str(file) for file in files)
    identifiers(rows["patient_id"], "patient", where)  # refuses patient1 together with patient00001
    refuse_shared_patients(rows["patient_id"], rows["split"], where)
    cells = {name: rows[name] for name in CHEXPERT_LABELS if name in rows.column_names}
    named = {
        name: pc.is_in(rows["split"], value_set=pa.array(splits, pa.string())).combine_chunks()
        for name in cells
        if (splits := [split for split, names in held.items() if name in names]) != list(held)
    }
    labels = label_columns(cells, files[0], named)
    chart_cells = {"sex": "sex_cell", "age": "age_cell", "view": "view_cell"}
    missing = {name: count_missing(rows[cell], rows[EHR_PREFIX + name]) for name, cell in chart_cells.items()}
    metadata = CohortMetadata(
        source="chexpert",
        variables=_VARIABLES,
        labels=labels.sources,
        absent_labels=labels.absent,
        image_root=str(root),
    )
    columns = {name: rows[name] for name in rows.column_names if name not in CHEXPERT_LABELS} | labels.columns
    columns["path"] = _resolved(rows["relative_path"].combine_chunks(), root)
    columns["taken_at"] = pa.nulls(rows.num_rows, pa.timestamp("us"))
    return Cohort(assemble(columns, metadata), flow, {}, missing | labels.missing)


def _batches(root: Path) -> list[Path]:
    """The folders of AIMI's download, in the order of their names."""
    return [folder for folder in sorted(root.glob("*batch*")) if folder.is_dir()]


def _resolved(paths: pa.StringArray, root: Path) -> pa.StringArray:
    """The path of each image: where its patient's folder is, else where it is in `root`.

    A batch holds `train/patient00001` or, without the first folder, `patient00001`.
    """
    where: dict[str, str] = {}  # no patient is in two splits
    for folder in [inner for batch in _batches(root) for inner in (*(batch / name for name in _FOLDERS), batch)]:
        if folder.is_dir():
            with os.scandir(folder) as entries:
                where.update((entry.name, str(folder)) for entry in entries if entry.is_dir())
    bases = pa.array([where.get(path.split("/")[1]) for path in paths.to_pylist()], pa.string())
    inside = pc.replace_substring_regex(paths, "^[^/]+/", "")
    whole = pc.binary_join_element_wise(pa.scalar(str(root)), paths, "/")
    return pc.coalesce(pc.binary_join_element_wise(bases, inside, "/"), whole)


def _read(file: Path, split: str) -> pa.Table:
    """Ids, chart values with the cells they were read from, and label cells of one csv."""
    labels = present_labels(header(file), file)
    cells = read_cells(file, ["Path"], [*_CHART_CELLS, *labels])
    refuse_empty(cells, file)
    parts = pc.extract_regex(pc.replace_substring(cells["Path"].combine_chunks(), "\\", "/"), _PATH)
    bad = np.flatnonzero(pc.is_null(parts).to_numpy(zero_copy_only=False))
    if len(bad):
        raise InputError(
            "expected paths such as CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg in column 'Path' of "
            f"{file}, found another form in data row {bad[0] + 1}"
        )
    path, patient, study = (pc.struct_field(parts, name) for name in ("path", "patient", "study"))
    rows = pa.table(
        {
            "image_id": pc.replace_substring_regex(path, r"\.[^./]+$", ""),
            "patient_id": patient,
            "study_id": pc.binary_join_element_wise(patient, study, "/"),
            "relative_path": path,
            "split": pa.array([split]).take(pa.array(np.zeros(len(path), dtype=np.int64))),
        }
    )
    refuse_repeated(pa.table({"Path": rows["image_id"]}), "Path", file)
    nothing = pa.chunked_array([pa.nulls(len(path), pa.string())])
    sex, age, side, projection = (
        (cells[name] if name in cells.column_names else nothing).combine_chunks() for name in _CHART_CELLS
    )
    view, view_cell = _views(side, projection, path)
    values = {"sex": by_cell(sex, sex_level, pa.string()), "age": by_cell(age, _age, pa.float64()), "view": view}
    for name, cell in {"sex": sex, "age": age, "view": view_cell}.items():
        rows = rows.append_column(f"{name}_cell", cell).append_column(EHR_PREFIX + name, values[name])
    for name in labels:
        rows = rows.append_column(name, cells[name])
    return rows


def _age(cell: str) -> float | None:
    """An age; 0 is missing, since CheXpert's patients are 18 to 90 years old."""
    return possible_age(cell) or None


def _views(side: pa.Array, projection: pa.Array, path: pa.Array) -> tuple[pa.Array, pa.Array]:
    """PA, AP or LATERAL, null if unknown or contradictory, and the cells it was read from.

    The file name gives the side too. AP/PA applies to frontal images: LL or RL there, or AP for a lateral image, is a
    contradiction.
    """
    written = by_cell(side, lambda cell: cell.lower() if cell.lower() in _SIDES else None, pa.string())
    named = pc.struct_field(pc.extract_regex(path, rf"_(?P<side>{'|'.join(_SIDES)})[^/]*$"), "side")
    differ = pc.not_equal(written, named).fill_null(False)
    lateral = pc.equal(pc.coalesce(written, named), "lateral").fill_null(False)
    frontal_view = by_cell(projection, lambda cell: view_level(cell, ("PA", "AP")), pa.string())
    contradicts = pc.or_(differ, pc.and_(lateral, pc.is_valid(frontal_view)))
    view = pc.if_else(lateral, pa.scalar("LATERAL"), frontal_view)
    view = pc.if_else(contradicts, pa.scalar(None, pa.string()), view)
    return view, pc.if_else(contradicts, "(side, AP/PA and file name disagree)", pc.coalesce(projection, written))


_VARIABLES = {
    "sex": Variable(kind="categorical", levels=SEX_LEVELS, group="demographic", columns=("Sex",)),
    "age": Variable(kind="numeric", range=AGE_RANGE, unit="years", group="demographic", columns=("Age",)),
    "view": Variable(kind="categorical", levels=VIEW_LEVELS, group="scan", columns=("Frontal/Lateral", "AP/PA")),
}
