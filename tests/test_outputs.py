"""What is written is whole or not there, locked while it is written, and verified when it is opened."""

import errno
import multiprocessing
import os
import random
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chartray.errors import InputError, OutputError
from chartray.outputs import replacing
from chartray.outputs.guard import refuse_other, refuse_other_file
from chartray.outputs.json_file import read_json, write_json
from chartray.outputs.parquet_file import read_table, write_table
from chartray.outputs.replacing import replaced_file, replaced_folder, settle
from chartray.outputs.seal import SUMS_FILE, seal, verify

TABLE = pa.table({"name": ["a", "b", None], "number": [1.5, None, -2.0]}).replace_schema_metadata({"chartray": "{}"})


def write_folder(out: Path, text: str) -> None:
    with replaced_folder(out) as partial:
        (partial / "below").mkdir()
        for name in ("a.txt", "b.txt", "below/c.txt"):
            (partial / name).write_text(text)
        if text == "second":
            (partial / "new.txt").write_text(text)


def content(out: Path) -> dict[str, str]:
    names = (file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())
    return {name: (out / name).read_text() for name in names if name != SUMS_FILE}


FIRST = dict.fromkeys(["a.txt", "b.txt", "below/c.txt"], "first")
SECOND = dict.fromkeys(["a.txt", "b.txt", "below/c.txt", "new.txt"], "second")


def write_until(out: Path, calls: int, inside: bool) -> None:
    """Replaces `out` and is killed at the file-system call with that number."""
    if inside:
        os.chdir(out)
    made = 0

    def killed(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal made
        if event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "open", "shutil.rmtree", "os.link"):
            made += 1
            if made > calls:
                os._exit(9)

    sys.addaudithook(killed)
    write_folder(out, "second")
    os._exit(0)


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "the folder one stands in"])
def test_a_kill_at_any_call_leaves_the_earlier_or_the_new_one_and_nothing_else(tmp_path: Path, inside: bool):
    out, context = tmp_path / "out", multiprocessing.get_context("fork")
    seen = []
    for calls in range(200):
        for left in tmp_path.iterdir():
            subprocess.run(["rm", "-rf", str(left)], check=True)
        write_folder(out, "first")
        process = context.Process(target=write_until, args=(out, calls, inside))
        process.start()
        process.join()
        settle(out)
        found = content(out)
        assert found in (FIRST, SECOND), calls
        verify(out)
        assert {path.name for path in tmp_path.iterdir()} <= {"out", ".out.lock"}, calls
        assert not [path for path in out.iterdir() if path.name.startswith(".")], calls
        seen.append(found == SECOND)
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    assert seen[-1]
    assert seen.count(False) > 10
    write_folder(out, "first")
    assert content(out) == FIRST


def test_an_error_leaves_the_earlier_folder_and_file(tmp_path: Path):
    write_folder(tmp_path / "out", "first")
    with pytest.raises(TypeError), replaced_folder(tmp_path / "out") as partial:
        (partial / "a.txt").write_text(1)
    assert content(tmp_path / "out") == FIRST
    (tmp_path / "file").write_text("first")
    with pytest.raises(TypeError), replaced_file(tmp_path / "file") as partial:
        partial.write_text(1)
    assert (tmp_path / "file").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path):
    write_folder(tmp_path / "there", "first")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    write_folder(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "there") == SECOND


