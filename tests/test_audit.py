"""The audit: rows against their own predictions and plain loops, planted attributes, removal by theory, bad input."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_ind
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chartray.audit.arms import AuditArm
from chartray.audit.attribute_probes import AttributeResult, AttributeTruth, Resampling
from chartray.audit.attributes import COIN, Attribute, chosen_attributes, subgroup_codes
from chartray.audit.audit import AuditRows, audit
from chartray.audit.differences import compared_sides, difference_rows
from chartray.audit.families import corrected
from chartray.audit.sentences import audit_sentences
from chartray.audit.subgroups import Diagnosis, subgroup_rows
from chartray.config.audit import AuditOptions
from chartray.errors import InputError
from chartray.evaluation.image_set import ImageSet, Policy, image_set_of
from chartray.networks.description import Provenance
from chartray.pixels.store import Store
from chartray.results.arm import Arm
from chartray.results.audit_rows import AttributeProbe, Leak, RemovalRow
from chartray.results.folder import open_kind
from chartray.results.manifest import AuditManifest, arm_of_run
from chartray.statistics.leace import fit_leace, random_erasers
from chartray.statistics.probe import patient_folds
from chartray.statistics.ridge import fit_ridge
from tests.evaluation_folders import evaluation_set, hospital, one, read, said, vit

RESAMPLES = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("mimic"), patients=200, contrast=12)


@pytest.fixture(scope="module")
def folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of one encoder against another, with floors, on two stores."""
    out = tmp_path_factory.mktemp("audit")
    other = hospital(out / "nih", "nih", seed=1, labels=("Edema", "Effusion"), patients=60)
    made = {"chart": "demographic-norm", "control": "none", "source": "mimic"}
    runs = [vit(out / name / "encoder", seed=seed, run=name, **made) for seed, name in enumerate(("real", "other"))]
    found = audit(runs[0], home, out / "out", AuditOptions(external=[other], resamples=RESAMPLES), against=[runs[1]])
    assert said(found.rows) == read(out / "out", "audit.jsonl")
    assert said(found.leaks) == read(out / "out", "leaks.jsonl")
    opened = open_kind(out / "out", AuditManifest, "an audit")
    assert AuditRows(opened.audit_rows, opened.leaks or [], list(opened.manifest.notes)) == found
    return out / "out"


def films(folder: Path, **wanted: Any) -> pa.Table:
    table = pq.read_table(folder / "predictions.parquet")
    for key, value in wanted.items():
        table = table.filter(pc.equal(table[key], value))
    return table.filter(table["truth"].is_valid())


