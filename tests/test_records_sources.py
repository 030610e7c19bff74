"""CheXpert and NIH cohorts, and the contract that every cohort file keeps."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chartray.errors import InputError
from chartray.flow import BlankCells, FlowStep, SplitSize
from chartray.records.chexpert import chexpert_cohort
from chartray.records.cohort import (
    Cohort,
    assemble,
    describe,
    flow_of,
    patients_in_two_splits,
    read_cohort,
    split_by_patient,
    split_sizes,
    write_cohort,
)
from chartray.records.nih import nih_cohort
from chartray.schema import METADATA_KEY, NIH_LABELS, CohortMetadata, Variable, to_metadata
from chartray.truth import Policy, blank_negatives, truth_of

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NIH = SHARED / "nih-chestxray14-64px"

CHEXPERT_TRAIN = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,
CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Unknown,200,Lateral,,,-1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,0,Frontal,RL,,2
"""
CHEXPERT_TEST = """Path,No Finding,Edema
CheXpert-v1.0/test/patient64741/study1/view1_frontal.jpg,0.0,1.0
CheXpert-v1.0/test/patient64741/study1/view2_lateral.jpg,0.0,0.0
"""


@pytest.fixture
def chexpert(tmp_path):
    root = tmp_path / "renamed by its owner"
    root.mkdir()
    (root / "train.csv").write_text(CHEXPERT_TRAIN)
    (root / "test.csv").write_text(CHEXPERT_TEST)
    return root


