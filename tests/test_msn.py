"""The MSN loss: its marginals, its gradients, a float64 oracle, and lightly's loss."""

import math

import numpy as np
import pytest
import torch
from lightly.loss import MSNLoss
from torch import Tensor

from chartray.objectives import msn


def batch(views: int = 3, films: int = 24, width: int = 16, prototypes: int = 12, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (views * films, width), (films, width), (prototypes, width)
    anchor, target, q = (torch.randn(shape, generator=generator) for shape in shapes)
    return anchor, target, q


def oracle(anchor: np.ndarray, target: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """The equations of docs/method.md, line by line, in float64."""

    def assign(z: np.ndarray) -> np.ndarray:
        cosine = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (q / np.linalg.norm(q, axis=1, keepdims=True)).T
        e = np.exp(cosine / 0.1)
        return e / e.sum(axis=1, keepdims=True)

    sharp = assign(target) ** (1 / 0.25)
    sharp /= sharp.sum(axis=1, keepdims=True)
    for _ in range(3):
        sharp /= sharp.sum(axis=0, keepdims=True)
        sharp /= sharp.sum(axis=1, keepdims=True)
    p = assign(anchor)
    expected = np.tile(sharp, (len(anchor) // len(target), 1))
    mean = p.mean(axis=0)
    return float(-(expected * np.log(p)).sum(axis=1).mean()), float(math.log(len(q)) + (mean * np.log(mean)).sum())


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_formula_in_float64(seed: int) -> None:
    anchor, target, q = batch(seed=seed)
    found = msn.msn_terms(anchor, target, q)
    wanted = oracle(anchor.double().numpy(), target.double().numpy(), q.double().numpy())
    assert found.cross_entropy.item() == pytest.approx(wanted[0], rel=1e-5)
    assert found.mean_entropy.item() == pytest.approx(wanted[1], rel=1e-4)


@pytest.mark.parametrize(("films", "prototypes"), [(24, 12), (64, 1024)])
def test_equals_lightlys_loss(films: int, prototypes: int) -> None:
    anchor, target, q = batch(views=2, films=films, width=32, prototypes=prototypes)
    terms = msn.msn_terms(anchor, target, q)
    # lightly expects its anchors view-major too.
    theirs = MSNLoss(temperature=0.1, sinkhorn_iterations=3, regularization_weight=1.0)(anchor, target, q, 0.25)
    assert sum(terms).item() == pytest.approx(theirs.item(), abs=2e-4)


def test_gradients_equal_lightlys() -> None:
    gradients = []
    for loss in ("ours", "lightly"):
        anchor, target, q = (part.requires_grad_() for part in batch(views=2, films=32, prototypes=64))
        if loss == "ours":
            terms = msn.msn_terms(anchor, target, q)
            total = terms.cross_entropy + terms.mean_entropy
        else:
            total = MSNLoss()(anchor, target.detach(), q, 0.25)
        total.backward()
        gradients.append((anchor.grad, q.grad))
    for mine, theirs in zip(*gradients, strict=True):
        assert mine is not None
        assert theirs is not None
        assert (mine - theirs).norm() / theirs.norm() < 1e-4


def test_prototypes_get_a_gradient_and_the_target_none() -> None:
    anchor, target, q = (part.requires_grad_() for part in batch())
    terms = msn.msn_terms(anchor, target, q)
    (terms.cross_entropy + terms.mean_entropy).backward()
    assert target.grad is None
    assert q.grad is not None
    assert anchor.grad is not None
    assert q.grad.abs().sum() > 0
    assert (anchor.grad.abs().sum(dim=1) > 0).all()


def test_sinkhorn_reaches_both_marginals() -> None:
    _, target, q = batch(films=40, prototypes=10)
    balanced = msn.sinkhorn(msn.log_assign(target, q, 0.1), 200).exp()
    assert torch.allclose(balanced.sum(dim=1), torch.ones(40), atol=1e-5)
    assert torch.allclose(balanced.sum(dim=0), torch.full((10,), 4.0), atol=1e-3)


def test_sinkhorn_is_the_diagonal_scaling_of_its_input() -> None:
    """Any wrong balancing that has the marginals still fails here: log Q - log P must be a row plus a column term."""
    _, target, q = batch(films=12, prototypes=6)
    before = msn.log_assign(target, q, 0.1)
    change = (msn.sinkhorn(before, 3) - before).double()
    residual = change - change.mean(dim=0) - change.mean(dim=1, keepdim=True) + change.mean()
    assert residual.abs().max() < 1e-4


def test_finite_at_low_temperature_and_for_identical_embeddings() -> None:
    anchor, target, q = batch()
    for a, t in ((anchor, target), (torch.ones_like(anchor), torch.ones_like(target))):
        terms = msn.msn_terms(a.requires_grad_(), t, q, temperature=0.01, sharpening=0.1)
        (terms.cross_entropy + terms.mean_entropy).backward()
        assert torch.isfinite(terms.cross_entropy)
        assert a.grad is not None
        assert torch.isfinite(a.grad).all()


def test_bounds_of_the_terms() -> None:
    _, target, q = batch(prototypes=8)
    same = torch.ones(72, 16)
    one = msn.msn_terms(same * q[0], target, q, temperature=0.01)
    assert one.mean_entropy.item() == pytest.approx(math.log(8), abs=1e-2)  # everything on one prototype
    assert msn.msn_terms(q.repeat(9, 1), target, q, temperature=0.05).mean_entropy.item() < 0.02


def test_a_number_of_anchors_that_is_no_multiple_is_refused() -> None:
    anchor, target, q = batch()
    with pytest.raises(ValueError, match="found 71"):
        msn.msn_terms(anchor[:-1], target, q)


def test_the_loss_of_a_batch_is_not_the_mean_of_its_parts() -> None:
    """Why accumulation must be exact or refused (docs/design.md)."""
    anchor, target, q = batch(views=1, films=64, prototypes=1024)
    whole = sum(msn.msn_terms(anchor, target, q))
    parts = [sum(msn.msn_terms(anchor[i::4], target[i::4], q)) for i in range(4)]
    assert abs(whole.item() - sum(p.item() for p in parts) / 4) > 0.1


def divergence_from(prior: np.ndarray, anchor: np.ndarray, q: np.ndarray) -> float:
    """KL(mean p || prior) in float64."""
    cosine = (anchor / np.linalg.norm(anchor, axis=1, keepdims=True)) @ (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    e = np.exp(cosine / 0.1)
    mean = (e / e.sum(axis=1, keepdims=True)).mean(axis=0)
    return float((mean * np.log(mean / prior)).sum())


@pytest.mark.parametrize("exponent", [0.25, 1.0, 3.0])
def test_a_power_law_prior_equals_the_divergence_in_float64(exponent: float) -> None:
    anchor, target, q = batch()
    share = np.arange(1, 13) ** -exponent
    found = msn.msn_terms(anchor, target, q, log_prior=msn.log_power_law(12, exponent))
    wanted = divergence_from(share / share.sum(), anchor.double().numpy(), q.double().numpy())
    assert (found.mean_entropy + found.prior).item() == pytest.approx(wanted, rel=1e-4)
    assert found[:2] == msn.msn_terms(anchor, target, q)[:2]  # the monitor still reads the entropy


def test_an_exponent_of_0_is_me_max_to_the_gradient() -> None:
    gradients = []
    for prior in (None, msn.log_power_law(12, 0.0), msn.log_power_law(12, 1e-7)):
        anchor, target, q = batch()
        terms = msn.msn_terms(anchor.requires_grad_(), target, q, log_prior=prior)
        assert terms.prior.item() == pytest.approx(0, abs=1e-6)
        (terms.mean_entropy + terms.prior).backward()
        gradients.append(anchor.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-8)


def test_anchors_that_follow_the_prior_have_the_least_divergence() -> None:
    """log p = log prior for every anchor: KL 0, where me-max alone would push them apart."""
    prior = msn.log_power_law(12, 1.0)
    follows = msn.Assignments(anchor=prior.repeat(6, 1), target=prior.repeat(6, 1))
    terms = msn.terms_of(follows, prior)
    assert (terms.mean_entropy + terms.prior).item() == pytest.approx(0, abs=1e-6)
    assert terms.mean_entropy.item() > 0.3
