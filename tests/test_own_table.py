"""A hospital's own table, as a newcomer meets it: what is replaced, what is said at once, every key of the mapping."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from chartray.check import check
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.features import write_feature_csvs
from chartray.records.cohort import Cohort, describe, flow_of, read_cohort
from chartray.records.mapping import Mapping
from chartray.records.mapping_entries import LabelMapping, VariableMapping
from chartray.records.mapping_keys import KEYS
from chartray.records.parsing import years
from chartray.records.table import table_cohort
from chartray.schema import from_metadata
from chartray.truth import Policy, blank_negatives, truth_of

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "hospital.yaml"
NAMES = ("file", "patient", "time", "sex", "age", "crp", "crp_day", "smoker", "triage", "died", "effusion")
MAPPING = """
image_id: file
patient_id: patient
taken_at: time
path: file
ehr:
  sex: {column: sex, kind: categorical, levels: [M, F], group: demographic}
  age: {column: age, kind: numeric, range: [0, 110], unit: years}
  crp: {column: crp, kind: numeric, range: [0, 600], days_from_film: crp_day, window_days: [-2, 0], group: stay}
  smoker: {column: smoker, kind: boolean, true: [ja], false: [nein]}
  triage: {column: triage, kind: categorical, levels: [rot, blau], group: stay}
  died: {column: died, kind: boolean, present_means: true, absent_means: false}
labels:
  Effusion: {column: effusion, true: [ja], false: [nein], uncertain: [unklar]}
"""


def image(row: int, **cells: Any) -> dict[str, Any]:
    """A row of the table with everything in order, but for `cells`."""
    usual = {"time": f"2023-01-{row + 1:02} 01:20", "sex": "MF"[row % 2], "age": 40 + row, "crp": 12.5, "crp_day": -1}
    words = {"smoker": "ja", "triage": ("rot", "blau")[row % 2], "died": "", "effusion": ("ja", "nein")[row % 2]}
    return {"file": f"film{row}.png", "patient": f"patient{row}"} | usual | words | cells


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    rng = np.random.default_rng(0)
    for row in range(20):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / "films" / f"film{row}.png")
    write(tmp_path)
    return tmp_path


def write(folder: Path, mapping: str = MAPPING, **columns: Any) -> None:
    """The table, with `columns` of 20 cells in the place of the usual ones (or one cell in each row)."""
    rows = []
    for row in range(20):
        own = {name: cells if isinstance(cells, str) else cells[row] for name, cells in columns.items()}
        rows.append(image(row, **own))
    names = list(dict.fromkeys([*NAMES, *columns]))
    lines = [",".join(str(row[name]) for name in names) for row in rows]
    (folder / "films.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    (folder / "mapping.yaml").write_text(mapping)


def made(folder: Path) -> Cohort:
    return table_cohort(folder / "films.csv", folder / "mapping.yaml", folder / "films")


def warnings(cohort: Cohort) -> list[str]:
    return [line.strip().removeprefix("warning: ") for line in describe(cohort).splitlines() if "  warning: " in line]


def command(out: str, table: str = "films.csv") -> list[str]:
    return ["cohort", "table", table, "--mapping", "mapping.yaml", "--images", "films", "--out", out]


# ---- what may be replaced


@pytest.mark.parametrize("out", ["films.csv", "mapping.yaml", "manifest.json", "films.parquet", "store/cohort.parquet"])
def test_no_file_but_a_cohort_is_replaced(out: str, hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command("c.parquet")) == 0
    (hospital / "manifest.json").write_text('{"a run": 1}')
    pq.write_table(pa.table({"file": ["a"]}), hospital / "films.parquet")
    (hospital / "store").mkdir()
    (hospital / "store" / "store.json").write_text("{}")
    (hospital / "store" / "cohort.parquet").write_bytes((hospital / "c.parquet").read_bytes())
    before = {file: file.read_bytes() for file in sorted(hospital.rglob("*")) if file.is_file()}
    capsys.readouterr()
    assert run_command(command(out)) == 2
    said = capsys.readouterr().err
    assert said.startswith("chartray: expected a")
    assert said.count("\n") == 1
    assert {file: file.read_bytes() for file in sorted(hospital.rglob("*")) if file.is_file()} == before


@pytest.mark.parametrize("source", ["mimic", "chexpert", "nih"])
def test_every_source_looks_at_out_before_it_works(
    source: str, hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--mimic-iv", "nowhere", "--mimic-cxr", "nowhere"] if source == "mimic" else ["nowhere"]
    assert run_command(["cohort", source, *named, "--out", "films.csv"]) == 2
    assert "expected a new file or an earlier cohort at films.csv, found another file" in capsys.readouterr().err


def test_a_cohort_is_replaced_by_a_cohort_but_never_by_itself(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [run_command(command("c.parquet")) for _ in range(2)] == [0, 0]
    (hospital / "c.flow.json").unlink()
    assert run_command(command("c.parquet")) == 0
    assert run_command(command("c.parquet", table="c.parquet")) == 2
    assert "found the input c.parquet" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_flow_is_not_replaced(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ('{"steps": []}', "no json", "[]"):
        (hospital / "c.flow.json").write_text(content)
        assert run_command(command("c.parquet")) == 2
        assert "expected a new file or an earlier cohort's flow at c.flow.json" in capsys.readouterr().err
        assert (hospital / "c.flow.json").read_text() == content
    assert not (hospital / "c.parquet").exists()


def test_features_replace_only_features(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published folder has the same files: it is told apart, and stays."""
    assert run_command(command("c.parquet")) == 0
    assert [run_command(["features", "c.parquet", "--out", "sets"]) for _ in range(2)] == [0, 0]
    published = hospital / "published" / "single-variable" / "meta-gender-only.csv"
    published.parent.mkdir(parents=True)
    published.write_text("path,male,female\n")
    assert run_command(["features", "c.parquet", "--out", "published"]) == 2
    assert "is not empty and holds no earlier feature files" in capsys.readouterr().err
    assert published.read_text() == "path,male,female\n"
    assert run_command(["features", "c.parquet", "--out", "films.csv"]) == 2


