"""The Vision Transformer: timm's, with one grey channel, any film size, and patches that views.py chose to keep."""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from timm.layers import Attention, set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from chartray.config import EncoderConfig
from chartray.errors import InputError
from chartray.networks.last_block import class_of_last_block, only_class_is_read
from chartray.networks.patches import multiply_patches

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "encoder.json"
FORMAT = 1
Networks = TypeVar("Networks", bound=nn.Module)
_SHORT_NAMES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}


class PretrainedEncoder(NamedTuple):
    """An encoder to take home: `model` (timm, eval mode) reads (B, 1, size, size) grey in [0, 1], standardised
    as (grey - grey_mean) / grey_std; `architecture` builds it again; `provenance` says how it was made.
    """

    model: VisionTransformer
    size: int
    grey_mean: float
    grey_std: float
    architecture: dict[str, Any]
    provenance: dict[str, Any]


def architecture(config: EncoderConfig, size: int) -> dict[str, Any]:
    """The arguments of `timm.create_model` for `config` and films of `size` pixels."""
    arguments: dict[str, Any] = {"model_name": _SHORT_NAMES.get(config.name, config.name), "img_size": size}
    for ours, timms in (
        ("heads", "num_heads"),
        ("depth", "depth"),
        ("width", "embed_dim"),
        ("patch_size", "patch_size"),
    ):
        if getattr(config, ours) is not None:
            arguments[timms] = getattr(config, ours)
    return arguments


def build(architecture: dict[str, Any], *, seed: int) -> VisionTransformer:
    """A ViT with fresh weights drawn from `seed`; without head, one grey channel, any input size.

    Raises InputError for a name that timm does not know or a model that is no Vision Transformer.
    """
    name = architecture["model_name"]
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:8]}*")[:3])
        raise InputError(
            f"expected the name of a timm ViT as encoder.name, found {name!r}; close to it: {close or 'none'}"
        )
    set_fused_attn(torch.cuda.is_available())  # where most will run it; `on_device` knows
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(**architecture, num_classes=0, in_chans=1, dynamic_img_size=True)
        except (AssertionError, TypeError, ValueError) as error:
            raise InputError(f"encoder {name!r} cannot be built with {architecture}: {error}") from None
    if not isinstance(model, VisionTransformer):
        raise InputError(f"expected a Vision Transformer as encoder.name, found {name!r}, a {type(model).__name__}")
    multiply_patches(model)
    return model


