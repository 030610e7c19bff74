"""Sentences: a claim only where the interval and the seeds carry it."""

import pytest

from chartray.errors import InputError
from chartray.report.disambiguate import names_of
from chartray.report.statements import five_lines, verdicts
from chartray.report.summary import at, chosen, outcome, over_seeds, selection
from chartray.results.arm import Arm, arm_of, dataset_name
from chartray.results.schema import MACRO, Comparison, Interaction, Score
from chartray.results.verdict import verdict, verdict_of_interval

POLICY = {"home": "mimic", "dataset": "mimic", "protocol": "linear", "split": "test"}


def row(chart: str, control: str, value: float | None, seed: int = 0, **more: object) -> Score:
    parts = {name: more.pop(name) for name in ("objective", "settings") if name in more}
    base = arm_of("none", "none", **parts) if control == "untrained" else None
    about = POLICY | {"run": f"{chart}-{control}-{seed}", "seed": 0, "run_seed": seed, "n": 100}
    about |= {"arm": arm_of(chart, control, base=base, **parts), "label": MACRO, "metric": "auroc", "value": value}
    return Score(**about | more)


def pair(a: tuple[str, str], b: tuple[str, str], low: float, high: float, **more: object) -> Comparison:
    sides = {f"arm_{side}": arm_of(*names, **more.pop(f"of_{side}", {})) for side, names in (("a", a), ("b", b))}
    numbers = {"difference": (low + high) / 2, "ci_low": low, "ci_high": high, "p": 0.5, "seeds": 1}
    names = {"a": "-".join(a), "b": "-".join(b), "label": MACRO, "metric": "auroc"}
    return Comparison(**POLICY | sides | names | numbers | more)


CHART, NONE, SHUFFLED, UNTRAINED = ("sex", "none"), ("none", "none"), ("sex", "shuffled"), ("none", "untrained")

SPLITS = (("test", 0.01), ("validate", 0.09))


def rows(seeds: int) -> list[Score]:
    found = [row(*arm, 0.7, seed) for arm in (CHART, NONE, SHUFFLED) for seed in range(seeds)]
    return [*found, row(*UNTRAINED, 0.6, run="sex-none-0")]


def said(seeds: int, pairs: list[Comparison]) -> dict[str, str]:
    return spoken(rows(seeds), pairs)


def named(scores: list[Score], pairs: list[Comparison] | None = None) -> tuple[list[Score], list[Comparison]]:
    names = names_of(scores, pairs or [])
    return names.rows(scores), names.rows(pairs or [])


def spoken(scores: list[Score], pairs: list[Comparison]) -> dict[str, str]:
    return {one.sentence: one.outcome for one in verdicts(*named(scores, pairs))}


@pytest.mark.parametrize(
    ("low", "high", "words", "outcome"),
    [
        (0.01, 0.05, "sex is higher than no chart in macro AUROC: MIMIC-CXR +0.030 [+0.010, +0.050]", "better"),
        (-0.05, -0.01, "sex is lower than no chart in macro AUROC: MIMIC-CXR -0.030 [-0.050, -0.010]", "worse"),
        (
            -0.01,
            0.05,
            "sex against no chart in macro AUROC: no difference shown on MIMIC-CXR +0.020 [-0.010, +0.050]",
            "open",
        ),
        (
            0.0,
            0.05,
            "sex against no chart in macro AUROC: no difference shown on MIMIC-CXR +0.025 [+0.000, +0.050]",
            "open",
        ),
    ],
)
def test_three_seeds_and_an_interval_decide(low: float, high: float, words: str, outcome: str) -> None:
    assert said(3, [pair(CHART, NONE, low, high, seeds=3)])[f"{words}."] == outcome


def test_fewer_seeds_claim_nothing_however_wide_the_gap() -> None:
    for seeds in (1, 2):
        sentences = said(seeds, [pair(CHART, NONE, 0.2, 0.3, seeds=seeds)])
        about = next(sentence for sentence in sentences if "no chart in macro" in sentence)
        assert sentences[about] == "no claim"
        assert about.startswith(("Seen in one encoder (seed 0): ", "Seen in two encoders (seeds 0 and 1): "))
        assert about.endswith("; another seed may differ; no claim about the method.")


