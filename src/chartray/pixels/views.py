"""Target, random and focal views of stored films, made on the device as two matrix products.

A resized crop is A_h · image · A_w^T, with antialiased triangle weights in the rows of A; flipping reverses A_w.
Boxes are drawn in the film's true proportions and then mapped into the squashed square of the store. Which box,
flip and patches a view gets is a pure function of (seed, step, row, view).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chartray.config import ViewsConfig
from chartray.randomness import uniform

TARGET_VIEW, RANDOM_VIEW, FIRST_FOCAL_VIEW = 0, 1, 2
_TRIES = 10
# What each random number of a view is for; the third coordinate of the hash.
_SCALE, _ASPECT, _LEFT, _TOP, _FLIP, _PATCH = range(6)


class Boxes(NamedTuple):
    """Crops in pixels of the squashed store, each (B,) float64; `flip` mirrors left and right."""

    left: npt.NDArray[np.float64]
    top: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]


class Views(NamedTuple):
    """The views of B films: grey levels in [0, 1], and the patches that anchors keep (None: all).

    target (B, 1, H, W), random (B, 1, H, W), focal (F*B, 1, h, w) view-major,
    random_keep (B, n), focal_keep (F*B, n).
    """

    target: Tensor
    random: Tensor
    focal: Tensor
    random_keep: Tensor | None
    focal_keep: Tensor | None


def draw_boxes(
    seed: int,
    step: int,
    rows: npt.NDArray[np.int64],
    view: int,
    film_sizes: npt.NDArray[np.float64],
    store_size: int,
    *,
    scale: Sequence[float],
    aspect: Sequence[float],
    flip: float,
) -> Boxes:
    """One random crop for each row: `scale` of the film's area, `aspect` = width / height in true proportions.

    film_sizes (B, 2) true height and width. Of ten tries the first that fits is taken, else the whole film cut
    to the nearest allowed aspect (as torchvision's RandomResizedCrop does).
    """
    height, width = film_sizes[:, 0], film_sizes[:, 1]
    tries = np.arange(_TRIES)[:, None]

    def draw(purpose: int, attempt: npt.NDArray[np.int64] | int = 0) -> npt.NDArray[np.float64]:
        return uniform(seed, step, rows, view, purpose, attempt)

    area = height * width * (scale[0] + (scale[1] - scale[0]) * draw(_SCALE, tries))  # (tries, B)
    ratio = np.exp(np.log(aspect[0]) + np.log(aspect[1] / aspect[0]) * draw(_ASPECT, tries))
    crop_width, crop_height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (crop_width <= width) & (crop_height <= height)
    # The eleventh candidate always fits.
    allowed = np.clip(width / height, aspect[0], aspect[1])
    crop_width = np.vstack((crop_width, np.minimum(width, height * allowed)))
    crop_height = np.vstack((crop_height, np.minimum(height, width / allowed)))
    first = np.vstack((fits, np.ones_like(fits[:1]))).argmax(axis=0)
    crop_width, crop_height = (side[first, np.arange(len(rows))] for side in (crop_width, crop_height))
    return Boxes(
        left=draw(_LEFT) * (width - crop_width) / width * store_size,
        top=draw(_TOP) * (height - crop_height) / height * store_size,
        width=crop_width / width * store_size,
        height=crop_height / height * store_size,
        flip=draw(_FLIP) < flip,
    )


def kept_patches(
    seed: int, step: int, rows: npt.NDArray[np.int64], view: int, patches: int, mask_ratio: float
) -> npt.NDArray[np.int64]:
    """The patches an anchor keeps, ascending, (B, patches - int(patches * mask_ratio)); each as likely as any other."""
    count = patches - int(patches * mask_ratio)
    draw = uniform(seed, step, rows[:, None], view, _PATCH, np.arange(patches)[None, :])
    return np.sort(np.argpartition(draw, count - 1, axis=1)[:, :count], axis=1).astype(np.int64)


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


def crop_resize(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Crops and resizes: images (B, S, S) float32 in [0, 1] -> (B, 1, size, size)."""
    source = images.shape[-1]

    def on_device(values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(images.device)

    rows = resize_weights(on_device(boxes.top), on_device(boxes.height), source, size)
    columns = resize_weights(on_device(boxes.left), on_device(boxes.width), source, size)
    mirrored = torch.from_numpy(boxes.flip).to(images.device)[:, None, None]
    columns = torch.where(mirrored, columns.flip(1), columns)
    return (rows @ images @ columns.transpose(1, 2))[:, None]


def whole_film(images: Tensor, size: int) -> Tensor:
    """What evaluation and export see, the whole film: uint8 (B, S, S) -> float32 (B, 1, size, size) in [0, 1]."""
    start = torch.zeros(1, device=images.device)
    weights = resize_weights(start, start + images.shape[-1], images.shape[-1], size)
    return (weights @ to_grey(images) @ weights.transpose(1, 2))[:, None]


def to_grey(images: Tensor) -> Tensor:
    """The store's uint8 -> float32 in [0, 1]."""
    return images.float() / 255


def make_views(
    images: Tensor,
    film_sizes: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    config: ViewsConfig,
    *,
    patch_side: int,
    seed: int,
    step: int,
) -> Views:
    """All views of a batch: images uint8 (B, S, S), film_sizes (B, 2) true height and width, rows (B,) global rows."""
    grey = to_grey(images)
    store_size = images.shape[-1]

    def crop(view: int, size: int, scale: Sequence[float]) -> Tensor:
        boxes = draw_boxes(
            seed, step, rows, view, film_sizes, store_size, scale=scale, aspect=config.aspect, flip=config.flip
        )
        return crop_resize(grey, boxes, size)

    def keep(views: range, size: int, ratio: float) -> Tensor | None:
        patches = (size // patch_side) ** 2
        if ratio == 0 or not views:
            return None
        kept = [kept_patches(seed, step, rows, view, patches, ratio) for view in views]
        return torch.from_numpy(np.concatenate(kept)).to(images.device)

    focal_views = range(FIRST_FOCAL_VIEW, FIRST_FOCAL_VIEW + config.focal_count)
    focal = [crop(view, config.focal_size, config.focal_scale) for view in focal_views]
    return Views(
        target=crop(TARGET_VIEW, config.size, config.scale),
        random=crop(RANDOM_VIEW, config.size, config.scale),
        focal=torch.cat(focal) if focal else grey.new_zeros((0, 1, config.focal_size, config.focal_size)),
        random_keep=keep(range(RANDOM_VIEW, RANDOM_VIEW + 1), config.size, config.mask_ratio),
        focal_keep=keep(focal_views, config.focal_size, config.focal_mask_ratio),
    )


def median_enlargement(
    film_sizes: npt.NDArray[np.float64], store_size: int, config: ViewsConfig, *, seed: int
) -> dict[str, float]:
    """How many times the median crop is blown up, by kind of view: above about 1.3 the store is too small for it."""
    rows = np.arange(len(film_sizes), dtype=np.int64)
    found = {}
    kinds = {"random": (RANDOM_VIEW, config.size, config.scale)}
    if config.focal_count:
        kinds["focal"] = (FIRST_FOCAL_VIEW, config.focal_size, config.focal_scale)
    for name, (view, size, scale) in kinds.items():
        boxes = draw_boxes(
            seed, 0, rows, view, film_sizes, store_size, scale=scale, aspect=config.aspect, flip=config.flip
        )
        found[name] = float(np.median(size / np.sqrt(boxes.width * boxes.height)))
    return found
