"""One finding of `check`: a problem or a note, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning", "note"]
_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """`what` was found, `where` (file, and rows or names), in how many images or patients (`count`), and the `remedy`.

    An error makes the data unusable, a warning may cost images, a label or the validity of a score, a note is
    information. Rows count from 1 in the cohort (in a store, its cohort.parquet). A finding holds no identifier.
    """

    severity: Severity
    what: str
    where: str
    count: int
    remedy: str


def rows(places: npt.NDArray[np.int64] | Sequence[int]) -> str:
    """A few rows by number, from 1; `places` count from 0.

    >>> rows([3, 17]), rows(range(8))
    ('rows 4, 18', 'rows 1, 2, 3, 4, 5 and 3 more')
    """
    shown = ", ".join(str(int(row) + 1) for row in places[:_EXAMPLES])
    more = f" and {len(places) - _EXAMPLES:,} more" if len(places) > _EXAMPLES else ""
    return f"row{'' if len(places) == 1 else 's'} {shown}{more}"


def share(part: float, whole: float) -> str:
    """A share in percent.

    >>> share(1, 8), share(1, 10000)
    ('12 %', 'under 1 %')
    """
    percent = 100 * part / max(whole, 1)
    return "under 1 %" if 0 < percent < 1 else f"{percent:.0f} %"
