"""JPEG, PNG, DICOM -> one grey image.

Every reader ends in the same place: float32 (H, W) in [0, 1], dark = air (lungs dark, bone bright).

The grey scale is the one that the file states: 8-bit values over 255, 16-bit values over 65535, in DICOM as `dicom.py`
says. One exception: an image of more than 8 bits that uses under a quarter of its range is stretched
(`grey.over_range`), since 12-bit pictures labelled as 16 bits are common and would keep 16 grey levels in an 8-bit
store. An image and its negative are stretched alike, so MONOCHROME1 and MONOCHROME2 stay exact mirror images.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from imagecodecs import png_decode
from PIL import Image, ImageOps

from chartray.pixels.dicom import read_dicom
from chartray.pixels.grey import (
    LARGEST_IMAGE,
    LUMA,
    Float,
    Integers,
    UnreadableImage,
    levels_of,
    over_range,
    refuse_too_large,
)

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
_EXIF_ORIENTATION = 0x0112
_NO_FILE = "it is not a regular file (a folder, pipe or device)"
_LARGEST_FILE = 1 << 30
_UPRIGHT: dict[int, tuple[Callable[[Integers], Integers], ...]] = {
    2: (np.fliplr,),
    3: (np.fliplr, np.flipud),
    4: (np.flipud,),
    5: (np.transpose,),
    6: (np.transpose, np.fliplr),
    7: (np.transpose, np.fliplr, np.flipud),
    8: (np.transpose, np.flipud),
}


class DecodedImage(NamedTuple):
    """An image as read: `image` float32 (h, w) in [0, 1], and the true `height` and `width` in pixels.

    A large JPEG may be decoded at 1/`scale` of its size. It then covers height / scale by width / scale decoded pixels;
    if these are fractions, the last row and column reach beyond the image.
    """

    image: Float
    height: int
    width: int
    scale: int = 1


def read_image(path: str | Path, *, smallest_side: int | None = None) -> Float:
    """The image at `path`, float32 (H, W) in [0, 1], dark = air, upright; UnreadableImage says why it cannot be read.

    JPEG (grey, colour, CMYK), PNG (1 to 16 bits, grey, colour, palette, with or without alpha) and single-frame DICOM.
    With `smallest_side`, a JPEG may come back at 1/2, 1/4 or 1/8 of its size, both sides still at least that long.
    """
    return decode_image(path, smallest_side=smallest_side).image


def decode_image(
    path: str | Path, *, smallest_side: int | None = None, largest: int = LARGEST_IMAGE, within: str = ""
) -> DecodedImage:
    """Like `read_image`, with the true height and width.

    `largest`: maximum of rows x columns, checked before decoding; `within`: the folder that the file must be in once
    links are resolved, "" for any.
    """
    with opened(str(path), within) as stream:
        content = content_of(stream)
    try:
        with warnings.catch_warnings():
            # Warnings about odd headers and large images are not useful; unusable images raise.
            warnings.simplefilter("ignore")
            decoded = _decode(content, smallest_side, largest)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        # Decoders raise anything on broken files: OSError, SyntaxError, struct.error, zlib.error, ...
        raise UnreadableImage(f"the image cannot be decoded: {_text(error)}") from error
    # Not `>=`: it would let NaN in.
    if not float(decoded.image.min()) < float(decoded.image.max()):
        raise UnreadableImage("every pixel has the same value")
    return decoded


def content_of(stream: BinaryIO) -> bytes:
    """The bytes of an open file; UnreadableImage where it has none, or more than an image may have."""
    try:
        content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UnreadableImage(f"the file cannot be read: {error.strerror}") from None
    if not content:
        raise UnreadableImage("the file is empty")
    if len(content) > _LARGEST_FILE:
        raise UnreadableImage(f"the file has more than {_LARGEST_FILE >> 20} MiB")
    return content


def opened(path: str, within: str) -> BinaryIO:
    """A regular file, opened; anything else (a pipe, a device) is refused without being read or waited for.

    `within`: the folder that the file must be in once links are resolved, "" for any.
    """
    try:
        # Opening a device can have effects, so the type is checked before the file is opened, and again afterwards.
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableImage(_NO_FILE)
        if within and not _lies_in(path, within):
            raise UnreadableImage("its link leads out of the image folder; --allow-outside follows such links")
        stream = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115  # the caller closes it
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except OSError as error:
        raise UnreadableImage(f"the file cannot be opened: {error.strerror}") from None
    except ValueError:
        raise UnreadableImage("its name contains a NUL character") from None
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise UnreadableImage(_NO_FILE)
    return stream


def _lies_in(path: str, folder: str) -> bool:
    folder = os.path.realpath(folder)
    return os.path.commonpath([folder, os.path.realpath(path)]) == folder


def _decode(content: bytes, smallest_side: int | None, largest: int) -> DecodedImage:
    if content.startswith((_JPEG, _PNG)):
        return _picture(content, smallest_side, largest)
    image = read_dicom(content, largest)
    return DecodedImage(image, *image.shape)


def _picture(content: bytes, smallest_side: int | None, largest: int) -> DecodedImage:
    picture = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    width, height = picture.size
    refuse_too_large(height, width, largest)
    orientation = 1
    with suppress(Exception):  # broken EXIF is no reason to lose an image
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    scale = 1
    if picture.format != "PNG":
        side = smallest_side if smallest_side and orientation == 1 else None
        # libjpeg's scaled inverse DCT, and of colour only luma (CMYK keeps its mode and is only scaled).
        scaled = picture.draft("L", (side, side) if side else picture.size)
        scale = round(width / scaled[1][2]) if scaled else 1
    if picture.format == "PNG" and content[_PNG_DEPTH] == 16:
        image = _grey16(content, orientation)
        return DecodedImage(image, *image.shape)
    if orientation != 1:
        ImageOps.exif_transpose(picture, in_place=True)
        width, height = picture.size
    return DecodedImage(_grey(picture), height, width, scale)


def _grey(picture: Image.Image) -> Float:
    """Luma (Rec. 601) in [0, 1]; transparent pixels become black, which is air."""
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    if picture.mode not in ("L", "1"):
        picture = picture.convert("RGB")
    return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def _grey16(content: bytes, orientation: int) -> Float:
    """PNG of 16 bits a sample, whose colours Pillow would read at 8: luma over black in [0, 1], or stretched."""
    pixels = png_decode(content)
    if pixels.ndim == 3:
        colours = pixels.shape[2] - 1 + pixels.shape[2] % 2
        luma = pixels[..., :3] @ LUMA if colours == 3 else pixels[..., 0].astype(np.float64)
        if colours < pixels.shape[2]:
            luma *= pixels[..., -1] / 65535
        pixels = np.rint(luma).astype(np.uint16)
    for step in _UPRIGHT.get(orientation, ()):
        pixels = step(pixels)
    levels, values = levels_of(pixels)
    return levels.shown(over_range(values / 65535, levels))


def squash(decoded: DecodedImage, size: int) -> npt.NDArray[np.uint8]:
    """The whole image as uint8 (S, S), not in its proportions.

    Antialiased triangle weights ("bilinear" with a support that grows with the reduction): those of the views, without
    the ringing of Lanczos at markers and collimator edges and the aliasing of a box at fractional ratios.
    """
    extent = (0, 0, decoded.width / decoded.scale, decoded.height / decoded.scale)
    height, width = decoded.image.shape
    # Over the image's own memory: Image.fromarray would copy it twice.
    picture = Image.fromarrow(_arrow(decoded.image), "F", (width, height))
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=extent))
    squashed: npt.NDArray[np.uint8] = np.clip(resized * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    return squashed


def _arrow(image: Float) -> pa.Array:
    values = np.ascontiguousarray(image).reshape(-1)
    return pa.Array.from_buffers(pa.float32(), len(values), [None, pa.py_buffer(values)])


def _text(error: Exception) -> str:
    """The error in one line, the same on every machine and in every run, without what it quotes from the file."""
    line = " ".join(str(error).split()) or type(error).__name__
    line = re.sub(r"""b?('[^']*'|"[^"]*")""", "...", line)
    return re.sub(r" ?(<_io\.BytesIO[^>]*>|0x[0-9a-f]+)", "", line).rstrip(".")[:200]
