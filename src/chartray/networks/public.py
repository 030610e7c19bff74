"""Public encoders: weights of timm or transformers, as timm's module, reading one grey channel.

A grey image shown to an encoder of three channels is the same image in each. So its patch embedding is folded: with
channels c of mean m_c and deviation s_c, kernels W_c and bias b, and m and s their means over the channels,

    sum_c W_c (g - m_c) / s_c + b = W (g - m) / s + b',  W = sum_c W_c s / s_c,  b' = b + sum_c W_c (m - m_c) / s_c

which holds exactly, since no patch reaches beyond the image. Where there is no b, b' goes into the positions.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from chartray.config.public import GRID, PublicOptions
from chartray.errors import InputError
from chartray.networks import encoder as own
from chartray.networks.description import UNKNOWN_PRETRAINING, Architecture, Provenance, checked
from chartray.networks.encoder import PretrainedEncoder
from chartray.networks.public_folder import (
    Preparation,
    PublicFiles,
    check_public,
    is_public,
    read_public,
    timm_preparation,
)
from chartray.networks.public_names import differences, not_needed
from chartray.networks.transformers_weights import UnknownWeights, as_timm
from chartray.networks.weight_file import read_weights
from chartray.outputs.seal import sha256

AS_PUBLISHED = PublicOptions()
_POSITIONS, _PATCH = "pos_embed", "patch_embed.proj"
_WORDS = {"token": "class token", "avg": "mean of patches", "map": "attention pooling"}


class PublicWeights(NamedTuple):
    """Weights under timm's names, all in float32, and the names in the files that no embedding needs."""

    weights: dict[str, Tensor]
    not_taken: list[str]


def open_encoder(path: Path, reading: PublicOptions = AS_PUBLISHED) -> PretrainedEncoder:
    """The encoder of a RUN or encoder folder, or a public one: a folder as the Hub has it, or a .safetensors file.

    `reading` says how a public encoder is read. Raises InputError if `path` holds no encoder, or one that is damaged,
    incomplete, pickled, not understood, or with weights that its description does not name.
    """
    if not is_public(path):
        return _on_grid(own.load(path), 1 if reading.pool == "mean" else GRID if reading.pool == "grid" else 0)
    said = described(path, reading)
    found = weights_of(said)
    # Which norm follows which pooling the weights say; the pooling itself may then be chosen.
    architecture = _pooled(said, found.weights, reading)
    unread = {name for name in found.weights if name.startswith("attn_pool.") and architecture.global_pool != "map"}
    kept = {name: value for name, value in found.weights.items() if name not in unread}
    folded = _folded(kept, said.preparation, path)
    model = own.build(architecture, seed=0)
    if type(model) not in (VisionTransformer, Eva):
        raise InputError(
            f"expected a plain Vision Transformer (or timm's Eva) in {path}, found a {type(model).__name__}; only "
            "these public encoders are read"
        )
    _resize_positions(folded, model, said, path)
    shapes = {name: tuple(value.shape) for name, value in folded.items()}
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if differ := differences(wanted, shapes):
        raise InputError(f"expected the weights of {said.architecture.model_name} in {path}, found {differ}")
    own.copy_weights(folded, model, path)
    grid = GRID if reading.pool == "grid" else 0
    made = _provenance(said, architecture, grid, sorted({*found.not_taken, *unread}))
    mean, std = _grey(said.preparation)
    encoder = PretrainedEncoder(
        model.eval(), said.preparation.size, mean, std, architecture, made, said.preparation.interpolation
    )
    return _on_grid(encoder, grid)


def _on_grid(encoder: PretrainedEncoder, grid: int) -> PretrainedEncoder:
    """The encoder with a grid of patches as its embedding (0: as it is): in results, another one than without.

    Raises InputError where its patches are fewer.
    """
    if not grid:
        return encoder
    side = min(encoder.model.patch_embed.grid_size)
    if side < grid:
        name = encoder.provenance.run or encoder.architecture.model_name
        raise InputError(
            f"expected {grid} x {grid} patches or more for --pool grid, found {side} x {side} in {name}; use "
            "--pool mean"
        )
    words = "mean of patches" if grid == 1 else f"{grid} x {grid} means of patches"
    return encoder._replace(grid=grid, provenance=encoder.provenance.model_copy(update={"pooling": words}))


def described(path: Path, reading: PublicOptions = AS_PUBLISHED) -> PublicFiles:
    """What is known of a public encoder before its weights are read."""
    check_public(path, reading)
    if path.is_dir():
        return read_public(path)
    assert reading.timm is not None
    own.refuse_unknown(reading.timm)
    known = timm.get_pretrained_cfg(reading.timm)
    where = f"timm's {reading.timm}"
    preparation = timm_preparation(None if known is None else known.to_dict(), where)
    content = {"model_name": reading.timm, "img_size": preparation.size}
    architecture = checked(Architecture, content, f"the architecture of {path}")
    return PublicFiles(path.stem, "timm", architecture, preparation, (path,), "antialiased bicubic")


