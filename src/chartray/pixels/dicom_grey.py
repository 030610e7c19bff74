"""Stored values -> shades as DICOM says they are shown: modality step, VOI step, polarity.

PS3.3 C.11.1 (modality), C.11.2 (VOI), C.11.6 (presentation look-up table shape).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom

from chartray.pixels.dicom_frame import Stored, padding
from chartray.pixels.grey import Flags, Levels, Reals, UnreadableImage, over_range

_SHOWN_IN_THE_MIDDLE = 0.5


def shades(stored: Stored, data: pydicom.Dataset) -> Reals:
    """The shade in [0, 1] of each level (L,), 0 = air; padding is air."""
    padded = padding(stored.values, stored.patterns, data)
    if padded.any() and not stored.levels.histogram()[~padded].any():
        raise UnreadableImage("every pixel is padding")
    values, low, high = _modality(stored, data)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UnreadableImage("its RescaleSlope and RescaleIntercept give no grey scale")
    shown = next(_chosen(values, low, stored.levels, padded, data), None)
    if shown is None:
        shown = (values - low) / (high - low)
    if stored.bits > 8:
        shown = over_range(shown, stored.levels, padded)
    shown = np.clip(1 - shown if _inverse(data) else shown, 0, 1)
    shown[padded] = 0
    return shown


def _inverse(data: pydicom.Dataset) -> bool:
    """PresentationLUTShape where there is one, else the photometric interpretation: as DCMTK and dcm4che do."""
    shape = data.get("PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE"):
        return bool(shape == "INVERSE")
    return bool(data.PhotometricInterpretation == "MONOCHROME1")


def _modality(stored: Stored, data: pydicom.Dataset) -> tuple[Reals, float, float]:
    """The values after the modality table, or slope and intercept, and the ends of the range that they can take."""
    if data.get("ModalityLUTSequence"):
        table = read_table(data.ModalityLUTSequence[0], "modality", data, signed=stored.signed)
        return table.of(stored.values), 0.0, float(table.top)
    slope, intercept = _numbers(data, "RescaleSlope"), _numbers(data, "RescaleIntercept")
    if not (slope and intercept):
        # One of the two alone is no step; so does DCMTK.
        low, high = stored.range
        return stored.values.astype(np.float64), float(low), float(high)
    if slope[0] == 0 or not math.isfinite(slope[0] + intercept[0]):
        raise UnreadableImage("its RescaleSlope is 0 or not finite, so it has no grey scale")
    values = stored.values.astype(np.float64) * slope[0] + intercept[0]
    ends = [end * slope[0] + intercept[0] for end in stored.range]
    return values, min(ends), max(ends)


def _chosen(values: Reals, low: float, levels: Levels, padded: Flags, data: pydicom.Dataset) -> Iterator[Reals]:
    """The file's own grey scales, best first: its first VOI table, then its windows; only those that show an image.

    Many files carry a default that was never meant for them (128/256 with 12 bits). A window or table is skipped
    if it makes more than half of the pixels in the middle of the image, where the anatomy is, black or white.
    """
    counts = np.where(padded, 0, levels.histogram(middle=True))
    for shown in _stated(values, low, data):
        if counts[(shown > 0) & (shown < 1)].sum() >= _SHOWN_IN_THE_MIDDLE * counts.sum():
            yield shown


def _stated(values: Reals, low: float, data: pydicom.Dataset) -> Iterator[Reals]:
    if data.get("VOILUTSequence"):
        table = read_table(data.VOILUTSequence[0], "VOI", data, signed=low < 0)
        yield table.of(values) / table.top
    function = str(data.get("VOILUTFunction") or "LINEAR").upper()
    for centre, width in zip(_numbers(data, "WindowCenter"), _numbers(data, "WindowWidth"), strict=False):
        if math.isfinite(centre) and math.isfinite(width) and width > 0 and (width >= 1 or function != "LINEAR"):
            yield _windowed(values, centre, width, function)


def _windowed(values: Reals, centre: float, width: float, function: str) -> Reals:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, onto [0, 1]."""
    if function == "SIGMOID":
        # exp of more than that overflows, and is black or white anyway.
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))
    # LINEAR with a width of 1 is a threshold.
    return np.asarray(np.clip((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1))


class LookUpTable(NamedTuple):
    """A look-up table: the value of its first entry, its entries, and the largest that they could be."""

    first: int
    entries: npt.NDArray[np.int64]
    top: int

    def of(self, values: npt.NDArray[np.number]) -> Reals:
        """The entry of each value; values beyond either end have that end's."""
        places = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        shown: Reals = self.entries[places].astype(np.float64)
        return shown


def read_table(
    item: pydicom.Dataset, name: str, data: pydicom.Dataset, *, signed: bool, of: str = "LUT"
) -> LookUpTable:
    """The table of a modality, VOI or palette item, whatever its entries' bits (PS3.3 C.11.1.1.1).

    How the entries are packed follows from how many bytes there are for them, not from the bits that are stated, which
    are often those of something else: one byte an entry, or a word. The bits say what white is (`top`), unless an
    entry is larger.
    """
    descriptor = item.get(f"{of}Descriptor")
    content = item.get(f"{of}Data")
    if descriptor is None or content is None or len(descriptor) != 3:
        raise UnreadableImage(f"its {name} look-up table is incomplete")
    count, first, bits = (int(number) for number in descriptor)
    count = count % (1 << 16) or 1 << 16
    first = (first + (1 << 15)) % (1 << 16) - (1 << 15) if signed else first % (1 << 16)
    entries = _entries(content, count, little_endian=data.file_meta.TransferSyntaxUID.is_little_endian)
    if entries is None:
        raise UnreadableImage(f"its {name} look-up table does not have the {count} entries that it declares")
    largest = int(entries.max())
    bits = max(bits, largest.bit_length()) if 0 < bits <= 16 else max(8, largest.bit_length())
    return LookUpTable(first, entries, (1 << bits) - 1)


def _entries(content: bytes | int | Sequence[int], count: int, *, little_endian: bool) -> npt.NDArray[np.int64] | None:
    """Bytes (OW) or numbers (US, SS) as `count` entries, each a word or half of one; None if neither fits."""
    order = "<" if little_endian else ">"
    if isinstance(content, bytes):
        words = np.frombuffer(content[: len(content) // 2 * 2], dtype=f"{order}u2")
    else:
        numbers = [content] if isinstance(content, int) else list(content)
        words = np.array(numbers, dtype=np.int64).astype(np.uint16)
    if len(words) == count:
        return words.astype(np.int64)
    if len(words) == (count + 1) // 2:
        # The first entry is in the low byte of its word.
        return words.astype("<u2").view(np.uint8)[:count].astype(np.int64)
    return None


def _numbers(data: pydicom.Dataset, name: str) -> list[float]:
    """The numbers of an attribute; none where it is missing or blank."""
    value = data.get(name)
    if value is None or value == "":
        return []
    try:
        return [float(value)] if isinstance(value, str | float | int) else [float(number) for number in value]
    except (TypeError, ValueError):
        raise UnreadableImage(f"its {name} is not a number") from None
