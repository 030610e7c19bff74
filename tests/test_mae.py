"""MAE: its loss against a float64 version and a public implementation's patches, and what decoder and encoder see."""

import numpy as np
import pytest
import torch
from lightly.models.utils import patchify
from torch import Tensor

from chartray.config.pretrain import EncoderConfig, ObjectiveConfig
from chartray.networks import encoder as vit
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.objectives import mae

SIDE, PATCHES = 4, 16


def batch(films: int = 3, kept: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted patches (B, N, 16), images (B, 1, 16, 16), kept patches (B, n)."""
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn((films, PATCHES, SIDE * SIDE), generator=generator)
    images = torch.randn((films, 1, 16, 16), generator=generator) * 2 + 1
    keep = torch.stack([torch.randperm(PATCHES, generator=generator)[:kept].sort().values for _ in range(films)])
    return predicted, images, keep


def oracle(predicted: np.ndarray, images: np.ndarray, kept: np.ndarray, normalise: bool) -> float:
    """Patch by patch, in float64."""
    errors = []
    for film in range(len(images)):
        for patch in set(range(PATCHES)) - set(kept[film].tolist()):
            top, left = SIDE * (patch // 4), SIDE * (patch % 4)
            truth = images[film, 0, top : top + SIDE, left : left + SIDE].ravel()
            if normalise:
                truth = (truth - truth.mean()) / np.sqrt(truth.var(ddof=1) + 1e-6)
            errors.append(np.square(predicted[film, patch] - truth).mean())
    return float(np.mean(errors))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula_in_float64(seed: int, normalise: bool) -> None:
    predicted, images, kept = batch(seed=seed)
    found = mae.mae_terms(predicted, images, kept, normalise=normalise).reconstruction
    wanted = oracle(predicted.double().numpy(), images.double().numpy(), kept.numpy(), normalise)
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_patches_are_lightlys() -> None:
    images = torch.randn(2, 1, 24, 24)
    assert torch.equal(mae.patches_of(images, 8), patchify(images, 8))


@pytest.mark.parametrize("normalise", [True, False])
def test_only_masked_patches_count(normalise: bool) -> None:
    predicted, images, kept = batch()
    predicted.requires_grad_()
    loss = mae.mae_terms(predicted, images, kept, normalise=normalise).reconstruction
    loss.backward()
    assert predicted.grad is not None
    masked = torch.ones(3, PATCHES).scatter(1, kept, 0.0).bool()
    assert not predicted.grad[~masked].any()
    assert (predicted.grad[masked].abs().sum(dim=1) > 0).all()
    for patches, same in ((~masked, True), (masked, False)):
        pixels = patches.view(3, 1, 4, 4).repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
        other = mae.mae_terms(predicted, images + 9 * noise * pixels, kept, normalise=normalise).reconstruction
        assert (other.item() == loss.item()) == same


def test_a_flat_patch_is_finite_and_nothing_masked_is_refused() -> None:
    predicted, images, kept = batch()
    found = mae.mae_terms(predicted, torch.zeros_like(images), kept).reconstruction
    assert torch.isfinite(found)
    with pytest.raises(ValueError, match="nothing is masked"):
        mae.mae_terms(predicted, images, torch.arange(PATCHES).expand(3, -1))


def network() -> MaskedAutoencoder:
    settings = EncoderConfig(name="vit_tiny_patch16_224", width=48, depth=2, heads=3, patch_size=SIDE)
    encoder = vit.build(vit.architecture(settings, 16), seed=0)
    torch.manual_seed(0)
    decoder = ObjectiveConfig(name="mae", decoder_width=32, decoder_depth=2, decoder_heads=2)
    return MaskedAutoencoder(encoder, 16, decoder).eval()


def test_what_is_masked_is_never_seen_and_what_is_kept_is() -> None:
    model, (_, images, kept) = network(), batch()
    masked = torch.ones(3, PATCHES).scatter(1, kept, 0.0).bool()
    drawn = model(images, kept)
    assert drawn.shape == (3, PATCHES, SIDE * SIDE)
    for patches, same in ((masked, True), (~masked, False)):
        pixels = patches.view(3, 1, 4, 4).repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)
        assert torch.equal(model(images + pixels * 3.0, kept), drawn) == same


def test_every_patch_is_drawn_in_its_own_place() -> None:
    """Which order the kept patches are named in does not matter: each is put back where it came from."""
    model, (_, images, kept) = network(), batch()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(model(images, kept[:, order]), model(images, kept), atol=1e-5)
    assert not torch.allclose(model(images, kept)[:, 0], model(images, kept)[:, 1], atol=1e-3)
    assert len(torch.unique(model.positions, dim=0)) == PATCHES


def test_the_encoder_that_is_evaluated_is_the_trained_one_and_stands_once_in_a_checkpoint() -> None:
    model = network()
    assert model.target_encoder is model.encoder
    names = model.state_dict().keys()
    assert not any("target" in name or name == "positions" for name in names)
    assert {f"encoder.{name}" for name in model.encoder.state_dict()} <= names
    model.train()
    _, images, kept = batch()
    mae.mae_terms(model(images, kept), images, kept).reconstruction.backward()
    assert all(value.grad is not None and value.grad.any() for value in model.trained_parameters().values())
