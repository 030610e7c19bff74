"""A declared question: correction, equivalence and power against scipy and simulation; declaration; ledger."""

import json
import multiprocessing
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence.question import answers, declared, false_verdicts, simulated_rows
from benchmarks.evidence.seeds import SimulatedSet, rates, studies
from chartray.cli import run_command
from chartray.config.evaluate import CompareOptions, EvaluateOptions, PlanOptions
from chartray.config.study import read_experiment
from chartray.errors import InputError
from chartray.evaluation.answer import Compared, answered
from chartray.evaluation.declare import QUESTION_FILE, declare, question_of, read_questions
from chartray.evaluation.evaluate import evaluate
from chartray.evaluation.plan import plan_study, sentences
from chartray.experiment import experiment_answer, experiment_plan, run_experiment
from chartray.outputs.appending import append_line, read_lines
from chartray.pixels.store import Store
from chartray.report.statements import verdicts
from chartray.results.folder import open_kind
from chartray.results.ledger import LEDGER_FILE, LedgerEntry, note_scoring, read_ledger, scorings
from chartray.results.manifest import ComparisonManifest
from chartray.results.methods import answer_of, look_sentences, question_sentences
from chartray.results.question import answer
from chartray.results.verdict import Verdict
from chartray.statistics.dunnett import dunnett
from chartray.statistics.equivalence import equivalence
from chartray.statistics.holm import holm
from chartray.statistics.power import Design, detectable, patients_needed, power, seeds_needed
from tests.evaluation_folders import compare, hospital, one, read, vit
from tests.test_compare import evaluation
from tests.test_experiment import tiny

FAST = EvaluateOptions(resamples=20, baselines=False, saliency=0)


@pytest.mark.parametrize("sizes", [(4, 4, 4, 4), (6, 4, 5, 3), (3,) * 8])
def test_the_first_step_is_dunnetts_test_of_scipy(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(sum(sizes))
    control, *groups = (rng.normal(1.2 * (place == 1), 1, size) for place, size in enumerate(sizes))
    expected = stats.dunnett(*groups, control=control, random_state=np.random.default_rng(0)).pvalue
    freedom = sum(sizes) - len(sizes)
    within = sum(((each - each.mean()) ** 2).sum() for each in (control, *groups)) / freedom
    t = [(each.mean() - control.mean()) / np.sqrt(within * (1 / len(each) + 1 / len(control))) for each in groups]
    p = 2 * stats.t.sf(np.abs(t), freedom)
    share = np.sqrt([len(each) / (len(each) + len(control)) for each in groups])
    joint = np.outer(share, share) * (1 - np.eye(len(groups))) + np.eye(len(groups))
    degrees = np.full(len(groups), freedom)
    assert dunnett(p, joint, degrees, steps=False) == pytest.approx(expected, abs=0.002)
    # Step by step the smallest p is the same, the others are smaller; none is above Holm's.
    stepped = dunnett(p, joint, degrees)
    assert stepped.min() == pytest.approx(expected.min(), abs=0.002)
    assert (stepped <= holm(p) + 1e-12).all()
    assert (stepped <= expected + 0.002).all()
    assert (stepped >= p - 1e-12).all()


def test_dunnett_at_its_limits() -> None:
    p, freedom = np.array([0.02, 0.03, 0.9]), np.full(3, 20.0)
    alike = dunnett(p, np.ones((3, 3)), freedom)
    assert alike == pytest.approx(p, abs=0.002)  # one and the same test three times
    apart = dunnett(p, np.eye(3), np.full(3, 1e6), steps=False)
    assert apart == pytest.approx(1 - (1 - p) ** 3, abs=0.002)
    missing = dunnett([0.02, np.nan, 0.03], np.eye(3), freedom)
    assert np.isnan(missing[1])
    assert dunnett([0.02], np.eye(1), [5.0]).tolist() == [0.02]
    assert dunnett([1e-9, 1e-8], np.eye(2), [9.0, 9.0]) == pytest.approx([2e-9, 1e-8])
    with pytest.raises(InputError, match="expected"):
        dunnett([0.1, 0.2], np.eye(3), [1.0, 1.0])


def test_equivalence_is_the_larger_of_two_one_sided_tests() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 30), rng.normal(0.1, 1, 30)
    margin = 0.9
    lower, upper = (
        stats.ttest_ind(a - shift, b, alternative=way).pvalue for shift, way in ((-margin, "greater"), (margin, "less"))
    )
    error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 30)
    assert equivalence(a.mean() - b.mean(), error, 58.0, margin) == pytest.approx(max(lower, upper))
    assert equivalence([0.0, 1.0], [0.0, 0.0], [5.0, 5.0], 0.5).tolist() == [0.0, 1.0]
    for wrong in (0.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="expected a margin above 0"):
            equivalence(0.0, 1.0, 5.0, wrong)