# ---- what cells mean, and what is said of those that mean nothing


def test_a_label_of_words_can_be_uncertain(hospital: Path) -> None:
    write(hospital, effusion=["unklar", "ja", "nein", "", "vielleicht", *["ja"] * 15])
    cohort = made(hospital)
    assert cohort.table["label.Effusion"].to_pylist()[:5] == [-1.0, 1.0, 0.0, None, None]
    assert cohort.missing["label.Effusion"] == {"vielleicht": 1, "absent": 1}


DIED = "  Died: {column: survival, true: [N], false: [Y]MORE}"


@pytest.mark.parametrize(
    ("more", "value", "counted"),
    [
        ("", None, "that are ignored: Died 12"),
        (", absent_means: 0", 0.0, "that count as negative: Died 12"),
        (", absent_means: true", 1.0, "that count as positive, as the mapping says: Died 12"),
        (', uncertain: ["", "?"]', -1.0, "that are uncertain, as the mapping says: Died 12"),
    ],
)
def test_a_blank_label_is_what_the_mapping_says_and_else_unknown(
    more: str, value: float | None, counted: str, hospital: Path
) -> None:
    """Failed before: blanks were negatives wherever another label was filled."""
    cells = ["N", "Y", *["?"] * 2, *[""] * 12, *["Y"] * 4]
    write(hospital, MAPPING.rstrip() + "\n" + DIED.replace("MORE", more) + "\n", survival=cells)
    cohort = made(hospital)
    unread = -1.0 if "?" in more else None
    expected = [1.0, 0.0, *[unread] * 2, *[value] * 12, *[0.0] * 4]
    assert cohort.table["label.Died"].to_pylist() == expected
    assert f"  blank labels {counted}" in describe(cohort).splitlines()
    truth = truth_of(cohort.table, ["Died"], Policy())[:, 0]
    np.testing.assert_array_equal(truth, [np.nan if cell in (None, -1.0) else cell for cell in expected])
    assert blank_negatives(cohort.table, ["Died"], Policy()).sum() == (12 if value == 0.0 else 0)
    # Said aloud on the command line a blank without a meaning is a negative; a cell that could not be read never is.
    asked = blank_negatives(cohort.table, ["Died"], Policy(blank="negative"))[:, 0]
    assert np.flatnonzero(asked).tolist() == (list(range(4, 16)) if value in (None, 0.0) else [])
    assert run_command(command("c.parquet")) == 0
    assert f"blank labels {counted}" in [each.what for each in check(hospital / "c.parquet")]


