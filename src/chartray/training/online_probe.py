"""The online probe: nearest neighbours on validation labels during training.

It embeds whole images of a fixed sample of the training and validation splits. It chooses nothing, and never reads a
test image.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chartray.config.pretrain import Config
from chartray.networks.encoder import class_token
from chartray.pixels.resampling import whole_image
from chartray.pixels.store import Store
from chartray.randomness import permutation
from chartray.schema import LABEL_PREFIX
from chartray.statistics.knn import knn_auroc
from chartray.training.compilation import as_written
from chartray.training.loader import split_rows
from chartray.training.monitor import effective_rank, spread
from chartray.training.step import Autocast, Networks
from chartray.training.training_data import TrainingData
from chartray.truth import Policy, truth_of

_SAMPLE = 7_003
_NEIGHBOURS = 20
_IMAGES_AT_ONCE = {"cpu": 64, "cuda": 512}


class OnlineProbe:
    """Embeds `health.probe_films` training images, and as many validation images if that split has labels.

    In the precision of the run (`autocast`): in float32 the first probe took a quarter of the time until step 1.
    """

    def __init__(self, data: TrainingData, config: Config, device: torch.device, autocast: Autocast) -> None:
        store, count = data.store, config.health.probe_films
        self._store, self._size, self._device, self._autocast = store, config.views.size, device, autocast
        self._grey = data.grey
        self._train = _sample(data.rows, count, config.seed)
        validation = split_rows(store, "validate")
        labels = [name for name in store.cohort.column_names if name.startswith(LABEL_PREFIX)]
        self._validate = _sample(validation, count, config.seed) if labels else validation[:0]
        self._truth = _truth(store, labels)
        if self._train.size and not self._validate.size:
            print("no validation images with labels: the online probe is off; effective rank is still monitored")

    def rank_and_spread(self, networks: Networks) -> tuple[float, float]:
        """Effective rank and spread of the target encoder's embeddings of the training sample."""
        embeddings = self._embed(networks, self._train)
        return effective_rank(embeddings), spread(embeddings)

    def measure(self, networks: Networks) -> dict[str, float]:
        """health.effective_rank, .spread, and .knn_auroc (macro over labels with both classes) if it is defined."""
        train = self._embed(networks, self._train)
        numbers = {"health.effective_rank": effective_rank(train), "health.spread": spread(train)}
        if self._validate.size:
            validate = self._embed(networks, self._validate)
            truth_train, truth_validate = self._truth[self._train], self._truth[self._validate]
            auroc = knn_auroc(train, truth_train, validate, truth_validate, k=_NEIGHBOURS)
            numbers |= {"health.knn_auroc": auroc} if np.isfinite(auroc) else {}
        return numbers

    @torch.no_grad()
    def _embed(self, networks: Networks, rows: npt.NDArray[np.int64]) -> Tensor:
        """Embeddings (N, D) in host memory, where neighbours and singular values are computed."""
        encoder, (mean, std) = networks.target_encoder, self._grey
        parts, images_at_once = [], _IMAGES_AT_ONCE["cuda" if self._device.type == "cuda" else "cpu"]
        for start in range(0, len(rows), images_at_once):
            images = torch.from_numpy(self._store.images.gather(rows[start : start + images_at_once])).to(self._device)
            # Outside autocast: images are resized in float32, as in an evaluation.
            grey = (whole_image(images, self._size) - mean) / std
            with as_written(), self._autocast():
                parts.append(class_token(encoder, grey).float())
        return torch.cat(parts).cpu()


def _sample(rows: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.sort(rows[permutation(len(rows), seed, _SAMPLE)[:count]])


def _truth(store: Store, labels: list[str]) -> npt.NDArray[np.float64]:
    """(rows, C): 1, 0, or NaN where unknown, under an evaluation's default policies."""
    return truth_of(store.cohort, [name.removeprefix(LABEL_PREFIX) for name in labels], Policy())
