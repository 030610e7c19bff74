"""Ids of tables in any format -> canonical text or whole numbers; ambiguous ids are refused."""

import re
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.missing import masked

# Placeholders for a missing id, in any case; so is any text without letters and digits (`-`, `?`, `.`, `***`).
_PLACEHOLDERS = pa.array(
    [
        "nan",
        "nat",
        "na",
        "n/a",
        "n.a.",
        "n.a",
        "n/k",
        "nk",
        "<na>",
        "#n/a",
        "#na",
        "#value!",
        "#ref!",
        "#name?",
        "#div/0!",
        "#null!",
        "#num!",
        "null",
        "(null)",
        "none",
        "nil",
        "\\n",
        "(blank)",
        "blank",
        "empty",
        "(empty)",
        "unknown",
        "unk",
        "undefined",
        "missing",
        "unspecified",
        "anonymous",
        "tbd",
        "tba",
        "inf",
        "-inf",
        "+inf",
        "infinity",
        "-infinity",
        "-1",
        "-9",
        "-99",
        "-999",
        "-9999",
        "unbekannt",
        "k.a.",
        "inconnu",
        "desconocido",
        "not available",
        "not applicable",
        "not known",
        "no id",
        "keine angabe",
        "k. a.",
    ]
)
_NO_SIGN = r"^[^\pL\pN]+$"
_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
# Excel, pandas and C write a sign in the exponent, Java a decimal point; hexadecimal ids (024e7871) have neither.
_SCIENTIFIC = r"^[+-]?[0-9]+([.,][0-9]+[eE][+-]?[0-9]+|[eE][+-][0-9]+)$"
_EXPONENT = r"^[+-]?[0-9]+[eE][0-9]+$"  # 12e7: a number if all others are numbers, else a hexadecimal id
_NUMBER = r"^[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?$"
_WHOLE = r"^([+-]?[0-9]+)[.,]0+$"
_GROUPED = r"^[+-]?[0-9]{1,3}[.,][0-9]{3}$"  # 1.000 is ambiguous: 1 or 1000
_FRACTION = r"^[+-]?[0-9]+[.,][0-9]+$"
_INTEGER = r"^[+-]?[0-9]{1,18}$"
# From here on, two whole numbers can be the same float.
_EXACT_BELOW = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
_AS_TEXT = "write the column as text where the table was exported"
_REMEDY = "correct the table"

Rows = npt.NDArray[np.int64]


def identifiers(
    column: pa.Array | pa.ChunkedArray,
    what: str,
    where: str,
    *,
    one: Mapping[str, str] | Literal["spelling"] | None = None,
    remedy: str = _REMEDY,
    exact: bool = False,
    way_out: str = "",
) -> tuple[pa.Array, dict[str, int]]:
    """The ids of a column as canonical text, null if blank or a placeholder, and counts of the placeholders.

    Surrounding blanks are removed, and whole numbers lose their decimal point (1000.0 is `1000`). `one` merges ids:
    canonical id -> the id that replaces it, or "spelling" for all ids that differ only in spelling. With `exact`, an id
    is the text of its cell: 1000.0 and 1000 are two ids, and so are P1 and p1.
    Errors name the column `what` and the table `where`. They end with `remedy` for ids that look alike, and with
    `way_out` for ids that look like numbers.

    Raises InputError for fractions, scientific notation, floats too large to be exact, control characters, and ids
    that differ only in case, leading zeros, blanks or `.0` (masked, with their data rows).

    >>> identifiers(pa.array(["1000.0", " 17 ", "N/A", None]), "patient_id", "images.csv")
    (<pyarrow.lib.StringArray object at ...>
    [
      "1000",
      "17",
      null,
      null
    ], {'N/A': 1})
    """
    texts = _texts(column, what, where)
    encoded = texts.dictionary_encode()
    spellings = cast(pa.StringArray, encoded.dictionary)
    canonical, no_id = _canonical(spellings, encoded.indices, what, where, exact=exact, way_out=way_out)
    counts = np.bincount(encoded.indices.drop_null().to_numpy(), minlength=len(spellings))
    places = np.flatnonzero(no_id)
    placeholders = {spellings[place].as_py(): int(counts[place]) for place in places}
    keys = _key(spellings)
    if one == "spelling":
        canonical = _smallest_of(canonical, keys)
    else:
        if one:
            canonical = pa.array([one.get(text, text) if text else text for text in canonical.to_pylist()], pa.string())
        if not exact:
            _refuse_variants(spellings, canonical, keys, encoded.indices, what, where, one or {}, remedy)
    return canonical.take(encoded.indices), placeholders


