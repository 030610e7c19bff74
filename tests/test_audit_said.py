"""What an audit may say: seeds of one arm, units, labels the encoder was shown, and sentences that follow the rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import Judge, Place, every_draw, reading_of, rows_of
from chartray.audit.attributes import COIN, Attribute, why_not_held
from chartray.audit.audit import audit
from chartray.audit.differences import Side, difference_rows, seeds_said, sides
from chartray.audit.sentences import spoken
from chartray.config.audit import AuditOptions
from chartray.errors import InputError
from chartray.evaluation.films import Films
from chartray.pixels.store import Store
from chartray.schema import CohortMetadata, Variable, to_metadata
from chartray.statistics.metrics import eligible, sample
from tests.evaluation_folders import hospital, read, vit


def arm(name: str, seed: int | None, *, chart: str = "sex", **made: Any) -> AuditArm:
    return AuditArm(name, chart, "none", lambda _: "", True, {"seed": seed, "settings_hash": "x"} | made)


def over_seeds(arms: list[AuditArm]) -> list[tuple[str, str, int]]:
    pairs = sides(arms, [{} for _ in arms])
    return [(a.name, b.name, len(b.arms)) for a, b in pairs if len(a.arms) > 1]


def test_uses_of_the_chart_and_objectives_are_arms_of_their_own() -> None:
    arms = [arm(f"{use}-{seed}", seed, chart_use=use) for use in ("anchor", "predict") for seed in range(3)]
    arms += [arm(f"other-{seed}", seed, chart_use="anchor", objective="dino") for seed in range(3)]
    assert over_seeds(arms) == [("sex", "sex (predict)", 3), ("sex", "sex (dino)", 3)]
    assert seeds_said(arms) == []


def test_a_seed_that_comes_twice_is_said() -> None:
    arms = [arm("one", 0), arm("two", 0), arm("three", 1), *(arm(f"n{seed}", seed, chart="none") for seed in (0, 1))]
    assert over_seeds(arms) == []
    (note,) = seeds_said(arms)
    assert note.startswith("sex is compared over seeds with no other arm")
    assert "one (seed 0), two (seed 0), three (seed 1)" in note


def test_one_number_in_all_films_has_no_r2_and_says_so() -> None:
    people = np.array([f"p{number:02}" for number in range(12)])
    age = Attribute("age", (), (40.0,), "years", True)
    films = Films(None, "test", np.arange(12), people, np.zeros((12, 0)))
    truth = np.full((12, 1), 61.3)
    judge = Judge(age, Place("d", films, []), truth, np.array([True]), every_draw(people, 50, 0))
    reading = reading_of(judge, truth + np.arange(12)[:, None] / 10)
    a = arm("real", 0)
    squares, errors = rows_of(a, reading, {}, 0.95)
    assert np.isnan([squares["value"], squares["ci_low"], squares["ci_high"]]).all()
    assert squares["reason"].startswith("one number in all films scored")
    assert errors["value"] == pytest.approx(0.55)
    assert errors["reason"] is None
    (row,) = difference_rows(
        Side("real", [a], [{"age": reading}]), Side("b", [arm("b", 0)], [{"age": reading}]), {}, confidence=0.95, seed=0
    )
    assert row["reason"] == squares["reason"]
    assert row["verdict"] == "no claim"  # of one seed, whatever was read
    assert np.isnan(row["p"])


def test_levels_and_numbers_of_few_patients_are_suppressed() -> None:
    people = np.array([f"p{number:02}" for number in range(60)])
    levels = Attribute("race", ("a", "b", "c"), (), None, True)
    films = Films(None, "test", np.arange(60), people, np.zeros((60, 0)))
    truth = np.eye(3)[np.repeat([0, 1, 2], (30, 26, 4))]
    counted = eligible(truth, people)
    drawn = sample(truth, people, resamples=50, seed=0, macro=counted)
    judge = Judge(levels, Place("d", films, []), truth, counted, drawn)
    reading = reading_of(judge, truth + np.random.default_rng(0).normal(size=(60, 3)))
    rows = {row["level"]: row for row in rows_of(arm("real", 0), reading, {}, 0.95)}
    assert rows["a"]["value"] > 0.5
    assert np.isnan([rows["c"]["value"], rows["c"]["ci_low"]]).all()
    assert rows["c"]["reason"] == "fewer than 10 patients with or without it: suppressed"
    assert rows[None]["levels"] == ["a", "b"]
    nine = np.full((60, 1), np.nan)
    nine[:9, 0] = np.arange(9)
    age = Attribute("age", (), (4.0,), "years", True)
    few = Judge(age, Place("d", films, []), nine, np.array([False]), every_draw(people, 50, 0))
    reading = reading_of(few, np.nan_to_num(nine))
    assert np.isnan([row["value"] for row in rows_of(arm("real", 0), reading, {}, 0.95)]).all()
    side = Side("real", [arm("real", 0)], [{"age": reading}])
    (row,) = difference_rows(side, side, {}, confidence=0.95, seed=0)
    assert np.isnan([row["value_a"], row["difference"]]).all()


class Unit:
    """Only what is asked of a store: its cohort's variables."""

    def __init__(self, unit: str | None) -> None:
        age = Variable(kind="numeric", range=(0, 2000), unit=unit, group="demographic", columns=("age",))
        of = CohortMetadata(source="here", variables={"age": age})
        self.cohort = pa.table({"ehr.age": [1.0]}).replace_schema_metadata(to_metadata(of))


def test_a_number_in_another_unit_is_not_scored() -> None:
    age = Attribute("age", (), (40.0,), "years", True)
    assert why_not_held(age, Unit("years")) is None
    expected = "expected it in years as in training, found months"
    assert why_not_held(age, Unit("months")) == expected
    assert why_not_held(Attribute("weight", (), (1.0,), "kg", True), Unit("years")) is not None


