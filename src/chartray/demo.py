"""The demo: the whole pipeline on a simulated hospital, in one process, each part timed."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chartray.config import pretrain as knobs
from chartray.config.evaluate import CompareOptions, EvaluateOptions
from chartray.config.section import Knobs
from chartray.console import status, tell
from chartray.evaluation.compare import compare
from chartray.evaluation.evaluate import evaluate
from chartray.outputs.guard import refuse_other
from chartray.outputs.replacing import reserved
from chartray.pixels.ingest import ingest
from chartray.records.chexpert import chexpert_cohort
from chartray.records.cohort import Cohort, describe, write_cohort
from chartray.records.mimic import mimic_cohort
from chartray.records.nih import nih_cohort
from chartray.report.statements import five_lines
from chartray.report.write import write_report
from chartray.results.folder import COMPARE_FILE, MANIFEST_FILE, open_results
from chartray.simulate.hospital import simulate
from chartray.training.pretrain import pretrain

PATIENTS = 700
# Half the recipe's width and a fifteenth of its steps are what a few minutes hold: as much of the findings can then be
# read from the class token as from pixels. At the recipe's rate so short a run passes near a collapse.
RECIPE, STEPS = "small-cpu", 600
SMALLER: Knobs = {"encoder.width": 128, "encoder.heads": 4, "train.recipe_learning_rate": 1e-3}
STORE_SIZE = 128
# Name of the arm: the chart it is pretrained with, and the control.
ARMS = {
    "demographic-norm": ("demographic-norm", "none"),
    "none": ("none", "none"),
    "shuffled": ("demographic-norm", "shuffled"),
}


def run_demo(out: Path, *, seed: int = 0, patients: int = PATIENTS, steps: int | None = None) -> Path:
    """Simulates, ingests, pretrains three arms, evaluates them on three data sets; returns the report.

    `steps` of pretraining, `STEPS` if None.

    Raises InputError if `out` holds anything.
    """
    refuse_other(out)
    with reserved(out):
        return _mission(out, seed, patients, steps)


def _mission(out: Path, seed: int, patients: int, steps: int | None) -> Path:
    began = time.monotonic()
    with timed("data"):
        stores = make_stores(out, seed, patients)
    runs = {}
    for arm, (chart, control) in ARMS.items():
        runs[arm] = out / "runs" / arm
        overrides: Knobs = {"chart.ehr": chart, "chart.control": control, "seed": seed}
        fewer: Knobs = SMALLER | {"train.steps": steps or STEPS}
        settings = knobs.load(RECIPE, None, overrides | fewer)
        with timed(f"pretraining of {arm}"):
            command = f"chartray pretrain {stores['mimic']} --out {runs[arm]} --recipe {RECIPE} --ehr {chart}"
            command += "".join(f" --{name} {value}" for name, value in fewer.items())
            command += f" --control {control}" if control != "none" else ""
            pretrain(stores["mimic"], runs[arm], settings, command=command)
    with timed("evaluation"):
        results = evaluate_arms(out / "results", runs, stores, seed)
    with timed("report"):
        page = write_report(list(runs.values()), results, out / "report", stores=list(stores.values()))
    minutes = (time.monotonic() - began) / 60
    tell(f"\n{page.resolve()} ({minutes:.1f} minutes). It says:")
    opened = [
        open_results(folder, (MANIFEST_FILE, COMPARE_FILE), f"expected results in {folder}") for folder in results
    ]
    scores = [row for one in opened for row in one.scores]
    pairs = [row for one in opened for row in one.comparisons]
    for line in five_lines(scores, pairs):
        tell(f"  {line}")
    return page


def evaluate_arms(out: Path, runs: dict[str, Path], stores: dict[str, Path], seed: int) -> list[Path]:
    """Evaluates every arm on MIMIC, with CheXpert as it comes, and on NIH with its own probe; then compares."""
    results: list[Path] = []
    for data, external in (("mimic", (stores["chexpert"],)), ("nih", ())):
        of_arms = [out / f"{arm}-{data}" for arm in runs]
        options = EvaluateOptions(external=external, seed=seed, precision="bf16")
        for folder, run in zip(of_arms, runs.values(), strict=True):
            evaluate(run, stores[data], folder, options)
        compare(of_arms, out / f"arms-{data}", CompareOptions(seed=seed))
        results += [*of_arms, out / f"arms-{data}"]
    return results


def make_stores(out: Path, seed: int, patients: int) -> dict[str, Path]:
    """A hospital, three cohorts and three stores in `out`; the simulated images are deleted once they are stored."""
    hospital = out / "hospital"
    simulate(hospital, patients=patients, seed=seed)
    cohorts: dict[str, Cohort] = {
        "mimic": mimic_cohort(str(hospital / "mimic-iv"), hospital / "mimic-cxr-jpg"),
        "chexpert": chexpert_cohort(hospital / "chexpert"),
        "nih": nih_cohort(hospital / "nih"),
    }
    stores = {}
    for name, cohort in cohorts.items():
        write_cohort(cohort, out / f"{name}.parquet")
        status(describe(cohort))
        stores[name] = out / f"{name}.store"
        ingest(out / f"{name}.parquet", stores[name], size=STORE_SIZE)
    shutil.rmtree(hospital)
    return stores


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Says how long a part of the demo took."""
    began = time.monotonic()
    yield
    status(f"-- {part}: {time.monotonic() - began:.0f} s")
