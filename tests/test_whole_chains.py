"""Two whole chains on real data, by the command line, each cell against a plain loop over what the hospital wrote."""

import csv
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import torch
from PIL import Image
from torch.nn import functional

from chartray import load_encoder
from chartray.cli import run_command
from chartray.pixels.store import Store
from tests.test_dicom import dcmtk
from tests.test_records_dicom import film

ROOT = Path(__file__).resolve().parents[1]
COVID = (ROOT.parent / "shared" / "data" / "covid-chestxray-cc-224px").resolve()
NIH = (ROOT.parent / "shared" / "data" / "nih-chestxray14-64px").resolve()
DICOM = (ROOT.parent / "shared" / "data" / "dicom").resolve()
# Half of the images' shorter side (224) is less: so no JPEG is decoded at half its size.
SIZE = 128
POSITIVE = ("COVID-19", "COVID-19, ARDS")
NEGATIVE = (
    "No Finding",
    "Streptococcus",
    "Pneumocystis",
    "Klebsiella",
    "E.Coli",
    "Varicella",
    "Legionella",
    "Chlamydophila",
    "Bacterial",
    "ARDS",
)


def chartray(*words: object) -> None:
    assert run_command([str(word) for word in words]) == 0


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def squashed(grey: np.ndarray) -> np.ndarray:
    """Of an image (H, W) in [0, 1] what a store of SIZE should hold, in [0, 255]."""
    picture = Image.fromarray(np.ascontiguousarray(grey, np.float32) * 255)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


# ---- a messy chart, from the csv to the encoder that is taken home


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not COVID.exists():
        pytest.skip("the films of covid-chestxray are not in ../shared/data")
    folder = tmp_path_factory.mktemp("covid")
    cohort, store, run, results = (folder / name for name in ("c.parquet", "store", "run", "results"))
    chartray(
        "cohort", "table", COVID / "metadata.csv", "--mapping", ROOT / "examples" / "covid-chestxray.yaml",
        "--images", COVID / "images", "--out", cohort,
    )  # fmt: skip
    chartray("check", cohort)
    chartray("ingest", cohort, "--out", store, "--size", SIZE, "--workers", 1)
    chartray("check", store)
    chartray("pretrain", store, "--out", run, "--recipe", "tiny-cpu", "--train.steps", 4, "--train.batch_size", 16)
    chartray("evaluate", run, store, "--out", results, "--resamples", 20)
    chartray("report", results, "--run", run, "--out", folder / "report")
    chartray("export", run, "--out", folder / "export", "--results", results)
    return folder


@pytest.mark.slow
def test_every_image_of_the_store_is_the_picture_of_its_row(chain: Path) -> None:
    store, rows = Store.open(chain / "store"), rows_of(COVID / "metadata.csv")
    assert store.cohort["image_id"].to_pylist() == [row["file"] for row in rows]
    assert len(pq.read_table(chain / "store" / "quarantine.parquet")) == 0
    for place, row in enumerate(rows):
        picture = np.asarray(Image.open(COVID / "images" / row["file"]).convert("L"))
        assert (store.cohort["height"][place].as_py(), store.cohort["width"][place].as_py()) == picture.shape
        np.testing.assert_allclose(store.images[place], squashed(picture / 255), atol=1.01)


@pytest.mark.slow
def test_every_truth_is_the_cell_of_the_csv_and_a_blank_is_none(chain: Path) -> None:
    rows = {row["file"]: row for row in rows_of(COVID / "metadata.csv")}
    cohort = pq.read_table(chain / "c.parquet", columns=["image_id", "split"]).to_pylist()
    test = [row["image_id"] for row in cohort if row["split"] == "test"]
    found = pq.read_table(chain / "results" / "predictions.parquet").to_pylist()
    arms: dict[str, list[dict[str, object]]] = {}
    for each in found:
        arms.setdefault(str(each["control"]), []).append(each)
    assert set(arms) == {"none", "untrained", "pixels", "chart-only", "image+chart"}
    for predictions in arms.values():
        assert Counter(each["image_id"] for each in predictions) == dict.fromkeys(test, 2)
        for each in predictions:
            row = rows[each["image_id"]]
            assert each["patient_id"] == row["patientid"]
            if each["label"] == "Died":
                truth = {"N": 1.0, "Y": 0.0}.get(row["survival"])
            else:
                truth = 1.0 if row["finding"] in POSITIVE else 0.0 if row["finding"] in NEGATIVE else None
            assert each["truth"] == truth
    blank = sum(rows[image]["survival"] in ("", "?") for image in test)
    assert sum(each["truth"] is None and each["label"] == "Died" for each in arms["none"]) == blank == 55


