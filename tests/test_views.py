"""Views: banded matrix products against the whole ones and torch, proportions, and randomness without state."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from chartray.config.pretrain import ViewsConfig
from chartray.pixels import resampling, views
from chartray.pixels.resampling import Boxes, Grey
from chartray.randomness import permutation, uniform


def boxes(left: float, top: float, width: float, height: float, flip: bool = False) -> Boxes:
    return Boxes(*(np.array([v], float) for v in (left, top, width, height)), flip=np.array([flip]))


def films(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def plain_crops(images: torch.Tensor, of: np.ndarray, box: Boxes, size: int) -> torch.Tensor:
    """The same by the whole matrices, in float64."""
    source = images.shape[-1]
    rows, columns = (
        resampling.resize_weights(torch.from_numpy(start), torch.from_numpy(length), source, size).double()
        for start, length in ((box.top, box.height), (box.left, box.width))
    )
    columns = torch.where(torch.from_numpy(box.flip)[:, None, None], columns.flip(1), columns)
    return (rows @ (images[of].double() / 255) @ columns.transpose(1, 2))[:, None]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(0, 60), st.integers(0, 60), st.integers(8, 60), st.integers(8, 60), st.integers(5, 96), st.booleans()
)
def test_integer_boxes_equal_torchs_antialiased_crop_resize(left, top, width, height, size, flip) -> None:
    image = films(1, 128, seed=left + 61 * top)
    ours = resampling.crop_resize(image, np.array([0]), boxes(left, top, width, height, flip), size)
    crop = image[:, None, top : top + height, left : left + width].double() / 255
    # In float64: torch's own weights are rounded too.
    theirs = torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)
    theirs = theirs.flip(3) if flip else theirs
    # docs/design.md promises 0.001 of 255 grey levels.
    assert (ours - theirs).abs().max() * 255 < 1e-3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([17, 40, 100, 129, 256, 448]), st.sampled_from([7, 16, 33, 96, 224]))
def test_bands_equal_the_whole_matrices_wherever_the_boxes_lie(seed: int, side: int, size: int) -> None:
    random = np.random.default_rng(seed)
    width, height = random.uniform(0.02, 1, (2, 9)) * side
    box = Boxes(
        left=random.uniform(0, side - width),
        top=random.uniform(0, side - height),
        width=width,
        height=height,
        flip=random.random(9) < 0.5,
    )
    images, of = films(4, side, seed), random.integers(0, 4, 9)
    ours = resampling.crop_resize(images, of, box, size)
    assert ours.shape == (9, 1, size, size)
    assert (ours - plain_crops(images, of, box, size)).abs().max() * 255 < 1e-3


def test_a_store_may_be_so_large_that_one_crop_is_more_than_is_cut_at_once() -> None:
    whole = Boxes(
        np.zeros(2), np.zeros(2), np.array([2048.0, 1500.0]), np.array([2048.0, 1900.0]), np.array([False, True])
    )
    images, of = films(1, 2048), np.array([0, 0])
    ours = resampling.crop_resize(images, of, whole, 224)
    assert (ours - plain_crops(images, of, whole, 224)).abs().max() * 255 < 1e-3


def test_a_crop_is_the_same_bytes_whatever_is_cut_beside_it() -> None:
    random = np.random.default_rng(0)
    width, height = random.uniform(0.05, 1, (2, 40)) * 200
    box = Boxes(random.uniform(0, 200 - width), random.uniform(0, 200 - height), width, height, random.random(40) < 0.5)
    images, of = films(5, 200), random.integers(0, 5, 40)
    together = resampling.crop_resize(images, of, box, 64)
    for chosen in (np.array([3]), np.array([39, 7, 0]), np.arange(1, 40, 2)):
        alone = resampling.crop_resize(images, of[chosen], Boxes(*(side[chosen] for side in box)), 64)
        assert torch.equal(alone, together[chosen])


@pytest.mark.parametrize("grey", [Grey(0.37, 0.21), Grey(0.9, 0.05)])
def test_crops_are_standardised_as_they_are_cut(grey: Grey) -> None:
    """Against the whole matrices, then mean and deviation: 0.001 of 255 levels of grey, before these are stretched."""
    random = np.random.default_rng(1)
    width, height = random.uniform(0.1, 1, (2, 12)) * 90
    box = Boxes(random.uniform(0, 90 - width), random.uniform(0, 90 - height), width, height, random.random(12) < 0.5)
    images, of = films(3, 90), random.integers(0, 3, 12)
    ours = resampling.cut_turned(resampling.turned(images), of, box, 48, grey)
    plain = (plain_crops(images, of, box, 48) - grey.mean) / grey.std
    assert (ours - plain).abs().max() * 255 * grey.std < 1e-3


def test_bands_multiply_less_than_a_quarter_of_the_whole_matrices() -> None:
    """Work, not seconds: multiplications of 12 views from 256 px, banded and whole."""
    sizes, rows, config = np.tile([3056.0, 2544.0], (4, 1)), np.arange(4), ViewsConfig()
    plan = views.plan_views(rows, sizes, 256, config, patch_side=16, seed=0, step=0)
    with FlopCounterMode(display=False) as counted:
        views.cut_views(films(4, 256), plan, config, Grey(0.5, 0.25))
    whole = sum(
        2 * count * size * 256 * (256 + size)
        for count, size in ((2 * 4, config.size), (config.focal_count * 4, config.focal_size))
    )
    assert counted.get_total_flops() < whole / 4


def test_no_crops_are_no_views() -> None:
    nothing = Boxes(*(np.empty(0) for _ in range(4)), flip=np.empty(0, bool))
    assert resampling.crop_resize(films(2, 32), np.empty(0, np.int64), nothing, 16).shape == (0, 1, 16, 16)


def test_a_crop_keeps_the_true_proportions_of_the_image() -> None:
    sizes = np.tile([3000.0, 2000.0], (4000, 1))
    rows = np.arange(4000)
    found = views.draw_boxes(0, 0, rows, 1, sizes, 256, scale=(0.3, 1.0), aspect=(0.75, 4 / 3), flip=0.5)
    width, height = found.width / 256 * 2000, found.height / 256 * 3000
    assert (width / height >= 0.75 - 1e-9).all()
    assert (width / height <= 4 / 3 + 1e-9).all()
    assert (found.left >= 0).all()
    assert (found.left + found.width <= 256 + 1e-9).all()
    assert (found.top >= 0).all()
    assert (found.top + found.height <= 256 + 1e-9).all()
    area = width * height / 6e6
    assert area.min() >= 0.3 - 1e-9
    assert area.max() > 0.8
    assert abs(found.flip.mean() - 0.5) < 0.05


def test_every_patch_is_reachable_and_equally_likely() -> None:
    kept = views.kept_patches(3, 5, np.arange(4000), 1, 64, 0.15)
    assert kept.shape == (4000, int(64 * 0.85))
    assert (np.diff(kept, axis=1) > 0).all()
    share = np.bincount(kept.ravel(), minlength=64) / 4000
    assert abs(share - 54 / 64).max() < 0.03


def test_an_exposure_changes_grey_levels_as_its_formula_says() -> None:
    config, sizes = ViewsConfig(size=32, focal_size=16, focal_count=2, exposure=0.4), np.tile([48.0, 48.0], (5, 1))
    images, grey = films(5, 48), Grey(0.45, 0.22)
    plan = views.plan_views(np.arange(5), sizes, 48, config, patch_side=8, seed=1, step=2)
    stored = views.cut_views(images, plan._replace(whole_exposure=None, focal_exposure=None), config, grey)
    found = views.cut_views(images, plan, config, grey)
    assert plan.whole_exposure is not None
    gamma, contrast, brightness = plan.whole_exposure.astype(np.float64).T[:, :, None, None, None]
    level = np.clip(torch.cat([stored.target, stored.random]).double().numpy() * grey.std + grey.mean, 0, 1)
    exposed = np.clip(contrast * (level**gamma - 0.5) + 0.5 + brightness, 0, 1)
    ours = torch.cat([found.target, found.random]).double().numpy() * grey.std + grey.mean
    assert np.abs(ours - exposed).max() < 1e-6
    assert (found.focal - stored.focal).abs().amax((1, 2, 3)).min() > 0.01


def test_exposures_spread_as_wide_as_asked_and_are_each_views_own() -> None:
    rows = np.arange(4000)
    drawn = views.draw_exposures(0, 0, rows, np.full(4000, 1), 0.4)
    spread = np.array([0.4, 0.4, 0.1])
    logs = np.stack([np.log(drawn[:, 0]), np.log(drawn[:, 1]), drawn[:, 2]], 1)
    assert (np.abs(logs) <= spread + 1e-6).all()
    assert np.allclose(logs.std(0), spread / np.sqrt(3), rtol=0.05)
    assert np.abs(np.corrcoef(logs.T) - np.eye(3)).max() < 0.06
    other = views.draw_exposures(0, 0, rows, np.full(4000, 2), 0.4)
    assert abs(np.corrcoef(drawn[:, 0], other[:, 0])[0, 1]) < 0.06


@pytest.mark.parametrize("exposure", [0.0, 0.4])
def test_views_depend_on_seed_step_row_and_view_and_on_nothing_else(exposure: float) -> None:
    config = ViewsConfig(size=32, focal_size=16, focal_count=2, mask_ratio=0.3, exposure=exposure)
    images = torch.randint(0, 256, (6, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes, rows = np.tile([60.0, 50.0], (6, 1)), np.array([5, 9, 2, 7, 11, 3])

    def make(part: slice, step: int = 4) -> views.Views:
        plan = views.plan_views(rows[part], sizes[part], 48, config, patch_side=8, seed=1, step=step)
        return views.cut_views(images[part], plan, config, Grey(0.5, 0.25))

    whole, tail = make(slice(None)), make(slice(3, None))
    assert torch.equal(whole.random[3:], tail.random)
    assert torch.equal(whole.target[3:], tail.target)
    assert torch.equal(whole.focal.unflatten(0, (2, 6))[:, 3:].flatten(0, 1), tail.focal)
    assert whole.random_keep is not None
    assert tail.random_keep is not None
    assert torch.equal(whole.random_keep[3:], tail.random_keep)
    assert whole.focal_keep is None
    assert not torch.equal(whole.random, whole.target)
    assert not torch.equal(whole.random, make(slice(None), step=5).random)


def test_whole_image_is_the_average_when_shrunk_to_one_pixel_of_a_flat_image() -> None:
    images = torch.full((1, 40, 40), 51, dtype=torch.uint8)
    assert torch.allclose(resampling.whole_image(images, 7), torch.tensor(0.2))


@pytest.mark.parametrize(("store", "enlarged"), [(256, True), (448, False)])
def test_the_store_sizes_of_the_design_are_enlarged_as_it_says(store: int, enlarged: bool) -> None:
    sizes = np.tile([3056.0, 2544.0], (2000, 1))
    found = views.median_enlargement(sizes, store, ViewsConfig(), seed=0)
    assert (found["random"] > 1.0) == enlarged


def test_uniform_is_uniform_and_coordinates_do_not_mix() -> None:
    numbers = uniform(0, 1, np.arange(200)[:, None], np.arange(200))
    assert np.unique(numbers).size == 40_000
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02
    assert uniform(1, 2) != uniform(2, 1)
    assert sorted(permutation(50, 3, 4)) == list(range(50))