def test_few_seeds_claim_nothing_against_a_baseline_either() -> None:
    """As `comparisons.jsonl` has it: they speak of one encoder, not of how it was pretrained."""

    def standing(seeds: int, *pairs: Comparison) -> set[str]:
        said = verdicts(*named(rows(seeds), list(pairs)))
        return {one.standing for one in said if "untrained" in one.sentence and "sex)" in one.sentence}

    better, open_ = (pair(CHART, UNTRAINED, low, 0.06, seeds=1) for low in (0.02, -0.02))
    worse = pair(CHART, UNTRAINED, -0.06, -0.02, seeds=2)
    assert standing(1, better) == {"Seen in one encoder"}
    assert standing(2, worse) == {"Seen in two encoders"}
    assert standing(1, open_) == {"No claim: 1 seed"}
    assert standing(3, pair(CHART, UNTRAINED, 0.02, 0.06, seeds=3)) == {"Shown"}


def test_a_pair_is_found_whichever_way_round_it_was_compared() -> None:
    forward = said(3, [pair(CHART, NONE, 0.01, 0.05, seeds=3)])
    backward = said(3, [pair(NONE, CHART, -0.05, -0.01, seeds=3)])
    assert forward == backward


def test_data_sets_that_disagree_are_both_named() -> None:
    pairs = [
        pair(CHART, UNTRAINED, low, 0.06, seeds=3, dataset=name) for low, name in ((0.02, "mimic"), (-0.02, "nih"))
    ]
    sentence, outcome = next(one for one in said(3, pairs).items() if "untrained" in one[0] and "sex" in one[0])
    assert outcome == "mixed"
    assert "is higher than the untrained encoder in macro AUROC: MIMIC-CXR +0.040" in sentence
    assert "no difference shown on NIH ChestX-ray14 +0.020 [-0.020, +0.060]" in sentence


def test_an_interval_that_is_missing_is_no_result() -> None:
    sentences = said(3, [pair(CHART, NONE, 0.1, 0.2, seeds=3).replaced(ci_low=None, ci_high=None)])
    assert sentences["sex against no chart in macro AUROC: no interval on MIMIC-CXR +0.150."] == "unknown"
    assert said(3, [])["sex against no chart was not compared."] == "unknown"


@pytest.mark.parametrize(("low", "outcome"), [(0.02, "better"), (-0.09, "worse"), (-0.02, "open")])
def test_what_was_not_measured_does_not_differ_from_what_was(low: float, outcome: str) -> None:
    none = {"difference": None, "ci_low": None, "ci_high": None}
    pairs = [pair(CHART, UNTRAINED, low, low + 0.04, seeds=3)]
    pairs += [pair(CHART, UNTRAINED, 0.0, 0.0, seeds=3, dataset=name).replaced(**none) for name in ("nih", "chexpert")]
    sentence, found = next(one for one in said(3, pairs).items() if "untrained" in one[0] and "sex" in one[0])
    assert found == outcome
    assert sentence.endswith("]; no interval on NIH ChestX-ray14, CheXpert.")
    assert sentence.count("the untrained encoder in macro AUROC") == 1


def test_seeds_compared_one_by_one_keep_the_outermost_ends() -> None:
    pairs = [(pair(CHART, NONE, low, low + 0.04)) for low in (0.01, -0.01, 0.03)]
    together = over_seeds(pairs)
    assert (together.ci_low, together.ci_high, together.seeds) == (-0.01, 0.07, 3)
    assert together.difference == pytest.approx(0.03)
    hierarchical = pair(CHART, NONE, 0.0, 0.1, seeds=3)
    assert over_seeds([*pairs, hierarchical]) == hierarchical


def test_a_baseline_beside_several_runs_is_one_measurement() -> None:
    beside = [row(*UNTRAINED, 0.6, run=run) for run in ("sex-none-0", "none-none-0")]
    scores = [*rows(1), *beside]
    kept = [one for one in chosen(scores, selection(scores)) if one.arm.control == "untrained"]
    assert len(kept) == 1


def test_the_upper_reference_is_image_and_chart_on_the_encoder_without_one() -> None:
    bases = {"sex-none-0": arm_of(*CHART), "none-none-0": arm_of(*NONE)}
    arms = {run: arm_of("sex", "image+chart", base=base) for run, base in bases.items()}
    both = [row("sex", "image+chart", 0.8, run=run, arm=arm) for run, arm in arms.items()]
    scores = [*rows(1), *both]
    titles = {one.arm.title for one in chosen(scores, selection(scores))}
    assert "image + chart (sex, on no chart)" in titles
    assert "image + chart (on sex)" not in titles


