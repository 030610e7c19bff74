"""A wrong path, flag or folder is refused in one sentence before torch or a plotting library is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.evaluation_folders import hospital, vit

CASES = """
simulate thesis.txt | simulate new --bogus | simulate new --patients 0
cohort mimic --mimic-iv nope --mimic-cxr nope --out new | cohort chexpert nope --out new
cohort nih nope --out new | cohort nih other --out new | cohort table nope --mapping nope --images nope --out new
features nope --out new | features store/cohort.parquet --out other | features store/cohort.parquet --out thesis.txt
ingest nope --out new | ingest thesis.txt --out new | ingest store/cohort.parquet --out other
ingest store/cohort.parquet --out thesis.txt | ingest store/cohort.parquet --out new --images nope
ingest store/cohort.parquet --out store | ingest store/cohort.parquet --out new --size 3
check nope | check other | check thesis.txt
pretrain nope --out new | pretrain other --out new | pretrain thesis.txt --out new | pretrain store --out other
pretrain store --out thesis.txt | pretrain store --out thesis.txt/new | pretrain store --out new --bogus.key 3
pretrain store --out new --recipe nope | pretrain store --out new --config nope | pretrain store --out new --ehr nope
pretrain store --out new --ehr none --control shuffled | pretrain store --out new --train.batch_size 100000
pretrain store --out new --recipe tiny-cpu --encoder.init nope
evaluate nope nope --out new | evaluate encoder nope --out new | evaluate other store --out new
evaluate encoder other --out new | evaluate encoder store --out other | evaluate encoder store --out thesis.txt
evaluate encoder store --out thesis.txt/new | evaluate encoder store --out new --external nope
evaluate encoder store --out new --labels Nope | evaluate encoder store --out new --floor-chart nope
evaluate unsealed store --out new | evaluate encoder store --out new --protocol nope
compare nope nope --out new | compare other other --out new | compare other other --out thesis.txt
audit nope store --out new | audit encoder nope --out new | audit encoder store --out other
audit encoder store --out new --attributes nope | audit encoder store --out new --against nope
embed nope store --out new | embed encoder nope --out new | embed encoder store --out other
embed encoder store --out thesis.txt | embed encoder store --out new --split nope
report --out new | report nope --out new | report other --out new | report --run other --out new
report --audit other --out new | report --run nope --out other
export nope --out new | export unsealed --out new | export encoder --out other | export encoder --out thesis.txt
export encoder --out new --results other | export encoder --out new --form nope
study nope --out new | study thesis.txt --out new | study thesis.txt --out new --jobs 0 | study thesis.txt --out other
init other | init thesis.txt | knobs nope | demo other | demo thesis.txt | demo thesis.txt/new | demo new --steps 0
bench nope | nope | --bogus
"""

PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr
from chartray.cli import run_command
from chartray.without_pandas import settle_pyarrow

settle_pyarrow()
for case in json.loads(sys.argv[1]):
    with redirect_stderr(io.StringIO()) as said:
        code = run_command(case.split())
    heavy = sorted({"torch", "timm", "matplotlib", "bokeh", "pandas"} & set(sys.modules))
    print(json.dumps([case, code, heavy, said.getvalue().splitlines()]), file=sys.__stdout__)
"""


def test_every_command_refuses_before_torch_is_imported(tmp_path: Path) -> None:
    hospital(tmp_path / "hospital", patients=20).rename(tmp_path / "store")
    vit(tmp_path / "encoder")
    vit(tmp_path / "unsealed")
    (tmp_path / "unsealed" / "SHA256SUMS").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    (tmp_path / "thesis.txt").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    cases = [case.strip() for line in CASES.split("\n") for case in line.split("|") if case.strip()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(cases)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line[0] for line in lines] == cases
    for case, code, heavy, said in lines:
        assert (case, code, heavy, len(said)) == (case, 2, [], 1), said
        assert f"expected a store (a folder with store.json) at {tmp_path}/store" not in said[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is found here")
def test_a_run_says_what_it_is_before_torch_and_misses_its_gpu_before_timm(small_store: Path, tmp_path: Path) -> None:
    knobs = ["--recipe", "tiny-cpu", "--train.batch_size", "8", "--train.device", "cuda"]
    command = [sys.executable, "-X", "importtime", "-m", "chartray", "pretrain", str(small_store), *knobs]
    done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    imported = [line.split("|")[-1].strip() for line in lines]
    (says,) = [at for at, line in enumerate(lines) if re.search(r"store: \d+ training images, \w+, ", line)]
    assert says < imported.index("torch")
    assert not {"timm", "torchvision", "torch._dynamo"} & set(imported)
    assert "torch finds no GPU" in lines[-1]
