"""The leak gate: patients and films that stand on both sides of a wall, and chart variables known only after the film.

A place is pretraining, or one split of one store. Two places are compared where one learns and the other judges:
pretraining and training films against validation and test films, and validation against test, within a store and
between stores. What is shared by two places of one kind (two training splits) is no leak.

Rows of leaks.jsonl, one for each pair of places that was compared, `count` 0 where they share nothing: {kind, between:
[place, place], count, examples, distance}
    patient       a patient of the first place is in the second; `count` patients of one source (one name in two sources
                  means two people); examples are keys (`schema.patient_key`)
    exact film    a film of the second place has the pixels of one of the first; `count` films of the second
    near film     likewise, the same picture encoded, scaled, brightened or mirrored (as pretraining's flips do):
                  hashes of 256 bits differ by `distance` or less (pixels.hashes); exact ones are not counted again. A
                  crop of 1 % a side or more, or a turn, hides a film from it
    variable      chart variables of pretraining that are known only after the film; examples are their names
Examples of films are rows of their stores.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from chartray.evaluation.baselines import chart_variables
from chartray.evaluation.films import metadata_of
from chartray.evaluation.leakage import patients_of
from chartray.pixels import hashes
from chartray.pixels.store import Store
from chartray.progress import progress
from chartray.schema import SPLITS, patient_key
from chartray.training.patients import PATIENTS_FILE

Integers = NDArray[np.int64]

PRETRAINING = "pretraining"
# What a place is for; only places of different use are compared, in this order.
_LEARNS, _CHOOSES, _JUDGES = range(3)
_USE = dict(zip(SPLITS, (_LEARNS, _CHOOSES, _JUDGES), strict=True))
_EXAMPLES = 10
_BATCH = 256


class Pretrained(NamedTuple):
    """What a run says of its pretraining: its name and provenance, and the keys of its patients (None: it does not)."""

    run: str
    made: dict[str, Any]
    patients: frozenset[str] | None


class _Place(NamedTuple):
    name: str
    use: int
    store: int
    rows: Integers


def pretrained(run: str, source: Path, made: dict[str, Any]) -> Pretrained:
    """What is known of the pretraining of the encoder at `source`, a RUN or the encoder folder inside one."""
    return Pretrained(run, made, patients_of(source, made))


def leaks(runs: Sequence[Pretrained], stores: Sequence[tuple[str, Store]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of leaks.jsonl for encoders and the stores (named) they are audited on; notes on what was not compared."""
    places = [place for index, (name, store) in enumerate(stores) for place in _places(name, index, store)]
    rows, notes = _patients(runs, stores, places)
    rows += _films(stores, places)
    rows += [_variables(run, runs, stores) for run in runs]
    known = {store.hash for _, store in stores}
    for run in runs:
        if run.made.get("store_hash") not in known:
            notes.append(
                f"the films that {run.run} was pretrained on are in none of these stores, so they were not compared; "
                "name its store with --external"
            )
    return rows, notes


def _places(name: str, index: int, store: Store) -> Iterator[_Place]:
    splits = np.array(store.cohort["split"].to_pylist(), dtype=object)
    for split in SPLITS:
        rows = np.flatnonzero(splits == split).astype(np.int64)
        if len(rows):
            yield _Place(f"{name}:{split}", _USE[split], index, rows)


def _patients(
    runs: Sequence[Pretrained], stores: Sequence[tuple[str, Store]], places: Sequence[_Place]
) -> tuple[list[dict[str, Any]], list[str]]:
    notes: list[str] = []
    learnt: list[tuple[str, int, str, frozenset[str]]] = []
    for run in runs:
        if run.patients is None:
            notes.append(f"{run.run} does not say which patients it was pretrained on ({PATIENTS_FILE} beside it)")
            continue
        if run.made.get("init") is not None:
            notes.append(f"{run.run} started from weights, which do not say whom they were shown")
        learnt.append((_pretraining(run, runs), _LEARNS, str(run.made.get("source")), run.patients))
    for place in places:
        store = stores[place.store][1]
        source = metadata_of(store).source
        names = pc.unique(store.cohort["patient_id"].take(place.rows)).to_pylist()
        learnt.append((place.name, place.use, source, frozenset(patient_key(source, name) for name in names)))
    rows = []
    for (first, use, source, ours), (second, other, another, theirs) in combinations(learnt, 2):
        if use != other and source == another:
            shared = sorted(ours & theirs)
            between = [first, second] if use < other else [second, first]
            rows.append(_row("patient", between, len(shared), shared[:_EXAMPLES]))
    return rows, notes


