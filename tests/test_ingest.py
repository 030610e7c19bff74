"""Ingest: whatever happens on the way, the same bytes; whatever is wrong with an image, the rest goes on."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from chartray.errors import InputError
from chartray.outputs.lock import locked
from chartray.pixels import image_process
from chartray.pixels import ingest as driver
from chartray.pixels import shards as room
from chartray.pixels.image_process import Limits
from chartray.pixels.ingest import Ingested, ingest
from chartray.pixels.store import Store
from chartray.schema import CohortMetadata, to_metadata
from tests.ingest_folders import Killed, content, killed_at, many_images, png, shards_of, wait_for, write_cohort

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = 16


def build(cohort: Path, out: Path, **options: object) -> Ingested:
    with ThreadPoolExecutor(1) as one:
        return ingest(cohort, out, **{"size": SIZE, "executor": one, "workers": 1, **options})


# ---- the ordinary run


def test_unreadable_images_go_to_quarantine_and_the_rest_goes_on(cohort: Path, films: Path, tmp_path: Path) -> None:
    result = build(cohort, tmp_path / "store")
    store = Store.open(result.store)
    assert len(store) == result.images == 34
    assert result.hash == store.hash
    reasons = {Path(row["path"]).name: row["reason"] for row in store.quarantine.to_pylist()}
    assert reasons == {
        "03.png": "the file is empty",
        "10.jpg": reasons["10.jpg"],
        "17.png": "the file is not a JPEG, PNG or DICOM",
        "25.png": "every pixel has the same value",
        "gone.png": "no such file",
    }
    assert reasons["10.jpg"].startswith("the image cannot be decoded: image file is truncated")
    assert sum(result.quarantined.values()) == 5
    ids = [f"image-{row}" for row in range(39) if row not in (3, 10, 17, 25, 38)]
    assert store.cohort["image_id"].to_pylist() == ids
    assert not (result.store / "unfinished").exists()


def test_the_number_of_workers_leaves_no_trace(cohort: Path, tmp_path: Path) -> None:
    build(cohort, tmp_path / "one")
    ingest(cohort, tmp_path / "processes", size=SIZE, workers=3)
    with ThreadPoolExecutor(4) as threads:
        ingest(cohort, tmp_path / "threads", size=SIZE, executor=threads)
    expected = content(tmp_path / "one")
    assert len([name for name in expected if name.endswith(".arrow")]) == 3
    assert content(tmp_path / "processes") == expected == content(tmp_path / "threads")


def test_it_says_room_and_time_before_it_starts(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(cohort, tmp_path / "store")
    said = capsys.readouterr().err
    free = shutil.disk_usage(tmp_path).free / 1e9
    assert "39 images at 16 px need 0.00 GB, " in said
    assert abs(float(said.split(" GB are free")[0].split()[-1]) - free) < 2
    assert "about 1 s with 1 worker, estimated from 39 images; 5 of them cannot be read" in said


def test_the_hash_depends_on_content_and_not_on_the_place(films: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(films, moved)
    hashes = []
    for root in (films, moved):
        file = write_cohort(tmp_path / f"{root.name}.parquet", sorted(root.iterdir()), root)
        hashes.append(build(file, tmp_path / f"store-{root.name}").hash)
    assert hashes[0] == hashes[1]
    other = write_cohort(tmp_path / "other.parquet", sorted(films.iterdir())[::-1], films)
    assert build(other, tmp_path / "other").hash != hashes[0]
    assert build(file, tmp_path / "larger", size=SIZE + 1).hash != hashes[0]


def test_images_that_moved_are_found_under_images_root(films: Path, tmp_path: Path) -> None:
    relative = write_cohort(tmp_path / "relative.parquet", [p.name for p in sorted(films.iterdir())], "/no/such/place")
    absolute = write_cohort(
        tmp_path / "absolute.parquet", [f"/no/such/place/{p.name}" for p in sorted(films.iterdir())], "/no/such/place"
    )
    for file in (relative, absolute):
        assert build(file, tmp_path / file.stem, images_root=films).images == 34
    stranger = write_cohort(tmp_path / "stranger.parquet", [films / "00.jpg"], "/no/such/place")
    with pytest.raises(InputError, match="row 1 under the cohort's image folder '/no/such/place'"):
        build(stranger, tmp_path / "stranger", images_root=films)


# ---- killed


@pytest.mark.parametrize("renamed", [False, True], ids=["before the rename", "after the rename"])
def test_stopped_at_every_write_it_ends_in_the_same_bytes(
    renamed: bool, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(cohort, tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed")
    for stop in range(100):
        out = tmp_path / f"stopped-{stop}"
        with monkeypatch.context() as patch:
            killed_at(stop, renamed, patch)
            try:
                build(cohort, out)
            except Killed:
                pass
            else:
                break
        build(cohort, out)
        assert content(out) == expected, stop
    # plan.json, three shards of two files, cohort, quarantine, store.json
    assert stop == 10


PROGRAM = """
import sys
from chartray.pixels.ingest import ingest
if __name__ == "__main__":
    ingest(sys.argv[1], sys.argv[2], size=64, workers=2)
