"""check: each defect, planted in a clean cohort or store, is found, counted and named, and nothing else is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chartray.check import check, spoken
from chartray.checks.finding import Finding
from chartray.checks.images import border_and_lungs
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.flow import CohortFlow
from chartray.pixels.ingest import ingest
from chartray.pixels.read import decode_image, squash
from chartray.records.cohort import write_cohort
from chartray.records.cohort_files import write_cohort_files
from chartray.records.mimic import mimic_cohort
from chartray.schema import CohortMetadata, LabelSource, from_metadata, to_metadata
from chartray.simulate.hospital import simulate
from tests.conftest import FILM_SIZE, FILMS, small_cohort

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    small_cohort(folder)
    return folder


@pytest.fixture(scope="module")
def clean(images: Path) -> pa.Table:
    """The small cohort with everything in order: nothing missing, nothing known too late."""
    table = small_cohort(images)
    patients = np.arange(FILMS) // 2
    generator = np.random.default_rng(5)
    sex = np.where(generator.random(FILMS // 2) < 0.5, "male", "female")[patients]
    age = generator.integers(20, 90, FILMS // 2).astype(float)[patients]
    table = table.drop_columns(["ehr.died"])
    for name, values in (("ehr.sex", pa.array(sex)), ("ehr.age", pa.array(age))):
        table = table.set_column(table.column_names.index(name), name, values)
    metadata = from_metadata(small_cohort(images).schema.metadata)
    del metadata.variables["died"]
    return table.replace_schema_metadata(to_metadata(metadata))


def written(table: pa.Table, folder: Path, flow: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    write_cohort_files(table, CohortFlow.model_validate({"source": "table"} | (flow or {})), folder / "c.parquet")
    return folder / "c.parquet"


def with_cells(table: pa.Table, name: str, cells: dict[int, Any]) -> pa.Table:
    values = table[name].to_pylist()
    for row, value in cells.items():
        values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def with_metadata(table: pa.Table, change: Callable[[CohortMetadata], None]) -> pa.Table:
    metadata = from_metadata(table.schema.metadata)
    change(metadata)
    return table.replace_schema_metadata(to_metadata(metadata))


def serious(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "note"]


def test_a_clean_cohort_has_nothing_wrong(clean: pa.Table, tmp_path: Path) -> None:
    findings = check(written(clean, tmp_path))
    assert serious(findings) == []
    assert [finding.what for finding in findings] == ["all images tried are readable (200 of 240, evenly spaced)"]
    assert spoken(findings)[-1] == "0 errors, 0 warnings, 1 note: ready for training"


PLANTED: dict[str, tuple[Callable[[pa.Table], pa.Table], str, str, int]] = {
    "an id twice": (
        lambda t: with_cells(t, "image_id", {7: "film-3", 9: "film-3"}),
        "error",
        "2 images with the image_id of an earlier row",
        2,
    ),
    "no patient": (lambda t: with_cells(t, "patient_id", {4: None}), "error", "1 image without patient_id", 1),
    "a file twice": (
        lambda t: with_cells(t, "path", {20: t["path"][0].as_py()}),
        "warning",
        "1 image with the file of an earlier row",
        1,
    ),
    "a patient in two splits": (
        lambda t: with_cells(t, "split", {0: "test"}),
        "error",
        "1 patient with images in two splits",
        1,
    ),
    "a label that is no label": (
        lambda t: with_cells(t, "label.Disc", {2: 0.5, 11: float("inf")}),
        "error",
        "2 images with 'Disc' other than 1, 0, -1 and blank",
        2,
    ),
    "an age beyond its range": (
        lambda t: with_cells(t, "ehr.age", {2: 140.0, 3: float("nan")}),
        "error",
        "2 images with age outside 0 to 110",
        2,
    ),
    "a level that is none": (
        lambda t: with_cells(t, "ehr.sex", {2: "M", 3: "M"}),
        "error",
        "2 images with sex other than its levels male, female",
        2,
    ),
    "two sexes": (
        lambda t: with_cells(t, "ehr.sex", {2: "male", 3: "female"}),
        "warning",
        "1 patient with more than one sex",
        1,
    ),
    "one level": (
        lambda t: with_cells(t, "ehr.sex", dict.fromkeys(range(FILMS), "male")),
        "warning",
        "sex is constant in the training split",
        144,
    ),
    "missing in one split": (
        lambda t: with_cells(t, "ehr.age", {r: None for r in range(FILMS) if t["split"][r].as_py() == "test"}),
        "warning",
        "age is missing for 48 images (train 0 %, validate 0 %, test 100 %)",
        48,
    ),
    "a label that is always there": (
        lambda t: with_cells(t, "label.Bars", {r: 1.0 for r in range(FILMS) if t["split"][r].as_py() == "train"}),
        "warning",
        "labels with a single class in the train split: Bars (no negative)",
        1,
    ),
    "few patients of a class": (
        lambda t: with_cells(
            t,
            "label.Bars",
            {r: float(r % 60 == 8) for r in range(FILMS) if t["split"][r].as_py() == "test"},
        ),
        "warning",
        "labels with fewer than 10 patients of one class in the test split: Bars (4 positive)",
        1,
    ),
    "label and variable of one column": (
        lambda t: with_metadata(
            t,
            lambda m: (
                m.labels.update(Disc=LabelSource(columns=("age",)))
                or m.variables.update(age=m.variables["age"].model_copy(update={"columns": ("age",)}))
            ),
        ),
        "warning",
        "the label 'Disc' and the variable 'age' are both made from the column 'age'",
        1,
    ),
    "a column gone": (lambda t: t.drop_columns(["ehr.age"]), "error", "the column 'ehr.age' is missing", FILMS),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_found_and_counted(name: str, clean: pa.Table, tmp_path: Path) -> None:
    plant, severity, what, count = PLANTED[name]
    found = serious(check(written(plant(clean), tmp_path)))
    hits = [finding for finding in found if finding.what == what]
    assert [(hit.severity, hit.count) for hit in hits] == [(severity, count)], found
    # What follows from the defect may be told too (a test set without age differs from train), an error never is.
    assert [finding.what for finding in found if finding.severity == "error" and finding.what != what] == []
    told = " ".join(spoken(found))
    assert "film-3" not in told
    assert "p0" not in told


def test_rows_are_counted_from_one_and_it_is_said(
    clean: pa.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = written(with_cells(clean, "ehr.age", {0: 140.0, 3: 150.0}), tmp_path)
    (error,) = (each for each in check(cohort) if each.severity == "error")
    assert error.where == "c.parquet, rows 1, 4"
    assert run_command(["check", str(cohort)]) == 2
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"rows count from 1, in the order of {cohort}; identifiers are not printed")


def test_a_split_that_is_empty_and_one_that_is_unknown(clean: pa.Table, tmp_path: Path) -> None:
    to_train = {row: "train" for row in range(FILMS) if clean["split"][row].as_py() == "validate"}
    found = serious(check(written(with_cells(clean, "split", to_train), tmp_path)))
    assert [(each.severity, each.what) for each in found] == [("warning", "the validate split is empty")]
    odd = with_cells(clean, "split", {0: "holdout", 1: "holdout"})
    found = serious(check(written(odd, tmp_path)))
    assert [(each.severity, each.count) for each in found] == [("error", 2)]


def test_test_patients_who_are_others_are_told(clean: pa.Table, tmp_path: Path) -> None:
    older = {row: 80.0 + row % 9 for row in range(FILMS) if clean["split"][row].as_py() == "test"}
    found = serious(check(written(with_cells(clean, "ehr.age", older), tmp_path)))
    assert len(found) == 1
    assert found[0].what.startswith("train and test patients differ in age ")
    assert "sex" not in found[0].what


def test_files_that_are_absent_empty_or_broken(clean: pa.Table, tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    empty.write_bytes(b"")
    small = clean.slice(0, 120)  # fewer than are tried, so that the broken one is
    planted = with_cells(small, "path", {5: str(broken), 6: str(empty), 7: str(tmp_path / "gone.png")})
    found = {each.what.split(":")[0]: each for each in serious(check(written(planted, tmp_path / "c")))}
    of_files = {what: (each.severity, each.count) for what, each in found.items() if "class" not in what}
    assert of_files == {
        "missing files": ("warning", 1),
        "empty files": ("warning", 1),
        "unreadable files": ("warning", 1),
    }
    nowhere = with_metadata(clean, lambda m: None)
    nowhere = with_cells(nowhere, "path", {row: f"/nowhere/{row}.png" for row in range(FILMS)})
    found_all = serious(check(written(nowhere, tmp_path / "d")))
    assert [(each.severity, each.count) for each in found_all] == [("error", FILMS)]


def test_what_the_flow_counted_is_told(clean: pa.Table, tmp_path: Path) -> None:
    flow = {
        "steps": [{"step": "sex known", "rows_in": 250, "rows_out": 240, "why": "no sex"}],
        "links": {"films": 240, "linked": 100, "before_admission": 12, "no_record": 90},
        "missing": {"age": {"414": 3, "absent": 5}, "sex": {"absent": 1}},
    }
    found = {each.what: (each.severity, each.count) for each in check(written(clean, tmp_path, flow))}
    assert found["10 images excluded: no sex"] == ("note", 10)
    assert found["12 of 240 images before the admission"] == ("note", 12)
    assert found["90 of 240 images of patients who are not in the hospital's tables"] == ("warning", 90)
    assert found["age: unusable cells: '414' 3"] == ("note", 3)
    why = "taken as known; say known_at_film: true or false in the mapping"
    flow = {
        "steps": [{"step": "triage (when known)", "rows_in": 240, "rows_out": 240, "why": why}],
        "cautions": [{"of": "Disc", "what": "9 images count as negative", "films": 9, "remedy": "say what they mean"}],
    }
    warned = [each for each in check(written(clean, tmp_path, flow)) if each.severity == "warning"]
    assert [(each.what, each.count, each.remedy) for each in warned] == [
        ("triage (when known): taken as known", 240, "say known_at_film: true or false in the mapping"),
        ("Disc: 9 images count as negative", 9, "say what they mean"),
    ]
    known_later = with_metadata(
        clean, lambda m: m.variables.update(age=m.variables["age"].model_copy(update={"known_at_film": False}))
    )
    found = {each.what: (each.severity, each.count) for each in check(written(known_later, tmp_path))}
    assert found["age is known only after the image"] == ("note", FILMS)


@pytest.fixture
def store(clean: pa.Table, images: Path, tmp_path: Path) -> Path:
    """A store with a flat image, one pasted from train into test, the same again made brighter, one twice in train."""
    folder = tmp_path / "mended"
    folder.mkdir()
    pictures = {row: np.asarray(Image.open(images / f"{row}.png")) for row in range(FILMS)}
    split = clean["split"].to_pylist()
    test, train = (np.flatnonzero(np.array(split) == name) for name in ("test", "train"))
    pictures[test[0]] = pictures[train[0]]
    pictures[test[5]] = np.clip(pictures[train[10]].astype(int) + 9, 0, 255).astype(np.uint8)
    pictures[train[20]] = pictures[train[30]]
    pictures[train[40]] = np.where(pictures[train[40]] > 120, 101, 100).astype(np.uint8)
    for row, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{row}.png")
    cohort = with_cells(clean, "path", {row: str(folder / f"{row}.png") for row in range(FILMS)})
    ingest(written(cohort, tmp_path), tmp_path / "store", size=FILM_SIZE, workers=1, allow_outside=True)
    return tmp_path / "store"


def test_a_store_is_looked_at_image_by_image(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = {each.what: each for each in check(store) if "upsampled" not in each.what}
    assert {what: (each.severity, each.count) for what, each in findings.items()} == {
        "2 images with an identical image in another split": ("error", 2),
        "1 image nearly constant (standard deviation below 6 of 255)": ("warning", 1),
        "1 image identical to an earlier image of the same split": ("warning", 1),
        "1 pair of nearly identical images in two splits": ("warning", 1),
    }
    assert "rows 1, 9" in findings["2 images with an identical image in another split"].where
    assert run_command(["check", str(store)]) == 2
    said = capsys.readouterr()
    assert "error: 2 images with an identical" in said.out
    assert "1 error" in said.err


def test_a_byte_that_changed_is_found(store: Path) -> None:
    shard = sorted(store.glob("images-*.arrow"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    damaged = [each for each in check(store) if each.severity == "error"]
    assert [each.what for each in damaged] == [
        f"{shard.name} is damaged (its hash differs from the one that ingest wrote)"
    ]
    table = pq.ParquetFile(store / "cohort.parquet").read()
    changed = with_cells(table, "label.Disc", {3: 1.0 - table["label.Disc"][3].as_py()})
    pq.write_table(changed, store / "cohort.parquet")
    assert "cohort.parquet as it was written, found other content" in check(store)[0].what
    shard.unlink()
    assert check(store)[0].what.startswith("the store cannot be opened: expected")


@pytest.mark.skipif(not SHARED.is_dir(), reason="real images are not on this machine")
def test_inverted_images_are_suspected_and_real_ones_are_not() -> None:
    files = sorted((SHARED / "nih-chestxray14-64px").rglob("*.png"))[:300]
    block = np.stack([squash(decode_image(file), 64) for file in files])
    assert len(block) == 300
    suspected = [
        np.mean((border > 0.3) & (lungs > 0.3)) for border, lungs in map(border_and_lungs, (block, 255 - block))
    ]
    assert suspected[0] == 0
    assert suspected[1] > 0.6


def test_a_simulated_hospital_has_no_error(tmp_path: Path) -> None:
    simulate(tmp_path / "h", patients=12, seed=3, workers=1)
    write_cohort(
        mimic_cohort(str(tmp_path / "h" / "mimic-iv"), tmp_path / "h" / "mimic-cxr-jpg"), tmp_path / "m.parquet"
    )
    findings = check(tmp_path / "m.parquet")
    assert [each.what for each in findings if each.severity == "error"] == []
    assert any("empty files" in each.what for each in findings)  # its dirt


def test_what_is_neither_cohort_nor_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a cohort or a store at .*, found nothing"):
        check(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="expected a store"):
        check(tmp_path)
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(InputError, match="expected a cohort"):
        check(tmp_path / "x.parquet")