@pytest.mark.parametrize("freedom", [2.5, 4.0, 30.0])
def test_power_is_that_of_the_noncentral_t(freedom: float) -> None:
    away = detectable(1.0, freedom)
    limit = stats.t.isf(0.025, freedom)
    assert stats.nct.sf(limit, freedom, away) + stats.nct.cdf(-limit, freedom, away) == pytest.approx(0.8, abs=1e-3)
    assert power(0.0, 1.0, freedom) == pytest.approx(0.05, abs=1e-3)
    assert detectable(1.0, freedom, alpha=0.01) > away


def test_what_is_detectable_is_found_in_four_of_five_simulated_studies() -> None:
    """The planned difference, put into simulated scores, is found by `difference_of_arms` as often as planned."""
    test, seeds, spread = SimulatedSet(120, 1), (3, 3, 3, 3), 0.02
    pilot = [each.difference(resamples=100) for each in studies(200, test, seeds, stream=77, spread=spread)]
    patient = float(np.mean([np.nanmean(each.patient_se[:-1] ** 2) for each in pilot]))
    seed = float(np.mean([np.nanmean(each.seed_se[:-1] ** 2) for each in pilot])) * 3 / 2
    gap = Design(patient, 120, seed, 3, arms=4).detectable()
    (*_, found), _ = rates("auroc", test, seeds, studies_=500, stream=78, gap=gap, spreads=(1.0,), resamples=100)
    share = float(found.split()[0])
    assert 0.68 < share < 0.92


def test_needed_seeds_and_patients_are_the_fewest() -> None:
    design = Design(0.006**2, 420, 0.005**2, 3, arms=3)
    seeds = seeds_needed(0.02, design)
    assert seeds is not None
    assert design._replace(seeds=seeds).power(0.02) >= 0.8 > design._replace(seeds=seeds - 1).power(0.02)
    patients = patients_needed(0.015, design)
    assert patients is not None
    assert design.on(patients).detectable() <= 0.015 < design.on(int(patients * 0.95)).detectable()
    assert seeds_needed(0.005, design) is None  # these patients alone have more
    assert patients_needed(0.001, design) is None  # these seeds alone have more


def test_equal_sets_give_few_false_verdicts_with_a_declared_question() -> None:
    """Short form of `benchmarks/evidence/question.py`."""
    without, with_question = false_verdicts(50, sets=6)
    assert without.mean() > 0.3
    assert with_question.mean() <= 0.12
    rows = answers(simulated_rows(np.random.default_rng(1), sets=8, effect=0.06), declared(8))
    primary = [row for row in rows if row.role == "primary"]
    assert [row.verdict for row in primary] == [Verdict.A_HIGHER]
    assert {row.role for row in rows if row.dataset != "mimic"} == {"exploratory"}
    assert {row.verdict for row in rows if row.role == "exploratory"} == {Verdict.NO_CLAIM}
    family = [row for row in rows if row.role != "exploratory"]
    corrected = holm([row.p for row in family])
    assert all(row.p <= row.p_family <= by_holm + 1e-9 for row, by_holm in zip(family, corrected, strict=True))
    assert all(row.family_size == 8 for row in family)


def test_an_answer_is_the_first_declared_arm_minus_the_second_whatever_the_comparison_calls_a() -> None:
    """Else the page calls an effect in the declared direction "shown, against"."""
    rows, asked = simulated_rows(np.random.default_rng(1), sets=8, effect=0.06), declared(8)
    turned = [row.reversed for row in rows]
    (found,) = (row for row in answers(turned, asked) if row.role == "primary")
    (wanted,) = (row for row in answers(rows, asked) if row.role == "primary")
    assert found == wanted
    assert (found.b, found.verdict) == ("none", Verdict.A_HIGHER)
    assert [one.outcome for one in verdicts([], [found])] == ["better"]
    # The other rows of a declared pair stand the same way round.
    assert not [row for row in answers(turned, asked) if row.a == "none"]


