"""Options are written once: layering, earlier names, and that the help shows every one of them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chartray.cli import _with_values, app
from chartray.config.audit import AuditOptions
from chartray.config.evaluate import EvaluateOptions
from chartray.config.pretrain import Config, load, load_saved
from chartray.config.renamed import RENAMED, renamed_tokens
from chartray.config.section import options_of
from chartray.errors import InputError
from chartray.outputs.notices import held
from chartray.training.training_data import settings_hash


def given(*options: str) -> dict[str, Any]:
    """The settings that a command line gives to `pretrain`."""
    tokens = _with_values(renamed_tokens(["pretrain", "store", "--out", "run", *options]))
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    return bound.arguments.get("given") or {}


def test_only_what_was_given_lies_over_the_file_which_lies_over_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "knobs.yaml"
    file.write_text("train: {batch_size: 32, clip: null, epochs: 7}\nviews: {size: 96}\n")
    read = load("dino", file, given("--train.batch-size", "64", "--objective.center_momentum=0.5"))
    recipe = load("dino")
    assert (read.train.batch_size, read.train.clip, read.train.epochs) == (64, None, 7)
    assert (read.views.size, read.objective.center_momentum) == (96, 0.5)
    changed = {"train": {"batch_size", "clip", "epochs"}, "views": {"size"}, "objective": {"center_momentum"}}
    for name, section in recipe.model_dump().items():
        if isinstance(section, dict):
            for key, value in section.items():
                assert key in changed.get(name, ()) or getattr(getattr(read, name), key) == value


def test_the_command_line_takes_values_as_yaml_has_them() -> None:
    tokens = ["--train.clip", "null", "--objective.train-prototypes", "false", "--health.no-stop", "--seed=3"]
    tokens += ["--views.scale", "0.2,1", "--views.focal-scale", "[0.1, 0.2]", "--chart.allow-after-film", "died,icu"]
    read = load("msn", None, given(*tokens, "--ehr", "age,sex", "--train.compile", "true"))
    assert (read.train.clip, read.train.compile, read.seed) == (None, True, 3)
    assert not read.objective.train_prototypes
    assert not read.health.stop
    assert (read.views.scale, read.views.focal_scale) == ((0.2, 1.0), (0.1, 0.2))
    assert (read.chart.ehr, read.chart.allow_after_film) == ("age,sex", ("died", "icu"))
    assert load("msn", None, given("--train.steps", "4", "--train.epochs", "null")).train.steps == 4


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["--train.batch-size", "1"], "expected train.batch_size of 2 or more, found '1'"),
        (["--views.flip", "nan"], r"expected views.flip in \[0, 1\], found 'nan'"),
        (["--chart.use", "both"], "expected chart.use to be anchor or predict, found 'both'"),
        (["--views.scale", "0.3"], "expected views.scale to be values separated by commas"),
        (["--train.steps", "4", "--train.epochs", "4"], "expected train.epochs or train.steps, found both"),
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence(tokens: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load("msn", None, given(*tokens))


def test_every_new_name_is_an_option_and_no_old_one_is() -> None:
    known = {option.name for model in (Config, EvaluateOptions, AuditOptions) for option in options_of(model)}
    assert set(RENAMED.values()) <= known
    assert not set(RENAMED) & known


def test_old_names_work_and_say_the_new_ones(tmp_path: Path) -> None:
    with held() as notices:
        assert renamed_tokens(["evaluate", "r", "--no-floors", "--floor-chart", "sex", "--looks=2", "floors"]) == [
            "evaluate", "r", "--no-baselines", "--baseline-chart", "sex", "--saliency=2", "floors"
        ]  # fmt: skip
        tokens = given("--objective.centre_momentum", "0.3", "--objective.normalise-patches", "false")
    assert load("dino", None, tokens).objective.center_momentum == 0.3
    assert not load("mae", None, tokens).objective.norm_pix_loss
    assert notices == [
        "--no-floors is now --no-baselines",
        "--floor-chart is now --baseline-chart",
        "--looks is now --saliency",
        "--objective.centre_momentum is now --objective.center-momentum",
        "--objective.normalise-patches is now --objective.norm-pix-loss",
    ]
    file = tmp_path / "config.yaml"
    file.write_text("objective: {name: dino, centre_momentum: 0.4}\nrecipe: dino\n")
    with held() as notices:
        assert load_saved(file).objective.center_momentum == 0.4  # of an earlier run, which nobody needs to edit
    assert notices == []
    with held() as notices:
        assert load("dino", file).objective.center_momentum == 0.4
    assert notices == ["objective.centre_momentum is now objective.center_momentum"]


def test_a_recipe_keeps_its_hash_under_the_new_names() -> None:
    """The digests that runs of these recipes recorded before settings were renamed, and others were added."""
    found = {name: settings_hash(load(name)) for name in ("dino", "mae")}
    assert found == {"dino": "1ce3a525bd1c", "mae": "9eaeef48121f"}


def test_recipes_that_train_otherwise_than_before_have_another_hash() -> None:
    before = {"msn": "8c3b13b0b2a3", "published": "edbfbaf32e71", "tiny-cpu": "01e6d19f2553"}
    assert all(settings_hash(load(name)) != digest for name, digest in before.items())


@pytest.mark.parametrize(
    ("command", "model"), [("pretrain", Config), ("evaluate", EvaluateOptions), ("audit", AuditOptions)]
)
def test_the_help_shows_every_option_with_its_range_and_imports_no_torch(command: str, model: type) -> None:
    code = (
        "import sys; from chartray.cli import app; app(sys.argv[1:], exit_on_error=False, result_action='return_none')"
    )
    code += "; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"],
        env={"COLUMNS": "300", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"
    for name, field in options_of(model):
        assert re.search(rf"--{name.replace('_', '-')}\b", done.stdout), name
        assert field.description in done.stdout, name


def test_the_shell_completes_settings_and_choices() -> None:
    script = app.generate_completion(prog_name="chartray", shell="bash")
    for word in ("--train.batch-size", "--baseline-chart", "finetune", "mask-only"):
        assert word in script


@pytest.mark.parametrize("name", ["compare", "report", "evaluate", "audit", "export", "bench"])
def test_no_list_has_an_option_that_empties_it(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        app([name, "--help"])
    assert "--empty" not in capsys.readouterr().out