def test_chexpert_by_whatever_name(chexpert):
    cohort = chexpert_cohort(chexpert)
    rows = cohort.table.to_pylist()
    assert [row["patient_id"] for row in rows] == ["patient00001", *["patient00002"] * 2, *["patient64741"] * 2]
    assert rows[1]["study_id"] == "patient00002/study2"
    assert rows[0]["path"] == f"{chexpert}/train/patient00001/study1/view1_frontal.jpg"
    assert [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 2
    assert [row["ehr.sex"] for row in rows] == ["female", None, "male", None, None]
    assert [row["ehr.age"] for row in rows] == [68.0, None, None, None, None]  # no patient of CheXpert is 0
    # RL is none of the four views; a test csv without the column still says which images are lateral.
    assert [row["ehr.view"] for row in rows] == ["AP", "LATERAL", None, None, "LATERAL"]
    assert [row["label.Edema"] for row in rows] == [None, -1.0, None, 1.0, 0.0]
    assert cohort.missing["sex"] == {"Unknown": 1, "absent": 2}
    assert cohort.missing["age"] == {"0": 1, "200": 1, "absent": 2}
    assert cohort.missing["view"] == {"RL": 1, "absent": 1}
    assert cohort.missing["label.Edema"] == {"2": 1, "absent": 1}
    assert "rows of train.csv (without Atelectasis, " in cohort.flow[0].why
    assert cohort.flow[1].why == "there is no valid.csv"
    assert "validate: 0 images of 0 patients (this split is empty)" in describe(cohort)
    assert len(cohort.metadata.absent_labels) == 12


@pytest.mark.parametrize("inside", ["", "train"])
def test_chexpert_in_the_batches_of_its_download(inside, tmp_path):
    """The csv files are in the first batch, and the patients in the others, in `train` or without it."""
    first, second = (
        tmp_path / name for name in ("CheXpert-v1.0 batch 1 (validate & csv)", "CheXpert-v1.0 batch 2 (train 1)")
    )
    there = {"patient00001": second / inside, "patient64741": first / "valid"}
    for patient, folder in there.items():
        (folder / patient).mkdir(parents=True)
    (first / "train.csv").write_text(CHEXPERT_TRAIN)
    (first / "valid.csv").write_text(CHEXPERT_TEST.replace("/test/", "/valid/"))
    rows = chexpert_cohort(tmp_path).table.to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 3 + ["validate"] * 2
    for row in rows:
        base = there.get(row["patient_id"], tmp_path / "train")
        assert row["path"].startswith(f"{base}/{row['patient_id']}/study")


def test_blanks_of_the_labeller_are_negatives_and_unreadable_or_unnamed_ones_are_not(chexpert):
    """A labeller leaves blank what a report does not mention; a 2, and a column that a file lacks, are not known."""
    (chexpert / "valid.csv").write_text("Path,Edema\nvalid/patient3/study1/a.jpg,\n")
    cohort = chexpert_cohort(chexpert)
    table, labels = cohort.table, ["No Finding", "Edema"]
    assert table["split"].to_pylist() == [*["train"] * 3, "validate", *["test"] * 2]
    found = {label: values.tolist() for label, values in zip(labels, truth_of(table, labels, Policy()).T, strict=True)}
    assert str(found["No Finding"]) == "[1.0, 0.0, 0.0, nan, 0.0, 0.0]"
    assert str(found["Edema"]) == "[0.0, nan, nan, 0.0, 1.0, 0.0]"
    assert str(truth_of(table, ["Edema"], Policy(blank="ignore"))[:, 0].tolist()) == "[nan, nan, nan, nan, 1.0, 0.0]"
    assert blank_negatives(table, labels, Policy()).sum(axis=0).tolist() == [2, 2]
    assert "  blank labels that count as negative: Edema 2, No Finding 2" in describe(cohort).splitlines()
    assert flow_of(cohort).blank_labels["Edema"] == BlankCells(cells=2, mean="negative")


def test_chexpert_refuses_what_is_not_chexpert(chexpert):
    (chexpert / "valid.csv").write_text("Path,Edema\nCheXpert-v1.0/valid/patient00001/study9/view1_frontal.jpg,1\n")
    with pytest.raises(InputError, match=r"found 1 in two or more in .*train.csv and .*valid.csv"):
        chexpert_cohort(chexpert)
    (chexpert / "valid.csv").write_text("Path,Edema\nvalid/patient3/study1/a.jpg,1\nfilms/3.jpg,0\n")
    with pytest.raises(InputError, match=r"'Path' of .*valid.csv, found another form in data row 2"):
        chexpert_cohort(chexpert)
    (chexpert / "valid.csv").write_text("Path,Oedema\nvalid/patient3/study1/a.jpg,1\n")
    with pytest.raises(InputError, match=r"at least one of the labels .* of .*valid.csv, found Path, Oedema"):
        chexpert_cohort(chexpert)
    twice = "valid/patient3/study1/a.jpg,1\n" * 2
    (chexpert / "valid.csv").write_text(f"Path,Edema\n{twice}")
    with pytest.raises(InputError, match=r"each Path once in .*valid.csv, found one repeated in data row 2"):
        chexpert_cohort(chexpert)
    (chexpert / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected train.csv, valid.csv or test.csv in .*, found nothing"):
        chexpert_cohort(chexpert / "empty")


CHEXPERT_COLUMNS = "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema"


@pytest.mark.parametrize(
    "cells",
    [
        ("CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg", "Female", "68", "Frontal", "AP", "1.0"),
        ("CheXpert-v1.0-small\\train\\patient00001\\study1\\view1_frontal.jpg", "f", "068Y", "frontal", "ap", "1"),
        (" ./train/patient00001/study1/view1_frontal.jpg ", " FEMALE ", "68.0", "", " AP ", " 1.0 "),
        ("/data/CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg", "F", "68", "?", "Ap", '"1.0"'),
    ],
)
def test_chexpert_in_other_spellings(cells, tmp_path):
    (tmp_path / "train.csv").write_text(f"\ufeff{CHEXPERT_COLUMNS}\n{','.join(cells)}\n", encoding="utf-8")
    row = chexpert_cohort(tmp_path).table.to_pylist()[0]
    assert row["path"] == f"{tmp_path}/train/patient00001/study1/view1_frontal.jpg"
    assert [row[f"ehr.{name}"] for name in ("sex", "age", "view")] == ["female", 68.0, "AP"]
    assert (row["image_id"], row["label.Edema"]) == ("train/patient00001/study1/view1_frontal", 1.0)


@pytest.mark.parametrize(
    ("name", "side", "projection", "view"),
    [
        ("view1_frontal", "Frontal", "PA", "PA"),
        ("view1_frontal", "Frontal", "LL", None),
        ("view1_frontal", "Frontal", "", None),
        ("view2_lateral", "Lateral", "", "LATERAL"),
        ("view2_lateral", "Lateral", "LL", "LATERAL"),
        ("view2_lateral", "Lateral", "AP", None),
        ("view2_lateral", "Frontal", "AP", None),
        ("view1_frontal", "Lateral", "", None),
        ("view2_lateral", "unknown", "", "LATERAL"),
        ("film", "", "PA", "PA"),
    ],
)
def test_a_view_that_two_cells_contradict_is_missing(name, side, projection, view, tmp_path):
    cells = f"train/patient00001/study1/{name}.jpg,Male,40,{side},{projection},1"
    (tmp_path / "train.csv").write_text(f"{CHEXPERT_COLUMNS}\n{cells}\n")
    assert chexpert_cohort(tmp_path).table["ehr.view"].to_pylist() == [view]


def test_chexpert_patients_in_two_spellings_and_images_twice_are_refused(tmp_path):
    rows = [
        f"{path}/study1/view1_frontal.jpg,Male,40,Frontal,AP,1" for path in ("train/patient1", "train/patient00001")
    ]
    (tmp_path / "train.csv").write_text("\n".join([CHEXPERT_COLUMNS, *rows]))
    with pytest.raises(InputError, match=r"one spelling of each id as patient of .*, found 'aaaaaaa9' in data row 1"):
        chexpert_cohort(tmp_path)
    rows[0] = rows[1].replace("train/", "CheXpert-v1.0/train/")
    (tmp_path / "train.csv").write_text("\n".join([CHEXPERT_COLUMNS, *rows]))
    with pytest.raises(InputError, match=r"each Path once in .*train.csv, found one repeated in data row 2"):
        chexpert_cohort(tmp_path)
    for end in ("", "\n"):
        (tmp_path / "train.csv").write_text(CHEXPERT_COLUMNS + end)
        with pytest.raises(InputError, match=r"train.csv, found only a header; download the file again"):
            chexpert_cohort(tmp_path)


NIH_COLUMNS = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,Width"


def write_nih(root, rows):
    root.mkdir(exist_ok=True)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([NIH_COLUMNS, *rows]) + "\n")
    return root


@pytest.mark.skipif(not NIH.exists(), reason="the NIH images are not in ../shared/data")
def test_real_nih_images():
    cohort = nih_cohort(NIH)
    rows = cohort.table.to_pylist()
    assert (len(rows), len({row["patient_id"] for row in rows})) == (1000, 264)
    assert all(Path(row["path"]).is_file() for row in rows)
    assert patients_in_two_splits(cohort.table["patient_id"], cohort.table["split"]) == 0
    sizes = split_sizes(cohort.table)
    assert sum(size.patients for size in sizes.values()) == 264
    assert all(size.patients > 10 for size in sizes.values())
    lines = (NIH / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]
    expected = {line.split(",")[0]: line.split(",") for line in lines}
    for row in rows:
        cells = expected[row["image_id"]]
        named = {label for label in NIH_LABELS if row[f"label.{label}"] == 1.0}
        assert named == set(cells[1].split("|")) - {"No Finding"}
        assert {row[f"label.{label}"] for label in NIH_LABELS} <= {0.0, 1.0}
        assert (row["patient_id"], row["ehr.age"]) == (cells[3], float(cells[4]))
        assert (row["ehr.sex"][0].upper(), row["ehr.view"]) == (cells[5], cells[6])


def test_nih_as_kaggle_has_it(tmp_path):
    """`images_001/images` ... or one folder in a folder of the same name, and the earlier name of the csv."""
    rows = [f"{place:08}_000.png,No Finding,0,{place},058Y,M,PA,2500,2048,0.171,0.171" for place in range(1, 4)]
    names = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width"
    )
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([f"{names},Height],OriginalImagePixelSpacing[x,y]", *rows]))
    places = [tmp_path / "images_001" / "images", tmp_path / "images-224" / "images-224", tmp_path / "images"]
    for number, place in enumerate(places[:2], start=1):
        place.mkdir(parents=True)
        (place / f"{number:08}_000.png").touch()
    cohort = nih_cohort(tmp_path)
    assert cohort.table["path"].to_pylist() == [f"{place}/{at:08}_000.png" for at, place in enumerate(places, start=1)]
    assert cohort.table["ehr.age"].to_pylist() == [58.0] * 3


