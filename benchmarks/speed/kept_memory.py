"""Bytes that a step keeps of an image for its gradient: norms and GELU recomputed, against blocks as timm has them.

Counted through autograd's hooks as a GPU computes: bf16, fused attention, blocks as written. It is no matter of speed.
"""

from pathlib import Path

import torch
from timm.layers import Attention

from benchmarks.speed.measuring import Row, summary
from benchmarks.speed.options import Options
from benchmarks.speed.simulated_store import make_films
from benchmarks.speed.training_step import first_batch, sizes_of
from chartray.config.pretrain import Config
from chartray.networks import encoder as vit
from chartray.networks.recomputation import recompute
from chartray.pixels.store import Store
from chartray.training.build import build_networks
from chartray.training.division import kept_bytes
from chartray.training.gradient_cache import of_images
from chartray.training.step import forward
from chartray.training.training_data import load_training_data

_TARGETS = {"vit_tiny": 29.0, "vit_small": 57.0}  # MB an image, at the views of the recipe
_IMAGES = 4


def measure(name: str, options: Options) -> Row:
    """MB an image of the whole loss, as the difference of a batch and half of it: what a batch shares is left out."""
    sizes = sizes_of(name, options)
    folder = make_films(options.scratch, sizes.store_size, sizes.patients).store
    ours, reference = (_mb_an_image(sizes.config(films=_IMAGES), folder, again) for again in (True, False))
    return Row(
        name=name,
        unit="MB/image",
        better="lower",
        ours=summary([ours]),
        reference=summary([reference]),
        target=_TARGETS[sizes.encoder],
        target_of="value",
    )


def _mb_an_image(config: Config, folder: Path, again: bool) -> float:
    store, device = Store.open(folder), torch.device(config.train.device)
    networks = vit.on_device(build_networks(load_training_data(store, config), config), device).eval()
    for module in networks.modules():
        if isinstance(module, Attention):
            module.fused_attn = True
    if again:
        recompute(networks)
    batch = first_batch(store, config, device)

    def kept(images: int) -> int:
        views, chart = of_images(batch.views, slice(images)), batch.chart.of_images(slice(images))

        def autocast() -> torch.autocast:
            return torch.autocast(device.type, torch.bfloat16)

        return kept_bytes(lambda: forward(networks, views, chart, config.objective, autocast), networks)

    return (kept(_IMAGES) - kept(_IMAGES // 2)) / (_IMAGES - _IMAGES // 2) / 1e6
