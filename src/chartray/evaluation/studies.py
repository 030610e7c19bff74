"""From films to studies: a study's score is the mean of its films' scores."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.evaluation.films import Films
from chartray.evaluation.scoring import EvaluationSet
from chartray.statistics.metrics import eligible

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Studies(NamedTuple):
    """The S studies of N films: `films` has the first film of each, with the study's truth; `codes` (N,) are the study
    of each film.
    """

    films: Films
    names: list[str]
    codes: Integers

    def mean(self, scores: Floats) -> Floats:
        """Scores of the films (N, C) -> of the studies (S, C)."""
        sums = np.zeros((len(self.names), scores.shape[1]))
        np.add.at(sums, self.codes, scores)
        return np.asarray(sums / np.bincount(self.codes)[:, None])

    def of(self, test: EvaluationSet) -> EvaluationSet:
        """The test set whose films these are, a study a row; the macro's labels are those that studies suffice for."""
        counted = eligible(self.films.truth, self.films.patients)
        return test._replace(films=self.films, image_ids=self.names, counted=counted)


def by_study(films: Films) -> Studies | None:
    """The studies of some films, in the order of their first films; None if no study has more than one film.

    A film without a study is one of its own. Labels are a report's, so the films of a study should agree; where they do
    not, the study has the finding if any of its films has it (the maximum of the known truths).
    """
    ids = study_ids(films)
    names = [f"study {name}" if name is not None else f"film {row}" for name, row in zip(ids, films.rows, strict=True)]
    keyed = np.array([f"{patient}\t{name}" for patient, name in zip(films.patients, names, strict=True)])
    _, first, inverse = np.unique(keyed, return_index=True, return_inverse=True)
    order = np.argsort(first)  # studies by their first film
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    codes, first = place[inverse.reshape(-1)], first[order]
    if len(first) == len(films.rows):
        return None
    highest = np.full((len(first), films.truth.shape[1]), -np.inf)
    known = ~np.isnan(films.truth)
    np.maximum.at(highest, codes, np.where(known, films.truth, -np.inf))
    truth = np.where(np.isinf(highest), np.nan, highest)
    # A study's negative is a blank where no film of it says so otherwise.
    said = np.zeros(truth.shape, dtype=bool)
    np.logical_or.at(said, codes, known if films.blank is None else known & ~films.blank)
    blank = None if films.blank is None else (truth == 0) & ~said
    merged = films._replace(rows=films.rows[first], patients=films.patients[first], truth=truth, blank=blank)
    return Studies(merged, [ids[film] or names[film] for film in first.tolist()], codes)


def study_ids(films: Films) -> list[str | None]:
    """The study of each film, None where the cohort does not say."""
    found: list[str | None] = films.store.cohort.column("study_id").take(pa.array(films.rows)).to_pylist()
    return found
