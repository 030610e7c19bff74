"""Tables as Excel, pandas and databases write them, through `cohort table`: right, or refused in one sentence."""

import datetime
import decimal
import json
import re
import sqlite3

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chartray.cli import run_command
from chartray.records.cohort import read_cohort

MAPPING = """
image_id: file
patient_id: patient
study_id: study
path: "{patient_id}/{image_id}.jpg"
taken_at: time
ehr:
  age: {column: age, kind: numeric, range: [0, 110], unit: years}
  smoker: {column: smoker, kind: boolean}
labels:
  Effusion: {column: effusion}
"""
HEADER = "file,patient,study,time,age,smoker,effusion"
ROWS = "a,1,s1,2020-01-01 10:00,45,Y,1\nb,2,s2,2020-01-02,46,no,0\n"
PLAIN = f"{HEADER}\n{ROWS}"
TYPED = {
    "file": ["a", "b"],
    "patient": [1.0, 2.0],
    "study": ["s1", "s2"],
    "time": ["2020-01-01 10:00", "2020-01-02"],
    "age": [45.0, 46.0],
    "smoker": [True, False],
    "effusion": [1, 0],
}
SECONDS = pa.array([1577872800, 1577923200], pa.timestamp("s"))


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """The rows of the cohort, or what the command said (one sentence, exit code 2)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()

    def make(table, mapping=MAPPING, name="films.csv"):
        if isinstance(table, (dict, pa.Table)):
            name = "films.parquet"
            pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), name)
        elif table is not None:
            (tmp_path / name).write_bytes(table if isinstance(table, bytes) else table.encode())
        (tmp_path / "m.yaml").write_text(mapping)
        (tmp_path / "c.parquet").unlink(missing_ok=True)
        code = run_command(
            ["cohort", "table", name, "--mapping", "m.yaml", "--images", "films", "--out", "c.parquet"]
        )  # fmt: skip
        said = capsys.readouterr()
        if code == 0:
            return read_cohort(tmp_path / "c.parquet").to_pylist()
        assert code == 2
        assert said.err.startswith("chartray: expected ")
        assert said.err.count("\n") == 1
        assert not (tmp_path / "c.parquet").exists()
        return said.err

    return make


def values(rows):
    names = ("image_id", "patient_id", "study_id", "taken_at", "ehr.age", "ehr.smoker", "label.Effusion")
    return [tuple(row[name] for name in names) for row in rows]


def usual(image, patient, study, time, age, smoker, effusion):
    return image, patient, study, time, age, smoker, effusion


TWO = [
    usual("a", "1", "s1", datetime.datetime(2020, 1, 1, 10), 45.0, True, 1.0),
    usual("b", "2", "s2", datetime.datetime(2020, 1, 2), 46.0, False, 0.0),
]


@pytest.mark.parametrize(
    "table",
    [
        PLAIN,
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", " , ").replace(" , ", ",", 6),
        PLAIN.replace("\n", ",,\n") + ",,,,,,,,\n\n",
        PLAIN.replace("a,1,", "a,1.0,").replace("b,2,", "b,2.0,").replace(",45,", ",45.0,"),
        PLAIN.replace(",Y,", ",TRUE,").replace(",no,", ",0.0,").replace(",1\n", ",yes\n").replace(",0\n", ",False\n"),
        PLAIN.replace("2020-01-02", "20200102").replace("2020-01-01 10:00", "01-JAN-2020 10:00:00"),
        TYPED,
        TYPED | {"file": pa.array(["a", "b"]).dictionary_encode(), "smoker": pa.array(["Y", "n"]).dictionary_encode()},
        TYPED | {"time": SECONDS.cast(pa.timestamp("ns"))},
        TYPED | {"time": SECONDS.cast(pa.timestamp("s", "Europe/Berlin"))},
        TYPED | {"patient": [decimal.Decimal("1.00"), decimal.Decimal("2.00")], "age": pa.array([45, 46], "uint8")},
        TYPED | {"file": pa.array(["a", "b"], pa.large_string()), "effusion": [True, False], "extra": [[1], [2]]},
        TYPED | {"study": pa.array([b"s1", b"s2"]), "__index_level_0__": [7, 8]},
    ],
)  # fmt: skip
def test_right_however_it_is_written(table, made):
    rows = made(table)
    assert values(rows) == TWO
    assert [row["path"].split("films/")[1] for row in rows] == ["1/a.jpg", "2/b.jpg"]


REFUSED = {
    "semicolons": (PLAIN.replace(",", ";"), "separated by commas"),
    "semicolons, as Excel says": ("sep=;\n" + PLAIN.replace(",", ";"), "separated by commas"),
    "tabs": (PLAIN.replace(",", "\t"), "separated by commas"),
    "Windows-1252": ((PLAIN + "ä,3,,,,,\n").encode("cp1252"), "UTF-8"),
    "UTF-16": (PLAIN.encode("utf-16"), "UTF-8"),
    "scientific": (f"{HEADER}\na,1.23457E+11,,,,,\nb,1.23457E+11,,,,,\n", "scientific notation.* data row 1"),
    "scientific, decimal comma": (f'{HEADER}\na,"1,23457E+11",,,,,\n', "scientific notation"),
    "a column twice": (PLAIN.replace("effusion\n", "effusion,patient\n").replace("1\n", "1,9\n"), "columns 2, 8"),
    "NUL": (f"{HEADER}\na\0,1,,,,,\n", "control character in data row 1"),
    "case": (f"{HEADER}\na,P01,,,,,\nb,Q,,,,,\nc,p01,,,,,\n", "'A99' in data row 1 and 'a99' in data row 3"),
    "zeros": (f"{HEADER}\na,0001,,,,,\nb,1,,,,,\n", "'9999' in data row 1 and '9' in data row 2"),
    "point zero": (f"{HEADER}\na,1000.0,,,,,\nb,1000,,,,,\n", "'9999.9' in data row 1 and '9999' in data row 2"),
    "images": (f"{HEADER}\nF7,1,,,,,\nf7,2,,,,,\n", "image_id .*'A9' in data row 1 and 'a9' in data row 2"),
    "studies": (f"{HEADER}\na,1,S7,,,,\nb,2,s7,,,,\n", "study_id .*'A9' in data row 1 and 'a9' in data row 2"),
    "zones": (f"{HEADER}\na,1,,2020-01-01 10:00,,,\nb,1,,2020-01-01 10:00Z,,,\n", "in data row 2 and one without"),
    "floats": (TYPED | {"patient": [2.0**53, 1.0]}, "a float of 9007199254740992 or more.* in data row 1"),
    "short floats": (TYPED | {"patient": pa.array([2.0**24, 1.0], pa.float32())}, "a float of 16777216 or more"),
    "fractions": (TYPED | {"patient": [1.0, 2.5]}, "a fraction in data row 2"),
    "truths as ids": (TYPED | {"patient": [True, False]}, "a column of type bool"),
    "times as ids": (TYPED | {"file": pa.array([1, 2], pa.timestamp("s"))}, "a column of type timestamp"),
    "lists": (TYPED | {"age": [[1], [2]]}, "cells of type list"),
    "bytes": (TYPED | {"age": [b"\xff", b"\xfe"]}, "cells of type binary"),
    "durations": (TYPED | {"age": pa.array([1, 2], pa.duration("s"))}, "cells of type duration"),
    "a column twice in Parquet": (
        pa.Table.from_arrays([*map(pa.array, TYPED.values()), pa.array([3, 4])], [*TYPED, "patient"]),
        "columns 2, 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name, made):
    table, message = REFUSED[name]
    said = made(table)
    assert re.search(message, said)
    assert not {"P01", "p01", "0001", "1000", "1.23457"} & set(re.split(r"[\s']", said))


@pytest.mark.parametrize("name", ["films.xlsx", "FILMS.XLS"])
def test_a_workbook_is_named(name, made):
    assert "the workbook" in made(b"PK\x03\x04", name=name)


def test_a_damaged_parquet_file_is_a_sentence(made, tmp_path):
    made(TYPED)
    whole = (tmp_path / "films.parquet").read_bytes()
    for start in range(0, len(whole), max(len(whole) // 60, 1)):
        damaged = whole[:start] + bytes(byte ^ 0x55 for byte in whole[start : start + 9]) + whole[start + 9 :]
        for content in (damaged, whole[:start]):
            said = made(content, name="films.parquet")
            assert isinstance(said, list) or "films.parquet" in said or "films cohort" in said


def test_placeholders_are_left_out_and_told(made, tmp_path):
    rows = made(f"{HEADER}\na,NULL,,,,,\nnan,1,,,,,\nc,2,unknown,,,,\nd,-,,,,,\ne,,,,,,\nf,2,?,,,,\ng,3,S1,,,,\n")
    assert [(row["image_id"], row["patient_id"], row["study_id"]) for row in rows] == [
        ("c", "2", None), ("f", "2", None), ("g", "3", "S1")
    ]  # fmt: skip
    flow = json.loads((tmp_path / "c.flow.json").read_text())
    steps = {step["step"]: step for step in flow["steps"]}
    assert (steps["image_id given"]["rows_in"], steps["image_id given"]["rows_out"]) == (7, 6)
    assert "'nan' 1" in steps["image_id given"]["why"]
    assert (steps["patient_id given"]["rows_in"], steps["patient_id given"]["rows_out"]) == (6, 3)
    assert "'NULL' 1" in steps["patient_id given"]["why"]
    assert "'-' 1" in steps["patient_id given"]["why"]
    assert flow["missing"]["study_id"] == {"?": 1, "unknown": 1}


def test_a_placeholder_where_presence_means_something_says_nothing(made):
    mapping = MAPPING.replace(
        "smoker, kind: boolean", "smoker, kind: boolean, present_means: true, absent_means: false"
    )
    cells = ["x", "", "NULL", "?", "no", "3", "0", "-1", "n/a"]
    rows = made("\n".join([HEADER, *(f"f{row},{row},,,,{cell}," for row, cell in enumerate(cells))]), mapping)
    assert [row["ehr.smoker"] for row in rows] == [True, False, None, None, None, True, True, True, None]


SPLIT = f"{HEADER},fold\n" + "".join(f"f{row},{patient},,,,,,{fold}\n" for row, (patient, fold) in enumerate(
    [("P01", "train"), ("p01", "train"), ("Q7", "test"), ("1000", "test"), ("1000.0", "test"), ("R2", "validate")]
))  # fmt: skip


def test_ids_of_one_patient_are_merged_before_the_split(made, tmp_path):
    (tmp_path / "one.csv").write_text("mrn,person\nP01,E1\np01,E1\nQ7,E7\n1000,E7\n1000.0,E7\nnowhere,E9\n")
    table = "\n".join(line.rpartition(",")[0] for line in SPLIT.splitlines())
    for same, patients, said in (
        ("spelling", ["P01", "P01", "Q7", "1000", "1000", "R2"], "5 ids became 4 patients"),
        (
            "[[P01, p01], [1000, '1000.0']]",
            ["P01", "P01", "Q7", "1000", "1000", "R2"],
            "; 0 of 3 ids in same_patient are not in the table",
        ),
        (
            "[[P01, p01, Q7], [1000, '1000.0', zz]]",
            ["P01", "P01", "P01", "1000", "1000", "R2"],
            "; 1 of 5 ids in same_patient are not in",
        ),
        (
            "one.csv",
            ["E1", "E1", "E7", "E7", "E7", "R2"],
            "5 ids became 3 patients; 1 of 5 ids in same_patient",
        ),
    ):
        rows = made(table, f"{MAPPING}same_patient: {same}\n")
        assert [row["patient_id"] for row in rows] == patients
        assert len({(row["patient_id"], row["split"]) for row in rows}) == len(set(patients))
        # An image lies where its own id says.
        assert [row["path"].split("films/")[1].split("/")[0] for row in rows] == [
            "P01", "p01", "Q7", "1000", "1000", "R2"
        ]  # fmt: skip
        assert said in str(json.loads((tmp_path / "c.flow.json").read_text())["steps"])


def test_what_cannot_be_merged_is_refused(made, tmp_path):
    (tmp_path / "twice.csv").write_text("mrn,person\nP01,E1\np01,E1\nP01,E2\n")
    (tmp_path / "three.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "blank.csv").write_text("a,b\nP01,E1\nQ7,\n")
    for same, message in (
        ("twice.csv", "found two for the id of data rows 1 and 3"),
        ("three.csv", "expected two columns"),
        ("blank.csv", "found none in data row 2"),
        ("absent.csv", "found none; check its name"),
        ("spellings", "'same_patient': needs lists of ids"),
        ("[[P01]]", "entry 1 is not a list of at least two ids"),
        ("[[P01, true]]", "entry 1 is not a list of at least two ids"),
        ("{P01: p01}", "'same_patient': needs lists of ids"),
        ("[[P01, Q7]]", "'A99' in data row 1 and 'a99' in data row 2"),
    ):
        said = made(SPLIT, f"{MAPPING}split: fold\nsame_patient: {same}\n")
        assert message in said
        assert "P01" not in said.replace("[[P0001, p0001]]", "")
    said = made(SPLIT.replace("p01,,,,,,train", "p01,,,,,,test"), f"{MAPPING}split: fold\nsame_patient: spelling\n")
    assert "expected every patient in one split, found 1 in two" in said


def test_paths_of_windows_are_read_and_those_of_elsewhere_refused(made):
    mapping = MAPPING.replace('"{patient_id}/{image_id}.jpg"', "where")
    table = f"{HEADER},where\na,1,,,,,,P1\\x y.png\nb,2,,,,,,P2/ä.png\nc,3,,,,,,\n"
    assert [row["path"].split("films/")[1] for row in made(table, mapping)] == ["P1/x y.png", "P2/ä.png"]
    for path in ("C:\\P2\\b.png", "D:/P2/b.png", "\\\\server\\P2\\b.png", "https://server/P2.png", "s3://P2/b.png"):
        said = made(table.replace("P2/ä.png", path), mapping)
        assert "found a drive, a network share or a URL in data row 2" in said
        assert "P2" not in said


def test_a_hospital_of_random_ids_can_go_on(made):
    table = f"{HEADER}\n12.1,aB3,7.10,,,,\n12.10,Ab3,7.1,,,,\n12.2,aB3,7.1,,,,\n"
    for key, exact, found in (
        ("image_id", "[]", "a number with a fraction"),
        ("patient_id", "[image_id]", "'aA9' in data row 1"),
        ("study_id", "[image_id, patient_id]", "a number with a fraction"),
    ):
        said = made(table, f"{MAPPING}exact_ids: {exact}\n")
        assert f"found {found}" in said
        assert f"each id is exact (exact_ids: [{key}])" in said
    rows = made(table, f"{MAPPING}exact_ids: [image_id, patient_id, study_id]\n")
    assert [(row["image_id"], row["patient_id"], row["study_id"]) for row in rows] == [
        ("12.1", "aB3", "7.10"), ("12.10", "Ab3", "7.1"), ("12.2", "aB3", "7.1")
    ]  # fmt: skip
    assert [row["path"].split("films/")[1] for row in rows] == ["aB3/12.1.jpg", "Ab3/12.10.jpg", "aB3/12.2.jpg"]
    rows = made(table, f"{MAPPING}exact_ids: [image_id, patient_id, study_id]\nsame_patient: [[aB3, Ab3]]\n")
    assert {row["patient_id"] for row in rows} == {"aB3"}
    for exact, message in (
        ("[patient_id]\nsame_patient: spelling", "'same_patient: spelling' or patient_id in 'exact_ids'"),
        ("[patient]", "needs a list of image_id, patient_id and study_id"),
        ("yes", "needs a list of image_id, patient_id and study_id"),
    ):
        assert message in made(table, f"{MAPPING}exact_ids: {exact}\n")


def test_times_in_the_format_that_the_mapping_names(made):
    table = f"{HEADER}\na,1,,03.04.2020 9:05,,,\nb,1,,04.04.2020,,,\nc,1,,2020-04-05,,,\n"
    assert [row["taken_at"] for row in made(table)] == [None, None, datetime.datetime(2020, 4, 5)]
    rows = made(table, MAPPING + 'taken_at_format: ["%d.%m.%Y %H:%M", "%d.%m.%Y"]\n')
    assert [row["taken_at"] for row in rows] == [
        datetime.datetime(2020, 4, 3, 9, 5), datetime.datetime(2020, 4, 4), None
    ]  # fmt: skip
    assert "found 'DD.MM.YYYY'" in made(table, MAPPING + "taken_at_format: DD.MM.YYYY\n")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{patient_id.__class__}", "column 'patient_id.__class__'"),
        ("{patient_id:>999999999}", "only have a fill, an alignment and a width"),
        ("{patient_id!r}", "only have a fill, an alignment and a width"),
        ("{patient_id:{image_id}}", "only have a fill, an alignment and a width"),
        ("{patient_id", "expected a template such as {image_id}.jpg"),
    ],
)
def test_a_path_template_only_fills_in_cells(template, message, made):
    assert message in made(PLAIN, MAPPING.replace("{patient_id}", template))


def test_a_path_template_lays_numbers_out(made):
    rows = made(TYPED | {"patient": [10000032.0, 7.0]}, MAPPING.replace("{patient_id}", "p{patient_id:0>8}"))
    assert [row["path"].split("films/")[1] for row in rows] == ["p10000032/a.jpg", "p00000007/b.jpg"]


def test_databases_of_loose_and_of_strict_types(made, tmp_path):
    with duckdb.connect(str(tmp_path / "d.duckdb")) as base:
        base.execute(
            "create table films as select * from (values "
            "('a', 1.0::double, 's1', timestamptz '2020-01-01 10:00:00+00', 45::decimal(5, 2), true, 1.0), "
            "('b', 2.0, 's2', timestamptz '2020-01-02 00:00:00+00', 46, false, 0.0)) "
            "t(file, patient, study, time, age, smoker, effusion)"
        )
        base.execute("create table lists as select file, [1] patient, study, time, age, smoker, effusion from films")
    assert values(made(None, name="duckdb://d.duckdb#films")) == TWO
    assert "cells of type array<int32>" in made(None, name="duckdb://d.duckdb#lists")
    with sqlite3.connect(tmp_path / "s.db") as base:
        base.execute(
            "create table films(file text, patient integer, study text, time text, age real, smoker text, effusion int)"
        )
        base.execute("insert into films values ('a', 1, 's1', '2020-01-01 10:00', 45, 'Y', 1)")
        base.execute("insert into films values ('b', 2, 's2', '2020-01-02', 46, 'no', 0)")
        base.execute("insert into films values ('c', 'P7', null, 'soon', 'old', '?', '?')")
    rows = values(made(None, name="sqlite://s.db#films"))
    assert rows == [*TWO, usual("c", "P7", None, None, None, None, None)]
