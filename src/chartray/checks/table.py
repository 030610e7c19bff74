"""A cohort's rows: the contract, patients, splits, labels; all that is wrong, not the first thing alone."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.checks.finding import Finding, films, rows
from chartray.records.cohort import column_types
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, SPLITS, CohortMetadata
from chartray.truth import Policy, blanks, blanks_said, counted, odd_cells, truth_of, unsaid

# Evaluation gives no interval, and takes no label into the macro mean, below so many patients of each class.
FEWEST_PATIENTS = 10
_NEEDED = ("image_id", "patient_id", "path", "split")
_USES = {"train": "pretraining and probes", "validate": "the choice of a probe", "test": "an honest score"}

Integers = npt.NDArray[np.int64]


def contract(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Columns, types, blanks, doubled ids and paths, unknown splits."""
    again = "make the cohort again with `chartray cohort`"
    for name, kind in column_types(metadata).items():
        if name not in table.column_names:
            yield Finding("error", f"the column {name!r} is missing", where, table.num_rows, again)
        elif table.schema.field(name).type != kind:
            found = table.schema.field(name).type
            yield Finding("error", f"the column {name!r} is {found}, not {kind}", where, table.num_rows, again)
    if table.num_rows == 0:
        yield Finding("error", "there is no film", where, 0, "the flow beside the cohort says where they went")
    for name in (name for name in _NEEDED if name in table.column_names):
        blank = np.flatnonzero(pc.is_null(table[name]).to_numpy())
        if len(blank):
            what = f"{films(len(blank))} without {name}"
            yield Finding("error", what, f"{where}, {rows(blank)}", len(blank), "fill it in, or leave these rows out")
    if "image_id" in table.column_names:
        again_ = repeats(table["image_id"])
        if len(again_):
            what = f"{films(len(again_))} with an image_id that an earlier row has"
            remedy = "give every film an id of its own: predictions are matched by it"
            yield Finding("error", what, f"{where}, {rows(again_)}", len(again_), remedy)
    if "path" in table.column_names:
        again_ = repeats(table["path"])
        if len(again_):
            what = f"{films(len(again_))} that are the file of an earlier row"
            remedy = "one file is one film: leave the repetitions out, or correct the paths"
            yield Finding("warning", what, f"{where}, {rows(again_)}", len(again_), remedy)


def patients_and_splits(table: pa.Table, where: str) -> Iterator[Finding]:
    """Splits that are unknown or empty, and patients in two of them."""
    split = table["split"]
    unknown = np.flatnonzero(pc.invert(pc.is_in(split, value_set=pa.array(SPLITS))).to_numpy())
    unknown = unknown[pc.is_valid(split).to_numpy()[unknown]]
    if len(unknown):
        what = f"{films(len(unknown))} in a split that is none of {', '.join(SPLITS)}"
        yield Finding("error", what, f"{where}, {rows(unknown)}", len(unknown), f"name them {', '.join(SPLITS)}")
    shared = patients_in_two_splits(table)
    if len(shared):
        patients = len(pc.unique(table["patient_id"].take(pa.array(shared))))
        what = f"{patients:,} patient{'' if patients == 1 else 's'} with films in two splits"
        remedy = "draw the splits by patient: a model would be tested on patients it has seen"
        yield Finding("error", what, f"{where}, {rows(shared)}", patients, remedy)
    for name in SPLITS:
        if table.num_rows and not pc.any(pc.equal(split, name)).as_py():
            remedy = f"{_USES[name]} will need one; a data set that is only scored elsewhere does not"
            if name == "test":
                remedy = "no score on this data set will be an honest one without it"
            yield Finding("warning", f"the {name} split is empty", where, 0, remedy)


def labels(table: pa.Table, metadata: CohortMetadata, where: str) -> Iterator[Finding]:
    """Cells that are none of 1, 0, -1; labels without a positive or a negative film; too few patients to score.

    A blank counts here as its source says, as in `evaluate` unless told otherwise, and an uncertain one as nothing.
    """
    names = [name for name in metadata.labels if LABEL_PREFIX + name in table.column_names]
    if not names:
        yield Finding("note", "there is no label", where, 0, "pretraining needs none; evaluation does")
    if metadata.absent_labels:
        what = f"the source's files lack {listed(metadata.absent_labels)}"
        yield Finding("note", what, where, len(metadata.absent_labels), "nothing, if they were not to be there")
    for name in names:
        odd = np.flatnonzero(odd_cells(table, name))
        if len(odd):
            what = f"{films(len(odd))} with a {name!r} that is none of 1, 0, -1 and blank"
            remedy = "correct the cells, or say in the mapping what they mean"
            yield Finding("error", what, f"{where}, {rows(odd)}", len(odd), remedy)
    names = [name for name in names if not odd_cells(table, name).any()]
    yield from _blank(table, names, where)
    yield from _classes(table, names, where)


def _blank(table: pa.Table, names: list[str], where: str) -> Iterator[Finding]:
    """Of how many films each label is blank, and what that counts as."""
    found = {label: one for label, one in blanks(table).items() if label in names and one["mean"] != "not said"}
    for line in blanks_said(found):
        yield Finding("note", line, where, sum(int(one["cells"]) for one in found.values()), "nothing")
    if open_ := unsaid(table, names):
        what = f"blank labels of which the cohort does not say what they mean: {counted(open_)}"
        remedy = "make the cohort again, or say --blank negative or --blank ignore to evaluate"
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
            what = f"in the {place} split {listed(single)} {'has' if len(single) == 1 else 'have'} one class"
            remedy = "no probe is fitted there" if place == "train" else "nothing can be scored or chosen there"
            yield Finding("warning", what, where, len(single), f"{remedy}: leave the label out, or split otherwise")
        if few and place != "validate":
            what = f"in the {place} split fewer than {FEWEST_PATIENTS} patients of a class: {listed(few)}"
            remedy = "such a label gets no interval and stays out of the macro mean"
            if place == "train":
                remedy = "a probe of so few patients says little"
            yield Finding("warning" if place == "test" else "note", what, where, len(few), remedy)


def repeats(column: pa.ChunkedArray) -> Integers:
    """The rows whose value an earlier row has."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return np.flatnonzero(~first & (codes >= 0)).astype(np.int64)


def patients_in_two_splits(table: pa.Table) -> Integers:
    """The rows of patients who have films in more than one split."""
    patients = table["patient_id"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    splits = table["split"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    pairs = np.unique(np.stack([patients, splits], axis=1)[patients >= 0], axis=0)
    several, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.flatnonzero(np.isin(patients, several[counts > 1])).astype(np.int64)


def complete(table: pa.Table, metadata: CohortMetadata) -> bool:
    """Whether every column is there, so that the other checks can be made at all."""
    types = column_types(metadata)
    return table.num_rows > 0 and all(
        name in table.column_names and table.schema.field(name).type == kind for name, kind in types.items()
    )


def listed(names: list[str], most: int = 14) -> str:
    """Names after each other.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def observed(table: pa.Table, variable: str) -> pa.ChunkedArray:
    """The column of a variable."""
    return table[EHR_PREFIX + variable]
