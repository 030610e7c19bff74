"""One training step, as the papers write it: views, networks, loss, check, gradient."""

from collections.abc import Callable

from chartray.config import ObjectiveConfig
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.networks.siamese import ChartBatch, SelfDistillation, Siamese
from chartray.objectives.msn import AllSum
from chartray.pixels.views import Views
from chartray.training.anchors import Autocast
from chartray.training.forward import Losses, dino_forward, mae_forward, msn_forward

# What `objective.name` chooses between. Each has an encoder that is trained (`encoder`), one that is evaluated
# (`target_encoder`), `trained_parameters`, `move_target` and `span_processes`.
Networks = Siamese | SelfDistillation | MaskedAutoencoder


def forward_backward(
    networks: Networks,
    views: Views,
    chart: ChartBatch,
    objective: ObjectiveConfig,
    *,
    autocast: Autocast,
    all_sum: AllSum,
    accumulate: int = 1,
    check: Callable[[Losses], None] = lambda losses: None,
) -> Losses:
    """Adds the gradient of the loss to the trained networks' `.grad`; `views` are standardised already.

    With `accumulate` > 1 the films pass the encoders in that many parts, and each part that is trained runs a
    second time to take its gradient, so that the result is that of the undivided batch. `check` sees the losses
    before any gradient is taken.
    """
    match networks:
        case Siamese():
            losses, backward = msn_forward(
                networks, views, chart, objective, autocast=autocast, all_sum=all_sum, accumulate=accumulate
            )
        case SelfDistillation():
            losses, backward = dino_forward(
                networks, views, chart, objective, autocast=autocast, all_sum=all_sum, accumulate=accumulate
            )
        case MaskedAutoencoder():
            losses, backward = mae_forward(networks, views, objective, autocast=autocast, accumulate=accumulate)
    check(losses)
    backward()
    return losses
