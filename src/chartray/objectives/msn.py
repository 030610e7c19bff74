"""The Masked Siamese Network's loss: Assran et al., ECCV 2022 (arXiv 2204.07141), equations 1 to 4.

Pure functions in float32 and log space; of several processes each passes its share of the global batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from chartray.collective import all_sum


class MSNTerms(NamedTuple):
    """The two terms of the loss: cross_entropy + lambda * mean_entropy. Gradients flow through both.

    cross_entropy: mean H(p+, p) over the anchor views; mean_entropy: log K - H(mean p) >= 0, over the GLOBAL batch.
    """

    cross_entropy: Tensor
    mean_entropy: Tensor


class Assignments(NamedTuple):
    """Log-probabilities over the prototypes: anchor (V*B, K) and target (B, K), the target's without gradient."""

    anchor: Tensor
    target: Tensor


def log_assign(embeddings: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Log p = log softmax(cos(z, Q) / tau): (B, P), (K, P) -> (B, K); neither needs to be normalised."""
    cosine = normalize(embeddings.float(), dim=1) @ normalize(prototypes.float(), dim=1).T
    return log_softmax(cosine / temperature, dim=1)


def sharpen(log_probabilities: Tensor, sharpening: float) -> Tensor:
    """Log of p^(1/T) renormalised (equation 3)."""
    return log_softmax(log_probabilities / sharpening, dim=1)


def sinkhorn(log_probabilities: Tensor, iterations: int) -> Tensor:
    """Balances prototypes over the global batch: (B, K) log-probabilities -> (B, K) log-probabilities.

    Each iteration gives every prototype the same total mass, then every image the mass 1. Rows sum to 1 exactly;
    columns sum to (global B) / K in the limit.
    """
    balanced = log_probabilities
    for _ in range(iterations):
        # Log-probabilities are never above 0 here, so exp cannot overflow; a total that underflows is held at tiny.
        mass = all_sum(balanced.exp().sum(dim=0))
        balanced = balanced - mass.clamp(min=torch.finfo(mass.dtype).tiny).log()
        balanced = balanced - balanced.logsumexp(dim=1, keepdim=True)
    return balanced


def assign(
    anchor: Tensor,
    target: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.1,
    sharpening: float = 0.25,
    sinkhorn_iterations: int = 3,
) -> Assignments:
    """Assigns anchors (V*B, P) and sharpened, balanced targets (B, P) to the prototypes (K, P)."""
    with torch.no_grad():
        sharp = sharpen(log_assign(target, prototypes, temperature), sharpening)
        balanced = sinkhorn(sharp, sinkhorn_iterations)
    return Assignments(anchor=log_assign(anchor, prototypes, temperature), target=balanced)


def terms_of(assignments: Assignments) -> MSNTerms:
    """Equation 4 from the assignments: anchors are view-major, so anchor v*B + b belongs to target b."""
    images, anchors = assignments.target.shape[0], assignments.anchor.shape[0]
    if images == 0 or anchors % images:
        raise ValueError(f"anchor must hold V * B rows for target's B = {images}, found {anchors}")
    expected = assignments.target.exp().repeat(anchors // images, 1)  # (V*B, K)
    cross_entropy = -(expected * assignments.anchor).sum(dim=1).mean()
    return MSNTerms(cross_entropy=cross_entropy, mean_entropy=mean_entropy_of(assignments.anchor))


def mean_entropy_of(log_probabilities: Tensor) -> Tensor:
    """Log K - H(mean p) >= 0 over the rows of the global batch: (B, K) log-probabilities -> scalar."""
    rows, prototypes = log_probabilities.shape
    total = all_sum(torch.full((), float(rows), device=log_probabilities.device))
    mean = all_sum(log_probabilities.exp().sum(dim=0)) / total  # (K,)
    entropy = -torch.special.xlogy(mean, mean).sum()
    excess: Tensor = math.log(prototypes) - entropy
    return excess


def msn_terms(
    anchor: Tensor,
    target: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.1,
    sharpening: float = 0.25,
    sinkhorn_iterations: int = 3,
) -> MSNTerms:
    """The terms of the MSN loss: anchor (V*B, P) view-major, target (B, P), prototypes (K, P), not normalised.

    Gradients reach the anchors and the prototypes (through the anchors' assignments), never the target.
    Raises ValueError if V is no whole number.
    """
    assignments = assign(
        anchor,
        target,
        prototypes,
        temperature=temperature,
        sharpening=sharpening,
        sinkhorn_iterations=sinkhorn_iterations,
    )
    return terms_of(assignments)