def test_the_linear_probe_on_the_test_split_with_all_labels_speaks() -> None:
    others = [row(*CHART, 0.9, protocol="knn"), row(*CHART, 0.9, split="validate"), row(*CHART, 0.9, fraction=0.1)]
    scores = [*others, *rows(1)]
    assert selection(scores)[:3] == ("linear", "test", 1.0)
    assert all(one.value != 0.9 for one in chosen(scores, selection(scores)))


def test_five_lines_say_who_what_and_how_surely() -> None:
    lines = five_lines(rows(1), [pair(CHART, UNTRAINED, 0.04, 0.10), pair(CHART, NONE, -0.02, 0.03)])
    assert len(lines) == 5
    assert lines[0].startswith(
        "3 pretraining runs (sex; no chart; sex, shuffled), linear probe, test images of MIMIC-CXR"
    )
    assert "sex 0.700" in lines[1]
    assert lines[2] == (
        "Seen in one encoder (seed 0): Pretraining (sex) is higher than the untrained encoder in macro AUROC: "
        "MIMIC-CXR +0.070 [+0.040, +0.100]; another seed may differ; no claim about the method."
    )
    assert lines[3] == (
        "Seen in one encoder (seed 0): sex against no chart in macro AUROC: no difference seen on MIMIC-CXR +0.005 "
        "[-0.020, +0.030]; another seed may differ; no claim about the method."
    )
    assert "sex, shuffled" in lines[4]


def test_five_lines_of_next_to_nothing_are_still_five() -> None:
    lines = five_lines([row("none", "none", None)], [])
    assert len(lines) == 5
    assert all(line.endswith(".") for line in lines)


def test_pixels_that_pretraining_does_not_beat_are_named() -> None:
    pixels = ("none", "pixels")
    assert not any("pixels" in one for one in said(1, [pair(CHART, pixels, 0.01, 0.05)]))
    sentences = said(3, [pair(CHART, pixels, -0.08, -0.02, seeds=3), pair(CHART, UNTRAINED, 0.01, 0.02, seeds=3)])
    words = "Pretraining (sex) is lower than plain pixels in macro AUROC: MIMIC-CXR -0.050 [-0.080, -0.020]."
    assert sentences[words] == "worse"
    lines = five_lines(rows(1), [pair(CHART, pixels, -0.08, -0.02), pair(CHART, NONE, -0.02, 0.03)])
    assert "sex against no chart" in lines[3]


def test_test_and_validate_of_one_run_are_not_two_seeds() -> None:
    pairs = [pair(CHART, UNTRAINED, low, low + 0.02, split=split, run_seed=0) for split, low in SPLITS]
    scores = [
        row(*arm, value, split=split)
        for arm in (CHART, UNTRAINED)
        for split, value in (("test", 0.7), ("validate", 0.8))
    ]
    assert spoken(scores, pairs) == {
        "Seen in one encoder (seed 0): Pretraining (sex) is higher than the untrained encoder in macro AUROC: "
        "MIMIC-CXR +0.020 [+0.010, +0.030]; another seed may differ; no claim about the method.": "no claim"
    }
    found = named(scores, pairs)
    kept = at(found[1], selection(found[0]))
    assert [(one.split, over_seeds([one]).seeds) for one in kept] == [("test", 1)]


def test_labels_read_otherwise_are_not_another_seed() -> None:
    read = [{"uncertain": uncertain, "blank": "negative"} for uncertain in ("zeros", "ignore", "ones")]
    scores = [row(*arm, 0.7, seed, **how) for arm in (CHART, NONE) for seed in (0,) for how in read]
    pairs = [pair(CHART, NONE, 0.1 * place, 0.1 * place + 0.02, **how) for place, how in enumerate(read, start=1)]
    which = selection(scores)
    assert (which.uncertain, which.blank) == ("ignore", "negative")
    assert len(chosen(scores, which)) == 2
    assert list(spoken(scores, pairs)) == [
        "Seen in one encoder (seed 0): sex is higher than no chart in macro AUROC: MIMIC-CXR +0.210 [+0.200, +0.220]; "
        "another seed may differ; no claim about the method."
    ]


