"""The simulated hospital's files: the layouts of the public data sets, with the dirt of real data."""

import csv
import gzip
import hashlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from chartray.errors import InputError
from chartray.schema import CHEXPERT_LABELS, NIH_LABELS
from chartray.simulate import mimic_layout, other_layouts
from chartray.simulate.hospital import FOLDERS, simulate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def table(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as text:
        return list(csv.DictReader(text))


def header(path: Path) -> list[str]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as text:
        return next(csv.reader(text))


def digest(root: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        whole.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated")
    simulate(out, patients=40, size=64, workers=1)
    return out


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a larger hospital, without its images."""
    out = tmp_path_factory.mktemp("tables")
    hospital = mimic_layout.draw(600, 3, size=64)
    mimic_layout.write_iv(out / "iv", hospital, "2.2", np.random.default_rng(0), chart_effect=1.0)
    mimic_layout.write_cxr(out / "cxr", hospital, np.random.default_rng(1))
    other_layouts.write_nih(out / "nih", other_layouts.draw_nih(300, 3), np.random.default_rng(2))
    return out


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")


def taken(row: dict[str, str]) -> datetime:
    clock = f"{int(float(row['StudyTime'])):06d}"
    return datetime.strptime(row["StudyDate"] + clock, "%Y%m%d%H%M%S")


def test_mimic_cxr_jpg(small: Path) -> None:
    root = small / "mimic-cxr-jpg"
    metadata = table(root / "mimic-cxr-2.0.0-metadata.csv.gz")
    assert tuple(metadata[0]) == mimic_layout.METADATA_COLUMNS
    splits = {row["dicom_id"]: row for row in table(root / "mimic-cxr-2.0.0-split.csv.gz")}
    broken = []
    for row in metadata:
        subject = row["subject_id"]
        path = root / f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{row['dicom_id']}.jpg"
        split = splits[row["dicom_id"]]
        assert (split["subject_id"], split["study_id"]) == (subject, row["study_id"])
        try:
            with Image.open(path) as image:
                image.load()
                assert image.mode == "L"
                assert (str(image.height), str(image.width)) == (row["Rows"], row["Columns"])
        except (UnidentifiedImageError, OSError):
            broken.append((path.stat().st_size > 0, split["split"]))
    assert sorted(broken) == [(False, "train"), (True, "train")], "one empty file and one truncated JPEG"
    of_patient: dict[str, set[str]] = {}
    for row in splits.values():
        of_patient.setdefault(row["subject_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in of_patient.values())
    assert set().union(*of_patient.values()) == {"train", "validate", "test"}


@pytest.mark.parametrize("tool", ["chexpert", "negbio"])
def test_mimic_labels(tables: Path, tool: str) -> None:
    rows = table(tables / "cxr" / f"mimic-cxr-2.0.0-{tool}.csv.gz")
    assert tuple(rows[0]) == ("subject_id", "study_id", *CHEXPERT_LABELS)
    assert {row["No Finding"] for row in rows} == {"1.0", ""}
    assert {row["Edema"] for row in rows} == {"1.0", "0.0", "-1.0", ""}
    assert len({row["study_id"] for row in rows}) == len(rows)
    assert 0.1 < np.mean([row["No Finding"] == "1.0" for row in rows]) < 0.5


def test_radiologists_have_read_part_of_the_test_set(tables: Path) -> None:
    rows = table(tables / "cxr" / "mimic-cxr-2.1.0-test-set-labeled.csv")
    columns = ["Airspace Opacity" if name == "Lung Opacity" else name for name in CHEXPERT_LABELS]
    assert list(rows[0]) == ["study_id", *columns]
    assert {row[name] for row in rows for name in columns} == {"1.0", "0.0"}
    splits = table(tables / "cxr" / "mimic-cxr-2.0.0-split.csv.gz")
    test = {row["study_id"] for row in splits if row["split"] == "test"}
    read = {row["study_id"] for row in rows}
    assert read < test
    assert 0.35 < len(read) / len(test) < 0.65


def test_the_scan_has_its_gaps(tables: Path) -> None:
    rows = table(tables / "cxr" / "mimic-cxr-2.0.0-metadata.csv.gz")
    views = [row["ViewPosition"] for row in rows]
    assert set(views) == {"PA", "AP", "LATERAL", "LL", ""}
    assert 0.01 < np.mean([view == "" for view in views]) < 0.08
    positions = [row["PatientOrientationCodeSequence_CodeMeaning"] for row in rows]
    assert set(positions) == {"Erect", "Recumbent", ""}
    assert min(len(row["StudyTime"].split(".")[0]) for row in rows) < 6, "leading zeros are lost"
    assert all(0 <= float(row["StudyTime"]) < 240000 for row in rows)
    # About two images a patient, several studies for some.
    patients = {row["subject_id"] for row in rows}
    assert 1.5 < len(rows) / len(patients) < 3
    assert len({row["study_id"] for row in rows}) > 1.2 * len(patients)


def test_the_chart_has_the_dirt_of_real_charts(tables: Path) -> None:
    images = table(tables / "cxr" / "mimic-cxr-2.0.0-metadata.csv.gz")
    patients = {row["subject_id"]: row for row in table(tables / "iv/hosp/patients.csv.gz")}
    admissions = table(tables / "iv/hosp/admissions.csv.gz")
    stays = table(tables / "iv/icu/icustays.csv.gz")
    without = {row["subject_id"] for row in images} - set(patients)
    assert 0.03 < len(without) / len({row["subject_id"] for row in images}) < 0.15
    assert not {row["subject_id"] for row in admissions} & without
    of_patient: dict[str, list[dict[str, str]]] = {}
    for row in admissions:
        assert moment(row["admittime"]) < moment(row["dischtime"])
        assert row["edregtime"] == "" or moment(row["edregtime"]) < moment(row["admittime"])
        assert (row["deathtime"] != "") == (row["hospital_expire_flag"] == "1")
        of_patient.setdefault(row["subject_id"], []).append(row)
    assert 0.5 < np.mean([row["edregtime"] != "" for row in admissions]) < 0.8
    assert max(len(rows) for rows in of_patient.values()) >= 2
    for rows in of_patient.values():
        ends = [moment(row["dischtime"]) for row in sorted(rows, key=lambda row: row["admittime"])]
        begins = sorted(moment(row["admittime"]) for row in rows)
        assert all(end < begin for end, begin in zip(ends, begins[1:], strict=False))
        assert sum(row["hospital_expire_flag"] == "1" for row in rows) <= 1
    admission = {row["hadm_id"]: row for row in admissions}
    early = [moment(s["intime"]) < moment(admission[s["hadm_id"]]["admittime"]) for s in stays]
    late = [moment(s["outtime"]) > moment(admission[s["hadm_id"]]["dischtime"]) for s in stays]
    backwards = [moment(s["outtime"]) < moment(s["intime"]) for s in stays]
    assert 0 < np.mean(early) < 0.2
    assert 0 < np.mean(backwards) < 0.05
    assert 0 < np.mean(late) < 0.4
    before, emergency, covered = 0, 0, 0
    for row in images:
        for stay in of_patient.get(row["subject_id"], []):
            when, start, end = taken(row), moment(stay["admittime"]), moment(stay["dischtime"])
            covered += start <= when <= end
            before += 0 < (start - when).total_seconds() < 30 * 86400
            emergency += stay["edregtime"] != "" and moment(stay["edregtime"]) <= when < start
    assert covered > 100
    assert before > emergency > 0
    ages = [int(row["anchor_age"]) for row in patients.values()]
    assert min(ages) >= 18
    assert 90 not in ages
    assert max(ages) == 91


@pytest.mark.parametrize("release", ["1.0", "2.2", "3.1"])
def test_mimic_iv_releases(tmp_path: Path, release: str) -> None:
    hospital = mimic_layout.draw(20, 0)
    mimic_layout.write_iv(tmp_path, hospital, release, np.random.default_rng(0), chart_effect=1.0)
    folder = "core" if release == "1.0" else "hosp"
    columns = header(tmp_path / folder / "admissions.csv.gz")
    assert ("ethnicity" in columns) == (release == "1.0")
    assert ("race" in columns) == (release != "1.0")
    assert (tmp_path / "core").exists() == (release == "1.0")
    rows = table(tmp_path / folder / "admissions.csv.gz")
    assert {row["hospital_expire_flag"] for row in rows} <= {"0", "1"}, "columns and values are not shifted"


@pytest.mark.skipif(not (SHARED / "mimic-iv-demo").exists(), reason="the MIMIC-IV demo is not in ../shared/data")
@pytest.mark.parametrize(
    "name", ["hosp/patients", "hosp/admissions", "icu/icustays", "hosp/labevents", "hosp/d_labitems"]
)
def test_columns_are_those_of_the_open_demo(tables: Path, name: str) -> None:
    assert header(tables / "iv" / f"{name}.csv.gz") == header(SHARED / "mimic-iv-demo" / f"{name}.csv.gz")


def test_laboratory_values(tables: Path) -> None:
    rows = table(tables / "iv/hosp/labevents.csv.gz")
    items = {row["itemid"] for row in table(tables / "iv/hosp/d_labitems.csv.gz")}
    assert {row["itemid"] for row in rows} == items
    assert all(moment(row["charttime"]) < moment(row["storetime"]) for row in rows)
    assert 0.2 < np.mean([row["hadm_id"] == "" for row in rows]) < 0.32
    assert all(float(row["valuenum"]) > 0 for row in rows)


def test_chexpert(small: Path) -> None:
    root = small / "chexpert"
    for split in ("train", "valid", "test"):
        rows = table(root / f"{split}.csv")
        assert list(rows[0]) == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS]
        for row in rows:
            folder, _, rest = row["Path"].partition("/")
            assert folder == other_layouts.CHEXPERT_FOLDER
            assert rest.startswith(f"{split}/patient")
            assert (root / rest).stat().st_size > 0
            assert (row["AP/PA"] == "") == (row["Frontal/Lateral"] == "Lateral")
        values = {row[label] for row in rows for label in CHEXPERT_LABELS}
        assert values == ({"1.0", "0.0", "-1.0", ""} if split == "train" else {"1.0", "0.0"})
    assert {row["No Finding"] for row in table(root / "train.csv")} <= {"1.0", ""}


def test_nih(small: Path, tables: Path) -> None:
    root = small / "nih"
    rows = {row["Image Index"]: row for row in table(root / "Data_Entry_2017_v2020.csv")}
    lists = [set((root / f"{name}_list.txt").read_text().split()) for name in ("train_val", "test")]
    assert lists[0] | lists[1] == set(rows)
    patients = [{rows[name]["Patient ID"] for name in names} for names in lists]
    assert not patients[0] & patients[1]
    images = {path.name: path for path in root.glob("images_*/images/*.png")}
    assert set(images) == set(rows)
    modes = set()
    for path in images.values():
        with Image.open(path) as image:
            modes.add(image.mode)
    assert modes == {"L", "RGBA"}
    large = table(tables / "nih" / "Data_Entry_2017_v2020.csv")
    found = {name for row in large for name in row["Finding Labels"].split("|")}
    assert found == {*NIH_LABELS, "No Finding"}
    assert all(row["Finding Labels"] == "No Finding" or "No Finding" not in row["Finding Labels"] for row in large)
    assert 0 < sum(int(row["Patient Age"]) > 110 for row in large) < 10


@pytest.mark.skipif(not (SHARED / "nih-chestxray14-64px").exists(), reason="no NIH images in ../shared/data")
def test_columns_are_those_of_nih(small: Path) -> None:
    name = "Data_Entry_2017_v2020.csv"
    assert header(small / "nih" / name) == header(SHARED / "nih-chestxray14-64px" / name)


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for name, seed, workers in (("one", 5, 1), ("two", 5, 2), ("other", 6, 1)):
        simulate(tmp_path / name, patients=8, size=64, seed=seed, workers=workers)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one") != digest(tmp_path / "other")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(FOLDERS)


def test_the_release_changes_the_chart_alone(tmp_path: Path) -> None:
    for release in ("1.0", "2.2"):
        simulate(tmp_path / release, patients=8, size=64, mimic_iv_release=release, workers=1)
    for name in FOLDERS:
        same = digest(tmp_path / "1.0" / name) == digest(tmp_path / "2.2" / name)
        assert same == (name != "mimic-iv")


def test_what_cannot_be_simulated_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "A1234567.dcm").touch()
    with pytest.raises(InputError, match=r"is not empty; choose another folder$"):
        simulate(tmp_path, patients=8, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["A1234567.dcm"]
    with pytest.raises(InputError, match="--patients of at least 8, found 3"):
        simulate(tmp_path / "a", patients=3)
    with pytest.raises(InputError, match="--chart-effect from 0 to 10"):
        simulate(tmp_path / "a", chart_effect=-1)
    with pytest.raises(InputError, match=r"release of 1.0, 2.2, 3.1, found '2.0'"):
        simulate(tmp_path / "a", mimic_iv_release="2.0")
    assert not (tmp_path / "a").exists()