def _films(stores: Sequence[tuple[str, Store]], places: Sequence[_Place]) -> list[dict[str, Any]]:
    hashed = [_hashed(name, store) for name, store in stores]
    rows: list[dict[str, Any]] = []
    for first, second in combinations(places, 2):
        if first.use == second.use:
            continue
        a, b = (first, second) if first.use < second.use else (second, first)
        exact = _exact(a, b, hashed)
        rows.append(_row("exact film", [a.name, b.name], len(exact), _shown(exact), 0))
        found = _near(a, b, hashed, {row for _, row, _ in exact})
        largest = max((distance for _, _, distance in found), default=hashes.NEAR)
        rows.append(_row("near film", [a.name, b.name], len(found), _shown(found), largest))
    return rows


class _Hashed(NamedTuple):
    content: NDArray[np.void]
    perceptual: hashes.Words
    mirrored: hashes.Words
    pictured: NDArray[np.bool_]


def _hashed(name: str, store: Store) -> _Hashed:
    """Every film of a store is read once."""
    content: list[bytes] = []
    perceptual, mirrored = (np.empty((len(store), 4), dtype=np.uint64) for _ in range(2))
    pictured = np.empty(len(store), dtype=bool)
    with progress(f"hash, {name}", len(store), "films") as advance:
        for start in range(0, len(store), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(store)))
            images = store.images.gather(rows)
            content += hashes.content_hashes(images)
            perceptual[rows], pictured[rows] = hashes.perceptual_hashes(images)
            mirrored[rows] = hashes.perceptual_hashes(images[:, :, ::-1])[0]
            advance(len(rows))
    return _Hashed(np.frombuffer(b"".join(content), dtype="V16"), perceptual, mirrored, pictured)


def _exact(a: _Place, b: _Place, hashed: Sequence[_Hashed]) -> list[tuple[int, int, int]]:
    """(row of a, row of b, 0) for each film of `b` whose pixels a film of `a` has."""
    ours = {content: row for row, content in zip(a.rows.tolist(), _bytes(hashed[a.store], a), strict=True)}
    theirs = zip(b.rows.tolist(), _bytes(hashed[b.store], b), strict=True)
    return [(ours[content], row, 0) for row, content in theirs if content in ours]


def _bytes(hashed: _Hashed, place: _Place) -> list[bytes]:
    return [content.tobytes() for content in hashed.content[place.rows]]


def _near(a: _Place, b: _Place, hashed: Sequence[_Hashed], exact: set[int]) -> list[tuple[int, int, int]]:
    """(row of a, row of b, bits) for each film of `b` that is nearly one of `a`, mirrored or not: the nearest."""
    rows_a = a.rows[hashed[a.store].pictured[a.rows]]
    rows_b = np.array([row for row in b.rows.tolist() if row not in exact], dtype=np.int64)
    rows_b = rows_b[hashed[b.store].pictured[rows_b]]
    nearest: dict[int, tuple[int, int, int]] = {}
    for theirs in (hashed[b.store].perceptual, hashed[b.store].mirrored):
        left, right, bits = hashes.near_pairs(hashed[a.store].perceptual[rows_a], theirs[rows_b])
        for i, j, distance in zip(left.tolist(), right.tolist(), bits.tolist(), strict=True):
            if j not in nearest or distance < nearest[j][2]:
                nearest[j] = (int(rows_a[i]), int(rows_b[j]), distance)
    return [nearest[j] for j in sorted(nearest)]


def _shown(pairs: Sequence[tuple[int, int, int]]) -> list[dict[str, int]]:
    return [{"row": row, "other_row": other, "distance": bits} for row, other, bits in pairs[:_EXAMPLES]]


def _variables(run: Pretrained, runs: Sequence[Pretrained], stores: Sequence[tuple[str, Store]]) -> dict[str, Any]:
    """Variables of the run's chart that it says, or the cohort of its source says, are known only after the film."""
    after = {str(name): None for name in run.made.get("after_film") or ()}
    shown = run.made.get("chart_variables") or chart_variables(str(run.made.get("chart", "none")))
    for _, store in stores:
        metadata = metadata_of(store)
        if metadata.source == run.made.get("source"):
            known = metadata.variables
            after |= {name: None for name in shown if name in known and not known[name].known_at_film}
    return _row("variable", [_pretraining(run, runs), "chart"], len(after), list(after))


def _pretraining(run: Pretrained, runs: Sequence[Pretrained]) -> str:
    return PRETRAINING if len(runs) == 1 else f"{PRETRAINING} of {run.run}"


def _row(kind: str, between: list[str], count: int, examples: Sequence[Any], bits: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "between": between, "count": count, "examples": list(examples), "distance": bits}
