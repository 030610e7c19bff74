"""Pictures that nobody should have made: mutated DICOM, JPEG, PNG and TIFF through `read_image`.

Expected: float32 (H, W) in [0, 1], or UnreadableImage with one sentence, within the bounds of time and memory.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.faults.materials import Hospital
from tests.faults.outcome import READ, REFUSED, Outcome, failure
from tests.faults.processes import in_a_row

# The slowest honest image takes under a second; the machine is shared.
_SECONDS, _GIGABYTES = 30, 3
_REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
_REAL_SHARE = 0.02
_ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 31, 32, 64, 255, 256, 4095, 32767, 32768, 65535)
_ODD_TEXTS = ("", "0", "-1", "1", "NaN", "inf", "1e999", "abc", "1\\2", "65535", "-0.0", "1E-40", "\x00", "ü", "1" * 17)
_TAGS = {
    **dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"), _ODD_NUMBERS),
    **dict.fromkeys(("SamplesPerPixel", "PlanarConfiguration", "PixelPaddingValue"), _ODD_NUMBERS),
    **dict.fromkeys(("NumberOfFrames", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"), _ODD_TEXTS),
    "PhotometricInterpretation": (
        "MONOCHROME1",
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "PALETTE COLOR",
        "",
        "X",
        "YBR_RCT",
    ),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "LINEAR", "", "X"),
    "PatientOrientation": ("R\\F", "L\\F", "P\\F", "", "\\", "X", "A\\H\\F"),
    "PresentationIntentType": ("FOR PROCESSING", "FOR PRESENTATION", "", "X"),
    "Modality": ("CT", "DX", "CR", "", "SR", "OT"),
    "PixelAspectRatio": ("0\\0", "1\\2", "-1\\1", "x"),
    "ImagerPixelSpacing": ("0\\0", ".1\\.1", "x"),
    "SpecificCharacterSet": ("X", "ISO_IR 192", "\\ISO 2022 IR 87"),
}
_SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless),
    *(JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1),
)


def pixels(bits: int, height: int = 40, width: int = 48) -> np.ndarray:
    """A ramp with noise, of so many bits."""
    draw = np.random.default_rng(bits)
    ramp = np.linspace(0, 1, width)[None] * np.ones((height, 1)) * 0.8 + draw.uniform(0, 0.2, (height, width))
    return (ramp * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def dicom(bits: int, syntax: str, *, luts: bool = False, colour: bool = False) -> Dataset:
    """A radiograph of one frame in a transfer syntax."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made.Modality, made.PatientOrientation, made.PresentationIntentType = "DX", ["L", "F"], "FOR PRESENTATION"
    image = pixels(bits)
    image = np.stack([image, image, image], -1) if colour else image
    made.Rows, made.Columns = image.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        made.PlanarConfiguration = 0
    made.BitsAllocated, made.BitsStored = 8 * image.dtype.itemsize, bits
    made.HighBit, made.PixelRepresentation = bits - 1, 0
    made.RescaleSlope, made.RescaleIntercept = "1", "0"
    made.WindowCenter, made.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
    if luts:
        table = Dataset()
        table.LUTDescriptor, table.LUTData = (
            [2**bits % 65536, 0, 16],
            np.linspace(0, 65535, 2**bits).astype(np.uint16).tobytes(),
        )
        table["LUTData"].VR = "OW"
        made.VOILUTSequence = [table]
    made.PixelData = image.tobytes()
    made["PixelData"].VR = "OB" if bits <= 8 else "OW"
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        made.compress(syntax, generate_instance_uid=False)
    elif syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1):
        lossless = syntax == JPEGLosslessSV1
        stream = imagecodecs.jpeg8_encode(image, level=95, lossless=lossless, bitspersample=bits)
        made.PixelData, made.file_meta.TransferSyntaxUID = encapsulate([stream]), syntax
        made["PixelData"].VR = "OB"
    else:
        made.file_meta.TransferSyntaxUID = syntax
    return made


