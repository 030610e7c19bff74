"""One training step, as the paper writes it: views, target, anchors, chart, head, loss, gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chartray.config import ObjectiveConfig
from chartray.networks.encoder import class_token
from chartray.networks.siamese import ChartBatch, Siamese
from chartray.objectives.msn import AllSum, Assignments, MSNTerms, assign, terms_of
from chartray.pixels.views import Views

Autocast = Callable[[], AbstractContextManager[object]]


class Losses(NamedTuple):
    """The terms of one step and their weighted sum (scalars, this process's share of the mean)."""

    total: Tensor
    terms: MSNTerms
    chart: Tensor
    assignments: Assignments


class _Anchors(NamedTuple):
    """The anchor embeddings (V*B, D) of a batch, and what sends their gradient into the encoder."""

    embeddings: Tensor
    into_encoder: Callable[[], None]


def forward_backward(
    networks: Siamese,
    views: Views,
    chart: ChartBatch,
    objective: ObjectiveConfig,
    *,
    autocast: Autocast,
    all_sum: AllSum,
    accumulate: int = 1,
    check: Callable[[Losses], None] = lambda losses: None,
) -> Losses:
    """Adds the gradient of the loss to the anchor network's `.grad`; `views` are standardised already.

    With `accumulate` > 1 the films pass the encoders in that many parts: embeddings are cached, the loss is taken
    over all of them at once, and each part runs a second time to take its gradient, so that the result is that
    of the undivided batch. `check` sees the losses before any gradient is taken.
    """
    with autocast():
        with torch.no_grad():
            target = torch.cat([class_token(networks.target_encoder, part) for part in views.target.chunk(accumulate)])
            target = networks.target_head(target)  # z+ (B, P)
        anchors = _direct(networks, views) if accumulate == 1 else _cached(networks, views, accumulate, autocast)
        joined, chart_loss = networks.chart(anchors.embeddings, chart)  # v' (V*B, D)
        projected = networks.head(joined)  # z (V*B, P)
    assignments = assign(
        projected,
        target,
        networks.prototypes,
        temperature=objective.temperature,
        sharpening=objective.sharpening,
        sinkhorn_iterations=objective.sinkhorn_iterations,
        all_sum=all_sum,
    )
    terms = terms_of(assignments, all_sum)
    total = terms.cross_entropy + objective.mean_entropy_weight * terms.mean_entropy + chart_loss
    losses = Losses(total, terms, chart_loss, assignments)
    check(losses)
    total.backward()
    anchors.into_encoder()
    return losses


def standardise(views: Views, grey_mean: float, grey_std: float) -> Views:
    """Grey in [0, 1] -> zero mean and unit variance over the training films."""

    def standard(grey: Tensor) -> Tensor:
        return (grey - grey_mean) / grey_std

    return views._replace(target=standard(views.target), random=standard(views.random), focal=standard(views.focal))


def _direct(networks: Siamese, views: Views) -> _Anchors:
    return _Anchors(_encode(networks, views), lambda: None)


def _cached(networks: Siamese, views: Views, parts: int, autocast: Autocast) -> _Anchors:
    """Embeddings without graph, as leaves; `into_encoder` runs each part again and hands it their gradient."""
    films = views.target.shape[0]
    focal_views = views.focal.shape[0] // films
    chunks = np.array_split(np.arange(films), parts)
    leaves = views.random.new_zeros((films * (1 + focal_views), networks.encoder.embed_dim))
    places = [_view_major(chunk, films, 1 + focal_views) for chunk in chunks]
    with torch.no_grad():
        for chunk, place in zip(chunks, places, strict=True):
            leaves[place] = _encode(networks, _part(views, chunk, films, focal_views)).float()
    leaves.requires_grad_()

    def into_encoder() -> None:
        assert leaves.grad is not None
        for chunk, place in zip(chunks, places, strict=True):
            with autocast():
                again = _encode(networks, _part(views, chunk, films, focal_views))
            torch.autograd.backward(again, leaves.grad[place].to(again.dtype))

    return _Anchors(leaves, into_encoder)


def _encode(networks: Siamese, views: Views) -> Tensor:
    """The class tokens of the random and the focal views, view-major (V*B, D)."""
    random = class_token(networks.encoder, views.random, views.random_keep)
    if views.focal.shape[0] == 0:
        return random
    return torch.cat((random, class_token(networks.encoder, views.focal, views.focal_keep)))


def _view_major(films_of_part: npt.NDArray[np.int64], films: int, views: int) -> Tensor:
    return torch.from_numpy((np.arange(views)[:, None] * films + films_of_part).ravel())


def _part(views: Views, films_of_part: npt.NDArray[np.int64], films: int, focal_views: int) -> Views:
    one, focal = _view_major(films_of_part, films, 1), _view_major(films_of_part, films, focal_views)
    return Views(
        target=views.target[one],
        random=views.random[one],
        focal=views.focal[focal],
        random_keep=None if views.random_keep is None else views.random_keep[one],
        focal_keep=None if views.focal_keep is None else views.focal_keep[focal],
    )
