"""Anchor embeddings of a batch: all at once, or in parts through cached embeddings with the very same gradient."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import NamedTuple

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
    leaves = joined(encoded, [chunk.stop - chunk.start for chunk in chunks]).requires_grad_()

    def into_encoder() -> None:
        assert leaves.grad is not None
        for chunk in chunks:
            with autocast():
                again = encode(films_of(views, chunk))
            torch.autograd.backward(again, of_films(leaves.grad, chunk, films).to(again.dtype))

    return Anchors(leaves, into_encoder)


def film_chunks(films: int, parts: int) -> list[slice]:
    """The films 0 ... `films` - 1 in `parts` groups whose sizes differ by one at most."""
    ends = [films * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends) if begin < end]


def of_films(rows: Tensor, chunk: slice, films: int) -> Tensor:
    """What view-major `rows` (V*B, ...) of B `films` hold of some of these: (V*b, ...)."""
    return rows.view(-1, films, *rows.shape[1:])[:, chunk].flatten(0, 1)


def joined(parts: Sequence[Tensor], films: Sequence[int]) -> Tensor:
    """The opposite: view-major parts of so many `films` each -> (V*B, ...)."""
    by_view = [part.view(-1, count, *part.shape[1:]) for part, count in zip(parts, films, strict=True)]
    return torch.cat(by_view, dim=1).flatten(0, 1)


def films_of(views: Views, chunk: slice) -> Views:
    """The views of some of the films. In slices: an index would first be sent to the device, which has to wait."""
    films = views.target.shape[0]
    return Views(
        target=views.target[chunk],
        random=views.random[chunk],
        focal=of_films(views.focal, chunk, films) if len(views.focal) else views.focal,
        random_keep=None if views.random_keep is None else views.random_keep[chunk],
        focal_keep=None if views.focal_keep is None else of_films(views.focal_keep, chunk, films),
    )
