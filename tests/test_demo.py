"""The whole mission in one process, where there is no network: every arrow, every file, and nothing reaches out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TINY = "--recipe tiny-cpu --train.batch_size 32 --train.device cpu --train.steps 2 --encoder.name vit_tiny"
DEMO = "demo demo --patients 90 --steps 3"
# The commands that the demo has no part of, and the way in and out of those that it has.
CHAIN = f"""
{DEMO}
demo demo
doctor
init project
simulate hospital --patients 24 --workers 1
cohort mimic --mimic-iv hospital/mimic-iv --mimic-cxr hospital/mimic-cxr-jpg --out mimic.parquet
cohort chexpert hospital/chexpert --out chexpert.parquet
cohort nih hospital/nih --out nih.parquet
check nih.parquet
features mimic.parquet --out sets
ingest nih.parquet --out nih.store --size 32 --workers 2
check demo/mimic.store
pretrain demo/mimic.store --out run --ehr sex {TINY}
evaluate run demo/mimic.store --out results --resamples 5 --saliency 0 --device cpu --no-baselines
compare demo/results/demographic-norm-mimic demo/results/none-mimic --out arms --resamples 5
audit run demo/mimic.store --out audit --resamples 5 --no-baselines --device cpu
embed run demo/nih.store --out embedded.parquet --hash-ids --device cpu
report results --run run --audit audit --store demo/mimic.store --out page
export run --results results --out home
study study.yaml --out study --plan
knobs
"""
STUDY = """
store: demo/mimic.store
arms: {real: {recipe: tiny-cpu, ehr: sex}, none: {recipe: tiny-cpu, ehr: none}}
seeds: [0, 1]
evaluations: {home: {store: demo/mimic.store}}
"""
# An audit hook hears what is tried, even where a library hides that it failed.
PROGRAM = """
import io, json, sys
from contextlib import redirect_stdout

tried = []


def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.connect"):
        if not (event in ("socket.connect", "socket.sendto") and isinstance(arguments[-1], (str, bytes))):
            tried.append([command, event, str(arguments)])


command = ""
sys.addaudithook(hear)
from chartray.cli import run_command

codes, said = {}, {}
for command in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out:
        codes[command] = run_command(command.split())
    said[command] = out.getvalue()
interfaces = open("/proc/net/dev").read().count(":")
print(json.dumps({"codes": codes, "said": said, "tried": tried, "interfaces": interfaces}))
"""


class Done(NamedTuple):
    """The chain in `folder`: what the program found, and what the commands wrote to standard error."""

    folder: Path
    found: dict[str, Any]
    errors: str


def without_network() -> list[str] | None:
    """The start of a command line whose command sees a loopback that is down, and nothing else; None if impossible."""
    for given in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*given, "true"], capture_output=True).returncode == 0:
            return given
    return None


def apart() -> list[str]:
    found = without_network()
    if found is None:
        pytest.skip("no network namespace can be made here")
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("chain")
    (folder / "study.yaml").write_text(STUDY)
    command = [*(without_network() or []), sys.executable, "-c", PROGRAM, json.dumps(CHAIN.strip().splitlines())]
    # The other tests have the other cores.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=alone)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return Done(folder, json.loads(ran.stdout.splitlines()[-1]), ran.stderr)


def test_the_demo_goes_from_raw_folders_to_a_report(done: Done) -> None:
    assert done.found["codes"][DEMO] == 0, done.errors[-2000:]
    out, said = done.folder / "demo", done.found["said"][DEMO]
    page = out / "report" / "report.html"
    assert str(page) in said
    assert len(said.split("It says:\n")[1].splitlines()) == 5
    assert "no claim" in said.lower()  # one seed says nothing about the chart
    assert said.count("Seen in one encoder (seed 0): ") >= 3
    assert "own probe" not in said  # every data set was scored with one probe
    html = page.read_text()
    assert "<script src=" not in html
    for arm in ("demographic-norm", "none", "shuffled"):
        manifest = json.loads((out / "runs" / arm / "manifest.json").read_text())
        assert manifest["status"] == "complete"
        assert manifest["flow"]["links"]["films"] > 0
        for data in ("mimic", "nih"):
            folder = out / "results" / f"{arm}-{data}"
            rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
            scored = {"mimic", "mimic:radiologists", "chexpert"} if data == "mimic" else {"nih"}
            assert {row["dataset"] for row in rows} == scored
            own = "shuffled" if arm == "shuffled" else "none"
            assert {own, "untrained", "pixels", "chart-only", "image+chart"} <= {row["control"] for row in rows}
    assert (out / "results" / "arms-mimic" / "comparisons.jsonl").read_text()
    assert (out / "mimic.store" / "store.json").exists()  # the stores stay, the drawn images do not
    assert not (out / "hospital").exists()
    assert done.found["codes"]["demo demo"] == 2
    assert "is not empty; choose another folder" in done.errors


def test_a_network_is_missed_where_there_is_none() -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    ran = subprocess.run([*apart(), sys.executable, "-c", code], capture_output=True, text=True)
    assert "Network is unreachable" in ran.stderr


def test_what_is_tried_is_heard_even_if_it_fails_unseen() -> None:
    trying = """
import socket
from contextlib import suppress
with suppress(OSError):
    socket.create_connection(("192.0.2.1", 80), timeout=5)
"""
    program = PROGRAM.replace("codes, said =", trying + "codes, said =")
    ran = subprocess.run([*apart(), sys.executable, "-c", program, "[]"], capture_output=True, text=True)
    assert {event for _, event, _ in json.loads(ran.stdout)["tried"]} == {"socket.getaddrinfo", "socket.connect"}


def test_the_whole_chain_runs_without_a_network_and_tries_none(done: Done) -> None:
    failed = {name: code for name, code in done.found["codes"].items() if code and name != "demo demo"}
    assert failed == {}, done.errors[-2000:]
    assert done.found["tried"] == []
    if without_network() is not None:
        assert done.found["interfaces"] == 1  # the loopback
