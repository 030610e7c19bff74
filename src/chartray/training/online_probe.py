"""The online probe: nearest neighbours on validation labels during training.

It embeds whole images of a fixed sample of the training and validation splits, each process its share of them. It
chooses nothing, and never reads a test image.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chartray.collective import all_sum, first_decides, process_count, process_rank
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
from chartray.training.processes import is_first_process
from chartray.training.step import Autocast, Networks
from chartray.training.training_data import TrainingData
from chartray.truth import Policy, truth_of

_SAMPLE = 7_003  # sets this use of the seed apart
_NEIGHBOURS = 20
_IMAGES_AT_ONCE = 64  # whatever the processes: each image is embedded among the same others


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
        if is_first_process() and self._train.size and not self._validate.size:
            print("no validation images with labels: the online probe is off; effective rank is still monitored")

    def rank_and_spread(self, networks: Networks) -> tuple[float, float]:
        """Effective rank and spread of the target encoder's embeddings of the training sample."""
        embeddings = self._embed(networks, self._train)
        rank, width = first_decides(lambda: (effective_rank(embeddings), spread(embeddings)), self._device)
        return rank, width

    def measure(self, networks: Networks) -> dict[str, float]:
        """health.effective_rank, .spread, and .knn_auroc (macro over labels with both classes) if it is defined.

        The numbers are the first process's: on different processors the last digit may differ, and a process that
        stops alone would leave the others waiting.
        """
        train = self._embed(networks, self._train)
        validate = self._embed(networks, self._validate) if self._validate.size else None

        def numbers() -> dict[str, float]:
            found = {"health.effective_rank": effective_rank(train), "health.spread": spread(train)}
            if validate is None:
                return found
            truth_train, truth_validate = self._truth[self._train], self._truth[self._validate]
            auroc = knn_auroc(train, truth_train, validate, truth_validate, k=_NEIGHBOURS)
            return found | ({"health.knn_auroc": auroc} if np.isfinite(auroc) else {})

        found: dict[str, float] = first_decides(numbers, self._device)
        return found

    @torch.no_grad()
    def _embed(self, networks: Networks, rows: npt.NDArray[np.int64]) -> Tensor:
        """Embeddings (N, D) in host memory, where neighbours and singular values are computed.

        The processes take turns, some images at a time; to the sum each image is added once, and zeros.
        """
        encoder, (mean, std) = networks.target_encoder, self._grey
        embeddings = torch.zeros((len(rows), encoder.num_features), device=self._device)
        starts = range(0, len(rows), _IMAGES_AT_ONCE)
        for start in starts[process_rank() :: process_count()]:
            chunk = slice(start, start + _IMAGES_AT_ONCE)
            images = torch.from_numpy(self._store.images.gather(rows[chunk])).to(self._device)
            # Outside autocast: images are resized in float32, as in an evaluation.
            grey = (whole_image(images, self._size) - mean) / std
            with as_written(), self._autocast():
                embeddings[chunk] = class_token(encoder, grey).float()
        return all_sum(embeddings).cpu()


def _sample(rows: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.sort(rows[permutation(len(rows), seed, _SAMPLE)[:count]])


def _truth(store: Store, labels: list[str]) -> npt.NDArray[np.float64]:
    """(rows, C): 1, 0, or NaN where unknown, under an evaluation's default policies."""
    return truth_of(store.cohort, [name.removeprefix(LABEL_PREFIX) for name in labels], Policy())