def experiment(folder: Path, store: Path, question: Any, **changed: Any) -> Path:
    return tiny(folder, store, question=question, audit=None, **changed)


WRONG = [
    ({"primary": ["reel", "none"]}, "unknown arm 'reel' (did you mean 'real'?)"),
    ({"primary": ["real"]}, "expected two names of arms"),
    ({"primary": ["real", "real"]}, "expected pairs of two arms"),
    ({"primary": ["real", "none"], "margin": 0}, "expected a margin above 0 and below 1, found 0"),
    ({"primary": ["real", "none"], "margin": -0.01}, "expected a margin above 0 and below 1, found -0.01"),
    ({"primary": ["real", "none"], "margin": "wide"}, "expected a number above 0"),
    ({"primary": ["real", "none"], "metric": "auroc macr"}, "unknown label 'macr' (did you mean 'macro'?)"),
    ({"primary": ["real", "none"], "metric": "auc"}, "unknown metric 'auc' (did you mean 'auroc'?)"),
    ({"primary": ["real", "none"], "dataset": "drwn"}, "unknown dataset 'drwn' (did you mean 'drawn'?)"),
    ({"primary": ["real", "none"], "family": [["real", "nome"]]}, "unknown arm 'nome' (did you mean 'none'?)"),
    ({"primary": ["real", "none"], "family": "many"}, "expected pairs of arms, all, or against ARM"),
    ({"primary": ["real", "none"], "family": "against nun"}, "unknown arm 'nun'"),
    ({"primary": ["real", "chart-only"]}, "expected an evaluation that scores chart-only"),
    ({"primary": ["real", "none"], "margn": 0.1}, "unknown key 'margn' in it (did you mean 'margin'?)"),
]


@pytest.mark.parametrize(("question", "said"), WRONG)
def test_a_question_that_the_study_cannot_answer_is_refused(
    small_store: Path, tmp_path: Path, question: Any, said: str
) -> None:
    file = experiment(tmp_path, small_store, question)
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        experiment_plan(file, tmp_path / "out")
    assert "question of " in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_question_has_sensible_defaults(small_store: Path, tmp_path: Path) -> None:
    plain = question_of(read_experiment(experiment(tmp_path, small_store, {"primary": ["real", "none"]})))
    assert plain is not None
    assert (plain.dataset, plain.metric, plain.label, plain.family) == ("drawn", "auroc", "macro", (("real", "none"),))
    arms = {name: {"ehr": "none", "train.steps": steps} for name, steps in (("real", 4), ("none", 3), ("other", 2))}
    asked = {"primary": ["none", "real"], "metric": "average_precision Disc", "margin": 0.02}

    def family(of: Any) -> Any:
        found = question_of(read_experiment(experiment(tmp_path, small_store, asked | {"family": of}, arms=arms)))
        assert found is not None
        assert (found.metric, found.label, found.margin) == ("average_precision", "Disc", 0.02)
        return found.family, found.control

    assert family("all") == ((("none", "real"), ("real", "other"), ("none", "other")), None)
    assert family("against none") == ((("none", "real"), ("other", "none")), "none")
    assert family([["other", "real"]]) == ((("none", "real"), ("other", "real")), "real")


def test_no_equivalence_is_claimed_of_too_few_test_patients() -> None:
    """Failed before: with 30 patients and 5 seeds it was shown in .10 of studies whose arms differ by the margin."""
    rows = simulated_rows(np.random.default_rng(5), sets=1)
    asked = declared(1)
    asked = asked.replaced(question=asked.question.replaced(margin=0.1))
    for patients, shown in ((50, True), (49, False)):
        compared = Compared(asked.arms, dict.fromkeys(("mimic", "chexpert", "nih"), patients))
        (primary,) = [row for row in answered(rows, compared, asked) if row.role == "primary"]
        assert primary.margin == 0.1
        assert (primary.p_equivalence is not None and primary.p_equivalence < 0.05) == shown
        assert ("no difference larger than 0.1" in answer(primary)) == shown


