"""The 23 csv files of the published code, with the same folders, names and columns.

A path that a spreadsheet would read as a formula (=cmd) gets a leading apostrophe (`csv_cells`).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from chartray.csv_cells import harmless_columns, needs_quotes
from chartray.errors import InputError
from chartray.features.chart import encode, item_encoding
from chartray.features.sets import FEATURE_SETS, LEVELS, variable_of
from chartray.outputs.guard import refuse_other
from chartray.outputs.replacing import replaced_folder
from chartray.outputs.seal import SUMS_FILE
from chartray.schema import EHR_PREFIX, ICU_LEVELS, MORTALITY_LEVELS, CohortMetadata, from_metadata

# The published names of true and false for a boolean variable.
_BOOLEANS = {"mortality": (MORTALITY_LEVELS[1], MORTALITY_LEVELS[0]), "icu": ICU_LEVELS}
# Marks the folder as written by Chartray, so that it may be replaced.
_MARKER = "features.json"
_SINGLE = ("sex", "age-norm", "view", "position", "mortality", "icu")


class FeatureFiles(NamedTuple):
    """`written`: set -> rows written, and images excluded for a missing value.

    `lacking`: set that was not written -> what the cohort lacks for it ("age", "sex with only the levels male,
    female"). `wanting` is its inverse: what the cohort lacks -> the sets that were not written.
    """

    written: dict[str, tuple[int, int]]
    lacking: dict[str, str]
    wanting: dict[str, list[str]]


def write_feature_csvs(cohort: pa.Table, out: Path) -> FeatureFiles:
    """Writes the published csv files, one per set: `path` relative to the image folder, then the published columns.

    Images with a missing value are excluded from a file and counted. A set is not written if the cohort lacks one of
    its variables or has it in another kind or with other levels. Boolean icu and mortality become icu / not_icu and
    died / alive. Raises InputError if no set can be written, or if `out` is not empty and not earlier feature files.
    """
    _check_replaceable(out)
    metadata = from_metadata(cohort.schema.metadata)
    written: dict[str, tuple[int, int]] = {}
    lacking: dict[str, str] = {}
    wanting: dict[str, list[str]] = {}
    tables: dict[str, pa.Table] = {}
    paths = _relative(cohort["path"], metadata.image_root)
    cells: dict[str, tuple[list[pa.Array], npt.NDArray[np.bool_], tuple[str, ...]]] = {}
    for name, feature in FEATURE_SETS.items():
        absent = [why for item in feature.items if (why := _lacking(item, metadata)) is not None]
        if absent:
            lacking[name] = ", ".join(absent)
            for why in absent:
                wanting.setdefault(why, []).append(name)
            continue
        for item in feature.items:
            if item not in cells:
                cells[item] = _csv_cells(item, cohort)
        complete = np.logical_and.reduce([cells[item][1] for item in feature.items])
        columns = {
            column: cell for item in feature.items for column, cell in zip(cells[item][2], cells[item][0], strict=True)
        }
        table = pa.table({"path": paths} | columns).filter(pa.array(complete))
        tables[feature.file] = table
        written[name] = (table.num_rows, cohort.num_rows - table.num_rows)
    if not written:
        raise InputError(
            f"expected at least one of the published variables {', '.join((*LEVELS, 'age'))} in the cohort, "
            f"found {', '.join(metadata.variables) or 'none'}; it lacks "
            f"{'; '.join(lacking[name] for name in _SINGLE)}; no file was written"
        )
    ours = {_MARKER, SUMS_FILE, *(f"{feature.file}.csv" for feature in FEATURE_SETS.values())}
    with replaced_folder(out, kept=lambda name: name not in ours) as partial:
        said = {"made_by": "chartray features", "source": metadata.source}
        (partial / _MARKER).write_text(json.dumps(said) + "\n", encoding="utf-8")
        for name, table in tables.items():
            _write_csv(table, partial / f"{name}.csv")
    return FeatureFiles(written, lacking, wanting)


def _lacking(item: str, metadata: CohortMetadata) -> str | None:
    """What the cohort lacks for `item`, to follow "the cohort has no"; None if it can be written."""
    name = variable_of(item)
    variable = metadata.variables.get(name)
    if variable is None:
        return name
    if name == "age":
        if variable.kind != "numeric":
            return f"age as a number (it is {variable.kind})"
        return None if variable.unit in (None, "years") else f"age in years (it is in {variable.unit})"
    if variable.kind == "boolean" and name in _BOOLEANS:
        return None
    levels = f"{name} with only the levels {', '.join(LEVELS[name])}"
    if variable.kind != "categorical":
        return f"{levels} (it is {variable.kind})"
    if set(variable.levels) <= set(LEVELS[name]):
        return None
    return (
        f"{levels} (it has {', '.join(variable.levels)}; map cells to published levels in the mapping, levels: "
        f"{{CELL: {LEVELS[name][0]}}}; cells without a level are missing)"
    )


def _check_replaceable(out: Path) -> None:
    """Raises InputError if `out` is neither empty nor a folder of ours: the published one holds the same names."""
    refuse_other(out, lambda names: "" if _MARKER in names else "no earlier feature files")


def _csv_cells(item: str, cohort: pa.Table) -> tuple[list[pa.Array], npt.NDArray[np.bool_], tuple[str, ...]]:
    """The cells of an item's published columns, which rows have a value, and the columns' names."""
    variable = from_metadata(cohort.schema.metadata).variables[variable_of(item)]
    encoding = item_encoding(item, variable, published=True)
    column = cohort[EHR_PREFIX + encoding.variable]
    if variable.kind == "boolean":
        column = pc.if_else(column, *_BOOLEANS[encoding.variable])
    entries, observed = encode(encoding, column)
    cells = []
    for column in entries.T:
        distinct, place = np.unique(column, return_inverse=True)
        cells.append(pa.array([repr(float(value)) for value in distinct]).take(pa.array(place)))
    return cells, observed, encoding.columns


def _write_csv(table: pa.Table, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.write((",".join(table.column_names) + "\n").encode())
        style = "needed" if needs_quotes(table["path"]) else "none"
        csv.write_csv(harmless_columns(table), stream, csv.WriteOptions(include_header=False, quoting_style=style))


def _relative(paths: pa.ChunkedArray, root: str) -> pa.ChunkedArray:
    prefix = root.rstrip("/") + "/"
    inside = pc.starts_with(paths, prefix)
    return pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(prefix)), paths) if root else paths
