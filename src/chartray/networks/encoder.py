"""The Vision Transformer: timm's, with one grey channel, any image size, and the patches that views.py keeps."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import timm
import torch
from pydantic import JsonValue
from safetensors.torch import save as safetensors_bytes
from timm.layers import Attention, LayerNorm, set_fused_attn
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from chartray.config.pretrain import EncoderConfig
from chartray.config.section import Knobs
from chartray.errors import InputError
from chartray.networks.description import (
    DESCRIPTION_FILE,
    FORMAT,
    WEIGHTS_FILE,
    Architecture,
    Description,
    Interpolation,
    Names,
    Provenance,
    checked,
    encoder_folder,
    read_description,
    sealed_description,
)
from chartray.networks.first_weights import draw_encoder
from chartray.networks.last_block import class_of_last_block, only_class_is_read
from chartray.networks.patches import multiply_patches
from chartray.networks.public_names import not_needed
from chartray.networks.transformers_weights import UnknownWeights, as_timm, as_transformers
from chartray.networks.weight_file import read_weights, shapes_of
from chartray.outputs.seal import seal, verify
from chartray.pixels.resampling import whole_image

Networks = TypeVar("Networks", bound=nn.Module)
_SHORT_NAMES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}


class PretrainedEncoder(NamedTuple):
    """A pretrained encoder: `model` (timm, eval mode) reads (B, 1, size, size) grey in [0, 1], standardised
    as (grey - grey_mean) / grey_std; `architecture` rebuilds it; `provenance` records how it was made. An image is
    brought to `size` by antialiased `interpolation`. The embedding is what the model's head pools, or, with a `grid`,
    the means of its patches in grid x grid cells side by side.
    """

    model: VisionTransformer
    size: int
    grey_mean: float
    grey_std: float
    architecture: Architecture
    provenance: Provenance
    interpolation: Interpolation = "bilinear"
    grid: int = 0

    @property
    def dimensions(self) -> int:
        """Numbers of an embedding."""
        return int(self.model.num_features) * (self.grid**2 or 1)

    def embedding(self, images: Tensor) -> Tensor:
        """What probes read: standardised images (B, 1, size, size) -> (B, dimensions)."""
        if self.grid:
            return self.embedding_of(tokens_of(self.model, images))
        return class_token(self.model, images)

    def embedding_of(self, tokens: Tensor) -> Tensor:
        """The same of the tokens (B, prefix + N, D) after the last block and norm."""
        if not self.grid:
            pooled: Tensor = self.model.forward_head(tokens)
            return pooled
        patches = tokens[:, self.model.num_prefix_tokens :].transpose(1, 2)  # (B, D, N)
        side = math.isqrt(patches.shape[2])
        cells = adaptive_avg_pool2d(patches.reshape(*patches.shape[:2], side, side), self.grid)  # (B, D, grid, grid)
        normed: Tensor = self.model.fc_norm(cells.flatten(2).transpose(1, 2))
        return normed.flatten(1)

    def resized(self, images: Tensor) -> Tensor:
        """The whole image at the encoder's size: uint8 (B, S, S) -> (B, 1, size, size) in [0, 1]."""
        return whole_image(images, self.size, self.interpolation)

    def standardised(self, grey: Tensor) -> Tensor:
        """What `model` reads: grey in [0, 1] -> (grey - grey_mean) / grey_std."""
        return (grey - self.grey_mean) / self.grey_std

    def described(self) -> dict[str, JsonValue]:
        """All but the weights, as encoder.json and other files record it."""
        return {
            "size": self.size,
            "grey_mean": self.grey_mean,
            "grey_std": self.grey_std,
            "interpolation": self.interpolation,
            "architecture": self.architecture.model_dump(exclude_none=True),
            "provenance": self.provenance.model_dump(exclude_unset=True),
        }


def architecture(config: EncoderConfig, size: int) -> Architecture:
    """The arguments of `timm.create_model` for `config` and images of `size` pixels.

    Raises InputError for a name that timm does not know, and for sizes far beyond the largest ViT.
    """
    name = _SHORT_NAMES.get(config.name, config.name)
    refuse_unknown(name)
    given: Knobs = {"num_heads": config.heads, "depth": config.depth, "embed_dim": config.width}
    if config.first_weights == "msn":
        given["first_weights"] = "msn"
    if "dinov3" in name:  # timm pools its patches, DINOv3 itself by the class token
        given["global_pool"] = "token"
    content = {"model_name": name, "img_size": size, "patch_size": config.patch_size} | given
    return checked(Architecture, content, f"the architecture of {name}")


