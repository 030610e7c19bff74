"""Training health beside the loss: what is looked at, and when a run has collapsed.

The raw loss says nothing about quality (METHOD.md section 1): a collapsed run has the lowest. Verdicts are relative
to min(K, films of the global batch) and to the untrained encoder's own values.
"""

import math
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chartray.objectives.msn import AllSum, Assignments, identity

# The share of what is possible below which a run has collapsed; tests/test_health.py provokes each.
_LEAST_SHARE_OF_ENTROPY = 0.5
_LEAST_SHARE_OF_PROTOTYPES = 0.15
_LEAST_SHARE_OF_RANK = 0.25
_LEAST_SHARE_OF_SPREAD = 0.05
_LEAST_SHARE_OF_INFORMATION = 0.02
# Untrained anchors say 0.3 nats of a film, those that a rate 200 times too high has flattened 0.001
# (benchmarks/LOG.md).
_LEAST_SHARE_OF_ANCHOR_INFORMATION = 0.01
_WINDOW = 50


class Vitals(NamedTuple):
    """What one step shows of the assignments (global batch).

    assignment_entropy: H(mean p) in nats, at most log K. prototypes_in_use: prototypes that at least one film's
    random view prefers. agreement: share of films whose random view and target prefer the same prototype.
    information: H(mean p+) - mean H(p+), in nats: how much a target's assignment says about which film it is.
    anchor_information: H(mean p) - mean H(p), the same of the anchors; 0 where all predict the same, however even.
    """

    assignment_entropy: float
    prototypes_in_use: int
    agreement: float
    information: float
    anchor_information: float


@torch.no_grad()
def vitals(assignments: Assignments, mean_entropy: float, all_sum: AllSum = identity) -> Vitals:
    """Reads the vitals off a step's assignments; anchors are view-major, so the first B are the random views.

    Every process gets the same numbers, so that all come to the same verdict.
    """
    films, prototypes = assignments.target.shape
    anchor = assignments.anchor[:films].argmax(dim=1)
    target, anchors = assignments.target.exp(), assignments.anchor
    sums = all_sum(
        torch.stack(
            (
                target.new_full((), films),
                target.new_full((), anchors.shape[0]),
                (anchor == assignments.target.argmax(dim=1)).sum().to(target.dtype),
                -torch.special.xlogy(target, target).sum(),
                -(anchors.exp() * anchors).sum(),
            )
        )
    )
    # Not torch.bincount, which has a GPU finish first what is queued; and one list for all, read once.
    preferred = all_sum(target.new_zeros(prototypes).index_add_(0, anchor, target.new_ones(films)))
    mean = all_sum(target.sum(dim=0)) / sums[0]
    of_mean = -torch.special.xlogy(mean, mean).sum()
    count, anchor_count, agree, own, own_of_anchors, in_use, entropy = torch.cat(
        (sums, torch.stack(((preferred > 0).sum().to(target.dtype), of_mean)))
    ).tolist()
    return Vitals(
        assignment_entropy=math.log(prototypes) - mean_entropy,
        prototypes_in_use=int(in_use),
        agreement=agree / count,
        information=entropy - own / count,
        anchor_information=math.log(prototypes) - mean_entropy - own_of_anchors / anchor_count,
    )


def effective_rank(embeddings: Tensor) -> float:
    """The exponential of the entropy of the singular values of centred embeddings (Roy and Vetterli, 2007).

    (N, D) -> between 1 and min(N - 1, D); 1 for embeddings that are all alike.
    """
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    total = values.sum()
    if total <= 1e-9 * math.sqrt(embeddings.numel()):
        return 1.0
    share = values / total
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def spread(embeddings: Tensor) -> float:
    """How far embeddings (N, D) lie from their mean, root mean square, as a share of the mean's length.

    The effective rank does not see scale: embeddings that differ in the fourth decimal alone can keep theirs.
    """
    values = embeddings.double()
    mean = values.mean(dim=0)
    return float((values - mean).norm(dim=1).square().mean().sqrt() / mean.norm().clamp_min(1e-12))


