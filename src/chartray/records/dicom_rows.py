"""The headers of DICOM files -> the table of a cohort: variables as text, and why files are left out."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chartray.pixels.dicom import OTHER_MODALITIES, RADIOGRAPHS
from chartray.pixels.dicom_header import has_text
from chartray.records.dicom_tags import CHEST, DISAGREE, age_of, first_number, part_of, time_of, view_of
from chartray.records.identifiers import placeholders_among
from chartray.records.levels import sex_level
from chartray.records.missing import tellable
from chartray.records.table_ids import Exclusion

_IDS = ("SOPInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "AccessionNumber")
_PAIRS = {
    "StudyDate": "StudyTime",
    "AcquisitionDate": "AcquisitionTime",
    "ContentDate": "ContentTime",
}
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "StudyDescription", "AcquisitionDeviceProcessingDescription")
TAGS = (
    *_IDS,
    *("Modality", "SOPClassUID", "BurnedInAnnotation"),
    *("PatientSex", "PatientAge", "PatientBirthDate"),
    *("ViewPosition", "ViewCodeSequence", "PatientPosition", "BodyPartExamined", "AnatomicRegionSequence"),
    *_DESCRIPTIONS,
    *_PAIRS,
    *_PAIRS.values(),
    *("Manufacturer", "ManufacturerModelName", "PixelSpacing", "ImagerPixelSpacing", "Exposure", "ExposureInuAs"),
)
# The storage classes of radiographs, for a file without Modality.
_CLASSES = {"1.2.840.10008.5.1.4.1.1.1": "CR", "1.2.840.10008.5.1.4.1.1.1.1": "DX"}
_MOST_LEVELS = 30
_CHEST_ONLY = "chest, or no body part named"

Flags = npt.NDArray[np.bool_]
Texts = list[str]


class Kept(NamedTuple):
    """Which images are kept: the Modality, and whether lateral views are."""

    modalities: tuple[str, ...]
    laterals: bool


class DicomRows(NamedTuple):
    """`table`: one row a file, all text: the tags, and file, stem, folder, sex, age, view, time, manufacturer, model,
    pixel_spacing, exposure. `left_out`: the exclusions. `scan`: what the tags say of an image. `sources`: name -> the
    tag that says it, for each file.
    """

    table: pa.Table
    left_out: list[Exclusion]
    scan: dict[str, pa.Array]
    sources: dict[str, Texts]


def rows_of(headers: pa.Table, kept: Kept) -> DicomRows:
    """The rows of all files; `headers` has the columns of `read_headers` and the `TAGS`."""
    tags = {name: _without_placeholders(headers[name]) for name in headers.column_names if name in TAGS}
    view, view_from = _each(view_of, *(tags[name] for name in _VIEW_TAGS))
    descriptions = list(zip(*(tags[name] for name in _DESCRIPTIONS), strict=True))
    part, part_from = _each(part_of, tags["BodyPartExamined"], tags["AnatomicRegionSequence"], descriptions)
    age, age_from = _each(age_of, tags["PatientAge"], tags["PatientBirthDate"], tags["StudyDate"])
    pairs = list(zip(*(_pairs(tags, day, clock) for day, clock in _PAIRS.items()), strict=True))
    time, time_from = _each(time_of, pairs)
    kinds = zip(tags["Modality"], tags["SOPClassUID"], strict=True)
    modality = [(name or _CLASSES.get(kind, "")).upper() for name, kind in kinds]
    paths = [Path(file) for file in headers["file"].to_pylist()]
    made: dict[str, Sequence[str | None]] = {
        "stem": [path.stem for path in paths],
        "folder": [path.parts[0] if len(path.parts) > 1 else None for path in paths],
        "sex": [sex_level(cell) or cell for cell in tags["PatientSex"]],
        # A cell that could not be read is counted as what it is.
        "age": [cell if years is None else f"{years:g}" for years, cell in zip(age, tags["PatientAge"], strict=True)],
        "view": [
            value or (f"({source})" if source == DISAGREE else cell)
            for value, source, cell in zip(view, view_from, tags["ViewPosition"], strict=True)
        ],
        "time": time,
        "manufacturer": _one_spelling(tags["Manufacturer"]),
        "model": _one_spelling(tags["ManufacturerModelName"]),
        "pixel_spacing": _numbers(first_number, tags["PixelSpacing"], tags["ImagerPixelSpacing"]),
        "exposure": _numbers(_exposure, tags["Exposure"], tags["ExposureInuAs"]),
    }
    written = [name for name in headers.column_names if name == "file" or name in tags or has_text(name)]
    columns = {name: headers[name].combine_chunks() for name in written}
    columns |= {name: pa.array([value or None for value in values], pa.string()) for name, values in made.items()}
    burned = [cell.upper() if cell.upper() in ("YES", "NO") else None for cell in tags["BurnedInAnnotation"]]
    scan = {
        "modality": pa.array([name or None for name in modality], pa.string()),
        "body_part": pa.array(part, pa.string()),
        "burned_in": pa.array(burned, pa.string()),
        "turned": headers["turned"].combine_chunks(),
    }
    left_out = _left_out(headers, kept, modality, part, burned, view)
    sources = {"view": view_from, "body part": part_from, "age": age_from, "time": time_from}
    return DicomRows(pa.table(columns), left_out, scan, sources)


_VIEW_TAGS = ("ViewPosition", "ViewCodeSequence", "PatientPosition", "SeriesDescription")


def levels_of(column: pa.Array, stays: pa.Array) -> list[str]:
    """The names in a column of the rows that stay, most frequent first; none that may be a person's or a date."""
    counts = Counter(cell for cell in column.filter(stays).to_pylist() if cell is not None and tellable(cell))
    return [name for name, _ in counts.most_common(_MOST_LEVELS)]


