"""One training step as the papers write it: views, networks, loss, check, gradient (docs/method.md)."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from chartray.collective import all_sum, average_gradients
from chartray.config.pretrain import Config, ObjectiveConfig
from chartray.errors import UnhealthyRun
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.networks.chart import ChartBatch
from chartray.networks.encoder import class_token
from chartray.networks.siamese import AnchorAndTarget, SelfDistillation, Siamese
from chartray.objectives import dino, mae, msn
from chartray.objectives.msn import Assignments
from chartray.pixels.views import Views
from chartray.training.chart_roles import ChartLosses, with_chart
from chartray.training.gradient_cache import encode, in_parts
from chartray.training.prefetch import Batch, Prefetcher
from chartray.training.schedules import Rates

# What `objective.name` chooses between. Each has an encoder that is trained (`encoder`), one that is evaluated
# (`target_encoder`), `trained_parameters` and `move_target`.
Networks = Siamese | SelfDistillation | MaskedAutoencoder
Autocast = Callable[[], AbstractContextManager[object]]


class Losses(NamedTuple):
    """The loss of one step and its named terms (scalars, this process's share of the mean).

    `chart`: what the chart's heads lose; None for MAE, which has none. `assignments` is what the monitor reads; None
    for MAE, which assigns nothing. `centre` (K,) is DINO's after this batch.
    """

    total: Tensor
    terms: msn.MSNTerms | dino.DINOTerms | mae.MAETerms
    chart: ChartLosses | None
    assignments: Assignments | None
    centre: Tensor | None = None


def begin(networks: Networks, rates: Rates, config: Config) -> None:
    """Before the first half, and once, however often that is tried: a frozen encoder, and the published EMA."""
    if config.train.in_two_stages:
        networks.encoder.requires_grad_(rates.encoder > 0)
    if config.train.ema_before_step:
        networks.move_target(rates.ema)


def gradient(
    networks: Networks,
    batch: Batch,
    config: Config,
    autocast: Autocast,
    parts: int = 1,
    prefetcher: Prefetcher | None = None,
) -> tuple[Losses, Tensor]:
    """The first half of a step: losses, the gradient, clipped, and its norm. Memory may run out here, and here alone.

    Prototypes are neither clipped nor part of the norm (official MSN). Raises UnhealthyRun for a loss or gradient that
    is not finite. Nothing is updated yet but running means.
    """
    losses = forward(networks, batch.views, batch.chart, config.objective, autocast, parts)
    # A sum over processes is finite only where each is: all of them stop, or none.
    loss = all_sum(losses.total.detach())
    torch.autograd.backward(losses.total)
    trained = networks.trained_parameters()
    average_gradients(trained.values())
    prototypes = trained.pop("prototypes", None)
    norm = torch.nn.utils.clip_grad_norm_(trained.values(), config.train.clip or float("inf"))
    if prefetcher is not None:
        prefetcher.prepare_next()  # while the device works on the gradient
    of_all = norm if prototypes is None or prototypes.grad is None else norm + prototypes.grad.norm()
    refuse_non_finite(loss, of_all, batch)
    return losses, norm


def update(networks: Networks, optimizer: Optimizer, losses: Losses, rates: Rates, config: Config) -> None:
    """The second half: the optimizer's step, and the target's move where it was not moved before the first half."""
    for group in optimizer.param_groups:
        group["lr"] = rates.learning_rate * (rates.encoder if group["encoder"] else 1.0)
        group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0
    optimizer.step()
    if not config.train.ema_before_step:
        networks.move_target(rates.ema)
    if isinstance(networks, SelfDistillation) and losses.centre is not None:
        networks.centre.copy_(losses.centre)
    optimizer.zero_grad(set_to_none=True)


def forward(
    networks: Networks, views: Views, chart: ChartBatch, objective: ObjectiveConfig, autocast: Autocast, parts: int = 1
) -> Losses:
    """The losses of B images whose `views` are standardised; `parts` > 1 saves memory, and the gradient stays exact."""
    match networks:
        case Siamese():
            return msn_forward(networks, views, chart, objective, autocast, parts)
        case SelfDistillation():
            return dino_forward(networks, views, chart, objective, autocast, parts)
        case MaskedAutoencoder():
            return mae_forward(networks, views, objective, autocast, parts)


def msn_forward(
    networks: Siamese, views: Views, chart: ChartBatch, objective: ObjectiveConfig, autocast: Autocast, parts: int
) -> Losses:
    """MSN: the target view through the target network; random and focal views, with the chart, through the anchor."""
    with autocast():
        with torch.no_grad():
            target = torch.cat([class_token(networks.target_encoder, part) for part in views.target.chunk(parts)])
            target = networks.target_head(target)  # z+ (B, P)
        anchor = encode(lambda part: random_and_focal(networks, part), views, parts)  # v (V*B, D)
        anchor, of_chart = with_chart(networks.chart, anchor, chart)  # v' (V*B, D)
        anchor = torch.cat([networks.head(group) for group in head_groups(anchor, views, objective)])  # z (V*B, P)
    assignments = msn.assign(
        anchor,
        target,
        networks.prototypes,
        temperature=objective.temperature,
        sharpening=objective.sharpening,
        sinkhorn_iterations=objective.sinkhorn_iterations,
    )  # p (V*B, K) and p+ (B, K)
    terms = msn.terms_of(assignments, prior_of(objective, target.device))
    total = terms.cross_entropy + objective.mean_entropy_weight * (terms.mean_entropy + terms.prior) + of_chart.total
    return Losses(total, terms, of_chart, assignments)


def dino_forward(
    networks: SelfDistillation,
    views: Views,
    chart: ChartBatch,
    objective: ObjectiveConfig,
    autocast: Autocast,
    parts: int,
) -> Losses:
    """DINO: the two global views (target, random) through the target network, these and the focal ones the anchor.

    The target network sees both whole. The anchor sees its target view whole too, and drops patches of the random and
    focal views where the recipe says so.
    """

    def all_views(part: Views) -> Tensor:
        return torch.cat((class_token(networks.encoder, part.target), random_and_focal(networks, part)))

    with autocast():
        with torch.no_grad():
            whole = torch.cat((views.target, views.random)).chunk(parts)
            target = networks.target_head(torch.cat([class_token(networks.target_encoder, part) for part in whole]))
        anchor, of_chart = with_chart(networks.chart, encode(all_views, views, parts), chart)  # (V*B, D)
        anchor = networks.head(anchor)  # (V*B, P)
    logits = dino.cosine_logits(target, networks.target_last_layer).view(2, len(views.target), -1)  # (2, B, K)
    expected = dino.centred(logits, networks.centre, objective.target_temperature)
    predicted = msn.log_assign(anchor, networks.last_layer, objective.temperature)
    predicted = predicted.view(-1, *expected.shape[1:])  # (V, B, K)
    terms = dino.terms_of(predicted, expected)
    centre = dino.moved_centre(networks.centre, logits, objective.center_momentum)
    return Losses(terms.cross_entropy + of_chart.total, terms, of_chart, dino.monitored(predicted, expected), centre)


def mae_forward(
    networks: MaskedAutoencoder, views: Views, objective: ObjectiveConfig, autocast: Autocast, parts: int
) -> Losses:
    """MAE: the kept patches of the random view through the encoder; the decoder predicts the others.

    Each image has its own loss, so the loss of the batch is a sum over parts.
    """

    def share(part: Views) -> Tensor:
        """What the images of a part add to the mean."""
        assert part.random_keep is not None
        with autocast():
            predicted = networks(part.random, part.random_keep)
        terms = mae.mae_terms(predicted, part.random, part.random_keep, normalise=objective.norm_pix_loss)
        return terms.reconstruction * (len(part.random) / len(views.random))

    total = torch.stack(in_parts(share, views, parts)).sum()
    return Losses(total, mae.MAETerms(reconstruction=total), None, None)


def prior_of(objective: ObjectiveConfig, device: torch.device | None = None) -> Tensor | None:
    """Log of the prior that me-max pulls towards (K,); None for the uniform one."""
    if objective.prior == "uniform":
        return None
    return msn.log_power_law(objective.prototypes, objective.prior_exponent, device)


def head_groups(anchor: Tensor, views: Views, objective: ObjectiveConfig) -> tuple[Tensor, ...]:
    """The anchors (V*B, D) in the groups that the head's BatchNorm normalizes: random and focal views, or all.

    Views of one size are one group, as in the official code.
    """
    one_size = len(views.focal) == 0 or views.focal.shape[-1] == views.random.shape[-1]
    if one_size or objective.head_statistics == "together":
        return (anchor,)
    return anchor.tensor_split([len(views.random)])


def random_and_focal(networks: AnchorAndTarget, views: Views) -> Tensor:
    """The anchor's class tokens of the random and the focal views, patches dropped -> (V*B, D), view-major."""
    random = class_token(networks.encoder, views.random, views.random_keep)
    if len(views.focal) == 0:
        return random
    return torch.cat((random, class_token(networks.encoder, views.focal, views.focal_keep)))


def refuse_non_finite(loss: Tensor, norm: Tensor, batch: Batch) -> None:
    """Raises UnhealthyRun, with the store rows of the batch, where the loss or the gradient's norm is NaN or infinite.

    Both are read at once: a GPU would be idle while the host waits for the loss before it asks for the gradient.
    """
    for what, value in zip(("loss", "gradient"), torch.stack((loss.float(), norm.float())).tolist(), strict=True):
        if not math.isfinite(value):
            rows = ", ".join(str(row) for row in batch.rows[:8])
            raise UnhealthyRun(
                f"step {batch.step + 1}: the {what} is not finite ({value}) for a batch with store rows {rows}...; "
                "nothing was updated; lower train.learning_rate, or check these images"
            )