def columns(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return table["truth"].to_numpy(), table["score"].to_numpy()


def test_readings_and_differences_follow_from_the_predictions(folder: Path) -> None:
    rows = read(folder, "audit.jsonl")
    checked = 0
    for row in (row for row in rows if row["part"] == "readability" and row["value"] is not None):
        truth, score = columns(
            films(
                folder,
                part="readability",
                **{key: row[key] for key in ("run", "control", "dataset", "attribute")},
            )
        )
        measure = {"auroc": roc_auc_score, "r2": r2_score, "mae": mean_absolute_error}[row["metric"]]
        assert row["value"] == pytest.approx(measure(truth, score), abs=1e-10)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["n"] == len(truth)
        checked += 1
    assert checked == 2 * 2 * (1 + 2 + 1) + 2 * (1 + 2 + 1) * 2 + 2 * (1 + 2 + 1) * 2  # data sets x arms x metrics
    found = one(rows, part="difference", b="plain pixels", attribute="sex", dataset="mimic")
    a, b = (
        one(rows, part="readability", run="real", control=control, attribute="sex", dataset="mimic")["value"]
        for control in ("none", "pixels")
    )
    assert found["difference"] == pytest.approx(a - b)
    pair = [row for row in rows if row["part"] == "difference" and row["b"] == "other" and row["dataset"] == "mimic"]
    assert [row["attribute"] for row in pair] == ["sex", "age"]  # the coin is the negative control
    assert min(row["p_holm"] for row in pair) == pytest.approx(min(1, 2 * min(row["p"] for row in pair)))
    assert {row["corrected_over"] for row in pair} == {2}
    assert {(row["verdict"], row["claim"]) for row in pair} == {("no claim", "no claim: fewer than 3 seeds")}


def test_seeds_of_an_arm_are_compared_as_one_and_vary_in_its_interval() -> None:
    def arm(chart: str, seed: int) -> AuditArm:
        made = Provenance(chart=chart, control="none", seed=seed, settings_hash="x")
        return AuditArm(arm_of_run(made), f"{chart}-{seed}", lambda _: "", made)

    generator = np.random.default_rng(0)
    sex = Attribute("sex", ("male", "female"), (), None, True)
    test = evaluation_set(ImageSet(None, "test", np.arange(0), np.array([]), np.zeros((0, 0))))
    truth = AttributeTruth(sex, test, np.zeros((0, 1)), np.array([True]), None, Resampling(2000, 0))
    patients = generator.normal(0, 0.01, 2000)  # how resampling moves every run alike

    def result(value: float) -> dict[str, AttributeResult]:
        drawn = {"auroc": value + patients + generator.normal(0, 0.001, 2000)}
        return {"sex": AttributeResult(truth, np.zeros((0, 1)), {"auroc": value}, drawn, {}, {})}

    arms = [arm(chart, seed) for chart in ("sex", "none") for seed in range(3)]
    values = [0.80, 0.84, 0.76, 0.70, 0.74, 0.66]  # 0.1 apart at every seed, though seeds differ by as much
    pairs = list(compared_sides(arms, [result(value) for value in values]))
    assert [(a.name, b.name) for a, b in pairs] == [
        *(("sex-0", each.run) for each in arms[1:]),
        ("sex", "no chart"),
    ]
    (row,) = corrected(difference_rows(*pairs[-1]))
    assert row.difference == pytest.approx(0.1)
    assert (row.seeds, row.levels, row.verdict, row.claim) == (3, "patients and seeds", "a higher", None)
    # Welch's test of the seeds, as in every other comparison of arms; the patients move both alike.
    welch = ttest_ind(values[:3], values[3:], equal_var=False)
    assert row.p == pytest.approx(welch.pvalue, rel=0.02)
    assert row.seed_se == pytest.approx(0.1 / welch.statistic)
    (of_one,) = difference_rows(*pairs[2])
    assert (of_one.run_seed, row.run_seed) == (0, None)
    mixed = [result(value) for value in (0.80, 0.84, 0.76, 0.74, 0.70, 0.80)]
    (row,) = corrected(difference_rows(*list(compared_sides(arms, mixed))[-1]))
    assert row.ci_low < 0 < row.ci_high
    assert row.verdict == "no difference shown"
    two = [each for each in arms if each.seed < 2]
    (row,) = corrected(difference_rows(*list(compared_sides(two, mixed[:4]))[-1]))
    assert (row.verdict, row.claim) == ("no claim", "no claim: fewer than 3 seeds")


def test_the_coin_is_predicted_at_chance_and_the_chart_never_holds_the_attribute(folder: Path) -> None:
    rows = read(folder, "audit.jsonl")
    for control in ("none", "untrained", "pixels", "chart-only"):
        coin = one(rows, part="readability", run="real", control=control, attribute=COIN, dataset="mimic", level=None)
        assert coin["ci_low"] < 0.5 < coin["ci_high"], control
    from_chart = one(rows, part="readability", control="chart-only", attribute="sex", dataset="mimic", level=None)
    assert 0.3 < from_chart["value"] < 0.7  # by age alone; with sex itself in the chart it would be 1


def test_groups_follow_from_the_predictions(folder: Path, home: Path) -> None:
    rows = read(folder, "audit.jsonl")
    store = Store.open(home)
    sex = dict(zip(store.cohort["image_id"].to_pylist(), store.cohort["ehr.sex"].to_pylist(), strict=True))
    table = films(folder, part="disease", dataset="mimic", target="Edema")
    truth, score = columns(table)
    values = {}
    for level in ("male", "female"):
        inside = np.array([sex[name] == level for name in table["image_id"].to_pylist()])
        row = {"part": "group", "attribute": "sex", "group": level, "label": "Edema", "dataset": "mimic"}
        found = {name: one(rows, metric=name, **row) for name in ("auroc", "calibration")}
        assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth[inside], score[inside]))
        assert found["calibration"]["value"] == pytest.approx(score[inside].mean() - truth[inside].mean())
        assert found["auroc"]["n"] == inside.sum()
        values[level] = found["auroc"]["value"]
    gap = one(rows, part="group", attribute="sex", metric="gap", of="auroc", label="Edema", dataset="mimic")
    assert gap["value"] == pytest.approx(abs(values["male"] - values["female"]))
    assert gap["largest"] == max(values, key=lambda level: values[level])
    assert 0 < gap["expected"] < gap["expected_high"]