def test_what_a_blank_means_is_said_once(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(hospital, MAPPING.rstrip() + "\n" + DIED.replace("MORE", ', uncertain: [""], absent_means: 0') + "\n")
    assert run_command(command("c.parquet")) == 2
    assert "both define a blank cell; give only one" in capsys.readouterr().err


def test_a_column_of_numbers_may_say_what_a_blank_means(hospital: Path) -> None:
    cells = ["1", "0", "-1", "", "2", *["0"] * 15]
    for more, blank in (("", None), (", absent_means: false", 0.0), (', uncertain: [""]', -1.0)):
        write(hospital, f"{MAPPING.rstrip()}\n  Mass: {{column: mass{more}}}\n", mass=cells)
        assert made(hospital).table["label.Mass"].to_pylist()[:5] == [1.0, 0.0, -1.0, blank, None]


def test_blank_cells_of_a_variable_are_what_its_lists_say(hospital: Path) -> None:
    """A '' in a list or among the levels was taken and never matched."""
    more = """ehr:
  history: {column: history, kind: categorical, levels: {"": none, c: cancer}}
  drinks: {column: drinks, kind: boolean, true: ["j"], false: ["n", ""]}
"""
    cells = {"history": ["c", "", "x", *["c"] * 17], "drinks": ["j", "n", "", *["j"] * 17]}
    write(hospital, MAPPING.replace("ehr:\n", more), **cells)
    table = made(hospital).table
    assert table["ehr.history"].to_pylist()[:3] == ["cancer", "none", None]
    assert table["ehr.drinks"].to_pylist()[:3] == [True, False, False]


def test_cells_of_a_label_that_mean_nothing_are_said_to_count_for_nothing(hospital: Path) -> None:
    write(hospital, effusion=[*["fraglich"] * 9, "ja", *["nein"] * 10])
    said = "Effusion: unreadable label in 9 images, left out of training and scoring for this label"
    assert warnings(made(hospital)) == [
        f"{said}; say in the mapping which cells mean true, false or uncertain",
    ]
    assert run_command(command("c.parquet")) == 0
    found = [each for each in check(hospital / "c.parquet") if each.what == said]
    assert [(each.severity, each.count) for each in found] == [("warning", 9)]
    write(hospital, MAPPING.replace("[unklar]", "[unklar, fraglich]"), effusion=["fraglich"] * 20)
    assert warnings(made(hospital)) == []


def test_what_nobody_has_said_to_be_known_is_told(hospital: Path) -> None:
    """Of the group stay, or there or not like an outcome; not where an offset dates it, or somebody has decided."""
    steps = {step.step: step.why for step in made(hospital).flow if step.step.endswith("(when known)")}
    assert set(steps) == {"triage (when known)", "died (when known)"}
    assert set(steps.values()) == {
        "assumed known when the image was taken, so pretraining may use it; "
        "say known_at_film: true or false in the mapping"
    }
    assert made(hospital).metadata.variables["died"].known_at_film  # as before: an old mapping stays what it was
    assert run_command(command("c.parquet")) == 0
    found = [each for each in check(hospital / "c.parquet") if each.remedy.startswith("say known_at_film")]
    assert [each.severity for each in found] == ["warning", "warning"]
    decided = MAPPING.replace("group: stay}\n  died", "group: stay, known_at_film: true}\n  died")
    write(hospital, decided.replace("absent_means: false}", "absent_means: false, known_at_film: false}"))
    assert [step for step in made(hospital).flow if "known_at_film" in step.why] == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"time": "07.01.2023 01:20"},
            "taken_at: none of 20 filled cells could be used; expected dates with the year first, such as "
            "2023-01-07 01:20, or taken_at_format in the mapping",
        ),
        (
            {"crp": [*["12;5"] * 19, "3.5"]},
            "crp: only 1 of 20 filled cells could be used; expected numbers from 0 to 600, such as 300 (for ages "
            "as in DICOM, such as 045Y, give unit: years in the mapping)",
        ),
        (
            {"age": "45 J."},
            "age: none of 20 filled cells could be used; expected numbers from 0 to 110, such as 55, or ages as in "
            "DICOM, such as 045Y",
        ),
        (
            {"crp_day": "2023-01-06"},
            "crp (days_from_film): none of 20 filled cells could be used; expected a number of days from the image, "
            "such as -2 for two days before it",
        ),
        (
            {"crp_day": "1"},
            "crp (window_days): none of 20 filled cells could be used; expected days inside window_days, where 0 is "
            "the day of the image and -2 two days before it",
        ),
        (
            {"smoker": "yes"},
            "smoker: none of 20 filled cells could be used; expected the cells listed in the mapping, spelled as in "
            "the table",
        ),
        (
            {"sex": "weiblich"},
            "sex: none of 20 filled cells could be used; expected the levels of the mapping, spelled as in the "
            "table, or levels: {cell: level}",
        ),
    ],
)
def test_a_column_of_which_nothing_could_be_read_is_said_at_once(
    columns: dict[str, Any], said: str, hospital: Path
) -> None:
    write(hospital, **columns)
    assert warnings(made(hospital)) == [said]
    assert flow_of(made(hospital)).cautions[0].of == said.partition(":")[0]
    # Blank cells are no such thing, and a few odd ones are told by value as before.
    write(hospital, **dict.fromkeys(columns, ""))
    assert warnings(made(hospital)) == []


