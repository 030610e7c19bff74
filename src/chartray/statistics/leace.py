"""Removing a concept from features: after it, no linear probe finds the concept in the films it was fitted on.

LEACE (Belrose et al., NeurIPS 2023, arXiv 2306.03819, theorem 4.3): of all affine maps that leave features x without
covariance with the concept z, the one that moves x least,
    r(x) = x - W+ P W (x - mean),     W = cov(x)^(-1/2),   P the projection onto the columns of W cov(x, z).
Without covariance a linear probe with any convex loss does best by not looking (theorem 3.1 there).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError

Floats = NDArray[np.float64]

# Variances, and covariances of whitened features, below this share of the largest are rounding errors.
_RANK = 1e-10


class LeaceEraser(NamedTuple):
    """mean (D,); `found` (D, k) measures how far a film goes along each of k directions, `taken` (D, k) undoes it."""

    mean: Floats
    found: Floats
    taken: Floats

    @property
    def directions(self) -> int:
        """k: levels - 1 of a category, 1 of a number, fewer where the features do not hold them."""
        return int(self.found.shape[1])

    def erase(self, features: ArrayLike) -> Floats:
        """Features (N, D) without the concept, (N, D)."""
        x = np.asarray(features, dtype=np.float64)
        erased: Floats = x - ((x - self.mean) @ self.found) @ self.taken.T
        return erased


def fit_leace(features: ArrayLike, concept: ArrayLike) -> LeaceEraser:
    """The eraser of a concept (N, K), a column a level or a number, from features (N, D); films with NaN are left out.

    Raises InputError for shapes that do not fit or fewer than two films whose concept is known.
    """
    x, z = np.asarray(features, dtype=np.float64), np.asarray(concept, dtype=np.float64)
    if x.ndim != 2 or z.ndim != 2 or len(x) != len(z):
        raise InputError(f"expected features (N, D) and a concept (N, K) of one N, found {x.shape} and {z.shape}")
    known = np.isfinite(z).all(axis=1)
    if known.sum() < 2:
        raise InputError(f"expected a concept known of at least two films, found {int(known.sum())}")
    x, z = x[known], z[known]
    mean = x.mean(axis=0)
    centred, about = x - mean, z - z.mean(axis=0)
    spread = about.std(axis=0)
    about = about[:, spread > 0] / spread[spread > 0]
    values, axes = np.linalg.eigh(centred.T @ centred / len(x))
    kept = values > _RANK * max(float(values[-1]), 1e-300)
    axes, scale = axes[:, kept], np.sqrt(values[kept])
    shared = (axes.T @ (centred.T @ about / len(x))) / scale[:, None]  # correlations of whitened features, (r, K)
    sides, strength, _ = np.linalg.svd(shared, full_matrices=False)
    # Correlations this small are rounding errors; an absolute bound, or noise alone would pass for a direction.
    sides = sides[:, strength > _RANK]
    return LeaceEraser(mean, (axes / scale) @ sides, (axes * scale) @ sides)
