"""Weighted nearest neighbours by cosine: an evaluation of embeddings that trains nothing."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError
from chartray.statistics.metrics import auroc

Floats = NDArray[np.float64]

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
# A neighbour votes with exp(cosine / 0.07), as in Wu et al., CVPR 2018.
TEMPERATURE = 0.07
_SIMILARITIES = 1 << 25


def knn_scores(
    train_embeddings: ArrayLike,
    train_truth: ArrayLike,
    embeddings: ArrayLike,
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    device: str = "cpu",
) -> Floats:
    """The weighted share of an image's nearest training images that have a label, for each number of neighbours.

    train_embeddings (N, D), train_truth (N, C) of 1, 0 and NaN (which does not vote), embeddings (M, D) -> (K, M, C)
    in [0, 1]. The mean training embedding is subtracted before cosines are taken: what all images share would make all
    cosines large. One vote is added at the label's training rate, so that ties are rare and an image without voting
    neighbours gets that rate. Raises InputError for shapes that do not fit.
    """
    train = torch.as_tensor(np.asarray(train_embeddings), dtype=torch.float32, device=device)
    query = torch.as_tensor(np.asarray(embeddings), dtype=torch.float32, device=device)
    truth = torch.as_tensor(np.asarray(train_truth), dtype=torch.float32, device=device)
    if train.ndim != 2 or len(train) != len(truth) or not len(train) or train.shape[1] != query.shape[-1]:
        raise InputError(
            f"expected embeddings of one width and truth for each training image, found {tuple(train.shape)}, "
            f"{tuple(query.shape)} and {tuple(truth.shape)}"
        )
    centre = train.mean(dim=0)
    train, query = (torch.nn.functional.normalize(each - centre, dim=1) for each in (train, query))
    known, positive = torch.isfinite(truth), truth.nan_to_num(0)
    rate = positive.sum(dim=0) / known.sum(dim=0).clamp_min(1)
    counts = [min(count, len(train)) for count in neighbours]
    found = np.empty((len(counts), len(query), truth.shape[1]))
    together = max(1, _SIMILARITIES // max(len(train), max(counts) * truth.shape[1]))
    for start in range(0, len(query), together):
        cosine, nearest = (query[start : start + together] @ train.T).topk(max(counts), dim=1)  # (m, k)
        votes = torch.exp((cosine - cosine[:, :1]) / TEMPERATURE)[..., None]  # relative to the nearest: no overflow
        in_favour, cast = (votes * positive[nearest]).cumsum(dim=1), (votes * known[nearest]).cumsum(dim=1)
        shares = (in_favour + rate) / (cast + 1)
        for index, count in enumerate(counts):
            found[index, start : start + together] = shares[:, count - 1].cpu().numpy()
    return found


def choose_neighbours(scores: Floats, truth: ArrayLike) -> int | None:
    """Index of the number of neighbours with the highest macro AUROC, from scores (K, M, C) and truth (M, C).

    None if no label has both classes.
    """
    found = [auroc(truth, one) for one in scores]
    if not np.isfinite(found).any():
        return None
    return int(np.argmax([np.nanmean(each) for each in found]))


def held_out_scores(
    embeddings: ArrayLike,
    truth: ArrayLike,
    held_out: NDArray[np.int64],
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    device: str = "cpu",
) -> Floats:
    """Scores (K, N, C) of every image from its neighbours in other folds; `held_out` (N,) are the folds."""
    images, known = np.asarray(embeddings), np.asarray(truth, dtype=np.float64)
    found = np.empty((len(neighbours), *known.shape))
    for fold in np.unique(held_out):
        here = held_out == fold
        found[:, here] = knn_scores(images[~here], known[~here], images[here], neighbours=neighbours, device=device)
    return found


def knn_auroc(
    train_embeddings: ArrayLike, train_truth: ArrayLike, test_embeddings: ArrayLike, test_truth: ArrayLike, k: int = 20
) -> float:
    """Macro AUROC of `k` neighbours over labels with both classes in the test images; NaN without any."""
    scores = knn_scores(train_embeddings, train_truth, test_embeddings, neighbours=(k,))[0]
    found = auroc(test_truth, scores)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
