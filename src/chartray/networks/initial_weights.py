"""The weights that pretraining starts from: of a RUN, an encoder folder or a public encoder."""

from pathlib import Path

from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from chartray.errors import InputError
from chartray.networks.description import Init, encoder_folder
from chartray.networks.encoder import copy_weights, description_of, sealed_weights
from chartray.networks.public import weights_of
from chartray.networks.public_folder import is_public, read_public, weight_files
from chartray.networks.public_names import differences, not_needed
from chartray.networks.weight_file import read_weights, shapes_of


def initialise(model: VisionTransformer | Eva, source: Path) -> None:
    """Copies weights into `model` from a RUN, an encoder folder, a folder of timm or transformers, or a .safetensors
    file of a timm ViT.

    A colour patch embedding becomes grey by summing its channels; position embeddings of another size are
    resampled; what no embedding needs is left out (`not_taken`). Raises InputError, with lists, if any weight of the
    model is missing, of another shape or not finite, or one is not the model's: no part may silently keep its random
    start (MohammedSB/DINOv2ForRadiology#5).
    """
    weights = _weights(source)
    patch = weights.get("patch_embed.proj.weight")
    if patch is not None and patch.ndim == 4 and patch.shape[1] == 3:
        weights["patch_embed.proj.weight"] = patch.sum(dim=1, keepdim=True)
    position = weights.get("pos_embed")
    if position is not None and model.pos_embed is not None and position.shape != model.pos_embed.shape:
        weights["pos_embed"] = _resampled(position, model, source)
    found, wanted = (
        {name: tuple(value.shape) for name, value in each.items()} for each in (weights, model.state_dict())
    )
    if differ := differences(wanted, found):
        raise InputError(
            f"expected the weights of this ViT in {source}, found {differ}; set encoder.name, encoder.width, "
            "encoder.depth and encoder.patch_size as theirs"
        )
    copy_weights(weights, model, source)


def lineage(source: Path) -> Init:
    """What the initial weights of a run were trained on: known of a RUN or encoder folder, unknown of public ones."""
    if is_public(source):
        return Init(source=str(source), chart_sources={}, not_taken=not_taken(source))
    said = description_of(encoder_folder(source)).provenance
    return Init(
        source=str(source),
        dataset=said.source,
        run=said.run,
        chart=said.chart,
        init=said.init,
        patients=said.patients,
        patients_sha256=said.patients_sha256,
        after_film=said.after_film,
        chart_sources=said.chart_sources or {},
    )


def not_taken(source: Path) -> list[str]:
    """Names of the weights of a public encoder that no embedding needs."""
    files = (source,) if source.is_file() else weight_files(source)
    return sorted(name for file in files for name in shapes_of(file) if not_needed(name))


def _weights(source: Path) -> dict[str, Tensor]:
    if source.is_file() or source.suffix == ".safetensors":
        return {name: value for name, value in read_weights(source).items() if not not_needed(name)}
    return weights_of(read_public(source)).weights if is_public(source) else sealed_weights(encoder_folder(source))


def _resampled(position: Tensor, model: VisionTransformer | Eva, source: Path) -> Tensor:
    """The position embeddings of a square grid, resampled to the grid of `model`."""
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    side = round(max(position.shape[1] - prefix, 0) ** 0.5) if position.ndim == 3 else 0
    if not side or tuple(position.shape) != (1, prefix + side**2, model.embed_dim):
        raise InputError(
            f"expected position embeddings (1, {prefix} + side * side, {model.embed_dim}) in {source}, found "
            f"{tuple(position.shape)}; these are the weights of another ViT; set --encoder.name or "
            "--encoder.width to theirs"
        )
    resampled: Tensor = resample_abs_pos_embed(position, list(model.patch_embed.grid_size), num_prefix_tokens=prefix)
    return resampled
