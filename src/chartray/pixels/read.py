"""JPEG, PNG, DICOM -> one grey image.

Every reader ends in the same place: float32 (H, W) in [0, 1], dark = air (lungs dark, bone bright).

The grey scale is the one that the file states, never one guessed from percentiles: 8-bit values over 255, 16-bit values
over 65535; in DICOM the modality step, then the first VOI look-up table or window, else the stored range (what the
standard displays when a file names no window). One exception: values of more than 8 bits that span under a quarter of
their range are stretched from their smallest to their largest, since 12-bit pictures labelled as 16 bits are common and
would keep 16 grey levels in an 8-bit store. A film and its negative have the same span, so MONOCHROME1 and MONOCHROME2
stay exact mirror images. 16-bit *colour* PNG is read at 8 bits, which is what Pillow gives.
"""

import io
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydicom
from imagecodecs import jpeg8_decode
from PIL import Image, ImageOps
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder, pixel_array
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

Float = npt.NDArray[np.float32]

_JPEG, _PNG, _DICM = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"DICM"
_BEYOND_PYDICOM = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_END_OF_IMAGE, _END_WITHIN = b"\xff\xd9", 16
_EXIF_ORIENTATION = 0x0112
_NARROWEST_SPAN = 0.25
_ROWS_AT_ONCE = 64


class UnreadableFilm(Exception):
    """A film that no reader can use; its text is the reason, one sentence without the path."""


class Film(NamedTuple):
    """A film as read: `image` float32 (h, w) in [0, 1], and the true `height` and `width` in pixels.

    Where a large JPEG was decoded at 1/`scale` of its size, the image covers height / scale by width / scale of its own
    pixels: the last row and column reach beyond the film if that is no whole number.
    """

    image: Float
    height: int
    width: int
    scale: int = 1


def read_image(path: str | Path, *, smallest_side: int | None = None) -> Float:
    """The film at `path`, float32 (H, W) in [0, 1], dark = air, upright; UnreadableFilm says why it cannot be read.

    JPEG (grey, colour, CMYK), PNG (1 to 16 bits, grey, colour, palette, with or without alpha) and single-frame DICOM.
    With `smallest_side`, a JPEG may come back at 1/2, 1/4 or 1/8 of its size, both sides still at least that long.
    """
    return read_film(path, smallest_side=smallest_side).image


def read_film(path: str | Path, *, smallest_side: int | None = None) -> Film:
    """Like `read_image`, with the true height and width."""
    content = _content(Path(path))
    try:
        with warnings.catch_warnings():
            # Odd headers and large films are no news; what cannot be used raises.
            warnings.simplefilter("ignore")
            film = _decode(content, smallest_side)
    except (UnreadableFilm, MemoryError):
        raise
    except Exception as error:
        # Decoders raise anything on broken files: OSError, SyntaxError, struct.error, zlib.error, ...
        raise UnreadableFilm(f"the picture cannot be decoded: {_text(error)}") from error
    if film.image.size == 0:
        raise UnreadableFilm("the picture has no pixels")
    if float(film.image.min()) == float(film.image.max()):
        raise UnreadableFilm("every pixel has the same value")
    return film


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableFilm("no such file") from None
    except OSError as error:
        raise UnreadableFilm(f"the file cannot be opened: {error.strerror}") from None
    if not content:
        raise UnreadableFilm("the file is empty")
    return content


def _decode(content: bytes, smallest_side: int | None) -> Film:
    if content.startswith((_JPEG, _PNG)):
        return _picture(content, smallest_side)
    if content[128:132] == _DICM:
        return _dicom(pydicom.dcmread(io.BytesIO(content)))
    return _dicom(_without_preamble(content))


def _picture(content: bytes, smallest_side: int | None) -> Film:
    picture = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    width, height = picture.size
    orientation = 1
    with suppress(Exception):  # broken EXIF is no reason to lose a film
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    scale = 1
    if picture.format != "PNG":
        side = smallest_side if smallest_side and orientation == 1 else None
        # libjpeg's scaled inverse DCT, and of colour only luma (CMYK keeps its mode and is only scaled).
        scaled = picture.draft("L", (side, side) if side else picture.size)
        scale = round(width / scaled[1][2]) if scaled else 1
    if orientation != 1:
        ImageOps.exif_transpose(picture, in_place=True)
        width, height = picture.size
    return Film(_grey(picture), height, width, scale)


