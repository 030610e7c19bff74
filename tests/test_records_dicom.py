"""A PACS export -> cohort: real files, and files made by pydicom of every kind that an export holds."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from chartray.check import check, spoken
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.records import dicom_files
from chartray.records.cohort import Cohort, describe
from chartray.records.dicom import dicom_cohort

DICOM = (Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom").resolve()
CR, DX, CT = (
    UID(f"1.2.840.10008.5.1.4.1.1.{kind}") for kind in ("1", "1.1", "2")
)  # Computed Radiography, Digital X-Ray For Presentation, CT


def film(folder: Path, name: str, **tags: Any) -> Path:
    """A radiograph of the chest of 16 x 12 pixels with these tags; None leaves a tag out."""
    held: dict[str, Any] = {
        "SOPClassUID": DX,
        "SOPInstanceUID": generate_uid(entropy_srcs=[name]),
        "StudyInstanceUID": generate_uid(entropy_srcs=[f"study {name}"]),
        "PatientID": f"P{name}",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "Rows": 12,
        "Columns": 16,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
    } | tags
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = held["SOPClassUID"] or DX
    meta.MediaStorageSOPInstanceUID = held["SOPInstanceUID"] or generate_uid(entropy_srcs=[name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = folder / name
    data = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    for tag, value in held.items():
        if value is not None:
            setattr(data, tag, value)
    if "PixelData" not in held:
        shape = (12 * int(held.get("NumberOfFrames", 1)), 16)
        data.PixelData = np.random.default_rng(len(name)).integers(0, 255, shape, np.uint8).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(file, data, enforce_file_format=None not in (held["SOPClassUID"], held["SOPInstanceUID"]))
    return file


def code(value: str, meaning: str) -> Sequence:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return Sequence([item])


def steps(cohort: Cohort) -> dict[str, tuple[int, str]]:
    """step -> (images left out, why)."""
    return {step.step: (step.rows_in - step.rows_out, step.why) for step in cohort.flow}


def row_of(cohort: Cohort, name: str) -> dict[str, Any]:
    (row,) = (row for row in cohort.table.to_pylist() if row["path"].endswith(f"/{name}"))
    return row


@pytest.mark.skipif(not DICOM.exists(), reason="shared/data/dicom is not here")
def test_real_files_are_what_a_plain_loop_over_their_headers_says(tmp_path: Path) -> None:
    cohort = dicom_cohort(DICOM)
    with (DICOM / "MANIFEST.csv").open() as lines:
        manifest = {row["file"]: row for row in csv.DictReader(lines)}
    expected = {
        name
        for name, row in manifest.items()
        if row["modality"] in ("CR", "DX")
        and row["body_part"] == "CHEST"
        and "PatientID" in pydicom.dcmread(DICOM / name)
    }
    rows = {Path(row["path"]).name: row for row in cohort.table.to_pylist()}
    assert set(rows) == expected
    for name, row in rows.items():
        data = pydicom.dcmread(DICOM / name)
        assert (row["image_id"], row["patient_id"]) == (data.SOPInstanceUID, data.PatientID)
        assert row["ehr.sex"] == {"M": "male", "F": "female"}[data.PatientSex]
        assert row["ehr.view"] == (data.get("ViewPosition") or data.PatientPosition)
        assert row["scan.modality"] == manifest[name]["modality"]
        if "PatientAge" in data:
            assert row["ehr.age"] == float(data.PatientAge)
        if "StudyDate" in data:
            assert row["taken_at"].strftime("%Y%m%d%H%M%S") == data.StudyDate + data.StudyTime
    told = steps(cohort)
    assert told["images in DICOM"] == (3, "no DICOM 3")
    assert told["Modality CR or DX"] == (1, "CT 1")
    assert told["chest, or no body part named"] == (5, "EXTREMITY 4, HIP 1")
    assert told["patient_id given"][0] == 1
    assert told["view from the tags"] == (0, "PatientPosition 2, ViewPosition 1")


def test_all_else_of_an_export_is_left_out_with_its_count_and_reason(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    film(folder, "1/A/IM0001")
    film(folder, "1/A/IM0002", BodyPartExamined="", SeriesDescription="Thorax p.a.", ViewPosition="")
    film(folder, "1/B/nothing said", BodyPartExamined=None, ViewPosition=None)
    film(folder, "2/ct", Modality="CT", SOPClassUID=CT)
    film(folder, "2/name", Modality="MUELLER")
    film(folder, "2/hand", BodyPartExamined="HAND")
    film(folder, "2/spine", BodyPartExamined="", SeriesDescription="Thoracic spine ap")
    film(folder, "2/frames", NumberOfFrames=3)
    film(folder, "2/raw", PresentationIntentType="FOR PROCESSING")
    film(folder, "2/burned", BurnedInAnnotation="YES")
    film(folder, "2/lateral", ViewPosition="LL")
    original = film(folder, "3/once", SOPInstanceUID="1.2.3")
    shutil.copy(original, folder / "3" / "twice")
    film(folder, "3/thrice", SOPInstanceUID="1.2.3", PatientID="another")
    whole = film(folder, "4/cut").read_bytes()
    (folder / "4" / "cut").write_bytes(whole[:200])
    (folder / "notes.txt").write_text("no image")
    (folder / "empty").touch()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2.840.10008.1.3.10"), "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128).save_as(folder / "DICOMDIR", enforce_file_format=True)
    cohort = dicom_cohort(folder, laterals=False)
    names = [os.path.relpath(path, folder) for path in cohort.table["path"].to_pylist()]
    assert names == ["1/A/IM0001", "1/A/IM0002", "1/B/nothing said", "3/once"]
    told = steps(cohort)
    assert told["images in DICOM"][0] == 4
    assert "a DICOMDIR 1" in told["images in DICOM"][1]
    assert "no DICOM 1" in told["images in DICOM"][1]
    assert told["Modality CR or DX"] == (2, "CT 1, another Modality 1")
    assert told["one frame, for presentation"][0] == 2
    assert "3 frames" not in told["one frame, for presentation"][1]
    assert told["chest, or no body part named"] == (2, "HAND 1, SPINE 1")
    assert told["no burned-in text"] == (1, "BurnedInAnnotation YES 1")
    assert told["no lateral view"] == (1, "a lateral view 1")
    assert told["each SOPInstanceUID once"] == (
        2,
        "the SOPInstanceUID of another patient's file 1, a copy of another file 1",
    )
    assert "MUELLER" not in describe(cohort)


def test_what_the_tags_say_of_one_image(tmp_path: Path) -> None:
    """Each value from the tag that has it, also where hospitals write it in another way."""
    film(
        tmp_path, "a", PatientSex="M", PatientAge="018M", ViewPosition="LATERAL", StudyDate="20200131",
        StudyTime="1100", PixelSpacing=[0.2, 0.2], ExposureInuAs="2500", Manufacturer="FUJI PHOTO FILM CO. LTD.",
        Modality="CR",
    )  # fmt: skip
    film(
        tmp_path, "b", PatientSex="F", PatientBirthDate="19500101", ViewPosition=None, StudyDate="20200702",
        ViewCodeSequence=code("399348003", "antero-posterior"), AcquisitionDate="20200702", AcquisitionTime="093012.5",
        ImagerPixelSpacing=[0.1, 0.1], Exposure="3", Manufacturer="Fuji Photo Film Co. Ltd.", BurnedInAnnotation="NO",
    )  # fmt: skip
    film(
        tmp_path, "c", PatientSex="O", PatientAge="411", ViewPosition=None, SeriesDescription="W Chest LAT",
        ContentDate="2020.02.01", ContentTime="09:05:07", Manufacturer="Philips", PatientOrientation=["R", "F"],
        BodyPartExamined=None, AnatomicRegionSequence=code("51185008", "Chest"),
    )  # fmt: skip
    film(tmp_path, "d", ViewPosition="PA", ViewCodeSequence=code("399348003", "antero-posterior"), StudyDate="20200101")
    cohort = dicom_cohort(tmp_path)
    said = {name: row_of(cohort, name) for name in "abcd"}
    assert [row["ehr.sex"] for row in said.values()] == ["male", "female", None, None]
    assert [row["ehr.age"] for row in said.values()] == [1.5, 70.5, None, None]
    assert [row["ehr.view"] for row in said.values()] == ["LATERAL", "AP", "LATERAL", None]
    assert [row["taken_at"] and row["taken_at"].isoformat() for row in said.values()] == [
        "2020-01-31T11:00:00",
        "2020-07-02T09:30:12.500000",
        "2020-02-01T09:05:07",
        "2020-01-01T00:00:00",
    ]
    assert [row["ehr.pixel_spacing"] for row in said.values()] == [0.2, 0.1, None, None]
    assert [row["ehr.exposure"] for row in said.values()] == [2.5, 3.0, None, None]
    assert said["a"]["ehr.manufacturer"] == said["b"]["ehr.manufacturer"] != said["c"]["ehr.manufacturer"]
    assert [row["scan.body_part"] for row in said.values()] == ["CHEST"] * 4
    assert [row["scan.turned"] for row in said.values()] == [False, False, True, False]
    assert [row["scan.burned_in"] for row in said.values()] == [None, "NO", None, None]
    assert cohort.missing["sex"] == {"O": 1, "absent": 1}
    told = steps(cohort)
    assert told["time from the tags"][1].count("without a time of day 1") == 1
    assert "tags that disagree 1" in told["view from the tags"][1]
    assert told["orientation from the tags"][1].startswith("1 turned or mirrored")


def test_only_new_files_are_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted reading continues; what is read shows in the sizes and times that a file keeps or not."""
    export, kept = tmp_path / "export", tmp_path / "c.headers"
    for name in "abc":
        film(export, name, PatientSex="M")
    dicom_cohort(export, headers=kept)
    state = (export / "a").stat()
    for name in "ab":  # other content, of which only b shows it
        film(export, name, PatientSex="F")
    os.utime(export / "a", ns=(state.st_atime_ns, state.st_mtime_ns))
    film(export, "d", PatientSex="F")
    (export / "c").unlink()
    cohort = dicom_cohort(export, headers=kept)
    assert [row_of(cohort, name)["ehr.sex"] for name in "abd"] == ["male", "female", "female"]
    assert cohort.table.num_rows == 3
    for part in kept.iterdir():  # a damaged part is not believed
        part.write_bytes(part.read_bytes()[:-40])
    assert row_of(dicom_cohort(export, headers=kept), "a")["ehr.sex"] == "female"


