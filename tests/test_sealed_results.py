"""Results, reports, bundles and cohorts: damaged ones are refused, and replacing them loses nothing."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import chartray
from chartray.audit.audit import audit
from chartray.check import check
from chartray.cli import run_command
from chartray.config.audit import AuditOptions
from chartray.config.evaluate import CompareOptions, EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation.comparable import EvaluatedRun, read_sheets
from chartray.evaluation.embed_store import embed_store
from chartray.export.bundle import export_encoder
from chartray.flow import CohortFlow
from chartray.model_card.folders import read_folders
from chartray.networks.description import Provenance
from chartray.networks.encoder import load
from chartray.outputs.lock import locked
from chartray.outputs.parquet_file import read_table
from chartray.outputs.replacing import settle
from chartray.outputs.seal import SUMS_FILE, seal, verify
from chartray.records.cohort_files import flow_file, read_cohort_table, read_flow, settle_cohort, write_cohort_files
from chartray.report.inputs import read_audit, read_results
from chartray.report.saliency import saliency_section
from chartray.report.write import write_report
from chartray.results.folder import open_evaluation
from tests.evaluation_folders import compare, evaluate, hospital, vit

QUICK: dict[str, Any] = {"resamples": 3, "baselines": False, "labels": ["Edema", "Pleural Effusion"]}
FLOW = CohortFlow(source="mimic", links={})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two encoders and a store, an evaluation of each, an audit, a comparison, embeddings, a bundle and a report."""
    root = tmp_path_factory.mktemp("sealed")
    store = hospital(root / "hospital", patients=60)
    charts = {"chart": "sex", "none": "none"}
    runs = {name: vit(root / "runs" / name, run=name, seed=3, chart=chart) for name, chart in charts.items()}
    for name, run in runs.items():
        evaluate(run, store, root / name, EvaluateOptions(saliency=3, **QUICK))
    audit(runs["chart"], store, root / "audit", AuditOptions(attributes=["sex"], resamples=3, baselines=False))
    compare([root / name for name in runs], root / "arms", CompareOptions(resamples=3))
    embed_store(runs["chart"], store, root / "embeddings.parquet")
    export_encoder(runs["chart"], root / "bundle", results=[root / "chart", root / "arms"])
    write_report([], [root / "chart"], root / "report")
    return {"root": root, "store": store, "run": runs["chart"]}


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said_of_evaluation(folder: Path) -> list[object]:
    """Everything that compare, report and card take from the folder of an evaluation."""
    run = EvaluatedRun(open_evaluation(folder))
    sheets = read_sheets([run])[folder].own
    results = read_results(folder)
    numbers = [sheets[where].scores.tobytes() + sheets[where].truth.tobytes() for where in sheets]
    tables = [results.predictions, results.embeddings]
    rows = [results.scores, results.comparisons, results.manifest, results.studies, results.calibration]
    maps, card = saliency_section([results], with_images=True), read_folders([folder], run.made)
    return [run.settings, run.stores, *numbers, *tables, repr(rows), repr(maps), card]


def said_of_comparison(folder: Path) -> list[object]:
    manifest = json.loads((folder.parent / "kept" / "compare.json").read_text())
    made = next(iter(manifest["arms"].values()))[0]["provenance"]
    return [repr(read_results(folder).comparisons), read_folders([folder], Provenance.model_validate(made))]


def said_of_audit(folder: Path) -> list[object]:
    manifest = json.loads((folder.parent / "kept" / "audit.json").read_text())
    made = Provenance.model_validate(manifest["encoders"][0]["provenance"])
    return [repr(read_audit(folder)), read_folders([folder], made)]


def said_of_bundle(folder: Path) -> list[object]:
    verify(folder)
    found = load(folder)
    return [found.provenance, *(value.numpy().tobytes() for value in found.model.state_dict().values())]


READ: dict[str, Callable[[Path], list[object]]] = {
    "chart": said_of_evaluation,
    "arms": said_of_comparison,
    "audit": said_of_audit,
    "bundle": said_of_bundle,
}


