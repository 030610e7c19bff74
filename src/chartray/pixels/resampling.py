"""Resized crops as matrix products: A_h · image · A_w^T, with antialiased triangle weights in the rows of A.

A row of A has few numbers that are not zero, beside each other. `crop_resize` therefore takes the rows in blocks of 16
and multiplies each block with the band of pixels that it reaches; `resize_weights` is the whole matrix, for films that
share one and as the plain way that tests compare with. Both compute in float32 from positions in float64.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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


class _Group(NamedTuple):
    """Crops that are cut in one product: which of them, first column of each, pixels a band and a line are long."""

    chosen: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    reach: int
    wide: int


class _Bands(NamedTuple):
    """One axis of N crops in blocks of output pixels, on the device.

    begin (N, blocks) int64: the first pixel a block reaches; first (N, blocks) float64: centre of its first output
    pixel, counted from there; step (N, 1) float64: from one output pixel to the next, negative where mirrored; low,
    high (N, blocks) float32: the box; slope (N, 1) float32: of the triangle.
    """

    begin: Tensor
    first: Tensor
    step: Tensor
    low: Tensor
    high: Tensor
    slope: Tensor

    def of(self, crops: slice) -> "_Bands":
        return _Bands(*(values[crops] for values in self))


class _Crops(NamedTuple):
    """Crops on the device: both axes; which film, place among all crops and first column of each, (N,) int64."""

    rows: _Bands
    columns: _Bands
    film: Tensor
    place: Tensor
    column: Tensor

    def of(self, crops: slice) -> "_Crops":
        rows, columns, *each = self
        return _Crops(rows.of(crops), columns.of(crops), *(values[crops] for values in each))


def crop_resize(images: Tensor, films: npt.NDArray[np.int64], boxes: Boxes, size: int) -> Tensor:
    """N crops of films: images (B, S, S) uint8, films (N,) which one each is cut from -> (N, 1, size, size) in [0, 1].

    Within 0.001 of 255 grey levels of `resize_weights`' two products; a crop is the same whatever is cut beside it.
    """
    if not len(films):
        return torch.empty((0, 1, size, size), device=images.device)
    # Of a side that is no multiple of 8 the rest is filled up; no box reaches it.
    more = -images.shape[-1] % _BYTES
    images = pad(images, (0, more, 0, more)).contiguous()
    source, device = images.shape[-1], images.device
    groups = list(_groups(boxes, source, size, _AT_ONCE["cpu" if device.type == "cpu" else "cuda"]))
    crops = _on_device(boxes, films, groups, source, size, device)
    cut = torch.empty((len(films), size, -(-size // BLOCK), BLOCK), device=device)
    begin = 0
    for group in groups:
        part = crops.of(slice(begin, begin + len(group.chosen)))
        cut[part.place] = _two_products(images, part, size, group.reach, group.wide)
        begin += len(group.chosen)
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


def to_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; to a GPU through pinned memory, since any other copy waits for what is queued there."""
    tensor = torch.from_numpy(values)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def to_grey(images: Tensor) -> Tensor:
    """The store's uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def _groups(boxes: Boxes, source: int, size: int, at_once: int) -> Iterator[_Group]:
    """The crops by the length of their bands, in parts of about `at_once` pixels of these."""
    blocks = -(-size // BLOCK)
    step = np.maximum(boxes.width, boxes.height) / size
    needed = np.ceil((BLOCK - 1) * step + 2 * np.maximum(step, 1)) + _FLOATS
    allowed = np.array([*(reach for reach in _REACHES if reach < source), source])
    lengths = allowed[np.searchsorted(allowed, np.minimum(needed, source))]
    for reach in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == reach)
        pixels = blocks * reach * min(boxes.width[chosen].max() + reach, source)
        for some in np.array_split(chosen, math.ceil(len(chosen) * pixels / at_once)):
            yield _group(boxes, some, source, size, reach)


def _group(boxes: Boxes, chosen: npt.NDArray[np.int64], source: int, size: int, reach: int) -> _Group:
    """The columns that any block of a crop reaches, as many for each crop: a product works on nothing beside them."""
    ends = np.array([0, -(-size // BLOCK) - 1])
    lowest = _lowest(boxes.left[chosen, None], boxes.width[chosen, None], boxes.flip[chosen, None], ends, size)
    begin = lowest.clip(0, source - reach)
    column = begin.min(axis=1) // _BYTES * _BYTES
    wide = int((begin.max(axis=1) - column).max()) + reach
    wide = min(-(-wide // _BYTES) * _BYTES, source)
    return _Group(chosen, np.minimum(column, source - wide).astype(np.int64), reach, wide)


def _lowest(start: Any, length: Any, mirrored: Any, block: Any, size: int) -> Any:
    """The pixel, a multiple of 4, where the band of each block begins: all (N, 1), blocks (n,) -> (N, n).

    Of arrays and of tensors alike: the host must know how long lines are, and the device where each band lies.
    """
    step = length / size
    first = _first_centre(start, length, mirrored, block, size)
    return (first - step * (BLOCK - 1) * mirrored - step.clip(1)) // _FLOATS * _FLOATS


def _first_centre(start: Any, length: Any, mirrored: Any, block: Any, size: int) -> Any:
    """Where in the film the first output pixel of each block has its centre, (N, n)."""
    signed = length / size * (1 - 2.0 * mirrored)
    return start + length * mirrored + signed / 2 + signed * (BLOCK * block)


def _on_device(
    boxes: Boxes,
    films: npt.NDArray[np.int64],
    groups: Sequence[_Group],
    source: int,
    size: int,
    device: torch.device,
) -> _Crops:
    """The crops in the order of their groups: one copy to the device, of 80 bytes a crop."""
    order = np.concatenate([group.chosen for group in groups])
    column = np.concatenate([group.column for group in groups])
    counts = [len(group.chosen) for group in groups]
    last_row = np.repeat([source - group.reach for group in groups], counts)
    last_column = column + np.repeat([group.wide - group.reach for group in groups], counts)
    values = (boxes.left, boxes.width, boxes.top, boxes.height, boxes.flip, films, np.arange(len(films)))
    ordered = [side[order] for side in values] + [column, last_row, last_column]
    table = to_device(np.stack(ordered).astype(np.float64), device)
    left, width, top, height, flip, film, place, first, last_row_at, last_column_at = table[..., None].unbind()
    upright = torch.zeros_like(flip)
    rows = _bands(top, height, upright, size, (upright, last_row_at))
    columns = _bands(left, width, flip, size, (first, last_column_at))
    return _Crops(rows, columns, *(each[:, 0].long() for each in (film, place, first)))


def _bands(start: Tensor, length: Tensor, mirrored: Tensor, size: int, limits: tuple[Tensor, Tensor]) -> _Bands:
    """Where the blocks of one axis lie: start, length, mirrored (N, 1); bands begin within `limits`, (N, 1) each."""
    block = torch.arange(-(-size // BLOCK), device=start.device)
    begin = _lowest(start, length, mirrored, block, size).clip(*limits)
    step = length / size
    return _Bands(
        begin=begin.long(),
        first=_first_centre(start, length, mirrored, block, size) - begin,
        step=step * (1 - 2.0 * mirrored),
        low=(start - begin).float(),
        high=(start + length - begin).float(),
        slope=(-1 / step.clip(1)).float(),
    )


def _band_weights(bands: _Bands, reach: int, scale: float) -> Tensor:
    """The blocks of A (N, blocks, BLOCK, reach), each row summing to `scale`."""
    device = bands.step.device
    # Counted from the band's first pixel, positions are small enough for float32.
    at = (bands.first[:, :, None] + bands.step[:, :, None] * torch.arange(BLOCK, device=device)).float()
    pixel = torch.arange(reach, device=device) + 0.5
    weights = (at[..., None] - pixel).abs_().mul_(bands.slope[:, :, None, None]).add_(1).clamp_(min=0)
    weights.mul_(((pixel > bands.low[..., None]) & (pixel < bands.high[..., None]))[:, :, None])
    return weights.mul_(scale / weights.sum(dim=3, keepdim=True).clamp_(min=1e-8))


def _two_products(images: Tensor, crops: _Crops, size: int, reach: int, wide: int) -> Tensor:
    """A_h · image · A_w^T in bands -> (N, size, blocks, BLOCK): columns in blocks, the last one filled up."""
    rows, columns, device = crops.rows, crops.columns, images.device
    count, blocks = rows.begin.shape
    left = crops.column[:, None]
    lines = rows.begin[:, :, None] + torch.arange(reach, device=device)  # (N, blocks, reach)
    bands = _windows(images, wide, _BYTES)[crops.film[:, None, None], lines, (left // _BYTES)[:, None]]
    bands = bands.view(torch.uint8).flatten(0, 1).float()  # (N * blocks, reach, wide)
    down = (_band_weights(rows, reach, 1 / 255).flatten(0, 1) @ bands).view(count, blocks * BLOCK, wide)
    begin = (columns.begin - left)[:, :, None] // _FLOATS  # (N, blocks, 1)
    crop = torch.arange(count, device=device)[:, None, None]
    bands = _windows(down, reach, _FLOATS)[crop, torch.arange(size, device=device), begin].view(torch.float32)
    across = bands.flatten(0, 1) @ _band_weights(columns, reach, 1.0).flatten(0, 1).transpose(1, 2)
    return across.view(count, blocks, size, BLOCK).transpose(1, 2)


def _windows(lines: Tensor, length: int, unit: int) -> Tensor:
    """Every `length` numbers of each line that start at a multiple of `unit`, as a view: (B, H, places, length / unit).

    The numbers are seen `unit` at a time, as wide ones, which indexing copies as fast as narrow ones.
    """
    wide = lines.view({8: torch.int64, 16: torch.complex128}[unit * lines.element_size()])
    places = (lines.shape[-1] - length) // unit + 1
    return wide.as_strided((*lines.shape[:2], places, length // unit), (*wide.stride(), 1))
