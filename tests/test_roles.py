"""The roles of chart variables: each loss against a version in float64, the gradients by hand, and whole runs."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from chartray.config.pretrain import ChartConfig
from chartray.features import Chart, Encoding
from chartray.networks.chart import ChartBatch, ChartRoles, ContrastsLevels, PredictsVariable
from chartray.objectives import roles
from chartray.training.chart_roles import with_chart

B, V, D, L, P = 6, 3, 16, 4, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(count: int = L, seed: int = 0) -> Tensor:
    places = torch.randint(count, (B,), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(places, count).float()


SEEN = torch.tensor([True, False, True, True, False, True])


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def unit(rows: Tensor) -> np.ndarray:
    wide = rows.double().numpy()
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def test_prediction_is_cross_entropy_and_squared_error_of_what_was_observed() -> None:
    guess, truth = drawn(V * B, L), levels()
    wanted = [
        -np.log(softmax(guess[v * B + b].double().numpy())[int(truth[b].argmax())])
        for v in range(V)
        for b in range(B)
        if SEEN[b]
    ]
    assert roles.prediction(guess, truth, SEEN, None).item() == pytest.approx(np.mean(wanted), rel=1e-6)

    number, low, high = drawn(B, 1, seed=1), -1.5, 2.5
    errors = [
        (low + (high - low) / (1 + np.exp(-guess[v * B + b, 0].double().item())) - number[b, 0].double().item()) ** 2
        for v in range(V)
        for b in range(B)
        if SEEN[b]
    ]
    found = roles.prediction(guess[:, :1], number, SEEN, (low, high))
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-6)


def test_centroids_follow_each_level_and_absent_ones_stay() -> None:
    before, embeddings, truth = drawn(L, P, seed=2), drawn(V * B, P), torch.nn.functional.pad(levels(L - 1), (0, 1))
    after = roles.moved_centroids(before, embeddings, truth, SEEN, momentum=0.9)
    rows = unit(embeddings)
    for level in range(L):
        members = [rows[v * B + b] for v in range(V) for b in range(B) if SEEN[b] and truth.argmax(dim=1)[b] == level]
        old = before[level].double().numpy()
        wanted = 0.9 * old + 0.1 * np.mean(members, axis=0) if members else old
        assert np.allclose(after[level], wanted, atol=1e-6)
    assert torch.equal(after[L - 1], before[L - 1])


def test_the_prototypical_contrast_is_info_nce_against_the_centroids() -> None:
    embeddings, centroids, truth = drawn(V * B, P), drawn(L, P, seed=2), levels()
    logits = unit(embeddings) @ unit(centroids).T / 0.05
    wanted = [
        -np.log(softmax(logits[v * B + b])[int(truth[b].argmax())]) for v in range(V) for b in range(B) if SEEN[b]
    ]
    found = roles.prototypical_contrast(embeddings, centroids, truth, SEEN, temperature=0.05)
    assert found.item() == pytest.approx(np.mean(wanted), rel=1e-5)

    # A level without a centroid is no rival, and its images have no loss.
    unknown = int(truth[0].argmax())
    centroids[unknown] = 0
    kept = [level for level in range(L) if level != unknown]
    wanted = [
        -np.log(softmax(logits[v * B + b][kept])[kept.index(int(truth[b].argmax()))])
        for v in range(V)
        for b in range(B)
        if SEEN[b] and int(truth[b].argmax()) != unknown
    ]
    found = roles.prototypical_contrast(embeddings, centroids, truth, SEEN, temperature=0.05)
    assert found.item() == pytest.approx(np.mean(wanted), rel=1e-5)


def test_the_image_table_contrast_is_symmetrical_info_nce() -> None:
    images, tables = drawn(V * B, P), drawn(B, P, seed=3)
    rows, charts, pairs = unit(images), unit(tables), np.flatnonzero(SEEN)
    wanted = []
    for v in range(V):
        cosine = rows[v * B : (v + 1) * B][pairs] @ charts[pairs].T / 0.2
        for own in range(len(pairs)):
            wanted.append(-0.5 * np.log(softmax(cosine[own])[own]) - 0.5 * np.log(softmax(cosine[:, own])[own]))
    found = roles.image_table_contrast(images, tables, SEEN, temperature=0.2)
    assert found.item() == pytest.approx(np.mean(wanted), rel=1e-5)


def readings(levels_of: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Class tokens (V*N, D), a variable (N, C) that part of them shows, and what of it was observed (N,)."""
    count = 200
    tokens = drawn(count, D, seed=seed).repeat(V, 1) + 0.5 * drawn(V * count, D, seed=seed + 1) + 3
    if levels_of == 1:
        truth = tokens[:count, :1] + drawn(count, 1, seed=seed + 2)
    else:
        truth = torch.nn.functional.one_hot((tokens[:count, 0] - 3 > 0).long() + (tokens[:count, 1] > 3), levels_of)
    return tokens, truth.float(), torch.arange(count) % 3 > 0


