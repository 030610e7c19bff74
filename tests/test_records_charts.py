"""A table and its chart in two files: equal ids, the last value by then, several rows, and rows to keep."""

import csv
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chartray.errors import InputError
from chartray.records.cohort import Cohort, describe
from chartray.records.table import table_cohort

MAPPING = """
image_id: image
patient_id: mrn
path: "{image}.png"
taken_at: "{day} {clock}"
ehr:
  crp: {column: crp, kind: numeric, range: [0, 600]}
  oxygen: {column: oxygen, kind: boolean}
"""
TIMED = "charts: {on: {mrn: patient}, time: drawn, within_days: 2}\n"
DAY = datetime(2020, 3, 2)


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        table.writeheader()
        table.writerows(rows)


def images(folder: Path, count: int = 6, **columns: list[Any]) -> None:
    rows = [
        {"image": f"i{row}", "mrn": row % 3 + 100, "day": f"2020030{row + 1}", "clock": "93000"} for row in range(count)
    ]
    write(
        folder / "images.csv",
        [row | {name: cells[at] for name, cells in columns.items()} for at, row in enumerate(rows)],
    )


def made(folder: Path, mapping: str, chart: list[dict[str, Any]] | None = None) -> Cohort:
    (folder / "mapping.yaml").write_text(mapping)
    files = []
    if chart is not None:
        write(folder / "chart.csv", chart)
        files.append(str(folder / "chart.csv"))
    return table_cohort(folder / "images.csv", folder / "mapping.yaml", folder, files)


def steps(cohort: Cohort) -> dict[str, tuple[int, str]]:
    return {step.step: (step.rows_in - step.rows_out, step.why) for step in cohort.flow}


def test_every_cell_is_the_last_one_by_then_of_a_plain_loop(tmp_path: Path) -> None:
    rng = random.Random(0)
    images(tmp_path, 9)
    chart = []
    for _ in range(200):
        at = DAY + timedelta(minutes=rng.randrange(-3000, 12000))
        written = at.strftime(rng.choice(("%Y-%m-%d %H:%M:%S", "%Y%m%d", "%d-%b-%Y %H:%M")))
        crp, oxygen = rng.choice(("", rng.randrange(600))), rng.choice(("", "yes", "no"))
        chart.append({"patient": rng.choice((100, 101, 102, 109)), "drawn": written, "crp": crp, "oxygen": oxygen})
    cohort = made(tmp_path, MAPPING + TIMED, chart)
    for row in cohort.table.to_pylist():
        for name, read in (("crp", float), ("oxygen", lambda cell: cell == "yes")):
            last = None
            for entry in chart:
                if str(entry["patient"]) != row["patient_id"] or entry[name] == "":
                    continue
                for form in ("%Y-%m-%d %H:%M:%S", "%d-%b-%Y %H:%M"):
                    try:
                        at = datetime.strptime(entry["drawn"], form)
                    except ValueError:
                        continue
                    break
                else:  # a date alone: known at the end of its day
                    at = datetime.strptime(entry["drawn"], "%Y%m%d") + timedelta(days=1, microseconds=-1)
                if row["taken_at"] - timedelta(days=2) <= at <= row["taken_at"] and (last is None or at >= last[0]):
                    last = (at, read(entry[name]))
            assert row[f"ehr.{name}"] == (None if last is None else last[1])
    assert sum(row["ehr.crp"] is not None for row in cohort.table.to_pylist()) >= 5
    assert (
        "of each column the last value at or before the image, at most 2 days old" in steps(cohort)["chart joined"][1]
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "database"])
def test_a_chart_joined_by_an_id_alone_is_the_row_with_it(tmp_path: Path, kind: str) -> None:
    """Also where one file has the id as a number and the other as text, and in every kind of table."""
    images(tmp_path)
    (tmp_path / "mapping.yaml").write_text(MAPPING + "charts: {on: {mrn: patient}}\n")
    chart = pa.table({"patient": [100.0, 101.0, 777.0], "crp": [1.5, None, 9.0], "oxygen": [True, False, True]})
    name = str(tmp_path / f"chart.{kind}")
    if kind == "parquet":
        pq.write_table(chart, name)
    elif kind == "csv":
        write(tmp_path / "chart.csv", [{"patient": "100.0", "crp": 1.5, "oxygen": 1}, {"patient": "101", "oxygen": 0}])
    else:
        with duckdb.connect(str(tmp_path / "base.duckdb")) as base:
            base.execute("create table chart as select * from chart")
        name = f"duckdb://{tmp_path / 'base.duckdb'}#chart"
    cohort = table_cohort(tmp_path / "images.csv", tmp_path / "mapping.yaml", tmp_path, [name])
    assert cohort.table["ehr.crp"].to_pylist() == [1.5, None, None] * 2
    assert cohort.table["ehr.oxygen"].to_pylist() == [True, False, None] * 2
    assert steps(cohort)["chart joined"][1].startswith("4 of 6 have a row in ")


