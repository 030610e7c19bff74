"""Recomputing blocks give the results and gradients of timm's, keep less, and repeat no matrix product."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from chartray.config import pretrain as knobs
from chartray.networks import encoder as vit
from chartray.networks.attention import GatheredAttention, set_ways
from chartray.networks.recomputation import RecomputingBlock, recompute
from chartray.networks.ways import Ways

IMAGES, SIDE, DEPTH, WIDTH = 3, 96, 3, 192


def encoder(*, again: bool, fused: bool = True, compiled: bool = False) -> vit.VisionTransformer:
    model = vit.build(vit.architecture(knobs.load("msn", None, SIZES).encoder, SIDE), seed=0)
    for block in model.blocks:
        block.attn.fused_attn = fused
    if again:
        recompute(model)
        assert all(type(block) is RecomputingBlock for block in model.blocks)
    if compiled:
        for block in model.blocks:
            block.compile(dynamic=False)
    return model


SIZES = {"encoder.name": "vit_tiny", "encoder.depth": DEPTH}


def learned(model: vit.VisionTransformer, *, bf16: bool) -> tuple[Tensor, dict[str, Tensor], int, int]:
    """Class tokens, gradients, bytes kept beside the weights, and operations of both passes."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 1, SIDE, SIDE, generator=generator)
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = vit.class_token(model, images)
        (found.float() * torch.randn(found.shape, generator=generator)).sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return found.detach(), gradients, sum(kept.values()), counter.get_total_flops()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_recomputing_changes_no_bit_and_repeats_no_product(bf16: bool, fused: bool) -> None:
    plain = learned(encoder(again=False, fused=fused), bf16=bf16)
    again = learned(encoder(again=True, fused=fused), bf16=bf16)
    assert torch.equal(plain[0], again[0])
    assert plain[1].keys() == again[1].keys()
    assert all(torch.equal(plain[1][name], again[1][name]) for name in plain[1])
    assert again[3] == plain[3]
    # GELU and both norms: 12 D bytes a token and block in bf16, twice that in fp32; the last block is another.
    tokens = IMAGES * ((SIDE // 16) ** 2 + 1)
    assert plain[2] - again[2] >= 12 * WIDTH * tokens * (DEPTH - 1) * (1 if bf16 else 2)


@pytest.mark.slow
def test_compiled_blocks_recompute_too() -> None:
    eager = learned(encoder(again=False), bf16=True)
    plain = learned(encoder(again=False, compiled=True), bf16=True)
    again = learned(encoder(again=True, compiled=True), bf16=True)
    tokens = IMAGES * ((SIDE // 16) ** 2 + 1)
    assert plain[2] - again[2] >= 12 * WIDTH * tokens * (DEPTH - 1)
    assert again[3] == plain[3]
    for name, value in eager[1].items():
        torch.testing.assert_close(again[1][name], value, rtol=0, atol=0.02 * float(value.abs().max()))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("ways", [Ways("gathered", "fused"), Ways("fused", "fused"), Ways("plain", "plain")])
def test_every_way_of_attention_gives_the_plain_one(ways: Ways, bf16: bool) -> None:
    """Class tokens with and without a gradient, and every weight's gradient, to rounding."""
    plain = encoder(again=True, fused=False)
    other = encoder(again=True)
    set_ways(other, ways)
    expected, found = learned(plain, bf16=bf16), learned(other, bf16=bf16)
    tolerance = 2e-2 if bf16 else 1e-5
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=tolerance * float(expected[0].abs().max()))
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=tolerance * float(value.abs().max()))
    images = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        looked = [vit.class_token(model, images).float() for model in (plain, other)]
    torch.testing.assert_close(looked[1], looked[0], rtol=0, atol=tolerance * float(looked[0].abs().max()))


def test_the_gathered_gradient_is_that_of_differences() -> None:
    projected = torch.randn(2, 5, 3 * 2 * 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: GatheredAttention.apply(x, 2, 0.5), (projected,))
