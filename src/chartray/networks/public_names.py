"""Names of weights: those of transformers' ViT, ViTMSN, DINOv2 and DINOv3 as timm's, in old spellings and new ones."""

import re
from collections.abc import Iterable

from chartray.wording import listed

# What no embedding needs: classifiers, the pooler's extra layer, and tokens and decoders of pretraining.
_NOT_NEEDED = re.compile(
    r"(?:.*\.)?(?:head|head_dist|classifier|pooler|decoder|lm_head)\..*|(?:.*\.)?mask_token|rope_embeddings\..*"
)
_CLASS_TOKEN = "embeddings.cls_token"
_BLOCK = re.compile(r"(?:encoder\.layer|model\.layer|layers|layer)\.(\d+)\.(.+)")
_AROUND = {
    _CLASS_TOKEN: "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "layernorm": "norm",
    "norm": "norm",
}
_IN_BLOCK = {
    "layernorm_before": "norm1",
    "norm1": "norm1",
    "layernorm_after": "norm2",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "mlp.weights_in": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_out": "mlp.fc2",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
} | {
    f"attention.{spelling}": f"attn.{part}"
    for part, name in (("q", "query"), ("k", "key"), ("v", "value"))
    for spelling in (f"attention.{name}", name, f"{part}_proj")
}

# Of the spellings above, those that transformers writes in a folder, by family: of older and newer versions alike.
_BEFORE_ATTENTION, _PATCHES = "attention.attention.", "embeddings.patch_embeddings.projection"
_WRITTEN_AROUND = ("embeddings.cls_token", "embeddings.position_embeddings", "embeddings.register_tokens", _PATCHES)
_WRITTEN = {
    "vit_msn": ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    "dinov2": ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "layer_scale1.lambda1", "layer_scale2.lambda1"),
}
_WRITTEN["dinov2_with_registers"] = _WRITTEN["dinov2"]
_WRITTEN_AROUND_OF: dict[str, tuple[str, ...]] = dict.fromkeys(_WRITTEN, (*_WRITTEN_AROUND, "layernorm"))
_WRITTEN["dinov3_vit"] = ("norm1", "norm2", "layer_scale1.lambda1", "layer_scale2.lambda1", "mlp.down_proj")
_WRITTEN["dinov3_vit"] += ("mlp.gate_proj", "mlp.up_proj", "attention.o_proj")
_WRITTEN_AROUND_OF["dinov3_vit"] = (_CLASS_TOKEN, "embeddings.register_tokens", "embeddings.patch_embeddings", "norm")


def not_needed(name: str) -> bool:
    """Whether a weight is of a part that no embedding needs.

    >>> [not_needed(name) for name in ("pooler.dense.bias", "head.weight", "embeddings.mask_token", "norm.bias")]
    [True, True, True, False]
    """
    return _NOT_NEEDED.fullmatch(name) is not None


def prefix_of(names: Iterable[str]) -> str:
    """What stands before all names of a transformers encoder that was saved inside another model.

    >>> prefix_of(["vit.embeddings.cls_token", "classifier.bias"]), prefix_of(["embeddings.cls_token"])
    ('vit.', '')
    """
    found = [name.removesuffix(_CLASS_TOKEN) for name in names if name.endswith(_CLASS_TOKEN)]
    return found[0] if len(found) == 1 else ""


def timm_name(name: str) -> str | None:
    """The name in timm's spelling, queries, keys and values still apart; None for one that is not known.

    >>> timm_name("encoder.layer.3.attention.attention.query.bias"), timm_name("layer.0.layer_scale1.lambda1")
    ('blocks.3.attn.q.bias', 'blocks.0.ls1.gamma')
    >>> timm_name("embeddings.patch_embeddings.weight"), timm_name("encoder.layer.0.adapter.weight")
    ('patch_embed.proj.weight', None)
    """
    block = _BLOCK.fullmatch(name)
    before, own, table = (f"blocks.{block[1]}.", block[2], _IN_BLOCK) if block else ("", name, _AROUND)
    if own in table:
        return before + table[own]
    part, _, kind = own.rpartition(".")
    return f"{before}{table[part]}.{kind}" if part in table and kind in ("weight", "bias") else None


def transformers_name(name: str, family: str) -> str | None:
    """The name that transformers writes for a weight of timm's; None for one that it lacks. q, k and v are apart.

    >>> transformers_name("blocks.3.attn.q.bias", "vit_msn"), transformers_name("norm.bias", "dinov2")
    ('encoder.layer.3.attention.attention.query.bias', 'layernorm.bias')
    >>> transformers_name("blocks.0.attn.q_norm.weight", "vit_msn")
    >>> transformers_name("blocks.0.attn.v.bias", "dinov3_vit")
    'layer.0.attention.v_proj.bias'
    """
    rotary = family == "dinov3_vit"
    attention = ("attention.output.dense", *(f"{_BEFORE_ATTENTION}{part}" for part in ("query", "key", "value")))
    attention = tuple(f"attention.{part}_proj" for part in "qkv") if rotary else attention
    inside = {_IN_BLOCK[spelling]: spelling for spelling in (*_WRITTEN[family], *attention)}
    around = {_AROUND[spelling]: spelling for spelling in _WRITTEN_AROUND_OF[family]}
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    layers = "layer" if rotary else "encoder.layer"
    before, own, table = (f"{layers}.{block[1]}.", block[2], inside) if block else ("", name, around)
    if own in table:
        return before + table[own]
    part, _, kind = own.rpartition(".")
    return f"{before}{table[part]}.{kind}" if part in table and kind in ("weight", "bias") else None


def differences(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], most: int = 8) -> str:
    """How the weights of a file differ from those of an architecture, by name; empty where they do not.

    >>> differences({"a": (1,), "b": (2,)}, {"b": (3,), "c": (1,)})
    '1 missing (a), 1 unexpected (c), 1 of another shape (b: (3,), not (2,))'
    """
    shapes = [
        f"{name}: {found[name]}, not {wanted[name]}" for name in wanted if name in found and found[name] != wanted[name]
    ]
    kinds = (
        ("missing", sorted(wanted.keys() - found.keys())),
        ("unexpected", sorted(found.keys() - wanted.keys())),
        ("of another shape", shapes),
    )
    return ", ".join(f"{len(names)} {kind} ({listed(names, most)})" for kind, names in kinds if names)
