"""Figures and maps: curves, projections, colours and images against plain definitions."""

import base64
import io
import itertools
import json
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from chartray.report import curve_data, embedding_map, figures, plots
from chartray.report.cohorts import without_identifiers
from chartray.results.arm import Arm
from chartray.schema import hashed
from chartray.statistics.metrics import auroc


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=60))
def test_the_area_under_a_roc_curve_is_the_auroc(images: list[tuple[bool, int]]) -> None:
    truth = np.array([float(one) for one, _ in images])
    score = np.array([float(value) for _, value in images])
    assume(truth.min() < truth.max())
    false, true = curve_data.roc(truth, score)
    assert np.trapezoid(true, false) == pytest.approx(auroc(truth[:, None], score[:, None])[0], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=60))
def test_the_area_under_the_steps_of_precision_is_the_average_precision(images: list[tuple[bool, int]]) -> None:
    truth = np.array([float(one) for one, _ in images])
    score = np.array([float(value) for _, value in images])
    assume(truth.min() < truth.max())
    recall, precision = curve_data.precision_recall(truth, score)
    area = float(np.sum(np.diff(recall) * precision[1:]))
    assert area == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    assert (np.diff(recall) >= 0).all()


def test_neighbours_on_the_map_are_neighbours_of_the_embedding() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 20)
    embeddings = rng.normal(size=(60, 8)) + 12 * np.eye(3, 8)[group]
    found = embedding_map.neighbourhoods(embeddings)
    assert found is not None
    gaps = np.linalg.norm(found[:, None] - found[None], axis=2) + np.diag(np.full(60, np.inf))
    assert (group[gaps.argmin(axis=1)] == group).all()
    np.testing.assert_array_equal(found, embedding_map.neighbourhoods(embeddings))
    assert embedding_map.neighbourhoods(embeddings[:8]) is None


def test_seeds_of_an_arm_are_one_mark_with_the_outermost_ends() -> None:
    marks = [plots.Mark(Arm("sex"), value, value - 0.1, value + 0.1) for value in (0.5, 0.7, 0.6)]
    one = plots.together(marks)
    assert (one.value, one.low, one.high) == pytest.approx((0.6, 0.4, 0.8))
    assert one.seeds == (0.5, 0.7, 0.6)
    assert one.outermost
    assert plots.together(marks[:1]) == marks[0]
    assert np.isnan(plots.together([*marks, marks[0]._replace(low=np.nan)]).low)


# Machado, Oliveira and Fernandes 2009: full dichromacy, for linear RGB.
DICHROMACY = {
    "normal": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def lab(colour: str, seen_as: np.ndarray) -> np.ndarray:
    """CIELAB of an sRGB colour under D65."""
    value = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(seen_as) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", DICHROMACY)
def test_the_arms_of_a_study_are_told_apart_without_red_or_green(theme: str, eyes: str) -> None:
    arms = [Arm("sex"), Arm("none"), Arm("sex", "shuffled"), Arm("sex", "constant"), Arm("none", "untrained")]
    arms += [Arm("none", "pixels"), Arm("sex", "chart-only"), Arm("sex", "image+chart")]
    sheet = resources.files("chartray.report").joinpath("style.css").read_text()
    dark = dict(re.findall(r"--c([0-9a-f]{6}): (#[0-9a-f]{6})", sheet))
    colours = [style.colour for style in figures.arm_styles(arms).values()]
    colours = [dark[one[1:]] if theme == "dark" else one for one in colours]
    seen = [lab(one, np.asarray(DICHROMACY[eyes])) for one in colours]
    # A difference of 10 is seen at a glance; 2.3 is just noticeable.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 12


def test_unknown_truth_is_left_out_of_a_curve() -> None:
    truth, score = np.array([0.0, np.nan, 1.0]), np.array([0.1, 0.9, 0.2])
    assert curve_data.roc(truth, score)[1].tolist() == curve_data.roc(truth[[0, 2]], score[[0, 2]])[1].tolist()


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (5, 1), (2, 3)])
def test_the_map_is_the_first_two_principal_components(shape: tuple[int, int]) -> None:
    embeddings = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    found = embedding_map.principal_components(embeddings)
    theirs = PCA(n_components=min(2, *shape)).fit(embeddings)
    count = theirs.n_components_
    np.testing.assert_allclose(
        np.abs(found.points[:, :count]), np.abs(theirs.transform(embeddings)), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(found.shares[:count], theirs.explained_variance_ratio_, atol=1e-9)
    assert np.isfinite(found.points).all()


def test_constant_embeddings_are_one_point() -> None:
    found = embedding_map.principal_components(np.full((5, 3), 2.0))
    assert not found.points.any()
    assert found.shares == (0.0, 0.0)


def test_thumbnails_have_the_true_proportions_of_the_image() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64)).astype(np.uint8)
    for uri, (height, width) in zip(
        embedding_map.thumbnails(images, [3056, 2000], [2544, 4000]), ((3056, 2544), (2000, 4000)), strict=True
    ):
        with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as film:
            assert max(film.size) == embedding_map.THUMBNAIL_SIDE
            assert film.size[0] / film.size[1] == pytest.approx(width / height, rel=0.02)
            assert film.mode == "L"


