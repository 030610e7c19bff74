"""Learning rate, weight decay and EMA momentum as pure functions of the step (the official MSN recipe)."""

import math
from typing import NamedTuple

from chartray.config.pretrain import TrainConfig


class Plan(NamedTuple):
    """How long a run is: optimizer steps, steps in one pass over the films, warm-up steps, peak learning rate."""

    steps: int
    steps_per_epoch: float
    warmup_steps: int
    peak_learning_rate: float


def plan(config: TrainConfig, films: int) -> Plan:
    """Works out a run over `films` training films.

    Warm-up is the recipe's, but at most 10 % of the steps; the learning rate is scaled linearly from the
    recipe's batch unless it is given (METHOD.md, *Other sizes*).
    """
    steps_per_epoch = films / config.batch_size
    steps = config.steps or math.ceil((config.epochs or 0) * steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps // 10)
    scaled = config.recipe_learning_rate * config.batch_size / config.recipe_batch_size
    return Plan(steps, steps_per_epoch, warmup, config.learning_rate or scaled)


def learning_rate(step: int, plan: Plan, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then a cosine laid over `stretch` times the steps.

    >>> config = TrainConfig(steps=100, warmup_epochs=1, batch_size=64, learning_rate=1.0, stretch=1.0)
    >>> run = plan(config, films=640)
    >>> [round(learning_rate(step, run, config), 4) for step in (0, 5, 10, 55, 100)]
    [0.2, 0.6, 1.0, 0.5005, 0.001]
    """
    if step < plan.warmup_steps:
        start = config.start_learning_rate_ratio
        return plan.peak_learning_rate * (start + (1 - start) * step / plan.warmup_steps)
    if config.schedule == "epoch":
        step = int(int(step / plan.steps_per_epoch) * plan.steps_per_epoch)
    length = max(config.stretch * plan.steps - plan.warmup_steps, 1)
    share = _cosine((step - plan.warmup_steps) / length)
    final = config.final_learning_rate_ratio
    return plan.peak_learning_rate * (final + (1 - final) * share)


def weight_decay(step: int, plan: Plan, config: TrainConfig) -> float:
    """A cosine from the first to the final value, or constant."""
    if config.final_weight_decay is None:
        return config.weight_decay
    share = _cosine(step / (config.stretch * plan.steps))
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * share


def ema_momentum(step: int, plan: Plan, config: TrainConfig) -> float:
    """Linear from the first to the final momentum."""
    return config.ema + (config.final_ema - config.ema) * min(step / (config.stretch * plan.steps), 1.0)


def _cosine(progress: float) -> float:
    """1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
