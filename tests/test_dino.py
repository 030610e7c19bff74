"""DINO: its loss against a float64 version and lightly's, its centre, and a run from first step to encoder."""

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss
from torch import Tensor

from chartray.objectives import dino


def batch(views: int = 5, films: int = 12, outputs: int = 20, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the anchor (V, B, K), of the target (2, B, K), and a centre (K,)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (views, films, outputs), (2, films, outputs), (outputs,)
    anchor, target, centre = (torch.rand(shape, generator=generator) * 2 - 1 for shape in shapes)
    return anchor, target, centre / 4


def dino_terms(
    anchor: Tensor, target: Tensor, centre: Tensor, temperature: float = 0.1, target_temperature: float = 0.04
) -> dino.DINOTerms:
    """The terms from logits."""
    predicted = torch.log_softmax(anchor / temperature, dim=-1)
    return dino.terms_of(predicted, dino.centred(target, centre, target_temperature))


def oracle(anchor: np.ndarray, target: np.ndarray, centre: np.ndarray) -> float:
    """Equation 3 of the paper, term by term, in float64."""

    def softmax(logits: np.ndarray) -> np.ndarray:
        e = np.exp(logits - logits.max())
        return e / e.sum()

    terms = [
        -float(softmax((target[t, b] - centre) / 0.04) @ np.log(softmax(anchor[v, b] / 0.1)))
        for t in range(len(target))
        for v in range(len(anchor))
        for b in range(anchor.shape[1])
        if t != v
    ]
    return float(np.mean(terms))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("views", [2, 5])
def test_equals_the_formula_in_float64(seed: int, views: int) -> None:
    anchor, target, centre = batch(views, seed=seed)
    found = dino_terms(anchor, target, centre)
    wanted = oracle(anchor.double().numpy(), target.double().numpy(), centre.double().numpy())
    assert found.cross_entropy.item() == pytest.approx(wanted, rel=1e-5)
    p = (anchor.double() / 0.1).softmax(dim=-1).mean(dim=(0, 1))
    assert found.mean_entropy.item() == pytest.approx(np.log(20) + float((p * p.log()).sum()), rel=1e-4)


def test_loss_gradient_and_centre_equal_lightlys_over_three_batches() -> None:
    theirs, centre = DINOLoss(output_dim=20, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9), torch.zeros(20)
    for seed in range(3):
        anchor, target, _ = batch(seed=seed)
        mine, other = anchor.clone().requires_grad_(), anchor.clone().requires_grad_()
        found = dino_terms(mine, target, centre).cross_entropy
        wanted = theirs(list(target), list(other))
        found.backward()
        wanted.backward()
        centre = dino.moved_centre(centre, target, 0.9)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
        assert mine.grad is not None
        assert torch.allclose(mine.grad, other.grad, atol=1e-7)
        assert torch.allclose(centre, theirs.center.flatten(), atol=1e-7)


def test_a_view_is_not_compared_with_itself() -> None:
    """Two views: what the anchor says of view 0 meets the target's view 1 alone, so target view 0 is no matter."""
    anchor, target, centre = batch(views=2)
    anchor.requires_grad_()
    gradients = []
    for changed in (0.0, 1.0):
        other = target.clone()
        other[0] += changed * torch.rand(other[0].shape, generator=torch.Generator().manual_seed(9))
        gradients.append(torch.autograd.grad(dino_terms(anchor, other, centre).cross_entropy, anchor)[0])
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.equal(gradients[0][1], gradients[1][1])
    with pytest.raises(ValueError, match="two views or more"):
        dino_terms(anchor[:1].detach(), target[:1], centre)


def test_the_target_and_the_centre_get_no_gradient() -> None:
    anchor, target, centre = (part.requires_grad_() for part in batch())
    sum(dino_terms(anchor, target, centre)).backward()
    assert target.grad is None
    assert centre.grad is None
    assert anchor.grad is not None
    assert (anchor.grad.abs().sum(dim=-1) > 0).all()


def test_the_centre_is_that_of_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with a third and two thirds of the images: sums are added before they are divided."""
    _, target, centre = batch()
    parts = [target[:, :4], target[:, 4:]]
    whole = dino.moved_centre(centre, target)
    for part, other in (parts, parts[::-1]):
        flat = other.flatten(0, 1)

        def all_sum(mine: Tensor, flat: Tensor = flat) -> Tensor:
            return mine + (flat.sum(dim=0) if mine.ndim else float(len(flat)))

        monkeypatch.setattr(dino, "all_sum", all_sum)
        assert torch.allclose(dino.moved_centre(centre, part, 0.9), whole, atol=1e-6)


def test_finite_at_low_temperature_and_for_outputs_all_alike() -> None:
    anchor, target, centre = batch()
    for a, t in ((anchor, target), (torch.ones_like(anchor), torch.ones_like(target))):
        a.requires_grad_()
        found = dino_terms(a, t, centre, temperature=0.01, target_temperature=1e-3)
        found.cross_entropy.backward()
        assert torch.isfinite(found.cross_entropy)
        assert a.grad is not None
        assert torch.isfinite(a.grad).all()


def test_logits_are_cosines_with_unit_rows_as_in_a_weight_normed_layer() -> None:
    z, q = torch.randn(6, 8), torch.randn(5, 8)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 5, bias=False))
    with torch.no_grad():
        layer.parametrizations.weight.original1.copy_(q)
        layer.parametrizations.weight.original0.fill_(1.0)
        wanted = layer(torch.nn.functional.normalize(z, dim=1))
    assert torch.allclose(dino.cosine_logits(z, q), wanted, atol=1e-6)


def test_the_loss_of_many_outputs_is_summed_without_losing_digits() -> None:
    """One long matrix product of half a million terms is 1.5e-3 off in float32: against float64."""
    generator = torch.Generator().manual_seed(0)
    anchor = torch.log_softmax(torch.randn(10, 64, 8192, generator=generator), dim=-1)
    target = torch.log_softmax(3 * torch.randn(2, 64, 8192, generator=generator), dim=-1)
    found = dino.terms_of(anchor, target).cross_entropy
    assert found.item() == pytest.approx(dino.terms_of(anchor.double(), target.double()).cross_entropy.item(), abs=1e-5)