def test_a_label_of_words_without_lists_is_said_to_need_them(hospital: Path) -> None:
    write(hospital, MAPPING.replace("effusion, true: [ja], false: [nein], uncertain: [unklar]", "effusion"))
    first, second = warnings(made(hospital))
    assert first == (
        "Effusion: none of 20 filled cells could be used; expected 1, 0, -1 (uncertain), yes, no or blank, or lists of "
        "true, false and uncertain cells in the mapping"
    )
    assert second.startswith("Effusion: unreadable label in 20 images, left out of")


def test_ages_as_dicom_writes_them(hospital: Path) -> None:
    assert [years(cell) for cell in ("045Y", "018M", "45", "4.5")] == [45.0, 1.5, 45.0, 4.5]
    assert years("003W") == pytest.approx(21 / 365.25)
    assert years("010D") == pytest.approx(10 / 365.25)
    # A man of 18 is written so too; and what is no age of DICOM's.
    assert [years(cell) for cell in ("18M", "45Y", "045y", "0045Y", "\u0660\u0664\u0665Y", "Y", "45 Y")] == [None] * 7
    ages = ["045Y", "018M", "18M", "999Y", "71", *["050Y"] * 15]
    write(hospital, age=ages)
    assert made(hospital).table["ehr.age"].to_pylist()[:6] == [45.0, 1.5, None, None, 71.0, 50.0]
    # Of another unit, or none, nobody has said that it is years.
    write(hospital, MAPPING.replace(", unit: years", ""), age=ages)
    assert made(hospital).table["ehr.age"].to_pylist()[:6] == [None] * 4 + [71.0, None]