def test_a_probe_of_its_own_and_one_from_elsewhere_are_told_apart() -> None:
    scores = [row(*CHART, value, dataset="nih", home=home) for home, value in (("mimic", 0.6), ("nih", 0.8))]
    scores += [row(*CHART, 0.7, home="mimic"), row(*UNTRAINED, 0.5, home="mimic")]
    pairs = [
        pair(CHART, UNTRAINED, low, low + 0.02, dataset="nih", home=home, seeds=3)
        for home, low in (("mimic", -0.05), ("nih", 0.01))
    ]
    found = named(scores, pairs)[0]
    kept = chosen(found, selection(found))
    assert {(dataset_name(one.place), one.value) for one in kept if one.dataset == "nih"} == {
        ("NIH ChestX-ray14 (probe of MIMIC-CXR)", 0.6),
        ("NIH ChestX-ray14 (own probe)", 0.8),
    }
    assert "MIMIC-CXR" in {dataset_name(one.place) for one in kept}
    sentence = next(iter(spoken(scores, pairs)))
    assert "is higher than the untrained encoder in macro AUROC: NIH ChestX-ray14 (own probe) +0.020" in sentence
    assert (
        "is lower than the untrained encoder in macro AUROC: NIH ChestX-ray14 (probe of MIMIC-CXR) -0.040" in sentence
    )


def test_two_values_of_one_thing_are_refused_not_dropped() -> None:
    scores = [row(*CHART, 0.7), row(*CHART, 0.6)]
    with pytest.raises(InputError, match=r"expected one auroc of macro on MIMIC-CXR .* found 0.7 and 0.6"):
        chosen(scores, selection(scores))
    again = [row(*CHART, 0.7), row(*CHART, 0.7)]
    assert len(chosen(again, selection(again))) == 1


def test_objectives_are_arms_and_only_the_chart_may_differ_in_a_claim() -> None:
    scores = [row(*arm, 0.7, seed, objective="msn") for arm in (CHART, NONE) for seed in range(3)]
    scores += [row(*NONE, 0.5, seed, objective="dino") for seed in range(3)]
    pairs = [pair(CHART, NONE, 0.1, 0.2, seeds=3, of_b={"objective": "dino"})]
    read = scores
    assert {one.arm.title for one in read} == {"sex", "no chart", "DINO, no chart"}
    sentences = spoken(scores, pairs)
    assert list(sentences) == ["sex against no chart was not compared."]
    lines = five_lines(scores, pairs)
    assert "DINO, no chart 0.500" in lines[1]


def test_settings_that_differ_are_named_and_never_averaged() -> None:
    scores = [
        row(*CHART, value, seed, settings=made)
        for seed, made, value in ((0, "aaaaaa111111", 0.6), (1, "bbbbbb222222", 0.8))
    ]
    assert {one.arm.title: one.value for one in named(scores)[0]} == {
        "sex, settings aaaaaa": 0.6,
        "sex, settings bbbbbb": 0.8,
    }
    alike = named([row(*CHART, value, seed, settings="aaaaaa111111") for seed, value in ((0, 0.6), (1, 0.8))])[0]
    assert {one.arm for one in alike} == {Arm("sex", settings="aaaaaa111111")}
    assert alike[0].arm.title == "sex"
    # Another chart with other settings differs in more than the chart.
    others = [row(*NONE, 0.5, seed, settings="cccccc333333") for seed in range(3)]
    mine = [row(*CHART, 0.6, seed, settings="aaaaaa111111") for seed in range(3)]
    hashes = {"of_a": {"settings": "aaaaaa111111"}, "of_b": {"settings": "cccccc333333"}}
    assert spoken([*mine, *others], [pair(CHART, NONE, 0.1, 0.2, seeds=3, **hashes)]) == {}


def test_a_baseline_beside_two_settings_is_one_only_where_it_is_the_same() -> None:
    def titles(second: float) -> set[str]:
        values = (("aaaaaa111111", 0.6), ("bbbbbb222222", second))
        scores = [row(*UNTRAINED, value, run=made, settings=made) for made, value in values]
        return {one.arm.title for one in named(scores)[0]}

    assert titles(0.6) == {"untrained encoder"}
    assert titles(0.5) == {"untrained encoder, settings aaaaaa", "untrained encoder, settings bbbbbb"}


