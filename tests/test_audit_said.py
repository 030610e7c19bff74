"""What an audit says: seeds of one arm, units, labels of the encoder's chart, and sentences that follow the rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import (
    AttributeTruth,
    Resampling,
    attribute_result,
    first_resamples,
    probe_rows,
)
from chartray.audit.attributes import COIN, Attribute, why_not_available
from chartray.audit.audit import audit
from chartray.audit.differences import Side, compared_sides, difference_rows, notes_on_seeds
from chartray.audit.families import control_failed, corrected, readable
from chartray.audit.sentences import audit_sentences
from chartray.config.audit import AuditOptions
from chartray.errors import InputError
from chartray.evaluation.image_set import ImageSet
from chartray.networks.description import Provenance
from chartray.pixels.store import Store
from chartray.results.arm import Arm
from chartray.results.audit_rows import AttributeDifference, AttributeProbe, Leak, SubgroupRow
from chartray.results.manifest import arm_of_run
from chartray.results.verdict import Verdict
from chartray.schema import CohortMetadata, Variable, to_metadata
from chartray.statistics.metrics import eligible, sample
from tests.evaluation_folders import evaluation_set, hospital, read, said, vit

FEW = Resampling(50, 0)


def arm(name: str, seed: int | None, *, chart: str = "sex", **made: Any) -> AuditArm:
    of = Provenance.model_validate({"seed": seed, "chart": chart, "settings_hash": "x"} | made)
    return AuditArm(arm_of_run(of), name, lambda _: "", of)


def over_seeds(arms: list[AuditArm]) -> list[tuple[str, str, int]]:
    pairs = compared_sides(arms, [{} for _ in arms])
    return [(a.name, b.name, len(b.arms)) for a, b in pairs if len(a.arms) > 1]


def test_uses_of_the_chart_and_objectives_are_arms_of_their_own() -> None:
    arms = [arm(f"{use}-{seed}", seed, chart_use=use) for use in ("anchor", "predict") for seed in range(3)]
    arms += [arm(f"other-{seed}", seed, chart_use="anchor", objective="dino") for seed in range(3)]
    assert over_seeds(arms) == [("sex", "sex, predicted", 3), ("sex", "DINO, sex", 3)]
    assert notes_on_seeds(arms) == []


def test_an_arm_of_other_settings_is_no_seed_and_both_are_told_apart() -> None:
    arms = [arm(f"s{seed}", seed) for seed in (0, 1)] + [arm(f"n{seed}", seed, chart="none") for seed in (0, 1)]
    arms += [arm(f"o{seed}", seed, settings_hash="y") for seed in (0, 1)]
    assert over_seeds(arms) == [("sex, settings x", "no chart", 2)]
    named = [*arms[:4], *(arm(f"o{seed}", seed, settings_hash="y", recipe="dino") for seed in (0, 1))]
    assert over_seeds(named) == [("sex, settings x", "no chart", 2)]  # the first have no recipe to be told by


def test_a_seed_that_comes_twice_is_said() -> None:
    arms = [arm("one", 0), arm("two", 0), arm("three", 1), *(arm(f"n{seed}", seed, chart="none") for seed in (0, 1))]
    assert over_seeds(arms) == []
    (note,) = notes_on_seeds(arms)
    assert note.startswith("sex is not compared over seeds")
    assert "one (seed 0), two (seed 0), three (seed 1)" in note


def test_one_number_in_all_images_has_no_r2_and_says_so() -> None:
    people = np.array([f"p{number:02}" for number in range(12)])
    age = Attribute("age", (), (40.0,), "years", True)
    films = ImageSet(None, "test", np.arange(12), people, np.zeros((12, 0)))
    truth = np.full((12, 1), 61.3)
    known = AttributeTruth(age, evaluation_set(films), truth, np.array([True]), first_resamples(people, FEW), FEW)
    result = attribute_result(known, truth + np.arange(12)[:, None] / 10)
    a = arm("real", 0)
    squares, errors = probe_rows(a, result)
    assert [squares.value, squares.ci_low, squares.ci_high] == [None] * 3
    assert squares.reason == "all scored images have the same value, so R2 is undefined"
    assert errors.value == pytest.approx(0.55)
    assert errors.reason is None
    sides = (Side(name, [one], [{"age": result}]) for name, one in (("real", a), ("b", arm("b", 0))))
    (row,) = corrected(difference_rows(*sides))
    assert row.reason == squares.reason
    assert row.verdict == "no claim"  # of one seed, whatever the numbers are
    assert row.p is None


def test_levels_and_numbers_of_few_patients_are_suppressed() -> None:
    people = np.array([f"p{number:02}" for number in range(60)])
    levels = Attribute("race", ("a", "b", "c"), (), None, True)
    films = ImageSet(None, "test", np.arange(60), people, np.zeros((60, 0)))
    truth = np.eye(3)[np.repeat([0, 1, 2], (30, 26, 4))]
    counted = eligible(truth, people)
    drawn = sample(truth, people, resamples=50, seed=0, macro=counted)
    known = AttributeTruth(levels, evaluation_set(films), truth, counted, drawn, FEW)
    result = attribute_result(known, truth + np.random.default_rng(0).normal(size=(60, 3)))
    rows = {row.level: row for row in probe_rows(arm("real", 0), result)}
    assert rows["a"].value > 0.5
    assert [rows["c"].value, rows["c"].ci_low] == [None] * 2
    assert rows["c"].reason == "fewer than 10 patients with or without it: suppressed"
    assert rows[None].levels == ("a", "b")
    nine = np.full((60, 1), np.nan)
    nine[:9, 0] = np.arange(9)
    age = Attribute("age", (), (4.0,), "years", True)
    few = AttributeTruth(age, evaluation_set(films), nine, np.array([False]), first_resamples(people, FEW), FEW)
    result = attribute_result(few, np.nan_to_num(nine))
    assert [row.value for row in probe_rows(arm("real", 0), result)] == [None] * 2
    side = Side("real", [arm("real", 0)], [{"age": result}])
    (row,) = difference_rows(side, side)
    assert [row.value_a, row.difference] == [None] * 2


class Unit:
    """Only what is asked of a store: its cohort's variables."""

    def __init__(self, unit: str | None) -> None:
        age = Variable(kind="numeric", range=(0, 2000), unit=unit, group="demographic", columns=("age",))
        of = CohortMetadata(source="here", variables={"age": age})
        self.cohort = pa.table({"ehr.age": [1.0]}).replace_schema_metadata(to_metadata(of))


