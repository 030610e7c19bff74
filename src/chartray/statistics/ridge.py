"""Ridge regression in closed form: how well a number can be read from features by a plane through them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError

Floats = NDArray[np.float64]

STRENGTHS = tuple(10.0**exponent for exponent in np.arange(-1, 6.5, 0.5))


class Ridge(NamedTuple):
    """One chosen plane: weight (D,) on standardised features, bias, mean and scale (D,), and the chosen strength.

    `validation_r2` is what the strength was chosen on; NaN where validation could not choose.
    """

    weight: Floats
    bias: float
    mean: Floats
    scale: Floats
    strength: float
    validation_r2: float

    def predict(self, features: ArrayLike) -> Floats:
        """The number of each film, features (N, D) -> (N,)."""
        standardised = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        found: Floats = standardised @ self.weight + self.bias
        return found


def fit_ridge(
    features: ArrayLike,
    values: ArrayLike,
    validation_features: ArrayLike,
    validation_values: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Ridge:
    """Minimises  sum (y - w . x - b)^2 + strength |w|^2  over the films whose number is known, x standardised on them.

    The strength with the smallest squared error on the validation films is taken, the stronger of equals; the middle of
    the list where those hold fewer than two different numbers.

    Args:
        features: (N, D) of the training films.
        values: (N,) numbers, NaN where missing: such films are left out.
        validation_features: (M, D).
        validation_values: (M,).
        strengths: candidates, each > 0.

    Raises:
        InputError: shapes that do not fit, or fewer than two known numbers.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or y.shape != (len(x),):
        raise InputError(f"expected features (N, D) and numbers (N,) of the same films, found {x.shape} and {y.shape}")
    known = np.isfinite(y)
    if len(np.unique(y[known])) < 2:
        raise InputError(f"expected at least two different numbers to fit on, found {int(known.sum())} films of one")
    x, y = x[known], y[known]
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300), spread, 1.0)
    standardised, bias = (x - mean) / scale, float(y.mean())
    weights = _solve(standardised, y - bias, np.asarray(strengths, dtype=np.float64))  # (S, D)
    checked = np.asarray(validation_values, dtype=np.float64)
    usable = np.isfinite(checked)
    order = np.argsort(-np.asarray(strengths), kind="stable")  # strongest first, so that it wins among equals
    if len(np.unique(checked[usable])) < 2:
        chosen, r2 = int(order[len(order) // 2]), float("nan")
    else:
        films = (np.asarray(validation_features, dtype=np.float64)[usable] - mean) / scale
        errors = ((films @ weights.T + bias - checked[usable, None]) ** 2).mean(axis=0)  # (S,)
        chosen = int(order[errors[order].argmin()])
        r2 = float(1 - errors[chosen] / checked[usable].var())
    return Ridge(weights[chosen], bias, mean, scale, float(strengths[chosen]), r2)


def _solve(x: Floats, y: Floats, strengths: Floats) -> Floats:
    """The optimum at every strength (S, D), from the smaller of the two Gram matrices."""
    films, width = x.shape
    if width <= films:
        values, axes = np.linalg.eigh(x.T @ x)
        along = axes.T @ (x.T @ y)
        found: Floats = (along / (np.maximum(values, 0) + strengths[:, None])) @ axes.T
    else:
        values, sides = np.linalg.eigh(x @ x.T)
        found = (((sides.T @ y) / (np.maximum(values, 0) + strengths[:, None])) @ sides.T) @ x
    return found
