"""The losses of chart variables on class tokens, one for each role (docs/method.md, "Roles of the chart").

Pure functions in float32; V*B tokens are view-major, and what belongs to an image is (B, ...). Of several processes
each passes its share of the global batch, and the mean of their losses is that of the global batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from chartray.collective import all_sum, gathered


def mean_observed(losses: Tensor, observed: Tensor) -> Tensor:
    """The mean of losses (N,) where `observed` (N,) is true, over the global batch; 0 where nothing is."""
    kept = torch.where(observed, losses, torch.zeros_like(losses)).sum()
    count = all_sum(observed.float().sum())
    processes = all_sum(torch.ones_like(count))
    return kept * processes / count.clamp(min=1)


def prediction(guess: Tensor, truth: Tensor, observed: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """The loss of a predicted variable; what is missing has none.

    guess (V*B, C), truth (B, C), observed (B,) bool. With `bounds` a number: squared error of
    low + (high - low) sigmoid(guess). Without: cross-entropy over C levels, whose shares `truth` holds.
    """
    views = len(guess) // len(truth)
    guess, truth = guess.float(), truth.float().repeat(views, 1)
    if bounds is None:
        losses = cross_entropy(guess, truth, reduction="none")
    else:
        low, high = bounds
        losses = (low + (high - low) * guess.sigmoid() - truth).square().sum(dim=1)
    return mean_observed(losses, observed.repeat(views))


@torch.no_grad()
def moved_centroids(
    centroids: Tensor, embeddings: Tensor, levels: Tensor, observed: Tensor, momentum: float = 0.999
) -> Tensor:
    """Centroids (L, P) moved towards the mean unit embedding of each level in the global batch; absent levels stay.

    embeddings (V*B, P), levels (B, L) shares, observed (B,). They begin at 0: only their direction is used, so what
    the first batches lack in length has no effect.
    """
    views = len(embeddings) // len(levels)
    shares = (levels.float() * observed[:, None]).repeat(views, 1)  # (V*B, L)
    sums = all_sum(shares.T @ normalize(embeddings.float(), dim=1))
    counts = all_sum(shares.sum(dim=0))[:, None]  # (L, 1)
    moved = torch.lerp(sums / counts.clamp(min=torch.finfo(counts.dtype).tiny), centroids, momentum)
    return torch.where(counts > 0, moved, centroids)


def prototypical_contrast(
    embeddings: Tensor, centroids: Tensor, levels: Tensor, observed: Tensor, temperature: float = 0.07
) -> Tensor:
    """ProtoNCE against one centroid a level (Li et al., ICLR 2021): -log softmax(cos(z, c) / tau) at the image's level.

    embeddings (V*B, P), centroids (L, P) without gradient, levels (B, L) shares, observed (B,). A level without a
    centroid yet takes no part, and an image of it has no loss.
    """
    views = len(embeddings) // len(levels)
    known = centroids.square().sum(dim=1) > 0  # (L,)
    cosine = normalize(embeddings.float(), dim=1) @ normalize(centroids.float(), dim=1).T
    logits = (cosine / temperature).masked_fill(~known, torch.finfo(torch.float32).min)
    wanted = (levels.float() * known).repeat(views, 1)
    losses = -(wanted * log_softmax(logits, dim=1)).sum(dim=1)
    return mean_observed(losses, observed.repeat(views) & (wanted.sum(dim=1) > 0))


def image_table_contrast(images: Tensor, tables: Tensor, observed: Tensor, temperature: float = 0.1) -> Tensor:
    """Symmetrical InfoNCE of images and tables (MMCL: Hager et al., CVPR 2023), the mean over anchor views.

    images (V*B, P), tables (B, P), observed (B,): an image without any value is no pair and no rival of one. The rivals
    of a pair are the images and the tables of the global batch.
    """
    tables, seen = normalize(tables.float(), dim=1), observed
    views = normalize(images.float(), dim=1).view(-1, len(tables), tables.shape[1])  # (V, B, P)
    all_tables, first = gathered(tables)
    all_views = gathered(views.transpose(0, 1))[0].transpose(0, 1)  # (V, global B, P)
    absent = ~(gathered(seen.float())[0] > 0)
    own = torch.arange(first, first + len(tables), device=tables.device)
    lowest = torch.finfo(torch.float32).min
    losses = []
    for here, everywhere in zip(views, all_views, strict=True):
        of_images = (here @ all_tables.T / temperature).masked_fill(absent, lowest)
        of_tables = (tables @ everywhere.T / temperature).masked_fill(absent, lowest)
        pair = cross_entropy(of_images, own, reduction="none") + cross_entropy(of_tables, own, reduction="none")
        losses.append(mean_observed(0.5 * pair, seen))
    return torch.stack(losses).mean()


class SecondMoments(NamedTuple):
    """Second moments about the means, of class tokens and a variable: (D, D), (D, C) and (C, C)."""

    tokens: Tensor
    joint: Tensor
    variable: Tensor


@torch.no_grad()
def moved_moments(
    moments: SecondMoments, tokens: Tensor, truth: Tensor, observed: Tensor, momentum: float = 0.9
) -> SecondMoments:
    """The moments moved towards those of the global batch; they begin as those of the first.

    tokens (V*B, D), truth (B, C), observed (B,). A batch in which nothing was observed moves nothing.
    """
    seen, count = _seen(tokens, truth, observed)
    tokens, truth = (
        _centred(each, seen, count) for each in (tokens.float(), truth.float().repeat(len(seen) // len(truth), 1))
    )
    now = [all_sum(a.T @ b) / count for a, b in ((tokens, tokens), (tokens, truth), (truth, truth))]
    kept = torch.where(moments.variable.any(), momentum, 0.0)
    return SecondMoments(
        *(torch.where(count > 1, torch.lerp(a, b, kept), b) for a, b in zip(now, moments, strict=True))
    )


def readable_share(
    tokens: Tensor, truth: Tensor, observed: Tensor, moments: SecondMoments, ridge: float = 1e-3
) -> Tensor:
    """The share of the variable's variance, 0 to 1, that the best linear map reads from class tokens: R2 by `moments`.

    tokens (V*B, D), truth (B, C), observed (B,). Of levels it is the mean over the directions in which they differ.
    It is 0 if and only if no linear probe does better than none (LEACE: Belrose et al., NeurIPS 2023). `ridge`: added
    to the tokens' variances, as a share of their mean.

    The gradient is that of the squared correlation, in this batch, of the variable and what the map reads. The map W
    is that of `moments`, since that of one batch is mostly noise. With J = tr(W' Svz) and P = tr(W' Svv W) of the batch
    it is 2 dJ - (J / P) dP. Where `moments` are the batch's own, J = P = R2, and this is the gradient of R2 (for any
    W that maximizes 2 J - P). The second term makes it 0 for a change of scale: without it the encoder shrinks all
    that distinguishes images.
    """
    seen, count = _seen(tokens, truth, observed)
    rows = _centred(truth.float().repeat(len(seen) // len(truth), 1), seen, count)
    centred = _centred(tokens.float(), seen, count)
    with torch.no_grad():
        least = torch.finfo(centred.dtype).tiny
        variances, directions = torch.linalg.eigh(moments.variable)
        varies = variances > 1e-3 * variances.max()
        white = directions * torch.where(varies, variances.clamp(min=least).rsqrt(), 0.0)  # (C, C)
        whitened = moments.joint @ white
        read = _inverse(moments, ridge) @ whitened  # W (D, C)
        share = (read * whitened).sum() / varies.sum().clamp(min=1)
    readings = centred @ read  # (V*B, C)
    scale = count * varies.sum().clamp(min=1)
    joint, power = (readings * (rows @ white)).sum() / scale, readings.square().sum() / scale  # of this process
    found: Tensor = share + _pulls(2 * joint, power, all_sum(joint.detach()))
    return found


def evenness(tokens: Tensor, truth: Tensor, observed: Tensor, moments: SecondMoments, ridge: float = 1e-3) -> Tensor:
    """How evenly class tokens vary along their D directions: log det(Svv / t + r I) / D, t = tr(Svv) / D, by `moments`.

    At most log(1 + r), where all vary alike. Its gradient is that of the batch's Svv against the inverse of `moments`:
    it widens the directions along which images differ least, and is 0 for a change of scale.
    """
    seen, count = _seen(tokens, truth, observed)
    centred = _centred(tokens.float(), seen, count)
    width = len(moments.tokens)
    with torch.no_grad():
        inverse = _inverse(moments, ridge)
        mean = moments.tokens.trace() / width
        even = -torch.linalg.slogdet(inverse * mean)[1] / width
    narrow, power = ((centred @ inverse) * centred).sum() / count / width, centred.square().sum() / count
    found: Tensor = even + _pulls(narrow, power, all_sum(narrow.detach()))
    return found


def _inverse(moments: SecondMoments, ridge: float) -> Tensor:
    """Of the tokens' second moments (D, D), of which `ridge` times the mean is added to each variance."""
    width = len(moments.tokens)
    floor = (ridge * moments.tokens.trace() / width).clamp(min=torch.finfo(torch.float32).tiny)
    held = moments.tokens.double() + floor.double() * torch.eye(width, device=moments.tokens.device)
    inverse: Tensor = torch.linalg.inv_ex(held)[0].float()
    return inverse


