"""The command line: every mistake is one sentence and exit code 2, and nothing is written half."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chartray.cli import run_command
from chartray.commands.training import knobs
from chartray.config.pretrain import Config, load, recipe_names
from chartray.config.section import options_of
from chartray.memory import ran_out
from chartray.outputs.parquet_file import write_table
from tests.stores import edit_index, replace_cohort

MIMIC = ["cohort", "mimic", "--mimic-iv", "nowhere-iv", "--mimic-cxr", "nowhere-cxr", "--out", "c.parquet"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a command that must end with exit code 2."""
    assert run_command(tokens) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("chartray: ")
    assert "\n" not in said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["pretrian"], 'Did you mean "pretrain"'),
        (["pretrain"], "--store requires an argument"),
        (["simulate", "x", "--patiens", "3"], "--patients"),
        (["simulate", "x", "--patients", "many"], "many"),
        (["simulate", "x", "--mimic-iv-release", "2.1"], "2.1"),
        (["simulate", "x", "--seed", "-1"], "--seed"),
        (["simulate", "x", "--workers", "0"], "--workers"),
        (["ingest", "no.parquet", "--out", "s", "--workers", "0"], "--workers"),
        (["ingest", "no.parquet", "--out", "s", "--workers", "-2"], "--workers"),
        (["evaluate", "r", "s", "--out", "o", "--seed", "-1"], "--seed"),
        (["evaluate", "r", "s", "--out", "o", "--resamples", "0"], "--resamples"),
        (["evaluate", "r", "s", "--out", "o", "--saliency", "-1"], "--saliency"),
        (["study", "nowhere.yaml", "--out", "s", "--jobs", "0"], "--jobs"),
        (["demo", "d", "--steps", "0"], "--steps"),
        (["bench", "help", "--repeats", "0"], "--repeats"),
        (["bench", "help", "--batch-size", "-1"], "--batch-size"),
        (MIMIC, "nowhere-cxr"),
        (["cohort", "chexpert", "nowhere", "--out", "c.parquet"], "nowhere"),
        (["cohort", "nih", "nowhere", "--out", "c.parquet"], "nowhere"),
        (["cohort", "table", "no.csv", "--mapping", "no.yaml", "--images", ".", "--out", "c.parquet"], "no."),
        (["ingest", "no.parquet", "--out", "s"], "no.parquet"),
        (["pretrain", "nowhere", "--out", "r"], "nowhere"),
        (["evaluate", "nowhere", "nowhere", "--out", "r"], "nowhere"),
        (["compare", "nowhere", "--out", "r"], "nowhere"),
        (["evaluate", "r", "s", "--out", "o", "--protocol", "linar"], "linar"),
        (["audit", "nowhere", "nowhere", "--out", "a"], "nowhere"),
        (["embed", "nowhere", "nowhere", "--out", "e.parquet"], "nowhere"),
        (["check", "nowhere"], "nowhere"),
        (["study", "nowhere.yaml", "--out", "s"], "nowhere.yaml"),
        (["study", "nowhere.yaml", "--out", "s", "--plan"], "nowhere.yaml"),
        (["export", "nowhere", "--out", "x"], "nowhere"),
        (["report", "nowhere", "--out", "r"], "nowhere"),
        (["report", "--out", "r"], "at least one run, results or audit folder"),
        (["knobs", "--recipe", "msm"], "did you mean 'msn'"),
    ],
)
def test_a_mistake_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], tokens: list[str], said: str
) -> None:
    assert said in refused(tokens, capsys)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--view.size", "64"], "Did you mean --views.size?"),
        (["--views.size", "sixty"], "views.size"),
        (["--views.scale", "0.9,0.1"], "views.scale"),
        (["--train.batch-size", "1"], "train.batch_size"),
        (["--recipe", "msnn"], "did you mean 'msn'"),
        (["--ehr", "demografic-norm"], "did you mean 'demographic-norm'"),
        (["--ehr", "stay"], "mortality"),
        (["--ehr", "died"], "--chart.allow-after-film died"),
        (["--config", "no.yaml"], "no.yaml"),
    ],
)
def test_a_knob_that_cannot_be_used_is_named(
    here: Path, small_store: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert said in refused(["pretrain", str(small_store), "--out", "run", *options], capsys)
    assert list(here.iterdir()) == []


def changed_store(small_store: Path, here: Path, split: str | None = None, version: int | None = None) -> Path:
    """A copy of the small store with every image in one split, or written by another version."""
    store = here / "store"
    shutil.copytree(small_store, store)
    if split is not None:
        table = pq.read_table(store / "cohort.parquet")
        place = table.schema.get_field_index("split")
        splits = table.column("split").to_pylist()
        moved = pa.array(["test" if each == split else each for each in splits])
        replace_cohort(store, table.set_column(place, "split", moved))
    if version is not None:
        edit_index(store, format=version)
    return store


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is asked for")
def test_a_device_that_is_not_there_is_named(here: Path, small_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--train.device", "cuda", "--train.batch-size", "24", "--recipe", "tiny-cpu"]
    assert run_command(["pretrain", str(small_store), "--out", "run", *options]) == 2
    what, said = capsys.readouterr().err.strip().splitlines()
    assert "training images" in what
    assert said.startswith("chartray: ")
    assert "no GPU" in said


def test_an_empty_training_split_is_refused(here: Path, small_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = changed_store(small_store, here, split="train")
    assert "train" in refused(["pretrain", str(store), "--out", "run"], capsys)
    assert not (here / "run").exists()


def test_a_store_of_another_version_is_refused(
    here: Path, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = changed_store(small_store, here, version=99)
    assert "99" in refused(["pretrain", str(store), "--out", "run"], capsys)


def test_a_patient_in_two_splits_is_refused_before_anything_is_ingested(
    here: Path, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(small_store / "cohort.parquet").drop_columns(["height", "width"])
    place = table.schema.get_field_index("split")
    splits = ["test", *table.column("split").to_pylist()[1:]]
    write_table(table.set_column(place, "split", pa.array(splits)), here / "c.parquet")
    assert "split" in refused(["features", "c.parquet", "--out", "f"], capsys)
    assert "split" in refused(["ingest", "c.parquet", "--out", "s", "--size", "16"], capsys)
    assert not (here / "s").exists()


def test_a_table_of_another_program_is_told_unless_the_command_refuses(
    here: Path, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(small_store / "cohort.parquet").drop_columns(["height", "width"])
    pq.write_table(table, here / "c.parquet")
    assert run_command(["check", "c.parquet"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "chartray: c.parquet was not written by Chartray, so its rows cannot be verified"
    ]
    splits = ["test", *table.column("split").to_pylist()[1:]]
    place = table.schema.get_field_index("split")
    pq.write_table(table.set_column(place, "split", pa.array(splits)), here / "c.parquet")
    for command in (["features", "c.parquet", "--out", "f"], ["ingest", "c.parquet", "--out", "s", "--size", "16"]):
        assert "expected every patient in one split" in refused(command, capsys)
    assert "found 1 error" in refused(["check", "c.parquet"], capsys)


def test_a_table_of_a_database_is_named_by_its_url(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "m.yaml").write_text("image_id: file\npatient_id: patient\npath: file\n")
    with duckdb.connect(str(here / "hospital.db")) as database:
        database.execute("create table films as select 'a.png' as file, '1' as patient union all select 'b.png', '2'")
    url = f"duckdb://{here / 'hospital.db'}#films"
    assert run_command(["cohort", "table", url, "--mapping", "m.yaml", "--images", ".", "--out", "c.parquet"]) == 0
    assert pq.read_table(here / "c.parquet").num_rows == 2
    assert capsys.readouterr().out.startswith("films: 2 images")


def test_a_place_that_cannot_be_written_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("")
    said = refused(["simulate", "file/hospital", "--patients", "8"], capsys)
    assert "file/hospital" in said
    assert [entry.name for entry in here.iterdir()] == ["file"]


def test_memory_that_ran_out_is_one_sentence(small_store: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More prototypes than any machine has addresses for; nothing is left behind."""
    knobs = ["--recipe", "tiny-cpu", "--train.batch_size", "32", "--train.device", "cpu", "--ehr", "none"]
    tokens = ["pretrain", str(small_store), "--out", "run", *knobs, "--objective.prototypes", str(10**14)]
    assert run_command(tokens) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("chartray: ")]
    assert "can't allocate memory" in said
    assert "lower train.batch_size or views.focal_count" in said
    assert not (here / "run").exists()


def test_memory_of_a_gpu_or_of_python_that_ran_out_is_known_from_other_errors() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB."))
    assert ran_out(MemoryError())
    # Pinned memory, cuBLAS and cuDNN each have words of their own.
    for said in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"):
        assert ran_out(RuntimeError(said))
    assert not ran_out(RuntimeError("shape mismatch"))


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_how_threads_wait_is_set_before_torch_is_there_unless_somebody_said(given: dict[str, str]) -> None:
    code = "import os, sys; sys.argv = ['chartray', '--version']\nfrom chartray.cli import main\n"
    code += "try: main()\nexcept SystemExit: print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    code += "; assert 'torch' not in sys.modules"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    wanted = given or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
    assert done.stdout.split()[-2:] == [wanted.get("OMP_WAIT_POLICY", "None"), wanted.get("GOMP_SPINCOUNT", "None")]


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    """As `chartray knobs | head -1`, by a real pipe whose end is closed, with more than it holds still to come."""
    read, write = os.pipe()
    os.close(read)
    code = "from chartray.cli import run_command; import sys; sys.exit(run_command(['knobs']))"
    process = subprocess.run([sys.executable, "-u", "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.parametrize("verb", ["evaluate", "audit"])
def test_an_out_below_a_file_is_refused_before_the_work(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    (here / "file").write_text("")
    assert "is a file, not a folder" in refused([verb, "nowhere", "nowhere", "--out", "file/results"], capsys)


def test_every_recipe_resolves_and_every_knob_is_described() -> None:
    assert {"msn", "published", "small-cpu", "small-gpu", "tiny-cpu"} <= set(recipe_names())
    for recipe in recipe_names():
        assert load(recipe).recipe == recipe
        assert recipe in str(Config.model_fields["recipe"].description)
        assert recipe in str(knobs.__doc__)
        assert f"`{recipe}`" in (Path(__file__).parent.parent / "docs" / "method.md").read_text()
    assert all(option.field.description for option in options_of(Config))


def test_the_recipes_say_what_the_papers_say() -> None:
    """The official recipe, number by number where a slip would go unnoticed."""
    official, published = load("msn"), load("published")
    assert (official.objective.prototypes, official.objective.head_hidden, official.objective.head_out) == (
        1024,
        2048,
        256,
    )
    assert (official.views.mask_ratio, official.views.focal_mask_ratio) == (0.15, 0.0)
    assert (official.train.batch_size, official.train.clip, official.train.stretch) == (1024, 3.0, 1.25)
    assert (official.train.weight_decay, official.train.final_weight_decay) == (0.04, 0.4)
    assert (official.train.ema, official.train.final_ema) == (0.996, 1.0)
    assert (published.encoder.heads, published.objective.train_prototypes) == (6, False)
    assert (published.views.mask_ratio, published.views.focal_mask_ratio) == (0.15, 0.15)
    assert (published.train.ema, published.train.final_ema, published.train.ema_before_step) == (0.996, 0.996, True)
    assert (published.train.batch_size, published.train.epochs, published.seed) == (64, 100, 24)
    assert published.objective.head_hidden is None
    assert published.objective.head_out is None


@pytest.mark.parametrize(
    ("command", "inputs"),
    [("pretrain", 1), ("evaluate", 2), ("audit", 2), ("embed", 2), ("export", 1), ("compare", 2), ("report", 1)],
)
def test_a_wrong_path_is_refused_before_torch_is_imported(command: str, inputs: int, tmp_path: Path):
    code = (
        "import sys; from chartray.cli import run_command; code = run_command(sys.argv[1:]); "
        "print(code, *({'torch', 'matplotlib', 'bokeh', 'timm'} & set(sys.modules)))"
    )
    given = [sys.executable, "-c", code, command, *["nope"] * inputs, "--out", "out"]
    done = subprocess.run(given, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "2\n"
    assert len(done.stderr.splitlines()) == 1


def test_a_word_of_thousands_of_letters_is_cut(capsys: pytest.CaptureFixture[str]):
    assert run_command(["pretrain", "store", "--out", "run", "--encoder.heads", "x" * 5000]) == 2
    said = capsys.readouterr().err
    assert len(said) < 300
    assert "(5002 characters)" in said
