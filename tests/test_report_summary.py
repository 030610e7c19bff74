"""Sentences: a claim only where the interval and the seeds carry it."""

import pytest

from chartray.report import inputs
from chartray.report.summary import chosen, five_lines, over_seeds, selection, verdicts


def row(chart: str, control: str, value: float | None, seed: int = 0, **more: object) -> dict[str, object]:
    base = {"run": f"{chart}-{control}-{seed}", "chart": chart, "control": control, "dataset": "mimic", "seed": 0}
    base |= {"run_seed": seed, "label": "macro", "metric": "auroc", "value": value, "ci_low": None, "ci_high": None}
    return base | {"protocol": "linear", "split": "test", "fraction": 1.0, "n": 100} | more


def pair(a: tuple[str, str], b: tuple[str, str], low: float, high: float, **more: object) -> dict[str, object]:
    names = {"chart_a": a[0], "control_a": a[1], "chart_b": b[0], "control_b": b[1], "dataset": "mimic"}
    numbers = {"difference": (low + high) / 2, "ci_low": low, "ci_high": high, "p": 0.5, "seeds": 1}
    return names | {"label": "macro", "metric": "auroc", "protocol": "linear", "fraction": 1.0} | numbers | more


CHART, NONE, SHUFFLED, UNTRAINED = ("sex", "none"), ("none", "none"), ("sex", "shuffled"), ("none", "untrained")


def rows(seeds: int) -> list[dict[str, object]]:
    found = [row(*arm, 0.7, seed) for arm in (CHART, NONE, SHUFFLED) for seed in range(seeds)]
    return [*found, row(*UNTRAINED, 0.6) | {"run": "sex-none-0"}]


def said(seeds: int, pairs: list[dict[str, object]]) -> dict[str, str]:
    found = verdicts(inputs.scores(rows(seeds)), [inputs.comparison(one) for one in pairs])
    return {one.sentence: one.outcome for one in found}


@pytest.mark.parametrize(
    ("low", "high", "words", "outcome"),
    [
        (0.01, 0.05, "sex beats no chart in macro AUROC: MIMIC-CXR +0.030 [+0.010, +0.050]", "better"),
        (-0.05, -0.01, "no chart beats sex in macro AUROC: MIMIC-CXR -0.030 [-0.050, -0.010]", "worse"),
        (-0.01, 0.05, "sex against no chart: no difference shown on MIMIC-CXR +0.020 [-0.010, +0.050]", "open"),
        (0.0, 0.05, "sex against no chart: no difference shown on MIMIC-CXR +0.025 [+0.000, +0.050]", "open"),
    ],
)
def test_three_seeds_and_an_interval_decide(low: float, high: float, words: str, outcome: str) -> None:
    assert said(3, [pair(CHART, NONE, low, high, seeds=3)])[f"{words}."] == outcome


def test_fewer_seeds_claim_nothing_however_wide_the_gap() -> None:
    for seeds in (1, 2):
        sentences = said(seeds, [pair(CHART, NONE, 0.2, 0.3, seeds=seeds)])
        about = next(sentence for sentence in sentences if "against no chart" in sentence)
        assert sentences[about] == "no claim"
        assert f"{seeds} seed" in about
        assert "beats" not in about


def test_a_pair_is_found_whichever_way_round_it_was_compared() -> None:
    forward = said(3, [pair(CHART, NONE, 0.01, 0.05, seeds=3)])
    backward = said(3, [pair(NONE, CHART, -0.05, -0.01, seeds=3)])
    assert forward == backward


def test_data_sets_that_disagree_are_both_named() -> None:
    pairs = [pair(CHART, UNTRAINED, 0.02, 0.06), pair(CHART, UNTRAINED, -0.02, 0.06, dataset="nih")]
    sentence = next(one for one in said(1, pairs) if "untrained" in one and "sex" in one)
    assert "beats the untrained encoder in macro AUROC: MIMIC-CXR +0.040" in sentence
    assert "no difference shown on NIH ChestX-ray14 +0.020 [-0.020, +0.060]" in sentence


