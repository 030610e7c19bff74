"""The encoder as a timm model in memory, and as timm's loader of folders and of the Hub describes one."""

from pathlib import Path

from pydantic import JsonValue
from timm.models.vision_transformer import VisionTransformer

from chartray.errors import InputError
from chartray.networks import encoder
from chartray.networks.encoder import PretrainedEncoder

_TIMM_EPS = 1e-6  # of its Vision Transformers' norms


def load_encoder(path: str | Path) -> VisionTransformer:
    """The target encoder of a RUN or of an encoder folder: a timm ViT without head, in eval mode.

    It reads (B, 1, size, size) grey in [0, 1], dark = air, standardised as (grey - grey_mean) / grey_std, and gives
    (B, D). Those three numbers are in `encoder.json` and on the model as `chartray_input` (size, grey_mean, grey_std);
    `timm.data.resolve_model_data_config` finds them, too.
    Raises InputError if there is no encoder at `path`.
    """
    loaded = encoder.load(Path(path))
    loaded.model.chartray_input = {
        "size": loaded.size,
        "grey_mean": loaded.grey_mean,
        "grey_std": loaded.grey_std,
    }
    # Else timm would prepare images as it prepares photographs for the architecture's own weights.
    preparation = _preparation(loaded)
    sequences = {key: tuple(value) if isinstance(value, list) else value for key, value in preparation.items()}
    loaded.model.pretrained_cfg = loaded.model.default_cfg = sequences
    return loaded.model


def timm_config(loaded: PretrainedEncoder) -> dict[str, JsonValue]:
    """What timm's loader of folders and of the Hub reads: the architecture, and how an image is prepared.

    `squash`: the whole image, stretched to the square, as in pretraining; no pixel is cropped away.
    """
    arguments = loaded.architecture.arguments()
    if arguments.pop("norm_eps", _TIMM_EPS) != _TIMM_EPS:
        raise InputError(
            f"expected norms with an eps of {_TIMM_EPS:g} for --to timm, found {loaded.architecture.norm_eps:g}, which "
            "timm's config.json cannot say; use --to huggingface or --to onnx"
        )
    return {
        "architecture": arguments.pop("model_name"),
        "num_classes": 0,
        "num_features": loaded.model.num_features,
        "global_pool": loaded.model.global_pool,
        "model_args": arguments | {"in_chans": 1, "num_classes": 0, "dynamic_img_size": True},
        "pretrained_cfg": _preparation(loaded),
    }


def _preparation(loaded: PretrainedEncoder) -> dict[str, JsonValue]:
    return {
        "input_size": [1, loaded.size, loaded.size],
        "fixed_input_size": False,
        "interpolation": loaded.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": [loaded.grey_mean],
        "std": [loaded.grey_std],
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "custom_load": False,
    }