def r2_of_least_squares(tokens: Tensor, truth: Tensor, observed: Tensor, columns: slice) -> float:
    """The mean of R2 over whitened directions is that over the canonical ones: here by least squares and QR."""
    seen = observed.repeat(V).numpy()
    x, y = (each.double().numpy()[seen] for each in (tokens, truth.repeat(V, 1)[:, columns]))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.square(np.linalg.qr(x)[0].T @ np.linalg.qr(y)[0]).sum() / y.shape[1])


def no_moments(levels_of: int) -> roles.SecondMoments:
    """Those of a run before its first step."""
    return roles.SecondMoments(torch.zeros(D, D), torch.zeros(D, levels_of), torch.zeros(levels_of, levels_of))


@pytest.mark.parametrize("levels_of", [1, 3])
def test_the_readable_share_is_r2_of_least_squares(levels_of: int) -> None:
    tokens, truth, observed = readings(levels_of)
    nothing = no_moments(levels_of)
    moments = roles.moved_moments(nothing, tokens, truth, observed)
    # Of one-hot columns one says nothing more.
    wanted = r2_of_least_squares(tokens, truth, observed, slice(max(levels_of - 1, 1)))
    assert 0.1 < wanted < 0.9
    found = roles.readable_share(tokens, truth, observed, moments, ridge=0.0)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    assert 0.95 * wanted < roles.readable_share(tokens, truth, observed, moments).item() < wanted


def test_moments_move_by_their_momentum_and_stay_where_nothing_is_observed() -> None:
    tokens, truth, observed = readings(1)
    nothing = no_moments(1)
    first = roles.moved_moments(nothing, tokens, truth, observed)
    seen = observed.repeat(V).numpy()
    joint = np.hstack([tokens.double().numpy(), truth.repeat(V, 1).double().numpy()])[seen]
    wanted = np.cov(joint.T, bias=True)
    for mine, other in zip(first, (wanted[:D, :D], wanted[:D, D:], wanted[D:, D:]), strict=True):
        assert np.allclose(mine, other, atol=1e-4)
    other = roles.moved_moments(nothing, *readings(1, seed=5))
    moved = roles.moved_moments(first, *readings(1, seed=5), momentum=0.75)
    assert all(torch.allclose(c, 0.75 * a + 0.25 * b, atol=1e-5) for a, b, c in zip(first, other, moved, strict=True))
    still = roles.moved_moments(first, tokens, truth, torch.zeros_like(observed))
    assert all(torch.equal(a, b) for a, b in zip(first, still, strict=True))


