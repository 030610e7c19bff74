"""Checks of a cohort's rows: the contract, patients, splits and labels. All problems are listed, not only the first."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.checks.finding import Finding, rows
from chartray.records.cohort import column_types
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, SPLITS, CohortMetadata
from chartray.truth import Policy, blanks, blanks_said, counted, odd_cells, truth_of, unsaid
from chartray.wording import listed, plural

# With fewer patients per class, evaluation gives no interval and leaves the label out of the macro mean.
FEWEST_PATIENTS = 10
_NEEDED = ("image_id", "patient_id", "path", "split")
_USES = {"train": "pretraining and probes need one", "validate": "the selection of a probe needs one"}

Integers = npt.NDArray[np.int64]


def contract(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Columns, types, blank cells, repeated ids and paths."""
    again = "make the cohort again with `chartray cohort`"
    for name, kind in column_types(metadata).items():
        if name not in table.column_names:
            yield Finding("error", f"the column {name!r} is missing", where, table.num_rows, again)
        elif table.schema.field(name).type != kind:
            found = table.schema.field(name).type
            yield Finding("error", f"the column {name!r} is {found}, not {kind}", where, table.num_rows, again)
    if table.num_rows == 0:
        yield Finding("error", "the cohort has no images", where, 0, "its flow file says which step excluded them")
    for name in (name for name in _NEEDED if name in table.column_names):
        blank = np.flatnonzero(pc.is_null(table[name]).to_numpy())
        if len(blank):
            what = f"{plural(len(blank), 'image')} without {name}"
            yield Finding("error", what, f"{where}, {rows(blank)}", len(blank), "fill it in, or exclude these rows")
    if "image_id" in table.column_names:
        again_ = repeats(table["image_id"])
        if len(again_):
            what = f"{plural(len(again_), 'image')} with the image_id of an earlier row"
            remedy = "give every image a unique id: predictions are matched by it"
            yield Finding("error", what, f"{where}, {rows(again_)}", len(again_), remedy)
    if "path" in table.column_names:
        again_ = repeats(table["path"])
        if len(again_):
            what = f"{plural(len(again_), 'image')} with the file of an earlier row"
            remedy = "exclude the duplicates, or correct the paths"
            yield Finding("warning", what, f"{where}, {rows(again_)}", len(again_), remedy)


def patients_and_splits(table: pa.Table, where: str) -> Iterator[Finding]:
    """Unknown and empty splits, and patients in two splits."""
    split = table["split"]
    unknown = np.flatnonzero(pc.invert(pc.is_in(split, value_set=pa.array(SPLITS))).to_numpy())
    unknown = unknown[pc.is_valid(split).to_numpy()[unknown]]
    if len(unknown):
        what = f"{plural(len(unknown), 'image')} in a split other than {', '.join(SPLITS)}"
        yield Finding("error", what, f"{where}, {rows(unknown)}", len(unknown), f"name them {', '.join(SPLITS)}")
    shared = patients_in_two_splits(table)
    if len(shared):
        patients = len(pc.unique(table["patient_id"].take(pa.array(shared))))
        what = f"{plural(patients, 'patient')} with images in two splits"
        remedy = "split by patient, or the model is tested on patients it was trained on"
        yield Finding("error", what, f"{where}, {rows(shared)}", patients, remedy)
    for name in SPLITS:
        if table.num_rows and not pc.any(pc.equal(split, name)).as_py():
            remedy = f"{_USES.get(name, 'evaluation needs one')}; a data set used only as --external does not"
            yield Finding("warning", f"the {name} split is empty", where, 0, remedy)


def labels(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Cells other than 1, 0 and -1, labels with a single class, and labels with too few patients to score.

    Blank cells count as their source says and uncertain ones are ignored, as `evaluate` does by default.
    """
    names = [name for name in metadata.labels if LABEL_PREFIX + name in table.column_names]
    if not names:
        yield Finding("note", "the cohort has no labels", where, 0, "pretraining needs none; evaluation does")
    if metadata.absent_labels:
        what = f"labels missing from the source files: {listed(metadata.absent_labels)}"
        yield Finding("note", what, where, len(metadata.absent_labels), "nothing")
    for name in names:
        odd = np.flatnonzero(odd_cells(table, name))
        if len(odd):
            what = f"{plural(len(odd), 'image')} with {name!r} other than 1, 0, -1 and blank"
            remedy = "correct the cells, or define them in the mapping"
            yield Finding("error", what, f"{where}, {rows(odd)}", len(odd), remedy)
    names = [name for name in names if not odd_cells(table, name).any()]
    yield from _blank(table, names, where)
    yield from _classes(table, names, where)


def _blank(table: pa.Table, names: list[str], where: str) -> Iterator[Finding]:
    """How many cells of each label are blank, and what they count as."""
    found = {label: one for label, one in blanks(table).items() if label in names and one.mean != "not said"}
    for line in blanks_said(found):
        yield Finding("note", line, where, sum(one.cells for one in found.values()), "nothing")
    if open_ := unsaid(table, names):
        what = f"blank labels without a stated meaning: {counted(open_)}"
        remedy = "make the cohort again, or give evaluate --blank negative or --blank ignore"
        yield Finding("warning", what, where, sum(open_.values()), remedy)


def _classes(table: pa.Table, names: list[str], where: str) -> Iterator[Finding]:
    _, patients = np.unique(table["patient_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    split = table["split"].to_numpy(zero_copy_only=False)
    truth = truth_of(table, names, Policy())
    for place in SPLITS:
        here = split == place
        if not here.any():
            continue
        single, few = [], []
        for name, cells in zip(names, truth.T, strict=True):
            counts = [len(np.unique(patients[here & (cells == value)])) for value in (1.0, 0.0)]
            if min(counts) == 0:
                single.append(f"{name} (no {'positive' if counts[0] == 0 else 'negative'})")
            elif min(counts) < FEWEST_PATIENTS:
                few.append(f"{name} ({min(counts)} {'positive' if counts[0] < counts[1] else 'negative'})")
        if single:
            what = f"labels with a single class in the {place} split: {listed(single)}"
            lost = "no probe can be fitted" if place == "train" else "they cannot be scored"
            yield Finding("warning", what, where, len(single), f"{lost}; exclude them, or split differently")
        if few and place != "validate":
            what = f"labels with fewer than {FEWEST_PATIENTS} patients of one class in the {place} split: {listed(few)}"
            remedy = "they get no interval and are not in the macro mean"
            if place == "train":
                remedy = "a probe fitted to so few patients is unreliable"
            yield Finding("warning" if place == "test" else "note", what, where, len(few), remedy)


def repeats(column: pa.ChunkedArray) -> Integers:
    """The rows that repeat the value of an earlier row."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return np.flatnonzero(~first & (codes >= 0)).astype(np.int64)


def patients_in_two_splits(table: pa.Table) -> Integers:
    """The rows of patients with images in more than one split."""
    patients = table["patient_id"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    splits = table["split"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    pairs = np.unique(np.stack([patients, splits], axis=1)[patients >= 0], axis=0)
    several, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.flatnonzero(np.isin(patients, several[counts > 1])).astype(np.int64)


def complete(table: pa.Table, metadata: CohortMetadata) -> bool:
    """Whether all columns exist with their types, as the other checks need."""
    types = column_types(metadata)
    return table.num_rows > 0 and all(
        name in table.column_names and table.schema.field(name).type == kind for name, kind in types.items()
    )


def observed(table: pa.Table, variable: str) -> pa.ChunkedArray:
    """The column of a variable."""
    return table[EHR_PREFIX + variable]