def test_several_rows_of_one_id(tmp_path: Path) -> None:
    images(tmp_path)
    readers = [("i0", 1), ("i0", 1), ("i0", 0), ("i1", 0), ("i1", ""), ("i2", 1), ("i2", 0), ("i3", 1)]
    chart = [{"name": image, "reader": at, "mass": cell} for at, (image, cell) in enumerate(readers)]
    mapping = MAPPING.split("ehr:")[0] + "labels: {Mass: {column: mass}}\ncharts: {on: {image: name}%s}\n"
    cohort = made(tmp_path, mapping % ", several: majority", chart)
    assert cohort.table["label.Mass"].to_pylist() == [1.0, 0.0, None, 1.0, None, None]
    with pytest.raises(InputError, match="expected one row for each name") as refusal:
        made(tmp_path, mapping % "", chart)
    found = f"in column 'mass', data row 2 of {tmp_path / 'chart.csv'} and data row 3 of {tmp_path / 'chart.csv'}; give"
    assert found in str(refusal.value)
    assert "i0" not in str(refusal.value)
    # Rows that are equal in all that is needed are one.
    cohort = made(tmp_path, mapping % "", [each for each in chart if each["name"] in ("i3",)] * 2)
    assert cohort.table["label.Mass"].to_pylist() == [None, None, None, 1.0, None, None]


@pytest.mark.parametrize(
    ("charts", "chart", "sentence"),
    [
        ("{on: {mrn: patient}}", [{"patient": "0100", "crp": 1}], "'999' in data row 1 of column 'mrn' .* '9999' in "
         "data row 1 of .*leading zeros; write both alike, or say same_id: spelling"),
        ("{on: {mrn: patient}}", [{"patient": "7", "crp": 1}], "expected images of .* by mrn = patient, found none of "
         "6 images with a row; name the columns"),
        ("{on: {mrn: pation}}", [{"patient": "100"}], r"expected a column 'pation' .*\(charts.on of .*mean 'patient'"),
        ("{on: {mrm: patient}}", [{"patient": "100"}], r"expected a column 'mrm' .*\(charts.on of .*mean 'mrn'"),
        ("{onn: {mrn: patient}}", [{"patient": "100"}], r"found 'charts.onn' \(did you mean 'on'\?\)"),
        ("{on: {mrn: patient}, within_days: 2}", [{"patient": "100"}], "'within_days' needs 'time'"),
        ("{on: []}", [{"patient": "100"}], "needs the columns that hold the same id"),
        ("{on: {mrn: patient}, time: at}", [{"patient": "100", "at": "2020-01-01T08:00Z", "crp": 1}], "the images' "
         "without a time zone and the chart's with; write all in the same way"),
    ],
)  # fmt: skip
def test_a_chart_that_cannot_be_joined_is_refused(
    tmp_path: Path, charts: str, chart: list[dict[str, Any]], sentence: str
) -> None:
    images(tmp_path)
    with pytest.raises(InputError, match=sentence) as refusal:
        made(tmp_path, MAPPING + f"charts: {charts}\n", [{"crp": "", "oxygen": "", **row} for row in chart])
    assert "0100" not in str(refusal.value).replace(str(tmp_path), "")