def test_labels_of_the_encoders_own_chart_are_left_out_and_named(tmp_path: Path) -> None:
    home = hospital(tmp_path / "home", labels=("Edema", "Pleural Effusion"), patients=100, contrast=12)
    shown = {"source": "mimic", "chart": "swollen", "control": "none", "run": "real"}
    run = vit(tmp_path / "encoder", chart_variables=["swollen"], chart_sources={"swollen": ["Edema"]}, **shown)
    rows = audit(run, home, tmp_path / "out", AuditOptions(attributes=["sex"], resamples=20, baselines=False))
    assert {row["label"] for row in rows if row["part"] == "group"} <= {"Pleural Effusion", "macro"}
    manifest = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert manifest["labels"] == ["Pleural Effusion"]
    assert "label Edema on mimic" in manifest["left_out"]
    assert any(line == f"note: {manifest['notes'][-1]}" for line in spoken(rows))
    both = {"swollen": ["Edema", "Pleural Effusion"]}
    run = vit(tmp_path / "all" / "encoder", chart_variables=["swollen"], chart_sources=both, **shown)
    with pytest.raises(
        InputError, match=r"a disease label in .* that the encoder was not shown, found Edema, Pleural Effusion"
    ):
        audit(run, home, tmp_path / "none", AuditOptions(attributes=["sex"], resamples=20, baselines=False))
    assert not (tmp_path / "none").exists()
    assert read(tmp_path / "out", "leaks.jsonl")
    assert Store.open(home).hash


def test_the_leak_sentence_counts_what_was_compared() -> None:
    def row(kind: str, first: str, second: str) -> dict[str, Any]:
        return {"part": "leak", "kind": kind, "between": [first, second], "count": 0}

    rows = [row("patient", "m:train", "m:test")]
    for pair in (("m:train", "m:test"), ("m:train", "n:test"), ("n:train", "m:test")):
        rows += [row("exact film", *pair), row("near film", *pair)]
    note = {"part": "note", "note": "the films that real was pretrained on are in none of these stores"}
    assert spoken([*rows, row("variable", "pretraining", "chart"), note]) == [
        "no leak found: no patient shared in 1 pair of places, no film shared in 3 pairs of places",
        "note: the films that real was pretrained on are in none of these stores",
    ]
    assert spoken(rows[1:])[0].startswith("no leak found: no patients compared")


def test_leaks_are_the_first_and_the_last_that_is_said() -> None:
    leak = {"part": "leak", "kind": "exact film", "between": ["m:train", "n:test"], "count": 7}
    said = spoken([leak, {"part": "note", "note": "something"}])
    line = "LEAK: 7 films, pixel by pixel, of n:test are in m:train too"
    assert said == [line, "note: something", line]
    assert spoken([leak]) == [line]


def test_no_difference_beside_an_interval_without_zero_says_what_it_was_corrected_for() -> None:
    same = {"dataset": "d", "attribute": "sex", "metric": "auroc", "reason": None, "ci_high": 0.9}
    own = same | {"part": "readability", "run": "real", "level": None, "value": 0.7, "ci_low": 0.6, "control": "none"}
    pair = same | {"part": "difference", "a": "real", "b": "other", "value_b": 0.6, "difference": 0.1, "seeds": 1}
    pair |= {"verdict": "no difference shown", "corrected_over": 12}
    for low, ending in ((0.01, "no difference shown after correction over 12 attributes"), (-0.01, "difference shown")):
        assert spoken([own, pair | {"ci_low": low}])[1].endswith(ending)


def test_a_healthy_toss_is_no_alarm() -> None:
    same = {"part": "readability", "run": "real", "dataset": "d", "attribute": COIN, "level": None, "metric": "auroc"}
    same |= {"reason": None, "control": "none"}
    generator = np.random.default_rng(0)
    said = [
        spoken([same | {"value": value, "ci_low": value - 0.0588, "ci_high": value + 0.0588}])[0]
        for value in generator.normal(0.5, 0.03, 400).tolist()
    ]
    assert sum("trust no other" in line for line in said) <= 3
    read_it = spoken([same | {"value": 0.62, "ci_low": 0.561, "ci_high": 0.679}])[0]
    assert read_it.startswith(f"{COIN} is read from")
    assert read_it.endswith("trust no other")
    healthy = spoken([same | {"value": 0.51, "ci_low": 0.45, "ci_high": 0.57}])[0]
    assert healthy == (
        f"{COIN} is not read from the embedding of real with AUROC 0.510 [0.450, 0.570]: "
        "a toss cannot be read, as it should be"
    )


def test_a_store_without_a_label_in_common_is_audited_for_attributes_and_leaks(tmp_path: Path) -> None:
    home = hospital(tmp_path / "home", patients=60, labels=("Edema",))
    other = hospital(tmp_path / "other", "nih", patients=60, labels=("Pneumothorax",), seed=1)
    rows = audit(
        vit(tmp_path / "real", run="real", source="mimic"),
        home,
        tmp_path / "audit",
        AuditOptions(external=[other], attributes=["sex"], baselines=False, resamples=20),
    )
    there = [row for row in rows if row.get("dataset") == "nih"]
    assert {row["part"] for row in there} == {"readability"}
    assert any(row["part"] == "leak" and row["between"] == ["mimic:train", "nih:test"] for row in rows)
    left_out = json.loads((tmp_path / "audit" / "audit.json").read_text())["left_out"]
    assert left_out["labels on nih"].startswith("no label name matches")
