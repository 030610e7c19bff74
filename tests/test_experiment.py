"""An experiment: its file, the commands it stands for, and that what is done is not done again."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from chartray import experiment as room
from chartray.cli import app, run_command
from chartray.config.pretrain import load
from chartray.config.study import read_experiment
from chartray.errors import InputError, OutputError, Stopped, UnhealthyRun
from chartray.experiment import experiment_plan, run_experiment
from chartray.experiment_processes import run_all
from chartray.experiment_steps import steps_of
from chartray.outputs.lock import locked
from chartray.pixels.store import Store
from tests.evaluation_folders import hospital
from tests.test_pretrain import SMALL

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "study.yaml"
VERBS = [
    ("training.pretrain", "pretrain"),
    ("evaluation.evaluate", "evaluate"),
    ("evaluation.compare", "compare"),
    ("audit.audit", "audit"),
    ("report.write", "write_report"),
]


def tiny(folder: Path, store: Path, **changed: Any) -> Path:
    """The example, on a small store: two arms, one seed, four steps."""
    tree = yaml.safe_load(EXAMPLE.read_text())
    quick = {"store": str(store), "resamples": 20, "baselines": False}
    tree |= {"store": str(store), "seeds": [0]}
    tree["pretrain"] |= SMALL | {"train.steps": 4, "train.checkpoint_every": 2}
    tree["arms"] = {name: tree["arms"][name] for name in ("real", "none")}
    tree["evaluations"] = {"small": quick}
    tree["audit"] = quick | {"of": "real", "attributes": ["sex"]}
    tree["report"], tree["question"] = {"title": "tiny", "films": False}, None
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree | changed, sort_keys=False))
    return file


def test_an_interrupted_experiment_continues_and_its_commands_are_its_steps(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tiny(tmp_path, small_store), tmp_path / "out"
    done: list[str] = []
    for place, verb in VERBS:
        module = import_module(f"chartray.{place}")
        true = getattr(module, verb)

        def noted(*places: Any, verb: str = verb, true: Any = true, **options: Any) -> Any:
            if verb == "evaluate" and done.count("evaluate") == 1 and "killed" not in done:
                done.append("killed")
                raise KeyboardInterrupt
            done.append(verb)
            return true(*places, **options)

        monkeypatch.setattr(module, verb, noted)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(file, out)
    assert done == ["pretrain", "pretrain", "evaluate", "killed"]
    assert "1 seed: no claim about the chart is possible with fewer than 3 seeds" in capsys.readouterr().out
    first = (out / "results" / "real-0-small" / "results.jsonl").stat().st_mtime_ns
    page = run_experiment(file, out)
    assert done[4:] == ["evaluate", "compare", "audit", "write_report"]
    assert page == out / "report" / "report.html"
    assert "tiny" in page.read_text()
    assert "3 of 7 steps are done already" in capsys.readouterr().out
    assert (out / "results" / "real-0-small" / "results.jsonl").stat().st_mtime_ns == first
    assert [json.loads(line) for line in (out / "results" / "arms-small" / "comparisons.jsonl").open()]
    assert run_experiment(file, out) == page
    assert len(done) == 8
    with (
        locked(out.with_name(".out.lock"), "busy"),
        pytest.raises(InputError, match=r"another command is writing to .*out; wait for it"),
    ):
        run_experiment(file, out)
    note = out / "steps" / "report.done.json"
    whole = note.read_bytes()
    for broken in (whole[:-20], b"", b"[]", whole.replace(b'"seconds"', b'"second"')):
        note.write_bytes(broken)
        with pytest.raises(InputError, match=r"steps/report\.done\.json"):
            run_experiment(file, out)
    note.write_bytes(whole)
    killed = tmp_path / "killed"  # before its first step
    (killed / "steps").mkdir(parents=True)
    (killed / ".study.yaml.partial").touch()
    room.claim(killed)

    # The plan's lines are the same commands, read by the command line into the same settings.
    plan = experiment_plan(file, out)
    assert [line for line in plan if line.startswith("# stage")] == [
        "# stage 1, pretraining: 2 commands",
        "# stage 2, evaluation: 2 commands, after stage 1",
        "# stage 3, comparison and audit: 2 commands, after stage 2",
        "# stage 4, report: 1 command, after stage 3",
    ]
    commands = [line for line in plan if not line.startswith("#")]
    manifest = json.loads((out / "runs" / "none-0" / "manifest.json").read_text())
    assert manifest["command"] == commands[1]
    scored = (out / "results" / "none-0-small" / "results.jsonl").read_bytes()
    for line, said in ((commands[1], "is complete: nothing left to do"), (commands[3], "none-0-small")):
        assert run_command(shlex.split(line)[1:]) == 0
        assert said in capsys.readouterr().out
    assert (out / "results" / "none-0-small" / "results.jsonl").read_bytes() == scored

    # Another option of the evaluation: that would be done again, and what needs it, and no pretraining.
    changed = {"small": {"store": str(small_store), "resamples": 30, "baselines": False}}
    steps = list(steps_of(read_experiment(tiny(tmp_path, small_store, evaluations=changed)), file, out, lambda: None))
    keys: dict[str, str] = {}
    for step in steps:
        keys[step.name] = room._key(step, keys)
    again = [step.name for step in steps if not room._is_done(step, keys[step.name], out)]
    assert again == ["evaluate-real-0-small", "evaluate-none-0-small", "compare-small", "report"]


def test_a_step_is_done_again_on_another_store_and_what_it_made_is_kept_until_then(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [str(hospital(tmp_path / name, seed=seed, patients=60)) for seed, name in enumerate(("first", "second"))]
    quick = {"resamples": 3, "baselines": False}
    out, arms = tmp_path / "out", {"none": {"ehr": "none"}}

    def out_of_luck(*_: Any, **options: Any) -> None:
        raise InputError("out of luck")

    def again(store: str) -> dict[str, Any]:
        evaluations = {"small": quick | {"store": store}}
        run_experiment(tiny(tmp_path, small_store, arms=arms, evaluations=evaluations, audit=None), out)
        manifest = json.loads((out / "results" / "none-0-small" / "evaluation.json").read_text())
        return dict(manifest["stores"][0])

    first = again(stores[0])
    assert first["path"] == stores[0]
    with monkeypatch.context() as patch:
        patch.setattr("chartray.evaluation.evaluate.evaluate", out_of_luck)
        with pytest.raises(InputError, match="out of luck"):
            again(stores[1])
    kept = json.loads((out / "results" / "none-0-small" / "evaluation.json").read_text())
    assert kept["stores"][0] == first
    assert again(stores[1])["path"] == stores[1]
    assert sorted(path.name for path in (out / "results").iterdir()) == ["none-0-small"]


def test_every_command_of_the_plan_is_one_the_command_line_knows(small_store: Path, tmp_path: Path) -> None:
    for name in ("s", "e1", "e 2"):
        shutil.copytree(small_store, tmp_path / name)
    given = {
        "store": "s",
        "external": ["e1", "e 2"],
        "data_percent": [0.1, 1.0],
        "labels": ["Disc", "Bars"],
        "protocol": "published",
        "freeze": False,
        "baselines": False,
    }
    arms = {"real": {"ehr": "sex,age", "control": "shuffled", "train.clip": None, "views.scale": [0.2, 1.0]}}
    file = tiny(tmp_path, small_store, evaluations={"a": given}, arms=arms, seeds=[3, 4, 5])
    plan = experiment_plan(file, tmp_path / "out")
    assert plan[0] == "# 1 arm x 3 seeds: differences between arms can be claims"
    runs = [shlex.split(line) for line in plan if line.startswith("chartray pretrain")]
    assert [run[run.index("--seed") + 1] for run in runs] == ["3", "4", "5"]
    _, bound, _ = app.parse_args(runs[0][1:], exit_on_error=False, print_error=False)
    again = load("tiny-cpu", None, bound.arguments["given"])
    assert again == read_experiment(file).arms[0].config(3)
    assert again.train.clip is None
    evaluation = next(line for line in plan if line.startswith("chartray evaluate"))
    options = f"--external {tmp_path}/e1 --external '{tmp_path}/e 2'"
    assert options in evaluation
    for part in ("--data-percent 0.1 1.0", "--labels Disc,Bars", "--no-freeze", "--no-baselines"):
        assert part in evaluation


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": [0]}, r"unknown key 'seed' in .*study.yaml \(did you mean 'seeds'"),
        ({"arms": {"real": {"ehr": "sex", "controll": "shuffled"}}}, "unknown key 'controll' .*did you mean 'control'"),
        ({"arms": {"real": {"train.stepz": 3}}}, "did you mean 'train.steps'"),
        ({"arms": {"real": {"control": "shufled"}}}, "arm real of .*study.yaml: .*chart.control"),
        ({"arms": {"real": {}, "late": {"config": 3}}}, "a file of knobs after config in the arm late, found 3"),
        ({"arms": {"../real": {}}}, "expected letters and digits as the name of an arm"),
        ({"seeds": [1, 1]}, "expected seeds that differ"),
        ({"evaluations": {"a": {"store": "x", "protocoll": "knn"}}}, "did you mean 'protocol'"),
        ({"evaluations": {"a": {"protocol": "knn"}}}, "evaluations.a of .*: expected a text under store, found .none."),
        ({"audit": {"of": "reel", "store": "x"}}, r"expected an arm after audit.of .* \(did you mean 'real'"),
        ({"evaluations": {}}, "expected a mapping of names under evaluations"),
    ],
)
def test_an_experiment_file_that_is_wrong_is_one_sentence(
    changed: dict[str, Any], sentence: str, small_store: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_experiment(tiny(tmp_path, small_store, **changed))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"evaluations": {"a": {"store": "nowhere"}}}, "expected a store .* at .*nowhere"),
        ({"arms": {"real": {}, "odd": {"ehr": "sex,agee"}}}, "arm odd of .*: expected a feature set .*found 'agee'"),
        ({"arms": {"real": {}, "odd": {"chart.films_of": "sexx"}}}, "arm odd of .*: expected a feature set .*'sexx'"),
        ({"arms": {"real": {}, "odd": {"ehr": "none", "control": "shuffled"}}}, "arm odd of .*: expected a chart for"),
        (
            {"audit": {"attributes": ["sex", "agee"]}},
            r"audit of .*: expected a variable .* found 'agee' \(did you mean 'a",
        ),
        (
            {"audit": {"baseline_chart": "sexx", "baselines": True}},
            r"audit of .*: expected a feature set .* found 'sexx'",
        ),
        ({"evaluations": {"a": {"labels": ["Edemaa"]}}}, r"evaluation a of .*: label 'Edemaa' is absent from"),
        (
            {"audit": {"baseline_chart": "sex", "baselines": False}},
            "audit of .*: expected --baseline-chart only with --baselines",
        ),
        ({"evaluations": {"a": {"baseline_chart": "sexx"}}}, r"evaluation a of .*: expected a feature set .*'sexx'"),
    ],
)
def test_a_store_or_chart_that_is_not_there_is_found_before_anything_is_written(
    changed: dict[str, Any], sentence: str, small_store: Path, tmp_path: Path
) -> None:
    scored = {"store": str(small_store)}
    if "audit" in changed:
        changed = {"audit": scored | {"of": "real"} | changed["audit"]}
    if "evaluations" in changed:
        changed = {"evaluations": {name: scored | each for name, each in changed["evaluations"].items()}}
    file = tiny(tmp_path, small_store, **changed)
    for does in (run_experiment, experiment_plan):
        with pytest.raises(InputError, match=sentence):
            does(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_jobs_and_a_folder_of_other_things_are_refused(small_store: Path, tmp_path: Path) -> None:
    file = tiny(tmp_path, small_store)
    with pytest.raises(InputError, match="expected at least 1 of --jobs, found 0"):
        run_experiment(file, tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no experiment"):
        run_experiment(file, tmp_path / "other")
    assert len(Store.open(small_store)) == 240


def test_an_experiment_file_is_read_without_torch() -> None:
    code = "import sys, chartray.experiment; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# A process that says that it runs, and saves itself when it is asked to stop.
SAVES_ITSELF = """
import pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
def save(*_):
    place.write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
