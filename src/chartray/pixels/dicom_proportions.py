"""Pixels of a DICOM film that are higher than wide, or wider than high: the film is drawn in its true proportions.

What the header says of a pixel's height and width: PixelSpacing, else ImagerPixelSpacing, else
NominalScannedPixelSpacing, else PixelAspectRatio; zeros and what is no number say nothing.
"""

import math
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image

from chartray.pixels.grey import Float, UnreadableFilm

_SAID_BY = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
# Below, a side is rounded (0.143 beside 0.1429); above, the header is wrong: no detector has such pixels.
_UNEQUAL_FROM, _UNEQUAL_UP_TO = 1.01, 4.0


class Proportions(NamedTuple):
    """Rows and columns of square pixels in the place of those of the file: never fewer, so that nothing is lost."""

    rows: int
    columns: int

    def drawn(self, film: Float) -> Float:
        """The film (H, W) as (rows, columns), by linear interpolation; itself where its pixels are square."""
        if film.shape == self:
            return film
        shown = Image.fromarray(np.ascontiguousarray(film))
        return np.asarray(shown.resize((self.columns, self.rows), Image.Resampling.BILINEAR))


def proportions(data: pydicom.Dataset) -> Proportions:
    """As the header says; UnreadableFilm if it gives a pixel one side that is more than four times the other."""
    rows, columns, ratio = int(data.Rows), int(data.Columns), _height_by_width(data)
    longer = max(ratio, 1 / ratio)
    if longer > _UNEQUAL_UP_TO:
        raise UnreadableFilm("its header gives pixels of which one side is more than four times the other")
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
