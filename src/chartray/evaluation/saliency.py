"""Saliency of an encoder: attention rollout and token similarity on a few images, and which images it holds alike.

`write_saliency` writes the folder `saliency/` of a results folder. The images are of the first scored data set; no
identifier of a patient or image is in it, only rows of the store and hashed names (schema.hashed over the scored ones).
saliency.json and gallery.json are records of `results.saliency`, and beside them lies

saliency.safetensors image uint8 (n, S, S) squashed; rollout, rollout_untrained float32 (n, g, g), shares that sum to 1;
                     similarity, similarity_untrained float32 (n, Q, g, g), cosines; queries int64 (n, Q, 2), row and
                     column of a patch; gallery uint8 (m, s, s): the images of gallery.json, in the order of `image_set`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from chartray.evaluation.attention import pooled_rollout, record_attention, token_similarity, unreadable
from chartray.evaluation.embed import batches, device_of
from chartray.evaluation.retrieval import Alike, agreement, nearest_of_others, same_patient_first
from chartray.evaluation.scoring import EvaluationSet
from chartray.networks.encoder import PretrainedEncoder, on_device
from chartray.pixels.resampling import whole_image
from chartray.pixels.store import Store
from chartray.results.folder import write_object
from chartray.results.manifest import SaliencyEntry
from chartray.results.saliency import (
    ARRAYS_FILE,
    GALLERY_FILE,
    SALIENCY_FILE,
    Gallery,
    LabelAgreement,
    MappedImage,
    NearImage,
    QueryImage,
    SaliencyControl,
    SaliencyMaps,
    SamePatient,
    ShownImage,
)
from chartray.schema import hashed

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]

IMAGE_SIDE, GALLERY_SIDE = 224, 128
GALLERY_QUERIES, GALLERY_NEIGHBOURS = 6, 5
# Where the query patches lie, as shares of height and width: on a frontal image in a lung and in the heart's shadow.
QUERY_PLACES = ((0.4, 0.3), (0.65, 0.58))
NORMAL = "No Finding"
_CLEAREST = "highest score of the images with it"
_IMAGES_AT_A_TIME = 4


class Chosen(NamedTuple):
    """An image to show: its place among the scored images, for which label, and why."""

    image: int
    label: str
    why: str


def chosen_images(truth: Floats, scores: Floats, labels: Sequence[str], count: int) -> list[Chosen]:
    """At most `count` images: of each finding, the most frequent first, those that scores set apart most.

    Each finding gives the present image scored highest, the present one scored lowest and the absent one scored
    highest; an image is chosen once, ties go to the earlier image. Truth (N, C) of 1, 0 and NaN, scores (N, C).
    """
    frequent = np.argsort(-(truth == 1).sum(axis=0), kind="stable")
    found: list[Chosen] = []
    for column in sorted(frequent.tolist(), key=lambda one: labels[one] == NORMAL):
        present, absent = (np.flatnonzero(truth[:, column] == value) for value in (1, 0))
        if not len(present) or not len(absent):
            continue
        value = scores[:, column]
        for places, order, why in (
            (present, -value, _CLEAREST),
            (present, value, "lowest score of the images with it"),
            (absent, -value, "highest score of the images without it"),
        ):
            taken = {one.image for one in found}
            left = [place for place in places[np.argsort(order[places], kind="stable")].tolist() if place not in taken]
            if left and len(found) < count:
                found.append(Chosen(left[0], labels[column], why))
    return found


def write_saliency(
    folder: Path,
    encoder: PretrainedEncoder,
    fresh: PretrainedEncoder,
    test: EvaluationSet,
    scores: Floats,
    features: Features,
    *,
    images: int,
    device: str = "auto",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> SaliencyEntry:
    """Writes `folder`; says of how many images and, where of none, why.

    Args:
        folder: what to write.
        encoder: whose attention and neighbours are shown.
        fresh: the same architecture untrained, the control.
        test: the scored images.
        scores: (N, C) of the labels of `test`.
        features: (N, D), the encoder's embeddings of them.
        images: how many images attention is shown on, at most.
        device: auto, cpu or cuda.
        resamples: draws of the patients behind the intervals of agreement.
        level: of those intervals.
        seed: of those draws.
    """
    pooled = f"attention rollout follows a class token, not the {encoder.provenance.pooling}"
    reason = pooled if encoder.grid else unreadable(encoder.model)
    chosen = chosen_images(test.image_set.truth, scores, test.labels, images)
    if reason is not None or not chosen:
        return SaliencyEntry(films=0, reason=reason or "no label has both present and absent images")
    folder.mkdir(parents=True)
    names = _Captions(test)
    rows = test.image_set.rows[[one.image for one in chosen]]
    arrays, control = _maps(encoder, fresh, test.image_set.store, rows, device_of(device))
    arrays["film"] = _squashed(test.image_set.store, rows, IMAGE_SIDE)
    found = nearest_of_others(features, test.image_set.patients, _queries(chosen), GALLERY_NEIGHBOURS)
    queries = _gallery_of(found, chosen, names)
    shown = list(dict.fromkeys(image.row for query in queries for image in (query, *query.neighbours)))
    arrays["gallery"] = _squashed(test.image_set.store, np.array(shown, dtype=np.int64), GALLERY_SIDE)
    patients, truth = test.image_set.patients, test.image_set.truth
    shared_by = agreement(features, patients, truth, GALLERY_NEIGHBOURS, resamples=resamples, level=level, seed=seed)
    same_patient = same_patient_first(features, patients, resamples=resamples, level=level, seed=seed)
    gallery = Gallery(
        dataset=test.dataset,
        split=test.image_set.split,
        films=tuple(shown),
        queries=tuple(queries),
        agreement=tuple(
            LabelAgreement(label=label, **each._asdict())
            for label, each in zip(test.labels, shared_by, strict=True)
            if each is not None
        ),
        same_patient=SamePatient.model_validate(same_patient) if same_patient else None,
    )
    maps = SaliencyMaps(
        dataset=test.dataset,
        split=test.image_set.split,
        grid=arrays["rollout"].shape[1],
        places=QUERY_PLACES,
        control=control,
        films=tuple(
            MappedImage(**dict(names.of(one.image)), label=one.label, why=one.why, score=_score(test, scores, one))
            for one in chosen
        ),
    )
    # Not save_file, whose files their owner alone may read, whatever the umask says.
    (folder / ARRAYS_FILE).write_bytes(save({name: np.ascontiguousarray(value) for name, value in arrays.items()}))
    write_object(folder / SALIENCY_FILE, maps.model_dump(mode="json"))
    write_object(folder / GALLERY_FILE, gallery.model_dump(mode="json"))
    return SaliencyEntry(films=len(chosen))


class _Captions:
    """What is said of a scored image: no identifier of it or of its patient."""

    def __init__(self, test: EvaluationSet) -> None:
        self._test = test
        ordered = sorted(test.image_ids)
        self._keys = dict(zip(ordered, hashed(ordered), strict=True))
        cohort = test.image_set.store.cohort
        self._sizes = {name: cohort.column(name) for name in ("height", "width")}

    def of(self, image: int) -> ShownImage:
        """Image number `image` of the scored ones."""
        row = int(self._test.image_set.rows[image])
        present = [
            label
            for label, value in zip(self._test.labels, self._test.image_set.truth[image], strict=True)
            if value == 1
        ]
        return ShownImage(
            dataset=self._test.dataset,
            row=row,
            key=self._keys[self._test.image_ids[image]],
            height=self._sizes["height"][row].as_py(),
            width=self._sizes["width"][row].as_py(),
            present=tuple(present),
        )


def _score(test: EvaluationSet, scores: Floats, one: Chosen) -> float:
    return float(scores[one.image, test.labels.index(one.label)])


def _queries(chosen: Sequence[Chosen]) -> list[int]:
    """The gallery's images: of each finding the present one scored highest, then the others in their order."""
    first = sorted(chosen, key=lambda one: one.why != _CLEAREST)
    return [one.image for one in first[:GALLERY_QUERIES]]


