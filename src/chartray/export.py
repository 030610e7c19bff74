"""The encoder to take home: as a timm model in memory, or as a folder that timm and the Hugging Face Hub load.

The folder that `export_encoder` writes:

model.safetensors    the weights, float32
config.json          timm's form: `timm.create_model("local-dir:FOLDER", pretrained=True)`, and once uploaded
                     "hf-hub:NAME"
encoder.json         Chartray's form: `chartray.load_encoder(FOLDER)`, `chartray evaluate FOLDER STORE`; it names no
                     folder of the machine it was made on
README.md            the model card (model_card/), in the form huggingface only
SHA256SUMS           the SHA-256 of these files: `sha256sum -c SHA256SUMS` checks that the folder is complete
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from timm.models.vision_transformer import VisionTransformer

from chartray.errors import InputError
from chartray.model_card.card import model_card
from chartray.model_card.earlier import CARD_FILE, CONFIG_FILE, check_export_replaceable
from chartray.networks import encoder
from chartray.networks.description import Init, Provenance
from chartray.networks.encoder import PretrainedEncoder
from chartray.outputs.replacing import replaced_folder

# Folders of the machine in a provenance: of each only the last part is shared.
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
    # Else timm would prepare images as it prepares photographs for the architecture's own weights.
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
        results: results folders of this encoder, and of comparisons it is part of: their numbers go on the card.
        form: huggingface, with the card; timm, without.

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
    card = "" if form == "timm" else model_card(shared, [Path(one) for one in results], name=out.resolve().name)
    with replaced_folder(out) as partial:
        encoder.save(partial, shared)
        (partial / CONFIG_FILE).write_text(json.dumps(timm_config(shared), indent=2) + "\n", encoding="utf-8")
        if card:
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
    return out


def timm_config(loaded: PretrainedEncoder) -> dict[str, Any]:
    """What timm's loader of folders and of the Hub reads: the architecture, and how an image is prepared.

    `squash` and bilinear: the whole image, stretched to the square, as in pretraining; no pixel is cropped away.
    """
    arguments = loaded.architecture.arguments()
    return {
        "architecture": arguments.pop("model_name"),
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


def shareable(made: Provenance) -> Provenance:
    """The provenance, and that of the weights it started from, without the folders of the machine."""
    said = made.model_dump(include=set(_PLACES), exclude_unset=True)
    changes: dict[str, object] = {name: Path(place).name for name, place in said.items() if isinstance(place, str)}
    if made.command is not None:
        changes["command"] = " ".join(Path(word).name if "/" in word else word for word in made.command.split())
    if made.init is not None:
        changes["init"] = _shareable_init(made.init)
    return made.model_copy(update=changes)


def _shareable_init(init: Init) -> Init:
    before = None if init.init is None else _shareable_init(init.init)
    return init.model_copy(update={"source": Path(init.source).name} | ({} if before is None else {"init": before}))
