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
    """The terms of the loss: cross_entropy + lambda * (mean_entropy + prior). Gradients flow through all.

    cross_entropy: mean H(p+, p) over the anchor views; mean_entropy: log K - H(mean p) >= 0, over the GLOBAL batch.
    prior: what a prior other than the uniform one adds, so that mean_entropy + prior = KL(mean p || prior).
    """

    cross_entropy: Tensor
    mean_entropy: Tensor
    prior: Tensor


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


def log_power_law(prototypes: int, exponent: float, device: torch.device | None = None) -> Tensor:
    """Log of the prior of prototypes 1 ... K, proportional to k^-exponent: (K,); 0 is uniform.

    Prior Matching for Siamese Networks (PMSN): Assran et al., ICLR 2023 (arXiv 2210.07277), for long-tailed data.

    >>> log_power_law(3, 1.0).exp()
    tensor([0.5455, 0.2727, 0.1818])
    """
    return log_softmax(-exponent * torch.arange(1.0, prototypes + 1, device=device).log(), dim=0)


def terms_of(assignments: Assignments, log_prior: Tensor | None = None) -> MSNTerms:
    """Equation 4 from the assignments: anchors are view-major, so anchor v*B + b belongs to target b.

    log_prior (K,): what the mean assignment is pulled towards, None for uniform. The divergence is KL(mean p || prior),
    of which me-max is the uniform case; lightly's PMSNLoss has the other direction, of which it is not.
    """
    images, anchors = assignments.target.shape[0], assignments.anchor.shape[0]
    if images == 0 or anchors % images:
        raise ValueError(f"anchor must hold V * B rows for target's B = {images}, found {anchors}")
    expected = assignments.target.exp().repeat(anchors // images, 1)  # (V*B, K)
    cross_entropy = -(expected * assignments.anchor).sum(dim=1).mean()
    mean = _mean_assignment(assignments.anchor)
    prior = mean.new_zeros(())
    if log_prior is not None:
        prior = -math.log(len(mean)) - (mean * log_prior).sum()
    return MSNTerms(cross_entropy, _missing_entropy(mean), prior)


def mean_entropy_of(log_probabilities: Tensor) -> Tensor:
    """Log K - H(mean p) >= 0 over the rows of the global batch: (B, K) log-probabilities -> scalar."""
    return _missing_entropy(_mean_assignment(log_probabilities))


def _mean_assignment(log_probabilities: Tensor) -> Tensor:
    """The mean over the rows of the global batch: (B, K) log-probabilities -> (K,) probabilities."""
    total = all_sum(torch.full((), float(len(log_probabilities)), device=log_probabilities.device))
    return all_sum(log_probabilities.exp().sum(dim=0)) / total


def _missing_entropy(mean: Tensor) -> Tensor:
    missing: Tensor = math.log(len(mean)) + torch.special.xlogy(mean, mean).sum()
    return missing


def msn_terms(
    anchor: Tensor,
    target: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.1,
    sharpening: float = 0.25,
    sinkhorn_iterations: int = 3,
    log_prior: Tensor | None = None,
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
    return terms_of(assignments, log_prior)
