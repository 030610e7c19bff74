"""An encoder as a folder of transformers: its weights, config.json and preprocessor_config.json, without the library.

ViTMSN for the plain Vision Transformer, DINOv2 for one with layer scale, DINOv2 with registers, and DINOv3, which timm
has as Eva. Each computes what timm computes: nothing is approximated, and what has no place there is refused.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import JsonValue
from timm.layers import Attention, LayerNorm, Mlp, PatchEmbed, SwiGLU
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from chartray.errors import InputError
from chartray.networks.encoder import PretrainedEncoder, patch_side
from chartray.networks.public_folder import HIDDEN_ACT, RESAMPLE, mlp_ratio
from chartray.networks.recomputation import RecomputingBlock
from chartray.networks.transformers_weights import UnknownWeights, as_transformers
from chartray.wording import listed

Family = Literal["vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit"]
_MODELS: dict[Family, str] = {
    "vit_msn": "ViTMSNModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
# How DINOv3's rotations are made; transformers knows no other way.
_ROTATIONS = {"normalize_coords": "separate", "rotate_half": True, "min_period": None, "max_period": None}
_ROTATIONS |= {"grid_offset": 0.0, "grid_indexing": "ij"}


class TransformersFolder(NamedTuple):
    """What a folder of transformers holds: the family, weights by name, and the two JSON files."""

    family: Family
    weights: dict[str, Tensor]
    config: dict[str, JsonValue]
    preparation: dict[str, JsonValue]


def transformers_folder(loaded: PretrainedEncoder) -> TransformersFolder:
    """The content of the folder; raises InputError for a part that transformers' models lack."""
    model = loaded.model
    family = _family(model)
    weights = {name: value.detach().float().cpu() for name, value in model.state_dict().items()}
    try:
        theirs = as_transformers(weights, family)
    except UnknownWeights as unknown:
        raise _refused(f"the weights {listed(unknown.names, 4)}") from None
    own = _rotary(model, theirs) if family == "dinov3_vit" else _plain(model, family)
    return TransformersFolder(family, theirs, _config(loaded, family, own), _preparation(loaded))


def _refused(part: str) -> InputError:
    return InputError(
        f"expected a plain Vision Transformer for --to huggingface, found {part}, which transformers' ViTMSN, DINOv2 "
        "and DINOv3 lack; use --to timm or --to onnx"
    )


def _family(model: VisionTransformer) -> Family:
    """The model of transformers that computes the same."""
    if type(model) is Eva:
        return _rotary_family(model)
    if type(model) is not VisionTransformer or type(model.patch_embed) is not PatchEmbed:
        raise _refused(f"timm's {type(model).__name__}")
    blocks = list(model.blocks)
    kinds = {type(each) for block in blocks for each in (block, block.attn, block.mlp)}
    other = kinds - {Block, RecomputingBlock, Attention, Mlp}
    if not blocks or other or any(block.attn.gate is not None for block in blocks):
        raise _refused(f"blocks with {listed(sorted(kind.__name__ for kind in other)) if other else 'gates, or none'}")
    if not isinstance(model.fc_norm, nn.Identity) or isinstance(model.norm, nn.Identity):
        raise _refused("a norm after pooling")
    if model.cls_token is None or model.pos_embed is None or model.global_pool == "map":
        raise _refused("no class token, no positions, or attention pooling")
    registers, scaled = model.num_reg_tokens > 0, not isinstance(blocks[0].ls1, nn.Identity)
    if model.no_embed_class != registers or (registers and not scaled):
        raise _refused("registers with positions, or without layer scale")
    return "dinov2_with_registers" if registers else "dinov2" if scaled else "vit_msn"


