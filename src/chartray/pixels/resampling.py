"""Resized crops as matrix products: A_h · image · A_w^T, with antialiased triangle weights in the rows of A.

A row of A has few numbers that are not zero, beside each other. `crop_resize` therefore takes the rows in blocks of 16
and multiplies each block with the band of pixels that it reaches; `resize_weights` is the whole matrix, for films that
share one and as the plain way that tests compare with. Both compute in float32 from positions in float64.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 16
# Bands are as long as the reach of a block, rounded up to one of these (or the whole side): a crop's pixels then depend
# on its own box alone, never on which others happen to be cut with it, and crops of one length are cut in one product.
_REACHES = (16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512)
# Bands start at multiples of 4 columns, lines at multiples of 8: indexing copies 4 floats or 8 bytes at a time.
_FLOATS, _BYTES = 4, 8
# Pixels of bands at once: on a CPU what a cache holds, on a GPU what keeps it busy.
_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 28}


class Boxes(NamedTuple):
    """Crops in pixels of the squashed store, each (N,) float64; `flip` mirrors left and right."""

    left: npt.NDArray[np.float64]
    top: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]

    def take(self, chosen: npt.NDArray[np.int64]) -> "Boxes":
        """Some of the boxes."""
        left, top, width, height = (side[chosen] for side in (self.left, self.top, self.width, self.height))
        return Boxes(left, top, width, height, self.flip[chosen])


class _Bands(NamedTuple):
    """One axis of N crops in blocks of output pixels.

    begin (N, blocks): the first pixel a block reaches; first (N, blocks): centre of its first output pixel, counted
    from there; step (N,): from one output pixel to the next, negative where mirrored; low, high (N, blocks): the box.
    """

    begin: npt.NDArray[np.int64]
    first: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def crop_resize(images: Tensor, films: npt.NDArray[np.int64], boxes: Boxes, size: int) -> Tensor:
    """N crops of films: images (B, S, S) uint8, films (N,) which one each is cut from -> (N, 1, size, size) in [0, 1].

    Within 0.001 of 255 grey levels of `resize_weights`' two products; a crop is the same whatever is cut beside it.
    """
    # Of a side that is no multiple of 8 the rest is filled up; no box reaches it.
    more = -images.shape[-1] % _BYTES
    images = pad(images, (0, more, 0, more)).contiguous()
    source = images.shape[-1]
    blocks = -(-size // BLOCK)
    cut = torch.empty((len(films), size, blocks, BLOCK), device=images.device)
    for reach, chosen in _by_reach(boxes, source, size):
        pixels = blocks * reach * min(boxes.width[chosen].max() + reach, source)
        parts = math.ceil(len(chosen) * pixels / _AT_ONCE["cpu" if images.device.type == "cpu" else "cuda"])
        for some in np.array_split(chosen, parts):
            part = boxes.take(some)
            rows = _bands(part.top, part.height, np.zeros(len(some), np.bool_), source, size, reach)
            columns = _bands(part.left, part.width, part.flip, source, size, reach)
            cut[torch.from_numpy(some).to(cut.device)] = _two_products(images, films[some], rows, columns, size, reach)
    return cut.flatten(2)[:, None, :, :size]


def resize_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """The rows of A: triangle weights that resample [start, start + length) of `source` pixels -> (B, size, source).

    The triangle is as wide as the step when shrinking (antialiased) and one pixel when enlarging; pixels whose
    centre lies outside the box take no part, so an integer box equals crop, then antialiased bilinear resize.
    """
    # In float32 a centre near pixel 128 is rounded by 4e-6, which shows as a thousandth of a grey level.
    start, length = start.double(), length.double()
    step = (length / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * step
    pixel = torch.arange(source, device=start.device)[None, None, :] + 0.5
    weights = (1 - (pixel - centre).abs() / step.clamp(min=1.0)).clamp(min=0)  # (B, size, S)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = weights * inside
    return (weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-8)).float()


def whole_film(images: Tensor, size: int) -> Tensor:
    """What evaluation and export see, the whole film: uint8 (B, S, S) -> float32 (B, 1, size, size) in [0, 1]."""
    start = torch.zeros(1, device=images.device)
    weights = resize_weights(start, start + images.shape[-1], images.shape[-1], size)
    return (weights @ to_grey(images) @ weights.transpose(1, 2))[:, None]


def to_grey(images: Tensor) -> Tensor:
    """The store's uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def _by_reach(boxes: Boxes, source: int, size: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Length of the bands, and the boxes (positions) that need it."""
    step = np.maximum(boxes.width, boxes.height) / size
    needed = np.ceil((BLOCK - 1) * step + 2 * np.maximum(step, 1)) + _FLOATS
    allowed = np.array([*(reach for reach in _REACHES if reach < source), source])
    lengths = allowed[np.searchsorted(allowed, np.minimum(needed, source))]
    for reach in np.unique(lengths):
        yield int(reach), np.flatnonzero(lengths == reach)


