"""Which images an encoder holds alike: neighbours by cosine about the mean, and what they agree in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.statistics.intervals import mean_interval, spread
from chartray.statistics.metrics import MINIMUM_PATIENTS
from chartray.statistics.patient_bootstrap import patient_codes, patient_counts

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Integers = NDArray[np.int64]

# Images whose neighbours are sought for the table of agreement: all, or as many drawn without replacement.
MOST_QUERIES = 2000
_AT_A_TIME = 256


class Alike(NamedTuple):
    """The nearest images of other patients than `query`'s, nearest first, with their cosines.

    `same_patient_rank` is the rank of the nearest image of the same patient among all others, 1 for the nearest of
    all; None where the patient has no other image.
    """

    query: int
    neighbours: list[int]
    cosines: list[float]
    same_patient_rank: int | None


class Agreement(NamedTuple):
    """Of images with a finding: the share of their neighbours that have it too, with an interval by patient, and the
    share of all images that have it. `n` query images of `n_patients` patients; neighbours of unknown truth are not
    counted.
    """

    neighbours: float
    ci_low: float
    ci_high: float
    films: float
    n: int
    n_patients: int


def centred(features: Features) -> Features:
    """(N, D) about their mean, each of length 1; an image at the mean itself stays 0 and is like none."""
    about = features - features.mean(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(about, axis=1, keepdims=True)
    return np.asarray(about / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def nearest_of_others(
    features: Features, patients: NDArray[np.str_], queries: Sequence[int], count: int
) -> list[Alike]:
    """The `count` nearest images of other patients for each query; ties go to the earlier image."""
    unit = centred(features)
    found = []
    for query in queries:
        cosine = unit @ unit[query]
        same = patients == patients[query]
        order = np.argsort(-cosine, kind="stable")
        others = order[~same[order]][:count]
        mine = np.flatnonzero(same[order[order != query]])
        rank = int(mine[0]) + 1 if len(mine) else None
        found.append(Alike(int(query), others.tolist(), cosine[others].astype(float).tolist(), rank))
    return found


def agreement(
    features: Features,
    patients: NDArray[np.str_],
    truth: Floats,
    count: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Agreement | None]:
    """For each label (truth (N, C) of 1, 0, NaN) how often the `count` nearest images of other patients have it too.

    None where no image has it or none lacks it. The interval resamples the patients of the query images and holds the
    neighbours fixed; NaN with fewer than 10 patients and where all images are alike in it.
    """
    codes = patient_codes(patients, len(features))
    queries = _some(len(features), seed)
    nearest = _nearest(centred(features), codes, queries, count)  # (M, count), -1 where there are too few
    beside = np.where((nearest >= 0)[..., None], truth[nearest], np.nan)  # (M, count, C)
    hits, known = (beside == 1).sum(axis=1), (~np.isnan(beside)).sum(axis=1)  # (M, C)
    found: list[Agreement | None] = []
    for column in range(truth.shape[1]):
        asked = (truth[queries, column] == 1) & (known[:, column] > 0)
        both = (truth[:, column] == 1).any() and (truth[:, column] == 0).any()
        if not asked.any() or not both:
            found.append(None)
            continue
        share = hits[asked, column] / known[asked, column]
        low, high = _interval(share, codes[queries[asked]], resamples, level, seed)
        overall = float(np.nanmean(np.where(np.isnan(truth[:, column]), np.nan, truth[:, column] == 1)))
        people = len(np.unique(codes[queries[asked]]))
        found.append(Agreement(float(share.mean()), low, high, overall, int(asked.sum()), people))
    return found


def same_patient_first(
    features: Features,
    patients: NDArray[np.str_],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float | int]:
    """Of images whose patient has another: the share whose nearest image is the same patient's, and chance.

    The interval resamples the patients and holds the neighbours fixed. Empty where no patient has two images.
    """
    codes = patient_codes(patients, len(features))
    of_patient = np.bincount(codes)[codes]
    queries = _some(len(features), seed)
    queries = queries[of_patient[queries] > 1]
    if not len(queries):
        return {}
    unit = centred(features)
    first = []
    for start in range(0, len(queries), _AT_A_TIME):
        block = queries[start : start + _AT_A_TIME]
        cosine = unit[block] @ unit.T
        cosine[np.arange(len(block)), block] = -np.inf
        first.append(codes[cosine.argmax(axis=1)] == codes[block])
    share = np.concatenate(first).astype(np.float64)
    low, high = _interval(share, codes[queries], resamples, level, seed)
    chance = float(((of_patient[queries] - 1) / (len(features) - 1)).mean())
    return {"first": float(share.mean()), "ci_low": low, "ci_high": high, "chance": chance, "n": len(queries)}


def _some(count: int, seed: int) -> Integers:
    if count <= MOST_QUERIES:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST_QUERIES, replace=False))


def _nearest(unit: Features, codes: Integers, queries: Integers, count: int) -> Integers:
    """The nearest images of other patients (M, count) of each query; -1 where there are fewer."""
    found = np.full((len(queries), count), -1, dtype=np.int64)
    kept = min(count, len(unit))
    for start in range(0, len(queries), _AT_A_TIME):
        block = queries[start : start + _AT_A_TIME]
        cosine = unit[block] @ unit.T
        cosine[codes[block][:, None] == codes[None, :]] = -np.inf
        best = np.argpartition(-cosine, kept - 1, axis=1)[:, :kept]
        found[start : start + len(block), :kept] = np.where(
            np.isfinite(np.take_along_axis(cosine, best, axis=1)), best, -1
        )
    return found


def _interval(share: Floats, codes: Integers, resamples: int, level: float, seed: int) -> tuple[float, float]:
    """Of the mean share over images, by patient; NaN where they are too few."""
    _, people = np.unique(codes, return_inverse=True)
    if people.max() + 1 < MINIMUM_PATIENTS:
        return np.nan, np.nan
    total, number = np.bincount(people, weights=share), np.bincount(people)
    counts = patient_counts(len(total), resamples, seed)
    found = spread(share.mean(keepdims=True), ((counts @ total) / (counts @ number))[None], len(total))
    return mean_interval(float(share.mean()), found, len(total), level)[:2]
