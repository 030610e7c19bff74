"""The leakage check: each kind is planted and found, alone; hashes against brute force and on real images."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from chartray.audit.leakage import Pretrained, find_leaks
from chartray.networks.description import Provenance
from chartray.pixels.hashes import NEAR, content_hashes, distances, near_pairs, perceptual_hashes
from chartray.pixels.ingest import ingest
from chartray.pixels.read import read_image
from chartray.pixels.store import Store
from chartray.records.chexpert import chexpert_cohort
from chartray.records.cohort import write_cohort
from chartray.records.mimic import mimic_cohort
from chartray.schema import patient_key
from chartray.simulate.hospital import simulate
from tests.evaluation_folders import said

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = 64
Words = np.ndarray[Any, np.dtype[np.uint64]]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """MIMIC and CheXpert of a simulated hospital, in which nothing is shared."""
    out = tmp_path_factory.mktemp("hospital")
    simulate(out, patients=24, size=96, workers=1)
    write_cohort(mimic_cohort(str(out / "mimic-iv"), out / "mimic-cxr-jpg"), out / "mimic.parquet")
    write_cohort(chexpert_cohort(out / "chexpert"), out / "chexpert.parquet")
    for name in ("mimic", "chexpert"):
        ingest(out / f"{name}.parquet", out / f"{name}.store", size=SIZE, workers=1, executor=ThreadPoolExecutor(1))
    return {name: Store.open(out / f"{name}.store") for name in ("mimic", "chexpert")}


def changed(store: Store, folder: Path, change: Callable[[np.ndarray, dict[str, list[Any]]], None]) -> Store:
    """A store of the same images and rows after `change(images, columns)` has had its way with them."""
    images, table = store.images.gather(np.arange(len(store))), store.cohort
    columns = {name: table[name].to_pylist() for name in table.column_names if name not in ("height", "width")}
    change(images, columns)
    (folder / "films").mkdir(parents=True)
    columns["path"] = [str(folder / "films" / f"{row}.png") for row in range(len(images))]
    for path, image in zip(columns["path"], images, strict=True):
        Image.fromarray(image).save(path)
    types = {field.name: field.type for field in table.schema}
    made = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    pq.write_table(made.replace_schema_metadata(table.schema.metadata), folder / "cohort.parquet")
    ingest(
        folder / "cohort.parquet",
        folder / "store",
        size=SIZE,
        workers=1,
        allow_outside=True,
        executor=ThreadPoolExecutor(1),
    )
    return Store.open(folder / "store")


def first(store: Store, split: str) -> int:
    return store.cohort["split"].to_pylist().index(split)


def run(store: Store, *, extra: tuple[str, ...] = (), **made: Any) -> Pretrained:
    """A run that was pretrained on the training patients of `store`, and on some more."""
    table = store.cohort.filter(pa.compute.equal(store.cohort["split"], "train"))
    keys = frozenset(patient_key("mimic", name) for name in (*table["patient_id"].to_pylist(), *extra))
    said_of = {"source": "mimic", "store_hash": store.hash, "chart": "none"} | made
    return Pretrained("run-0", Provenance.model_validate(said_of), keys)


def found(runs: list[Pretrained], stores: dict[str, Store]) -> list[dict[str, Any]]:
    return said([row for row in find_leaks(runs, list(stores.items()))[0] if row.count])


def test_nothing_is_found_where_nothing_is_shared_and_what_was_compared_is_said(hospital: dict[str, Store]) -> None:
    rows, notes = find_leaks([run(hospital["mimic"])], list(hospital.items()))
    assert [row for row in rows if row.count] == []
    assert notes == []
    compared = {(row.kind, *row.between) for row in rows}
    assert ("patient", "pretraining", "mimic:test") in compared
    assert ("near film", "mimic:train", "chexpert:test") in compared
    assert ("near film", "chexpert:train", "mimic:test") in compared
    assert ("variable", "pretraining", "chart") in compared
    assert ("patient", "mimic:train", "chexpert:test") not in compared  # names of two sources mean different people
    assert not any(row.between == ("mimic:train", "chexpert:train") for row in rows)


def test_a_patient_of_the_test_split_who_was_pretrained_on_is_found(hospital: dict[str, Store]) -> None:
    store = hospital["mimic"]
    patient = store.cohort["patient_id"][first(store, "test")].as_py()
    (row,) = found([run(store, extra=(patient,))], hospital)
    assert (row["kind"], row["between"], row["count"]) == ("patient", ["pretraining", "mimic:test"], 1)
    assert row["examples"] == [patient_key("mimic", patient)]
    assert patient not in str(row)


def test_a_patient_in_train_and_in_validation_of_another_store_of_the_source_is_found(
    hospital: dict[str, Store], tmp_path: Path
) -> None:
    store = hospital["mimic"]

    def change(images: np.ndarray, columns: dict[str, list[Any]]) -> None:
        generator = np.random.default_rng(5)
        images[:] = generator.integers(0, 256, images.shape)  # other images: only the patient is shared
        name = columns["patient_id"][first(store, "train")]
        columns["patient_id"] = [f"other-{each}" for each in columns["patient_id"]]
        columns["patient_id"][first(store, "validate")] = name

    other = changed(store, tmp_path, change)
    rows = found([], {"mimic": store, "mimic:other": other})
    assert [(row["kind"], row["between"], row["count"]) for row in rows] == [
        ("patient", ["mimic:train", "mimic:other:validate"], 1)
    ]


def test_an_exact_double_is_found_within_and_across_stores(hospital: dict[str, Store], tmp_path: Path) -> None:
    store, chexpert = hospital["mimic"], hospital["chexpert"]
    train, test = first(store, "train"), first(store, "test")

    def change(images: np.ndarray, columns: dict[str, list[Any]]) -> None:
        images[test] = images[train]

    (row,) = found([], {"mimic": changed(store, tmp_path / "within", change)})
    assert (row["kind"], row["between"], row["count"]) == ("exact film", ["mimic:train", "mimic:test"], 1)
    assert row["examples"] == [{"row": train, "other_row": test, "distance": 0}]

    def across(images: np.ndarray, columns: dict[str, list[Any]]) -> None:
        images[first(chexpert, "test")] = store.images[train]

    rows = found([], {"mimic": store, "chexpert": changed(chexpert, tmp_path / "across", across)})
    assert [(row["kind"], row["between"], row["count"]) for row in rows] == [
        ("exact film", ["mimic:train", "chexpert:test"], 1)
    ]


def test_an_image_encoded_again_darker_and_smaller_is_a_near_double(hospital: dict[str, Store], tmp_path: Path) -> None:
    store = hospital["mimic"]
    train, validate = first(store, "train"), first(store, "validate")

    def change(images: np.ndarray, columns: dict[str, list[Any]]) -> None:
        again = Image.fromarray(images[train]).resize((48, 48))
        images[validate] = np.asarray(jpeg(ImageEnhance.Brightness(again).enhance(0.9), 80).resize((SIZE, SIZE)))

    (row,) = found([], {"mimic": changed(store, tmp_path, change)})
    assert (row["kind"], row["between"], row["count"]) == ("near film", ["mimic:train", "mimic:validate"], 1)
    assert row["examples"] == [{"row": train, "other_row": validate, "distance": row["distance"]}]
    assert 0 < row["distance"] <= NEAR


def test_a_mirrored_image_is_a_near_double_even_encoded_again(hospital: dict[str, Store], tmp_path: Path) -> None:
    store, chexpert = hospital["mimic"], hospital["chexpert"]
    train, test = first(store, "train"), first(chexpert, "test")

    def change(images: np.ndarray, columns: dict[str, list[Any]]) -> None:
        images[test] = np.asarray(jpeg(Image.fromarray(store.images[train][:, ::-1].copy()), 80))

    rows = found([], {"mimic": store, "chexpert": changed(chexpert, tmp_path, change)})
    assert [(row["kind"], row["between"], row["count"]) for row in rows] == [
        ("near film", ["mimic:train", "chexpert:test"], 1)
    ]
    (pair,) = rows[0]["examples"]
    assert (pair["row"], pair["other_row"]) == (train, test)


def test_a_chart_variable_known_only_after_the_image_is_found_by_its_cohort_or_by_the_run(
    hospital: dict[str, Store],
) -> None:
    store = hospital["mimic"]
    for made in ({"chart_variables": ["sex", "mortality"]}, {"after_film": ["mortality"]}, {"chart": "stay"}):
        (row,) = found([run(store, **made)], hospital)
        assert (row["kind"], row["between"], row["examples"]) == ("variable", ["pretraining", "chart"], ["mortality"])


def test_what_could_not_be_compared_is_noted(hospital: dict[str, Store]) -> None:
    silent = Pretrained("run-0", Provenance(source="mimic", store_hash="another"), None)
    _, notes = find_leaks([silent], list(hospital.items()))
    assert any("patients that run-0 was pretrained on were not compared" in note for note in notes)
    assert any(note.startswith("images that run-0 was pretrained on were not compared") for note in notes)
    started = run(hospital["mimic"], init={"source": "weights.safetensors"})
    assert any(
        "run-0 was started from other weights" in note for note in find_leaks([started], list(hospital.items()))[1]
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 70))
def test_near_pairs_are_those_of_brute_force(seed: int, radius: int) -> None:
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 2**63, (40, 4), dtype=np.uint64)
    b = a[generator.integers(0, 40, 60)].copy()
    for row in range(len(b)):  # 0 to 80 bits of each are turned
        bits = generator.choice(256, generator.integers(0, 81), replace=False)
        for bit in bits:
            b[row, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    left, right, apart = near_pairs(a, b, radius)
    every = distances(a[:, None], b[None])
    rows, columns = np.nonzero(every <= radius)
    assert (left.tolist(), right.tolist()) == (rows.tolist(), columns.tolist())
    assert apart.tolist() == every[rows, columns].tolist()


def test_near_pairs_of_nothing_are_none() -> None:
    nothing, some = np.empty((0, 4), dtype=np.uint64), np.ones((3, 4), dtype=np.uint64)
    for a, b in ((nothing, some), (some, nothing), (nothing, nothing)):
        assert [len(each) for each in near_pairs(a, b)] == [0, 0, 0]


def test_brightness_and_contrast_change_no_bit_and_a_grey_image_has_no_picture() -> None:
    image = np.random.default_rng(0).integers(40, 120, (3, SIZE, SIZE)).astype(np.uint8)
    hashed, pictured = perceptual_hashes(image)
    for other in (image + 30, image * 2):
        assert (perceptual_hashes(other.astype(np.uint8))[0] == hashed).mean() > 0.9  # float32 ties apart
        assert distances(perceptual_hashes(other.astype(np.uint8))[0], hashed).max() <= 2
    assert pictured.all()
    assert not perceptual_hashes(np.full((1, SIZE, SIZE), 7, dtype=np.uint8))[1].any()


def test_content_hashes_differ_by_one_grey_level_and_by_size() -> None:
    image = np.zeros((2, 8, 8), dtype=np.uint8)
    image[1, 3, 3] = 1
    a, b = content_hashes(image)
    assert a != b
    assert a != content_hashes(np.zeros((1, 4, 16), dtype=np.uint8))[0]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded again": lambda image: jpeg(image, 70),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.15),
}


@pytest.mark.parametrize(("folder", "pattern"), [("nih-chestxray14-64px", "*.png"), ("hannover", "*.jpg")])
def test_on_real_images_the_same_image_matches_and_no_other_does(folder: str, pattern: str) -> None:
    if not (SHARED / folder).exists():
        pytest.skip(f"{folder} is not in ../shared/data")
    files = sorted((SHARED / folder).rglob(pattern))[::4]
    images = [Image.fromarray((read_image(file) * 255).astype(np.uint8)) for file in files]
    hashed = hashes_of(images)
    left, right, _ = near_pairs(hashed, hashed)
    assert (left == right).all()  # 31,125 pairs of NIH, 1,830 of Hannover: none alike but each with itself
    for name, change in CHANGES.items():
        same = distances(hashes_of([change(image) for image in images]), hashed) <= NEAR
        assert same.mean() >= 0.98, (name, same.mean())


def hashes_of(images: list[Image.Image]) -> Words:
    squashed = [np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR)) for image in images]
    return perceptual_hashes(np.stack(squashed))[0]
