"""Target, random and focal views of stored images, cut on the device (`resampling.py`).

Boxes are drawn in the image's true proportions and then mapped into the squashed square of the store. Which box,
flip, exposure and patches a view gets is a pure function of (seed, step, row, view).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from chartray.config.pretrain import ViewsConfig
from chartray.pixels.resampling import Boxes, Grey, cut_turned, to_device, turned
from chartray.randomness import uniform

TARGET_VIEW, RANDOM_VIEW, FIRST_FOCAL_VIEW = 0, 1, 2
_TRIES = 10
# What each random number of a view is for; the third coordinate of the hash.
_SCALE, _ASPECT, _LEFT, _TOP, _FLIP, _PATCH, _GAMMA, _CONTRAST, _BRIGHTNESS = range(9)


class Views(NamedTuple):
    """The views of B images: standardised grey levels, and the patches that anchors keep (None: all).

    target (B, 1, H, W), random (B, 1, H, W), focal (F*B, 1, h, w) view-major,
    random_keep (B, n), focal_keep (F*B, n).
    """

    target: Tensor
    random: Tensor
    focal: Tensor
    random_keep: Tensor | None
    focal_keep: Tensor | None


class ViewPlan(NamedTuple):
    """The crops, exposures and kept patches of B images, drawn before any pixel is read; view-major as in `Views`.

    whole (2*B,): target, then random views; focal (F*B,); exposures likewise, (2*B, 3) and (F*B, 3): gamma, contrast,
    brightness, None for none; random_keep (B, n), focal_keep (F*B, n), None where all stay.
    """

    whole: Boxes
    focal: Boxes
    whole_exposure: npt.NDArray[np.float32] | None
    focal_exposure: npt.NDArray[np.float32] | None
    random_keep: npt.NDArray[np.int64] | None
    focal_keep: npt.NDArray[np.int64] | None


def draw_boxes(
    seed: int,
    step: int,
    rows: npt.NDArray[np.int64],
    view: int | npt.NDArray[np.int64],
    image_sizes: npt.NDArray[np.float64],
    store_size: int,
    *,
    scale: Sequence[float],
    aspect: Sequence[float],
    flip: float,
) -> Boxes:
    """One random crop for each row: `scale` of the image's area, `aspect` = width / height in true proportions.

    rows (N,), view one or (N,), image_sizes (N, 2) true height and width. Of ten tries the first that fits is taken,
    else the whole image cut to the nearest allowed aspect (as torchvision's RandomResizedCrop does).
    """
    height, width = image_sizes[:, 0], image_sizes[:, 1]
    views = np.broadcast_to(np.asarray(view, np.int64), rows.shape)

    def draw(purpose: int, of: npt.NDArray[np.int64] | slice = slice(None), attempt: int = 0) -> Any:
        return uniform(seed, step, rows[of], views[of], purpose, attempt)

    allowed = np.clip(width / height, aspect[0], aspect[1])
    crop_width, crop_height = np.minimum(width, height * allowed), np.minimum(height, width / allowed)
    left_to_try = np.arange(len(rows))
    for attempt in range(_TRIES):
        of = left_to_try
        area = height[of] * width[of] * (scale[0] + (scale[1] - scale[0]) * draw(_SCALE, of, attempt))
        ratio = np.exp(np.log(aspect[0]) + np.log(aspect[1] / aspect[0]) * draw(_ASPECT, of, attempt))
        tried_width, tried_height = np.sqrt(area * ratio), np.sqrt(area / ratio)
        fits = (tried_width <= width[of]) & (tried_height <= height[of])
        crop_width[of[fits]], crop_height[of[fits]] = tried_width[fits], tried_height[fits]
        left_to_try = of[~fits]
        if not left_to_try.size:
            break
    return Boxes(
        left=draw(_LEFT) * (width - crop_width) / width * store_size,
        top=draw(_TOP) * (height - crop_height) / height * store_size,
        width=crop_width / width * store_size,
        height=crop_height / height * store_size,
        flip=draw(_FLIP) < flip,
    )


def draw_exposures(
    seed: int, step: int, rows: npt.NDArray[np.int64], views: npt.NDArray[np.int64], strength: float
) -> npt.NDArray[np.float32]:
    """How each view of rows (N,), views (N,) is exposed, (N, 3): gamma, contrast, brightness.

    ln gamma and ln contrast are uniform in [-strength, strength], brightness in [-strength / 4, strength / 4].
    """
    spread = np.stack([2 * uniform(seed, step, rows, views, kind) - 1 for kind in (_GAMMA, _CONTRAST, _BRIGHTNESS)], 1)
    gamma, contrast, brightness = (strength * spread).T
    return np.stack([np.exp(gamma), np.exp(contrast), brightness / 4], 1).astype(np.float32)


def expose(views: Tensor, exposures: Tensor, grey: Grey) -> Tensor:
    """Views (N, 1, H, W), standardised by `grey`, exposed anew: x -> contrast (x^gamma - 1/2) + 1/2 + brightness.

    exposures (N, 3); x is the grey level in [0, 1], and what leaves [0, 1] is cut off.
    """
    gamma, contrast, brightness = (exposures[:, column, None, None, None] for column in range(3))
    level = (views * grey.std + grey.mean).clamp(0, 1)
    return ((contrast * (level**gamma - 0.5) + 0.5 + brightness).clamp(0, 1) - grey.mean) / grey.std


def kept_count(patches: int, mask_ratio: float) -> int:
    """How many patches an anchor keeps, at least one; a part of a patch is dropped, as in the official code.

    >>> kept_count(196, 0.15), kept_count(10, 0.9)
    (166, 1)
    """
    return max(int(patches * (1 - mask_ratio) + 1e-9), 1)  # 10 * (1 - 0.9) is less than 1 in binary


def kept_patches(
    seed: int, step: int, rows: npt.NDArray[np.int64], view: int, patches: int, mask_ratio: float
) -> npt.NDArray[np.int64]:
    """The patches an anchor keeps, ascending, (B, `kept_count`); each as likely as any other."""
    count = kept_count(patches, mask_ratio)
    draw = uniform(seed, step, rows[:, None], view, _PATCH, np.arange(patches)[None, :])
    return np.sort(np.argpartition(draw, count - 1, axis=1)[:, :count], axis=1).astype(np.int64)


def plan_views(
    rows: npt.NDArray[np.int64],
    image_sizes: npt.NDArray[np.float64],
    store_size: int,
    config: ViewsConfig,
    *,
    patch_side: int,
    seed: int,
    step: int,
) -> ViewPlan:
    """Draws the views of a batch: rows (B,) global rows, image_sizes (B, 2) true height and width."""

    def boxes(views: npt.NDArray[np.int64], scale: Sequence[float]) -> Boxes:
        return draw_boxes(
            seed,
            step,
            np.tile(rows, len(views)),
            np.repeat(views, len(rows)),
            np.tile(image_sizes, (len(views), 1)),
            store_size,
            scale=scale,
            aspect=config.aspect,
            flip=config.flip,
        )

    def keep(views: npt.NDArray[np.int64], size: int, ratio: float) -> npt.NDArray[np.int64] | None:
        if ratio == 0 or not views.size:
            return None
        patches = (size // patch_side) ** 2
        return np.concatenate([kept_patches(seed, step, rows, view, patches, ratio) for view in views.tolist()])

    def exposures(views: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        if config.exposure == 0:
            return None
        return draw_exposures(seed, step, np.tile(rows, len(views)), np.repeat(views, len(rows)), config.exposure)

    whole = np.array([TARGET_VIEW, RANDOM_VIEW])
    focal = np.arange(FIRST_FOCAL_VIEW, FIRST_FOCAL_VIEW + config.focal_count)
    return ViewPlan(
        whole=boxes(whole, config.scale),
        focal=boxes(focal, config.focal_scale),
        whole_exposure=exposures(whole),
        focal_exposure=exposures(focal),
        random_keep=keep(np.array([RANDOM_VIEW]), config.size, config.mask_ratio),
        focal_keep=keep(focal, config.focal_size, config.focal_mask_ratio),
    )


def cut_views(images: Tensor, plan: ViewPlan, config: ViewsConfig, grey: Grey) -> Views:
    """The views of a plan, standardised by `grey`: images (B, S, S) uint8, on the device they are to be on."""
    places, columns = np.arange(images.shape[0]), turned(images)

    def on_device(keep: npt.NDArray[np.int64] | None) -> Tensor | None:
        return None if keep is None else to_device(keep, images.device)

    def exposed(views: Tensor, exposures: npt.NDArray[np.float32] | None) -> Tensor:
        return views if exposures is None else expose(views, to_device(exposures, images.device), grey)

    whole = exposed(cut_turned(columns, np.tile(places, 2), plan.whole, config.size, grey), plan.whole_exposure)
    focal = cut_turned(columns, np.tile(places, config.focal_count), plan.focal, config.focal_size, grey)
    return Views(
        target=whole[: len(places)],
        random=whole[len(places) :],
        focal=exposed(focal, plan.focal_exposure),
        random_keep=on_device(plan.random_keep),
        focal_keep=on_device(plan.focal_keep),
    )


def median_enlargement(
    image_sizes: npt.NDArray[np.float64], store_size: int, config: ViewsConfig, *, seed: int
) -> dict[str, float]:
    """Enlargement of the median crop, by kind of view; above about 1.3 the store is too small for it."""
    rows = np.arange(len(image_sizes), dtype=np.int64)
    found = {}
    kinds = {"random": (RANDOM_VIEW, config.size, config.scale)}
    if config.focal_count:
        kinds["focal"] = (FIRST_FOCAL_VIEW, config.focal_size, config.focal_scale)
    for name, (view, size, scale) in kinds.items():
        boxes = draw_boxes(
            seed, 0, rows, view, image_sizes, store_size, scale=scale, aspect=config.aspect, flip=config.flip
        )
        found[name] = float(np.median(size / np.sqrt(boxes.width * boxes.height)))
    return found