def _bands(
    start: npt.NDArray[np.float64],
    length: npt.NDArray[np.float64],
    mirrored: npt.NDArray[np.bool_],
    source: int,
    size: int,
    reach: int,
) -> _Bands:
    """Where the blocks of one axis lie: start, length, mirrored (N,)."""
    blocks = -(-size // BLOCK)
    step = length / size
    signed = np.where(mirrored, -step, step)
    centre = np.where(mirrored, start + length, start) + signed / 2  # of the first output pixel
    first = centre[:, None] + signed[:, None] * BLOCK * np.arange(blocks)  # (N, blocks)
    lowest = np.minimum(first, first + signed[:, None] * (BLOCK - 1))
    begin = np.clip((lowest - np.maximum(step, 1)[:, None]) // _FLOATS * _FLOATS, 0, source - reach)
    low, high = start[:, None] - begin, (start + length)[:, None] - begin
    return _Bands(begin.astype(np.int64), first - begin, signed, low, high)


def _band_weights(bands: _Bands, reach: int, scale: float, device: torch.device) -> Tensor:
    """The blocks of A (N, blocks, BLOCK, reach), each row summing to `scale`."""

    def on_device(values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)

    # Counted from the band's first pixel, positions are small enough for float32.
    at = bands.first[:, :, None] + bands.step[:, None, None] * np.arange(BLOCK)  # (N, blocks, BLOCK)
    pixel = torch.arange(reach, device=device) + 0.5
    narrowness = on_device(-1 / np.maximum(np.abs(bands.step), 1))[:, None, None, None]
    weights = (on_device(at)[..., None] - pixel).abs_().mul_(narrowness).add_(1).clamp_(min=0)
    low, high = (on_device(edge)[:, :, None] for edge in (bands.low, bands.high))
    weights.mul_(((pixel > low) & (pixel < high))[:, :, None])
    return weights.mul_(scale / weights.sum(dim=3, keepdim=True).clamp_(min=1e-8))


def _two_products(
    images: Tensor, films: npt.NDArray[np.int64], rows: _Bands, columns: _Bands, size: int, reach: int
) -> Tensor:
    """A_h · image · A_w^T in bands -> (N, size, blocks, BLOCK): columns in blocks, the last one filled up."""
    device, source = images.device, images.shape[-1]
    crops, blocks = rows.begin.shape
    # The columns that any block of a crop reaches, as many for each crop: a product works on nothing beside them.
    left = columns.begin.min(axis=1) // _BYTES * _BYTES
    wide = int((columns.begin.max(axis=1) - left).max()) + reach
    wide = min(-(-wide // _BYTES) * _BYTES, source)
    left = np.minimum(left, source - wide)

    def index(values: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    lines = rows.begin[:, :, None] + np.arange(reach)  # (N, blocks, reach)
    bands = _windows(images, wide, _BYTES)[
        index(films)[:, None, None], index(lines), index(left // _BYTES)[:, None, None]
    ]
    bands = bands.view(torch.uint8).flatten(0, 1).float()  # (N * blocks, reach, wide)
    down = (_band_weights(rows, reach, 1 / 255, device).flatten(0, 1) @ bands).view(crops, blocks * BLOCK, wide)
    begin = index((columns.begin - left[:, None]) // _FLOATS)[:, :, None]  # (N, blocks, 1)
    crop = torch.arange(crops, device=device)[:, None, None]
    bands = _windows(down, reach, _FLOATS)[crop, torch.arange(size, device=device), begin].view(torch.float32)
    across = bands.flatten(0, 1) @ _band_weights(columns, reach, 1.0, device).flatten(0, 1).transpose(1, 2)
    return across.view(crops, blocks, size, BLOCK).transpose(1, 2)


def _windows(lines: Tensor, length: int, unit: int) -> Tensor:
    """Every `length` numbers of each line that start at a multiple of `unit`, as a view: (B, H, places, length / unit).

    The numbers are seen `unit` at a time, as wide ones, which indexing copies as fast as narrow ones.
    """
    wide = lines.view({8: torch.int64, 16: torch.complex128}[unit * lines.element_size()])
    places = (lines.shape[-1] - length) // unit + 1
    return wide.as_strided((*lines.shape[:2], places, length // unit), (*wide.stride(), 1))
