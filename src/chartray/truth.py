"""What a label cell counts as: 1, 0 or ignored. The meaning of a blank depends on its label and source."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chartray.config.evaluate import Blank, Uncertain
from chartray.errors import InputError
from chartray.flow import BlankCells
from chartray.schema import BLANK_PREFIX, LABEL_PREFIX, CohortMetadata, from_metadata
from chartray.small_counts import counts
from chartray.wording import listed

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
_UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
# The policies for blanks in words.
BLANK_WORDS: dict[str, str] = {
    "source": "as the source of each label says",
    "negative": "count as negative",
    "ignore": "ignored",
}
# The policies of an uncertain label in words.
UNCERTAIN_WORDS: dict[str, str] = {"ignore": "ignored", "zeros": "count as negative", "ones": "count as positive"}
_MEANINGS = {
    "negative": "that count as negative",
    "positive": "that count as positive, as the mapping says",
    "uncertain": "that are uncertain, as the mapping says",
    "unknown": "that are ignored",
    "not said": "without a stated meaning (cohort of an earlier Chartray)",
}


class Policy(NamedTuple):
    """What uncertain (-1) and blank labels count as; applied only in this module."""

    uncertain: Uncertain = "ignore"
    blank: Blank = "source"


def truth_of(cohort: pa.Table, labels: Sequence[str], policy: Policy) -> Floats:
    """(N, C) of 1, 0, or NaN for ignored; raises InputError for a value other than 1, 0, -1 and null.

    A null that is not blank (an unreadable cell, or an image that is not in the source's label file) is unknown under
    every policy.

    >>> from chartray.schema import LabelSource, to_metadata
    >>> said = CohortMetadata(source="mimic", labels={"Edema": LabelSource(blank="negative")})
    >>> cells = pa.table({"label.Edema": [1.0, 0.0, -1.0, None, None], "blank.Edema": [False] * 3 + [True, False]})
    >>> truth_of(cells.replace_schema_metadata(to_metadata(said)), ["Edema"], Policy()).ravel().tolist()
    [1.0, 0.0, nan, 0.0, nan]
    """
    if policy.uncertain not in _UNCERTAIN or policy.blank not in BLANK_WORDS:
        raise InputError(
            "expected uncertain to be ignore, zeros or ones, and blank to be source, negative or ignore, found "
            f"{policy.uncertain!r} and {policy.blank!r}"
        )
    truth = np.empty((cohort.num_rows, len(labels)))
    for index, label in enumerate(labels):
        values = _values(cohort, label)
        known = ~np.isnan(values)
        if (odd := odd_cells(cohort, label)).any():
            row = int(np.flatnonzero(odd)[0])
            raise InputError(
                f"expected 1, 0, -1 or blank in {LABEL_PREFIX}{label}, found {values[row]} in row {row + 1} of the "
                "split; run `chartray check`"
            )
        values[values == -1] = _UNCERTAIN[policy.uncertain]
        if counts_as_negative(cohort, label, policy):
            values[~known & blank_cells(cohort, label)] = 0.0
        truth[:, index] = values
    return truth


def odd_cells(cohort: pa.Table, label: str) -> Booleans:
    """(N,): whether the value is something other than 1, 0, -1 and null."""
    values = _values(cohort, label)
    return np.asarray(~np.isnan(values) & ~np.isin(values, (1.0, 0.0, -1.0)))


def blank_negatives(cohort: pa.Table, labels: Sequence[str], policy: Policy) -> Booleans:
    """(N, C): whether the cell is blank in the source and counts as negative, by the policy or by a mapping."""
    found = np.zeros((cohort.num_rows, len(labels)), dtype=bool)
    for index, label in enumerate(labels):
        values = _values(cohort, label)
        negative = values == 0
        if counts_as_negative(cohort, label, policy):
            negative |= np.isnan(values)
        found[:, index] = negative & blank_cells(cohort, label)
    return found


def blank_cells(cohort: pa.Table, label: str) -> Booleans:
    """(N,): whether the label's cell is blank in the source: by the cohort's column, else its nulls."""
    if BLANK_PREFIX + label in cohort.column_names:
        column = cohort.column(BLANK_PREFIX + label)
        return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
    return np.asarray(cohort.column(LABEL_PREFIX + label).is_null().to_numpy(zero_copy_only=False), dtype=bool)


def counts_as_negative(cohort: pa.Table, label: str, policy: Policy) -> bool:
    """Whether the label's blanks without a value count as negative."""
    return policy.blank == "negative" or (policy.blank == "source" and meaning(cohort, label) == "negative")


def meaning(cohort: pa.Table, label: str) -> str | None:
    """The meaning of a blank of this label in the cohort's metadata; None if it is not stated."""
    found = _metadata(cohort)
    source = None if found is None else found.labels.get(label)
    return None if source is None else source.blank


def unsaid(cohort: pa.Table, labels: Sequence[str]) -> dict[str, int]:
    """Labels -> number of blanks without a stated meaning (in cohorts of an earlier Chartray)."""
    blanks = {
        label: int((np.isnan(_values(cohort, label)) & blank_cells(cohort, label)).sum())
        for label in labels
        if meaning(cohort, label) is None
    }
    return {label: count for label, count in blanks.items() if count}


def blanks(cohort: pa.Table) -> dict[str, BlankCells]:
    """Labels with blank cells -> their number (`cells`) and what they `mean` ("not said" if not stated)."""
    found: dict[str, BlankCells] = {}
    for name in cohort.column_names:
        label = name.removeprefix(LABEL_PREFIX)
        if name != label and (cells := int(blank_cells(cohort, label).sum())):
            found[label] = BlankCells(cells=cells, mean=meaning(cohort, label) or "not said")
    return found


def blanks_said(found: Mapping[str, BlankCells]) -> list[str]:
    """The result of `blanks` in words, one line for each meaning.

    >>> blanks_said({"Edema": BlankCells(cells=12, mean="negative"), "Died": BlankCells(cells=69, mean="unknown")})
    ['blank labels that count as negative: Edema 12', 'blank labels that are ignored: Died 69']
    """
    lines = []
    for mean, words in _MEANINGS.items():
        if said := counted({label: one.cells for label, one in found.items() if one.mean == mean}):
            lines.append(f"blank labels {words}: {said}")
    return lines


def counted(found: Mapping[str, int], *, masked: bool = False) -> str:
    """Labels with their counts; `masked` for what leaves the house: small counts are not told.

    >>> counted({"Edema": 1200, "Mass": 0, "Hernia": 3}), counted({"Edema": 1200, "Hernia": 3}, masked=True)
    ('Edema 1,200, Hernia 3', 'Edema 1,200, Hernia < 10')
    """
    some = [f"{label} {counts([count])[0] if masked else f'{count:,}'}" for label, count in found.items() if count]
    return listed(some, 14) if some else ""


def _values(cohort: pa.Table, label: str) -> Floats:
    """A copy of a label column as floats, null as NaN."""
    return np.array(cohort.column(LABEL_PREFIX + label).cast(pa.float64()).to_numpy(zero_copy_only=False))


def _metadata(cohort: pa.Table) -> CohortMetadata | None:
    try:
        return from_metadata(cohort.schema.metadata)
    except KeyError:
        return None
