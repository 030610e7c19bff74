"""The weights of a Vision Transformer under timm's names and under transformers', in both directions."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from chartray.networks.public_names import prefix_of, timm_name, transformers_name

_POSITIONS = "pos_embed"
_QUERY_KEY_VALUE = re.compile(r"(.+\.attn)\.([qkv])\.(weight|bias)")
_TOGETHER = re.compile(r"(.+\.attn)\.qkv\.(weight|bias)")


class UnknownWeights(Exception):
    """Weights, by their `names`, that the other library has no place for."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)
        super().__init__(self.names)


def as_timm(weights: Mapping[str, Tensor], *, rotary: bool = False) -> dict[str, Tensor]:
    """Weights as transformers names them -> as timm does, queries, keys and values in one matrix.

    `rotary`: under the names of timm's Eva. Raises UnknownWeights.
    """
    before = prefix_of(weights)
    names = {name: timm_name(name.removeprefix(before)) for name in weights}
    unknown = [name for name, ours in names.items() if ours is None]
    twice = [name for name in names if list(names.values()).count(names[name]) > 1]
    if unknown or twice:
        raise UnknownWeights(unknown or twice)
    found = _joined({str(ours): weights[name] for name, ours in names.items()}, rotary=rotary)
    if "reg_token" in found:
        _move_class_position(found)
    return found


def as_transformers(weights: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Weights as timm names them -> as transformers writes a `family` of `transformers_form`.

    Raises UnknownWeights.
    """
    apart: dict[str, Tensor] = {}
    for name, value in (_without_rotary_names(weights) if family == "dinov3_vit" else weights).items():
        if together := _TOGETHER.fullmatch(name):
            parts = zip("qkv", value.chunk(3), strict=True)
            apart |= {f"{together[1]}.{part}.{together[2]}": each for part, each in parts}
        else:
            apart[name] = value
    if family == "dinov2_with_registers":  # its class token has a position of its own
        width = apart["cls_token"].shape[-1]
        apart[_POSITIONS] = torch.cat((apart["cls_token"].new_zeros(1, 1, width), apart[_POSITIONS]), dim=1)
    names = {name: transformers_name(name, family) for name in apart}
    if unknown := [name for name, theirs in names.items() if theirs is None]:
        raise UnknownWeights(unknown)
    found = {str(theirs): apart[name].contiguous() for name, theirs in names.items()}
    if family == "dinov2_with_registers":  # transformers draws it where it is missing, and says so each time
        found["embeddings.mask_token"] = apart["cls_token"].new_zeros(1, apart["cls_token"].shape[-1])
    if family == "dinov3_vit":
        found["embeddings.mask_token"] = apart["cls_token"].new_zeros(1, 1, apart["cls_token"].shape[-1])
    return found


def _without_rotary_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm's Eva -> those that `_rotary_name` makes them from, the biases of q, k and v apart."""
    ours = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma", ".mlp.fc1_g.": ".mlp.gate.", ".mlp.fc1_x.": ".mlp.up."}
    ours |= {".mlp.fc1.": ".mlp.up."} | {f".attn.{part}_bias": f".attn.{part}.bias" for part in "qkv"}
    found = {}
    for name, value in weights.items():
        for theirs, plain in ours.items():
            name = name.replace(theirs, plain)
        found[name] = value
    return found


def _joined(weights: Mapping[str, Tensor], *, rotary: bool) -> dict[str, Tensor]:
    """Queries, keys and values in one matrix; `rotary`: under the names of timm's Eva."""
    found: dict[str, Tensor] = {}
    apart: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in weights.items():
        if split := _QUERY_KEY_VALUE.fullmatch(name):
            apart.setdefault((split[1], split[3]), {})[split[2]] = value
        else:
            found[_rotary_name(name, weights) if rotary else name] = value
    for (attention, kind), parts in apart.items():
        if rotary and kind == "bias":
            found |= {f"{attention}.{part}_bias": value for part, value in parts.items()}
        elif len(parts) == 3 and len({value.shape for value in parts.values()}) == 1:
            found[f"{attention}.qkv.{kind}"] = torch.cat([parts[part] for part in "qkv"])
        else:  # the list of differences will name them
            found |= {f"{attention}.{part}.{kind}": value for part, value in parts.items()}
    return found


def _rotary_name(name: str, weights: Mapping[str, Tensor]) -> str:
    """A name of DINOv3's MLP and layer scale as timm's Eva has it."""
    gated = any(".mlp.gate." in other for other in weights)
    name = name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")
    return name.replace(".mlp.gate.", ".mlp.fc1_g.").replace(".mlp.up.", ".mlp.fc1_x." if gated else ".mlp.fc1.")


def _move_class_position(weights: dict[str, Tensor]) -> None:
    """Registers have no position, so timm keeps positions of patches alone: the class token's goes into the token."""
    if _POSITIONS in weights and "cls_token" in weights and weights[_POSITIONS].ndim == 3:
        weights["cls_token"] = weights["cls_token"] + weights[_POSITIONS][:, :1]
        weights[_POSITIONS] = weights[_POSITIONS][:, 1:]
