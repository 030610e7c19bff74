"""L2-regularised logistic regressions: all labels at all penalties are solved together.

One problem minimises, over its weights w and intercept b,
    sum over images with known truth of log(1 + exp(-y (w . x + b)))  +  strength / 2 |w|^2,     y in {-1, 1},
which is scikit-learn's LogisticRegression at C = 1 / strength. Features are standardised on the training images and
rotated onto their principal axes. The rotation leaves the penalty as it is and makes the Hessian nearly diagonal, so
that L-BFGS, started from that diagonal, needs tens of steps instead of thousands. With fewer images than features the
problem is solved on the axes that the images span.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from chartray.errors import InputError

Floats = NDArray[np.float64]

_HISTORY = 10
_ITERATIONS = 500
_NEWTON_STEPS = 50
# A probe is solved when no entry of the gradient of the mean loss exceeds the first, or the second times the penalty:
# then every weight is within about 1e-5 of its optimum, however flat the loss.
_GRADIENT = 1e-8
_GRADIENT_SHARE = 1e-5
# Images x probes solved at once: limits the logits to 256 MB in float64.
_LOGITS = 1 << 25


def solve(
    features: ArrayLike,
    truth: ArrayLike,
    strengths: Sequence[float],
    *,
    device: str = "cpu",
    told: Callable[[Sequence[int]], object] = lambda _: None,
) -> tuple[Floats, Floats, Floats, Floats]:
    """All optima: weight (C, S, D) on standardised features, bias (C, S), and mean and scale of the features (D,).

    A label with one class has zero weights and the log odds of its images as intercept, one added to each class.
    `told` is told which labels are solved next.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise InputError(f"expected features (N, D) and truth (N, C) of the same images, found {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise InputError(f"expected finite features, found others in row {int(np.argwhere(~np.isfinite(x))[0, 0])}")
    mean, scale = mean_and_scale(x)
    axes, turned, variance = _principal((x - mean) / scale, device)
    labels, penalties = y.shape[1], torch.tensor(list(strengths), dtype=torch.float64, device=device)
    weight = np.zeros((labels, len(penalties), x.shape[1]))
    bias = np.repeat(_log_odds(y)[:, None], len(penalties), axis=1)
    solvable = np.flatnonzero(two_classes(y))
    together = max(1, _LOGITS // (len(x) * len(penalties)))
    for start in range(0, len(solvable), together):
        group = solvable[start : start + together]
        told(group.tolist())
        known = torch.from_numpy(y[:, group]).to(device)
        target = known.nan_to_num(0).repeat_interleave(len(penalties), dim=1)  # (N, M)
        share = torch.isfinite(known).double()
        images = share.sum(dim=0)
        share = (share / images).repeat_interleave(len(penalties), dim=1)
        mean_penalty = penalties.repeat(len(group)) / images.repeat_interleave(len(penalties))
        solved = _minimise(turned, variance, target, share, mean_penalty)
        weight[group] = (solved[:, :-1] @ axes.T).reshape(len(group), len(penalties), -1).cpu().numpy()
        bias[group] = solved[:, -1].reshape(len(group), -1).cpu().numpy()
    return weight, bias, mean, scale


def mean_and_scale(features: Floats) -> tuple[Floats, Floats]:
    """What features (N, D) are standardised by: their means and standard deviations (D,), 1 where one is constant."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    return mean, np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300), spread, 1.0)


def _principal(standardised: Floats, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Axes (D, r), the images on them (N, r) and their variances (r,), r = min(N, D), from the smaller Gram matrix.

    The axes are orthonormal and span all images, so the optimum on them is the same: short directions, such as the
    difference of two nearly equal features, are kept. The variances only start the solver.
    """
    x = torch.from_numpy(standardised).to(device)
    images, width = x.shape
    if width <= images:
        axes = torch.linalg.eigh(x.T @ x).eigenvectors
    else:
        span, corner = torch.linalg.qr(x.T)  # (D, N), (N, N): x = corner.T @ span.T
        axes = span @ torch.linalg.eigh(corner @ corner.T).eigenvectors
    turned = x @ axes
    return axes, turned, (turned**2).mean(dim=0)


def _minimise(x: Tensor, variance: Tensor, target: Tensor, share: Tensor, penalty: Tensor) -> Tensor:
    """M problems at once, x (N, r), target and share (N, M), penalty (M,) -> (M, r + 1), the intercept last.

    Solved problems leave the batch. The line search needs no matrix product: logits are linear in the step.
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
        unsolved = state.gradient.abs().amax(dim=1) > _allowed(state.ridge[:, 0])
        if not unsolved.all():
            open_, state = open_[unsolved], state.narrowed(unsolved)
        if not len(open_):
            return solution
        state = state.stepped(x)
    for index, problem in enumerate(open_.tolist()):
        solution[problem] = _newton(
            x, state.target[:, index], state.share[:, index], state.ridge[index], state.weights[index]
        )
    return solution


def _newton(x: Tensor, target: Tensor, share: Tensor, ridge: Tensor, weights: Tensor) -> Tensor:
    """One problem finished by damped Newton steps, weights (r + 1,).

    For the few on which L-BFGS is slow: separable images under a tiny penalty. It ends where rounding stops every step.
    """
    loss = _one_loss(x, target, share, ridge, weights)
    for _ in range(_NEWTON_STEPS):
        rate = torch.sigmoid(x @ weights)
        gradient = (share * (rate - target)) @ x + ridge * weights
        if gradient.abs().max() <= _allowed(ridge[0]):
            break
        hessian = (x.T * (share * rate * (1 - rate))) @ x + torch.diag(ridge)
        step = torch.linalg.solve(hessian, gradient)
        length = 1.0
        while length > 1e-8 and not (shorter := _one_loss(x, target, share, ridge, weights - length * step)) < loss:
            length /= 2
        if length <= 1e-8:
            break
        weights, loss = weights - length * step, shorter
    return weights


def _allowed(ridge: Tensor) -> Tensor:
    """The largest entry of the gradient at which a problem of this penalty is solved."""
    return (_GRADIENT_SHARE * ridge).clamp(max=_GRADIENT)


def _one_loss(x: Tensor, target: Tensor, share: Tensor, ridge: Tensor, weights: Tensor) -> float:
    logits = x @ weights
    return float(
        (share * (torch.nn.functional.softplus(logits) - target * logits)).sum() + (ridge * weights**2).sum() / 2
    )


class _State(NamedTuple):
    """L-BFGS of M unsolved problems: data, weights, logits, gradient and recent steps of each."""

    target: Tensor  # (N, M)
    share: Tensor  # (N, M)
    ridge: Tensor  # (M, r + 1)
    curvature: Tensor  # (M, r + 1)
    weights: Tensor  # (M, r + 1)
    logits: Tensor  # (N, M)
    loss: Tensor  # (M,)
    gradient: Tensor  # (M, r + 1)
    steps: tuple[Tensor, ...]  # each (M, r + 1)
    turns: tuple[Tensor, ...]  # change of the gradient in each step

    @classmethod
    def start(
        cls, x: Tensor, target: Tensor, share: Tensor, ridge: Tensor, curvature: Tensor, weights: Tensor
    ) -> "_State":
        logits = x @ weights.T
        loss = _loss(logits, target, share) + _penalty(ridge, weights)
        gradient = _gradient(x, logits, target, share, ridge, weights)
        return cls(target, share, ridge, curvature, weights, logits, loss, gradient, (), ())

    def narrowed(self, kept: Tensor) -> "_State":
        """Only the problems in `kept`."""
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
        if self.steps:  # well separated images: the loss is flatter than the diagonal says
            scale = _ratio(self.steps[-1] * self.turns[-1], self.turns[-1] ** 2 / self.curvature)
            towards = torch.where(scale > 0, scale * towards, towards)
        for step, turn in zip(self.steps, self.turns, strict=True):
            towards = towards + (shares.pop() - _ratio(turn * towards, step * turn)) * step
        return towards

    def stepped(self, x: Tensor) -> "_State":
        """One step, halved for each problem until its loss falls enough (Armijo)."""
        towards = self.direction()
        slope = (towards * self.gradient).sum(dim=1)
        along = x @ towards.T  # (N, M)
        length = torch.ones_like(slope)
        for _ in range(30):
            weights = self.weights + length[:, None] * towards
            logits = self.logits + length * along
            loss = _loss(logits, self.target, self.share) + _penalty(self.ridge, weights)
            # Near the optimum the expected fall is below the rounding of the loss: any step will do.
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
    """Ratio of the sums over the weights, (M, 1); 0 where a step was too small."""
    numerator, denominator = above.sum(dim=1, keepdim=True), below.sum(dim=1, keepdim=True)
    return torch.where(denominator > 0, numerator / denominator, torch.zeros_like(numerator))


def _loss(logits: Tensor, target: Tensor, share: Tensor) -> Tensor:
    return (share * (torch.nn.functional.softplus(logits) - target * logits)).sum(dim=0)


def _penalty(ridge: Tensor, weights: Tensor) -> Tensor:
    return (ridge * weights**2).sum(dim=1) / 2


def _gradient(x: Tensor, logits: Tensor, target: Tensor, share: Tensor, ridge: Tensor, weights: Tensor) -> Tensor:
    return (share * (torch.sigmoid(logits) - target)).T @ x + ridge * weights


def two_classes(truth: Floats) -> NDArray[np.bool_]:
    """(C,): which labels have both classes in truth (N, C)."""
    return np.asarray((truth == 1).any(axis=0) & (truth == 0).any(axis=0))


def _log_odds(truth: Floats) -> Floats:
    odds: Floats = ((truth == 1).sum(axis=0) + 1) / ((truth == 0).sum(axis=0) + 1)
    return np.log(odds)
