"""Comparisons of evaluations written by hand: levels, verdicts, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chartray.config.evaluate import CompareOptions
from chartray.errors import InputError
from chartray.outputs.seal import SUMS_FILE, seal
from chartray.results import folder as results
from chartray.results.manifest import READING, RESULTS_FORMAT
from chartray.statistics import metrics
from chartray.statistics.arms import difference_of_arms
from chartray.statistics.delong import delong_difference
from tests.evaluation_folders import compare, one, read

LABELS = ("Edema", "Mass", "Hernia")
MACRO = {"label": "macro", "metric": "auroc"}


def truth_of(patients: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Truth (2 images a patient, 3 labels; hardly anybody has a hernia) and patients."""
    rng = np.random.default_rng(99)
    sick = (rng.random((patients, 3)) < [0.4, 0.3, 0.02]).repeat(2, axis=0).astype(float)
    sick[::9, 1] = np.nan
    return sick, np.array([f"p{row:03}" for row in range(patients)]).repeat(2)


def evaluation(
    folder: Path,
    chart: str,
    seed: int,
    *,
    quality: float = 1.0,
    fractions: dict[float, int] | None = None,
    spread: float = 0.0,
    truth: np.ndarray | None = None,
    first: int = 0,
    baselines: dict[str, int] | None = None,
    elsewhere: dict[str, float] | None = None,
    **settings: Any,
) -> Path:
    """A Results folder whose scores separate by `quality`; `fractions` says how many draws each has.

    `baselines` are their controls, each with what its scores are drawn from; image+chart adds to the run's own.
    `elsewhere` says by how much more scores separate on further data sets.
    """
    found, patients = truth_of()
    found = found if truth is None else truth
    rng = np.random.default_rng((seed, len(chart), sum(map(ord, chart))))
    hard = np.random.default_rng(5).normal(size=found.shape)
    skill = quality + spread * rng.normal()
    ids = [f"i{row:03}" for row in range(first, first + len(found))]
    tables = []
    for fraction, draws in (fractions or {1.0: 1}).items():
        for draw in range(draws):
            lift = 0.1 * np.random.default_rng((7, draw)).normal() if fraction < 1 else 0  # a draw is good for all
            known = np.nan_to_num(found, nan=0.5)
            scores = 1 / (1 + np.exp(-((skill + lift) * known + hard + 0.3 * rng.normal(size=found.shape))))
            columns: dict[str, Any] = {"dataset": "mimic", "split": "test", "run": f"{chart}-{seed}"}
            every = {("none", chart): scores}
            for control, source in (baselines or {}).items():
                noise = 0.05 * np.random.default_rng((source, draw)).normal(size=found.shape)
                read = "sex" if control in ("chart-only", "image+chart") else "none"
                every[control, read] = noise + (scores + 0.1 * known if control == "image+chart" else hard + lift)
            tables += [
                results.prediction_table(
                    results.ImageNames(ids, [None] * len(ids), patients),
                    LABELS,
                    found,
                    its,
                    columns | {"control": control, "chart": read, "fraction": fraction},
                    draw=draw,
                )
                for (control, read), its in every.items()
            ]
    for place, (dataset, more) in enumerate((elsewhere or {}).items()):
        noise = np.random.default_rng((place, seed, len(chart))).normal(size=found.shape)
        scores = (skill + more) * np.nan_to_num(found, nan=0.5) + np.random.default_rng(place).normal(size=found.shape)
        columns = {"dataset": dataset, "split": "test", "run": f"{chart}-{seed}", "control": "none", "chart": chart}
        names = results.ImageNames([f"{dataset}{name}" for name in ids], [None] * len(ids), patients)
        tables.append(results.prediction_table(names, LABELS, found, scores + 0.3 * noise, columns | {"fraction": 1.0}))
    folder.mkdir(parents=True)
    results.write_parquet(folder / results.PREDICTIONS_FILE, tables)
    made = {"chart": chart, "control": "none", "seed": seed}
    common = {"protocol": "linear", "split": "test", "uncertain": "ignore", "blank": "negative", "seed": 0}
    manifest = {"format": RESULTS_FORMAT, "run": f"{chart}-{seed}", "encoder": {"provenance": made}}
    manifest |= {"settings": common | settings, "stores": [{"dataset": "mimic", "hash": "a" * 64, "path": "store"}]}
    manifest["stores"] += [
        {"dataset": name, "hash": "b" * 64, "part_of": "mimic" if ":" in name else None} for name in elsewhere or {}
    ]
    (folder / results.MANIFEST_FILE).write_text(json.dumps(manifest))
    seal(folder)
    return folder


