"""Race and ethnicity as MIMIC-IV's admissions write it -> five groups, for audits of what an encoder has learnt.

The column is `ethnicity` in release 1.0 and `race` from 2.0 on, with some thirty values ("WHITE - RUSSIAN"). A value is
of the group whose word it begins with; UNKNOWN, UNABLE TO OBTAIN, PATIENT DECLINED TO ANSWER and blank are missing; all
others (AMERICAN INDIAN/ALASKA NATIVE, NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER, MULTIPLE RACE/ETHNICITY, PORTUGUESE,
SOUTH AMERICAN, OTHER) are `other`. It is what a clerk wrote down, a coarse social category and no biology.
"""

import pyarrow as pa
import pyarrow.compute as pc

RACE_LEVELS = ("white", "black", "hispanic", "asian", "other")
# Its name from 2.0 on, and in 1.0.
RACE_COLUMNS = ("race", "ethnicity")
_NOT_SAID = ("", "UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER")


def race_group(cell: str | None) -> str | None:
    """The group of one cell.

    >>> [race_group(cell) for cell in ("WHITE - RUSSIAN", "BLACK/CAPE VERDEAN", "MULTIPLE RACE/ETHNICITY", "UNKNOWN")]
    ['white', 'black', 'other', None]
    """
    word = (cell or "").strip().upper()
    if word in _NOT_SAID:
        return None
    return next((level for level in RACE_LEVELS[:-1] if word.startswith(level.upper())), RACE_LEVELS[-1])


def race_column(admissions: pa.Table) -> str | None:
    """The column that the admissions have it in, if any."""
    return next((name for name in RACE_COLUMNS if name in admissions.column_names), None)


def race_of_films(subjects: pa.ChunkedArray, admissions: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The group of each film's patient (null: not known), and a cell it was read from, in the order of `subjects`.

    A patient is of the group that most of the admissions say where it is known, of the first such in the table where
    two say as many: a fact of the person like sex, whichever admission a film belongs to.
    """
    column = race_column(admissions)
    assert column is not None
    cells = admissions[column].cast(pa.string()).combine_chunks().dictionary_encode()
    groups = pa.array([race_group(cell) for cell in cells.dictionary.to_pylist()], pa.string()).take(cells.indices)
    patients = admissions["subject_id"].cast(pa.string())
    rows = pa.table(
        {"patient": patients, "group": groups, "cell": cells.dictionary_decode(), "row": pa.array(range(len(groups)))}
    )
    known = rows.filter(pc.is_valid(rows["group"])).group_by(["patient", "group"])
    counted = known.aggregate([("row", "count"), ("row", "min")])
    # Most admissions first, then the first of them: the first row of a patient is the one that counts.
    order = pc.sort_indices(counted, [("row_count", "descending"), ("row_min", "ascending")])
    counted = counted.take(order)
    of_patient = counted["group"].take(pc.index_in(subjects, value_set=counted["patient"].combine_chunks()))
    said = rows["cell"].take(pc.index_in(subjects, value_set=rows["patient"].combine_chunks()))
    return of_patient.combine_chunks(), said.combine_chunks()
