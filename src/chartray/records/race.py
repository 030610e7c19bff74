"""Race and ethnicity in MIMIC-IV's admissions -> five groups, for audits of what an encoder has learnt.

The column is `ethnicity` in release 1.0 and `race` from 2.0 on, with about thirty values ("WHITE - RUSSIAN"). The first
word of a value gives its group. UNKNOWN (also UNKNOWN/NOT SPECIFIED), UNABLE TO OBTAIN, PATIENT DECLINED TO ANSWER, and
cells without a word (?, nan, n/a, blank) are missing. All others (AMERICAN INDIAN/ALASKA NATIVE, NATIVE HAWAIIAN OR
OTHER PACIFIC ISLANDER, MULTIPLE RACE/ETHNICITY, PORTUGUESE, SOUTH AMERICAN, OTHER) are `other`. Race is recorded by
hospital staff: a coarse social category, not biology.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RACE_LEVELS = ("white", "black", "hispanic", "asian", "other")
# Its name from 2.0 on, and in 1.0.
RACE_COLUMNS = ("race", "ethnicity")
# Beginnings of values without information, and how other programs write an empty cell.
_NOT_SAID = ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED", "DECLINED", "NOT SPECIFIED")
_NOTHING = ("", "NAN", "NA", "N/A", "NULL", "NONE", "<NA>")


def race_group(cell: str | None) -> str | None:
    """The group of one cell.

    >>> [race_group(cell) for cell in ("WHITE - RUSSIAN", "BLACK/CAPE VERDEAN", "MULTIPLE RACE/ETHNICITY", "UNKNOWN")]
    ['white', 'black', 'other', None]
    """
    word = (cell or "").strip().upper()
    if word in _NOTHING or word.startswith(_NOT_SAID) or not any(map(str.isalpha, word)):
        return None
    return next((level for level in RACE_LEVELS[:-1] if word.startswith(level.upper())), RACE_LEVELS[-1])


def race_column(admissions: pa.Table) -> str | None:
    """The admissions' column of race, if there is one."""
    return next((name for name in RACE_COLUMNS if name in admissions.column_names), None)


def race_of_images(subjects: pa.ChunkedArray, admissions: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The group of each image's patient (null: unknown) and the cell it was read from, in the order of `subjects`.

    The group is the most frequent one over the patient's admissions, on a tie the first in the table: like sex it is a
    fact of the patient, not of an admission. The cell is the first one of that group, or the first that is not blank if
    no group is known.
    """
    column = race_column(admissions)
    assert column is not None
    images = subjects.combine_chunks().dictionary_encode()
    # Only the admissions of patients with images, one in six.
    owner = pc.index_in(admissions["subject_id"].cast(pa.string()), value_set=images.dictionary)
    rows = admissions.select([column]).append_column("owner", owner).filter(pc.is_valid(owner))
    owners = rows["owner"].to_numpy()
    cells = rows[column].cast(pa.string()).combine_chunks().dictionary_encode()
    levels = [race_group(cell) for cell in cells.dictionary.to_pylist()]
    codes = np.array([-1 if level is None else RACE_LEVELS.index(level) for level in levels] + [-1])
    group = codes[pc.fill_null(cells.indices, len(levels)).to_numpy()]
    known = np.flatnonzero(group >= 0)
    counts = np.zeros((len(images.dictionary), len(RACE_LEVELS)), dtype=np.int64)
    np.add.at(counts, (owners[known], group[known]), 1)
    first = np.full(counts.shape, len(owners), dtype=np.int64)
    np.minimum.at(first, (owners[known], group[known]), known)
    most = np.where(counts == counts.max(axis=1, keepdims=True), first, len(owners)).argmin(axis=1)
    said = pa.array(np.where(counts.any(axis=1), most, len(RACE_LEVELS)).astype(np.int32))
    of_patient = pa.array([*RACE_LEVELS, None], pa.string()).take(said)
    blank = [not (cell or "").strip() for cell in cells.dictionary.to_pylist()] + [True]
    written = np.flatnonzero(~np.array(blank)[pc.fill_null(cells.indices, len(levels)).to_numpy()])
    silent = np.full(len(counts), len(owners), dtype=np.int64)
    np.minimum.at(silent, owners[written], written)
    row = np.where(counts.any(axis=1), first[np.arange(len(counts)), most], silent)
    cell = cells.take(pa.array(row, mask=row == len(owners)))
    return of_patient.take(images.indices), cell.dictionary_decode().take(images.indices)