def same_or_a_sentence(read: Callable[[Path], list[object]], folder: Path, name: str, before: list[object]) -> bool:
    """Whether `name`, damaged in `folder`, was refused; else what is read is what was read before."""
    try:
        found = read(folder)
    except InputError as error:
        said = str(error)
        assert "\n" not in said
        assert Path(name).name in said or SUMS_FILE in said or str(folder) in said, (name, said)
        return True
    assert len(found) == len(before)
    for one, other in zip(found, before, strict=True):
        assert one.equals(other) if isinstance(one, pa.Table) else one == other, name
    return False


@pytest.mark.parametrize("kind", list(READ))
def test_damaged_results_are_refused_or_say_the_same(made: dict[str, Path], tmp_path: Path, kind: str):
    folder, read, draw = tmp_path / kind, READ[kind], random.Random(0)
    for name in (kind, "kept"):
        shutil.copytree(made["root"] / kind, tmp_path / name)
    before, refused = read(folder), set()
    for name, whole in held(folder).items():
        damages = [whole[: draw.randrange(len(whole))] for _ in range(2)] if whole else []
        damages += [b"", whole[: whole.rfind(b"\n", 0, -1) + 1], whole + b"\n{}"]
        for _ in range(4 if whole else 0):
            flipped = bytearray(whole)
            flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            damages.append(bytes(flipped))
        for damage in damages:
            (folder / name).write_bytes(damage)
            if damage != whole and same_or_a_sentence(read, folder, name, before):
                refused.add(name)
        (folder / name).unlink()
        if same_or_a_sentence(read, folder, name, before):
            refused.add(name)
        (folder / name).mkdir()
        same_or_a_sentence(read, folder, name, before)
        (folder / name).rmdir()
        (folder / name).write_bytes(whole)
    # What no command reads again may be damaged, and no more than that.
    unread = {"draws.jsonl", "thresholds.json", "probe.safetensors", "probe.json"} if kind == "chart" else set()
    unread |= {"predictions.parquet"} if kind == "audit" else set()
    assert set(held(folder)) - refused <= unread


@pytest.mark.parametrize("kind", ["chart", "arms", "audit"])
def test_results_of_another_form_are_a_sentence_although_sealed(made: dict[str, Path], tmp_path: Path, kind: str):
    folder, read = tmp_path / kind, READ[kind]
    for name in (kind, "kept"):
        shutil.copytree(made["root"] / kind, tmp_path / name)
    before = read(folder)
    forms = [b"\xff\xfe\x00", b"[" * 100_000, b"3\n", b"", b"{}\n", b"PAR1\x15\x04\x15\xdePAR1", b'{"format": 2}\n']
    forms += [json.dumps({"dataset": "mimic", "label": 3, "metric": [], "fraction": "x", "part": "group"}).encode()]
    read_again = [name for name in held(folder) if not name.startswith(("draws", "thresholds", "probe", SUMS_FILE))]
    for name in read_again:
        whole = (folder / name).read_bytes()
        for form in forms:
            (folder / name).write_bytes(form)
            seal(folder)
            try:
                read(folder)
            except InputError as error:
                said = str(error)
                assert "\n" not in said
                assert str(folder) in said
        (folder / name).write_bytes(whole)
    seal(folder)
    assert same_or_a_sentence(read, folder, SUMS_FILE, before) is False


def test_damaged_embeddings_and_cohorts_are_refused_or_the_same(made: dict[str, Path], tmp_path: Path, capsys):
    table = pq.read_table(made["root"] / "hospital" / "cohort.parquet")
    write_cohort_files(table, FLOW, tmp_path / "c.parquet")
    shutil.copy(made["root"] / "embeddings.parquet", tmp_path / "e.parquet")
    draw = random.Random(0)
    for file, what in ((tmp_path / "c.parquet", "a cohort"), (tmp_path / "e.parquet", "embeddings")):
        whole, before, refused = file.read_bytes(), read_table(file, what), 0
        for _ in range(100):
            flipped = bytearray(whole)
            flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            file.write_bytes(flipped if draw.random() < 0.7 else whole[: draw.randrange(len(whole))])
            try:
                assert read_table(file, what).equals(before)
            except InputError as error:
                refused += file.name in str(error)
        assert refused > 90
        file.write_bytes(whole)
    whole = flow_file(tmp_path / "c.parquet").read_bytes()
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        flow_file(tmp_path / "c.parquet").write_bytes(flipped if draw.random() < 0.7 else whole[: draw.randrange(9)])
        assert read_flow(tmp_path / "c.parquet") in (None, FLOW)
    assert "the flow of the cohort is ignored" in capsys.readouterr().err


