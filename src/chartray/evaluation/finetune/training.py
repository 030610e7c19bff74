"""A linear layer trained on the encoder by gradient descent, the encoder frozen or not.

`published` is the evaluation of the published code (docs/method.md): Adam, batch 64, cosine or
reduce-on-plateau(0.5, patience 3), early stopping on validation AUROC (patience 5), flips and affine augmentation.
`finetune` is full fine-tuning with AdamW (`recipe.recipe_of`). Nothing is dropped from validation or test, no label is
forced to 0, and images are normalised as in pretraining, unlike there (docs/method.md).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from chartray.errors import InputError, UnhealthyRun
from chartray.evaluation.baselines import Learner, Learnt, Tell, TrainingSubset
from chartray.evaluation.embed import batches, device_of
from chartray.evaluation.finetune import checkpoint
from chartray.evaluation.finetune.augmentation import augment, masked_loss, mixed
from chartray.evaluation.finetune.depth import parameter_groups, set_drop_path
from chartray.evaluation.finetune.recipe import Recipe, learning_rate
from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.scoring import LabelFit
from chartray.networks.encoder import PretrainedEncoder, class_token, on_device
from chartray.progress import progress
from chartray.statistics.metrics import auroc
from chartray.statistics.probe import Probe

Floats = NDArray[np.float64]


class FineTuned(NamedTuple):
    """The best epoch's encoder and layer, on the device they were trained on, and what each epoch reached."""

    model: VisionTransformer
    layer: nn.Linear
    best_epoch: int
    validation_auroc: Floats
    history: list[dict[str, float]]


class Training(NamedTuple):
    """What one training keeps in hand: the networks as they are now and as they were best, and their optimizer."""

    encoder: PretrainedEncoder
    train: ImageSet
    recipe: Recipe
    model: VisionTransformer
    layer: nn.Linear
    best_model: VisionTransformer
    best_layer: nn.Linear
    optimizer: torch.optim.Optimizer
    seed: int
    device: str
    precision: str

    @property
    def networks(self) -> nn.ModuleDict:
        """What a checkpoint holds; a frozen encoder never changes."""
        kept: dict[str, nn.Module] = {"layer": self.layer, "best_layer": self.best_layer}
        return nn.ModuleDict(
            kept if self.recipe.freeze else kept | {"model": self.model, "best_model": self.best_model}
        )


def tuned(
    encoder: PretrainedEncoder,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    precision: str,
    title: str,
    trainings: Path | None = None,
) -> Learner:
    """The learner of an arm: trains on the training images, stops on validation, scores the test sets.

    Each part of the patients is a training of its own, which continues from its folder in `trainings` if it is there.
    """

    def learn(
        train: ImageSet, validate: ImageSet, tests: Sequence[ImageSet], part: TrainingSubset, tell: Tell
    ) -> Learnt:
        folder = None if trainings is None else trainings / f"{title.replace(', ', '-')}-{part.name}"
        found = fine_tune(
            encoder,
            train,
            validate,
            recipe,
            seed=seed,
            device=device,
            precision=precision,
            title=title if part.fraction == 1 else f"{title}, {part.fraction:.0%}, draw {part.draw + 1}",
            folder=folder,
        )
        tell("predict")
        validation, *scores = (predict(encoder, found, each, precision=precision) for each in (validate, *tests))
        fits = [
            LabelFit(validation_auroc=value, best_epoch=found.best_epoch) for value in found.validation_auroc.tolist()
        ]
        kept = None if recipe.freeze else encoder._replace(model=found.model.cpu())
        return Learnt([*scores], fits, validation, _as_probe(found), kept, found.history)

    return learn


def fine_tune(
    encoder: PretrainedEncoder,
    train: ImageSet,
    validate: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    precision: str = "fp32",
    title: str = "fine-tune",
    folder: Path | None = None,
) -> FineTuned:
    """Trains a layer D -> C on the encoder's class token, and the encoder too unless `recipe.freeze`.

    `encoder` itself is left as it is. With a `folder` the state after each epoch is kept there, and a training that was
    killed continues from it: with the same threads to the same bytes, since all draws are functions of seed and epoch.
    Raises InputError if no label has both classes among the validation images, or `folder` holds another training;
    UnhealthyRun if the loss is not finite.
    """
    work = _begun(encoder, train, recipe, seed, device_of(device), precision)
    made_of = checkpoint.identity(encoder, train, validate, recipe, seed=seed, precision=precision)
    reached = None if folder is None else checkpoint.restore(folder, work.networks, work.optimizer, made_of)
    if reached is None:
        reached = checkpoint.Reached(0, 0, [], [], False)
    with progress(title, recipe.max_epochs, "epochs", done=reached.epoch) as advance:
        while not reached.done:
            epoch = reached.epoch + 1
            loss, rate = _epoch(work, epoch, [each["validation_auroc"] for each in reached.history])
            now = FineTuned(work.model, work.layer, epoch, np.array([]), [])
            found = auroc(validate.truth, predict(encoder, now, validate, precision=precision))
            if np.isnan(found).all():
                raise InputError(
                    f"expected a label with both classes among the {len(validate.rows)} validation images of "
                    f"{validate.store.folder}, found none; early stopping needs one"
                )
            reached = _after(work, reached, loss, rate, found)
            if folder is not None:
                checkpoint.save(folder, work.networks, work.optimizer, reached, made_of)
            advance(1, f"loss {loss:.4f}, validation AUROC {np.nanmean(found):.3f}")
    best = np.array(reached.validation_auroc)
    return FineTuned(work.best_model.eval(), work.best_layer, reached.best_epoch, best, reached.history)


