"""The planted effect: what the image shows of the chart, and what an oracle without any network gains by it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chartray.errors import InputError
from chartray.simulate import labels, mimic_layout, other_layouts, radiograph
from chartray.simulate.hospital import simulate
from chartray.simulate.planted import AGE_CUE, CHART_PART, FINDING, LABEL, MARKER, NOISE, SEX_CUE, of_chart
from chartray.simulate.population import LATENTS, Columns
from tests.test_simulate_layouts import digest


def people(strength: float | None, *, patients: int = 9000, seed: int = 3) -> Columns:
    return other_layouts.draw_nih(patients, seed, chart_effect=0.0, planted_effect=strength, size=64).latents


def probe(features: NDArray, truth: NDArray) -> float:
    """AUROC of a linear probe that is fitted on the first two thirds and scored on the rest."""
    cut = 2 * len(truth) // 3
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(features[:cut], truth[:cut])
    return float(roc_auc_score(truth[cut:], model.decision_function(features[cut:])))


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0, 3.0])
def test_an_oracle_gains_by_the_cue_as_much_as_was_planted_and_nothing_at_0(strength: float) -> None:
    drawn = people(strength)
    marker, chart_part, truth = drawn[MARKER], of_chart(drawn), drawn[FINDING] > 0
    alone = probe(marker[:, None], truth)
    both = probe(np.stack([marker, chart_part], axis=1), truth)
    # The chart alone, exact, tells nothing at any strength. 4,000 studies: the standard error of 0.5 is 0.009.
    chart = np.stack([drawn["age"], drawn["male"], drawn["portable"]], axis=1)
    assert probe(chart, truth) == pytest.approx(0.5, abs=0.03)
    # Two normal distributions that are 1 apart.
    spread = np.hypot(CHART_PART * strength, NOISE)
    assert alone == pytest.approx(norm.cdf(1 / np.sqrt(2) / spread), abs=0.02)
    assert both == pytest.approx(norm.cdf(1 / np.sqrt(2) / NOISE), abs=0.01)
    if strength == 0.0:
        assert abs(both - alone) < 0.001
    else:
        assert both - alone > 0.05 * strength


def test_a_linear_probe_of_pixels_lies_between_chance_and_the_oracle() -> None:
    hospital = other_layouts.draw_nih(640, 5, chart_effect=0.0, planted_effect=3.0, size=64)
    truth = hospital.latents[FINDING] > 0
    grey = np.stack([_small(radiograph.draw(image)) for image in hospital.images])
    pixels = probe(grey.reshape(len(grey), -1), truth)
    chart = of_chart(hospital.latents)[:, None]
    with_chart = probe(np.hstack([grey.reshape(len(grey), -1), 8 * chart]), truth)
    oracle = probe(np.hstack([hospital.latents[MARKER][:, None], chart]), truth)
    assert 0.55 < pixels < with_chart < oracle


def _small(pixels: NDArray) -> NDArray:
    return np.asarray(Image.fromarray(pixels).resize((12, 12), Image.Resampling.BOX), dtype=np.float64)


def test_the_finding_depends_on_nobody_and_is_the_label_of_every_layout() -> None:
    drawn = people(2.0)
    truth = drawn[FINDING]
    assert truth.mean() == pytest.approx(0.5, abs=0.02)
    for name in LATENTS:
        if name != FINDING and np.std(drawn[name]) > 0:
            # 11,000 studies, a quarter of them of a patient seen before: 36 correlations, each with an error of 0.01.
            assert abs(np.corrcoef(drawn[name], truth)[0, 1]) < 0.04, name
    assert np.array_equal(labels.truth(LABEL, drawn), truth > 0)
    said = [LABEL in each.split("|") for each in labels.nih(drawn, np.random.default_rng(0))]
    assert np.mean(np.asarray(said) == (truth > 0)) > 0.95


def test_strengths_differ_in_the_marker_alone_and_planting_in_the_finding_alone() -> None:
    none, zero, three = (people(strength, patients=200) for strength in (None, 0.0, 3.0))
    assert [name for name in zero if not np.array_equal(zero[name], three[name])] == [MARKER]
    assert [name for name in none if not np.array_equal(none[name], zero[name])] == [FINDING]
    assert np.allclose(three[MARKER] - zero[MARKER], 3 * CHART_PART * of_chart(zero))
    assert of_chart(three).mean() == pytest.approx(0, abs=0.2)
    mimic = mimic_layout.draw(200, 3, planted_effect=3.0, size=64).course.latents
    assert of_chart(mimic).std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL"])
def test_the_image_shows_sex_and_age_in_the_cue_alone(view: str) -> None:
    hospital = other_layouts.draw_nih(8, 1, planted_effect=3.0, size=128)
    image = hospital.images[0]._replace(view=view)

    def drawn(**changed: float) -> NDArray:
        return radiograph.draw(image._replace(values={**image.values, **changed})).astype(np.int16)

    one = {name: float(population) for name, population in image.values.items()}
    # As the same patient would be drawn with another sex, age and anatomy that follows from both.
    other = {**one, "male": 1 - one["male"], "age": one["age"] + 2.0}
    for cause, shift in (("male", 1 - 2 * one["male"]), ("age", 2.0)):
        for name in ("bone_density", "aorta", "heart_ratio", "thorax_width", "breast", "kyphosis"):
            other[name] += shift * _strength(cause, name)
    same = drawn()
    assert np.abs(drawn(**other) - same).max() <= 1  # to rounding
    assert np.array_equal(drawn(**{FINDING: 1.0}), drawn(**{FINDING: 0.0})), "the finding is in the marker alone"
    changed = [np.abs(drawn(**{name: high}) - drawn(**{name: low})) > 5 for name, low, high in RANGES]
    for name, where in zip((AGE_CUE, SEX_CUE), changed[1:], strict=True):
        assert 0.005 < where.mean() < 0.2, name
        assert (where & changed[0]).mean() < 0.4 * where.mean(), "most of a cue is outside the lungs"
    assert changed[0].mean() > 0.15


RANGES = ((MARKER, -1.0, 1.0), (AGE_CUE, -2.0, 2.0), (SEX_CUE, -1.0, 1.0))


def _strength(cause: str, effect: str) -> float:
    from chartray.simulate.population import DEPENDENCIES

    return sum(strength for of, on, strength in DEPENDENCIES if (of, on) == (cause, effect))


def test_a_data_set_is_the_same_whichever_others_are_written(tmp_path: Path) -> None:
    for name, data_sets in (("all", ("mimic", "chexpert", "nih")), ("one", ("nih",)), ("two", ("chexpert", "mimic"))):
        simulate(tmp_path / name, patients=8, size=64, planted_effect=1.0, data_sets=data_sets, workers=1)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["nih"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["chexpert", "mimic-cxr-jpg", "mimic-iv"]
    for name in ("one", "two"):
        for folder in (tmp_path / name).iterdir():
            assert digest(folder) == digest(tmp_path / "all" / folder.name)


def test_what_cannot_be_planted_is_refused(tmp_path: Path) -> None:
    for strength in (-0.1, 3.5, float("nan")):
        with pytest.raises(InputError, match=r"expected --planted-effect from 0 to 3, found "):
            simulate(tmp_path / "a", planted_effect=strength)
    with pytest.raises(InputError, match=r"expected --data-sets of mimic, chexpert, nih, found 'nhi' \(did you mean"):
        simulate(tmp_path / "a", data_sets=("nhi",))
    with pytest.raises(InputError, match=r"expected --data-sets of mimic, chexpert, nih, found none"):
        simulate(tmp_path / "a", data_sets=())
    assert not (tmp_path / "a").exists()
