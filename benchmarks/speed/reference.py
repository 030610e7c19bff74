"""The reference: the published way of training, from lightly's masked ViT and MSN loss, put together as in its example.

Same architecture, views, batch and precision as ours, chart included; prototypes are trained (lightly's own example
detaches them, which saves it their gradient: docs/method.md). Nothing of it is used outside `bench`.
"""

import copy
from collections.abc import Callable

import timm
import torch
from lightly.loss import MSNLoss
from lightly.models.modules.heads import MSNProjectionHead
from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM
from lightly.models.utils import random_token_mask, update_momentum
from timm.layers import set_fused_attn
from torch import Tensor, nn

from chartray.config.pretrain import Config
from chartray.networks.description import Architecture


class ReferenceMSN(nn.Module):
    """Anchor and target networks after lightly's example, with the published chart encoder f and fusion g."""

    def __init__(self, architecture: Architecture, config: Config, chart_features: int) -> None:
        super().__init__()
        vit = timm.create_model(**architecture.arguments(), num_classes=0, in_chans=1, dynamic_img_size=True)
        width = vit.embed_dim
        hidden, out = config.objective.head_hidden or 4 * width, config.objective.head_out or width
        self.target = MaskedVisionTransformerTIMM(vit=vit)
        self.target_head = MSNProjectionHead(input_dim=width, hidden_dim=hidden, output_dim=out)
        self.anchor, self.anchor_head = copy.deepcopy(self.target), copy.deepcopy(self.target_head)
        for module in (self.target, self.target_head):
            module.requires_grad_(False)
        self.f = nn.Linear(chart_features, config.chart.width)
        self.g = nn.Linear(width + config.chart.width, width)
        self.prototypes = nn.Linear(out, config.objective.prototypes, bias=False).weight
        self.patch = vit.patch_embed.patch_size[0]

    def anchors(self, images: Tensor, chart: Tensor, mask_ratio: float) -> Tensor:
        """z of some views (V*B, 1, H, H): the class token of what the mask leaves, with the chart, through the head."""
        keep = None
        if mask_ratio:
            tokens = (images.shape[-1] // self.patch) ** 2 + 1
            keep, _ = random_token_mask((images.shape[0], tokens), mask_ratio=mask_ratio, device=images.device)
        embedded = self.anchor(images, idx_keep=keep)
        encoded = self.f(chart).repeat(images.shape[0] // chart.shape[0], 1)
        joined: Tensor = self.anchor_head(self.g(torch.cat((embedded, encoded), dim=1)))
        return joined


def reference_step(
    architecture: Architecture,
    config: Config,
    chart_features: int,
    device: torch.device,
    *,
    bf16: bool,
    fused_attention: bool = True,
) -> Callable[[Tensor, Tensor, Tensor, Tensor], float]:
    """One optimizer step on (target, random, focal, chart): views (B, 1, H, H), focal (F*B, 1, h, h), chart (B, F).

    Attention is fused, as timm's default is, or plain.
    """
    set_fused_attn(fused_attention)
    networks = ReferenceMSN(architecture, config, chart_features).to(device).train()
    optimizer = torch.optim.AdamW([p for p in networks.parameters() if p.requires_grad], lr=1e-4, weight_decay=1e-3)
    criterion = MSNLoss().to(device)

    def step(target: Tensor, random: Tensor, focal: Tensor, chart: Tensor) -> float:
        update_momentum(networks.anchor, networks.target, 0.996)
        update_momentum(networks.anchor_head, networks.target_head, 0.996)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            targets = networks.target_head(networks.target(target))
            anchors = torch.cat(
                (
                    networks.anchors(random, chart, config.views.mask_ratio),
                    networks.anchors(focal, chart, config.views.focal_mask_ratio),
                )
            )
        loss = criterion(anchors.float(), targets.float(), networks.prototypes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