def predict(encoder: PretrainedEncoder, found: FineTuned, image_set: ImageSet, *, precision: str = "fp32") -> Floats:
    """Probability of each label of each image, (N, C)."""
    where = found.layer.weight.device.type
    found.model.eval()
    scores: list[Tensor] = []
    with torch.inference_mode():
        for images in batches(image_set.store, image_set.rows, 256, where):
            grey = encoder.standardised(encoder.resized(images))
            with _autocast(where, precision):
                tokens = class_token(found.model, grey)
            # Logits in bf16 would tie images that differ.
            scores.append(found.layer(tokens.float()).double().sigmoid().cpu())
    found_scores: Floats = torch.cat(scores).numpy()
    return found_scores


def _begun(
    encoder: PretrainedEncoder, train: ImageSet, recipe: Recipe, seed: int, device: str, precision: str
) -> Training:
    """The networks before the first epoch."""
    model = on_device(copy.deepcopy(encoder.model), torch.device(device)).eval().requires_grad_(not recipe.freeze)
    set_drop_path(model, recipe.drop_path)
    layer = _layer(model.num_features, train.truth.shape[1], torch.Generator().manual_seed(seed)).to(device)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    optimizer = kind(
        parameter_groups(model, layer, recipe),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=device == "cuda",
    )
    best = (model if recipe.freeze else copy.deepcopy(model), copy.deepcopy(layer))
    return Training(encoder, train, recipe, model, layer, *best, optimizer, seed, device, precision)


def _after(work: Training, before: checkpoint.Reached, loss: float, rate: float, found: Floats) -> checkpoint.Reached:
    """What is remembered after one more epoch; the best networks become this epoch's where validation is higher."""
    epoch, macro = before.epoch + 1, float(np.nanmean(found))
    entry = {"epoch": epoch, "loss": loss, "validation_auroc": macro, "learning_rate": rate}
    highest = max((each["validation_auroc"] for each in before.history), default=-math.inf)
    best_epoch, best = before.best_epoch, before.validation_auroc
    if macro > highest:
        best_epoch, best = epoch, found.tolist()
        if not work.recipe.freeze:
            work.best_model.load_state_dict(work.model.state_dict())
        work.best_layer.load_state_dict(work.layer.state_dict())
    done = epoch == work.recipe.max_epochs or epoch - best_epoch >= work.recipe.patience_epochs
    return checkpoint.Reached(epoch, best_epoch, best, [*before.history, entry], done)


def _epoch(work: Training, epoch: int, validation: Sequence[float]) -> tuple[float, float]:
    """One pass over the training images in a drawn order, the last batch however small; mean loss and last rate."""
    recipe, train, encoder = work.recipe, work.train, work.encoder
    work.model.train(not recipe.freeze)
    with _drawing(work.seed, epoch, work.device) as (generator, draws):
        order = torch.randperm(len(train.rows), generator=generator).numpy()
        truth = torch.from_numpy(train.truth[order]).float()
        total, rate = 0.0, 0.0
        for start, images in _numbered(batches(train.store, train.rows[order], recipe.batch_size, work.device)):
            rate = learning_rate(recipe, epoch - 1 + (start + len(images)) / len(order), validation)
            for group in work.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            grey = encoder.standardised(augment(encoder.resized(images), generator))
            told = truth[start : start + len(images)].to(work.device)
            if recipe.mixup > 0:
                grey, told = mixed(grey, told, recipe.mixup, draws)
            with _autocast(work.device, work.precision):
                with torch.set_grad_enabled(not recipe.freeze):
                    tokens = class_token(work.model, grey)  # (B, D)
                logits = work.layer(tokens)
            loss = masked_loss(logits, told)
            if not torch.isfinite(loss):
                raise UnhealthyRun(f"fine-tuning reached a loss of {loss.item()}; lower the learning rate")
            work.optimizer.zero_grad()
            torch.autograd.backward(loss)
            work.optimizer.step()
            total += loss.item() * len(images)
    return total / len(order), rate


@contextmanager
def _drawing(seed: int, epoch: int, device: str) -> Iterator[tuple[torch.Generator, np.random.Generator]]:
    """All that is random in an epoch, a function of seed and epoch; drop path draws from torch's global generator."""
    own, mixing, paths = (int(word) for word in np.random.SeedSequence((seed, epoch)).generate_state(3))
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(paths)
        yield torch.Generator().manual_seed(own), np.random.default_rng(mixing)


def _numbered(images: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for batch in images:
        yield start, batch
        start += len(batch)


def _layer(width: int, labels: int, generator: torch.Generator) -> nn.Linear:
    """torch's own start of a linear layer, drawn from `generator`."""
    layer = nn.Linear(width, labels)
    with torch.no_grad():
        for values in layer.parameters():
            values.copy_((2 * torch.rand(values.shape, generator=generator) - 1) / math.sqrt(width))
    return layer


def _as_probe(found: FineTuned) -> Probe:
    """The layer as a probe on features as they are."""
    weight, bias = (values.detach().double().cpu().numpy() for values in (found.layer.weight, found.layer.bias))
    width = weight.shape[1]
    nothing = np.full(len(bias), np.nan)
    return Probe(weight, bias, np.zeros(width), np.ones(width), nothing, found.validation_auroc)


def _autocast(device: str, precision: str) -> Any:
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
