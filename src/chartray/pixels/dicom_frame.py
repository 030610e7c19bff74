"""The pixels of a DICOM file as they are stored, and which bits of them count."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from imagecodecs import jpeg8_decode
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from chartray.pixels.codestream import Codestream, codestream
from chartray.pixels.grey import Flags, Integers, Levels, UnreadableImage, levels_of

# libjpeg-turbo, the only free decoder of JPEG Lossless and of 12-bit JPEG alike.
_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
# One named decoder per syntax, so that other installed decoders never change a store's bytes.
_PLUGINS = {
    RLELossless: "pydicom",
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"),
}
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
_SPARSE = 0.05
_OVERSHOT = 0.125


class Stored(NamedTuple):
    """A grey image as stored: the `levels` of its pixels, the `values` (L,) of those levels, the range of those.

    `patterns` (L,) are the values before any bit was cut off, as whole numbers of BitsAllocated.
    """

    levels: Levels
    values: npt.NDArray[np.int64]
    patterns: npt.NDArray[np.int64]
    bits: int
    signed: bool

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest value that the bits can hold."""
        return _ends(self.bits, self.signed)


class Frame(NamedTuple):
    """Decoded samples, (H, W) or (H, W, 3), the colour space that they are in, and what the codestream said."""

    samples: Integers
    colour: str
    stream: Codestream | None
    lossy: bool


