"""What a run builds from its configuration: training data, networks, optimizer and monitor."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch.optim import AdamW

from chartray.collective import all_or_none, take_from_first
from chartray.config.pretrain import Config, TrainConfig
from chartray.console import status
from chartray.errors import InputError
from chartray.networks import encoder as vit
from chartray.networks.autoencoder import MaskedAutoencoder
from chartray.networks.chart import ChartRoles
from chartray.networks.initial_weights import initialise
from chartray.networks.recomputation import recompute
from chartray.networks.siamese import SelfDistillation, Siamese
from chartray.pixels.store import Store
from chartray.pixels.views import kept_count
from chartray.training import compilation
from chartray.training.fastest import ChosenWay, choose
from chartray.training.manifest import RunManifest
from chartray.training.monitor import Monitor
from chartray.training.runtime import Runtime
from chartray.training.schedules import Schedule, make_schedule
from chartray.training.step import Networks, prior_of
from chartray.training.training_data import TrainingData, load_training_data


class Built(NamedTuple):
    """What a run learns with: its images and their charts, its length, networks on the device, and the optimizer."""

    data: TrainingData
    schedule: Schedule
    networks: Networks
    optimizer: AdamW
    chosen: ChosenWay


def build(store: Store, config: Config, runtime: Runtime, before: RunManifest | None = None) -> Built:
    """Everything that a run needs before its first weights are trained; it writes nothing.

    `before`: the manifest of a run that is continued.

    Raises InputError for settings that the store or the networks cannot have.
    """
    data = all_or_none(lambda: load_training_data(store, config), runtime.device)
    schedule = make_schedule(config.train, len(data.rows))
    networks = vit.on_device(build_networks(data, config), runtime.device)
    # Drawn from one seed, they differ between kinds of processors and versions of libraries.
    take_from_first(networks.state_dict().values())
    if config.train.recompute:
        recompute(networks)
    chosen = choose(networks, data, config, schedule.steps, runtime, before)
    if chosen.compiled:
        if runtime.is_first:
            status("compiling the encoders' blocks: the first step takes up to a minute longer")
        compilation.compile_encoders(networks, whole=runtime.device.type == "cuda")
    return Built(data, schedule, networks, build_optimizer(networks, config.train), chosen)


def build_networks(data: TrainingData, config: Config) -> Networks:
    """The networks of an objective, with first weights drawn from the seed, or started from `encoder.init`."""
    encoder = vit.build(vit.architecture(config.encoder, config.views.size), seed=config.seed)
    if config.encoder.init is not None:
        initialise(encoder, Path(config.encoder.init))
    side = vit.patch_side(encoder)
    for name in ("size", "focal_size"):
        if getattr(config.views, name) % side:
            raise InputError(
                f"expected views.{name} to be a multiple of the {side} px patch, found {getattr(config.views, name)}"
            )
    patches = (config.views.size // side) ** 2
    if config.objective.name == "mae" and kept_count(patches, config.views.mask_ratio) == patches:
        raise InputError(
            f"expected views.mask_ratio to mask at least one of {patches} patches for objective.name mae, "
            f"found {config.views.mask_ratio}; the official ratio is 0.75"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.objective.name == "mae":
            return MaskedAutoencoder(encoder, config.views.size, config.objective)
        chart = ChartRoles(data.chart, config.chart, encoder.embed_dim)
        if config.objective.name == "dino":
            return SelfDistillation(encoder, chart, config.objective)
        return Siamese(encoder, chart, config.objective, official=config.encoder.first_weights == "msn")


def build_optimizer(networks: Networks, config: TrainConfig) -> AdamW:
    """AdamW; biases, norms, other 1-d parameters and the prototypes do not decay, unless `decay_everything`.

    Position embeddings and class token decay, as in the official MSN code.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in networks.trained_parameters().items():
        decays = config.decay_everything or not (parameter.ndim < 2 or name == "prototypes")
        groups.setdefault((decays, name.startswith("encoder.")), []).append(parameter)
    each = [{"params": some, "decays": decays, "encoder": of} for (decays, of), some in groups.items()]
    return AdamW(each, lr=0.0, fused=True)


def build_monitor(config: Config, schedule: Schedule, *, rank: float, spread: float) -> Monitor:
    """A monitor that reports after warm-up and `health.patience_steps` steps.

    `rank` and `spread` are those of the embeddings before the first step.
    """
    classes, prior = float(config.objective.prototypes), prior_of(config.objective)
    if prior is not None:  # as many as a uniform prior of its entropy has
        classes = math.exp(-float((prior.exp() * prior).sum()))
    return Monitor(
        classes=min(round(classes), config.train.batch_size),
        untrained_rank=rank,
        untrained_spread=spread,
        earliest=max(schedule.warmup_steps, config.health.patience_steps),
        balanced=config.objective.name != "dino",
    )