def _grey(picture: Image.Image) -> Float:
    """Luma (Rec. 601) in [0, 1]; transparent pixels lie over black, which is air."""
    if picture.mode.startswith("I"):  # 16-bit grey
        return _over_range(np.asarray(picture).astype(np.float32), 0.0, 65535.0)
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    if picture.mode not in ("L", "1"):
        picture = picture.convert("RGB")
    return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def squash(film: Film, size: int) -> npt.NDArray[np.uint8]:
    """A film as uint8 (S, S): the whole film, its proportions given up.

    Antialiased triangle weights ("bilinear" with a support that grows with the reduction): those of the views, without
    the ringing of Lanczos at markers and collimator edges and the aliasing of a box at fractional ratios.
    """
    extent = (0, 0, film.width / film.scale, film.height / film.scale)
    height, width = film.image.shape
    # Over the film's own memory: Image.fromarray would copy it twice.
    picture = Image.fromarrow(_arrow(film.image), "F", (width, height))
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=extent))
    squashed: npt.NDArray[np.uint8] = np.clip(resized * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    return squashed


def _arrow(image: Float) -> pa.Array:
    values = np.ascontiguousarray(image).reshape(-1)
    return pa.Array.from_buffers(pa.float32(), len(values), [None, pa.py_buffer(values)])


def _without_preamble(content: bytes) -> pydicom.Dataset:
    """Old archives leave out the 128 bytes and `DICM`: taken for DICOM only if it holds a described picture."""
    reason = UnreadableFilm("the file is not a JPEG, PNG or DICOM")
    try:
        data = pydicom.dcmread(io.BytesIO(content), force=True)
    except Exception:
        raise reason from None
    if not ("PixelData" in data and "Rows" in data and "BitsStored" in data):
        raise reason
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return data


def _dicom(data: pydicom.Dataset) -> Film:
    if "PixelData" not in data:
        raise UnreadableFilm("the DICOM file holds no picture")
    frames = int(data.get("NumberOfFrames") or 1)
    if frames != 1:
        raise UnreadableFilm(f"the DICOM file holds {frames} frames, a film has one")
    syntax = data.file_meta.TransferSyntaxUID
    known = syntax in _BEYOND_PYDICOM or not syntax.is_compressed or not syntax.is_encapsulated
    if not known and not get_decoder(syntax).is_available:
        raise UnreadableFilm(f"no installed decoder reads DICOM compressed as {syntax.name} ({syntax})")
    stored = _jpeg_of_more_bits(data) if syntax in _BEYOND_PYDICOM else pixel_array(data, view_only=True)
    if stored.ndim == 3:
        return _colour_film(stored)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        return _colour_film(apply_color_lut(stored, data))
    stored = _stored_bits(stored, data)
    padding = _padding(stored, data)
    if padding is None:
        image = _shown_by_level(stored, data)
    else:
        image = _shown(stored, padding, data)
        image[padding] = 0.0
    return Film(image, *image.shape)


def _jpeg_of_more_bits(data: pydicom.Dataset) -> npt.NDArray[np.integer]:
    """JPEG Lossless and JPEG Extended, which none of pydicom's free decoders reads; libjpeg-turbo does."""
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    if _END_OF_IMAGE not in frame[-_END_WITHIN:]:  # libjpeg fills what is missing with grey
        raise UnreadableFilm("the picture cannot be decoded: its JPEG data end before the image does")
    pixels: npt.NDArray[np.integer] = jpeg8_decode(frame)
    if pixels.shape[:2] != (data.Rows, data.Columns):
        raise UnreadableFilm("the picture cannot be decoded: its JPEG data are of another size than the header says")
    return pixels


def _colour_film(pixels: npt.NDArray[np.integer]) -> Film:
    """Secondary captures (H, W, 3): luma, over the range of their own type."""
    luma = pixels[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    image = _unit(luma / np.float32(np.iinfo(pixels.dtype).max))
    return Film(image, *image.shape)


def _stored_bits(pixels: npt.NDArray[np.integer], data: pydicom.Dataset) -> npt.NDArray[np.integer]:
    """Only the stored bits: old files keep overlays in the unused high bits."""
    stored, allocated = int(data.BitsStored), int(data.BitsAllocated)
    if data.PixelRepresentation == 0 and stored < allocated and int(pixels.max()) >> stored:
        return pixels & pixels.dtype.type((1 << stored) - 1)
    return pixels


def _padding(stored: npt.NDArray[np.integer], data: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """Where the picture was padded to a rectangle (PixelPaddingValue, or up to PixelPaddingRangeLimit)."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    limit = data.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    padding = np.asarray((stored >= low) & (stored <= high))
    if padding.all():
        raise UnreadableFilm("every pixel is padding")
    return padding


def _shown_by_level(stored: npt.NDArray[np.integer], data: pydicom.Dataset) -> Float:
    """`_shown`, worked out once for each level instead of each pixel: the same numbers.

    What is decided from a film's smallest and largest value is decided alike, since all steps but a modality table rise
    or fall all the way; with such a table every pixel is worked out.
    """
    if stored.dtype.itemsize > 2 or data.get("ModalityLUTSequence"):
        return _shown(stored, None, data)
    stored = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
    levels = np.arange(int(stored.min()), int(stored.max()) + 1).astype(stored.dtype)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    table = np.zeros(1 << (8 * stored.dtype.itemsize), dtype=np.float32)
    table[levels.view(unsigned)] = _shown(levels, None, data)
    places, shown = stored.view(unsigned), np.empty(stored.shape, dtype=np.float32)
    # In pieces, since numpy makes 64-bit numbers of the places; all of them are within the table.
    for piece in range(0, len(stored), _ROWS_AT_ONCE):
        rows = slice(piece, piece + _ROWS_AT_ONCE)
        np.take(table, places[rows], out=shown[rows], mode="wrap")
    return shown


def _shown(stored: npt.NDArray[np.integer], padding: npt.NDArray[np.bool_] | None, data: pydicom.Dataset) -> Float:
    """As `_displayed`, dark = air."""
    image = _displayed(stored, padding, data)
    return np.float32(1) - image if data.PhotometricInterpretation == "MONOCHROME1" else image


def _displayed(stored: npt.NDArray[np.integer], padding: npt.NDArray[np.bool_] | None, data: pydicom.Dataset) -> Float:
    """Modality step, then the first VOI table, else the first window, else the stored range: (H, W) in [0, 1]."""
    values = np.asarray(apply_modality_lut(stored, data))
    if data.get("VOILUTSequence"):
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        table = np.asarray(apply_voi_lut(values, data, index=0, prefer_lut=True), dtype=np.float32)
        return _unit(table / np.float32((1 << bits) - 1))
    values = values.astype(np.float32)
    centre, width = _first(data.get("WindowCenter")), _first(data.get("WindowWidth"))
    if centre is not None and width is not None and width > 0:
        windowed = _windowed(values, centre, width, str(data.get("VOILUTFunction") or "LINEAR"))
        # A window that shows nothing (a default of 0 and 1, say) is none.
        if float(windowed.min()) < float(windowed.max()):
            return windowed
    low, high = _modality_range(stored.dtype, data)
    return _over_range(values, low, high, None if padding is None else ~padding)


def _windowed(values: Float, centre: float, width: float, function: str) -> Float:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, onto [0, 1]."""
    if function == "SIGMOID":
        return _unit(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return _unit((values - centre) / width + 0.5)
    # LINEAR with a width of 1 is a threshold.
    return _unit((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5)


def _modality_range(kind: npt.DTypeLike, data: pydicom.Dataset) -> tuple[float, float]:
    """The smallest and largest value that the modality step can give."""
    if data.get("ModalityLUTSequence"):
        return 0.0, float((1 << int(data.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
    bits = int(data.BitsStored)
    ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if data.PixelRepresentation else (0, (1 << bits) - 1)
    low, high = sorted(apply_modality_lut(np.array(ends, dtype=kind), data).tolist())
    return float(low), float(high)


def _over_range(values: Float, low: float, high: float, inside: npt.NDArray[np.bool_] | None = None) -> Float:
    """[low, high] -> [0, 1], or the values' own range where they span under a quarter of it and it has over 8 bits.

    `inside`: the pixels that count (not padding).
    """
    counted = values if inside is None else values[inside]
    smallest, largest = float(counted.min()), float(counted.max())
    if high - low > 255 and 0 < largest - smallest < _NARROWEST_SPAN * (high - low):
        low, high = smallest, largest
    return _unit((values - np.float32(low)) / np.float32(high - low))


def _unit(values: npt.NDArray[np.floating]) -> Float:
    clipped: Float = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return clipped


def _first(value: object) -> float | None:
    """The first of a DICOM attribute that may hold several."""
    if value is None or value == "":
        return None
    if isinstance(value, str | float | int):
        return float(value)
    several = list(value)  # type: ignore[call-overload]
    return float(several[0]) if several else None


def _text(error: Exception) -> str:
    """The error in one line, the same on every machine and in every run."""
    line = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r" ?(<_io\.BytesIO[^>]*>|0x[0-9a-f]+)", "", line).rstrip(".")[:200]
