"""Bootstrap of patients: resamples with replacement that all labels, metrics and arms share."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chartray.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Fixed, so that the draws depend on the seed alone.
_DRAWS_AT_A_TIME = 100
# At least half of all draws hold both classes of any one label: only an impossible macro needs this many.
_DRAWS_PER_RESAMPLE = 100


class PatientBootstrap(NamedTuple):
    """R resamples of the patients of N images with C labels, for any metric.

    `codes` (N,): the patient of each image, from `patient_codes`. `usable` (C,): labels with both classes. `counted`
    (C,): labels of the macro mean. `counts` (D, patients): how often each of D draws holds each patient. `chosen`
    (R, C) and `chosen_macro` (R,): the draws that each label and the macro use.
    """

    codes: Integers
    usable: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    counts: NDArray[np.int32]
    chosen: Integers
    chosen_macro: Integers

    @property
    def redrawn(self) -> Integers:
        """(C,): how many draws each label skipped because they lack a class of it."""
        return np.where(self.usable, self.chosen[-1] + 1 - len(self.chosen), 0)

    @property
    def macro_redrawn(self) -> int:
        """How many draws the macro skipped because they lack a class of one of its labels."""
        return int(self.chosen_macro[-1] + 1 - len(self.chosen_macro)) if self.counted.any() else 0

    def of_labels(self, found: Floats) -> Floats:
        """Resamples (R, C) of a metric from its values in all draws (D, C); NaN where a label has one class."""
        return np.where(self.usable, np.take_along_axis(found, self.chosen, axis=0), np.nan)

    def of_macro(self, found: Floats) -> Floats:
        """Macro mean in each resample (R,), from the values in all draws (D, C); NaN without labels."""
        if not self.counted.any():
            return np.full(len(self.chosen_macro), np.nan)
        mean: Floats = found[self.chosen_macro][:, self.counted].mean(axis=1)
        return mean

    def totals(self, each: Floats) -> Floats:
        """Sums over the images of every draw, (D, K), of values of each image (N, K)."""
        order = np.argsort(self.codes, kind="stable")
        starts = np.searchsorted(self.codes[order], np.arange(self.counts.shape[1]))
        return self.totals_of(np.add.reduceat(each[order], starts, axis=0))

    def totals_of(self, by_patient: Floats) -> Floats:
        """Sums over the patients of every draw, (D, K), of values of each patient (patients, K)."""
        found = np.empty((len(self.counts), by_patient.shape[1]))
        for start in range(0, len(found), _DRAWS_AT_A_TIME):
            block = self.counts[start : start + _DRAWS_AT_A_TIME].astype(np.float64)
            found[start : start + _DRAWS_AT_A_TIME] = block @ by_patient
        return found


def patient_codes(patients: ArrayLike, images: int) -> Integers:
    """Patients (N,) as 0, 1, ... in the order of their sorted names; raises InputError unless there are N."""
    names = np.asarray(patients)
    if names.shape != (images,):
        raise InputError(f"expected one patient for each of {images} images, found an array of shape {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64).reshape(-1)


def resample_patients(
    truth: Floats, codes: Integers, usable: NDArray[np.bool_], counted: NDArray[np.bool_], resamples: int, seed: int
) -> tuple[NDArray[np.int32], Integers, Integers]:
    """Draws of patients with replacement; each label uses those that hold both its classes.

    Args:
        truth: (N, C) of 1, 0 and NaN.
        codes: (N,) patients as `patient_codes` numbers them.
        usable: (C,) labels with both classes; the others use every draw.
        counted: (C,) labels of the macro mean, which uses the draws that hold both classes of all of them.
        resamples: R, how many draws each label uses.
        seed: of the draws.

    Returns:
        `counts`, `chosen` and `chosen_macro` of `PatientBootstrap`.

    Raises:
        InputError: hardly any draw holds both classes of all labels of the macro.
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
            raise InputError("the labels of the macro mean are too rare to be resampled together; leave out the rarest")
        seen = block.astype(np.float32)
        holds = (seen @ has[0] > 0) & (seen @ has[1] > 0) | ~usable  # (draws, C)
        counts.append(block)
        valid.append(np.column_stack((holds, holds[:, counted].all(axis=1))))
        fewest += valid[-1].sum(axis=0)
        if fewest.min() >= resamples:
            break
    chosen = np.stack([np.flatnonzero(column)[:resamples] for column in np.concatenate(valid).T], axis=1)
    return np.concatenate(counts)[: chosen.max() + 1], chosen[:, :-1], chosen[:, -1]


def patient_counts(patients: int, resamples: int, seed: int) -> NDArray[np.int32]:
    """The first R draws, (R, patients), whatever classes they hold."""
    blocks = islice(stream(patients, seed), -(-resamples // _DRAWS_AT_A_TIME))
    return np.concatenate(list(blocks))[:resamples]


def stream(patients: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """Endless blocks of draws: how often each draw holds each patient, (draws, patients)."""
    generator = np.random.default_rng(seed)
    offsets = np.arange(_DRAWS_AT_A_TIME)[:, None] * patients
    while True:
        drawn = generator.integers(0, patients, size=(_DRAWS_AT_A_TIME, patients)) + offsets
        block = np.bincount(drawn.ravel(), minlength=_DRAWS_AT_A_TIME * patients)
        yield block.astype(np.int32).reshape(_DRAWS_AT_A_TIME, patients)
