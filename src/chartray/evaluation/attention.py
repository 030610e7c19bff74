"""Where a ViT's attention goes on an image and which patches it holds alike; T tokens are prefix + N patches, L blocks.

Rollout (Abnar and Zuidema, ACL 2020, arXiv 2005.00928) follows attention through all blocks. It says what could have
flowed from patch to class token, not why a finding was scored as it was: it knows nothing of values, MLPs or probes,
and sharp maps come from untrained networks too (Adebayo et al., NeurIPS 2018, arXiv 1810.03292). So the same map of the
untrained encoder belongs beside every map.
"""

from typing import Any, NamedTuple

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from chartray.networks.encoder import tokens_of


class Looked(NamedTuple):
    """What one forward pass shows: `attention` (B, L, T, T), the mean over heads; `tokens` (B, T, D) after the last
    block and norm.
    """

    attention: Tensor
    tokens: Tensor


def unreadable(model: VisionTransformer) -> str | None:
    """Why the attention of `model` cannot be followed; None where it can."""
    if model.global_pool not in ("token", "avg"):
        return f"attention rollout follows a class token or the mean of patches, not the pooling {model.global_pool!r}"
    strange = [type(getattr(block, "attn", None)).__name__ for block in model.blocks if not _plain(block)]
    return f"attention rollout follows timm's plain self-attention, not {strange[0]}" if strange else None


def _plain(block: nn.Module) -> bool:
    return isinstance(getattr(block, "attn", None), Attention)


def attention_weights(module: Any, tokens: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of one attention module for its input (B, T, D) -> (B, heads, T, T) float32.

    The module itself may use a fused kernel, which never forms them; it is not touched.
    """
    B, T, _ = tokens.shape
    q, k, _ = module.qkv(tokens).reshape(B, T, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = module.q_norm(q).float(), module.k_norm(k).float()
    weights: Tensor = (q * module.scale @ k.transpose(-2, -1)).softmax(dim=-1)
    return weights


def record_attention(model: VisionTransformer, images: Tensor) -> Looked:
    """One pass over images (B, 1, size, size), standardised; what the model computes is unchanged."""
    seen: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(attention_weights(module, arguments[0]).mean(dim=1))  # (B, T, T)

    hooks = [block.attn.register_forward_pre_hook(note) for block in model.blocks]
    try:
        tokens = tokens_of(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    return Looked(torch.stack(seen, dim=1), tokens)


def rollout(attention: Tensor) -> Tensor:
    """A_L ... A_1 with A = (W + 1) / 2, the half for the residual: (B, L, T, T) -> (B, T, T), rows sum to 1."""
    identity = torch.eye(attention.shape[-1], device=attention.device)
    total = identity.expand(attention.shape[0], -1, -1)
    for layer in attention.unbind(dim=1):
        total = (layer + identity) / 2 @ total
    return total


def pooled_rollout(model: VisionTransformer, attention: Tensor) -> Tensor:
    """Each patch's share of what pooling can have drawn from patches: (B, L, T, T) -> (B, N), rows sum to 1."""
    rolled, prefix = rollout(attention), model.num_prefix_tokens
    reads = rolled[:, 0] if model.global_pool == "token" else rolled[:, prefix:].mean(dim=1)  # (B, T)
    patches = reads[:, prefix:]
    return patches / patches.sum(dim=1, keepdim=True)


def token_similarity(tokens: Tensor, queries: Tensor) -> Tensor:
    """Cosine of each patch token with chosen ones: tokens (B, N, D), queries (B, Q) patch numbers -> (B, Q, N)."""
    unit = normalize(tokens.float(), dim=-1)
    chosen = unit.gather(1, queries[..., None].expand(-1, -1, unit.shape[-1]))  # (B, Q, D)
    return chosen @ unit.transpose(1, 2)