def test_nih_official_lists(tmp_path):
    rows = [f"{k:08d}_000.png,No Finding,0,{k // 2},{40 + k},M,PA,9" for k in range(400)]
    root = write_nih(tmp_path / "nih", rows)
    names = [row.split(",")[0] for row in rows]
    (root / "train_val_list.txt").write_text("\n".join(names[:300]))
    with pytest.raises(InputError, match=r"expected both train_val_list.txt and test_list.txt"):
        nih_cohort(root)
    (root / "test_list.txt").write_text("\n".join(names[300:390]))
    cohort = nih_cohort(root)
    assert cohort.table["split"].to_pylist()[300:] == ["test"] * 90
    sizes = split_sizes(cohort.table)
    assert (sizes["test"].images, cohort.flow[-1].rows_out) == (90, 390)
    assert 5 <= sizes["validate"].patients <= 35  # about one in nine of 150
    (root / "test_list.txt").write_text("\n".join(names[299:]))
    with pytest.raises(InputError, match=r"every image in one list, found 1 in .*train_val_list.txt and test_list.txt"):
        nih_cohort(root)
    (root / "train_val_list.txt").write_text("\n".join(names[:299]))
    with pytest.raises(InputError, match=r"found 1 in two or more in .*test_list.txt"):
        nih_cohort(root)


