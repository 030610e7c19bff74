"""The header of a DICOM file -> texts by keyword, without its pixels.

What the reader of images would refuse by the header alone is said here in its own words, so that a cohort need not
hold an image that `ingest` sends to quarantine.
"""

import io
import logging
import re
import warnings
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from chartray.pixels.dicom import (
    BYTES_PER_PIXEL,
    DICM,
    META_WITHIN,
    is_deflated,
    refuse_a_bomb,
    refuse_no_radiograph,
    turns_of,
)
from chartray.pixels.grey import LARGEST_IMAGE, UnreadableImage
from chartray.pixels.read import content_of, opened

# What decides whether the reader takes the image, and how it turns it.
_READER = (
    "Modality",
    "SOPClassUID",
    "PresentationIntentType",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "PatientOrientation",
    "ImageOrientationPatient",
    "AnatomicalOrientationType",
)
# The first group of a file without the 128 bytes and `DICM`, in either order of bytes.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_LONGEST = 1024
_NO_TEXT = ("SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "AT")
_CODE_PARTS = ("CodeValue", "CodeMeaning")


class Header(NamedTuple):
    """`texts`: keyword -> text, several values joined by a backslash, "" if blank; of a code its value and its meaning.

    `problem`: why the reader of images would refuse it, "" if not by its header. `turned`: whether the header says that
    the reader turns or mirrors the image.
    """

    texts: dict[str, str]
    problem: str
    turned: bool


class NoImage(Exception):
    """A file that is no image in DICOM; its text says what it is instead."""


def has_text(keyword: str) -> bool:
    """Whether it is a keyword of DICOM's dictionary whose value is text or numbers."""
    tag = tag_for_keyword(keyword)
    return tag is not None and dictionary_VR(tag) not in _NO_TEXT


def read_header(path: str, keywords: Sequence[str], within: str) -> Header:
    """The header of the DICOM file at `path`, which has to lie in the folder `within` once links are resolved.

    Raises NoImage for another kind of file and for a DICOMDIR, UnreadableImage with the reason for one that cannot be
    read.
    """
    # pydicom writes the values that it finds odd, which may be a patient's, to its log and into warnings.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with opened(path, within) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = _dataset(stream, list(dict.fromkeys((*_READER, *keywords))))
            texts = {keyword: _text(data, keyword) for keyword in keywords}
            return Header(texts, _problem(data), any(turns_of(data)))
        except (NoImage, UnreadableImage, MemoryError):
            raise
        except Exception as error:  # pydicom raises anything on a broken file, with its content in the message
            raise UnreadableImage(f"its header cannot be read ({type(error).__name__})") from None


def _dataset(stream: BinaryIO, tags: list[str]) -> pydicom.Dataset:
    begin = stream.read(META_WITHIN)
    preamble = begin[128:132] == DICM
    if not preamble and begin[:2] not in _FIRST_GROUPS:
        raise NoImage("an empty file" if not begin else "no DICOM")
    stream.seek(0)
    source: BinaryIO = stream
    if is_deflated(begin):
        content = content_of(stream)
        refuse_a_bomb(content, BYTES_PER_PIXEL * LARGEST_IMAGE)
        source = io.BytesIO(content)
    try:
        data = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=tags, force=not preamble)
    except Exception:
        if preamble:
            raise
        raise NoImage("no DICOM") from None
    if data.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise NoImage("a DICOMDIR")
    # Without the preamble it is DICOM only if a picture is described, as for the reader.
    if not preamble and not ("Rows" in data and "BitsStored" in data):
        raise NoImage("no DICOM")
    if not ("Modality" in data or "Rows" in data):
        raise UnreadableImage("its header is cut off: it has neither Modality nor Rows")
    for name in ("SOPClassUID", "SOPInstanceUID"):  # some files without identity have them only before the data set
        if name not in data and f"MediaStorage{name}" in data.file_meta:
            setattr(data, name, data.file_meta[f"MediaStorage{name}"].value)
    return data


def _problem(data: pydicom.Dataset) -> str:
    try:
        refuse_no_radiograph(data, header_only=True)
    except UnreadableImage as reason:
        return str(reason)
    return ""


def _text(data: pydicom.Dataset, keyword: str) -> str:
    """The text of an element; one that does not have the form of its kind as it is written."""
    try:
        value = data.get(keyword)
    except Exception:
        written = data.get_item(keyword).value
        value = written.decode("ascii", "replace") if isinstance(written, bytes) else str(written)
    if value is None:
        return ""
    if isinstance(value, pydicom.Sequence):
        value = [str(value[0].get(part) or "") for part in _CODE_PARTS] if len(value) else []
    if isinstance(value, (list, MultiValue)):
        value = "\\".join(str(part) for part in value)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(value)).strip()[:_LONGEST]