def test_a_study_declares_answers_and_records_what_is_declared_too_late(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = {"primary": ["real", "none"], "margin": 0.05}
    quick = {"small": {"store": str(small_store), "resamples": 20, "baselines": False, "saliency": 0}}
    (small_store / LEDGER_FILE).unlink(missing_ok=True)
    before = Store.open(small_store).hash
    file, out = experiment(tmp_path, small_store, question, seeds=[0, 1], evaluations=quick), tmp_path / "out"
    lines = experiment_plan(file, out)
    assert lines[1] == "# stage 1, question: 1 command"
    assert run_command(shlex.split(lines[2])[1:]) == 0
    first = read_questions(out / QUESTION_FILE)
    assert [each.before_test for each in first] == [True]
    assert run_command(["study", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Do real (demographic-norm) and none (no chart) differ in macro AUROC on drawn (margin 0.05)?" in said
    assert "before any run of this study was scored on test" in said
    assert "The test split of drawn was scored 4 times by 4 runs." in said
    assert read_questions(out / QUESTION_FILE) == first  # the same one keeps its time
    folder = out / "results" / "arms-small"
    manifest = open_kind(folder, ComparisonManifest, "").manifest
    assert manifest.question is not None
    assert manifest.question == first[0]
    assert (manifest.scorings[0].times, manifest.scorings[0].runs) == (4, 4)
    told = question_sentences([manifest])
    assert "whether real (demographic-norm) differs from none (no chart) in AUROC (macro mean)" in told[0]
    assert told[1].startswith("The question was declared on 2")
    assert told[1].endswith("), before any run of this study was scored on test.")
    assert look_sentences([manifest], []) == ["The test split of drawn was scored 4 times by 4 runs."]
    # An audit looks at the test split after the comparison: page and card count by the ledger of the day.
    note_scoring([(small_store, before)], run="real-0", source=out / "runs" / "real-0")
    again = ["The test split of drawn was scored 5 times by 4 runs."]
    assert look_sentences([manifest], []) == answer_of(open_kind(folder, ComparisonManifest, ""))[-1:] == again
    # Lines that are lost or changed after the comparison make the count no smaller, and are told.
    noted = (small_store / LEDGER_FILE).read_text().splitlines(True)
    (small_store / LEDGER_FILE).write_text("".join([noted[0].replace("real-0", "fake-0"), *noted[2:4]]))
    (changed,) = look_sentences([manifest], [])
    assert changed.startswith("The test split of drawn was scored 4 times by 4 runs; ")
    assert "cannot be read or" in changed
    (small_store / LEDGER_FILE).write_text("".join(noted[:-1]))
    assert told[2] == (
        "Pairs corrected together: demographic-norm against no chart. Every other comparison is exploratory."
    )
    scored_before = manifest.question.model_copy(update={"test_scored_by_others": 3})
    told = question_sentences([manifest.model_copy(update={"question": scored_before})])
    assert told[1].endswith("was scored on test; other runs had been scored on it 3 times.")
    # Two comparisons of one question declare it once, and count what came before it once.
    earlier = manifest.model_copy(update={"earlier_questions": (scored_before,)})
    assert [each.count("1 other question") for each in question_sentences([earlier, earlier])] == [0, 1, 0]
    primary = one(read(folder, "comparisons.jsonl"), role="primary")
    assert (primary["label"], primary["metric"], primary["margin"]) == ("macro", "auroc", 0.05)
    assert primary["p_family"] == primary["p"]
    assert primary["p_equivalence"] is None  # fewer than 50 test patients
    assert primary["detectable"] > 0
    assert Store.open(small_store).hash == before
    # Another question, now that test has been scored, is answered, recorded, and claims nothing.
    late = experiment(tmp_path, small_store, question | {"margin": 0.5}, seeds=[0, 1], evaluations=quick)
    assert run_command(["study", str(late), "--out", str(out), "--declare"]) == 0
    again = next(line for line in experiment_plan(late, out) if line.startswith("chartray compare"))
    assert run_command(shlex.split(again)[1:]) == 0
    said = capsys.readouterr().out
    assert "after runs of this study had been scored on test 4 times (4 runs): the answer is exploratory" in said
    assert "no claim: the question was declared after test had been scored" in said
    both = read_questions(out / QUESTION_FILE)
    assert [each.test_scored for each in both] == [0, 4]
    manifest = open_kind(folder, ComparisonManifest, "").manifest
    assert manifest.earlier_questions == (both[0],)
    assert one(read(folder, "comparisons.jsonl"), role="primary")["verdict"] == "no claim"
    assert experiment_answer(out)[0].endswith("(margin 0.5)?")
    # It cannot be forgotten, nor edited.
    none = experiment(tmp_path, small_store, None, seeds=[0, 1], evaluations=quick)
    with pytest.raises(InputError, match="expected the question that was declared on"):
        run_experiment(none, out)
    text = (out / QUESTION_FILE).read_text()
    (out / QUESTION_FILE).write_text(text.replace('"test_scored": 4', '"test_scored": 0'))
    with pytest.raises(InputError, match=r"question\.json"):
        run_experiment(late, out)
    # Further seeds after a look are another declaration too.
    (out / QUESTION_FILE).write_text(text)
    more = declare(read_experiment(experiment(tmp_path, small_store, question, seeds=[0, 1, 2])), out)
    assert len(more) == 3
    (small_store / LEDGER_FILE).unlink()


def test_an_answer_needs_every_run_that_was_declared(tmp_path: Path) -> None:
    folders = {
        (chart, seed): evaluation(tmp_path / f"{chart}-{seed}", chart, seed, spread=0.1)
        for chart in ("sex", "none")
        for seed in range(3)
    }
    asked = declared(1)
    asked = asked.replaced(
        question=asked.question.replaced(primary=("real", "none"), family=(("real", "none"),), margin=0.3),
        arms={"real": tuple(f"sex-{seed}" for seed in range(3)), "none": tuple(f"none-{seed}" for seed in range(3))},
    )
    from chartray.outputs.json_file import write_json
    from chartray.results.question import question_hash

    asked = asked.replaced(sha256=question_hash(asked.question, asked.arms, asked.settings), when="2026-01-01T00:00")
    write_json(tmp_path / "question.json", {"questions": [asked.model_dump(mode="json")]})
    options = CompareOptions(resamples=50, question=tmp_path / "question.json")
    rows = compare(list(folders.values()), tmp_path / "out", options)
    primary = one(rows, role="primary")
    assert primary["verdict"] == "no difference shown"
    assert primary["seeds_needed"] is not None
    assert sum(row["role"] == "exploratory" for row in rows) == len(rows) - 1
    # Rows of another evaluation of the study are exploratory, all of them.
    other = options.model_copy(update={"evaluation": "nih"})
    assert {row["role"] for row in compare(list(folders.values()), tmp_path / "other", other)} == {"exploratory"}
    some = [folder for (chart, seed), folder in folders.items() if (chart, seed) != ("sex", 1)]
    with pytest.raises(InputError, match=r"expected all runs of real .* found no sex-1"):
        compare(some, tmp_path / "less", options)
    plain = compare(list(folders.values()), tmp_path / "plain", CompareOptions(resamples=50))
    assert {row["role"] for row in plain} == {None}
    assert all(row["detectable"] > 0 for row in plain if row["label"] == "macro")


def test_an_open_answer_says_what_could_have_been_seen() -> None:
    rows = simulated_rows(np.random.default_rng(0), sets=2)
    asked = declared(2)
    asked = asked.replaced(question=asked.question.replaced(margin=0.005))
    found = next(row for row in answers(rows, asked) if row.role == "primary")
    assert found.verdict == Verdict.NO_DIFFERENCE
    said = answer(found)
    assert f"no difference shown; {found.detectable:.3f} could have been seen with 80 % power" in said
    assert "0.005 would need" in said
    wide = asked.replaced(question=asked.question.replaced(margin=0.5))
    same = next(row for row in answers(rows, wide) if row.role == "primary")
    assert "no difference larger than 0.5 (two one-sided tests, p < 0.001 over 2 pairs)" in answer(same)


def _append(file: str, many: int, who: int) -> None:
    for number in range(many):
        append_line(Path(file), {"who": who, "number": number})


def test_many_writers_lose_no_line_and_a_changed_one_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    writers = [
        multiprocessing.get_context("fork").Process(target=_append, args=(str(file), 25, who)) for who in range(4)
    ]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    found = read_lines(file)
    assert found.unreadable == 0
    assert sorted((line["who"], line["number"]) for line in found.entries) == [
        (w, n) for w in range(4) for n in range(25)
    ]
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*whole[:50], *whole[51:]]))  # one taken out
    assert read_lines(file).unreadable == 1
    file.write_bytes(b"".join(whole).replace(b'"number": 7,', b'"number": 8,', 1))
    assert read_lines(file).unreadable >= 1
    file.write_bytes(b"".join(whole)[:-20])  # a killed writer, then the next one
    append_line(file, {"who": 9, "number": 0})
    found = read_lines(file)
    assert (len(found.entries), found.unreadable) == (100, 1)


