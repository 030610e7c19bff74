"""Evaluations that are to be compared: read, and refused where their numbers would mean different things."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chartray.checks.finding import rows as row_numbers
from chartray.errors import InputError
from chartray.networks.description import Provenance
from chartray.results.arm import BASELINES, Arm, arm_of
from chartray.results.folder import PREDICTIONS_FILE, ResultsFolder
from chartray.results.manifest import EvaluationManifest, Settings

Floats = NDArray[np.float64]

# What must be the same in all evaluations, or their numbers mean different things.
SAME_SETTINGS = ("protocol", "split", "uncertain", "blank")
# The columns of predictions.parquet that are read.
_COLUMNS = {"image_id", "patient_id", "label", "truth", "score", "draw", "dataset", "control", "chart", "fraction"}


class EvaluatedRun(NamedTuple):
    """One evaluated run: the folder of its evaluation, opened."""

    opened: ResultsFolder[EvaluationManifest]

    @property
    def folder(self) -> Path:
        """Where its evaluation lies."""
        return self.opened.folder

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.opened.manifest.run

    @property
    def arm(self) -> Arm:
        """The arm that it is a run of."""
        return self.opened.manifest.encoder.arm

    @property
    def made(self) -> Provenance:
        """How it was pretrained."""
        return self.opened.manifest.encoder.provenance

    @property
    def seed(self) -> int | None:
        """The seed of its pretraining."""
        return self.made.seed

    @property
    def settings(self) -> Settings:
        """The choices of its evaluation."""
        return self.opened.manifest.settings

    @property
    def stores(self) -> dict[str, str]:
        """Hashes of its stores by data set; the first is what was fitted on."""
        return {one.dataset: one.hash for one in self.opened.manifest.stores}


class Sheet(NamedTuple):
    """A run's predictions on one data set at one fraction: truth (N, C), scores (D, N, C) of D draws, patients (N,)."""

    image_ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    labels: tuple[str, ...]
    truth: Floats
    scores: Floats


class Sheets(NamedTuple):
    """A run's predictions by data set and fraction: its own, and those of each baseline that was scored with it."""

    own: dict[tuple[str, float], Sheet]
    baselines: dict[Arm, dict[tuple[str, float], Sheet]]


def read_sheets(runs: Sequence[EvaluatedRun]) -> dict[Path, Sheets]:
    """Every run's predictions, by folder.

    Raises InputError where settings, data sets, images, labels, truths, stores or drawn patients differ, or a needed
    score is NaN.
    """
    for run, setting in itertools.product(runs[1:], SAME_SETTINGS):
        if getattr(run.settings, setting) != getattr(runs[0].settings, setting):
            raise InputError(
                f"expected one {setting} in all evaluations, found {getattr(runs[0].settings, setting)} in "
                f"{runs[0].folder} and {getattr(run.settings, setting)} in {run.folder}; evaluate both with the same "
                "options"
            )
    sheets = {run.folder: _read_sheets(run) for run in runs}
    for where in _shared(runs, sheets):
        first = sheets[runs[0].folder].own[where]
        for run in runs:
            own, baselines = sheets[run.folder]
            for sheet in (own[where], *(each[where] for each in baselines.values() if where in each)):
                _refuse_other_images(where[0], first, sheet, runs[0], run)
    for run in runs[1:]:
        _refuse_other_learning(runs[0], run, subsets=any(fraction < 1 for _, fraction in sheets[run.folder].own))
    return sheets


def _read_sheets(run: EvaluatedRun) -> Sheets:
    table = run.opened.table(PREDICTIONS_FILE)
    absent = sorted(_COLUMNS - set(() if table is None else table.column_names))
    if table is None or absent:
        raise InputError(
            f"expected predictions with {', '.join(absent)} in {run.folder / PREDICTIONS_FILE}, found none; evaluate "
            "it again"
        )
    arms = table.group_by(["control", "chart"], use_threads=False).aggregate([]).to_pylist()
    baselines = {
        arm_of(one["chart"], one["control"], base=run.arm): _sheets_of(run, table, **one)
        for one in arms
        if one["control"] in BASELINES
    }
    return Sheets(_sheets_of(run, table, run.arm.control, run.arm.chart), baselines)


def _sheets_of(run: EvaluatedRun, table: pa.Table, control: str, chart: str) -> dict[tuple[str, float], Sheet]:
    table = table.filter(pc.and_(pc.equal(table["control"], control), pc.equal(table["chart"], chart)))
    keys = table.group_by(["dataset", "fraction"], use_threads=False).aggregate([]).to_pylist()
    return {(key["dataset"], key["fraction"]): _sheet(run, table, **key) for key in keys}


