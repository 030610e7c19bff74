"""A linear layer trained on the encoder by gradient descent, the encoder frozen or not.

`published` is the evaluation of the published code (METHOD.md section 2): Adam, batch 64, cosine or
reduce-on-plateau(0.5, patience 3), early stopping on validation AUROC (patience 5), flips and affine augmentation.
`finetune` is full fine-tuning with AdamW. Nothing is dropped from validation or test, no label is forced to 0, and
films are normalised as in pretraining (METHOD.md, defects 12 to 14).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from chartray.errors import InputError, UnhealthyRun
from chartray.evaluation.arms import Learner, Learnt
from chartray.evaluation.embed import batches, device_of
from chartray.evaluation.films import Films
from chartray.measure.metrics import auroc
from chartray.measure.probe import Probe
from chartray.networks.encoder import PretrainedEncoder, class_token
from chartray.pixels.views import whole_film
from chartray.progress import progress

Floats = NDArray[np.float64]

# Published augmentation: rotation in degrees, scale, shift as a share of the side.
ROTATION_DEGREES, SCALE, SHIFT = 45.0, (0.85, 1.15), 0.15


class Recipe(NamedTuple):
    """How the layer (and the encoder, unless `freeze`) is trained."""

    freeze: bool
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    scheduler: Literal["cosine", "reduce"] = "cosine"
    max_epochs: int = 50
    patience_epochs: int = 5


class FineTuned(NamedTuple):
    """The best epoch's encoder and layer, on `device`, and what each epoch reached."""

    model: VisionTransformer
    layer: nn.Linear
    best_epoch: int
    validation_auroc: Floats
    history: list[dict[str, float]]


def recipe_of(
    protocol: str,
    *,
    freeze: bool | None = None,
    scheduler: Literal["cosine", "reduce"] | None = None,
    learning_rate: float | None = None,
    max_epochs: int | None = None,
) -> Recipe | None:
    """The recipe of `published` or `finetune`, None for the other protocols, which do not train by gradient descent.

    None of an option means not given: then freeze, cosine, 50 epochs, and a learning rate of 1e-3 (layer alone) or
    1e-4 (whole encoder), which are this project's; METHOD.md gives none. Raises InputError for numbers out of range
    and for an option that means nothing under the protocol.
    """
    given = {"freeze": freeze, "scheduler": scheduler, "learning-rate": learning_rate, "max-epochs": max_epochs}
    for name, value in given.items():
        allowed = ("published",) if name == "freeze" else ("published", "finetune")
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
    return recipe._replace(optimizer="adamw", weight_decay=0.05) if protocol == "finetune" else recipe


def tuned(encoder: PretrainedEncoder, recipe: Recipe, *, seed: int, device: str, precision: str, title: str) -> Learner:
    """The learner of an arm: trains on the training films, stops on validation, scores the test sets."""

    def learn(train: Films, validate: Films, tests: Sequence[Films]) -> Learnt:
        found = fine_tune(encoder, train, validate, recipe, seed=seed, device=device, precision=precision, title=title)
        scores: list[Floats | None] = [predict(encoder, found, test, precision=precision) for test in tests]
        notes: list[dict[str, Any]] = [
            {"validation_auroc": value, "best_epoch": found.best_epoch} for value in found.validation_auroc.tolist()
        ]
        kept = None if recipe.freeze else encoder._replace(model=found.model.cpu())
        return Learnt(scores, notes, _as_probe(found), kept, found.history)

    return learn