def scores_of(folder: Path) -> np.ndarray:
    column = pq.read_table(folder / results.PREDICTIONS_FILE)["score"].to_numpy()
    return column.reshape(-1, len(LABELS))


def test_one_seed_is_paired_by_patient_checked_by_delong_and_claims_nothing(tmp_path: Path) -> None:
    a, b = (evaluation(tmp_path / chart, chart, 0, quality=q) for chart, q in (("sex", 2.0), ("none", 0.5)))
    rows = compare([a, b], tmp_path / "out", CompareOptions(resamples=300))
    truth, patients = truth_of()
    assert rows[0]["verdict"] == "no claim"
    assert {(row["levels"], row["seeds"], row["verdict"]) for row in rows} == {("patients", 1, "no claim")}
    pair = difference_of_arms([scores_of(a)], [scores_of(b)], truth, patients, resamples=300)
    by_image = delong_difference(truth, scores_of(a), scores_of(b))
    by_patient = delong_difference(truth, scores_of(a), scores_of(b), patients=patients)
    for index, label in enumerate(LABELS[:2]):
        row = one(rows, label=label, metric="auroc")
        assert [row[key] for key in ("difference", "ci_low", "ci_high", "p")] == [each[index] for each in pair[:4]]
        assert row["seed_se"] is None
        assert row["delong_p"] == by_patient.p[index] != by_image.p[index]
        assert row["value_a"] - row["value_b"] == pytest.approx(row["difference"])
        assert one(rows, label=label, metric="average_precision")["delong_p"] is None
    assert one(rows, **MACRO)["ci_low"] == pair.low[-1]
    hernia = one(read(tmp_path / "out", "comparisons.jsonl"), label="Hernia", metric="auroc")
    assert (hernia["p"], hernia["delong_p"], hernia["reason"]) == (None, None, "too few patients")


def test_a_comparison_goes_through_a_link_into_where_one_stands_and_says_which_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [evaluation(tmp_path / chart, chart, 0) for chart in ("sex", "none")]
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    compare(runs, tmp_path / "link", CompareOptions(resamples=20))
    assert (tmp_path / "link").is_symlink()
    compared = json.loads((tmp_path / "disk" / results.COMPARE_FILE).read_text())
    said = compared["arms"]["sex"][0]["provenance"]
    evaluated = json.loads((Path(compared["arms"]["sex"][0]["folder"]) / results.MANIFEST_FILE).read_text())
    for here, there in zip(compared["stores"], evaluated["stores"], strict=True):
        assert there.items() <= here.items()  # all that is known of them, whether they are simulated too
    assert (set(said), said["chart"], said["seed"]) == ({*READING, "chart_use", "objective"}, "sex", 0)
    monkeypatch.chdir(tmp_path / "disk")
    (tmp_path / "disk" / ".old").mkdir()
    compare(runs, Path("."), CompareOptions(resamples=20))
    assert {path.name for path in Path(".").iterdir()} == {
        results.COMPARE_FILE,
        results.COMPARISONS_FILE,
        results.INTERACTIONS_FILE,
        SUMS_FILE,
    }
    assert not list(tmp_path.glob(".*"))


