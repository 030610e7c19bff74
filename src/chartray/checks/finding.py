"""One thing that is wrong with the data, or worth knowing, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning", "note"]
_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """`what` was found, in words; `where`: the file, and rows or names; `count` films (or what `what` says).

    An error makes the data unusable, a warning costs something (films, a label, honesty of a number), a note is for
    the record. Rows count from 1, as they stand in the cohort, or in cohort.parquet of a store; no identifier stands in
    a finding.
    """

    severity: Severity
    what: str
    where: str
    count: int
    remedy: str


def films(count: int) -> str:
    """A count of films in words.

    >>> films(1), films(1200)
    ('1 film', '1,200 films')
    """
    return f"{count:,} film{'' if count == 1 else 's'}"


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
