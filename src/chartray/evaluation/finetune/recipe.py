"""How a layer, and with it the encoder, is trained: the numbers, and the learning rate at every moment."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from chartray.config.evaluate import TRAINED, WARMUP_EPOCHS, WARMUP_SHARE, EvaluateOptions

Scheduler = Literal["cosine", "reduce"]
# Reduce on plateau: the rate is halved when more than so many epochs in a row bring no gain of this share.
PLATEAU_EPOCHS, PLATEAU_GAIN = 3, 1e-4


class Recipe(NamedTuple):
    """How the layer (and the encoder, unless `freeze`) is trained.

    `layer_decay` is the ratio of a block's learning rate to that of the block above it, `drop_path` the probability
    that the last block is passed over for an image, `mixup` the alpha of the Beta distribution that images are mixed by
    (0: they are not), `warmup_epochs` how long the learning rate rises to its peak.
    """

    freeze: bool
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    scheduler: Scheduler = "cosine"
    max_epochs: int = 50
    patience_epochs: int = 5
    warmup_epochs: float = 0.0
    layer_decay: float = 1.0
    drop_path: float = 0.0
    mixup: float = 0.0


def recipe_of(options: EvaluateOptions) -> Recipe | None:
    """The recipe of `published` or `finetune`, None for the other protocols, which do not train by gradient descent.

    The default learning rate (1e-3 for the layer alone, 1e-4 for the whole encoder) is this project's, since the
    paper gives none. `finetune` is AdamW with the numbers of He et al. (CVPR 2022, table 9), without mixup by default.
    """
    if options.protocol not in TRAINED:
        return None
    frozen = options.protocol == "published" and options.freeze
    rate = options.learning_rate or (1e-3 if frozen else 1e-4)
    published = Recipe(frozen, learning_rate=rate, scheduler=options.scheduler, max_epochs=options.max_epochs)
    if options.protocol == "published":
        return published
    warmup = options.warmup_epochs
    return published._replace(
        optimizer="adamw",
        weight_decay=0.05,
        warmup_epochs=min(WARMUP_EPOCHS, WARMUP_SHARE * options.max_epochs) if warmup is None else warmup,
        layer_decay=options.layer_decay,
        drop_path=options.drop_path,
        mixup=options.mixup,
    )


def learning_rate(recipe: Recipe, done_epochs: float, validation: Sequence[float]) -> float:
    """The rate at a moment of training, before the layers' own shares.

    `done_epochs` counts the epochs that will be done after this step, in steps: 0.25 after the first of four.
    `validation` are the AUROCs of the epochs that are whole. The rate rises linearly over the warm-up; then `cosine`
    falls epoch by epoch to 0, and `reduce` is halved on a plateau of validation.
    """
    if done_epochs <= recipe.warmup_epochs:
        return recipe.learning_rate * done_epochs / recipe.warmup_epochs
    if recipe.scheduler == "reduce":
        return recipe.learning_rate * 0.5 ** halvings(validation)
    # The first step after the warm-up has the peak rate; all steps of an epoch have one rate.
    whole = max(0.0, math.ceil(done_epochs) - 1 - recipe.warmup_epochs)
    return recipe.learning_rate * (1 + math.cos(math.pi * whole / (recipe.max_epochs - recipe.warmup_epochs))) / 2


def halvings(validation: Sequence[float]) -> int:
    """How often the rate has been halved: once more whenever more than 3 epochs in a row brought no gain."""
    found, best, bad = 0, -math.inf, 0
    for value in validation:
        if value > best * (1 + PLATEAU_GAIN if best > 0 else 1):
            best, bad = value, 0
        else:
            bad += 1
        if bad > PLATEAU_EPOCHS:
            found, bad = found + 1, 0
    return found
