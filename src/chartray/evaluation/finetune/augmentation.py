"""What the network is shown in training, and what it is told is true of it."""

import math

import numpy as np
import torch
from torch import Tensor, nn

# Published augmentation: rotation in degrees, scale, shift as a share of the side.
ROTATION_DEGREES, SCALE, SHIFT = 45.0, (0.85, 1.15), 0.15


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 1, H, W), each flipped with probability 0.5, turned, scaled and shifted; what comes in is air (0)."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).to(images.device)

    angle = draw(-ROTATION_DEGREES, ROTATION_DEGREES) * math.pi / 180
    scale, flip = draw(*SCALE), torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    # grid_sample asks where each pixel of the result comes from: the inverse of the change, in units of half a side.
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = torch.stack((cosine * flip, sine * flip, 2 * draw(-SHIFT, SHIFT)), dim=1)
    columns = torch.stack((-sine, cosine, 2 * draw(-SHIFT, SHIFT)), dim=1)
    grid = nn.functional.affine_grid(torch.stack((rows, columns), dim=1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def mixed(images: Tensor, truth: Tensor, alpha: float, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each image (B, 1, H, W) and its truth (B, C) mixed with another's (Zhang et al., ICLR 2018).

    One share of Beta(alpha, alpha) a batch. A label that is unknown (NaN) in either image is unknown in the mixture.
    """
    share = float(draws.beta(alpha, alpha))
    order = draws.permutation(len(images))
    others, theirs = (
        images[torch.from_numpy(order).to(images.device)],
        truth[torch.from_numpy(order).to(truth.device)],
    )
    return share * images + (1 - share) * others, share * truth + (1 - share) * theirs


def masked_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known entries of truth (B, C) in [0, 1], NaN left out, in float32."""
    known = torch.isfinite(truth)
    each = nn.functional.binary_cross_entropy_with_logits(logits.float(), truth.nan_to_num(0), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)
