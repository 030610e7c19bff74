"""Blocks that compute their norms and their GELU again for the gradient, rather than keep the results.

Of a token, timm's block keeps 36 D bytes in bf16 until its gradient is computed; these keep 22 D: norms 2 and 2, GELU 8
and a sum 2 are made again. That is a hundredth of a block's work, and the gradient is the same, bit for bit.
"""

from collections.abc import Callable

import torch
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chartray.networks.attention import again, attended_projections


class RecomputingBlock(Block):  # type: ignore[misc]  # timm has no types
    """timm's plain block: same weights, names and results, with less kept for the gradient."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, D) -> (B, N, D); a mask is refused, since no Chartray network has one."""
        if attn_mask is not None or is_causal:
            raise ValueError("expected attention over all tokens, found a mask")
        attention, mlp = self.attn, self.mlp
        _, projected = _linear_of(self.norm1, attention.qkv, x)
        drawn = self.drop_path1(self.ls1(attended_projections(attention, projected)))
        x, hidden = _linear_of(self.norm2, mlp.fc1, x, drawn)
        _, hidden = _linear_of(mlp.act, mlp.fc2, hidden)
        joined: Tensor = x + self.drop_path2(self.ls2(hidden))
        return joined


def recompute(networks: nn.Module) -> None:
    """Makes each plain block of timm's a `RecomputingBlock`; other blocks stay as they are."""
    for block in networks.modules():
        if type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp and _is_plain(block):
            block.__class__ = RecomputingBlock


def _is_plain(block: Block) -> bool:
    """Whether nothing is between GELU and the second layer, and nothing gates the attention."""
    mlp = block.mlp
    draws = any(drop.p > 0 for drop in (mlp.drop1, mlp.drop2))
    return block.attn.gate is None and isinstance(mlp.norm, nn.Identity) and not draws


def _linear_of(
    function: Callable[[Tensor], Tensor], linear: Callable[[Tensor], Tensor], *terms: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum x of `terms`, and `linear(function(x))`; of all this only the terms are kept for the gradient."""

    def in_precision(x: Tensor) -> Tensor:
        """With the cast that autocast would make at the product, since what is cast is what the product keeps."""
        kind = x.device.type
        return function(x).to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else function(x)

    def both(*terms: Tensor) -> tuple[Tensor, Tensor]:
        x = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return x, linear(function(x))

    if not torch.is_grad_enabled():
        return both(*terms)
    if torch.compiler.is_compiling():
        # A compiled graph repeats all that stands inside: the product stays outside. Sums it repeats unasked.
        x = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return x, linear(again(in_precision, x))
    # Uncompiled, what a product keeps is made inside, and repeating stops before the product itself.
    made: tuple[Tensor, Tensor] = checkpoint(both, *terms, use_reentrant=False, preserve_rng_state=False)
    return made