def weights_of(said: PublicFiles) -> PublicWeights:
    """The weights under timm's names; raises InputError for names that the architecture does not have."""
    read: dict[str, Tensor] = {}
    for file in said.files:
        read |= read_weights(file)
    left = [name for name in read if not_needed(name)]
    kept = {name: value.float() for name, value in read.items() if name not in left}
    if said.family == "timm":
        return PublicWeights(kept, sorted(left))
    try:
        return PublicWeights(as_timm(kept, rotary=said.family == "dinov3_vit"), sorted(left))
    except UnknownWeights as unknown:
        found = differences({}, dict.fromkeys(unknown.names, ()))
        raise InputError(f"expected the weights of a {said.family} in {said.files[0].parent}, found {found}") from None


def _pooled(said: PublicFiles, weights: Mapping[str, Tensor], reading: PublicOptions) -> Architecture:
    """The architecture with the pooling that was asked for."""
    made = own.outline_model(said.architecture)
    pool = {"class": "token", "mean": "avg"}.get(reading.pool, made.global_pool)
    if pool not in _WORDS:
        pool = "token" if made.cls_token is not None else "avg"
    if pool == "token" and made.cls_token is None:
        raise InputError(f"expected an encoder with a class token for --pool class, found none in {said.name}")
    if pool == made.global_pool:
        return said.architecture.model_copy(update={"global_pool": pool})
    after = any(name.startswith("fc_norm.") for name in weights)
    norm = "use_fc_norm" if isinstance(made, Eva) else "fc_norm"
    return said.architecture.model_copy(update={"global_pool": pool, norm: after})


def _grey(preparation: Preparation) -> tuple[float, float]:
    """Mean and deviation of the one channel that stands for all."""
    mean, std = (torch.tensor(each, dtype=torch.float64).mean().item() for each in (preparation.mean, preparation.std))
    return mean, std


def _folded(weights: Mapping[str, Tensor], preparation: Preparation, path: Path) -> dict[str, Tensor]:
    """The patch embedding for one channel, as the module says."""
    folded = dict(weights)
    kernel = weights.get(f"{_PATCH}.weight")
    if kernel is None:
        return folded  # the list of missing weights will name it
    if kernel.ndim != 4 or kernel.shape[1] != len(preparation.mean):
        raise InputError(
            f"expected a patch embedding of {len(preparation.mean)} channels in {path}, as many as means, found shape "
            f"{tuple(kernel.shape)}"
        )
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (preparation.mean, preparation.std))
    grey_mean, grey_std = _grey(preparation)
    precise = kernel.double()
    folded[f"{_PATCH}.weight"] = (precise * (grey_std / std)[:, None, None]).sum(dim=1, keepdim=True).float()
    shift = (precise.sum(dim=(2, 3)) * ((grey_mean - mean) / std)).sum(dim=1)  # (D,)
    if f"{_PATCH}.bias" in weights:
        folded[f"{_PATCH}.bias"] = (weights[f"{_PATCH}.bias"].double() + shift).float()
    elif shift.abs().max() > 0:
        positions = weights.get(_POSITIONS)
        if positions is None or positions.ndim != 3:
            raise InputError(f"expected a bias of the patch embedding, or positions, in {path}, found neither")
        # Prefix tokens come first; a square number of patches follows them.
        patches = int(positions.shape[1] ** 0.5) ** 2
        moved = positions.double().clone()
        moved[:, positions.shape[1] - patches :] += shift
        folded[_POSITIONS] = moved.float()
    return folded


def _resize_positions(weights: dict[str, Tensor], model: Any, said: PublicFiles, path: Path) -> None:
    """Positions at the grid of `model`, in the way of the library that the encoder was published for."""
    found, wanted = weights.get(_POSITIONS), getattr(model, _POSITIONS, None)
    if found is None or wanted is None or found.shape == wanted.shape or found.ndim != 3:
        return
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    side = round(max(found.shape[1] - prefix, 0) ** 0.5)
    if found.shape[2] != wanted.shape[2] or side * side != found.shape[1] - prefix or not side:
        return  # the list of other shapes will name it
    if said.positions is None:
        raise InputError(f"expected positions for {wanted.shape[1] - prefix} patches in {path}, found {side * side}")
    if said.family == "timm":
        weights[_POSITIONS] = resample_abs_pos_embed(found, list(model.patch_embed.grid_size), num_prefix_tokens=prefix)
        return
    grid = found[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    size = list(model.patch_embed.grid_size)
    grid = interpolate(grid, size, mode="bicubic", antialias=said.positions.startswith("antialiased"))
    weights[_POSITIONS] = torch.cat((found[:, :prefix], grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def _provenance(said: PublicFiles, architecture: Architecture, grid: int, not_taken: list[str]) -> Provenance:
    digests = [sha256(file) for file in said.files]
    weights = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    made_of = [weights, architecture.model_dump(exclude_none=True), said.preparation, *([grid] if grid else [])]
    return Provenance(
        run=said.name,
        public=said.name,
        weights_sha256=weights,
        settings_hash=hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest(),
        caution=UNKNOWN_PRETRAINING,
        pooling=_WORDS[str(architecture.global_pool)],
        preparation=said.preparation.words,
        not_taken=not_taken,
        timm=timm.__version__,
    )