def test_misses_are_counted_at_the_threshold_of_all_validation_images(folder: Path, home: Path) -> None:
    rows = read(folder, "audit.jsonl")
    here = {"part": "group", "attribute": COIN, "label": "Edema", "metric": "false_negative_rate", "dataset": "mimic"}
    both = [one(rows, **here, group=group, threshold="common") for group in ("heads", "tails")]
    assert both[0]["cut"] == both[1]["cut"]
    for row in both:
        assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
        assert row["specificity"] == 0.9


def test_errors_at_a_subgroups_own_threshold_follow_from_the_predictions(folder: Path, home: Path) -> None:
    """Every rate is recomputed from predictions.parquet and the cut of its row."""
    rows = read(folder, "audit.jsonl")
    store = Store.open(home)
    sex = dict(zip(store.cohort["image_id"].to_pylist(), store.cohort["ehr.sex"].to_pylist(), strict=True))
    table = films(folder, part="disease", dataset="mimic", target="Edema")
    truth, score = columns(table)
    here = [
        row
        for row in rows
        if row["part"] == "group" and row["attribute"] == "sex" and row["label"] == "Edema"
        if row["dataset"] == "mimic" and row["threshold"] and row["metric"] != "gap" and row["value"] is not None
    ]
    assert {(row["metric"], row["threshold"]) for row in here} >= {
        (name, which) for name in ("false_negative_rate", "false_positive_rate") for which in ("common", "own")
    }
    assert len({row["cut"] for row in here}) == 3  # one of all, one of each sex
    for row in here:
        inside = np.array([sex[name] == row["group"] for name in table["image_id"].to_pylist()])
        called = score > row["cut"]
        among, hit = {
            "false_negative_rate": (truth == 1, ~called),
            "false_positive_rate": (truth == 0, called),
            "positive_predictive_value": (called, truth == 1),
        }[row["metric"]]
        assert row["value"] == pytest.approx(hit[inside & among].mean())


def test_small_groups_are_suppressed_with_the_reason(folder: Path) -> None:
    rows = read(folder, "audit.jsonl")
    bands = [row for row in rows if row["part"] == "group" and row["attribute"] == "age" and row["label"] == "Edema"]
    groups = [row for row in bands if row["group"] is not None and row["metric"] == "calibration"]
    hidden = [row for row in groups if row["n_patients"] < 10]
    assert {row["dataset"] for row in hidden} == {"nih"}
    assert all(row["value"] is None and row["reason"] == "fewer than 10 patients: suppressed" for row in hidden)
    assert all(row["value"] is not None for row in groups if row["n_patients"] >= 10)
    few = [row for row in bands if row["metric"] == "auroc" and row["n_patients"] >= 10 and row["value"] is None]
    assert all("with or without the finding" in row["reason"] for row in few)


