"""A hospital's own table: the mapping file, what cells mean, time windows, and Hannover's real images."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from chartray.errors import InputError
from chartray.features import fit_chart, refuse_shared_columns
from chartray.records.cohort import describe, write_cohort
from chartray.records.missing import HIDDEN, RARE, count_missing, told
from chartray.records.table import table_cohort

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HANNOVER = SHARED / "hannover"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
needs_hannover = pytest.mark.skipif(not HANNOVER.exists(), reason="the Hannover images are not in ../shared/data")

MAPPING = """
image_id: file
patient_id: patient
study_id: accession
taken_at: time
path: "{patient}/{image_id}.jpg"
ehr:
  sex: {column: sex, kind: categorical, levels: [M, F], group: demographic}
  age: {column: age, kind: numeric, range: [0, 110], unit: years}
  vent: {column: vent, kind: boolean, "true": ["Y", 1], "false": ["N", 0], group: stay}
  crp: {column: crp, kind: numeric, range: [0, 600], days_from_film: crp_day, window_days: [-2, 0]}
  unit: {kind: interval, starts: "in", ends: out}
  died: {column: death, kind: boolean, present_means: true, absent_means: false, known_at_film: false}
labels:
  COVID-19: {column: covid}
  Deceased: {column: death, present_means: 1, absent_means: 0}
  Unit: {kind: interval, starts: "in", ends: out, absent_means: false}
"""
TABLE = """file,patient,accession,time,sex,age,vent,crp,crp_day,in,out,death,covid
a,1,x,2020-03-01 08:30:00,M,61,Y,12,-2,-3,4,9,1
b,1,x,2020-03-02,m,inf,N,13,1,0,0,,0
c,2,,soon,?,1e3,maybe,700,0,1,5,,-1
d,3,,,F,"3,5",1.0,  ,0,-5,-1,,
e,4,,,F,80,0,14,,-5,,,2
f,5,,,F,81,,15,-inf,,3,,0
g,6,,,F,82,N,16,-3,,,,1
h,7,,,F,83,N,17,0,3,1,,1
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    (tmp_path / "films.csv").write_text(TABLE)
    return tmp_path


def cohort_of(files, table="films.csv"):
    return table_cohort(files / table, files / "mapping.yaml", files)


def test_every_cell_of_a_dirty_table(files):
    cohort = cohort_of(files)
    columns = cohort.table.to_pydict()
    assert columns["ehr.sex"] == ["M", None, None, "F", "F", "F", "F", "F"]
    assert columns["ehr.age"] == [61.0, None, None, None, 80.0, 81.0, 82.0, 83.0]
    assert columns["ehr.vent"] == [True, False, None, True, False, None, False, False]
    # Stored 2 days before the image, 1 after, out of range, blank, without offset, infinitely long ago, 3 before, 0.
    assert columns["ehr.crp"] == [12.0, None, None, None, None, None, None, 17.0]
    # Inside, both ends on the day, begins later, over, end unknown, begin unknown, no stay, ends before it begins.
    assert columns["ehr.unit"] == [True, True, False, False, None, None, None, None]
    assert columns["ehr.died"] == [True] + [False] * 7
    assert columns["label.COVID-19"] == [1.0, 0.0, -1.0, None, None, 0.0, 1.0, 1.0]
    assert columns["label.Deceased"] == [1.0] + [0.0] * 7
    assert columns["label.Unit"] == [1.0, 1.0, 0.0, 0.0, None, None, 0.0, None]
    assert cohort.missing["sex"] == {"?": 1, "m": 1}
    assert cohort.missing["age"] == {"1e3": 1, "3,5": 1, "inf": 1}
    assert cohort.missing["vent"] == {"maybe": 1, "absent": 1}
    assert cohort.missing["crp"] == {"(outside window_days)": 2, "(no days_from_film)": 2, "700": 1, "absent": 1}
    assert cohort.missing["unit"] == {"-5..": 1, "..3": 1, "3..1": 1, "absent": 1}
    assert cohort.missing["label.COVID-19"] == {"2": 1, "absent": 1}
    assert cohort.missing["taken_at"] == {"(unreadable)": 1, "absent": 5}
    assert columns["path"][0] == f"{files}/1/a.jpg"
    assert columns["study_id"][:3] == ["x", "x", None]
    variables = cohort.metadata.variables
    assert (variables["unit"].kind, variables["died"].known_at_film, variables["crp"].known_at_film) == (
        "boolean",
        False,
        True,
    )
    assert variables["unit"].columns == cohort.metadata.labels["Unit"].columns == ("in", "out")
    assert cohort.metadata.source == "films"