@pytest.mark.slow
def test_the_numbers_are_those_of_a_plain_loop_over_the_predictions(chain: Path) -> None:
    predictions = pq.read_table(chain / "results" / "predictions.parquet").to_pylist()
    lines = [json.loads(line) for line in (chain / "results" / "results.jsonl").read_text().splitlines()]
    compared = 0
    for line in lines:
        if line["metric"] != "auroc" or line["label"] == "macro":
            continue
        of = [each for each in predictions if (each["label"], each["control"]) == (line["label"], line["control"])]
        ones, zeros = ([each["score"] for each in of if each["truth"] == truth] for truth in (1.0, 0.0))
        assert (line["n"], line["n_positive"]) == (len(ones) + len(zeros), len(ones))
        if not ones or not zeros:
            assert line["value"] is None
            continue
        won = sum((one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros)
        assert line["value"] == pytest.approx(won / (len(ones) * len(zeros)), abs=1e-9)
        compared += 1
    assert compared == 5


@pytest.mark.slow
def test_what_is_taken_home_gives_the_features_that_were_scored(chain: Path) -> None:
    rows = pq.read_table(chain / "results" / "embeddings.parquet").to_pylist()
    store, model = Store.open(chain / "store"), load_encoder(chain / "export")
    places = {image: place for place, image in enumerate(store.cohort["image_id"].to_pylist())}
    assert {row["image_id"] for row in rows} == set(places)
    grey = json.loads((chain / "export" / "config.json").read_text())["pretrained_cfg"]
    for row in rows[::20]:
        image = torch.from_numpy(store.images[places[row["image_id"]]].astype(np.float32) / 255)[None, None]
        image = functional.interpolate(image, grey["input_size"][1:], mode="bilinear", antialias=True)
        with torch.no_grad():
            features = model((image - grey["mean"][0]) / grey["std"][0])[0]
        np.testing.assert_allclose(features.numpy(), row["embedding"], atol=1e-3)


# ---- DICOM, from the manifest to the store


def shown_by_dcmtk(file: Path, copy: Path) -> np.ndarray:
    """The image, (H, W) in [0, 1], by DCMTK; JPEG 2000, which it lacks, is taken out of its wrapping first."""
    data = pydicom.dcmread(file)
    tools = {"1.2.840.10008.1.2.4.70": "dcmdjpeg", "1.2.840.10008.1.2.4.51": "dcmdjpeg"}
    tools |= {"1.2.840.10008.1.2.4.81": "dcmdjpls", "1.2.840.10008.1.2.5": "dcmdrle"}
    syntax = data.file_meta.TransferSyntaxUID
    if syntax in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"):
        data.decompress()
        data.save_as(copy)
    else:
        subprocess.run([tools.get(syntax, "dcmconv"), file, copy], check=True, capture_output=True)
    shown = dcmtk(copy, *(["+Wi", "1"] if "WindowWidth" in data else []))
    return shown[:, ::-1] if list(data.get("PatientOrientation") or []) == ["R", "F"] else shown


@pytest.mark.skipif(not DICOM.exists(), reason="shared/data/dicom is not here")
@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="DCMTK is not installed (apt-get install dcmtk)")
def test_a_folder_of_dicom_is_dcmtks_in_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = rows_of(DICOM / "MANIFEST.csv")
    with (tmp_path / "films.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["sop", "film", "file", "chest", "bits"])
        for place, row in enumerate(manifest):
            chest = "yes" if row["body_part"] == "CHEST" else "no"
            writer.writerow([f"1.2.840.113619.2.{place}", row["film"], row["file"], chest, row["bits_stored"]])
    (tmp_path / "mapping.yaml").write_text(
        "image_id: sop\npatient_id: film\npath: file\nsplit_shares: {train: 1, validate: 0, test: 0}\n"
        "ehr: {bits: {column: bits, kind: numeric, range: [1, 16], group: scan}}\nlabels: {Chest: {column: chest}}\n"
    )
    cohort, store = tmp_path / "c.parquet", tmp_path / "store"
    chartray(
        "cohort", "table", tmp_path / "films.csv", "--mapping", tmp_path / "mapping.yaml",
        "--images", DICOM, "--out", cohort,
    )  # fmt: skip
    for row, made in zip(manifest, pq.read_table(cohort).to_pylist(), strict=True):
        assert (made["patient_id"], made["path"]) == (row["film"], str(DICOM / row["file"]))
        assert (made["ehr.bits"], made["label.Chest"]) == (int(row["bits_stored"]), row["body_part"] == "CHEST")
    chartray("ingest", cohort, "--out", store, "--size", SIZE, "--workers", 1)
    said = capsys.readouterr().out
    assert "quarantine: 1 (its Modality is CT, not that of a radiograph" in said
    stored = Store.open(store)
    kept = [row for row in manifest if row["modality"] != "CT"]
    names = [Path(path).name for path in stored.cohort["path"].to_pylist()]
    assert names == [row["file"] for row in kept]
    assert len(kept) == len(manifest) - 1
    for place, row in enumerate(kept):
        shown = shown_by_dcmtk(DICOM / row["file"], tmp_path / "film.dcm")
        assert (stored.cohort["height"][place].as_py(), stored.cohort["width"][place].as_py()) == shown.shape
        assert shown.shape == (int(row["rows"]), int(row["columns"]))
        np.testing.assert_allclose(stored.images[place], squashed(shown), atol=1.6, err_msg=row["file"])


# ---- a folder of DICOM with its chart, from the headers to the scores

CHART = """
name: pacs
charts: {on: {AccessionNumber: accession}}
ehr:
  crp: {column: crp, kind: numeric, range: [0, 600], unit: mg/L, group: laboratory}
labels:
  Effusion: {column: findings, separator: "|", true: [Effusion], others_mean: false}
"""


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """Real radiographs as DICOM, half of them turned on their head or mirrored and said so; row of each image."""
    if not NIH.exists():
        pytest.skip("the NIH images are not in ../shared/data")
    folder, rows = tmp_path_factory.mktemp("pacs"), {}
    found = rows_of(NIH / "Data_Entry_2017_v2020.csv")
    chosen = [row for row in found if "Effusion" in row["Finding Labels"]][:60] + found[:100]
    chart = [["accession", "crp", "findings"]]
    for place, row in enumerate({row["Image Index"]: row for row in chosen}.values()):
        grey = np.asarray(Image.open(next(NIH.glob(f"**/{row['Image Index']}"))).convert("L"))
        stored, orientation = [(grey, ["L", "F"]), (grey[:, ::-1], ["R", "F"]), (grey[::-1], ["L", "H"])][place % 3]
        image = film(
            folder / "export", f"{place % 5}/{place}", Modality="DX", Rows=64, Columns=64, PatientID=row["Patient ID"],
            PatientSex=row["Patient Gender"], PatientAge=f"{int(row['Patient Age']):03}Y",
            AccessionNumber=f"A{place:04}", ViewPosition=row["View Position"],
            PatientOrientation=orientation, PixelData=stored.tobytes(),
        )  # fmt: skip
        rows[f"{place % 5}/{place}"] = row | {"crp": str(place % 90)}
        assert image.exists()
        chart.append([f"A{place:04}", str(place % 90), row["Finding Labels"]])
    with (folder / "chart.csv").open("w", newline="") as table:
        csv.writer(table).writerows(chart)
    (folder / "chart.yaml").write_text(CHART)
    return folder, rows


@pytest.mark.slow
def test_a_pacs_export_with_its_chart_is_pretrained_and_scored(pacs: tuple[Path, dict[str, dict[str, str]]]) -> None:
    folder, rows = pacs
    cohort, store, run, results = (folder / name for name in ("c.parquet", "store", "run", "results"))
    chartray(
        "cohort", "dicom", folder / "export", "--mapping", folder / "chart.yaml", "--charts", folder / "chart.csv",
        "--out", cohort,
    )  # fmt: skip
    chartray("check", cohort)
    chartray("ingest", cohort, "--out", store, "--size", 64, "--workers", 1)
    chartray("check", store)
    chartray(
        "pretrain", store, "--out", run, "--recipe", "tiny-cpu", "--train.steps", 4, "--train.batch_size", 16,
        "--ehr", "sex,age,view,crp",
    )  # fmt: skip
    chartray("evaluate", run, store, "--out", results, "--resamples", 20)
    opened = Store.open(store)
    made = {row["path"].removeprefix(f"{folder}/export/"): row for row in opened.cohort.to_pylist()}
    assert set(made) == set(rows)
    for place, path in enumerate(row["path"].removeprefix(f"{folder}/export/") for row in opened.cohort.to_pylist()):
        row, held = rows[path], made[path]
        grey = np.asarray(Image.open(next(NIH.glob(f"**/{row['Image Index']}"))).convert("L"))
        np.testing.assert_allclose(opened.images[place], grey, atol=1.01)
        assert (held["patient_id"], held["ehr.age"], held["ehr.crp"]) == (
            row["Patient ID"],
            float(row["Patient Age"]),
            float(row["crp"]),
        )
        assert held["label.Effusion"] == float("Effusion" in row["Finding Labels"].split("|"))
    truths = {row["image_id"]: row["label.Effusion"] for row in made.values()}
    predictions = pq.read_table(results / "predictions.parquet").to_pylist()
    assert predictions
    assert all(each["truth"] == truths[each["image_id"]] for each in predictions)