"""


def test_kill_9_twice_and_resume_with_other_workers(tmp_path: Path) -> None:
    cohort = many_images(tmp_path)
    build(cohort, tmp_path / "undisturbed", size=64)
    (tmp_path / "program.py").write_text(PROGRAM)
    out = tmp_path / "killed"
    finished: list[int] = []
    for _ in range(2):
        command = [sys.executable, str(tmp_path / "program.py"), str(cohort), str(out)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        before = shards_of(out)
        wait_for(lambda before=before, process=process: shards_of(out) > before + 2 or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)  # returns once the workers have closed standard error: they died too
        assert process.returncode == -signal.SIGKILL
        assert not (out / "store.json").exists()
        with pytest.raises(InputError, match="has not finished"):
            Store.open(out)
        finished.append(shards_of(out))
    assert 0 < finished[0] < finished[1] < 20
    written = {file: file.stat().st_mtime_ns for file in out.glob("images-*.arrow")}
    ingest(cohort, out, size=64, workers=3)
    assert content(out) == content(tmp_path / "undisturbed")
    assert sum(file.stat().st_mtime_ns == at for file, at in written.items()) >= finished[1]


def test_another_cohort_or_size_cannot_continue(
    cohort: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"
    other = write_cohort(tmp_path / "other.parquet", [films / "00.jpg", films / "01.png"], films)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "finish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            build(cohort, out)
    half = content(out)
    for wrong, size in ((other, SIZE), (cohort, SIZE + 1)):
        refuse("the unfinished ingest in .* began with another cohort, size or limits", wrong, out, size=size)
    assert content(out) == half
    build(cohort, out)
    whole = content(out)
    for wrong, size in ((other, SIZE), (cohort, SIZE + 1)):
        refuse("a finished store of another cohort, size or limits", wrong, out, size=size)
    assert build(cohort, out).images == 34
    assert content(out) == whole


def test_two_at_once_are_refused(cohort: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "store" / room.LOCK_FILE, "held by the test"):
        refuse("another ingest is writing", cohort, tmp_path / "store")
    assert build(cohort, tmp_path / "store").images == 34


def test_a_dead_worker_is_a_sentence(cohort: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, initializer=os._exit, initargs=(1,)) as broken:
        refuse("a worker process ended unexpectedly", cohort, tmp_path / "store", executor=broken)


def test_a_folder_that_goes_away_does_not_fill_the_quarantine(films: Path, tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    gone = str(tmp_path / "gone")
    task = room.ShardTask(str(tmp_path), 0, 0, SIZE, gone, ["a"], [f"{gone}/a.png"], Limits())
    with pytest.raises(InputError, match="has disappeared; run the same command again"):
        room.build_shard(task)
    assert content(tmp_path) == {}
    assert room.build_shard(task._replace(root=str(films))).quarantine == [(0, "no such file")]


# ---- refused


def refuse(sentence: str, cohort: Path, out: Path, **options: object) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        build(cohort, out, **options)
    assert "\n" not in str(caught.value)


def test_no_image_at_all_writes_nothing(films: Path, tmp_path: Path) -> None:
    missing = write_cohort(
        tmp_path / "missing.parquet", ["/no/such/place/a.png", "/no/such/place/b.png"], "/no/such/place"
    )
    refuse(
        r"under /no/such/place, found none of 2 .* \(row 1: no such file\)",
        missing,
        tmp_path / "m",
    )
    assert not (tmp_path / "m").exists()
    broken = write_cohort(tmp_path / "broken.parquet", [films / "03.png", films / "17.png"], films)
    refuse(r"found none of 2 .*\(row 1: the file is empty\)", broken, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_unfinished_store_that_says_nothing_of_itself_is_refused(films: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "c.parquet", tmp_path / "out"
    write_cohort(file, [films / "00.jpg"], films)
    (out / "unfinished").mkdir(parents=True)
    (out / "unfinished" / "plan.json").write_text('{"half')
    refuse(
        r"plan of an unfinished ingest \(JSON\) in .*plan\.json, found other content; .* remove the folder .*out",
        file,
        out,
    )


def test_a_cohort_that_cannot_be_ingested_is_refused(films: Path, tmp_path: Path) -> None:
    out, film = tmp_path / "out", films / "00.jpg"
    file = tmp_path / "c.parquet"
    refuse("expected a cohort at .*found no such file", file, out)
    file.write_text("image_id,path\n")
    refuse("expected a cohort", file, out)
    pq.write_table(pa.table({"image_id": ["a"], "path": [str(film)]}), file)
    refuse("expected a cohort", file, out)
    write_cohort(file, [film] * 3, films, ids=["a", "b", "a"])
    refuse("expected each image_id once in .* row 1 again in row 3", file, out)
    write_cohort(file, [film] * 2, films, ids=["a", None])
    refuse("expected a value of image_id in row 2 of", file, out)
    write_cohort(file, [], films)
    refuse("found no row", file, out)
    metadata = CohortMetadata(source="table", format=7)
    pq.write_table(pa.table({"image_id": ["a"], "path": ["b"]}).replace_schema_metadata(to_metadata(metadata)), file)
    refuse("expected cohort format 1 .* found 7", file, out)
    pq.write_table(pa.table({"image_id": ["a"]}).replace_schema_metadata(to_metadata(CohortMetadata(source="t"))), file)
    refuse("expected a column path", file, out)
    write_cohort(file, [film], films)
    refuse("expected a size of 8 to 4096", file, out, size=4)
    refuse("expected the image folder at", file, out, images_root=tmp_path / "nowhere")
    assert not out.exists()


def test_a_folder_of_other_files_is_refused_without_their_names(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    out.mkdir()
    (out / "A1234567.dcm").touch()
    refuse(rf"^{out} is not empty and holds no store; choose another folder$", cohort, out)
    assert [file.name for file in out.iterdir()] == ["A1234567.dcm"]


def test_a_damaged_store_says_what_to_do_and_a_strange_one_is_not_to_be_removed(
    films: Path, cohort: Path, tmp_path: Path
) -> None:
    """`ingest it again`, said by ingest itself, would lead nowhere."""
    out = tmp_path / "store"
    build(cohort, out)
    (out / "images-00000.arrow").unlink()
    refuse(rf"incomplete: remove the folder {out}, then `chartray ingest` its cohort again$", cohort, out)
    other = write_cohort(tmp_path / "other.parquet", [films / "00.jpg", films / "01.png"], films)
    refuse("a finished store of another cohort, size or limits; choose another --out$", other, out)
    (out / "store.json").write_text("{")
    refuse(rf"index of a store \(JSON\) in .*; or remove the folder {out}, then", cohort, out)
    shutil.rmtree(out)
    assert build(cohort, out).images


def test_a_folder_that_holds_something_else_is_refused(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    refuse(r"is not empty and holds no store; choose another folder$", cohort, tmp_path / "mine")
    refuse("found the file", cohort, cohort)
    assert content(tmp_path / "mine") == {"thesis.tex": b"x"}


def test_a_disk_that_is_too_small_is_refused(films: Path, tmp_path: Path) -> None:
    rows = shutil.disk_usage(tmp_path).free // 4096**2 + 1000
    file = write_cohort(tmp_path / "huge.parquet", [films / "00.jpg"] * rows, films)
    refuse("GB free in .*free some", file, tmp_path / "store", size=4096)
    assert not (tmp_path / "store").exists()


# ---- real radiographs


@pytest.mark.skipif(not (SHARED / "hannover").exists(), reason="shared/data/hannover is not here")
def test_the_hannover_images(tmp_path: Path) -> None:
    paths = sorted((SHARED / "hannover" / "images").glob("*.jpg"))
    cohort = write_cohort(tmp_path / "c.parquet", list(paths), SHARED / "hannover" / "images")
    result = ingest(cohort, tmp_path / "store", size=128, workers=2)
    check_against_pillow(Store.open(result.store), 243)
    index = json.loads((tmp_path / "store" / "store.json").read_text())
    assert index["shard_rows"] == 16
    assert len(index["shards"]) == 16


@pytest.mark.skipif(
    not (SHARED / "nih-chestxray14-64px").exists(), reason="shared/data/nih-chestxray14-64px is not here"
)
def test_the_nih_images(tmp_path: Path) -> None:
    paths = sorted((SHARED / "nih-chestxray14-64px").rglob("*.png"))
    cohort = write_cohort(tmp_path / "c.parquet", list(paths), SHARED / "nih-chestxray14-64px")
    result = ingest(cohort, tmp_path / "store", size=64, workers=2)
    check_against_pillow(Store.open(result.store), 1000)


def check_against_pillow(store: Store, films: int) -> None:
    assert len(store) == films
    assert store.quarantine.num_rows == 0
    for row in range(0, films, 20):
        picture = Image.open(store.cohort["path"][row].as_py())
        assert (picture.height, picture.width) == (
            store.cohort["height"][row].as_py(),
            store.cohort["width"][row].as_py(),
        )
        grey = picture.convert("RGB").convert("L")
        expected = np.asarray(grey.resize((store.size, store.size), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(expected - store.images[row]).mean() < 0.5


# ---- images that would stop everything

FAULTY = """
import os, signal, sys
sys.path[:] = sys.argv[2:]
from chartray.pixels import image_process, read as reading
read = reading.decode_image
def faulty(path, **options):
    if "crashing" in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "once" in path and not os.path.exists(path + ".tried"):
        open(path + ".tried", "w").close()
        os.abort()
    if "hanging" in path:
        while True:
            pass
    if "greedy" in path:
        bytearray(1 << 50)
    if "leaving" in path:
        sys.exit(3)
    return read(path, **options)