def _gallery_of(found: Sequence[Alike], chosen: Sequence[Chosen], names: _Captions) -> list[QueryImage]:
    of_image = {one.image: one for one in chosen}
    return [
        QueryImage(
            **dict(names.of(one.query)),
            label=of_image[one.query].label,
            why=of_image[one.query].why,
            same_patient_rank=one.same_patient_rank,
            neighbours=tuple(
                NearImage(**dict(names.of(image)), cosine=cosine)
                for image, cosine in zip(one.neighbours, one.cosines, strict=True)
            ),
        )
        for one in found
    ]


def _maps(
    encoder: PretrainedEncoder, fresh: PretrainedEncoder, store: Store, rows: NDArray[np.int64], device: str
) -> tuple[Arrays, SaliencyControl]:
    arrays: Arrays = {}
    for name, model in (("", encoder), ("_untrained", fresh)):
        parts = [_look(model, images) for images in batches(store, rows, _IMAGES_AT_A_TIME, device)]
        for key in ("rollout", "similarity"):
            arrays[key + name] = np.concatenate([part[key] for part in parts]).astype(np.float32)
    grid = arrays["rollout"].shape[1]
    places = [[int(top * grid), int(left * grid)] for top, left in QUERY_PLACES]
    arrays["queries"] = np.tile(np.array(places, dtype=np.int64), (len(rows), 1, 1))
    return arrays, control_of(arrays)


