"""A batch in parts, one part's activations in memory at a time, with the gradient of the undivided batch.

GradCache (Gao et al., *Scaling deep contrastive learning batch size under memory limited setup*, 2021): the loss is
not linear in the batch, so the losses of parts cannot be summed. Instead each part is embedded, the loss sees all
embeddings at once, and the gradient recomputes one part after another (torch's activation checkpointing).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chartray.pixels.views import Views


def encode(encoder: Callable[[Views], Tensor], views: Views, parts: int) -> Tensor:
    """`encoder` of the views of B images in this number of parts -> (V*B, D), view-major."""
    if parts == 1:
        return encoder(views)
    sizes = [chunk.stop - chunk.start for chunk in image_chunks(len(views.target), parts)]
    return joined(in_parts(encoder, views, parts), sizes)


def in_parts(function: Callable[[Views], Tensor], views: Views, parts: int) -> list[Tensor]:
    """`function` of each part of the images; with several parts, recomputed for the gradient rather than kept."""
    if parts == 1:
        return [function(views)]
    return [
        # Nothing here draws random numbers, and a GPU's generator can only be read by waiting for it.
        checkpoint(function, of_images(views, chunk), use_reentrant=False, preserve_rng_state=False)
        for chunk in image_chunks(len(views.target), parts)
    ]


def image_chunks(images: int, parts: int) -> list[slice]:
    """The images 0 ... `images` - 1 in `parts` groups whose sizes differ by at most one."""
    ends = [images * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends) if begin < end]


def joined(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """View-major parts of `sizes` images each (V*b, ...) -> (V*B, ...), view-major."""
    by_view = [part.view(-1, size, *part.shape[1:]) for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(by_view, dim=1).flatten(0, 1)


def of_images(views: Views, chunk: slice) -> Views:
    """The views of some of the images. Slices, since an index would have to reach the device first."""
    images = len(views.target)

    def focal(rows: Tensor) -> Tensor:
        return rows.view(-1, images, *rows.shape[1:])[:, chunk].flatten(0, 1) if len(rows) else rows

    return Views(
        target=views.target[chunk],
        random=views.random[chunk],
        focal=focal(views.focal),
        random_keep=None if views.random_keep is None else views.random_keep[chunk],
        focal_keep=None if views.focal_keep is None else focal(views.focal_keep),
    )