def test_a_chart_is_given_where_the_mapping_has_one(tmp_path: Path) -> None:
    images(tmp_path, crp=[1] * 6, oxygen=[1] * 6)
    with pytest.raises(InputError, match="expected 'charts' in the mapping"):
        made(tmp_path, MAPPING, [{"patient": 1}])
    with pytest.raises(InputError, match="as --charts, found none"):
        made(tmp_path, MAPPING + TIMED)


def test_ids_of_two_systems_are_one_if_the_mapping_says_so(tmp_path: Path) -> None:
    images(tmp_path)
    chart = [{"patient": "0100", "crp": 7, "oxygen": ""}]
    cohort = made(tmp_path, MAPPING + "charts: {on: {mrn: patient}, same_id: spelling}\n", chart)
    assert cohort.table["ehr.crp"].to_pylist() == [7.0, None, None] * 2


def test_a_column_that_both_have_is_the_tables_and_the_charts_by_its_prefix(tmp_path: Path) -> None:
    images(tmp_path, crp=[1] * 6, oxygen=[1] * 6)
    mapping = MAPPING + "  later: {column: charts.crp, kind: numeric, range: [0, 600]}\ncharts: {on: mrn}\n"
    cohort = made(tmp_path, mapping, [{"mrn": 100, "crp": 2}])
    assert cohort.table["ehr.crp"].to_pylist() == [1.0] * 6
    assert cohort.table["ehr.later"].to_pylist() == [2.0, None, None] * 2


def test_rows_are_kept_by_their_cells_and_the_others_counted(tmp_path: Path) -> None:
    """Ids of rows that are left out are not looked at: they may be of another form, or repeated."""
    names = ["X-ray", "CT", "X-ray", "", "CT", "X-ray"]
    images(tmp_path, modality=names, image=["a", "b", "c", "d", "b", "e"], crp=[1] * 6, oxygen=[1] * 6)
    cohort = made(tmp_path, "keep: {modality: [X-ray]}\n" + MAPPING)
    assert cohort.table["image_id"].to_pylist() == ["a", "c", "e"]
    assert steps(cohort)["modality is 'X-ray'"] == (3, "CT 2, blank 1")
    blank = made(tmp_path, 'keep: {modality: [X-ray, ""], mrn: [100, 101]}\n' + MAPPING)
    assert blank.table["image_id"].to_pylist() == ["a", "d"]
    assert "modality is 'X-ray', blank: 6 -> 4 (CT 2)" in describe(blank)


def test_times_of_two_columns(tmp_path: Path) -> None:
    """HHMMSS may lack its leading zeros; HHMM is ambiguous, and a blank half is a blank time."""
    clocks = ["93000", "9:30", "093012.5", "0930", "", "235959"]
    images(tmp_path, clock=clocks, crp=[1] * 6, oxygen=[1] * 6)
    cohort = made(tmp_path, MAPPING)
    times = [time and time.isoformat() for time in cohort.table["taken_at"].to_pylist()]
    assert times == [
        "2020-03-01T09:30:00",
        "2020-03-02T09:30:00",
        "2020-03-03T09:30:12.500000",
        None,
        None,
        "2020-03-06T23:59:59",
    ]
    assert cohort.missing["taken_at"] == {"(unreadable)": 1, "absent": 1}