def on_device(networks: Networks, device: torch.device) -> Networks:
    """Networks moved to a device, their attention fused on a GPU and plain elsewhere.

    On a CPU the fused backward is half as fast (DESIGN.md, Decisions), also where there is a GPU that is not used.
    cuDNN's attention is switched off for the process: torch prefers it on the newest GPUs, and its backward gives
    gradients that are no numbers for some lengths (NVIDIA/cudnn-frontend#1072, pytorch/pytorch#196678).
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    for module in networks.modules():
        if isinstance(module, Attention):
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
    normed: Tensor = model.norm(model.blocks(_embedded(model, images, keep)))
    return normed


def class_token(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """v = ViT(view): images (B, 1, H, W) and the patches to keep (B, n), all when None -> (B, D).

    As `forward_head(tokens_of(...))`; where only the class token is read, the last block works for it alone.
    """
    if not only_class_is_read(model):
        pooled: Tensor = model.forward_head(tokens_of(model, images, keep))
        return pooled
    tokens = model.blocks[:-1](_embedded(model, images, keep))
    pooled = model.forward_head(model.norm(class_of_last_block(model.blocks[-1], tokens)))
    return pooled


def _embedded(model: VisionTransformer, images: Tensor, keep: Tensor | None) -> Tensor:
    """What enters the blocks: patches and positions, the kept ones alone -> (B, prefix + n, D)."""
    tokens = model._pos_embed(model.patch_embed(images))  # (B, prefix + N, D)
    if keep is not None:
        prefix = model.num_prefix_tokens
        kept = tokens[:, prefix:].gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
        tokens = torch.cat((tokens[:, :prefix], kept), dim=1)  # (B, prefix + n, D)
    entering: Tensor = model.norm_pre(tokens)
    return entering


def initialise(model: VisionTransformer, source: Path) -> None:
    """Copies weights into `model` from a RUN, an encoder folder or a .safetensors file of a timm ViT.

    A colour patch embedding becomes grey by summing its channels; position embeddings of another size are
    resampled; a classifier is left out. Raises InputError if any weight of the model is not found: an
    encoder that silently kept its random start is the worst of errors (MohammedSB/DINOv2ForRadiology#5).
    """
    is_file = source.is_file() or source.suffix == ".safetensors"
    weights = _read_weights(source if is_file else _encoder_folder(source) / WEIGHTS_FILE)
    weights = {name: value for name, value in weights.items() if not name.startswith(("head.", "head_dist."))}
    patch = weights.get("patch_embed.proj.weight")
    if patch is not None and patch.shape[1] == 3:
        weights["patch_embed.proj.weight"] = patch.sum(dim=1, keepdim=True)
    position = weights.get("pos_embed")
    if position is not None and model.pos_embed is not None and position.shape != model.pos_embed.shape:
        from timm.layers import resample_abs_pos_embed

        grid = list(model.patch_embed.grid_size)
        weights["pos_embed"] = resample_abs_pos_embed(position, grid, num_prefix_tokens=model.num_prefix_tokens)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"expected the weights of this very ViT in {source}, found others: {reason}") from None


def save(folder: Path, encoder: PretrainedEncoder) -> None:
    """Writes safetensors and JSON; nothing is pickled."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().cpu().contiguous() for name, value in encoder.model.state_dict().items()}
    # Not save_file, whose files their owner alone may read, whatever the umask says.
    (folder / WEIGHTS_FILE).write_bytes(safetensors_bytes(weights))
    description = {"format": FORMAT} | {key: value for key, value in encoder._asdict().items() if key != "model"}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load(path: Path) -> PretrainedEncoder:
    """The target encoder of a RUN, or of an encoder folder, in eval mode.

    Raises InputError if `path` holds none, or one of another format version.
    """
    folder = _encoder_folder(path)
    description = _read_description(folder)
    model = build(description["architecture"], seed=0)
    initialise(model, folder / WEIGHTS_FILE)
    return _described(model.eval(), description)


def untrained(path: Path, *, seed: int) -> PretrainedEncoder:
    """The same architecture as `load(path)` with fresh weights: the floor that pretraining must beat."""
    description = _read_description(_encoder_folder(path))
    return _described(build(description["architecture"], seed=seed).eval(), description)


def lineage(source: Path) -> dict[str, Any]:
    """What the weights that a run starts from were shown before: of a RUN or encoder folder; a file says nothing.

    `source` is where they lie, `dataset` the source of the cohort they were pretrained on, `init` their own beginning.
    """
    said = {} if source.is_file() else _read_description(_encoder_folder(source))["provenance"]
    inherited = {"after_film": said.get("after_film", []), "chart_sources": said.get("chart_sources", {})}
    own = {"dataset": said.get("source"), "run": said.get("run"), "chart": said.get("chart"), "init": said.get("init")}
    return {"source": str(source)} | own | inherited


def _described(model: VisionTransformer, description: dict[str, Any]) -> PretrainedEncoder:
    return PretrainedEncoder(
        model=model,
        size=description["size"],
        grey_mean=description["grey_mean"],
        grey_std=description["grey_std"],
        architecture=description["architecture"],
        provenance=description["provenance"],
    )


def _encoder_folder(path: Path) -> Path:
    for folder in (path, path / "encoder"):
        if (folder / DESCRIPTION_FILE).is_file():
            return folder
    found = "none; did pretraining finish?" if path.exists() else "nothing; check the path"
    raise InputError(f"expected a RUN or an encoder folder ({DESCRIPTION_FILE}) at {path}, found {found}")


def _read_description(folder: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"expected JSON in {folder / DESCRIPTION_FILE}, found {error}") from None
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise InputError(f"expected encoder format {FORMAT} in {folder}, found {found}; use the Chartray that wrote it")
    return description


def _read_weights(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        raise InputError(
            f"expected a .safetensors file, found {file}; pickled weights are not loaded, convert them first"
        )
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"expected weights in {file}, found {error}") from None
