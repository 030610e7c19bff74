"""Templates of columns in a mapping: paths such as {mrn}/{image_id:0>8}.dcm, times such as {StudyDate} {StudyTime}."""

import re
import string
from collections.abc import Mapping as Mapped
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chartray.errors import InputError
from chartray.records.mapping import Mapping

_IDS = ("image_id", "patient_id", "study_id", "taken_at", "split")
# The format of a text: fill, alignment and width.
_LAYOUT = re.compile(r"(?:.?[<>^])?\d{0,3}")


class _Piece(NamedTuple):
    literal: str
    column: str | None
    layout: str


def template_columns(template: str, plan: Mapping) -> list[str]:
    """The columns of a template: the one it names, or those in braces (ids also by their key).

    Raises InputError for an invalid template.
    """
    return list(dict.fromkeys(part.column for part in _parts(template, plan) if part.column is not None))


def filled(template: str, plan: Mapping, cells: Mapped[str, pa.Array]) -> pa.StringArray:
    """(N,) texts of a template from the text `cells` of each of its columns; null if one of them is."""
    columns = [
        pa.scalar(part.literal) if part.column is None else _laid_out(cells[part.column], part.layout)
        for part in _parts(template, plan)
    ]
    return pc.binary_join_element_wise(*columns, "")


def on_this_machine(written: pa.StringArray, where: str) -> pa.StringArray:
    r"""Paths with the separators of this machine; `\` of Windows is replaced.

    Raises InputError, with the data row in `where`, for a drive, a network share or a URL.
    """
    elsewhere = pc.match_substring_regex(written, r"^([A-Za-z]:|\\\\|[A-Za-z][A-Za-z0-9+.-]*://)")
    if pc.any(elsewhere).as_py():
        row = pc.index(elsewhere, True).as_py() + 1
        raise InputError(
            f"expected paths relative to --images in {where}, found a drive, a network share or a URL in "
            f"data row {row}; write paths relative to the image folder"
        )
    return pc.replace_substring(written, "\\", "/")


def _parts(template: str, plan: Mapping) -> list[_Piece]:
    if "{" not in template:
        return [_Piece("", template, "")]
    parts: list[_Piece] = []
    try:
        for literal, name, layout, conversion in string.Formatter().parse(template):
            if literal:
                parts.append(_Piece(literal, None, ""))
            if name is None:
                continue
            if conversion or not _LAYOUT.fullmatch(layout or ""):
                raise ValueError("a column may only have a fill, an alignment and a width, as in {image_id:0>8}")
            parts.append(_Piece("", (getattr(plan, name, None) or name) if name in _IDS else name, layout or ""))
    except ValueError as error:
        example = "{image_id}.jpg or {StudyDate} {StudyTime}"
        raise InputError(f"expected a template such as {example}, found {template!r}: {error}") from None
    return parts


def _laid_out(cells: pa.Array, layout: str) -> pa.Array:
    if not layout:
        return cells
    return pa.array([None if cell is None else format(cell, layout) for cell in cells.to_pylist()], pa.string())