def test_nih_dirt(tmp_path):
    root = write_nih(
        tmp_path / "nih",
        [
            "a.png,Mass|Hernia,0,1,058Y,M,PA,9",
            "b.png,No Finding,1,1,411,F,AP,9",
            "c.png,Mass|Consumption,0,2,,?,LL,9",
        ],
    )
    (root / "images_003" / "images").mkdir(parents=True)
    (root / "images_003" / "images" / "b.png").write_bytes(b"")
    cohort = nih_cohort(root)
    assert cohort.table["ehr.age"].to_pylist() == [58.0, None, None]
    assert cohort.table["ehr.sex"].to_pylist() == ["male", "female", None]
    assert cohort.table["ehr.view"].to_pylist() == ["PA", "AP", None]
    assert cohort.table["label.Mass"].to_pylist() == [1.0, 0.0, 1.0]
    assert cohort.table["label.Hernia"].to_pylist() == [1.0, 0.0, None]  # Consumption may have been any of them
    assert cohort.missing["age"] == {"411": 1, "absent": 1}
    assert cohort.missing["Finding Labels"] == {"Consumption": 1}
    assert cohort.table["path"].to_pylist()[:2] == [f"{root}/images/a.png", f"{root}/images_003/images/b.png"]


def a_cohort(**changes):
    metadata = CohortMetadata(source="made", variables={"sex": Variable(kind="categorical", levels=("m", "f"))})
    columns = {
        "image_id": ["a", "b", "c"],
        "patient_id": ["1", "1", "2"],
        "study_id": [None] * 3,
        "taken_at": [None] * 3,
        "path": ["/a", "/b", "/c"],
        "split": ["train", "train", "test"],
        "ehr.sex": ["m", None, "f"],
    }
    return Cohort(assemble(columns | changes, metadata))


def test_write_then_read_is_the_same(tmp_path):
    cohort = a_cohort()
    write_cohort(cohort, tmp_path / "sub" / "c.parquet")
    table = read_cohort(tmp_path / "sub" / "c.parquet")
    assert table.equals(cohort.table, check_metadata=True)
    assert sorted(file.name for file in (tmp_path / "sub").iterdir()) == ["c.flow.json", "c.parquet"]
    assert flow_of(cohort).splits["train"] == SplitSize(images=2, patients=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient_id": ["1", "2", "2"]}, "every patient in one split, found 1 in two or more"),
        ({"split": ["train", "train", "holdout"]}, "found 'aaaaaaa'"),
        ({"image_id": ["a", "a", "c"]}, "unique image_ids"),
        ({"path": ["/a", None, "/c"]}, "'path' in every row of .*, found none in row 2"),
    ],
)
def test_a_broken_cohort_is_neither_written_nor_read(changes, message, tmp_path):
    broken = a_cohort(**changes)
    with pytest.raises(InputError, match=message):
        write_cohort(broken, tmp_path / "c.parquet")
    assert list(tmp_path.iterdir()) == []
    pq.write_table(broken.table, tmp_path / "c.parquet")
    with pytest.raises(InputError, match=message):
        read_cohort(tmp_path / "c.parquet")


