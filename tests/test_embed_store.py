"""Embeddings of a store as Parquet: the encoder's own numbers, beside the image they are of."""

import csv
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import chartray
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.evaluation.embed_store import EMBEDDINGS_KEY, embed_store
from chartray.outputs.parquet_file import verify_parquet
from chartray.outputs.seal import seal, verify
from chartray.pixels.ingest import ingest
from chartray.pixels.resampling import whole_image
from chartray.pixels.store import Store

from .conftest import small_cohort
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
    (tmp_path / "{store}").symlink_to(small_store)
    with pytest.raises(InputError, match=r"in row 0 of .*/\{store\};"):
        embed_store(source, tmp_path / "{store}", out, device="cpu")
    assert not list(tmp_path.glob("*.parquet*"))
    for thing in (small_store / "cohort.parquet", small_store, source / "encoder.json"):
        before = thing.stat().st_mtime_ns
        with pytest.raises(InputError, match="expected a new file or earlier embeddings"):
            embed_store(source, small_store, thing)
        assert thing.stat().st_mtime_ns == before


def test_patch_tokens_are_those_of_timm_and_duckdb_reads_them(small_store: Path, tmp_path: Path) -> None:
    source = vit(tmp_path / "vit", seed=1, run="first")
    both = embed_store(source, small_store, tmp_path / "both.parquet", split="test", tokens="both", device="cpu")
    patches = embed_store(source, small_store, tmp_path / "p.parquet", split="test", tokens="patches", device="cpu")
    table = pq.read_table(both)
    assert table.schema.field("patch_tokens").type == pa.list_(pa.list_(pa.float32(), 32), 16)
    assert pq.read_table(patches).column_names == [name for name in table.column_names if name != "embedding"]
    store = Store.open(small_store)
    row = store.cohort["split"].to_pylist().index("test")
    image = whole_image(torch.from_numpy(store.images.gather(np.array([row]))), 32)
    model = chartray.load_encoder(source)
    with torch.inference_mode():
        tokens = model.forward_features((image - 0.45) / 0.1)[0].numpy()
    np.testing.assert_allclose(table["patch_tokens"][0].as_py(), tokens[1:], atol=1e-5)
    np.testing.assert_allclose(table["embedding"][0].as_py(), tokens[0], atol=1e-5)
    found = duckdb.sql(
        f"select image_id, len(patch_tokens), patch_tokens[2][3], list_cosine_similarity(embedding, embedding) "
        f"from '{both}' where image_id = '{table['image_id'][0]}'"
    ).fetchall()
    assert found == [(table["image_id"][0].as_py(), 16, pytest.approx(tokens[2][2], abs=1e-5), pytest.approx(1))]
    assert verify_parquet(both, "embeddings") is None


