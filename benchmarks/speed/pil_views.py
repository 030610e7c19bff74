"""The published way of making views: PIL and torchvision, image by image, in the processes of a DataLoader."""

import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from chartray.config.pretrain import ViewsConfig

_ENDLESS = 1_000_000_000


class PILViews:
    """Target, random and focal views of a decoded image, as lightly's MSN transform makes them; no colour, no blur."""

    def __init__(self, config: ViewsConfig, mean: float, std: float) -> None:
        self._whole = self._transform(config.size, config.scale, config, mean, std)
        self._focal = self._transform(config.focal_size, config.focal_scale, config, mean, std)
        self._focal_count = config.focal_count

    @staticmethod
    def _transform(size: int, scale: Sequence[float], config: ViewsConfig, mean: float, std: float) -> Any:
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=scale, ratio=config.aspect),
                transforms.RandomHorizontalFlip(config.flip),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __call__(self, film: Image.Image) -> list[Tensor]:
        """Each (channels, H, W)."""
        return [self._whole(film), self._whole(film), *(self._focal(film) for _ in range(self._focal_count))]


class PILFilms(Dataset[tuple[list[Tensor], Tensor]]):
    """JPEG files in colour, as published; the first channel goes on, so that both networks are the same."""

    def __init__(self, files: Sequence[Path], charts: Tensor, views: PILViews) -> None:
        self._files, self._charts, self._views = files, charts, views

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor]:
        with Image.open(self._files[index]) as film:
            views = self._views(film.convert("RGB"))
        return [view[:1] for view in views], self._charts[index]


def endless_batches(films: PILFilms, batch_size: int, workers: int, *, pin: bool) -> Iterator[tuple[Tensor, ...]]:
    """Target (B, 1, H, W), random, focal (F*B, 1, h, w) and charts, drawn without end.

    Without passes: of the few images that are measured on, each pass would be a batch, which one process alone makes.
    """
    loader = DataLoader(
        films,
        batch_size=batch_size,
        sampler=RandomSampler(films, replacement=True, num_samples=_ENDLESS),
        drop_last=True,
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=pin,
    )
    yield from loader


def _collated(films: list[tuple[list[Tensor], Tensor]]) -> tuple[Tensor, ...]:
    """Views of each kind beside each other, view-major, by the process that made them, so that all can be pinned."""
    views, charts = zip(*films, strict=True)
    target, random, *focal = (torch.stack(of_kind) for of_kind in zip(*views, strict=True))
    return target, random, torch.cat(focal), torch.stack(charts)


@functools.cache
def film_like(height: int, width: int) -> Image.Image:
    """A decoded grey image of smooth noise: what it shows has no part in how long it takes."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(stream, "JPEG", quality=95)
    film = Image.open(stream)
    film.load()
    return film
