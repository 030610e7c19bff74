"""NIH ChestX-ray14 -> cohort: ids, sex, age and view from its csv, official lists where they lie beside it."""

import os
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.cohort import (
    SPLIT_SHARES,
    Cohort,
    Step,
    assemble,
    excluding,
    hashed_split,
    refuse_shared_patients,
    split_by_patient,
)
from chartray.records.database import ROW, connect, fetch, first_row, offered
from chartray.records.missing import count_missing, told
from chartray.records.reading import (
    find_csv,
    folder_content,
    need_folder,
    read_cells,
    refuse_repeated,
)
from chartray.schema import (
    AGE_RANGE,
    EHR_PREFIX,
    LABEL_PREFIX,
    NIH_LABELS,
    SEX_LEVELS,
    CohortMetadata,
    LabelSource,
    Variable,
)

_VIEW_LEVELS = ("PA", "AP")
_ENTRIES = ("Data_Entry_2017_v2020", "Data_Entry_2017")
_NO_FINDING = "No Finding"


def nih_cohort(root: Path) -> Cohort:
    """One row a film of `Data_Entry_2017_v2020.csv`, those without finding too; labels are 1 or 0.

    With `test_list.txt` and `train_val_list.txt` the test split is the official one and train / validate are
    drawn by patient from the other list, else all three are. Films lie in `images_001/images` ... or `images/`
    and may be absent. Raises InputError for a missing file or column, or a list that names a patient twice.
    """
    root = need_folder(root, "NIH ChestX-ray14")
    connection = connect()
    file = next((found for stem in _ENTRIES if (found := find_csv(root, stem))), None)
    if file is None:
        raise InputError(f"expected {_ENTRIES[0]}.csv in {root}, found {folder_content(root)}")
    rows = _read(file, connection)
    flow = [Step(f"rows of {file.name}", rows.num_rows, rows.num_rows)]
    rows = _split(rows, root, flow)
    chart_cells = {"sex": "sex_cell", "age": "age_cell", "view": "view_cell"}
    missing = {name: count_missing(rows[cell], rows[EHR_PREFIX + name]) for name, cell in chart_cells.items()}
    labels, unknown = _labels(rows["findings"])
    if unknown:
        missing["Finding Labels"] = unknown
    metadata = CohortMetadata(
        source="nih",
        variables=_VARIABLES,
        labels={name: LabelSource(columns=("Finding Labels",)) for name in NIH_LABELS},
        image_root=str(root),
    )
    columns = {name: rows[name] for name in rows.column_names} | labels
    columns["path"] = _paths(rows["image_id"], root)
    columns["study_id"] = pc.binary_join_element_wise(rows["patient_id"], rows["follow_up"], "/")
    columns["taken_at"] = pa.nulls(rows.num_rows, pa.timestamp("us"))
    return Cohort(assemble(columns, metadata), flow, {}, missing)


def _read(file: Path, connection: ibis.BaseBackend) -> pa.Table:
    needed = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"]
    content = read_cells(file, [*needed, "View Position"])
    refuse_repeated(content, "Image Index", file)
    cells = offered(content, connection)
    unnamed = cells.filter(cells["Image Index"].isnull() | cells["Patient ID"].isnull())
    first = first_row(unnamed, connection)
    if first is not None:
        raise InputError(f"expected an Image Index and a Patient ID in every row of {file}, none in data row {first}")
    # The first edition of the file wrote ages as 058Y.
    years = cells["Patient Age"].re_replace("Y$", "").try_cast("float64")
    sex = cells["Patient Gender"].cases(("M", SEX_LEVELS[0]), ("F", SEX_LEVELS[1]), else_=None)
    view = cells["View Position"]
    rows = cells.select(
        ROW,
        image_id=cells["Image Index"],
        patient_id=cells["Patient ID"],
        follow_up=cells["Follow-up #"].fill_null("?"),
        findings=cells["Finding Labels"],
        sex_cell=cells["Patient Gender"],
        age_cell=cells["Patient Age"],
        view_cell=view,
        **{
            EHR_PREFIX + "sex": sex,
            EHR_PREFIX + "age": ibis.ifelse((years >= AGE_RANGE[0]) & (years <= AGE_RANGE[1]), years, None),
            EHR_PREFIX + "view": ibis.ifelse(view.isin(_VIEW_LEVELS), view, None),
        },
    ).order_by(ROW)
    return fetch(rows, connection)


