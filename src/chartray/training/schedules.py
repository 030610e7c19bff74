"""Learning rate, weight decay and EMA momentum as pure functions of the step (the official MSN recipe)."""

import math
from typing import NamedTuple

from chartray.config.pretrain import TrainConfig
from chartray.errors import InputError


class Schedule(NamedTuple):
    """The length of a run: optimizer steps, steps in one pass over the images, warm-up steps; peak learning rate."""

    steps: int
    steps_per_epoch: float
    warmup_steps: int
    peak_learning_rate: float


class Rates(NamedTuple):
    """What one step uses. `encoder`: the encoder's share of the learning rate; 0 where it is frozen."""

    learning_rate: float
    weight_decay: float
    ema: float
    encoder: float = 1.0


def make_schedule(config: TrainConfig, images: int) -> Schedule:
    """The schedule of a run over this many training images.

    Warm-up is the recipe's, but at most 10 % of the steps. The learning rate is scaled linearly from the recipe's
    batch unless it is given. Raises InputError if the encoder would not reach its learning rate within the steps.
    """
    steps_per_epoch = images / config.batch_size
    steps = config.steps or math.ceil((config.epochs or 0) * steps_per_epoch)
    if config.in_two_stages and config.freeze_steps + config.ramp_steps >= steps:
        raise InputError(
            f"expected train.freeze_steps + train.ramp_steps below the {steps} steps of this run, found "
            f"{config.freeze_steps} + {config.ramp_steps}; lower them, or train longer"
        )
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps // 10)
    scaled = config.recipe_learning_rate * config.batch_size / config.recipe_batch_size
    return Schedule(steps, steps_per_epoch, warmup, config.learning_rate or scaled)


def rates(step: int, schedule: Schedule, config: TrainConfig) -> Rates:
    """The rates of a step, counted from 0."""
    return Rates(
        learning_rate(step, schedule, config),
        weight_decay(step, schedule, config),
        ema_momentum(step, schedule, config),
        encoder_share(step, config),
    )


def learning_rate(step: int, schedule: Schedule, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then a cosine stretched over `stretch` times the steps.

    >>> config = TrainConfig(steps=100, warmup_epochs=1, batch_size=64, learning_rate=1.0, stretch=1.0)
    >>> run = make_schedule(config, images=640)
    >>> [round(learning_rate(step, run, config), 4) for step in (0, 5, 10, 55, 100)]
    [0.2, 0.6, 1.0, 0.5005, 0.001]
    """
    if step < schedule.warmup_steps:
        start = config.start_learning_rate_ratio
        return schedule.peak_learning_rate * (start + (1 - start) * step / schedule.warmup_steps)
    if config.schedule == "epoch":
        step = int(int(step / schedule.steps_per_epoch) * schedule.steps_per_epoch)
    length = max(config.stretch * schedule.steps - schedule.warmup_steps, 1)
    share = _cosine((step - schedule.warmup_steps) / length)
    final = config.final_learning_rate_ratio
    return schedule.peak_learning_rate * (final + (1 - final) * share)


def weight_decay(step: int, schedule: Schedule, config: TrainConfig) -> float:
    """A cosine from the first to the final value, or constant."""
    if config.final_weight_decay is None:
        return config.weight_decay
    share = _cosine(step / (config.stretch * schedule.steps))
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * share


def ema_momentum(step: int, schedule: Schedule, config: TrainConfig) -> float:
    """Linear from the first to the final momentum."""
    return config.ema + (config.final_ema - config.ema) * min(step / (config.stretch * schedule.steps), 1.0)


def chart_ramp(step: int, schedule: Schedule, warmup: float) -> float:
    """How much of the chart heads' gradient the encoder is given: 0 for the share `warmup` of the steps, then to 1.

    DANN's sigmoid (Ganin et al., JMLR 2016): 2 / (1 + exp(-10 p)) - 1, p from 0 to 1 over the rest of the run.

    >>> run = Schedule(steps=110, steps_per_epoch=10, warmup_steps=0, peak_learning_rate=1.0)
    >>> [round(chart_ramp(step, run, warmup=1 / 11), 4) for step in (0, 10, 20, 60, 110)]
    [0.0, 0.0, 0.4621, 0.9866, 0.9999]
    """
    begins = warmup * schedule.steps
    progress = max(step - begins, 0.0) / (schedule.steps - begins)
    return 2 / (1 + math.exp(-10 * progress)) - 1


def encoder_share(step: int, config: TrainConfig) -> float:
    """The encoder's learning rate over that of the heads: 0 while frozen, then a linear ramp to 1.

    >>> config = TrainConfig(steps=100, freeze_steps=10, ramp_steps=4)
    >>> [encoder_share(step, config) for step in (0, 9, 10, 11, 13, 14)]
    [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    """
    if step < config.freeze_steps:
        return 0.0
    return min((step - config.freeze_steps + 1) / max(config.ramp_steps, 1), 1.0)


def _cosine(progress: float) -> float:
    """1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
