"""The masked autoencoder's loss: He et al., CVPR 2022 (arXiv 2111.06377), section 3. Pure functions in float32."""

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_VARIANCE = 1e-6  # official: a patch of one grey level must not be divided by zero


class MAETerms(NamedTuple):
    """reconstruction: mean squared error over the masked patches, the loss."""

    reconstruction: Tensor


def patches_of(images: Tensor, side: int) -> Tensor:
    """Pixels by patch, patches row by row as the encoder counts them: (B, 1, H, W) -> (B, N, side * side).

    >>> patches_of(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1]
    tensor([2., 3., 6., 7.])
    """
    count, _, height, width = images.shape
    grid = images.view(count, height // side, side, width // side, side).transpose(2, 3)
    return grid.reshape(count, -1, side * side)


def mae_terms(predicted: Tensor, images: Tensor, kept: Tensor, *, normalise: bool = True) -> MAETerms:
    """The loss of predicted patches (B, N, side * side) for images (B, 1, H, W) whose patches `kept` (B, n) were seen.

    What was seen has no loss. `normalise`: each patch to zero mean and unit (unbiased) variance before it is compared
    (official `norm_pix_loss`). Gradients reach the prediction. Raises ValueError if every patch was seen.
    """
    count, patches, pixels = predicted.shape
    if kept.shape[1] >= patches:
        raise ValueError(f"expected fewer than {patches} kept patches, found {kept.shape[1]}: nothing is masked")
    truth = patches_of(images.float(), round(pixels**0.5))
    if normalise:
        mean, variance = truth.mean(dim=2, keepdim=True), truth.var(dim=2, keepdim=True)
        truth = (truth - mean) * (variance + _LEAST_VARIANCE).rsqrt()
    each = (predicted.float() - truth).square().mean(dim=2)  # (B, N)
    masked = torch.ones_like(each).scatter(1, kept, 0.0)
    return MAETerms(reconstruction=(each * masked).sum() / (count * (patches - kept.shape[1])))