class Watch:
    """Judges a run: no verdict before `earliest` steps; then one sentence for the first thing wrong.

    `classes` is min(K, films of the global batch); `untrained_rank` and `untrained_spread` are the effective rank and
    the spread before the first step.
    `shares_out`: films must share out over the prototypes, as MSN's me-max and Sinkhorn make them; DINO's centring does
    not (a run of good neighbours may prefer two outputs), so there only what targets say of films counts.
    `remedy` is what to do when they say nothing.
    """

    def __init__(
        self,
        *,
        classes: int,
        untrained_rank: float,
        untrained_spread: float,
        earliest: int,
        shares_out: bool = True,
        remedy: str = "lower objective.sharpening or train.learning_rate, or turn objective.sinkhorn_iterations on",
    ) -> None:
        self.classes = classes
        self.untrained_rank, self.untrained_spread = untrained_rank, untrained_spread
        self.earliest = earliest
        self.shares_out, self.remedy = shares_out, remedy
        self.losses: deque[float] = deque(maxlen=_WINDOW)
        self.seen: deque[Vitals] = deque(maxlen=_WINDOW)

    def observe(self, loss: float, vitals: Vitals | None) -> None:
        """Takes note of one step; an objective without assignments has no vitals, and is judged by the rest."""
        self.losses.append(loss)
        if vitals is not None:
            self.seen.append(vitals)

    def verdict(self, step: int, rank: float | None, spread: float | None = None) -> str | None:
        """What is wrong, in a sentence, or None; `rank` and `spread` are of the embeddings, if they were measured."""
        if step < self.earliest or len(self.losses) < _WINDOW:
            return None
        if max(self.losses) - min(self.losses) < 1e-5:
            return f"the loss has been constant to five decimals for {_WINDOW} steps ({self.losses[-1]:.5f})"
        if len(self.seen) == _WINDOW and (of_assignments := self._of_assignments()):
            return of_assignments
        if rank is not None and rank < max(_LEAST_SHARE_OF_RANK * self.untrained_rank, 1.5):
            return (
                f"the embeddings have collapsed to an effective rank of {rank:.1f} "
                f"(untrained: {self.untrained_rank:.1f}); lower train.learning_rate"
            )
        if spread is not None and spread < _LEAST_SHARE_OF_SPREAD * self.untrained_spread:
            return (
                f"the embeddings are all alike: they lie {spread:.2g} of their mean's length apart (untrained: "
                f"{self.untrained_spread:.2g}); lower train.learning_rate or train.weight_decay"
            )
        return None

    def _of_assignments(self) -> str | None:
        entropy = sum(v.assignment_entropy for v in self.seen) / _WINDOW
        in_use = sum(v.prototypes_in_use for v in self.seen) / _WINDOW
        information = sum(v.information for v in self.seen) / _WINDOW
        of_anchors = sum(v.anchor_information for v in self.seen) / _WINDOW
        most = math.log(self.classes)
        if self.shares_out and entropy < _LEAST_SHARE_OF_ENTROPY * most:
            return (
                f"the films share a few prototypes: entropy of the mean assignment {entropy:.2f} of {most:.2f} nats; "
                "raise objective.mean_entropy_weight"
            )
        if self.shares_out and in_use < max(_LEAST_SHARE_OF_PROTOTYPES * self.classes, 2):
            return (
                f"only {in_use:.1f} of {self.classes} possible prototypes are in use; "
                "lower train.learning_rate or raise objective.mean_entropy_weight"
            )
        if information < _LEAST_SHARE_OF_INFORMATION * most:
            return f"targets no longer tell films apart ({information:.3f} of {most:.2f} nats); {self.remedy}"
        if self.shares_out and of_anchors < _LEAST_SHARE_OF_ANCHOR_INFORMATION * most:
            return (
                f"anchors predict the same for every film ({of_anchors:.3f} of {most:.2f} nats); "
                "lower train.learning_rate"
            )
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must remember."""
        return {
            "untrained_rank": self.untrained_rank,
            "untrained_spread": self.untrained_spread,
            "losses": list(self.losses),
            "seen": [list(v) for v in self.seen],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self.untrained_rank, self.untrained_spread = state["untrained_rank"], state["untrained_spread"]
        self.losses.extend(state["losses"])
        self.seen.extend(Vitals(*values) for values in state["seen"])
