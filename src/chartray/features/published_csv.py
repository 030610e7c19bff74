"""The 23 csv files of the published code: same folders, names and columns."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from chartray.errors import InputError
from chartray.features.chart import encode, item_encoding
from chartray.features.sets import FEATURE_SETS, LEVELS, variable_of
from chartray.schema import EHR_PREFIX, from_metadata


class FeatureFiles(NamedTuple):
    """For each set its rows written and films left out for a missing value; for the other sets what is lacking."""

    written: dict[str, tuple[int, int]]
    lacking: dict[str, str]


def write_feature_csvs(cohort: pa.Table, out: Path) -> FeatureFiles:
    """The published csv files, one a set: `path` relative to the image folder, then METHOD's columns.

    A film with a missing value is left out of a file and counted. Sets whose variables the cohort lacks are not
    written; raises InputError if that is all of them.
    """
    metadata = from_metadata(cohort.schema.metadata)
    written: dict[str, tuple[int, int]] = {}
    lacking: dict[str, str] = {}
    paths = _relative(cohort["path"], metadata.image_root)
    cells: dict[str, tuple[list[pa.Array], npt.NDArray[np.bool_], tuple[str, ...]]] = {}
    for name, feature in FEATURE_SETS.items():
        absent = [variable_of(item) for item in feature.items if variable_of(item) not in metadata.variables]
        if absent:
            lacking[name] = ", ".join(absent)
            continue
        for item in feature.items:
            if item not in cells:
                cells[item] = _csv_cells(item, cohort)
        complete = np.logical_and.reduce([cells[item][1] for item in feature.items])
        columns = {
            column: cell for item in feature.items for column, cell in zip(cells[item][2], cells[item][0], strict=True)
        }
        table = pa.table({"path": paths} | columns).filter(pa.array(complete))
        _write_csv(table, out / f"{feature.file}.csv")
        written[name] = (table.num_rows, cohort.num_rows - table.num_rows)
    if not written:
        raise InputError(
            f"expected at least one of {', '.join((*LEVELS, 'age'))} in the cohort, "
            f"found {', '.join(metadata.variables) or 'none'}"
        )
    return FeatureFiles(written, lacking)


def _csv_cells(item: str, cohort: pa.Table) -> tuple[list[pa.Array], npt.NDArray[np.bool_], tuple[str, ...]]:
    """The text of an item's published columns, which rows have it, and the columns' names."""
    variable = from_metadata(cohort.schema.metadata).variables[variable_of(item)]
    encoding = item_encoding(item, variable, published=True)
    entries, observed = encode(encoding, cohort[EHR_PREFIX + encoding.variable])
    cells = []
    for column in entries.T:
        distinct, place = np.unique(column, return_inverse=True)
        cells.append(pa.array([repr(float(value)) for value in distinct]).take(pa.array(place)))
    return cells, observed, encoding.columns


def _write_csv(table: pa.Table, file: Path) -> None:
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.write((",".join(table.column_names) + "\n").encode())
            style = "needed" if pc.any(pc.match_substring_regex(table["path"], '[,"\n]')).as_py() else "none"
            csv.write_csv(table, stream, csv.WriteOptions(include_header=False, quoting_style=style))
        partial.replace(file)
    except OSError as error:
        raise InputError(f"expected to write {file}, found {error.strerror}") from None


def _relative(paths: pa.ChunkedArray, root: str) -> pa.ChunkedArray:
    prefix = root.rstrip("/") + "/"
    inside = pc.starts_with(paths, prefix)
    return pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(prefix)), paths) if root else paths