def test_a_flow_of_another_cohort_is_told_and_not_used(made: dict[str, Path], tmp_path: Path, capsys):
    table = pq.read_table(made["root"] / "hospital" / "cohort.parquet")
    for name, rows in (("a", table), ("b", table.slice(1))):
        write_cohort_files(rows, FLOW, tmp_path / f"{name}.parquet")
    assert read_flow(tmp_path / "a.parquet") == FLOW
    shutil.copy(flow_file(tmp_path / "b.parquet"), flow_file(tmp_path / "a.parquet"))
    capsys.readouterr()
    assert "no flow file" in " ".join(finding.what for finding in check(tmp_path / "a.parquet"))
    assert "the flow of the cohort is ignored: expected the flow of" in (said := capsys.readouterr().err)
    assert "no SHA-256" not in said
    pq.write_table(pq.read_table(tmp_path / "b.parquet").slice(1), tmp_path / "b.parquet")
    assert read_cohort_table(tmp_path / "b.parquet").equals(table.slice(2))
    assert "its rows cannot be verified" in capsys.readouterr().err


def killed_at(does: Callable[[], object], place: Path, calls: int, counted: Any) -> None:
    """In a process of its own: dies at a file-system call under `place`, else counts them."""
    made_calls = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal made_calls
        if event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "open", "shutil.rmtree", "os.link"):
            if str(place) not in " ".join(map(str, arguments)):
                return
            made_calls += 1
            counted.value = made_calls
            if made_calls > calls:
                os._exit(9)

    sys.addaudithook(hook)
    does()
    os._exit(0)


