"""Times in a hospital's own tables: a column, or a template of columns, as text -> times."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.mapping import Mapping
from chartray.records.parsing import by_cell, has_zone, without_zone
from chartray.records.table_values import time_reader
from chartray.records.templates import filled, template_columns

# Of a date, also with its year in four digits; a time of day adds at least two.
_DIGITS_OF_A_DATE = 8


class ReadTimes(NamedTuple):
    """`at` (N,), null if unreadable, in UTC if `zoned` (None: no time); `date_only` (N,); `cells` (N,) as written."""

    at: pa.Array
    zoned: bool | None
    date_only: pa.Array
    cells: pa.Array


def read_times(texts: pa.Table, template: str, formats: Sequence[str], plan: Mapping, where: str) -> ReadTimes:
    """The times that `template` names, a column or several in braces, in one of the strptime `formats`, if any.

    Raises InputError if only some times have a zone: they would be hours apart.
    """
    columns = template_columns(template, plan)
    cells = filled(template, plan, {name: texts[name].combine_chunks() for name in columns})
    read = cache(time_reader(formats))
    zoned = by_cell(cells, lambda cell: has_zone(read(cell)), pa.bool_())
    with_zone, without = (
        pc.equal(zoned, value).fill_null(False).to_numpy(zero_copy_only=False) for value in (True, False)
    )
    if with_zone.any() and without.any():
        first = [int(np.flatnonzero(mask)[0]) + 1 for mask in (with_zone, without)]
        raise InputError(
            f"expected a time zone in all times or in none in column {template!r} of {where}, found one with a "
            f"zone in data row {first[0]} and one without in data row {first[1]}; write all in the same way"
        )
    at = by_cell(cells, lambda cell: without_zone(read(cell)), pa.timestamp("us"))
    digits = pc.utf8_length(pc.replace_substring_regex(cells, r"\.0$|\D", ""))
    alone = pc.less_equal(digits, _DIGITS_OF_A_DATE).fill_null(False)
    return ReadTimes(at, bool(with_zone.any()) if with_zone.any() or without.any() else None, alone, cells)
