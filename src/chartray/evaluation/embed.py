"""Frozen features, computed once: the encoder's embedding of the whole image, and plain pixels as a floor."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chartray.errors import InputError
from chartray.evaluation.kept import PIECE, KeptFeatures, made_of_encoder
from chartray.networks.encoder import PretrainedEncoder, on_device, tokens_of
from chartray.pixels.resampling import whole_image
from chartray.pixels.store import Store
from chartray.progress import progress
from chartray.training.driver import refuse_unusable_gpu

Integers = NDArray[np.int64]
Features = NDArray[np.float32]

# Side of the image that the plain-pixel floor sees.
PIXEL_SIDE = 32
# A CPU takes half as long an image where a layer's activations stay in its cache and its allocator keeps their memory.
_BATCH, _BATCH_ON_CPU = 256, 32


def embed(
    encoder: PretrainedEncoder,
    store: Store,
    rows: Integers,
    *,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    title: str = "embed",
    kept: KeptFeatures | None = None,
) -> Features:
    """The embedding of each image, whole and unmasked.

    Args:
        encoder: the (target) encoder; it sees (grey - grey_mean) / grey_std.
        store: where the images are.
        rows: (N,) which of them.
        batch_size: images at a time; default: as many as the device does fastest.
        device: auto, cpu or cuda.
        precision: fp32, or bf16 for autocast.
        title: what the progress line is called.
        kept: where they are kept, so that a command that is killed can continue.

    Returns:
        (N, D) float32.

    Raises:
        InputError: an embedding is not finite; the run and the row are named.
    """
    where = device_of(device)
    forward = _forward(encoder, where, precision, with_patches=False)

    def features(images: Tensor, of: Integers) -> Features:
        # Batch by batch: a damaged encoder is known at once, not after a million images.
        return _finite(forward(images).embedding, encoder, lambda row: f"row {row} of {store.folder}", of)

    if kept is not None:
        kept = kept.of(store, rows, device=where, precision=precision, **made_of_encoder(encoder))
    return _in_pieces(store, rows, features, batch_size or images_at_once(where), where, title, kept)


class Tokens(NamedTuple):
    """Of B images: the embedding (B, D), and the patch tokens (B, N, D) where they were asked for."""

    embedding: Features
    patches: Features | None


def tokens_in_batches(
    encoder: PretrainedEncoder,
    images: Iterable[tuple[Tensor, Integers]],
    *,
    place: Callable[[int], str],
    device: str,
    precision: str,
    with_patches: bool,
) -> Iterator[Tokens]:
    """The tokens of batches of whole images, uint8 (B, S, S), and their numbers (B,).

    Raises InputError where they are not finite; `place` says where the image with a number is.
    """
    where = device_of(device)
    forward = _forward(encoder, where, precision, with_patches=with_patches)
    for batch, numbers in images:
        shown = batch if len(batch) else batch.new_zeros(1, *batch.shape[1:])  # no ViT reads none
        with torch.inference_mode():
            made = forward(shown.to(where))
        found = Tokens(made.embedding[: len(batch)], None if made.patches is None else made.patches[: len(batch)])
        for each in found:
            if each is not None and len(each):
                _finite(each.reshape(len(each), -1), encoder, place, numbers)
        yield found


def images_at_once(device: str) -> int:
    """How many images a device embeds at a time."""
    return _BATCH if device == "cuda" else _BATCH_ON_CPU


def _forward(
    encoder: PretrainedEncoder, device: str, precision: str, *, with_patches: bool
) -> Callable[[Tensor], Tokens]:
    """From uint8 (B, S, S) on `device` to tokens."""
    model = on_device(encoder.model, torch.device(device)).eval()
    if precision not in ("fp32", "bf16"):
        raise InputError(f"expected precision fp32 or bf16, found {precision!r}")

    def forward(images: Tensor) -> Tokens:
        grey = encoder.standardised(encoder.resized(images))  # (B, 1, size, size)
        with torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
            if not with_patches:
                return Tokens(encoder.embedding(grey).float().cpu().numpy(), None)
            tokens = tokens_of(model, grey)
            pooled, patches = encoder.embedding_of(tokens), tokens[:, model.num_prefix_tokens :]
        return Tokens(pooled.float().cpu().numpy(), patches.float().cpu().numpy())

    return forward


def pixels(
    store: Store,
    rows: Integers,
    *,
    side: int = PIXEL_SIDE,
    batch_size: int = 256,
    title: str = "resize",
    kept: KeptFeatures | None = None,
) -> Features:
    """The whole image at side x side grey levels in [0, 1], (N, side * side): what no learning gives."""

    def features(images: Tensor, of: Integers) -> Features:
        return whole_image(images, side).flatten(1).numpy()

    kept = None if kept is None else kept.of(store, rows, side=side)
    return _in_pieces(store, rows, features, batch_size, "cpu", title, kept)


def _in_pieces(
    store: Store,
    rows: Integers,
    features: Callable[[Tensor, Integers], Features],
    batch_size: int,
    device: str,
    title: str,
    kept: KeptFeatures | None,
) -> Features:
    """The features of all `rows`, from `features` of some images and their rows, or from what was kept of them."""
    starts = range(0, len(rows), PIECE)
    found = {start: piece for start in starts if kept is not None and (piece := kept.read(start)) is not None}
    done = sum(map(len, found.values()))
    with torch.inference_mode(), progress(title, len(rows), "images", done=done) as advance:
        if done:
            advance(0, f"{done:,} were kept")
        for start in (each for each in starts if each not in found):
            parts, of = list[Features](), rows[start : start + PIECE]
            for images in batches(store, of, batch_size, device):
                at = sum(map(len, parts))
                parts.append(features(images, of[at : at + len(images)]))
                advance(len(images))
            found[start] = np.concatenate(parts)
            if kept is not None:
                kept.write(start, found[start])
    return np.concatenate([found[start] for start in starts])


def batches(store: Store, rows: Integers, batch_size: int, device: str) -> Iterator[Tensor]:
    """The stored images `rows` in order, uint8 (B, S, S) on `device`."""
    for start in range(0, len(rows), batch_size):
        yield torch.from_numpy(store.images.gather(rows[start : start + batch_size])).to(device)


def device_of(device: str) -> str:
    """`auto` resolved; raises InputError for an unknown device, no cuda, or a GPU that torch cannot use."""
    if device == "auto":
        refuse_unusable_gpu("--device cpu")
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"expected device auto, cpu or an available cuda, found {device!r}")
    return device


def _finite(features: Features, encoder: PretrainedEncoder, place: Callable[[int], str], rows: Integers) -> Features:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        run = encoder.provenance.run or "the encoder"
        raise InputError(
            f"expected finite embeddings from {run}, found {len(bad)} of {len(rows)} that are not, the first in "
            f"{place(int(rows[bad[0]]))}; the weights are damaged or training diverged"
        )
    return features
