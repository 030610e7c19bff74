"""`ingest --retry`: once files or decoders have come, a store becomes what a new ingest would make of it."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chartray.check import check
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.pixels.image_process import Limits
from chartray.pixels.ingest import ingest
from chartray.pixels.store import Store
from chartray.schema import CohortMetadata, LabelSource, to_metadata
from tests.ingest_folders import Killed, content, killed_at

SIZE, FILMS = 16, 70
# The second shard (rows 16 to 31) is empty at first, the third is whole; of the first and the last some are missing.
MISSING = (1, 5, *range(16, 32), 64, 69)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    random = np.random.default_rng(5)
    for row in range(FILMS):
        if row not in MISSING:
            draw(folder, row, random)
    return folder


def draw(folder: Path, row: int, random: np.random.Generator) -> None:
    Image.fromarray(random.integers(0, 256, (30 + row, 40), dtype=np.uint8)).save(folder / f"{row:02d}.png")


@pytest.fixture
def cohort(films: Path, tmp_path: Path) -> Path:
    split = ["train"] * 50 + ["validate"] * 10 + ["test"] * 10
    table = pa.table(
        {
            "image_id": [f"image-{row}" for row in range(FILMS)],
            "patient_id": [f"patient-{row // 2}" for row in range(FILMS)],
            "path": [f"{row:02d}.png" for row in range(FILMS)],
            "split": split,
            "label.Oedema": [(1.0, 0.0, None)[row % 3] for row in range(FILMS)],
            "label.Fracture": [1.0 if row in (34, 35) else 0.0 for row in range(FILMS)],
        }
    )
    metadata = CohortMetadata(
        source="table", image_root=str(films), labels={"Oedema": LabelSource(), "Fracture": LabelSource()}
    )
    pq.write_table(table.replace_schema_metadata(to_metadata(metadata)), tmp_path / "cohort.parquet")
    return tmp_path / "cohort.parquet"


def come(films: Path, *rows: int) -> None:
    for row in rows:
        draw(films, row, np.random.default_rng(row))


def test_files_that_came_give_the_bytes_of_a_new_ingest(cohort: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(cohort, out, size=SIZE, workers=2)
    unchanged = (out / "images-00002.arrow").stat().st_ino
    for number, rows in enumerate([(5, 20), (69,), MISSING]):
        come(films, *rows)
        made = ingest(cohort, out, size=SIZE, workers=2, retry=True)
        fresh = ingest(cohort, tmp_path / f"fresh-{number}", size=SIZE, workers=2)
        assert content(out) == content(fresh.store)
        assert made == fresh._replace(store=out)
    assert made.quarantined == {}
    assert (out / "images-00002.arrow").stat().st_ino == unchanged  # not read, not copied
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_reason_that_changed_is_told_and_nothing_new_leaves_the_store_alone(
    cohort: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    ingest(cohort, out, size=SIZE, workers=1)
    before, node = content(out), out.stat().st_ino
    ingest(cohort, out, size=SIZE, workers=1, retry=True)
    assert (content(out), out.stat().st_ino) == (before, node)
    assert "0 of 20 images in quarantine can be read now" in capsys.readouterr().err
    (films / "64.png").write_text("<html>404</html>")
    made = ingest(cohort, out, size=SIZE, workers=1, retry=True)
    assert made.quarantined["the file is not a JPEG, PNG or DICOM"] == 1
    assert content(out) == content(ingest(cohort, tmp_path / "fresh", size=SIZE, workers=1).store)


def test_wider_limits_bring_images_back_and_narrower_ones_are_refused(
    cohort: Path, films: Path, tmp_path: Path
) -> None:
    come(films, *MISSING)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500), dtype=np.uint8)
    Image.fromarray(noise).save(films / "03.png", compress_level=0)
    (films / "08.png").unlink()
    (tmp_path / "elsewhere.png").write_bytes((films / "09.png").read_bytes())
    (films / "08.png").symlink_to(tmp_path / "elsewhere.png")
    out, narrow, wide = tmp_path / "out", Limits(pixels=10**6), Limits(pixels=10**7)
    assert sum(ingest(cohort, out, size=SIZE, workers=1, limits=narrow).quarantined.values()) == 2
    with pytest.raises(InputError, match="another cohort, size or limits"):
        ingest(cohort, out, size=SIZE, workers=1, limits=wide)
    with pytest.raises(InputError, match="another cohort, size or limits"):
        ingest(cohort, out, size=SIZE, workers=1, limits=Limits(pixels=10**5), retry=True)
    wider = {"size": SIZE, "workers": 1, "limits": wide, "allow_outside": True}
    assert ingest(cohort, out, retry=True, **wider).images == FILMS
    assert content(out) == content(ingest(cohort, tmp_path / "fresh", **wider).store)
    with pytest.raises(InputError, match="another cohort, size or limits"):
        ingest(cohort, out, size=SIZE, workers=1, limits=wide, retry=True)


@pytest.mark.parametrize("renamed", [False, True], ids=["before the rename", "after the rename"])
def test_stopped_at_every_write_the_store_is_the_earlier_one(
    renamed: bool, cohort: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(cohort, tmp_path / "earlier", size=SIZE, workers=1)
    earlier = content(tmp_path / "earlier")
    come(films, 1, 20)
    expected = content(ingest(cohort, tmp_path / "fresh", size=SIZE, workers=1).store)
    out = tmp_path / "out"
    for stop in range(100):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "earlier", out)
        with monkeypatch.context() as patch:
            killed_at(stop, renamed, patch)
            try:
                ingest(cohort, out, size=SIZE, workers=1, retry=True)
            except Killed:
                assert content(out) == earlier, stop
            else:
                break
        ingest(cohort, out, size=SIZE, workers=1, retry=True)
        assert content(out) == expected, stop
    assert stop == 5  # two shards, cohort, quarantine, store.json
    assert content(out) == expected


def test_a_store_whose_retry_was_killed_while_it_took_its_place_is_found(
    cohort: Path, films: Path, tmp_path: Path
) -> None:
    """Between two renames: the earlier store has its name back as soon as anybody opens it."""
    out = tmp_path / "out"
    ingest(cohort, out, size=SIZE, workers=1)
    before = content(out)
    out.rename(tmp_path / ".out.earlier")
    (tmp_path / ".out.partial").mkdir()
    Store.open(out)
    assert content(out) == before
    assert not (tmp_path / ".out.partial").exists()


def test_what_cannot_be_tried_again_is_a_sentence(
    cohort: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"expected a store .* found none"):
        ingest(cohort, out, size=SIZE, workers=1, retry=True)
    come(films, *MISSING)
    ingest(cohort, out, size=SIZE, workers=1)
    before = content(out)
    capsys.readouterr()
    ingest(cohort, out, size=SIZE, workers=1, retry=True)
    assert "has no image in quarantine; nothing to do" in capsys.readouterr().err
    assert content(out) == before


def test_a_damaged_shard_is_not_written_into_another_store(cohort: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(cohort, out, size=SIZE, workers=1)
    come(films, 1)
    shard = out / "images-00000.arrow"
    bytes_ = bytearray(shard.read_bytes())
    at = bytes_.index(Store.open(out).images[3].tobytes())
    bytes_[at] ^= 1
    shard.write_bytes(bytes_)
    before = content(out)
    with pytest.raises(InputError, match="the store is damaged"):
        ingest(cohort, out, size=SIZE, workers=1, retry=True)
    assert content(out) == before


# ---- how many


def test_many_of_a_split_or_a_label_are_a_warning(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_command(["ingest", str(cohort), "--out", str(out), "--size", "16", "--workers", "1"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    positive = [row for row in range(FILMS) if row % 3 == 0]
    lost = len([row for row in positive if row in MISSING])
    end = "are in quarantine; the others may not represent them"
    expected = [
        f"20.0% of the images of split test (2 of 10 images) {end}",
        f"36.0% of the images of split train (18 of 50 images) {end}",
        f"{lost / len(positive):.1%} of the images with label Oedema ({lost} of {len(positive)} images) {end}",
    ]
    assert said == [f"warning: {each}" for each in expected]
    found = [each for each in check(out) if "quarantine" in each.what]
    assert {each.what for each in found if each.severity == "warning"} >= set(expected)


def test_one_in_a_hundred_is_a_note(films: Path, tmp_path: Path) -> None:
    come(films, *MISSING)
    names = ["gone.png", *(f"{row % FILMS:02d}.png" for row in range(99))]
    table = pa.table(
        {
            "image_id": [str(row) for row in range(100)],
            "patient_id": [str(row) for row in range(100)],
            "path": names,
            "split": ["train"] * 100,
        }
    )
    metadata = CohortMetadata(source="table", image_root=str(films))
    pq.write_table(table.replace_schema_metadata(to_metadata(metadata)), tmp_path / "c.parquet")
    assert ingest(tmp_path / "c.parquet", tmp_path / "out", size=SIZE, workers=1).lost == []
    pq.write_table(table.slice(0, 99).replace_schema_metadata(to_metadata(metadata)), tmp_path / "more.parquet")
    (lost,) = ingest(tmp_path / "more.parquet", tmp_path / "more", size=SIZE, workers=1).lost
    assert (lost.lost, lost.images) == (1, 99)