def test_an_interval_that_is_missing_is_no_result() -> None:
    sentences = said(3, [pair(CHART, NONE, 0.1, 0.2, seeds=3) | {"ci_low": None, "ci_high": None}])
    assert sentences["sex against no chart: no interval on MIMIC-CXR +0.150."] == "unknown"
    assert said(3, [])["sex against no chart was not compared."] == "unknown"


def test_seeds_compared_one_by_one_keep_the_outermost_ends() -> None:
    pairs = [inputs.comparison(pair(CHART, NONE, low, low + 0.04)) for low in (0.01, -0.01, 0.03)]
    together = over_seeds(pairs)
    assert (together.low, together.high, together.seeds) == (-0.01, 0.07, 3)
    assert together.difference == pytest.approx(0.03)
    hierarchical = inputs.comparison(pair(CHART, NONE, 0.0, 0.1, seeds=3))
    assert over_seeds([*pairs, hierarchical]) == hierarchical


def test_a_floor_beside_several_runs_is_one_measurement() -> None:
    beside = [row(*UNTRAINED, 0.6) | {"run": run} for run in ("sex-none-0", "none-none-0")]
    scores = inputs.scores([*rows(1), *beside])
    kept = [one for one in chosen(scores, selection(scores)) if one.arm.control == "untrained"]
    assert len(kept) == 1


def test_the_ceiling_is_image_and_chart_on_the_encoder_without_one() -> None:
    both = [row("sex", "image+chart", 0.8) | {"run": run} for run in ("sex-none-0", "none-none-0")]
    scores = inputs.scores([*rows(1), *both])
    titles = {one.arm.title for one in chosen(scores, selection(scores))}
    assert "image + chart" in titles
    assert "image + chart on sex" not in titles


def test_the_linear_probe_on_the_test_split_with_all_labels_speaks() -> None:
    others = [row(*CHART, 0.9, protocol="knn"), row(*CHART, 0.9, split="validate"), row(*CHART, 0.9, fraction=0.1)]
    scores = inputs.scores([*others, *rows(1)])
    assert selection(scores) == ("linear", "test", 1.0)
    assert all(one.value != 0.9 for one in chosen(scores, selection(scores)))


def test_five_lines_say_who_what_and_how_surely() -> None:
    lines = five_lines(rows(1), [pair(CHART, UNTRAINED, 0.04, 0.10), pair(CHART, NONE, -0.02, 0.03)])
    assert len(lines) == 5
    assert lines[0].startswith(
        "3 pretraining runs (sex, no chart, sex, shuffled), linear probe, test films of MIMIC-CXR"
    )
    assert "sex 0.700" in lines[1]
    assert lines[2].startswith("Pretraining (sex) beats the untrained encoder in macro AUROC: MIMIC-CXR +0.070")
    assert lines[3] == (
        "No claim about the chart, sex against no chart: 1 seed, 3 needed; seen: MIMIC-CXR +0.005 [-0.020, +0.030]."
    )
    assert "sex, shuffled" in lines[4]


def test_five_lines_of_next_to_nothing_are_still_five() -> None:
    lines = five_lines([row("none", "none", None)], [])
    assert len(lines) == 5
    assert all(line.endswith(".") for line in lines)


def test_pixels_that_pretraining_does_not_beat_are_named() -> None:
    pixels = ("none", "pixels")
    assert not any("pixels" in one for one in said(1, [pair(CHART, pixels, 0.01, 0.05)]))
    sentences = said(1, [pair(CHART, pixels, -0.08, -0.02), pair(CHART, UNTRAINED, 0.01, 0.02)])
    words = "Pretraining (sex) falls short of plain pixels in macro AUROC: MIMIC-CXR -0.050 [-0.080, -0.020]."
    assert sentences[words] == "worse"
    lines = five_lines(rows(1), [pair(CHART, pixels, -0.08, -0.02), pair(CHART, NONE, -0.02, 0.03)])
    assert "No claim about the chart" in lines[3]
