"""Draws of patients with replacement: the stream that every label, metric and arm shares."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Draws made at a time: fixed, so that the draws depend on the seed alone.
_DRAWS_AT_A_TIME = 100
# Half of all draws or more hold both classes of any one label, so only an impossible macro comes near this.
_DRAWS_PER_RESAMPLE = 100


class PatientBootstrap(NamedTuple):
    """R resamples of the patients of N films with C labels, for any metric: which draws each label takes.

    `codes` (N,) patients as `patient_codes` numbers them, `usable` (C,) labels with both classes, `counted` (C,) the
    labels of the macro mean, `draws` (D, patients) how often each patient was drawn, `chosen` (R, C) and
    `chosen_macro` (R,) rows of `draws`.
    """

    codes: Integers
    usable: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    draws: NDArray[np.int32]
    chosen: Integers
    chosen_macro: Integers

    @property
    def redrawn(self) -> Integers:
        """(C,): how many draws each label passed over because it lacked a class in them."""
        return np.where(self.usable, self.chosen[-1] + 1 - len(self.chosen), 0)

    @property
    def macro_redrawn(self) -> int:
        """How many draws the macro passed over."""
        return int(self.chosen_macro[-1] + 1 - len(self.chosen_macro)) if self.counted.any() else 0

    def of_labels(self, found: Floats) -> Floats:
        """The resamples (R, C) of a metric known in every draw (D, C); NaN columns where a label has one class."""
        return np.where(self.usable, np.take_along_axis(found, self.chosen, axis=0), np.nan)

    def of_macro(self, found: Floats) -> Floats:
        """The mean over the macro's labels in each resample (R,), from (D, C); NaN if there are none."""
        if not self.counted.any():
            return np.full(len(self.chosen_macro), np.nan)
        mean: Floats = found[self.chosen_macro][:, self.counted].mean(axis=1)
        return mean

    def totals(self, each: Floats) -> Floats:
        """Sums over the films of every draw (D, K) of numbers of each film (N, K)."""
        order = np.argsort(self.codes, kind="stable")
        starts = np.searchsorted(self.codes[order], np.arange(self.draws.shape[1]))
        return self.totals_of(np.add.reduceat(each[order], starts, axis=0))

    def totals_of(self, by_patient: Floats) -> Floats:
        """Sums over the patients of every draw (D, K) of numbers of each patient (patients, K)."""
        found = np.empty((len(self.draws), by_patient.shape[1]))
        for start in range(0, len(found), _DRAWS_AT_A_TIME):
            block = self.draws[start : start + _DRAWS_AT_A_TIME].astype(np.float64)
            found[start : start + _DRAWS_AT_A_TIME] = block @ by_patient
        return found


def patient_codes(patients: ArrayLike, films: int) -> Integers:
    """Patients (N,) as 0, 1, ... in the order of their sorted names; raises InputError if there are not N."""
    names = np.asarray(patients)
    if names.shape != (films,):
        raise InputError(f"expected one patient for each of {films} films, found an array of shape {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64).reshape(-1)


def resample_patients(
    truth: Floats, codes: Integers, usable: NDArray[np.bool_], counted: NDArray[np.bool_], resamples: int, seed: int
) -> tuple[NDArray[np.int32], Integers, Integers]:
    """Draws of patients with replacement, of which each label takes those that hold both its classes.

    Args:
        truth: (N, C) of 1, 0 and NaN.
        codes: (N,) patients as `patient_codes` numbers them.
        usable: (C,) labels with both classes; the others accept every draw.
        counted: (C,) labels of the macro mean, which takes the draws that hold both classes of all of them.
        resamples: R, how many draws each takes.
        seed: which stream of draws.

    Returns:
        How often each patient was drawn (draws, patients), the draws each label takes (R, C), and the macro (R,).

    Raises:
        InputError: hardly any draw holds all labels of the macro.
    """
    patients = int(codes.max()) + 1 if len(codes) else 0
    has = np.zeros((2, patients, truth.shape[1]), dtype=np.float32)
    for value in (0, 1):
        np.maximum.at(has[value], codes, (truth == value).astype(np.float32))
    counts: list[NDArray[np.int32]] = []
    valid: list[NDArray[np.bool_]] = []
    fewest = np.zeros(truth.shape[1] + 1, dtype=np.int64)
    for block in stream(patients, seed):
        if len(counts) * _DRAWS_AT_A_TIME > _DRAWS_PER_RESAMPLE * resamples:
            raise InputError("the labels of the macro mean are too rare to be drawn together; leave the rarest out")
        seen = block.astype(np.float32)
        holds = (seen @ has[0] > 0) & (seen @ has[1] > 0) | ~usable  # (draws, C)
        counts.append(block)
        valid.append(np.column_stack((holds, holds[:, counted].all(axis=1))))
        fewest += valid[-1].sum(axis=0)
        if fewest.min() >= resamples:
            break
    chosen = np.stack([np.flatnonzero(column)[:resamples] for column in np.concatenate(valid).T], axis=1)
    return np.concatenate(counts)[: chosen.max() + 1], chosen[:, :-1], chosen[:, -1]


def stream(patients: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """Blocks of draws without end: how often each patient is drawn, (draws, patients)."""
    generator = np.random.default_rng(seed)
    offsets = np.arange(_DRAWS_AT_A_TIME)[:, None] * patients
    while True:
        drawn = generator.integers(0, patients, size=(_DRAWS_AT_A_TIME, patients)) + offsets
        block = np.bincount(drawn.ravel(), minlength=_DRAWS_AT_A_TIME * patients)
        yield block.astype(np.int32).reshape(_DRAWS_AT_A_TIME, patients)