@pytest.mark.parametrize("levels_of", [1, 3])
def test_the_gradient_of_the_readable_share_is_that_of_r2(levels_of: int) -> None:
    """With the moments of the batch itself: autograd in float64, through the inverse of its covariance."""
    tokens, truth, observed = readings(levels_of)
    moments = roles.moved_moments(no_moments(levels_of), tokens, truth, observed)
    tokens.requires_grad_()
    (found,) = torch.autograd.grad(roles.readable_share(tokens, truth, observed, moments, ridge=0.0), tokens)
    exact, columns = tokens.detach().double().requires_grad_(), slice(max(levels_of - 1, 1))
    seen, rows = observed.repeat(V), truth.repeat(V, 1).double()[:, columns]
    x, y = exact[seen] - exact[seen].mean(dim=0), rows[seen] - rows[seen].mean(dim=0)
    share = torch.linalg.solve(y.T @ y, y.T @ x) @ torch.linalg.solve(x.T @ x, x.T @ y)
    (wanted,) = torch.autograd.grad(share.trace() / y.shape[1], exact)
    assert torch.allclose(found.double(), wanted, rtol=1e-3, atol=1e-7)
    assert not found[~seen].any()


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_evenness_and_its_gradient_are_those_of_a_log_determinant(ridge: float) -> None:
    """With the moments of the batch itself: autograd in float64, with the mean variance that it is divided by."""
    tokens, truth, observed = readings(1)
    tokens = tokens * torch.linspace(0.1, 2.0, D)
    moments = roles.moved_moments(no_moments(1), tokens, truth, observed)
    tokens.requires_grad_()
    value = roles.evenness(tokens, truth, observed, moments, ridge)
    (found,) = torch.autograd.grad(value, tokens)
    exact, seen = tokens.detach().double().requires_grad_(), observed.repeat(V)
    x = exact[seen] - exact[seen].mean(dim=0)
    covariance = x.T @ x / len(x)
    wanted = torch.logdet(covariance / (covariance.trace() / D) + ridge * torch.eye(D)) / D
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert value.item() < np.log(1 + ridge)
    (pull,) = torch.autograd.grad(wanted, exact)
    assert torch.allclose(found.double(), pull, rtol=1e-3, atol=1e-7)
    assert not found[~seen].any()


@pytest.mark.parametrize("loss", [roles.readable_share, roles.evenness])
def test_the_losses_of_decorrelate_do_not_change_the_scale(loss: Callable[..., Tensor]) -> None:
    """Whatever the moments: otherwise the class tokens shrink towards their mean (measured: to 2e-6 of its length)."""
    moments = roles.moved_moments(no_moments(1), *readings(1))
    tokens, truth, observed = readings(1, seed=5)
    tokens.requires_grad_()
    (pull,) = torch.autograd.grad(loss(tokens, truth, observed, moments), tokens)
    seen = observed.repeat(V)
    about_the_mean = (tokens - tokens[seen].mean(dim=0))[seen]
    assert pull.norm() > 1e-4
    assert (pull[seen] * about_the_mean).sum().abs() < 1e-4 * pull.norm() * about_the_mean.norm()
    assert pull.sum(dim=0).abs().max() < 1e-4 * pull.abs().sum()


def test_a_descent_of_the_readable_share_leaves_less_to_read() -> None:
    """Batch after batch, of one linear map of the tokens: less can be read from it by fresh least squares."""
    torch.manual_seed(0)
    layer, width = torch.nn.Linear(D, D), slice(1)
    moments = no_moments(1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for step in range(400):
        tokens, truth, observed = readings(1, seed=3 * step)
        tokens = layer(tokens)
        moments = roles.moved_moments(moments, tokens, truth, observed)
        optimizer.zero_grad()
        roles.readable_share(tokens, truth, observed, moments).backward()
        optimizer.step()
        decay.step()
    fresh, truth, observed = readings(1, seed=10_000)
    assert r2_of_least_squares(fresh, truth, observed, width) > 0.4
    with torch.no_grad():
        made = layer(fresh)
    # A linear map can only make a direction small, which least squares without a ridge would still read.
    made += 0.03 * made.std() * drawn(*made.shape, seed=10_003)
    assert r2_of_least_squares(made, truth, observed, width) < 0.3


def test_nothing_observed_is_no_loss_and_no_gradient() -> None:
    none = torch.zeros(B, dtype=torch.bool)
    tokens = drawn(V * B, P).requires_grad_()
    found = [
        roles.prediction(tokens[:, :L], levels(), none, None),
        roles.prototypical_contrast(tokens, drawn(L, P, seed=2), levels(), none),
        roles.image_table_contrast(tokens, drawn(B, P, seed=3), none),
        roles.readable_share(
            tokens, levels(), none, roles.SecondMoments(torch.eye(P), torch.zeros(P, L), torch.eye(L))
        ),
    ]
    for loss in found:
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, tokens, retain_graph=True)[0].any()


