"""Embeddings of a store as Parquet: the encoder's own numbers, beside the image they are of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import chartray
from chartray.errors import InputError
from chartray.evaluation.embed_store import EMBEDDINGS_KEY, embed_store
from chartray.outputs.seal import seal
from chartray.pixels.resampling import whole_image
from chartray.pixels.store import Store

from .evaluation_folders import vit


def test_each_row_is_its_images_class_token(small_store: Path, tmp_path: Path) -> None:
    source = vit(tmp_path / "vit", seed=1, run="first")
    out = embed_store(source, small_store, tmp_path / "new" / "all.parquet", device="cpu")
    table, store = pq.read_table(out), Store.open(small_store)
    assert table.column_names == ["image_id", "patient_id", "study_id", "split", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    for name in ("image_id", "patient_id", "study_id", "split"):
        assert table[name].to_pylist() == store.cohort[name].to_pylist()
    model, given = chartray.load_encoder(source), chartray.load_encoder(source).chartray_input
    rows = np.array([239, 0, 118])
    films = whole_image(torch.from_numpy(store.images.gather(rows)), given["size"])
    with torch.inference_mode():
        expected = model((films - given["grey_mean"]) / given["grey_std"]).numpy()
    found = np.array([table["embedding"][int(row)].as_py() for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.norm(found[0] - found[1]) > 1e-3
    said = json.loads(table.schema.metadata[EMBEDDINGS_KEY])
    assert (said["store"]["hash"], said["store"]["dataset"]) == (store.hash, "drawn")
    assert said["encoder"]["provenance"]["run"] == "first"
    assert (said["dimensions"], said["films"], said["split"], said["precision"]) == (32, 240, None, "fp32")
    # One split alone: the same numbers, and earlier embeddings are replaced.
    assert embed_store(source, small_store, out, split="test", device="cpu") == out
    part = pq.read_table(out)
    assert set(part["split"].to_pylist()) == {"test"}
    everything = dict(zip(table["image_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    for image, embedding in zip(part["image_id"].to_pylist(), part["embedding"].to_pylist(), strict=True):
        np.testing.assert_allclose(embedding, everything[image], atol=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["all.parquet"]


def test_hashed_ids_stand_for_the_ids_and_name_no_folder(small_store: Path, tmp_path: Path) -> None:
    source = vit(tmp_path / "vit", seed=1, run="first")

    def embedded(name: str, **options: Any) -> Path:
        return embed_store(source, small_store, tmp_path / name, device="cpu", **options)

    plain, part = pq.read_table(embedded("plain")), pq.read_table(embedded("part", split="test"))
    whole, test = embedded("hashed", hash_ids=True), pq.read_table(embedded("test", hash_ids=True, split="test"))
    content, table = whole.read_bytes(), pq.read_table(whole)
    assert str(small_store.parent).encode() not in content
    assert json.loads(table.schema.metadata[EMBEDDINGS_KEY])["hashed_ids"] is True
    for name in ("image_id", "patient_id", "study_id"):
        ids, names = plain[name].to_pylist(), table[name].to_pylist()
        # One name for one id, and another for each other one; the same in the file of one split.
        assert len(set(zip(ids, names, strict=True))) == len(set(ids)) == len(set(names))
        assert not set(ids) & set(names)
        of = dict(zip(ids, names, strict=True))
        assert test[name].to_pylist() == [of[each] for each in part[name].to_pylist()]
    assert table["embedding"] == plain["embedding"]


def test_what_cannot_be_embedded_is_refused_and_nothing_is_written(small_store: Path, tmp_path: Path) -> None:
    source = vit(tmp_path / "vit", seed=1, run="first")
    out = tmp_path / "out.parquet"
    with pytest.raises(InputError, match=r"split 'tset' of|images in the split 'tset'.*test 48"):
        embed_store(source, small_store, out, split="tset")
    with pytest.raises(InputError, match="expected a RUN or an encoder folder"):
        embed_store(tmp_path / "none", small_store, out)
    weights = load_file(source / "model.safetensors")
    weights["norm.weight"][:] = 3e38  # finite, as it must be to be loaded
    save_file(weights, source / "model.safetensors")
    seal(source)
    with pytest.raises(InputError, match=r"finite embeddings from first, found \d+ .* in row 0 of .*store"):
        embed_store(source, small_store, out, device="cpu")
    assert not list(tmp_path.glob("*.parquet*"))
    for thing in (small_store / "cohort.parquet", small_store, source / "encoder.json"):
        before = thing.stat().st_mtime_ns
        with pytest.raises(InputError, match="expected a new file or earlier embeddings"):
            embed_store(source, small_store, thing)
        assert thing.stat().st_mtime_ns == before
