"""The monitor: what training measures besides the loss, and when a run has collapsed.

The raw loss says nothing about quality: a collapsed run has the lowest. Limits are relative to min(K, images of the
global batch) and to the untrained encoder's own values (docs/method.md).
"""

import math
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chartray.collective import all_sum
from chartray.objectives.msn import Assignments

# Below these shares of what is possible a run has collapsed; tests/test_monitor.py provokes each.
_MIN_ENTROPY = 0.5
_MIN_PROTOTYPES = 0.15
_MIN_RANK = 0.25
# At a spread of 0.01 a rounding of bf16 (a standard deviation of 0.0011 of each number) is a tenth of what tells images
# apart. Good runs fall below 0.05 of an untrained spread of 1.3 (small-cpu); those that start narrow may go on so.
_LEAST_SPREAD, _MIN_SPREAD = 0.01, 0.05
_MIN_INFORMATION = 0.02
# Anchors carry 0.3 nats before training, and 0.001 at a learning rate 200 times too high (benchmarks/LOG.md).
_MIN_ANCHOR_INFORMATION = 0.01
_WINDOW = 50


class AssignmentStatistics(NamedTuple):
    """The assignments of one step (global batch).

    assignment_entropy: H(mean p) in nats, at most log K. prototypes_in_use: prototypes that the random view of at least
    one image prefers. agreement: share of images whose random view and target prefer the same prototype.
    information: H(mean p+) - mean H(p+) in nats, how well a target's assignment identifies its image.
    anchor_information: H(mean p) - mean H(p) in nats; 0 where all anchors predict the same.
    """

    assignment_entropy: float
    prototypes_in_use: int
    agreement: float
    information: float
    anchor_information: float


@torch.no_grad()
def assignment_statistics(assignments: Assignments, mean_entropy: float) -> AssignmentStatistics:
    """The statistics of a step's assignments; anchors are view-major, so the first B are the random views.

    Every process gets the same numbers, so that all decide alike.
    """
    images, prototypes = assignments.target.shape
    preferred = assignments.anchor[:images].argmax(dim=1)
    target, anchors = assignments.target.exp(), assignments.anchor
    sums = all_sum(
        torch.stack(
            (
                target.new_full((), images),
                target.new_full((), len(anchors)),
                (preferred == assignments.target.argmax(dim=1)).sum().to(target.dtype),
                -torch.special.xlogy(target, target).sum(),
                -(anchors.exp() * anchors).sum(),
            )
        )
    )
    # No torch.bincount, which waits for a GPU; and all numbers are read at once.
    counts = all_sum(target.new_zeros(prototypes).index_add_(0, preferred, target.new_ones(images)))
    mean = all_sum(target.sum(dim=0)) / sums[0]
    target_entropy = -torch.special.xlogy(mean, mean).sum()
    count, anchor_count, agree, entropies, anchor_entropies, in_use, entropy = torch.cat(
        (sums, torch.stack(((counts > 0).sum().to(target.dtype), target_entropy)))
    ).tolist()
    return AssignmentStatistics(
        assignment_entropy=math.log(prototypes) - mean_entropy,
        prototypes_in_use=int(in_use),
        agreement=agree / count,
        information=entropy - entropies / count,
        anchor_information=math.log(prototypes) - mean_entropy - anchor_entropies / anchor_count,
    )


def effective_rank(embeddings: Tensor) -> float:
    """The exponential of the entropy of the singular values of centred embeddings (Roy and Vetterli, 2007).

    (N, D) -> between 1 and min(N - 1, D); 1 for identical embeddings.
    """
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    total = values.sum()
    if total <= 1e-9 * math.sqrt(embeddings.numel()):
        return 1.0
    share = values / total
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def spread(embeddings: Tensor) -> float:
    """Root mean square distance of embeddings (N, D) from their mean, as a share of the mean's length.

    The effective rank ignores scale: embeddings that differ in the fourth decimal alone can keep theirs.
    """
    values = embeddings.double()
    mean = values.mean(dim=0)
    return float((values - mean).norm(dim=1).square().mean().sqrt() / mean.norm().clamp_min(1e-12))


