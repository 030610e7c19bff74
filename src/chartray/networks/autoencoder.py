"""The masked autoencoder: the encoder sees the kept patches, a small decoder predicts the others (arXiv 2111.06377)."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from chartray.config.pretrain import ObjectiveConfig
from chartray.networks.encoder import patch_side, tokens_of


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder, both trained. There is no target network: the encoder itself is evaluated.

    Decoder as in the official code: a linear layer, one learned mask token, fixed sine-cosine positions, ViT blocks,
    a norm and a linear layer to pixels. The encoder keeps timm's learned positions (officially fixed ones too).
    """

    def __init__(self, encoder: VisionTransformer, size: int, objective: ObjectiveConfig) -> None:
        super().__init__()
        width, self.side = objective.decoder_width, patch_side(encoder)
        self.encoder = encoder
        self.into_decoder = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.positions: Tensor
        positions = build_sincos2d_pos_embed([size // self.side] * 2, dim=width, interleave_sin_cos=False)
        self.register_buffer("positions", positions, persistent=False)  # (N, width)
        blocks = (Block(width, objective.decoder_heads, qkv_bias=True) for _ in range(objective.decoder_depth))
        self.decoder = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.to_pixels = nn.Linear(width, self.side**2)
        for module in (self.into_decoder, *self.decoder.modules(), self.to_pixels):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, keep: Tensor) -> Tensor:
        """Images (B, 1, H, W) and kept patches (B, n) -> pixels of every patch (B, N, side * side)."""
        seen = self.into_decoder(tokens_of(self.encoder, images, keep))  # (B, prefix + n, width)
        prefix = self.encoder.num_prefix_tokens
        kept = keep[..., None].expand(-1, -1, seen.shape[2])
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions), -1)
        patches = hidden.scatter(1, kept, seen[:, prefix:]) + self.positions.to(seen.dtype)
        predicted: Tensor = self.to_pixels(self.decoder(torch.cat((seen[:, :prefix], patches), dim=1))[:, prefix:])
        return predicted

    @property
    def target_encoder(self) -> VisionTransformer:
        """The encoder that is evaluated: the trained one."""
        return self.encoder

    def move_target(self, momentum: float) -> None:
        """There is no target network."""

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer sees, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}
