"""The encoder to take home, as a timm model."""

from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from chartray.networks import encoder


def load_encoder(path: str | Path) -> VisionTransformer:
    """The target encoder of a RUN or of an encoder folder: a timm ViT without head, in eval mode.

    It reads (B, 1, size, size) grey in [0, 1], dark = air, standardised as (grey - grey_mean) / grey_std, and gives
    (B, D). Those three numbers are in `encoder.json` and on the model as `chartray_input` (size, grey_mean, grey_std).
    Raises InputError if there is no encoder at `path`.
    """
    loaded = encoder.load(Path(path))
    loaded.model.chartray_input = {
        "size": loaded.size,
        "grey_mean": loaded.grey_mean,
        "grey_std": loaded.grey_std,
    }
    return loaded.model