def test_hashed_names_are_distinct_steady_and_cannot_be_tried_out() -> None:
    names = [f"p{number:08d}" for number in range(500)]
    first = hashed(names)
    assert len(set(first)) == 500
    assert first == hashed(names)
    # The name of one image depends on the whole cohort, so guessing one identifier proves nothing.
    assert hashed(names[:-1])[0] != first[0]
    assert hashed(names[:1])[0] != first[0]


def test_missing_is_a_colour_of_its_own_and_never_a_value() -> None:
    ages = embedding_map.numeric_colouring("age", [30.0, None, 80.0, float("nan"), 55.0], "years")
    assert ages.words[1] == ages.words[3] == "not observed"
    assert "not observed" not in {ages.words[place] for place in (0, 2, 4)}
    sex = embedding_map.category_colouring("sex", ["male", None, "female"])
    assert len({*sex.colours}) == 3
    icu = embedding_map.category_colouring("icu", [True, False, None])
    assert icu.words == ["true", "false", "not observed"]
    edema = embedding_map.truth_colouring("Edema", [1.0, 0.0, -1.0, None])
    assert edema.words == ["present", "absent", "uncertain", "not mentioned"]
    assert len(set(edema.colours)) == 4


def test_every_bin_of_a_number_holds_its_values() -> None:
    values = [float(one) for one in np.random.default_rng(1).normal(60, 15, 200).round()]
    ages = embedding_map.numeric_colouring("age", values)
    for value, word in zip(values, ages.words, strict=True):
        low, high = -np.inf, np.inf
        numbers = [float(one) for one in re.findall(r"-?[\d.]+", word)]
        if word.startswith("under"):
            high = numbers[0]
        elif word.endswith("and over"):
            low = numbers[0]
        else:
            low, high = numbers
        assert low <= value < high


def test_one_value_for_all_is_one_bin() -> None:
    assert len(set(embedding_map.numeric_colouring("age", [50.0, 50.0, 50.0]).words)) == 1
    assert set(embedding_map.numeric_colouring("age", [None, None]).words) == {"not observed"}


def test_an_island_cannot_end_its_script() -> None:
    text = embedding_map.json_island({"caption": "</script><!--", "x": np.array([1.5])})
    assert "</script" not in text
    assert "<!--" not in text
    assert json.loads(text) == {"caption": "</script><!--", "x": [1.5]}


