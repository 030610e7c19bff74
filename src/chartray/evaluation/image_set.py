"""Which images of a store are learnt from and scored, and what their labels say under a policy."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.config.evaluate import DrawBy
from chartray.errors import InputError
from chartray.pixels.store import Store
from chartray.schema import LABEL_PREFIX, READ_COLUMN, CohortMetadata, finding, from_metadata
from chartray.truth import Policy, blank_negatives, counted, truth_of, unsaid
from chartray.wording import nearest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class ImageSet(NamedTuple):
    """Images of one split of one store: `rows` (N,) in the store, `patients` (N,) names, `truth` (N, C) of 1, 0, NaN.

    `blank` (N, C): the negatives that are blanks of the source; None: there is none.
    """

    store: Store
    split: str
    rows: Integers
    patients: NDArray[np.str_]
    truth: Floats
    blank: NDArray[np.bool_] | None = None

    def kept(self, mask: NDArray[np.bool_]) -> "ImageSet":
        """Some of them."""
        blank = None if self.blank is None else self.blank[mask]
        return self._replace(rows=self.rows[mask], patients=self.patients[mask], truth=self.truth[mask], blank=blank)

    @property
    def learnable(self) -> list[bool]:
        """Which labels have both classes; a probe of another scores all images alike."""
        both: list[bool] = ((self.truth == 1).any(axis=0) & (self.truth == 0).any(axis=0)).tolist()
        return both

    @property
    def blank_negatives(self) -> list[int]:
        """How many negatives of each label are blanks."""
        return [0] * self.truth.shape[1] if self.blank is None else self.blank.sum(axis=0).tolist()


class Match(NamedTuple):
    """A label of the probe and the column of another store that is the same finding."""

    label: str
    there: str


def metadata_of(store: Store) -> CohortMetadata:
    """What the store's cohort says of itself."""
    return from_metadata(store.cohort.schema.metadata)


def label_names(cohort: pa.Table) -> list[str]:
    """The labels that a cohort holds, in its order."""
    return [name.removeprefix(LABEL_PREFIX) for name in cohort.column_names if name.startswith(LABEL_PREFIX)]


def chosen_labels(store: Store, labels: Sequence[str] | None) -> list[str]:
    """`labels`, or all of the store's; raises InputError if one is absent or there is none."""
    present = label_names(store.cohort)
    if not present:
        raise InputError(f"expected label columns in the cohort of {store.folder}, found none; nothing can be scored")
    for label in labels or ():
        if label not in present:
            hint = nearest(label, present, likeness=0.6)
            raise InputError(f"label {label!r} is absent from {store.folder}{hint}; it holds {', '.join(present)}")
    return list(labels or present)


def image_set_of(store: Store, split: str, labels: Sequence[str], policy: Policy) -> ImageSet:
    """The images of `split`, in the store's order; raises InputError if there are none."""
    splits = np.array(store.cohort.column("split").to_pylist(), dtype=object)
    rows = np.flatnonzero(splits == split).astype(np.int64)
    if not len(rows):
        found = ", ".join(
            f"{name} {count}" for name, count in zip(*np.unique(splits.astype(str), return_counts=True), strict=True)
        )
        raise InputError(
            f"expected images in the split {split!r} of {store.folder}, found none (images: {found or 'none'})"
        )
    if policy.blank == "source" and (open_ := unsaid(store.cohort, labels)):
        raise InputError(
            f"the cohort of {store.folder}, made by an earlier Chartray, does not say what blank labels mean "
            f"({counted(open_)}); make it again, or use --blank negative or ignore"
        )
    table = store.cohort.take(pa.array(rows))
    patients = np.array(table.column("patient_id").to_pylist(), dtype=np.str_)
    truth = truth_of(table, labels, policy)
    return ImageSet(store, split, rows, patients, truth, blank_negatives(table, labels, policy))


def blank_entry(image_set: ImageSet, labels: Sequence[str]) -> dict[str, int]:
    """What manifests say of some images: the labels with negatives that are blanks of the source, and how many."""
    return {label: count for label, count in zip(labels, image_set.blank_negatives, strict=True) if count}


def read_by_radiologists(image_set: ImageSet) -> NDArray[np.bool_]:
    """(N,): the images whose labels are radiologists' own, where the cohort tells them from a labeller's."""
    cohort = image_set.store.cohort
    if READ_COLUMN not in cohort.column_names:
        return np.zeros(len(image_set.rows), dtype=bool)
    read = cohort.column(READ_COLUMN).take(pa.array(image_set.rows))
    return np.array([each is True for each in read.to_pylist()], dtype=bool)  # null is not read


def matched_labels(labels: Sequence[str], store: Store) -> list[Match]:
    """Which labels of a probe another store holds, by the finding's name; raises InputError if none."""
    matches = shared_labels(labels, store)
    if not matches:
        raise InputError(
            f"expected labels of the probe ({', '.join(labels)}) in {store.folder}, "
            f"found {', '.join(label_names(store.cohort)) or 'none'}; no label name matches"
        )
    return matches


def shared_labels(labels: Sequence[str], store: Store) -> list[Match]:
    """Those of some labels that a store holds, by the finding's name; perhaps none."""
    there = {finding(name): name for name in label_names(store.cohort)}
    return [Match(label, there[finding(label)]) for label in labels if finding(label) in there]


def nested_subset(
    image_set: ImageSet, fraction: float, seed: int, draw: int = 0, *, by: DrawBy = "simple"
) -> NDArray[np.bool_]:
    """(N,): the images of the first `fraction` of the patients in one fixed order, so that 0.01 lies inside 0.05.

    The order is that of a salted hash: a simple random sample, which may lack a class of a label. `stratified`, it is
    the hash within strata and even over them: a stratum is the rarest finding that a patient has. Every `draw` is an
    order of its own. At least one patient stays. Raises InputError if `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"expected a fraction of the patients in (0, 1], found {fraction:g}; 0.05 means 5 %")
    names, codes = np.unique(image_set.patients, return_inverse=True)
    digests = np.array(
        [hashlib.sha256(f"chartray subset {seed}/{draw} {name}".encode()).digest() for name in names], dtype="S32"
    )
    order = np.argsort(digests, kind="stable")
    if by == "stratified":
        stratum, place = _rarest_finding(image_set.truth, codes)[order], np.empty(len(names))
        for one in np.unique(stratum):
            members = np.flatnonzero(stratum == one)
            place[members] = (np.arange(len(members)) + 0.5) / len(members)
        order = order[np.argsort(place, kind="stable")]
    kept = np.zeros(len(names), dtype=bool)
    kept[order[: max(1, round(len(names) * fraction))]] = True
    return np.asarray(kept[codes])


def _rarest_finding(truth: Floats, codes: Integers) -> Integers:
    """(patients,): the rarest label that a patient is positive of; one more for those without a finding."""
    has = np.zeros((codes.max() + 1, truth.shape[1] + 1), dtype=bool)
    np.logical_or.at(has[:, :-1], codes, truth == 1)
    has[:, -1] = True
    rarest_first = np.append(np.argsort(has[:, :-1].sum(axis=0), kind="stable"), has.shape[1] - 1)
    return np.asarray(has[:, rarest_first].argmax(axis=1))
