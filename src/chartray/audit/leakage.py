"""The leakage check: patients and images that appear in two splits, and chart variables known only after the image.

A split is one of a store, or the pretraining of a run. Two splits are compared where one serves training and the other
evaluation: pretraining and training with validation and test, and validation with test, within a store and between
stores. What two splits of one use share (two training splits) is no leakage.

Kinds of `results.audit_rows.Leak`, one row for each pair of splits compared, `count` 0 where they share nothing:
    patient       patients of the first split in the second; only within one source, since one id in two sources means
                  two people. Examples are `schema.patient_key`s
    exact film     images of the second split that are pixel for pixel in the first
    near film      images of the second split that look like one of the first, encoded anew, scaled, brightened or
                  mirrored (as the flips of pretraining do): their hashes of 256 bits differ by `distance` or less
                  (`pixels.hashes`). Exact copies are not counted again. A crop of 1 % a side or more, or a rotation,
                  goes undetected
    variable      chart variables of pretraining that are known only after the image; examples are their names
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from chartray.evaluation.baselines import chart_variables
from chartray.evaluation.image_set import metadata_of
from chartray.evaluation.leakage import patients_of
from chartray.networks.description import Provenance
from chartray.pixels import hashes
from chartray.pixels.store import Store
from chartray.progress import progress
from chartray.results.audit_rows import Leak, LeakExample
from chartray.results.manifest import EncoderEntry
from chartray.schema import SPLITS, patient_key
from chartray.training.patients import PATIENTS_FILE

Integers = NDArray[np.int64]

PRETRAINING = "pretraining"
# What a split is used for; only splits of different use are compared, in this order.
_TRAINING, _SELECTION, _EVALUATION = range(3)
_USE = dict(zip(SPLITS, (_TRAINING, _SELECTION, _EVALUATION), strict=True))
_EXAMPLES = 10
_BATCH = 256


class Pretrained(NamedTuple):
    """What a run says of its pretraining: its name and provenance, and the keys of its patients (None: unknown)."""

    run: str
    provenance: Provenance
    patients: frozenset[str] | None


class _StoreSplit(NamedTuple):
    name: str
    use: int
    store: int
    rows: Integers


class _Patients(NamedTuple):
    """The keys of a split's patients, all of one source."""

    split: str
    use: int
    source: str
    keys: frozenset[str]


def pretrained(entry: EncoderEntry) -> Pretrained:
    """What is known of the pretraining of an encoder."""
    return Pretrained(entry.run, entry.provenance, patients_of(Path(entry.path), entry.provenance))


def find_leaks(runs: Sequence[Pretrained], stores: Sequence[tuple[str, Store]]) -> tuple[list[Leak], list[str]]:
    """Rows of leaks.jsonl for encoders and the (named) stores they are audited on; notes on what was not compared."""
    splits = [split for index, (name, store) in enumerate(stores) for split in _splits(name, index, store)]
    rows, notes = _patients(runs, stores, splits)
    rows += _images(stores, splits)
    rows += [_variables(run, runs, stores) for run in runs]
    known = {store.hash for _, store in stores}
    notes += _note(
        "images that {} pretrained on were not compared, since no store here has them; add theirs with --external",
        [run.run for run in runs if run.provenance.store_hash not in known],
    )
    return rows, notes


def _note(words: str, runs: Sequence[str]) -> list[str]:
    """One note for all runs that it is of."""
    return [words.format(f"{', '.join(runs)} {'was' if len(runs) == 1 else 'were'}")] if runs else []


def _splits(name: str, index: int, store: Store) -> Iterator[_StoreSplit]:
    splits = np.array(store.cohort["split"].to_pylist(), dtype=object)
    for split in SPLITS:
        rows = np.flatnonzero(splits == split).astype(np.int64)
        if len(rows):
            yield _StoreSplit(f"{name}:{split}", _USE[split], index, rows)


def _patients(
    runs: Sequence[Pretrained], stores: Sequence[tuple[str, Store]], splits: Sequence[_StoreSplit]
) -> tuple[list[Leak], list[str]]:
    notes = _note(
        f"patients that {{}} pretrained on were not compared, since no {PATIENTS_FILE} names them",
        [run.run for run in runs if run.patients is None],
    )
    notes += _note(
        "{} started from other weights, whose pretraining patients were not compared",
        [run.run for run in runs if run.patients is not None and run.provenance.init is not None],
    )
    found = [
        _Patients(_pretraining(run, runs), _TRAINING, str(run.provenance.source), run.patients)
        for run in runs
        if run.patients is not None
    ]
    for split in splits:
        store = stores[split.store][1]
        source = metadata_of(store).source
        ids = pc.unique(store.cohort["patient_id"].take(split.rows)).to_pylist()
        keys = frozenset(patient_key(source, patient) for patient in ids)
        found.append(_Patients(split.name, split.use, source, keys))
    rows = []
    for a, b in combinations(found, 2):
        if a.use != b.use and a.source == b.source:
            first, second = (a, b) if a.use < b.use else (b, a)
            shared = sorted(first.keys & second.keys)
            examples = tuple(shared[:_EXAMPLES])
            rows.append(Leak(kind="patient", between=(first.split, second.split), count=len(shared), examples=examples))
    return rows, notes