def bases() -> Iterator[tuple[str, bytes]]:
    """Small honest pictures of every form that is read, and TIFF, which is not."""
    for syntax in _SYNTAXES:
        for bits in (8, 12, 16):
            if (syntax == JPEGBaseline8Bit and bits > 8) or (syntax == JPEGExtended12Bit and bits != 12):
                continue
            for luts in (False, True):
                yield f"dicom {syntax} {bits} {luts}", _written(dicom(bits, syntax, luts=luts))
    yield "dicom colour", _written(dicom(8, ExplicitVRLittleEndian, colour=True))
    grey, deep = Image.fromarray(pixels(8)), Image.fromarray(pixels(16))
    for mode in ("L", "RGB", "RGBA", "LA", "P", "1"):
        yield f"png {mode}", _saved(grey.convert(mode), "PNG")
    yield "png 16", _saved(deep, "PNG")
    for mode in ("L", "RGB", "CMYK"):
        yield f"jpeg {mode}", _saved(grey.convert(mode), "JPEG", quality=90)
    yield "jpeg progressive", _saved(grey.resize((400, 300)), "JPEG", progressive=True)
    for image in (grey, deep):
        yield f"tiff {image.mode}", _saved(image, "TIFF")


def mutated(name: str, whole: bytes, draw: random.Random) -> bytes:
    """A picture, changed in one to three ways."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        ways: list[Callable[[bytes, random.Random], bytes]] = [_flipped, _flipped, _in_head, _cut, _stuffed]
        ways += {"dicom": [_tag] * 5, "png": [_png] * 3, "jpeg": [_jpeg] * 3}.get(name.split()[0], [])
        whole = draw.choice(ways)(whole, draw)
    return whole


def fuzz(hospital: Hospital, form: str, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """Mutated pictures of one form through `read_image`."""
    folder = hospital.scratch / "pictures"
    names = [name for name in _prepared(folder) if name.startswith(form)]
    real = sorted(_REAL.glob("dicom/*.dcm")) + sorted(
        each for each in _REAL.glob("formats/*.*") if each.suffix != ".csv"
    )
    real = [each for each in real if (each.suffix == ".dcm") == (form == "dicom") and form != "tiff"]

    def does(seed: int) -> tuple[str, ...]:
        from chartray.pixels.read import UnreadableImage, read_image

        draw = random.Random(f"{form}:{seed}")
        name = draw.choice(names)
        if real and draw.random() < _REAL_SHARE:
            chosen = draw.choice(real)
            name, whole = (
                f"{form if form == 'dicom' else chosen.suffix[1:].replace('jpg', 'jpeg')} {chosen.name}",
                chosen.read_bytes(),
            )
        else:
            whole = (folder / name).read_bytes()
        file = hospital.scratch / "picture"
        file.write_bytes(mutated(name, whole, draw))
        try:
            image = read_image(file, smallest_side=draw.choice((None, 32)))
        except UnreadableImage as reason:
            said = str(reason)
            odd = "\n" in said or len(said) > 400 or str(file) in said
            return ("no sentence", f"[{name}] {said}") if odd else (REFUSED,)
        except BaseException as uncaught:
            return "traceback", f"[{name}] {type(uncaught).__name__}: {uncaught}"
        right = image.dtype == np.float32 and image.ndim == 2 and np.isfinite(image).all()
        if not right or image.min() < 0 or image.max() > 1 or image.min() == image.max():
            return "no grey image", f"[{name}] {image.dtype} {image.shape} {image.min()} {image.max()}"
        return (READ,)

    for seed, said in in_a_row(does, seeds, hospital.scratch, seconds=_SECONDS, gigabytes=_GIGABYTES):
        yield (
            seed,
            Outcome(said[0]) if len(said) == 1 and said[0] in (READ, REFUSED) else failure(said[0], " ".join(said)),
        )


def _prepared(folder: Path) -> list[str]:
    if not folder.is_dir():
        partial = folder.with_name("pictures.partial")
        partial.mkdir(exist_ok=True)
        for name, whole in bases():
            (partial / name).write_bytes(whole)
        partial.rename(folder)
    return sorted(each.name for each in folder.iterdir())


def _written(made: Dataset) -> bytes:
    stream = io.BytesIO()
    syntax = made.file_meta.TransferSyntaxUID
    if syntax == ExplicitVRBigEndian and made.BitsAllocated == 16:
        made.PixelData = np.frombuffer(made.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(
        stream,
        made,
        enforce_file_format=True,
        little_endian=syntax != ExplicitVRBigEndian,
        implicit_vr=syntax == ImplicitVRLittleEndian,
    )
    return stream.getvalue()


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _flipped(whole: bytes, draw: random.Random) -> bytes:
    changed = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _in_head(whole: bytes, draw: random.Random) -> bytes:
    changed = bytearray(whole)
    for _ in range(draw.choice((1, 2, 4))):
        if changed:
            changed[draw.randrange(min(len(changed), 600))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    return bytes(changed)


def _cut(whole: bytes, draw: random.Random) -> bytes:
    return whole[: draw.randrange(len(whole) + 1)]


def _stuffed(whole: bytes, draw: random.Random) -> bytes:
    place, size = draw.randrange(len(whole) + 1), draw.choice((1, 2, 3, 16, 100))
    return (
        whole[:place]
        + draw.choice((b"\0" * size, b"\xff" * size, whole[place : place + size], draw.randbytes(size)))
        + whole[place:]
    )


def _png(whole: bytes, draw: random.Random) -> bytes:
    """Another number in the header, or another chunk, its check sum right."""
    if whole[12:16] != b"IHDR" or len(whole) < 33:
        return _flipped(whole, draw)
    fields = list(struct.unpack(">IIBBBBB", whole[16:29]))
    place = draw.randrange(7)
    fields[place] = draw.choice(
        (0, 1, 47, 49, 65535, 100_000, 2**31 - 1, 2**32 - 1) if place < 2 else (*range(9), 16, 255)
    )
    head = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    extra = b""
    if draw.random() < 0.3:
        text = draw.choice(
            (b"tRNS", b"gAMA", b"iCCP", b"tEXt", b"zTXt", b"eXIf", b"acTL", b"IDAT", b"PLTE")
        ) + draw.randbytes(draw.randrange(40))
        extra = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + extra + whole[33:]


def _jpeg(whole: bytes, draw: random.Random) -> bytes:
    """Another height, width or component count in the frame header."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = whole.find(marker)
        if 0 < at < len(whole) - 10:
            changed = bytearray(whole)
            if draw.random() < 0.6:
                changed[at + 5 : at + 9] = struct.pack(
                    ">HH", draw.choice((0, 1, 40, 65535)), draw.choice((0, 1, 48, 65535))
                )
            else:
                changed[at + draw.choice((4, 9, 10, 11))] = draw.randrange(256)
            return bytes(changed)
    return _flipped(whole, draw)


