"""DICOM images whose pixels are not square are resampled to square pixels.

What the header says of a pixel's height and width: PixelSpacing, else ImagerPixelSpacing, else
NominalScannedPixelSpacing, else PixelAspectRatio; zeros and non-numbers are ignored.
"""

import math
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image

from chartray.pixels.grey import Float, UnreadableImage

_SAID_BY = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
# Below, a side is rounded (0.143 and 0.1429); above, the header is wrong: no detector has such pixels.
_UNEQUAL_FROM, _UNEQUAL_UP_TO = 1.01, 4.0


class Proportions(NamedTuple):
    """Rows and columns of square pixels in the place of those of the file: never fewer, so that nothing is lost."""

    rows: int
    columns: int

    def drawn(self, image: Float) -> Float:
        """The image (H, W) as (rows, columns), by linear interpolation; itself where its pixels are square."""
        if image.shape == self:
            return image
        shown = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(shown.resize((self.columns, self.rows), Image.Resampling.BILINEAR))


def proportions(data: pydicom.Dataset) -> Proportions:
    """As the header says; UnreadableImage if it gives a pixel one side that is more than four times the other."""
    rows, columns, ratio = int(data.Rows), int(data.Columns), _height_by_width(data)
    longer = max(ratio, 1 / ratio)
    if longer > _UNEQUAL_UP_TO:
        raise UnreadableImage("its header declares pixels with one side more than four times the other")
    if longer < _UNEQUAL_FROM:
        return Proportions(rows, columns)
    return Proportions(round(rows * max(ratio, 1)), round(columns * max(1 / ratio, 1)))


def _height_by_width(data: pydicom.Dataset) -> float:
    for name in _SAID_BY:
        try:
            height, width = (float(side) for side in data.get(name) or ())
        except (TypeError, ValueError):
            continue
        if 0 < height < math.inf and 0 < width < math.inf:
            return height / width
    return 1.0
