"""Resized crops as matrix products: A_h · image · A_w^T, with antialiased triangle weights in the rows of A.

The nonzero weights of a row of A are few and adjacent. `crop_resize` therefore takes the rows in blocks of 16
and multiplies each block with the band of pixels that it reaches: first along the image's lines, then down its columns.
It reads images column by column (`turned`), so that bands are read in long runs and crops come out as they are kept.
`resize_weights` is the whole matrix, for images that share one and as the plain way that tests compare with. Both
compute in float32 from positions in float64.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

BLOCK = 16
# Bands are as long as the reach of a block, rounded up to one of these (or the whole side): a crop's pixels then depend
# on its own box alone, never on which others happen to be cut with it, and crops of one length are cut in one product.
_REACHES = (16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512)
# Bands start at multiples of 4 columns, lines at multiples of 8: indexing copies 4 floats or 8 bytes at a time.
_FLOATS, _BYTES = 4, 8
# Numbers at once, of bands and of both products: on a CPU what a cache holds, on a GPU what keeps it busy.
_AT_ONCE = {"cpu": 3 << 19, "cuda": 1 << 29}


class Boxes(NamedTuple):
    """Crops in pixels of the squashed store, each (N,) float64; `flip` mirrors left and right."""

    left: npt.NDArray[np.float64]
    top: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]


class Grey(NamedTuple):
    """How grey levels in [0, 1] are standardised: (grey - mean) / std."""

    mean: float
    std: float


class _CropGroup(NamedTuple):
    """Crops cut in one product: which of them, first row of each, pixels a band is long, rows that a crop reaches."""

    chosen: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    reach: int
    tall: int


class _Crops(NamedTuple):
    """N crops on the device, in blocks of output pixels: first along lines (axis 0), then down columns (axis 1).

    begin (2, N, blocks) int64: the first pixel a block reaches. Counted from there, float32: at (2, N, blocks, BLOCK),
    the centres of the output pixels; low, high (2, N, blocks), the box. slope (2, N, 1) float32: of the triangle.
    which, place, row (1, N) int64: which image, which of all crops, the first row it reaches.
    """

    begin: Tensor
    at: Tensor
    low: Tensor
    high: Tensor
    slope: Tensor
    which: Tensor
    place: Tensor
    row: Tensor

    def split(self, counts: list[int]) -> "Iterator[_Crops]":
        return (_Crops(*part) for part in zip(*(torch.split(values, counts, dim=1) for values in self), strict=True))


def turned(images: Tensor) -> Tensor:
    """Images (B, S, S) uint8 column by column; S is filled up to a multiple of 8, and no box reaches what is added."""
    more = -images.shape[-1] % _BYTES
    return pad(images.transpose(1, 2), (0, more, 0, more)).contiguous()


def crop_resize(images: Tensor, which: npt.NDArray[np.int64], boxes: Boxes, size: int) -> Tensor:
    """N crops of images: images (B, S, S) uint8, which (N,) of them each crop is from -> (N, 1, size, size) in [0, 1].

    Within 0.001 of 255 grey levels of `resize_weights`' two products; a crop does not depend on the other crops.
    """
    return cut_turned(turned(images), which, boxes, size, Grey(mean=0.0, std=1.0))


def cut_turned(columns: Tensor, which: npt.NDArray[np.int64], boxes: Boxes, size: int, grey: Grey) -> Tensor:
    """`crop_resize` of images that are `turned` already, for crops of several sizes; standardised by `grey`."""
    source, device = columns.shape[-1], columns.device
    cut = torch.empty((len(which), size, size), device=device)
    if not len(which):
        return cut[:, None]
    groups = list(_groups(boxes, source, size, _AT_ONCE["cpu" if device.type == "cpu" else "cuda"]))
    crops = _on_device(boxes, which, groups, source, size, device)
    for group, part in zip(groups, crops.split([len(group.chosen) for group in groups]), strict=True):
        _in_long_runs(cut)[part.place[0]] = _in_long_runs(_two_products(columns, part, size, group, grey))
    return cut[:, None]


def resize_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """The rows of A: triangle weights that resample [start, start + length) of `source` pixels -> (B, size, source).

    The triangle is as wide as the step when shrinking (antialiased) and one pixel when enlarging. Pixels
    whose centre is outside the box take no part, so an integer box equals crop, then antialiased bilinear resize.
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


