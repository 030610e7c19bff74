"""Label cells -> 1, 0, -1 (uncertain) or null; the meaning of a blank is metadata (`LabelSource.blank`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.identifiers import whole_numbers
from chartray.records.missing import count_missing
from chartray.records.reading import (
    columns_found,
    find_csv,
    header,
    need_csv,
    read_cells,
    refuse_blank,
    refuse_empty,
    refuse_repeated,
)
from chartray.schema import BLANK_PREFIX, CHEXPERT_LABELS, LABEL_PREFIX, LabelSource

# The radiologists' file of MIMIC-CXR-JPG 2.1.0 uses the older name of one finding.
_ALIASES = {"Lung Opacity": "Airspace Opacity"}


class Labels(NamedTuple):
    """Label `columns` by cohort column, their `sources`, which of the 14 labels are `absent` from the files.

    `missing` counts unreadable cells by value. `read` images have the radiologists' labels; `read_rows` says which
    (None without such a file).
    """

    columns: dict[str, pa.Array]
    sources: dict[str, LabelSource]
    absent: list[str]
    missing: dict[str, dict[str, int]]
    read: int = 0
    read_rows: pa.Array | None = None


class StudyCells(NamedTuple):
    """The `content` of a `file` with one row per study; study_id is a whole number, `names` maps labels to columns."""

    file: Path
    content: pa.Table
    names: Mapping[str, str]


def label_values(cells: Any) -> tuple[pa.Array, dict[str, int]]:
    """Text cells -> float64 labels, and counts of cells other than 1, 0 and -1.

    >>> label_values(pa.array(["1.0", "-1.0", "", None]))[0].to_pylist()
    [1.0, -1.0, None, None]
    """
    cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
    encoded = cells if isinstance(cells, pa.DictionaryArray) else cells.cast(pa.string()).dictionary_encode()
    values = pa.array([_label_value(cell) for cell in encoded.dictionary.to_pylist()], pa.float64())
    labels = values.take(encoded.indices)
    return labels, count_missing(cells, labels)


def blank_column(label: str, values: Any, blank: Any) -> dict[str, pa.Array]:
    """The cohort's column of a label's `blank` cells; empty if these are exactly its nulls.

    >>> blank_column("Edema", pa.array([1.0, None]), pa.array([False, True]))
    {}
    """
    same = pc.all(pc.equal(pc.is_null(values, nan_is_null=True), blank)).as_py()
    return {} if same in (True, None) else {BLANK_PREFIX + label: blank}


def label_columns(cells: Mapping[str, Any], file: Path, named: Mapping[str, Any] | None = None) -> Labels:
    """Those of the 14 labels that `cells` has, from `file`; raises InputError if it has none.

    The labeller leaves findings blank that a report does not mention, so a blank means negative. `named` says for which
    images the files have a cell of a label (default: all); without a cell the label is unknown, not blank.
    """
    present = present_labels(list(cells), file)
    columns: dict[str, pa.Array] = {}
    missing = {}
    for name in present:
        values, missing[LABEL_PREFIX + name] = label_values(cells[name])
        blank = pc.is_null(cells[name])
        if named is not None and name in named:
            blank = pc.and_(blank, named[name])
        columns |= {LABEL_PREFIX + name: values} | blank_column(name, values, blank)
    sources = {name: LabelSource(columns=(name,), blank="negative") for name in present}
    return Labels(columns, sources, [name for name in CHEXPERT_LABELS if name not in present], missing)


def present_labels(columns: list[str], file: Path) -> list[str]:
    """Which of the 14 labels are in `columns`; raises InputError if none."""
    present = [name for name in CHEXPERT_LABELS if name in columns]
    if not present:
        raise InputError(
            f"expected at least one of the labels {', '.join(CHEXPERT_LABELS)} as a column of {file}, "
            f"found {columns_found(columns, 12)}"
        )
    return present


def read_study_cells(folder: Path, stem: str, read_stem: str | None) -> tuple[StudyCells, StudyCells | None]:
    """The labeller's cells of `stem`.csv and the radiologists' cells of `read_stem`.csv, for the same labels."""
    file = need_csv(folder, stem)
    present = present_labels(header(file), file)
    labelled = _study_cells(file, {name: name for name in present})
    read_file = find_csv(folder, read_stem) if read_stem else None
    if read_file is None:
        return labelled, None
    columns = header(read_file)
    names = {name: name if name in columns else _ALIASES.get(name, name) for name in present}
    return labelled, _study_cells(read_file, {name: column for name, column in names.items() if column in columns})


def study_labels(studies: Any, labelled: StudyCells, read: StudyCells | None) -> Labels:
    """The labels of each row's study: the radiologists' if they read it, else the labeller's."""
    cells, there = _of_studies(studies, labelled)
    named = dict.fromkeys(cells, there)
    images, found = 0, None
    if read is not None:
        theirs, found = _of_studies(studies, read)
        images = int(pc.sum(found).as_py() or 0)
        for name, cell in theirs.items():
            cells[name] = pc.if_else(found, cell.cast(pa.string()), cells[name].cast(pa.string()))
            named[name] = pc.or_(there, found)
    return label_columns(cells, labelled.file, named)._replace(read=images, read_rows=found)


def _study_cells(file: Path, names: Mapping[str, str]) -> StudyCells:
    key = "study_id"
    columns = list(names.values())
    content = read_cells(file, [key, *columns], repeating=columns, types={key: pa.int64()})
    refuse_empty(content, file)
    content = content.set_column(0, key, whole_numbers(content[key], key, str(file)))
    refuse_blank(content, [key], file)
    refuse_repeated(content, key, file)
    return StudyCells(file, content, names)


def _of_studies(studies: Any, given: StudyCells) -> tuple[dict[str, pa.Array], pa.Array]:
    """The cells of each row's study by label, and whether the file has the study."""
    place = pc.index_in(studies, value_set=given.content["study_id"].combine_chunks())
    place = place.combine_chunks() if isinstance(place, pa.ChunkedArray) else place
    cells = {name: given.content[column].combine_chunks().take(place) for name, column in given.names.items()}
    return cells, pc.is_valid(place)


def _label_value(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if value in (1.0, 0.0, -1.0) else None
