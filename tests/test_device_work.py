"""What a step asks of a GPU's link: how often the host waits for it, and what is copied there. Counts, not seconds.

No GPU is needed: the emulated second device counts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chartray.config.pretrain import ViewsConfig
from chartray.pixels.resampling import Grey
from chartray.pixels.store import Store
from chartray.pixels.views import cut_views, plan_views
from chartray.training import checkpoint
from chartray.training.build import build_monitor, build_networks
from chartray.training.division import Division
from chartray.training.loader import ImageLoader
from chartray.training.loop import Loop
from chartray.training.online_probe import OnlineProbe
from chartray.training.runtime import Runtime
from chartray.training.schedules import make_schedule
from chartray.training.training_data import load_training_data
from tests.elsewhere import ELSEWHERE, Elsewhere
from tests.test_pretrain import small


@pytest.mark.parametrize("objective", ["msn", "dino", "mae"])
def test_a_step_waits_for_its_loss_its_gradient_and_its_numbers(
    small_store: Path, tmp_path: Path, objective: str
) -> None:
    """Before the optimizer, for loss and gradient at once; for the numbers; and for the assignments if any."""
    settings = small(objective__name=objective, views__mask_ratio=0.5)
    data = load_training_data(Store.open(small_store), settings)
    networks = build_networks(data, settings)
    with Elsewhere():
        networks = networks.to(ELSEWHERE).train()
    # The fused one knows real devices alone.
    optimizer = torch.optim.AdamW(
        [{"params": list(networks.trained_parameters().values()), "decays": True, "encoder": True}]
    )
    schedule = make_schedule(settings.train, len(data.rows))
    monitor = build_monitor(settings, schedule, rank=0.0, spread=0.0)
    runtime = Runtime(ELSEWHERE)
    probe = OnlineProbe(data, settings, runtime.device, runtime.autocast)
    manifest = data.manifest(settings, schedule).model_copy(update={"accumulate": 1})
    division = Division(1, len(data.rows), fixed=True)
    loop = Loop(runtime, tmp_path, settings, schedule, data, networks, optimizer, probe, monitor, division, manifest)
    waited: list[int] = []
    with loop.batches(0, 3) as batches:
        with Elsewhere():
            loop.learn(next(batches), batches)  # the optimizer makes its state
        prepare_next = batches.prepare_next

        def noted() -> None:
            waited.append(sum(link.waits.values()))
            prepare_next()

        with Elsewhere() as link, pytest.MonkeyPatch.context() as patched:
            batch = next(batches)
            patched.setattr(batches, "prepare_next", noted)
            losses, numbers = loop.learn(batch, batches)
            loop.measure_health(1, losses, numbers)
    # The next step's views are queued while the gradient is worked out: nothing has been waited for.
    assert waited == [0]
    assert link.waits == {"read": 2 if objective == "mae" else 3}
    # Images, crops of both sizes, kept patches of the random views, charts and which of their cells are observed.
    assert len(link.sent) <= 6


def test_pinned_images_are_gathered_where_they_are_pinned(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and the same images. Only a GPU's driver pins memory: here the place is noted, and ordinary."""
    store, settings = Store.open(small_store), small()
    rows = load_training_data(store, settings).rows
    pinned: list[torch.Tensor] = []
    empty = torch.empty

    def noted(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        made = empty(*shape, **options)
        if pin_memory:
            pinned.append(made)
        return made

    monkeypatch.setattr(torch, "empty", noted)
    plain, fetched = (
        ImageLoader(store, rows, settings.views, patch_side=8, batch_size=24, seed=0, pin=pin).load(1).images
        for pin in (False, True)
    )
    assert [each.data_ptr() for each in pinned] == [fetched.data_ptr()]
    assert torch.equal(plain, fetched)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model, which is a no-op")  # here it is none
def test_a_restored_optimizer_that_is_not_fused_counts_its_steps_on_the_host(tmp_path: Path) -> None:
    """On the device each of its parameters would be waited for at every step, twice."""

    def begun() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        layer = torch.nn.Linear(3, 2).to(ELSEWHERE)
        return layer, torch.optim.AdamW(layer.parameters())

    with Elsewhere():
        layer, optimizer = begun()
        layer(torch.ones(4, 3, device=ELSEWHERE)).sum().backward()
        optimizer.step()
        saved = checkpoint.save(tmp_path, 1, layer, optimizer, {}, keep=1)
        again, restored = begun()
        checkpoint.restore(saved, again, restored)
    for parameter in again.parameters():
        state = restored.state[parameter]
        assert {name: value.device for name, value in state.items()} == {
            "step": torch.device("cpu"),
            "exp_avg": ELSEWHERE,
            "exp_avg_sq": ELSEWHERE,
        }


def test_the_views_of_an_image_cost_a_hundredth_of_its_pixels_to_plan() -> None:
    """Bands, weights and indices are worked out on the device: 12 views of a 448 px image are 0.2 MB of pixels."""
    films, config = 16, ViewsConfig()
    sizes = np.tile([3056.0, 2544.0], (films, 1))
    plan_of_step = plan_views(np.arange(films), sizes, 448, config, patch_side=16, seed=0, step=0)
    with Elsewhere():
        images = torch.zeros((films, 448, 448), dtype=torch.uint8, device=ELSEWHERE)
    with Elsewhere() as link:
        made = cut_views(images, plan_of_step, config, Grey(0.5, 0.25))
    assert made.target.shape == (films, 1, config.size, config.size)
    assert not link.waits
    assert len(link.sent) == 3
    kept = made.random_keep.nbytes if made.random_keep is not None else 0
    assert sum(link.sent) - kept < 0.01 * images.numel()
