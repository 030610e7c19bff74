"""From predictions.parquet to ROC and precision-recall curves, and from embeddings.parquet and the stores to maps."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chartray.pixels.store import Store
from chartray.report.embedding_map import (
    Colouring,
    EmbeddingMap,
    category_colouring,
    map_item,
    neighbourhoods,
    numeric_colouring,
    principal_components,
    thumbnails,
    truth_colouring,
    with_large_classes,
)
from chartray.report.inputs import Results
from chartray.report.plots import Curve
from chartray.report.summary import Selection, selection_of
from chartray.results.arm import PIXELS, UNTRAINED, Arm
from chartray.schema import EHR_PREFIX, LABEL_PREFIX, from_metadata, hashed
from chartray.statistics.metrics import MINIMUM_PATIENTS

# All images of all maps together: about 2.5 kB each, so that the page stays under 8 MB with Bokeh's 1.3 MB.
IMAGES_ON_PAGE = 1200
IMAGES_PER_MAP = 600

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


class LabelCurves(NamedTuple):
    """ROC and precision-recall curves of one label, one an arm; `prevalence` is the share of positive images."""

    roc: list[Curve]
    precision_recall: list[Curve]
    prevalence: float


def label_curves(results: Sequence[Results], place: str, which: Selection) -> dict[str, LabelCurves]:
    """Curves by label at one place, one an arm (its first seed and draw); labels with one class have none."""
    found: dict[str, dict[Arm, tuple[Curve, Curve, float]]] = {}
    dataset = place.partition("<")[0]
    for one in results:
        if one.places.get(dataset) != place:
            continue
        table = _selected(one, one.predictions, dataset, which)
        if table is None:
            continue
        for arm, rows in _by_arm(table, one):
            labels = pc.dictionary_encode(rows["label"]).combine_chunks()
            codes = np.asarray(labels.indices)
            truth = rows["truth"].to_numpy().astype(np.float64)
            score = rows["score"].to_numpy().astype(np.float64)
            for code, label in enumerate(labels.dictionary.to_pylist()):
                mine = (codes == code) & ~np.isnan(truth)
                if mine.any() and truth[mine].min() < truth[mine].max() and arm not in found.get(label, {}):
                    found.setdefault(label, {})[arm] = (
                        Curve(arm, *roc(truth[mine], score[mine])),
                        Curve(arm, *precision_recall(truth[mine], score[mine])),
                        float((truth[mine] > 0.5).mean()),
                    )
    ordered = {label: [by[arm] for arm in sorted(by, key=lambda arm: arm.order)] for label, by in found.items()}
    return {
        label: LabelCurves([one[0] for one in curves], [one[1] for one in curves], curves[0][2])
        for label, curves in sorted(ordered.items())
    }


def labels_of_few(results: Sequence[Results], place: str, which: Selection) -> list[str]:
    """Labels with fewer than `MINIMUM_PATIENTS` positive or negative patients at one place: they get no curve."""
    dataset = place.partition("<")[0]
    for one in results:
        table = _selected(one, one.predictions, dataset, which) if one.places.get(dataset) == place else None
        if table is None:
            continue
        rows = next((rows for _, rows in _by_arm(table, one)), None)
        if rows is not None:
            known = rows.filter(pc.is_in(rows["truth"], pa.array([0.0, 1.0], rows["truth"].type)))
            by = known.group_by(["label", "truth"]).aggregate([("patient_id", "count_distinct")]).to_pylist()
            enough = Counter(row["label"] for row in by if row["patient_id_count_distinct"] >= MINIMUM_PATIENTS)
            return sorted(label for label in set(rows["label"].to_pylist()) if enough[label] < 2)
    return []


def roc(truth: NDArray[np.float64], score: NDArray[np.float64]) -> Points:
    """False and true positive rates, from the highest score down; NaN truth is left out, both classes are needed.

    >>> roc(np.array([0., 1.]), np.array([.2, .9]))[1].tolist()
    [0.0, 1.0, 1.0]
    """
    from sklearn.metrics import roc_curve  # 3 s to import: only a page with curves pays for it

    known = ~np.isnan(truth)
    false, true, _ = roc_curve(truth[known], score[known], drop_intermediate=False)
    return false, true


def precision_recall(truth: NDArray[np.float64], score: NDArray[np.float64]) -> Points:
    """Recall and precision, arguments as `roc`.

    At recall 0 it has the first precision. scikit-learn puts 1 there, a value that no threshold reaches.

    >>> [values.tolist() for values in precision_recall(np.array([0., 1.]), np.array([.2, .9]))]
    [[0.0, 1.0, 1.0], [1.0, 1.0, 0.5]]
    """
    from sklearn.metrics import precision_recall_curve

    known = ~np.isnan(truth)
    precision, recall, _ = precision_recall_curve(truth[known], score[known])
    return recall[::-1], np.append(precision[-2], precision[-2::-1])


def embedding_map(
    results: Sequence[Results],
    dataset: str,
    store: tuple[Path, Store] | None,
    which: Selection,
    *,
    most: int,
    with_images: bool,
) -> EmbeddingMap | None:
    """The map of `dataset`'s embeddings of the main split, at most `most` images; None where there are no embeddings.

    Every encoder is projected with its own principal components, fitted on all its images, and its own t-SNE of the
    images shown, which are the same for all. Without a store there are neither images nor chart colours.
    """
    tables: dict[Arm, pa.Table] = {}
    for one in results:
        table = _selected(one, one.embeddings, dataset, which)
        for arm, rows in _by_arm(table, one) if table is not None else []:
            tables.setdefault(arm, rows)
    tables = {arm: tables[arm] for arm in sorted(tables, key=lambda arm: arm.order) if tables[arm].num_rows > 2}
    if not tables:
        return None
    shared = sorted(set.intersection(*(set(table["image_id"].to_pylist()) for table in tables.values())))
    names = dict(zip(shared, hashed(shared), strict=True))
    rng = np.random.default_rng(0)
    shown = sorted(rng.choice(shared, size=min(most, len(shared)), replace=False).tolist())
    projections = {}
    for arm, table in tables.items():
        places = {image: row for row, image in enumerate(table["image_id"].to_pylist())}
        embeddings = _matrix(table)
        projection = principal_components(embeddings)
        rows = [places[image] for image in shown]
        near = neighbourhoods(embeddings[rows]) if any(projection.shares) else None
        projections[arm.title] = projection._replace(points=projection.points[rows], neighbourhoods=near)
    colourings: list[Colouring] = []
    pictures: list[str] = []
    if store is not None:
        there = _rows_of(store[1], shown)
        colourings = _colourings(store[1], there)
        pictures = _thumbnails(store[1], there) if with_images else []
    return map_item(projections, colourings, [names[image] for image in shown], pictures)


def _selected(results: Results, table: pa.Table | None, dataset: str, which: Selection) -> pa.Table | None:
    """The rows of a data set, the main split and share of labels, and the first draw; None where there are none."""
    if table is None or all(selection_of(one)._replace(fraction=which.fraction) != which for one in results.scores):
        return None
    wanted = {"dataset": dataset, "split": which.split, "fraction": which.fraction, "draw": 0}
    # Embeddings are the same for all shares and draws, so that their table names neither.
    for column in wanted.keys() & {*table.column_names}:
        table = table.filter(pc.equal(table[column], wanted[column]))
    return table if table.num_rows else None


def _by_arm(table: pa.Table, results: Results) -> list[tuple[Arm, pa.Table]]:
    """The rows of each arm; embeddings, which name no arm, are the encoder's."""
    base = results.base
    if "control" not in table.column_names:
        return [] if base is None else [(base, table)]
    found: dict[Arm, pa.Table] = {}
    for group in table.select(["chart", "control"]).group_by(["chart", "control"]).aggregate([]).to_pylist():
        mask = pc.and_(pc.equal(table["chart"], group["chart"]), pc.equal(table["control"], group["control"]))
        arm = _arm(group["chart"], group["control"], results)
        if arm is not None:
            found.setdefault(arm, table.filter(mask))
    return list(found.items())