place.write_text("runs")
time.sleep(30)
"""


@pytest.fixture
def heard(number: signal.Signals) -> Iterator[None]:
    """A shell starts what runs in its background deaf to SIGINT, which an experiment respects: here it is heard."""
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    signal.signal(number, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_an_experiment_that_is_stopped_stops_its_processes_and_waits_for_them(
    number: signal.Signals, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in "abc"]
    began: list[bool] = []

    def stop() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until and not began:
            if all(place.is_file() and place.read_text() == "runs" for place in places[:2]):
                began.append(True)
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    commands = {place.name: [sys.executable, "-S", "-c", SAVES_ITSELF, str(place)] for place in places}
    done: list[str] = []
    handler = signal.getsignal(number)
    with pytest.raises(Stopped, match="the same command continues") as stopped:
        run_all(commands, 2, begins=print, done=lambda name, seconds: done.append(name))
    thread.join()
    assert began
    assert stopped.value.exit_code == 128 + number
    assert [place.read_text() for place in places[:2]] == ["saved", "saved"]
    assert not places[2].exists()  # nothing is begun any more
    assert done == []
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        ("exit 3", UnhealthyRun, "pretrain-b cannot continue"),
        ("exit 143", Stopped, "pretrain-b was stopped"),
        ("kill -TERM $$", Stopped, "pretrain-b was stopped"),
        ("exit 2", InputError, r"pretrain-b has failed \(exit code 2\)"),
        ("exit 1", OutputError, r"pretrain-b has failed \(exit code 1\)"),
    ],
)
def test_how_one_of_several_processes_ended_is_how_the_experiment_ends(code: str, kind: type, sentence: str) -> None:
    commands = {f"pretrain-{name}": ["sh", "-c", code if name == "b" else "exit 0"] for name in "abc"}
    done: list[str] = []
    with pytest.raises(kind, match=sentence):
        run_all(commands, 2, begins=print, done=lambda name, seconds: done.append(name))
    assert sorted(done) == ["pretrain-a", "pretrain-c"]  # the others are not lost


def test_steps_beside_each_other_are_noted_as_done(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tiny(tmp_path, small_store), tmp_path / "out"
    monkeypatch.setattr(room, "_CHARTRAY", ("sh", "-c", 'case "$4" in *none-0) exit 3;; esac', "sh"))
    with pytest.raises(UnhealthyRun, match="pretrain-none-0"):
        run_experiment(file, out, jobs=2)
    assert [note.name for note in (out / "steps").iterdir()] == ["pretrain-real-0.done.json"]
    assert "study: pretrain-none-0\n" in capsys.readouterr().out


def test_the_example_is_an_experiment_of_three_arms_and_seeds() -> None:
    study = read_experiment(EXAMPLE)
    assert ([arm.name for arm in study.arms], study.seeds) == (["real", "none", "shuffled"], (0, 1, 2))
