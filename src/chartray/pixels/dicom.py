"""DICOM -> one grey image, upright, or the reason why not.

**Refused**, with the reason: anything but a single-frame radiograph (Modality other than CR, DX, RG, DR, RF, DF, SC, HC
or OT; storage classes of other kinds; several frames); raw detector signal (FOR PROCESSING); pixels
that are floating-point or of 1 bit; headers that contradict the pixels (bits, size, tables); truncated pixel data.

**Bits.** BitsStored bits up to HighBit count, signed or not. Other bits are cut off where under 5 % of the pixels have
them set (old overlays) or an overlay claims them. If more do, the bits of a codestream are believed; an uncompressed
file is refused.

**Grey scale.** The modality table, else slope and intercept. Then the first VOI table, else the first window with a
valid width (LINEAR, LINEAR_EXACT, SIGMOID), that leaves at least half of the pixels in the middle half of the image
neither black nor white: a default of 128/256 beside 12 bits does not. Else the range of the stored bits. An image of
more than 8 bits that uses under a quarter of that scale is stretched (`grey.over_range`). MONOCHROME1 is inverted;
PresentationLUTShape, where it is IDENTITY or INVERSE, decides instead. Padding is air (0). Colour becomes luma.

**Direction.** PatientOrientation says where rows and columns point to; without it, ImageOrientationPatient. The image
is turned so that columns run from head to foot, and flipped so that rows run to the patient's left, as usual. Rows that
run to front or back (laterals) are left as they are, and so is an image without a stated orientation.
FieldOfViewHorizontalFlip describes the detector; PatientOrientation includes it.

**Proportions.** Images whose pixels are not square are resampled to square pixels (`dicom_proportions.py`).
"""

import io
import re
import zlib
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_color_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from chartray.pixels.dicom_frame import Frame, Stored, decoded, stored
from chartray.pixels.dicom_grey import read_table, shades
from chartray.pixels.dicom_proportions import proportions
from chartray.pixels.grey import (
    LARGEST_IMAGE,
    LUMA,
    Float,
    Levels,
    Reals,
    UnreadableImage,
    levels_of,
    over_range,
    refuse_too_large,
)

DICM = b"DICM"
_META_LENGTH, META_WITHIN = b"\x02\x00\x00\x00UL\x04\x00", 1024
RADIOGRAPHS = ("CR", "DX", "RG", "DR", "RF", "DF", "SC", "HC", "OT")
# Storage classes that hold pixels but no radiograph, whatever their Modality says.
_OTHER_CLASSES = re.compile(
    r"^(CT|MR|Enhanced|Legacy|Ultrasound|Nuclear|Positron|X-Ray Angio|X-Ray 3D|Breast|Digital Mammo|Digital Intra|"
    r"VL |Video|Ophthalmic|RT |Segmentation|Parametric|Intravascular|Wide|Corneal)"
)
_KINDS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB")
# What a reason may name, since the standard has it (PS3.3, C.7.3.1.1.1 and C.7.6.3.1.2): any other word may be a name.
OTHER_MODALITIES = (
    "CT",
    "MR",
    "MG",
    "US",
    "NM",
    "PT",
    "XA",
    "IO",
    "PX",
    "ES",
    "XC",
    "GM",
    "SM",
    "OP",
    "SR",
    "SEG",
    "PR",
)
_OTHER_KINDS = (
    "HSV",
    "ARGB",
    "CMYK",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_PARTIAL_420",
    "YBR_PARTIAL_422",
    "YBR_ICT",
    "YBR_RCT",
)
Number = TypeVar("Number", bound=np.generic)
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "H": "F", "F": "H"}
BYTES_PER_PIXEL = 8
_PIECE = 1 << 20