def test_the_seeds_of_the_quoted_comparison_count() -> None:
    for seeds in (1, 2):
        sentences = said(3, [pair(CHART, NONE, 0.1, 0.2, seeds=seeds)])
        about = next(one for one in sentences if "no chart in macro" in one)
        assert sentences[about] == "no claim"
        assert ("one encoder", "two encoders")[seeds - 1] in about
    # One run that was compared three times is one seed.
    thrice = [pair(CHART, NONE, low, 0.2, run_seed=0) for low in (0.1, 0.11, 0.12)]
    assert any(one.startswith("Seen in one encoder: sex is higher than no chart") for one in said(3, thrice))


def test_a_place_with_fewer_seeds_gets_no_claim() -> None:
    scores = [row(*arm, 0.7, seed) for arm in (CHART, NONE) for seed in range(3)]
    scores += [row(*arm, 0.7, 0, dataset="nih") for arm in (CHART, NONE)]
    pairs = [pair(CHART, NONE, 0.1, 0.2, seeds=3), pair(CHART, NONE, 0.1, 0.3, seeds=3, dataset="nih")]
    assert list(spoken(scores, pairs)) == [
        "sex is higher than no chart in macro AUROC: MIMIC-CXR +0.150 [+0.100, +0.200]. Seen in one encoder (seed 0): "
        "sex is higher than no chart in macro AUROC: NIH ChestX-ray14 +0.200 [+0.100, +0.300]; another seed may "
        "differ; no claim about the method."
    ]


def test_a_claim_names_where_the_pair_was_not_compared() -> None:
    scores = [
        row(*arm, 0.7, seed, dataset=name) for arm in (CHART, NONE) for seed in range(3) for name in ("mimic", "nih")
    ]
    assert list(spoken(scores, [pair(CHART, NONE, 0.1, 0.2, seeds=3)])) == [
        "sex is higher than no chart in macro AUROC: MIMIC-CXR +0.150 [+0.100, +0.200]. Not compared on NIH "
        "ChestX-ray14."
    ]


def test_a_baseline_that_fewer_seeds_were_set_against_is_said_so() -> None:
    pairs = [pair(CHART, UNTRAINED, 0.01, 0.03, seeds=3), pair(CHART, UNTRAINED, 0.02, 0.04, dataset="nih", run_seed=0)]
    sentence = next(one for one in said(4, pairs) if "untrained" in one and "(sex" in one)
    assert sentence == (
        "Pretraining (sex, 3 of 4 seeds) is higher than the untrained encoder in macro AUROC: MIMIC-CXR +0.020 "
        "[+0.010, +0.030]. Seen in one encoder: Pretraining (sex, 3 of 4 seeds) is higher than the untrained encoder "
        "in macro AUROC: NIH ChestX-ray14 +0.030 [+0.020, +0.040]; another seed may differ; no claim about the method."
    )
    every = [pair(CHART, UNTRAINED, 0.01, 0.03, run_seed=seed) for seed in range(3)]
    assert any(one.startswith("Pretraining (sex) is higher than the untrained encoder") for one in said(3, every))


def test_one_difference_gets_one_verdict_from_every_mouth() -> None:
    """p = .001 with one seed was `no claim` in compare, `a higher` in audit and `Shown (1 seed)` on the page."""
    for seeds, wanted in ((1, "no claim"), (3, "a higher")):
        assert verdict(0.02, 0.001, seeds) == wanted == verdict_of_interval(0.01, 0.03, seeds)
        one = pair(CHART, NONE, 0.01, 0.03, seeds=seeds, verdict=verdict(0.02, 0.001, seeds))
        assert outcome(one) == {"no claim": "no claim", "a higher": "better"}[wanted]
        assert outcome(one.reversed) == {"no claim": "no claim", "a higher": "worse"}[wanted]


CHART_ONLY, BOTH = ("sex", "chart-only"), ("sex", "image+chart")


def standings(seeds: int, pairs: list[Comparison], topic: str) -> list[tuple[str, str]]:
    return [(one.standing, one.sentence) for one in verdicts(*named(rows(seeds), pairs)) if one.topic == topic]