def _rotary_family(model: Eva) -> Family:
    kinds = {type(each) for block in model.blocks for each in (block, block.attn, block.mlp)}
    if other := kinds - {EvaBlock, EvaAttention, Mlp, SwiGLU}:
        raise _refused(f"blocks with {listed(sorted(kind.__name__ for kind in other))}")
    rope = model.rope
    if type(rope) is not RotaryEmbeddingDinoV3 or any(getattr(rope, key) != value for key, value in _ROTATIONS.items()):
        raise _refused(f"the positions of timm's {type(rope).__name__}")
    if model.pos_embed is not None or model.cls_token is None or model.global_pool == "map":
        raise _refused("learnt positions, no class token, or attention pooling")
    if not isinstance(model.fc_norm, nn.Identity) or isinstance(model.norm, nn.Identity):
        raise _refused("a norm after pooling")
    if model.blocks[0].gamma_1 is None:
        raise _refused("no layer scale")
    return "dinov3_vit"


def _rotary(model: Eva, weights: dict[str, Tensor]) -> dict[str, JsonValue]:
    block = model.blocks[0]
    gated = isinstance(block.mlp, SwiGLU)
    if gated and not isinstance(block.mlp.act, nn.SiLU):
        raise _refused(f"the activation {type(block.mlp.act).__name__}")
    hidden = (block.mlp.fc1_g if gated else block.mlp.fc1).out_features
    biases = {
        f"{name}_bias": f"layer.0.attention.{part}_proj.bias" in weights
        for part, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "proj"))
    }
    return {
        "intermediate_size": hidden,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else _activation(block.mlp.act),
        "mlp_bias": block.mlp.fc2.bias is not None,
        "num_register_tokens": model.num_prefix_tokens - 1,
        "rope_theta": model.rope.temperature,
        **biases,
    }


def _plain(model: VisionTransformer, family: Family) -> dict[str, JsonValue]:
    block = model.blocks[0]
    hidden = block.mlp.fc1.out_features
    own: dict[str, JsonValue] = {"intermediate_size": hidden}
    if family != "vit_msn":
        ratio = mlp_ratio(model.embed_dim, hidden)
        own = {"mlp_ratio": int(ratio) if ratio == int(ratio) else ratio, "use_swiglu_ffn": False}
        own |= {"use_mask_token": False} if family == "dinov2" else {"num_register_tokens": model.num_reg_tokens}
    biased = block.attn.qkv.bias is not None
    own |= {"hidden_act": _activation(block.mlp.act), "qkv_bias": biased}
    return own | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _config(loaded: PretrainedEncoder, family: Family, own: dict[str, JsonValue]) -> dict[str, JsonValue]:
    model = loaded.model
    block = model.blocks[0]
    norms = {each.eps for each in model.modules() if isinstance(each, nn.LayerNorm | LayerNorm)}
    if len(norms) != 1:
        raise _refused("norms of different eps")
    return {
        "architectures": [_MODELS[family]],
        "model_type": family,
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        **own,
        "layer_norm_eps": norms.pop(),
        "image_size": loaded.size,
        "patch_size": patch_side(model),
        "num_channels": 1,
        "dtype": "float32",
    }


def _activation(module: nn.Module) -> str:
    """As transformers calls it: told apart by what it computes, since timm has several classes for one."""
    at = torch.linspace(-4, 4, 101)
    known = {
        None: nn.functional.gelu(at),
        "gelu_tanh": nn.functional.gelu(at, approximate="tanh"),
        "quick_gelu": at * torch.sigmoid(1.702 * at),
    }
    for ours, wanted in known.items():
        with torch.inference_mode():
            if torch.allclose(module(at.clone()), wanted, atol=1e-6, rtol=0):
                return HIDDEN_ACT[ours]
    raise _refused(f"the activation {type(module).__name__}")


def _preparation(loaded: PretrainedEncoder) -> dict[str, JsonValue]:
    """The whole image, stretched to the square, in one channel."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": False,
        "do_resize": True,
        "size": {"height": loaded.size, "width": loaded.size},
        "resample": RESAMPLE[loaded.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [loaded.grey_mean],
        "image_std": [loaded.grey_std],
    }
