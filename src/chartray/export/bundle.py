"""The encoder to take home: a folder that timm, transformers or an ONNX runtime loads, whole or not at all.

In each form:

encoder.json         Chartray's form: sizes, grey statistics, provenance; it names no folder of the machine
parity.json          what the library of the form computes beside what Chartray does, measured on 32 images
README.md            the model card (model_card/)
SHA256SUMS           the SHA-256 of these files: `sha256sum -c SHA256SUMS` checks that the folder is complete

timm                 model.safetensors, float32, and config.json: `timm.create_model("local-dir:FOLDER",
                     pretrained=True)`, and once uploaded "hf-hub:NAME"
huggingface          model.safetensors, config.json and preprocessor_config.json as transformers names them:
                     `AutoModel.from_pretrained(FOLDER)`, `AutoImageProcessor.from_pretrained(FOLDER)`
onnx                 model.onnx, for any number of images at once

`chartray.load_encoder(FOLDER)` and `chartray evaluate FOLDER STORE` read the first two.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from chartray.config.export import Form, check_form
from chartray.console import status
from chartray.export.onnx_form import write_onnx
from chartray.export.parity import measured, shown_images
from chartray.export.sharing import shareable
from chartray.export.timm_form import timm_config
from chartray.model_card.card import Loading, model_card
from chartray.model_card.earlier import CARD_FILE, PARITY_FILE, check_export_replaceable
from chartray.networks import encoder
from chartray.networks.encoder import PretrainedEncoder
from chartray.networks.public_folder import CONFIG_FILE, PREPARATION_FILE
from chartray.networks.transformers_form import transformers_folder
from chartray.outputs.replacing import replaced_folder


def export_encoder(
    source: Path,
    out: Path,
    *,
    to: Form = "timm",
    results: Sequence[Path] = (),
    store: Path | None = None,
    preprocessing: bool = False,
) -> Path:
    """Writes the encoder of `source` as the folder `out`, whole or not at all; returns it.

    Args:
        source: RUN or encoder folder.
        out: a new folder; an earlier export is replaced.
        to: the library that loads it.
        results: results folders of this encoder, and of comparisons it is part of: their numbers go on the card.
        store: whose images parity is measured on; default: the store of the pretraining, where it still is.
        preprocessing: onnx: the graph itself resizes and standardises uint8 images of any size.

    Raises:
        InputError: no encoder at `source`, weights that are not finite or that the form lacks a place for, results of
            another encoder, an extra that is not installed, `out` holds other things.
    """
    check_form(to, preprocessing=preprocessing)
    check_export_replaceable(out)
    loaded = encoder.load(source)
    images = shown_images(loaded, store)
    shared = loaded._replace(provenance=shareable(loaded.provenance))
    with replaced_folder(out) as partial:
        _write(partial, shared, to, preprocessing)
        parity = measured(partial, loaded, images, to, preprocessing=preprocessing)
        _write_json(partial / PARITY_FILE, parity.model_dump(exclude_none=True))
        loading = Loading(to, preprocessing, parity.sentence)
        card = model_card(shared, [Path(one) for one in results], name=out.resolve().name, loading=loading)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
    status(parity.sentence, aside=True)
    return out


def _write(folder: Path, shared: PretrainedEncoder, to: Form, preprocessing: bool) -> None:
    if to == "timm":
        encoder.save(folder, shared)
        _write_json(folder / CONFIG_FILE, timm_config(shared))
    elif to == "huggingface":
        content = transformers_folder(shared)
        encoder.write_encoder(folder, shared, content.weights, content.family)
        _write_json(folder / CONFIG_FILE, content.config)
        _write_json(folder / PREPARATION_FILE, content.preparation)
    else:
        write_onnx(folder, shared, preprocessing=preprocessing)
        encoder.write_encoder(folder, shared, None)


def _write_json(file: Path, content: dict[str, JsonValue]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