def test_no_date_identifier_or_remark_leaves_with_the_flow(files):
    """Times that cannot be read, and variables mapped onto a date, an identifier, a name or a free text."""
    days = [f"{day:02}.04.2020 11:07" for day in range(1, 21)]
    remarks = [f"collapsed at {'home' * 9}, referred" for _ in days]
    names = [f"Mustermann, {chr(65 + row)}." for row in range(len(days))]
    cells = [days, ["03.04.2020"] * len(days), [f"MRN88123{row:02}" for row in range(len(days))], remarks, names]
    with (files / "films.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, TABLE.splitlines()[0].split(","), restval="")
        table.writeheader()
        for row, values in enumerate(zip(*cells, strict=True)):
            named = dict(zip(("time", "sex", "age", "vent", "crp"), values, strict=True))
            table.writerow(named | {"file": f"f{row}", "patient": row, "crp_day": 0})
    cohort = cohort_of(files)
    write_cohort(cohort, files / "c.parquet")
    flow, printed = (files / "c.flow.json").read_text(), describe(cohort)
    for text in (flow, printed):
        for secret in ("04.2020", "8812", "collapsed", "Mustermann"):
            assert secret not in text
    hidden = {HIDDEN: 20}
    missing = json.loads(flow)["missing"]
    assert missing["taken_at"] == {"(unreadable)": 20}
    assert missing["sex"] == missing["age"] == missing["vent"] == hidden
    assert missing["crp"] == {RARE: 20}
    split = MAPPING.replace("study_id: accession", "split: age")
    (files / "mapping.yaml").write_text(split)
    with pytest.raises(InputError, match=r"expected train, .* in column 'age' of .*films.csv, found 'AAA9999999'"):
        cohort_of(files)


def test_the_cells_of_a_variable_are_counted_by_value():
    seen = {"?": 3, "Not visible": 16, "m": 1}
    cells = pa.array([cell for cell, count in seen.items() for _ in range(count)] + [None])
    assert count_missing(cells, pa.nulls(len(cells))) == {"Not visible": 16, "?": 3, "m": 1, "absent": 1}
    many = {f"word {chr(97 + k)}": 1 for k in range(20)}
    assert told(many | {"common": 5}) == {"common": 5, RARE: 20}


@pytest.mark.parametrize(
    "cell",
    [
        *("03.04.2020", "3.4.20 ", "2020-04-03", "20200403", "04/03/2020", "2020/4", "4/2020", "3. Mai 2020", "May 3"),
        *("2020-04-03T11:07", "11:07", "3 Dez.", "p10000032", "00412", "x" * 41),
    ],
)
def test_cells_that_are_never_told(cell):
    assert told({cell: 1000}) == {HIDDEN: 1000}


def test_parquet_and_a_database_give_the_cohort_of_the_csv(files):
    import duckdb

    expected = cohort_of(files).table
    texts = pacsv.ConvertOptions(column_types=dict.fromkeys(TABLE.splitlines()[0].split(","), pa.string()))
    table = pacsv.read_csv(files / "films.csv", convert_options=texts)
    for name in ("death", "crp_day"):  # typed columns, too: 1.0 is the cell 1
        numbers = [float(cell) if cell else None for cell in table[name].to_pylist()]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(numbers))
    pq.write_table(table, files / "films.parquet")
    assert cohort_of(files, "films.parquet").table.equals(expected)
    with duckdb.connect(str(files / "hospital.db")) as database:
        database.execute(f"create table films as from read_parquet('{files / 'films.parquet'}')")
    url = f"duckdb://{files / 'hospital.db'}"
    assert table_cohort(f"{url}#films", files / "mapping.yaml", files).table.equals(expected)
    with pytest.raises(InputError, match="expected a table 'visits' in"):
        table_cohort(f"{url}#visits", files / "mapping.yaml", files)


def test_columns_that_no_comma_separates(files):
    (files / "german.csv").write_text(TABLE.replace(",", ";"))
    with pytest.raises(InputError, match=r"separated by commas in .*german.csv, found ';'"):
        cohort_of(files, "german.csv")


