"""Results are replaced by results of the same encoder and store, and destroy nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from chartray.audit.audit import audit
from chartray.cli import run_command
from chartray.config.audit import AuditOptions
from chartray.config.evaluate import CompareOptions, EvaluateOptions
from chartray.errors import InputError
from tests.evaluation_folders import compare, evaluate, hospital, vit

QUICK: dict[str, Any] = {"resamples": 3, "baselines": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs, a store and another one, and of each run an evaluation; an audit and a comparison."""
    root = tmp_path_factory.mktemp("earlier")
    stores = {name: hospital(root / name, seed=seed, patients=60) for name, seed in (("store", 0), ("other", 1))}
    runs = {
        name: vit(root / name, run=name, seed=3, chart=chart) for name, chart in (("chart", "sex"), ("none", "none"))
    }
    for name, run in runs.items():
        evaluate(run, stores["store"], root / "results" / name, EvaluateOptions(**QUICK))
    audit(runs["chart"], stores["store"], root / "audit", AuditOptions(attributes=["sex"], **QUICK))
    compare([root / "results" / name for name in runs], root / "arms", CompareOptions(resamples=3))
    return runs | stores | {"root": root}


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_result_of_another_kind_is_never_replaced(made: dict[str, Path]) -> None:
    root, run, store = made["root"], made["chart"], made["store"]
    results = [root / "results" / name for name in ("chart", "none")]
    before = held(root)
    with pytest.raises(InputError, match=r"is not empty and holds an evaluation; choose"):
        audit(run, store, results[0], AuditOptions(attributes=["sex"], **QUICK))
    for evaluated in results:
        with pytest.raises(InputError, match=r"is not empty and holds an evaluation; choose"):
            compare(results, evaluated, CompareOptions(resamples=3))
    for folder, kind in ((root / "audit", "an audit"), (root / "arms", "a comparison")):
        with pytest.raises(InputError, match=f"is not empty and holds {kind}; choose"):
            evaluate(run, store, folder, EvaluateOptions(**QUICK))
    assert held(root) == before


def test_an_evaluation_of_another_encoder_or_store_is_not_replaced(made: dict[str, Path], tmp_path: Path) -> None:
    root, store = made["root"], made["store"]
    before = held(root)
    sentence = r"of the same encoder and store as --out, found another in .* \(run none instead of chart\); choose"
    with pytest.raises(InputError, match=sentence):
        evaluate(made["chart"], store, root / "results" / "none", EvaluateOptions(**QUICK))
    again = vit(tmp_path / "none", run="none", seed=4, chart="none")
    with pytest.raises(InputError, match=r"\(seed 3 instead of 4\)"):
        evaluate(again, store, root / "results" / "none", EvaluateOptions(**QUICK))
    with pytest.raises(InputError, match=r"\(the store's hash \w{12} instead of \w{12}\)"):
        evaluate(made["none"], made["other"], root / "results" / "none", EvaluateOptions(**QUICK))
    with pytest.raises(InputError, match=r"an audit of the same .*\(run chart instead of none\)"):
        audit(made["none"], store, root / "audit", AuditOptions(attributes=["sex"], **QUICK))
    assert held(root) == before
    evaluate(made["none"], store, root / "results" / "none", EvaluateOptions(**QUICK | {"resamples": 4}))
    settings = json.loads((root / "results" / "none" / "evaluation.json").read_text())["settings"]
    assert settings["resamples"] == 4
    compare([root / "results" / name for name in ("chart", "none")], root / "arms", CompareOptions(resamples=4))
    audit(made["chart"], store, root / "audit", AuditOptions(attributes=["sex"], **QUICK))


def test_a_folder_with_other_things_beside_the_result_is_not_replaced(made: dict[str, Path]) -> None:
    folder = made["root"] / "results" / "chart"
    (folder / "my notes.txt").write_text("weeks of work")
    with pytest.raises(InputError, match=r"results/chart is not empty and holds an evaluation and other files; choose"):
        evaluate(made["chart"], made["store"], folder, EvaluateOptions(**QUICK))
    (folder / "my notes.txt").unlink()


def test_a_card_full_of_numbers_is_not_replaced_by_one_without(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "take-home", str(made["root"] / "results" / "chart")
    export = ["export", str(made["chart"]), "--out", str(out)]
    assert run_command(export) == 0  # a card that says nothing was measured
    assert run_command([*export, "--results", results]) == 0
    before = held(out)
    capsys.readouterr()
    assert run_command(export) == 2
    assert "expected --results with the numbers of the card" in (said := capsys.readouterr().err)
    assert "found none; name the results with --results, or choose another --out" in said
    assert run_command([*export, "--form", "timm"]) == 2
    other = [*export[:1], str(made["none"]), *export[2:]]
    assert run_command([*other, "--results", str(made["root"] / "results" / "none")]) == 2
    assert "found one with run chart instead of none" in capsys.readouterr().err
    assert held(out) == before
    assert run_command([*export, "--results", results]) == 0