def _pulls(joint: Tensor, power: Tensor, amount: Tensor) -> Tensor:
    """0 in value; in its gradient that of `joint` less as much of `power` as leaves none for a change of scale.

    joint and power are of this process. Of a scale s, `power` goes with s^2, and `joint` changes as `amount` s^2 does.
    """
    whole = all_sum(power.detach()).clamp(min=torch.finfo(power.dtype).tiny)
    pull = all_sum(torch.ones_like(whole)) * (joint - amount / whole * power)
    return pull - pull.detach()


def _seen(tokens: Tensor, truth: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """(V*B, 1) of what was observed in each view, and how many rows that is in the global batch, at least 1."""
    seen = observed.repeat(len(tokens) // len(truth)).float()[:, None]
    return seen, all_sum(seen.sum()).clamp(min=1)


def _centred(rows: Tensor, seen: Tensor, count: Tensor) -> Tensor:
    """The rows about their mean over the global batch, which has no gradient; 0 where nothing was observed."""
    return (rows - all_sum((rows.detach() * seen).sum(dim=0)) / count) * seen


@torch.no_grad()
def of_equal_norm(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients of the heads on the class tokens (V*B, D), each scaled to the mean of their norms.

    The norms are those over the global batch. A gradient of norm 0 stays as it is, and does not count.
    """
    if len(gradients) < 2:
        return gradients
    norms = all_sum(torch.stack([each.float().square().sum() for each in gradients])).sqrt()
    mean = norms.sum() / (norms > 0).sum().clamp(min=1)
    scales = torch.where(norms > 0, mean / norms.clamp(min=torch.finfo(norms.dtype).tiny), torch.ones_like(norms))
    return [each * scale for each, scale in zip(gradients, scales, strict=True)]