def test_a_scoring_of_test_is_in_the_ledger_and_one_of_validation_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = hospital(tmp_path / "h", patients=60)
    content = Store.open(store).hash
    evaluate(vit(tmp_path / "e", run="r-0"), store, tmp_path / "v", FAST.model_copy(update={"split": "validate"}))
    assert not (store / LEDGER_FILE).exists()
    evaluate(tmp_path / "e", store, tmp_path / "t", FAST)
    evaluate(tmp_path / "e", store, tmp_path / "t", FAST)
    rows, unreadable = read_ledger(store)
    assert [(row.run, row.store) for row in rows] == [("r-0", content)] * 2
    assert unreadable == 0
    assert (Store.open(store).hash, Store.open(store).damaged()) == (content, [])
    said = scorings("mimic", content, [store], [("r-0", "2026"), ("r-1", "2027")])
    assert (said.times, said.runs) == (3, 2)
    assert said.note == "1 of them counted from the evaluations compared, not noted in a ledger"
    assert scorings("mimic", content, [tmp_path / "gone"], []).note is not None
    # Two of one second are two; a copy of the store counts none twice.
    for _ in range(2):
        append_line(store / LEDGER_FILE, LedgerEntry("r-2", "x", "evaluate", "2028", content)._asdict())
    shutil.copytree(store, tmp_path / "copy")
    assert scorings("mimic", content, [store, tmp_path / "copy"], []).times == 4
    # A store that cannot be written costs one line, not the evaluation.
    (store / LEDGER_FILE).unlink()
    (store / LEDGER_FILE).mkdir()
    note_scoring([(store, content)], run="r", source=tmp_path)
    assert "its ledger test-scored.jsonl cannot be written (Is a directory)" in capsys.readouterr().err
    assert read_ledger(store) == ([], 1)