def test_seeds_are_a_level_and_the_verdict_says_what_was_shown(tmp_path: Path) -> None:
    better = [evaluation(tmp_path / f"a{seed}", "sex", seed, quality=2.0, spread=0.1) for seed in range(3)]
    worse = [evaluation(tmp_path / f"b{seed}", "none", seed, quality=0.5, spread=0.1) for seed in range(3)]
    like = [evaluation(tmp_path / f"c{seed}", "age", seed, quality=2.0, spread=0.1) for seed in range(3)]
    rows = compare([*better, *worse, *like], tmp_path / "out", CompareOptions(resamples=300))
    assert {(row["levels"], row["seeds"]) for row in rows} == {("patients and seeds", 3)}
    said = {
        (row["a"], row["b"]): row["verdict"] for row in rows if row["label"] == "macro" and row["metric"] == "auroc"
    }
    assert said == {
        ("sex", "no chart"): "a higher",
        ("sex", "age"): "no difference shown",
        ("no chart", "age"): "b higher",
    }
    for row in rows:
        if row["p_holm"] is None or np.isnan(row["p_holm"]):
            assert (row["label"], row["verdict"]) == ("Hernia", None)
        else:
            assert (row["verdict"] == "no difference shown") == (row["p_holm"] > 0.05)
            assert len(row["by_seed"]) == 3
            assert row["difference"] == pytest.approx(np.mean(row["by_seed"]))
        assert row["delong_p"] is None


def test_the_more_seeds_differ_the_wider_the_interval_and_unshared_seeds_are_drawn_apart(tmp_path: Path) -> None:
    def width(name: str, spread: float, other_seeds: int = 0) -> dict[str, Any]:
        a = [evaluation(tmp_path / name / f"a{seed}", "sex", seed, spread=spread) for seed in range(3)]
        b = [evaluation(tmp_path / name / f"b{seed}", "none", seed + other_seeds, spread=spread) for seed in range(3)]
        return one(compare([*a, *b], tmp_path / name / "out", CompareOptions(resamples=300)), **MACRO)

    alike, apart, unshared = width("alike", 0.0), width("apart", 1.0), width("unshared", 1.0, other_seeds=10)
    assert apart["ci_high"] - apart["ci_low"] > 2 * (alike["ci_high"] - alike["ci_low"])
    assert (unshared["by_seed"], unshared["levels"], unshared["seeds"]) == ([], "patients and seeds", 3)
    assert unshared["ci_high"] - unshared["ci_low"] > 2 * (alike["ci_high"] - alike["ci_low"])
    # One run against three: nothing can be said of how that one's seeds vary, and nothing is claimed.
    runs = [tmp_path / "apart" / name for name in ("a0", "a1", "a2")]
    single = evaluation(tmp_path / "single", "none", 20)
    row = one(compare([*runs, single], tmp_path / "out", CompareOptions(resamples=50)), **MACRO)
    assert (row["levels"], row["seeds"], row["verdict"], row["delong_p"]) == ("patients", 1, "no claim", None)


def test_draws_of_training_patients_are_drawn_together_for_both_arms(tmp_path: Path) -> None:
    fractions = {0.1: 5, 1.0: 1}
    a, b = (evaluation(tmp_path / chart, chart, 0, fractions=fractions) for chart in ("sex", "none"))
    rows = compare([a, b], tmp_path / "out", CompareOptions(resamples=400))
    part, whole = (one(rows, fraction=fraction, **MACRO) for fraction in fractions)
    assert (part["levels"], whole["levels"]) == ("patients and draws", "patients")
    # What makes a draw good is common to both arms, so it falls out of their difference.
    assert part["ci_high"] - part["ci_low"] < 1.5 * (whole["ci_high"] - whole["ci_low"])
    assert one(rows, fraction=0.1, label="Edema", metric="auroc")["delong_p"] is None
    truth, patients = truth_of()
    first = scores_of(a)[: 5 * len(truth)].reshape(5, *truth.shape)
    macro = [metrics.auroc(truth, each)[metrics.eligible(truth, patients)].mean() for each in first]
    assert part["value_a"] == pytest.approx(np.mean(macro))
    seeds = [evaluation(tmp_path / f"s{seed}", "sex", seed, fractions=fractions) for seed in (1, 2)]
    others = [evaluation(tmp_path / f"n{seed}", "none", seed, fractions=fractions) for seed in (1, 2)]
    rows = compare([a, b, *seeds, *others], tmp_path / "out", CompareOptions(resamples=100))
    assert one(rows, fraction=0.1, **MACRO)["levels"] == "patients, draws and seeds"
    assert len(one(rows, fraction=0.1, **MACRO)["by_seed"]) == 3


