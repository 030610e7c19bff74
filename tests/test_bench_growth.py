"""Growth: exponents, and bytes that a stage allocates at one and at several times the rows."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import growth_stages
from benchmarks.speed.growth import GROWTH_FILE, LEAST_ROWS, PLOT_FILE, STAGES, exponent, run_growth
from benchmarks.speed.growth_stages import STORED_SIDE, write_store_of
from chartray.config.pretrain import load
from chartray.errors import InputError
from chartray.pixels.store import Store
from chartray.training.loader import ImageLoader, split_rows


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stores of 2,048 and 16,384 images of 8 px."""
    folders = {rows: tmp_path_factory.mktemp(f"rows-{rows}") for rows in (2_048, 16_384)}
    for rows, folder in folders.items():
        write_store_of(folder, rows)
    return folders


def _peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_exponents_of_powers() -> None:
    rows = [100, 1_000, 10_000]
    for power in (0.0, 1.0, 2.0):
        assert exponent(rows, [3 * count**power for count in rows]) == pytest.approx(power)


def test_the_store_is_one_that_ingest_could_have_written(stores: dict[int, Path]) -> None:
    store = Store.open(stores[2_048] / "store")
    assert (len(store), store.size) == (2_048, STORED_SIDE)
    assert store.damaged() == []


def test_opening_a_store_and_gathering_batches_allocate_as_much_for_eight_times_the_images(
    stores: dict[int, Path],
) -> None:
    peaks = {}
    for rows, folder in stores.items():
        opened = _peak_bytes(growth_stages.opened(folder, rows))
        gathered = growth_stages.gathered(folder, rows)
        gathered()
        peaks[rows] = (opened, _peak_bytes(gathered))
    few, many = peaks.values()
    # Only the list of shards grows, one a thousand images: less than a byte for each further image.
    assert many[0] - few[0] < 16_384 - 2_048
    assert many[1] < 1.1 * few[1]


def test_a_batch_of_training_reads_its_images_and_no_more(stores: dict[int, Path]) -> None:
    """Numbers an image may be kept (16 bytes of sizes, 8 of its row, 8 of its place), texts and pixels not."""
    peaks = {}
    for rows, folder in stores.items():
        store = Store.open(folder / "store")
        films = split_rows(store, "train")
        views = load("tiny-cpu").views
        loader = ImageLoader(store, films, views, patch_side=8, batch_size=64, seed=0)
        loader.load(0)
        peaks[rows] = _peak_bytes(lambda loader=loader: [loader.load(step) for step in range(1, 9)])
        held = loader._sizes.nbytes + loader._rows.nbytes
        assert held <= 24 * rows
    few, many = peaks.values()
    assert many < 1.1 * few


def test_growth_is_written_with_its_plot_and_split_grows_no_faster_than_its_rows(tmp_path: Path) -> None:
    chosen = [stage for stage in STAGES if stage.name == "split by patient"]
    (found,) = run_growth(tmp_path / "growth", largest=LEAST_ROWS, chosen=chosen)
    assert found.rows == [1_000, 10_000, 100_000]
    # Memory, not seconds: some tens of bytes of each row's patient.
    assert 0 <= found.bytes_per_row < 400
    (written,) = json.loads((tmp_path / "growth" / GROWTH_FILE).read_text())
    assert written == found._asdict()
    assert b"<svg" in (tmp_path / "growth" / PLOT_FILE).read_bytes()[:1000]


def test_every_stage_is_measured_at_1_10_and_100_times_the_rows() -> None:
    for stage in STAGES:
        least, middle, most = stage.rows(1_000_000)
        assert most == 10 * middle == 100 * least


def test_too_few_rows_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 100000 rows for --growth-rows, found 99"):
        run_growth(tmp_path / "growth", largest=99)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder for --growth, found the file"):
        run_growth(tmp_path / "file")


def test_splitting_by_patient_allocates_in_proportion() -> None:
    peaks = [_peak_bytes(growth_stages.split(Path(), rows)) for rows in (2_000, 20_000)]
    assert peaks[1] < 15 * peaks[0]
    assert np.isfinite(peaks).all()
