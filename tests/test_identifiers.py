"""Ids of any table: whole numbers are whole numbers, placeholders are no ids, what looks alike is refused."""

import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from chartray.errors import InputError
from chartray.records.identifiers import identifiers, whole_numbers
from chartray.records.mimic_times import clocks
from chartray.records.parsing import calendar_date, moment, time_of_day, truth


def ids(cells, kind=None, **options):
    found, placeholders = identifiers(pa.array(cells, kind), "patient_id", "films.csv", **options)
    return found.to_pylist(), placeholders


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        ([10000032.0, 1000.0, None], pa.float64(), ["10000032", "1000", None]),
        ([10000032, 2**63 - 1], pa.int64(), ["10000032", "9223372036854775807"]),
        ([17, 2], pa.uint8(), ["17", "2"]),
        ([17.0, 2.0], pa.float32(), ["17", "2"]),
        ([decimal.Decimal("1000.00"), decimal.Decimal("7.00")], pa.decimal128(9, 2), ["1000", "7"]),
        (["1000.0", "12.00", "13,0"], pa.string(), ["1000", "12", "13"]),
        ([" P1 ", "P2\u00a0", "\tP3", "  "], pa.string(), ["P1", "P2", "P3", None]),
        (["0001", "0012", "0100"], pa.string(), ["0001", "0012", "0100"]),
        (["024e7871", "12E4567", "1.2.840.113619.2", "3e8", "fff3e10"], pa.large_string(), None),
        (["a", "b"], pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
        ([b"a", b"b"], pa.binary(), ["a", "b"]),
    ],
)
def test_ids_of_every_type(cells, kind, expected):
    assert ids(cells, kind) == (expected or cells, {})


def test_placeholders_are_no_ids_and_are_counted_as_they_are_written():
    cells = ["nan", "NULL", "none", "n/a", "N/A", "Unknown", "-", "?", "?", ".", "#N/A", "\\N", "—", "***", "-1", None]
    found, placeholders = ids([*cells, "Nancy", "unknown-17", "0"])
    assert found == [None] * len(cells) + ["Nancy", "unknown-17", "0"]
    assert sum(placeholders.values()) == len(cells) - 1
    assert placeholders["?"] == 2
    assert set(placeholders) == set(cells) - {None}
    assert ids([1.0, float("nan"), None, float("inf")], pa.float64()) == (["1", None, None, None], {"nan": 1, "inf": 1})


@pytest.mark.parametrize(
    ("a", "b", "masked", "why"),
    [
        ("P0001", "p0001", "'A9999' in data row 2 and 'a9999' in data row 4", "upper and lower case"),
        ("0001", "1", "'9999' in data row 2 and '9' in data row 4", "leading zeros"),
        ("P007", "P7", "'A999' in data row 2 and 'A9' in data row 4", "leading zeros"),
        ("1000", "1000.0", "'9999' in data row 2 and '9999.9' in data row 4", "a decimal .0"),
        ("A 1", "A1", "'A 9' in data row 2 and 'A9' in data row 4", "blanks"),
        ("A\u200b1", "A1", "data row 2 and 'A9' in data row 4", "similar characters"),
        ("\uff11\uff12", "12", "'99' in data row 2 and '99' in data row 4", "similar characters"),
        ("'0012", "0012", "'9999' in data row 4", "quotes"),
        ('="0012"', "0012", "'9999' in data row 4", "quotes"),
        ("STRASSE", "straße", "'AAAAAAA' in data row 2 and 'aaaaaa' in data row 4", "upper and lower case"),
    ],
)
def test_ids_that_fall_together_are_refused_with_both_spellings(a, b, masked, why):
    with pytest.raises(InputError) as refused:
        ids(["Q5", a, a, b, "Q6"])
    said = str(refused.value)
    assert masked in said
    assert why in said
    assert a not in said


def test_ids_that_are_said_to_be_one_are_one():
    cells = ["P0001", "p0001", "x", "1000", "1000.0"]
    assert ids(cells, one="spelling")[0] == ["P0001", "P0001", "x", "1000", "1000"]
    assert ids(cells[::-1], one="spelling")[0] == ["1000", "1000", "x", "P0001", "P0001"]
    one = {"p0001": "P0001", "1000": "1000", "x": "P0001"}
    assert ids(cells, one=one)[0] == ["P0001", "P0001", "P0001", "1000", "1000"]
    with pytest.raises(InputError, match=r"'A9999' in data row 1 and 'a9999' in data row 2"):
        ids(cells, one={"p0001": "E7", "1000": "1000"})


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        (["1", "1.23457E+11", "1.23457E+11"], None, "scientific notation.* in data row 2; write the column as text"),
        (["1e+16"], None, "scientific notation"),
        (["1,23457E+11"], None, "scientific notation"),
        (["1.2345E11"], None, "scientific notation"),
        (["5", "1E11", "-", "2E11"], None, "scientific notation.* in data row 2"),
        (["1", "2.5"], None, "a fraction or a separator in data row 2"),
        (["1.000"], None, "a fraction or a separator"),
        ([1.0, 2.5], pa.float64(), "a fraction in data row 2"),
        ([1.0, float(2**53)], pa.float64(), "a float of 9007199254740992 or more.* in data row 2"),
        ([float(2**24)], pa.float32(), "a float of 16777216 or more"),
        (["a", "b\0c"], None, "a control character in data row 2"),
        (["a\nb"], None, "a control character in data row 1"),
        ([True], pa.bool_(), "found a column of type bool"),
        ([[1]], pa.list_(pa.int64()), "found a column of type list"),
        ([b"\xff"], pa.binary(), "found binary"),
    ],
)
def test_what_cannot_be_trusted_is_refused(cells, kind, message):
    with pytest.raises(InputError, match=message) as refused:
        ids(cells, kind)
    assert "123" not in str(refused.value)


