"""How a layer, and with it the encoder, is trained: the numbers, and the learning rate at every moment."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from chartray.errors import InputError

Scheduler = Literal["cosine", "reduce"]
# Full fine-tuning warms up over so many epochs, or this share of all of them where that is less.
WARMUP_EPOCHS, WARMUP_SHARE = 5.0, 0.1
# Reduce on plateau: the rate is halved when more than so many epochs in a row bring no gain of this share.
PLATEAU_EPOCHS, PLATEAU_GAIN = 3, 1e-4


class Recipe(NamedTuple):
    """How the layer (and the encoder, unless `freeze`) is trained.

    `layer_decay` is the ratio of a block's learning rate to that of the block above it, `drop_path` the probability
    that the last block is passed over for a film, `mixup` the alpha of the Beta distribution that films are mixed by
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


def recipe_of(
    protocol: str,
    *,
    freeze: bool | None = None,
    scheduler: Scheduler | None = None,
    learning_rate: float | None = None,
    max_epochs: int | None = None,
    layer_decay: float | None = None,
    drop_path: float | None = None,
    warmup_epochs: float | None = None,
    mixup: float | None = None,
) -> Recipe | None:
    """The recipe of `published` or `finetune`, None for the other protocols, which do not train by gradient descent.

    None of an option means not given: then freeze, cosine, 50 epochs, and a learning rate of 1e-3 (layer alone) or
    1e-4 (whole encoder), which are this project's; METHOD.md gives none. `finetune` is AdamW with what He et al.
    (CVPR 2022, table 9) fine-tune a ViT with: layer decay 0.75, drop path 0.1, 5 epochs of warm-up or a tenth of all;
    but no mixup. Raises InputError for numbers out of range and for an option that means nothing under the protocol.
    """
    given = {"freeze": freeze, "scheduler": scheduler, "learning-rate": learning_rate, "max-epochs": max_epochs}
    own = {"layer-decay": layer_decay, "drop-path": drop_path, "warmup-epochs": warmup_epochs, "mixup": mixup}
    for name, value in (given | own).items():
        allowed = ("published",) if name == "freeze" else ("finetune",) if name in own else ("published", "finetune")
        if value is not None and protocol not in allowed:
            raise InputError(
                f"expected --{name} only with --protocol {' or '.join(allowed)}, found it with {protocol}, where it "
                "means nothing; leave it out"
            )
    if protocol not in ("published", "finetune"):
        return None
    if scheduler not in (None, "cosine", "reduce"):
        raise InputError(f"expected --scheduler cosine or reduce, found {scheduler!r}")
    if (max_epochs is not None and max_epochs < 1) or (learning_rate is not None and not learning_rate > 0):
        raise InputError(f"expected epochs and a learning rate above 0, found {max_epochs} and {learning_rate}")
    frozen = protocol == "published" and freeze is not False
    rate = learning_rate if learning_rate is not None else 1e-3 if frozen else 1e-4
    recipe = Recipe(frozen, "adam", rate, scheduler=scheduler or "cosine", max_epochs=max_epochs or 50)
    if protocol == "published":
        return recipe
    recipe = recipe._replace(
        optimizer="adamw",
        weight_decay=0.05,
        warmup_epochs=min(WARMUP_EPOCHS, WARMUP_SHARE * recipe.max_epochs) if warmup_epochs is None else warmup_epochs,
        layer_decay=0.75 if layer_decay is None else layer_decay,
        drop_path=0.1 if drop_path is None else drop_path,
        mixup=0.0 if mixup is None else mixup,
    )
    _refuse_out_of_range(recipe)
    return recipe


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


def _refuse_out_of_range(recipe: Recipe) -> None:
    ranges = {
        "layer-decay in (0, 1]": (recipe.layer_decay, 0 < recipe.layer_decay <= 1),
        "drop-path in [0, 1)": (recipe.drop_path, 0 <= recipe.drop_path < 1),
        f"warmup-epochs in [0, {recipe.max_epochs}), below max-epochs": (
            recipe.warmup_epochs,
            0 <= recipe.warmup_epochs < recipe.max_epochs,
        ),
        "mixup of 0 (none) or more": (recipe.mixup, 0 <= recipe.mixup < math.inf),
    }
    for what, (value, fine) in ranges.items():
        if not fine:
            raise InputError(f"expected --{what}, found {value:g}")
