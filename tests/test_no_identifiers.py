"""No id, accession number, name or date of a patient in what a command says, whatever it is given."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from chartray.cli import run_command
from chartray.schema import from_metadata, to_metadata
from tests.evaluation_folders import vit

# Recognisable parts of what is a patient's: MRN, accession, image, name, birthday and time of the image.
SECRETS = ("88123", "77345", "66210", "Jedermann", "JEDERMANN", "1957-03", "195703", "2031-11", "203111")
COLUMNS = ("film", "patient", "accession", "name", "born", "taken", "fold", "age", "sex", "edema", "path")
MAPPING = """
image_id: film
patient_id: patient
study_id: accession
taken_at: taken
path: path
split: fold
ehr:
  age: {column: age, kind: numeric, range: [0, 110], unit: years, group: demographic}
  sex: {column: sex, kind: categorical, levels: [F, M], group: demographic}
labels:
  Edema: {column: edema}
"""


def rows() -> list[dict[str, str]]:
    return [
        {
            "film": f"IMG77345{row:03}",
            "patient": f"MRN88123{row // 2:03}",
            "accession": f"ACC66210{row:03}",
            "name": f"Jedermann{row}^Jutta",
            "born": f"1957-03-{row % 28 + 1:02}",
            "taken": f"2031-11-{row % 28 + 1:02} 09:30",
            "fold": ("train", "train", "validate", "test", "test")[row // 2 % 5],
            "age": str(30 + row % 50),
            "sex": "FM"[row // 2 % 2],
            "edema": "01"[row % 3 == 0],
            "path": f"MRN88123{row // 2:03}/IMG77345{row:03}.png",
        }
        for row in range(60)
    ]


def write_table(file: Path, table: list[dict[str, Any]], *, header: bool = True, columns: Any = COLUMNS) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(table)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital whose every file is called by its patients: table, images, cohort, store, encoder, results, audit."""
    root = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    for row in rows():
        file = root / "films" / row["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(file)
    write_table(root / "films.csv", rows())
    (root / "mapping.yaml").write_text(MAPPING)
    vit(root / "encoder", source="films", run="vit")
    for words in (
        f"cohort table {root}/films.csv --mapping {root}/mapping.yaml --images {root}/films --out {root}/c.parquet",
        f"ingest {root}/c.parquet --out {root}/store --size 32 --workers 1",
        f"evaluate {root}/encoder {root}/store --out {root}/results --resamples 5 --saliency 2 --device cpu",
        f"audit {root}/encoder {root}/store --out {root}/audit --resamples 5 --no-baselines --device cpu",
    ):
        assert run_command(words.split()) == 0
    return root


@pytest.fixture
def here(given: Path, tmp_path: Path) -> Path:
    """A copy of all of it, to break."""
    shutil.copytree(given, tmp_path / "work")
    return tmp_path / "work"


def silent_on_patients(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and words of a command, in which no patient is."""
    code = run_command(words.split())
    said = "".join(capfd.readouterr())
    found = [secret for secret in SECRETS if secret in said]
    assert not found, (found, said)
    assert "Traceback" not in said
    return code, said


def changed(**cells: Any) -> Callable[[Path], None]:
    """A table with other cells in its rows 3 and 7, or with what a function makes of each row."""

    def change(root: Path) -> None:
        table = rows()
        for place in (3, 7):
            table[place] |= {name: cell(table) if callable(cell) else cell for name, cell in cells.items()}
        write_table(root / "films.csv", table)

    return change


def mapped(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "mapping.yaml").write_text(MAPPING.replace(old, new))

    return change


def without_header(root: Path) -> None:
    write_table(root / "films.csv", rows(), header=False)


def a_row_too_long(root: Path) -> None:
    lines = (root / "films.csv").read_text().splitlines()
    lines[5] += ",Jedermann^Jutta,MRN88123999"
    (root / "films.csv").write_text("\n".join(lines))


def a_quote_too_many(root: Path) -> None:
    lines = (root / "films.csv").read_text().splitlines()
    lines[5] = '"' + lines[5]
    (root / "films.csv").write_text("\n".join(lines))


def other_bytes(root: Path) -> None:
    text = (root / "films.csv").read_text().replace("Jedermann5", "Jederm\xe4nn5")
    (root / "films.csv").write_bytes(text.encode("latin-1"))


def semicolons(root: Path) -> None:
    (root / "films.csv").write_text((root / "films.csv").read_text().replace(",", ";"))


def as_parquet(**columns: Any) -> Callable[[Path], None]:
    """The table as a Parquet file under the csv's name, with columns of other types."""

    def change(root: Path) -> None:
        table = pa.Table.from_pylist(rows())
        for name, of in columns.items():
            table = table.set_column(table.column_names.index(name), name, pa.array([of(row) for row in rows()]))
        pq.write_table(table, root / "films.parquet")

    return change


TABLES: dict[str, Callable[[Path], None]] = {
    "an id twice": changed(film=lambda table: table[0]["film"]),
    "an id in another case": changed(patient=lambda table: table[0]["patient"].lower()),
    "an id with zeros": changed(patient="00088123"),
    "ids in scientific notation": changed(patient="8.8123E+11"),
    "a fraction": changed(patient="88123.5"),
    "a patient in two splits": changed(patient=lambda table: table[20]["patient"], fold="train"),
    "no split but a name": mapped("split: fold", "split: name"),
    "the birthday as split": mapped("split: fold", "split: born"),
    "the name as age": mapped("column: age", "column: name"),
    "the name as sex": mapped("column: sex", "column: name"),
    "the accession as label": mapped("column: edema", "column: accession"),
    "the name as time": mapped("taken_at: taken", "taken_at: name"),
    "the patient as image": mapped("image_id: film", "image_id: patient"),
    "a path out of the folder": changed(path="../../MRN88123/IMG77345.png"),
    "an absolute path": changed(path="/data/MRN88123/IMG77345.png"),
    "an unknown column": mapped("patient_id: patient", "patient_id: patients"),
    "a control character": changed(patient="MRN88123\x07"),
    "no header": without_header,
    "a row too long": a_row_too_long,
    "a quote too many": a_quote_too_many,
    "another encoding": other_bytes,
    "semicolons": semicolons,
}


@pytest.mark.parametrize("name", list(TABLES))
def test_an_own_table_with_a_fault_names_no_patient(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TABLES[name](here)
    made = f"{here}/new.parquet"
    words = f"cohort table {here}/films.csv --mapping {here}/mapping.yaml --images {here}/films --out {made}"
    code, said = silent_on_patients(words, capfd)
    assert said.startswith("chartray: ") if code else Path(made).exists()
    if not code:
        for command in (f"check {made}", f"ingest {made} --out {here}/other --size 32 --workers 1"):
            silent_on_patients(command, capfd)


@pytest.mark.parametrize(
    "change",
    [
        as_parquet(patient=lambda row: float(row["patient"][3:]) + 0.5),
        as_parquet(patient=lambda row: float(row["patient"][3:]) * 1e12),
        as_parquet(patient=lambda row: [row["patient"]]),
        as_parquet(patient=lambda row: row["patient"].encode()),
        as_parquet(name=lambda row: {"family": row["name"]}),
    ],
)
def test_a_parquet_table_of_other_types_names_no_patient(
    change: Callable[[Path], None], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(here)
    words = f"--mapping {here}/mapping.yaml --images {here}/films --out {here}/new.parquet"
    silent_on_patients(f"cohort table {here}/films.parquet {words}", capfd)


# The public layouts, with ids that are recognisable


def mimic(root: Path, **changes: Any) -> None:
    """The smallest MIMIC: 3 images; `changes` are cells of a column of a table in its second row."""
    tables: dict[str, list[dict[str, Any]]] = {
        "iv/hosp/patients.csv": [
            {"subject_id": 10088123 + n, "gender": "F", "anchor_age": 50, "anchor_year": 2150} for n in range(3)
        ],
        "iv/hosp/admissions.csv": [
            {
                "subject_id": 10088123 + n,
                "hadm_id": 20066210 + n,
                "admittime": "2031-11-01 00:00:00",
                "dischtime": "2031-11-09 00:00:00",
                "edregtime": "",
                "hospital_expire_flag": 0,
                "race": "WHITE",
            }
            for n in range(3)
        ],
        "iv/icu/icustays.csv": [
            {
                "subject_id": 10088123,
                "hadm_id": 20066210,
                "stay_id": 30077345,
                "intime": "2031-11-02 00:00:00",
                "outtime": "2031-11-03 00:00:00",
            }
        ],
        "cxr/mimic-cxr-2.0.0-metadata.csv": [
            {
                "dicom_id": f"77345-{n}",
                "subject_id": 10088123 + n,
                "study_id": 50066210 + n,
                "ViewPosition": "AP",
                "Rows": 10,
                "Columns": 10,
                "StudyDate": 20311102,
                "StudyTime": 93012,
                "PatientOrientationCodeSequence_CodeMeaning": "Erect",
            }
            for n in range(3)
        ],
        "cxr/mimic-cxr-2.0.0-split.csv": [
            {"dicom_id": f"77345-{n}", "study_id": 50066210 + n, "subject_id": 10088123 + n, "split": "train"}
            for n in range(3)
        ],
        "cxr/mimic-cxr-2.0.0-chexpert.csv": [
            {"subject_id": 10088123 + n, "study_id": 50066210 + n, "Edema": "1.0"} for n in range(3)
        ],
    }
    for name, cells in changes.items():
        table = next(file for file in tables if name in file)
        tables[table][min(1, len(tables[table]) - 1)] |= cells
    for name, table in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_table(root / name, table, columns=list(table[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"metadata": {"subject_id": "p10088123x"}},
        {"metadata": {"study_id": "s50066210"}},
        {"metadata": {"dicom_id": "77345-0"}},
        {"metadata": {"StudyDate": "1957-03-04?"}},
        {"metadata": {"subject_id": ""}},
        {"split": {"subject_id": 10088123, "split": "test"}},
        {"split": {"split": "Jedermann^Jutta"}},
        {"split": {"dicom_id": "77345-0"}},
        {"patients": {"subject_id": 10088123}},
        {"patients": {"anchor_age": "Jedermann^Jutta"}},
        {"admissions": {"admittime": "Jedermann 1957-03-04"}},
        {"admissions": {"hadm_id": "20066210x"}},
        {"icustays": {"outtime": "1957-03-04 00:00:00"}},
        {"chexpert": {"study_id": 50066210}},
        {"chexpert": {"Edema": "Jedermann^Jutta"}},
        {"chexpert": {"study_id": "5.0066210E+07"}},
    ],
    ids=str,
)
def test_mimic_with_a_fault_names_no_patient(
    changes: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mimic(tmp_path, **changes)
    for rules in ("strict", "published"):
        out = f"{tmp_path}/{rules}.parquet"
        silent_on_patients(
            f"cohort mimic --mimic-iv {tmp_path}/iv --mimic-cxr {tmp_path}/cxr --rules {rules} --out {out}", capfd
        )


def test_folders_of_patients_are_not_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The wrong folder: the one that the patients lie in."""
    for name in ("MRN88123001", "Jedermann^Jutta", "IMG77345001.png", "1957-03-04"):
        (tmp_path / name).mkdir()
    for words in (f"mimic --mimic-iv {tmp_path} --mimic-cxr {tmp_path}", f"chexpert {tmp_path}", f"nih {tmp_path}"):
        assert silent_on_patients(f"cohort {words} --out {tmp_path}/c.parquet", capfd)[0] == 2


@pytest.mark.parametrize(
    "line",
    [
        "IMG77345001.png,Edema,0,MRN88123001,Jedermann,F,PA",
        "IMG77345000.png,Jedermann^Jutta,0,MRN88123000,058Y,F,PA",
        "IMG77345002.png,Edema,0,,058Y,F,PA",
        "IMG77345002.png,Edema,0,8.8123E+11,058Y,F,PA",
        "IMG77345002.png,Edema,0,MRN88123000,058Y,F,PA,Jedermann",
    ],
)
def test_nih_and_chexpert_with_a_fault_name_no_patient(
    line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    good = "IMG77345000.png,Edema,0,MRN88123000,058Y,F,PA"
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join((names, good, line)) + "\n")
    silent_on_patients(f"cohort nih {tmp_path} --out {tmp_path}/c.parquet", capfd)
    paths = (f"train/patient88123/study{place}/{line.partition(',')[0]}" for place in (1, 1))
    (tmp_path / "train.csv").write_text("Path,Edema\n" + "".join(f"{path},Jedermann^Jutta\n" for path in paths))
    silent_on_patients(f"cohort chexpert {tmp_path} --out {tmp_path}/d.parquet", capfd)


# Images


def dicom(file: Path, **values: Any) -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.66210"
    data.PatientName, data.PatientID, data.AccessionNumber = "JEDERMANN^JUTTA", "MRN88123001", "ACC66210001"
    data.PatientBirthDate, data.StudyDate, data.StudyID = "19570304", "20311102", "66210"
    data.Rows = data.Columns = 16
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.Modality = 15, 0, "DX"
    data.PixelData = np.arange(256, dtype=np.uint16).tobytes()
    for name, value in values.items():
        setattr(data, name, value)
    pydicom.dcmwrite(file, data, enforce_file_format=True)


def test_images_that_cannot_be_read_name_no_patient(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = f"{here}/films.csv --mapping {here}/mapping.yaml --images {here}/films"
    assert run_command(f"cohort table {own} --out {here}/c.parquet".split()) == 0
    films = [here / "films" / row["path"] for row in rows()]
    films[0].unlink()
    films[1].write_bytes(b"")
    films[2].write_bytes(b"\x89PNG\r\n\x1a\nMRN88123 JEDERMANN^JUTTA 19570304")
    films[3].write_bytes(b"\xff\xd8\xff JEDERMANN^JUTTA 66210")
    films[4].write_bytes(b"MRN88123001 JEDERMANN^JUTTA")
    films[5].unlink()
    films[5].mkdir()
    broken: list[dict[str, Any]] = [
        {"Modality": "CT"},
        {"Rows": 8},
        {"BitsAllocated": 12},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"PhotometricInterpretation": "JEDERMANN"},
        {"Modality": "JEDERMANN"},
        {"SOPClassUID": "1.2.88123"},
        {"NumberOfFrames": "2"},
        {"PixelData": b""},
        {"WindowCenter": ["1", "2"], "WindowWidth": "0"},
    ]
    for place, values in enumerate(broken, start=6):
        dicom(films[place], **values)
    whole = films[6].read_bytes()
    for place, cut in enumerate((100, 150, 200, 300, len(whole) - 100), start=20):
        films[place].write_bytes(whole[:cut])
    assert silent_on_patients(f"check {here}/c.parquet", capfd)[0] in (0, 2)
    assert silent_on_patients(f"ingest {here}/c.parquet --out {here}/new --size 32 --workers 2", capfd)[0] == 0
    silent_on_patients(f"check {here}/new", capfd)
    shutil.rmtree(here / "films")
    assert silent_on_patients(f"ingest {here}/c.parquet --out {here}/none --size 32 --workers 1", capfd)[0] == 2
    assert silent_on_patients(f"check {here}/c.parquet", capfd)[0] == 2


# What lies between the commands


def cohort_with(root: Path, **cells: Any) -> None:
    """The cohort with other cells in its rows 3 and 7."""
    table = pq.read_table(root / "c.parquet")
    metadata = from_metadata(table.schema.metadata)
    for name, cell in cells.items():
        values = table[name].to_pylist()
        values[3] = values[7] = cell
        table = table.set_column(table.column_names.index(name), table.schema.field(name), [values])
    pq.write_table(table.replace_schema_metadata(to_metadata(metadata)), root / "c.parquet")


@pytest.mark.parametrize(
    "cells",
    [
        {"image_id": "IMG77345000"},
        {"patient_id": "MRN88123020"},
        {"split": "Jedermann"},
        {"split": None},
        {"path": None},
        {"path": "/etc/MRN88123/IMG77345.png"},
        {"label.Edema": 0.5},
        {"ehr.sex": "Jedermann^Jutta"},
        {"ehr.age": 881230.0},
    ],
    ids=str,
)
def test_a_cohort_with_a_fault_names_no_patient(
    cells: dict[str, Any], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cohort_with(here, **cells)
    for words in (
        f"check {here}/c.parquet",
        f"features {here}/c.parquet --out {here}/sets",
        f"ingest {here}/c.parquet --out {here}/new --size 32 --workers 1",
        f"ingest {here}/c.parquet --out {here}/new2 --size 32 --workers 1 --images {here}/films/MRN",
    ):
        silent_on_patients(words, capfd)
    if (here / "new").is_dir():
        for words in (
            f"evaluate {here}/encoder {here}/new --out {here}/r --resamples 5 --saliency 0 --device cpu",
            f"pretrain {here}/new --out {here}/run --train.steps 1 --dry-run",
        ):
            silent_on_patients(words, capfd)


@pytest.mark.parametrize("name", ["store/cohort.parquet", "results/predictions.parquet"])
def test_files_that_changed_name_no_patient(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rows turned round, then bytes lost: each command that reads them."""
    table = pq.read_table(here / name)
    pq.write_table(table.take(pa.array(range(table.num_rows), pa.int64())[::-1]), here / name)
    for _ in range(2):
        for words in (
            f"check {here}/store",
            f"evaluate {here}/encoder {here}/store --out {here}/r --resamples 5 --saliency 0 --no-baselines "
            "--device cpu",
            f"embed {here}/encoder {here}/store --out {here}/e.parquet --device cpu",
            f"compare {here}/results {here}/results --out {here}/cmp",
            f"report {here}/results --audit {here}/audit --store {here}/store --out {here}/page",
            f"export {here}/encoder --to huggingface --results {here}/results --out {here}/home",
        ):
            silent_on_patients(words, capfd)
        (here / name).write_bytes((here / name).read_bytes()[:-200])


def test_patients_who_were_pretrained_on_are_counted_and_not_named(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "train_patients.txt").write_text("\n".join(sorted({row["patient"] for row in rows()})) + "\n")
    for words in (
        f"evaluate {here}/encoder {here}/store --out {here}/r --resamples 5 --saliency 0 --device cpu",
        f"evaluate {here}/encoder {here}/store --external {here}/store --out {here}/r --resamples 5 --device cpu",
        f"audit {here}/encoder {here}/store --out {here}/a --resamples 5 --no-baselines --device cpu",
        f"audit {here}/encoder {here}/store --attributes name --out {here}/a --resamples 5 --device cpu",
    ):
        silent_on_patients(words, capfd)


def test_the_files_that_hold_identifiers_are_those_of_the_list(given: Path) -> None:
    """The list in SECURITY.md; of a store the pixels are no text."""

    def holds(file: Path) -> bool:
        text = str(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text(errors="replace")
        return any(secret in text for secret in SECRETS)

    made = [file for name in ("store", "results", "audit", "encoder") for file in (given / name).rglob("*")]
    made += [given / "c.parquet", given / "c.flow.json"]
    found = {file.name for file in made if file.is_file() and file.suffix != ".arrow" and holds(file)}
    assert found == {"c.parquet", "cohort.parquet", "predictions.parquet", "embeddings.parquet"}
    listed = (Path(__file__).parents[1] / "SECURITY.md").read_text().partition("identifiers\n\n|")[2]
    assert all(f"`{name}`" in listed for name in found - {"c.parquet"})


def test_what_results_say_in_words_names_no_patient(given: Path) -> None:
    """Beside the tables that hold ids by design."""
    for folder in ("results", "audit", "store"):
        for file in (given / folder).rglob("*"):
            if file.is_file() and file.suffix in (".json", ".jsonl", ".txt", ".md"):
                text = file.read_text()
                assert not [secret for secret in SECRETS if secret in text], file
    flow = json.loads((given / "c.flow.json").read_text())
    assert not [secret for secret in SECRETS if secret in json.dumps(flow)]