def whole_image(images: Tensor, size: int, interpolation: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """What evaluation and export see, the whole image: uint8 (B, H, W) -> float32 (B, 1, size, size) in [0, 1].

    Antialiased, without rounding to whole grey levels. `bicubic` overshoots at edges; what leaves [0, 1] is cut off.
    """
    if interpolation == "bicubic":
        grey = to_grey(images)[:, None]
        return interpolate(grey, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    start = torch.zeros(1, device=images.device)
    down, along = (resize_weights(start, start + side, side, size) for side in images.shape[-2:])
    return (down @ to_grey(images) @ along.transpose(1, 2))[:, None]


def to_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; to a GPU through pinned memory, since any other copy waits for what is queued there."""
    tensor = torch.from_numpy(values)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def to_grey(images: Tensor) -> Tensor:
    """The store's uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def _groups(boxes: Boxes, source: int, size: int, at_once: int) -> Iterator[_CropGroup]:
    """The crops by the length of their bands, in parts of about `at_once` numbers: bands and products, both times."""
    blocks = -(-size // BLOCK)
    step = np.maximum(boxes.width, boxes.height) / size
    needed = np.ceil((BLOCK - 1) * step + 2 * np.maximum(step, 1)) + _FLOATS
    allowed = np.array([*(reach for reach in _REACHES if reach < source), source])
    lengths = allowed[np.searchsorted(allowed, np.minimum(needed, source))]
    for reach in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == reach)
        tall = min(boxes.height[chosen].max() + reach, source)
        numbers = blocks * (reach + BLOCK) * (tall + size)
        parts = min(math.ceil(len(chosen) * numbers / at_once), len(chosen))  # one crop may be more than that
        for some in np.array_split(chosen, parts):
            yield _group(boxes, some, source, size, reach)


def _group(boxes: Boxes, chosen: npt.NDArray[np.int64], source: int, size: int, reach: int) -> _CropGroup:
    """The rows that any block of a crop reaches, as many for each crop: a product works on these alone."""
    ends = np.array([0, -(-size // BLOCK) - 1])
    lowest = _lowest(boxes.top[chosen, None], boxes.height[chosen, None], False, ends, size)
    begin = lowest.clip(0, source - reach)
    row = begin.min(axis=1) // _BYTES * _BYTES
    tall = int((begin.max(axis=1) - row).max()) + reach
    tall = min(-(-tall // _BYTES) * _BYTES, source)
    return _CropGroup(chosen, np.minimum(row, source - tall).astype(np.int64), reach, tall)


def _lowest(start: Any, length: Any, mirrored: Any, block: Any, size: int) -> Any:
    """The pixel, a multiple of 4, where the band of each block begins: all (N, 1), blocks (n,) -> (N, n).

    Of arrays and of tensors alike: the host must know how long lines are, and the device where each band is.
    """
    step = length / size
    first = _first_centre(start, length, mirrored, block, size)
    return (first - step * (BLOCK - 1) * mirrored - step.clip(1)) // _FLOATS * _FLOATS


def _first_centre(start: Any, length: Any, mirrored: Any, block: Any, size: int) -> Any:
    """Where in the image the first output pixel of each block has its centre, (N, n)."""
    signed = length / size * (1 - 2.0 * mirrored)
    return start + length * mirrored + signed / 2 + signed * (BLOCK * block)


def _on_device(
    boxes: Boxes,
    which: npt.NDArray[np.int64],
    groups: Sequence[_CropGroup],
    source: int,
    size: int,
    device: torch.device,
) -> _Crops:
    """The crops in the order of their groups: one copy to the device, of 80 bytes a crop."""
    order = np.concatenate([group.chosen for group in groups])
    first_row = np.concatenate([group.row for group in groups])
    counts = [len(group.chosen) for group in groups]
    last_column = np.repeat([source - group.reach for group in groups], counts)
    last_row = first_row + np.repeat([group.tall - group.reach for group in groups], counts)
    values = (boxes.left, boxes.top, boxes.width, boxes.height, boxes.flip, which, np.arange(len(which)))
    ordered = [side[order] for side in values] + [first_row, last_column, last_row]
    table = to_device(np.stack(ordered).astype(np.float64), device)[..., None]
    start, length, (mirrored, image, place, row), last = torch.split(table, [2, 2, 4, 2])
    # Images are mirrored left and right, never upside down.
    mirrored, lowest = torch.stack([mirrored, torch.zeros_like(row)]), torch.stack([torch.zeros_like(row), row])
    block, output = torch.arange(-(-size // BLOCK), device=device), torch.arange(BLOCK, device=device)
    begin, step = _lowest(start, length, mirrored, block, size).clip(lowest, last), length / size
    # Counted from the band's first pixel, positions are small enough for float32.
    first = _first_centre(start, length, mirrored, block, size) - begin
    return _Crops(
        begin=begin.long(),
        at=(first[..., None] + (step * (1 - 2.0 * mirrored))[..., None] * output).float(),
        low=(start - begin).float(),
        high=(start + length - begin).float(),
        slope=(-1 / step.clip(1)).float(),
        which=image.T.long(),
        place=place.T.long(),
        row=row.T.long(),
    )


def _band_weights(crops: _Crops, pixel: Tensor) -> Tensor:
    """The blocks of both A (2, N * blocks, BLOCK, reach), over a band's pixels (reach,) from 0 on; rows sum to 1."""
    centre = pixel + 0.5
    weights = (crops.at[..., None] - centre).abs_().mul_(crops.slope[..., None, None]).add_(1).clamp_(min=0)
    weights.mul_(((centre > crops.low[..., None]) & (centre < crops.high[..., None])).float()[..., None, :])
    return weights.mul_(weights.sum(dim=-1, keepdim=True).clamp_(min=1e-8).reciprocal_()).flatten(1, 2)


def _two_products(images: Tensor, crops: _Crops, size: int, group: _CropGroup, grey: Grey) -> Tensor:
    """A_h · image · A_w^T in bands of turned images -> (N, size, size)."""
    device, reach, (_, count, blocks) = images.device, group.reach, crops.begin.shape
    pixel, top = torch.arange(reach, device=device), crops.row[0, :, None]
    along, down = _band_weights(crops, pixel)
    lines = crops.begin[0, :, :, None] + pixel  # (N, blocks, reach)
    bands = _windows(images, group.tall, _BYTES)[crops.which[0, :, None, None], lines, (top // _BYTES)[:, None]]
    bands = bands.view(torch.uint8).flatten(0, 1).float()  # (N * blocks, reach, tall)
    # Standardised here, while it is in the cache: weights down the columns sum to 1.
    offset = along.new_full((1, 1, 1), -grey.mean / grey.std)
    across = torch.baddbmm(offset, along, bands, alpha=1 / (255 * grey.std)).view(count, -1, group.tall)
    begin = (crops.begin[1] - top)[:, :, None] // _FLOATS  # (N, blocks, 1)
    crop, output = torch.arange(count, device=device)[:, None, None], torch.arange(size, device=device)
    bands = _windows(across, reach, _FLOATS)[crop, output, begin].view(torch.float32)  # (N, blocks, size, reach)
    made = torch.bmm(down, bands.flatten(0, 1).transpose(1, 2))
    return made.view(count, blocks * BLOCK, size)[:, :size]


def _windows(lines: Tensor, length: int, unit: int) -> Tensor:
    """Every `length` numbers of each line that start at a multiple of `unit`, as a view: (B, H, places, length / unit).

    The numbers are seen `unit` at a time, as wide ones, which indexing copies as fast as narrow ones.
    """
    wide = lines.view({8: torch.int64, 16: torch.complex128}[unit * lines.element_size()])
    places = (lines.shape[-1] - length) // unit + 1
    return wide.as_strided((*lines.shape[:2], places, length // unit), (*wide.stride(), 1))


def _in_long_runs(crops: Tensor) -> Tensor:
    """Crops (N, size, size) one a line, for copying; as four numbers at a time if their size allows."""
    numbers = crops.flatten(1)
    return numbers if numbers.shape[1] % 4 else numbers.view(torch.complex128)