def kills(does: Callable[[], object], place: Path, most: int, last: int = 6) -> Iterator[None]:
    """Does it in processes that are killed at `most` of their calls, the last ones too, and once until the end."""
    context = multiprocessing.get_context("fork")
    counted, total = context.Value("i", 0), 10**9
    numbers = [0]
    while numbers:
        calls = numbers.pop()
        process = context.Process(target=killed_at, args=(does, place, calls, counted))
        process.start()
        process.join()
        if total == 10**9:
            if calls == 0:
                numbers = [10**8]
            else:
                assert process.exitcode == 0
                total = counted.value
                step = max(1, total // most)
                numbers = sorted({*range(1, total, step), *range(max(total - last, 1), total)})
        yield


def test_a_kill_while_a_cohort_is_replaced_leaves_table_and_flow_of_one(made: dict[str, Path], tmp_path: Path):
    table = pq.read_table(made["root"] / "hospital" / "cohort.parquet")
    file, place = tmp_path / "out" / "c.parquet", tmp_path / "out"
    before, after = ((table.slice(n), FLOW.model_copy(update={"links": {"films": n}})) for n in (0, 1))
    write_cohort_files(*before, file)
    seen = set()
    for _ in kills(lambda: write_cohort_files(*after, file), place, 40):
        settle_cohort(file)
        found, flow = read_cohort_table(file), read_flow(file)
        assert flow is not None
        assert found.num_rows == table.num_rows - flow.links["films"]
        assert {path.name for path in place.iterdir()} <= {"c.parquet", "c.flow.json", ".c.parquet.lock"}
        seen.add(found.num_rows)
        write_cohort_files(*before, file)
    assert seen == {table.num_rows, table.num_rows - 1}


@pytest.mark.parametrize("kind", ["chart", "arms", "bundle", "report"])
def test_a_kill_while_results_are_replaced_leaves_one_whole(made: dict[str, Path], tmp_path: Path, kind: str):
    place, out = tmp_path / "out", tmp_path / "out" / kind
    both = [made["root"] / "chart", made["root"] / "none"]
    does: dict[str, Callable[[], object]] = {
        "chart": lambda: evaluate(
            made["run"], made["store"], out, EvaluateOptions(saliency=0, **QUICK | {"resamples": 4}), resume=True
        ),
        "arms": lambda: compare(both, out, CompareOptions(resamples=4)),
        "bundle": lambda: export_encoder(made["run"], out, results=both[:1]),
        "report": lambda: write_report([], both[:1], out, title="another"),
    }
    shutil.copytree(made["root"] / kind, out)
    before, seen = held(out), []
    for _ in kills(does[kind], place, *((1, 3) if kind in ("chart", "report") else (8,))):
        settle(out)
        verify(out)
        seen.append(held(out) == before)
        # Features that an evaluation has made stay for `--resume`.
        assert {path.name for path in place.iterdir()} - {f".{kind}.lock", ".chart.unfinished"} == {kind}
        shutil.rmtree(out)
        shutil.copytree(made["root"] / kind, out)
    assert True in seen
    assert False in seen
    does[kind]()
    assert [path.name for path in place.iterdir()] == [kind]


@contextmanager
def limited(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def commands(made: dict[str, Path], out: Path) -> dict[str, list[str]]:
    root, run, store = (str(made[name]) for name in ("root", "run", "store"))
    few = ["--resamples", "3", "--no-baselines"]
    return {
        "chart": ["evaluate", run, store, "--out", str(out / "chart"), "--labels", "Edema", *few],
        "arms": ["compare", f"{root}/chart", f"{root}/none", "--out", str(out / "arms"), "--resamples", "3"],
        "audit": ["audit", run, store, "--out", str(out / "audit"), "--attributes", "sex", *few],
        "embeddings.parquet": ["embed", run, store, "--out", str(out / "embeddings.parquet")],
        "bundle": ["export", run, "--out", str(out / "bundle"), "--results", f"{root}/chart"],
        "report": ["report", f"{root}/chart", "--out", str(out / "report")],
        "features": ["features", f"{root}/hospital/cohort.parquet", "--out", str(out / "features")],
        "hospital": ["simulate", str(out / "hospital"), "--patients", "8", "--workers", "1"],
    }


@pytest.mark.parametrize("size", [0, 4000])
def test_a_disk_that_is_full_is_a_sentence_and_what_was_there_stays(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
):
    for name in ("chart", "arms", "audit", "bundle", "report"):
        shutil.copytree(made["root"] / name, tmp_path / name)
    shutil.copy(made["root"] / "embeddings.parquet", tmp_path)
    assert run_command(commands(made, tmp_path)["features"]) == 0
    before = held(tmp_path)
    for name, command in commands(made, tmp_path).items():
        if size and name in ("features", "arms"):
            continue  # they write less than that
        capsys.readouterr()
        with limited(size):
            assert run_command(command) == 1, name
        lines = capsys.readouterr().err.splitlines()
        assert sum("the limit on the size of a file (ulimit -f) is reached" in line for line in lines) == 1, lines
        assert held(tmp_path) == before, name
        shutil.rmtree(tmp_path / ".chart.unfinished", ignore_errors=True)  # what an evaluation keeps for `--resume`
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")], name


def test_the_second_of_two_commands_is_refused(made: dict[str, Path], tmp_path: Path, capsys):
    for name, command in commands(made, tmp_path).items():
        with locked(tmp_path / f".{name}.lock", "unused"):
            assert run_command(command) == 2, name
        assert "another command is writing to" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


def test_a_bundle_says_whether_it_is_whole_and_loads(made: dict[str, Path], tmp_path: Path):
    bundle = made["root"] / "bundle"
    verify(bundle)
    assert "sha256sum -c SHA256SUMS" in (bundle / "README.md").read_text()
    assert {*held(bundle)} == {
        "model.safetensors",
        "config.json",
        "encoder.json",
        "parity.json",
        "README.md",
        SUMS_FILE,
    }
    assert chartray.load_encoder(bundle).num_features == 32


def test_a_simulation_that_was_killed_while_it_moved_in_is_begun_anew(tmp_path: Path):
    command = ["simulate", str(tmp_path / "out"), "--patients", "8", "--workers", "1"]
    assert run_command(command) == 0
    whole = held(tmp_path / "out")
    (tmp_path / "out" / ".simulating" / "nih").mkdir(parents=True)
    (tmp_path / "out" / ".simulating" / "moving").touch()
    shutil.rmtree(tmp_path / "out" / "nih")
    assert run_command(command) == 0
    assert held(tmp_path / "out") == whole
    assert run_command(command) == 2