@pytest.mark.slow
def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_files, "_FEW", 1)
    monkeypatch.setattr(dicom_files, "_CHUNK", 7)
    for place in range(30):
        film(tmp_path, f"{place % 7}/{place}", ViewPosition="PA" if place % 3 else "AP")
    one, two = (dicom_cohort(tmp_path, workers=workers) for workers in (1, 2))
    assert one.table.num_rows == 30
    assert one.table.equals(two.table)


def test_a_pipe_a_device_and_links_that_lead_out_are_counted_and_not_read(tmp_path: Path) -> None:
    export, outside = tmp_path / "export", tmp_path / "outside"
    film(export, "a")
    film(outside, "b")
    os.mkfifo(export / "pipe")
    (export / "zero").symlink_to("/dev/zero")
    (export / "out").symlink_to(outside / "b")
    (export / "folder").symlink_to(outside)
    (export / "nowhere").symlink_to(outside / "c")
    Path(os.fsdecode(os.fsencode(export) + b"/\xff")).write_text("a name in Latin 1")
    cohort = dicom_cohort(export)
    assert cohort.table.num_rows == 1
    left_out, why = steps(cohort)["images in DICOM"]
    assert left_out == 6
    for reason in ("a link that leads out of the folder 1", "a link to a folder 1", "no such file 1", "no UTF-8"):
        assert reason in why


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "expected DICOM images in {}, found no file; check the path"),
        ({"a": "text"}, "expected images in DICOM in {}, found none among 1 file (no DICOM 1); check the path"),
    ],
)
def test_a_folder_without_dicom_is_refused(tmp_path: Path, content: dict[str, str], sentence: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as refusal:
        dicom_cohort(tmp_path)
    assert str(refusal.value) == sentence.format(tmp_path)


def test_check_names_what_the_images_show(tmp_path: Path) -> None:
    """Of DICOM, also in a store; and of an own table, whose variables have the same names."""
    export = tmp_path / "export"
    for place in range(4):
        film(
            export, f"{place}", BurnedInAnnotation="NO" if place else None,
            ViewPosition=["PA", "AP", "LL", None][place], Modality="CR" if place else "DX",
            BodyPartExamined="CHEST" if place < 3 else None,
            PatientOrientation=["R", "F"] if place == 1 else ["L", "F"],
        )  # fmt: skip
    out, store = tmp_path / "c.parquet", tmp_path / "store"
    assert run_command(["cohort", "dicom", str(export), "--out", str(out)]) == 0
    assert run_command(["ingest", str(out), "--out", str(store), "--size", "32", "--workers", "1"]) == 0
    for said in (spoken(check(out)), spoken(check(store))):
        lines = "\n".join(said)
        for line in (
            "note: Modality: CR 3, DX 1 [",
            "note: body part: CHEST 3, not stated 1 [",
            "note: view: AP 1, LATERAL 1, PA 1, not stated 1 [",
            "note: 1 lateral view among frontal views [",
            "note: burned-in text: the header of 1 of 4 images does not say whether there is any [",
            "note: 1 image turned or mirrored, as their headers say; `ingest` makes them upright [",
        ):
            assert line in lines
    columns = "file,mrn,mod,part,text\n0,1,CR,CHEST,0\n1,2,CT,HAND,1\n2,3,CR,,0\n"
    (tmp_path / "own.csv").write_text(columns)
    (tmp_path / "own.yaml").write_text(
        "image_id: file\npatient_id: mrn\npath: file\nehr:\n"
        "  modality: {column: mod, kind: categorical, levels: [CR, CT]}\n"
        "  body_part: {column: part, kind: categorical, levels: [CHEST, HAND]}\n"
        "  burned_in: {column: text, kind: boolean}\n"
    )
    arguments = [
        "--mapping",
        str(tmp_path / "own.yaml"),
        "--images",
        str(export),
        "--out",
        str(tmp_path / "own.parquet"),
    ]
    assert run_command(["cohort", "table", str(tmp_path / "own.csv"), *arguments]) == 0
    lines = "\n".join(spoken(check(tmp_path / "own.parquet")))
    assert "warning: 1 image whose Modality is not CR or DX or X-ray or RG or DR [own.parquet, row 2]" in lines
    assert "warning: 1 image whose body part is not CHEST [own.parquet, row 2]" in lines
    assert "warning: 1 image with burned-in text, which may name a patient [own.parquet, row 2]" in lines


MAPPING = """
charts: {on: {PatientID: mrn}, time: drawn, within_days: 2}
ehr:
  tube: {column: KVP, kind: numeric, range: [20, 200], unit: kV, group: scan}
  crp: {column: crp, kind: numeric, range: [0, 600]}
labels: {Pneumonia: {column: pneumonia}}
"""


def test_the_chart_in_a_database_is_joined_by_patient_and_time(tmp_path: Path) -> None:
    """The last value before StudyDate and StudyTime, without a time before that day; the mapping may name any tag."""
    for name, clock in (("a", "080000"), ("b", "120000"), ("c", None)):
        film(tmp_path / "export", name, PatientID="0017", StudyDate="20200302", StudyTime=clock, KVP="125")
    film(tmp_path / "export", "d", PatientID="0018", StudyDate="20200302", StudyTime="120000")
    film(tmp_path / "export", "slice", Modality="CT")
    with duckdb.connect(str(tmp_path / "base.duckdb")) as base:
        base.execute("create table laboratory (mrn text, drawn timestamp, crp double, pneumonia integer)")
        base.execute(
            "insert into laboratory values ('0017', '2020-03-01 09:00', 5, 1), ('0017', '2020-03-02 09:30', 8, null), "
            "('0017', '2020-02-01', 600, 0), ('0017', '2020-03-02 12:00:01', 500, 0), ('0019', '2020-03-02', 1, 1)"
        )
    (tmp_path / "m.yaml").write_text(MAPPING)
    cohort = dicom_cohort(tmp_path / "export", tmp_path / "m.yaml", [f"duckdb://{tmp_path}/base.duckdb#laboratory"])
    said = {name: row_of(cohort, name) for name in "abcd"}
    assert [row["ehr.crp"] for row in said.values()] == [5.0, 8.0, 5.0, None]
    assert [row["label.Pneumonia"] for row in said.values()] == [1.0, 1.0, 1.0, None]
    assert [row["ehr.tube"] for row in said.values()] == [125.0, 125.0, 125.0, None]
    # Failed before: the slice that was left out was among the images that the chart was joined to.
    (joined,) = (step for step in cohort.flow if step.step == "chart joined")
    assert (joined.rows_in, joined.rows_out) == (4, 4)
    assert joined.why.startswith("3 of 4 have a row in ")


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ("labels: {A: {column: pneumonya}}", r"expected a column 'pneumonya' in .*chart.csv \(labels.A .*'pneumonia'"),
        ("charts: {on: {AccessionNumber: mrn}}", "expected images of .* in .*chart.csv by AccessionNumber = mrn, "
         "found none"),
        ("charts: {on: {PatientId: mrn}}", r"expected a column 'PatientId' in .* \(charts.on of .*mean 'PatientID'"),
        ("chart: {on: PatientID}", r"found 'chart' \(did you mean 'charts'\?\)"),
        ("charts: {on: {PatientID: mrn}}", "expected one row for each mrn in .* found two with different cells in "
         "column 'crp', data row 1 of .*chart.csv and data row 2 of .*chart.csv"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_is_refused(tmp_path: Path, mapping: str, sentence: str) -> None:
    film(tmp_path / "export", "a", PatientID="88001234")
    (tmp_path / "chart.csv").write_text("mrn,crp,pneumonia\n88001234,1,1\n88001234,2,1\n")
    usual = "charts: {on: {PatientID: mrn}}\nehr: {crp: {column: crp, kind: numeric, range: [0, 600]}}\n"
    rest = "" if mapping.startswith(("charts", "chart:")) else "charts: {on: {PatientID: mrn}}\n"
    (tmp_path / "m.yaml").write_text(f"{rest}{usual.splitlines()[1]}\n{mapping}\n")
    with pytest.raises(InputError, match=sentence) as refusal:
        dicom_cohort(tmp_path / "export", tmp_path / "m.yaml", [str(tmp_path / "chart.csv")])
    assert "88001234" not in str(refusal.value)


def test_nothing_of_a_patient_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """pydicom warns of values that it finds odd, and quotes them; a hospital's log is no place for them."""
    export = tmp_path / "export"
    secrets = ("Doe^Jane", "88001234", "19570412", "A7700001")
    film(
        export, secrets[1], PatientID=secrets[1], PatientName=secrets[0], PatientBirthDate=secrets[2],
        StudyDate="20200302", AccessionNumber=secrets[3], PatientAge="DOE JANE", Manufacturer="ACME",
        SOPInstanceUID="1.2.3",
    )  # fmt: skip
    film(export, "b", PatientID="P2", Manufacturer="Other", Modality="DOE", BodyPartExamined="CHEST")
    film(export, "c", PatientID="P2", Manufacturer="Doe^Jane", BodyPartExamined=secrets[1])
    film(export, "d", PatientID="P3", Manufacturer="Doe^Jane", StudyInstanceUID="88001234.x", ViewPosition="88001234")
    capfd.readouterr()
    assert run_command(["cohort", "dicom", str(export), "--out", str(tmp_path / "c.parquet")]) == 0
    printed = "".join(capfd.readouterr()) + (tmp_path / "c.flow.json").read_text()
    for secret in (*secrets, "DOE JANE"):
        assert secret not in printed.replace(str(tmp_path), "")


def test_the_same_patient_in_two_spellings_is_refused_without_the_id(tmp_path: Path) -> None:
    film(tmp_path, "a", PatientID="P0012")
    film(tmp_path, "b", PatientID="p0012")
    film(tmp_path, "c", PatientID="p12", Modality="CT")
    with pytest.raises(InputError, match="'A9999' in data row 1 and 'a9999' in data row 2") as refusal:
        dicom_cohort(tmp_path)
    assert "0012" not in str(refusal.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--modality", "CR,CT"], "expected --modality of CR, DX, RG, DR, RF, DF, SC, HC, OT, found 'CT'"),
        (["--modality", ","], "expected --modality of CR, DX, RG, DR, RF, DF, SC, HC, OT, found 'none'"),
        (["--charts", "chart.csv"], "expected 'charts' in a mapping (--mapping), which says how --charts is joined"),
        (["--mapping", "absent.yaml"], "absent.yaml"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tmp_path / "export", "a")
    out = tmp_path / "c.parquet"
    assert run_command(["cohort", "dicom", str(tmp_path / "export"), "--out", str(out), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()
