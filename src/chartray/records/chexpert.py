"""CheXpert (v1.0 and -small) -> cohort: ids, sex, age and view from its csv files, whatever its folder is called."""

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.cohort import Cohort, Step, assemble, refuse_shared_patients
from chartray.records.database import ROW, connect, fetch, first_row, offered
from chartray.records.labels import label_columns, present_labels
from chartray.records.missing import count_missing
from chartray.records.reading import (
    find_csv,
    folder_content,
    header,
    need_folder,
    read_cells,
    refuse_repeated,
)
from chartray.schema import (
    AGE_RANGE,
    CHEXPERT_LABELS,
    EHR_PREFIX,
    SEX_LEVELS,
    SPLITS,
    VIEW_LEVELS,
    CohortMetadata,
    Variable,
)

_FILES = {"train": ("train",), "validate": ("valid",), "test": ("test", "test_labels")}
_CHART_CELLS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
# What follows the folder's own name, which need not be its name any more.
_PATH = r"(?:^|/)((?:train|valid|test)/(patient[0-9]+)/(study[0-9]+)/[^/]+)$"


def chexpert_cohort(root: Path) -> Cohort:
    """One row a film of `train.csv`, `valid.csv` (split validate) and `test.csv`, those that exist.

    Paths are resolved below `root` whatever folder they name. The test set's csv may hold paths and labels alone.
    Raises InputError where no file or no label is found, or a path that is not CheXpert's.
    """
    root = need_folder(root, "CheXpert")
    connection = connect()
    parts, flow, files = [], [], []
    held: dict[str, list[str]] = {}  # which columns the file of each split has
    for split, stems in _FILES.items():
        file = next((found for stem in stems if (found := find_csv(root, stem))), None)
        if file is None:
            flow.append(Step(split, 0, 0, f"no {stems[0]}.csv, so this split is empty"))
            continue
        part = _read(file, split, connection)
        lacking = [name for name in CHEXPERT_LABELS if name not in part.column_names]
        without = f", which lacks {', '.join(lacking)}" if lacking else ""
        flow.append(Step(split, part.num_rows, part.num_rows, f"rows of {file.name}{without}"))
        held[split] = part.column_names
        parts.append(part)
        files.append(file)
    if not parts:
        raise InputError(f"expected train.csv, valid.csv or test.csv in {root}, found {folder_content(root)}")
    rows = pa.concat_tables(parts, promote_options="default").combine_chunks()
    refuse_shared_patients(rows["patient_id"], rows["split"], " and ".join(str(file) for file in files))
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
    columns["path"] = pc.binary_join_element_wise(pa.scalar(str(root)), rows["relative_path"], "/")
    columns["taken_at"] = pa.nulls(rows.num_rows, pa.timestamp("us"))
    return Cohort(assemble(columns, metadata), flow, {}, missing | labels.missing)


def _read(file: Path, split: str, connection: ibis.BaseBackend) -> pa.Table:
    """Ids, chart values with the cells they were read from, and label cells of one csv."""
    assert split in SPLITS
    labels = present_labels(header(file), file)
    content = read_cells(file, ["Path"], [*_CHART_CELLS, *labels])
    refuse_repeated(content, "Path", file)
    cells = offered(content, connection)
    bad = cells.filter(~cells["Path"].re_search(_PATH).fill_null(False))
    first = first_row(bad, connection)
    if first is not None:
        raise InputError(
            "expected a path such as CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg in column 'Path' of "
            f"{file}, found another in data row {first}"
        )
    rest, patient = cells["Path"].re_extract(_PATH, 1), cells["Path"].re_extract(_PATH, 2)
    sex, age, side, projection = (
        cells[name] if name in cells.columns else ibis.null("string") for name in _CHART_CELLS
    )
    years = age.try_cast("float64")
    # A file without the column still says in the film's name which side it shows.
    side = side.fill_null(ibis.ifelse(rest.contains("_lateral"), "Lateral", "Frontal"))
    view_cell = ibis.ifelse(side == "Lateral", "LATERAL", projection)
    rows = (
        cells.mutate(
            image_id=rest.re_replace(r"\.[^./]+$", ""),
            patient_id=patient,
            study_id=patient + "/" + cells["Path"].re_extract(_PATH, 3),
            relative_path=rest,
            split=ibis.literal(split),
            sex_cell=sex,
            age_cell=age,
            view_cell=view_cell,
            **{
                EHR_PREFIX + "sex": sex.lower().cases(*((level, level) for level in SEX_LEVELS), else_=None),
                EHR_PREFIX + "age": ibis.ifelse((years >= AGE_RANGE[0]) & (years <= AGE_RANGE[1]), years, None),
                EHR_PREFIX + "view": ibis.ifelse(view_cell.isin(VIEW_LEVELS), view_cell, None),
            },
        )
        .order_by(ROW)
        .drop(ROW)
    )
    return fetch(rows, connection)


_VARIABLES = {
    "sex": Variable(kind="categorical", levels=SEX_LEVELS, group="demographic", columns=("Sex",)),
    "age": Variable(kind="numeric", range=AGE_RANGE, unit="years", group="demographic", columns=("Age",)),
    "view": Variable(kind="categorical", levels=VIEW_LEVELS, group="scan", columns=("Frontal/Lateral", "AP/PA")),
}
