"""Protection of csv files against formula injection: no text cell is a formula to a spreadsheet.

A cell that begins with = + - @, a tab or a line break gets a leading apostrophe, which marks text in a spreadsheet:
=cmd becomes '=cmd. Numbers, also -1.0, are unchanged. The rule is OWASP's (CSV Injection).
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

# The full-width forms are formulas in Chinese, Japanese and Korean spreadsheets.
_FORMULA = "^[=+\\-@\t\r\n＝＋－＠]"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# Characters that would split an unquoted cell; some spreadsheets split at semicolons.
_PARTS = '[,;"\t\r\n]'


def harmless(cell: str) -> str:
    """A text cell that is safe in a csv file.

    >>> [harmless(cell) for cell in ("=1+1", "-1.0", "-cmd", "@a", "p10/s5.jpg")]
    ["'=1+1", '-1.0', "'-cmd", "'@a", 'p10/s5.jpg']
    """
    return f"'{cell}" if re.match(_FORMULA, cell) and not re.fullmatch(_NUMBER, cell) else cell


def harmless_columns(table: pa.Table) -> pa.Table:
    """The table with `harmless` applied to its text columns."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = table.column(place)
            risky = pc.and_(
                pc.match_substring_regex(column, _FORMULA),
                pc.invert(pc.match_substring_regex(column, f"^(?:{_NUMBER})\\z")),
            )
            if pc.any(risky).as_py():
                marked = pc.binary_join_element_wise(pa.scalar("", field.type), column, pa.scalar("'", field.type))
                table = table.set_column(place, field.name, pc.if_else(risky, marked, column).cast(field.type))
    return table


def needs_quotes(column: pa.ChunkedArray) -> bool:
    """Whether a cell of a text column needs quotes to stay one cell."""
    return bool(pc.any(pc.match_substring_regex(column, _PARTS)).as_py())
