"""No command reaches for a network: the whole chain runs where there is none, and nothing tries to."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation_folders import hospital

TINY = "--recipe tiny-cpu --train.batch_size 32 --train.device cpu --train.steps 2 --encoder.name vit_tiny"
QUICK = "--resamples 5 --saliency 0 --device cpu"
CHAIN = f"""
doctor
init project
simulate hospital --patients 24 --workers 1
cohort mimic --mimic-iv hospital/mimic-iv --mimic-cxr hospital/mimic-cxr-jpg --out mimic.parquet
cohort chexpert hospital/chexpert --out chexpert.parquet
cohort nih hospital/nih --out nih.parquet
check nih.parquet
features mimic.parquet --out sets
ingest nih.parquet --out nih.store --size 32 --workers 2
check store
pretrain store --out run --ehr sex {TINY}
pretrain store --out none --ehr none {TINY}
evaluate run store --out results {QUICK}
evaluate none store --out plain {QUICK} --no-baselines
compare results plain --out arms --resamples 5
audit run store --out audit --resamples 5 --no-baselines --device cpu
embed run store --out embedded.parquet --hash-ids --device cpu
report results plain arms --run run --audit audit --store store --out page
export run --results results --out home
study study.yaml --out study --plan
knobs
"""
STUDY = """
store: store
arms: {real: {recipe: tiny-cpu, ehr: sex}, none: {recipe: tiny-cpu, ehr: none}}
seeds: [0, 1]
evaluations: {home: {store: store}}
"""
# An audit hook hears what is tried, even where a library hides that it failed.
PROGRAM = """
import json, sys

tried = []


def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.connect"):
        if not (event in ("socket.connect", "socket.sendto") and isinstance(arguments[-1], (str, bytes))):
            tried.append([command, event, str(arguments)])


command = ""
sys.addaudithook(hear)
from chartray.cli import run_command

codes = {}
for command in json.loads(sys.argv[1]):
    codes[command] = run_command(command.split())
print(json.dumps({"codes": codes, "tried": tried, "interfaces": open("/proc/net/dev").read().count(":")}))
"""


def without_network() -> list[str]:
    """The start of a command line whose command sees a loopback that is down, and nothing else."""
    for given in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*given, "true"], capture_output=True).returncode == 0:
            return given
    pytest.skip("no network namespace can be made here")


def test_a_network_is_missed_where_there_is_none() -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run([*without_network(), sys.executable, "-c", code], capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr


def test_what_is_tried_is_heard_even_if_it_fails_unseen() -> None:
    trying = """
import socket
from contextlib import suppress
with suppress(OSError):
    socket.create_connection(("192.0.2.1", 80), timeout=5)
"""
    program = PROGRAM.replace("codes = {}", trying + "codes = {}")
    done = subprocess.run([*without_network(), sys.executable, "-c", program, "[]"], capture_output=True, text=True)
    assert {event for _, event, _ in json.loads(done.stdout)["tried"]} == {"socket.getaddrinfo", "socket.connect"}


def test_the_whole_chain_runs_without_a_network_and_tries_none(tmp_path: Path) -> None:
    hospital(tmp_path / "hospital-store", patients=40).rename(tmp_path / "store")
    (tmp_path / "study.yaml").write_text(STUDY)
    chain = CHAIN.strip().splitlines()
    command = [*without_network(), sys.executable, "-c", PROGRAM, json.dumps(chain)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: code for name, code in found["codes"].items() if code} == {}, done.stderr[-2000:]
    assert found["tried"] == []
    assert found["interfaces"] == 1  # the loopback
