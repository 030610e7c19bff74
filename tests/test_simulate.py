"""The simulated hospital: its population, its labels, its images, and how hard they are."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from chartray.schema import CHEXPERT_LABELS, NIH_LABELS
from chartray.simulate import labels, mimic_layout, population, radiograph
from chartray.simulate.population import DEPENDENCIES, LATENTS, OF_PATIENT, PRESENT_FROM, Columns
from chartray.simulate.radiograph import Radiograph

CHART, FINDINGS = (
    tuple(name for name, latent in LATENTS.items() if latent.group == group) for group in ("chart", "finding")
)


def people(count: int, *, chart_effect: float = 1.0, seed: int = 0) -> Columns:
    rng = np.random.default_rng(seed)
    person = population.draw(OF_PATIENT, {}, count, rng, chart_effect=chart_effect)
    person = population.illness(person, count, rng, chart_effect=chart_effect)
    return population.draw(tuple(LATENTS), person, count, rng, chart_effect=chart_effect)


def healthy(seed: int = 0, **changed: float) -> dict[str, float]:
    values = {name: float(column[0]) for name, column in people(1, seed=seed).items()}
    return {**values, **dict.fromkeys(FINDINGS, 0.0), **changed}


def drawn(values: dict[str, float], view: str = "PA", *, key: int = 0, size: int = 192, look: str = "mimic") -> NDArray:
    return radiograph.draw(Radiograph("film.jpg", view, False, look, size, values, (0, 1, key), (0, 1, key, 0)))


def test_causes_stand_above_their_effects_and_every_name_is_known() -> None:
    order = list(LATENTS)
    for cause, effect, strength in DEPENDENCIES:
        assert order.index(cause) < order.index(effect), (cause, effect)
        assert strength != 0
    assert len({(cause, effect) for cause, effect, _ in DEPENDENCIES}) == len(DEPENDENCIES)
    assert {effect for _, effect, _ in DEPENDENCIES} >= set(FINDINGS)
    for label in (*CHEXPERT_LABELS, *NIH_LABELS):
        assert label == "No Finding" or set(labels.SOURCES[label]) <= set(FINDINGS)


def test_findings_follow_the_chart_and_with_chart_effect_0_they_do_not() -> None:
    def auroc(chart_effect: float) -> dict[str, float]:
        drawn = people(12_000, chart_effect=chart_effect)
        chart = np.stack([drawn[name] for name in (*CHART, "portable", "recumbent")], axis=1)
        half = len(chart) // 2
        scores = {}
        for name in FINDINGS:
            truth = drawn[name] >= PRESENT_FROM
            model = LogisticRegression(max_iter=500).fit(chart[:half], truth[:half])
            scores[name] = roc_auc_score(truth[half:], model.decision_function(chart[half:]))
        return scores

    with_chart, without = auroc(1.0), auroc(0.0)
    # 6,000 people and at least 150 of them ill: the standard error of an AUROC of 0.5 is at most 0.024.
    assert max(abs(value - 0.5) for value in without.values()) < 0.09
    assert abs(float(np.mean(list(without.values()))) - 0.5) < 0.015
    assert np.mean(list(with_chart.values())) > 0.60
    assert with_chart["devices"] > 0.70


@pytest.mark.parametrize(
    ("cause", "effect", "sign"),
    [
        ("age", "cardiomegaly", 1),
        ("age", "pneumothorax", -1),
        ("male", "hernia", -1),
        ("icu", "devices", 1),
        ("icu", "portable", 1),
        ("severity", "edema", 1),
        ("died", "effusion", 1),
        ("cardiomegaly", "edema", 1),
        ("effusion", "atelectasis", 1),
        ("age", "bone_density", -1),
    ],
)
def test_associations_have_their_clinical_direction(cause: str, effect: str, sign: int) -> None:
    world = people(20_000, seed=1)
    assert sign * np.corrcoef(world[cause], world[effect])[0, 1] > 0.02


def test_the_labeller_follows_the_image_with_some_noise() -> None:
    world = people(8000)
    written = labels.labeller(world, np.random.default_rng(0))
    assert tuple(written) == CHEXPERT_LABELS
    for label, column in written.items():
        present = labels.truth(label, world)
        if label == "No Finding":
            assert np.all(np.isnan(column) | (column == 1.0))
            assert present[column == 1.0].mean() > 0.85
            continue
        assert set(np.unique(column[~np.isnan(column)])) == {0.0, 1.0, -1.0}
        assert np.mean(column[present] == 1.0) == pytest.approx(1 - labels.MISSED - labels.UNCERTAIN, abs=0.06)
        assert 0 < np.mean(column[~present] == 1.0) < 0.03
        assert np.mean(np.isnan(column[~present])) > 0.3
    clear = written["No Finding"] == 1.0
    others = [written[label][clear] for label in CHEXPERT_LABELS if label not in ("No Finding", "Support Devices")]
    assert not np.any(np.isin(others, (1.0, -1.0)))


@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL", "LL"])
def test_an_image_is_an_image(view: str) -> None:
    first = drawn(healthy(), view)
    assert first.dtype == np.uint8
    assert max(first.shape) == 192
    assert (
        radiograph.shape(Radiograph("", view, False, "mimic", 192, healthy(), (0, 1, 0), (0, 1, 0, 0))) == first.shape
    )
    assert np.array_equal(first, drawn(healthy(), view))
    assert not np.array_equal(first, drawn(healthy(), view, key=1))
    # Dark is air: lungs in the upper middle of the image are darker than the belly under them.
    images = [drawn(healthy(seed), view, key=seed) for seed in range(8)]
    lungs = np.median([np.percentile(f[int(0.25 * len(f)) : int(0.6 * len(f))], 15) for f in images])
    belly = np.median([np.median(f[int(0.85 * len(f)) :, f.shape[1] // 3 : 2 * f.shape[1] // 3]) for f in images])
    assert lungs < belly - 30


@pytest.mark.parametrize("view", ["PA", "LATERAL"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_is_seen_at_64_pixels_and_grows_with_its_severity(finding: str, view: str) -> None:
    def at(severity: float) -> NDArray:
        values = healthy(3, **{finding: severity})
        pixels = Image.fromarray(drawn(values, view, key=5, size=256)).resize((64, 64), Image.Resampling.BOX)
        return np.asarray(pixels, dtype=np.float64)

    none, faint, severe = at(0.0), at(0.45), at(1.0)
    changed = np.sort(np.abs(severe - none), axis=None)[-40:].mean()
    assert changed > 6.0, f"{finding} is hardly seen: {changed:.1f} grey levels in the 40 pixels that change most"
    assert np.abs(severe - none).mean() > 1.1 * np.abs(faint - none).mean()


def test_findings_lie_where_they_should() -> None:
    def mean_film(**changed: float) -> NDArray:
        images = []
        for key in range(10):
            f = drawn(healthy(key, underexposure=0.0, **changed), key=key, size=128)
            images.append(np.asarray(Image.fromarray(f).resize((96, 96), Image.Resampling.BOX), dtype=np.float64))
        return np.mean(images, axis=0)

    normal = mean_film()
    effusion, air = mean_film(effusion=0.9) - normal, mean_film(pneumothorax=1.0) - normal
    assert effusion[50:66].mean() > effusion[15:30].mean() + 5, "water collects at the bases"
    assert effusion[45:66, :30].mean() + effusion[45:66, -30:].mean() > 10, "towards the chest wall"
    assert air[25:55, 10:35].mean() + air[25:55, -35:-10].mean() < 0, "air in the pleura is dark"


def test_anatomy_follows_age_and_sex() -> None:
    def spread(**changed: float) -> float:
        images = [drawn(healthy(7, **changed), key=key, size=256).astype(np.float64) for key in range(6)]
        rows = [np.abs(np.diff(f[int(0.3 * len(f)) : int(0.6 * len(f)), 60:-60], axis=0)).mean() for f in images]
        return float(np.mean(rows))

    assert spread(bone_density=1.3) > 1.02 * spread(bone_density=0.6), "ribs of the old are fainter"
    woman, man = (drawn(healthy(7, breast=b), key=2, size=128).astype(np.float64) for b in (1.1, 0.0))
    assert np.abs(woman - man).mean() > 1.0


def test_pixels_are_hard_and_the_drawn_severities_are_easy() -> None:
    """The difficulty is honest: a linear probe on pixels under 0.75 macro AUROC, the latents over 0.9."""
    hospital = mimic_layout.draw(420, 11, size=96)
    study = np.array(hospital.study_of_image)
    rows = np.array([s.row for s in hospital.course.studies])
    severities = {name: column[rows] for name, column in hospital.course.latents.items()}
    written = labels.labeller(severities, np.random.default_rng(0))
    pixels = np.stack(
        [
            np.asarray(Image.fromarray(radiograph.draw(f)).resize((32, 32), Image.Resampling.BOX)).ravel() / 255.0
            for f in hospital.images
        ]
    )
    latent = np.stack([severities[name] for name in FINDINGS], axis=1)[study]
    patient = np.array([s.patient for s in hospital.course.studies])[study]
    held_out = patient % 5 < 2
    macro = {}
    for name, inputs, strength in (("pixels", pixels, 1e-3), ("latents", latent, 1.0)):
        scaled = StandardScaler().fit_transform(inputs)
        scores = []
        for label in CHEXPERT_LABELS:
            truth = np.nan_to_num(written[label][study], nan=0.0)
            fit, test = (truth >= 0) & ~held_out, (truth >= 0) & held_out
            model = LogisticRegression(C=strength, max_iter=300).fit(scaled[fit], truth[fit])
            scores.append(roc_auc_score(truth[test], model.decision_function(scaled[test])))
        macro[name] = float(np.mean(scores))
    assert macro["pixels"] < 0.75
    assert macro["pixels"] > 0.55, "films that show nothing of the findings would be no honest difficulty either"
    assert macro["latents"] > 0.90