def test_heads_have_gradients_of_equal_norm_on_the_class_token() -> None:
    given = [drawn(V * B, D), 100 * drawn(V * B, D, seed=1), torch.zeros(V * B, D)]
    one, other, nothing = roles.of_equal_norm(given)
    mean = (given[0].norm() + given[1].norm()) / 2
    assert one.norm().item() == pytest.approx(mean.item(), rel=1e-5)
    assert other.norm().item() == pytest.approx(mean.item(), rel=1e-5)
    assert torch.allclose(one / one.norm(), given[0] / given[0].norm(), atol=1e-6)
    assert not nothing.any()


def chart_of(*given: str) -> Chart:
    """Sex (2 levels) and age (a number), each in the roles given: "sex=suppress"."""
    made = []
    for name, role in (each.split("=") for each in given):
        read = role in ("anchor", "mmcl")
        one = {"variable": name, "role": role, "flagged": read}
        if name == "sex" or "contrast" in role:
            one |= {"columns": (f"{name} a", f"{name} b"), "levels": ("a", "b")}
        else:
            one |= {"columns": (name,), "bounds": (-2.0, 2.0)}
        made.append(Encoding.model_validate(one))
    return Chart(ehr="sex,age", rules="strict", encodings=tuple(made))


def batch_of(chart: Chart, ramp: float = 1.0) -> ChartBatch:
    """Charts drawn at random; of each encoding one image in three lacks the value."""
    rows, observed = torch.zeros(B, chart.ehr_in), torch.ones(B, len(chart.encodings), dtype=torch.bool)
    for place, block in enumerate(chart.blocks):
        missing = torch.arange(B) % 3 == place % 3
        values = levels(2, seed=place) if block.kind == "categorical" else drawn(B, 1, seed=place).clamp(-2, 2)
        rows[:, block.start : block.stop] = values.masked_fill(missing[:, None], 0.0)
        observed[missing, place] = False
        if block.flag is not None:
            rows[:, block.flag] = (~missing).float()
    return ChartBatch(rows, observed, ramp)


def built(chart: Chart, **settings: float) -> ChartRoles:
    torch.manual_seed(0)
    return ChartRoles(chart, ChartConfig.model_validate({"width": P, "temperature": 0.5} | settings), D)


def by_autograd(module: ChartRoles, chart: Chart, batch: ChartBatch, place: int, tokens: Tensor) -> Tensor:
    """The loss of the head at `place`, written out once more with its own graph."""
    head, columns = module.each_head()[place], module.each_head()[place].columns
    truth, seen = batch.rows[:, columns], batch.observed[:, place]
    assert isinstance(head, PredictsVariable)
    return roles.prediction(head.guess(tokens), truth, seen, head.bounds)