def test_two_writers_at_once_are_refused(tmp_path: Path):
    with (
        replaced_folder(tmp_path / "out"),
        pytest.raises(InputError, match="another command is writing"),
        replaced_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out").is_dir()


def test_a_writer_at_work_is_not_disturbed_by_a_reader(tmp_path: Path):
    with replaced_folder(tmp_path / "out") as partial:
        (partial / "a.txt").write_text("first")
        settle(tmp_path / "out")
        assert partial.is_dir()
    assert content(tmp_path / "out") == {"a.txt": "first"}


def test_a_limit_on_file_size_is_a_sentence_and_the_earlier_result_stays(tmp_path: Path):
    write_folder(tmp_path / "out", "first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match="ulimit -f"), replaced_folder(tmp_path / "out") as partial:
            (partial / "a.txt").write_bytes(bytes(20_000))
        with pytest.raises(OutputError, match="ulimit -f"):
            write_table(pa.table({"x": list(range(20_000))}), tmp_path / "t.parquet", compression="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert content(tmp_path / "out") == FIRST
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_each_flipped_bit_truncation_and_missing_file_of_a_sealed_folder_is_seen(tmp_path: Path):
    (tmp_path / "below").mkdir()
    files = [tmp_path / "a.bin", tmp_path / "below" / "b.json"]
    for file in files:
        file.write_bytes(b"what was measured")
    seal(tmp_path)
    verify(tmp_path)
    subprocess.run(["sha256sum", "--quiet", "-c", SUMS_FILE], cwd=tmp_path, check=True)
    for file in [*files, tmp_path / SUMS_FILE]:
        whole = file.read_bytes()
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            with pytest.raises(InputError):
                verify(tmp_path, ["a.bin", "below/b.json"])
        file.write_bytes(whole[:-1])
        with pytest.raises(InputError, match="other"):
            verify(tmp_path)
        file.unlink()
        with pytest.raises(InputError, match="found none"):
            verify(tmp_path)
        file.write_bytes(whole)
    with pytest.raises(InputError, match="expected stranger"):
        verify(tmp_path, ["stranger"])


def test_each_flipped_bit_of_a_parquet_file_is_refused_or_harmless(tmp_path: Path, capsys):
    file = tmp_path / "t.parquet"
    write_table(TABLE, file)
    assert read_table(file, "a table").equals(TABLE, check_metadata=True)
    assert capsys.readouterr().err == ""
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with suppress(InputError):
            assert read_table(file, "a table").equals(TABLE, check_metadata=True)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_table(file, "a table")


@pytest.mark.parametrize("reader", [pq.read_table, lambda file: pq.ParquetFile(file).read()])
def test_a_table_that_another_program_wrote_is_read_and_that_is_said(tmp_path: Path, capsys, reader):
    file = tmp_path / "t.parquet"
    write_table(TABLE, file)
    pq.write_table(reader(file).slice(1), file)
    assert read_table(file, "a table").equals(TABLE.slice(1), check_metadata=True)
    assert "its rows cannot be verified" in capsys.readouterr().err


def test_json_is_verified_by_what_it_says(tmp_path: Path):
    said = {"a": 0.1, "b": [1, None, "ü"], "c": {"d": True}}
    write_json(tmp_path / "x.json", said)
    assert read_json(tmp_path / "x.json", "a note") == said
    whole = (tmp_path / "x.json").read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / "x.json").write_bytes(flipped)
        with suppress(InputError):
            assert read_json(tmp_path / "x.json", "a note") == said


def test_names_are_synced_where_the_file_system_can(tmp_path: Path, monkeypatch):
    def cannot(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(replacing.os, "fsync", cannot)
    replacing.sync_names(tmp_path)


def test_only_an_earlier_result_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    def foreign(names: set[str]) -> str:
        return "" if "mine" in names else "no result"

    out = tmp_path / "out"
    refuse_other(out)
    assert not out.exists()
    out.mkdir()
    refuse_other(out)
    (out / "mine").touch()
    refuse_other(out, foreign)
    with pytest.raises(InputError, match="out is not empty; choose another folder"):
        refuse_other(out)
    (out / "mine").rename(out / "theirs")
    with pytest.raises(InputError, match="out is not empty and holds no result; choose another folder"):
        refuse_other(out, foreign)
    with pytest.raises(InputError, match="expected a folder as --out, found the file"):
        refuse_other(out / "theirs", foreign)
    with pytest.raises(InputError, match="is a file, not a folder"):
        refuse_other(out / "theirs" / "new", foreign)
    assert [file.name for file in out.iterdir()] == ["theirs"]


def test_only_an_earlier_file_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    file, link = tmp_path / "out", tmp_path / "link"
    refuse_other_file(file, "a table", lambda _: False)
    file.write_text("text")
    refuse_other_file(file, "a table", lambda found: found.read_text() == "text")
    with pytest.raises(InputError, match="found another file, which would be overwritten; give --out another name"):
        refuse_other_file(file, "a table", lambda _: False)
    with pytest.raises(InputError, match="found a folder"):
        refuse_other_file(tmp_path, "a table", lambda _: True)
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="found another file"):
        refuse_other_file(link, "a table", lambda _: True)
