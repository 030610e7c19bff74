"""LEACE: removes a concept from features, so that no linear probe finds it in the images it was fitted on.

Of all affine maps after which features x have no covariance with the concept z, it is the one that changes x least
(Belrose et al., NeurIPS 2023, arXiv 2306.03819, theorem 4.3):
    r(x) = x - W+ P W (x - mean),     W = cov(x)^(-1/2),   P the projection onto the columns of W cov(x, z).
Without covariance the best linear probe under any convex loss is a constant (theorem 3.1 there).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError

Floats = NDArray[np.float64]

# Variances, and covariances of whitened features, below this share of the largest are rounding errors.
_RANK = 1e-10


class LeaceEraser(NamedTuple):
    """x -> x - (x - mean) @ read @ removed.T, with mean (D,), read (D, k) and removed (D, k)."""

    mean: Floats
    read: Floats
    removed: Floats

    @property
    def directions(self) -> int:
        """k: levels - 1 for a category, 1 for a number; fewer where the features lack them."""
        return int(self.read.shape[1])

    def erase(self, features: ArrayLike) -> Floats:
        """Features (N, D) without the concept, (N, D)."""
        x = np.asarray(features, dtype=np.float64)
        erased: Floats = x - ((x - self.mean) @ self.read) @ self.removed.T
        return erased


def fit_leace(features: ArrayLike, concept: ArrayLike) -> LeaceEraser:
    """Fits LEACE to features (N, D) and a concept (N, K), one column per level or number; rows with NaN are left out.

    Raises InputError for shapes that do not fit, or if fewer than two images have a known concept.
    """
    x, z = np.asarray(features, dtype=np.float64), np.asarray(concept, dtype=np.float64)
    if x.ndim != 2 or z.ndim != 2 or len(x) != len(z):
        raise InputError(f"expected features (N, D) and a concept (N, K) of one N, found {x.shape} and {z.shape}")
    known = np.isfinite(z).all(axis=1)
    if known.sum() < 2:
        raise InputError(f"expected at least two images with a known concept, found {int(known.sum())}")
    x, z = x[known], z[known]
    about = z - z.mean(axis=0)
    spread = about.std(axis=0)
    about = about[:, spread > 0] / spread[spread > 0]
    mean, axes, scale = _whitened(x)
    shared = (axes.T @ ((x - mean).T @ about / len(x))) / scale[:, None]  # correlations of whitened features, (r, K)
    sides, strength, _ = np.linalg.svd(shared, full_matrices=False)
    # An absolute bound: relative to the largest, noise alone would count as a direction.
    sides = sides[:, strength > _RANK]
    return LeaceEraser(mean, (axes / scale) @ sides, (axes * scale) @ sides)


def random_erasers(features: ArrayLike, directions: int, draws: int, seed: int = 0) -> list[LeaceEraser]:
    """`draws` erasers of so many random directions of features (N, D): what LEACE removes for a concept of pure noise.

    Directions are uniform among those of the whitened features; all of them, where the features have no more.
    """
    mean, axes, scale = _whitened(np.asarray(features, dtype=np.float64))
    generator = np.random.default_rng((seed, directions))
    found = []
    for _ in range(draws):
        sides = np.linalg.qr(generator.normal(size=(axes.shape[1], directions)))[0]
        found.append(LeaceEraser(mean, (axes / scale) @ sides, (axes * scale) @ sides))
    return found


def _whitened(x: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean (D,), principal axes (D, r) and standard deviations along them (r,) of features (N, D)."""
    mean = x.mean(axis=0)
    values, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    kept = values > _RANK * max(float(values[-1]), 1e-300)
    return mean, axes[:, kept], np.sqrt(values[kept])