def canonical_ids(column: pa.Array | pa.ChunkedArray, what: str, where: str, *, exact: bool = False) -> pa.StringArray:
    """As `identifiers`, but similar ids are accepted."""
    encoded = _texts(column, what, where).dictionary_encode()
    spellings = cast(pa.StringArray, encoded.dictionary)
    canonical, _ = _canonical(spellings, encoded.indices, what, where, exact=exact)
    return canonical.take(encoded.indices)


def spelling_keys(ids: pa.StringArray) -> pa.StringArray:
    """A key for each canonical id that all its spellings share: case, blanks, quotes, leading zeros."""
    return _key(ids)


def refuse_other_spellings(
    ids: pa.StringArray, what: str, others: pa.StringArray, place: Callable[[int], str], remedy: str
) -> None:
    """Raises InputError for the first of the `ids` that is not among the `others`, but in another spelling is.

    `what` names the column of the ids, `place` a row of the others.
    """
    alone = pc.and_(pc.is_valid(ids), pc.invert(pc.is_in(ids, value_set=others.drop_null())))
    # An id of the others that has its equal belongs to that one.
    free = pc.and_(pc.is_valid(others), pc.invert(pc.is_in(others, value_set=ids.drop_null())))
    keys = _key(others.filter(free))
    found = pc.index_in(pc.if_else(alone, _key(ids), pa.scalar(None, pa.string())), value_set=keys)
    rows = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False))
    if len(rows):
        other = int(np.flatnonzero(free.to_numpy(zero_copy_only=False))[found[rows[0]].as_py()])
        a, b = ids[rows[0]].as_py(), others[other].as_py()
        raise InputError(
            f"expected one spelling of each id, found {masked(a)} in data row {rows[0] + 1} of {what} and {masked(b)} "
            f"in {place(other)} (digits as 9, letters as a), which differ only in {_difference(a, b)}; {remedy}"
        )


def refuse_control(texts: pa.StringArray, what: str, where: str) -> None:
    """Raises InputError for a text with a NUL byte or another control character."""
    encoded = texts.dictionary_encode()
    wrong = pc.match_substring_regex(encoded.dictionary, _CONTROL)
    _refuse(wrong, encoded.indices, what, where, "a control character", "remove it from the table", expected="text")


def placeholders_among(texts: pa.Array) -> pa.BooleanArray:
    """Which texts are placeholders for a missing value, such as `NULL`, `n/a`, `?` and `-`; numbers are values."""
    words = pc.is_in(pc.utf8_lower(texts), value_set=_PLACEHOLDERS)
    return pc.and_(pc.or_(words, pc.match_substring_regex(texts, _NO_SIGN)), pc.invert(_numbers(texts)))


def _numbers(texts: pa.Array) -> pa.BooleanArray:
    return pc.match_substring_regex(texts, r"^[+-]?[0-9]")


