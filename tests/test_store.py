"""The store: opens in constant time, gives the bytes that were written, refuses what is not whole."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chartray.errors import InputError
from chartray.outputs.json_file import write_json
from chartray.pixels.ingest import ingest
from chartray.pixels.read import decode_image, squash
from chartray.pixels.shard_file import map_shard, write_shard
from chartray.pixels.store import Store, read_index
from chartray.pixels.store_writing import complete, content_hash
from chartray.schema import CohortMetadata, Variable, from_metadata, to_metadata
from tests.stores import index_of

SIZE = 24
FILMS = 40


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FILMS small PNG images, the third of them empty."""
    folder = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(1)
    for row in range(FILMS):
        pixels = random.integers(0, 256, (20 + row, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    (folder / "02.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store")
    files = sorted(films.iterdir())
    cohort = pa.table(
        {
            "image_id": [file.stem for file in files],
            "patient_id": [f"p{row // 2}" for row in range(FILMS)],
            "path": [str(file) for file in files],
            "split": ["train"] * FILMS,
            "ehr.age": [None if row % 5 == 0 else float(row) for row in range(FILMS)],
        }
    )
    metadata = CohortMetadata(source="table", variables={"age": Variable(kind="numeric")}, image_root=str(films))
    pq.write_table(cohort.replace_schema_metadata(to_metadata(metadata)), out / "cohort.parquet")
    ingest(out / "cohort.parquet", out / "store", size=SIZE, workers=1)
    return out / "store"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_images_are_the_squashed_images_in_cohort_order(finished: Path) -> None:
    store = Store.open(finished)
    assert (len(store), store.size, store.images.shape) == (FILMS - 1, SIZE, (FILMS - 1, SIZE, SIZE))
    assert store.cohort.num_rows == len(store)
    assert "02" not in store.cohort["image_id"].to_pylist()
    for image, row in zip(store.images, store.cohort.to_pylist(), strict=True):
        film = decode_image(row["path"])
        np.testing.assert_array_equal(image, squash(film, SIZE))
        assert (film.height, film.width) == (row["height"], row["width"])
    assert store.cohort.schema.field("height").type == pa.int32()
    assert store.cohort.schema.field("width").type == pa.int32()


def test_cohort_keeps_its_rows_nulls_and_metadata(finished: Path) -> None:
    store = Store.open(finished)
    assert from_metadata(store.cohort.schema.metadata).variables == {"age": Variable(kind="numeric")}
    expected = [None if row % 5 == 0 else float(row) for row in range(FILMS) if row != 2]
    assert store.cohort["ehr.age"].to_pylist() == expected
    assert store.quarantine.to_pylist() == [
        {
            "image_id": "02",
            "split": "train",
            "path": store.quarantine["path"][0].as_py(),
            "reason": "the file is empty",
        }
    ]


def test_shards_are_plain_arrow_files_with_the_canonical_tensor_type(finished: Path) -> None:
    ids = []
    for file in sorted(finished.glob("images-*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        assert table.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (SIZE, SIZE))
        ids += table["image_id"].to_pylist()
    assert len(list(finished.glob("images-*.arrow"))) > 1
    assert ids == Store.open(finished).cohort["image_id"].to_pylist()


def test_an_image_is_a_read_only_view(finished: Path) -> None:
    store = Store.open(finished)
    first, again = store.images[5], store.images[5]
    assert np.shares_memory(first, again)
    assert not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
    np.testing.assert_array_equal(store.images[-1], store.images[len(store) - 1])
    with pytest.raises(IndexError):
        store.images[len(store)]
    assert len(list(store.images)) == len(store)


def test_gather_is_indexing_row_by_row(finished: Path) -> None:
    store = Store.open(finished)
    rows = np.random.default_rng(0).integers(0, len(store), 100)
    expected = np.stack([store.images[row] for row in rows])
    np.testing.assert_array_equal(store.images.gather(rows), expected)
    buffer = np.empty((100, SIZE, SIZE), dtype=np.uint8)
    assert store.images.gather(rows, buffer) is buffer
    np.testing.assert_array_equal(buffer, expected)
    assert store.images.gather(np.array([], dtype=np.int64)).shape == (0, SIZE, SIZE)
    for wrong in (-1, len(store)):
        with pytest.raises(IndexError):
            store.images.gather(np.array([0, wrong]))
    with pytest.raises(ValueError, match="out must be uint8"):
        store.images.gather(rows, np.empty((99, SIZE, SIZE), dtype=np.uint8))


def test_a_store_pickles_as_its_folder(finished: Path) -> None:
    store = Store.open(finished)
    frozen = pickle.dumps(store)
    assert len(frozen) < 1000
    thawed = pickle.loads(frozen)
    assert thawed.hash == store.hash
    np.testing.assert_array_equal(thawed.images[7], store.images[7])


def test_open_files_do_not_grow_with_the_shards(finished: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    store = Store.open(finished)
    before = len(list(descriptors.iterdir()))
    store.images.gather(np.arange(len(store)))
    assert len(list(descriptors.iterdir())) == before


def test_a_large_image_survives_a_shard(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 700, 700), dtype=np.uint8)
    shard, digests = write_shard(tmp_path / "x.arrow", ["a", "äö", ""], images)
    mapped = map_shard(tmp_path, shard, 700, "again")
    np.testing.assert_array_equal(mapped.images, images)
    assert mapped.ids.to_pylist() == ["a", "äö", ""]
    assert mapped.digests.tobytes() == digests
    assert [mapped.vouched(row, images[row]) for row in range(3)] == [True] * 3
    assert not mapped.vouched(0, images[1])


def edit(folder: Path, **values: object) -> None:
    index = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**index, **values}))


def test_what_is_not_a_whole_store_is_refused(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = tmp_path_factory.mktemp("nowhere")
    refuse(nowhere, "expected a store .* found none")
    (nowhere / "mimic.parquet").touch()
    refuse(nowhere / "mimic.parquet", "expected a store folder, found the file .*mimic.parquet; `chartray ingest` mak")
    (nowhere / "unfinished").mkdir()
    refuse(nowhere, "has not finished; run it again")
    again = f"remove the folder {copy}, then `chartray ingest` its cohort again"
    Store.open(copy)
    whole = (copy / "store.json").read_text()
    edit(copy, format=1, sha256=None)
    refuse(copy, f"expected store format 2 .* found 1; {again}")
    (copy / "store.json").write_text(whole[:30])
    refuse(copy, f"expected the index of a store .*{again}")
    (copy / "store.json").write_text(whole)
    edit(copy, rows=7)
    refuse(copy, f"as it was written, found other content .*{again}")
    (copy / "store.json").write_text(whole)
    shard = copy / "images-00001.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    refuse(copy, f"the store is damaged: {again}")
    shard.unlink()
    refuse(copy, r"images-00001\.arrow, found no such file; the store is incomplete")
    shard.write_bytes(content)
    for name in ("cohort.parquet", "quarantine.parquet"):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(b"no")
        refuse(copy, f"expected .*{name} as it was written, found other content .*{again}")
        (copy / name).unlink()
        refuse(copy, f"{name}, found no such file")
        (copy / name).write_bytes(content)
    (copy / "cohort.flow.json").write_text("{}")
    refuse(copy, f"expected .*flow.json as it was written, found other content .*{again}")


def refuse(folder: Path, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        Store.open(folder)
    assert "\n" not in str(caught.value)


def everything(folder: Path) -> tuple[object, ...]:
    """All that a store says to whoever reads it."""
    store = Store.open(folder)
    images = store.images.gather(np.arange(len(store))).tobytes()
    rows = [(table.to_pydict(), table.schema.metadata) for table in (store.cohort, store.quarantine)]
    return store.size, store.hash, images, rows, index_of(folder)


def test_no_flipped_bit_and_no_truncation_changes_what_is_read(copy: Path) -> None:
    """In any file: refused in one sentence, or the same as before; never a crash, never other pixels."""
    random = np.random.default_rng(7)
    whole = everything(copy)
    refused = {}
    for file in sorted(copy.iterdir()):
        content = file.read_bytes()
        places = random.integers(0, len(content), 40).tolist() + list(range(0, 24)) + [len(content) - n for n in (1, 9)]
        damages = [content[:n] for n in (0, 1, len(content) // 2, len(content) - 1)]
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(random.integers(8))
            damages.append(bytes(flipped))
        refused[file.name] = 0
        for damage in damages:
            file.write_bytes(damage)
            try:
                assert everything(copy) == whole
            except InputError:
                refused[file.name] += 1
        file.write_bytes(content)
        if file.name != "store.json":  # in which white space is nobody's
            assert refused[file.name] == len(damages)
    assert set(refused) >= {"store.json", "cohort.parquet", "quarantine.parquet", "images-00000.arrow"}
    assert refused["store.json"] > 40


def test_an_image_that_changed_is_named_and_the_others_are_read(copy: Path) -> None:
    shard = index_of(copy)["shards"][1]
    file = copy / shard["file"]
    content = bytearray(file.read_bytes())
    content[shard["pixels_at"] + 3 * SIZE * SIZE + 5] ^= 1
    file.write_bytes(content)
    store, first = Store.open(copy), index_of(copy)["shards"][0]["rows"]
    bad = first + 3
    sentence = f"expected image 4 in {file} as it was written, found other content .*; the store is damaged: remove"
    for _ in range(2):
        with pytest.raises(InputError, match=sentence):
            store.images[bad]
        with pytest.raises(InputError, match=sentence):
            store.images.gather(np.arange(len(store)))
    good = np.array([row for row in range(len(store)) if row != bad])
    assert store.images.gather(good).shape == (len(good), SIZE, SIZE)


def test_threads_verify_what_they_gather(finished: Path) -> None:
    """More rows than one thread verifies, some of them twice, in any order."""
    store = Store.open(finished)
    rows = np.random.default_rng(3).integers(0, len(store), 500)
    np.testing.assert_array_equal(store.images.gather(rows), np.stack([Store.open(finished).images[r] for r in rows]))


def test_the_content_hash_comes_from_pixels_and_rows_and_not_from_how_arrow_writes_them(copy: Path) -> None:
    """Another version of Arrow writes other bytes around the same pixels."""
    store = Store.open(copy)
    digests = b"".join(map_shard(copy, shard, SIZE, "").digests.tobytes() for shard in read_index(copy).shards)
    assert content_hash(SIZE, store.cohort, digests) == store.hash
    shards, half = [], len(store) // 2
    for number, rows in enumerate((range(half), range(half, len(store)))):
        ids = store.cohort["image_id"].slice(rows.start, len(rows)).to_pylist()
        shards.append(write_shard(copy / f"images-9000{number}.arrow", ids, store.images.gather(np.array(rows)))[0])
    (copy / "other").mkdir()
    for shard in shards:
        (copy / shard.file).rename(copy / "other" / shard.file)
    assert complete(copy / "other", SIZE, shards, digests, store.cohort) == store.hash
    assert Store.open(copy / "other").hash == store.hash


def test_a_flipped_bit_is_found(copy: Path) -> None:
    assert Store.open(copy).damaged() == []
    shard = copy / "images-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert Store.open(copy).damaged() == ["images-00000.arrow"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda index: index.pop("shards"),
        lambda index: index.update(shards="2020-01-01"),
        lambda index: index.update(shards=[7]),
        lambda index: index.update(rows="sex"),
        lambda index: index.update(rows=10**9),
        lambda index: index.update(size=0),
        lambda index: index.update(files=None),
        lambda index: index["files"].update({"../../etc/passwd": "0" * 64}),
        lambda index: index["shards"][0].pop("sha256"),
        lambda index: index["shards"][0].update(file="../images-00000.arrow"),
        lambda index: index["shards"][0].update(file="a\x00b"),
        lambda index: index["shards"][0].update(pixels_at=-1),
        lambda index: index["shards"][0].update(pixels_at=10**12),
        lambda index: index["shards"][0].update(more=1),
    ],
)
def test_an_index_that_somebody_sealed_anew_is_a_sentence(edit: Callable[[Any], None], copy: Path):
    index = index_of(copy)
    edit(index)
    write_json(copy / "store.json", index)
    with pytest.raises(InputError, match=r"expected what `chartray ingest` writes in .*store\.json, found something"):
        Store.open(copy)
