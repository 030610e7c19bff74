"""Whether the images that could not be read are many of a split or of a label: those that remain may then be others."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chartray.wording import plural

LARGEST_SHARE = 0.01


class Lost(NamedTuple):
    """More than `LARGEST_SHARE` of a group's images are in quarantine: `lost` of `images`."""

    group: str
    lost: int
    images: int

    def __str__(self) -> str:
        share = f"{self.lost / self.images:.1%} of {self.group} ({self.lost:,} of {plural(self.images, 'image')})"
        return f"{share} are in quarantine; the others may not represent them"


def table_of(cohort: pa.Table, rows: list[int], paths: list[str], reasons: list[str]) -> pa.Table:
    """The quarantine of a store: `rows` of the cohort with their split and labels, where they were, and why."""
    names = ["image_id", *_groups(cohort)]
    columns = {name: cohort[name].take(pa.array(rows, pa.int64())) for name in names}
    return pa.table(columns | {"path": pa.array(paths, pa.string()), "reason": pa.array(reasons, pa.string())})


def overrepresented(kept: pa.Table, quarantine: pa.Table) -> list[Lost]:
    """The splits, and the labels where they are present (1), of which too many images are in quarantine.

    `kept` are the rows of the store's cohort. A quarantine of an earlier version has no splits and labels: then it is
    all images together.
    """
    found: list[Lost] = []
    groups = [name for name in _groups(quarantine) if name in kept.column_names]
    for name in groups:
        before, after = (np.array(table[name].to_pylist(), dtype=object) for table in (quarantine, kept))
        if name == "split":
            values = sorted({value for value in (*before, *after) if value is not None})
            for value in values:
                found += _if_many(f"the images of split {value}", before == value, after == value)
        else:
            label = name.removeprefix("label.")
            found += _if_many(f"the images with label {label}", before == 1, after == 1)
    if not groups:
        found += _if_many("all images", np.ones(quarantine.num_rows, bool), np.ones(kept.num_rows, bool))
    return found


def _if_many(group: str, lost: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_]) -> list[Lost]:
    gone, left = int(lost.sum()), int(kept.sum())
    return [Lost(group, gone, gone + left)] if gone > LARGEST_SHARE * (gone + left) else []


def _groups(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name == "split" or name.startswith("label.")]