def test_what_could_not_be_used_is_said(files):
    said = describe(cohort_of(files))
    assert "  COVID-19: unusable cells: '2' 1" in said
    assert "  taken_at: unusable cells: '(unreadable)' 1" in said
    assert said.splitlines()[0] == "films: 8 images"  # no admissions, so no rules of linking


def changed(files, before, after):
    assert before in MAPPING
    (files / "mapping.yaml").write_text(MAPPING.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "column: crp,",
            "column: crpp,",
            r"column 'crpp' in .* \(ehr.crp .*\) \(did you mean 'crp'\?\); the table",
        ),
        ("window_days", "window_dayz", r"found 'ehr.crp.window_dayz' \(did you mean 'window_days'\?\)"),
        ("patient_id: patient", "patient: patient", "expected 'patient_id', found none"),
        ("kind: categorical", "kind: categoric", r"expected 'ehr.sex.kind' to be 'numeric',.* found 'categoric'"),
        ("COVID-19: {column: covid}", "COVID-19: covid", "'labels.COVID-19' to be a valid dictionary, found 'covid'"),
        ("[-2, 0]", "[0, -2]", "'window_days' needs its earlier day first, found 0 and -2"),
        ("  sex:", "  none:", "'ehr' needs names without a comma, other than 'none', found 'none'"),
        ("  sex:", '  "a,b":', "found 'a,b'"),
        ("  Unit:", "  macro:", "'labels' needs names without a comma, other than 'macro', found 'macro'"),
        ("levels: [M, F], ", "", "'ehr.sex': a categorical variable needs 'levels'"),
        ("[0, 110]", "[110, 0]", "'ehr.age': a numeric variable needs 'range'"),
        ("unit: years", "levels: [1, 2]", "'ehr.age': 'levels' does not apply to a numeric variable"),
        ('"true": ["Y", 1]', '"true": [True, 1]', "YAML reads this cell as True; write it in quotes"),
        ("present_means: true, absent", "absent", "'ehr.died': needs lists of cells under 'true' and 'false', or"),
        (", ends: out}\n  died", "}\n  died", "'ehr.unit': an interval needs 'starts' and 'ends'"),
        ("[-2, 0]", "[-2, 3], known_at_film: true", "cannot be true for a window that ends after the image"),
        ('"{patient}/', '"{patients}/', r"column 'patients' in .* \(path of .*\) \(did you mean 'patient'\?\)"),
    ],
)
def test_a_wrong_mapping_is_one_sentence(before, after, message, files):
    changed(files, before, after)
    with pytest.raises(InputError, match=message) as caught:
        cohort_of(files)
    assert "\n" not in str(caught.value)


def test_a_window_past_the_image_is_known_only_after_it(files):
    changed(files, "[-2, 0]", "[-2, 3]")
    cohort = cohort_of(files)
    assert cohort.table["ehr.crp"].to_pylist()[1] == 13.0
    assert not cohort.metadata.variables["crp"].known_at_film


def test_an_interval_in_whole_days_says_what_it_knows(files):
    def notes():
        cohort = cohort_of(files)
        assert cohort.table["ehr.unit"].to_pylist()[:2] == [True, True]
        return [step.why for step in cohort.flow if step.step == "unit (interval)"], cohort

    # Only the image b lies on the first day of its stay.
    (note,), cohort = notes()
    assert note.startswith("offsets are whole days: 1 images are on the first day")
    assert note in describe(cohort)
    assert cohort.metadata.variables["unit"].known_at_film
    for said, known in (("true", True), ("false", False)):
        changed(files, "ends: out}\n  died", f"ends: out, known_at_film: {said}}}\n  died")
        none, cohort = notes()
        assert none == []
        assert cohort.metadata.variables["unit"].known_at_film is known
    # Offsets with the hour in them are not known to the day only.
    (files / "mapping.yaml").write_text(MAPPING)
    (files / "films.csv").write_text(TABLE.replace(",-2,-3,4,", ",-2,-3.25,4,"))
    assert notes()[0] == []


def test_levels_can_be_renamed(files):
    changed(files, "levels: [M, F]", "levels: {M: male, m: male, F: female}")
    cohort = cohort_of(files)
    assert cohort.table["ehr.sex"].to_pylist()[:4] == ["male", "male", None, "female"]
    assert cohort.metadata.variables["sex"].levels == ("male", "female")


