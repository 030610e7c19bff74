"""NIH ChestX-ray14 as people have it: other spellings give the same cohort, or null and a word; other lists."""

import csv
import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from chartray.cli import run_command
from chartray.errors import InputError
from chartray.records.cohort import describe, flow_of
from chartray.records.nih import nih_cohort
from chartray.schema import NIH_LABELS
from chartray.truth import Policy, truth_of

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NIH = SHARED / "nih-chestxray14-224px"
needs_nih = pytest.mark.skipif(not NIH.exists(), reason="the NIH images are not in ../shared/data")
COLUMNS = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
]


def write(root, rows, encoding="utf-8", name="Data_Entry_2017_v2020.csv"):
    root.mkdir(exist_ok=True)
    with (root / name).open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return root


def row(number, **changes):
    cells = [f"{number:08d}_000.png", "No Finding", "0", str(number), "58", "M", "PA"]
    return dict(zip(COLUMNS, cells, strict=True)) | {key.replace("_", " "): value for key, value in changes.items()}


def real_rows():
    with (NIH / "Data_Entry_2017_v2020.csv").open() as stream:
        return list(csv.DictReader(stream))


def other_spelling(cells, draw):
    """The same row as another program or person would write it."""

    def cased(text):
        return draw.choice([text, text.lower(), text.upper(), f" {text} "])

    names = [cased(name.replace("_", draw.choice(["_", " ", ""]))) for name in cells["Finding Labels"].split("|")]
    age = int(cells["Patient Age"])
    return cells | {
        "Finding Labels": draw.choice(["|", " | ", "| "]).join(names),
        "Follow-up #": draw.choice([cells["Follow-up #"], f"{cells['Follow-up #']}.0"]),
        "Patient ID": draw.choice([cells["Patient ID"], f"{cells['Patient ID']}.0", f" {cells['Patient ID']}"]),
        "Patient Age": draw.choice([f"{age}", f"{age}.0", f"{age:03d}Y", f"{age}y", f" {age} "]),
        "Patient Gender": cased(
            draw.choice([cells["Patient Gender"], {"M": "Male", "F": "Female"}[cells["Patient Gender"]]])
        ),
        "View Position": cased(cells["View Position"]),
        "Image Index": draw.choice([cells["Image Index"], f" {cells['Image Index']}"]),
    }


@needs_nih
def test_other_spellings_give_the_same_cohort(tmp_path):
    rows, draw = real_rows(), random.Random(5)
    clean = nih_cohort(write(tmp_path / "nih", rows))
    for encoding in ("utf-8", "utf-8-sig"):
        other = nih_cohort(write(tmp_path / "nih", [other_spelling(cells, draw) for cells in rows], encoding))
        assert other.table.equals(clean.table)
        assert flow_of(other) == flow_of(clean)


@needs_nih
def test_every_label_equals_a_plain_loop_over_the_rows():
    cells = {each["Image Index"]: each["Finding Labels"].split("|") for each in real_rows()}
    for image in nih_cohort(NIH).table.to_pylist():
        for label in NIH_LABELS:
            assert image[f"label.{label}"] == float(label in cells[image["image_id"]])


@pytest.mark.parametrize(
    ("cell", "known", "others"),
    [
        ("Effusion | Mass", {"Effusion": 1.0, "Mass": 1.0}, 0.0),
        ("Pleural Thickening", {"Pleural_Thickening": 1.0}, 0.0),
        ("mass|PLEURAL_THICKENING|", {"Mass": 1.0, "Pleural_Thickening": 1.0}, 0.0),
        ("no finding", {}, 0.0),
        ("Mass|Oedema", {"Mass": 1.0}, None),
        ("Effusion, Mass", {}, None),
        ("nan", {}, None),
        ("No Finding|Mass", {}, None),
        ("|", {}, None),
        ("", {}, None),
    ],
)
def test_a_finding_that_cannot_be_read_is_unknown_and_never_absent(cell, known, others, tmp_path):
    cohort = nih_cohort(write(tmp_path / "nih", [row(1, Finding_Labels=cell), row(2)]))
    first, second = cohort.table.to_pylist()
    assert {label: first[f"label.{label}"] for label in NIH_LABELS} == dict.fromkeys(NIH_LABELS, others) | known
    assert {second[f"label.{label}"] for label in NIH_LABELS} == {0.0}
    said = [each for each in cohort.warnings if each.of == "Finding Labels"]
    assert [each.images for each in said] == ([] if others == 0.0 else [1])
    assert ("unknown, not absent" in describe(cohort)) == (others is None)


def test_a_finding_that_cannot_be_read_is_no_negative_even_where_blanks_are(tmp_path):
    rows = [row(1, Finding_Labels="Effusion|Efusion"), row(2, Finding_Labels=""), row(3)]
    table = nih_cohort(write(tmp_path / "nih", rows)).table
    for policy, wanted in ((Policy(blank="negative"), [np.nan, 0.0, 0.0]), (Policy(), [np.nan, np.nan, 0.0])):
        assert np.array_equal(truth_of(table, ["Mass"], policy)[:, 0], wanted, equal_nan=True)


