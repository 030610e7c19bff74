"""Levels -> shades: shared by all image readers.

An image is kept as levels, one small whole number a pixel, until its grey scale is known: the scale is then worked out
once for each level, not for each pixel, and looked up.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]
Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

NARROWEST_SPAN = 0.25
_OUTLIERS = 0.01
_MARGIN = 0.25
_SAMPLE = 1 << 18
_ROWS_AT_ONCE = 64

LARGEST_IMAGE = 100_000_000
"""Rows x columns: five times the largest detector (43 cm at 0.1 mm, squared: 18 million)."""


class UnreadableImage(Exception):
    """An image that cannot be used; its text is the reason, one sentence without the path."""


class Levels(NamedTuple):
    """`places` (H, W): which of `number` levels each pixel has."""

    places: Integers
    number: int

    def histogram(self, *, middle: bool = False) -> npt.NDArray[np.int64]:
        """Pixels at each level (number,), counted on a regular grid of about 2^18 pixels (all of a smaller image).

        `middle`: only in the middle half of its height and width.
        """
        places = self.places
        if middle:
            (top, bottom), (left, right) = ((n // 4, n - n // 4) for n in places.shape)
            places = places[top:bottom, left:right]
        step = max(1, math.isqrt(places.size // _SAMPLE))
        return np.bincount(places[::step, ::step].ravel(), minlength=self.number)

    def whole_histogram(self) -> npt.NDArray[np.int64]:
        """Pixels at each level (number,), all of them."""
        rows = range(0, len(self.places), _ROWS_AT_ONCE)
        pieces = (self.places[row : row + _ROWS_AT_ONCE].ravel() for row in rows)
        return np.asarray(sum(np.bincount(piece, minlength=self.number) for piece in pieces))

    def shown(self, shades: Reals) -> Float:
        """The image (H, W) of which level i has the shade shades[i]."""
        table = shades.astype(np.float32)
        image = np.empty(self.places.shape, dtype=np.float32)
        # In pieces, since numpy makes 64-bit numbers of the places; all of them are within the table.
        for row in range(0, len(image), _ROWS_AT_ONCE):
            rows = slice(row, row + _ROWS_AT_ONCE)
            np.take(table, self.places[rows], out=image[rows], mode="wrap")
        return image


def levels_of(pixels: Integers) -> tuple[Levels, npt.NDArray[np.int64]]:
    """The levels of whole numbers of 8 or 16 bits (every number of the type is one), or more, and what each stands for.

    Signed numbers are taken for their unsigned bit patterns.
    """
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    pixels = pixels.view(np.dtype(f"u{pixels.dtype.itemsize}"))
    if pixels.dtype.itemsize <= 2:
        number = 1 << (8 * pixels.dtype.itemsize)
        return Levels(pixels, number), np.arange(number)
    values, places = np.unique(pixels, return_inverse=True)
    return Levels(places.reshape(pixels.shape), len(values)), values.astype(np.int64)


def over_range(shades: Reals, levels: Levels, ignored: Flags | None = None) -> Reals:
    """Shades on the stated range, 0 to 1, or stretched where an image would use under a quarter of it; clipped.

    The store has 256 grey levels: an image that uses a sixteenth of its range would keep 16. The darkest and the
    brightest 1 % (a lead marker, burnt-in text, one bright pixel) are set aside. If the remaining shades span
    under a quarter of the range, they become the range, widened on either side by a quarter of their span, but not
    beyond the image's own extremes: bone and air beyond the 1 % stay apart, and only outliers (the marker) is
    clipped. An image and its negative are stretched alike.

    `ignored`: levels that do not count (padding).
    """
    counts = levels.histogram()
    present: Flags = counts > 0 if ignored is None else (counts > 0) & ~ignored
    low, high = _without_outliers(shades[present], counts[present])
    if high - low >= NARROWEST_SPAN:
        return np.clip(shades, 0, 1)
    smallest, largest = _extremes(shades, levels, ignored)
    if low == high:
        low, high = smallest, largest
    if not 0 < high - low < NARROWEST_SPAN:
        return np.clip(shades, 0, 1)
    margin = _MARGIN * (high - low)
    low, high = max(smallest, low - margin), min(largest, high + margin)
    return np.clip((shades - low) / (high - low), 0, 1)


def _without_outliers(shades: Reals, counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The smallest and largest shade that is left when the darkest and the brightest 1 % of the pixels are gone."""
    order = np.argsort(shades, kind="stable")
    shades, counts = shades[order], counts[order]
    outliers = _OUTLIERS * counts.sum()
    darkest = int(np.argmax(np.cumsum(counts) > outliers))
    brightest = int(np.argmax(np.cumsum(counts[::-1]) > outliers))
    return float(shades[darkest]), float(shades[::-1][brightest])


def _extremes(shades: Reals, levels: Levels, ignored: Flags | None) -> tuple[float, float]:
    """The smallest and largest shade of any pixel."""
    between = slice(int(levels.places.min()), int(levels.places.max()) + 1)
    if ignored is None or not ignored[between].any():
        steps = np.diff(shades[between])
        if (steps >= 0).all() or (steps <= 0).all():  # no need to count
            ends = shades[between][[0, -1]]
            return float(ends.min()), float(ends.max())
    present = levels.whole_histogram() > 0
    if ignored is not None:
        present &= ~ignored
    return float(shades[present].min()), float(shades[present].max())


def refuse_too_large(rows: int, columns: int, largest: int) -> None:
    """Raises UnreadableImage, before anything is decoded, if the declared size is empty or too large."""
    if rows < 1 or columns < 1:
        raise UnreadableImage(f"its header declares {rows} rows and {columns} columns")
    if rows * columns > largest:
        raise UnreadableImage(
            f"its header declares {rows} x {columns} pixels, more than the limit of {largest / 1e6:g} million "
            "(--max-megapixels)"
        )