def read_dicom(content: bytes, largest: int = LARGEST_IMAGE) -> Float:
    """The image in a DICOM file, (H, W) in [0, 1], dark = air, upright; UnreadableImage says why not.

    `largest`: maximum of rows x columns, checked before the image is decoded.
    """
    data = _dataset(content, largest)
    refuse_no_radiograph(data)
    square = proportions(data)
    refuse_too_large(square.rows, square.columns, largest)
    frame = decoded(data)
    if frame.samples.ndim == 3:
        levels, grey = _luma(frame, data)
    else:
        image = stored(frame, data)
        levels, grey = image.levels, _palette(image, data) if frame.colour == "PALETTE COLOR" else shades(image, data)
    if not np.isfinite(grey).all():
        raise UnreadableImage("its header gives grey values that are not finite")
    if square != levels.places.shape:
        return np.ascontiguousarray(upright(square.drawn(levels.shown(grey)), data))
    return Levels(upright(levels.places, data), levels.number).shown(grey)


def _dataset(content: bytes, largest: int) -> pydicom.Dataset:
    if content[128:132] == DICM:
        refuse_a_bomb(content, BYTES_PER_PIXEL * largest)
        data = pydicom.dcmread(io.BytesIO(content))
    else:
        # Old archives leave out the 128 bytes and `DICM`: taken for DICOM only if it holds a described picture.
        reason = UnreadableImage("the file is not a JPEG, PNG or DICOM")
        try:
            data = pydicom.dcmread(io.BytesIO(content), force=True)
        except Exception:
            raise reason from None
        if not ("PixelData" in data and "Rows" in data and "BitsStored" in data):
            raise reason
    if not data.file_meta.get("TransferSyntaxUID"):
        # Then the pixels are as the header around them was found to be written.
        implicit, little_endian = data.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return data


def is_deflated(content: bytes) -> bool:
    """Whether the file that begins with `content` holds a deflated data set."""
    return str(DeflatedExplicitVRLittleEndian).encode() in content[:META_WITHIN]


def refuse_a_bomb(content: bytes, largest: int) -> None:
    """A deflated data set must be inflated before its size can be read: first without keeping it."""
    if not is_deflated(content):
        return
    if content[132:140] != _META_LENGTH:
        raise UnreadableImage("its deflated data cannot be located: the length of its file meta information is missing")
    waiting = content[144 + int.from_bytes(content[140:144], "little") :]
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while waiting and not inflater.eof:
        size += len(inflater.decompress(waiting, _PIECE))
        waiting = inflater.unconsumed_tail
        if size > largest:
            raise UnreadableImage("its deflated data are larger than an image may be (--max-megapixels)")


def refuse_no_radiograph(data: pydicom.Dataset, *, header_only: bool = False) -> None:
    """UnreadableImage with the reason if `data` is not one frame of whole numbers that shows a radiograph.

    `header_only`: the data set was read up to its pixels, so that they are not asked for.
    """
    modality = str(data.get("Modality") or "").strip().upper()
    if modality and modality not in RADIOGRAPHS:
        named = modality if modality in OTHER_MODALITIES else "of no known kind"
        raise UnreadableImage(f"its Modality is {named}, not that of a radiograph ({', '.join(RADIOGRAPHS)})")
    storage = UID(str(data.get("SOPClassUID") or "")).name
    if _OTHER_CLASSES.match(storage):
        raise UnreadableImage(f"it is stored as {storage}, which is not a radiograph")
    if "FOR PROCESSING" in str(data.get("PresentationIntentType") or "").upper() or "For Processing" in storage:
        raise UnreadableImage("it is FOR PROCESSING: raw detector signal; use the image FOR PRESENTATION")
    if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        raise UnreadableImage("its pixels are floating-point numbers; a radiograph has integers")
    if "PixelData" not in data and not header_only:
        raise UnreadableImage("the DICOM file has no pixel data")
    for name in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"):
        if data.get(name) in (None, ""):
            raise UnreadableImage(f"its header does not say {name}")
    frames = int(data.get("NumberOfFrames") or 1)
    if frames != 1:
        raise UnreadableImage(f"the DICOM file holds {frames} frames; a radiograph has one")
    allocated = int(data.BitsAllocated)
    if allocated not in (8, 16, 32):
        raise UnreadableImage(f"its pixels have {allocated} bits allocated, expected 8, 16 or 32")
    kind, samples = str(data.PhotometricInterpretation), int(data.get("SamplesPerPixel") or 1)
    if samples != (1 if kind in _KINDS[:3] else 3) or not (kind in _KINDS or kind.startswith("YBR_")):
        named = kind if kind in (*_KINDS, *_OTHER_KINDS) else "no known kind"
        raise UnreadableImage(f"its pixels are {samples} samples of {named}, expected grey, palette, RGB or YBR")