def test_splits_of_a_table(files):
    folds = ["fold", "train", "train", "VALID", "test", "train", "", "test", "test"]
    rows = [f"{row},{fold}" for row, fold in zip(TABLE.splitlines(), folds, strict=True)]
    (files / "films.csv").write_text("\n".join(rows))
    changed(files, "study_id: accession", "split: fold")
    cohort = cohort_of(files)
    assert cohort.table["split"].to_pylist() == ["train", "train", "validate", "test", "train", "test", "test"]
    assert (cohort.flow[1].rows_in, cohort.flow[1].rows_out, cohort.flow[1].why) == (8, 7, "blank in column fold")
    (files / "films.csv").write_text("\n".join([*rows, rows[1].replace("a,", "z,", 1).replace("train", "test")]))
    with pytest.raises(InputError, match=r"found 1 in two or more in column 'fold' of .*films.csv"):
        cohort_of(files)
    (files / "films.csv").write_text("\n".join([*rows, rows[1]]))
    with pytest.raises(
        InputError, match=r"each image_id once in .*films.csv, found the one of data row 1 again in data row 9"
    ):
        cohort_of(files)


def hannover(name):
    return table_cohort(HANNOVER / "data.csv", EXAMPLES / name, HANNOVER / "images")


def number(cell):
    return float(cell) if cell else None


HANNOVER_LABORATORY = {
    "crp": ("crp", -2, 0, 600),
    "d_dimer": ("d-dimer", -2, 0, 100),
    "ldh": ("ldh", -2, 0, 10000),
    "lymphocytes": ("lymphocytes", -2, 0, 100),
    "neutrophils": ("neutrophils", -2, 0, 100),
    "factor_xiii": ("factor_xii", -7, 0, 300),
    "pco2": ("pco2", -1, 5, 200),
    "po2": ("po2", -1, 5, 700),
}


@needs_hannover
def test_hannover_equals_a_plain_row_loop():
    cohort, icu = hannover("hannover.yaml"), hannover("hannover-icu.yaml")
    with (HANNOVER / "data.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert cohort.table.num_rows == icu.table.num_rows == len(rows) == 243
    for row, ours, label in zip(rows, cohort.table.to_pylist(), icu.table["label.ICU"].to_pylist(), strict=True):
        starts, ends = number(row["icu_admission_offset"]), number(row["icu_release_offset"])
        in_icu = starts is not None and ends is not None and starts <= 0 <= ends
        assert (ours["ehr.icu"], label) == (in_icu, float(in_icu))
        assert (ours["ehr.sex"][0], ours["ehr.view"].lower()) == (row["sex"], row["projection"])
        assert ours["ehr.died"] == bool(row["death_offset"]) == bool(ours["label.Deceased"])
        assert Path(ours["path"]).is_file()
        assert (ours["image_id"], ours["patient_id"], ours["study_id"]) == (row["image_id"], row["patient_id"], None)
        assert ours["taken_at"] is None
        for name, (column, back, low, high) in HANNOVER_LABORATORY.items():
            day, value = number(row[f"{column}_offset"]), number(row[f"{column}_val"])
            known = day is not None and back <= day <= 0 and low <= value <= high
            assert ours[f"ehr.{name}"] == (value if known else None), name
    checked = {"sex", "view", "icu", "died", *HANNOVER_LABORATORY}
    assert set(cohort.metadata.variables) == checked
    assert sum(cohort.table["ehr.icu"].to_pylist()) == 150


@needs_hannover
def test_hannover_charts_and_what_they_refuse():
    table = hannover("hannover.yaml").table
    with pytest.raises(InputError, match="found icu in 'sex,icu', known only after the image"):
        fit_chart(table, "sex,icu")
    chart = fit_chart(table, "sex,view,icu,crp,po2", allow_after_film=("icu",))
    rows = chart.rows(table)
    assert rows.values.shape == (243, chart.ehr_in)
    assert chart.ehr_in == 3 + 3 + 3 + 2 + 2
    with pytest.raises(InputError, match="found died in 'sex,died', known only after the image"):
        fit_chart(table, "sex,died")
    with pytest.raises(InputError, match="variables of 'demographic-norm' in the hannover cohort, found no age"):
        fit_chart(table, "demographic-norm")
    allowed = fit_chart(table, "sex,died", allow_after_film=("died",))
    assert allowed.after_film == ("died",)
    with pytest.raises(InputError, match=r"'Deceased' and the chart variable 'died' both made from 'death_offset'"):
        refuse_shared_columns(table, allowed.variables, ["Deceased"])
    refuse_shared_columns(table, chart.variables, ["Deceased"])