def test_every_arm_has_its_own_style() -> None:
    arms = [Arm("sex"), Arm("age-norm"), Arm("none"), Arm("sex", "shuffled"), Arm("sex", "constant")]
    arms += [Arm("none", "untrained"), Arm("none", "pixels"), Arm("sex", "chart-only"), Arm("sex", "image+chart")]
    arms += [Arm("none", objective="dino"), Arm("none", objective="mae"), Arm("none", settings="a", note="settings a")]
    styles = figures.arm_styles(arms)
    assert len(set(styles.values())) == len(arms)
    assert next(iter(styles)).kind == "chart"


def test_a_panel_becomes_part_of_the_page() -> None:
    styles = figures.arm_styles([Arm("none")])
    steps = np.arange(5.0)
    panel = plots.training_panel("Loss & <more>", [plots.Series(Arm("none"), steps, steps)], styles, "nats")
    first, second = (figures.single(panel, name) for name in ("one", "two"))
    assert first.startswith(
        '<svg class="plot" role="img" aria-label="Loss &amp; &lt;more> over optimizer steps: no chart ends at 4"'
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert not ids[0] & ids[1]
    assert "DejaVu" not in first
    # No colour is fixed: each is a variable of the page with its light value to fall back on.
    assert re.findall(r"(?<!, )#[0-9a-f]{6}\b(?!\))", first) == []
    assert "var(--cd55e00, #d55e00)" in first


def test_a_thin_line_keeps_its_ends() -> None:
    x = np.arange(10_000.0)
    thin, _ = plots.thinned(x, x, 50)
    assert thin.size <= 50
    assert (thin[0], thin[-1]) == (0.0, 9999.0)
    assert plots.thinned(x[:0], x[:0])[0].size == 0


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        (
            "broken file: image file is truncated (1 bytes not processed)",
            "broken file: image file is truncated (1 bytes not processed)",
        ),
        ("no such file: /data/p13/p13534943/s52905070/b941e6ce.jpg", "no such file: …"),
        ("cannot identify 'C:\\films\\Jane Doe.dcm'", "cannot identify …"),
        ("unsupported film p13534943", "unsupported film …"),
    ],
)
def test_a_reason_keeps_its_words_and_loses_its_names(reason: str, left: str) -> None:
    assert without_identifiers(reason) == left


@pytest.mark.parametrize(
    "name",
    [
        "demographic-norm, shuffled − chart only (demographic-norm) (2 seeds)",
        "sex,age,view,smoker,triage,icu,crp,leuko,sodium,potassium,creatinine,ward − chart only (sex)",
    ],
)
def test_no_name_in_a_forest_runs_out_of_it(name: str) -> None:
    arm = Arm("demographic-norm", "shuffled")
    one = plots.Mark(arm, 0.1, 0.0, 0.2)
    rows = [(name, [one]), ("short", [one]), ("", [one])]
    panel = plots.forest_panel("Differences", rows, figures.arm_styles([arm]), axis="difference")
    figure = Figure(figsize=(panel.width, panel.height))
    axes = figure.add_axes((panel.left / panel.width, 0.2, 1 - (panel.left + 0.15) / panel.width, 0.75))
    panel.draw(axes)
    edge = axes.get_window_extent().x1
    boxes = {text.get_text(): text.get_window_extent(FigureCanvasAgg(figure).get_renderer()) for text in axes.texts}
    assert "".join(boxes).replace(" ", "").startswith(name.replace(" ", ""))
    assert max(box.x1 for box in boxes.values()) < edge
    found = sorted(boxes.values(), key=lambda box: -box.y0)
    assert all(below.y1 <= above.y0 + 2 for above, below in itertools.pairwise(found))


def test_a_figure_that_finds_no_room_says_so_as_any_file_does(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").symlink_to("/dev/full")
    panel = figures.Panel("A panel", "A line.", lambda axes: axes.plot([0, 1], [0, 1]))
    with pytest.raises(OSError, match="No space left"):
        figures.save_grid([panel], {}, tmp_path / "x", columns=1)
