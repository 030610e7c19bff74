"""DINO's loss, self-distillation with no labels: Caron et al., ICCV 2021 (arXiv 2104.14294), section 3.1.

Student and teacher are this package's anchor and target. Pure functions in float32 and log space; of several processes
each passes its share of the global batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from chartray.collective import all_sum
from chartray.objectives.msn import Assignments, mean_entropy_of


class DINOTerms(NamedTuple):
    """The loss, and what is monitored with it.

    cross_entropy: mean H(p_target, p_anchor) over images and pairs of different views; this alone is the loss.
    mean_entropy: log K - H(mean p_anchor) >= 0 over the GLOBAL batch, detached: a collapse to few outputs raises it.
    """

    cross_entropy: Tensor
    mean_entropy: Tensor


def cosine_logits(embeddings: Tensor, last_layer: Tensor) -> Tensor:
    """A weight-normed last layer on L2-normalised embeddings: (B, P), (K, P) -> (B, K) in [-1, 1]."""
    return normalize(embeddings.float(), dim=1) @ normalize(last_layer.float(), dim=1).T


@torch.no_grad()
def centred(target: Tensor, centre: Tensor, temperature: float = 0.04) -> Tensor:
    """Log p of the target: log softmax((logits - centre) / tau_target): (T, B, K), (K,) -> (T, B, K)."""
    return log_softmax((target.float() - centre) / temperature, dim=-1)


@torch.no_grad()
def moved_centre(centre: Tensor, target: Tensor, momentum: float = 0.9) -> Tensor:
    """Equation 4: m * centre + (1 - m) * mean of the target's logits (T, B, K) over views and the GLOBAL batch."""
    flat = target.float().flatten(0, 1)  # (T*B, K)
    count = all_sum(flat.new_full((), float(flat.shape[0])))
    return torch.lerp(all_sum(flat.sum(dim=0)) / count, centre, momentum)


def terms_of(anchor: Tensor, target: Tensor) -> DINOTerms:
    """The terms of equation 3 from log-probabilities: anchor (V, B, K), target (T, B, K) without gradient.

    View t of the target is view t of the anchor; each target view is compared with every anchor view but itself.
    Raises ValueError if no pair of different views is left.
    """
    views, images, _ = anchor.shape
    pairs = target.shape[0] * views - min(target.shape[0], views)
    if pairs == 0:
        raise ValueError(f"expected two views or more, found {views} of the anchor and {target.shape[0]} of the target")
    expected = target.exp()
    # A view that both networks see is not compared with itself; the other anchor views meet all target views at once.
    shared = [
        (each * torch.cat((expected[:view], expected[view + 1 :])).sum(dim=0)).sum()
        for view, each in enumerate(anchor[: len(expected)])
    ]
    apart = (anchor[len(expected) :].sum(dim=0) * expected.sum(dim=0)).sum()
    cross_entropy = -(torch.stack(shared).sum() + apart) / (pairs * images)
    with torch.no_grad():
        mean_entropy = mean_entropy_of(anchor.flatten(0, 1))
    return DINOTerms(cross_entropy=cross_entropy, mean_entropy=mean_entropy)


def monitored(anchor: Tensor, target: Tensor) -> Assignments:
    """What the monitor reads, as for MSN: the anchor's second view (B, K) against the target's first (B, K)."""
    return Assignments(anchor=anchor[1].detach(), target=target[0])
