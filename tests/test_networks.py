"""Networks: dropped patches, heads, EMA, the chart's seam, and weights that must load whole."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from chartray.config.pretrain import ChartConfig, EncoderConfig, ObjectiveConfig
from chartray.errors import InputError
from chartray.networks import encoder as vit
from chartray.networks import siamese
from chartray.networks.chart import ChartJoinsAnchor, ChartRoles
from chartray.networks.description import Provenance
from chartray.networks.initial_weights import initialise

TINY = EncoderConfig(name="vit_tiny_patch16_224", width=48, depth=2, heads=3, patch_size=8)


def tiny(size: int = 32, seed: int = 0) -> vit.VisionTransformer:
    return vit.build(vit.architecture(TINY, size), seed=seed)


def networks(chart: torch.nn.Module | None = None, **objective: object) -> siamese.Siamese:
    torch.manual_seed(0)
    settings = ObjectiveConfig(prototypes=16, head_hidden=32, head_out=24).model_copy(update=objective)
    return siamese.Siamese(tiny(), chart or ChartRoles(None, ChartConfig(), 48), settings)


def test_dropping_patches_equals_gathering_tokens() -> None:
    """Each block sees the class token and the kept tokens only, in their places."""
    model, images = tiny().eval(), torch.rand(2, 1, 32, 32)
    keep = torch.tensor([[0, 3, 15], [5, 6, 9]])
    found = vit.class_token(model, images, keep)
    for row in range(2):
        tokens = model._pos_embed(model.patch_embed(images[row : row + 1]))[0]
        kept = tokens[[0, *(keep[row] + 1).tolist()]][None]
        wanted = model.norm(model.blocks(kept))[:, 0]
        assert torch.allclose(found[row], wanted[0], atol=1e-6)


def test_keeping_every_patch_equals_timms_own_forward() -> None:
    model, images = tiny().eval(), torch.rand(3, 1, 32, 32)
    assert torch.allclose(vit.class_token(model, images, torch.arange(16).expand(3, -1)), model(images), atol=1e-5)
    assert torch.allclose(vit.class_token(model, images), model(images), atol=1e-6)


@pytest.mark.parametrize(
    "extra", [{}, {"qk_norm": True, "init_values": 0.1}, {"qkv_bias": False}, {"reg_tokens": 2}, {"global_pool": "avg"}]
)
def test_the_last_block_for_the_class_token_alone_is_the_last_block(extra: dict[str, object]) -> None:
    """Value and gradients of every weight, against timm's own forward; where all tokens are read, none is left out."""
    torch.manual_seed(0)
    arguments = vit.architecture(TINY, 32).arguments()
    model = timm.create_model(**arguments, **extra, num_classes=0, in_chans=1, dynamic_img_size=True)
    model, images, weights = model.double(), torch.rand(3, 1, 32, 32).double(), torch.randn(3, 48).double()
    found, wanted = vit.class_token(model, images), model(images)
    assert torch.allclose(found, wanted)
    got = torch.autograd.grad((found * weights).sum(), list(model.parameters()))
    expected = torch.autograd.grad((wanted * weights).sum(), list(model.parameters()))
    for name, ours, theirs in zip(dict(model.named_parameters()), got, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-8), name


def test_the_last_block_works_for_the_class_token_alone() -> None:
    """Work, not seconds: of a last block 10 of 12 D^2 multiplications a token are not done."""
    model, images = tiny(), torch.rand(2, 1, 64, 64)
    with FlopCounterMode(display=False) as ours:
        vit.class_token(model, images)
    with FlopCounterMode(display=False) as theirs:
        model(images)
    tokens, width = 65, 48
    saved = 2 * 2 * ((tokens - 1) * 10 * width**2 + 2 * (tokens - 1) * tokens * width)
    assert theirs.get_total_flops() - ours.get_total_flops() == saved


def test_another_size_than_built_for_passes() -> None:
    assert vit.class_token(tiny(32).eval(), torch.rand(2, 1, 16, 16)).shape == (2, 48)


@pytest.mark.parametrize(("name", "heads"), [("vit_tiny", 3), ("vit_small", 6)])
def test_short_names_are_timms(name: str, heads: int) -> None:
    model = vit.build(vit.architecture(EncoderConfig(name=name), 224), seed=0)
    assert model.blocks[0].attn.num_heads == heads
    published = vit.build(vit.architecture(EncoderConfig(name=name, heads=6), 224), seed=0)
    assert published.blocks[0].attn.num_heads == 6


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = tiny(seed=3).patch_embed.proj.weight
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(first, tiny(seed=3).patch_embed.proj.weight)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(first, tiny(seed=4).patch_embed.proj.weight)


