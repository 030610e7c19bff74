"""Attention from its projections on, in the three ways of which each processor is fastest at another.

`plain` multiplies matrices as the papers write it, `fused` is torch's kernel. `gathered` is plain with queries, keys
and values copied once into the order of the products, and their gradients written there: plain's copies cost a sixth
of attention on a CPU, and torch's fused gradient is up to five times as slow there in bf16 (benchmarks/LOG.md).
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from chartray.networks.ways import Way, Ways


def set_ways(networks: nn.Module, ways: Ways) -> None:
    """Makes all attention of these networks compute so; blocks that recompute nothing are plain instead of gathered."""
    for module in networks.modules():
        if isinstance(module, Attention):
            module.ways = ways
            module.fused_attn = ways.with_gradient == "fused"


def way_of(attention: Attention) -> Way:
    """The way for a call that is made now; timm's own setting where no ways were set."""
    ways: Ways | None = getattr(attention, "ways", None)
    if ways is None:
        return "fused" if attention.fused_attn else "plain"
    way = ways.with_gradient if torch.is_grad_enabled() else ways.without_gradient
    # A compiled graph arranges its copies itself.
    return "plain" if way == "gathered" and (torch.compiler.is_compiling() or not _is_bare(attention)) else way


def attended_projections(attention: Attention, projected: Tensor) -> Tensor:
    """An attention of all tokens from what its `qkv` made on: (B, N, 3 D) -> (B, N, D)."""
    images, count, _ = projected.shape
    if way_of(attention) == "gathered":
        made: Tensor = GatheredAttention.apply(projected, attention.num_heads, attention.scale)
        return _finished(attention, made)
    query, key, value = projected.view(images, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return attended(attention, query, key, value)


def attended(attention: Attention, query: Tensor, key: Tensor, value: Tensor, gate: Tensor | None = None) -> Tensor:
    """An attention from its projections on: queries (B, heads, n, d), keys and values (B, heads, N, d) -> (B, n, D).

    `gate`: what a gated attention multiplies with, (B, n, D) before the sigmoid.
    """
    query, key = attention.q_norm(query), attention.k_norm(key)
    if way_of(attention) == "fused":
        drop = attention.attn_drop.p if attention.training else 0.0
        drawn = scaled_dot_product_attention(query, key, value, dropout_p=drop)
    else:
        share = (query * attention.scale @ key.transpose(2, 3)).softmax(dim=-1)
        drawn = attention.attn_drop(share) @ value
    return _finished(attention, _flat(drawn), gate)


class GatheredAttention(torch.autograd.Function):
    """softmax(scale * q k^T) v, in place where nothing reads the earlier value again."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, heads: int, scale: float) -> Tensor:
        """(B, N, 3 D) as `qkv` makes it -> (B, N, D)."""
        images, count, width = projected.shape
        parts = projected.view(images, count, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = parts.flatten(1, 2)  # (B * heads, N, d)
        share = torch.baddbmm(query.new_empty(()), query, key.transpose(1, 2), beta=0, alpha=scale).softmax(-1)
        share = share.to(value.dtype)
        ctx.save_for_backward(parts, share)
        ctx.scale = scale
        drawn = torch.bmm(share, value).view(images, heads, count, -1)
        return drawn.transpose(1, 2).reshape(images, count, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(B, N, D) -> (B, N, 3 D)."""
        parts, share = ctx.saved_tensors
        _, images, heads, count, width = parts.shape
        query, key, value = parts.flatten(1, 2)
        gradient = gradient.view(images, count, heads, width).transpose(1, 2).reshape(-1, count, width)
        made = torch.empty_like(parts)
        of_query, of_key, of_value = made.flatten(1, 2)
        torch.bmm(share.transpose(1, 2), gradient, out=of_value)
        of_share = torch.bmm(gradient, value.transpose(1, 2))
        of_share = torch._softmax_backward_data(of_share, share, -1, share.dtype)
        torch.baddbmm(of_query, of_share, key, beta=0, alpha=ctx.scale, out=of_query)
        torch.baddbmm(of_key, of_share.transpose(1, 2), query, beta=0, alpha=ctx.scale, out=of_key)
        return made.permute(1, 3, 0, 2, 4).reshape(images, count, -1), None, None


def _is_bare(attention: Attention) -> bool:
    """Whether nothing is between the projections and the products, nor between share and values."""
    norms = (attention.q_norm, attention.k_norm)
    return all(isinstance(norm, nn.Identity) for norm in norms) and not attention.attn_drop.p


def _finished(attention: Attention, drawn: Tensor, gate: Tensor | None = None) -> Tensor:
    """What was drawn from the values, (B, n, D), through the norm, the gate and the last product."""
    drawn = attention.norm(drawn)
    if gate is not None:
        drawn = drawn * gate.sigmoid()
    projected: Tensor = attention.proj_drop(attention.proj(drawn))
    return projected


def _flat(drawn: Tensor) -> Tensor:
    """(B, heads, n, d) -> (B, n, D). A compiled graph would keep both, where the product needs the second."""
    if torch.is_grad_enabled() and torch.compiler.is_compiling():
        return again(lambda drawn: drawn.transpose(1, 2).flatten(2), drawn)
    return drawn.transpose(1, 2).flatten(2)


def again(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, computed again for the gradient; nothing here draws random numbers."""
    repeated: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    return repeated
