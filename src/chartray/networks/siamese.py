"""Anchor and target networks: encoder, chart (f and g), head h, prototypes Q, and the EMA that ties them.

docs/method.md: v = ViT(view), v' = g([v ; f(x)]), z = h(v'); z+ = h_EMA(ViT_EMA(target view)).
"""

import copy
import math

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from chartray.collective import all_sum
from chartray.config.pretrain import ObjectiveConfig
from chartray.networks.chart import ChartRoles
from chartray.networks.first_weights import draw_linear_layers


class GlobalBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the images of all processes, on any device (SyncBatchNorm refuses CPU tensors)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, P) -> (B, P), in float32, with the statistics of the global batch while training."""
        if not self.training:
            return super().forward(input.float())
        x = input.float()
        count = all_sum(x.new_full((), float(x.shape[0])))
        mean = all_sum(x.sum(dim=0)) / count
        variance = all_sum((x - mean).square().sum(dim=0)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
            self.num_batches_tracked.add_(1)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


def projection_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """The head h: three linear layers, BatchNorm and GELU after the first two (the official MSN recipe)."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        GlobalBatchNorm(hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        GlobalBatchNorm(hidden),
        nn.GELU(),
        nn.Linear(hidden, out),
    )


def distillation_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """DINO's head before its last layer: three linear layers, GELU between, no BatchNorm (official, for a ViT)."""
    head = nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
    )
    draw_linear_layers(head)
    return head


class AnchorAndTarget(nn.Module):
    """The anchor network, which is trained, and the target network, its exponential moving average.

    Encoder, chart and head; the target has no chart. Each objective adds what follows the head.
    """

    def __init__(self, encoder: VisionTransformer, chart: ChartRoles, head: nn.Sequential) -> None:
        super().__init__()
        self.encoder = encoder
        self.chart = chart
        self.head = head
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_head = copy.deepcopy(head).requires_grad_(False)

    @torch.no_grad()
    def move_target(self, momentum: float) -> None:
        """EMA of the weights: target <- momentum * target + (1 - momentum) * anchor. Frozen ones stay, bit for bit.

        BatchNorm's running values stay each network's own: in training both heads use their batch's statistics.
        """
        for target, anchor in ((self.target_encoder, self.encoder), (self.target_head, self.head)):
            pairs = zip(target.parameters(), anchor.parameters(), strict=True)
            moved = [(kept, trained) for kept, trained in pairs if trained.requires_grad]
            if moved:
                torch._foreach_lerp_([kept for kept, _ in moved], [trained for _, trained in moved], 1 - momentum)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer sees, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


class Siamese(AnchorAndTarget):
    """The Masked Siamese Network: prototypes Q (K, P), which anchor and target are both compared with.

    `official`: the head's first weights are drawn as in the official code; otherwise they are torch's.
    """

    def __init__(
        self, encoder: VisionTransformer, chart: ChartRoles, objective: ObjectiveConfig, *, official: bool = True
    ) -> None:
        hidden, out = head_widths(encoder.embed_dim, objective)
        head = projection_head(encoder.embed_dim, hidden, out)
        if official:
            draw_linear_layers(head)
        super().__init__(encoder, chart, head)
        self.prototypes = first_prototypes(objective.prototypes, out).requires_grad_(objective.train_prototypes)


class SelfDistillation(AnchorAndTarget):
    """DINO: a head without BatchNorm, a weight-normed last layer (K, P) on each side, and the target's centre (K,).

    The last layer's rows are used at length 1 (official `norm_last_layer`). There is no predictor.
    """

    def __init__(self, encoder: VisionTransformer, chart: ChartRoles, objective: ObjectiveConfig) -> None:
        hidden, out = head_widths(encoder.embed_dim, objective)
        super().__init__(encoder, chart, distillation_head(encoder.embed_dim, hidden, out))
        self.last_layer = first_prototypes(objective.prototypes, out)
        self.target_last_layer = nn.Parameter(self.last_layer.detach().clone(), requires_grad=False)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(objective.prototypes))

    @torch.no_grad()
    def move_target(self, momentum: float) -> None:
        """EMA of encoder, head and last layer. The centre moves with each batch, not with the weights."""
        super().move_target(momentum)
        self.target_last_layer.lerp_(self.last_layer, 1 - momentum)


def first_prototypes(count: int, width: int) -> nn.Parameter:
    """K = `count` rows (K, P), uniform within 1 / sqrt(P)."""
    bound = 1 / math.sqrt(width)
    return nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))


def head_widths(width: int, objective: ObjectiveConfig) -> tuple[int, int]:
    """Hidden and output width of the head h for an encoder of `width`."""
    return objective.head_hidden or 4 * width, objective.head_out or width