def test_a_number_in_another_unit_is_not_scored() -> None:
    age = Attribute("age", (), (40.0,), "years", True)
    assert why_not_available(age, Unit("years")) is None
    expected = "expected it in years as in training, found months"
    assert why_not_available(age, Unit("months")) == expected
    assert why_not_available(Attribute("weight", (), (1.0,), "kg", True), Unit("years")) is not None


def test_labels_of_the_encoders_own_chart_are_left_out_and_named(tmp_path: Path) -> None:
    home = hospital(tmp_path / "home", labels=("Edema", "Pleural Effusion"), patients=100, contrast=12)
    shown = {"source": "mimic", "chart": "swollen", "control": "none", "run": "real"}
    run = vit(tmp_path / "encoder", chart_variables=["swollen"], chart_sources={"swollen": ["Edema"]}, **shown)
    found = audit(run, home, tmp_path / "out", AuditOptions(attributes=["sex"], resamples=20, baselines=False))
    assert {row.label for row in found.rows if isinstance(row, SubgroupRow)} <= {"Pleural Effusion", "macro"}
    manifest = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert manifest["labels"] == ["Pleural Effusion"]
    assert "label Edema on mimic" in manifest["left_out"]
    assert any(line == f"note: {manifest['notes'][-1]}" for line in audit_sentences(*found))
    both = {"swollen": ["Edema", "Pleural Effusion"]}
    run = vit(tmp_path / "all" / "encoder", chart_variables=["swollen"], chart_sources=both, **shown)
    with pytest.raises(
        InputError,
        match=r"a disease label in .* that the encoder was not pretrained with, found Edema, Pleural Effusion",
    ):
        audit(run, home, tmp_path / "none", AuditOptions(attributes=["sex"], resamples=20, baselines=False))
    assert not (tmp_path / "none").exists()
    assert read(tmp_path / "out", "leaks.jsonl")
    assert Store.open(home).hash


def test_the_leakage_sentence_counts_what_was_compared() -> None:
    def row(kind: str, first: str, second: str) -> Leak:
        return Leak(kind=kind, between=(first, second), count=0)

    leaks = [row("patient", "m:train", "m:test")]
    for pair in (("m:train", "m:test"), ("m:train", "n:test"), ("n:train", "m:test")):
        leaks += [row("exact film", *pair), row("near film", *pair)]
    note = "the images that real was pretrained on are in none of these stores"
    assert audit_sentences([], [*leaks, row("variable", "pretraining", "chart")], [note]) == [
        "no leakage found: no patient appears in two splits (1 pair compared), "
        "no image appears in two splits (3 pairs compared)",
        f"note: {note}",
    ]
    assert audit_sentences([], leaks[1:], [])[0].startswith("no leakage found: patients were not compared")
    assert audit_sentences([], [row("variable", "pretraining", "chart")], []) == [
        "leakage was not checked: no two splits could be compared"
    ]


def test_leaks_are_the_first_and_the_last_that_is_said() -> None:
    leak = Leak(kind="exact film", between=("m:train", "n:test"), count=7)
    line = "LEAK: 7 images of n:test are identical to some of m:train"
    assert audit_sentences([], [leak], ["something"]) == [line, "note: something", line]
    assert audit_sentences([], [leak], []) == [line]


def probed(attribute: str, value: float, low: float, high: float) -> AttributeProbe:
    ends = {"value": value, "ci_low": low, "ci_high": high}
    same = {"run": "real", "dataset": "d", "split": "test", "resamples": 100, "seed": 0, "n": 9, "n_patients": 9}
    return AttributeProbe(arm=Arm(), attribute=attribute, metric="auroc", **same, **ends)


