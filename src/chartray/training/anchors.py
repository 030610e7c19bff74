"""Anchor embeddings of a batch: all at once, or in parts through cached embeddings with the very same gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chartray.pixels.views import Views

Autocast = Callable[[], AbstractContextManager[object]]
Encode = Callable[[Views], Tensor]


class Anchors(NamedTuple):
    """The anchor embeddings (V*B, D) of a batch, view-major, and what sends their gradient into the encoder."""

    embeddings: Tensor
    into_encoder: Callable[[], None]


def encode_anchors(encode: Encode, views: Views, parts: int, autocast: Autocast) -> Anchors:
    """`encode` of the views of B films, (V*B, D); with `parts` > 1 of so many groups of films one after another.

    Embeddings are then cached without graph, as leaves, and `into_encoder` runs each part again and hands it their
    gradient: the memory of one part, the gradient of the undivided batch, whatever the loss does with the batch.
    """
    if parts == 1:
        return Anchors(encode(views), lambda: None)
    films = views.target.shape[0]
    chunks = film_chunks(films, parts)
    with torch.no_grad():
        encoded = [encode(films_of(views, chunk)).float() for chunk in chunks]
    anchor_views = encoded[0].shape[0] // len(chunks[0])
    places = [view_major(chunk, films, anchor_views) for chunk in chunks]
    leaves = encoded[0].new_zeros((films * anchor_views, encoded[0].shape[1]))
    for place, values in zip(places, encoded, strict=True):
        leaves[place] = values
    leaves.requires_grad_()

    def into_encoder() -> None:
        assert leaves.grad is not None
        for chunk, place in zip(chunks, places, strict=True):
            with autocast():
                again = encode(films_of(views, chunk))
            torch.autograd.backward(again, leaves.grad[place].to(again.dtype))

    return Anchors(leaves, into_encoder)


def film_chunks(films: int, parts: int) -> list[npt.NDArray[np.int64]]:
    """The films 0 ... `films` - 1 in `parts` groups whose sizes differ by one at most."""
    return [chunk for chunk in np.array_split(np.arange(films), parts) if chunk.size]


def view_major(chunk: npt.NDArray[np.int64], films: int, views: int) -> Tensor:
    """Where the films of a chunk stand among view-major rows (V*B,)."""
    return torch.from_numpy((np.arange(views)[:, None] * films + chunk).ravel())


def films_of(views: Views, chunk: npt.NDArray[np.int64]) -> Views:
    """The views of some of the films."""
    films = views.target.shape[0]
    one, focal = view_major(chunk, films, 1), view_major(chunk, films, views.focal.shape[0] // films)
    return Views(
        target=views.target[one],
        random=views.random[one],
        focal=views.focal[focal],
        random_keep=None if views.random_keep is None else views.random_keep[one],
        focal_keep=None if views.focal_keep is None else views.focal_keep[focal],
    )
