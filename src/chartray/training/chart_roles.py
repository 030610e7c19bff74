"""What the chart does at a step: it joins the anchor, and its heads give the class token their gradient."""

from contextlib import nullcontext
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from chartray.config.pretrain import ChartConfig
from chartray.networks.chart import (
    ChartBatch,
    ChartRoles,
    ContrastsLevels,
    Decorrelates,
    Head,
    MatchesTable,
    PredictsVariable,
)
from chartray.objectives import roles


class ChartLosses(NamedTuple):
    """`total`, whose gradient trains heads and encoder, and the loss of each head by its name, detached.

    The value of `total` is the sum of the heads' losses, each with its weight.
    """

    total: Tensor
    heads: dict[str, Tensor]


def with_chart(chart: ChartRoles, embeddings: Tensor, batch: ChartBatch) -> tuple[Tensor, ChartLosses]:
    """The anchor's class tokens (V*B, D), view-major -> those that go on (V*B, D), joined with the chart, and losses.

    Each head learns from its own loss. The class tokens are given the heads' gradients scaled to equal norms (among
    themselves, over the global batch), times weight and ramp; those of reversing heads with the sign turned. The
    gradient of a decorrelating head keeps its norm: that of R2 vanishes as nothing is left to read.
    """
    joined = embeddings
    if chart.joins is not None:
        joined = chart.joins(embeddings, batch.rows[:, chart.joined_columns])
    heads, config = chart.each_head(), chart.config
    if not heads:
        return joined, ChartLosses(embeddings.new_zeros(()), {})
    # The heads and their losses are float32, as the loss of the views is: bf16 cannot even hold what masks a level.
    of = embeddings.device.type
    exact = torch.autocast(of, enabled=False) if torch.amp.is_autocast_available(of) else nullcontext()
    with torch.enable_grad(), exact:
        tokens = embeddings.detach().float().requires_grad_()
        losses = [_loss(head, tokens, batch, config) for head in heads]
        gradients = [torch.autograd.grad(loss, tokens, retain_graph=True)[0] for loss in losses]
    weights = [config.weight * _share_of_weight(head, config) for head in heads]
    alike = [not isinstance(head, Decorrelates) for head in heads]
    scaled = iter(roles.of_equal_norm(list(compress(gradients, alike))))
    gradients = [next(scaled) if one else each for one, each in zip(alike, gradients, strict=True)]
    pulls = [
        each.float() * (-weight if head.reverses else weight) * batch.ramp
        for head, each, weight in zip(heads, gradients, weights, strict=True)
    ]
    learnt = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
    # 0 in value: it hands the class tokens exactly this gradient.
    handed = ((embeddings - embeddings.detach()).float() * torch.stack(pulls).sum(dim=0)).sum()
    return joined, ChartLosses(
        learnt + handed, {head.name: loss.detach() for head, loss in zip(heads, losses, strict=True)}
    )


def _share_of_weight(head: Head, config: ChartConfig) -> float:
    """What chart.weight is multiplied by for this head."""
    if isinstance(head, Decorrelates):
        return config.decorrelate_weight
    return config.suppress_weight if head.reverses else 1.0


def _loss(head: Head, tokens: Tensor, batch: ChartBatch, config: ChartConfig) -> Tensor:
    truth = batch.rows[:, head.columns]
    observed = batch.observed[:, head.variables].any(dim=1)
    match head:
        case PredictsVariable():
            return roles.prediction(head(tokens), truth, observed, head.bounds)
        case ContrastsLevels():
            projected = head(tokens)
            if head.training:
                moved = roles.moved_centroids(head.centroids, projected, truth, observed, config.momentum)
                head.centroids.copy_(moved)
            return roles.prototypical_contrast(projected, head.centroids, truth, observed, config.temperature)
        case MatchesTable():
            images, tables = head(tokens, truth)
            return roles.image_table_contrast(images, tables, observed, config.mmcl_temperature)
        case Decorrelates():
            moments = roles.SecondMoments(head.tokens, head.joint, head.variable)
            if head.training:
                for kept, moved in zip(moments, roles.moved_moments(moments, tokens, truth, observed), strict=True):
                    kept.copy_(moved)
            share = roles.readable_share(tokens, truth, observed, moments)
            even = roles.evenness(tokens, truth, observed, moments)
            return share - config.evenness_weight * (even - even.detach())  # what is recorded is R2 alone
    raise AssertionError(head.role)
