"""What one evaluation learns from and what it scores, checked before anything is computed."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.config.evaluate import EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation.baselines import named_chart
from chartray.evaluation.image_set import (
    ImageSet,
    Match,
    chosen_labels,
    image_set_of,
    matched_labels,
    metadata_of,
    read_by_radiologists,
)
from chartray.evaluation.leakage import patients_seen, refuse_chart_labels, refuse_learnt
from chartray.evaluation.scoring import EvaluationSet
from chartray.networks.encoder import PretrainedEncoder
from chartray.pixels.store import Store
from chartray.results.arm import RADIOLOGISTS
from chartray.statistics.metrics import eligible
from chartray.truth import Policy


class Task(NamedTuple):
    """What is learnt from and what is scored; of each test set how many patients were pretrained on (None: unknown).

    `not_compared` says of which other stores the images could not be compared with those that are learnt from, and why.
    """

    labels: list[str]
    train: ImageSet
    validate: ImageSet
    tests: list[EvaluationSet]
    patients_seen: list[int | None]
    not_compared: list[str]

    @property
    def home(self) -> str:
        """The data set that is learnt from."""
        return self.tests[0].dataset

    @property
    def image_set(self) -> list[ImageSet]:
        """All of them."""
        return [self.train, self.validate, *(test.image_set for test in self.tests)]


def make_task(source: Path, encoder: PretrainedEncoder, home: Store, options: EvaluateOptions) -> Task:
    """Images, labels and test sets for the encoder of `source`, checked before anything is computed."""
    names, policy = chosen_labels(home, options.labels), Policy(options.uncertain, options.blank)
    if options.baseline_chart is not None:
        named_chart(home.cohort, options.baseline_chart, names)
    train, validate = (image_set_of(home, split, names, policy) for split in ("train", "validate"))
    scored = (names, options.split, policy)
    tests = [evaluation_set(home, [Match(name, name) for name in names], *scored, set())]
    for store in map(Store.open, options.external):
        taken = {test.dataset for test in tests}
        twice = any(test.image_set.store.hash == store.hash for test in tests)
        if twice or f"{metadata_of(store).source}:{store.folder.name}" in taken:
            raise InputError(
                f"expected each --external store once, and folders of different names for stores of one source, found "
                f"{store.folder} again; leave it out, or rename its folder"
            )
        tests.append(evaluation_set(store, matched_labels(names, store), *scored, taken))
    # Scored on validation images, the home store is judged by what was chosen on; so may others be.
    learnt = [train, validate] if options.split == "test" else [train]
    not_compared = [why for test in tests[1:] if (why := refuse_learnt(learnt, test.image_set)) is not None]
    for test in list(tests):
        read = read_by_radiologists(test.image_set)
        # Where all were read there is nothing to tell apart.
        if read.any() and not read.all():
            tests.append(_kept(test, read, test.dataset + RADIOLOGISTS))
    for test in tests:
        refuse_chart_labels(encoder, test.image_set.store, [match.there for match in test.matches])
    seen = [patients_seen(source, encoder, test.image_set) for test in tests]
    return Task(names, train, validate, tests, seen, not_compared)


def evaluation_set(
    store: Store, matches: list[Match], labels: Sequence[str], split: str, policy: Policy, taken: Collection[str]
) -> EvaluationSet:
    """A split of a store with the labels of a probe that it has; names of data sets in `taken` are not used again."""
    image_set = image_set_of(store, split, [match.there for match in matches], policy)
    source = metadata_of(store).source
    return EvaluationSet(
        dataset=source if source not in taken else f"{source}:{store.folder.name}",
        store=store.folder.name,
        image_set=image_set,
        image_ids=image_ids(image_set),
        matches=matches,
        columns=np.array([labels.index(match.label) for match in matches], dtype=np.int64),
        counted=eligible(image_set.truth, image_set.patients),
    )


def _kept(test: EvaluationSet, mask: NDArray[np.bool_], dataset: str) -> EvaluationSet:
    """Some images of a test set, as a data set of its own."""
    image_set = test.image_set.kept(mask)
    counted = eligible(image_set.truth, image_set.patients)
    return test._replace(dataset=dataset, image_set=image_set, image_ids=image_ids(image_set), counted=counted)


def image_ids(image_set: ImageSet) -> list[str]:
    """Their ids, in their order."""
    found: list[str] = image_set.store.cohort.column("image_id").take(pa.array(image_set.rows)).to_pylist()
    return found