def test_whole_numbers_by_contract():
    for cells in (["10000100.0", "10000100", "010000100", "+10000100"], [10000100.0], [10000100]):
        assert set(whole_numbers(pa.array(cells), "subject_id", "admissions.csv").to_pylist()) == {10000100}
    assert whole_numbers(pa.array(["?", None, "5"]), "x", "y").to_pylist() == [None, None, 5]
    assert whole_numbers(pa.chunked_array([[7], [8]], pa.int32()), "x", "y").type == pa.int64()
    for wrong in ("p10", "1.5", "1e+05", "12345678901234567890"):
        with pytest.raises(InputError, match="in data row 2") as refused:
            whole_numbers(pa.array(["1", wrong]), "subject_id", "admissions.csv")
        assert wrong not in str(refused.value)


def test_exact_ids_count_as_they_stand():
    cells = ["12.1", "12.10", "1.000", "aB3", "Ab3", "1E11", "0001", "1", "1.0", " 1 ", "NULL", None]
    found, placeholders = ids(cells, exact=True)
    assert found == ["12.1", "12.10", "1.000", "aB3", "Ab3", "1E11", "0001", "1", "1.0", "1", None, None]
    assert placeholders == {"NULL": 1}
    assert ids(cells, exact=True, one={"Ab3": "aB3"})[0][3:5] == ["aB3", "aB3"]
    for cells, kind in ((["1.2E+11"], None), (["a\nb"], None), ([12.5], pa.float64())):
        with pytest.raises(InputError):
            ids(cells, kind, exact=True)


def test_a_plain_exponent_is_an_id_among_hexadecimal_ones():
    assert ids(["12e7", "10a0", "0012"])[0] == ["12e7", "10a0", "0012"]


def test_hashes_are_ids_as_they_are():
    cells = pa.array([f"{row:032x}" for row in np.random.default_rng(0).permutation(200_000)])
    assert identifiers(cells, "image_id", "films.csv") == (cells, {})


def test_times_in_the_spellings_that_programs_write():
    same = (
        "2020-01-31 09:30:00", "2020-01-31T09:30", "20200131 093000", "20200131T093000", "202001310930",
        "2020-1-31 9:30",        "20200131093000.000000", "2020/01/31 09:30",
        "2020.01.31 09:30:00", "31-JAN-2020 09:30", "31JAN2020:09:30:00",
        "January 31, 2020 9:30 AM", "31 January 2020, 09:30", "2020-01-31 09:30:00.000000", " 2020-01-31 09:30 ",
        "2020-01-31T10:30:00+01:00", "2020-01-31T09:30:00Z", "20200131T0930-0000", "2020-01-31 10:30:00.000000+0100",
    )  # fmt: skip
    assert {str(moment(cell)) for cell in same} == {"2020-01-31 09:30:00"}
    none = (
        "03/04/2020", "31.01.2020", "2020", "202001", "2020-01", "2020-13-01", "2020-02-30", "9999-12-31", "0001-01-01",
        "2020-W05-5", "2020-01-31-09:30", "2020-01-31 24:00", "2020-01-31 09:60", "2020-01-31 13:00 pm", "43861",
        "soon",        "25-JAN-20", "2020-01-31T09:30+25:00", "20200131 930", "",
    )  # fmt: skip
    assert {moment(cell) for cell in none} == {None}


def test_a_few_study_times_of_four_digits_are_not_minutes_past_midnight():
    for cells in (["0932", "1415"], ["93217.803", "0005"]):
        with pytest.raises(InputError, match=r"expected StudyTime as HHMMSS .* write it as 141500 or 14:15:00") as said:
            clocks(pa.chunked_array([cells]), Path("metadata.csv.gz"))
        assert not any(f" {cell}" in str(said.value).replace("141500", "") for cell in cells)
    assert clocks(pa.chunked_array([["1415", "93217"]]), Path("m")).astype("timedelta64[s]").astype(int).tolist() == [
        855, 34337
    ]  # fmt: skip


def test_days_clocks_and_truths():
    assert {str(calendar_date(cell)) for cell in ("21500302", "2150-03-02", "2150-03-02 23:59:59", "2150/3/2")} == {
        "2150-03-02"
    }
    assert {str(time_of_day(cell)) for cell in ("09:30:12", "9:30:12", "093012", "93012", "93012.0", "9:30:12 AM")} == {
        "9:30:12"
    }
    assert {time_of_day(cell) for cell in ("24:00", "9:60", "0930", "1e4", "-5", "9.5.1", "noon", "")} == {None}
    assert [truth(cell) for cell in ("Y", "no", "1.00", "-1", "0.5", "")] == [True, False, True, None, None, None]