def _sheet(run: EvaluatedRun, table: pa.Table, dataset: str, fraction: float) -> Sheet:
    part = table.filter(pc.and_(pc.equal(table["dataset"], dataset), pc.equal(table["fraction"], fraction)))
    drawn = part["draw"].to_numpy()
    draws = np.unique(drawn)
    labels = tuple(dict.fromkeys(part["label"].to_pylist()))
    shape = (len(draws), part.num_rows // len(labels) // len(draws), len(labels))
    order = np.argsort(drawn, kind="stable")  # image by image within a draw
    truth, scores = (part[name].to_numpy()[order].astype(np.float64).reshape(shape) for name in ("truth", "score"))
    names, patients = (
        np.array(part[name].to_pylist(), dtype=np.str_)[order].reshape(shape)[:, :, 0]
        for name in ("image_id", "patient_id")
    )
    if (names != names[0]).any() or not _same(truth, truth[0]).all():
        raise InputError(
            f"expected the same images and truths in all {len(draws)} training subsets of {dataset} in {run.folder}"
        )
    unscored = np.argwhere(np.isnan(scores) & ~np.isnan(truth))
    if len(unscored):
        draw, image, label = unscored[0]
        raise InputError(
            f"expected a score of every image from {run.name}, found NaN for {len(np.unique(unscored[:, 1]))} images "
            f"of {dataset} in {run.folder / PREDICTIONS_FILE}, the first in image {image}, label {labels[label]}, "
            f"draw {draws[draw]}; evaluate it again"
        )
    return Sheet(names[0], patients[0], labels, truth[0], scores)


def _same(truth: Floats, other: Floats) -> NDArray[np.bool_]:
    return np.asarray((truth == other) | (np.isnan(truth) & np.isnan(other)))


def _shared(runs: Sequence[EvaluatedRun], sheets: dict[Path, Sheets]) -> list[tuple[str, float]]:
    """Data sets and fractions, which must be the same in all."""
    first = list(sheets[runs[0].folder].own)
    for run in runs[1:]:
        odd = set(first) ^ set(sheets[run.folder].own)
        if odd:
            dataset, fraction = sorted(odd)[0]
            raise InputError(
                f"expected the same data sets and fractions in {runs[0].folder} and {run.folder}, found {dataset} at "
                f"fraction {fraction} in only one of them; evaluate both with the same options"
            )
    return first


def _refuse_other_images(dataset: str, first: Sheet, other: Sheet, run: EvaluatedRun, another: EvaluatedRun) -> None:
    if first.labels != other.labels:
        odd = sorted(set(first.labels) ^ set(other.labels))
        found = f"{odd[0]} in only one of them" if odd else "another order"
        raise InputError(
            f"expected the same labels on {dataset} in {run.folder} and {another.folder}, found {found}; "
            "evaluate both with the same labels"
        )
    ours, theirs = first.image_ids, other.image_ids
    if len(ours) != len(theirs) or (ours != theirs).any():
        alone = [np.flatnonzero(~np.isin(ours, theirs)), np.flatnonzero(~np.isin(theirs, ours))]
        which = [
            f"{row_numbers(rows)} of {one.folder}" for rows, one in zip(alone, (run, another), strict=True) if len(rows)
        ]
        rows = np.flatnonzero(ours[: len(theirs)] != theirs[: len(ours)])
        raise InputError(
            f"expected the same images on {dataset} in {run.folder} ({len(ours)}) and {another.folder} "
            f"({len(theirs)}), found {sum(map(len, alone))} in only one of them"
            + (f": {', '.join(which)}" if which else f" but another order: {row_numbers(rows)}")
            + "; evaluate on one store"
        )
    if len(first.scores) != len(other.scores):
        raise InputError(
            f"expected as many training subsets in {run.folder} ({len(first.scores)}) as in "
            f"{another.folder} ({len(other.scores)}) on {dataset}; evaluate both with the same options"
        )
    differing = ~_same(first.truth, other.truth)
    if differing.any():
        label = np.argwhere(differing)[0][1]
        raise InputError(
            f"expected the same truth on {dataset} in {run.folder} and {another.folder}, found {int(differing.sum())} "
            f"that differ, in {row_numbers(np.flatnonzero(differing.any(axis=1)))}, the first in label "
            f"{first.labels[label]}; evaluate on one store"
        )


def _refuse_other_learning(first: EvaluatedRun, other: EvaluatedRun, *, subsets: bool) -> None:
    """What was fitted on must be the same too: the stores, and where a fraction is below 1 the patients drawn."""
    ours, theirs = (next(iter(run.stores)) for run in (first, other))
    if ours != theirs:
        raise InputError(
            f"expected probes of one store in all evaluations, found {ours} in {first.folder} and {theirs} in "
            f"{other.folder}; evaluate both with the same options"
        )
    for dataset, digest in first.stores.items():
        if digest != other.stores[dataset]:
            raise InputError(
                f"expected one store of {dataset} in all evaluations, found hash {digest[:12]} in {first.folder} and "
                f"{other.stores[dataset][:12]} in {other.folder}; evaluate on one store"
            )
    ours, theirs = (run.settings.draw_by or "an earlier way" for run in (first, other))
    if subsets and ours != theirs:
        raise InputError(
            f"expected one --draw-by in all evaluations with a fraction of the training patients, found {ours} in "
            f"{first.folder} and {theirs} in {other.folder}; evaluate both with the same options"
        )
    ours, theirs = (str(run.settings.seed) for run in (first, other))
    if subsets and ours != theirs:
        raise InputError(
            f"expected one --seed in all evaluations with a fraction of the training patients, found {ours} in "
            f"{first.folder} and {theirs} in {other.folder}; the seed chooses the patients: use the same one"
        )