def test_ages_in_days_months_and_years(tmp_path):
    ages = {
        "011M": 11 / 12,
        "013D": 13 / 365.25,
        "058Y": 58.0,
        "58y": 58.0,
        "58.0": 58.0,
        "411": None,
        "?": None,
        "18M": None,
    }
    cohort = nih_cohort(write(tmp_path / "nih", [row(k, Patient_Age=age) for k, age in enumerate(ages, 1)]))
    assert cohort.table["ehr.age"].to_pylist() == list(ages.values())
    assert cohort.missing["age"] == {"18M": 1, "411": 1, "?": 1}


@pytest.mark.parametrize(
    "names", [("test_list_NIH.txt", "train_val_list_NIH.txt"), ("labels/test-list.TXT", "labels/trainval.txt")]
)
def test_official_lists_under_other_names(names, tmp_path):
    rows = [row(k) for k in range(1, 60)]
    root = write(tmp_path / "nih", rows)
    (root / "labels").mkdir()
    (root / "latest_remarks.txt").write_text("see 00000001_000.png\n")
    (root / "test_notes.txt").write_text("nothing to see\n")
    names_of = [each["Image Index"] for each in rows]
    (root / names[0]).write_bytes("\r\n".join(f"images_001/images/{name}" for name in names_of[40:]).encode())
    (root / names[1]).write_text("\n".join(f"{name} 0 1 0" for name in names_of[:40]))
    cohort = nih_cohort(root)
    split = cohort.table["split"].to_pylist()
    assert [each == "test" for each in split] == [False] * 40 + [True] * 19
    assert Path(names[0]).name in cohort.flow[-1].step
    assert not cohort.warnings


def test_packed_official_lists(tmp_path):
    root = write(tmp_path / "nih", [row(1), row(2)])
    (root / "test_list.txt.gz").write_bytes(gzip.compress(b"00000002_000.png\n"))
    (root / "train_val_list.txt.gz").write_bytes(gzip.compress(b"00000001_000.png\n"))
    assert nih_cohort(root).table["split"].to_pylist()[1] == "test"
    (root / "test_list.txt.gz").write_bytes(gzip.compress(b"00000002_000.png\n" * 99)[:-9])
    with pytest.raises(InputError, match=r"expected a list of images in .*test_list.txt.gz, found Truncated"):
        nih_cohort(root)


def test_lists_that_are_not_there_or_not_clear_are_said(tmp_path):
    root = write(tmp_path / "nih", [row(k) for k in range(1, 30)])
    cohort = nih_cohort(root)
    assert "warning: split: no train_val_list.txt and no test_list.txt" in describe(cohort)
    assert flow_of(cohort).cautions[0].images == 29
    for name in ("test_list_a.txt", "test_list_b.txt", "train_list.txt"):
        (root / name).write_text("00000001_000.png\n")
    with pytest.raises(InputError, match=r"one test_list.txt in .*, found test_list_a.txt, test_list_b.txt; keep one"):
        nih_cohort(root)
    (root / "test_list_b.txt").unlink()
    (root / "test_list_a.txt").write_text("00000099_000.png\n")
    (root / "train_list.txt").write_text("00000098_000.png\n")
    with pytest.raises(InputError, match=r"expected images of the csv in .*, found none of them"):
        nih_cohort(root)
    (root / "train_list.txt").unlink()
    with pytest.raises(InputError, match=r"expected both .* or neither, found test_list_a.txt"):
        nih_cohort(root)


def test_ids_of_one_patient_are_one(tmp_path):
    rows = [row(k, Patient_ID=cell) for k, cell in enumerate(("1", "0001", "1.0", " 1"), 1)]
    assert nih_cohort(write(tmp_path / "nih", rows)).table["patient_id"].to_pylist() == ["1"] * 4
    for cell, message in (
        ("1.23457E+11", "found scientific notation"),
        ("P1", "found another form"),
        ("nan", "found none"),
    ):
        with pytest.raises(InputError, match=rf"{message}.* in data row 2"):
            nih_cohort(write(tmp_path / "nih", [row(1), row(2, Patient_ID=cell)]))


def test_half_a_file_is_one_sentence(tmp_path):
    root = write(tmp_path / "nih", [])
    with pytest.raises(InputError, match=r"expected rows in .*Data_Entry_2017_v2020.csv, found only a header"):
        nih_cohort(root)
    packed = gzip.compress((write(root, [row(k) for k in range(999)]) / "Data_Entry_2017_v2020.csv").read_bytes())
    (root / "Data_Entry_2017_v2020.csv").unlink()
    for length in (len(packed) // 2, len(packed) - 5, 20):
        (root / "Data_Entry_2017_v2020.csv.gz").write_bytes(packed[:length])
        with pytest.raises(InputError, match=r"expected a csv table in .*, found Truncated compressed stream"):
            nih_cohort(root)
    (root / "Data_Entry_2017_v2020.csv.gz").unlink()
    twice = ",".join(["Patient Age", *COLUMNS])
    (root / "Data_Entry_2017_v2020.csv").write_text(f"{twice}\n12,a.png,Mass,0,1,58,M,PA\n")
    with pytest.raises(InputError, match=r"expected one column 'Patient Age' in .*, found 2"):
        nih_cohort(root)


def test_what_is_to_be_known_is_on_standard_error_too(tmp_path, capsys):
    root = write(tmp_path / "nih", [row(k) for k in range(1, 9)])
    assert run_command(["cohort", "nih", str(root), "--out", str(tmp_path / "c.parquet")]) == 0
    assert "warning: split: no train_val_list.txt and no test_list.txt" in capsys.readouterr().err
