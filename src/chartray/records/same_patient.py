"""Which ids of a hospital's own table belong to one patient: `same_patient` of its mapping."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.identifiers import canonical_ids
from chartray.records.reading import header, read_cells

# Lists of ids, one list per patient; the name of a csv; or "spelling": all ids that differ only in spelling.
Same = tuple[tuple[str, ...], ...] | str | None
SPELLING: Literal["spelling"] = "spelling"
_FORMS = (
    "needs lists of ids of one patient, [[P0001, p0001]], the name of a csv with two columns (an id, and the id that "
    "replaces it), or 'spelling' (ids that differ only in case, leading zeros, blanks or .0 are one patient)"
)


class Merging(NamedTuple):
    """`one`: canonical id -> the id that replaces it, or "spelling"; `named`: the ids given in the mapping or csv."""

    one: dict[str, str] | Literal["spelling"]
    named: list[str]


def checked_same(same: Any) -> Any:
    """The checked value of `same_patient`; raises ValueError, without any id, for another form."""
    if same is None or same == SPELLING or (isinstance(same, str) and same.lower().endswith((".csv", ".csv.gz"))):
        return same
    if not isinstance(same, list):
        raise ValueError(_FORMS)
    for place, ids in enumerate(same, start=1):
        if not isinstance(ids, list) or len(ids) < 2 or not all(_is_id(each) for each in ids):
            raise ValueError(f"{_FORMS}; entry {place} is not a list of at least two ids (quote each id)")
    return tuple(tuple(str(each) for each in ids) for ids in same)


def merging(same: Same, mapping: Path, *, exact: bool = False) -> Merging | None:
    """The ids of one patient according to the `mapping` file; None if it has no `same_patient`.

    The first id of a list replaces the others; a csv is in the folder of the `mapping`; `exact` as for `identifiers`.
    Raises InputError for a csv in another form, a cell without an id, and an id with two replacements.
    """
    if same is None:
        return None
    if same == SPELLING:
        return Merging(SPELLING, [])
    if isinstance(same, str):
        pairs = _pairs_of_file(mapping.parent / same, exact)
    else:
        pairs = _pairs_of_lists(same, mapping, exact)
    above: dict[str, str] = {}

    def top(one: str) -> str:
        while above.setdefault(one, one) != one:
            one = above[one]
        return one

    for one, standing in pairs:
        above[top(one)] = top(standing)
    return Merging({one: top(one) for one in above}, list(dict.fromkeys(one for one, _ in pairs)))


def _pairs_of_lists(lists: Sequence[Sequence[str]], mapping: Path, exact: bool) -> list[tuple[str, str]]:
    pairs = []
    for place, spellings in enumerate(lists, start=1):
        where = f"{mapping} (entry {place}, its ids counted as rows)"
        listed = canonical_ids(pa.array(spellings, pa.string()), "same_patient", where, exact=exact)
        ids = _given(listed, "same_patient", where)
        pairs += [(one, ids[0]) for one in ids]
    return pairs


def _pairs_of_file(file: Path, exact: bool) -> list[tuple[str, str]]:
    if not file.is_file():
        raise InputError(f"expected the csv of same_patient at {file}, found none; check its name")
    names = header(file)
    if len(set(names)) != 2 or len(names) != 2:
        raise InputError(
            f"expected two columns in {file}, an id and the id that replaces it, found {len(names)} columns; keep two"
        )
    cells = read_cells(file, names)
    columns = []
    for name in names:
        what = f"column {name!r}"
        columns.append(_given(canonical_ids(cells[name], what, str(file), exact=exact), what, str(file)))
    first: dict[str, int] = {}
    for row, one in enumerate(columns[0]):
        if columns[1][first.setdefault(one, row)] != columns[1][row]:
            raise InputError(
                f"expected one patient for each id in {file}, found two for the id of data rows {first[one] + 1} and "
                f"{row + 1}; correct the file"
            )
    return list(zip(*columns, strict=True))


def _given(ids: pa.Array, what: str, where: str) -> list[str]:
    if ids.null_count:
        row = int(np.flatnonzero(pc.is_null(ids).to_numpy(zero_copy_only=False))[0]) + 1
        raise InputError(f"expected an id as {what} in every row of {where}, found none in data row {row}; add it")
    found: list[str] = ids.to_pylist()
    return found


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
