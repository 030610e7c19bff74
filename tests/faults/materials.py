"""A hospital of 30 patients, and what every command makes of it: built once, undisturbed, then copied for each case."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

from tests.faults.outcome import content
from tests.faults.processes import Control, Fault, run_forked

# Stands in every identifier and in nothing else, so that none can be told unnoticed.
MARK = "7731"
SIDE = 32
_PATIENTS = 30
_PRETRAIN = {
    "encoder.width": 24,
    "encoder.depth": 1,
    "encoder.heads": 2,
    "encoder.patch_size": 8,
    "views.size": 32,
    "views.focal_size": 16,
    "views.focal_count": 1,
    "objective.prototypes": 8,
    "objective.head_hidden": 16,
    "objective.head_out": 8,
    "train.batch_size": 8,
    "train.steps": 4,
    "train.checkpoint_every": 2,
    "train.precision": "fp32",
    "train.device": "cpu",
    "health.every": 4,
    "health.stop": False,
    "health.probe_films": 16,
}
KNOBS = [token for knob, value in _PRETRAIN.items() for token in (f"--{knob}", str(value).lower())]
MAPPING = """\
image_id: file
patient_id: patient
study_id: accession
taken_at: time
path: file
split: fold
ehr:
  sex: {column: sex, kind: categorical, levels: [M, F], group: demographic}
  age: {column: age, kind: numeric, range: [0, 110], unit: years, group: demographic}
labels:
  Edema: {column: edema}
  Effusion: {column: effusion, true: [ja], false: [nein], uncertain: [unklar]}