@torch.inference_mode()
def _look(encoder: PretrainedEncoder, images: Tensor) -> Mapping[str, NDArray[Any]]:
    model = on_device(encoder.model, images.device).eval()
    image_set = encoder.standardised(encoder.resized(images))  # (B, 1, size, size)
    seen = record_attention(model, image_set)
    patches = seen.tokens[:, model.num_prefix_tokens :]  # (B, N, D)
    grid = round(patches.shape[1] ** 0.5)
    queries = torch.tensor([int(top * grid) * grid + int(left * grid) for top, left in QUERY_PLACES])
    alike = token_similarity(patches, queries.to(images.device).expand(len(image_set), -1))  # (B, Q, N)
    return {
        "rollout": pooled_rollout(model, seen.attention).reshape(-1, grid, grid).cpu().numpy(),
        "similarity": alike.reshape(len(image_set), -1, grid, grid).cpu().numpy(),
    }


def control_of(arrays: Mapping[str, NDArray[Any]]) -> SaliencyControl:
    """Whether the maps say anything of the image, and anything that training brought: mean correlations of maps.

    `between_films` near 1: all images have the same map. `with_untrained` near 1: an untrained encoder shows the same
    map of the same image. Null for fewer than two images or constant maps.
    """

    def mean(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float | None:
        able = [(a.ravel(), b.ravel()) for a, b in pairs if a.std() > 0 and b.std() > 0]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in able])) if able else None

    found: dict[str, float | None] = {}
    for key in ("rollout", "similarity"):
        own, fresh = arrays[key], arrays[f"{key}_untrained"]
        maps = own.reshape(len(own), -1, *own.shape[-2:])
        others = fresh.reshape(maps.shape)
        pairs = [(maps[a, q], maps[b, q]) for a in range(len(maps)) for b in range(a) for q in range(maps.shape[1])]
        found[f"{key}_between_films"] = mean(pairs)
        same = [(maps[image, q], others[image, q]) for image in range(len(maps)) for q in range(maps.shape[1])]
        found[f"{key}_with_untrained"] = mean(same)
    return SaliencyControl(**found)


def _squashed(store: Store, rows: NDArray[np.int64], side: int) -> Pixels:
    """The images `rows` as uint8 (n, s, s), s at most `side` and never more than the store has."""
    side = min(side, store.size)
    found = [
        (whole_image(images, side)[:, 0] * 255).round().byte().numpy() for images in batches(store, rows, 64, "cpu")
    ]
    return np.concatenate(found)
