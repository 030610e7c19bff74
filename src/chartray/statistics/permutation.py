"""Are groups of patients served equally well? A studentised permutation test.

A metric of group g is a sum of ratios (one for a share, two for the AUROC), and patients move it by their influence:

    psi_ig = sum over ratios k of (r_ik - t_gk b_ik) / B_gk,    t_gk = sum_i r_ik / B_gk,    B_gk = sum_i b_ik
    C_gh = sum over patients of psi_ig psi_ih,    Q = d' (D C D')^-1 d,    d = D value: all contrasts of the groups

Q is the gap between groups in units of its own standard error, clustered by patient (Wald). The membership of patients
is permuted, and Q computed anew each time. Dividing by the standard error makes the test valid where groups of equal
performance differ in prevalence, size or spread, which a permutation of the plain gap is not (Janssen, Statistics and
Probability Letters 36, 1997; Pauly, Brunner and Konietschke, JRSS B 77, 2015).

Patients are permuted among those with terms in the same denominators (of an AUROC: with the finding, without), so that
no group loses all its positives. For a mean over labels these are patients with the same findings. Where nearly all of
them are in one group they could not change places, and their luck would be in every permutation; so they join others
with terms in as many denominators. A patient who is in several groups receives the groups of another patient who is in
as many, in random order.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chartray.statistics.delong import placements
from chartray.statistics.patient_bootstrap import patient_codes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

MOST_PERMUTATIONS = 10_000
# Permutations end when so many had a gap as large: p is then known within 14 % of itself (Besag and Clifford 1991).
ENOUGH = 50
_AT_A_TIME = 250
# A group's variance counts for its patients less one, that of all groups for this many: 3 of 3 patients found is luck.
_PRIOR_PATIENTS = 1.0
_TIE = 1e-9
_STRATUM = 20
# The most ratios that a metric of one label has.
_OF_ONE_LABEL = 2
# Where no patient of any group differs from another there is no standard error; this keeps Q finite, and very large.
_NO_SPREAD = 1e-14


class Influence(NamedTuple):
    """What images contribute to a metric by group: `value` (G,), and `top` and `bottom` (N, K) of its K ratios.

    `top` may be shifted by a multiple of `bottom`: only differences between groups are tested.
    """

    value: Floats
    top: Floats
    bottom: Floats


class GroupTest(NamedTuple):
    """Whether groups differ: p, and the gaps (M,), largest minus smallest, of M permutations.

    Such gaps are what groups of equal performance show with the standard errors of these. p is NaN with fewer than two
    groups.
    """

    p: float
    by_chance: Floats


class _PatientGroups(NamedTuple):
    """The images of one patient in one group, as one: sums `ratios` (U, 2K) of top and bottom, and `group` (U,).

    `alone` are cells of patients in one group, by stratum; `sets` are (patients, c) cells of patients in c groups, and
    `pairs` (2, T) two cells of one patient.
    """

    ratios: Floats
    group: Integers
    alone: list[Integers]
    sets: list[Integers]
    pairs: Integers


def share_influence(top: Floats, bottom: Floats, groups: Integers, count: int) -> Influence:
    """A share in each of `count` groups, the sum of `top` (N,) over that of `bottom` (N,); groups (N,), -1 is none."""
    inside = groups >= 0
    sums = [np.bincount(groups[inside], each[inside], count) for each in (top, bottom)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return Influence(sums[0] / sums[1], top[:, None], bottom[:, None])


def auroc_influence(truth: Floats, score: Floats, groups: Integers, count: int) -> Influence:
    """AUROC in each of `count` groups: how many negatives a positive beats there, and how many positives a negative.

    Deviations from a group's own mean are too small, by the root of (n - 1) / n; in `top` they are corrected.

    truth (N,) of 1, 0 and NaN, score (N,), groups (N,), -1 is none.
    """
    value = np.full(count, np.nan)
    top, bottom = np.zeros((len(truth), 2)), np.column_stack([truth == 1, truth == 0]).astype(np.float64)
    for group in range(count):
        positive, negative = (np.flatnonzero((groups == group) & (truth == wanted)) for wanted in (1, 0))
        if not len(positive) or not len(negative):
            continue
        value[group], shares = placements(score[positive], score[negative])
        for place, images in enumerate((positive, negative)):
            size = len(images)
            top[images, place] = (shares[place] - value[group]) * np.sqrt(size / max(size - 1, 1))
    return Influence(value, top, bottom)


def mean_influence(each: Sequence[Influence]) -> Influence:
    """The mean of a metric over labels."""
    return Influence(
        np.mean([one.value for one in each], axis=0),
        np.hstack([one.top for one in each]) / len(each),
        np.hstack([one.bottom for one in each]),
    )


def permuted_groups(
    influence: Influence,
    groups: Integers,
    patients: NDArray[np.generic],
    *,
    seed: int = 0,
    most: int = MOST_PERMUTATIONS,
) -> GroupTest:
    """Tests whether a metric is equal in all groups that have a value; the others are left out.

    Args:
        influence: of N images and G groups.
        groups: (N,) in 0..G - 1, -1 is none.
        patients: (N,) names or numbers.
        seed: of the permutations.
        most: how many at most; they end when `ENOUGH` had a gap as large.
    """
    usable = np.flatnonzero(~np.isnan(influence.value))
    if len(usable) < 2:
        return GroupTest(np.nan, np.zeros(0))
    place = np.full(len(influence.value) + 1, -1)  # the last is of -1
    place[usable] = np.arange(len(usable))
    cells = _cells(influence, place[groups], patients)
    spread = _moments(cells, cells.group[None], len(usable))[1]
    observed = float(_wald(influence.value[usable][None], spread)[0])
    generator, found = np.random.default_rng(seed), np.zeros(0)
    larger = equal = 0
    while len(found) < most and larger + equal < ENOUGH:
        size = min(_AT_A_TIME, most - len(found))
        values, spreads = _moments(cells, _permuted(cells, generator, size), len(usable))
        sizes, lost = _wald(values, spreads), ~np.isfinite(values).all(axis=1)
        # A group that lost all its patients of a class says nothing; it counts as a gap as large.
        ties = np.isclose(sizes, observed, rtol=_TIE, atol=_TIE) & ~lost
        larger, equal = larger + int((lost | ~ties & (sizes > observed)).sum()), equal + int(ties.sum())
        found = np.append(found, sizes)
    # Mid-p (Lancaster, JASA 56, 1961), the permutation that was observed among them: rates of few patients are tied.
    p = (larger + (equal + 1) / 2) / (len(found) + 1)
    return GroupTest(p, _gaps(found, spread[0], generator))


def _cells(influence: Influence, groups: Integers, patients: NDArray[np.generic]) -> _PatientGroups:
    """Images without a group or without a term in any denominator are left out."""
    ratios = influence.top.shape[1]
    kept = np.flatnonzero((groups >= 0) & (influence.bottom > 0).any(axis=1))
    codes = patient_codes(patients, len(groups))[kept]
    count = int(groups.max()) + 1
    keys, cell = np.unique(codes * count + groups[kept], return_inverse=True)
    sums = np.zeros((len(keys), 2 * ratios))
    np.add.at(sums, cell, np.hstack((influence.top, influence.bottom))[kept])
    patient, group = keys // count, keys % count
    starts, times = np.unique(patient, return_index=True, return_counts=True)[1:]
    single = starts[times == 1]
    stratum = _strata(sums[single, ratios:] > 0, group[single])
    alone = [single[stratum == one] for one in np.unique(stratum)]
    sets = [starts[times == c][:, None] + np.arange(c) for c in np.unique(times[times > 1])]
    pairs = [each[:, [a, b]] for each in sets for b in range(each.shape[1]) for a in range(b)]
    together = np.concatenate(pairs).T if pairs else np.zeros((2, 0), dtype=np.int64)
    return _PatientGroups(sums, group, alone, sets, together)


def _strata(terms: NDArray[np.bool_], group: Integers) -> Integers:
    """(P,): patients with terms in the same denominators (P, K); where these are few, with terms in as many.

    Of a mean over labels, those outside of the largest group are counted.
    """
    patterns, found = np.unique(terms, axis=0, return_inverse=True)
    found = found.reshape(-1)
    held = np.zeros((len(patterns), int(group.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(held, (found, group), 1)
    exchanged = held.sum(axis=1) - (held.max(axis=1) if terms.shape[1] > _OF_ONE_LABEL else 0)
    strata: Integers = np.where(exchanged[found] < _STRATUM, -terms.sum(axis=1), found + 1)
    return strata


def _permuted(cells: _PatientGroups, generator: np.random.Generator, size: int) -> NDArray[np.int8]:
    """Groups of the cells in each of `size` permutations, (size, U)."""
    codes = np.repeat(cells.group[None].astype(np.int8), size, axis=0)
    for members in cells.alone:
        codes[:, members] = generator.permuted(codes[:, members], axis=1)
    for members in cells.sets:
        order = generator.random((size, len(members))).argsort(axis=1)
        drawn = generator.permuted(cells.group[members].astype(np.int8)[order], axis=2)
        codes[:, members.ravel()] = drawn.reshape(size, -1)
    return codes


def _moments(cells: _PatientGroups, codes: NDArray[np.integer], count: int) -> tuple[Floats, Floats]:
    """Sum of the ratios of each group (S, G), and their covariance (S, G, G), for groups (S, U)."""
    half = cells.ratios.shape[1] // 2
    has = (cells.ratios[:, half:] > 0).astype(np.float64)
    value, patients = np.empty((2, len(codes), count))
    spread = np.zeros((len(codes), count, count))
    influence = np.zeros(codes.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        for group in range(count):
            member = (codes == group).astype(np.float64)
            top, bottom = np.split(member @ cells.ratios, 2, axis=1)  # (S, K) each
            terms = member @ has
            each = np.sqrt(terms / (terms - 1)) / bottom
            moved = np.hstack((each, -each * top / bottom)) @ cells.ratios.T * member  # (S, U)
            value[:, group], patients[:, group] = (top / bottom).sum(axis=1), terms.min(axis=1)
            spread[:, group, group] = np.einsum("su,su->s", moved, moved)
            influence += moved
        one = np.diagonal(spread, axis1=1, axis2=2) * patients  # variance of one patient
        common = ((patients - 1) * one).sum(axis=1, keepdims=True) / (patients - 1).sum(axis=1, keepdims=True)
        one = (one * (patients - 1) + common * _PRIOR_PATIENTS) / (patients - 1 + _PRIOR_PATIENTS)
        spread[:, range(count), range(count)] = one / patients
    first, second = (codes[:, each] for each in cells.pairs)
    both = influence[:, cells.pairs[0]] * influence[:, cells.pairs[1]]
    for a, b in _pairs_of(count) if both.size else ():
        here = ((first == a) & (second == b)) | ((first == b) & (second == a))
        spread[:, a, b] = spread[:, b, a] = (both * here).sum(axis=1)
    return value, spread


def _pairs_of(count: int) -> Iterator[tuple[int, int]]:
    return ((a, b) for b in range(count) for a in range(b))


def _wald(value: Floats, spread: Floats) -> Floats:
    """Q (S,) of values (S, G) with covariance (S, G, G) or (1, G, G), as float64; 0 where a permutation has none."""
    contrast = value[:, :-1] - value[:, -1:]
    last = spread[:, -1:, -1:]
    matrix = spread[:, :-1, :-1] - spread[:, :-1, -1:] - spread[:, -1:, :-1] + last
    known: NDArray[np.bool_] = np.asarray(np.isfinite(contrast).all(axis=1) & np.isfinite(matrix).all(axis=(1, 2)))
    contrast, matrix = np.where(known[:, None], contrast, 0.0), np.where(known[:, None, None], matrix, 0.0)
    matrix = matrix + _NO_SPREAD * np.eye(contrast.shape[1])
    found: Floats = np.einsum("sg,sg->s", contrast, np.linalg.solve(matrix, contrast[:, :, None])[:, :, 0])
    return found


def _gaps(sizes: Floats, spread: Floats, generator: np.random.Generator) -> Floats:
    """Gaps of Q = `sizes` (M,) in random directions of values with covariance `spread` (G, G)."""
    root = np.linalg.cholesky(spread + _NO_SPREAD * np.eye(len(spread)))
    drawn = generator.normal(size=(len(sizes), len(spread))) @ root.T
    gaps: Floats = np.ptp(drawn, axis=1) * np.sqrt(sizes / _wald(drawn, spread[None]))
    return gaps
