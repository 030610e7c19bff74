"""The films of a store, each looked at once: near-constant ones, inverted ones, and the same film in two splits."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chartray.checks.finding import Finding, Severity, films, rows, share
from chartray.pixels.hashes import content_hashes, near_pairs, perceptual_hashes
from chartray.pixels.store import Store
from chartray.progress import progress

_BLOCK = 256
# Grey levels of 255; the flattest of 1,243 real films (NIH, Hannover) has a deviation of 14.
_FLAT = 6.0
# An inverted film has a bright border (air) and lungs brighter than the spine. In standard deviations of the film: both
# above this holds for none of 1,000 NIH and 243 Hannover films, and for 78 % and 63 % of their negatives.
_INVERTED = 0.3
_MANY_INVERTED = 0.02

Floats = npt.NDArray[np.float64]


class Looked(NamedTuple):
    """Of every film: grey deviation (N,), border minus centre and lungs minus spine in deviations (N,), hashes."""

    deviation: Floats
    border: Floats
    lungs: Floats
    exact: list[bytes]
    perceptual: npt.NDArray[np.uint64]
    hashable: npt.NDArray[np.bool_]


def images(store: Store, where: str) -> Iterator[Finding]:
    """Films of which little can be learnt, films that look inverted, films that stand in two splits or twice."""
    looked = _look(store)
    flat = np.flatnonzero(looked.deviation < _FLAT)
    if len(flat):
        what = f"{films(len(flat))} nearly of one grey (deviation under {_FLAT:g} of 255)"
        remedy = "look at them; leave them out of the cohort if they show nothing"
        yield Finding("warning", what, f"{where}, {rows(flat)}", len(flat), remedy)
    inverted = np.flatnonzero((looked.border > _INVERTED) & (looked.lungs > _INVERTED))
    if len(inverted):
        what = f"{films(len(inverted))} ({share(len(inverted), len(store))}) look inverted: bright border, bright lungs"
        remedy = "look at some: MONOCHROME1 saved as it was? two in three such films are seen so"
        severity: Severity = "warning" if len(inverted) > _MANY_INVERTED * len(store) else "note"
        yield Finding(severity, what, f"{where}, {rows(inverted)}", len(inverted), remedy)
    yield from _same(looked, store, where)


def border_and_lungs(block: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Films (N, S, S) -> border minus centre, lungs minus spine, each in standard deviations of the film."""
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


def _look(store: Store) -> Looked:
    found = []
    with progress("check", len(store), "films") as advance:
        for start in range(0, len(store), _BLOCK):
            block = store.images.gather(np.arange(start, min(start + _BLOCK, len(store)), dtype=np.int64))
            deviation = block.std(axis=(1, 2), dtype=np.float64)
            found.append(Looked(deviation, *border_and_lungs(block), content_hashes(block), *perceptual_hashes(block)))
            advance(len(block))
    return Looked(
        deviation=np.concatenate([part.deviation for part in found]),
        border=np.concatenate([part.border for part in found]),
        lungs=np.concatenate([part.lungs for part in found]),
        exact=[digest for part in found for digest in part.exact],
        perceptual=np.concatenate([part.perceptual for part in found]),
        hashable=np.concatenate([part.hashable for part in found]),
    )


def _same(looked: Looked, store: Store, where: str) -> Iterator[Finding]:
    """The same pixels in two splits, or twice in one; nearly the same in two splits."""
    split = store.cohort["split"].to_numpy(zero_copy_only=False)
    _, codes = np.unique(np.array(looked.exact), return_inverse=True)
    remedy = "leave one of each out: the model is tested on films it has seen"
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    twice = [group for group in groups if len(group) > 1]
    across = [group for group in twice if len(set(split[group])) > 1]
    if across:
        places = np.sort(np.concatenate(across))
        what = f"{films(len(places))} whose every pixel stands in another split too"
        yield Finding("error", what, f"{where}, {rows(places)}", len(places), remedy)
    inside = [group for group in twice if len(set(split[group])) == 1]
    if inside:
        places = np.sort(np.concatenate([group[1:] for group in inside]))
        what = f"{films(len(places))} that repeat another of the same split, pixel for pixel"
        yield Finding("warning", what, f"{where}, {rows(places)}", len(places), "leave the repetitions out")
    near = [
        pair
        for a, b in (("train", "test"), ("train", "validate"), ("validate", "test"))
        for pair in _near(looked, codes, np.flatnonzero(split == a), np.flatnonzero(split == b))
    ]
    if near:
        what = f"{len(near):,} pair{'' if len(near) == 1 else 's'} of nearly the same film in two splits"
        examples = "; ".join(f"rows {a + 1} and {b + 1}" for a, b in near[:5])
        look = "look at them: a film encoded or processed twice is one film, and leaks; or one anatomy drawn twice"
        yield Finding("warning", what, f"{where}, {examples}", len(near), look)


def _near(
    looked: Looked, codes: npt.NDArray[np.int64], ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]
) -> list[tuple[int, int]]:
    ours, theirs = ours[looked.hashable[ours]], theirs[looked.hashable[theirs]]
    if not len(ours) or not len(theirs):
        return []
    left, right, _ = near_pairs(looked.perceptual[ours], looked.perceptual[theirs])
    pairs = [(int(ours[a]), int(theirs[b])) for a, b in zip(left, right, strict=True)]
    return [(a, b) for a, b in pairs if codes[a] != codes[b]]
