"""Linear evaluation of 14 labels: features once and all strengths, against 50 epochs of Adam on a frozen network."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from benchmarks.speed.measuring import Once, Row, side_by_side
from benchmarks.speed.options import Options
from benchmarks.speed.processor import Counted, timed
from benchmarks.speed.starting import make_store
from chartray.config.pretrain import EncoderConfig
from chartray.evaluation.embed import embed
from chartray.evaluation.finetune.augmentation import ROTATION_DEGREES, SCALE, SHIFT
from chartray.networks import encoder as vit
from chartray.networks.description import Provenance
from chartray.pixels.store import Store
from chartray.statistics.metrics import auroc
from chartray.statistics.probe import STRENGTHS, fit_probe

RATIO_GOAL = 30.0
LABELS, EPOCHS, BATCH = 14, 50, 64
SIZE, _STORE_SIZE = 224, 256
# Training, validation, test: the shares of MIMIC-CXR's cohort split by patient.
_FILMS = (2_048, 256, 256)
_QUICK_FILMS = (128, 64, 64)
_STEPS_TIMED = 6
_GREY = (0.5, 0.25)

Integers = npt.NDArray[np.int64]


def measure(name: str, options: Options) -> Row:
    """Seconds of one evaluation with vit_tiny at 224 px, fp32, validation and test included.

    Ours: the whole images are embedded once; probes of 14 labels at 13 strengths, each label's chosen on validation;
    test images scored. The reference: each epoch flips, turns, scales and shifts the training images by torchvision,
    runs the frozen network without gradient and trains a linear layer by Adam, then scores validation, after the last
    epoch test. Its images are already decoded and of 224 px; a few steps are timed and said for all epochs.
    """
    films = _QUICK_FILMS if options.quick else _FILMS
    store = make_store(options.scratch, sum(films), _STORE_SIZE)
    ours, reference = side_by_side(
        [
            partial(embedding_once, store, films, options.device),
            partial(training_a_layer, store, films, options.device),
        ],
        options.repeats,
    )
    used = [way.notes["processor_seconds"] for way in (ours, reference)]
    details: dict[str, float | str] = {
        "films_train": films[0],
        "films_validate": films[1],
        "films_test": films[2],
        "strengths": len(STRENGTHS),
        "epochs_of_the_reference": EPOCHS,
        "steps_timed_of_the_reference": _STEPS_TIMED,
        "passes_of_a_film_ours": 1,
        "passes_of_a_film_reference": EPOCHS,
        "processor_seconds_ours": used[0],
        "processor_seconds_reference": used[1],
        "ratio_of_processor_seconds": used[1] / used[0],
    }
    return Row(name, "s", "lower", ours, reference, RATIO_GOAL, "ratio", details)


def embedding_once(store: Path, films: tuple[int, int, int], device: str) -> Once:
    """Ours, from the store."""
    opened, (train, validate, test) = Store.open(store), _rows(films)
    truth = drawn_truth(sum(films))
    shape = vit.architecture(EncoderConfig(name="vit_tiny"), SIZE)
    encoder = vit.PretrainedEncoder(vit.build(shape, seed=0).eval(), SIZE, *_GREY, shape, Provenance())

    def evaluation() -> None:
        rows = np.concatenate([train, validate, test])
        features = embed(encoder, opened, rows, device=device)
        fitted = fit_probe(features[train], truth[train], features[validate], truth[validate], device=device)
        fitted.scores(features[test])

    return Counted(lambda: timed(evaluation))


def training_a_layer(store: Path, films: tuple[int, int, int], device: str) -> Once:
    """The published way: a linear layer trained through the frozen network, all epochs by what a few steps take."""
    opened, (train, validate, test) = Store.open(store), _rows(films)
    pictures = [Image.fromarray(opened.images[row]).resize((SIZE, SIZE)) for row in range(sum(films))]
    truth = torch.from_numpy(drawn_truth(sum(films))).float()
    frozen, width = _published_encoder()
    model, layer = frozen.to(device), nn.Linear(width, LABELS).to(device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-4)
    seen = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*([each] for each in _GREY))])
    degrees, shift = ROTATION_DEGREES, (SHIFT, SHIFT)
    affine = transforms.RandomAffine(degrees, translate=shift, scale=SCALE)
    augmented = transforms.Compose([transforms.RandomHorizontalFlip(), affine, seen])

    def step(rows: Integers) -> None:
        images = torch.stack([augmented(pictures[row]) for row in rows]).to(device)
        with torch.no_grad():
            features = model(images)
        loss = nn.functional.binary_cross_entropy_with_logits(layer(features), truth[rows].to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        loss.item()

    def scored(rows: Integers) -> None:
        with torch.no_grad():
            batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
            images = (torch.stack([seen(pictures[row]) for row in batch]).to(device) for batch in batches)
            scores = torch.cat([layer(model(each)).sigmoid().cpu() for each in images])
        auroc(truth[rows], scores)

    steps = -(-len(train) // BATCH)

    def some_steps() -> None:
        for number in range(_STEPS_TIMED):
            first = number % steps * BATCH
            step(train[first : first + BATCH])

    def once() -> tuple[float, float]:
        stepping = timed(some_steps)
        scoring = timed(lambda: scored(validate))
        # Validation after each epoch, and test, which takes as long an image, once.
        times, scorings = EPOCHS * steps / _STEPS_TIMED, EPOCHS + len(test) / len(validate)
        return stepping[0] * times + scoring[0] * scorings, stepping[1] * times + scoring[1] * scorings

    return Counted(once)


def drawn_truth(films: int) -> npt.NDArray[np.float64]:
    """(N, 14) of 0 and 1, labels from 40 % to 5 %: how long a probe takes to fit depends on how rare its label is."""
    generator = np.random.default_rng(0)
    return (generator.random((films, LABELS)) < np.geomspace(0.4, 0.05, LABELS)).astype(np.float64)


def _published_encoder() -> tuple[nn.Module, int]:
    """The same encoder as timm builds it, with the attention that timm chooses itself, and its width."""
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1)
    return model.eval().requires_grad_(False), model.num_features


def _rows(films: tuple[int, int, int]) -> tuple[Integers, Integers, Integers]:
    train, validate, test = (np.arange(first, last) for first, last in pairwise(np.cumsum([0, *films])))
    return train, validate, test
