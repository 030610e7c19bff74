"""From images to studies: a study's score is the mean of its images' scores."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.evaluation.image_set import ImageSet
from chartray.evaluation.scoring import EvaluationSet
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Studies(NamedTuple):
    """The S studies of N images: `image_set` has the first image of each, with the study's truth; `codes` (N,) are
    the study of each image.
    """

    image_set: ImageSet
    names: list[str]
    codes: Integers

    def mean(self, scores: Floats) -> Floats:
        """Scores of the images (N, C) -> of the studies (S, C)."""
        sums = np.zeros((len(self.names), scores.shape[1]))
        np.add.at(sums, self.codes, scores)
        return np.asarray(sums / np.bincount(self.codes)[:, None])

    def of(self, test: EvaluationSet) -> EvaluationSet:
        """The test set whose images these are, a study a row; the macro's labels are those that studies suffice for."""
        counted = eligible(self.image_set.truth, self.image_set.patients)
        return test._replace(image_set=self.image_set, image_ids=self.names, counted=counted)


def by_study(image_set: ImageSet) -> Studies | None:
    """The studies of some images, in the order of their first images; None if no study has more than one image.

    An image without a study is a study by itself. Labels come from the report, so the images of a study should
    agree. Where they do not, the study has the finding if any of its images has it (the maximum of the known truths).
    """
    ids = study_ids(image_set)
    names = [
        f"study {name}" if name is not None else f"image {row}" for name, row in zip(ids, image_set.rows, strict=True)
    ]
    keyed = np.array([f"{patient}\t{name}" for patient, name in zip(image_set.patients, names, strict=True)])
    _, first, inverse = np.unique(keyed, return_index=True, return_inverse=True)
    order = np.argsort(first)  # studies by their first image
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    codes, first = place[inverse.reshape(-1)], first[order]
    if len(first) == len(image_set.rows):
        return None
    highest = np.full((len(first), image_set.truth.shape[1]), -np.inf)
    known = ~np.isnan(image_set.truth)
    np.maximum.at(highest, codes, np.where(known, image_set.truth, -np.inf))
    truth = np.where(np.isinf(highest), np.nan, highest)
    # A study's negative is a blank where no image of it says so otherwise.
    said = np.zeros(truth.shape, dtype=bool)
    np.logical_or.at(said, codes, known if image_set.blank is None else known & ~image_set.blank)
    blank = None if image_set.blank is None else (truth == 0) & ~said
    merged = image_set._replace(
        rows=image_set.rows[first], patients=image_set.patients[first], truth=truth, blank=blank
    )
    return Studies(merged, [ids[image] or names[image] for image in first.tolist()], codes)


def study_ids(image_set: ImageSet) -> list[str | None]:
    """The study of each image, None where the cohort does not say."""
    found: list[str | None] = image_set.store.cohort.column("study_id").take(pa.array(image_set.rows)).to_pylist()
    return found
