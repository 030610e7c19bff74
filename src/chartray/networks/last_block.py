"""The last block of a ViT for the class token alone: queries, projections and MLP of the other tokens are not needed.

Of a block's 12 D^2 multiplications a token only the 2 D^2 of keys and values remain, so a ViT of 12 blocks does about
7 % less work, forward and backward. Class token and gradients are the same up to rounding.
"""

from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn.functional import linear

from chartray.networks.attention import attended
from chartray.networks.recomputation import RecomputingBlock


def only_class_is_read(model: VisionTransformer) -> bool:
    """Whether `model` pools by its class token and ends with timm's plain block, recomputing or not."""
    if model.global_pool != "token" or model.attn_pool is not None or model.cls_token is None or not len(model.blocks):
        return False
    last = model.blocks[-1]
    return type(last) in (Block, RecomputingBlock) and type(last.attn) is Attention


def class_of_last_block(block: Block, tokens: Tensor) -> Tensor:
    """`block(tokens)[:, :1]`: (B, N, D) -> (B, 1, D)."""
    class_token = tokens[:, :1]
    class_token = class_token + block.drop_path1(block.ls1(_attention(block.attn, block.norm1(tokens))))
    joined: Tensor = class_token + block.drop_path2(block.ls2(block.mlp(block.norm2(class_token))))
    return joined


def _attention(attention: Attention, tokens: Tensor) -> Tensor:
    """The class token's attention over all tokens: (B, N, D) -> (B, 1, D)."""
    width, heads = attention.attn_dim, attention.num_heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    first, rest = (None, None) if bias is None else (bias[:width], bias[width:])
    images, count, _ = tokens.shape
    query = linear(tokens[:, :1], weight[:width], first).view(images, heads, 1, -1)  # (B, heads, 1, d)
    keys_values = linear(tokens, weight[width:], rest).view(images, count, 2, heads, -1).permute(2, 0, 3, 1, 4)
    key, value = keys_values.unbind(0)  # (B, heads, N, d)
    gate = None if attention.gate is None else attention.gate(tokens[:, :1])
    return attended(attention, query, key, value, gate)  # (B, 1, D)
