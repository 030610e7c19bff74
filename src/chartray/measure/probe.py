"""L2-regularised logistic probes: every label at every strength solved together.

One probe minimises, over its weights w and intercept b,
    sum over films of known truth of log(1 + exp(-y (w . x + b)))  +  strength / 2 |w|^2,     y in {-1, 1},
which is scikit-learn's LogisticRegression at C = 1 / strength. Features are standardised on the training
films and turned onto their principal axes: the penalty does not notice the turn, the Hessian becomes nearly
diagonal, and L-BFGS, started from that diagonal, needs tens of steps where it would need thousands.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from chartray.errors import InputError
from chartray.measure.metrics import auroc

Floats = NDArray[np.float64]

# From hardly any penalty to one under which the probe of a few thousand films is the difference of the class means.
STRENGTHS = tuple(10.0**exponent for exponent in np.arange(0, 6.5, 0.5))
_HISTORY = 10
_ITERATIONS = 500
# A probe is solved when no entry of the mean loss's gradient is above this, nor above this share of the penalty
# on a weight of 1: then no weight is further than about 1e-5 from its optimum, however flat the loss.
_GRADIENT = 1e-8
_GRADIENT_SHARE = 1e-5
# Axes with less than this share of the largest variance are rounding errors of constant or repeated features.
_RANK = 1e-12
# Films x probes solved in one go: bounds the logits in memory (256 MB in float64).
_LOGITS = 1 << 25


class Probe(NamedTuple):
    """One chosen probe per label: weight (C, D) on standardised features, bias (C,), mean and scale (D,).

    `strength` (C,) is the chosen penalty; NaN where the training films hold one class of the label: such a probe has
    no weights and scores every film alike. `validation_auroc` (C,) is what the choice was made on, NaN if on nothing.
    """

    weight: Floats
    bias: Floats
    mean: Floats
    scale: Floats
    strength: Floats
    validation_auroc: Floats

    def scores(self, features: ArrayLike) -> Floats:
        """Probability of each label, features (N, D) -> (N, C)."""
        return _sigmoid(self.logits(features))

    def logits(self, features: ArrayLike) -> Floats:
        """Log odds of each label, features (N, D) -> (N, C)."""
        standardised = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        found: Floats = standardised @ self.weight.T + self.bias
        return found


def fit_probe(
    features: ArrayLike,
    truth: ArrayLike,
    validation_features: ArrayLike,
    validation_truth: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
    device: str = "cpu",
) -> Probe:
    """The probe of each label at the strength with the highest validation AUROC; the stronger of equals.

    A label whose validation films hold one class takes the strength that is best for the other labels on average,
    and the middle of the list where no label can choose.

    Args:
        features: (N, D) of the training films.
        truth: (N, C) of 1, 0 and NaN, which is left out label by label.
        validation_features: (M, D) of the validation films.
        validation_truth: (M, C).
        strengths: candidates, each > 0.
        device: where torch solves.

    Raises:
        InputError: no films, shapes that do not fit, features or truth out of range.
    """
    known = np.asarray(truth, dtype=np.float64)
    weight, bias, mean, scale = solve(features, known, strengths, device=device)  # (C, S, D), (C, S)
    standardised = (np.asarray(validation_features, dtype=np.float64) - mean) / scale
    checked = np.asarray(validation_truth, dtype=np.float64)
    logits = np.einsum("md,csd->mcs", standardised, weight, optimize=True) + bias
    labels, count = weight.shape[:2]
    found = auroc(np.repeat(checked, count, axis=1), logits.reshape(len(checked), labels * count))
    chosen = _choose(found.reshape(labels, count), strengths)
    rows = np.arange(labels)
    fitted = _two_classes(known)
    return Probe(
        weight=weight[rows, chosen],
        bias=bias[rows, chosen],
        mean=mean,
        scale=scale,
        strength=np.where(fitted, np.asarray(strengths)[chosen], np.nan),
        validation_auroc=found.reshape(labels, count)[rows, chosen],
    )


def solve(
    features: ArrayLike, truth: ArrayLike, strengths: Sequence[float], *, device: str = "cpu"
) -> tuple[Floats, Floats, Floats, Floats]:
    """All optima: weight (C, S, D) on standardised features, bias (C, S), and the features' mean and scale (D,).

    A label with one class keeps zero weights and the log odds of its films (one added to each class) as intercept.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise InputError(f"expected features (N, D) and truth (N, C) of the same films, found {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise InputError(f"expected finite features, found others in row {int(np.argwhere(~np.isfinite(x))[0, 0])}")
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300), spread, 1.0)
    axes, turned, variance = _principal((x - mean) / scale, device)
    labels, penalties = y.shape[1], torch.tensor(list(strengths), dtype=torch.float64, device=device)
    weight = np.zeros((labels, len(penalties), x.shape[1]))
    bias = np.repeat(_log_odds(y)[:, None], len(penalties), axis=1)
    solvable = np.flatnonzero(_two_classes(y))
    together = max(1, _LOGITS // (len(x) * len(penalties)))
    for start in range(0, len(solvable), together):
        group = solvable[start : start + together]
        known = torch.from_numpy(y[:, group]).to(device)
        target = known.nan_to_num(0).repeat_interleave(len(penalties), dim=1)  # (N, M)
        share = torch.isfinite(known).double()
        films = share.sum(dim=0)
        share = (share / films).repeat_interleave(len(penalties), dim=1)
        mean_penalty = penalties.repeat(len(group)) / films.repeat_interleave(len(penalties))
        solved = _minimise(turned, variance, target, share, mean_penalty)
        weight[group] = (solved[:, :-1] @ axes.T).reshape(len(group), len(penalties), -1).cpu().numpy()
        bias[group] = solved[:, -1].reshape(len(group), -1).cpu().numpy()
    return weight, bias, mean, scale


def _principal(standardised: Floats, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Axes (D, r), the films on them (N, r) and their variances (r,), from the smaller of the two Gram matrices."""
    x = torch.from_numpy(standardised).to(device)
    films, width = x.shape
    if width <= films:
        values, axes = torch.linalg.eigh(x.T @ x / films)
    else:
        values, sides = torch.linalg.eigh(x @ x.T / films)
        axes = x.T @ sides / (values.clamp_min(1e-300) * films).sqrt()
    kept = values > _RANK * values.max().clamp_min(1e-300)
    axes = axes[:, kept]
    return axes, x @ axes, values[kept]


def _minimise(x: Tensor, variance: Tensor, target: Tensor, share: Tensor, penalty: Tensor) -> Tensor:
    """M problems at once, x (N, r), target and share (N, M), penalty (M,) -> (M, r + 1), the intercept last.

    Problems that are solved leave the batch. The line search costs no matrix product: logits are linear in the step.
    """
    x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
    problems, width = target.shape[1], x.shape[1]
    rate = (share * target).sum(dim=0)
    solution = x.new_zeros(problems, width)
    solution[:, -1] = torch.log(rate / (1 - rate))  # the optimum under an infinite penalty
    ridge = penalty[:, None] * x.new_ones(width)
    ridge[:, -1] = 0
    curvature = (rate * (1 - rate))[:, None] * torch.cat((variance, variance.new_ones(1))) + ridge
    open_ = torch.arange(problems, device=x.device)
    state = _State.start(x, target, share, ridge, curvature, solution.clone())
    for _ in range(_ITERATIONS):
        solution[open_] = state.weights
        allowed = (_GRADIENT_SHARE * state.ridge[:, 0]).clamp(max=_GRADIENT)
        unsolved = state.gradient.abs().amax(dim=1) > allowed
        if not unsolved.all():
            open_, state = open_[unsolved], state.narrowed(unsolved)
        if not len(open_):
            break
        state = state.stepped(x)
    return solution


class _State(NamedTuple):
    """L-BFGS of M open problems: per problem its data, weights, logits, gradient and remembered steps."""

    target: Tensor  # (N, M)
    share: Tensor  # (N, M)
    ridge: Tensor  # (M, r + 1)
    curvature: Tensor  # (M, r + 1)
    weights: Tensor  # (M, r + 1)
    logits: Tensor  # (N, M)
    loss: Tensor  # (M,)
    gradient: Tensor  # (M, r + 1)
    steps: tuple[Tensor, ...]  # each (M, r + 1)
    turns: tuple[Tensor, ...]  # change of the gradient over each step

    @classmethod
    def start(
        cls, x: Tensor, target: Tensor, share: Tensor, ridge: Tensor, curvature: Tensor, weights: Tensor
    ) -> "_State":
        logits = x @ weights.T
        loss = _loss(logits, target, share) + _penalty(ridge, weights)
        gradient = _gradient(x, logits, target, share, ridge, weights)
        return cls(target, share, ridge, curvature, weights, logits, loss, gradient, (), ())

    def narrowed(self, kept: Tensor) -> "_State":
        """Without the problems that are solved."""
        return _State(
            self.target[:, kept],
            self.share[:, kept],
            self.ridge[kept],
            self.curvature[kept],
            self.weights[kept],
            self.logits[:, kept],
            self.loss[kept],
            self.gradient[kept],
            tuple(step[kept] for step in self.steps),
            tuple(turn[kept] for turn in self.turns),
        )

    def direction(self) -> Tensor:
        """Minus the inverse Hessian's estimate times the gradient: the two-loop recursion (Nocedal 1980)."""
        towards = -self.gradient
        shares: list[Tensor] = []
        for step, turn in zip(reversed(self.steps), reversed(self.turns), strict=True):
            shares.append(_ratio(step * towards, step * turn))
            towards = towards - shares[-1] * turn
        towards = towards / self.curvature
        if self.steps:  # films far on their right side bend the loss less than the diagonal says
            scale = _ratio(self.steps[-1] * self.turns[-1], self.turns[-1] ** 2 / self.curvature)
            towards = torch.where(scale > 0, scale * towards, towards)
        for step, turn in zip(self.steps, self.turns, strict=True):
            towards = towards + (shares.pop() - _ratio(turn * towards, step * turn)) * step
        return towards

    def stepped(self, x: Tensor) -> "_State":
        """One step, halved until each problem's loss falls enough (Armijo)."""
        towards = self.direction()
        slope = (towards * self.gradient).sum(dim=1)
        along = x @ towards.T  # (N, M)
        length = torch.ones_like(slope)
        for _ in range(30):
            weights = self.weights + length[:, None] * towards
            logits = self.logits + length * along
            loss = _loss(logits, self.target, self.share) + _penalty(self.ridge, weights)
            # Near the optimum the promised fall is below the rounding of the loss: there any step is good enough.
            poor = loss > self.loss + 1e-4 * length * slope + 1e-15 * self.loss.abs()
            if not poor.any():
                break
            length = torch.where(poor, length / 2, length)
        gradient = _gradient(x, logits, self.target, self.share, self.ridge, weights)
        return self._replace(
            weights=weights,
            logits=logits,
            loss=loss,
            gradient=gradient,
            steps=(*self.steps, weights - self.weights)[-_HISTORY:],
            turns=(*self.turns, gradient - self.gradient)[-_HISTORY:],
        )


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Sums over the weights divided, (M, 1); 0 where a step was too small to remember anything."""
    numerator, denominator = above.sum(dim=1, keepdim=True), below.sum(dim=1, keepdim=True)
    return torch.where(denominator > 0, numerator / denominator, torch.zeros_like(numerator))


def _loss(logits: Tensor, target: Tensor, share: Tensor) -> Tensor:
    return (share * (torch.nn.functional.softplus(logits) - target * logits)).sum(dim=0)


def _penalty(ridge: Tensor, weights: Tensor) -> Tensor:
    return (ridge * weights**2).sum(dim=1) / 2


def _gradient(x: Tensor, logits: Tensor, target: Tensor, share: Tensor, ridge: Tensor, weights: Tensor) -> Tensor:
    return (share * (torch.sigmoid(logits) - target)).T @ x + ridge * weights


def _choose(found: Floats, strengths: Sequence[float]) -> NDArray[np.int64]:
    """Which strength each label takes, from its validation AUROC at each (C, S)."""
    order = np.argsort(-np.asarray(strengths), kind="stable")  # strongest first, so that it wins among equals
    able = ~np.isnan(found[:, 0])
    fallback = order[found[able].mean(axis=0)[order].argmax()] if able.any() else order[len(order) // 2]
    best = order[np.where(able[:, None], found, 0.0)[:, order].argmax(axis=1)]
    chosen: NDArray[np.int64] = np.where(able, best, fallback)
    return chosen


def _two_classes(truth: Floats) -> NDArray[np.bool_]:
    return np.asarray((truth == 1).any(axis=0) & (truth == 0).any(axis=0))


def _log_odds(truth: Floats) -> Floats:
    odds: Floats = ((truth == 1).sum(axis=0) + 1) / ((truth == 0).sum(axis=0) + 1)
    return np.log(odds)


def _sigmoid(logits: Floats) -> Floats:
    found: Floats = np.exp(-np.logaddexp(0, -logits))
    return found