def _arm(chart: str, control: str, results: Results) -> Arm | None:
    """The arm of an evaluation that its predictions name so; some baselines are the same whatever the chart."""
    there = dict.fromkeys(one.arm for one in results.scores if one.arm.control == control)
    return next((arm for arm in there if arm.chart == chart or control in (UNTRAINED, PIXELS)), None)


def _matrix(table: pa.Table) -> np.ndarray[Any, np.dtype[Any]]:
    """The embeddings (N, D) of a table with one list column `embedding`."""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


def _rows_of(store: Store, images: Sequence[str]) -> list[int]:
    places = {image: row for row, image in enumerate(store.cohort["image_id"].to_pylist())}
    return [places[image] for image in images]


def _thumbnails(store: Store, rows: Sequence[int]) -> list[str]:
    cohort = store.cohort.take(rows)
    pixels = store.images.gather(np.array(rows, dtype=np.int64))
    return thumbnails(pixels, cohort["height"].to_pylist(), cohort["width"].to_pylist())


def _colourings(store: Store, rows: Sequence[int]) -> list[Colouring]:
    """Findings first, the most balanced before the others, then the chart's variables."""
    cohort = store.cohort.take(rows)
    metadata = from_metadata(store.cohort.schema.metadata)
    findings, charts = [], []
    for column in cohort.column_names:
        values = cohort[column].to_pylist()
        if column.startswith(LABEL_PREFIX):
            findings.append(truth_colouring(column.removeprefix(LABEL_PREFIX), values))
        elif column.startswith(EHR_PREFIX):
            name = column.removeprefix(EHR_PREFIX)
            variable = metadata.variables.get(name)
            numeric = variable is not None and variable.kind == "numeric"
            unit = (variable.unit if variable else None) or ""
            charts.append(numeric_colouring(name, values, unit) if numeric else category_colouring(name, values))
    findings, charts = ([large for one in group if (large := with_large_classes(one))] for group in (findings, charts))
    findings.sort(key=lambda one: (abs(_share(one.words) - 0.5), one.name))
    return findings[:1] + charts + sorted(findings[1:], key=lambda one: one.name)


def _share(words: Sequence[str]) -> float:
    return sum(word == "present" for word in words) / max(len(words), 1)


def images_per_map(datasets: Sequence[str]) -> int:
    """How many images each of the maps may show."""
    return min(IMAGES_PER_MAP, IMAGES_ON_PAGE // max(len(datasets), 1))