def test_gradient_reversal_is_what_autograd_gives_with_the_sign_turned() -> None:
    """One head alone: the class token gets -weight / 10 * ramp of the head's gradient, the head its own gradient."""
    chart = chart_of("sex=suppress")
    module, batch, tokens = built(chart, weight=3.0), batch_of(chart, ramp=0.25), drawn(V * B, D).requires_grad_()
    same, losses = with_chart(module, tokens, batch)
    assert same is tokens
    losses.total.backward()
    found = {"tokens": tokens.grad} | {name: value.grad for name, value in module.named_parameters()}

    loss = by_autograd(module, chart, batch, 0, tokens)
    on_token, *on_head = torch.autograd.grad(loss, [tokens, *module.parameters()])
    assert torch.allclose(found.pop("tokens"), -0.3 * 0.25 * on_token, rtol=1e-5, atol=1e-9)
    for mine, wanted in zip(found.values(), on_head, strict=True):
        assert torch.allclose(mine, 0.3 * wanted, rtol=1e-5, atol=1e-9)
    assert losses.heads["sex.suppress"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert losses.total.item() == pytest.approx(0.3 * loss.item(), rel=1e-5)


def test_a_head_that_informs_and_one_that_is_deceived_pull_as_their_weights_say() -> None:
    chart = chart_of("sex=predict", "age=suppress")
    module, batch, tokens = built(chart), batch_of(chart), drawn(V * B, D).requires_grad_()
    with_chart(module, tokens, batch)[1].total.backward()
    sex, age = (
        torch.autograd.grad(by_autograd(module, chart, batch, place, tokens), tokens)[0].double() for place in (0, 1)
    )
    mean = (sex.norm() + age.norm()) / 2
    wanted = mean * (sex / sex.norm() - 0.1 * age / age.norm())
    assert torch.allclose(tokens.grad.double(), wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("role", ["predict", "contrast", "mmcl", "suppress", "suppress-contrast", "decorrelate"])
def test_what_is_missing_has_no_loss_whatever_stands_there(role: str) -> None:
    """Not a zero: another value in a missing cell changes neither loss nor gradient. MMCL reads the flag beside it."""
    chart = chart_of(f"sex={role}") if role == "mmcl" else chart_of(f"sex={role}", f"age={role}")
    batch = batch_of(chart)
    changed = batch.rows.clone()
    for place, block in enumerate(chart.blocks):
        changed[~batch.observed[:, place], block.start : block.stop] = 7.0
    found = []
    for rows in (batch.rows, changed):
        module, tokens = built(chart), drawn(V * B, D).requires_grad_()
        _, losses = with_chart(module, tokens, batch._replace(rows=rows))
        losses.total.backward()
        found.append((losses.total.item(), tokens.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][0] > 0


@pytest.mark.parametrize("role", ["predict", "contrast", "mmcl", "suppress", "suppress-contrast", "decorrelate"])
def test_losses_and_gradients_of_the_heads_are_float32_in_a_step_in_bf16(role: str) -> None:
    """What masks an unknown level or a missing chart is no number of bf16: contrast and mmcl stopped a run there."""
    chart = chart_of(f"sex={role}", f"age={role}")
    found = []
    for bf16 in (False, True):
        module, tokens = built(chart), drawn(V * B, D).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            _, losses = with_chart(module, tokens, batch_of(chart))
        losses.total.backward()
        found.append((losses.total, tokens.grad))
    assert found[1][0].dtype == torch.float32
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_before_the_ramp_the_heads_learn_and_the_encoder_is_left_alone() -> None:
    chart = chart_of("sex=predict", "age=contrast")
    module, tokens = built(chart), drawn(V * B, D).requires_grad_()
    with_chart(module, tokens, batch_of(chart, ramp=0.0))[1].total.backward()
    assert not tokens.grad.any()
    assert all(value.grad.abs().sum() > 0 for value in module.parameters())


def test_one_variable_may_join_the_anchor_and_be_suppressed() -> None:
    chart = chart_of("sex=anchor", "age=anchor", "sex=suppress")
    module, batch, tokens = built(chart), batch_of(chart), drawn(V * B, D)
    joined, losses = with_chart(module, tokens, batch)
    assert module.joins is not None
    assert module.joined_columns == slice(0, 5)  # the flags too
    assert torch.equal(joined, module.joins(tokens, batch.rows[:, :5]))
    assert list(losses.heads) == ["sex.suppress"]


def test_centroids_move_in_training_alone() -> None:
    chart = chart_of("sex=contrast")
    module, batch = built(chart), batch_of(chart)
    (head,) = module.each_head()
    assert isinstance(head, ContrastsLevels)
    assert not any(value.requires_grad for value in module.buffers())
    module.eval()
    assert with_chart(module, drawn(V * B, D), batch)[1].total == 0  # no centroid yet
    assert not head.centroids.any()
    module.train()
    with_chart(module, drawn(V * B, D), batch)
    assert torch.equal(head.centroids.any(dim=1), (batch.rows[:, :2].sum(dim=0) > 0))
    assert "heads.0.centroids" in module.state_dict()


def names(heads: Sequence[torch.nn.Module]) -> list[str]:
    return [type(head).__name__ for head in heads]


def test_the_variables_of_mmcl_share_a_head_and_the_others_have_one_each() -> None:
    module = built(chart_of("sex=anchor", "age=predict", "sex=contrast", "sex=mmcl", "age=mmcl", "age=suppress"))
    assert names(module.each_head()) == ["PredictsVariable", "ContrastsLevels", "MatchesTable", "PredictsVariable"]
    assert built(chart_of("sex=anchor")).each_head() == []
    assert ChartRoles(None, ChartConfig(), D).joins is None
