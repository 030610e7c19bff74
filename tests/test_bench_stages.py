"""What the stages' speed rests on, in work done: reads, rows, calls and bytes, never seconds."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from torch.utils.data import Dataset as ImageSet
from torch.utils.data import get_worker_info

from benchmarks.speed import cohorts, ingesting, probing, resampling, starting
from benchmarks.speed.bench import _MODULES, NAMES
from benchmarks.speed.full_size_tables import Sizes, film_names, write_tables
from benchmarks.speed.options import Options
from benchmarks.speed.pil_views import endless_batches
from benchmarks.speed.processor import Counted, timed
from benchmarks.speed.training_step import Rounds, _operations
from chartray.config.pretrain import EncoderConfig
from chartray.evaluation import embed as embedding
from chartray.networks import encoder as vit
from chartray.networks.description import Provenance
from chartray.pixels.dicom_frame import Frame, stored
from chartray.pixels.dicom_grey import shades
from chartray.pixels.read import DecodedImage, decode_image, squash
from chartray.pixels.store import Store
from chartray.statistics import metrics
from chartray.statistics.metrics import resample


def test_every_stage_has_a_module_that_measures_it() -> None:
    assert {"help", "first_step", "cohort", "ingest.jpeg", "ingest.dicom", "probe", "bootstrap"} <= set(NAMES)
    ours = {_MODULES[name] for name in NAMES}
    assert {"starting", "cohorts", "ingesting", "probing", "resampling"} <= ours


def test_processor_seconds_are_the_median_of_the_counted_rounds() -> None:
    rounds = iter([(9.0, 90.0), (1.0, 4.0), (2.0, 2.0), (3.0, 3.0)])
    way = Counted(lambda: next(rounds))
    assert [way() for _ in range(4)] == [9.0, 1.0, 2.0, 3.0]
    assert way.notes == {"processor_seconds": 3.0}
    seconds, used = timed(lambda: sum(range(10)))
    assert seconds >= 0
    assert used >= 0


def test_tables_keep_the_proportions_of_the_real_ones_and_link_as_the_row_loops_do(tmp_path: Path) -> None:
    sizes = Sizes().scaled(3_000)
    written = write_tables(tmp_path / "tables", sizes)
    assert written == sum(file.stat().st_size for file in (tmp_path / "tables").rglob("*.csv"))
    films, admissions, icu_stays = cohorts.read_for_loops(tmp_path / "tables")
    assert (len(films), len(admissions), len(icu_stays)) == (sizes.films, sizes.admissions, sizes.icu_stays)
    died, in_icu = cohorts.link_by_rows(films, admissions, icu_stays)
    assert 20 < sum(died) < 500
    assert 20 < sum(in_icu) < 2_000
    alike = cohorts.refuse_other_links(tmp_path / "tables", tmp_path / "c.parquet", sizes.films)
    # Views other than the four are left out by the published rule; all images have a patient with a sex.
    assert alike == int((films["ViewPosition"] != "LPO").sum())


def test_row_loops_that_link_otherwise_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tables(tmp_path / "tables", Sizes().scaled(200))
    monkeypatch.setattr(cohorts, "link_by_rows", lambda films, *_: ([1] * len(films), [0] * len(films)))
    with pytest.raises(RuntimeError, match=r"ehr\.mortality of \d+ images is not what the row loops say"):
        cohorts.refuse_other_links(tmp_path / "tables", tmp_path / "c.parquet", 200)


def test_image_names_are_all_different() -> None:
    names = film_names(70_000, np.random.default_rng(0)).to_pylist()
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {44}


def test_the_grey_scale_of_a_dicom_image_is_worked_out_once_a_level_not_once_a_pixel() -> None:
    films = [np.random.default_rng(2).integers(37, 4000, (side, side)).astype(np.uint16) for side in (700, 2800)]
    peaks = []
    for pixels in films:
        header = Dataset()
        header.BitsAllocated, header.BitsStored, header.PixelRepresentation = 16, 12, 0
        header.PhotometricInterpretation, header.WindowCenter, header.WindowWidth = "MONOCHROME2", 2048, 4096
        tracemalloc.start()
        shades(stored(Frame(pixels, "MONOCHROME2", None, False), header), header)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_squashing_an_image_copies_none_of_it_and_is_what_pillow_gives() -> None:
    from PIL import Image

    image = np.random.default_rng(3).random((400, 300), dtype=np.float32)
    squash(DecodedImage(image, 400, 300), 32)  # what Pillow imports at first is no copy
    tracemalloc.start()
    squashed = squash(DecodedImage(image, 400, 300), 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes / 4
    plain = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(squashed, np.clip(plain * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8))


def test_both_ways_of_ingest_read_the_same_images_to_the_same_grey(tmp_path: Path) -> None:
    for kind, convert, most in (("jpeg", ingesting.convert_jpeg, 2.0), ("dicom", ingesting.convert_dicom, 8.0)):
        path = ingesting.write_films(tmp_path, kind, 764, 636)[0]
        ours = squash(decode_image(path, smallest_side=560), ingesting.SIZE).astype(float)
        theirs = np.asarray(convert(path).convert("L")).astype(float)
        # pydicom's usual way stretches each image to its own smallest and largest value.
        assert np.abs(ours - theirs).mean() < most
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999


def test_embedding_takes_each_image_once_and_does_not_depend_on_the_batch(small_store: Path) -> None:
    store = Store.open(small_store)
    shape = vit.architecture(EncoderConfig(name="vit_tiny", width=64, depth=2, heads=2, patch_size=8), 48)
    encoder = vit.PretrainedEncoder(vit.build(shape, seed=0).eval(), 48, 0.5, 0.25, shape, Provenance())
    seen: list[int] = []
    encoder.model.patch_embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    rows = np.arange(100)
    found = embedding.embed(encoder, store, rows, device="cpu")
    assert sum(seen) == 100
    assert max(seen) <= 32
    whole = embedding.embed(encoder, store, rows, device="cpu", batch_size=256)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


def test_the_reference_of_the_probe_passes_each_image_once_an_epoch(tmp_path: Path) -> None:
    films = (128, 64, 64)
    store = starting.make_store(tmp_path, sum(films), 32)
    passed: list[int] = []
    original = probing._published_encoder

    def counting() -> Any:
        model, width = original()
        model.patch_embed.register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))
        return torch.nn.Sequential(torch.nn.Upsample(size=224), model), width

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "_published_encoder", counting)
        patch.setattr(probing, "_STEPS_TIMED", 2)
        patch.setattr(probing, "SIZE", 32)
        probing.training_a_layer(store, films, "cpu")()
    # Two steps of 64 images are an epoch of 128; then validation.
    assert sum(passed) == films[0] + films[1]


def test_intervals_sort_each_label_once_however_many_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, score, patients = resampling.test_set(600)
    sorts: list[int] = []
    steps = metrics._steps

    def counting(*arguments: Any) -> Any:
        sorts.append(1)
        return steps(*arguments)

    monkeypatch.setattr(metrics, "_steps", counting)
    for resamples in (20, 80):
        sorts.clear()
        resample(truth, score, patients, resamples=resamples)
        assert len(sorts) == resampling.LABELS


def test_the_loop_of_the_bootstrap_gives_our_value_of_the_same_draw() -> None:
    truth, score, patients = resampling.test_set(2_000)
    assert resampling.refuse_other_values(truth, score, patients) < 1e-9
    looped = resampling.by_loop(truth, score, patients, 5)
    count = int(patients.max()) + 1
    drawn = np.bincount(np.random.default_rng(5).integers(0, count, count), minlength=count)
    rows = np.repeat(np.arange(len(truth)), drawn[patients])
    np.testing.assert_allclose(looped[0], metrics.auroc(truth[rows], score[rows]), atol=1e-12)


def test_help_is_measured_as_a_process_of_its_own(tmp_path: Path) -> None:
    row = starting.measure("help", Options(1, tmp_path, True, "cpu"))
    assert row.reference is None
    assert row.target_of == "value"
    assert row.details["processor_seconds"] > 0


def test_operations_are_those_of_one_step_however_many_a_round_has() -> None:
    square = torch.ones(16, 16)
    rounds = Rounds(lambda: float((square @ square)[0, 0]) * 0, films=4, steps=10)
    assert _operations(lambda: rounds, 4)() == pytest.approx(2 * 16**3 / 4 / 1e9)


class WhoLoads(ImageSet[tuple[list[torch.Tensor], torch.Tensor]]):
    """Images whose chart is the number of the process that made them."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        worker = get_worker_info()
        assert worker is not None
        return [torch.full((1, size, size), index) for size in (4, 4, 2, 2)], torch.tensor([worker.id])


def test_every_loading_process_of_the_reference_loads_though_images_are_few() -> None:
    """Five images, batches of four: a batch is all of a pass, and passes must not keep all but one process waiting."""
    films: Any = WhoLoads()
    batches = endless_batches(films, 4, 2, pin=False)
    found = [next(batches) for _ in range(6)]
    assert {int(charts[0]) for *_, charts in found} == {0, 1}
    target, random, focal, charts = found[0]
    assert (target.shape, focal.shape, charts.shape) == ((4, 1, 4, 4), (8, 1, 2, 2), (4, 1))
    # View-major, as our own views.
    assert torch.equal(focal[:4, 0, 0, 0], target[:, 0, 0, 0])
    assert torch.equal(focal[4:, 0, 0, 0], random[:, 0, 0, 0])