def _images(stores: Sequence[tuple[str, Store]], splits: Sequence[_StoreSplit]) -> list[Leak]:
    hashed = [_hashed(name, store) for name, store in stores]
    rows: list[Leak] = []
    for first, second in combinations(splits, 2):
        if first.use == second.use:
            continue
        a, b = (first, second) if first.use < second.use else (second, first)
        exact = _exact(a, b, hashed)
        near = _near(a, b, hashed, {example.other_row for example in exact})
        furthest = max((example.distance for example in near), default=hashes.NEAR)
        same = Leak(
            kind="exact film",
            between=(a.name, b.name),
            count=len(exact),
            examples=tuple(exact[:_EXAMPLES]),
            distance=0,
        )
        examples = tuple(near[:_EXAMPLES])
        rows += [same, same.replaced(kind="near film", count=len(near), examples=examples, distance=furthest)]
    return rows


class _Hashed(NamedTuple):
    content: NDArray[np.void]
    perceptual: hashes.Words
    mirrored: hashes.Words
    pictured: NDArray[np.bool_]


def _hashed(name: str, store: Store) -> _Hashed:
    """Every image of a store is read once."""
    content: list[bytes] = []
    perceptual, mirrored = (np.empty((len(store), 4), dtype=np.uint64) for _ in range(2))
    pictured = np.empty(len(store), dtype=bool)
    with progress(f"hash, {name}", len(store), "images") as advance:
        for start in range(0, len(store), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(store)))
            images = store.images.gather(rows)
            content += hashes.content_hashes(images)
            perceptual[rows], pictured[rows] = hashes.perceptual_hashes(images)
            mirrored[rows] = hashes.perceptual_hashes(images[:, :, ::-1])[0]
            advance(len(rows))
    return _Hashed(np.frombuffer(b"".join(content), dtype="V16"), perceptual, mirrored, pictured)


def _exact(a: _StoreSplit, b: _StoreSplit, hashed: Sequence[_Hashed]) -> list[LeakExample]:
    """A pair for each image of `b` whose pixels an image of `a` has."""
    ours = {content: row for row, content in zip(a.rows.tolist(), _bytes(hashed[a.store], a), strict=True)}
    theirs = zip(b.rows.tolist(), _bytes(hashed[b.store], b), strict=True)
    return [LeakExample(row=ours[content], other_row=row, distance=0) for row, content in theirs if content in ours]


def _bytes(hashed: _Hashed, split: _StoreSplit) -> list[bytes]:
    return [content.tobytes() for content in hashed.content[split.rows]]


def _near(a: _StoreSplit, b: _StoreSplit, hashed: Sequence[_Hashed], exact: set[int]) -> list[LeakExample]:
    """A pair for each image of `b` that is nearly one of `a`, mirrored or not: the nearest one."""
    rows_a = a.rows[hashed[a.store].pictured[a.rows]]
    rows_b = np.array([row for row in b.rows.tolist() if row not in exact], dtype=np.int64)
    rows_b = rows_b[hashed[b.store].pictured[rows_b]]
    nearest: dict[int, LeakExample] = {}
    for theirs in (hashed[b.store].perceptual, hashed[b.store].mirrored):
        left, right, bits = hashes.near_pairs(hashed[a.store].perceptual[rows_a], theirs[rows_b])
        for i, j, distance in zip(left.tolist(), right.tolist(), bits.tolist(), strict=True):
            if j not in nearest or distance < nearest[j].distance:
                nearest[j] = LeakExample(row=int(rows_a[i]), other_row=int(rows_b[j]), distance=distance)
    return [nearest[j] for j in sorted(nearest)]


def _variables(run: Pretrained, runs: Sequence[Pretrained], stores: Sequence[tuple[str, Store]]) -> Leak:
    """Variables of the run's chart that are known only after the image, by the run or by the cohort of its source."""
    made = run.provenance
    after = dict.fromkeys(made.after_film)
    for _, store in stores:
        metadata = metadata_of(store)
        if metadata.source == made.source:
            known = metadata.variables
            shown = made.chart_variables or chart_variables(made.chart or "none")
            after |= dict.fromkeys(name for name in shown if name in known and not known[name].known_at_film)
    examples = tuple(after)
    return Leak(kind="variable", between=(_pretraining(run, runs), "chart"), count=len(after), examples=examples)


def _pretraining(run: Pretrained, runs: Sequence[Pretrained]) -> str:
    return PRETRAINING if len(runs) == 1 else f"{PRETRAINING} of {run.run}"