class Monitor:
    """Monitors a run, and describes in one sentence what is wrong; silent before `earliest` steps.

    `classes` is min(K, images of the global batch); `untrained_rank` and `untrained_spread` are those of the embeddings
    before the first step.
    `balanced`: images must spread over the prototypes, as me-max and Sinkhorn make them. DINO's centring does not
    (a good run may prefer two outputs), so there only the targets' information counts.
    """

    def __init__(
        self,
        *,
        classes: int,
        untrained_rank: float,
        untrained_spread: float,
        earliest: int,
        balanced: bool = True,
    ) -> None:
        self.classes = classes
        self.untrained_rank, self.untrained_spread = untrained_rank, untrained_spread
        self.earliest = earliest
        self.balanced = balanced
        self.losses: deque[float] = deque(maxlen=_WINDOW)
        self.recent: deque[AssignmentStatistics] = deque(maxlen=_WINDOW)

    def record(self, loss: float, statistics: AssignmentStatistics | None) -> None:
        """Remembers one step; an objective without assignments has no statistics of them."""
        self.losses.append(loss)
        if statistics is not None:
            self.recent.append(statistics)

    def problem(self, step: int, rank: float | None, spread: float | None = None) -> str | None:
        """What is wrong, in a sentence, or None; `rank` and `spread` of the embeddings, if they were measured."""
        if step < self.earliest or len(self.losses) < _WINDOW:
            return None
        if max(self.losses) - min(self.losses) < 1e-5:
            return f"the loss has not changed in five decimals for {_WINDOW} steps ({self.losses[-1]:.5f})"
        if len(self.recent) == _WINDOW and (problem := self._assignment_problem()):
            return problem
        if rank is not None and rank < max(_MIN_RANK * self.untrained_rank, 1.5):
            return (
                f"the embeddings have collapsed to an effective rank of {rank:.1f} "
                f"(untrained: {self.untrained_rank:.1f}); lower train.learning_rate"
            )
        if spread is not None and spread < min(_LEAST_SPREAD, _MIN_SPREAD * self.untrained_spread):
            return (
                f"the embeddings are nearly identical: their spread is {spread:.2g} of their mean's length (untrained: "
                f"{self.untrained_spread:.2g}); lower train.learning_rate or train.weight_decay"
            )
        return None

    def _assignment_problem(self) -> str | None:
        entropy, in_use, _, information, anchor_information = (
            sum(values) / _WINDOW for values in zip(*self.recent, strict=True)
        )
        highest = math.log(self.classes)
        if self.balanced and entropy < _MIN_ENTROPY * highest:
            return (
                f"most images are assigned to a few prototypes: the mean assignment has an entropy of {entropy:.2f} of "
                f"{highest:.2f} nats; raise objective.mean_entropy_weight"
            )
        if self.balanced and in_use < max(_MIN_PROTOTYPES * self.classes, 2):
            return (
                f"only {in_use:.1f} of {self.classes} possible prototypes are in use; "
                "lower train.learning_rate or raise objective.mean_entropy_weight"
            )
        if information < _MIN_INFORMATION * highest:
            remedy = (
                "lower objective.sharpening or train.learning_rate, or turn objective.sinkhorn_iterations on"
                if self.balanced
                else "lower objective.target_temperature or objective.center_momentum"
            )
            return f"targets no longer distinguish images ({information:.3f} of {highest:.2f} nats); {remedy}"
        if self.balanced and anchor_information < _MIN_ANCHOR_INFORMATION * highest:
            return (
                f"anchors predict the same for every image ({anchor_information:.3f} of {highest:.2f} nats); "
                "lower train.learning_rate"
            )
        return None

    def state(self) -> dict[str, float | list[float] | list[list[float]]]:
        """What a checkpoint keeps."""
        return {
            "untrained_rank": self.untrained_rank,
            "untrained_spread": self.untrained_spread,
            "losses": list(self.losses),
            "seen": [list(v) for v in self.recent],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self.untrained_rank, self.untrained_spread = state["untrained_rank"], state["untrained_spread"]
        self.losses.extend(state["losses"])
        self.recent.extend(AssignmentStatistics(*values) for values in state["seen"])