def altered(folder: Path, copy: Path, column: str, changed: dict[int, Any]) -> Path:
    """A folder in which some rows of predictions.parquet have another value."""
    copy.mkdir()
    (copy / results.MANIFEST_FILE).write_bytes((folder / results.MANIFEST_FILE).read_bytes())
    table = pq.read_table(folder / results.PREDICTIONS_FILE)
    values = table[column].to_pylist()
    for row, value in changed.items():
        values[row] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, table.schema.field(column).type)),
                   copy / results.PREDICTIONS_FILE)  # fmt: skip
    seal(copy)
    return copy


def test_what_cannot_be_compared_is_refused_and_the_rows_are_named(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "sex", 0)
    b = evaluation(tmp_path / "b", "none", 0)
    later = evaluation(tmp_path / "later", "none", 1, first=3)
    films = len(truth_of()[0])
    swapped = {3 * 7 + k: "i008" for k in range(3)} | {3 * 8 + k: "i007" for k in range(3)}
    nan = altered(b, tmp_path / "nan", "score", {3 * 12 + 1: np.nan, 3 * 40: np.nan})
    several = evaluation(tmp_path / "draws", "none", 2, fractions={1.0: 2})
    cases = (
        (
            later,
            rf"found 6 in only one of them: rows 1, 2, 3 of .*a, rows {films - 2}, .* of .*later; evaluate on one",
        ),
        (altered(b, tmp_path / "order", "image_id", swapped), r"found 0 .* but another order: rows 8, 9;"),
        (
            altered(b, tmp_path / "truth", "truth", dict.fromkeys(range(0, 24, 3), 0.5)),
            r"that differ, in rows 1, 2, 3, 4, 5 and 3 more, the first in label Edema; evaluate on one store",
        ),
        (
            nan,
            r"a score of every image from none-0, found NaN for 2 images .*the first in image 12, label Mass",
        ),
        (several, r"as many training subsets in .*a \(1\) as in .*draws \(2\)"),
    )
    for folder, words in cases:
        with pytest.raises(InputError, match=words) as raised:
            compare([a, folder], tmp_path / "out")
        assert "i00" not in str(raised.value)
        assert "p00" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_arms_of_several_seeds_are_compared_by_their_seeds_pooled_over_the_study(tmp_path: Path) -> None:
    arms = {
        name: [evaluation(tmp_path / f"{name}{seed}", name, seed, quality=q, spread=0.2) for seed in seeds]
        for name, q, seeds in (("sex", 1.2, range(3)), ("none", 1.0, range(2, 6)), ("age", 1.1, range(3)))
    }
    rows = compare([folder for arm in arms.values() for folder in arm], tmp_path / "out", CompareOptions(resamples=200))
    truth, patients = truth_of()
    scores = {name: [scores_of(folder) for folder in arm] for name, arm in arms.items()}
    for metric in ("auroc", "average_precision"):
        wanted = difference_of_arms(
            scores["sex"],
            scores["none"],
            truth,
            patients,
            metric=metric,
            resamples=200,
            other_arms=[scores["age"]],
        )
        for index, label in enumerate([*LABELS[:2], "macro"]):
            row = one(rows, a="sex", b="no chart", label=label, metric=metric)
            place = -1 if label == "macro" else index
            assert (row["ci_low"], row["ci_high"]) == (wanted.low[place], wanted.high[place])
            assert (row["p"], row["p_holm"]) == (wanted.p[place], wanted.p_holm[place])
            assert row["degrees_of_freedom"] == wanted.degrees_of_freedom[place]
            assert row["difference"] == pytest.approx(wanted.value[place], abs=1e-12)
            assert (row["seeds"], row["levels"]) == (3, "patients and seeds")