def _luma(frame: Frame, data: pydicom.Dataset) -> tuple[Levels, Reals]:
    """Secondary captures (H, W, 3): luma (Rec. 601), over the range of the stored bits."""
    bits = frame.stream.precision if frame.stream is not None else int(data.get("BitsStored") or data.BitsAllocated)
    if not 0 < bits <= 16:
        raise UnreadableImage(f"its colours have {bits} bits, expected 1 to 16")
    kind = np.uint8 if bits <= 8 else np.uint16
    # Y is the luma already.
    values = frame.samples[..., 0] if frame.colour.startswith("YBR") else np.rint(frame.samples[..., :3] @ LUMA)
    levels, shown = levels_of(np.ascontiguousarray(values).astype(kind))
    low, high = (16 << bits - 8, 235 << bits - 8) if "PARTIAL" in frame.colour else (0, (1 << bits) - 1)
    grey = (shown - low) / (high - low)
    return levels, over_range(grey, levels) if bits > 8 else np.clip(grey, 0, 1)


def _palette(image: Stored, data: pydicom.Dataset) -> Reals:
    """The luma of each level's colour."""
    if "SegmentedRedPaletteColorLookupTableData" in data:
        colours = apply_color_lut(image.values.astype(np.uint16).reshape(1, -1), data)[0]
        return np.asarray(colours @ LUMA) / np.iinfo(colours.dtype).max
    tables = [
        read_table(data, "palette", data, signed=image.signed, of=f"{colour}PaletteColorLookupTable")
        for colour in ("Red", "Green", "Blue")
    ]
    top = max(table.top for table in tables)
    return np.asarray(sum(table.of(image.values) * share for table, share in zip(tables, LUMA, strict=True)) / top)


def upright(pixels: npt.NDArray[Number], data: pydicom.Dataset) -> npt.NDArray[Number]:
    """`pixels` (H, W) with the head up and, in a frontal view, the patient's right on the left; a view of them."""
    turns = turns_of(data)
    if turns.sideways:
        pixels = pixels.T
    if turns.upside_down:
        pixels = pixels[::-1]
    return pixels[:, ::-1] if turns.mirrored else pixels


class Turns(NamedTuple):
    """What makes an image upright: rows and columns exchanged, then rows and columns reversed."""

    sideways: bool = False
    upside_down: bool = False
    mirrored: bool = False


def turns_of(data: pydicom.Dataset) -> Turns:
    """How the header says that the stored image has to be turned; `upright` does it."""
    row, column = _directions(data)
    sideways = bool(row) and row in "HF" and column in "RLAP"
    if sideways:
        row, column = column, row
    if not row or column not in "HF":  # a slice across the body, or a patient looked at from the feet
        return Turns()
    return Turns(sideways, column == "H", row == "R")


def _directions(data: pydicom.Dataset) -> tuple[str, str]:
    """Where a row and a column run to, each R, L, A, P, H or F, or blank: nothing is said, or nothing that fits."""
    if data.get("AnatomicalOrientationType") == "QUADRUPED":
        return "", ""
    said = data.get("PatientOrientation") or ()
    if not isinstance(said, str) and len(said) == 2 and all(said):
        row, column = (str(direction)[:1].upper() for direction in said)
    else:
        cosines = [float(number) for number in data.get("ImageOrientationPatient") or ()]
        if len(cosines) != 6 or not np.isfinite(cosines).all():
            return "", ""
        row, column = _letter(cosines[:3]), _letter(cosines[3:])
    known = row in _OPPOSITE and column in _OPPOSITE and column not in (row, _OPPOSITE[row])
    return (row, column) if known else ("", "")


def _letter(cosines: list[float]) -> str:
    """The main direction of a vector in DICOM's patient coordinates: x to the left, y to the back, z to the head."""
    axis = int(np.argmax(np.abs(cosines)))
    return ("LR", "PA", "HF")[axis][int(cosines[axis] < 0)]
