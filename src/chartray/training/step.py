"""One training step as the papers write it: from views to the loss, then its gradient (docs/method.md).

`forward` computes the loss of MSN (with the chart), DINO or MAE. The loop checks it, then asks for the gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from chartray.config.pretrain import ObjectiveConfig
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.networks.encoder import class_token
from chartray.networks.siamese import AnchorAndTarget, ChartBatch, SelfDistillation, Siamese
from chartray.objectives import dino, mae, msn
from chartray.objectives.msn import AllSum, Assignments
from chartray.pixels.views import Views
from chartray.training.gradient_cache import Autocast, encode, image_chunks, of_images

# What `objective.name` chooses between. Each has an encoder that is trained (`encoder`), one that is evaluated
# (`target_encoder`), `trained_parameters`, `move_target` and `span_processes`.
Networks = Siamese | SelfDistillation | MaskedAutoencoder


class Losses(NamedTuple):
    """The loss of one step and its named terms (scalars, this process's share of the mean).

    `assignments` is what training health looks at; None where an objective assigns nothing.
    """

    total: Tensor
    terms: msn.MSNTerms | dino.DINOTerms | mae.MAETerms
    chart: Tensor
    assignments: Assignments | None


class Forward(NamedTuple):
    """The losses of a step; `backward` adds their gradient to `.grad`, and is called once they are known to be finite.

    A step of several parts runs each of them a second time for it. DINO's centre moves with it too.
    """

    losses: Losses
    backward: Callable[[], None]


def forward(
    networks: Networks,
    views: Views,
    chart: ChartBatch,
    objective: ObjectiveConfig,
    *,
    autocast: Autocast,
    all_sum: AllSum,
    accumulate: int = 1,
) -> Forward:
    """The losses of B images whose `views` are standardised; `accumulate` > 1 passes them in so many parts, exactly."""
    match networks:
        case Siamese():
            return msn_forward(networks, views, chart, objective, autocast, all_sum, accumulate)
        case SelfDistillation():
            return dino_forward(networks, views, chart, objective, autocast, all_sum, accumulate)
        case MaskedAutoencoder():
            return mae_forward(networks, views, objective, autocast, accumulate)


def msn_forward(
    networks: Siamese,
    views: Views,
    chart: ChartBatch,
    objective: ObjectiveConfig,
    autocast: Autocast,
    all_sum: AllSum,
    accumulate: int,
) -> Forward:
    """The target view through the target network; random and focal views, with the chart, through the anchor."""
    with autocast():
        with torch.no_grad():
            target = torch.cat([class_token(networks.target_encoder, part) for part in views.target.chunk(accumulate)])
            target = networks.target_head(target)  # z+ (B, P)
        anchors = encode(lambda part: random_and_focal(networks, part), views, accumulate, autocast)
        joined, chart_loss = networks.chart(anchors.embeddings, chart)  # v' (V*B, D)
        projected = networks.head(joined)  # z (V*B, P)
    assignments = msn.assign(
        projected,
        target,
        networks.prototypes,
        temperature=objective.temperature,
        sharpening=objective.sharpening,
        sinkhorn_iterations=objective.sinkhorn_iterations,
        all_sum=all_sum,
    )
    terms = msn.terms_of(assignments, all_sum)
    total = terms.cross_entropy + objective.mean_entropy_weight * terms.mean_entropy + chart_loss

    def backward() -> None:
        total.backward()
        anchors.into_encoder()

    return Forward(Losses(total, terms, chart_loss, assignments), backward)


def dino_forward(
    networks: SelfDistillation,
    views: Views,
    chart: ChartBatch,
    objective: ObjectiveConfig,
    autocast: Autocast,
    all_sum: AllSum,
    accumulate: int,
) -> Forward:
    """The two global views (target, random) through the target network; these and the focal ones through the anchor.

    The target network sees both whole; the anchor drops patches of the random and focal views where the recipe says
    so, of its target view never. The centre moves last, from logits that have passed the check.
    """
    images = views.target.shape[0]

    def all_views(part: Views) -> Tensor:
        return torch.cat((class_token(networks.encoder, part.target), random_and_focal(networks, part)))

    with autocast():
        with torch.no_grad():
            whole = torch.cat((views.target, views.random)).chunk(accumulate)
            target = networks.target_head(torch.cat([class_token(networks.target_encoder, part) for part in whole]))
        anchors = encode(all_views, views, accumulate, autocast)
        joined, chart_loss = networks.chart(anchors.embeddings, chart)  # (V*B, D)
        projected = networks.head(joined)  # (V*B, P)
    logits = dino.cosine_logits(target, networks.target_last_layer).view(2, images, -1)  # (2, B, K)
    expected = dino.centred(logits, networks.centre, objective.target_temperature)
    guessed = msn.log_assign(projected, networks.last_layer, objective.temperature)
    guessed = guessed.view(-1, images, guessed.shape[1])  # (V, B, K)
    terms = dino.terms_of(guessed, expected, all_sum)
    total = terms.cross_entropy + chart_loss

    def backward() -> None:
        total.backward()
        anchors.into_encoder()
        networks.centre.copy_(dino.moved_centre(networks.centre, logits, objective.centre_momentum, all_sum))

    return Forward(Losses(total, terms, chart_loss, dino.watched(guessed, expected)), backward)


def mae_forward(
    networks: MaskedAutoencoder, views: Views, objective: ObjectiveConfig, autocast: Autocast, accumulate: int
) -> Forward:
    """The random view alone: what is kept of it through the encoder, the rest drawn by the decoder.

    Images do not meet in this loss, so in parts its gradient is the sum of theirs; the parts run once for the loss,
    which is checked whole, and once for the gradient.
    """
    images = views.random.shape[0]
    parts = [of_images(views, chunk) for chunk in image_chunks(images, accumulate)]

    def share(part: Views) -> Tensor:
        """What the images of a part add to the mean."""
        assert part.random_keep is not None
        with autocast():
            drawn = networks(part.random, part.random_keep)
        found = mae.mae_terms(drawn, part.random, part.random_keep, normalise=objective.normalise_patches)
        return found.reconstruction * (len(part.random) / images)

    with torch.set_grad_enabled(accumulate == 1):
        total = torch.stack([share(part) for part in parts]).sum()

    def backward() -> None:
        if accumulate == 1:
            torch.autograd.backward(total)
            return
        for part in parts:
            torch.autograd.backward(share(part))

    return Forward(Losses(total, mae.MAETerms(reconstruction=total), total.new_zeros(()), None), backward)


def random_and_focal(networks: AnchorAndTarget, views: Views) -> Tensor:
    """The anchor's class tokens of the random and the focal views, patches dropped, view-major ((1 + F)*B, D)."""
    random = class_token(networks.encoder, views.random, views.random_keep)
    if views.focal.shape[0] == 0:
        return random
    return torch.cat((random, class_token(networks.encoder, views.focal, views.focal_keep)))