def fine_tune(
    encoder: PretrainedEncoder,
    train: Films,
    validate: Films,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    precision: str = "fp32",
    title: str = "fine-tune",
) -> FineTuned:
    """Trains a layer D -> C on the encoder's class token, and the encoder too unless `recipe.freeze`.

    `encoder` itself is left as it is. Raises InputError if no label has both classes among the validation films,
    UnhealthyRun if the loss is not finite.
    """
    where = device_of(device)
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(encoder.model).to(where).eval().requires_grad_(not recipe.freeze)
    layer = _layer(model.num_features, train.truth.shape[1], generator).to(where)
    trained = [*layer.parameters(), *([] if recipe.freeze else model.parameters())]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    optimizer = kind(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)
    history: list[dict[str, float]] = []
    best = FineTuned(model, layer, 0, np.array([]), history)
    highest = -math.inf
    with progress(title, recipe.max_epochs, "epochs") as advance:
        for epoch in range(1, recipe.max_epochs + 1):
            if recipe.scheduler == "cosine":
                rate = recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.max_epochs)) / 2
                optimizer.param_groups[0]["lr"] = rate
            rate = optimizer.param_groups[0]["lr"]
            model.train(not recipe.freeze)
            loss = _epoch(encoder, model, layer, optimizer, train, recipe, generator, where, precision)
            model.eval()
            now = FineTuned(model, layer, epoch, np.array([]), history)
            reached = auroc(validate.truth, predict(encoder, now, validate, precision=precision))
            if np.isnan(reached).all():
                raise InputError(
                    f"expected a label with both classes among the {len(validate.rows)} validation films of "
                    f"{validate.store.folder}, found none; early stopping needs one"
                )
            macro = float(np.nanmean(reached))
            plateau.step(macro) if recipe.scheduler == "reduce" else None
            history.append({"epoch": epoch, "loss": loss, "validation_auroc": macro, "learning_rate": rate})
            advance(1, f"loss {loss:.4f}, validation AUROC {macro:.3f}")
            if macro > highest:
                highest = macro
                best = FineTuned(copy.deepcopy(model), copy.deepcopy(layer), epoch, reached, history)
            elif epoch - best.best_epoch >= recipe.patience_epochs:
                break
    return best


def predict(encoder: PretrainedEncoder, found: FineTuned, films: Films, *, precision: str = "fp32") -> Floats:
    """Probability of each label of each film, (N, C)."""
    where = found.layer.weight.device.type
    scores: list[Tensor] = []
    with torch.inference_mode(), _autocast(where, precision):
        for images in batches(films.store, films.rows, 256, where):
            grey = (whole_film(images, encoder.size) - encoder.grey_mean) / encoder.grey_std
            scores.append(found.layer(class_token(found.model, grey)).double().sigmoid().cpu())
    found_scores: Floats = torch.cat(scores).numpy()
    return found_scores


def augment(films: Tensor, generator: torch.Generator) -> Tensor:
    """Films (B, 1, H, W), each flipped with probability 0.5, turned, scaled and shifted; what comes in is air (0)."""
    count = len(films)

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).to(films.device)

    angle = draw(-ROTATION_DEGREES, ROTATION_DEGREES) * math.pi / 180
    scale, flip = draw(*SCALE), torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    # grid_sample asks where each pixel of the result comes from: the inverse of the change, in units of half a side.
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = torch.stack((cosine * flip, sine * flip, 2 * draw(-SHIFT, SHIFT)), dim=1)
    columns = torch.stack((-sine, cosine, 2 * draw(-SHIFT, SHIFT)), dim=1)
    grid = nn.functional.affine_grid(torch.stack((rows, columns), dim=1), list(films.shape), align_corners=False)
    return nn.functional.grid_sample(films, grid, align_corners=False)


def masked_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known entries of truth (B, C), NaN left out, in float32."""
    known = torch.isfinite(truth)
    each = nn.functional.binary_cross_entropy_with_logits(logits.float(), truth.nan_to_num(0), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def _epoch(
    encoder: PretrainedEncoder,
    model: VisionTransformer,
    layer: nn.Linear,
    optimizer: torch.optim.Optimizer,
    train: Films,
    recipe: Recipe,
    generator: torch.Generator,
    device: str,
    precision: str,
) -> float:
    """One pass over the training films in a drawn order, the last batch however small; the mean loss."""
    order = torch.randperm(len(train.rows), generator=generator).numpy()
    truth = torch.from_numpy(train.truth[order]).float()
    total = 0.0
    for start, images in _numbered(batches(train.store, train.rows[order], recipe.batch_size, device)):
        grey = (augment(whole_film(images, encoder.size), generator) - encoder.grey_mean) / encoder.grey_std
        with _autocast(device, precision):
            with torch.set_grad_enabled(not recipe.freeze):
                tokens = class_token(model, grey)  # (B, D)
            logits = layer(tokens)
        loss = masked_loss(logits, truth[start : start + len(images)].to(device))
        if not torch.isfinite(loss):
            raise UnhealthyRun(f"fine-tuning reached a loss of {loss.item()}; lower the learning rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(images)
    return total / len(order)


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