# ---- rows, and mistakes in the mapping


def test_a_row_is_told_as_it_stands_in_the_file(hospital: Path) -> None:
    """Row 3 has no patient and is left out, and still counts."""
    rows = [image(0), image(1), image(2, patient=""), image(3), image(1)]
    lines = [",".join(str(row[name]) for name in NAMES) for row in rows]
    (hospital / "films.csv").write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    with pytest.raises(InputError, match=r"found the one of data row 2 again in data row 5 \(the row after the header"):
        made(hospital)
    (hospital / "mapping.yaml").write_text(MAPPING + "split: sex\n")
    rows = [image(0, sex="test"), image(1, patient=""), image(2, sex="holdout")]
    lines = [",".join(str(row[name]) for name in NAMES) for row in rows]
    (hospital / "films.csv").write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    with pytest.raises(InputError, match=r"found 'aaaaaaa' in data row 3$"):
        made(hospital)


SMOKER = "true: [ja], false: [nein]}"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (SMOKER, "levels: {ja: true, nein: false}}", "'levels' does not apply to a boolean variable, which has .*true"),
        (SMOKER, "true: ja, false: nein}", r"valid 'ehr.smoker.true': needs a list of cells, \[ja\]"),
        (SMOKER, "present_means: ja}", r"found 'ja'; list the cells that mean true: true: \[ja\]"),
        (SMOKER, "true: [ja], absent_means: nein}", "needs true or false, the meaning of a blank cell, found 'nein'"),
        (SMOKER, "values: {ja: 1}}", "found 'ehr.smoker.values'; there are absent_means, .* true, unit, window_days"),
        ("[M, F]", "{M: true, F: false}", "'ehr.sex.levels': YAML reads this level as True; write it in quotes"),
        ("[M, F]", "M F", r"needs a list of levels, \[M, F\], or a level for each cell, \{cell: level\}"),
        ("[0, 600]", "0-600", r"valid 'ehr.crp.range': needs a list of two numbers, \[0, 600\], found '0-600'"),
        ("[0, 600]", "[0]", r"needs a list of two numbers, \[0, 600\], found \[0\]"),
        ("[0, 600]", "[null, 600]", r"needs a list of two numbers, .*, found \[None, 600\]"),
        ("[-2, 0]", "-2", r"valid 'ehr.crp.window_days': needs a list of two numbers, \[-2, 0\], found -2"),
        ("uncertain: [unklar]", "uncertain: unklar", r"'labels.Effusion.uncertain': needs a list of cells, \[unklar\]"),
        ("uncertain: [unklar]", "uncertain: [ja]", "the cell 'ja' is in both 'true' and 'uncertain'"),
        ("uncertain: [unklar]", "uncertain: [nein]", "the cell 'nein' is in both 'false' and 'uncertain'"),
        ("true: [ja], false: [nein], unc", "unc", "'uncertain' also needs the lists 'true' and 'false'"),
        ("{column: effusion, ", "{column: effusion, values: [1], ", "'labels.Effusion.values'; there are .*uncertain"),
        ("column: crp,", "column: '',", "valid 'ehr.crp.column': needs the name of a column, found none"),
        (SMOKER, f"present_means: {'x' * 5000}}}", r"found 'x{20,300} \.\.\. "),
        (SMOKER, "true: [ja], uncertain: [unklar]}", "known keys, found 'ehr.smoker.uncertain'; there are"),
    ],
)
def test_a_mistake_in_the_mapping_says_what_is_meant(before: str, after: str, message: str, hospital: Path) -> None:
    assert before in MAPPING
    write(hospital, MAPPING.replace(before, after))
    with pytest.raises(InputError, match=message) as caught:
        made(hospital)
    assert "\n" not in str(caught.value)
    assert "tuple" not in str(caught.value)