def _left_out(
    headers: pa.Table,
    kept: Kept,
    modality: Texts,
    part: Sequence[str | None],
    burned: Sequence[str | None],
    view: Sequence[str | None],
) -> list[Exclusion]:
    """In the order in which they are counted."""
    asked = " or ".join(kept.modalities)
    steps: dict[str, list[str | None]] = {
        "images in DICOM": headers["instead"].to_pylist(),
        f"Modality {asked}": [None if name in kept.modalities else _modality(name) for name in modality],
        "one frame, for presentation": [_problem(text) for text in headers["problem"].to_pylist()],
        _CHEST_ONLY: [None if name in (None, CHEST) else str(name) for name in part],
        "no burned-in text": ["BurnedInAnnotation YES" if cell == "YES" else None for cell in burned],
    }
    if not kept.laterals:
        steps["no lateral view"] = ["a lateral view" if each == "LATERAL" else None for each in view]
    exclusions = [
        Exclusion(step, pa.array(reasons, pa.string()), cells=step == _CHEST_ONLY) for step, reasons in steps.items()
    ]
    stays = np.ones(headers.num_rows, dtype=np.bool_)
    for each in exclusions:
        stays &= pc.is_null(each.reasons).to_numpy(zero_copy_only=False)
    return [*exclusions, Exclusion("each SOPInstanceUID once", _copies(headers, stays), cells=False)]


def _copies(headers: pa.Table, stays: Flags) -> pa.Array:
    """Why a later file with the same SOPInstanceUID is left out: one of two patients is no copy."""
    first: dict[str, str | None] = {}
    reasons: list[str | None] = []
    for uid, patient, stay in zip(
        headers["SOPInstanceUID"].to_pylist(), headers["PatientID"].to_pylist(), stays.tolist(), strict=True
    ):
        if not stay or uid is None or uid not in first:
            reasons.append(None)
            if stay and uid is not None:
                first[uid] = patient
        else:
            same = first[uid] == patient
            reasons.append("a copy of another file" if same else "the SOPInstanceUID of another patient's file")
    return pa.array(reasons, pa.string())


def _modality(name: str) -> str:
    """What may be said of a Modality: a defined term; any other word may be a name."""
    return name if name in (*RADIOGRAPHS, *OTHER_MODALITIES) else "another Modality" if name else "no Modality"


def _problem(text: str | None) -> str | None:
    """The reader's reason, without its number of frames."""
    return re.sub(r"holds \d+ frames", "holds several frames", text) if text else None


def _without_placeholders(column: pa.ChunkedArray) -> Texts:
    """The cells, "" if blank or a placeholder such as UNKNOWN."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    no_value = placeholders_among(encoded.dictionary).to_pylist() if names else []
    meant = ["" if nothing else name for name, nothing in zip(names, no_value, strict=True)]
    return ["" if place is None else meant[place] for place in encoded.indices.to_pylist()]


def _each(read: Callable[..., tuple[object, str]], *columns: Sequence[object]) -> tuple[list[Any], Texts]:
    """The value and its source of each row."""
    found = [read(*cells) for cells in zip(*columns, strict=True)]
    return [value for value, _ in found], [source for _, source in found]


def _pairs(tags: dict[str, Texts], day: str, clock: str) -> list[tuple[str, str, str]]:
    return [(day.removesuffix("Date"), *cells) for cells in zip(tags[day], tags[clock], strict=True)]


def _numbers(read: Callable[..., float | None], *columns: Sequence[str]) -> list[str | None]:
    """Each row's number as text; one that cannot be read is the first cell, so that it is counted."""
    found = []
    for cells in zip(*columns, strict=True):
        value = read(*cells)
        found.append(next((cell for cell in cells if cell), None) if value is None else f"{value:g}")
    return found


def _exposure(whole: str, thousandths: str) -> float | None:
    """In mAs, also from ExposureInuAs."""
    return first_number(whole) or first_number(thousandths, scale=0.001)


def _one_spelling(names: Texts) -> Texts:
    """Names that differ only in case, blanks and signs, in their most frequent spelling."""
    counts = Counter(name for name in names if name)
    spelled: dict[str, str] = {}
    for name, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        spelled.setdefault(_letters(name), name)
    return [spelled[_letters(name)] if name else "" for name in names]


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