def build(architecture: Architecture, *, seed: int) -> VisionTransformer:
    """A ViT with fresh weights drawn from `seed`; without head, one grey channel, any input size.

    Raises InputError for a name that timm does not know, a model that is not a Vision Transformer, or arguments other
    than those of `architecture`: some of timm's would download or unpickle files.
    """
    _outline(architecture)
    set_fused_attn(torch.cuda.is_available())  # `on_device` decides again, once the device is known
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _created(architecture)
        if architecture.first_weights == "msn":
            draw_encoder(model)
    multiply_patches(model)
    return model


def _outline(architecture: Architecture, names: Names = "timm") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of an architecture, without allocating them; raises as `build`."""
    weights = outline_model(architecture).state_dict()
    try:
        named = weights if names == "timm" else as_transformers(weights, names)
    except (UnknownWeights, KeyError, RuntimeError):
        raise InputError(f"expected names of weights that fit {architecture.model_name}, found {names}") from None
    return {name: tuple(value.shape) for name, value in named.items()}


def outline_model(architecture: Architecture) -> VisionTransformer | Eva:
    """A model without memory for its weights; raises as `build`."""
    refuse_unknown(architecture.model_name)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            return _created(architecture)
        except InputError:
            raise
        except Exception as error:  # timm's builders raise many types
            said = " ".join(str(error).split())[:200]
            arguments = architecture.model_dump(exclude_none=True)
            raise InputError(f"encoder {architecture.model_name!r} cannot be built with {arguments}: {said}") from None


def refuse_unknown(name: str) -> None:
    """Raises InputError for a name that timm does not know."""
    if not name.replace(".", "_").isidentifier() or not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:8]}*")[:3])
        raise InputError(
            f"expected the name of a timm ViT as encoder.name, found {name!r:.100}; similar: {close or 'none'}"
        )


def _created(architecture: Architecture) -> VisionTransformer | Eva:
    # Explicit, whatever timm's defaults: nothing is downloaded, and no file is read.
    without = {
        "pretrained": False,
        "checkpoint_path": "",
        "num_classes": 0,
        "in_chans": 1,
        "dynamic_img_size": True,
    }
    arguments = architecture.arguments()
    eps = arguments.pop("norm_eps", None)
    norm = {} if eps is None else {"norm_layer": partial(LayerNorm, eps=eps)}
    model = timm.create_model(**arguments, **without, **norm)
    if not isinstance(model, VisionTransformer | Eva):
        said = f"{architecture.model_name!r}, a {type(model).__name__}"
        raise InputError(f"expected a Vision Transformer as encoder.name, found {said}")
    return model


def on_device(networks: Networks, device: torch.device) -> Networks:
    """Networks moved to a device, their attention fused on a GPU and plain elsewhere.

    On a CPU the fused backward takes twice as long (docs/design.md). cuDNN's attention is off for the process: torch
    prefers it on the newest GPUs, and it gives NaN gradients for some sequence lengths (NVIDIA/cudnn-frontend#1072,
    pytorch/pytorch#196678).
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    for module in networks.modules():
        if isinstance(module, Attention | EvaAttention):
            module.fused_attn = device.type == "cuda"
    return networks.to(device)


def patch_side(model: VisionTransformer) -> int:
    """Pixels on the side of a patch."""
    side: int = model.patch_embed.patch_size[0]
    return side


def tokens_of(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """The tokens after the last block and norm: images (B, 1, H, W), patches to keep (B, n) -> (B, prefix + n, D).

    The kept patches (all when None) are gathered after the position embedding and before the blocks, where timm has
    its `patch_drop`; prefix tokens (the class token) always stay.
    """
    tokens, rotations = _embedded(model, images, keep)
    if isinstance(model, Eva):
        for depth, block in enumerate(model.blocks):
            tokens = block(tokens, rope=rotations[depth] if model.rope_mixed and rotations is not None else rotations)
    else:
        tokens = model.blocks(tokens)
    normed: Tensor = model.norm(tokens)
    return normed


def class_token(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """v = ViT(view): images (B, 1, H, W) and the patches to keep (B, n), all when None -> (B, D).

    Equals `forward_head(tokens_of(...))`; where only the class token is read, the last block computes no other token.
    """
    if not only_class_is_read(model):
        pooled: Tensor = model.forward_head(tokens_of(model, images, keep))
        return pooled
    through: Callable[[VisionTransformer, Tensor], Tensor] = getattr(model, "compiled_stack", class_after_blocks)
    pooled = model.forward_head(through(model, _embedded(model, images, keep)[0]))
    return pooled


def class_after_blocks(model: VisionTransformer, tokens: Tensor) -> Tensor:
    """All blocks and the norm, of which only the class token is read: (B, prefix + n, D) -> (B, 1, D)."""
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    normed: Tensor = model.norm(class_of_last_block(model.blocks[-1], tokens))
    return normed


def _embedded(model: VisionTransformer | Eva, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The input of the blocks: kept patches with their positions -> (B, prefix + n, D); and their rotations, if any."""
    tokens, rotations = model._pos_embed(model.patch_embed(images)), None  # (B, prefix + N, D)
    if isinstance(model, Eva):
        tokens, rotations = tokens  # (N, R)
    if keep is not None:
        prefix = model.num_prefix_tokens
        kept = tokens[:, prefix:].gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
        tokens = torch.cat((tokens[:, :prefix], kept), dim=1)  # (B, prefix + n, D)
        if rotations is not None and model.rope_mixed:
            rotations = rotations[:, :, keep].transpose(1, 2)  # (depth, B, heads, n, R)
        elif rotations is not None:
            rotations = rotations[keep][:, None]  # (B, 1, n, R)
    return model.norm_pre(tokens), rotations


def copy_weights(weights: Mapping[str, Tensor], model: VisionTransformer, source: Path) -> None:
    """Sets all weights of `model`; raises InputError unless they are finite and exactly its own."""
    try:
        broken = next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)
        if broken is not None:
            raise InputError(f"expected finite weights in {source}, found others in {broken}; did training diverge?")
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"expected the weights of this ViT in {source}, found others: {reason}") from None


def save(folder: Path, encoder: PretrainedEncoder) -> None:
    """Writes safetensors and JSON, and seals `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().cpu().contiguous() for name, value in encoder.model.state_dict().items()}
    write_encoder(folder, encoder, weights)
    seal(folder)


def write_encoder(
    folder: Path, encoder: PretrainedEncoder, weights: dict[str, Tensor] | None, names: Names = "timm"
) -> None:
    """Writes the description, and the `weights` as they are called in `names`; None: the folder has none."""
    if weights is not None:
        # save_file ignores the umask: its files can be read by their owner only.
        (folder / WEIGHTS_FILE).write_bytes(safetensors_bytes(weights, {"format": "pt"}))
    said = {"format": FORMAT} | encoder.described() | ({} if names == "timm" else {"names": names})
    (folder / DESCRIPTION_FILE).write_text(json.dumps(said, indent=2) + "\n")


def load(path: Path) -> PretrainedEncoder:
    """The target encoder of a RUN, or of an encoder folder, in eval mode.

    Raises InputError if `path` holds none, or one that is damaged, edited, of another format version, or with weights
    that are not finite or do not fit its architecture.
    """
    folder = encoder_folder(path)
    description = description_of(folder)
    model = build(description.architecture, seed=0)
    copy_weights(sealed_weights(folder), model, folder / WEIGHTS_FILE)
    return _described(model.eval(), description)


def untrained(encoder: PretrainedEncoder, *, seed: int) -> PretrainedEncoder:
    """The same architecture with fresh weights: the baseline that pretraining must beat."""
    return encoder._replace(model=build(encoder.architecture, seed=seed).eval())


def _described(model: VisionTransformer, description: Description) -> PretrainedEncoder:
    return PretrainedEncoder(
        model=model,
        size=description.size,
        grey_mean=description.grey_mean,
        grey_std=description.grey_std,
        interpolation=description.interpolation,
        architecture=description.architecture,
        provenance=description.provenance,
    )


def description_of(folder: Path) -> Description:
    """The description of an encoder; the shapes of its weights are checked before any memory is allocated."""
    description, file = sealed_description(folder), folder / WEIGHTS_FILE
    wanted, found = _outline(description.architecture, description.names), shapes_of(file)
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            shapes = [str(each.get(name, "none")) for each in (wanted, found)]
            raise InputError(
                f"expected the weight {name} of shape {shapes[0]} in {file}, as {DESCRIPTION_FILE} says, "
                f"found {shapes[1]}; write the encoder again, or restore a complete copy of it"
            )
    return description


def sealed_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of an encoder folder under timm's names; raises InputError unless they are as they were written."""
    verify(folder, [WEIGHTS_FILE])
    weights = read_weights(folder / WEIGHTS_FILE)
    names = read_description(folder / DESCRIPTION_FILE).names
    if names == "timm":
        return weights
    kept = {name: value for name, value in weights.items() if not not_needed(name)}
    return as_timm(kept, rotary=names == "dinov3_vit")
