"""Which kinds of image this installation reads: a tiny one of each is written and read again."""

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from chartray.pixels.grey import Integers, UnreadableImage
from chartray.pixels.read import read_image
from chartray.wording import first_line

_SIDE = 16
_NEAR = 0.05  # grey, what a lossy codec may be off


def unread() -> dict[str, str | None]:
    """Each kind of image, and why it is not read; None where it is."""
    grey = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).astype(np.uint16) * 136  # 0 to 4080, of 12 bits
    with TemporaryDirectory() as folder:
        return {name: _reason(name, make, grey, Path(folder, "image")) for name, make in _KINDS.items()}


def _reason(name: str, make: Callable[[Integers], bytes], grey: Integers, file: Path) -> str | None:
    try:
        file.write_bytes(make(grey))
        image = read_image(file)
    except UnreadableImage as error:
        return str(error)
    except Exception as error:  # each library has its own
        return first_line(error)
    wrong = image.shape != grey.shape or float(np.abs(image - grey / 4095).max()) > _NEAR
    return "its pixels come back changed" if wrong else None


def _eight(grey: Integers) -> Integers:
    return (grey >> 4).astype(np.uint8)


def _dicom(pixels: Integers, bits: int, syntax: UID, content: bytes | None = None) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Modality, data.PhotometricInterpretation, data.PixelRepresentation = "DX", "MONOCHROME2", 0
    data.Rows, data.Columns, data.SamplesPerPixel = *pixels.shape, 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * pixels.itemsize, bits, bits - 1
    data.PixelData = pixels.tobytes() if content is None else encapsulate([content])
    data["PixelData"].VR = "OB" if content is not None or bits == 8 else "OW"
    data["PixelData"].is_undefined_length = content is not None
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _compressed(syntax: UID, encode: Callable[[Integers], bytes], bits: int = 12) -> Callable[[Integers], bytes]:
    def make(grey: Integers) -> bytes:
        pixels = _eight(grey) if bits == 8 else grey
        return _dicom(pixels, bits, syntax, encode(pixels))

    return make


def _run_lengths(grey: Integers) -> bytes:
    data = pydicom.dcmread(io.BytesIO(_dicom(grey, 12, ExplicitVRLittleEndian)))
    data.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


_KINDS: dict[str, Callable[[Integers], bytes]] = {
    "JPEG": lambda grey: bytes(imagecodecs.jpeg8_encode(_eight(grey), level=98)),
    "PNG, 8 bits": lambda grey: bytes(imagecodecs.png_encode(_eight(grey))),
    "PNG, 16 bits": lambda grey: bytes(imagecodecs.png_encode((grey << 4).astype(np.uint16))),
    "DICOM": lambda grey: _dicom(grey, 12, ExplicitVRLittleEndian),
    "DICOM, deflated": lambda grey: _dicom(grey, 12, DeflatedExplicitVRLittleEndian),
    "DICOM, RLE": _run_lengths,
    "DICOM, JPEG": _compressed(JPEGBaseline8Bit, lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, level=98)), 8),
    "DICOM, JPEG of 12 bits": _compressed(
        JPEGExtended12Bit, lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=98))
    ),
    "DICOM, JPEG Lossless": _compressed(
        JPEGLosslessSV1,
        lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12)),
    ),
    "DICOM, JPEG-LS": _compressed(JPEGLSLossless, lambda pixels: bytes(imagecodecs.jpegls_encode(pixels))),
    "DICOM, JPEG 2000": _compressed(
        JPEG2000Lossless,
        lambda pixels: bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0)),
    ),
    "DICOM, HTJ2K": _compressed(HTJ2KLossless, lambda pixels: bytes(imagecodecs.htj2k_encode(pixels, reversible=True))),
}