def test_removal_is_complete_and_removing_the_coin_costs_disease_next_to_nothing(folder: Path) -> None:
    rows = [row for row in read(folder, "audit.jsonl") if row["part"] == "removed" and row["label"] == "macro"]
    for name in ("sex", COIN):
        row = one(rows, attribute=name)
        assert row["directions"] == 1
        assert row["attribute_after"] == 0.5
    assert one(rows, attribute="age")["attribute_after"] < 0.02  # R2 of images never fitted on: 0 and noise
    coin = one(rows, attribute=COIN)
    assert coin["before"] > 0.7
    assert abs(coin["difference"]) < 0.03
    for row in rows:  # the cost of random directions is told beside that of the attribute's own
        assert row["random_draws"] == 5
        assert row["beyond_random"] == pytest.approx(row["after"] - row["random_after"])
        assert row["beyond_low"] <= row["beyond_random"] <= row["beyond_high"]
        assert row["attribute_beyond"] == pytest.approx(row["attribute_after"] - row["attribute_random"])
    assert coin["beyond_low"] < 0 < coin["beyond_high"]
    after = films(folder, part="removed", attribute=COIN, target="Edema")
    assert roc_auc_score(*columns(after)) > 0.7


def test_tests_are_corrected_within_families_and_the_coin_apart(folder: Path) -> None:
    rows = [row for row in read(folder, "audit.jsonl") if row.get("p") is not None and row["dataset"] == "mimic"]
    gaps = [row for row in rows if row["part"] == "group"]
    assert all(row["p_holm"] >= row["p"] for row in rows)
    for macro in (True, False):
        tested = [row for row in gaps if (row["label"] == "macro") == macro and row["attribute"] != COIN]
        for row in tested:
            family = [each for each in tested if (each["of"], each["threshold"]) == (row["of"], row["threshold"])]
            assert row["corrected_over"] == len(family)
        assert max(row["corrected_over"] for row in tested) >= 2
    coin = [row for row in rows if row["attribute"] == COIN and row["run"] == "real" and row["control"] == "none"]
    coin = [row for row in coin if row.get("label") in (None, "macro")]
    assert {row["part"] for row in coin} == {"readability", "group", "removed"}
    assert {row["corrected_over"] for row in coin} == {len(coin)}


def test_what_a_baseline_lacks_and_what_could_have_been_read_are_told(folder: Path) -> None:
    rows = read(folder, "audit.jsonl")
    here = {"part": "readability", "attribute": "sex", "dataset": "mimic", "level": None}
    assert one(rows, **here, control="chart-only")["without"] == ["sex"]
    assert one(rows, **here, control="pixels")["without"] == []
    assert one(rows, part="difference", attribute="sex", dataset="mimic", control_b="chart-only")["without"] == ["sex"]
    lines = audit_sentences(open_kind(folder, AuditManifest, "an audit").audit_rows, [], [])
    assert any(line.startswith("  chart only") and "without sex" in line for line in lines)
    for row in (row for row in rows if row.get("detectable") is not None):
        chance = {"auroc": 0.5, "r2": 0.0}[row["metric"]]
        assert row["detectable"] > chance
    own = one(rows, **here, run="real", control="none")
    open_ = [line for line in lines if "is not shown to be predictable" in line]
    assert all("would be shown in 80 % of such audits" in line for line in open_)
    assert own["p_holm"] <= 0.05 or any(f"AUROC {own['detectable']:.3f} would be shown" in line for line in open_)


