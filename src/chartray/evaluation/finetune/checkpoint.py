"""A training that can be killed at any epoch: what it is of, what it has reached, and the same bytes again."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue
from torch import nn
from torch.optim import Optimizer

from chartray.errors import InputError
from chartray.evaluation.finetune.recipe import Recipe
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.kept import weights_digest
from chartray.networks.encoder import PretrainedEncoder
from chartray.training import checkpoint as stored


class Reached(NamedTuple):
    """What a training remembers beside its weights and its optimizer: nothing of its draws, which follow from seed and
    epoch. `validation_auroc` are the labels' at the best epoch; `done`: no epoch is left.
    """

    epoch: int
    best_epoch: int
    validation_auroc: list[float]
    history: list[dict[str, float]]
    done: bool


def identity(
    encoder: PretrainedEncoder, train: ImageSet, validate: ImageSet, recipe: Recipe, **more: JsonValue
) -> dict[str, JsonValue]:
    """What makes two trainings the same one: the recipe, and hashes of the first weights and of both sets of images."""
    image_set = {f"{name}_films": _hash_of(each) for name, each in (("training", train), ("validation", validate))}
    return {"first_weights": weights_digest(encoder)} | image_set | {"recipe": recipe._asdict()} | more


def save(
    folder: Path, networks: nn.Module, optimizer: Optimizer, reached: Reached, made_of: dict[str, JsonValue]
) -> None:
    """Writes the state after an epoch, whole or not at all, in place of the one before."""
    stored.save(folder, reached.epoch, networks, optimizer, {"reached": reached._asdict(), "made_of": made_of}, keep=1)


def restore(folder: Path, networks: nn.Module, optimizer: Optimizer, made_of: dict[str, JsonValue]) -> Reached | None:
    """Loads the newest whole state of `folder`; None if there is none. Raises InputError if it is of another training,
    or if there are states and none is whole.
    """
    found = stored.newest_intact(folder)
    if found is None:
        return None
    state = stored.restore(found, networks, optimizer)
    of, kept = state.get("made_of"), state.get("reached")
    if not isinstance(of, dict) or not isinstance(kept, dict):
        raise _unusable(found)
    for name in of | made_of:
        if of.get(name) != json.loads(json.dumps(made_of.get(name))):
            raise InputError(
                f"expected to continue the training in {folder} with the {name.replace('_', ' ')} it was started with, "
                f"found another; repeat the command that started it, or delete {folder.parent} to begin again"
            )
    if kept.keys() != set(Reached._fields) or kept["epoch"] != state["step"]:
        raise _unusable(found)
    return Reached(**kept)


def _unusable(found: Path) -> InputError:
    return InputError(
        f"expected the state of a training in {found}, found other content; delete {found.parent.parent} to start again"
    )


def _hash_of(image_set: ImageSet) -> str:
    digest = hashlib.sha256(image_set.store.hash.encode() + image_set.rows.tobytes())
    # All unknown entries are one NaN.
    digest.update(np.where(np.isnan(image_set.truth), np.float64(-9), image_set.truth).tobytes())
    return digest.hexdigest()[:16]