"""
_STUDY = {
    "store": "store",
    "pretrain": {"recipe": "tiny-cpu", **_PRETRAIN},
    "arms": {"real": {"ehr": "sex,age"}, "none": {"ehr": "none"}},
    "seeds": [0],
    "evaluations": {"small": {"store": "store", "resamples": 10, "baselines": False}},
    "audit": {"of": "real", "store": "store", "attributes": ["sex"], "resamples": 10, "baselines": False},
    "report": {"title": "tiny", "films": False},
}


class Command(NamedTuple):
    """A command of the chain: what it writes (a name in the case's folder), what it reads, and its words."""

    name: str
    out: str
    reads: tuple[str, ...]
    tokens: tuple[str, ...]
    seconds: float = 60
    # Also begun where an earlier result of the same command, but of other settings, stands; these are its words.
    earlier: tuple[str, ...] | None = None


def _evaluate(run: str, out: str, *more: str) -> tuple[str, ...]:
    return ("evaluate", run, "store", "--out", out, "--resamples", "10", "--saliency", "1", "--resume", *more)


_COHORT = ("cohort", "table", "films.csv", "--mapping", "mapping.yaml", "--images", "films", "--out")
_RUN = ("pretrain", "store", "--recipe", "tiny-cpu", *KNOBS)
COMMANDS = {
    each.name: each
    for each in (
        Command("cohort", "cohort.parquet", (), (*_COHORT, "cohort.parquet"), earlier=(*_COHORT, "cohort.parquet")),
        Command(
            "ingest",
            "store",
            ("cohort.parquet", "cohort.flow.json"),
            ("ingest-here", "cohort.parquet", "--out", "store", "--size", str(SIDE)),
        ),
        Command("pretrain", "run", ("store",), (*_RUN, "--ehr", "sex,age", "--out", "run", "--resume"), 120),
        Command("pretrain-bare", "bare", ("store",), (*_RUN, "--ehr", "none", "--out", "bare", "--resume"), 120),
        Command(
            "evaluate",
            "results",
            ("store", "run"),
            _evaluate("run", "results"),
            120,
            _evaluate("run", "results", "--seed", "1"),
        ),
        Command("evaluate-bare", "results-bare", ("store", "bare"), _evaluate("bare", "results-bare"), 120),
        Command(
            "compare",
            "compared",
            ("results", "results-bare"),
            ("compare", "results", "results-bare", "--out", "compared", "--resamples", "10"),
            earlier=("compare", "results", "results-bare", "--out", "compared", "--resamples", "20"),
        ),
        Command(
            "audit",
            "audited",
            ("store", "run", "bare"),
            (
                "audit",
                "run",
                "store",
                "--out",
                "audited",
                "--against",
                "bare",
                "--resamples",
                "10",
                "--attributes",
                "sex",
            ),
            120,
        ),
        Command(
            "export",
            "bundle",
            ("run", "results", "compared", "audited"),
            (
                "export",
                "run",
                "--out",
                "bundle",
                "--results",
                "results",
                "--results",
                "compared",
                "--results",
                "audited",
            ),
            earlier=("export", "run", "--out", "bundle", "--results", "results"),
        ),
        Command("embed", "embedded.parquet", ("store", "run"), ("embed", "run", "store", "--out", "embedded.parquet")),
        Command(
            "report",
            "report",
            ("store", "run", "bare", "results", "results-bare", "compared", "audited"),
            (
                *("report", "results", "results-bare", "compared", "--run", "run", "--run", "bare"),
                *("--store", "store", "--audit", "audited", "--out", "report", "--no-films"),
            ),
            180,
        ),
        Command("study", "study", ("store", "study.yaml"), ("study", "study.yaml", "--out", "study"), 300),
    )
}


class Made(NamedTuple):
    """What an undisturbed command left: its content, the names in it that two runs do not share, the calls it took."""

    content: dict[str, str]
    volatile: frozenset[str]
    calls: int
    reads: int


class Hospital:
    """The folder `whole` with everything in it, and the folder `here` in which a case happens, always the same one."""

    def __init__(
        self, scratch: Path, prepare: Callable[[], Callable[[tuple[str, ...]], int]], control: Control
    ) -> None:
        self.scratch, self.prepare, self.control = scratch, cache(prepare), control
        self.whole, self.here, self.before = (scratch / name for name in ("whole", "case", "earlier"))
        self.made: dict[str, Made] = {}
        for folder in (self.whole, self.here, self.before):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        _write_hospital(self.whole)

    @property
    def does(self) -> Callable[[tuple[str, ...]], int]:
        """What runs a command line; the first time, everything that commands need is imported."""
        return self.prepare()

    def make(self, name: str) -> Made:
        """What the command `name` makes, which is made where it is not there yet, and what it reads before."""
        command, _ = COMMANDS[name], self.does
        if name in self.made:
            return self.made[name]
        for other in COMMANDS.values():
            if other.out in command.reads:
                self.make(other.name)
        first, calls = self._undisturbed(command, command.tokens, Fault("count"))
        second, reads = self._undisturbed(command, command.tokens, Fault("fail reads"))
        volatile = frozenset(each for each in first.keys() | second.keys() if first.get(each) != second.get(each))
        copy(self.here, self.whole, _with_flow(command.out))
        stable = {each: value for each, value in second.items() if each not in volatile}
        self.made[name] = Made(stable, volatile, calls, reads)
        if command.earlier is not None:
            self._undisturbed(command, command.earlier, Fault("count"))
            copy(self.here, self.before, _with_flow(command.out))
        return self.made[name]

    def _undisturbed(self, command: Command, tokens: tuple[str, ...], fault: Fault) -> tuple[dict[str, str], int]:
        self.lay(command)
        ended = run_forked(lambda: self.does(tokens), self.here, self.control, fault, seconds=600)
        if ended.code != 0:
            raise SystemExit(f"{' '.join(tokens)}: ended with {ended.code} undisturbed: {ended.err[-3000:]}")
        return content(self.here / command.out), ended.calls

    def lay(self, command: Command, *, earlier: bool = False) -> None:
        """An empty case folder with what the command reads, and an earlier result if asked for."""
        shutil.rmtree(self.here)
        self.here.mkdir()
        for name in (*(() if command.name != "cohort" else ("films.csv", "mapping.yaml")), *command.reads):
            copy(self.whole, self.here, (name,))
        (self.here / "films").symlink_to(self.whole / "films")
        if earlier:
            copy(self.before, self.here, _with_flow(command.out))


def copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copies files and folders from one folder to another, in place of what is there."""
    for name in names:
        if (source / name).is_dir():
            shutil.rmtree(target / name, ignore_errors=True)
            shutil.copytree(source / name, target / name, symlinks=True)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _with_flow(out: str) -> tuple[str, ...]:
    return (out, out.replace(".parquet", ".flow.json")) if out == "cohort.parquet" else (out,)


def _write_hospital(folder: Path) -> None:
    draw = np.random.default_rng(0)
    (folder / "films").mkdir()
    lines = ["file,patient,accession,time,fold,sex,age,edema,effusion"]
    for number in range(2 * _PATIENTS):
        patient, edema, effusion = number // 2, draw.random() < 0.5, draw.random() < 0.4
        pixels = draw.normal(100, 25, (40, 36))
        pixels[20:] += 20 * edema
        pixels[:, :18] += 25 * effusion
        name = f"f{MARK}{number:03}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "films" / name)
        fold = ("train", "train", "validate", "test", "test")[patient % 5]
        sex, age = ("M", "F", "")[patient % 7 % 3], "" if patient % 6 == 5 else str(30 + patient)
        words = (name, f"P{MARK}{patient:03}", f"A{MARK}{number:03}", f"2020-03-{1 + number % 28:02} 10:00", fold)
        lines.append(",".join((*words, sex, age, str(int(edema)), ("nein", "ja")[effusion])))
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    (folder / "mapping.yaml").write_text(MAPPING)
    (folder / "study.yaml").write_text(yaml.safe_dump(_STUDY, sort_keys=False))