def test_a_folder_of_images_is_embedded_as_through_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nested, with a file that is no image: the same numbers as a store of the default size gives."""
    deep = tmp_path / "films" / "deep"
    deep.mkdir(parents=True)
    table = small_cohort(deep).slice(0, 9)
    for file in deep.iterdir():
        if int(file.stem) > 8:
            file.unlink()
    pq.write_table(table, tmp_path / "cohort.parquet")
    ingest(tmp_path / "cohort.parquet", tmp_path / "store", workers=1)
    (tmp_path / "films" / "notes.txt").write_text("of no patient")
    (tmp_path / "films" / ".DS_Store").write_bytes(b"1")
    source = vit(tmp_path / "vit", seed=1, run="first")
    capsys.readouterr()
    arguments = [
        "embed",
        str(source),
        str(tmp_path / "films"),
        "--out",
        str(tmp_path / "f.parquet"),
        "--tokens",
        "both",
    ]
    assert run_command([*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "1 of 10 files could not be read and have no embedding" in said
    assert "notes" not in said
    found = pq.read_table(tmp_path / "f.parquet")
    assert found["file"].to_pylist() == [*(f"deep/{number}.png" for number in range(9)), "notes.txt"]
    assert found["embedding"].null_count == found["patch_tokens"].null_count == 1
    assert found["reason"].to_pylist()[:9] == [None] * 9
    assert found["embedding"].to_pylist()[9] is None
    assert found["reason"].to_pylist()[9]
    stored = embed_store(source, tmp_path / "store", tmp_path / "s.parquet", device="cpu")
    wanted = np.array(pq.read_table(stored)["embedding"].to_pylist())
    np.testing.assert_allclose(np.array(found["embedding"].to_pylist()[:9]), wanted, atol=1e-5)
    # Names of files may be ids.
    hidden = embed_store(source, tmp_path / "films", tmp_path / "h.parquet", device="cpu", hash_ids=True)
    assert not set(pq.read_table(hidden)["file"].to_pylist()) & set(found["file"].to_pylist())
    assert str(tmp_path) not in str(pq.read_schema(hidden).metadata)


def test_a_folder_without_images_is_one_sentence(tmp_path: Path) -> None:
    source = vit(tmp_path / "vit", seed=1, run="first")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected images in .*empty or below it, found no files"):
        embed_store(source, tmp_path / "empty", tmp_path / "out.parquet")
    (tmp_path / "empty" / "a.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"expected images in .*empty, found 1 file, none of which could be read"):
        embed_store(source, tmp_path / "empty", tmp_path / "out.parquet", device="cpu")
    with pytest.raises(InputError, match="expected --split only with a store"):
        embed_store(source, tmp_path / "empty", tmp_path / "out.parquet", split="test")
    assert not (tmp_path / "out.parquet").exists()


def test_numpy_and_the_embedding_projector_read_what_is_in_the_parquet(small_store: Path, tmp_path: Path) -> None:
    """Names of the store's own or hashed ones, row by row; TensorBoard's projector reads its folder by itself."""
    source = vit(tmp_path / "vit", seed=1, run="first")
    plain = pq.read_table(embed_store(source, small_store, tmp_path / "all", device="cpu", tokens="both"))
    arrays = embed_store(source, small_store, tmp_path / "npy", device="cpu", tokens="both", to="npy")
    np.testing.assert_array_equal(np.load(arrays / "embeddings.npy"), np.array(plain["embedding"].to_pylist(), "f4"))
    patches = np.array(plain["patch_tokens"].to_pylist(), "f4")
    np.testing.assert_array_equal(np.load(arrays / "patch_tokens.npy"), patches)
    with (arrays / "metadata.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    for name in ("image_id", "patient_id", "study_id", "split"):
        assert [row[name] or None for row in rows] == plain[name].to_pylist()
    assert [row["row"] for row in rows] == [str(row) for row in range(plain.num_rows)]
    assert json.loads((arrays / "embeddings.json").read_text())["dimensions"] == 32
    verify(arrays)

    def projected(**options: Any) -> Path:
        out = tmp_path / "projector"  # replaced the second time
        return embed_store(source, small_store, out, device="cpu", hash_ids=True, to="projector", **options)

    projected()
    folder = projected(split="test")
    text = "".join(file.read_text() for file in folder.iterdir())
    assert str(small_store.parent) not in text
    plugin = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    config = plugin.ProjectorConfig()
    plugin.text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (entry,) = config.embeddings
    vectors = plugin._read_tensor_tsv_file(str(folder / entry.tensor_path))
    test = np.array([split == "test" for split in plain["split"].to_pylist()])
    np.testing.assert_allclose(vectors, np.array(plain["embedding"].to_pylist())[test], rtol=1e-5, atol=1e-6)
    lines = (folder / entry.metadata_path).read_text().splitlines()
    assert lines[0].split("\t") == ["row", "image_id", "patient_id", "study_id", "split"]
    assert len(lines) == 1 + len(vectors)
    assert not {line.split("\t")[1] for line in lines[1:]} & set(plain["image_id"].to_pylist())


def test_an_image_of_a_folder_that_cannot_be_read_is_nan_or_no_point(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    drawn = np.random.default_rng(0).integers(0, 255, (2, 40, 40), np.uint8)
    for name, pixels in zip(("=a.png", "c.png"), drawn, strict=True):
        Image.fromarray(pixels).save(folder / name)
    (folder / "b.png").write_bytes(b"no picture")
    source = vit(tmp_path / "vit", seed=1, run="first")
    arrays = embed_store(source, folder, tmp_path / "npy", device="cpu", to="npy")
    assert np.isnan(np.load(arrays / "embeddings.npy")).all(axis=1).tolist() == [False, True, False]
    names = (arrays / "metadata.tsv").read_text().splitlines()
    assert names[0] == "row\tfile\treason"
    assert names[1].startswith("0\t'=a.png\t")
    shown = embed_store(source, folder, tmp_path / "shown", device="cpu", to="projector")
    assert np.loadtxt(shown / "vectors.tsv").shape == (2, 32)
    assert [line.split("\t")[0] for line in (shown / "metadata.tsv").read_text().splitlines()[1:]] == ["0", "2"]


def test_a_form_that_cannot_hold_patch_tokens_or_other_files_is_refused(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = vit(tmp_path / "vit", seed=1, run="first")
    command = ["embed", str(source), str(small_store), "--out"]
    assert run_command([*command, str(tmp_path / "x"), "--to", "projector", "--tokens", "both"]) == 2
    assert "expected --tokens class with --to projector, a point an image, found both" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    assert run_command([*command, str(tmp_path / "mine"), "--to", "npy"]) == 2
    assert "mine is not empty and holds no earlier embeddings" in capsys.readouterr().err