CELLS = ["['effusion', 'mass']", "['mass']", "['normal']", "[]", "", "['unchanged', 'mass']", "?", "['unchanged']"]


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ("others_mean: false", [1, 0, 0, None, None, 0, None, 0]),
        ("others_mean: false, blank: negative", [1, 0, 0, None, 0, 0, None, 0]),
        ("others_mean: false, unknown: [unchanged]", [1, 0, 0, None, None, None, None, None]),
        ("false: [normal], blank: unknown", [1, None, 0, None, None, None, None, None]),
        ("uncertain: [mass], others_mean: false", [1, -1, 0, None, None, -1, None, 0]),
    ],
)
def test_findings_in_one_cell(tmp_path: Path, entry: str, values: list[float | None]) -> None:
    rows = [{"image": f"i{at}", "mrn": at, "findings": cell} for at, cell in enumerate(CELLS)]
    write(tmp_path / "images.csv", rows)
    label = f'labels: {{Effusion: {{column: findings, separator: ",", true: [effusion], {entry}}}}}\n'
    cohort = made(tmp_path, "image_id: image\npatient_id: mrn\npath: image\n" + label)
    assert cohort.table["label.Effusion"].to_pylist() == values
    source = cohort.metadata.labels["Effusion"]
    assert source.blank == ("negative" if "negative" in entry else "unknown")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("separator: ','", "'separator' needs 'true'"),
        ("others_mean: false", "'others_mean' needs 'true' or 'false'"),
        ("others_mean: nein, true: [a]", "needs true or false, the meaning of any cell that is in none of the lists"),
        ("blank: negative, absent_means: false", "'blank' and 'absent_means' both define a blank cell"),
        ("blank: nothing", "expected 'labels.Effusion.blank' to be 'negative' or 'unknown', found 'nothing'"),
        ("true: [a], unknown: [a]", "the cell 'a' is in both 'true' and 'unknown'"),
        ("seperator: ','", r"found 'labels.Effusion.seperator' \(did you mean 'separator'\?\)"),
    ],
)
def test_a_label_that_contradicts_itself_is_refused(tmp_path: Path, entry: str, sentence: str) -> None:
    write(tmp_path / "images.csv", [{"image": "a", "mrn": 1, "findings": "a"}])
    with pytest.raises(InputError, match=sentence):
        made(
            tmp_path,
            f"image_id: image\npatient_id: mrn\npath: image\nlabels: {{Effusion: {{column: findings, {entry}}}}}\n",
        )


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    images(tmp_path)
    with pytest.raises(InputError, match=r"found 'kep' \(did you mean 'keep'\?\)"):
        made(tmp_path, MAPPING + "kep: {modality: [X-ray]}\n")


def test_rows_are_kept_in_a_table_with_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": pa.array(["a", "b", "c"]).dictionary_encode(),
            "mrn": [1.0, 2.0, 3.0],
            "chest": [True, False, None],
            "weight": pa.array([70, None, 80], pa.int32()),
        }
    )
    pq.write_table(table, tmp_path / "images.parquet")
    (tmp_path / "mapping.yaml").write_text(
        "image_id: image\npatient_id: mrn\npath: image\nkeep: {chest: ['true', '']}\n"
        "ehr: {weight: {column: weight, kind: numeric, range: [1, 300]}}\n"
    )
    cohort = table_cohort(tmp_path / "images.parquet", tmp_path / "mapping.yaml", tmp_path)
    assert cohort.table["image_id"].to_pylist() == ["a", "c"]
    assert cohort.table["ehr.weight"].to_pylist() == [70.0, 80.0]


def test_the_training_patients_of_a_published_split_are_divided(tmp_path: Path) -> None:
    rows = [{"image": f"i{at}", "mrn": at // 2, "fold": "test" if at < 10 else "train"} for at in range(200)]
    write(tmp_path / "images.csv", rows)
    mapping = "image_id: image\npatient_id: mrn\npath: image\nsplit: fold\n"
    cohort = made(tmp_path, mapping + "split_shares: {train: 0.8, validate: 0.2, test: 0}\n")
    splits = dict(zip(cohort.table["image_id"].to_pylist(), cohort.table["split"].to_pylist(), strict=True))
    assert {name for name, split in splits.items() if split == "test"} == {f"i{at}" for at in range(10)}
    assert 20 <= sum(split == "validate" for split in splits.values()) <= 60
    assert all(splits[f"i{at}"] == splits[f"i{at + 1}"] for at in range(0, 200, 2))
    assert "its training patients are divided by a hash, validate 20%" in describe(cohort)
    with pytest.raises(InputError, match="or with 'split' the shares of its training patients"):
        made(tmp_path, mapping + "split_shares: {train: 0.8, validate: 0.1, test: 0.1}\n")
