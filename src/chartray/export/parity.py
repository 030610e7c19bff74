"""Parity: what the library of an exported form computes beside what Chartray does, on the same 32 images."""

from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chartray.config.export import Form
from chartray.errors import InputError
from chartray.export.onnx_form import EMBEDDING, INPUT, PATCH_TOKENS
from chartray.extras import PACKAGES, how_to_install, missing
from chartray.model_card.earlier import ONNX_FILE
from chartray.networks.encoder import PretrainedEncoder, tokens_of
from chartray.outputs.notices import notice
from chartray.pixels.store import Store

IMAGES = 32
# Of the largest value: rounding in float32 stays far below, a part in the wrong place far above.
_TOLERANCE = 1e-3


class ShownImages(NamedTuple):
    """Images that parity is measured on: uint8 (B, S, S), and what they are."""

    images: Tensor
    of: str
    store_hash: str | None


class Difference(BaseModel):
    """The largest difference of two tensors, beside the largest value."""

    model_config = ConfigDict(frozen=True)
    largest_difference: float = Field(ge=0, allow_inf_nan=False)
    largest_value: float = Field(ge=0, allow_inf_nan=False)


class Parity(BaseModel):
    """What parity.json records."""

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = 1
    to: Form
    preprocessing: bool = Field(False, description="onnx: whether the graph prepares images")
    images: int
    images_of: str
    store_hash: str | None = None
    versions: dict[str, str] = Field(description="of the libraries that were compared, in float32 on a CPU")
    embedding: Difference | None = Field(None, description="from the same prepared images")
    patch_tokens: Difference | None = None
    grey_levels: float | None = Field(
        None, description="largest difference of a pixel that the library itself prepared, of 255 grey levels"
    )
    not_measured: str | None = Field(None, description="why there are no numbers")

    @property
    def sentence(self) -> str:
        """As the card says it."""
        if self.embedding is None or self.patch_tokens is None:
            return f"Parity with Chartray was not measured: {self.not_measured}."
        named = ", ".join(f"{name} {said}" for name, said in self.versions.items() if name != "chartray")
        prepared = (
            ""
            if self.grey_levels is None
            else f" Its own preparation of an image differs by {self.grey_levels:.2g} of 255 grey levels at most."
        )
        return (
            f"Beside Chartray {self.versions['chartray']} ({named}), the embedding differs by "
            f"{self.embedding.largest_difference:.1e} at most (values up to {self.embedding.largest_value:.2g}), and "
            f"patch tokens by {self.patch_tokens.largest_difference:.1e}, on {self.images} {self.images_of}.{prepared}"
        )


def shown_images(encoder: PretrainedEncoder, store: Path | None) -> ShownImages:
    """32 images of `store`, or of the store of the pretraining where it is still there; else drawn ones."""
    made = encoder.provenance
    if store is None and made.store and Path(made.store).is_dir():
        try:
            found = Store.open(made.store)
            store = Path(made.store) if found.hash == made.store_hash else None
        except InputError:
            store = None
    if store is None:
        drawn = np.random.default_rng(0).integers(0, 256, (IMAGES, 64, 64), dtype=np.uint8)
        return ShownImages(torch.from_numpy(drawn), "images of noise, since the store was not at hand", None)
    opened = Store.open(store)
    if not len(opened):
        raise InputError(f"expected images in {store}, found none; give another --store")
    rows = np.unique(np.linspace(0, len(opened) - 1, IMAGES).astype(np.int64))
    kind = "simulated images" if made.simulated else "images"
    return ShownImages(torch.from_numpy(opened.images.gather(rows)), f"{kind} of a store", opened.hash)


def measured(
    folder: Path,
    encoder: PretrainedEncoder,
    shown: ShownImages,
    to: Form,
    *,
    preprocessing: bool,
) -> Parity:
    """Loads `folder` with its library and compares; raises InputError where it computes something else."""
    absent = missing("huggingface") if to == "huggingface" else []
    names = ("chartray", "torch", *(name for name in PACKAGES.get(to, (to,)) if name not in absent))
    parity = Parity(
        to=to,
        preprocessing=preprocessing,
        images=len(shown.images),
        images_of=shown.of,
        store_hash=shown.store_hash,
        versions={name: version(name) for name in names},
    )
    if absent:
        why = f"{' and '.join(absent)} is not installed"
        notice(f"chartray: parity is not measured: {why}; {how_to_install('huggingface')}")
        return parity.model_copy(update={"not_measured": why})
    with torch.inference_mode():
        prepared = encoder.standardised(encoder.resized(shown.images))
        tokens = tokens_of(encoder.model, prepared)
        wanted = (encoder.model.forward_head(tokens), tokens[:, encoder.model.num_prefix_tokens :])
        compute = {"timm": _by_timm, "huggingface": _by_transformers, "onnx": _by_onnx}[to]
        found = compute(folder, encoder, shown.images if preprocessing else prepared, shown.images)
    embedding, patches = (_difference(theirs, ours) for theirs, ours in zip(found[:2], wanted, strict=True))
    for name, each in (("embedding", embedding), ("patch tokens", patches)):
        if not each.largest_difference <= _TOLERANCE * each.largest_value:
            raise InputError(
                f"expected the same {name} from {', '.join(names[2:])} as from Chartray, found a difference of "
                f"{each.largest_difference:.2g} beside values up to {each.largest_value:.2g}; nothing was written: "
                "please report it with the versions of these libraries"
            )
    own = found.prepared
    grey = None if own is None else float((own - prepared).abs().max()) * encoder.grey_std * 255
    return parity.model_copy(update={"embedding": embedding, "patch_tokens": patches, "grey_levels": grey})


def _difference(theirs: Tensor, ours: Tensor) -> Difference:
    if theirs.shape != ours.shape:
        raise InputError(f"expected tokens {tuple(ours.shape)}, found {tuple(theirs.shape)}; nothing was written")
    return Difference(
        largest_difference=float((theirs - ours).abs().max()), largest_value=float(ours.abs().max().clamp(min=1e-30))
    )


class _Computed(NamedTuple):
    """What a library computes of images: embedding (B, D), patch tokens (B, N, D), and the images as it prepares them
    itself, (B, 1, size, size).
    """

    embedding: Tensor
    patch_tokens: Tensor
    prepared: Tensor | None = None


def _by_timm(folder: Path, encoder: PretrainedEncoder, images: Tensor, shown: Tensor) -> _Computed:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    tokens = model.forward_features(images)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    prepared = torch.stack([prepare(Image.fromarray(image.numpy())) for image in shown])
    return _Computed(model.forward_head(tokens), tokens[:, model.num_prefix_tokens :], prepared)


def _by_transformers(folder: Path, encoder: PretrainedEncoder, images: Tensor, shown: Tensor) -> _Computed:
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens: Tensor = model(pixel_values=images).last_hidden_state
    patches = tokens[:, encoder.model.num_prefix_tokens :]
    embedding = tokens[:, 0] if encoder.model.global_pool == "token" else patches.mean(dim=1)
    prepare = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    prepared = prepare([Image.fromarray(image.numpy()) for image in shown], return_tensors="pt").pixel_values
    return _Computed(embedding, patches, prepared)


def _by_onnx(folder: Path, encoder: PretrainedEncoder, images: Tensor, shown: Tensor) -> _Computed:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    found = session.run([EMBEDDING, PATCH_TOKENS], {INPUT: images.numpy()})
    return _Computed(*(torch.from_numpy(np.asarray(each)) for each in found))
