"""The chart rows of a step: the patient's own, or those of a control.

A control replaces the whole row, flags too: a gain that remains under it does not come from the chart.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from chartray.errors import InputError
from chartray.randomness import permutation, uniform

Control = Literal["none", "shuffled", "constant", "mask-only"]
_SHUFFLE, _CORRUPTED, _DONOR = 7_001, 7_004, 7_005  # set these uses of the seed apart


class ChartTable(NamedTuple):
    """The charts of the M training images: rows (M, F) float32, observed (M, variables) bool, patients (M,) codes."""

    rows: npt.NDArray[np.float32]
    observed: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]


def controlled(table: ChartTable, control: Control, flag_columns: list[int], *, seed: int, epoch: int) -> ChartTable:
    """The chart table under `control` in this epoch.

    shuffled: each patient gets another patient's whole rows (image k that of the donor's image k, cyclically), redrawn
    each epoch. constant: every image gets the mean row. mask-only: the values are zero, the observed flags are real.
    Raises InputError if a shuffle has one patient only, or mask-only has no flags (published rows).
    """
    if control == "none":
        return table
    if control == "shuffled":
        donors = donor_images(table.patients, seed=seed, epoch=epoch)
        return ChartTable(table.rows[donors], table.observed[donors], table.patients)
    if control == "constant":
        mean = np.broadcast_to(table.rows.mean(axis=0, dtype=np.float64).astype(np.float32), table.rows.shape)
        return ChartTable(mean, np.ones_like(table.observed), table.patients)
    if not flag_columns:
        raise InputError(
            "control mask-only needs observed flags, and published chart rows have none; use --rules strict"
        )
    rows = np.zeros_like(table.rows)
    rows[:, flag_columns] = table.rows[:, flag_columns]
    return ChartTable(rows, table.observed, table.patients)


def donor_images(patients: npt.NDArray[np.int64], *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """For each image the image whose chart it gets: another patient's, with one donor for all images of a patient.

    patients (M,) codes -> (M,) rows. The patients form one random cycle, so no patient is their own donor.
    """
    names, codes = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"control shuffled needs charts of at least two training patients, found {len(names)}")
    cycle = permutation(len(names), seed, _SHUFFLE, epoch)
    donor_of = np.empty_like(cycle)
    donor_of[cycle] = np.roll(cycle, 1)
    by_patient = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    order = np.empty_like(by_patient)
    order[by_patient] = np.arange(len(codes)) - starts[codes[by_patient]]  # image k of its patient
    donors = donor_of[codes]
    return by_patient[starts[donors] + order % counts[donors]]


def corrupted(
    batch: ChartTable, spans: list[slice], probability: float, *, seed: int, step: int
) -> npt.NDArray[np.float32]:
    """Marginal corruption (MMCL): each entry becomes, with this probability, that of another patient of the batch.

    The charts of the whole global batch -> rows (B, F), of which the entries at `spans` are changed; an entry is all
    columns of a variable, its flag too. A pure function of (seed, step, entry). A batch of one patient stays as it is.
    """
    images = len(batch.rows)
    every = np.arange(images)
    rows = batch.rows.copy()
    for entry, columns in enumerate(spans):
        here = np.flatnonzero(uniform(seed, _CORRUPTED, step, every, entry) < probability)
        # Among the images of other patients: with the images sorted by patient, all but one stretch.
        order = np.argsort(batch.patients, kind="stable")
        low = np.searchsorted(batch.patients[order], batch.patients[here], side="left")
        high = np.searchsorted(batch.patients[order], batch.patients[here], side="right")
        others = images - (high - low)
        here, low, high, others = (each[others > 0] for each in (here, low, high, others))
        drawn = (uniform(seed, _DONOR, step, here, entry) * others).astype(np.int64)
        donors = order[np.where(drawn < low, drawn, drawn + high - low)]
        rows[here, columns] = batch.rows[donors, columns]
    return rows