def test_the_end_is_said_in_sentences(folder: Path) -> None:
    opened = open_kind(folder, AuditManifest, "an audit")
    rows, leaks = opened.audit_rows, opened.leaks or []
    lines = audit_sentences(rows, leaks, [])
    own = next(row for row in rows if isinstance(row, AttributeProbe) and row.attribute == "sex")
    can = "can be predicted" if own.ci_low > 0.5 else "is not shown to be predictable"
    (sex,) = [line for line in lines if line.startswith(f"sex {can} from the embedding of real: AUROC 0.")]
    below = list(itertools.takewhile(lambda line: line.startswith("  "), lines[lines.index(sex) + 1 :]))
    assert any("difference" in line for line in below)
    assert all(len(line) < 200 for line in [sex, *below])
    assert any("another seed may differ; no claim about the method" in line for line in below)
    assert any(line.startswith("after removal of age (LEACE, 1 direction) disease AUROC is") for line in lines)
    assert any(
        line.startswith("negative control passed: a random coin flip per patient shows nothing in") for line in lines
    )
    assert lines[-1].startswith("no leakage found: no patient appears in two splits")
    (age,) = [row for row in rows if isinstance(row, RemovalRow) and (row.attribute, row.label) == ("age", "macro")]
    assert audit_sentences([age.replaced(attribute_after=None)], [], [])[0].endswith("]")
    leak = Leak(kind="patient", between=("pretraining", "m:test"), count=3)
    assert audit_sentences([], [leak], []) == ["LEAK: 3 patients are in pretraining and in m:test"]


def test_the_manifest_says_what_was_done(folder: Path) -> None:
    manifest = json.loads((folder / "audit.json").read_text())
    assert [encoder["run"] for encoder in manifest["encoders"]] == ["real", "other"]
    assert [store["dataset"] for store in manifest["stores"]] == ["mimic", "nih"]
    assert manifest["leaks"] == 0
    assert manifest["test_split_touched"] is True
    assert any(
        note.startswith("patients that real, other were pretrained on were not compared") for note in manifest["notes"]
    )


def test_a_brightness_that_is_an_attribute_is_read_and_known_to_be_better_read(home: Path, tmp_path: Path) -> None:
    """The labels' own contrast, read as attributes of the images."""
    store = Store.open(home)
    train, validate, test = (image_set_of(store, split, ["Edema"], Policy()) for split in ("train", "validate", "test"))
    x = {each.split: store.images.gather(each.rows)[:, 16:].mean(axis=(1, 2)) for each in (train, validate, test)}
    y = {split: 3 * value + 1 for split, value in x.items()}
    ridge = fit_ridge(x["train"][:, None], y["train"], x["validate"][:, None], y["validate"])
    assert r2_score(y["test"], ridge.predict(x["test"][:, None])) > 0.999


def test_one_level_unknown_names_and_runs_of_one_name_are_refused(home: Path, tmp_path: Path) -> None:
    run = vit(tmp_path / "encoder", run="real")
    with pytest.raises(InputError, match=r"found 'sexx' \(did you mean 'sex'\?\); it holds sex, age"):
        audit(run, home, tmp_path / "out", AuditOptions(attributes=["sexx"]))
    with pytest.raises(InputError, match="found 'real' again"):
        audit(run, home, tmp_path / "out", against=[run])
    one_sex = Store.open(home)
    cohort = one_sex.cohort
    male = pa.array(["male"] * cohort.num_rows)
    one_sex.__dict__["cohort"] = cohort.set_column(cohort.schema.get_field_index("ehr.sex"), "ehr.sex", male)
    with pytest.raises(InputError, match=r"two levels or more of the attribute 'sex'.*found male in \d+ images"):
        chosen_attributes(one_sex, ["ehr.sex"])
    chosen, left_out = chosen_attributes(one_sex, None)
    assert [each.name for each in chosen] == ["age", COIN]
    assert "found male in" in left_out["sex"]
    assert not (tmp_path / "out").exists()


