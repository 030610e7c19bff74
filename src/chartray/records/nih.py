"""NIH ChestX-ray14 -> cohort: ids, sex, age, view and labels from its csv, and the splits of its official lists."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.flow import FlowStep
from chartray.records.cohort import Cohort, assemble
from chartray.records.identifiers import whole_numbers
from chartray.records.labels import blank_column
from chartray.records.levels import possible_age, sex_level, view_level
from chartray.records.missing import count_missing, told
from chartray.records.nih_lists import split_rows
from chartray.records.parsing import by_cell
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
    LABEL_PREFIX,
    NIH_LABELS,
    SEX_LEVELS,
    CohortMetadata,
    LabelSource,
    Variable,
)
from chartray.wording import plural

_VIEW_LEVELS = ("PA", "AP")
_ENTRIES = ("Data_Entry_2017_v2020", "Data_Entry_2017")
_NO_FINDING = "No Finding"
_CHART = {
    "sex": ("Patient Gender", sex_level, pa.string()),
    "age": ("Patient Age", possible_age, pa.float64()),
    "view": ("View Position", lambda cell: view_level(cell, _VIEW_LEVELS), pa.string()),
}


def nih_cohort(root: Path) -> Cohort:
    """One row per image of `Data_Entry_2017_v2020.csv`; labels are 1, 0, or null if the findings cannot be read.

    With `test_list.txt` and `train_val_list.txt` (or the names that `nih_lists` accepts) the test split is the official
    one, and train and validate are drawn by patient from the other list. Without them all three are drawn, with a
    warning. Images are in `images_001/images` ..., `images/` or a
    folder such as Kaggle's `images-224/images-224`, and may be absent. Raises InputError for a missing file
    or column, and for a patient in both lists.
    """
    root = need_folder(root, "NIH ChestX-ray14")
    file = next((found for stem in _ENTRIES if (found := find_csv(root, stem))), None)
    if file is None:
        raise InputError(f"expected {_ENTRIES[0]}.csv in {root}, found {folder_content(root)}")
    rows = _read(file)
    flow = [FlowStep(f"rows of {file.name}", rows.num_rows, rows.num_rows)]
    rows, warnings = split_rows(rows, root, flow)
    missing = {name: count_missing(rows[f"{name}_cell"], rows[EHR_PREFIX + name]) for name in _CHART}
    labels, unknown, unread = _labels(rows["findings"])
    if unknown:
        missing["Finding Labels"] = unknown
    metadata = CohortMetadata(
        source="nih",
        variables=_VARIABLES,
        labels={name: LabelSource(columns=("Finding Labels",), blank="unknown") for name in NIH_LABELS},
        image_root=str(root),
    )
    columns = {name: rows[name] for name in rows.column_names} | labels
    columns["path"] = _paths(rows["image_id"], root)
    columns["study_id"] = pc.binary_join_element_wise(rows["patient_id"], rows["follow_up"], "/")
    columns["taken_at"] = pa.nulls(rows.num_rows, pa.timestamp("us"))
    return Cohort(assemble(columns, metadata), flow, {}, missing, warnings=warnings + unread)


def _read(file: Path) -> pa.Table:
    """Ids, findings, chart values and the cells they were read from."""
    needed = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"]
    cells = read_cells(file, [*needed, "View Position"])
    refuse_empty(cells, file)
    refuse_repeated(cells, "Image Index", file)
    # As text again, as in every cohort.
    numbers = {name: whole_numbers(cells[name], name, str(file)) for name in ("Patient ID", "Follow-up #")}
    texts = pa.table({name: column.cast(pa.string()) for name, column in numbers.items()})
    refuse_blank(cells, ["Image Index"], file)
    refuse_blank(texts, ["Patient ID"], file)
    columns = {
        "image_id": cells["Image Index"],
        "patient_id": texts["Patient ID"],
        "follow_up": pc.fill_null(texts["Follow-up #"], "?"),
        "findings": cells["Finding Labels"],
    }
    for name, (column, read, kind) in _CHART.items():
        columns[f"{name}_cell"] = cells[column]
        columns[EHR_PREFIX + name] = by_cell(cells[column], read, kind)
    return pa.table(columns)


class _Findings(NamedTuple):
    """The content of one cell: `names` among the 14, `unknown` names, and whether it contradicts itself."""

    names: frozenset[str]
    unknown: tuple[str, ...]
    contradicts: bool

    def label(self, name: str) -> float | None:
        """1 or 0; None (unknown, not absent) if the cell has an unreadable name, which may be this one."""
        if self.contradicts:
            return None
        if name in self.names:
            return 1.0
        return None if self.unknown else 0.0


def _findings(cell: str) -> _Findings:
    """The findings of a cell such as `Effusion|Mass`; case, spaces and underscores do not matter.

    >>> sorted(_findings("effusion | Pleural Thickening").names), _findings("Mass|Oedema").label("Edema")
    (['Effusion', 'Pleural_Thickening'], None)
    """
    parts = [part.strip() for part in cell.split("|") if part.strip()]
    names = {part: _NAMES.get(_letters(part)) for part in parts}
    known = {name for name in names.values() if name is not None}
    unknown = tuple(part for part, name in names.items() if name is None)
    # A cell with only separators is unreadable: it does not even say "No Finding".
    return _Findings(frozenset(known), unknown, not parts or (_NO_FINDING in known and len(parts) > 1))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _labels(findings: pa.ChunkedArray) -> tuple[dict[str, pa.Array], dict[str, int], list[DataWarning]]:
    """1 or 0 for each of the 14 labels, null if the cell is blank or unreadable; unknown names by number of images; and
    warnings.
    """
    encoded = findings.combine_chunks().dictionary_encode()
    read = [_findings(cell) for cell in encoded.dictionary.to_pylist()]
    labels = {
        LABEL_PREFIX + label: pa.array([each.label(label) for each in read], pa.float64()).take(encoded.indices)
        for label in NIH_LABELS
    }
    # An unreadable cell is not a blank, whatever a blank counts as.
    blank = pc.is_null(findings.combine_chunks())
    for label in NIH_LABELS:
        labels |= blank_column(label, labels[LABEL_PREFIX + label], blank)
    images = np.bincount(pc.drop_null(encoded.indices).to_numpy(), minlength=len(read)).tolist()
    counts: dict[str, int] = {}
    unread = 0
    for each, count in zip(read, images, strict=True):
        unread += count if each.unknown or each.contradicts else 0
        for name in each.unknown or ((f"{_NO_FINDING} and more",) if each.contradicts else ()):
            counts[name] = counts.get(name, 0) + count
    unknown = told(counts, absent=encoded.null_count)
    warnings = []
    if unread or encoded.null_count:
        what = (
            f"unreadable in {plural(unread, 'image')}, blank in {encoded.null_count}: findings that "
            "they do not name are unknown, not absent"
        )
        remedy = f"write the names of NIH ChestX-ray14 separated by |, or {_NO_FINDING}"
        warnings.append(DataWarning("Finding Labels", what, unread + encoded.null_count, remedy))
    return labels, unknown, warnings


def _paths(images: pa.ChunkedArray, root: Path) -> pa.ChunkedArray:
    """The path of each image; a missing image gets the path it would have in `images/`."""
    where: dict[str, str] = {}
    folders = [root / "images", *sorted(root.glob("images_*")), *sorted(root.glob("images-*"))]
    inner = [place for folder in folders for place in (folder, folder / "images", folder / folder.name)]
    for folder in (place for place in inner if place.is_dir()):
        prefix = f"{folder}/"
        with os.scandir(folder) as entries:
            where.update((entry.name, prefix + entry.name) for entry in entries)
    return pa.chunked_array([[where.get(name, f"{root}/images/{name}") for name in images.to_pylist()]], pa.string())


_NAMES = {_letters(name): name for name in (*NIH_LABELS, _NO_FINDING)}
_VARIABLES = {
    "sex": Variable(kind="categorical", levels=SEX_LEVELS, group="demographic", columns=("Patient Gender",)),
    "age": Variable(kind="numeric", range=AGE_RANGE, unit="years", group="demographic", columns=("Patient Age",)),
    "view": Variable(kind="categorical", levels=_VIEW_LEVELS, group="scan", columns=("View Position",)),
}