def whole_numbers(column: pa.Array | pa.ChunkedArray, what: str, where: str) -> pa.Array:
    """(N,) int64: ids that are whole numbers in their source, null if blank or a placeholder.

    `0012`, `12` and `12.0` are the same id. Raises InputError as `identifiers`, and for ids that are not whole numbers.

    >>> whole_numbers(pa.array(["10000100.0", "10000032", "-", None]), "subject_id", "admissions.csv").to_pylist()
    [10000100, 10000032, None, None]
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_signed_integer(column.type):
        return column.cast(pa.int64())
    encoded = _texts(column, what, where).dictionary_encode()
    spellings = cast(pa.StringArray, encoded.dictionary)
    canonical, _ = _canonical(spellings, encoded.indices, what, where)
    other = pc.invert(pc.match_substring_regex(canonical, _INTEGER)).fill_null(False)
    _refuse(other, encoded.indices, what, where, "another form", _REMEDY, expected="whole numbers of up to 18 digits")
    return pc.utf8_ltrim(canonical, "+").cast(pa.int64()).take(encoded.indices)


def _texts(column: pa.Array | pa.ChunkedArray, what: str, where: str) -> pa.StringArray:
    """Trimmed text, null if empty; whole numbers of any type have no decimal point."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = _of_floats(column, what, where)
    elif any(kind(column.type) for kind in (pa.types.is_boolean, pa.types.is_nested, pa.types.is_temporal)):
        raise InputError(
            f"expected ids as {what} of {where}, found a column of type {column.type}; name another column"
        )
    try:
        texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"expected ids as text or numbers as {what} of {where}, found {column.type}; {_AS_TEXT}"
        ) from None
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _of_floats(column: pa.Array, what: str, where: str) -> pa.Array:
    """Floats as text, without a decimal point; `nan` and `inf` are kept as placeholders."""
    limit = _EXACT_BELOW[column.type]
    values = column.cast(pa.float64())
    finite = pc.is_finite(values)
    numbers = pc.if_else(finite, values, pa.scalar(None, pa.float64()))
    rows = pa.array(np.arange(len(column)))
    inexact = pc.greater_equal(pc.abs(numbers), float(limit)).fill_null(False)
    found = f"a float of {limit} or more, for which two ids can be the same number,"
    _refuse(inexact, rows, what, where, found, _AS_TEXT)
    _refuse(pc.not_equal(numbers, pc.floor(numbers)).fill_null(False), rows, what, where, "a fraction", _AS_TEXT)
    return pc.if_else(finite, numbers.cast(pa.int64()).cast(pa.string()), values.cast(pa.string()))


def _canonical(
    spellings: pa.StringArray, indices: pa.Array, what: str, where: str, *, exact: bool = False, way_out: str = ""
) -> tuple[pa.StringArray, npt.NDArray[np.bool_]]:
    """The canonical id of each distinct spelling, null for placeholders, and which ones are placeholders."""

    def matching(pattern: str) -> pa.BooleanArray:
        return pc.match_substring_regex(spellings, pattern)

    _refuse(matching(_CONTROL), indices, what, where, "a control character", "remove it from the table")
    numbers = "scientific notation, in which different ids can be the same number,"
    _refuse(matching(_SCIENTIFIC), indices, what, where, numbers, _AS_TEXT)
    whole = matching(_WHOLE)
    canonical = pc.replace_substring_regex(spellings, _WHOLE, r"\1")
    listed = pc.is_in(pc.utf8_lower(canonical), value_set=_PLACEHOLDERS)
    no_id = pc.or_(listed, matching(_NO_SIGN))
    if exact:
        canonical = spellings
    else:
        if pc.all(pc.or_(no_id, matching(_NUMBER))).as_py():
            _refuse(matching(_EXPONENT), indices, what, where, numbers, _AS_TEXT + way_out)
        unclear = pc.or_(matching(_GROUPED), pc.and_not(matching(_FRACTION), whole))
        _refuse(unclear, indices, what, where, "a number with a fraction or a separator", _AS_TEXT + way_out)
    return pc.if_else(no_id, pa.scalar(None, pa.string()), canonical), no_id.to_numpy(zero_copy_only=False)


def _key(ids: pa.StringArray) -> pa.StringArray:
    """A key shared by ids that differ only in case, blanks, quotes, invisible characters, leading zeros or `.0`."""
    key = pc.replace_substring(pc.utf8_lower(pc.utf8_normalize(ids, form="NFKC")), "ß", "ss")
    key = pc.replace_substring_regex(key, r"[\pZ\p{Cf}\s]+", "")
    # Spreadsheets mark the text 0012 as '0012, "0012" or ="0012".
    key = pc.replace_substring_regex(key, """^=?['"](.+?)['"]?$""", r"\1")
    key = pc.replace_substring_regex(key, _WHOLE, r"\1")
    return pc.replace_substring_regex(key, r"^([^0-9]*)0+([0-9])", r"\1\2")


