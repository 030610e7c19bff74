"""The encoder to take home: as a timm model in memory, or as a folder that timm and the Hugging Face Hub load.

The folder that `export_encoder` writes:

model.safetensors    the weights, float32
config.json          timm's own form: `timm.create_model("local-dir:FOLDER", pretrained=True)`, and once uploaded
                     "hf-hub:NAME"; a folder of this form is what Hugging Face calls a timm model
encoder.json         Chartray's form: `chartray.load_encoder(FOLDER)`, `chartray evaluate FOLDER STORE`; no folder of
                     the machine it was made on is in it
README.md            the model card (model_card/), in the form huggingface alone
SHA256SUMS           the SHA-256 of these files: `sha256sum -c SHA256SUMS` says whether the folder arrived whole
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from timm.models.vision_transformer import VisionTransformer

from chartray.errors import InputError
from chartray.evaluation.results import understood
from chartray.model_card.card import model_card
from chartray.model_card.earlier import CARD_FILE, CONFIG_FILE, check_export_replaceable
from chartray.networks import encoder
from chartray.networks.encoder import PretrainedEncoder
from chartray.outputs.replacing import replaced_folder

# What a manifest says of the machine: its folders are nobody's business, so the last part of each stays.
_PLACES = ("store", "out", "source")


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
    # Else timm would prepare films as it prepares the photographs of the architecture's own weights.
    preparation = timm_config(loaded)["pretrained_cfg"]
    sequences = {key: tuple(value) if isinstance(value, list) else value for key, value in preparation.items()}
    loaded.model.pretrained_cfg = loaded.model.default_cfg = sequences
    return loaded.model


def export_encoder(
    source: Path,
    out: Path,
    *,
    results: Sequence[Path] = (),
    form: Literal["timm", "huggingface"] = "huggingface",
) -> Path:
    """Writes the encoder of `source` as the folder `out`, whole or not at all; returns it.

    Args:
        source: RUN or encoder folder.
        out: a new folder; an earlier export is replaced.
        results: Results folders of this encoder, and of comparisons it is part of: their numbers go into the card.
        form: huggingface, with the card; timm: the weights and what loads them alone.

    Raises:
        InputError: no encoder at `source`, weights that are not finite, results of another encoder, `out` holds other
            things.
    """
    if form not in ("timm", "huggingface"):
        raise InputError(f"expected the form timm or huggingface, found {form!r}")
    if form == "timm" and results:
        raise InputError("expected results only with the form huggingface, which has a card; leave them out")
    check_export_replaceable(out)
    loaded = encoder.load(source)
    shared = loaded._replace(provenance=shareable(loaded.provenance))
    card = "" if form == "timm" else _card(shared, [Path(one) for one in results], out.resolve().name)
    with replaced_folder(out) as partial:
        encoder.save(partial, shared)
        (partial / CONFIG_FILE).write_text(json.dumps(timm_config(shared), indent=2) + "\n", encoding="utf-8")
        if card:
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
    return out


def _card(encoder_: PretrainedEncoder, results: Sequence[Path], name: str) -> str:
    if not results:
        return model_card(encoder_, results, name=name)
    with understood(*results):
        return model_card(encoder_, results, name=name)


def timm_config(loaded: PretrainedEncoder) -> dict[str, Any]:
    """What timm's loader of folders and of the Hub reads: the architecture, and how a film is prepared.

    `squash` and bilinear: the whole film, stretched to the square, as in pretraining; no pixel is cropped away.
    """
    arguments = {key: value for key, value in loaded.architecture.items() if key != "model_name"}
    return {
        "architecture": loaded.architecture["model_name"],
        "num_classes": 0,
        "num_features": loaded.model.num_features,
        "global_pool": loaded.model.global_pool,
        "model_args": arguments | {"in_chans": 1, "num_classes": 0, "dynamic_img_size": True},
        "pretrained_cfg": {
            "input_size": [1, loaded.size, loaded.size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [loaded.grey_mean],
            "std": [loaded.grey_std],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "custom_load": False,
        },
    }


def shareable(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance, and that of the weights it started from, without the folders of the machine."""
    found = {}
    for name, value in provenance.items():
        if isinstance(value, dict):
            value = shareable(value)
        elif name in _PLACES and isinstance(value, str):
            value = Path(value).name
        elif name == "command" and isinstance(value, str):
            value = " ".join(Path(word).name if "/" in word else word for word in value.split())
        found[name] = value
    return found