def test_a_ledger_may_be_written_by_whoever_may_write_in_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    before = os.umask(0o077)
    try:
        append_line(tmp_path / "ledger.jsonl", {})
    finally:
        os.umask(before)
    assert (tmp_path / "ledger.jsonl").stat().st_mode & 0o777 == 0o664


def test_a_pilot_plans_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        str(evaluation(tmp_path / f"{chart}-{seed}", chart, seed, spread=0.1))
        for chart in ("sex", "none")
        for seed in (0, 1, 2)
    ]
    assert (
        run_command(["plan", *folders, "--margin", "0.02", "--resamples", "50", "--out", str(tmp_path / "plan")]) == 0
    )
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines()[:-1])
    assert "A difference of 0.02 needs" in said
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    cells = {(cell["label"], cell["seeds"], cell["patients"]): cell["detectable"] for cell in plan["cells"]}
    assert {label for label, _, _ in cells} == {"macro", "Edema", "Mass"}
    assert cells["macro", 2, 100] > cells["macro", 5, 100] >= cells["macro", 5, 1000]
    assert cells["Edema", 3, 100] > cells["macro", 3, 100]
    assert (tmp_path / "plan" / "plan.svg").read_text().startswith("<?xml")
    assert len((tmp_path / "plan" / "plan.csv").read_text().splitlines()) == len(cells) + 1
    alone = plan_study([Path(each) for each in folders[:2]], PlanOptions(resamples=50))
    assert "one arm: two of its seeds stand for two arms" in " ".join(sentences(alone))
    assert run_command(["plan", folders[0], folders[3]]) == 2
    assert "expected evaluations of two seeds of one arm" in capsys.readouterr().err