def _split(rows: pa.Table, root: Path, flow: list[Step]) -> pa.Table:
    lists = {name: root / name for name in ("train_val_list.txt", "test_list.txt")}
    present = [name for name, file in lists.items() if file.is_file()]
    if not present:
        why = "no train_val_list.txt and test_list.txt"
        return rows.append_column("split", hashed_split(rows["patient_id"], SPLIT_SHARES, flow, why))
    if len(present) < len(lists):
        raise InputError(
            f"expected both train_val_list.txt and test_list.txt in {root}, or neither, found {present[0]}"
        )
    named = [pa.array(lists[name].read_text().split(), pa.string()) for name in lists]
    in_train, in_test = (pc.is_in(rows["image_id"], value_set=names) for names in named)
    both = pc.sum(pc.and_(in_train, in_test)).as_py() or 0
    if both:
        raise InputError(
            f"expected every film in one list of {root}, found {both} in train_val_list.txt and test_list.txt"
        )
    drawn = split_by_patient(rows["patient_id"], {name: SPLIT_SHARES[name] for name in ("train", "validate")})
    split = pc.if_else(in_test, "test", pc.if_else(in_train, drawn, pa.scalar(None, pa.string())))
    kept = rows.append_column("split", split).filter(pc.is_valid(split))
    why = "in neither train_val_list.txt nor test_list.txt"
    flow.append(excluding("official test list; train and validate by patient", rows.num_rows, kept.num_rows, why))
    refuse_shared_patients(kept["patient_id"], kept["split"], f"{lists['test_list.txt']} and train_val_list.txt")
    return kept


def _labels(findings: pa.ChunkedArray) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """'A|B' -> 1 or 0 for each of the 14 (null where the cell is blank), and names that are none of them."""
    encoded = findings.combine_chunks().dictionary_encode()
    named = [set(cell.split("|")) for cell in encoded.dictionary.to_pylist()]
    labels = {
        LABEL_PREFIX + label: pa.array([float(label in names) for names in named], pa.float64()).take(encoded.indices)
        for label in NIH_LABELS
    }
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(encoded.indices).to_pylist()}
    unknown: dict[str, int] = {}
    for index, names in enumerate(named):
        for name in names - set(NIH_LABELS) - {_NO_FINDING}:
            unknown[name] = unknown.get(name, 0) + counts[index]
    return labels, told(unknown, absent=encoded.null_count)


def _paths(images: pa.ChunkedArray, root: Path) -> pa.ChunkedArray:
    """Where each film lies; a film that is not there gets the path it would have in `images/`."""
    where: dict[str, str] = {}
    folders = [root / "images", *sorted(root.glob("images_*"))]
    for folder in [inner for outer in folders for inner in (outer, outer / "images") if inner.is_dir()]:
        prefix = f"{folder}/"
        with os.scandir(folder) as entries:
            where.update((entry.name, prefix + entry.name) for entry in entries)
    return pa.chunked_array([[where.get(name, f"{root}/images/{name}") for name in images.to_pylist()]], pa.string())


_VARIABLES = {
    "sex": Variable(kind="categorical", levels=SEX_LEVELS, group="demographic", columns=("Patient Gender",)),
    "age": Variable(kind="numeric", range=AGE_RANGE, unit="years", group="demographic", columns=("Patient Age",)),
    "view": Variable(kind="categorical", levels=_VIEW_LEVELS, group="scan", columns=("View Position",)),
}