def _tag(whole: bytes, draw: random.Random) -> bytes:
    """One element of the header set to something odd, or taken away, or another transfer syntax."""
    try:
        read = pydicom.dcmread(io.BytesIO(whole))
        implicit, little = read.original_encoding
        keyword = draw.choice([*_TAGS, "LUT", "TransferSyntaxUID"])
        if keyword == "TransferSyntaxUID":
            old = str(read.file_meta.TransferSyntaxUID).encode()
            new = str(draw.choice(_SYNTAXES)).encode()
            return whole.replace(old, new.ljust(len(old), b"\0")[: len(old)], 1)
        if keyword == "LUT":
            table, bits = Dataset(), draw.choice((1, 7, 8, 9, 12, 15, 16, 17, 0))
            entries = draw.choice((0, 1, 2, 255, 256, 4096))
            table.add_new(0x00283002, "US", [entries, draw.choice((0, 1, 65535)), bits])
            table.add_new(0x00283006, "OW", draw.randbytes(draw.choice((0, entries, 2 * entries))))
            setattr(read, draw.choice(("VOILUTSequence", "ModalityLUTSequence")), [table])
        elif draw.random() < 0.15 and keyword in read:
            delattr(read, keyword)
        else:
            value = draw.choice(_TAGS[keyword])
            read.add_new(keyword, pydicom.datadict.dictionary_VR(keyword).split(" ")[0], value)
            if isinstance(value, str):
                # As it stands, whether or not it is a number.
                read[keyword] = pydicom.dataelem.RawDataElement(
                    read[keyword].tag, read[keyword].VR, len(value), value.encode("utf-8"), 0, implicit, little
                )
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, read, little_endian=little, implicit_vr=implicit, enforce_file_format=False)
        return stream.getvalue()
    except Exception:  # what has been changed before may be no DICOM any more
        return _in_head(whole, draw)
