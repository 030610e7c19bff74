"""Text cells of the csv files that Chartray writes: none of them is a formula to the spreadsheet that opens it.

A cell that begins with = + - @, a tab or a line break gets an apostrophe before it, which to a spreadsheet means text:
=cmd becomes '=cmd. Numbers stay as they are, -1.0 too. The rule is OWASP's (CSV Injection).
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

# The wide forms are formulas to spreadsheets of Chinese, Japanese and Korean.
_FORMULA = "^[=+\\-@\t\r\n＝＋－＠]"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# What makes a cell two cells, or two rows, where it stands outside quotes; some spreadsheets part cells at semicolons.
_PARTS = '[,;"\t\r\n]'


def harmless(cell: str) -> str:
    """A text cell as it may stand in a csv file.

    >>> [harmless(cell) for cell in ("=1+1", "-1.0", "-cmd", "@a", "p10/s5.jpg")]
    ["'=1+1", '-1.0', "'-cmd", "'@a", 'p10/s5.jpg']
    """
    return f"'{cell}" if re.match(_FORMULA, cell) and not re.fullmatch(_NUMBER, cell) else cell


def harmless_columns(table: pa.Table) -> pa.Table:
    """A table whose text columns are as `harmless` has them; the others are untouched."""
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
    """Whether a cell of a text column has to be quoted, so that it stays one cell of one row."""
    return bool(pc.any(pc.match_substring_regex(column, _PARTS)).as_py())