reading.decode_image = faulty
image_process.serve(int(sys.argv[1]))
"""


@pytest.fixture
def faulty_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Readers whose decoder does what the name of an image says."""
    image_process.release(0)
    monkeypatch.setattr(image_process, "_PROGRAM", FAULTY)
    yield
    image_process.release(0)


@pytest.mark.usefixtures("faulty_decoder")
def test_an_image_that_crashes_or_hangs_its_decoder_costs_itself_alone(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    names = ["a", "crashing", "b", "hanging", "c", "greedy", "d", "leaving", "once", "e"]
    for name in names:
        shutil.copy(films / "00.jpg", folder / f"{name}.jpg")
    cohort = write_cohort(tmp_path / "c.parquet", [f"{name}.jpg" for name in names], folder)
    build(cohort, tmp_path / "store", limits=Limits(seconds=0.5))
    store = Store.open(tmp_path / "store")
    assert {Path(row["path"]).stem: row["reason"] for row in store.quarantine.to_pylist()} == {
        "crashing": "the decoder crashed (SIGSEGV)",
        "hanging": "reading it took more than 0.5 s of a processor",
        "greedy": "reading it needs more memory than is available or allowed",
        "leaving": "the decoder crashed (exit code 3)",
    }
    assert [Path(path).stem for path in store.cohort["path"].to_pylist()] == ["a", "b", "c", "d", "once", "e"]


def dicom(rows: int, columns: int, frame: bytes) -> pydicom.Dataset:
    """A DICOM file that holds `frame`, whatever it is, as JPEG 2000."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        JPEG2000Lossless,
        pydicom.uid.DigitalXRayImageStorageForPresentation,
    )
    data = pydicom.Dataset()
    data.file_meta, data.SOPClassUID = meta, meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.Rows, data.Columns, data.Modality, data.PhotometricInterpretation = rows, columns, "DX", "MONOCHROME2"
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 16, 12, 11, 0
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    return data


def test_bombs_pipes_devices_and_strange_paths_are_quarantined_and_the_rest_goes_on(
    films: Path, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "films", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir()
        shutil.copy(films / "00.jpg", each / "good.jpg")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "out.jpg").symlink_to(elsewhere / "good.jpg")
    (folder / "inside.jpg").symlink_to(folder / "good.jpg")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    (folder / "large.png").write_bytes(png(30_000, 30_000, 100))
    small = png(100, 100, 100)
    (folder / "text.png").write_bytes(small[:33] + text_bomb() + small[33:])
    with (folder / "sparse.jpg").open("wb") as sparse:
        sparse.write(b"\xff\xd8\xff")
        sparse.truncate(1 << 42)
    codestream = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + struct.pack(">8I", 65535, 65535, 0, 0, 65535, 65535, 0, 0)
    codestream += b"\x00\x01\x0b\x01\x01" + bytes(64) + b"\xff\xd9"
    dicom(65535, 65535, codestream).save_as(folder / "large.dcm", enforce_file_format=True)
    dicom(100, 100, codestream).save_as(folder / "other.dcm", enforce_file_format=True)
    names = sorted(path.name for path in folder.iterdir())
    cohort = write_cohort(tmp_path / "c.parquet", [*names, "nul\0.png"], folder)
    began = time.monotonic()
    build(cohort, tmp_path / "store")
    assert time.monotonic() - began < 60
    store = Store.open(tmp_path / "store")
    reasons = {Path(row["path"]).name: row["reason"] for row in store.quarantine.to_pylist()}
    assert {Path(path).name for path in store.cohort["path"].to_pylist()} == {"good.jpg", "inside.jpg"}
    for name in ("pipe.png", "folder.png", "device.png"):
        assert reasons[name] == "it is not a regular file (a folder, pipe or device)"
    assert reasons["out.jpg"] == "its link leads out of the image folder; --allow-outside follows such links"
    assert reasons["nul\0.png"] == "its name contains a NUL character"
    assert (
        reasons["large.png"]
        == "its header declares 30000 x 30000 pixels, more than the limit of 100 million (--max-megapixels)"
    )
    assert (
        reasons["large.dcm"]
        == "its header declares 65535 x 65535 pixels, more than the limit of 100 million (--max-megapixels)"
    )
    assert "another size" in reasons["other.dcm"]
    assert "more than 1024 MiB" in reasons["sparse.jpg"]
    assert set(reasons) == {*names, "nul\0.png"} - {"good.jpg", "inside.jpg"}
    build(cohort, tmp_path / "allowed", allow_outside=True)
    kept = {Path(path).name for path in Store.open(tmp_path / "allowed").cohort["path"].to_pylist()}
    assert kept == {"good.jpg", "inside.jpg", "out.jpg"}
    lower = write_cohort(tmp_path / "lower.parquet", ["good.jpg", "text.png"], folder)
    refuse(
        "none of 2 .* declares 30 x 40 pixels, more than the limit of 0.001 million",
        lower,
        tmp_path / "l",
        limits=Limits(1000),
    )


def text_bomb() -> bytes:
    """A compressed text of 128 MB, as a PNG may hold it."""
    squeezed, piece = zlib.compressobj(9), bytes(1 << 20)
    body = b"Comment\0\0" + b"".join(squeezed.compress(piece) for _ in range(128)) + squeezed.flush()
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))


def test_a_table_that_leads_out_of_the_image_folder_is_refused_before_anything_is_read(
    films: Path, tmp_path: Path
) -> None:
    for stranger in ("../../etc/passwd", "a/../../b.png", "/etc/passwd"):
        cohort = write_cohort(tmp_path / "c.parquet", ["00.jpg", stranger], films)
        refuse(r"inside the image folder .*films.*, found that of row 2 leading out of it", cohort, tmp_path / "store")
        assert not (tmp_path / "store").exists()
    cohort = write_cohort(tmp_path / "c.parquet", ["00.jpg", "x/../02.jpg"], films)
    assert build(cohort, tmp_path / "store").images >= 1
    cohort = write_cohort(tmp_path / "c.parquet", ["00.jpg", "/no/such/place/b.png"], films)
    assert build(cohort, tmp_path / "allowed", allow_outside=True).images == 1


def test_bounds_that_bound_nothing_are_refused(cohort: Path, tmp_path: Path) -> None:
    for limits in (Limits(0), Limits(-5), Limits(seconds=0.0), Limits(seconds=float("nan")), Limits(seconds=1e9)):
        refuse("expected --max-megapixels above 0 and --max-seconds above 0", cohort, tmp_path / "s", limits=limits)


# ---- what lies on the disk of an unfinished ingest


@pytest.mark.parametrize("damage", ["shard", "record", "no shard", "cut record"])
def test_what_an_unfinished_ingest_left_is_verified_and_done_again(
    damage: str, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(cohort, tmp_path / "undisturbed")
    out = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "finish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            build(cohort, out)
    shard, record = out / "images-00001.arrow", out / "unfinished" / "shard-00001.json"
    if damage == "no shard":
        shard.unlink()
    else:
        file = shard if damage == "shard" else record
        changed = bytearray(file.read_bytes())
        changed[len(changed) // 2] ^= 1
        file.write_bytes(changed[:100] if damage == "cut record" else changed)
    build(cohort, out)
    assert content(out) == content(tmp_path / "undisturbed")


def test_a_cohort_that_is_replaced_meanwhile_is_noticed(
    cohort: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = driver.finish

    def replaced(file: Path, *rest: object) -> object:
        write_cohort(file, [films / "00.jpg"], films)
        return finish(file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "finish", replaced)
        refuse("has changed since this ingest began; put the earlier cohort back", cohort, tmp_path / "store")


LIMITED = """
import resource, sys
from chartray.errors import OutputError
from chartray.pixels.ingest import ingest
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    ingest(sys.argv[1], sys.argv[2], size=64, workers=2)
except OutputError as error:
    print(error)
"""


def test_a_limit_on_the_size_of_files_is_a_sentence_and_a_later_run_continues(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    command = [sys.executable, "-c", LIMITED, str(cohort), str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "the limit on the size of a file (ulimit -f) is reached" in said
    assert said.count("\n") == 1
    build(cohort, out, size=64)
    build(cohort, tmp_path / "undisturbed", size=64)
    assert content(out) == content(tmp_path / "undisturbed")


def test_readers_end_with_an_ingest_that_is_killed(tmp_path: Path) -> None:
    """Even one that is in the middle of an image, and none of them can write anything."""
    picture = tmp_path / "large.png"
    picture.write_bytes(png(9_000, 9_000, 9_000))
    cohort = write_cohort(tmp_path / "cohort.parquet", [picture] * 200, tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", cohort, tmp_path / "out"], stderr=subprocess.PIPE
    )
    wait_for(lambda: len(children_of(process.pid)) == 2)
    readers = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    wait_for(lambda: not any(Path(f"/proc/{reader}").exists() for reader in readers))


def children_of(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task")
    return [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]
