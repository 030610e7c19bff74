"""Checks of a store's pixels: near-constant images, inverted images, duplicates within and between splits."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chartray.checks.finding import Finding, Severity, rows, share
from chartray.pixels.hashes import content_hashes, near_pairs, perceptual_hashes
from chartray.pixels.store import Store
from chartray.progress import progress
from chartray.wording import plural

_BLOCK = 256
# Standard deviation in grey levels of 255; the lowest of 1,243 real images (NIH, Hannover) is 14.
_FLAT = 6.0
# An inverted image has a bright border (air) and lungs brighter than the spine. Both exceed this many standard
# deviations in none of 1,000 NIH and 243 Hannover images, and in 78 % and 63 % of their negatives.
_INVERTED = 0.3
_MANY_INVERTED = 0.02

Floats = npt.NDArray[np.float64]


class ImageStatistics(NamedTuple):
    """Per image: grey standard deviation, border minus centre and lungs minus spine in deviations (N,), hashes."""

    deviation: Floats
    border: Floats
    lungs: Floats
    exact: list[bytes]
    perceptual: npt.NDArray[np.uint64]
    hashable: npt.NDArray[np.bool_]


def images(store: Store, where: str) -> Iterator[Finding]:
    """Near-constant images, probably inverted images, and duplicates."""
    statistics = _statistics(store)
    flat = np.flatnonzero(statistics.deviation < _FLAT)
    if len(flat):
        what = f"{plural(len(flat), 'image')} nearly constant (standard deviation below {_FLAT:g} of 255)"
        remedy = "inspect them, and exclude blank images from the cohort"
        yield Finding("warning", what, f"{where}, {rows(flat)}", len(flat), remedy)
    inverted = np.flatnonzero((statistics.border > _INVERTED) & (statistics.lungs > _INVERTED))
    if len(inverted):
        percent = share(len(inverted), len(store))
        what = f"{plural(len(inverted), 'image')} ({percent}) may be inverted: bright border, bright lungs"
        remedy = (
            "inspect some (was MONOCHROME1 saved without inversion?); about two in three inverted images are detected"
        )
        severity: Severity = "warning" if len(inverted) > _MANY_INVERTED * len(store) else "note"
        yield Finding(severity, what, f"{where}, {rows(inverted)}", len(inverted), remedy)
    yield from _same(statistics, store, where)


def border_and_lungs(block: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Images (N, S, S) -> border minus centre and lungs minus spine, in standard deviations of the image (N,)."""
    grey = block.astype(np.float32)
    side = grey.shape[-1]
    edge, third = max(1, side // 16), slice(side // 3, 2 * side // 3)
    frame = np.ones((side, side), dtype=bool)
    frame[edge : side - edge, edge : side - edge] = False
    height = slice(side // 4, 3 * side // 4)
    beside = np.r_[side // 5 : 2 * side // 5, 3 * side // 5 : 4 * side // 5]
    deviation = grey.std(axis=(1, 2)) + 1e-6
    border = (grey[:, frame].mean(axis=1) - grey[:, third, third].mean(axis=(1, 2))) / deviation
    spine = grey[:, height, 7 * side // 16 : 9 * side // 16].mean(axis=(1, 2))
    lungs = (grey[:, height][:, :, beside].mean(axis=(1, 2)) - spine) / deviation
    return border.astype(np.float64), lungs.astype(np.float64)


def _statistics(store: Store) -> ImageStatistics:
    found = []
    with progress("check", len(store), "images") as advance:
        for start in range(0, len(store), _BLOCK):
            block = store.images.gather(np.arange(start, min(start + _BLOCK, len(store)), dtype=np.int64))
            deviation = block.std(axis=(1, 2), dtype=np.float64)
            found.append(
                ImageStatistics(deviation, *border_and_lungs(block), content_hashes(block), *perceptual_hashes(block))
            )
            advance(len(block))
    return ImageStatistics(
        deviation=np.concatenate([part.deviation for part in found]),
        border=np.concatenate([part.border for part in found]),
        lungs=np.concatenate([part.lungs for part in found]),
        exact=[digest for part in found for digest in part.exact],
        perceptual=np.concatenate([part.perceptual for part in found]),
        hashable=np.concatenate([part.hashable for part in found]),
    )


def _same(statistics: ImageStatistics, store: Store, where: str) -> Iterator[Finding]:
    """Identical images in two splits or within one, and nearly identical images in two splits."""
    split = store.cohort["split"].to_numpy(zero_copy_only=False)
    _, codes = np.unique(np.array(statistics.exact), return_inverse=True)
    remedy = "keep each in one split, or the model is tested on images it was trained on"
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    twice = [group for group in groups if len(group) > 1]
    across = [group for group in twice if len(set(split[group])) > 1]
    if across:
        places = np.sort(np.concatenate(across))
        what = f"{plural(len(places), 'image')} with an identical image in another split"
        yield Finding("error", what, f"{where}, {rows(places)}", len(places), remedy)
    inside = [group for group in twice if len(set(split[group])) == 1]
    if inside:
        places = np.sort(np.concatenate([group[1:] for group in inside]))
        what = f"{plural(len(places), 'image')} identical to an earlier image of the same split"
        yield Finding("warning", what, f"{where}, {rows(places)}", len(places), "exclude the duplicates")
    near = [
        pair
        for a, b in (("train", "test"), ("train", "validate"), ("validate", "test"))
        for pair in _near(statistics, codes, np.flatnonzero(split == a), np.flatnonzero(split == b))
    ]
    if near:
        what = f"{plural(len(near), 'pair')} of nearly identical images in two splits"
        examples = "; ".join(f"rows {a + 1} and {b + 1}" for a, b in near[:5])
        remedy = "inspect them: the same image processed twice leaks between splits"
        yield Finding("warning", what, f"{where}, {examples}", len(near), remedy)


def _near(
    statistics: ImageStatistics,
    codes: npt.NDArray[np.int64],
    ours: npt.NDArray[np.int64],
    theirs: npt.NDArray[np.int64],
) -> list[tuple[int, int]]:
    ours, theirs = ours[statistics.hashable[ours]], theirs[statistics.hashable[theirs]]
    if not len(ours) or not len(theirs):
        return []
    left, right, _ = near_pairs(statistics.perceptual[ours], statistics.perceptual[theirs])
    pairs = [(int(ours[a]), int(theirs[b])) for a, b in zip(left, right, strict=True)]
    return [(a, b) for a, b in pairs if codes[a] != codes[b]]
