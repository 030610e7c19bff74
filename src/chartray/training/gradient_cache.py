"""Anchor embeddings of a batch: all at once, or in parts through cached embeddings with the very same gradient.

GradCache (Gao et al., *Scaling deep contrastive learning batch size under memory limited setup*, 2021): the loss is not
linear in the batch, so parts cannot simply be summed.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from chartray.pixels.views import Views

Autocast = Callable[[], AbstractContextManager[object]]


class Anchors(NamedTuple):
    """The anchor embeddings (V*B, D) of a batch, view-major, and what sends their gradient into the encoder."""

    embeddings: Tensor
    into_encoder: Callable[[], None]


def encode(encoder: Callable[[Views], Tensor], views: Views, parts: int, autocast: Autocast) -> Anchors:
    """`encoder` of the views of B images, (V*B, D); with `parts` > 1 of so many groups of images one after another.

    Embeddings are then cached without graph, as leaves, and `into_encoder` runs each part again and hands it their
    gradient: the memory of one part, the gradient of the undivided batch, whatever the loss does with the batch.
    """
    if parts == 1:
        return Anchors(encoder(views), lambda: None)
    images = views.target.shape[0]
    chunks = image_chunks(images, parts)
    with torch.no_grad():
        encoded = [encoder(of_images(views, chunk)).float() for chunk in chunks]
    leaves = joined(encoded, [chunk.stop - chunk.start for chunk in chunks]).requires_grad_()

    def into_encoder() -> None:
        assert leaves.grad is not None
        for chunk in chunks:
            with autocast():
                again = encoder(of_images(views, chunk))
            torch.autograd.backward(again, rows_of_images(leaves.grad, chunk, images).to(again.dtype))

    return Anchors(leaves, into_encoder)


def image_chunks(images: int, parts: int) -> list[slice]:
    """The images 0 ... `images` - 1 in `parts` groups whose sizes differ by one at most."""
    ends = [images * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends) if begin < end]


def rows_of_images(rows: Tensor, chunk: slice, images: int) -> Tensor:
    """What view-major `rows` (V*B, ...) of B `images` hold of some of these: (V*b, ...)."""
    return rows.view(-1, images, *rows.shape[1:])[:, chunk].flatten(0, 1)


def joined(parts: Sequence[Tensor], images: Sequence[int]) -> Tensor:
    """The opposite: view-major parts of so many `images` each -> (V*B, ...)."""
    by_view = [part.view(-1, count, *part.shape[1:]) for part, count in zip(parts, images, strict=True)]
    return torch.cat(by_view, dim=1).flatten(0, 1)


def of_images(views: Views, chunk: slice) -> Views:
    """The views of some of the images. In slices: an index would first be sent to the device, which has to wait."""
    images = views.target.shape[0]
    return Views(
        target=views.target[chunk],
        random=views.random[chunk],
        focal=rows_of_images(views.focal, chunk, images) if len(views.focal) else views.focal,
        random_keep=None if views.random_keep is None else views.random_keep[chunk],
        focal_keep=None if views.focal_keep is None else rows_of_images(views.focal_keep, chunk, images),
    )