def test_seeds_are_paired_only_when_asked(tmp_path: Path) -> None:
    runs = [
        evaluation(tmp_path / f"{name}{seed}", name, seed, spread=0.3) for name in ("sex", "none") for seed in (0, 1, 2)
    ]
    paired = one(compare(runs, tmp_path / "paired", CompareOptions(resamples=100, pair_seeds=True)), **MACRO)
    apart = one(compare(runs, tmp_path / "apart", CompareOptions(resamples=100)), **MACRO)
    assert paired["difference"] == apart["difference"]
    assert -1 <= paired["seed_correlation"] <= 1
    assert apart["seed_correlation"] is None
    assert paired["seed_se"] != apart["seed_se"]
    other = evaluation(tmp_path / "other", "age", 9)
    with pytest.raises(InputError, match="expected seeds that sex and age share, found none; leave out --pair-seeds"):
        compare([runs[0], other], tmp_path / "none", CompareOptions(pair_seeds=True))


def scored(folder: Path, control: str, fraction: float = 1.0) -> np.ndarray:
    """Scores (D, N, C) of a baseline, or of the encoder (none)."""
    table = pq.read_table(folder / results.PREDICTIONS_FILE).to_pandas()
    table = table[(table.control == control) & (table.fraction == fraction)]
    return table.score.to_numpy().reshape(table.draw.nunique(), -1, len(LABELS))


FIXED = {"pixels": 11, "chart-only": 12}


def test_every_arm_is_compared_with_every_baseline_by_the_same_inference(tmp_path: Path) -> None:
    fractions = {0.1: 3, 1.0: 1}
    runs = {
        chart: [
            evaluation(
                tmp_path / f"{chart}{seed}",
                chart,
                seed,
                spread=0.2,
                fractions=fractions,
                baselines=FIXED | {"untrained": 20 + seed, "image+chart": 30 + seed},
            )
            for seed in range(seeds)
        ]
        for chart, seeds in (("sex", 3), ("none", 4))
    }
    rows = compare([*runs["sex"], *runs["none"]], tmp_path / "out", CompareOptions(resamples=100))
    truth, patients = truth_of()
    titles = {
        "pixels": "plain pixels",
        "chart-only": "chart only (sex)",
        "untrained": "untrained encoder",
        "image+chart": "image + chart (on sex)",
    }
    for fraction in fractions:
        own = [scored(folder, "none", fraction) for folder in runs["sex"]]
        others = [[scored(folder, "none", fraction) for folder in runs["none"]]]
        for control, title in titles.items():
            theirs = [scored(folder, control, fraction) for folder in runs["none" if control == "untrained" else "sex"]]
            options: dict[str, Any] = {"resamples": 100}
            if control in FIXED:
                theirs, options = theirs[:1], options | {"fixed_b": True, "other_arms": others}
            elif control == "image+chart":
                options["pair_seeds"] = True
            wanted = difference_of_arms(own, theirs, truth, patients, **options)
            row = one(rows, a="sex", b=title, fraction=fraction, **MACRO)
            assert row["control_b"] == control
            assert (row["difference"], row["seeds"]) == (pytest.approx(wanted.value[-1]), 3)
            if control == "untrained":  # it has four initialisations, and a variance over them of its own
                assert row["seed_se"] != wanted.seed_se[-1]
                assert row["p"] < 1
            else:
                assert (row["ci_low"], row["p"]) == (pytest.approx(wanted.low[-1]), pytest.approx(wanted.p[-1]))
            assert (row["draw_se"] is None) == (fraction == 1)
            assert row["verdict"] in ("a higher", "b higher", "no difference shown")
            assert len(row["by_seed"]) == 3
    assert {row["b"] for row in rows if row["a"] == "no chart"} >= {
        "image + chart (sex, on no chart)",
        *titles.values(),
    } - {"image + chart (on sex)"}