def test_shown_on_one_of_two_is_no_difference_between_data_sets() -> None:
    """Failed before: the page said "Differs by data set" without a test of interaction."""
    pairs = [pair(CHART, NONE, low, 0.06, seeds=3, dataset=name) for low, name in ((0.02, "mimic"), (-0.02, "nih"))]
    scores = [
        row(*arm, 0.7, seed, dataset=name) for arm in (CHART, NONE) for seed in range(3) for name in ("mimic", "nih")
    ]
    (said,) = [one for one in verdicts(*named(scores, pairs)) if one.topic == "chart"]
    assert (said.standing, said.outcome) == ("Shown on 1 of 2", "mixed")
    asked = pairs[0]
    shared = {name: getattr(asked, name) for name in ("arm_a", "arm_b", "a", "b", "home", "protocol", "split", "seeds")}
    tested = Interaction(
        **shared, label="macro", labels=("Edema",), metric="auroc", datasets=("mimic", "nih"), differences=(0.04, 0.02)
    ).replaced(p=0.01, p_holm=0.01)
    (said,) = [one for one in verdicts(*named(scores, pairs), [tested]) if one.topic == "chart"]
    assert said.standing == "Differs by data set"
    assert said.sentence.endswith(
        "Test of interaction between data sets, over the 1 label that all of them count: p = 0.010."
    )
    against = [pairs[0], pair(CHART, NONE, -0.06, -0.02, seeds=3, dataset="nih")]
    (said,) = [one for one in verdicts(*named(scores, against)) if one.topic == "chart"]
    assert said.standing == "Shown on 1, against on 1 of 2"


def test_the_radiologists_labels_are_no_further_data_set() -> None:
    pairs = [
        pair(CHART, UNTRAINED, low, 0.06, seeds=3, dataset=name)
        for low, name in ((0.02, "mimic"), (-0.02, "mimic:radiologists"))
    ]
    ((standing, sentence),) = standings(3, pairs, "untrained")[:1]
    assert standing == "Shown"
    assert "MIMIC-CXR (radiologists) +0.020 [-0.020, +0.060]" in sentence


def test_the_first_screen_says_what_image_and_chart_each_add() -> None:
    """Failed before: in the demo no sentence said that the image was not shown to beat sex and age."""
    on = arm_of(*BOTH, base=arm_of(*NONE))
    both = pair(NONE, BOTH, -0.05, -0.01, seeds=3).replaced(arm_b=on)
    pairs = [pair(NONE, CHART_ONLY, -0.02, 0.06, seeds=3, detectable=0.0613), both]
    assert standings(3, pairs, "image") == [
        (
            "No difference shown",
            "no chart against chart only (sex) in macro AUROC: no difference shown on MIMIC-CXR +0.020 [-0.020, "
            "+0.060] (80 % power for 0.061).",
        )
    ]
    assert standings(3, pairs, "both") == [
        ("Shown", f"{on.title} is higher than no chart in macro AUROC: MIMIC-CXR +0.030 [+0.010, +0.050].")
    ]


def test_the_declared_question_stands_first_and_the_others_claim_nothing() -> None:
    asked = pair(CHART, NONE, -0.01, 0.01, seeds=3, role="primary", margin=0.02, p_equivalence=0.01)
    late = "no claim: exploratory, not in the declared question"
    other = pair(CHART, SHUFFLED, 0.01, 0.05, seeds=3, role="exploratory", claim=late, verdict="no claim")
    said = verdicts(*named(rows(3), [other, asked]))
    assert [one.topic for one in said][:3] == ["declared", "chart", "untrained"]  # what is asked is not told twice
    assert said[0].standing == "No difference over 0.02"
    assert said[0].sentence.startswith("sex and no chart differ by no more than 0.02 in macro AUROC: MIMIC-CXR +0.000")
    small = pair(CHART, NONE, -0.015, -0.005, seeds=3, role="primary", margin=0.02, p_equivalence=0.01)
    (shown,) = [one for one in verdicts(*named(rows(3), [small])) if one.topic == "declared"]
    assert (shown.standing, shown.outcome) == ("Shown, against", "worse")  # small, and a difference all the same
    assert "-0.010 [-0.015, -0.005] (and shown to be no more than 0.02)" in shown.sentence
    (exploratory,) = [one for one in said if "shuffled" in one.sentence]
    assert (exploratory.standing, exploratory.outcome) == ("Exploratory", "no claim")
    assert (
        f"sex against sex, shuffled in macro AUROC: MIMIC-CXR +0.030 [+0.010, +0.050] ({late})" in exploratory.sentence
    )
    open_ = asked.replaced(p_equivalence=0.4, detectable=0.031, seeds_needed=7, patients_needed=900)
    (declared,) = [one for one in verdicts(*named(rows(3), [open_])) if one.topic == "declared"]
    assert "(80 % power for 0.031; a difference of 0.02 needs 7 seeds an arm, or 900 patients)" in declared.sentence
