"""Arms on the same images: a chart whose representable images are used, whatever chart enters."""

import pyarrow.parquet as pq
import pytest

from chartray.config.pretrain import Config
from chartray.errors import InputError
from chartray.evaluation.compare import _note
from chartray.pixels.ingest import ingest
from chartray.pixels.store import Store
from chartray.schema import from_metadata, to_metadata
from chartray.training.schedules import make_schedule
from chartray.training.training_data import TrainingData, load_training_data, settings_hash
from tests.conftest import FILM_SIZE, small_cohort
from tests.test_pretrain import small


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small store under the published rules, which drop what a chart cannot represent."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "films").mkdir()
    table = small_cohort(folder / "films")
    metadata = from_metadata(table.schema.metadata).model_copy(update={"rules": "published"})
    pq.write_table(table.replace_schema_metadata(to_metadata(metadata)), folder / "cohort.parquet")
    ingest(folder / "cohort.parquet", folder / "store", size=FILM_SIZE, workers=1)
    return Store.open(folder / "store")


def note(store: Store, *arms: tuple[TrainingData, Config]) -> str | None:
    """What `compare` says of two arms' pretraining."""
    made = [data.manifest(config, make_schedule(config.train, len(data.rows))) for data, config in arms]
    return _note(made[:1], made[1:])


def test_no_chart_is_trained_on_the_images_of_the_chart_arm(published: Store, capsys: pytest.CaptureFixture) -> None:
    chart, none = small(chart__ehr="demographic-norm"), small(chart__ehr="none")
    same = small(chart__ehr="none", chart__films_of="demographic-norm")
    with_chart, without, alike = (load_training_data(published, config) for config in (chart, none, same))
    assert len(with_chart.rows) < len(without.rows) == 144
    assert alike.rows.tolist() == with_chart.rows.tolist()
    assert "dropped that the chart demographic-norm (chart.films_of) cannot represent" in capsys.readouterr().out
    manifest = alike.manifest(same, make_schedule(same.train, len(alike.rows)))
    assert (manifest.films_of, manifest.ehr_in, manifest.chart_variables) == ("demographic-norm", 0, [])
    assert manifest.films_without_representable_chart == 144 - len(alike.rows)
    assert settings_hash(same) == settings_hash(none)
    assert "pretrained on different images" in str(note(published, (with_chart, chart), (without, none)))
    assert note(published, (with_chart, chart), (alike, same)) is None
    # A smaller chart is given no image that the larger one lacks; what is known after the image only chooses images.
    sex = load_training_data(published, small(chart__ehr="sex", chart__films_of="demographic-norm,died"))
    assert sex.rows.tolist() == with_chart.rows.tolist()
    assert not sex.chart.after_film


def test_an_unknown_chart_is_refused(published: Store) -> None:
    with pytest.raises(InputError, match="did you mean 'demographic-norm'"):
        load_training_data(published, small(chart__ehr="none", chart__films_of="demografic-norm"))
