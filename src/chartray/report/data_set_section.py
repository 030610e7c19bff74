"""What the page shows of one place that was scored: tables, figures and the map of embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chartray.pixels.store import Store
from chartray.report import curve_data, curves, disambiguate, embedding_map, figures, forests, summary, tables
from chartray.report.inputs import Results
from chartray.results.arm import Arm
from chartray.results.schema import Comparison, Score


class MainRows(NamedTuple):
    """The rows of the main selection `which`; `every` are the scores of all selections."""

    which: summary.Selection
    scores: list[Score]
    every: list[Score]
    studies: list[Score]
    comparisons: list[Comparison]


class DataSetSection(NamedTuple):
    """What `data_set.html.j2` draws of one place that was scored."""

    name: str
    dataset: str
    number: int
    arms: list[Arm]
    encoders: list[Arm]
    headlines: list[tables.Headline]
    score_tables: list[tables.ScoreTable]
    delong: str
    studies: tables.StudyTable | None
    other: list[tables.OtherRow]
    by_label: list[tables.DifferenceTable]
    by_label_figures: list[figures.DrawnPanel | None]
    forest: forests.Forests
    roc_curves: list[curves.LabelFigure]
    reliability: list[figures.DrawnPanel]
    shares: curves.Shares | None
    map: embedding_map.EmbeddingMap | None
    few: list[str]
    few_positives: set[str]


def main_rows(results: Sequence[Results]) -> MainRows:
    """The main selection of some results; raises InputError where two macro means are over different labels."""
    every = [score for one in results for score in one.scores]
    which = summary.selection(every)
    scores = summary.chosen(every, which)
    disambiguate.refuse_other_macro_labels(scores)
    return MainRows(
        which=which,
        scores=scores,
        every=every,
        studies=summary.chosen([score for one in results for score in one.studies], which),
        comparisons=summary.at([pair for one in results for pair in one.comparisons], which),
    )


def maps_of(
    results: Sequence[Results],
    names: Sequence[str],
    opened: Mapping[str, tuple[Path, Store]],
    which: summary.Selection,
    *,
    with_images: bool,
) -> dict[str, embedding_map.EmbeddingMap]:
    """A map for each data set, as embeddings are the same whatever probe reads them, by its first place."""
    most = curve_data.images_per_map(names)
    found: dict[str, embedding_map.EmbeddingMap] = {}
    for name in names:
        made = curve_data.embedding_map(results, name, opened.get(name), which, most=most, with_images=with_images)
        if made is not None:
            found[next(place for one in results if (place := one.places.get(name)))] = made
    return found


def data_set_section(
    name: str,
    results: Sequence[Results],
    main: MainRows,
    styles: Mapping[Arm, figures.Style],
    out: Path,
    maps: Mapping[str, embedding_map.EmbeddingMap],
    number: int,
) -> DataSetSection:
    """One place that was scored; its figures are saved in `out`."""
    arms = tables.arms_of([one for one in main.scores if one.place == name])
    few = curve_data.labels_of_few(results, name, main.which)
    by_label = curve_data.label_curves(results, name, main.which)
    differences = tables.difference_tables(main.comparisons, name)
    by_metric = [tables.score_table(main.scores, name, metric) for metric in tables.METRICS]
    roc_curves = {label: found for label, found in by_label.items() if label not in few}
    return DataSetSection(
        name=name,
        dataset=name.partition("<")[0],
        number=number,
        arms=arms,
        encoders=[arm for arm in arms if not arm.is_baseline],
        headlines=tables.headlines(main.scores, name, tables.axis_start(main.scores)),
        score_tables=[table for table in by_metric if table.rows],
        delong=tables.delong_words(main.scores, name),
        studies=tables.study_table(main.scores, main.studies, name),
        other=tables.other_rows(main.every, name),
        by_label=differences,
        by_label_figures=[
            forests.differences_by_label(table.pairs, styles, table.metric, f"by-label-{figures.slug(name)}-{place}")
            for place, table in enumerate(differences)
        ],
        forest=forests.forest_figures(name, main.scores, main.comparisons, styles, out),
        roc_curves=curves.label_figures(name, roc_curves, figures.only(styles, arms), out),
        reliability=curves.reliability_figures(results, name, main.which, styles, out, without=few),
        shares=curves.share_figures(main.every, name, main.which, styles, out),
        map=maps.get(name),
        few=few,
        few_positives={one.label for one in main.scores if one.place == name and one.few_positives},
    )