@pytest.mark.parametrize("name", ["resnet18", "vit_tinny_patch16_224"])
def test_a_name_that_is_no_vit_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        vit.build(vit.architecture(EncoderConfig(name=name), 32), seed=0)


def test_saved_encoder_loads_into_the_same_function(tmp_path: Path) -> None:
    model = tiny(seed=5).eval()
    vit.save(
        tmp_path / "encoder",
        vit.PretrainedEncoder(model, 32, 0.4, 0.2, vit.architecture(TINY, 32), Provenance(run="r")),
    )
    images = torch.rand(2, 1, 32, 32)
    for path in (tmp_path, tmp_path / "encoder"):
        loaded = vit.load(path)
        assert torch.equal(loaded.model(images), model(images))
        assert (loaded.size, loaded.grey_mean, loaded.grey_std, loaded.provenance) == (
            32,
            0.4,
            0.2,
            Provenance(run="r"),
        )
    assert not torch.equal(vit.untrained(loaded, seed=0).model(images), model(images))


def test_colour_weights_of_another_size_start_a_grey_encoder(tmp_path: Path) -> None:
    colour = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=2, patch_size=8, img_size=64, num_classes=7)
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    model = tiny(32)
    initialise(model, tmp_path / "colour.safetensors")
    grey = torch.rand(2, 1, 32, 32)
    wanted = colour.patch_embed.proj(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(model.patch_embed.proj(grey), wanted, atol=1e-5)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, colour.blocks[1].mlp.fc1.weight)


def test_weights_that_lack_a_layer_are_refused_not_ignored(tmp_path: Path) -> None:
    weights = tiny().state_dict()
    del weights["blocks.1.mlp.fc1.weight"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.fc1\.weight"):
        initialise(tiny(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="pickled"):
        initialise(tiny(), Path(__file__))
    with pytest.raises(InputError, match=r"expected weights in .*no\.safetensors, found No such file"):
        initialise(tiny(), tmp_path / "no.safetensors")
    with pytest.raises(InputError, match="found nothing; check the path"):
        initialise(tiny(), tmp_path / "no-run")


def test_head_normalises_like_torch_batchnorm() -> None:
    ours, theirs = siamese.GlobalBatchNorm(6), torch.nn.BatchNorm1d(6)
    x = torch.randn(20, 6) * 3 + 1
    for _ in range(3):
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert torch.allclose(ours.running_var, theirs.running_var)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)


def test_target_follows_the_closed_form_of_the_ema() -> None:
    net = networks()
    start = net.target_encoder.blocks[0].attn.qkv.weight.clone()
    with torch.no_grad():
        net.encoder.blocks[0].attn.qkv.weight.add_(1.0)
    anchor = net.encoder.blocks[0].attn.qkv.weight
    for _ in range(5):
        net.move_target(0.9)
    wanted = anchor + 0.9**5 * (start - anchor)
    assert torch.allclose(net.target_encoder.blocks[0].attn.qkv.weight, wanted, atol=1e-6)


def test_the_target_is_never_trained_and_frozen_prototypes_neither() -> None:
    assert not any("target" in name for name in networks().trained_parameters())
    assert "prototypes" in networks().trained_parameters()
    assert "prototypes" not in networks(train_prototypes=False).trained_parameters()
    assert networks().prototypes.abs().max() <= 1 / np.sqrt(24)


def test_chart_joins_the_anchor_as_the_paper_says() -> None:
    chart = ChartJoinsAnchor(48, 5, 16)
    v, x = torch.randn(6, 48), torch.randn(3, 5)
    joined = chart(v, x)
    for row in range(6):
        wanted = chart.g(torch.cat((v[row], chart.f(x[row % 3]))))
        assert torch.allclose(joined[row], wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_patches_times_a_matrix_are_the_convolution(size: tuple[int, int]) -> None:
    """Values and gradients, in float64; and the weights keep timm's names."""
    model = tiny(seed=2).double()
    images = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    proj = model.patch_embed.proj
    plain = torch.nn.functional.conv2d(images, proj.weight, proj.bias, stride=proj.stride)
    found = proj(images)
    weight = torch.rand(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((each * weight).sum(), (proj.weight, proj.bias)) for each in (found, plain)]
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradients[0], gradients[1])
    timms = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1)
    assert {name for name in timms.state_dict() if "patch_embed" in name} == {
        name for name in model.state_dict() if "patch_embed" in name
    }


def test_attention_is_fused_where_a_gpu_runs_it_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU that is not used must compute as one without: the choice is the device's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as timm and we would find there
    model = tiny(seed=2)
    vit.on_device(model, torch.device("cpu"))
    assert not any(block.attn.fused_attn for block in model.blocks)