def decoded(data: pydicom.Dataset) -> Frame:
    """The only frame of `data`; UnreadableImage if no decoder reads it, it is truncated, or contradicts its header."""
    syntax: UID = data.file_meta.TransferSyntaxUID
    shape = (int(data.Rows), int(data.Columns))
    colour, samples = str(data.PhotometricInterpretation), int(data.get("SamplesPerPixel") or 1)
    if not syntax.is_encapsulated:
        if samples == 1:
            return Frame(_uncompressed(data, shape), colour, None, False)
        pixels, properties = get_decoder(syntax).as_array(data, index=0, raw=True, correct_unused_bits=False)
        return Frame(pixels, str(properties["photometric_interpretation"]), None, False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    stream = codestream(frame)
    if syntax != RLELossless:
        _check(stream, shape, samples)
    if syntax in _JPEG:
        pixels, colour = _jpeg(frame, colour)
    elif syntax in _PLUGINS and get_decoder(syntax).is_available:
        pixels, properties = get_decoder(syntax).as_array(
            data,
            index=0,
            raw=True,
            decoding_plugin=_PLUGINS[syntax],
            correct_unused_bits=False,
            apply_j2k_sign_correction=False,
            apply_jls_sign_correction=False,
        )
        colour = str(properties["photometric_interpretation"])
    else:
        raise UnreadableImage(f"no installed decoder reads DICOM compressed as {syntax.name} ({syntax})")
    return Frame(pixels, colour, stream, syntax in _LOSSY)


def _uncompressed(data: pydicom.Dataset, shape: tuple[int, int]) -> Integers:
    syntax, allocated = data.file_meta.TransferSyntaxUID, int(data.BitsAllocated)
    content, needed = data.PixelData, shape[0] * shape[1] * allocated // 8
    if len(content) < needed:
        raise UnreadableImage("its pixel data are truncated")
    if len(content) >= 2 * needed and len(content) > 2:
        raise UnreadableImage("its pixel data are at least twice as long as its size and BitsAllocated require")
    if allocated == 8 and not syntax.is_little_endian and data["PixelData"].VR == "OW":
        content = np.frombuffer(content, dtype=">u2").astype("<u2").tobytes()
    kind = np.dtype(f"{'<' if syntax.is_little_endian else '>'}u{allocated // 8}")
    return np.frombuffer(content, dtype=kind, count=shape[0] * shape[1]).reshape(shape)


def _check(stream: Codestream | None, shape: tuple[int, int], samples: int) -> None:
    """Runs before the decoder: libraries fill missing data with grey and allocate whatever a codestream declares."""
    if stream is None:
        raise UnreadableImage("its compressed pixel data do not begin with an image")
    if (stream.rows, stream.columns, stream.samples) != (*shape, samples):
        raise UnreadableImage("its compressed image has another size than its header declares")
    if not stream.complete:
        raise UnreadableImage("its compressed pixel data are truncated")


def _jpeg(frame: bytes, colour: str) -> tuple[Integers, str]:
    """Grey, or colour turned to RGB as the codestream's own markers say, else the header."""
    if colour == "RGB" and not (b"JFIF" in frame[:4096] or b"Adobe" in frame[:4096]):
        return jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB"), "RGB"
    pixels: Integers = jpeg8_decode(frame)
    return pixels, "RGB" if pixels.ndim == 3 else colour


def stored(frame: Frame, data: pydicom.Dataset) -> Stored:
    """The levels of a grey frame: the bits that count, and whole numbers of them.

    BitsStored bits up to HighBit count. Others that few pixels have set (old overlays) or that an overlay's header
    claims are cut off; where many have them set, header and pixels contradict each other: a codestream's own number of
    bits is then believed, an uncompressed image is refused.
    """
    levels, patterns = levels_of(frame.samples)
    signed = bool(data.get("PixelRepresentation"))
    allocated, bits, high = _declared_bits(data)
    if frame.stream is not None:
        precision = frame.stream.precision
        patterns = patterns & ((1 << precision) - 1)
        if precision <= bits:
            return Stored(levels, _numbers(patterns, precision, signed), patterns, precision, signed)
        if high >= precision:
            high = bits - 1
        allocated = precision
    shift = high + 1 - bits
    values = _numbers((patterns >> shift) & ((1 << bits) - 1), bits, signed)
    others = _set_outside(patterns, allocated, bits, shift, signed, data)
    if not others.any():
        return Stored(levels, values, patterns, bits, signed)
    whole = _numbers(patterns, allocated, signed)
    if frame.lossy:
        # A lossy codec overshoots by a little, and no overlay survives it.
        low, top = _ends(bits, signed)
        values = np.clip(whole, low, top)
        others &= np.abs(whole - values) > _OVERSHOT * (top - low)
    counts = levels.histogram()
    if counts[others & ~padding(values, patterns, data)].sum() <= _SPARSE * counts.sum():
        return Stored(levels, values, patterns, bits, signed)
    if frame.stream is None:
        raise UnreadableImage(
            f"its header declares {bits} bits up to bit {high}, but many pixels set other bits of its {allocated}"
        )
    return Stored(levels, whole, patterns, allocated, signed)


def _declared_bits(data: pydicom.Dataset) -> tuple[int, int, int]:
    allocated = int(data.BitsAllocated)
    bits = int(data.get("BitsStored") or allocated)
    high = bits - 1 if data.get("HighBit") is None else int(data.HighBit)
    if not 0 < bits <= high + 1 <= allocated:
        raise UnreadableImage(
            f"BitsAllocated {allocated}, BitsStored {bits} and HighBit {high} contradict each other in its header"
        )
    return allocated, bits, high


def _ends(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _numbers(patterns: npt.NDArray[np.int64], bits: int, signed: bool) -> npt.NDArray[np.int64]:
    """Bit patterns as whole numbers, in two's complement if `signed`."""
    return np.where(patterns >> bits - 1, patterns - (1 << bits), patterns) if signed else patterns


def _set_outside(
    patterns: npt.NDArray[np.int64], allocated: int, bits: int, shift: int, signed: bool, data: pydicom.Dataset
) -> Flags:
    """Patterns with bits set other than those that count, other than a sign's and those that an overlay claims."""
    claimed = 0
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) in data and (group, 0x3000) not in data:
            claimed |= 1 << int(data[group, 0x0102].value or 0)
    below, above = (1 << shift) - 1, ((1 << allocated) - 1) & ~((1 << shift + bits) - 1)
    outside: Flags = patterns & (below | above) & ~claimed != 0
    if signed and above:
        negative = (patterns >> shift + bits - 1) & 1 == 1
        outside &= ~(negative & (patterns & above == above) & (patterns & below & ~claimed == 0))
    return outside


def padding(values: npt.NDArray[np.int64], patterns: npt.NDArray[np.int64], data: pydicom.Dataset) -> Flags:
    """Which levels pad the picture to a rectangle: PixelPaddingValue, or up to PixelPaddingRangeLimit."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(len(values), dtype=bool)
    limit = data.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    padded: Flags = (values >= low) & (values <= high)
    # Written in the other sign than the pixels, or in all of the allocated bits.
    span = 1 << 16
    return padded | ((patterns >= low % span) & (patterns <= high % span)) if low % span <= high % span else padded