def test_truths_and_numbers_in_quotes_mean_what_they_say(hospital: Path) -> None:
    plain = made(hospital).table
    quoted = MAPPING.replace("present_means: true", 'present_means: "true"').replace("[0, 600]", '["0", "600"]')
    write(hospital, quoted.replace("[-2, 0]", '["-2", null]').replace("absent_means: false", "absent_means: 0"))
    assert made(hospital).table.equals(plain)


# ---- the published files


def test_sets_that_cannot_be_written_are_told_once_for_each_reason(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command("c.parquet")) == 0
    capsys.readouterr()
    assert run_command(["features", "c.parquet", "--out", "sets"]) == 0
    said = capsys.readouterr().out.splitlines()
    start = said.index("not written: 20 of 23 sets; the cohort has")
    assert said[start + 1].startswith(
        "  no sex with only the levels male, female (it has M, F; map cells to published levels in the mapping, "
        "levels: {CELL: male}; cells without a level are missing): sex, demographic-norm, "
    )
    assert said[start + 2].startswith("  no view: view, scan, ")
    assert len(said[start:]) == 1 + len({"sex", "view", "position", "mortality", "icu"})


def test_where_no_set_can_be_written_nothing_is_and_it_is_an_error(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(hospital, re.sub(r"  age: .*\n", "", MAPPING))
    assert run_command(command("c.parquet")) == 0
    assert run_command(["features", "c.parquet", "--out", "sets"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("; no file was written\n")
    assert said.count("\n") == 1
    assert not (hospital / "sets").exists()
    with pytest.raises(InputError, match="no file was written"):
        write_feature_csvs(read_cohort(hospital / "c.parquet"), hospital / "sets")


# ---- the example


def test_the_example_has_every_key_and_makes_a_cohort(hospital: Path) -> None:
    text = EXAMPLE.read_text()
    tree = yaml.safe_load(text)
    # Of keys that exclude each other, or that few tables need, one stands in a comment.
    keys = set(tree) | set(
        re.findall(r"^# (split_shares|taken_at_format|same_patient|exact_ids|keep|charts): ", text, re.MULTILINE)
    )
    assert keys == set(Mapping.model_fields)
    for section, model in (("ehr", VariableMapping), ("labels", LabelMapping)):
        named = [{str(key).lower() for key in entry} for entry in tree[section].values()]
        known = {field.alias or name for name, field in model.model_fields.items()}
        assert known == set().union(*KEYS[section].values())
        # `kind: boolean` of a label says no more than its lists, and its `kind: label` is never written.
        of_codes = {"codes", "units", "window_days", "years_since", "during"} if section == "ehr" else set()
        assert all(f"{key}:" in text for key in of_codes)  # in a comment: a table has none
        assert known - set().union(*named) - of_codes == set(), section
        kinds = {entry.get("kind", "label") for entry in tree[section].values()}
        assert kinds == set(KEYS[section]) - ({"boolean"} if section == "labels" else set())
    rows = re.findall(r"^#   (accession,.*|A\d,.*)$", text, re.MULTILINE)
    (hospital / "films.csv").write_text("\n".join(rows) + "\n")
    cohort = table_cohort(hospital / "films.csv", EXAMPLE, hospital / "films")
    first, second = cohort.table.to_pylist()
    assert (first["ehr.age"], first["ehr.icu"], first["ehr.crp"], first["ehr.smoker"]) == (45.0, True, 12.5, True)
    assert (first["split"], second["split"]) == ("train", "test")
    assert (second["label.Effusion"], second["label.Pneumonia"], second["label.Device"]) == (-1.0, 0.0, 1.0)
    assert (first["ehr.copd"], second["ehr.copd"]) == (True, None)
    assert (first["label.Fracture"], second["label.Fracture"]) == (1.0, None)
    assert warnings(cohort) == []
    assert [step for step in cohort.flow if "known_at_film" in step.why] == []
    assert from_metadata(cohort.table.schema.metadata).source == "hospital"
    assert json.dumps(flow_of(cohort).content())