def test_initialisations_that_are_one_carry_no_claim(tmp_path: Path) -> None:
    """Three evaluations of three seeds that all drew the untrained encoder from one seed, and one that has its own."""
    runs = [
        evaluation(tmp_path / f"{chart}{seed}", chart, seed, quality=2, baselines={"untrained": 7})
        for chart in ("sex", "none")
        for seed in range(3)
    ]
    row = one(compare(runs, tmp_path / "out", CompareOptions(resamples=50)), a="sex", b="untrained encoder", **MACRO)
    assert (row["seeds"], row["verdict"], row["seed_se"], row["levels"]) == (1, "no claim", None, "patients")


def test_rows_of_a_baseline_must_be_those_of_the_arms(tmp_path: Path) -> None:
    a, b = (evaluation(tmp_path / chart, chart, 0, baselines=FIXED) for chart in ("sex", "none"))
    table = pq.read_table(b / results.PREDICTIONS_FILE)
    place = table["control"].to_pylist().index("pixels")
    for column, value, words in (
        ("image_id", "i999", "expected the same images on mimic"),
        ("score", np.nan, "expected a score of every image from none-0, found NaN for 1 images"),
    ):
        changed = altered(
            b, tmp_path / column, column, {place + k: value for k in range(3 if column == "image_id" else 1)}
        )
        with pytest.raises(InputError, match=words):
            compare([a, changed], tmp_path / "out")


def test_whether_a_difference_differs_by_data_set_is_tested_over_whole_data_sets(tmp_path: Path) -> None:
    places = {"nih": (1.5, 0.0), "hannover": (0.0, 0.0), "mimic:radiologists": (0.0, 0.0)}  # of sex, of no chart
    runs = [
        evaluation(
            tmp_path / f"{chart}{seed}",
            chart,
            seed,
            spread=0.1,
            elsewhere={name: more[place] for name, more in places.items()},
        )
        for place, chart in enumerate(("sex", "none"))
        for seed in range(3)
    ]
    rows = compare(runs, tmp_path / "out", CompareOptions(resamples=100))
    found = read(tmp_path / "out", results.INTERACTIONS_FILE)
    assert {(row["label"], row["metric"]) for row in found} == {
        (label, metric) for label in (*LABELS[:2], "macro") for metric in ("auroc", "average_precision")
    }
    row = one(found, **MACRO)
    assert row["datasets"] == ["mimic", "nih", "hannover"]  # the radiologists' part of mimic is none
    assert row["differences"] == [
        pytest.approx(one(rows, dataset=name, **MACRO)["difference"]) for name in row["datasets"]
    ]
    assert (row["seeds"], row["claim"]) == (3, None)
    # Macro rows name their labels, both those of an interaction and those of a comparison.
    assert {tuple(each["labels"]) for each in found if each["label"] == "macro"} == {tuple(LABELS[:2])}
    assert {tuple(each["labels"]) for each in rows if each["label"] == "macro"} == {tuple(LABELS[:2])}
    assert {each["labels"] for each in (*found, *rows) if each["label"] != "macro"} == {None}
    assert row["p"] == row["p_holm"] < 0.01
    assert one(found, label="Edema", metric="auroc")["p_holm"] >= one(found, label="Edema", metric="auroc")["p"]
    alike = [
        evaluation(tmp_path / f"alike{seed}", "age", seed, spread=0.1, elsewhere=dict.fromkeys(places, 0.0))
        for seed in range(3)
    ]
    compare([*runs[3:], *alike], tmp_path / "same", CompareOptions(resamples=100))
    assert one(read(tmp_path / "same", results.INTERACTIONS_FILE), **MACRO)["p"] > 0.01