def test_no_difference_beside_an_interval_without_zero_says_what_it_was_corrected_for() -> None:
    same = {"dataset": "d", "split": "test", "resamples": 100, "seed": 0, "metric": "auroc", "corrected_over": 12}
    pair = AttributeDifference(
        arm_a=Arm("sex"),
        arm_b=Arm(),
        a="real",
        b="other",
        attribute="sex",
        value_b=0.6,
        seeds=3,
        difference=0.1,
        ci_high=0.9,
        verdict=Verdict.NO_DIFFERENCE,
        **same,
    )
    own = probed("sex", 0.7, 0.6, 0.9)
    for low, ending in ((0.01, "no difference shown after correction over 12 attributes"), (-0.01, "difference shown")):
        assert audit_sentences([own, pair.replaced(ci_low=low)], [], [])[1].endswith(ending)


def test_a_sound_negative_control_is_no_alarm() -> None:
    """20 tests of the coin an audit, 400 audits: one in 1,000 is to fail."""
    p = np.random.default_rng(0).uniform(size=(400, 20))
    coin = SubgroupRow(
        arm=Arm(), run="real", dataset="d", attribute=COIN, split="test", resamples=9, seed=0, specificity=0.9,
        label="macro", metric="gap", of="auroc",
    )  # fmt: skip
    failed = [control_failed(corrected([coin.replaced(p=each) for each in row])) for row in p.tolist()]
    assert sum(map(bool, failed)) <= 3
    found = probed(COIN, 0.62, 0.56, 0.68)
    (line,) = audit_sentences(corrected([found.replaced(p=1e-6), coin.replaced(p=0.5)]), [], [])
    assert line == (
        "negative control failed: the results are unreliable; a random coin flip per patient shows something in 1 of "
        "2 tests (p < 0.001 after correction, part readability)"
    )
    (line,) = audit_sentences(corrected([found.replaced(p=0.4), coin.replaced(p=0.5)]), [], [])
    assert line == (
        "negative control passed: a random coin flip per patient shows nothing in 2 tests (smallest p = 0.800)"
    )


@pytest.mark.parametrize("metric", ["auroc", "r2"])
def test_the_value_that_could_have_been_read_is_read_in_four_audits_of_five(metric: str) -> None:
    """A null audit says what it could have seen; audits of that true value then see it."""
    people = np.arange(150).astype(str)
    levels = ("m", "f") if metric == "auroc" else ()
    attribute = Attribute("sex", levels, (), None, True)
    films = ImageSet(None, "test", np.arange(150), people, np.zeros((150, 0)))

    def audited(strength: float, seed: int) -> AttributeProbe:
        rng = np.random.default_rng(seed)
        signal = rng.normal(size=150)
        if levels:
            values = rng.integers(0, 2, (150, 1)).astype(float)
            scores = signal[:, None] + strength * values
            counted, drawn = np.array([True]), sample(values, people, resamples=300, seed=0)
        else:  # the best prediction of a number of which it explains `strength`
            values = (np.sqrt(strength) * signal + np.sqrt(1 - strength) * rng.normal(size=150))[:, None]
            scores = np.sqrt(strength) * signal[:, None]
            counted, drawn = np.array([True]), first_resamples(people, Resampling(300, 0))
        truth = AttributeTruth(attribute, evaluation_set(films), values, counted, drawn, Resampling(300, 0))
        rows = corrected(probe_rows(arm("real", 0), attribute_result(truth, scores)))
        return next(row for row in rows if isinstance(row, AttributeProbe) and row.metric == metric)

    wanted = float(np.mean([audited(0.0, seed).detectable for seed in range(20)]))
    strength = np.sqrt(2) * norm.ppf(wanted) if levels else wanted
    shown = np.mean([readable(audited(strength, 100 + seed)) for seed in range(150)])
    assert 0.68 <= shown <= 0.92
    by_chance = np.mean([readable(audited(0.0, 500 + seed)) for seed in range(100)])
    assert by_chance <= 0.07


def test_a_store_without_a_label_in_common_is_audited_for_attributes_and_leaks(tmp_path: Path) -> None:
    home = hospital(tmp_path / "home", patients=60, labels=("Edema",))
    other = hospital(tmp_path / "other", "nih", patients=60, labels=("Pneumothorax",), seed=1)
    found = audit(
        vit(tmp_path / "real", run="real", source="mimic"),
        home,
        tmp_path / "audit",
        AuditOptions(external=[other], attributes=["sex"], baselines=False, resamples=20),
    )
    assert {row["part"] for row in said(found.rows) if row["dataset"] == "nih"} == {"readability"}
    assert any(leak.between == ("mimic:train", "nih:test") for leak in found.leaks)
    left_out = json.loads((tmp_path / "audit" / "audit.json").read_text())["left_out"]
    assert left_out["labels on nih"].startswith("no label name matches")