def test_folders_of_other_things_are_not_written_over(home: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no audit"):
        audit(vit(tmp_path / "encoder"), home, tmp_path)


def test_the_coin_is_the_patients_and_even() -> None:
    coin = Attribute(COIN, ("heads", "tails"), (), None, True)
    patients = np.repeat([f"p{number}" for number in range(2000)], 2)
    images = ImageSet(FakeStore(), "test", np.arange(4000), patients, np.zeros((4000, 0)))
    codes = subgroup_codes(coin, images)
    assert (codes[::2] == codes[1::2]).all()
    assert abs(codes.mean() - 0.5) < 0.03


class FakeStore:
    """Only what a coin asks of a store: whose it is."""

    from chartray.schema import CohortMetadata, to_metadata

    cohort = pa.table({"x": [1]}).replace_schema_metadata(to_metadata(CohortMetadata(source="here")))


def unfair(gap: float, seed: int = 0) -> list[dict[str, Any]]:
    """Subgroup rows of 300 patients with two images; scores of group `b` are worse by `gap` of noise."""
    generator = np.random.default_rng(seed)
    patients = np.repeat([f"p{number}" for number in range(300)], 2)
    codes = np.repeat(generator.integers(0, 2, 300), 2)
    truth = generator.integers(0, 2, 600).astype(float)
    score = truth + generator.normal(0, 1 + gap * codes, 600)
    attribute = Attribute("group", ("a", "b"), (), None, True)
    here = ImageSet(None, "test", np.arange(600), patients, truth[:, None])
    diagnosis = Diagnosis(evaluation_set(here, ["Edema"]), score[:, None], np.array([1.5]))
    arm = AuditArm(Arm(), "real", lambda _: "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chartray.audit.subgroups.subgroup_codes", lambda *_: codes)
        return said(subgroup_rows(arm, diagnosis, attribute, Resampling(100, 0)))


def test_a_gap_is_larger_than_chance_where_groups_differ_and_not_where_they_do_not() -> None:
    gap = one(unfair(3), metric="gap", of="auroc", label="Edema")
    assert gap["smallest"] == "b"
    assert gap["value"] > gap["expected_high"]
    assert gap["p"] < 0.05
    by_chance = [one(unfair(0, seed), metric="gap", of="auroc", label="Edema") for seed in range(20)]
    assert sum(row["p"] < 0.05 for row in by_chance) <= 4
    # What chance gives is what is expected of it: the value is no surprise on average, though never below 0.
    assert np.mean([row["value"] for row in by_chance]) == pytest.approx(
        np.mean([row["expected"] for row in by_chance]), rel=0.5
    )
    assert min(row["value"] for row in by_chance) > 0


def test_after_erasure_no_linear_probe_finds_the_concept_and_little_else_is_moved() -> None:
    generator = np.random.default_rng(0)
    level = generator.integers(0, 3, 600)
    x = generator.normal(0, 1, (600, 20)) @ generator.normal(0, 1, (20, 20))
    x[:, :2] += 3 * np.eye(3)[level][:, :2]
    concept = np.eye(3)[level]
    eraser = fit_leace(x, concept)
    erased = eraser.erase(x)
    assert eraser.directions == 2
    assert np.abs((erased - erased.mean(axis=0)).T @ (concept - concept.mean(axis=0))).max() < 1e-8 * len(x)
    for column in range(3):
        wanted = level == column
        assert roc_auc_score(wanted, LogisticRegression(C=1e4, max_iter=2000).fit(x, wanted).decision_function(x)) > 0.8
        probed = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(erased, wanted)
        assert np.abs(probed.coef_).max() < 1e-6  # the best probe does not look
    # Erasing again changes nothing, and the rank that is lost is that of the concept.
    assert fit_leace(erased, concept).directions == 0
    assert np.linalg.matrix_rank(erased - erased.mean(axis=0), tol=1e-6) == 18


def test_erasure_moves_images_less_than_dropping_the_concepts_own_direction() -> None:
    generator = np.random.default_rng(1)
    z = generator.normal(0, 1, (500, 1))
    x = generator.normal(0, 1, (500, 6)) @ generator.normal(0, 1, (6, 6)) + z @ generator.normal(0, 2, (1, 6))
    eraser = fit_leace(x, z)
    centred = x - x.mean(axis=0)
    shared = centred.T @ (z - z.mean()) / len(x)
    direction = shared / np.linalg.norm(shared)
    dropped = centred - centred @ direction @ direction.T  # orthogonal: no covariance either
    assert np.abs(dropped.T @ (z - z.mean())).max() < 1e-6 * len(x)
    whitened = np.linalg.inv(np.cov(x.T, bias=True))

    def moved(after: np.ndarray) -> float:
        away = centred - (after - after.mean(axis=0))
        return float(np.einsum("nd,de,ne->", away, whitened, away))

    assert moved(eraser.erase(x)) < moved(dropped)
    missing = z.copy()
    missing[::3] = np.nan
    assert np.isfinite(fit_leace(x, missing).erase(x)).all()


def test_random_directions_are_as_many_and_cost_a_concept_less_than_its_own() -> None:
    generator = np.random.default_rng(0)
    z = generator.normal(0, 1, (400, 1))
    x = generator.normal(0, 1, (400, 12)) @ generator.normal(0, 1, (12, 12)) + z @ generator.normal(0, 2, (1, 12))
    for eraser in random_erasers(x, 2, 3):
        erased = eraser.erase(x)
        assert np.linalg.matrix_rank(erased - erased.mean(axis=0), tol=1e-6) == 10
        read = np.linalg.lstsq(np.column_stack([erased, np.ones(400)]), z[:, 0], rcond=None)[0]
        assert np.corrcoef(np.column_stack([erased, np.ones(400)]) @ read, z[:, 0])[0, 1] > 0.5
    assert len({float(each.read[0, 0]) for each in random_erasers(x, 2, 3)}) == 3


def test_ridge_is_that_of_scikit_learn_and_leaves_out_what_is_missing() -> None:
    generator = np.random.default_rng(0)
    for width in (5, 80):
        x = generator.normal(2, 3, (60, width))
        y = x[:, 0] + generator.normal(0, 1, 60)
        y[::7] = np.nan
        known = np.isfinite(y)
        found = fit_ridge(x, y, x[:0], y[:0], strengths=(10.0,))
        scale = x[known].std(axis=0)
        expected = Ridge(alpha=10).fit((x[known] - x[known].mean(axis=0)) / scale, y[known])
        assert found.weight == pytest.approx(expected.coef_, abs=1e-9)
        assert found.bias == pytest.approx(expected.intercept_)
    train, held_out = generator.normal(0, 1, (30, 25)), generator.normal(0, 1, (400, 25))
    noise = fit_ridge(train, train[:, 0] * 0 + generator.normal(0, 1, 30), held_out, generator.normal(0, 1, 400))
    assert noise.strength >= 100  # nothing to read: a strong penalty does best on validation
    # Folds of patients choose with the validation images: the sum of both errors, by scikit-learn, is the least.
    patients, strengths = np.arange(300) // 2, (0.01, 1.0, 100.0, 10_000.0)
    x = generator.normal(0, 1, (300, 60)) @ generator.normal(0, 1, (60, 60))
    y, few = x[:, :3].sum(axis=1) + generator.normal(0, 5, 300), (x[:5], generator.normal(0, 1, 5))
    folds, errors = patient_folds(np.zeros((300, 1)), patients), np.zeros(4)
    for place, alpha in enumerate(strengths):
        for fold in range(5):
            fitted = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[folds != fold], y[folds != fold])
            errors[place] += ((fitted.predict(x[folds == fold]) - y[folds == fold]) ** 2).sum()
        fitted = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x, y)
        errors[place] += ((fitted.predict(few[0]) - few[1]) ** 2).sum()
    chosen = fit_ridge(x, y, *few, strengths=strengths, patients=patients)
    assert chosen.strength == strengths[int(errors.argmin())]
    with pytest.raises(InputError, match="two different values"):
        fit_ridge(train, np.full(30, 4.0), held_out, held_out[:, 0])