def test_a_folder_instead_of_a_file_leaves_nothing_behind(tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match=r"found the folder .*here; name a file in it"):
        write_cohort(a_cohort(), tmp_path / "here")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/c\.parquet: .*file is a file, not a folder"):
        write_cohort(a_cohort(), tmp_path / "file" / "c.parquet")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "here"]


def test_a_cohort_without_images_says_which_step_left_none(tmp_path):
    empty = a_cohort()
    empty.table = empty.table.slice(0, 0)
    empty.flow = [FlowStep("rows of x.csv", 3, 3), FlowStep("official split", 3, 0, "not in split.csv")]
    with pytest.raises(InputError, match=r"after the step 'official split', which excluded all 3 \(not in split.csv\)"):
        write_cohort(empty, tmp_path / "c.parquet")
    empty.flow = [FlowStep("rows of x.csv", 0, 0)]
    with pytest.raises(InputError, match=r"expected images in the made cohort, found no rows: rows of x.csv"):
        write_cohort(empty, tmp_path / "c.parquet")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_cohort_is_refused(tmp_path):
    with pytest.raises(InputError, match="found no such file"):
        read_cohort(tmp_path / "c.parquet")
    (tmp_path / "c.parquet").write_text("image_id,patient_id\n")
    with pytest.raises(InputError, match="found something else"):
        read_cohort(tmp_path / "c.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="a table without Chartray's metadata"):
        read_cohort(tmp_path / "c.parquet")
    table = a_cohort().table
    older = table.replace_schema_metadata(to_metadata(CohortMetadata(source="made", format=0)))
    pq.write_table(older, tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"expected cohort format 1 in .*, found 0"):
        read_cohort(tmp_path / "c.parquet")
    pq.write_table(table.drop_columns(["ehr.sex"]), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"expected a column 'ehr.sex' in .*c.parquet, found image_id"):
        read_cohort(tmp_path / "c.parquet")


def test_the_split_of_a_patient_depends_on_nobody_else():
    shares = {"train": 0.8, "validate": 0.1, "test": 0.1}
    patients = [f"p{k}" for k in range(5000)]
    split = dict(zip(patients, split_by_patient(patients, shares).to_pylist(), strict=True))
    few = patients[17:4000:7] * 2
    assert split_by_patient(few, shares).to_pylist() == [split[patient] for patient in few]
    sizes = {name: sum(value == name for value in split.values()) / 5000 for name in shares}
    # Three standard deviations of a share of 5,000 draws are under 0.02.
    assert all(abs(sizes[name] - share) < 0.02 for name, share in shares.items())


def test_unreadable_metadata_is_one_sentence(tmp_path):
    wrong = {"format": 1, "source": 3, "rules": "other", "variables": {"x": {"kind": "y"}}}
    for content in (json.dumps(wrong), '{"format":\n 1', "[1,\n2]"):
        table = pa.table({"image_id": ["a"]}).replace_schema_metadata({METADATA_KEY: content.encode()})
        pq.write_table(table, tmp_path / "c.parquet")
        with pytest.raises(InputError, match="found unreadable metadata: ") as caught:
            read_cohort(tmp_path / "c.parquet")
        assert "\n" not in str(caught.value)
        assert "pydantic" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_images_and_patients_are_counted_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 12, 200)
    splits = np.array(["train", "validate", "test"])[rng.integers(0, 3, 200)]
    for order in (np.arange(200), np.argsort(patients), np.lexsort((splits, patients))):
        rows = list(zip(patients[order].astype(str).tolist(), splits[order].tolist(), strict=True))
        table = pa.table({"patient_id": [row[0] for row in rows], "split": [row[1] for row in rows]})
        for split, sizes in split_sizes(table).items():
            here = [patient for patient, part in rows if part == split]
            assert sizes == SplitSize(images=len(here), patients=len(set(here)))
        shared = sum(len({part for patient, part in rows if patient == each}) > 1 for each in {row[0] for row in rows})
        assert patients_in_two_splits(table["patient_id"], table["split"]) == shared > 0
    one = pa.table({"patient_id": ["a"], "split": ["test"]})
    assert split_sizes(one)["test"] == SplitSize(images=1, patients=1)
    assert split_sizes(one.slice(1))["test"] == SplitSize(images=0, patients=0)
