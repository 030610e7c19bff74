"""What depends on how deep in the encoder a parameter lies: its learning rate, and how often it is passed over."""

import re
from typing import Any

from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from chartray.evaluation.finetune.recipe import Recipe

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_BELOW_THE_BLOCKS = ("patch_embed.", "pos_embed", "cls_token", "reg_token", "norm_pre.")


def depth_of(name: str, blocks: int) -> int:
    """i of a parameter of the encoder: 0 for the embedding, 1..L - 1 for the blocks, L = blocks + 1 above them.

    >>> [depth_of(name, 12) for name in ("pos_embed", "blocks.0.norm1.bias", "blocks.11.norm1.bias", "norm.bias")]
    [0, 1, 12, 13]
    """
    if found := _BLOCK.match(name):
        return int(found[1]) + 1
    return 0 if name.startswith(_BELOW_THE_BLOCKS) else blocks + 1


def parameter_groups(model: VisionTransformer, layer: nn.Linear, recipe: Recipe) -> list[dict[str, Any]]:
    """What the optimizer trains: each group's `scale` is its share of the learning rate, layer_decay^(L - i).

    The layer on top has the whole rate. Weight decay spares biases, norms and embeddings under AdamW; under the
    published Adam everything is one group, as there. A frozen encoder is left out.
    """
    if recipe.freeze:
        return [{"params": list(layer.parameters()), "scale": 1.0}]
    if recipe.optimizer == "adam":
        return [{"params": [*layer.parameters(), *model.parameters()], "scale": 1.0}]
    blocks, spared = len(model.blocks), set(model.no_weight_decay())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    named = [(name, depth_of(name, blocks), value) for name, value in model.named_parameters()]
    named += [(name, blocks + 1, value) for name, value in layer.named_parameters()]
    for name, depth, value in named:
        decayed = value.ndim > 1 and name not in spared
        group = groups.setdefault((depth, decayed), {"params": []})
        group["params"].append(value)
        group["scale"] = recipe.layer_decay ** (blocks + 1 - depth)
        group["weight_decay"] = recipe.weight_decay if decayed else 0.0
    return list(groups.values())


def set_drop_path(model: VisionTransformer, rate: float) -> None:
    """Passes an image by block b of B in training with probability rate * b / (B - 1), as timm builds them."""
    blocks = len(model.blocks)
    for index, block in enumerate(model.blocks):
        share = rate * index / max(blocks - 1, 1)
        for name, _ in list(block.named_children()):
            if name.startswith("drop_path"):
                setattr(block, name, DropPath(share) if share > 0 else nn.Identity())
