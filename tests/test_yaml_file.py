"""YAML that people write is read as they mean it; whatever else is refused at once, in one sentence with the file."""

import os
import time
from pathlib import Path

import pytest

from chartray.cli import run_command
from chartray.config import pretrain as config
from chartray.errors import InputError
from chartray.yaml_file import read_yaml, yaml_tree

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]" for level in range(9)
)
CHAIN = "a0: &a0 [x]\n" + "\n".join(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 2000))
REFUSED = {
    "billion laughs": (LAUGHS, "more than 50000 names and values in line 5"),
    "a chain of aliases": (CHAIN, "more than 30 nested levels"),
    "itself": ("a: &a [*a]", "an alias without a complete anchor before it in line 1"),
    "no anchor": ("a: *b", "an alias without a complete anchor"),
    "deep lists": ("a: " + "[" * 400_000, "more than 30 nested levels"),
    "deep mappings": ("a: " + "{a: " * 200_000, "more than 30 nested levels"),
    "deep blocks": ("\n".join(" " * level + "a:" for level in range(1000)), "more than 30 nested levels"),
    "deep dashes": ("- " * 300_000, "more than 30 nested levels"),
    "a flood": ("a: [" + "x," * 450_000 + "]", "more than 50000 names and values"),
    "large": ("a: " + "x" * 1_000_001, "at most 1 MB"),
    "code": ("a: !!python/object/apply:os.system ['touch /tmp/x']", "a tag"),
    "an odd tag": ("a: !x 1", "a tag"),
    "bytes": ("a: !!binary aGVsbG8=", "a tag"),
    "a set": ("!!set {a, b}", "a tag"),
    "twice": ("image_id: a\npatient_id: b\nimage_id: c", "a repeated name in line 3"),
    "twice within": ("ehr:\n  sex: {column: a, column: b}", "a repeated name in line 2"),
    "a list as a name": ("? [a, b]\n: 1", "a list or a mapping as a name"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "no YAML": ("a: b: c", "in line 1"),
    "a tab": ("a:\n\tb: 1", "in line 2"),
    "a huge number": ("a: " + "9" * 5000, "a number with thousands of digits"),
    "a list": ("- a", "found a list"),
    "nothing": ("", "found nothing"),
    "a word": ("word", "found a single value"),
    "NUL": ("a: 1\nb: \x00", "a control character in line 2"),
    "a lone surrogate": ('a: "\\ud800"', "in line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_writes_is_refused_in_a_second(name, tmp_path):
    text, message = REFUSED[name]
    file = tmp_path / "mapping.yaml"
    file.write_text(text)
    before = time.perf_counter()
    with pytest.raises(InputError) as refused:
        read_yaml(file, "a mapping file")
    assert time.perf_counter() - before < 1
    assert message in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: \xff", "UTF-8"), ("a: 1".encode("utf-16"), "UTF-8"), ("ä: 1".encode("cp1252"), "UTF-8")],
)
def test_bytes_that_are_no_text(content, message, tmp_path):
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "m.yaml", "a mapping file")


def test_only_a_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for name, found in (
        ("pipe.yaml", "a pipe or a device"),
        (".", "a folder"),
        ("/dev/zero", "a pipe or a device"),
        ("none.yaml", "none"),
        ("loop.yaml", "symbolic links"),
        ("a\0b.yaml", "a path that cannot be opened"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(InputError, match=f"found .*{found}"):
            read_yaml(tmp_path / name, "a mapping file")


def test_words_stay_words_and_numbers_numbers():
    words = "yes, no, Yes, NO, on, off, Y, N, n, 0012, 012, 1_000, 12:30, 1:30:00, 2020-01-31, 0x1F, 24e71, 1e5, =, NaN"
    assert yaml_tree(f"a: [{words}]") == {"a": words.split(", ")}
    assert yaml_tree("a: [0, -3, +4, 1.5, .5, 5., 1e-3, 1.5E+3, 2.5e3]")["a"] == [
        0,
        -3,
        4,
        1.5,
        0.5,
        5,
        0.001,
        1500,
        2500,
    ]
    assert yaml_tree("a: [true, False, TRUE, null, ~, ]") == {"a": [True, False, True, None, None]}
    assert yaml_tree("{true: a, 1: b, 0012: c, No: d, 1.10: e, null: f}") == {
        "true": "a", "1": "b", "0012": "c", "No": "d", "1.10": "e", "null": "f"
    }  # fmt: skip
    assert yaml_tree("base: &base {x: 1}\nmore: {<<: *base, y: [*base]}")["more"] == {"x": 1, "y": [{"x": 1}]}
    assert yaml_tree("\ufeffa: !!str 12") == {"a": "12"}


def test_options_and_files_of_knobs_mean_what_they_say(tmp_path):
    file = tmp_path / "knobs.yaml"
    file.write_text("train: {learning_rate: 1e-3, compile: no, steps: 100, clip: null}\nencoder: {init: 0012}\n")
    read = config.load(file=file, overrides={"train": {"weight_decay": "1e-2"}, "seed": "7"})
    assert (read.train.learning_rate, read.train.compile, read.train.clip) == (1e-3, False, None)
    assert (read.train.weight_decay, read.seed, read.encoder.init) == (1e-2, 7, "0012")


@pytest.mark.parametrize(
    "arguments",
    [
        ["cohort", "table", "films.csv", "--mapping", "FILE", "--images", ".", "--out", "c.parquet"],
        ["study", "FILE", "--out", "s"],
        ["pretrain", "store", "--out", "r", "--config", "FILE"],
    ],
)
def test_every_command_that_reads_yaml_refuses_in_one_sentence(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films.csv").write_text("file,patient\na,1\n")
    texts = (LAUGHS, "a: " + "[" * 400_000, "a: !!python/object/apply:os.system [id]", "a: 1\na: 2", 'store: "a\\0b"')
    for text in texts:
        (tmp_path / "bad.yaml").write_text(text)
        assert run_command([each.replace("FILE", "bad.yaml") for each in arguments]) == 2
        said = capsys.readouterr().err
        assert "bad.yaml" in said
        assert said.count("\n") == 1