def _smallest_of(canonical: pa.StringArray, keys: pa.StringArray) -> pa.StringArray:
    """For each id the smallest one with the same key, independent of the order of the rows."""
    table = pa.table({"key": keys, "id": canonical})
    smallest = table.group_by("key").aggregate([("id", "min")])
    found = pc.index_in(keys, value_set=smallest["key"].combine_chunks())
    named = smallest["id_min"].combine_chunks().take(found)
    return pc.if_else(pc.is_null(canonical), pa.scalar(None, pa.string()), named)


def _refuse_variants(
    spellings: pa.StringArray,
    canonical: pa.StringArray,
    keys: pa.StringArray,
    indices: pa.Array,
    what: str,
    where: str,
    one: Mapping[str, str],
    remedy: str,
) -> None:
    """Raises InputError for the first two rows whose ids share a key, unless `one` merges them."""
    given = pc.is_valid(canonical)
    # Spellings that the mapping merges are one id; 1000 and 1000.0 are two spellings if it does not.
    said = pc.is_in(canonical, value_set=pa.array(set(one.values()), pa.string()))
    ids = pc.if_else(said, canonical, spellings)
    pairs = pa.table({"key": keys.filter(given), "id": ids.filter(given)}).group_by(["key", "id"]).aggregate([])
    if len(pc.unique(pairs["key"])) == pairs.num_rows:
        return
    first: dict[str, int] = {}
    places, rows = np.unique(indices.fill_null(-1).to_numpy(), return_index=True)
    for place, row in sorted(zip(places.tolist(), rows.tolist(), strict=True), key=lambda pair: pair[1]):
        if place < 0 or not given[place].as_py():
            continue
        before = first.setdefault(keys[place].as_py(), row)
        earlier = indices[before].as_py()
        if ids[earlier] != ids[place]:
            a, b = spellings[earlier].as_py(), spellings[place].as_py()
            raise InputError(
                f"expected one spelling of each id as {what} of {where}, found {masked(a)} in data row {before + 1} "
                f"and {masked(b)} in data row {row + 1} (digits as 9, letters as a), which differ only in "
                f"{_difference(a, b)}; {remedy}"
            )


def _difference(a: str, b: str) -> str:
    if a.casefold() == b.casefold():
        return "upper and lower case"
    if "".join(a.split()) == "".join(b.split()):
        return "blanks"
    if a.strip("='\"") == b.strip("='\""):
        return "quotes"
    if re.sub(r"[.,]0+$", "", a) == re.sub(r"[.,]0+$", "", b):
        return "a decimal .0"
    if re.sub(r"^([^0-9]*)0+(?=[0-9])", r"\1", a) == re.sub(r"^([^0-9]*)0+(?=[0-9])", r"\1", b):
        return "leading zeros"
    return "similar characters, or several of case, blanks, leading zeros and a decimal .0"


def _refuse(
    wrong: pa.BooleanArray, indices: pa.Array, what: str, where: str, found: str, remedy: str, *, expected: str = "ids"
) -> None:
    """Raises InputError with the first data row that has a wrong spelling."""
    if not pc.any(wrong).as_py():
        return
    places = pa.array(np.flatnonzero(wrong.to_numpy(zero_copy_only=False)))
    row = int(np.flatnonzero(pc.is_in(indices.cast(pa.int64()), value_set=places).to_numpy(zero_copy_only=False))[0])
    _raise(what, where, expected, found, row, remedy)


def _raise(what: str, where: str, expected: str, found: str, row: int, remedy: str) -> NoReturn:
    raise InputError(f"expected {expected} as {what} of {where}, found {found} in data row {row + 1}; {remedy}")
