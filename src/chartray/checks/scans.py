"""Checks of what an image shows, where the cohort knows it: modality, body part, view, burned-in text, orientation."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from chartray.checks.finding import Finding, rows
from chartray.records.dicom_tags import CHEST
from chartray.records.missing import ABSENT, told
from chartray.schema import EHR_PREFIX, SCAN_PREFIX
from chartray.wording import plural

_RADIOGRAPHS = ("CR", "DX", "X-ray", "RG", "DR")
_SAID = {"modality": "Modality", "body_part": "body part", "view": "view"}
# What makes an image one that pretraining of chest radiographs does not expect, by column.
_EXPECTED = {"modality": _RADIOGRAPHS, "body_part": (CHEST,)}
_LATERAL = ("LATERAL", "LL", "RL", "L")


def scans(table: pa.Table, where: str) -> Iterator[Finding]:
    """Modality, body part and view by count, images that are no chest radiographs, laterals, burned-in text, turned."""
    for name, said in _SAID.items():
        column = _known(table, name)
        if column is None:
            continue
        blank = int(column.null_count)
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(column.drop_null()).to_pylist()}
        named = ", ".join(f"{cell} {count:,}" for cell, count in told(counts, absent=blank).items())
        yield Finding("note", f"{said}: {named.replace(ABSENT, 'not stated')}", where, len(column), "nothing")
        others = _others(name, column)
        if len(others):
            what = f"{plural(len(others), 'image')} whose {said} is not {' or '.join(_EXPECTED[name])}"
            remedy = "leave them out of the cohort unless they are chest radiographs"
            yield Finding("warning", what, f"{where}, {rows(others)}", len(others), remedy)
    yield from _laterals(table, where)
    yield from _burned(table, where)
    turned = _known(table, "turned")
    if turned is not None and pc.any(turned).as_py():
        count = int(pc.sum(turned).as_py())
        what = f"{plural(count, 'image')} turned or mirrored, as their headers say; `ingest` makes them upright"
        yield Finding(
            "note", what, where, count, "look at some of them: with a wrong header, left and right are exchanged"
        )


def _known(table: pa.Table, name: str) -> pa.Array | None:
    """The column of the tags, else the variable of this name."""
    for prefix in (SCAN_PREFIX, EHR_PREFIX):
        if f"{prefix}{name}" in table.column_names:
            return table[f"{prefix}{name}"].combine_chunks()
    return None


def _others(name: str, column: pa.Array) -> list[int]:
    """The places of the images whose cell is none of those expected; a blank may be one."""
    expected = [cell.casefold() for cell in _EXPECTED.get(name, ())]
    if not expected or not pa.types.is_string(column.type):
        return []
    among = pc.is_in(pc.utf8_lower(column), value_set=pa.array(expected))
    found: list[int] = pc.indices_nonzero(pc.and_(pc.invert(among), pc.is_valid(column))).to_pylist()
    return found


def _laterals(table: pa.Table, where: str) -> Iterator[Finding]:
    view = _known(table, "view")
    if view is None or not pa.types.is_string(view.type):
        return
    lateral = pc.indices_nonzero(pc.is_in(view, value_set=pa.array(_LATERAL))).to_pylist()
    if 0 < len(lateral) < len(view):
        what = f"{plural(len(lateral), 'lateral view')} among frontal views"
        remedy = "leave them out (--no-laterals, or keep in the mapping) if the task is about frontal views"
        yield Finding("note", what, f"{where}, {rows(lateral)}", len(lateral), remedy)


def _burned(table: pa.Table, where: str) -> Iterator[Finding]:
    """Whether text may be part of the pixels; hardly any header says that there is none."""
    column = _known(table, "burned_in")
    if column is None:
        return
    said = pc.utf8_upper(column.cast(pa.string()))
    with_text = pc.indices_nonzero(pc.is_in(said, value_set=pa.array(["YES", "TRUE"]))).to_pylist()
    if with_text:
        what = f"{plural(len(with_text), 'image')} with burned-in text, which may name a patient"
        remedy = "leave them out of the cohort"
        yield Finding("warning", what, f"{where}, {rows(with_text)}", len(with_text), remedy)
    unsaid = int(column.null_count)
    if unsaid:
        of = f"{unsaid:,} of {plural(len(column), 'image')}"
        what = f"burned-in text: the header of {of} does not say whether there is any"
        yield Finding("note", what, where, unsaid, "look at some before you share images: text may name a patient")
